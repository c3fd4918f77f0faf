//! What is usual for an account, and who teaches it; what a lock leads to, and how it ends.

use std::time::Duration;

use mailwarden::engine::account::Hindrance;
use mailwarden::engine::account::report::AccountView;
use mailwarden::engine::decision::{Command, Reply, Verb};
use mailwarden::engine::jail::Scope;
use mailwarden::time::Timestamp;

use crate::dice::Dice;
use crate::globe;
use crate::host::{Host, is_about};
use crate::log::{Answer, DAY, HOUR, Log, MINUTE, SECOND, correspondent, strangers};
use crate::people::{Clerk, mailing, midnight};
use crate::thieves::{Owner, blast_from};

const OWNER: &str = "owner@praxis.example";

fn clerk() -> Clerk<'static> {
    Clerk { account: OWNER, office: globe::line("DE", 11, 100), home: globe::line("DE", 31, 8) }
}

fn stolen() -> Owner {
    Owner { account: OWNER.to_owned(), office: clerk().office }
}

fn steal(log: &mut Log, at: i64, ip: std::net::IpAddr) {
    log.by = Some(OWNER.into());
    let messages = mailing(&mut log.dice, 10, 20, 70, 10);
    log.submit(at, ip, OWNER, messages, 20 * SECOND);
    log.by = None;
}

/// The thief reads along from his VPN for two weeks, so that it is a place where the account is at home; then he sends.
#[test]
fn a_thief_who_first_makes_himself_at_home_is_stopped_all_the_same() {
    let mut log = Log::new(1);
    clerk().days(&mut log, 0..25);
    let vpn = globe::line("NL", 200, 7);
    for day in 8..23 {
        for hour in [3, 13, 21] {
            log.imap(midnight(day) + hour * HOUR, vpn, OWNER);
        }
    }
    blast_from(&mut log, &stolen(), midnight(23) + 3 * HOUR, &[vpn], 60, 20);
    let mut host = Host::shipped();
    host.play(log);
    assert!(host.stopped_at(OWNER).is_some_and(|at| at >= midnight(23)), "{:#?}", host.stops());
    assert!(host.leaked(OWNER) <= 120, "{} leaked", host.leaked(OWNER));
}

/// While much speaks against an account, nothing that is done with it becomes usual: no place comes nearer to being one, no
/// volume. (That a place was seen is remembered: each is new only once.)
#[test]
fn nothing_is_learned_while_the_score_is_above_alert() {
    let mut host = Host::shipped();
    let mut log = Log::new(2);
    clerk().days(&mut log, 0..10);
    host.play(log);
    let before = host.view(OWNER);

    let mut log = Log::new(3);
    for (step, country) in ["CN", "RU", "VN", "BR", "IN", "ID", "IR", "UA"].iter().enumerate() {
        let at = midnight(10) + 2 * HOUR + step as i64 * 5 * MINUTE;
        log.imap(at, globe::line(country, 7, 7), OWNER);
    }
    // From the usual place, and much of it: the account is above alert now.
    let messages: Vec<_> = (0..10).map(|_| strangers(&mut log.dice, 20, 0, 0)).collect();
    log.submit(midnight(10) + 3 * HOUR, clerk().office, OWNER, messages, SECOND);
    host.play(log);
    let after = host.view(OWNER);
    // The first two were visits before anything was known.
    let used = |view: &AccountView| view.countries.iter().filter(|place| place.days > 0).count();
    assert!(used(&after) <= used(&before) + 2, "{:?}", after.countries);
    host.wait_until(midnight(11) + 12 * HOUR);
    let usual = host.view(OWNER).usual_recipients_an_hour;
    assert!(usual <= before.usual_recipients_an_hour.max(20), "{usual} recipients an hour were {} before", before.usual_recipients_an_hour);
}

/// Above alert, and not yet held: two countries within minutes, and then a circular to 25 in place of one letter a day.
#[test]
fn no_volume_is_learned_above_alert() {
    for countries in [&["CN", "RU"][..], &[]] {
        let mut host = Host::shipped();
        let mut log = Log::new(17);
        for day in 0..10 {
            let recipients = vec![(correspondent(&mut log.dice), Answer::Sent)];
            log.mail(midnight(day) + 9 * HOUR, clerk().office, OWNER, recipients);
        }
        for (step, country) in countries.iter().enumerate() {
            log.imap(midnight(10) + 2 * HOUR + step as i64 * 5 * MINUTE, globe::line(country, 7, 7), OWNER);
        }
        let recipients = strangers(&mut log.dice, 25, 0, 0);
        log.mail(midnight(10) + 2 * HOUR + 8 * MINUTE, clerk().office, OWNER, recipients);
        host.play(log);
        assert_eq!((host.view(OWNER).score >= 40, host.stops()), (!countries.is_empty(), Vec::new()));
        // The hour ends with the first message of another one.
        let mut log = Log::new(18);
        log.mail(midnight(11) + 9 * HOUR, clerk().office, OWNER, vec![(correspondent(&mut Dice(1)), Answer::Sent)]);
        host.play(log);
        assert_eq!(host.view(OWNER).usual_recipients_an_hour, if countries.is_empty() { 25 } else { 1 });
    }
}

/// To so many firms, each with a domain of its own, one letter each.
fn to_firms(log: &mut Log, at: i64, ip: std::net::IpAddr, firms: std::ops::Range<u32>) {
    let letters: Vec<_> = firms.map(|firm| vec![(format!("info@firm{firm}.example"), Answer::Sent)]).collect();
    log.submit(at, ip, OWNER, letters, 10 * SECOND);
}

/// When a sign in those words was last counted.
fn said(host: &Host, words: &str) -> Option<String> {
    host.view(OWNER).signs.into_iter().filter(|sign| sign.text.contains(words)).map(|sign| sign.time).max()
}

/// Sixty firms that the account never wrote to are a sign. The same sixty a day later are none, and to a newsletter, which writes
/// to more than anybody can remember, nobody is new the next time.
#[test]
fn domains_that_were_never_written_to_are_a_sign_and_the_usual_ones_are_not() {
    let strange = "domains it had never written to";
    for (first, second, second_is_a_sign) in [(0..60, 0..60, false), (0..60, 100..160, true), (0..200, 300..360, false)] {
        let mut host = Host::shipped();
        let mut log = Log::new(19);
        clerk().days(&mut log, 0..9);
        to_firms(&mut log, midnight(9) + 9 * HOUR, clerk().office, first.clone());
        host.play(log);
        let before = said(&host, strange);
        assert!(before.is_some(), "{first:?}: {:?}", host.view(OWNER).signs);
        let mut log = Log::new(20);
        to_firms(&mut log, midnight(12) + 9 * HOUR, clerk().office, second.clone());
        host.play(log);
        assert_eq!(said(&host, strange) > before, second_is_a_sign, "{first:?}, {second:?}: {:?}", host.view(OWNER).signs);
        host.assert_free(OWNER);
    }
}

/// A dozen of them from a place where the account never was count for more.
#[test]
fn a_stranger_who_writes_to_strangers_is_noticed_after_a_dozen() {
    let mut host = Host::shipped();
    let mut log = Log::new(21);
    clerk().days(&mut log, 0..9);
    to_firms(&mut log, midnight(9) + 9 * HOUR, globe::line("DE", 77, 5), 500..512);
    host.play(log);
    assert!(said(&host, "mail to 12 domains it had never written to").is_some(), "{:?}", host.view(OWNER).signs);
}

#[test]
fn two_locks_within_a_month_end_and_the_third_does_not() {
    let mut host = Host::shipped();
    let mut log = Log::new(4);
    clerk().days(&mut log, 0..9);
    host.play(log);
    for (number, day) in [9, 12, 15, 18].into_iter().enumerate() {
        let mut log = Log::new(5 + number as u64);
        let ip = globe::abroad(&mut log.dice);
        steal(&mut log, midnight(day), ip);
        host.play(log);
        let locks: Vec<Timestamp> = host.told(OWNER, Verb::Lock).iter().map(|lock| lock.until).collect();
        assert_eq!(locks.len(), number.min(2) + 1, "{:#?}", host.stops());
        let until = locks[number.min(2)];
        host.wait_until(midnight(day) + 2 * DAY);
        if number < 2 {
            assert!(until.micros() <= midnight(day) + DAY + HOUR && !host.is(OWNER, Hindrance::Locked));
        } else {
            assert!(until == Timestamp::NEVER && host.is(OWNER, Hindrance::Locked), "{until}");
        }
    }
    // Only the operator lifts it, and everything begins anew.
    assert_eq!(host.command(Command::Unlock { account: OWNER.to_owned(), false_alarm: false }), Reply::Done { changed: 1 });
    assert!(!host.is(OWNER, Hindrance::Locked));
}

/// A lock runs out by itself, but not while strangers go on reading the mailbox.
#[test]
fn a_lock_lasts_while_strangers_still_use_the_account() {
    let mut host = Host::shipped();
    let mut log = Log::new(9);
    clerk().days(&mut log, 0..9);
    let ip = globe::line("RU", 7, 7);
    steal(&mut log, midnight(9), ip);
    for step in 1..60 {
        log.imap(midnight(9) + step * 30 * MINUTE, globe::line("RU", 9, 9), OWNER);
    }
    host.play(log);
    host.wait_until(midnight(10) + 2 * HOUR);
    assert!(host.is(OWNER, Hindrance::Locked), "{:#?}", host.stops());
}

#[test]
fn the_operators_unlock_settles_the_score() {
    let mut host = Host::shipped();
    let mut log = Log::new(10);
    clerk().days(&mut log, 0..9);
    let ip = globe::abroad(&mut log.dice);
    steal(&mut log, midnight(9), ip);
    host.play(log);
    assert!(host.is(OWNER, Hindrance::Locked) && host.view(OWNER).score >= 100);
    assert_eq!(host.engine.bans().filter(|ban| ban.jail == "risk").count(), 1);
    assert_eq!(host.command(Command::Unlock { account: OWNER.to_owned(), false_alarm: false }), Reply::Done { changed: 1 });
    assert_eq!(host.engine.bans().filter(|ban| ban.jail == "risk").count(), 0, "the ban went with the lock");
    let view = host.view(OWNER);
    assert!(view.score == 0 && view.families.is_empty() && view.strangers.is_empty(), "{view:#?}");
    assert!(!view.signs.is_empty(), "the story stays");
    let before = host.stops().len();
    let mut log = Log::new(11);
    clerk().days(&mut log, 9..12);
    host.play(log);
    assert_eq!(host.stops().len(), before, "{:#?}", host.stops());
}

#[test]
fn a_second_lock_makes_the_first_neither_shorter_nor_narrower() {
    let mut host = Host::shipped();
    let lock = |minutes: u64, full| Command::Lock {
        account: OWNER.to_owned(),
        duration: Some(Duration::from_secs(minutes * 60)),
        full,
        reason: String::new(),
    };
    for (minutes, full, changed) in [(600, false, 1), (10, true, 1), (300, false, 0), (900, false, 1)] {
        assert_eq!(host.command(lock(minutes, full)), Reply::Done { changed });
    }
    let stops: Vec<_> = host.engine.stopped().map(|stopped| (stopped.stop.scope, stopped.stop.until.since(host.engine.now()))).collect();
    assert_eq!(stops, [(Scope::Auth, Duration::from_secs(900 * 60))]);
}

/// A shop's software has begun to send for the owner, from abroad. Once the operator said so, that is a place of the account: else it would
/// be locked every day, and at the third time for good.
#[test]
fn a_false_alarm_is_not_raised_again() {
    for false_alarm in [false, true] {
        let mut host = Host::shipped();
        let mut log = Log::new(13);
        clerk().days(&mut log, 0..9);
        let shop = globe::line("FI", 7, 7);
        let sends = |log: &mut Log, day: i64| {
            let messages = mailing(&mut log.dice, 30, 1, 0, 0);
            log.submit(midnight(day) + 10 * HOUR, shop, OWNER, messages, 4 * MINUTE);
        };
        sends(&mut log, 9);
        host.play(log);
        assert!(host.is(OWNER, Hindrance::Locked), "{:#?}", host.stops());
        assert_eq!(host.command(Command::Unlock { account: OWNER.to_owned(), false_alarm }), Reply::Done { changed: 1 });
        let mut log = Log::new(14);
        sends(&mut log, 11);
        host.play(log);
        assert_eq!(host.is(OWNER, Hindrance::Locked), !false_alarm, "{:#?}", host.view(OWNER).signs);
        assert_eq!(host.view(OWNER).locks.len(), if false_alarm { 0 } else { 2 });
    }
}

/// What the thief came from is banned with the lock; an address from which others log in is not.
#[test]
fn a_thiefs_addresses_are_banned_and_a_shared_one_is_spared() {
    let mut host = Host::shipped();
    let mut log = Log::new(12);
    clerk().days(&mut log, 0..9);
    let (shared, own) = (globe::line("DE", 90, 90), globe::line("RU", 7, 7));
    for number in 0..4u8 {
        let account = format!("neighbour{number}@kanzlei.example");
        Clerk { account: &account, office: shared, home: globe::line("DE", 91, u16::from(number)) }.days(&mut log, 0..9);
    }
    log.by = Some(OWNER.into());
    let recipients = strangers(&mut log.dice, 1, 0, 0);
    log.mail(midnight(9) - MINUTE, shared, OWNER, recipients);
    log.by = None;
    steal(&mut log, midnight(9), own);
    host.play(log);
    assert!(host.is(OWNER, Hindrance::Locked), "{:#?}", host.stops());
    let bans: Vec<_> = host.engine.bans().filter(|ban| ban.jail == "risk").map(|ban| (ban.net.ip(), ban.scope)).collect();
    assert_eq!(bans, [(own, Scope::Auth)]);
}

/// Ten accounts of four domains, each with a house of its own, and one address that logs in to all of them.
fn entered_by(stranger: std::net::IpAddr) -> (Host, Vec<String>) {
    let mut host = Host::shipped();
    let mut log = Log::new(14);
    let names: Vec<String> = (0..10).map(|number| format!("desk{number}@dom{}.example", number % 4)).collect();
    for (number, name) in names.iter().enumerate() {
        let number = number as u16;
        Clerk { account: name, office: globe::line("DE", 11, number), home: globe::line("DE", 31, number) }.days(&mut log, 0..9);
        log.imap(midnight(9) + 3 * HOUR + i64::from(number) * MINUTE, stranger, name);
    }
    host.play(log);
    (host, names)
}

/// A list of stolen passwords: one stranger tries them all, and every account that let him in is told.
#[test]
fn a_stranger_in_ten_accounts_counts_against_all_ten() {
    let (host, names) = entered_by(globe::line("VN", 5, 5));
    for name in &names {
        let view = host.view(name);
        let signs: Vec<&str> = view.signs.iter().map(|sign| sign.jail.as_str()).collect();
        assert!(signs.contains(&"credential-list"), "{name}: {signs:?}");
        assert!(host.told(name, Verb::Lock).is_empty(), "{name}: nothing but logins");
    }
    let alerts: Vec<_> = host.decisions.iter().filter(|told| told.jail == "credential-list").collect();
    assert_eq!(alerts.len(), 3, "{alerts:#?}");
    let entered = host.engine.accounts(Some(globe::line("VN", 5, 5)));
    assert_eq!(entered.len(), 10);
}

/// The same from an address in the accounts' own country: they are of many houses, so it is no house that moved.
#[test]
fn a_stranger_of_the_same_country_counts_as_well() {
    let (host, names) = entered_by(globe::line("DE", 77, 5));
    for name in &names {
        let signs: Vec<String> = host.view(name).signs.iter().map(|sign| sign.jail.clone()).collect();
        assert!(signs.iter().any(|jail| jail == "credential-list"), "{name}: {signs:?}");
    }
}

/// Refused from afar once a minute, the thief still has the password; at home it is the owner's own program.
#[test]
fn a_lock_lasts_while_a_stranger_is_refused() {
    for (ip, goes_on) in [(globe::line("VN", 5, 5), true), (clerk().office, false)] {
        let mut host = Host::shipped();
        let mut log = Log::new(20);
        clerk().days(&mut log, 0..9);
        steal(&mut log, midnight(9), globe::line("RU", 7, 7));
        for minute in 0..26 * 60 {
            log.refused(midnight(9) + (10 + minute) * MINUTE, ip, OWNER);
        }
        host.play(log);
        assert_eq!(host.is(OWNER, Hindrance::Locked), goes_on, "{ip}: {:#?}", host.stops());
    }
}

/// What the learning week only tells must not bind the weeks after it.
#[test]
fn whoever_was_only_watched_in_the_first_week_is_stopped_later() {
    stopped_after_the_first_week(false);
    stopped_after_the_first_week(true);
}

fn stopped_after_the_first_week(restarted: bool) {
    let mut host = Host::shipped();
    let mut log = Log::new(15);
    clerk().days(&mut log, 0..5);
    steal(&mut log, midnight(4), globe::line("CN", 7, 7));
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
    let told = host.decisions.iter().find(|told| told.observed && told.verb == Verb::Lock && is_about(told, OWNER));
    assert!(told.is_some(), "the first week tells what would be done");
    if restarted {
        host.restart();
    }
    let mut log = Log::new(19);
    clerk().days(&mut log, 5..14);
    host.play(log);
    let mut log = Log::new(16);
    steal(&mut log, midnight(14), globe::line("RU", 7, 7));
    let recipients = vec![(correspondent(&mut log.dice), Answer::Sent)];
    log.mail(midnight(14) + HOUR, clerk().home, OWNER, recipients);
    host.play(log);
    assert!(host.stopped_at(OWNER).is_some(), "{:#?}", host.view(OWNER));
}
