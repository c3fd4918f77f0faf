//! What an event, a key and a ban cost: `cargo bench --bench engine`. Times are CPU time of this thread, so that a busy
//! machine does not show; memory is what the process has resident.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mailwarden::engine::account::Family;
use mailwarden::engine::jail::{Action, BanSpec, Distinct, Jail, KeyPart, Measure, Mode, Scope, Step, Unless, Window};
use mailwarden::engine::sanction::SanctionConfig;
use mailwarden::engine::{Engine, EngineConfig, Seed};
use mailwarden::event::{Event, EventKind, Reason, Service};
use mailwarden::time::Timestamp;
use nix::time::{ClockId, clock_gettime};

const START: i64 = 1_795_489_200;
const LINE: &[u8] = b"Nov 24 02:31:15 mx postfix/submission/smtpd[4711]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username=anna@shop.example";

/// Each runs in a process of its own: memory that one gave back would hide what the next one takes.
type Section = (&'static str, fn(u32));
const SECTIONS: [Section; 7] = [
    ("uncounted", |_| uncounted()),
    ("one", |shrink| compare("one jail", one_jail, shrink)),
    ("five", |shrink| compare("five jails", five_jails, shrink)),
    ("memory", |shrink| memory(1_000_000 / shrink)),
    ("worst", |shrink| worst(4_000_000 / shrink)),
    ("bans", |shrink| bans(200_000 / shrink)),
    ("ends", |shrink| ends(200_000 / shrink)),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs it too, to see that it runs.
    let shrink = if args.iter().any(|arg| arg == "--bench") { 1 } else { 100 };
    match SECTIONS.iter().find(|(name, _)| args.iter().any(|arg| arg == name)) {
        Some((_, section)) => section(shrink),
        None => {
            for (name, _) in SECTIONS {
                let status = std::process::Command::new(&args[0]).args(&args[1..]).arg(name).status();
                assert!(status.is_ok_and(|status| status.success()), "{name} failed");
            }
        }
    }
}

fn compare(name: &str, jails: fn(u64) -> Vec<Jail>, shrink: u32) {
    for (how, foresee) in [("one by one", false), ("in batches, foreseen", true)] {
        let few = counted(name, jails, 1_024, foresee);
        let many = counted(name, jails, 1_000_000 / shrink, foresee);
        println!("    {how}: {:.2} times", many / few);
    }
}

fn jail(name: &str, findtime_seconds: u64) -> Jail {
    Jail {
        name: name.to_owned(),
        mode: Mode::Enforce,
        on: vec![EventKind::AuthFailure],
        filters: vec!["postfix".to_owned(), "dovecot".to_owned()],
        conditions: Vec::new(),
        weak: false,
        unless: Unless::default(),
        shared: false,
        key: vec![KeyPart::Ip],
        measure: Measure::Count,
        window: Window::Sliding,
        findtime: Duration::from_secs(findtime_seconds),
        weight: Vec::new(),
        steps: vec![Step { limit: 6, score: 0, then: vec![Action::Ban] }],
        min: 0,
        operators: 0,
        max: 100,
        family: Family::Login,
        ban: BanSpec { bantime: Some(Duration::from_secs(3_600)), scope: Scope::Auth },
        forgive: true,
        overrides: Default::default(),
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

fn uncounted() {
    let mut engine = engine(five_jails(600), true);
    let rounds = 2_000_000;
    let begin = cpu();
    for n in 0..rounds {
        let at = Timestamp::from_micros(START * 1_000_000 + i64::from(n));
        let event = Event { account: Some(b"anna@shop.example"), line: LINE, ..Event::new(EventKind::Delivery, at) };
        engine.handle_event(&event, at);
    }
    println!("event that no jail counts: {:.0} ns", per(begin, rounds));
}

/// One failure each second, from `keys` addresses in turn; each is forgotten before it fails again too often.
fn counted(name: &str, jails: fn(u64) -> Vec<Jail>, keys: u32, foresee: bool) -> f64 {
    let mut engine = engine(jails(u64::from(keys) * 3 / 2), true);
    let mut second = START;
    let mut run = |engine: &mut Engine, rounds: u32| {
        let begin = cpu();
        for batch in 0..rounds / BATCH {
            // Each address once a round, in an order that no cache foresees.
            let batch: [u32; BATCH as usize] =
                std::array::from_fn(|n| (u64::from(batch * BATCH + n as u32) * 611_953 % u64::from(keys)) as u32);
            if foresee {
                let accounts = batch.map(account);
                let coming = batch
                    .iter()
                    .zip(&accounts)
                    .map(|(who, account)| (EventKind::AuthFailure, Some(address(*who)), Some(account.as_slice())));
                engine.foresee(coming);
            }
            for who in batch {
                second += 1;
                let at = Timestamp::from_seconds(second);
                engine.handle_event(&failure(at, address(who), &account(who)), at);
                while engine.poll_decision().is_some() {}
            }
        }
        per(begin, rounds)
    };
    run(&mut engine, keys);
    // What a snapshot would have taken: not measured here.
    engine.begin_snapshot();
    while !engine.next_slice(10_000, &mut Vec::new()) {}
    let cost = run(&mut engine, 1_000_000);
    let status = engine.status();
    let (held, bans) = (status.jails[0].keys, status.jails.iter().map(|jail| jail.bans_total).sum::<u64>());
    println!("event counted, {name}, {keys} addresses: {cost:.0} ns ({held} keys held, {bans} bans)");
    cost
}

fn memory(keys: u32) {
    let before = resident();
    let mut engine = engine(one_jail(86_400), true);
    let mut event_of = |round: u32| {
        for n in 0..keys {
            let at = Timestamp::from_micros((START + i64::from(round)) * 1_000_000 + i64::from(n % 1_000_000));
            engine.handle_event(&failure(at, address(n), b"anna@shop.example"), at);
        }
    };
    (0..5).for_each(&mut event_of);
    let held = engine.status().jails[0].keys;
    println!(
        "memory, {held} keys of one count jail, five failures each, all changed since the last snapshot: {} bytes a key",
        (resident() - before) / held.max(1)
    );
}

fn worst(keys: u32) {
    let mut engine = engine(one_jail(86_400), true);
    let mut slowest = [Duration::ZERO; 3];
    let mut fed = 0u32;
    let mut feed = |engine: &mut Engine, count: u32, slowest: &mut [Duration; 3]| {
        for _ in 0..count {
            fed += 1;
            let at = Timestamp::from_micros(START * 1_000_000 + i64::from(fed) * 1_000);
            let begin = cpu();
            engine.handle_event(&failure(at, address(fed), b"anna@shop.example"), at);
            slowest[0] = slowest[0].max(cpu() - begin);
            slowest.sort_unstable();
        }
    };
    feed(&mut engine, keys, &mut slowest);
    println!("worst events while {keys} keys come in: {slowest:?}");
    let begin = cpu();
    engine.begin_snapshot();
    let freeze = cpu() - begin;
    let (mut slices, mut slice_max, mut rows) = (0, Duration::ZERO, 0);
    let mut slowest = [Duration::ZERO; 3];
    loop {
        let mut out = Vec::new();
        let begin = cpu();
        let done = engine.next_slice(500, &mut out);
        slice_max = slice_max.max(cpu() - begin);
        (slices, rows) = (slices + 1, rows + out.len());
        feed(&mut engine, 50, &mut slowest);
        if done {
            break;
        }
    }
    println!(
        "snapshot: freeze {freeze:?}, {rows} rows in {slices} slices of 500, worst slice {slice_max:?}, worst events meanwhile (table full, keys evicted) {slowest:?}"
    );
    println!("    evictions {}", engine.status().jails[0].evictions);
}

fn bans(count: u32) {
    let mut engine = engine(one_jail(600), false);
    let before = resident();
    let begin = cpu();
    let mut decisions = 0;
    for n in 0..count {
        let at = Timestamp::from_micros(START * 1_000_000 + i64::from(n));
        let event = Event { count: 6, ..failure(at, address(n), b"anna@shop.example") };
        engine.handle_event(&event, at);
        decisions += std::iter::from_fn(|| engine.poll_decision()).count();
    }
    println!("ban: {:.0} ns, {} bytes ({decisions} decisions)", per(begin, count), (resident() - before) / count as usize);
}

fn ends(count: u32) {
    let mut engine = engine(one_jail(600), false);
    for n in 0..count {
        let at = Timestamp::from_micros(START * 1_000_000 + i64::from(n));
        engine.handle_event(&Event { count: 6, ..failure(at, address(n), b"anna@shop.example") }, at);
        while engine.poll_decision().is_some() {}
    }
    let end = Timestamp::from_seconds(START + 7_200);
    let (begin, mut worst, mut ended) = (cpu(), Duration::ZERO, 0u32);
    while engine.ban_count() > 0 {
        let call = cpu();
        engine.handle_timeout(end);
        worst = worst.max(cpu() - call);
        ended += std::iter::from_fn(|| engine.poll_decision()).count() as u32;
    }
    println!("ban that ends: {:.0} ns, worst call {worst:?}", per(begin, ended.max(1)));
}

fn per(begin: Duration, rounds: u32) -> f64 {
    (cpu() - begin).as_nanos() as f64 / f64::from(rounds)
}
