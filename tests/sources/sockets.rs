use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mailwarden::limits::LINE_BYTES_MAX;
use mailwarden::source::{Batch, Inherited, Input, Sender, Source, SyslogSocket};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::unistd::Uid;

use super::{NOW, SOON, drain, open, texts, wakes};

fn socket(path: &Path) -> Result<Source, String> {
    open(Input::Socket { path: path.to_owned(), mode: 0o666, group: None }, None, NOW)
}

fn sender(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(path).unwrap();
    socket
}

#[test]
fn a_datagram_is_a_line_with_its_senders_uid() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syslog.sock");
    let mut source = socket(&path).unwrap();
    let sender = sender(&path);
    for datagram in [&b"<22>Nov 24 03:00:00 mx x: one\n"[..], b"two\0", b"", b"\n", b"three\nfour"] {
        sender.send(datagram).unwrap();
    }
    assert!(wakes(&source, SOON));
    let mut batch = Batch::new();
    assert_eq!(source.read(&mut batch, 2, NOW).unwrap(), 2);
    source.read(&mut batch, 10, NOW).unwrap();
    assert_eq!(texts(&batch), ["<22>Nov 24 03:00:00 mx x: one", "two", "three\nfour"]);
    for line in &batch.lines {
        assert_eq!((line.origin.source, line.origin.sender, line.received), (5, Sender::Uid(Uid::effective().as_raw()), Some(NOW)));
    }
}

#[test]
fn another_users_datagram_tells_so() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: needs root to send as somebody else");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("syslog.sock");
    let mut source = socket(&path).unwrap();
    let mut logger = Command::new("logger");
    logger.args(["-u", path.to_str().unwrap(), "-t", "postfix/smtpd[99]", "warning: forged"]).uid(65_534);
    let Ok(status) = logger.status() else {
        eprintln!("skipped: no logger here");
        return;
    };
    assert!(status.success());
    let mut batch = Batch::new();
    source.read(&mut batch, 10, NOW).unwrap();
    assert!(texts(&batch)[0].contains("postfix/smtpd[99]"));
    assert_eq!(batch.lines[0].origin.sender, Sender::Uid(65_534));
}

#[test]
fn a_long_datagram_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syslog.sock");
    let mut source = socket(&path).unwrap();
    for length in [LINE_BYTES_MAX, LINE_BYTES_MAX + 1, LINE_BYTES_MAX * 3] {
        sender(&path).send(&vec![b'x'; length]).unwrap();
        assert_eq!(drain(&mut source, 10, NOW)[0].len(), LINE_BYTES_MAX);
    }
    assert_eq!(source.stats().truncated, 2);
}

#[test]
fn descriptors_that_a_sender_attaches_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syslog.sock");
    let mut source = socket(&path).unwrap();
    let sender = sender(&path);
    let attached = fs::File::open("/dev/null").unwrap();
    // Other tests run in this process: look for this file, not for a number of descriptors.
    let inode = fs::read_link(format!("/proc/self/fd/{}", attached.as_raw_fd())).unwrap();
    let held = || {
        fs::read_dir("/proc/self/fd").unwrap().filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to == inode)).count()
    };
    let before = held();
    for _ in 0..50 {
        let rights = [attached.as_raw_fd()];
        let parts = [ControlMessage::ScmRights(&rights)];
        sendmsg::<UnixAddr>(sender.as_raw_fd(), &[std::io::IoSlice::new(b"x")], &parts, MsgFlags::empty(), None).unwrap();
        assert_eq!(drain(&mut source, 10, NOW), ["x"]);
    }
    assert!(held() < before + 25, "descriptors pile up");
}

#[test]
fn a_stale_path_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syslog.sock");
    drop(UnixDatagram::bind(&path).unwrap());
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket(), "left behind");
    let source = open(Input::Socket { path: path.clone(), mode: 0o620, group: None }, None, NOW).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
    let error = socket(&path).unwrap_err();
    assert!(error.starts_with("socket path taken: another process listens on "), "{error}");
    drop(source);
    assert!(!path.exists(), "taken away at the end");
    let _other = UnixListener::bind(&path).unwrap();
    assert!(socket(&path).unwrap_err().starts_with("socket path taken"), "a stream socket is alive as well");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(socket(&file).unwrap_err().contains("a file that is no socket is there"));
    let error =
        open(Input::Socket { path: dir.path().join("x"), mode: 0o600, group: Some("no such group".into()) }, None, NOW).unwrap_err();
    assert!(error.contains("unknown group"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary name is left");
}

#[test]
fn r_a_successors_path_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syslog.sock");
    let old = socket(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _new = socket(&path).unwrap();
    drop(old);
    assert!(path.exists());
}

/// The child's half of [`systemd_hands_over_a_socket_by_name`]: under `systemd-socket-activate` it receives one line.
#[test]
fn child_receives_on_the_inherited_socket() {
    if std::env::var_os("LISTEN_FDNAMES").is_none() {
        return;
    }
    let mut inherited = Inherited::from_environment();
    assert!(inherited.take_datagram("other").unwrap_err().to_string().contains("FileDescriptorName=other"));
    let socket = inherited.take_datagram("syslog").unwrap();
    assert!(inherited.take_datagram("syslog").is_err(), "taken once");
    let mut source = SyslogSocket::adopt("test", 0, socket).unwrap();
    let mut batch = Batch::new();
    let start = Instant::now();
    while batch.is_empty() && start.elapsed() < SOON {
        source.read(&mut batch, 10, NOW).unwrap();
    }
    println!("received {:?}", texts(&batch));
}

#[test]
fn systemd_hands_over_a_socket_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syslog.sock");
    let test = std::env::current_exe().unwrap();
    let arguments = ["--exact", "sockets::child_receives_on_the_inherited_socket", "--nocapture"];
    let spawned = Command::new("systemd-socket-activate")
        .args(["-d", "-l", path.to_str().unwrap(), "--fdname=syslog"])
        .arg(test)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("skipped: no systemd-socket-activate here");
        return;
    };
    let start = Instant::now();
    while !path.exists() && start.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(10));
    }
    let sender = sender(&path);
    let mut text = String::new();
    // systemd-socket-activate starts the command with the first datagram.
    sender.send(b"hello").unwrap();
    let output = child.stdout.take().unwrap();
    std::io::Read::read_to_string(&mut std::io::BufReader::new(output), &mut text).unwrap();
    child.wait().unwrap();
    assert!(text.contains("received [\"hello\"]"), "{text}");
}

/// Figures, not a verdict: `cargo test --release --test sources -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measurement"]
fn speed_of_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syslog.sock");
    let mut source = socket(&path).unwrap();
    const LINES: usize = 2_000_000;
    let line = [b'x'; 150];
    let sending = std::thread::spawn({
        let sender = sender(&path);
        move || (0..LINES).for_each(|_| assert_eq!(sender.send(&line).unwrap(), line.len()))
    });
    let mut batch = Batch::new();
    let (mut received, mut start, mut wakeups) = (0, None, 0u32);
    let work_before = thread_work();
    while received < LINES {
        batch.clear();
        match source.read(&mut batch, 256, NOW).unwrap() {
            0 => {
                wakeups += 1;
                wakes(&source, SOON);
            }
            count => {
                start.get_or_insert_with(Instant::now);
                received += count;
            }
        }
    }
    let seconds = start.unwrap().elapsed().as_secs_f64();
    sending.join().unwrap();
    let work = (thread_work() - work_before).as_secs_f64() / LINES as f64;
    println!("{LINES} datagrams in {seconds:.2} s: {:.0} a second, {wakeups} times empty", LINES as f64 / seconds);
    println!("the receiver worked {:.2} µs for each, so a core of its own takes {:.0} a second", work * 1e6, 1.0 / work);
}

/// Processor time of this thread: what a busy machine does not blur.
fn thread_work() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}
