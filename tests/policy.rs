//! The policy server on its socket: what it answers, to whom, and how soon.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mailwarden::config::{AccountRules, Policy};
use mailwarden::engine::account::{Hindrance, Stop, Stopped};
use mailwarden::engine::decision::Cause;
use mailwarden::engine::jail::Scope;
use mailwarden::policy::Board;
use mailwarden::policy::server::Server;
use mailwarden::time::Timestamp;
use tempfile::TempDir;

struct Served {
    dir: TempDir,
    board: Arc<Board>,
    server: Option<Server>,
}

fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let policy = Policy { socket: dir.path().join("policy"), users: Vec::new(), ..policy() };
    let board = Arc::new(Board::new(&AccountRules::default()));
    let server = Server::start(&policy, board.clone()).unwrap();
    assert!(server.is_some());
    Served { dir, board, server }
}

/// The defaults.
fn policy() -> Policy {
    mailwarden::config::load_texts(&[]).unwrap().policy
}

impl Served {
    fn path(&self) -> PathBuf {
        self.dir.path().join("policy")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }
}

fn stopped(name: &str, hindrance: Hindrance) -> Stopped {
    let stop = Stop {
        id: 1,
        scope: Scope::Submission,
        since: Timestamp::ZERO,
        until: Timestamp::NEVER,
        jail: "manual".into(),
        reason: "x\naction=OK".into(),
        cause: Cause::Operator,
        evidence: Vec::new(),
    };
    Stopped { name: name.into(), hindrance, stop }
}

fn asked(account: &str) -> String {
    format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.7\nsasl_username={account}\nrecipient=x@example.net\n\n"
    )
}

fn ask(stream: &mut UnixStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    answer(stream)
}

/// Up to the empty line.
fn answer(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\n\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_live_connection_hears_of_each_change_at_once() {
    let served = serve();
    let mut stream = served.connect();
    assert_eq!(ask(&mut stream, asked("anna@example.org").as_bytes()), "action=DUNNO\n\n");
    served.board.publish([stopped("anna@example.org", Hindrance::Locked)].into_iter());
    let refused = format!("action=421 4.7.1 {}\n\n", policy().text);
    assert_eq!(ask(&mut stream, asked("Anna@example.org").as_bytes()), refused);
    served.board.publish([stopped("anna@example.org", Hindrance::Held)].into_iter());
    assert!(ask(&mut stream, asked("anna@example.org").as_bytes()).starts_with("action=HOLD "));
    served.board.publish(std::iter::empty());
    assert_eq!(ask(&mut stream, asked("anna@example.org").as_bytes()), "action=DUNNO\n\n");
}

#[test]
fn whatever_comes_is_answered_with_dunno() {
    let served = serve();
    served.board.publish([stopped("anna@example.org", Hindrance::Locked)].into_iter());
    let mut stream = served.connect();
    let long = [b"request=smtpd_access_policy\nsasl_username=".to_vec(), vec![b'a'; 300_000], b"\n\n".to_vec()].concat();
    for request in
        [&b"\n"[..], b"\0\xff=\xfe\n\n", b"sasl_username=anna@example.org\n\n", b"request=junk\nsasl_username=anna@example.org\n\n", &long]
    {
        assert_eq!(ask(&mut stream, request), "action=DUNNO\n\n");
    }
    // Two at once, cut in the middle.
    let two = asked("anna@example.org").repeat(2);
    let (first, second) = two.split_at(50);
    stream.write_all(first.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(ask(&mut stream, second.as_bytes()).starts_with("action=421 "));
    assert!(answer(&mut stream).starts_with("action=421 "));
}

#[test]
fn who_does_not_read_the_answers_is_cut_off() {
    let served = serve();
    let mut stream = served.connect();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let many = asked("anna@example.org").repeat(1_000);
    let cut = (0..1_000).find_map(|_| stream.write_all(many.as_bytes()).err()).expect("answers without end");
    assert!(matches!(cut.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset), "{cut}");
    assert_eq!(ask(&mut served.connect(), asked("anna").as_bytes()), "action=DUNNO\n\n");
}

#[test]
fn others_get_no_answer_and_the_socket_goes_with_the_server() {
    const ASK: &str = "
import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
peer.connect(sys.argv[1])
try:
    peer.send(b'request=smtpd_access_policy\\n\\n')
    print(peer.recv(100))
except OSError:
    print(b'')
";
    let mut served = serve();
    assert_eq!(std::fs::metadata(served.path()).unwrap().permissions().mode() & 0o777, 0o660);
    if nix::unistd::geteuid().is_root() {
        // The socket's own mode would keep him out; the second line of defence is asked here.
        std::fs::set_permissions(served.path(), std::fs::Permissions::from_mode(0o666)).unwrap();
        let ask =
            |uid: u32| Command::new("/usr/bin/python3").args(["-c", ASK]).arg(served.path()).uid(uid).gid(uid).output().unwrap().stdout;
        assert_eq!(String::from_utf8(ask(65_534)).unwrap().trim(), "b''");
        assert!(String::from_utf8(ask(0)).unwrap().contains("DUNNO"));
    }
    served.server = None;
    assert!(!served.path().exists());
    // Where the directory is missing nobody wants it.
    let policy = Policy { socket: served.dir.path().join("missing/policy"), ..policy() };
    assert!(Server::start(&policy, served.board.clone()).unwrap().is_none());
}

#[test]
fn answers_come_soon_with_many_stopped_and_many_asking() {
    const REQUESTS: usize = 5_000;
    let served = serve();
    let many = || (0..10_000).map(|number| stopped(&format!("user{number}@example.org"), Hindrance::Locked));
    served.board.publish(many());
    let spans = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut stream = served.connect();
                    let each = (0..REQUESTS).map(|number| {
                        let begin = Instant::now();
                        let answer = ask(&mut stream, asked(&format!("user{}@example.org", number * 3)).as_bytes());
                        assert_eq!(answer.starts_with("action=421"), number * 3 < 10_000);
                        begin.elapsed()
                    });
                    each.collect::<Vec<Duration>>()
                })
            })
            .collect();
        (0..20).for_each(|_| served.board.publish(many()));
        askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect::<Vec<_>>()
    });
    let mut spans = spans;
    spans.sort_unstable();
    let at = |share: f64| spans[(spans.len() as f64 * share) as usize];
    println!("{} answers: p50 {:?}, p99 {:?}, longest {:?}", spans.len(), at(0.5), at(0.99), spans[spans.len() - 1]);
    assert!(at(0.99) < Duration::from_millis(100));
}
