//! People are told: the daemon as a process, with a mail server and a web server that note down what they get.

#[expect(dead_code, reason = "not all of it is needed here")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mailwarden::config::{self, Notify};
use mailwarden::engine::decision::{Cause, Subject, Verb};
use mailwarden::engine::jail::Scope;
use mailwarden::notify::{Courier, Notice, Outbox, Settings, Telling, Way};
use mailwarden::time::Timestamp;
use serde_json::Value;
use support::{Host, wait_for};

/// One message as the server took it.
#[derive(Clone, Debug)]
struct Mail {
    from: String,
    to: Vec<String>,
    data: String,
}

impl Mail {
    fn header(&self, name: &str) -> String {
        let (headers, _) = self.data.split_once("\r\n\r\n").unwrap();
        let unfolded = headers.replace("\r\n ", " ");
        let found: Vec<&str> = unfolded.split("\r\n").filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect();
        assert_eq!(found.len(), 1, "{name} in {headers}");
        found[0].to_owned()
    }

    /// Decoded.
    fn body(&self) -> String {
        let (_, body) = self.data.split_once("\r\n\r\n").unwrap();
        match self.header("Content-Transfer-Encoding").as_str() {
            "quoted-printable" => unquote(body),
            "7bit" => body.to_owned(),
            other => panic!("{other}"),
        }
    }
}

fn unquote(text: &str) -> String {
    let joined = text.replace("=\r\n", "");
    let mut bytes = Vec::new();
    let mut rest = joined.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'=' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A mail server that takes everything.
struct Sink {
    address: SocketAddr,
    mails: Arc<Mutex<Vec<Mail>>>,
    /// Refuses every recipient while that is so. Never takes `gone@`, for good, and `full@`, for now.
    is_full: Arc<AtomicBool>,
}

impl Sink {
    fn start() -> Sink {
        Sink::listen(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn listen(listener: TcpListener) -> Sink {
        let sink = Sink { address: listener.local_addr().unwrap(), mails: Arc::default(), is_full: Arc::default() };
        let (mails, is_full) = (sink.mails.clone(), sink.is_full.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (mails, is_full) = (mails.clone(), is_full.clone());
                std::thread::spawn(move || drop(dialog(stream, &mails, &is_full)));
            }
        });
        sink
    }

    fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }

    fn wait(&self, count: usize) -> Vec<Mail> {
        wait_for(&format!("{count} mails"), || self.mails().len() >= count);
        self.mails()
    }
}

fn dialog(stream: TcpStream, mails: &Mutex<Vec<Mail>>, is_full: &AtomicBool) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    out.write_all(b"220 sink ESMTP\r\n")?;
    let mut mail = Mail { from: String::new(), to: Vec::new(), data: String::new() };
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match line.trim_end() {
            "DATA" => {
                out.write_all(b"354 go on\r\n")?;
                loop {
                    let mut line = String::new();
                    lines.read_line(&mut line)?;
                    if line == ".\r\n" {
                        break;
                    }
                    mail.data.push_str(line.strip_prefix('.').unwrap_or(&line));
                }
                mails.lock().unwrap().push(mail.clone());
                "250 taken"
            }
            "QUIT" => "221 bye",
            command if command.starts_with("MAIL FROM:") => {
                mail = Mail { from: command["MAIL FROM:".len()..].to_owned(), to: Vec::new(), data: String::new() };
                "250 ok"
            }
            command if command.starts_with("RCPT TO:") => {
                mail.to.push(command["RCPT TO:".len()..].to_owned());
                match command {
                    _ if is_full.load(Ordering::Relaxed) => "452 no room",
                    _ if command.contains("gone@") => "550 no such user",
                    _ if command.contains("full@") => "452 no room",
                    _ => "250 ok",
                }
            }
            _ => "250 sink",
        };
        out.write_all(format!("{answer}\r\n").as_bytes())?;
    }
}

/// A web server that keeps what is posted and answers with `status`.
struct Web {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Web {
    fn start(status: &'static str) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Web { address: listener.local_addr().unwrap(), posts: Arc::default() };
        let posts = web.posts.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) else { continue };
                let mut body = vec![0; length.parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                posts.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes());
            }
        });
        web
    }

    fn posts(&self) -> Vec<(String, Value)> {
        self.posts.lock().unwrap().clone()
    }
}

/// A daemon without a firewall, but with a directory for the policy socket, so that locks are more than words.
fn host(notify: &str) -> Host {
    let mut host = Host::new("");
    let policy = host.path("policy");
    fs::create_dir(&policy).unwrap();
    let main = host.path("mailwarden.toml");
    let text = fs::read_to_string(&main).unwrap();
    let more = format!("[policy]\nsocket = {:?}\n[notify]\nmail_from = \"warden@mx.example.org\"\n{notify}\n", policy.join("socket"));
    fs::write(&main, format!("{more}{text}")).unwrap();
    host = host.with(&["--dry-run"]);
    host
}

fn to(sink: &Sink) -> String {
    format!("mail_to = \"root@example.org\"\nsmtp = \"{}\"\n", sink.address)
}

/// A free port that nobody listens on.
fn dead_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_jail_trips_and_mail_comes() {
    let sink = Sink::start();
    let host = &mut host(&to(&sink));
    let jail = "[jail.inside]\non = \"auth-success\"\nkey = \"account\"\nmeasure = \"distinct network\"\nlimit = 3\nfindtime = \"1h\"\nthen = [\"alert\", \"lock\"]\n";
    fs::write(host.path("jail.d/inside.toml"), jail).unwrap();
    host.start();
    for n in 1..=3 {
        host.send(format!(
            "<22>Nov 24 02:31:15 postfix/submission/smtpd[4711]: B4ECE9B03E{n}: client=unknown[203.0.{n}.9], sasl_method=PLAIN, sasl_username=anna@example.org"
        ));
    }
    let mut mails = sink.wait(2);
    mails.sort_by_key(|mail| mail.header("Subject"));
    let lock = &mails[1];
    assert!(lock.header("Subject").ends_with(" would be locked: anna@example.org"), "{lock:?}");
    assert!(lock.body().contains("mailwarden unlock anna@example.org"), "{}", lock.body());
    let mail = &mails[0];
    assert_eq!((mail.from.as_str(), &mail.to[..]), ("<>", &["<root@example.org>".to_owned()][..]));
    assert!(mail.header("Subject").ends_with(" alert: anna@example.org"), "{mail:?}");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert_eq!(mail.header("From"), "mailwarden <warden@mx.example.org>");
    let id = mail.header("Message-ID");
    assert!(id.starts_with('<') && id.contains("-alert-mail@"), "{id}");
    let body = mail.body();
    for part in ["3 different networks in logins", "jail inside", "mailwarden lock anna@example.org", "client=unknown[203.0.3.9]"] {
        assert!(body.contains(part), "no {part:?} in {body}");
    }
}

#[test]
fn what_an_operator_does_is_told_too_and_the_rest_is_gathered() {
    let sink = Sink::start();
    let host = &mut host(&format!("{}digest = \"4s\"\n", to(&sink)));
    host.start();
    let begin = Instant::now();
    host.ok(["lock", "anna@example.org"]);
    let mails = sink.wait(1);
    assert!(mails[0].header("Subject").ends_with("would be locked: anna@example.org"), "a dry run does nothing: {mails:?}");
    assert!(mails[0].body().contains("the operator"));
    for name in ["bob@example.org", "carl@example.org", "dora@example.org"] {
        host.ok(["lock", name]);
    }
    let mails = sink.wait(2);
    assert!(begin.elapsed() >= Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(mails.len(), 2);
    let body = mails[1].body();
    assert!(["bob@", "carl@", "dora@"].iter().all(|name| body.contains(name)), "{body}");
}

#[test]
fn a_kill_between_decision_and_mail_loses_nothing_and_doubles_nothing() {
    let address = dead_port();
    let host = &mut host(&format!("mail_to = \"root@example.org\"\nsmtp = \"{address}\"\n"));
    host.start();
    host.ok(["hold", "anna@example.org"]);
    wait_for("the failure is in the log", || host.log().contains("mail to the administrator"));
    host.ok(["lock", "bob@example.org"]);
    host.kill();
    let sink = Sink::listen(TcpListener::bind(address).unwrap());
    host.start();
    let subjects = |sink: &Sink| {
        let mut subjects: Vec<String> = sink.mails().iter().map(|mail| mail.header("Subject")).collect();
        subjects.sort();
        subjects.iter().map(|subject| subject.split_once("] ").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    sink.wait(2);
    let expected = ["mail would be held: anna@example.org", "would be locked: bob@example.org"];
    assert_eq!(subjects(&sink), expected);
    // What was told before the end stays told.
    host.stop();
    host.start();
    host.kill();
    host.start();
    host.ok(["unlock", "bob@example.org"]);
    sink.wait(3);
    assert_eq!(sink.mails().len(), 3, "{:?}", subjects(&sink));
}

#[test]
fn a_dead_server_is_tried_again_and_told_of_once() {
    let sink = Sink::start();
    sink.is_full.store(true, Ordering::Relaxed);
    let host = &mut host(&to(&sink));
    host.start();
    host.ok(["lock", "anna@example.org"]);
    wait_for("the failure is in the log", || host.log().contains("452"));
    // It answers all the same.
    host.ok(["lock", "bob@example.org"]);
    wait_for("status counts both", || host.status()["notify"]["mail"]["waiting"] == 2);
    let mail = host.status()["notify"]["mail"].clone();
    assert!(mail["oldest"].as_str().is_some_and(|oldest| oldest.starts_with("20")), "{mail}");
    assert!(mail["problem"].as_str().is_some_and(|problem| problem.contains("452")), "{mail}");
    let status = host.ok(["status"]);
    assert!(status.contains("notify    mail: 2 messages wait, the oldest of 20") && status.contains("PROBLEM: "), "{status}");
    sink.is_full.store(false, Ordering::Relaxed);
    let mails = sink.wait(1);
    assert!(mails[0].header("Subject").contains("2 ×") || mails[0].header("Subject").contains("=?utf-8?"), "{mails:?}");
    assert!(mails[0].body().contains("anna@") && mails[0].body().contains("bob@"), "{}", mails[0].body());
    wait_for("nothing waits", || host.status()["notify"]["mail"]["waiting"] == 0);
    assert!(!host.ok(["status"]).contains("notify "), "{}", host.ok(["status"]));
    let complaints = host.log().matches("mail to the administrator: 127.0.0.1").count();
    assert_eq!(complaints, 1, "{}", host.log());
    wait_for("the log says that it works again", || host.log().contains("messages go out again"));
}

#[test]
fn a_refused_recipient_does_not_keep_the_others_from_being_told() {
    let sink = Sink::start();
    let smtp = sink.address;
    let host = &mut host(&format!(
        "mail_to = [\"gone@example.org\", \"full@example.org\", \"root@example.org\"]\nsmtp = \"{smtp}\"\ndigest = \"1s\"\n"
    ));
    host.start();
    host.ok(["lock", "anna@example.org"]);
    host.ok(["lock", "bob@example.org"]);
    let mails = sink.wait(2);
    assert!(mails.iter().all(|mail| mail.to == ["<root@example.org>"]), "{mails:?}");
    wait_for("only the one that may still be taken waits", || host.status()["notify"]["mail"]["waiting"] == 2);
    let log = host.log();
    assert_eq!(log.matches("gone@example.org: permanent error (550)").count(), 1, "{log}");
    assert_eq!(log.matches("full@example.org: transient error (452)").count(), 1, "{log}");
    let status = host.ok(["status"]);
    assert!(status.contains("PROBLEM: ") && status.contains("and 1 more"), "{status}");
    // Neither is told again after a restart to those who had it.
    host.stop();
    host.start();
    host.ok(["unlock", "bob@example.org"]);
    sink.wait(3);
    assert_eq!(sink.mails().len(), 3);
}

#[test]
fn the_owner_who_is_not_taken_does_not_hold_up_the_others() {
    let sink = Sink::start();
    let owners = [("anna", "full"), ("bob", "gone"), ("carl", "carl")]
        .map(|(account, contact)| (format!("{account}@example.org"), format!("{contact}@example.net")));
    let smtp = config::Server { host: "127.0.0.1".to_owned(), port: sink.address.port() };
    let config = Notify { owners: owners.clone().into(), smtp, ..Notify::default() };
    let tell = |(account, _): &(String, String)| Telling { id: account.clone(), way: Way::Owner, to: None, notice: locked(account) };
    let outbox = Outbox { waiting: owners.iter().map(tell).collect(), ..Outbox::default() };
    let courier = Courier::start(Way::Owner, Settings::new(&config), outbox, Box::new(|_, _| {}), None).unwrap();
    let mails = sink.wait(1);
    assert_eq!(mails[0].to, ["<carl@example.net>"]);
    wait_for("the refused one is over", || courier.view().waiting == 1);
}

fn locked(account: &str) -> Notice {
    Notice {
        id: 7,
        time: 1_795_500_000_000_000,
        verb: Verb::Lock,
        subject: Subject::Account(account.to_owned()),
        scope: Scope::Submission,
        until: i64::MAX,
        jail: "risk".to_owned(),
        reason: "score 112: 41 recipients".to_owned(),
        cause: Cause::Engine,
        observed: false,
        in_force: true,
        evidence: vec!["a line of the log".to_owned()],
        places: Vec::new(),
        recipients: 41,
    }
}

#[test]
fn the_owner_is_told_at_the_other_address() {
    let sink = Sink::start();
    let owners = [("anna@example.org".to_owned(), "anna.private@example.net".to_owned())].into();
    let smtp = config::Server { host: "127.0.0.1".to_owned(), port: sink.address.port() };
    let config = Notify { owners, smtp, ..Notify::default() };
    let tell = |account: &str| Telling { id: format!("7-lock-owner-{account}"), way: Way::Owner, to: None, notice: locked(account) };
    // Bob is not on the list: perhaps he was when that was decided.
    let outbox = Outbox { waiting: vec![tell("bob@example.org"), tell("anna@example.org")], ..Outbox::default() };
    let (done, over) = channel();
    let done = Box::new(move |ids: Vec<String>, _| drop(done.send(ids)));
    let _courier = Courier::start(Way::Owner, Settings::new(&config), outbox, done, None).unwrap();
    for _ in 0..2 {
        over.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    let mails = sink.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert_eq!((mails[0].from.as_str(), &mails[0].to[..]), ("<>", &["<anna.private@example.net>".to_owned()][..]));
    let body = mails[0].body();
    assert!(body.contains("The mailbox anna@example.org"), "{body}");
    assert!(!body.contains("score") && !body.contains("a line of the log"), "{body}");
}

#[test]
fn the_bans_of_yesterday_are_counted_once() {
    let sink = Sink::start();
    let smtp = config::Server { host: "127.0.0.1".to_owned(), port: sink.address.port() };
    let config = Notify { mail_to: vec!["root@example.org".to_owned()], bans: true, smtp, ..Notify::default() };
    let start = |outbox: Outbox| {
        let (done, over) = channel();
        let done = Box::new(move |ids: Vec<String>, _| drop(done.send(ids)));
        let bans = Box::new(|begin: Timestamp, end: Timestamp| {
            assert_eq!(end.since(begin), Duration::from_secs(86_400));
            vec![("logins".to_owned(), 1_200), ("relay".to_owned(), 34)]
        });
        (Courier::start(Way::Mail, Settings::new(&config), outbox, done, Some(bans)).unwrap(), over)
    };
    let rest = |courier: &Courier| {
        let (rested, receiver) = channel();
        courier.rest(rested);
        receiver.recv_timeout(Duration::from_secs(20)).unwrap();
    };
    let (courier, over) = start(Outbox::default());
    rest(&courier);
    let told = over.try_recv().unwrap();
    assert!(told[0].starts_with("bans-20"), "{told:?}");
    let mails = sink.mails();
    assert!(mails[0].header("Subject").contains("1234 bans on 20"), "{mails:?}");
    assert!(mails[0].body().contains("    1200  logins\r\n"), "{}", mails[0].body());
    // Over a restart.
    let (courier, over) = start(Outbox { told, ..Outbox::default() });
    rest(&courier);
    assert!(over.try_recv().is_err());
    assert_eq!(sink.mails().len(), 1);
}

#[test]
fn the_webhook_gets_each_decision_once() {
    let web = Web::start("204 No Content");
    let host = &mut host(&format!("webhook = \"http://{}/hook\"\n", web.address));
    host.start();
    host.ok(["lock", "anna@example.org", "--reason", "called by telephone"]);
    host.ok(["unlock", "anna@example.org"]);
    wait_for("two posts", || web.posts().len() == 2);
    host.stop();
    host.start();
    host.ok(["hold", "bob@example.org"]);
    wait_for("three posts", || web.posts().len() >= 3);
    let posts = web.posts();
    let told: Vec<(&str, &str)> =
        posts.iter().map(|(_, post)| (post["action"].as_str().unwrap(), post["account"].as_str().unwrap())).collect();
    assert_eq!(told, [("lock", "anna@example.org"), ("unlock", "anna@example.org"), ("hold", "bob@example.org")]);
    let (head, post) = &posts[0];
    assert!(head.starts_with("post /hook http/1.1\r\n") && head.contains("content-type: application/json"), "{head}");
    assert_eq!(post["reason"], "called by telephone");
    assert_eq!(post["cause"], "operator");
    assert_eq!(post["in_force"], false);
}

#[test]
fn a_webhook_that_fails_is_tried_three_times() {
    let web = Web::start("500 No");
    let host = &mut host(&format!("webhook = \"http://{}/hook\"\n", web.address));
    host.start();
    host.ok(["lock", "anna@example.org"]);
    wait_for("three tries", || web.posts().len() == 3);
    assert!(web.posts().iter().all(|(_, post)| post["account"] == "anna@example.org"));
    host.stop();
    host.start();
    host.ok(["lock", "bob@example.org"]);
    wait_for("the next one", || web.posts().len() > 3);
    assert_eq!(web.posts()[3].1["account"], "bob@example.org", "what was given up is not tried after a restart");
    wait_for("a line in the log for each run", || host.log().matches("the webhook answers 500").count() == 2);
}
