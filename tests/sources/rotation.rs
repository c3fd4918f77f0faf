//! A log under a writer, logrotate, a reader that is stopped and killed: every line once, in order.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mailwarden::source::{Batch, Source, Start};
use mailwarden::time::Timestamp;
use proptest::prelude::*;

use super::files::file;
use super::{NOW, drain, texts};

#[derive(Clone, Debug)]
enum Op {
    Write(u8),
    /// The first half of a line; the next write finishes it.
    Half,
    Rename {
        /// logrotate makes the new file at once; the writer still has the old one.
        create: bool,
    },
    /// The writer opens the path anew.
    Reopen,
    CopyTruncate,
    Read {
        max_lines: u8,
    },
    Close,
    Open,
    /// Remembers the cursor, as a snapshot in the store does.
    Save,
    /// SIGKILL: back to what was remembered.
    Crash,
    Minute,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u8..6).prop_map(Op::Write),
        1 => Just(Op::Half),
        2 => any::<bool>().prop_map(|create| Op::Rename { create }),
        2 => Just(Op::Reopen),
        2 => Just(Op::CopyTruncate),
        4 => (1u8..5).prop_map(|max_lines| Op::Read { max_lines }),
        1 => Just(Op::Close),
        2 => Just(Op::Open),
        1 => Just(Op::Save),
        1 => Just(Op::Crash),
        1 => Just(Op::Minute),
    ]
}

struct World {
    dir: tempfile::TempDir,
    path: PathBuf,
    writer: File,
    rotations: u32,
    /// The second half of the line that was begun.
    half: Option<String>,
    /// Gives the files' modification times too: the kernel's own are too coarse to tell steps apart.
    clock: Timestamp,
    written: Vec<String>,
    source: Option<Source>,
    read: Vec<String>,
    /// The cursor at the last close.
    closed: Option<String>,
    /// The cursor at the last save, and how much had been read.
    saved: (Option<String>, usize),
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mail.log");
        let writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        writer.set_modified(time(NOW)).unwrap();
        let source = file(&path, Start::Beginning, None, NOW);
        let saved = (source.cursor(), 0);
        let (written, read) = (Vec::new(), Vec::new());
        World { dir, path, writer, rotations: 0, half: None, clock: NOW, written, source: Some(source), read, closed: None, saved }
    }

    fn step(&mut self, op: &Op) {
        self.clock = self.clock + Duration::from_secs(1);
        match op {
            Op::Write(count) => (0..*count).for_each(|_| self.write_line()),
            Op::Half => self.write_half(),
            Op::Rename { create } => self.rename(*create),
            Op::Reopen => self.reopen(),
            Op::CopyTruncate => self.copy_truncate(),
            Op::Read { max_lines } => self.read_some(usize::from(*max_lines)),
            Op::Close => self.close(),
            Op::Open => self.open(),
            Op::Save => self.save(),
            Op::Crash => self.crash(),
            Op::Minute => self.clock = self.clock + Duration::from_secs(61),
        }
    }

    fn write_line(&mut self) {
        self.finish_line();
        let line = format!("{:06} a line of the log", self.written.len());
        self.put(&format!("{line}\n"));
        self.written.push(line);
    }

    fn write_half(&mut self) {
        self.finish_line();
        let line = format!("{:06} a line in two halves", self.written.len());
        let (first, second) = line.split_at(10);
        self.put(first);
        self.half = Some(format!("{second}\n"));
        self.written.push(line);
    }

    fn finish_line(&mut self) {
        if let Some(rest) = self.half.take() {
            self.put(&rest);
        }
    }

    fn put(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).unwrap();
        self.writer.set_modified(time(self.clock)).unwrap();
    }

    fn rename(&mut self, create: bool) {
        self.shift();
        if fs::rename(&self.path, self.dir.path().join("mail.log.1")).is_ok() && create {
            File::create(&self.path).unwrap().set_modified(time(self.clock)).unwrap();
        }
    }

    fn shift(&mut self) {
        let name = |number: u32| self.dir.path().join(format!("mail.log.{number}"));
        for number in (1..=self.rotations).rev() {
            let _ = fs::rename(name(number), name(number + 1));
        }
        self.rotations += 1;
    }

    fn reopen(&mut self) {
        self.finish_line();
        let existed = self.path.exists();
        self.writer = OpenOptions::new().append(true).create(true).open(&self.path).unwrap();
        if !existed {
            self.writer.set_modified(time(self.clock)).unwrap();
        }
    }

    /// A line cut in two by it, or written between the copy and the truncation, would be lost by nature.
    fn copy_truncate(&mut self) {
        self.finish_line();
        if !self.path.exists() {
            return;
        }
        self.shift();
        let copy = self.dir.path().join("mail.log.1");
        fs::copy(&self.path, &copy).unwrap();
        File::options().append(true).open(&copy).unwrap().set_modified(time(self.clock)).unwrap();
        let log = OpenOptions::new().write(true).open(&self.path).unwrap();
        log.set_len(0).unwrap();
        log.set_modified(time(self.clock)).unwrap();
    }

    fn read_some(&mut self, max_lines: usize) {
        let mut batch = Batch::new();
        if let Some(source) = &mut self.source {
            source.read(&mut batch, max_lines, self.clock).unwrap();
        }
        self.read.extend(texts(&batch));
    }

    fn close(&mut self) {
        if let Some(source) = self.source.take() {
            self.closed = source.cursor();
        }
    }

    fn open(&mut self) {
        if self.source.is_none() {
            self.source = Some(file(&self.path, Start::Beginning, self.closed.as_deref(), self.clock));
        }
    }

    fn save(&mut self) {
        if let Some(source) = &self.source {
            self.saved = (source.cursor(), self.read.len());
        }
    }

    fn crash(&mut self) {
        self.source = None;
        let (cursor, read) = self.saved.clone();
        self.read.truncate(read);
        self.closed = cursor;
        self.open();
    }

    /// What was written, and what was read of it in the end.
    fn finish(mut self) -> (Vec<String>, Vec<String>) {
        self.finish_line();
        self.open();
        let mut source = self.source.take().unwrap();
        self.read.extend(drain(&mut source, 100, self.clock));
        self.read.extend(drain(&mut source, 100, self.clock + Duration::from_secs(61)));
        (self.written, self.read)
    }
}

fn time(clock: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(clock.micros() as u64)
}

/// `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn no_line_twice_and_none_lost(ops in proptest::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        let (written, read) = world.finish();
        prop_assert_eq!(written, read);
    }
}
