//! The engine as its shell sees it: events and commands in, decisions out.

mod faults;

use std::net::IpAddr;
use std::time::Duration;

use super::decision::{Command, Decision, Reply, Subject, Verb};
use super::jail::{Action, BanSpec, Condition, Distinct, Jail, KeyPart, Measure, Mode, Override, Scope, Step, Unless};
use super::*;
use crate::event::{DeliveryStatus, EventKind, Reason, Service};

const START: i64 = 1_795_489_200;
const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

fn jail(name: &str) -> Jail {
    Jail {
        name: name.to_owned(),
        on: vec![EventKind::AuthFailure],
        findtime: Duration::from_secs(600),
        steps: vec![step(6, Action::Ban)],
        ban: BanSpec { bantime: Some(Duration::from_secs(3_600)), scope: Scope::Auth },
        ..Jail::default()
    }
}

fn step(limit: u64, then: Action) -> Step {
    Step { limit, score: 0, then: vec![then] }
}

/// A siege of one account from many networks.
fn siege() -> Jail {
    let measure = Measure::Distinct(Distinct::Network);
    Jail {
        key: vec![KeyPart::Account],
        measure,
        findtime: Duration::from_secs(3_600),
        steps: vec![step(10, Action::BanContributors)],
        ..jail("siege")
    }
}

/// An engine and its clock, in seconds after [`START`].
struct World {
    engine: Engine,
    clock: i64,
}

#[derive(Clone, Copy)]
struct Doing<'a> {
    ip: &'a str,
    account: &'a str,
    service: Service,
    reason: Reason,
    count: u32,
}

fn from<'a>(ip: &'a str, account: &'a str) -> Doing<'a> {
    Doing { ip, account, service: Service::Submission, reason: Reason::BadPassword, count: 1 }
}

impl World {
    fn new(jails: Vec<Jail>) -> World {
        World::with(EngineConfig { jails, persist: true, ..EngineConfig::default() })
    }

    fn with(config: EngineConfig) -> World {
        World { engine: Engine::new(EngineConfig { seed: Seed([11, 22]), ..config }, Timestamp::from_seconds(START)), clock: 0 }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(START + self.clock)
    }

    fn wait(&mut self, seconds: i64) -> Vec<Decision> {
        self.clock += seconds;
        self.engine.handle_timeout(self.now());
        self.decisions()
    }

    fn decisions(&mut self) -> Vec<Decision> {
        std::iter::from_fn(|| self.engine.poll_decision()).collect()
    }

    /// One event, one second after the one before.
    fn event(&mut self, kind: EventKind, doing: Doing<'_>) -> Vec<Decision> {
        self.clock += 1;
        let line = format!("{kind} of {} by {} at {}", doing.account, doing.ip, self.clock);
        let event = Event {
            service: doing.service,
            reason: doing.reason,
            count: doing.count,
            filter: "postfix",
            ip: doing.ip.parse::<IpAddr>().ok(),
            account: Some(doing.account.as_bytes()).filter(|account| !account.is_empty()),
            line: line.as_bytes(),
            ..Event::new(kind, self.now())
        };
        self.engine.handle_event(&event, self.now());
        self.decisions()
    }

    fn fail(&mut self, ip: &str, account: &str) -> Vec<Decision> {
        self.event(EventKind::AuthFailure, from(ip, account))
    }

    fn fails(&mut self, times: usize, ip: &str, account: &str) -> Vec<Decision> {
        (0..times).flat_map(|_| self.fail(ip, account)).collect()
    }

    fn succeed(&mut self, ip: &str, account: &str) -> Vec<Decision> {
        self.event(EventKind::AuthSuccess, from(ip, account))
    }

    fn command(&mut self, command: Command) -> (Reply, Vec<Decision>) {
        let reply = self.engine.handle_command(command, self.now());
        (reply, self.decisions())
    }
}

/// `ban 192.0.2.1 auth 3600`, one word each.
fn told(decisions: &[Decision]) -> Vec<String> {
    let tell = |decision: &Decision| {
        let subject = match &decision.subject {
            Subject::Net(net) => crate::address::display(*net),
            Subject::Account(name) => name.clone(),
        };
        let lasts =
            if decision.until == Timestamp::NEVER { "ever".to_owned() } else { decision.until.since(decision.time).as_secs().to_string() };
        match decision.verb {
            Verb::Ban => format!("ban {subject} {} {lasts}", decision.scope),
            verb => format!("{verb} {subject}"),
        }
    };
    decisions.iter().map(tell).collect()
}

fn net(text: &str) -> ipnetwork::IpNetwork {
    text.parse().unwrap()
}

#[test]
fn the_sixth_failure_within_ten_minutes_bans() {
    let mut world = World::new(vec![jail("auth")]);
    assert_eq!(told(&world.fails(5, "192.0.2.1", "anna@a.example")), [""; 0]);
    let decisions = world.fail("192.0.2.1", "bert@a.example");
    assert_eq!(told(&decisions), ["ban 192.0.2.1 auth 3600"]);
    assert_eq!(decisions[0].reason, "6 failed logins in 5s (limit 6 in 10m), 2 accounts");
    assert_eq!(decisions[0].evidence.len(), 6);
    assert_eq!(decisions[0].evidence[5], "auth-failure of bert@a.example by 192.0.2.1 at 6");
    assert_eq!(told(&world.wait(HOUR - 1)), [""; 0]);
    let decisions = world.wait(2);
    assert_eq!(told(&decisions), ["unban 192.0.2.1"]);
    assert_eq!(decisions[0].time, Timestamp::from_seconds(START + 6 + HOUR));
    assert_eq!(world.engine.ban_count(), 0);
}

#[test]
fn the_window_is_half_open() {
    for (pause, banned) in [(594, true), (595, false)] {
        let mut world = World::new(vec![jail("auth")]);
        world.fails(5, "192.0.2.1", "a");
        world.clock += pause;
        assert_eq!(!world.fail("192.0.2.1", "a").is_empty(), banned, "after {pause}");
    }
}

#[test]
fn what_counts_and_what_does_not() {
    let only = |change: fn(&mut Jail)| {
        let mut jail = Jail { steps: vec![step(1, Action::Ban)], ..jail("one") };
        change(&mut jail);
        jail
    };
    let event = Event {
        service: Service::Imap,
        reason: Reason::UnknownUser,
        filter: "dovecot",
        ip: "192.0.2.1".parse().ok(),
        account: Some(b"x@d.example"),
        ..Event::new(EventKind::AuthFailure, Timestamp::from_seconds(START))
    };
    let condition = |negated: bool, test: super::jail::Test| Condition { negated, test };
    type Change = fn(&mut Jail);
    let cases: Vec<(&str, Jail, Event<'_>, bool)> = vec![
        ("plain", only(|_| ()), event, true),
        ("restated", only(|_| ()), Event { restates: true, ..event }, false),
        ("forged", only(|_| ()), Event { vouched: false, ..event }, false),
        ("weak", only(|_| ()), Event { weak: true, ..event }, false),
        ("weak where wanted", only(|jail| jail.weak = true), Event { weak: true, ..event }, true),
        ("temporary", only(|_| ()), Event { reason: Reason::Temporary, ..event }, false),
        ("greylisted", only(|_| ()), Event { reason: Reason::Greylist, ..event }, false),
        (
            "temporary, weighted",
            only(|jail| jail.weight = vec![(Reason::Temporary, 1)]),
            Event { reason: Reason::Temporary, ..event },
            true,
        ),
        ("weight nothing", only(|jail| jail.weight = vec![(Reason::UnknownUser, 0)]), event, false),
        ("other filter", only(|jail| jail.filters = vec!["postfix".into()]), event, false),
        ("own filter", only(|jail| jail.filters = vec!["postfix".into(), "dovecot".into()]), event, true),
        ("other kind", only((|jail| jail.on = vec![EventKind::Reject]) as Change), event, false),
        ("no account", only(|jail| jail.key = vec![KeyPart::Ip, KeyPart::Account]), Event { account: None, ..event }, false),
        ("no address", only(|_| ()), Event { ip: None, ..event }, false),
        (
            "named service",
            Jail { conditions: vec![condition(false, super::jail::Test::Service(vec![Service::Imap]))], ..only(|_| ()) },
            event,
            true,
        ),
        (
            "not that service",
            Jail { conditions: vec![condition(true, super::jail::Test::Service(vec![Service::Imap]))], ..only(|_| ()) },
            event,
            false,
        ),
        (
            "domain",
            Jail { conditions: vec![condition(false, super::jail::Test::Account(vec!["@d.example".into()]))], ..only(|_| ()) },
            event,
            true,
        ),
        (
            "other domain",
            Jail { conditions: vec![condition(false, super::jail::Test::Account(vec!["@e.example".into()]))], ..only(|_| ()) },
            event,
            false,
        ),
        ("net", Jail { conditions: vec![condition(false, super::jail::Test::Ip(vec![net("192.0.2.0/24")]))], ..only(|_| ()) }, event, true),
        (
            "code class",
            Jail { conditions: vec![condition(false, super::jail::Test::Code(vec![5]))], ..only(|_| ()) },
            Event { code: 554, ..event },
            true,
        ),
        ("no code", Jail { conditions: vec![condition(false, super::jail::Test::Code(vec![5]))], ..only(|_| ()) }, event, false),
        ("has no account", Jail { conditions: vec![condition(false, super::jail::Test::HasAccount(false))], ..only(|_| ()) }, event, false),
    ];
    for (name, jail, event, counted) in cases {
        let mut world = World::new(vec![jail]);
        assert_eq!(world.engine.offends(&event), counted, "{name}: offends");
        world.engine.handle_event(&event, event.time);
        assert_eq!(world.engine.ban_count() == 1, counted, "{name}");
    }
}

#[test]
fn one_line_may_stand_for_many_failures() {
    let mut world = World::new(vec![Jail { weight: vec![(Reason::UnknownUser, 3)], ..jail("auth") }]);
    let unknown = Doing { reason: Reason::UnknownUser, ..from("192.0.2.1", "x") };
    assert!(world.event(EventKind::AuthFailure, unknown).is_empty());
    assert_eq!(world.event(EventKind::AuthFailure, unknown)[0].reason, "6 failed logins in 1s (limit 6 in 10m)");
    let many = Doing { count: 10, ..from("192.0.2.2", "x") };
    assert_eq!(world.event(EventKind::AuthFailure, many)[0].reason, "10 failed logins in 0s (limit 6 in 10m)");
}

#[test]
fn an_ipv6_attacker_is_a_64() {
    let mut world = World::new(vec![jail("auth")]);
    let decisions: Vec<_> = (1..=6).flat_map(|n| world.fail(&format!("2001:db8:1:2::{n}"), "x")).collect();
    assert_eq!(told(&decisions), ["ban 2001:db8:1:2::/64 auth 3600"]);
    assert!(world.fails(9, "2001:db8:1:2:3:4:5:6", "x").is_empty());
    assert_eq!(told(&world.fails(6, "::ffff:192.0.2.9", "x")), ["ban 192.0.2.9 auth 3600"]);
}

#[test]
fn events_of_a_banned_subject_are_noted_where_the_ban_covers_them() {
    let mut world = World::new(vec![jail("auth")]);
    world.fails(6, "192.0.2.1", "x");
    assert!(world.fails(9, "192.0.2.1", "x").is_empty());
    assert_eq!(world.engine.status().noted, 9);
    let ssh = Doing { service: Service::Ssh, ..from("192.0.2.1", "x") };
    let decisions: Vec<_> = (0..6).flat_map(|_| world.event(EventKind::AuthFailure, ssh)).collect();
    assert_eq!(decisions.len(), 1, "the ban of another scope counts on: it is prolonged");
}

#[test]
fn a_ban_that_does_not_bite_is_told_once() {
    let mut world = World::new(vec![jail("auth")]);
    world.fails(6, "192.0.2.1", "x");
    assert!(world.fails(9, "192.0.2.1", "x").is_empty());
    assert_eq!(told(&world.fails(9, "192.0.2.1", "x")), ["alert 192.0.2.1"]);
    assert!(world.engine.why(&Subject::Net(net("192.0.2.1"))).bans[0].ineffective);
}

#[test]
fn repeated_bans_last_longer_and_recidive_counts_them() {
    let recidive = Jail {
        on: vec![EventKind::Banned],
        findtime: Duration::from_secs(7 * 86_400),
        steps: vec![step(3, Action::Ban)],
        ban: BanSpec { bantime: Some(Duration::from_secs(7 * 86_400)), scope: Scope::Mail },
        ..jail("recidive")
    };
    let mut world = World::new(vec![jail("auth"), recidive]);
    assert_eq!(told(&world.fails(6, "192.0.2.1", "x")), ["ban 192.0.2.1 auth 3600"]);
    world.wait(2 * HOUR);
    assert_eq!(told(&world.fails(6, "192.0.2.1", "x")), ["ban 192.0.2.1 auth 14400"]);
    world.wait(5 * HOUR);
    assert_eq!(told(&world.fails(6, "192.0.2.1", "x")), ["ban 192.0.2.1 auth 57600", "ban 192.0.2.1 mail 604800"]);
    assert_eq!(world.engine.why(&Subject::Net(net("192.0.2.1"))).history.len(), 3);
    world.wait(40 * DAY);
    assert_eq!(told(&world.fails(6, "192.0.2.1", "x")), ["ban 192.0.2.1 auth 3600"], "forgotten after 30 days");
}

#[test]
fn observing_does_everything_but_the_effect() {
    let recidive = Jail { on: vec![EventKind::Banned], steps: vec![step(1, Action::Ban)], ..jail("recidive") };
    let mut world = World::new(vec![Jail { mode: Mode::Observe, ..jail("auth") }, recidive]);
    let decisions = world.fails(12, "192.0.2.1", "x");
    assert_eq!(told(&decisions), ["ban 192.0.2.1 auth 3600"; 2], "no escalation, and no recidive");
    assert!(decisions.iter().all(|decision| decision.observed));
    assert_eq!(world.engine.ban_count(), 0);
}

#[test]
fn a6_a_success_forgives_the_pair_and_nobody_else() {
    let mut world = World::new(vec![Jail { forgive: true, ..jail("auth") }]);
    // The owner with a typo: forgiven.
    for _ in 0..10 {
        assert!(world.fails(4, "192.0.2.1", "anna@a.example").is_empty());
        world.succeed("192.0.2.1", "anna@a.example");
    }
    // The attacker with a mailbox of his own.
    let mut banned = Vec::new();
    for _ in 0..2 {
        banned.extend(world.fails(4, "192.0.2.66", "anna@a.example"));
        world.succeed("192.0.2.66", "mallory@a.example");
    }
    assert_eq!(told(&banned), ["ban 192.0.2.66 auth 3600"]);
}

#[test]
fn a8_a_shared_address_is_judged_by_account() {
    let mut world = World::new(vec![
        jail("auth"),
        Jail { key: vec![KeyPart::Ip, KeyPart::Account], steps: vec![step(8, Action::Ban)], ..jail("pair") },
    ]);
    for account in ["a", "b", "c"] {
        world.succeed("192.0.2.1", account);
    }
    for account in ["a", "b", "c", "d", "e", "f", "g"] {
        assert!(world.fails(5, "192.0.2.1", account).is_empty(), "{account}");
    }
    world.wait(HOUR);
    let decisions = world.fails(20, "192.0.2.1", "a");
    assert_eq!(told(&decisions), ["alert 192.0.2.1"; 2], "one for each jail, and no more while it goes on");
    assert!(decisions[0].reason.ends_with("nothing done: several accounts log in from this address"), "{}", decisions[0].reason);
    assert_eq!(world.engine.ban_count(), 0);
}

/// Whoever tries name after name from a shared address is thrown out for a moment, as often as need be and never for longer.
#[test]
fn a8_a_shared_address_is_banned_for_a_moment_only() {
    let distinct = Jail { measure: Measure::Distinct(Distinct::Account), steps: vec![step(4, Action::Ban)], ..jail("shared") };
    let spec = BanSpec { bantime: Some(Duration::from_secs(600)), scope: Scope::Auth };
    let recidive = Jail { on: vec![EventKind::Banned], steps: vec![step(2, Action::Ban)], ..jail("recidive") };
    let mut world = World::new(vec![Jail { shared: true, ban: spec, ..distinct }, recidive]);
    for account in ["a", "b", "c"] {
        world.succeed("192.0.2.1", account);
    }
    for round in 0..3 {
        let decisions: Vec<_> = ["w", "x", "y", "z"].into_iter().flat_map(|account| world.fails(1, "192.0.2.1", account)).collect();
        assert_eq!(told(&decisions), ["ban 192.0.2.1 auth 600"], "round {round}");
        world.wait(HOUR);
    }
    let decisions: Vec<_> = ["w", "x", "y", "z"].into_iter().flat_map(|account| world.fails(1, "192.0.2.2", account)).collect();
    assert!(decisions.is_empty(), "an address that is not shared is for the other jails");
}

#[test]
fn an_own_mailbox_buys_no_immunity() {
    let mut world = World::new(vec![jail("auth")]);
    world.succeed("192.0.2.1", "mallory");
    assert_eq!(told(&world.fails(6, "192.0.2.1", "anna")), ["ban 192.0.2.1 auth 3600"]);
    let mut world = World::new(vec![Jail { unless: Unless { known_good: true, accepted: false }, ..jail("noise") }]);
    world.succeed("192.0.2.1", "mallory");
    assert!(world.fails(9, "192.0.2.1", "anna").is_empty());
    world.wait(30 * DAY);
    assert_eq!(told(&world.fails(6, "192.0.2.1", "anna")), ["ban 192.0.2.1 auth 3600"]);
}

#[test]
fn an_accepted_message_spares_where_a_jail_says_so() {
    let rejects = Jail { on: vec![EventKind::Reject], unless: Unless { known_good: false, accepted: true }, ..jail("unknown") };
    let mut world = World::new(vec![rejects]);
    let event = |kind, account| Event {
        ip: "192.0.2.1".parse().ok(),
        account,
        status: Some(DeliveryStatus::Sent),
        ..Event::new(kind, Timestamp::from_seconds(START))
    };
    world.engine.handle_event(&event(EventKind::Message, Some(b"anna")), Timestamp::from_seconds(START));
    assert!(
        !world.engine.why(&Subject::Net(net("192.0.2.1"))).known.is_some_and(|known| known.accepted),
        "a login's message says nothing about port 25"
    );
    world.engine.handle_event(&event(EventKind::Message, None), Timestamp::from_seconds(START));
    for _ in 0..20 {
        assert!(world.event(EventKind::Reject, from("192.0.2.1", "")).is_empty());
    }
    world.wait(7 * DAY);
    assert_eq!((0..6).flat_map(|_| world.event(EventKind::Reject, from("192.0.2.1", ""))).count(), 1);
}

#[test]
fn a7_a_siege_bans_the_strangers_who_took_part() {
    let mut world = World::with(EngineConfig {
        jails: vec![siege()],
        allow: AllowConfig { ignore: vec![net("10.9.0.1")], ..AllowConfig::default() },
        ..EngineConfig::default()
    });
    world.succeed("10.5.0.1", "victim");
    world.fail("10.5.0.1", "victim");
    world.fail("10.9.0.1", "victim");
    for n in 1..=9 {
        assert!(world.fail(&format!("10.{}.0.1", 100 + n), "victim").is_empty());
    }
    world.fail("10.101.0.2", "victim");
    let banned = told(&world.fail("2001:db8:7::1", "victim"));
    assert_eq!(banned.len(), 11, "{banned:?}");
    assert!(banned.contains(&"ban 10.101.0.2 auth 3600".to_owned()) && banned.contains(&"ban 2001:db8:7::/64 auth 3600".to_owned()));
    assert!(!banned.iter().any(|ban| ban.contains("10.5.0.1") || ban.contains("10.9.0.1")));
}

/// Jails share a table only where what is in it is the same for both.
#[test]
fn a_jail_changes_nothing_for_another_one() {
    let by_account = |name| Jail { key: vec![KeyPart::Account], measure: Measure::Distinct(Distinct::Network), ..jail(name) };
    let watch = Jail { steps: vec![step(2, Action::Alert)], ..by_account("watch") };
    let ban = Jail { steps: vec![step(100, Action::BanContributors)], ..by_account("ban") };
    for jails in [vec![watch.clone()], vec![watch, ban]] {
        let mut world = World::new(jails);
        world.succeed("10.1.0.1", "anna");
        world.succeed("10.2.0.1", "anna");
        world.fail("10.1.0.1", "anna");
        assert_eq!(told(&world.fail("10.2.0.1", "anna")), ["alert anna"], "failures of known addresses count for an alert");
    }
    let ratio = |name, min| Jail { measure: Measure::RatioBounced, min, ..jail(name) };
    assert_ne!(ratio("few", 2).identity(), ratio("many", 1_000).identity());
}

#[test]
fn failures_never_lock_an_account() {
    let mut world = World::new(vec![Jail { key: vec![KeyPart::Account], steps: vec![step(3, Action::Lock)], ..jail("lock") }]);
    let decisions = world.fails(9, "192.0.2.1", "anna");
    assert_eq!(told(&decisions), ["alert anna"]);
}

#[test]
fn what_others_did_to_an_account_is_not_held_against_its_owner() {
    let by_account = Jail { key: vec![KeyPart::Account], ..jail("account") };
    let mut world = World::new(vec![by_account]);
    world.succeed("192.0.2.1", "anna");
    world.fails(5, "198.51.100.7", "anna");
    assert_eq!(told(&world.fail("192.0.2.1", "anna")), ["alert anna"]);
    assert_eq!(world.engine.ban_count(), 0);
}

#[test]
fn outbound_mail_is_alerted_and_held_in_steps() {
    let outbound = Jail {
        on: vec![EventKind::Message],
        key: vec![KeyPart::Submitter],
        measure: Measure::SumRecipients,
        findtime: Duration::from_secs(3_600),
        steps: vec![step(100, Action::Alert), step(300, Action::Hold)],
        overrides: [
            ("news@shop.example".to_owned(), Override { class: Some("bulk".to_owned()), ..Override::default() }),
            ("bulk".to_owned(), Override { factor: Some(10.0), ..Override::default() }),
            ("@free.example".to_owned(), Override { limit: Some(10), ..Override::default() }),
            ("boss@free.example".to_owned(), Override { exempt: true, ..Override::default() }),
        ]
        .into(),
        ..jail("outbound")
    };
    let cases: [(&str, u32, &[&str]); 5] = [
        ("anna@shop.example", 99, &["alert", "hold"]),
        ("news@shop.example", 99, &[]),
        ("news@shop.example", 999, &["alert", "hold"]),
        ("x@free.example", 8, &["alert", "hold"]),
        ("boss@free.example", 5_000, &[]),
    ];
    for (submitter, recipients, expected) in cases {
        let mut world = World::new(vec![outbound.clone()]);
        let mut told = Vec::new();
        for _ in 0..5 {
            world.clock += 1;
            let event = Event {
                submitter: Some(submitter.as_bytes()),
                account: Some(submitter.as_bytes()),
                recipients,
                ..Event::new(EventKind::Message, world.now())
            };
            world.engine.handle_event(&event, world.now());
            told.extend(world.decisions().into_iter().map(|decision| decision.verb.to_string()));
        }
        assert_eq!(told, expected, "{submitter} {recipients}");
    }
}

#[test]
fn an_alert_is_re_armed_below_its_limit() {
    let mut world = World::new(vec![Jail { steps: vec![step(3, Action::Alert)], ..jail("alert") }]);
    assert_eq!(world.fails(10, "192.0.2.1", "x").len(), 1);
    world.clock += 600;
    assert_eq!(world.fails(10, "192.0.2.1", "x").len(), 1);
}

#[test]
fn a1_forged_lines_are_counted_and_told_and_nothing_else() {
    let mut world = World::new(vec![jail("auth")]);
    let forged = |at| Event {
        vouched: false,
        filter: "postfix",
        ip: "192.0.2.1".parse().ok(),
        line: b"forged",
        ..Event::new(EventKind::AuthFailure, at)
    };
    let mut alerts = 0;
    for _ in 0..100 {
        world.clock += 60;
        world.engine.handle_event(&forged(world.now()), world.now());
        alerts += world.decisions().len();
    }
    assert_eq!((alerts, world.engine.ban_count()), (2, 0), "once an hour");
    let status = world.engine.status();
    assert_eq!((status.forged[0].filter.as_str(), status.forged[0].lines, status.forged[0].last_line.as_str()), ("postfix", 100, "forged"));
}

#[test]
fn the_allow_list_always_wins() {
    let allow = AllowConfig {
        ignore: vec![net("198.51.100.7")],
        own: vec![net("192.0.2.5"), net("2001:db8::5")],
        relays: vec![net("203.0.113.0/29")],
        mynetworks: vec![net("10.0.0.0/8"), net("198.18.0.0/16")],
    };
    let cases = [
        ("198.51.100.7", 0),
        ("192.0.2.5", 0),
        ("2001:db8::5", 0),
        ("203.0.113.3", 0),
        ("10.1.2.3", 0),
        ("127.0.0.1", 0),
        ("198.18.7.7", 1),
        ("192.0.2.6", 1),
    ];
    for (ip, bans) in cases {
        let mut world = World::with(EngineConfig { jails: vec![jail("auth")], allow: allow.clone(), ..EngineConfig::default() });
        world.fails(9, ip, "x");
        assert_eq!(world.engine.ban_count(), bans, "{ip}");
    }
    let mut world = World::with(EngineConfig { jails: vec![jail("auth")], allow, ..EngineConfig::default() });
    assert_eq!(told(&world.fails(9, "2001:db8::6", "x")), ["alert 2001:db8::/64"], "a neighbour in our own /64");
}

#[test]
fn a9_networks_full_of_banned_addresses_are_banned() {
    let mut world = World::new(vec![jail("auth")]);
    let bans = |world: &mut World, count: u32, ip: &dyn Fn(u32) -> String| -> Vec<String> {
        (0..count).flat_map(|n| told(&world.fails(6, &ip(n), "x"))).filter(|ban| ban.contains('/')).collect()
    };
    assert_eq!(bans(&mut world, 9, &|n| format!("192.0.2.{n}")), ["ban 192.0.2.0/24 auth 3600"]);
    let wide = bans(&mut world, 64, &|n| format!("2001:db8:1:{:x}::1", n / 16 * 256 + n % 16));
    let wider: Vec<_> = wide.iter().filter(|ban| !ban.contains("/64")).collect();
    assert_eq!(
        wider,
        [
            "ban 2001:db8:1::/56 auth 3600",
            "ban 2001:db8:1:100::/56 auth 3600",
            "ban 2001:db8:1:200::/56 auth 3600",
            "ban 2001:db8:1:300::/56 auth 3600",
            "ban 2001:db8:1::/48 auth 3600"
        ]
    );
    world.succeed("198.51.100.200", "anna");
    assert_eq!(bans(&mut world, 100, &|n| format!("198.51.100.{n}")), [""; 0], "somebody good lives there");
    let mut world = World::with(EngineConfig {
        jails: vec![jail("auth")],
        allow: AllowConfig { ignore: vec![net("192.0.2.200")], ..AllowConfig::default() },
        ..EngineConfig::default()
    });
    assert_eq!(bans(&mut world, 100, &|n| format!("192.0.2.{n}")), [""; 0], "somebody ignored lives there");
}

#[test]
fn commands() {
    let mut world = World::with(EngineConfig {
        jails: vec![jail("auth")],
        allow: AllowConfig { own: vec![net("192.0.2.5")], ..AllowConfig::default() },
        ..EngineConfig::default()
    });
    let ban = |text: &str, minutes: Option<u64>, force| Command::Ban {
        net: net(text),
        duration: minutes.map(|minutes| Duration::from_secs(minutes * 60)),
        scope: Scope::Mail,
        reason: "because".to_owned(),
        force,
    };
    for refused in ["0.0.0.0/0", "192.0.2.0/24", "::/0", "127.0.0.1"] {
        let (reply, decisions) = world.command(ban(refused, None, false));
        assert!(matches!(reply, Reply::Refused(_)) && decisions.is_empty(), "{refused}");
    }
    let cases: Vec<(Command, Reply, &[&str])> = vec![
        (ban("198.51.100.77/24", Some(60), false), Reply::Done { changed: 1 }, &["ban 198.51.100.0/24 mail 3600"]),
        (ban("198.51.100.0/24", Some(60), false), Reply::Done { changed: 0 }, &[]),
        (ban("198.51.100.0/24", None, false), Reply::Done { changed: 1 }, &["ban 198.51.100.0/24 mail ever"]),
        (ban("198.51.100.9", Some(60), false), Reply::Done { changed: 1 }, &["ban 198.51.100.9 mail 3600"]),
        (Command::Unban { net: net("203.0.113.1") }, Reply::NotFound, &[]),
        (Command::Unban { net: net("198.51.100.9") }, Reply::Done { changed: 2 }, &["unban 198.51.100.0/24", "unban 198.51.100.9"]),
        (ban("192.0.2.0/24", Some(1), true), Reply::Done { changed: 1 }, &["ban 192.0.2.0/24 mail 60"]),
        (ban("2001:db8::1", Some(1), false), Reply::Done { changed: 1 }, &["ban 2001:db8::1 mail 60"]),
        (Command::Unban { net: net("2001:db8::/32") }, Reply::Done { changed: 1 }, &["unban 2001:db8::1"]),
        (Command::UnbanAll, Reply::Done { changed: 1 }, &["unban 192.0.2.0/24"]),
    ];
    for (command, reply, decisions) in cases {
        let text = format!("{command:?}");
        let (got, made) = world.command(command);
        assert_eq!(
            (got, told(&made).as_slice()),
            (reply, decisions.iter().map(|text| text.to_string()).collect::<Vec<_>>().as_slice()),
            "{text}"
        );
    }
}

#[test]
fn a_bad_night_is_undone_by_one_command() {
    let mut world = World::new(vec![jail("auth")]);
    world.fails(6, "192.0.2.1", "x");
    world.wait(100);
    let since = world.now();
    world.wait(1);
    world.fails(6, "192.0.2.2", "x");
    world.command(Command::Ban { net: net("192.0.2.1"), duration: None, scope: Scope::Auth, reason: String::new(), force: false });
    let (reply, decisions) = world.command(Command::Undo { since });
    assert_eq!(reply, Reply::Done { changed: 2 });
    assert_eq!(told(&decisions)[0], "unban 192.0.2.2");
    assert_eq!(decisions[1].until, Timestamp::from_seconds(START + 6 + HOUR), "{:?}", decisions[1]);
    assert_eq!(told(&world.fails(6, "192.0.2.2", "x")), ["ban 192.0.2.2 auth 3600"], "an undone ban makes no later one longer");
}

#[test]
fn reload_keeps_what_was_counted() {
    let config = |limit, ignore: &[&str]| EngineConfig {
        jails: vec![Jail { steps: vec![step(limit, Action::Ban)], ..jail("auth") }],
        allow: AllowConfig { ignore: ignore.iter().map(|text| net(text)).collect(), ..AllowConfig::default() },
        seed: Seed([11, 22]),
        persist: true,
        ..EngineConfig::default()
    };
    for (before, after) in [(6, 5), (6, 20), (20, 5)] {
        let mut world = World::with(config(before, &[]));
        world.fails(4, "192.0.2.1", "x");
        world.engine.reconfigure(config(after, &[]), world.now());
        let first = (1..=20).find(|_| !world.fail("192.0.2.1", "x").is_empty());
        assert_eq!(first, Some(after as usize - 4), "{before} to {after}");
        world.engine.reconfigure(config(after, &["192.0.2.0/24"]), world.now());
        assert_eq!(told(&world.decisions()), ["unban 192.0.2.1"], "now it is never banned");
    }
}

#[test]
fn jails_of_one_identity_share_a_table_and_not_their_bans() {
    let slow = Jail {
        findtime: Duration::from_secs(86_400),
        steps: vec![step(12, Action::Ban)],
        ban: BanSpec { bantime: Some(Duration::from_secs(86_400)), scope: Scope::Mail },
        ..jail("slow")
    };
    let mut world = World::new(vec![jail("auth"), slow]);
    assert_eq!(told(&world.fails(6, "192.0.2.1", "x")), ["ban 192.0.2.1 auth 3600"]);
    world.wait(2 * HOUR);
    assert_eq!(told(&world.fails(6, "192.0.2.1", "x")), ["ban 192.0.2.1 auth 14400", "ban 192.0.2.1 mail 345600"]);
    let status = world.engine.status();
    assert_eq!(
        status.jails.iter().map(|jail| (jail.jail.as_str(), jail.bans_total, jail.bans_now, jail.keys)).collect::<Vec<_>>(),
        [("auth", 2, 1, 0), ("slow", 1, 1, 0)]
    );
}

#[test]
fn why_tells_where_a_subject_stands() {
    let mut world = World::new(vec![jail("auth"), siege()]);
    world.succeed("192.0.2.1", "bert");
    world.fails(3, "192.0.2.1", "anna");
    world.fails(2, "192.0.2.9", "anna");
    let why = world.engine.why(&Subject::Net(net("192.0.2.1")));
    assert_eq!((why.counters.len(), why.counters[0].count, why.counters[0].limit, why.counters[0].findtime_seconds), (1, 3, 6, 600));
    assert_eq!((why.evidence.len(), why.known.as_ref().unwrap().good, why.allowed), (3, true, None));
    let why = world.engine.why(&Subject::Account("anna".to_owned()));
    assert_eq!((why.counters[0].jail.as_str(), why.counters[0].count), ("siege", 1), "only the stranger counts");
    world.fails(4, "192.0.2.9", "anna");
    let why = world.engine.why(&Subject::Net(net("192.0.2.9")));
    assert_eq!((why.bans[0].jail.as_str(), why.bans[0].evidence.len()), ("auth", 6));
    let json = serde_json::to_value(&why).unwrap();
    assert_eq!(json["bans"][0]["net"], "192.0.2.9");
    assert_eq!(serde_json::to_value(world.engine.status()).unwrap()["jails"][0]["bans_now"], 1);
}

#[test]
fn as_many_bans_as_there_may_be() {
    let mut world = World::with(EngineConfig { jails: vec![jail("auth")], bans_max: 3, ..EngineConfig::default() });
    let decisions: Vec<_> = (1..=4).flat_map(|n| world.fails(6, &format!("10.{n}.0.1"), "x")).collect();
    assert_eq!(told(&decisions)[3..], ["unban 10.1.0.1", "ban 10.4.0.1 auth 3600"]);
    assert_eq!((world.engine.ban_count(), world.engine.status().bans_evicted), (3, 1));
}

#[test]
fn what_lies_outside_every_window_does_not_count() {
    let mut world = World::new(vec![jail("auth")]);
    world.clock = HOUR;
    let late =
        |seconds| Event { ip: "192.0.2.1".parse().ok(), ..Event::new(EventKind::AuthFailure, Timestamp::from_seconds(START + seconds)) };
    for _ in 0..20 {
        world.engine.handle_event(&late(HOUR - 10 * MINUTE), world.now());
    }
    assert_eq!(world.engine.ban_count(), 0);
    for _ in 0..6 {
        world.engine.handle_event(&late(2 * DAY), world.now());
    }
    let bans: Vec<_> = world.engine.bans().collect();
    assert_eq!(bans[0].since, world.now(), "an event from the future counts as of now");
}

#[test]
fn bans_come_back_from_the_store() {
    let mut world = World::new(vec![jail("auth")]);
    world.fails(6, "192.0.2.1", "x");
    world.command(Command::Ban { net: net("192.0.2.2"), duration: None, scope: Scope::Auth, reason: "by hand".to_owned(), force: false });
    let saved: Vec<_> = world.engine.bans().collect();
    let mut other = World::new(vec![jail("auth")]);
    other.clock = world.clock;
    other.engine.handle_timeout(other.now());
    other.engine.restore_bans(saved.clone());
    let sorted = |mut bans: Vec<decision::Ban>| {
        bans.sort_by_key(|ban| ban.net);
        bans
    };
    assert_eq!(sorted(other.engine.bans().collect()), sorted(saved));
    assert!(other.fails(4, "192.0.2.1", "x").is_empty() && other.fails(4, "192.0.2.2", "x").is_empty());
    assert_eq!(told(&other.wait(2 * HOUR)), ["unban 192.0.2.1"], "the permanent one stays");
    assert_eq!(told(&other.fails(6, "192.0.2.1", "x")), ["ban 192.0.2.1 auth 14400"], "its history came with it");
}

#[test]
fn the_engine_may_move_to_its_thread() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&World::new(Vec::new()).engine);
}
