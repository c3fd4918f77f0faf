//! What a line costs on its way through parser, correlator and engine, and what an event, a key and a ban cost in the engine alone.
//! Times are CPU time of this thread, so that a busy machine does not show; memory is what the process has resident.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mailwarden::config::{self, Paths};
use mailwarden::correlate::Correlator;
use mailwarden::engine::jail::{Action, BanSpec, Distinct, Jail, KeyPart, Measure, Scope, Step};
use mailwarden::engine::sanction::SanctionConfig;
use mailwarden::engine::{Engine, EngineConfig, Seed};
use mailwarden::event::{Event, EventKind, Reason, Service};
use mailwarden::parse::{Field, Outcome, Parsed, Parser, ParserOptions};
use mailwarden::time::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::table::{Row, milliseconds};

const START: i64 = 1_795_489_200;
const LINE: &[u8] = b"Nov 24 02:31:15 mx postfix/submission/smtpd[4711]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username=anna@shop.example";

/// The verb under which this program runs one of [`SECTIONS`] and prints its rows.
pub const VERB: &str = "engine-section";

/// Each runs in a process of its own: memory that one gave back would hide what the next one takes.
type Section = (&'static str, fn() -> Vec<Row>);
const SECTIONS: &[Section] = &[
    ("uncounted", uncounted),
    ("line", line),
    ("one", || compare("one jail", one_jail)),
    ("five", || compare("five jails", five_jails)),
    ("memory", memory),
    ("worst", worst),
    ("bans", bans),
    ("ends", ends),
];

pub fn measure() -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, _) in SECTIONS {
        let output = Command::new(std::env::current_exe()?).args([VERB, name]).stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(io::Error::other(format!("{name} failed ({})", output.status)));
        }
        rows.extend(text.lines().filter_map(Row::read));
    }
    Ok(rows)
}

/// Runs the section of that name and prints its rows; `false`: there is none.
pub fn print_section(wanted: &str) -> bool {
    let section = SECTIONS.iter().find(|(name, _)| *name == wanted);
    section.iter().flat_map(|(_, section)| section()).for_each(|row| println!("{}", row.written()));
    section.is_some()
}

/// The cost of a line with few and with many addresses, parsed, joined and counted in batches as the daemon takes them when lines wait.
fn line() -> Vec<Row> {
    let [few, many] = [FEW, MANY].map(|keys| counted(five_jails, keys, Feed::Lines));
    let what = format!("cost of a line, {FEW} → {MANY} addresses, five jails");
    vec![Row::at_most(what, 1.5, "×", many / few, format!("({few:.0} → {many:.0} ns)"))]
}

/// How much of that is the engine's part.
fn compare(name: &str, jails: fn(u64) -> Vec<Jail>) -> Vec<Row> {
    let cost = |feed| {
        let [few, many] = [FEW, MANY].map(|keys| counted(jails, keys, feed));
        format!("{:.2} × ({few:.0} → {many:.0} ns)", many / few)
    };
    let what = format!("cost of an event, {FEW} → {MANY} addresses, {name}");
    vec![Row::compare(what, cost(Feed::Batches)), Row::compare("    the same, each event by itself", cost(Feed::Events))]
}

fn jail(name: &str, findtime_seconds: u64) -> Jail {
    Jail {
        name: name.to_owned(),
        on: vec![EventKind::AuthFailure],
        filters: vec!["postfix".to_owned(), "dovecot".to_owned()],
        findtime: Duration::from_secs(findtime_seconds),
        steps: vec![Step { limit: 6, score: 0, then: vec![Action::Ban] }],
        ban: BanSpec { bantime: Some(Duration::from_secs(3_600)), scope: Scope::Auth },
        forgive: true,
        ..Jail::default()
    }
}

fn one_jail(findtime_seconds: u64) -> Vec<Jail> {
    vec![jail("auth", findtime_seconds)]
}

fn five_jails(findtime_seconds: u64) -> Vec<Jail> {
    let base = jail("auth", findtime_seconds);
    let siege = Measure::Distinct(Distinct::Network);
    vec![
        base.clone(),
        Jail { name: "names".into(), measure: Measure::Distinct(Distinct::Account), ..base.clone() },
        Jail { name: "pair".into(), key: vec![KeyPart::Ip, KeyPart::Account], ..base.clone() },
        Jail {
            name: "siege".into(),
            key: vec![KeyPart::Account],
            measure: siege,
            steps: vec![Step { limit: 10, score: 0, then: vec![Action::BanContributors] }],
            ..base.clone()
        },
        Jail { name: "recidive".into(), on: vec![EventKind::Banned], ..base },
    ]
}

fn engine(jails: Vec<Jail>, persist: bool) -> Engine {
    let config = EngineConfig {
        jails,
        seed: Seed([5, 6]),
        persist,
        sanction: SanctionConfig { widening: None, ..SanctionConfig::default() },
        ..EngineConfig::default()
    };
    Engine::new(config, Timestamp::from_seconds(START))
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0b00_0000 + n).into()
}

fn failure(at: Timestamp, ip: IpAddr, account: &[u8]) -> Event<'_> {
    Event {
        service: Service::Submission,
        reason: Reason::BadPassword,
        filter: "postfix",
        ip: Some(ip),
        account: Some(account),
        line: LINE,
        ..Event::new(EventKind::AuthFailure, at)
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a clock");
    Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32)
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

/// Addresses that fail in turn.
const FEW: u32 = 1_024;
const MANY: u32 = 1_000_000;
const BANNED: u32 = 200_000;
/// Events of one batch.
const BATCH: u32 = 64;

fn account(who: u32) -> [u8; 24] {
    let mut text = *b"user0000000@shop.example";
    let mut rest = who;
    for digit in text[4..11].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
}

fn uncounted() -> Vec<Row> {
    let mut engine = engine(five_jails(600), true);
    let rounds = 2_000_000;
    let begin = cpu();
    for n in 0..rounds {
        let at = Timestamp::from_micros(START * 1_000_000 + i64::from(n));
        let event = Event { account: Some(b"anna@shop.example"), line: LINE, ..Event::new(EventKind::Delivery, at) };
        engine.handle_event(&event, at);
    }
    vec![Row::compare("cost of an event that no jail counts", format!("{:.0} ns", per(begin, rounds)))]
}

/// What the engine is fed with.
#[derive(Clone, Copy)]
enum Feed {
    /// Events, each by itself.
    Events,
    /// Events, of which the engine sees the next ones coming.
    Batches,
    /// The same from lines.
    Lines,
}

/// One failure each second, from `keys` addresses in turn; each is forgotten before it fails again too often.
fn counted(jails: fn(u64) -> Vec<Jail>, keys: u32, feed: Feed) -> f64 {
    let mut engine = engine(jails(u64::from(keys) * 3 / 2), true);
    let mut front = Front::new();
    let mut second = START;
    let mut run = |engine: &mut Engine, rounds: u32| {
        let mut taken = Duration::ZERO;
        for batch in 0..rounds / BATCH {
            // Each address once a round, in an order that no cache foresees.
            let batch: [u32; BATCH as usize] =
                std::array::from_fn(|n| (u64::from(batch * BATCH + n as u32) * 611_953 % u64::from(keys)) as u32);
            taken += match feed {
                Feed::Lines => front.take(&batch, second, engine),
                Feed::Batches => take(&batch, second, true, engine),
                Feed::Events => take(&batch, second, false, engine),
            };
            second += i64::from(BATCH);
        }
        taken.as_nanos() as f64 / f64::from(rounds)
    };
    run(&mut engine, keys);
    // What a snapshot would have taken: not measured here.
    engine.begin_snapshot();
    while !engine.next_slice(10_000, &mut Vec::new()) {}
    let cost = run(&mut engine, 1_000_000);
    let counting = &engine.status().jails[0];
    assert!(counting.keys >= keys as usize && counting.bans_total == 0, "{} of {keys} keys held", counting.keys);
    cost
}

/// Counts a failure of each of `batch`, one a second from `second` on.
fn take(batch: &[u32], second: i64, foresee: bool, engine: &mut Engine) -> Duration {
    let accounts: Vec<[u8; 24]> = batch.iter().map(|who| account(*who)).collect();
    let begin = cpu();
    let coming = || batch.iter().zip(&accounts);
    if foresee {
        engine.foresee(coming().map(|(who, account)| (EventKind::AuthFailure, Some(address(*who)), Some(account.as_slice()))));
    }
    for ((who, account), second) in coming().zip(second..) {
        let at = Timestamp::from_seconds(second);
        engine.handle_event(&failure(at, address(*who), account), at);
        while engine.poll_decision().is_some() {}
    }
    cpu() - begin
}

/// The stages before the engine, as shipped.
struct Front {
    parser: Parser,
    correlator: Correlator,
}

impl Front {
    fn new() -> Front {
        let config = config::load(&Paths::choose(Some(Path::new(env!("CARGO_MANIFEST_DIR"))))).expect("the shipped configuration is right");
        let options = ParserOptions::new(Timestamp::from_seconds(START + 10 * 365 * 86_400));
        Front { parser: Parser::new(config.filters.set, options), correlator: Correlator::new(config.accounts, Vec::new()) }
    }

    /// As [`take`], from lines.
    fn take(&mut self, batch: &[u32], second: i64, engine: &mut Engine) -> Duration {
        let lines: Vec<String> = batch.iter().zip(second..).map(|(who, second)| failed_login(*who, second)).collect();
        let begin = cpu();
        let parse = |line| match self.parser.parse(line, None) {
            Outcome::Line(parsed) => parsed,
            _ => panic!("a failed login is recognised"),
        };
        let parsed: Vec<Parsed> = lines.iter().map(String::as_bytes).map(parse).collect();
        let told = || parsed.iter().zip(lines.iter().map(String::as_bytes));
        engine.foresee(told().filter_map(|(parsed, line)| Some((parsed.kind.event()?, parsed.client, parsed.text(line, Field::Account)))));
        for (parsed, line) in told() {
            let filter = self.parser.filters().filter_name(parsed.pattern);
            self.correlator.handle(line, parsed, filter, true, parsed.time, &mut |event| engine.handle_event(event, parsed.time));
            while engine.poll_decision().is_some() {}
        }
        cpu() - begin
    }
}

fn failed_login(who: u32, second: i64) -> String {
    let (time, pid, ip) = (Timestamp::from_seconds(second).rfc3339(), 1_000 + who % 1_000, address(who));
    let account = String::from_utf8_lossy(&account(who)).into_owned();
    format!(
        "{time} mx postfix/submission/smtpd[{pid}]: warning: unknown[{ip}]: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username={account}"
    )
}

/// One count jail, five failures each, all changed since the last snapshot.
fn memory() -> Vec<Row> {
    let before = resident();
    let mut engine = engine(one_jail(86_400), true);
    for round in 0..5 {
        for n in 0..MANY {
            let at = Timestamp::from_micros((START + round) * 1_000_000 + i64::from(n));
            engine.handle_event(&failure(at, address(n), b"anna@shop.example"), at);
        }
    }
    let held = engine.status().jails[0].keys.max(1);
    let bytes = (resident() - before) as f64 / held as f64;
    vec![Row::at_most(format!("memory a key of the engine, {held} keys"), 150.0, "bytes", bytes, "")]
}

/// The longest that anything waits for one event: while the table grows, and while a snapshot of the full table is taken, whose slices
/// come between two batches of events.
fn worst() -> Vec<Row> {
    const KEYS: u32 = 4_000_000;
    let mut engine = engine(one_jail(86_400), true);
    let mut fed = 0;
    let mut feed = |engine: &mut Engine, count: u32| {
        let mut slowest = Duration::ZERO;
        for _ in 0..count {
            fed += 1;
            let at = Timestamp::from_micros(START * 1_000_000 + i64::from(fed) * 1_000);
            let begin = cpu();
            engine.handle_event(&failure(at, address(fed), b"anna@shop.example"), at);
            slowest = slowest.max(cpu() - begin);
        }
        slowest
    };
    let growth = feed(&mut engine, KEYS);
    let begin = cpu();
    engine.begin_snapshot();
    let (mut slice, mut event, mut done) = (cpu() - begin, Duration::ZERO, false);
    while !done {
        let (mut rows, begin) = (Vec::new(), cpu());
        done = engine.next_slice(500, &mut rows);
        slice = slice.max(cpu() - begin);
        event = event.max(feed(&mut engine, 50));
    }
    let [growth, slice, event] = [growth, slice, event].map(milliseconds);
    let how = format!("(table grows {growth:.2}, slice of a snapshot {slice:.2}, full table meanwhile {event:.2})");
    vec![Row::at_most(format!("worst single event, {KEYS} keys"), 5.0, "ms", growth.max(slice).max(event), how)]
}

/// An engine in which so many are banned.
fn banned(count: u32) -> (Engine, Duration) {
    let mut engine = engine(one_jail(600), false);
    let begin = cpu();
    for n in 0..count {
        let at = Timestamp::from_micros(START * 1_000_000 + i64::from(n));
        engine.handle_event(&Event { count: 6, ..failure(at, address(n), b"anna@shop.example") }, at);
        while engine.poll_decision().is_some() {}
    }
    let taken = cpu() - begin;
    (engine, taken)
}

fn bans() -> Vec<Row> {
    let before = resident();
    let (engine, taken) = banned(BANNED);
    let bytes = (resident() - before) as f64 / engine.ban_count().max(1) as f64;
    let how = format!("({BANNED} bans, {:.0} ns each)", taken.as_nanos() as f64 / f64::from(BANNED));
    vec![Row::at_most("memory a ban of the engine", 200.0, "bytes", bytes, how)]
}

/// All at once, as after a long pause.
fn ends() -> Vec<Row> {
    let (mut engine, _) = banned(BANNED);
    let end = Timestamp::from_seconds(START + 7_200);
    let mut worst = Duration::ZERO;
    while engine.ban_count() > 0 {
        let begin = cpu();
        engine.handle_timeout(end);
        worst = worst.max(cpu() - begin);
        while engine.poll_decision().is_some() {}
    }
    vec![Row::at_most(format!("worst call while {BANNED} bans end"), 5.0, "ms", milliseconds(worst), "")]
}

fn per(begin: Duration, rounds: u32) -> f64 {
    (cpu() - begin).as_nanos() as f64 / f64::from(rounds)
}
