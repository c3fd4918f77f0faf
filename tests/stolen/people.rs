//! Who lives here: people of all habits, web sites, and other servers. None of what they do is anybody's theft.

use std::net::IpAddr;

use crate::dice::Dice;
use crate::globe;
use crate::log::{Answer, DAY, HOUR, Log, MINUTE, Recipients, SECOND, START, correspondent, strangers};

pub const DAYS: i64 = 14;
pub const WEB_SHOP: u32 = 1_001;
pub const VMAIL: u32 = 5_000;

pub fn is_workday(day: i64) -> bool {
    day.rem_euclid(7) < 5
}

pub fn midnight(day: i64) -> i64 {
    START + day * DAY
}

/// Whoever works at a desk: a mailbox that is looked into, and mail to a few people.
pub struct Clerk<'a> {
    pub account: &'a str,
    pub office: IpAddr,
    pub home: IpAddr,
}

impl Clerk<'_> {
    pub fn days(&self, log: &mut Log, days: impl Iterator<Item = i64>) {
        for day in days {
            self.day(log, day);
        }
    }

    pub fn day(&self, log: &mut Log, day: i64) {
        if is_workday(day) {
            let begin = midnight(day) + 8 * HOUR + log.dice.between(0, HOUR);
            for hour in 0..9 {
                log.imap(begin + hour * HOUR, self.office, self.account);
            }
            for _ in 0..log.dice.between(2, 7) {
                let at = begin + log.dice.between(0, 8 * HOUR);
                write(log, at, self.office, self.account);
            }
        }
        let evening = midnight(day) + 19 * HOUR + log.dice.between(0, 2 * HOUR);
        log.imap(evening, self.home, self.account);
        if log.dice.percent(30) {
            write(log, evening + 10 * MINUTE, self.home, self.account);
        }
    }
}

/// A message as people write them: to one, to some, now and then to a whole club.
pub fn write(log: &mut Log, at: i64, ip: IpAddr, account: &str) {
    let count = match log.dice.below(60) {
        0 => log.dice.between(15, 45),
        1..10 => log.dice.between(2, 6),
        _ => 1,
    };
    let recipients = strangers(&mut log.dice, count as usize, 1, 0);
    log.mail(at, ip, account, recipients);
}

/// `count` messages of `size` recipients each.
pub fn mailing(dice: &mut Dice, count: usize, size: usize, unknown: u64, spam: u64) -> Vec<Recipients> {
    (0..count).map(|_| strangers(dice, size, unknown, spam)).collect()
}

pub fn everybody(log: &mut Log) {
    offices(log);
    behind_one_address(log);
    travellers(log);
    vpn_users(log);
    newsletter(log, "news@verein.example", 0..DAYS);
    invoices(log);
    mailing_list(log);
    shop(log);
    redirects(log);
    old_phone(log, "phone@praxis.example", 3..11);
    forgetful(log);
}

/// Two offices, a line each, and everybody has another one at home.
fn offices(log: &mut Log) {
    for number in 0..8u8 {
        let account = format!("desk{number}@praxis.example");
        let office = globe::line("DE", 10 + number % 2, 100);
        let home = globe::line("DE", 30 + number, u16::from(number) + 1);
        Clerk { account: &account, office, home }.days(log, 0..DAYS);
    }
    for number in 0..2u16 {
        let account = format!("home{number}@post.example");
        for day in 0..DAYS {
            // The same line, and every device has an address that changes daily.
            let ip = globe::ipv6_line("DE", 7, number, log.dice.below(1 << 60));
            let at = midnight(day) + 18 * HOUR + log.dice.between(0, HOUR);
            log.imap(at, ip, &account);
            write(log, at + MINUTE, ip, &account);
        }
    }
}

/// Ten accounts behind one address, and a scanner that has an old password of one of them.
fn behind_one_address(log: &mut Log) {
    let office = globe::line("DE", 50, 7);
    for number in 0..10u8 {
        let account = format!("clerk{number}@kanzlei.example");
        let home = globe::line("DE", 60 + number, 7);
        Clerk { account: &account, office, home }.days(log, 0..DAYS);
    }
    for day in (0..DAYS).filter(|day| is_workday(*day)) {
        let mut at = midnight(day) + 8 * HOUR;
        while at < midnight(day) + 17 * HOUR {
            log.smtp_failure(at, office, "clerk3@kanzlei.example");
            at += log.dice.between(5 * MINUTE, 15 * MINUTE);
        }
    }
}

/// By air: hours of silence, and then another country.
fn travellers(log: &mut Log) {
    for (number, country) in [(0u8, "US"), (1, "TH"), (2, "ES")] {
        let account = format!("traveller{number}@bau.example");
        let (office, home) = (globe::line("DE", 80, 9), globe::line("DE", 81 + number, 9));
        let clerk = Clerk { account: &account, office, home };
        clerk.days(log, 0..9);
        let (hotel, fair) = (globe::line(country, 3, 77), globe::line(country, 9, 78));
        for day in 9..13 {
            // On the first day nothing before the evening.
            let begin = midnight(day) + if day == 9 { 19 * HOUR } else { 8 * HOUR } + log.dice.between(0, HOUR);
            for step in 0..log.dice.between(3, 7) {
                let at = begin + step * 50 * MINUTE;
                let ip = if step == 2 { fair } else { hotel };
                log.imap(at, ip, &account);
                let recipients = vec![(correspondent(&mut log.dice), Answer::Sent)];
                log.mail(at + MINUTE, ip, &account, recipients);
            }
        }
        clerk.day(log, 13);
    }
}

/// Exits in five countries, another one each time, sometimes within a minute; the telephone beside it is at home.
fn vpn_users(log: &mut Log) {
    let exits: Vec<IpAddr> = ["NL", "SE", "US", "GB", "FR"].iter().map(|country| globe::line(country, 200, 200)).collect();
    for number in 0..3u8 {
        let account = format!("vpn{number}@post.example");
        let home = globe::line("DE", 100 + number, 4);
        for day in 0..DAYS {
            for session in 0..log.dice.between(3, 7) {
                let at = midnight(day) + 8 * HOUR + session * 2 * HOUR + log.dice.between(0, HOUR);
                let exit = *log.dice.pick(&exits);
                log.imap(at, exit, &account);
                log.imap(at + 20 * SECOND, home, &account);
                if session % 2 == 0 {
                    let other = *log.dice.pick(&exits);
                    log.imap(at + 40 * SECOND, other, &account);
                    write(log, at + MINUTE, other, &account);
                }
            }
        }
    }
}

/// Every Tuesday, from the office.
pub fn newsletter(log: &mut Log, account: &str, days: std::ops::Range<i64>) {
    let office = globe::line("DE", 120, 1);
    Clerk { account, office, home: globe::line("DE", 121, 1) }.days(log, days.clone());
    for day in days.filter(|day| day % 7 == 1) {
        let messages = mailing(&mut log.dice, 20, 20, 1, 0);
        log.submit(midnight(day) + 10 * HOUR, office, account, messages, 5 * SECOND);
    }
}

/// Once a month, all within ten minutes.
fn invoices(log: &mut Log) {
    let (account, office) = ("billing@bau.example", globe::line("DE", 80, 9));
    Clerk { account, office, home: globe::line("DE", 130, 1) }.days(log, 0..DAYS);
    let messages = mailing(&mut log.dice, 150, 1, 1, 0);
    log.submit(midnight(10) + 15 * HOUR, office, account, messages, 4 * SECOND);
}

/// A club whose list is old: eight in a hundred are gone.
fn mailing_list(log: &mut Log) {
    let (account, ip) = ("list@verein.example", globe::line("DE", 140, 1));
    for day in 0..DAYS {
        log.imap(midnight(day) + 9 * HOUR, ip, account);
        if day % 2 == 1 {
            let messages = mailing(&mut log.dice, 6, 25, 8, 0);
            log.submit(midnight(day) + 9 * HOUR + MINUTE, ip, account, messages, 3 * SECOND);
        }
    }
}

/// Confirms orders to people it has never heard of, some of them mistyped; once a month it advertises.
fn shop(log: &mut Log) {
    for day in 0..DAYS {
        for _ in 0..log.dice.between(10, 30) {
            let at = midnight(day) + log.dice.between(7 * HOUR, 23 * HOUR);
            let mut recipients = strangers(&mut log.dice, 1, 3, 0);
            recipients.push(("shop@laden.example".to_owned(), Answer::Inside));
            log.sendmail(at, WEB_SHOP, "web1@mail.example", None, &recipients);
        }
    }
    for number in 0..250 {
        let recipients = strangers(&mut log.dice, 1, 3, 0);
        log.sendmail(midnight(9) + 11 * HOUR + number * SECOND, WEB_SHOP, "web1@mail.example", None, &recipients);
    }
}

/// Other servers bring mail; Sieve sends some of it on, under its own sender and message-id, spam as well.
fn redirects(log: &mut Log) {
    for day in 0..DAYS {
        for number in 0..60 {
            let at = midnight(day) + log.dice.between(0, 23 * HOUR);
            let server = globe::line("DE", 150 + log.dice.below(20) as u8, 25);
            let sender = correspondent(&mut log.dice);
            let message_id = format!("in.{day}.{number}@there.example");
            log.incoming(at, server, &sender, &message_id, "desk0@praxis.example");
            if number % 2 == 0 {
                let answer = if log.dice.percent(10) { Answer::Spam } else { Answer::Sent };
                let there = vec![("private7@freemail1.example".to_owned(), answer)];
                log.sendmail(at + 2 * SECOND, VMAIL, &sender, Some(&message_id), &there);
            }
        }
    }
}

/// The password was changed, and the old telephone at home does not know.
pub fn old_phone(log: &mut Log, account: &str, failing: std::ops::Range<i64>) {
    let (office, home) = (globe::line("DE", 170, 1), globe::line("DE", 171, 1));
    Clerk { account, office, home }.days(log, 0..DAYS);
    let mut at = midnight(failing.start);
    while at < midnight(failing.end) {
        log.imap_failure(at, home, account);
        at += 5 * MINUTE;
    }
}

/// Tries all passwords that come to mind.
fn forgetful(log: &mut Log) {
    let (account, ip) = ("forgetful@post.example", globe::line("DE", 180, 1));
    for day in 0..DAYS {
        let mut at = midnight(day) + 10 * HOUR + log.dice.between(0, 6 * HOUR);
        for _ in 0..log.dice.between(0, 6) {
            log.imap_failure(at, ip, account);
            at += 15 * SECOND;
        }
        log.imap(at, ip, account);
        write(log, at + MINUTE, ip, account);
    }
}

/// Addresses from all over the world guess, each once or twice: the passwords of these, and of people who don't exist.
pub fn siege(log: &mut Log, addresses: usize, accounts: &[&str], from: i64, until: i64) {
    for _ in 0..addresses {
        let ip = match log.dice.below(10) {
            // Some are neighbours of everybody.
            0 => globe::somewhere_in(&mut log.dice, "DE"),
            _ => globe::abroad(&mut log.dice),
        };
        for _ in 0..log.dice.between(1, 3) {
            let at = log.dice.between(from, until);
            let account = *log.dice.pick(accounts);
            if log.dice.percent(50) {
                log.smtp_failure(at, ip, account);
            } else {
                log.imap_failure(at, ip, account);
            }
        }
    }
}
