//! The real Postfix, Dovecot and rsyslog of Debian in network namespaces, with attackers and customers around them.
//! `scripts/install-test-deps` installs what is needed; without it, or without root, the tests say SKIPPED.

#[path = "real_host/accounts.rs"]
mod accounts;
#[path = "real_host/dialog.rs"]
mod dialog;
#[path = "real_host/forgery.rs"]
mod forgery;
#[path = "real_host/isolation.rs"]
mod isolation;
#[path = "real_host/network.rs"]
mod network;
#[path = "real_host/site.rs"]
mod site;
#[path = "real_host/theft.rs"]
mod theft;
#[path = "real_host/warden.rs"]
mod warden;

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use std::{fs, thread};

use dialog::Dialog;
use isolation::isolated;
use jiff::tz::TimeZone;
use mailwarden::parse::EnvelopeReader;
use mailwarden::time::Timestamp;
use network::{Client, MAIL_HOST, Namespace};
use site::{Layout, NOBODY, SYSLOG_SOCKET, Site};
use warden::Warden;

const ANNA: (&str, &str) = ("anna@example.test", "correct horse");

#[test]
fn lines_arrive_with_the_uid_that_the_kernel_vouches_for() {
    isolated("lines_arrive_with_the_uid_that_the_kernel_vouches_for", || receive_lines(Layout::Host));
}

#[test]
fn lines_of_a_container_name_the_client() {
    isolated("lines_of_a_container_name_the_client", || receive_lines(Layout::Container));
}

fn receive_lines(layout: Layout) {
    let (site, socket) = Site::start(layout, |_| UnixDatagram::bind(SYSLOG_SOCKET).unwrap());
    let attacker = site.client("attacker", 66);
    misbehave_in_every_way(&attacker);
    let traces = [attacker.v4, attacker.v6].map(|address| {
        [
            format!("warning: unknown[{address}]: SASL PLAIN authentication failed: "),
            format!("RCPT from unknown[{address}]: 554 5.7.1 <victim@example.org>: Relay access denied; "),
            format!("RCPT from unknown[{address}]: 550 5.1.1 <nobody@example.test>: Recipient address rejected: "),
            format!("user=<anna@example.test>, method=PLAIN, rip={address}, "),
            format!("client=unknown[{address}], sasl_method=PLAIN, sasl_username=anna@example.test"),
        ]
    });
    let postfix = nix::unistd::User::from_name("postfix").unwrap().unwrap().uid.as_raw();
    for line in receive_until_seen(&socket, traces.as_flattened()) {
        assert!(matches!(vouched_uid(&line), Some(uid) if uid == 0 || uid == postfix), "{line}");
    }
}

#[test]
fn no_forged_line_gets_a_better_uid_than_its_forger() {
    isolated("no_forged_line_gets_a_better_uid_than_its_forger", || {
        let (_site, socket) = Site::start(Layout::Host, |_| UnixDatagram::bind(SYSLOG_SOCKET).unwrap());
        site::send_as(NOBODY, "/dev/log", &forgery::datagrams("198.51.100.20"));
        site::send_as(NOBODY, "/dev/log", &["<22>Nov 24 02:31:15 logger: that was all".into()]);
        let lines = receive_until_seen(&socket, &["that was all".into()]);
        let forged: Vec<&String> = lines.iter().filter(|line| line.contains("198.51.100.20")).collect();
        assert!(forged.len() >= 30, "only {} forged lines arrived", forged.len());
        for line in forged {
            assert!(matches!(vouched_uid(line), None | Some(NOBODY)), "{line:?}");
        }
    });
}

#[test]
fn guessers_are_banned_and_customers_are_not() {
    isolated("guessers_are_banned_and_customers_are_not", || ban_guessers(Layout::Host));
}

#[test]
fn guessers_are_banned_before_a_container() {
    isolated("guessers_are_banned_before_a_container", || ban_guessers(Layout::Container));
}

/// Password guessing by SMTP and by IMAP, from IPv4 and from IPv6, while a customer is at work.
fn ban_guessers(layout: Layout) {
    let (site, warden) = Site::start(layout, Warden::start);
    let attacker = site.client("attacker", 66);
    let customer = site.client("customer", 20);
    let at_work = MAIL_HOST.map(|server| log_in(&customer, server));
    for (server, address, way) in [(MAIL_HOST[0], attacker.v4, Way::Smtp), (MAIL_HOST[1], attacker.v6, Way::Imap)] {
        let mut held = Dialog::smtp(&attacker, server, 587).unwrap();
        guess(&attacker, server, way, 8);
        assert_eq!(warden.scope_of_ban(address), "auth");
        let attacker = &attacker;
        thread::scope(|scope| {
            scope.spawn(|| assert!(held.is_dead(), "{address} is banned and its open connection lives"));
            for port in [587, 143, 110] {
                scope.spawn(move || {
                    assert!(Dialog::open(attacker, server, port).is_err(), "{address} is banned and reaches port {port}");
                });
            }
        });
    }
    let third = site.client("third", 69);
    guess(&third, MAIL_HOST[0], Way::Pop, 8);
    assert_eq!(warden.scope_of_ban(third.v4), "auth");
    assert_eq!(warden.banned().len(), 3, "{:?}", warden.banned());
    for mut dialog in at_work {
        dialog.mail(ANNA.0, "boss@example.test").unwrap();
    }
    for server in MAIL_HOST {
        log_in(&customer, server);
    }

    for (server, address) in MAIL_HOST.into_iter().zip([attacker.v4, attacker.v6]) {
        let banned = warden.banned().into_iter().find(|net| net.contains(address)).unwrap();
        warden.ask(&["unban", &banned.to_string()]);
        assert!(Dialog::smtp(&attacker, server, 587).is_ok(), "{address} is unbanned and does not get in");
    }
    assert_eq!(warden.banned().len(), 1, "{:?}", warden.banned());
}

#[test]
fn relay_attempts_and_harvesting_close_port_25_only() {
    isolated("relay_attempts_and_harvesting_close_port_25_only", || {
        let (site, warden) = Site::start(Layout::Host, Warden::start);
        let server = MAIL_HOST[0];
        let (relayer, harvester, sender) = (site.client("relayer", 67), site.client("harvester", 68), site.client("sender", 21));
        try_recipients(&relayer, 4, |number| format!("victim{number}@example.org"));
        try_recipients(&harvester, 24, |number| format!("guess{number}@example.test"));
        for client in [&relayer, &harvester] {
            assert_eq!(warden.scope_of_ban(client.v4), "mx");
            assert!(Dialog::open(client, server, 25).is_err(), "{} is banned and reaches port 25", client.v4);
            // A person behind the same address still reads mail.
            log_in(client, server);
        }
        Dialog::smtp(&sender, server, 25).unwrap().mail("friend@example.org", ANNA.0).unwrap();
        assert_eq!(warden.banned().len(), 2, "{:?}", warden.banned());
    });
}

#[test]
fn mail_goes_on_while_the_daemon_hangs() {
    isolated("mail_goes_on_while_the_daemon_hangs", || {
        const MAILS: usize = 1000;
        let (site, warden) = Site::start(Layout::Host, Warden::start);
        let sender = site.client("sender", 21);
        let attacker = site.client("attacker", 66);
        warden.hang();
        // More lines than rsyslog's queue for mailwarden holds.
        let started = Instant::now();
        let mut dialog = Dialog::smtp(&sender, MAIL_HOST[0], 25).unwrap();
        for _ in 0..MAILS {
            dialog.mail("friend@example.org", ANNA.0).unwrap();
        }
        assert!(poll(Duration::from_secs(20), || site::delivered("anna") == MAILS), "{} delivered", site::delivered("anna"));
        log_in(&sender, MAIL_HOST[0]);
        println!("{MAILS} mails in {:?} with the daemon stopped", started.elapsed());
        warden.go_on();
        guess(&attacker, MAIL_HOST[0], Way::Smtp, 8);
        assert_eq!(warden.scope_of_ban(attacker.v4), "auth");
        assert_eq!(warden.banned().len(), 1, "{:?}", warden.banned());
    });
}

#[test]
fn forged_lines_ban_nobody_and_are_counted() {
    isolated("forged_lines_ban_nobody_and_are_counted", || believe_no_forgery(Warden::start));
}

#[test]
fn forged_lines_ban_nobody_where_all_must_be_annotated() {
    isolated("forged_lines_ban_nobody_where_all_must_be_annotated", || believe_no_forgery(Warden::start_annotated));
}

fn believe_no_forgery(start: impl FnOnce(&Namespace) -> Warden) {
    let (site, warden) = Site::start(Layout::Host, start);
    let (customer, attacker) = (site.client("customer", 20), site.client("attacker", 66));
    // Each of them often enough for a ban, if it alone were believed.
    let forged = vec![forgery::datagrams(&customer.v4.to_string()); 8].concat();
    // The socket's own mode would keep them out; the second line of defence is asked here.
    fs::set_permissions(SYSLOG_SOCKET, fs::Permissions::from_mode(0o666)).unwrap();
    for socket in ["/dev/log", SYSLOG_SOCKET] {
        site::send_as(NOBODY, socket, &forged);
    }
    // The same from root is believed, or this test would prove nothing.
    site::send_as(0, "/dev/log", &vec![forgery::datagrams("198.51.100.70").swap_remove(0); 8]);
    warden.scope_of_ban([198, 51, 100, 70].into());
    // They have all been looked at when those of a real attacker behind them have had their effect.
    guess(&attacker, MAIL_HOST[0], Way::Smtp, 8);
    warden.scope_of_ban(attacker.v4);
    assert!(warden.banned().iter().all(|net| !net.contains(customer.v4)), "{:?}", warden.banned());
    log_in(&customer, MAIL_HOST[0]);
    let status = warden.ask(&["status"]);
    let counted = status[0]["engine"]["forged"].as_array().into_iter().flatten();
    let lines: u64 = counted.map(|filter| filter["lines"].as_u64().unwrap()).sum();
    assert!(lines >= 40, "{status:#?}");
}

#[derive(Clone, Copy)]
enum Way {
    Smtp,
    Imap,
    Pop,
}

/// Tries `count` passwords at once, each on a connection of its own. A ban may cut some of them off.
fn guess(client: &Client, server: IpAddr, way: Way, count: usize) {
    thread::scope(|scope| {
        for number in 0..count {
            scope.spawn(move || {
                let password = format!("guess {number}");
                match way {
                    Way::Smtp => Dialog::smtp(client, server, 587)?.smtp_login(ANNA.0, &password),
                    Way::Imap => Dialog::imap(client, server)?.imap_login(ANNA.0, &password),
                    Way::Pop => Dialog::pop_login(client, server, ANNA.0, &password),
                }
            });
        }
    });
}

/// Offers mail for recipients that are refused.
fn try_recipients(client: &Client, count: usize, recipient: impl Fn(usize) -> String) {
    for number in 0..count {
        let attempt = || {
            let mut dialog = Dialog::smtp(client, MAIL_HOST[0], 25)?;
            dialog.command("MAIL FROM:<spam@example.org>")?;
            dialog.command(&format!("RCPT TO:<{}>", recipient(number)))
        };
        match attempt() {
            Ok(code) => assert!(code >= 500, "{code}"),
            // Banned by now.
            Err(_) => break,
        }
    }
}

/// A customer's session on the submission port, after a look into the mailbox.
fn log_in(client: &Client, server: IpAddr) -> Dialog {
    assert!(Dialog::imap(client, server).unwrap().imap_login(ANNA.0, ANNA.1).unwrap());
    let mut submission = Dialog::smtp(client, server, 587).unwrap();
    assert!(submission.smtp_login(ANNA.0, ANNA.1).unwrap());
    submission
}

/// Asks until the answer is yes or the time is over.
fn poll(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// One of each, by either family: a wrong password, a right one, a relay attempt, an unknown recipient.
fn misbehave_in_every_way(client: &Client) {
    for server in MAIL_HOST {
        let mut submission = Dialog::smtp(client, server, 587).unwrap();
        assert!(!submission.smtp_login(ANNA.0, "guess").unwrap());
        assert!(submission.smtp_login(ANNA.0, ANNA.1).unwrap());
        submission.mail(ANNA.0, "boss@example.test").unwrap();
        assert!(!Dialog::imap(client, server).unwrap().imap_login(ANNA.0, "guess").unwrap());
        let mut exchange = Dialog::smtp(client, server, 25).unwrap();
        assert_eq!(exchange.command("MAIL FROM:<spam@example.org>").unwrap(), 250);
        assert_eq!(exchange.command("RCPT TO:<victim@example.org>").unwrap(), 554);
        assert_eq!(exchange.command("RCPT TO:<nobody@example.test>").unwrap(), 550);
    }
}

/// The lines up to the one by which each of `traces` has been seen.
fn receive_until_seen(socket: &UnixDatagram, traces: &[String]) -> Vec<String> {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut missing: Vec<&String> = traces.iter().collect();
    let mut lines = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while !missing.is_empty() {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}; no line has {missing:?}"));
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        missing.retain(|trace| !line.contains(*trace));
        lines.push(line);
    }
    lines
}

/// The uid that mailwarden reads from a line of rsyslog's.
fn vouched_uid(line: &str) -> Option<u32> {
    let now = Timestamp::ZERO;
    EnvelopeReader::new(TimeZone::UTC, now, true).read(line.as_bytes(), Some(now))?.sender_uid
}
