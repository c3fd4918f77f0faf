//! A piece of a log: whole lines, and what they parse to.

use std::io::{self, ErrorKind, Read};

use crate::limits::LINE_BYTES_MAX;
use crate::parse::{Outcome, Parsed, Parser};
use crate::time::Timestamp;

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 17;

/// Whole lines and what they parse to.
#[derive(Default)]
pub struct Chunk {
    /// Never shrinks; only the first `filled` bytes count.
    buffer: Vec<u8>,
    filled: usize,
    pub records: Vec<Record>,
    pub counts: Counts,
}

/// A recognised line.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    start: u32,
    len: u32,
    /// Which line of the chunk, from 0.
    pub number: u32,
    pub parsed: Parsed,
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub lines: u64,
    pub recognised: u64,
    /// Of a program that a filter knows, but no pattern took it.
    pub unmatched: u64,
    /// Of other programs.
    pub foreign: u64,
    /// No log line at all.
    pub malformed: u64,
    /// Longer than [`LINE_BYTES_MAX`]: only the beginning was looked at.
    pub cut: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.lines += other.lines;
        self.recognised += other.recognised;
        self.unmatched += other.unmatched;
        self.foreign += other.foreign;
        self.malformed += other.malformed;
        self.cut += other.cut;
    }
}

impl Chunk {
    /// Bytes of log in it.
    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// The line of a record.
    pub fn line(&self, record: &Record) -> &[u8] {
        let start = record.start as usize;
        self.buffer.get(start..start + record.len as usize).unwrap_or_default()
    }

    /// The times of the records.
    pub fn stamps(&self) -> impl Iterator<Item = Timestamp> {
        self.records.iter().map(|record| record.parsed.time)
    }

    /// Records with their lines, the records open to change.
    pub fn records_mut(&mut self) -> impl Iterator<Item = (&[u8], &mut Record)> {
        let buffer = &self.buffer;
        self.records.iter_mut().map(move |record| {
            let start = record.start as usize;
            (buffer.get(start..start + record.len as usize).unwrap_or_default(), record)
        })
    }

    /// Splits on 0x0A alone: lines hold U+2028, CR and whatever else clients send.
    pub(super) fn parse(&mut self, parser: &mut Parser) {
        self.records.clear();
        self.counts = Counts::default();
        let mut start = 0;
        while start < self.filled {
            let rest = &self.buffer[start..self.filled];
            let whole = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let mut line = &rest[..whole];
            if line.len() > LINE_BYTES_MAX {
                self.counts.cut += 1;
                line = &line[..LINE_BYTES_MAX];
            }
            match parser.parse(line, None) {
                Outcome::Line(parsed) => {
                    let (start, len, number) = (start as u32, line.len() as u32, self.counts.lines as u32);
                    self.records.push(Record { start, len, number, parsed });
                    self.counts.recognised += 1;
                }
                Outcome::Unmatched(..) => self.counts.unmatched += 1,
                Outcome::Foreign => self.counts.foreign += 1,
                Outcome::Malformed => self.counts.malformed += 1,
            }
            self.counts.lines += 1;
            start += whole + 1;
        }
    }
}

/// Cuts an input into chunks of whole lines.
pub(super) struct Feeder<R> {
    input: R,
    prompt: bool,
    /// The beginning of a line whose end has not been read.
    carry: Vec<u8>,
    /// Inside a line that fills a whole chunk: its beginning has been handed out, the rest is dropped.
    skipping: bool,
    ended: bool,
}

impl<R: Read> Feeder<R> {
    pub fn new(input: R, prompt: bool) -> Self {
        Feeder { input, prompt, carry: Vec::new(), skipping: false, ended: false }
    }

    /// Fills `chunk` with the next lines; `false` at the end.
    pub fn fill(&mut self, chunk: &mut Chunk) -> io::Result<bool> {
        if chunk.buffer.is_empty() {
            chunk.buffer.resize(CHUNK_BYTES, 0);
        }
        chunk.filled = self.carry.len();
        chunk.buffer[..self.carry.len()].copy_from_slice(&self.carry);
        self.carry.clear();
        while !self.ended && chunk.filled < chunk.buffer.len() {
            let from = chunk.filled;
            self.read(chunk)?;
            if self.prompt && memchr::memchr(b'\n', &chunk.buffer[from..chunk.filled]).is_some() {
                break;
            }
        }
        if !self.ended {
            self.keep_whole_lines(chunk);
        }
        Ok(chunk.filled > 0)
    }

    fn read(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        let free = &mut chunk.buffer[chunk.filled..];
        let read = match self.input.read(free) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => {
                self.ended = true;
                return Err(error);
            }
        };
        self.ended = read == 0;
        if !self.skipping {
            chunk.filled += read;
        } else if let Some(end) = memchr::memchr(b'\n', &free[..read]) {
            free.copy_within(end + 1..read, 0);
            chunk.filled += read - end - 1;
            self.skipping = false;
        }
        Ok(())
    }

    fn keep_whole_lines(&mut self, chunk: &mut Chunk) {
        match memchr::memrchr(b'\n', &chunk.buffer[..chunk.filled]) {
            Some(end) => {
                self.carry.extend_from_slice(&chunk.buffer[end + 1..chunk.filled]);
                chunk.filled = end + 1;
            }
            None => {
                // More than anybody looks at, so that the cut is seen and counted.
                chunk.filled = chunk.filled.min(LINE_BYTES_MAX + 1);
                self.skipping = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes in pieces of the given sizes.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.1.pop().unwrap_or(usize::MAX).min(buffer.len()).min(self.0.len());
            let (now, later) = self.0.split_at(size);
            buffer[..size].copy_from_slice(now);
            self.0 = later;
            Ok(size)
        }
    }

    fn chunks(text: &[u8], pieces: Vec<usize>, prompt: bool) -> Vec<Vec<u8>> {
        let mut feeder = Feeder::new(Pieces(text, pieces), prompt);
        let (mut chunk, mut all) = (Chunk::default(), Vec::new());
        while feeder.fill(&mut chunk).unwrap() {
            all.push(chunk.buffer[..chunk.filled].to_vec());
        }
        all
    }

    #[test]
    fn chunks_are_whole_lines() {
        assert_eq!(chunks(b"", vec![], false), Vec::<Vec<u8>>::new());
        assert_eq!(chunks(b"a\nb\nc", vec![1, 1, 1, 1], false), [b"a\nb\nc"]);
        assert_eq!(chunks(b"a\nb\nc", vec![1, 1, 3], true), [&b"a\n"[..], b"b\n", b"c"]);
    }

    #[test]
    fn an_endless_line_is_one_line() {
        let mut text = vec![b'x'; 3 * CHUNK_BYTES + 7];
        text.extend_from_slice(b"\nnext\nlast");
        let all = chunks(&text, vec![], false);
        assert_eq!(all[0].len(), LINE_BYTES_MAX + 1);
        assert_eq!(all[1..].concat(), b"next\nlast");
    }

    proptest! {
        #[test]
        fn nothing_is_lost(lines in prop::collection::vec("[a-z]{0,9}", 0..50), pieces in prop::collection::vec(1usize..20, 0..50), prompt: bool) {
            let text = lines.join("\n").into_bytes();
            let all = chunks(&text, pieces, prompt);
            prop_assert_eq!(all.concat(), text);
            for chunk in all.iter().rev().skip(1) {
                prop_assert!(chunk.ends_with(b"\n"));
            }
        }
    }
}
