//! A mail host's days in miniature, on a virtual clock: honest people, an office, other servers, and attackers of every kind.
//!
//! Whatever the seed: nobody honest is banned, every ban ends, memory is bounded, what the decisions tell is what the ledger
//! holds, the same seed gives the same decisions, and a crash between two lines changes nothing.

#[expect(dead_code, reason = "not all of it is needed here")]
#[path = "support/dice.rs"]
mod dice;

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use mailwarden::engine::account::RiskRules;
use mailwarden::engine::allow::AllowConfig;
use mailwarden::engine::decision::{Ban, Decision, Subject, Verb};
use mailwarden::engine::jail::{Action, BanSpec, Condition, Distinct, Jail, KeyPart, Measure, Scope, Step, Test, Unless};
use mailwarden::engine::sanction::SanctionConfig;
use mailwarden::engine::snapshot::SnapshotRow;
use mailwarden::engine::{Engine, EngineConfig, Seed};
use mailwarden::event::{Event, EventKind, Reason, Service};
use mailwarden::time::Timestamp;

use crate::dice::Dice;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const START: i64 = 20_780 * DAY;
const KEYS_MAX: usize = 2_000;
const BANS_MAX: usize = 400;

/// An event that owns its texts.
#[derive(Clone, Debug)]
struct Told {
    at: i64,
    kind: EventKind,
    ip: IpAddr,
    account: Option<String>,
    service: Service,
    reason: Reason,
    vouched: bool,
    recipient: Option<String>,
}

impl Told {
    fn event<'a>(&'a self, line: &'a str) -> Event<'a> {
        Event {
            service: self.service,
            reason: self.reason,
            vouched: self.vouched,
            filter: "postfix",
            ip: Some(self.ip),
            account: self.account.as_deref().map(str::as_bytes),
            recipient: self.recipient.as_deref().map(str::as_bytes),
            recipients: 1,
            line: line.as_bytes(),
            ..Event::new(self.kind, Timestamp::from_micros(self.at))
        }
    }
}

/// Everything that happens, by time, and who is who.
struct Story {
    events: Vec<Told>,
    honest: HashSet<IpAddr>,
    /// Must be banned at some time.
    caught: HashSet<IpAddr>,
}

struct Teller {
    dice: Dice,
    days: i64,
    story: Story,
}

impl Teller {
    fn tell(seed: u64, days: i64) -> Story {
        let mut teller =
            Teller { dice: Dice(seed), days, story: Story { events: Vec::new(), honest: HashSet::new(), caught: HashSet::new() } };
        teller.people();
        teller.office();
        teller.servers();
        teller.brute_forcers();
        teller.botnet();
        teller.insider();
        teller.forger();
        teller.flood();
        teller.story.events.sort_by_key(|told| told.at);
        teller.story
    }

    fn end(&self) -> i64 {
        START + self.days * DAY
    }

    fn add(&mut self, at: i64, kind: EventKind, ip: IpAddr, account: &str) -> &mut Told {
        let (service, reason) = (Service::Submission, Reason::BadPassword);
        let account = Some(account.to_owned()).filter(|account| !account.is_empty());
        self.story.events.push(Told { at, kind, ip, account, service, reason, vouched: true, recipient: None });
        let last = self.story.events.len() - 1;
        &mut self.story.events[last]
    }

    /// Log in every few hours, mistype now and then, travel now and then.
    fn people(&mut self) {
        for person in 0..120u64 {
            let account = format!("person{person}@a.example");
            let mut ip = self.home(person);
            let mut at = START + self.dice.between(0, HOUR);
            while at < self.end() {
                if self.dice.below(40) == 0 {
                    let elsewhere = 1_000 + self.dice.below(5_000);
                    ip = self.home(elsewhere);
                }
                self.story.honest.insert(ip);
                for _ in 0..self.dice.below(8).saturating_sub(4) {
                    self.add(at, EventKind::AuthFailure, ip, &account);
                    at += self.dice.between(SECOND, MINUTE);
                }
                self.add(at, EventKind::AuthSuccess, ip, &account);
                at += self.dice.between(30 * MINUTE, 6 * HOUR);
            }
        }
    }

    fn home(&mut self, number: u64) -> IpAddr {
        if number.is_multiple_of(3) {
            return Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number) << 64 | u128::from(self.dice.roll())).into();
        }
        IpAddr::from([10, 1, (number / 200) as u8, (number % 200) as u8])
    }

    /// Ten people behind one address; one of them has an old phone that fails for ever.
    fn office(&mut self) {
        let ip = IpAddr::from([10, 2, 0, 1]);
        self.story.honest.insert(ip);
        for clerk in 0..10 {
            self.add(START + clerk * SECOND, EventKind::AuthSuccess, ip, &format!("clerk{clerk}@a.example"));
        }
        let mut at = START + MINUTE;
        while at < self.end() {
            let clerk = self.dice.below(10);
            self.add(at, EventKind::AuthSuccess, ip, &format!("clerk{clerk}@a.example"));
            for _ in 0..4 {
                self.add(at + SECOND, EventKind::AuthFailure, ip, "clerk3@a.example");
                at += self.dice.between(SECOND, 2 * MINUTE);
            }
        }
    }

    /// Other mail servers: accepted messages, and a wrong recipient now and then.
    fn servers(&mut self) {
        for server in 0..30u8 {
            let ip = IpAddr::from([10, 3, server, 25]);
            self.story.honest.insert(ip);
            let mut at = START + self.dice.between(0, 10 * MINUTE);
            while at < self.end() {
                self.add(at, EventKind::Message, ip, "").service = Service::Smtp;
                for _ in 0..self.dice.below(12).saturating_sub(8) {
                    self.refuse(at + SECOND, ip, Reason::UnknownRecipient);
                }
                at += self.dice.between(MINUTE, 3 * HOUR);
            }
        }
    }

    fn refuse(&mut self, at: i64, ip: IpAddr, reason: Reason) {
        let recipient = format!("guess{}@a.example", self.dice.below(1_000_000_000));
        let told = self.add(at, EventKind::Reject, ip, "");
        (told.service, told.reason, told.recipient) = (Service::Smtp, reason, Some(recipient));
    }

    /// Fast ones, ones that walk through their /64, harvesters, and one that comes back for days.
    fn brute_forcers(&mut self) {
        for attacker in 0..60u8 {
            let mut at = START + self.dice.between(HOUR, self.days * DAY - 2 * HOUR);
            let ip = IpAddr::from([10, 66, attacker, 6]);
            self.story.caught.insert(ip);
            for _ in 0..self.dice.between(8, 400) {
                let account = format!("person{}@a.example", self.dice.below(150));
                self.add(at, EventKind::AuthFailure, ip, &account);
                at += self.dice.between(0, 40 * SECOND);
            }
            let v6 = Ipv6Addr::from(0x2001_0db8_0066_u128 << 80 | u128::from(attacker) << 64 | u128::from(self.dice.roll()));
            self.story.caught.insert(v6.into());
            for n in 0..30u128 {
                let next = Ipv6Addr::from(u128::from(v6) & !0xffff | n);
                self.add(at + n as i64 * SECOND, EventKind::AuthFailure, next.into(), "root");
            }
            let harvester = IpAddr::from([10, 67, attacker, 6]);
            self.story.caught.insert(harvester);
            for n in 0..40 {
                self.refuse(at + n * SECOND, harvester, Reason::UnknownRecipient);
            }
        }
        let recidivist = IpAddr::from([10, 68, 0, 1]);
        self.story.caught.insert(recidivist);
        let mut at = START;
        while at < self.end() {
            self.add(at, EventKind::AuthFailure, recidivist, "admin");
            at += 90 * SECOND;
        }
    }

    /// One try from each address, all at one account.
    fn botnet(&mut self) {
        for wave in 0..self.days {
            for bot in 0..40u8 {
                let at = START + wave * DAY + 5 * HOUR + self.dice.between(0, 30 * MINUTE);
                let ip = IpAddr::from([10, 70 + wave as u8, bot, 7]);
                self.add(at, EventKind::AuthFailure, ip, "person7@a.example");
            }
        }
    }

    /// Has a mailbox of his own and uses its success to wash himself.
    fn insider(&mut self) {
        let ip = IpAddr::from([10, 69, 0, 1]);
        self.story.caught.insert(ip);
        let mut at = START + DAY / 2;
        for round in 0..50 {
            for _ in 0..4 {
                self.add(at, EventKind::AuthFailure, ip, &format!("person{}@a.example", round % 5));
                at += SECOND;
            }
            self.add(at, EventKind::AuthSuccess, ip, "insider@a.example");
            at += 10 * SECOND;
        }
    }

    /// A local user who writes lines about innocent addresses.
    fn forger(&mut self) {
        for n in 0..2_000 {
            let person = self.dice.below(120);
            let ip = self.home(person);
            self.story.honest.insert(ip);
            self.add(START + DAY / 3 + n * SECOND, EventKind::AuthFailure, ip, "person1@a.example").vouched = false;
        }
    }

    /// More addresses than any table has room for.
    fn flood(&mut self) {
        for n in 0..12_000u32 {
            let ip = IpAddr::from((0x0b00_0000 + n.wrapping_mul(2_654_435_761) % 0x00ff_ffff).to_be_bytes());
            let at = START + DAY + self.dice.between(0, HOUR);
            self.add(at, EventKind::AuthFailure, ip, &format!("{n}@nowhere.example"));
        }
    }
}

fn config() -> EngineConfig {
    let step = |limit, then| vec![Step { limit, score: 0, then: vec![then] }];
    let spec = |hours: u64, scope| BanSpec { bantime: Some(Duration::from_secs(hours * 3_600)), scope };
    let base = Jail {
        name: "auth".to_owned(),
        on: vec![EventKind::AuthFailure],
        findtime: Duration::from_secs(600),
        steps: step(6, Action::Ban),
        ban: spec(1, Scope::Auth),
        forgive: true,
        ..Jail::default()
    };
    let day = Duration::from_secs(86_400);
    let jails = vec![
        Jail { name: "auth-slow".to_owned(), findtime: day, steps: step(20, Action::Ban), ban: spec(24, Scope::Auth), ..base.clone() },
        Jail {
            name: "siege".to_owned(),
            key: vec![KeyPart::Account],
            measure: Measure::Distinct(Distinct::Network),
            findtime: Duration::from_secs(3_600),
            steps: step(10, Action::BanContributors),
            ..base.clone()
        },
        Jail {
            name: "harvest".to_owned(),
            on: vec![EventKind::Reject],
            conditions: vec![Condition { negated: false, test: Test::Reason(vec![Reason::UnknownRecipient]) }],
            measure: Measure::Distinct(Distinct::Recipient),
            steps: step(20, Action::Ban),
            ban: spec(1, Scope::Mx),
            unless: Unless { known_good: false, accepted: true },
            forgive: false,
            ..base.clone()
        },
        Jail {
            name: "recidive".to_owned(),
            on: vec![EventKind::Banned],
            findtime: 7 * day,
            steps: step(3, Action::Ban),
            ban: spec(7 * 24, Scope::Mail),
            forgive: false,
            ..base.clone()
        },
        Jail { name: "flood".to_owned(), key: vec![KeyPart::Global], steps: step(2_000, Action::Alert), forgive: false, ..base.clone() },
        base,
    ];
    let allow = AllowConfig { ignore: vec!["10.68.9.0/24".parse().unwrap()], ..AllowConfig::default() };
    EngineConfig {
        jails,
        allow,
        sanction: SanctionConfig::default(),
        risk: RiskRules::default(),
        seed: Seed([3, 4]),
        persist: true,
        enforced: true,
        keys_per_table_max: KEYS_MAX,
        bans_max: BANS_MAX,
    }
}

fn engine() -> Engine {
    Engine::new(config(), Timestamp::from_micros(START))
}

fn feed(engine: &mut Engine, told: &Told, decisions: &mut Vec<Decision>) {
    let line = format!("{} {:?} {} {:?}", told.at, told.kind, told.ip, told.account);
    engine.handle_event(&told.event(&line), Timestamp::from_micros(told.at));
    decisions.extend(std::iter::from_fn(|| engine.poll_decision()));
}

fn net(decision: &Decision) -> IpNetwork {
    match &decision.subject {
        Subject::Net(net) => *net,
        Subject::Account(name) => panic!("a ban of account {name}"),
    }
}

/// What the decisions so far say is in force.
#[derive(Default)]
struct Model(BTreeMap<(IpNetwork, Scope), Timestamp>);

impl Model {
    fn apply(&mut self, decision: &Decision) {
        match decision.verb {
            Verb::Ban if !decision.observed => drop(self.0.insert((net(decision), decision.scope), decision.until)),
            Verb::Unban => assert!(self.0.remove(&(net(decision), decision.scope)).is_some(), "{decision:?} lifts nothing"),
            _ => {}
        }
    }

    fn check(&self, engine: &Engine) {
        let ledger: BTreeMap<_, _> = engine.bans().map(|ban| ((ban.net, ban.scope), ban.until)).collect();
        assert_eq!(self.0, ledger);
    }
}

fn play(seed: u64) {
    let story = Teller::tell(seed, 3);
    let mut engine = engine();
    let mut model = Model::default();
    let (mut all, mut ids, mut banned) = (Vec::new(), HashSet::new(), HashSet::new());
    for (number, told) in story.events.iter().enumerate() {
        let mut decisions = Vec::new();
        feed(&mut engine, told, &mut decisions);
        for decision in &decisions {
            assert!(ids.insert(decision.id), "seed {seed}: {decision:?} has the id of another one");
            model.apply(decision);
            if decision.verb == Verb::Ban {
                let net = net(decision);
                assert!(net.prefix() >= if net.is_ipv4() { 24 } else { 48 }, "seed {seed}: {decision:?} is too wide");
                assert!(decision.until < Timestamp::NEVER && decision.until > decision.time);
                let innocent = story.honest.iter().find(|ip| net.contains(**ip));
                assert!(innocent.is_none(), "seed {seed}: {decision:?} hits {innocent:?}");
                banned.insert(net);
            }
        }
        assert!(engine.ban_count() <= BANS_MAX);
        if number % 500 == 0 {
            model.check(&engine);
            let status = engine.status();
            assert!(status.jails.iter().all(|jail| jail.keys <= KEYS_MAX), "seed {seed}: {status:?}");
        }
        all.extend(decisions);
    }
    for ip in &story.caught {
        assert!(banned.iter().any(|net| net.contains(*ip)), "seed {seed}: {ip} got away");
    }
    let status = engine.status();
    assert!(status.jails.iter().any(|jail| jail.evictions > 0) && status.forged[0].lines == 2_000);
    while engine.ban_count() > 0 {
        let next = engine.poll_timeout().expect("a ban ends");
        engine.handle_timeout(next);
        std::iter::from_fn(|| engine.poll_decision()).for_each(|decision| model.apply(&decision));
        assert!(next.micros() < START + 60 * DAY, "seed {seed}: a ban does not end");
    }
    model.check(&engine);
    assert!(all == replay(&story), "seed {seed}: not the same twice");
}

fn replay(story: &Story) -> Vec<Decision> {
    let mut engine = engine();
    let mut all = Vec::new();
    for batch in story.events.chunks(64) {
        // What the core does with a batch: it must change nothing.
        engine.foresee(batch.iter().map(|told| (told.kind, Some(told.ip), told.account.as_deref().map(str::as_bytes))));
        batch.iter().for_each(|told| feed(&mut engine, told, &mut all));
    }
    all
}

#[test]
fn nobody_honest_is_banned_and_every_ban_ends() {
    for seed in 1..=3 {
        play(seed);
    }
}

/// The store: rows by table and key.
#[derive(Clone, Default)]
struct Rows(BTreeMap<(u64, u128), Vec<u8>>);

impl Rows {
    fn apply(&mut self, rows: &[SnapshotRow]) {
        for row in rows {
            if row.value.is_empty() {
                self.0.remove(&(row.table, row.key));
            } else {
                self.0.insert((row.table, row.key), row.value.clone());
            }
        }
    }

    fn all(&self) -> Vec<SnapshotRow> {
        self.0.iter().map(|((table, key), value)| SnapshotRow { table: *table, key: *key, value: value.clone() }).collect()
    }
}

/// Everything of a decision but its evidence: the lines before the crash are gone.
fn essence(decision: &Decision) -> (u64, Timestamp, Verb, Subject, Scope, Timestamp, String) {
    (decision.id, decision.time, decision.verb, decision.subject.clone(), decision.scope, decision.until, decision.reason.clone())
}

/// The bans that a store keeps: those in force, and those that ended since the cut of the last complete snapshot.
#[derive(Default)]
struct Book {
    open: BTreeMap<(IpNetwork, Scope), Ban>,
    ended: Vec<Ban>,
}

impl Book {
    fn apply(&mut self, decision: &Decision) {
        if !matches!(decision.verb, Verb::Ban | Verb::Unban) {
            return;
        }
        let key = (net(decision), decision.scope);
        let before = self.open.remove(&key);
        if decision.verb == Verb::Unban {
            self.ended.extend(before);
            return;
        }
        let ban = Ban {
            id: decision.id,
            net: key.0,
            scope: decision.scope,
            since: before.map_or(decision.time, |before| before.since),
            until: decision.until,
            jail: decision.jail.clone(),
            reason: decision.reason.clone(),
            cause: decision.cause,
            earlier: 0,
            evidence: Vec::new(),
        };
        self.open.insert(key, ban);
    }

    fn all(&self) -> Vec<Ban> {
        self.open.values().chain(&self.ended).cloned().collect()
    }
}

/// Room for everybody: who goes when a table is full depends on where the keys lie in it.
fn roomy() -> Engine {
    Engine::new(EngineConfig { keys_per_table_max: 100_000, ..config() }, Timestamp::from_micros(START))
}

/// Snapshots begin at random lines and are written while more lines come in. A crash loses what was not written; the lines
/// after the cut of the last complete snapshot come again.
fn crash(seed: u64) {
    let mut dice = Dice(seed ^ 0xc4a5);
    let events = Teller::tell(seed, 2).events;
    let from = dice.below(events.len() as u64 / 2) as usize;
    let events = &events[from..from + events.len() / 3];
    let (mut live, mut decisions, mut before) = (roomy(), Vec::new(), Vec::new());
    let (mut rows, mut book) = (Rows::default(), Book::default());
    // Lines before the cut, bans at the cut, rows so far.
    let mut open: Option<(usize, Vec<Ban>, Vec<SnapshotRow>)> = None;
    let mut complete: Option<(usize, Vec<Ban>, Rows)> = None;
    for (number, told) in events.iter().enumerate() {
        if open.is_none() && dice.below(300) == 0 {
            live.begin_snapshot();
            open = Some((number, live.bans().collect(), Vec::new()));
        }
        before.push(decisions.len());
        feed(&mut live, told, &mut decisions);
        decisions[before[number]..].iter().for_each(|decision| book.apply(decision));
        if let Some((_, _, slices)) = &mut open
            && live.next_slice(1 + dice.below(40) as usize, slices)
            && let Some((cut, bans, slices)) = open.take()
        {
            rows.apply(&slices);
            book.ended.retain(|ban| ban.until.micros() > events[cut].at);
            complete = Some((cut, bans, rows.clone()));
        }
    }
    let (cut, bans_at_cut, rows) = complete.expect("a snapshot was completed");
    let bans_at_crash = book.all();
    for (bans, is_crash) in [(bans_at_cut, false), (bans_at_crash, true)] {
        let mut again = roomy();
        again.restore(&rows.all());
        again.restore_bans(bans.clone());
        let mut repeated = Vec::new();
        events[cut..].iter().for_each(|told| feed(&mut again, told, &mut repeated));
        let known: HashSet<u64> = if is_crash { bans.iter().map(|ban| ban.id).collect() } else { HashSet::new() };
        // An alert that is told once an hour or once a ban may be told again, and a ban that is known already is not.
        let essential = |decisions: &[Decision]| -> Vec<_> {
            decisions
                .iter()
                .filter(|decision| matches!(decision.verb, Verb::Ban | Verb::Unban) && !known.contains(&decision.id))
                .map(essence)
                .collect()
        };
        assert_eq!(essential(&decisions[before[cut]..]), essential(&repeated), "seed {seed}, cut {cut}, crash {is_crash}");
        let ledger =
            |engine: &Engine| -> BTreeMap<_, _> { engine.bans().map(|ban| ((ban.net, ban.scope), (ban.since, ban.until))).collect() };
        assert_eq!(ledger(&live), ledger(&again), "seed {seed}, cut {cut}, crash {is_crash}");
    }
}

#[test]
fn a_crash_between_two_lines_changes_nothing() {
    for seed in 1..=20 {
        crash(seed);
    }
}
