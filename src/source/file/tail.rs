//! One open file, read forward line by line.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::position::{Fingerprint, Position};
use super::siblings::{Candidate, FileId, modified_nanos};
use crate::limits::LINE_BYTES_MAX;
use crate::time::Timestamp;

#[derive(Debug)]
pub(super) struct Tail {
    pub file: File,
    pub id: FileId,
    pub trusted: bool,
    /// No name leads to it any more.
    pub is_unlinked: bool,
    /// When the file last gave something, or was followed by a newer one.
    pub active: Timestamp,
    pub is_superseded: bool,
    fingerprint: Fingerprint,
    modified_nanos: i64,
    /// Of the first byte that was not handed out: the start of `head`, or of `chunk[pos..]`.
    offset: u64,
    /// The start of a line whose end has not been read yet, cut at [`LINE_BYTES_MAX`], and its true length.
    head: Vec<u8>,
    head_len: u64,
    /// What was read and not yet looked at is `chunk[pos..filled]`.
    chunk: Vec<u8>,
    pos: usize,
    filled: usize,
}

pub(super) enum Fill {
    /// There is something to drain.
    More,
    /// At the end of the file, for now.
    End,
    /// The file was truncated and written anew: what we stand in is gone.
    Replaced,
}

const CHUNK_BYTES: usize = 64 * 1024;

impl Tail {
    /// Stands at `offset`, cut to the file's length.
    pub fn new(candidate: Candidate, offset: u64, now: Timestamp) -> io::Result<Tail> {
        let Candidate { file, id, modified_nanos, .. } = candidate;
        let fingerprint = Fingerprint::read(&file)?;
        let mut tail = Tail {
            file,
            id,
            trusted: false,
            is_unlinked: false,
            active: now,
            is_superseded: false,
            fingerprint,
            modified_nanos,
            offset,
            head: Vec::new(),
            head_len: 0,
            chunk: Vec::new(),
            pos: 0,
            filled: 0,
        };
        let length = tail.look()?;
        tail.offset = offset.min(length);
        Ok(tail)
    }

    /// Stands behind the last whole line.
    pub fn at_end(candidate: Candidate, now: Timestamp) -> io::Result<Tail> {
        let length = candidate.file.metadata()?.len();
        let window = length.min(LINE_BYTES_MAX as u64);
        let mut bytes = vec![0; window as usize];
        candidate.file.read_exact_at(&mut bytes, length - window)?;
        let unfinished = memchr::memrchr(b'\n', &bytes).map_or(0, |newline| bytes.len() - newline - 1);
        Tail::new(candidate, length - unfinished as u64, now)
    }

    /// Gives `sink` at most `max` lines of what was read, and whether each was cut. Says how many.
    pub fn drain(&mut self, max: usize, sink: &mut dyn FnMut(&[u8], bool)) -> usize {
        let mut taken = 0;
        while taken < max {
            let rest = self.chunk.get(self.pos..self.filled).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', rest) else { break };
            let line = &rest[..end];
            if self.head_len == 0 {
                sink(line, false);
            } else {
                append_capped(&mut self.head, line);
                sink(&self.head, self.head_len + line.len() as u64 > LINE_BYTES_MAX as u64);
            }
            self.offset += self.head_len + end as u64 + 1;
            self.pos += end + 1;
            self.head.clear();
            self.head_len = 0;
            taken += 1;
        }
        if taken < max {
            self.keep_rest();
        }
        taken
    }

    /// Reads on; everything read before must have been drained.
    pub fn fill(&mut self, now: Timestamp) -> io::Result<Fill> {
        debug_assert!(self.pos == self.filled, "drain first");
        self.chunk.resize(CHUNK_BYTES, 0);
        let position = self.read_position();
        let count = self.file.read_at(&mut self.chunk, position)?;
        // Asked after the read: whatever was read before a truncation is known to be the old file's.
        let is_same = self.fingerprint.matches(&self.file)?;
        if !is_same {
            return Ok(Fill::Replaced);
        }
        if count == 0 {
            (self.pos, self.filled) = (0, 0);
            if self.is_superseded {
                self.chunk = Vec::new();
            }
            let length = self.look()?;
            self.shrink_to(length);
            return Ok(Fill::End);
        }
        (self.pos, self.filled) = (0, count);
        if let Some(known) = (self.fingerprint.len() as u64).checked_sub(position) {
            self.fingerprint.extend(self.chunk.get(known as usize..count).unwrap_or_default());
        }
        self.active = now;
        Ok(Fill::More)
    }

    /// Hands out the unfinished last line: its newline will not come any more.
    pub fn flush(&mut self, sink: &mut dyn FnMut(&[u8], bool)) {
        if self.head_len > 0 {
            sink(&self.head, self.head_len > LINE_BYTES_MAX as u64);
            self.offset += self.head_len;
            self.head.clear();
            self.head_len = 0;
        }
    }

    pub fn position(&self) -> Position {
        Position::new(self.id, self.offset, &self.fingerprint, self.modified_nanos)
    }

    /// When it was last written to, as of the last look at its end.
    pub fn modified_nanos(&self) -> i64 {
        self.modified_nanos
    }

    /// It never held anything, as far as we saw.
    pub fn was_empty(&self) -> bool {
        self.fingerprint.len() == 0
    }

    /// Nothing has been read from it yet.
    pub fn is_untouched(&self) -> bool {
        self.read_position() == 0
    }

    pub fn has_unread(&self) -> bool {
        self.pos < self.filled
    }

    /// Goes on in `candidate`, which has the same content, at the same place.
    pub fn move_to(&mut self, candidate: Candidate) {
        self.file = candidate.file;
        self.id = candidate.id;
    }

    fn read_position(&self) -> u64 {
        self.offset + self.head_len + (self.filled - self.pos) as u64
    }

    fn keep_rest(&mut self) {
        let rest = self.chunk.get(self.pos..self.filled).unwrap_or_default();
        append_capped(&mut self.head, rest);
        self.head_len += rest.len() as u64;
        self.pos = self.filled;
    }

    /// The file lost its end but kept its start: go on from its new end, since what is left was read already.
    fn shrink_to(&mut self, length: u64) {
        if length < self.read_position() {
            self.offset = length;
            self.head.clear();
            self.head_len = 0;
        }
    }

    /// What fstat(2) says; the file's length.
    fn look(&mut self) -> io::Result<u64> {
        let metadata = self.file.metadata()?;
        self.modified_nanos = modified_nanos(&metadata);
        self.is_unlinked = metadata.nlink() == 0;
        self.trusted = metadata.mode() & super::OTHERS_WRITE == 0 && super::is_log_owner(metadata.uid());
        Ok(metadata.len())
    }
}

fn append_capped(head: &mut Vec<u8>, bytes: &[u8]) {
    let room = LINE_BYTES_MAX.saturating_sub(head.len());
    head.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
}
