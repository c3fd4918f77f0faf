//! Cases at the edges: an office that moves, a form and servers in one hand, a thief from next door, a rule that fires again and again.

use std::net::IpAddr;

use mailwarden::engine::account::Hindrance;
use mailwarden::engine::decision::Verb;
use mailwarden::engine::{EngineConfig, Seed};

use crate::globe;
use crate::host::{Host, configuration, is_about};
use crate::log::{Answer, HOUR, Log, MINUTE, SECOND, correspondent, strangers};
use crate::people::{self, Clerk, mailing, midnight};

const OWNER: &str = "owner@praxis.example";

fn clerk(account: &str) -> Clerk<'_> {
    Clerk { account, office: globe::line("DE", 11, 100), home: globe::line("DE", 31, 8) }
}

fn steal(log: &mut Log, account: &str, at: i64, ip: IpAddr) {
    steal_quickly(log, account, at, ip, 20 * SECOND);
}

fn steal_quickly(log: &mut Log, account: &str, at: i64, ip: IpAddr, gap: i64) {
    log.by = Some(account.into());
    let messages = mailing(&mut log.dice, 10, 20, 70, 0);
    log.submit(at, ip, account, messages, gap);
    log.by = None;
}

/// A new provider on a Wednesday: twelve accounts log in from an address that is strange to all of them.
#[test]
fn an_office_with_a_new_line_is_not_held() {
    let mut log = Log::new(1);
    for number in 0..12u8 {
        let account = format!("clerk{number}@kanzlei.example");
        let home = globe::line("DE", 60 + number, 7);
        Clerk { account: &account, office: globe::line("DE", 50, 7), home }.days(&mut log, 0..9);
        Clerk { account: &account, office: globe::line("DE", 99, 7), home }.days(&mut log, 9..14);
    }
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
}

/// A form that is abused sends to whom the attacker names: to his own servers at five providers, which call it spam.
#[test]
fn a_form_and_servers_in_one_hand_lock_no_shop() {
    let mut log = Log::new(2);
    for day in 0..14 {
        for _ in 0..20 {
            let at = midnight(day) + log.dice.between(8 * HOUR, 22 * HOUR);
            let recipients = strangers(&mut log.dice, 1, 3, 0);
            log.sendmail(at, people::WEB_SHOP, "web1@mail.example", None, &recipients);
        }
    }
    for number in 0..300i64 {
        let recipients = vec![(format!("order{number}@spread{}.example", number % 5), Answer::Spam)];
        log.sendmail(midnight(12) + 2 * HOUR + number * 30 * SECOND, people::WEB_SHOP, "web1@mail.example", None, &recipients);
    }
    let mut host = Host::shipped();
    host.play(log);
    let locks: Vec<_> = host.decisions.iter().filter(|told| told.verb == Verb::Lock && is_about(told, "local:1001")).collect();
    assert!(locks.is_empty(), "{locks:#?}");
}

/// From his own line in the owner's country, from which nobody else ever logs in.
#[test]
fn a_thief_from_the_same_country_is_banned_with_the_lock() {
    let mut log = Log::new(3);
    clerk(OWNER).days(&mut log, 0..9);
    let own = globe::line("DE", 77, 7);
    log.by = Some(OWNER.into());
    let messages = mailing(&mut log.dice, 3, 80, 20, 20);
    log.submit(midnight(9) + 3 * HOUR, own, OWNER, messages, 20 * SECOND);
    log.by = None;
    let mut host = Host::shipped();
    host.play(log);
    assert!(host.is(OWNER, Hindrance::Locked), "{:#?}", host.stops());
    assert!(host.engine.bans().any(|ban| ban.net.ip() == own), "his address is not banned");
}

/// A rule of the operator's locks one account, which goes on logging in: that is one lock of the budget and not thirty.
#[test]
fn an_account_that_is_locked_already_costs_no_further_lock() {
    let (noisy, victim) = ("noisy@verein.example", "victim@bau.example");
    let mut host = Host::shipped();
    let mut log = Log::new(4);
    for (number, account) in [(1u16, noisy), (2, victim)] {
        Clerk { account, office: globe::line("DE", 11, number), home: globe::line("DE", 31, number) }.days(&mut log, 0..9);
    }
    host.play(log);
    let jail = "[jail.no-mail]\non = [\"auth-success\"]\nwhere = { account = \"noisy@verein.example\" }\nkey = \"account\"\nlimit = 1\nfindtime = \"1m\"\nthen = [\"lock\"]\n";
    let config = configuration(&[("jail.d/90-local.toml", jail)]);
    let now = host.engine.now();
    host.engine.reconfigure(EngineConfig { enforced: false, persist: true, seed: Seed([3, 4]), ..EngineConfig::from(&config) }, now);
    let mut log = Log::new(5);
    for number in 0..30 {
        log.imap(midnight(9) + number * 5 * MINUTE, globe::line("DE", 11, 1), noisy);
    }
    let ip = globe::abroad(&mut log.dice);
    steal(&mut log, victim, midnight(9) + 4 * HOUR, ip);
    host.play(log);
    assert_eq!(host.told(noisy, Verb::Lock).len(), 1);
    assert_eq!(host.told(victim, Verb::Lock).len(), 1, "{:#?}", host.stops());
}

/// In another hotel, and besieged: what is new is new twice over.
#[test]
fn a_victim_of_guessing_who_travels_stays_free() {
    for country in ["DE", "US"] {
        let mut log = Log::new(2);
        clerk(OWNER).days(&mut log, 0..10);
        people::siege(&mut log, 3_000, &[OWNER], midnight(7), midnight(14));
        let hotel = globe::line(country, 77, 7);
        for step in 0..4 {
            let at = midnight(11) + 18 * HOUR + step * 40 * MINUTE;
            log.imap(at, hotel, OWNER);
            let recipients = vec![(correspondent(&mut log.dice), Answer::Sent)];
            log.mail(at + MINUTE, hotel, OWNER, recipients);
        }
        let mut host = Host::shipped();
        host.play(log);
        assert!(host.view(OWNER).besieged);
        assert_eq!(host.stops(), Vec::<String>::new(), "{country}");
    }
}

/// By train, with a mail program that looks for new mail every five minutes: two countries within an hour, both of them new.
#[test]
fn a_journey_through_two_countries_is_no_theft() {
    let mut log = Log::new(7);
    clerk(OWNER).days(&mut log, 0..9);
    for poll in 0..36 {
        let country = if poll < 8 { "AT" } else { "IT" };
        log.imap(midnight(9) + 18 * HOUR + poll * 5 * MINUTE, globe::line(country, 7, 7), OWNER);
    }
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
}

/// A list of stolen passwords is longer than the last step of a jail: whoever comes after the tenth is robbed like the others.
#[test]
fn a_stranger_in_thirty_accounts_counts_against_all_thirty() {
    let mut host = Host::shipped();
    let mut log = Log::new(8);
    let names: Vec<String> = (0..30).map(|number| format!("desk{number}@dom{}.example", number % 4)).collect();
    for (number, name) in names.iter().enumerate() {
        let number = number as u16;
        Clerk { account: name, office: globe::line("DE", 11, number), home: globe::line("DE", 31, number) }.days(&mut log, 0..9);
        log.imap(midnight(9) + 3 * HOUR + i64::from(number) * MINUTE, globe::line("VN", 5, 5), name);
    }
    host.play(log);
    let is_signed = |name: &&String| host.view(name).signs.iter().any(|sign| sign.jail == "credential-list");
    let missed: Vec<&String> = names.iter().filter(|name| !is_signed(name)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

/// Three locks in ten minutes are all there are, whatever happens in between.
#[test]
fn a_restart_does_not_refill_the_budget() {
    let names: Vec<String> = (0..6).map(|number| format!("desk@dom{number}.example")).collect();
    let mut host = Host::shipped();
    let mut log = Log::new(9);
    for (number, account) in names.iter().enumerate() {
        let number = number as u16;
        Clerk { account, office: globe::line("DE", 11, number), home: globe::line("DE", 31, number) }.days(&mut log, 0..9);
    }
    host.play(log);
    for (number, name) in names.iter().enumerate() {
        let mut log = Log::new(10 + number as u64);
        let ip = globe::abroad(&mut log.dice);
        steal_quickly(&mut log, name, midnight(9) + 3 * HOUR + number as i64 * 95 * SECOND, ip, 5 * SECOND);
        host.play(log);
        if number == 2 {
            host.restart();
        }
    }
    let locks = host.decisions.iter().filter(|told| told.verb == Verb::Lock).count();
    assert_eq!(locks, 3, "{:#?}", host.stops());
}
