//! Two weeks of everybody, judged at every decision.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use mailwarden::engine::account::{Family, Hindrance, Stopped};
use mailwarden::engine::decision::{Ban, Command, Decision, Reply, Subject, Verb};
use mailwarden::engine::jail::Scope;
use mailwarden::engine::snapshot::SnapshotRow;
use mailwarden::time::Timestamp;

use crate::dice::Dice;
use crate::host::{Host, Reader, engine, is_stop, sentence, shipped};
use crate::log::DAY;
use crate::people::VMAIL;
use crate::thieves::{GHOSTS, World, world};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=10;
/// Points that make a family count as one of the two that a lock needs.
const FAMILY_POINTS_MIN: u32 = 15;

/// What is wrong with a decision.
fn judge(world: &World, host: &Host, is_locked: bool, decision: &Decision) -> Option<&'static str> {
    let Subject::Account(name) = &decision.subject else { return None };
    if !is_stop(decision) {
        return None;
    }
    let theft = world.stolen.get(name).filter(|theft| theft.since <= decision.time.micros());
    let is_system = name.starts_with("forward:") || *name == format!("local:{VMAIL}") || name == "local:33";
    let families = host.view(name).families.iter().filter(|(_, points)| *points >= FAMILY_POINTS_MIN).count();
    if GHOSTS.contains(&name.as_str()) {
        Some("a name that only failures name")
    } else if is_system {
        Some("a user of the system")
    } else if theft.is_none() {
        Some("in nobody else's hands")
    } else if decision.verb == Verb::Lock && !is_locked && families < 2 {
        Some("locked for one kind of sign")
    } else {
        None
    }
}

/// Whether its subject was not locked before.
fn told_free(before: &[Decision], decision: &Decision) -> bool {
    let earlier = before
        .iter()
        .rev()
        .find(|earlier| earlier.subject == decision.subject && !earlier.observed && matches!(earlier.verb, Verb::Lock | Verb::Unlock));
    earlier.is_none_or(|earlier| earlier.verb == Verb::Unlock)
}

fn play(world: &World) -> (Host, Vec<String>) {
    let mut host = Host::shipped();
    host.accepted.clone_from(&world.accepted);
    let mut wrong = Vec::new();
    for line in &world.lines {
        let before = host.feed(line);
        for decision in &host.decisions[before..] {
            // A lock that strangers make last is the old one.
            let is_locked = !told_free(&host.decisions[..before], decision);
            wrong.extend(judge(world, &host, is_locked, decision).map(|why| format!("{why}: {}", sentence(decision))));
        }
    }
    (host, wrong)
}

#[test]
fn nobody_innocent_is_stopped_and_every_thief_is() {
    let mut wrong = Vec::new();
    for seed in SEEDS {
        let world = world(seed);
        let (mut host, found) = play(&world);
        wrong.extend(found.into_iter().map(|found| format!("seed {seed}: {found}")));
        for (name, theft) in &world.stolen {
            let leaked = host.leaked(name);
            let story = host.decisions.iter().find(|decision| is_stop(decision) && decision.subject == Subject::Account(name.clone()));
            println!("seed {seed}: {:24} {leaked:5} {}", theft.kind, story.map_or("NEVER".to_owned(), sentence));
            match story {
                None => wrong.push(format!("seed {seed}: {} ({name}) was never stopped", theft.kind)),
                Some(story) if leaked > theft.leak_max => {
                    wrong.push(format!("seed {seed}: {} leaked {leaked} of at most {}: {}", theft.kind, theft.leak_max, sentence(story)));
                }
                Some(_) => {}
            }
        }
        assert!(GHOSTS.iter().all(|ghost| host.find(ghost).is_none()), "seed {seed}: names that only failures name are remembered");
        everything_ends_or_is_lifted(&mut host);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn everything_ends_or_is_lifted(host: &mut Host) {
    let stopped: Vec<Stopped> = host.engine.stopped().collect();
    for Stopped { name, hindrance, stop } in stopped {
        assert!(stop.until > host.engine.now(), "{name} should be free since {}", stop.until);
        let command = match hindrance {
            Hindrance::Held => Command::Release { account: name.clone(), false_alarm: false },
            Hindrance::Locked => Command::Unlock { account: name.clone(), false_alarm: false },
        };
        assert_eq!(host.command(command), Reply::Done { changed: 1 });
        assert!(!host.is(&name, hindrance));
    }
    assert_eq!(host.engine.stopped().count(), 0);
}

#[test]
fn the_same_seed_gives_the_same_decisions() {
    let (first, second) = (play(&world(4)).0, play(&world(4)).0);
    assert!(!first.stops().is_empty());
    assert!(first.decisions == second.decisions);
}

#[derive(Default)]
struct Rows(BTreeMap<(u64, u128), Vec<u8>>);

impl Rows {
    fn apply(&mut self, rows: Vec<SnapshotRow>) {
        for SnapshotRow { table, key, value } in rows {
            if value.is_empty() { drop(self.0.remove(&(table, key))) } else { drop(self.0.insert((table, key), value)) }
        }
    }

    fn all(&self) -> Vec<SnapshotRow> {
        self.0.iter().map(|((table, key), value)| SnapshotRow { table: *table, key: *key, value: value.clone() }).collect()
    }
}

type Essence = (u64, Timestamp, Verb, Subject, Scope, Timestamp, String);

/// Everything of a decision but its evidence: the lines before the restart are gone. An alert may be told again.
fn essence(decisions: &[Decision]) -> Vec<Essence> {
    let told = decisions.iter().filter(|decision| decision.verb != Verb::Alert);
    told.map(|d| (d.id, d.time, d.verb, d.subject.clone(), d.scope, d.until, d.reason.clone())).collect()
}

struct Cut {
    line: usize,
    decisions: usize,
    bans: Vec<Ban>,
    stopped: Vec<Stopped>,
    rows: Vec<SnapshotRow>,
}

/// Snapshots begin at some lines, among them right after holds and locks, and are written while more lines come. An engine made of
/// one, and the lines since, is the engine that never stopped.
#[test]
fn a_restart_changes_nothing() {
    let world = world(5);
    let mut dice = Dice(99);
    let mut live = Host::shipped();
    let (mut rows, mut open): (Rows, Option<(Cut, Vec<SnapshotRow>)>) = (Rows::default(), None);
    let (mut cuts, mut fed): (Vec<Cut>, Vec<bool>) = (Vec::new(), Vec::new());
    for (number, line) in world.lines.iter().enumerate() {
        let is_due = line.at > world.lines[0].at + 6 * DAY && (dice.below(8_000) == 0 || live.decisions.last().is_some_and(is_stop));
        if open.is_none() && is_due && cuts.len() < 12 {
            live.engine.begin_snapshot();
            let (bans, stopped) = (live.engine.bans().collect(), live.engine.stopped().collect());
            open = Some((Cut { line: number, decisions: live.decisions.len(), bans, stopped, rows: Vec::new() }, Vec::new()));
        }
        fed.push(live.is_written(line));
        live.feed(line);
        if let Some((_, slices)) = &mut open
            && live.engine.next_slice(1 + dice.below(40) as usize, slices)
            && let Some((mut cut, slices)) = open.take()
        {
            rows.apply(slices);
            cut.rows = rows.all();
            cuts.push(cut);
        }
    }
    assert!(cuts.len() >= 6, "{} snapshots", cuts.len());
    for cut in cuts {
        let (mut reader, mut again, mut decisions) = (Reader::new(shipped()), engine(shipped()), Vec::new());
        again.restore(&cut.rows);
        again.restore_bans(cut.bans);
        again.restore_stopped(cut.stopped);
        for (number, (line, _)) in world.lines.iter().zip(&fed).enumerate().filter(|(_, (_, fed))| **fed) {
            reader.read(line, (number >= cut.line).then_some(&mut again));
            decisions.extend(std::iter::from_fn(|| again.poll_decision()));
        }
        let expected = essence(&live.decisions[cut.decisions..]);
        let repeated = essence(&decisions);
        let differing = expected.iter().zip(&repeated).find(|(a, b)| a != b);
        assert!(differing.is_none() && expected.len() == repeated.len(), "cut at {}: {differing:#?}", world.lines[cut.line].text);
        let stopped = |engine: &mailwarden::engine::Engine| -> Vec<(String, Hindrance, Timestamp)> {
            engine.stopped().map(|stopped| (stopped.name, stopped.hindrance, stopped.stop.until)).collect()
        };
        assert_eq!(stopped(&live.engine), stopped(&again));
        for name in world.stolen.keys() {
            let families = |engine: &mailwarden::engine::Engine| -> Vec<(Family, u32)> {
                engine.why(&Subject::Account(name.clone())).account.unwrap().families
            };
            assert_eq!(families(&live.engine), families(&again), "{name}");
        }
        let bans = |engine: &mailwarden::engine::Engine| -> BTreeMap<(IpNetwork, Scope), Timestamp> {
            engine.bans().map(|ban| ((ban.net, ban.scope), ban.until)).collect()
        };
        assert!(bans(&live.engine) == bans(&again));
    }
}
