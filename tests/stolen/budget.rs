//! The budget of locks: a bad rule does not lock everybody, and burning it frees no thief.

use mailwarden::engine::account::Hindrance;
use mailwarden::engine::decision::{Decision, Verb};
use mailwarden::engine::{EngineConfig, Seed};

use crate::globe;
use crate::host::{Host, configuration, is_stop, sentence};
use crate::log::{DAY, HOUR, Log, MINUTE, SECOND};
use crate::people::{Clerk, mailing, midnight};
use crate::thieves::Owner;

const VICTIM: &str = "victim@bau.example";

fn live(log: &mut Log, account: &str, number: u16, days: std::ops::Range<i64>) {
    Clerk { account, office: globe::line("DE", 11, number), home: globe::line("DE", 31, number) }.days(log, days);
}

/// So clearly that it is a lock and no hold.
fn rob(log: &mut Log, account: &str, at: i64) {
    let owner = Owner { account: account.to_owned(), office: globe::line("DE", 11, 1) };
    log.by = Some(owner.account.as_str().into());
    let ip = globe::abroad(&mut log.dice);
    let messages = mailing(&mut log.dice, 10, 20, 70, 10);
    log.submit(at, ip, account, messages, 20 * SECOND);
    log.by = None;
}

/// From now on the operator has such a jail.
fn with_jail(host: &mut Host, jail: &str) {
    let config = configuration(&[("jail.d/90-local.toml", jail)]);
    let settings = EngineConfig { enforced: false, persist: true, seed: Seed([3, 4]), ..EngineConfig::from(&config) };
    let now = host.engine.now();
    host.engine.reconfigure(settings, now);
}

fn locks(host: &Host) -> Vec<&Decision> {
    host.decisions.iter().filter(|told| told.verb == Verb::Lock && is_stop(told)).collect()
}

fn assert_within_budget(host: &Host) {
    let times: Vec<i64> = locks(host).iter().map(|lock| lock.time.micros()).collect();
    for (number, time) in times.iter().enumerate() {
        let within = |span: i64| times[number..].iter().filter(|later| **later < time + span).count();
        assert!(within(10 * MINUTE) <= 3, "{} locks in ten minutes", within(10 * MINUTE));
        assert!(within(DAY) <= 20, "{} locks in a day", within(DAY));
    }
}

/// After nine quiet days he robs his own accounts, one each `gap`, and the victim so long after the first of them.
fn rob_in_turn(seed: u64, own: &[String], from: i64, gap: i64, victim_after: i64) -> Host {
    let mut host = Host::shipped();
    let mut log = Log::new(seed);
    for (number, name) in own.iter().enumerate() {
        live(&mut log, name, number as u16, 0..10);
        rob(&mut log, name, from + number as i64 * gap);
    }
    live(&mut log, VICTIM, 99, 0..10);
    rob(&mut log, VICTIM, from + victim_after);
    host.play(log);
    assert_within_budget(&host);
    host
}

#[test]
fn a_rule_that_locks_everybody_runs_out_of_locks_and_holds() {
    let mut host = Host::shipped();
    let names: Vec<String> = (0..60).map(|number| format!("desk{number}@dom{}.example", number % 6)).collect();
    let mut log = Log::new(1);
    for (number, name) in names.iter().enumerate() {
        live(&mut log, name, number as u16, 0..8);
    }
    live(&mut log, VICTIM, 99, 0..8);
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());

    with_jail(&mut host, "[jail.too-eager]\non = [\"auth-success\"]\nkey = \"account\"\nlimit = 1\nfindtime = \"1h\"\nthen = [\"lock\"]\n");
    let mut log = Log::new(2);
    for (number, name) in names.iter().enumerate() {
        let number = number as u16;
        log.imap(midnight(8) + 8 * HOUR + i64::from(number) * MINUTE, globe::line("DE", 11, number), name);
    }
    rob(&mut log, VICTIM, midnight(8) + 10 * HOUR);
    host.play(log);
    assert_within_budget(&host);
    assert!(locks(&host).len() >= 3, "{:#?}", host.stops());
    for name in &names {
        assert!(host.is(name, Hindrance::Held) || host.is(name, Hindrance::Locked), "{name} is neither held nor locked");
    }
    assert!(host.stopped_at(VICTIM).is_some() && host.leaked(VICTIM) <= 20, "{} leaked", host.leaked(VICTIM));
}

/// He spends all locks of the day on accounts of his own, and then he uses the stolen one.
#[test]
fn burnt_locks_free_no_thief() {
    let trials: Vec<String> = (0..30).map(|number| format!("trial{number}@dom{}.example", number % 15)).collect();
    let mut host = rob_in_turn(3, &trials, midnight(9), 12 * MINUTE, 12 * HOUR);
    assert_eq!(locks(&host).len(), 20, "{:#?}", host.stops());
    for name in &trials {
        assert!(host.stopped_at(name).is_some(), "{name} got away");
    }
    assert_eq!(host.told(VICTIM, Verb::Hold).len(), 1, "{:#?}", host.stops());
    assert!(host.told(VICTIM, Verb::Hold)[0].reason.contains("held in place of locked"));
    assert!(host.leaked(VICTIM) <= 120, "{} leaked", host.leaked(VICTIM));
    // The next day there are locks again.
    let mut log = Log::new(4);
    rob(&mut log, "late@other.example", midnight(10) + 23 * HOUR);
    host.play(log);
    assert!(locks(&host).len() <= 21);
}

/// One account of many within a domain: the others have locks left.
#[test]
fn one_domain_cannot_use_up_the_locks_of_all() {
    let own: Vec<String> = (0..6).map(|number| format!("own{number}@attacker.example")).collect();
    let host = rob_in_turn(5, &own, midnight(9) + 3 * HOUR, 30 * SECOND, 5 * MINUTE);
    assert_eq!(host.told(VICTIM, Verb::Lock).len(), 1, "{:#?}", locks(&host).into_iter().map(sentence).collect::<Vec<_>>());
    let told: Vec<String> = host.decisions.iter().filter(|told| told.verb == Verb::Alert).map(sentence).collect();
    let of_budget = told.iter().filter(|told| told.contains("held in place of locked") && !told.contains("still held")).count();
    assert!((1..=3).contains(&of_budget), "that some are only held is told, and not for each of them: {told:#?}");
}

/// One after the other over a day.
#[test]
fn one_domain_cannot_use_up_the_locks_of_a_day() {
    let own: Vec<String> = (0..24).map(|number| format!("own{number}@attacker.example")).collect();
    let host = rob_in_turn(6, &own, midnight(9), 12 * MINUTE, 12 * HOUR);
    assert_eq!((locks(&host).len(), host.told(VICTIM, Verb::Lock).len()), (16, 1), "{:#?}", host.stops());
}
