use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mailwarden::limits::LINE_BYTES_MAX;
use mailwarden::source::archive;
use mailwarden::source::{Batch, Input, Sender, Source, Start};
use mailwarden::time::Timestamp;

use super::{NOW, SOON, drain, open, wakes};

pub fn file(path: &Path, start: Start, cursor: Option<&str>, now: Timestamp) -> Source {
    open(Input::File { path: path.to_owned(), start, trusted: None }, cursor, now).unwrap()
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_file_starts_at_its_end_and_keeps_whole_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    append(&path, "old\nhalf");
    let mut source = file(&path, Start::End, None, NOW);
    assert_eq!(drain(&mut source, 10, NOW), [""; 0]);
    append(&path, " a line\nnext\nnot yet");
    assert!(wakes(&source, SOON), "inotify tells that the file grew");
    assert_eq!(drain(&mut source, 10, NOW), ["half a line", "next"]);
    let cursor = source.cursor();
    drop(source);
    append(&path, " done\n");
    assert_eq!(drain(&mut file(&path, Start::End, cursor.as_deref(), NOW), 10, NOW), ["not yet done"]);
    assert_eq!(drain(&mut file(&path, Start::Beginning, None, NOW), 1, NOW), ["old", "half a line", "next", "not yet done"]);
}

#[test]
fn a_file_may_come_late_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    let mut source = file(&path, Start::End, None, NOW);
    assert_eq!(drain(&mut source, 10, NOW), [""; 0]);
    assert_eq!(source.cursor(), None);
    append(&path, "one\n");
    assert!(wakes(&source, SOON), "inotify tells that the file came");
    assert_eq!(drain(&mut source, 10, NOW), ["one"]);
    fs::remove_file(&path).unwrap();
    assert_eq!(drain(&mut source, 10, NOW), [""; 0]);
    assert!(!wakes(&source, Duration::from_millis(50)), "nothing to do, no wake-up");
    append(&path, "two\n");
    assert_eq!(drain(&mut source, 10, NOW), ["two"]);
}

#[test]
fn a_long_line_in_a_file_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    append(&path, &format!("a\n{}\nb\n", "x".repeat(1 << 20)));
    let mut source = file(&path, Start::Beginning, None, NOW);
    let lengths: Vec<usize> = drain(&mut source, 1, NOW).iter().map(String::len).collect();
    assert_eq!(lengths, [1, LINE_BYTES_MAX, 1]);
    assert_eq!(source.stats().truncated, 1);
    append(&path, &"y".repeat(100_000));
    assert_eq!(drain(&mut source, 10, NOW), [""; 0]);
    let cursor = source.cursor();
    append(&path, "\nc\n");
    let mut again = file(&path, Start::End, cursor.as_deref(), NOW);
    let lengths: Vec<usize> = drain(&mut again, 10, NOW).iter().map(String::len).collect();
    assert_eq!(lengths, [LINE_BYTES_MAX, 1], "a restart within a long line");
}

#[test]
fn a_rotated_file_is_read_as_long_as_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("mail.log"), dir.path().join("mail.log.1"));
    append(&path, "a\n");
    let mut source = file(&path, Start::Beginning, None, NOW);
    assert_eq!(drain(&mut source, 10, NOW), ["a"]);
    fs::rename(&path, &old).unwrap();
    File::create(&path).unwrap();
    append(&old, "b\n");
    let later = NOW + Duration::from_secs(600);
    assert_eq!(drain(&mut source, 10, later), ["b"], "the writer was not told to reopen: still followed after ten minutes");
    append(&old, "c\nunfinished");
    append(&path, "d\n");
    assert_eq!(drain(&mut source, 10, later), ["c", "d"]);
    let quiet = later + Duration::from_secs(61);
    assert_eq!(drain(&mut source, 10, quiet), ["unfinished"], "what was left is flushed when the old file is let go");
    append(&old, "lost\n");
    assert_eq!(drain(&mut source, 10, quiet), [""; 0]);
}

#[test]
fn who_may_write_to_a_file_decides_its_worth() {
    // Only a system user's files can be trusted.
    let is_root = nix::unistd::Uid::effective().is_root();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    for (mode, trusted) in [(0o640, true), (0o644, true), (0o664, false), (0o602, false)] {
        fs::write(&path, "x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let mut batch = Batch::new();
        file(&path, Start::Beginning, None, NOW).read(&mut batch, 10, NOW).unwrap();
        let origin = batch.lines[0].origin;
        assert_eq!((origin.source, origin.sender), (5, Sender::File { trusted: trusted && is_root }), "{mode:o}");
    }
    let mut source = open(Input::File { path, start: Start::Beginning, trusted: Some(true) }, None, NOW).unwrap();
    let mut batch = Batch::new();
    source.read(&mut batch, 10, NOW).unwrap();
    assert_eq!(batch.lines[0].origin.sender, Sender::File { trusted: true }, "the operator says so");
}

#[test]
fn what_is_no_log_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [dir.path().to_owned(), fifo] {
        let error = open(Input::File { path, start: Start::End, trusted: None }, None, NOW).unwrap_err();
        assert!(error.contains("no regular file"), "{error}");
    }
}

#[test]
fn a_moved_log_is_not_read_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    append(&path, "Nov 24 03:00:00 one\n");
    let mut source = file(&path, Start::Beginning, None, NOW);
    assert_eq!(drain(&mut source, 10, NOW).len(), 1);
    // As an editor or a log kept in memory does it: a new file with the old content takes the name.
    let copy = dir.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    append(&copy, "Nov 24 03:00:01 two\n");
    fs::rename(&copy, &path).unwrap();
    assert_eq!(drain(&mut source, 10, NOW), ["Nov 24 03:00:01 two"]);
}

#[test]
fn a_lost_position_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    append(&path, "one\n");
    let mut source = file(&path, Start::Beginning, None, NOW);
    drain(&mut source, 10, NOW);
    let cursor = source.cursor();
    drop(source);
    fs::remove_file(&path).unwrap();
    append(&path, "another\n");
    let mut source = file(&path, Start::End, cursor.as_deref(), NOW);
    assert_eq!(drain(&mut source, 10, NOW), ["another"]);
    assert_eq!(source.stats().gaps, 1);
    let mut source = file(&path, Start::End, Some("junk"), NOW);
    assert_eq!(drain(&mut source, 10, NOW), [""; 0]);
}

#[test]
fn loggers_that_dropped_lines_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    append(&path, "Nov 24 02:31:15 mx rsyslogd: imjournal: 13 messages lost due to rate-limiting (20000 allowed within 600 seconds)\n");
    let mut source = file(&path, Start::Beginning, None, NOW);
    drain(&mut source, 10, NOW);
    assert_eq!((source.stats().blind_notices, source.stats().blind_lines), (1, 13));
}

/// Figures, not a verdict: `cargo test --release --test sources -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measurement"]
fn speed_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mail.log");
    let line = format!("Nov 24 03:00:00 mx postfix/smtpd[1234]: {}\n", "x".repeat(110));
    const LINES: usize = 1_000_000;
    fs::write(&path, line.repeat(LINES)).unwrap();
    let mut source = file(&path, Start::Beginning, None, NOW);
    let mut batch = Batch::new();
    let (mut lines, start) = (0, Instant::now());
    while source.read(&mut batch, 256, NOW).unwrap() == 256 {
        lines += batch.lines.len();
        batch.clear();
    }
    println!("file source: {} lines, {:.1} M a second", lines, lines as f64 / start.elapsed().as_secs_f64() / 1e6);
    for packing in ["cat", "gzip", "zstd", "xz"] {
        let packed = dir.path().join(packing);
        let made = Command::new(packing)
            .arg(if packing == "cat" { "--" } else { "-c" })
            .arg(&path)
            .stdout(File::create(&packed).unwrap())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            continue;
        }
        let start = Instant::now();
        let bytes = std::io::copy(&mut archive::open(&packed).unwrap(), &mut std::io::sink()).unwrap();
        println!("archive made by {packing}: {:.0} MB a second", bytes as f64 / start.elapsed().as_secs_f64() / 1e6);
    }
}
