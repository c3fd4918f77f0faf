use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mailwarden::source::{Batch, Input, Sender, Source, Start};
use mailwarden::time::Timestamp;

use super::{NOW, SOON, open, texts, wakes};

/// A script that plays journalctl: it notes its arguments in `arguments` and then does `body`.
fn journalctl(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("journalctl");
    fs::write(&path, format!("#!/bin/sh\ncd '{}'\necho \"$*\" >> arguments\n{body}\n", dir.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn journal(command: PathBuf, start: Start, cursor: Option<&str>) -> Result<Source, String> {
    open(Input::Journal { command, matches: Vec::new(), start }, cursor, NOW)
}

fn arguments(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("arguments")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Reads until there are `count` lines, or an error, or it takes too long.
fn read_lines(source: &mut Source, batch: &mut Batch, count: usize, now: Timestamp) -> Result<(), String> {
    let start = Instant::now();
    while batch.lines.len() < count && start.elapsed() < SOON {
        source.read(batch, 1, now).map_err(|error| error.to_string())?;
        wakes(source, Duration::from_millis(20));
    }
    Ok(())
}

fn entry(number: u32, uid: u32) -> String {
    format!(
        "__CURSOR=s=a;i={number};t=5f5e100;x=1\n__REALTIME_TIMESTAMP=179548747547748{number}\n_UID={uid}\n_PID=7\nSYSLOG_IDENTIFIER=postfix/smtpd\nMESSAGE=line {number}\n_HOSTNAME=mx\n\n"
    )
}

#[test]
fn entries_arrive_as_lines_with_their_uid() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data"), entry(1, 0) + &entry(2, 33)).unwrap();
    let mut source = journal(journalctl(dir.path(), "cat data; exec sleep 60"), Start::End, None).unwrap();
    assert_eq!(source.cursor(), None);
    assert!(wakes(&source, SOON));
    let mut batch = Batch::new();
    read_lines(&mut source, &mut batch, 1, NOW).unwrap();
    assert_eq!(source.cursor().as_deref(), Some("s=a;i=1;t=5f5e100;x=1"), "behind what was handed out, not behind what was read");
    read_lines(&mut source, &mut batch, 2, NOW).unwrap();
    assert_eq!(
        texts(&batch),
        ["2026-11-24T02:31:15.477481+00:00 mx postfix/smtpd[7]: line 1", "2026-11-24T02:31:15.477482+00:00 mx postfix/smtpd[7]: line 2"]
    );
    assert_eq!((batch.lines[0].origin.sender, batch.lines[1].origin.sender), (Sender::Journal(0), Sender::Journal(33)));
    assert_eq!(batch.lines[0].received, None);
    let arguments = arguments(dir.path()).join("\n");
    assert!(arguments.contains("--follow --output=export --all --no-pager"), "{arguments}");
    assert!(arguments.contains("--lines=0 SYSLOG_FACILITY=2 SYSLOG_FACILITY=4 SYSLOG_FACILITY=10 +"), "{arguments}");
}

#[test]
fn a_child_that_dies_is_started_again_behind_the_last_entry() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data"), entry(1, 0)).unwrap();
    let mut source = journal(journalctl(dir.path(), "cat data; echo 'Journal went away' >&2; exit 1"), Start::Beginning, None).unwrap();
    let mut batch = Batch::new();
    read_lines(&mut source, &mut batch, 1, NOW).unwrap();
    let error = read_lines(&mut source, &mut batch, 2, NOW).unwrap_err();
    assert!(error.contains("Journal went away") && error.contains("next try in 1 s"), "{error}");
    assert_eq!(source.stats().problem.as_deref(), Some(error.as_str()));
    assert_eq!(source.read(&mut batch, 10, NOW).unwrap(), 0, "not at once");
    assert!(wakes(&source, SOON), "the timer says when");
    read_lines(&mut source, &mut batch, 2, NOW + Duration::from_secs(1)).unwrap();
    assert_eq!(batch.lines.len(), 2);
    let arguments = arguments(dir.path());
    assert!(arguments[0].contains(" --no-tail SYSLOG") && !arguments[0].contains("cursor"), "{arguments:?}");
    assert!(arguments[1].contains(" --after-cursor=s=a;i=1;t=5f5e100;x=1 --no-tail "), "{arguments:?}");
}

#[test]
fn a_refused_cursor_is_given_up_for_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let body = "case \"$*\" in *cursor*) echo 'Failed to seek to cursor: Invalid argument' >&2; exit 1;; esac; exec sleep 60";
    let mut source = journal(journalctl(dir.path(), body), Start::End, Some("s=a;i=1;t=5f5e100")).unwrap();
    let mut batch = Batch::new();
    let error = read_lines(&mut source, &mut batch, 1, NOW).unwrap_err();
    assert!(error.contains("Failed to seek to cursor"), "{error}");
    source.read(&mut batch, 10, NOW + Duration::from_secs(1)).unwrap();
    let start = Instant::now();
    while arguments(dir.path()).len() < 2 && start.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(arguments(dir.path())[1].contains("--since=@100.000000 --no-tail"), "{:?}", arguments(dir.path()));
    assert_eq!(source.stats().gaps, 1);
}

#[test]
fn pauses_grow_while_the_child_keeps_dying() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = journal(journalctl(dir.path(), "exit 3"), Start::End, None).unwrap();
    let mut now = NOW;
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        let error = read_lines(&mut source, &mut Batch::new(), 1, now).unwrap_err();
        assert!(error.contains(&format!("next try in {pause} s")), "{error}");
        now = now + Duration::from_secs(pause);
    }
}

#[test]
fn a_missing_journalctl_says_what_to_do() {
    let error = journal("/no/such/journalctl".into(), Start::End, None).unwrap_err();
    assert!(error.starts_with("cannot run /no/such/journalctl: not found; the journal source needs it"), "{error}");
}

/// The child's half of [`the_real_journal_is_read`], in a mount namespace of its own: runs a journald on an empty /run.
#[test]
fn child_reads_a_real_journal() {
    if std::env::var_os("MAILWARDEN_TEST_JOURNAL").is_none() {
        return;
    }
    let run = |command: &str| assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    run("mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal");
    run("mkdir -p /var/log/journal && mount -t tmpfs none /var/log/journal");
    let mut journald = Command::new("/lib/systemd/systemd-journald").spawn().unwrap();
    let start = Instant::now();
    while !Path::new("/run/systemd/journal/dev-log").exists() && start.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = |text: &str| run(&format!("{text} logger -u /run/systemd/journal/dev-log -p mail.info -t 'postfix/smtpd[99]' 'by {text}'"));
    let mut source = journal("journalctl".into(), Start::Beginning, None).unwrap();
    let mut batch = Batch::new();
    log("env");
    log("setpriv --reuid 65534 --clear-groups");
    let start = Instant::now();
    let ours = |batch: &Batch| texts(batch).iter().filter(|line| line.contains("postfix/smtpd[99]: by ")).count();
    while ours(&batch) < 2 && start.elapsed() < SOON {
        source.read(&mut batch, 10, NOW).unwrap();
        wakes(&source, Duration::from_millis(50));
    }
    let cursor = source.cursor();
    drop(source);
    log("nice");
    let mut again = journal("journalctl".into(), Start::End, cursor.as_deref()).unwrap();
    let mut rest = Batch::new();
    read_lines(&mut again, &mut rest, 1, NOW).unwrap();
    drop(again);
    journald.kill().unwrap();
    journald.wait().unwrap();
    let senders: Vec<Sender> =
        batch.iter().filter(|(_, text)| text.ends_with(b"env") || text.ends_with(b"groups")).map(|(line, _)| line.origin.sender).collect();
    println!("senders {senders:?}, after the restart {:?}", texts(&rest));
}

#[test]
fn the_real_journal_is_read() {
    let is_root = nix::unistd::Uid::effective().is_root();
    let can_unshare = || Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
    if !is_root || !Path::new("/lib/systemd/systemd-journald").exists() || !can_unshare() {
        eprintln!("skipped: needs root, a mount namespace and systemd-journald");
        return;
    }
    let test = std::env::current_exe().unwrap();
    let arguments = ["--exact", "journal::child_reads_a_real_journal", "--nocapture"];
    let output = Command::new("unshare").arg("-m").arg(test).args(arguments).env("MAILWARDEN_TEST_JOURNAL", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("senders [Journal(0), Journal(65534)], after the restart [\""),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("postfix/smtpd[99]: by nice\"]"), "{text}");
}
