//! Stage 1, lines in: the syslog socket, log files, the journal.
//!
//! **Invariant:** a source never waits. It fills a batch with what is there and says who vouches for each line; it never
//! reads a line's text (the one exception, [`blind`], looks for the logger's own "I dropped lines").
//!
//! Absent on purpose: network syslog. UDP has no sender that can be trusted; the relay that receives it writes to the
//! socket or to a file.

pub mod archive;
mod blind;
pub mod error;
mod file;
pub mod inherited;
mod intake;
mod journal;
pub mod origin;
pub mod spec;
mod syslog_socket;

use std::os::fd::BorrowedFd;

pub use error::SourceError;
pub use file::{Doubt, FileSource};
pub use inherited::Inherited;
pub use journal::JournalSource;
pub use origin::{Origin, Sender, Trust};
pub use spec::{Conflict, Input, SourceSpec, Start, overlaps};
pub use syslog_socket::SyslogSocket;

use crate::time::Timestamp;

/// Lines and the bytes they stand in. Reused: once it has grown, a line costs no allocation.
#[derive(Debug, Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    pub lines: Vec<Line>,
}

/// One line of a [`Batch`], without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub start: u32,
    pub len: u32,
    /// When it was received; `None`: the line's own header tells the time.
    pub received: Option<Timestamp>,
    pub origin: Origin,
}

impl Batch {
    pub fn new() -> Self {
        Batch::default()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn push(&mut self, text: &[u8], received: Option<Timestamp>, origin: Origin) {
        let (Ok(start), Ok(len)) = (u32::try_from(self.bytes.len()), u32::try_from(text.len())) else { return };
        self.bytes.extend_from_slice(text);
        self.lines.push(Line { start, len, received, origin });
    }

    /// The bytes of `line`, which must be one of this batch; empty where it is not.
    pub fn text(&self, line: &Line) -> &[u8] {
        let start = line.start as usize;
        self.bytes.get(start..start.saturating_add(line.len as usize)).unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Line, &[u8])> {
        self.lines.iter().map(|line| (line, self.text(line)))
    }
}

/// What a source did since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStats {
    pub name: String,
    pub lines: u64,
    pub bytes: u64,
    /// Lines cut at [`crate::limits::LINE_BYTES_MAX`].
    pub truncated: u64,
    pub errors: u64,
    /// Notices of a logger upstream that it dropped lines, and how many it says it dropped: what the source is blind for.
    pub blind_notices: u64,
    pub blind_lines: u64,
    /// Times that a saved position was no longer to be found: lines may be missing.
    pub gaps: u64,
    /// What is wrong right now.
    pub problem: Option<String>,
}

/// Where lines come from.
#[derive(Debug)]
pub enum Source {
    Socket(SyslogSocket),
    File(FileSource),
    Journal(Box<JournalSource>),
}

impl Source {
    /// Opens what `spec` describes. `id` is put into each line's [`Origin`]; `cursor` is what [`Source::cursor`] said before a restart.
    pub fn open(spec: &SourceSpec, id: u8, cursor: Option<&str>, inherited: &mut Inherited, now: Timestamp) -> Result<Source, SourceError> {
        match &spec.input {
            Input::Socket { path, mode, group } => SyslogSocket::bind(&spec.name, id, path, *mode, group.as_deref()).map(Source::Socket),
            Input::InheritedSocket { name } => {
                let socket = inherited.take_datagram(name)?;
                SyslogSocket::adopt(&spec.name, id, socket).map(Source::Socket)
            }
            Input::File { path, start, trusted } => FileSource::open(&spec.name, id, path, *start, *trusted, cursor, now).map(Source::File),
            Input::Journal { command, matches, start } => {
                JournalSource::open(&spec.name, id, command, matches, *start, cursor, now).map(|source| Source::Journal(Box::new(source)))
            }
        }
    }

    /// Readable when lines may be there. It may change with each [`Source::read`], so ask before each poll; and call `read`
    /// once a second all the same: a network file system tells nobody that a file grew.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Socket(source) => source.fd(),
            Source::File(source) => source.fd(),
            Source::Journal(source) => source.fd(),
        }
    }

    /// Adds at most `max_lines` lines to `batch` and says how many it took, blank ones included. Never blocks. When it took
    /// `max_lines` there may be more, and `fd` need not be readable for it: call again before polling.
    pub fn read(&mut self, batch: &mut Batch, max_lines: usize, now: Timestamp) -> Result<usize, SourceError> {
        match self {
            Source::Socket(source) => source.read(batch, max_lines, now),
            Source::File(source) => source.read(batch, max_lines, now),
            Source::Journal(source) => source.read(batch, max_lines, now),
        }
    }

    /// The position after the last line handed out; `None` where lines cannot be asked for again.
    pub fn cursor(&self) -> Option<String> {
        match self {
            Source::Socket(_) => None,
            Source::File(source) => source.cursor(),
            Source::Journal(source) => source.cursor(),
        }
    }

    pub fn stats(&self) -> SourceStats {
        match self {
            Source::Socket(source) => source.stats(),
            Source::File(source) => source.stats(),
            Source::Journal(source) => source.stats(),
        }
    }
}
