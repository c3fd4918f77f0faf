//! A stolen account on the real mail host, from the first message of the thief to the last one that is let go again: the engine
//! notices, stops, tells; the operator undoes.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

use mailwarden::time::Timestamp;
use serde_json::Value;

use crate::accounts::{BOSS, Host, RECIPES, add, attempt, change, queued, submit};
use crate::dialog::Dialog;
use crate::isolation::isolated;
use crate::network::{Client, MAIL_HOST};
use crate::site::ROOT;
use crate::warden::Warden;
use crate::{ANNA, poll};

/// The last byte of 198.51.100.x, where the owner is at home: in France, as the database of the tests has it.
const HOME: u8 = 20;
/// The thief's, in Germany.
const ABROAD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const EXCHANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 25);
const RECIPIENTS_PER_MESSAGE: usize = 12;
/// More than the thief gets out: five messages.
const REACHED_MAX: usize = 60;
const DAYS_OF_HISTORY: i64 = 10;
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_stolen_account_is_stopped_by_the_engine_and_given_back() {
    isolated("theft::a_stolen_account_is_stopped_by_the_engine_and_given_back", || {
        let database = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/geo/city.mmdb");
        let settings = format!(
            "[state]\ndir = \"{ROOT}/state\"\n[risk]\nlearning = \"0s\"\nlock_full = true\n\
             [notify]\nmail_to = [\"{}\"]\n[geo]\ndatabase = [{database:?}]\nembedded = false\n",
            BOSS.0
        );
        let host = Host::start_prepared(Some(RECIPES), &settings, || {
            add("main.cf", "enable_long_queue_ids = yes\n");
            change("main.cf", |text| text.replace("error:this host sends nothing", &format!("smtp:[{EXCHANGER}]:25")));
            let log = format!("{ROOT}/old.log");
            fs::write(&log, ordinary_days()).unwrap();
            Warden::learn(Path::new(&log));
        });
        let far_away = Client::at(&host.site.host, "exchanger", EXCHANGER, 0xd25);
        let exchanger = Exchanger::start(&far_away);
        let (owner, thief) = (host.client(HOME), Client::at(&host.site.host, "thief", ABROAD, 0xd66));

        let mut at_home = submit(&owner, ANNA);
        at_home.mail(ANNA.0, "friend@far.example").unwrap();
        assert!(poll(PATIENCE, || exchanger.accepted() == 1), "ordinary mail does not arrive");
        assert!(stops(&host).is_empty());

        spam_until_refused(&host, &exchanger, &thief);
        assert_stopped(&host, &mut at_home, &owner, &thief);
        assert_told(&host);
        // What was being delivered at the moment of the lock is.
        assert!(poll(PATIENCE, || exchanger.is_idle()));
        let reached = exchanger.accepted();
        println!("{reached} recipients reached");
        assert!(reached <= REACHED_MAX, "the thief reached {reached} recipients");

        give_back(&host, &exchanger, &owner, reached);
    });
}

/// The thief sends in one session, message after message, as fast as the other server takes them.
fn spam_until_refused(host: &Host, exchanger: &Exchanger, thief: &Client) {
    let mut live = submit(thief, ANNA);
    let mut messages = 0;
    let started = Instant::now();
    let answer = loop {
        let answer = spam(&mut live, messages * RECIPIENTS_PER_MESSAGE);
        if !matches!(answer, Ok(250)) {
            break answer;
        }
        messages += 1;
        assert!(messages < 40, "nobody stops the thief: {:?}", host.warden().ask(&["why", ANNA.0]));
        let asked = messages * RECIPIENTS_PER_MESSAGE;
        assert!(poll(PATIENCE, || exchanger.asked() > asked || !stops(host).is_empty()), "{:?}", host.warden().ask(&["why", ANNA.0]));
    };
    println!("after {messages} messages and {:?} the thief's session got {answer:?}", started.elapsed());
    // Refused by Postfix, or cut off by the ban of its address, whichever is first.
    assert!(matches!(answer, Ok(421) | Err(_)), "{answer:?}");
    assert!(live.is_dead());
}

/// Everything that stops an account does, and hits nobody else.
fn assert_stopped(host: &Host, at_home: &mut Dialog, owner: &Client, thief: &Client) {
    let lock = stops(host).into_iter().find(|stop| stop["verb"] == "lock").unwrap_or_else(|| panic!("not locked: {:?}", stops(host)));
    assert_eq!((&lock["account"], &lock["jail"], &lock["in_force"]), (&ANNA.0.into(), &"risk".into(), &true.into()), "{lock:#}");
    let reason = lock["reason"].as_str().unwrap();
    assert!(reason.starts_with("score 1") && reason.contains("new to the account"), "{reason}");

    // An open session of the account, from an address that is not banned.
    assert_eq!(attempt(at_home, ANNA.0, "friend@far.example"), 421);
    assert!(at_home.is_dead());
    assert!(poll(PATIENCE, || !reads(owner) && !submits(owner)), "Dovecot lets the locked account in");
    assert!(poll(PATIENCE, || queued("hold") >= 1 && queued("deferred") + queued("active") == 0), "{}", queue());
    assert!(queue().lines().any(|line| line.contains('!') && line.contains(ANNA.0)), "{}", queue());

    let kernel = host.site.host.within(|| Command::new("nft").args(["list", "ruleset"]).output().unwrap());
    let kernel = String::from_utf8(kernel.stdout).unwrap();
    assert!(kernel.contains(&thief.v4.to_string()) && !kernel.contains(&owner.v4.to_string()), "{kernel}");
    assert_eq!(host.warden().scope_of_ban(thief.v4), "auth");
    assert_eq!(host.warden().banned().len(), 1, "{:?}", host.warden().banned());
    assert!(Dialog::open(thief, MAIL_HOST[0], 587).is_err(), "the thief reaches the submission port");
    let mut from_elsewhere = Dialog::imap(thief, MAIL_HOST[1]).unwrap();
    assert!(!from_elsewhere.imap_login(ANNA.0, ANNA.1).unwrap(), "the thief gets in from an address that nobody knows");
    submit(owner, BOSS).mail(BOSS.0, BOSS.0).unwrap();
}

/// The administrator has read it, and finds the rest of the story.
fn assert_told(host: &Host) {
    let is_told = || mail_of_boss().iter().any(|mail| mail.contains(&format!(" locked: {}", ANNA.0)));
    assert!(poll(PATIENCE, is_told), "{:?}", mail_of_boss());
    let mail = mail_of_boss().into_iter().find(|mail| mail.contains(&format!(" locked: {}", ANNA.0))).unwrap();
    let unlock = format!("mailwarden unlock {}", ANNA.0);
    let release = format!("mailwarden release {}", ANNA.0);
    for part in [unlock.as_str(), &release, "jail risk", "no login works", "192.0.2.66 (DE)"] {
        assert!(mail.contains(part), "no {part:?} in\n{mail}");
    }

    let why = host.warden().ask(&["why", ANNA.0]).swap_remove(0);
    let account = &why["account"];
    let signs: Vec<&str> = account["signs"].as_array().unwrap().iter().map(|sign| sign["jail"].as_str().unwrap()).collect();
    for jail in ["new-country", "sending-from-new-country", "outbound-from-new-country", "bounces-from-new-place"] {
        assert!(signs.contains(&jail), "no {jail} in {why:#}");
    }
    assert_eq!((&account["state"], &account["strangers"][0]), (&"locked".into(), &ABROAD.to_string().into()), "{why:#}");
    assert!(account["countries"].as_array().unwrap().iter().any(|place| place["country"] == "FR"), "{why:#}");
}

/// `unlock` and `release` bring back what was there before.
fn give_back(host: &Host, exchanger: &Exchanger, owner: &Client, reached: usize) {
    host.warden().ask(&["unlock", ANNA.0]);
    assert!(poll(PATIENCE, || reads(owner) && submits(owner)), "the unlock did not reach Dovecot");
    let on_hold = queued("hold");
    assert!(on_hold >= 1, "an unlock lets no mail go");
    // Messages that were refused count for nothing.
    let left = stops(host);
    assert_eq!((left.len(), &left[0]["verb"], &left[0]["parked"]), (1, &"parked".into(), &on_hold.into()), "{left:?}");
    assert_eq!(exchanger.accepted(), reached, "mail on hold went out");

    host.warden().ask(&["release", ANNA.0]);
    let is_out = || exchanger.accepted() > reached && queue().contains("Mail queue is empty");
    assert!(poll(PATIENCE, is_out), "{} recipients reached, {}", exchanger.accepted(), queue());
    assert!(poll(PATIENCE, || stops(host).is_empty()), "{:?}", stops(host));

    let before = exchanger.accepted();
    let mut again = submit(owner, ANNA);
    again.mail(ANNA.0, "friend@far.example").unwrap();
    again.mail(ANNA.0, BOSS.0).unwrap();
    let from_owner = format!("Return-Path: <{}>", ANNA.0);
    let has_arrived = || exchanger.accepted() == before + 1 && mail_of_boss().iter().any(|mail| mail.contains(&from_owner));
    assert!(poll(PATIENCE, has_arrived), "{}", queue());
    // The owner has been refused for a while, and is not banned for it; the ban that came with the lock went with it.
    assert_eq!((queued("hold"), host.warden().banned().len()), (0, 0), "{:?}", host.warden().banned());
}

/// One message to twelve people out there, from the number on.
fn spam(live: &mut Dialog, number: usize) -> io::Result<u16> {
    let mut last = live.command(&format!("MAIL FROM:<{}>", ANNA.0))?;
    for number in number..number + RECIPIENTS_PER_MESSAGE {
        if last >= 400 {
            return Ok(last);
        }
        last = live.command(&format!("RCPT TO:<victim{number}@far.example>"))?;
    }
    for command in ["DATA", "Subject: You have won\r\n\r\nSend money.\r\n."] {
        if last >= 400 {
            break;
        }
        last = live.command(command)?;
    }
    Ok(last)
}

fn stops(host: &Host) -> Vec<Value> {
    host.warden().ask(&["list", "locks"])
}

fn reads(client: &Client) -> bool {
    Dialog::imap(client, MAIL_HOST[0]).unwrap().imap_login(ANNA.0, ANNA.1).unwrap()
}

fn submits(client: &Client) -> bool {
    Dialog::smtp(client, MAIL_HOST[0], 587).unwrap().smtp_login(ANNA.0, ANNA.1).unwrap()
}

/// As an administrator sees it: `!` behind the queue id is a message on hold.
fn queue() -> String {
    let output = Command::new("/usr/sbin/postqueue").args(["-c", "/run/site/etc", "-p"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn mail_of_boss() -> Vec<String> {
    let entries = fs::read_dir(format!("{ROOT}/mail/example.test/boss/new")).into_iter().flatten();
    entries.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

/// The log of a life before the theft: three times a day the owner looks into the mailbox and writes to somebody.
fn ordinary_days() -> String {
    const HOUR: i64 = 3_600;
    let today = Timestamp::from(SystemTime::now()).seconds();
    let mut log = String::new();
    for day in (1..=DAYS_OF_HISTORY).rev() {
        for (round, hour) in [0, 3, 6].into_iter().enumerate() {
            let at = today - day * 24 * HOUR + hour * HOUR;
            let (stamp, ip, account) = (Timestamp::from_seconds(at).rfc3339(), format!("198.51.100.{HOME}"), ANNA.0);
            let id = format!("4{:09}z{round}", at.rem_euclid(1_000_000_000));
            for line in [
                format!("dovecot: imap-login: Login: user=<{account}>, method=PLAIN, rip={ip}, lip=192.0.2.25, mpid=7, session=<s{id}>"),
                format!("postfix/submission/smtpd[11]: {id}: client=home.example[{ip}], sasl_method=PLAIN, sasl_username={account}"),
                format!("postfix/cleanup[12]: {id}: message-id=<{id}@example.test>"),
                format!("postfix/qmgr[13]: {id}: from=<{account}>, size=800, nrcpt=1 (queue active)"),
                format!(
                    "postfix/smtp[14]: {id}: to=<friend@far.example>, relay={EXCHANGER}[{EXCHANGER}]:25, delay=0.4, delays=0.1/0/0.1/0.2, dsn=2.0.0, status=sent (250 2.0.0 Ok)"
                ),
                format!("postfix/qmgr[13]: {id}: removed"),
            ] {
                writeln!(log, "{stamp} mail {line}").unwrap();
            }
        }
    }
    log
}

/// Somebody else's mail server. Of the victims it knows seven in ten, and one of those it takes at the second try only.
struct Exchanger {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    asked: usize,
    accepted: usize,
    /// Conversations that are going on.
    open: usize,
    greylisted: Vec<String>,
}

impl Exchanger {
    /// It answers as slowly as servers do that are not next door.
    const DISTANCE: Duration = Duration::from_millis(50);

    fn start(client: &Client) -> Exchanger {
        let listener = client.namespace.within(|| TcpListener::bind((EXCHANGER, 25)).unwrap());
        let heard = Arc::<Mutex<Heard>>::default();
        let for_all = heard.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let heard = for_all.clone();
                thread::spawn(move || {
                    heard.lock().unwrap().open += 1;
                    let _ = converse(connection, &heard);
                    heard.lock().unwrap().open -= 1;
                });
            }
        });
        Exchanger { heard }
    }

    /// Recipients that it was asked about, and has answered.
    fn asked(&self) -> usize {
        self.heard.lock().unwrap().asked
    }

    fn is_idle(&self) -> bool {
        self.heard.lock().unwrap().open == 0
    }

    /// Recipients whose mail it has taken.
    fn accepted(&self) -> usize {
        self.heard.lock().unwrap().accepted
    }
}

fn converse(connection: TcpStream, heard: &Mutex<Heard>) -> io::Result<()> {
    let mut lines = BufReader::new(connection);
    lines.get_mut().write_all(b"220 mx.far.example ESMTP\r\n")?;
    let (mut line, mut taken, mut is_in_data) = (String::new(), 0, false);
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let command = line.trim_end();
        let answer = if is_in_data {
            if command != "." {
                continue;
            }
            is_in_data = false;
            heard.lock().unwrap().accepted += std::mem::take(&mut taken);
            "250 2.0.0 Ok"
        } else if let Some(recipient) = command.strip_prefix("RCPT TO:") {
            thread::sleep(Exchanger::DISTANCE);
            let answer = heard.lock().unwrap().answer(recipient);
            taken += usize::from(answer.starts_with("250"));
            answer
        } else if command == "DATA" {
            is_in_data = true;
            "354 Go ahead"
        } else {
            "250 2.0.0 Ok"
        };
        lines.get_mut().write_all(format!("{answer}\r\n").as_bytes())?;
        if command == "QUIT" {
            return Ok(());
        }
    }
}

impl Heard {
    fn answer(&mut self, recipient: &str) -> &'static str {
        self.asked += 1;
        let last_digit = recipient.split_once('@').and_then(|(name, _)| name.chars().last());
        match last_digit {
            Some('1' | '4' | '7') => "550 5.1.1 User unknown",
            Some('9') if !self.greylisted.iter().any(|known| known == recipient) => {
                self.greylisted.push(recipient.to_owned());
                "450 4.2.0 Greylisted, come again"
            }
            _ => "250 2.1.5 Ok",
        }
    }
}
