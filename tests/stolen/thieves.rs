//! Accounts in other hands: each kind of thief, beside an owner who goes on using the account.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::dice::Dice;
use crate::globe;
use crate::log::{Accepted, DAY, HOUR, Line, Log, MINUTE, SECOND, strangers};
use crate::people::{self, Clerk, DAYS, is_workday, mailing, midnight};

pub const STOLEN_SHOP: u32 = 1_002;

/// What came of it, for the judge.
pub struct Theft {
    pub kind: &'static str,
    pub since: i64,
    /// Recipients outside who got mail before it was stopped, at most.
    pub leak_max: u64,
}

pub struct World {
    pub lines: Vec<Line>,
    pub accepted: Vec<Accepted>,
    /// By submitter.
    pub stolen: BTreeMap<String, Theft>,
}

/// Names that nobody has, and that are guessed at.
pub const GHOSTS: [&str; 4] = ["admin@praxis.example", "info@praxis.example", "test", "root@kanzlei.example"];

/// Two weeks of a host with all of them.
pub fn world(seed: u64) -> World {
    let mut log = Log::new(seed);
    people::everybody(&mut log);
    let besieged = ["desk1@praxis.example", "clerk2@kanzlei.example", "victim6@post.example"];
    let names: Vec<&str> = besieged.iter().chain(&GHOSTS).copied().collect();
    people::siege(&mut log, 400, &names, midnight(7), midnight(13));
    let mut stolen = BTreeMap::new();
    for (number, kind) in KINDS.iter().enumerate() {
        let account = match kind.name {
            "website" => format!("local:{STOLEN_SHOP}"),
            "newsletter from abroad" => "list7@verein.example".to_owned(),
            _ => format!("victim{number}@post.example"),
        };
        let owner = Owner { office: globe::line("DE", 210 + number as u8, 3), account };
        owner.live(&mut log, kind.name);
        let since = (kind.act)(&mut log, &owner);
        log.by = None;
        stolen.insert(owner.account, Theft { kind: kind.name, since, leak_max: kind.leak_max });
    }
    let (lines, accepted) = log.sorted();
    World { lines, accepted, stolen }
}

pub struct Owner {
    pub account: String,
    pub office: IpAddr,
}

impl Owner {
    fn live(&self, log: &mut Log, kind: &str) {
        match kind {
            "website" => {
                for day in 0..DAYS {
                    for _ in 0..log.dice.between(3, 10) {
                        let at = midnight(day) + log.dice.between(7 * HOUR, 22 * HOUR);
                        let recipients = strangers(&mut log.dice, 1, 3, 0);
                        log.sendmail(at, STOLEN_SHOP, "web2@mail.example", None, &recipients);
                    }
                }
            }
            "newsletter from abroad" => people::newsletter(log, &self.account, 0..DAYS),
            _ => Clerk { account: &self.account, office: self.office, home: globe::line("DE", 230, 3) }.days(log, 0..DAYS),
        }
    }

    /// From here on the lines are the thief's.
    fn robbed(&self, log: &mut Log) {
        log.by = Some(self.account.as_str().into());
    }

    /// Reads the mailbox, which a lock does not end.
    fn read_by(&self, log: &mut Log, at: i64, ip: IpAddr) {
        let by = log.by.take();
        log.imap(at, ip, &self.account);
        log.by = by;
    }
}

pub struct Kind {
    pub name: &'static str,
    /// Above the most that leaked with forty seeds.
    leak_max: u64,
    act: fn(&mut Log, &Owner) -> i64,
}

pub const KINDS: [Kind; 9] = [
    Kind { name: "blast", leak_max: 60, act: blast },
    Kind { name: "botnet", leak_max: 60, act: botnet },
    Kind { name: "slow drip", leak_max: 20, act: slow_drip },
    Kind { name: "same-country botnet", leak_max: 90, act: same_country_botnet },
    Kind { name: "infected office PC", leak_max: 150, act: infected_pc },
    Kind { name: "mail theft", leak_max: 0, act: mail_theft },
    Kind { name: "guessed", leak_max: 30, act: guessed },
    Kind { name: "newsletter from abroad", leak_max: 120, act: newsletter_abroad },
    Kind { name: "website", leak_max: 150, act: website },
];

fn some_day(dice: &mut Dice) -> i64 {
    dice.between(8, 11)
}

/// From one address abroad, as fast as it goes.
pub fn blast(log: &mut Log, owner: &Owner) -> i64 {
    let since = midnight(some_day(&mut log.dice)) + log.dice.between(0, DAY);
    let ip = globe::abroad(&mut log.dice);
    blast_from(log, owner, since, &[ip], 60, 20);
    since
}

/// `count` messages of `size` recipients, from these addresses in turn, about 3,000 recipients an hour.
pub fn blast_from(log: &mut Log, owner: &Owner, since: i64, ips: &[IpAddr], count: usize, size: usize) {
    owner.robbed(log);
    let gap = size as i64 * 1_200_000;
    for (number, recipients) in mailing(&mut log.dice, count, size, 20, 15).into_iter().enumerate() {
        let at = since + number as i64 * gap;
        log.submit(at, ips[number % ips.len()], &owner.account, vec![recipients], SECOND);
    }
    log.by = None;
}

/// Many addresses all over the world, a few messages each.
fn botnet(log: &mut Log, owner: &Owner) -> i64 {
    owner.robbed(log);
    let since = midnight(some_day(&mut log.dice)) + log.dice.between(0, DAY);
    for number in 0..100 {
        let ip = globe::abroad_in(&mut log.dice, 30);
        let at = if number == 0 { since } else { since + log.dice.between(0, 4 * HOUR) };
        let (count, size) = (log.dice.between(1, 4) as usize, log.dice.between(10, 30) as usize);
        let messages = mailing(&mut log.dice, count, size, 15, 15);
        log.submit(at, ip, &owner.account, messages, 20 * SECOND);
    }
    since
}

/// Five nights, a message every few minutes, to one or two.
fn slow_drip(log: &mut Log, owner: &Owner) -> i64 {
    owner.robbed(log);
    let (first, mut since) = (8, i64::MAX);
    let ips: Vec<IpAddr> = (0..3).map(|_| globe::abroad(&mut log.dice)).collect();
    for night in first..first + 5 {
        let mut at = midnight(night) + 22 * HOUR;
        while at < midnight(night) + 30 * HOUR {
            since = since.min(at);
            let size = log.dice.between(1, 3) as usize;
            let recipients = strangers(&mut log.dice, size, 25, 5);
            let ip = *log.dice.pick(&ips);
            log.mail(at, ip, &owner.account, recipients);
            at += log.dice.between(MINUTE, 4 * MINUTE);
        }
    }
    since
}

/// Private lines in the owner's own country.
fn same_country_botnet(log: &mut Log, owner: &Owner) -> i64 {
    owner.robbed(log);
    let since = midnight(some_day(&mut log.dice)) + log.dice.between(0, DAY);
    for number in 0..60 {
        let ip = globe::somewhere_in(&mut log.dice, "DE");
        let at = if number == 0 { since } else { since + log.dice.between(0, 8 * HOUR) };
        let (count, size) = (log.dice.between(1, 4) as usize, log.dice.between(5, 30) as usize);
        let messages = mailing(&mut log.dice, count, size, 15, 12);
        log.submit(at, ip, &owner.account, messages, 20 * SECOND);
    }
    since
}

/// Malware on the owner's own computer: from the usual address, at the usual hours.
fn infected_pc(log: &mut Log, owner: &Owner) -> i64 {
    owner.robbed(log);
    let day = (8..).find(|day| is_workday(*day)).expect("there is one every week");
    let since = midnight(day) + 9 * HOUR;
    for number in 0..1_000 {
        let at = since + number * 14 * SECOND;
        let size = log.dice.between(1, 6) as usize;
        let recipients = strangers(&mut log.dice, size, 15, 9);
        log.mail(at, owner.office, &owner.account, recipients);
    }
    since
}

/// Nothing is sent: the mailbox is read, from everywhere.
fn mail_theft(log: &mut Log, owner: &Owner) -> i64 {
    owner.robbed(log);
    let since = midnight(9) + 3 * HOUR;
    let mut at = since;
    while at < midnight(13) {
        let ip = globe::abroad_in(&mut log.dice, 30);
        owner.read_by(log, at, ip);
        at += log.dice.between(15 * MINUTE, 60 * MINUTE);
    }
    since
}

/// Two days of guessing from hundreds of addresses, and one guess was right.
fn guessed(log: &mut Log, owner: &Owner) -> i64 {
    let since = midnight(10) + 4 * HOUR;
    people::siege(log, 300, &[owner.account.as_str()], since - 2 * DAY, since);
    owner.robbed(log);
    let ip = globe::abroad(&mut log.dice);
    owner.read_by(log, since, ip);
    let ips = [globe::abroad(&mut log.dice), globe::abroad(&mut log.dice)];
    blast_from(log, owner, since + 30 * MINUTE, &ips, 60, 15);
    since
}

/// The usual volume in the usual shape, but to bought addresses and from abroad.
fn newsletter_abroad(log: &mut Log, owner: &Owner) -> i64 {
    owner.robbed(log);
    let since = midnight(10) + 10 * HOUR;
    let ip = globe::abroad(&mut log.dice);
    let messages = mailing(&mut log.dice, 20, 20, 10, 6);
    log.submit(since, ip, &owner.account, messages, 5 * SECOND);
    since
}

/// A web shop was broken into: a script on it hands in mail, to one after the other.
fn website(log: &mut Log, owner: &Owner) -> i64 {
    owner.robbed(log);
    let since = midnight(some_day(&mut log.dice)) + log.dice.between(0, DAY);
    for number in 0..1_500 {
        let recipients = strangers(&mut log.dice, 1, 20, 7);
        log.sendmail(since + number * 3 * SECOND, STOLEN_SHOP, "web2@mail.example", None, &recipients);
    }
    since
}
