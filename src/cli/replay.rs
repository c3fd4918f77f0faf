//! `replay`: what would have been done, had mailwarden read these logs when they were written. Nothing is enforced.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use super::json::Object;
use super::logs::{self, Log, Setup};
use super::{FAILED, out, table};
use crate::engine::Engine;
use crate::engine::decision::{Cause, Decision, Subject, Verb};
use crate::event::Event;
use crate::pipeline::{self, Chunk, Consumer, Counts, Joined, Joiner};
use crate::time::Timestamp;

/// Progress is shown for logs of at least so many bytes, every so many.
const PROGRESS_BYTES: u64 = 64 << 20;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The logs, in any order, also packed (.gz, .xz, .zst); `-` for standard input
    #[arg(default_value = "-")]
    files: Vec<PathBuf>,
    /// Also print the end of each ban that simply runs out
    #[arg(long)]
    expiries: bool,
}

pub(super) fn run(config: Option<&Path>, json: bool, args: &Args) -> ExitCode {
    let (setup, logs) = match Setup::load(config).and_then(|setup| Ok((setup, open(&args.files)?))) {
        Ok(both) => both,
        Err(problem) => return out::fail(json, FAILED, &problem),
    };
    let output = Output { json, expiries: args.expiries, ..Output::default() };
    let printer = if pipeline::threads() > 1 { Printer::start(output) } else { Printer::Here(output) };
    match run_through(&setup, logs, printer, &|now| setup.engine(now)) {
        Ok(replay) => {
            replay.finish();
            ExitCode::SUCCESS
        }
        Err(problem) => out::fail(json, FAILED, &problem),
    }
}

/// All logs, oldest first, through an engine that `make` makes when the first line tells the time. With more than one core the lines
/// are joined on a thread of their own, since joining and counting take longer than parsing.
fn run_through<'a>(setup: &'a Setup, logs: Vec<Log>, printer: Printer, make: &'a MakeEngine<'a>) -> Result<Replay<'a>, String> {
    let mut replay = Replay::new(printer, make);
    let mut joiner = Joiner::new(&setup.filters, setup.correlator());
    let mut progress = Progress::new(logs.iter().map(|log| log.size).sum());
    let logs = in_order(logs, setup);
    let result = if pipeline::threads() > 1 {
        apart(setup, logs, &mut joiner, |joined| {
            replay.counts.add(&joined.chunk().counts);
            joined.tell(&setup.filters, &mut replay);
            replay.chunk_ends();
            progress.show(joined.chunk().len() as u64);
        })
    } else {
        each_chunk(setup, logs, |chunk| {
            replay.counts.add(&chunk.counts);
            joiner.join(chunk, &mut replay);
            replay.chunk_ends();
            progress.show(chunk.len() as u64);
            ControlFlow::Continue(())
        })
    };
    replay.clamped = joiner.clamped();
    match result {
        Ok(()) => Ok(replay),
        Err(problem) => {
            replay.printer.finish();
            Err(problem)
        }
    }
}

fn each_chunk(setup: &Setup, logs: Vec<Log>, mut consume: impl FnMut(&mut Chunk) -> ControlFlow<()>) -> Result<(), String> {
    for log in logs {
        let options = log.options();
        pipeline::run(log.reader, &setup.filters, &options, &mut consume).map_err(|error| logs::unreadable(&log.path, &error))?;
    }
    Ok(())
}

/// Chunks that wait for the engine, or are with it.
const CHUNKS_JOINED_MAX: usize = 3;

/// The chunks of all logs, joined on another thread.
fn apart(setup: &Setup, logs: Vec<Log>, joiner: &mut Joiner<'_>, mut consume: impl FnMut(&Joined)) -> Result<(), String> {
    let (recycle, recycled) = channel::<Joined>();
    for _ in 0..CHUNKS_JOINED_MAX {
        recycle.send(Joined::default()).expect("the receiver is held below");
    }
    thread::scope(|scope| {
        let (filled, incoming) = channel();
        let join = move |chunk: &mut Chunk| {
            // Whoever does not take any more has ended.
            let Ok(mut joined) = recycled.recv() else { return ControlFlow::Break(()) };
            joined.fill(joiner, chunk);
            if filled.send(joined).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let reading = scope.spawn(move || each_chunk(setup, logs, join));
        for joined in incoming {
            consume(&joined);
            // The other thread may have ended already.
            let _ = recycle.send(joined);
        }
        reading.join().unwrap_or_else(|_| Err("the thread that joins lines panicked".to_owned()))
    })
}

/// What old logs teach: the engine behind their last line, and how many lines there were. `None`: no line told the time.
pub(super) fn learn(setup: &Setup, logs: Vec<Log>, make: &MakeEngine<'_>) -> Result<Option<(Engine, u64)>, String> {
    let replay = run_through(setup, logs, Printer::Nobody, make)?;
    let lines = replay.counts.lines;
    Ok(replay.engine.map(|engine| (engine, lines)))
}

type MakeEngine<'m> = dyn Fn(Timestamp) -> Engine + 'm;

pub(super) fn open(files: &[PathBuf]) -> Result<Vec<Log>, String> {
    files.iter().map(|file| Log::open(file)).collect()
}

/// By their first stamps: `mail.log mail.log.1` is the wrong way round, and so is what a shell makes of `mail.log.*`.
fn in_order(logs: Vec<Log>, setup: &Setup) -> Vec<Log> {
    if logs.len() < 2 {
        return logs;
    }
    let mut dated: Vec<(Timestamp, Log)> =
        logs.into_iter().map(|log| (log.first_stamp(&setup.filters).unwrap_or(Timestamp::NEVER), log)).collect();
    dated.sort_by_key(|(first, _)| *first);
    dated.into_iter().map(|(_, log)| log).collect()
}

/// The engine on the log's own clock.
struct Replay<'a> {
    make: &'a MakeEngine<'a>,
    /// Made when the first line tells the time.
    engine: Option<Engine>,
    /// When the engine wants to be called next.
    due: Option<Timestamp>,
    counts: Counts,
    events: u64,
    clamped: u64,
    /// Made from the lines of one chunk.
    decisions: Vec<Decision>,
    printer: Printer,
}

impl<'a> Replay<'a> {
    fn new(printer: Printer, make: &'a MakeEngine<'a>) -> Self {
        let counts = Counts::default();
        Replay { make, engine: None, due: None, counts, events: 0, clamped: 0, decisions: Vec::new(), printer }
    }

    fn chunk_ends(&mut self) {
        self.printer.take(std::mem::take(&mut self.decisions));
    }

    fn finish(self) {
        let summary = self.printer.finish();
        summary.print(&self.counts, self.events, self.clamped);
        // The process ends: nobody needs the memory of a million rows back, one by one.
        std::mem::forget(self.engine);
    }
}

impl Consumer for Replay<'_> {
    fn begin(&mut self, now: Timestamp) {
        let engine = self.engine.insert((self.make)(now));
        self.due = engine.poll_timeout();
    }

    fn line(&mut self, now: Timestamp) {
        if self.due.is_some_and(|due| due <= now)
            && let Some(engine) = &mut self.engine
        {
            engine.handle_timeout(now);
            self.due = engine.poll_timeout();
            self.decisions.extend(std::iter::from_fn(|| engine.poll_decision()));
        }
    }

    fn event(&mut self, event: &Event<'_>, now: Timestamp) {
        let Some(engine) = &mut self.engine else { return };
        engine.handle_event(event, now);
        self.events += 1;
        self.decisions.extend(std::iter::from_fn(|| engine.poll_decision()));
        self.due = engine.poll_timeout();
    }
}

/// Who writes decisions down: with more than one core a thread of its own, since the engine is what takes the time.
enum Printer {
    /// What is decided is of no interest.
    Nobody,
    Here(Output),
    /// With what it is done with: memory is given back cheapest by the thread that took it.
    Apart(SyncSender<Vec<Decision>>, Receiver<Vec<Decision>>, JoinHandle<Summary>),
}

/// Chunks' decisions that wait to be written.
const CHUNKS_WAITING_MAX: usize = 8;

impl Printer {
    fn start(output: Output) -> Printer {
        let (sender, receiver) = sync_channel::<Vec<Decision>>(CHUNKS_WAITING_MAX);
        let (done, printed) = channel();
        let mut output = output;
        let thread = thread::spawn(move || {
            for decisions in receiver {
                output.take(&decisions);
                // Whoever does not take it any more has ended.
                let _ = done.send(decisions);
            }
            output.summary
        });
        Printer::Apart(sender, printed, thread)
    }

    fn take(&mut self, decisions: Vec<Decision>) {
        match self {
            Printer::Nobody => {}
            Printer::Here(output) => output.take(&decisions),
            // A printer that is gone has said why.
            Printer::Apart(sender, printed, _) => {
                drop(sender.send(decisions));
                printed.try_iter().for_each(drop);
            }
        }
    }

    fn finish(self) -> Summary {
        match self {
            Printer::Nobody => Summary::default(),
            Printer::Here(output) => output.summary,
            Printer::Apart(sender, _, thread) => {
                drop(sender);
                thread.join().unwrap_or_default()
            }
        }
    }
}

/// Where decisions go.
#[derive(Default)]
struct Output {
    json: bool,
    expiries: bool,
    text: Vec<u8>,
    summary: Summary,
}

impl Output {
    fn take(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            self.summary.add(decision);
            let runs_out = decision.verb == Verb::Unban && decision.cause == Cause::Engine;
            if runs_out && !self.expiries {
                continue;
            }
            if self.json {
                as_json(decision, &mut self.text)
            } else {
                as_sentence(decision, &mut self.text)
            }
            self.text.push(b'\n');
        }
        self.write();
    }

    fn write(&mut self) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(&self.text).and_then(|()| out.flush()) {
            logs::output_failed(&error);
        }
        self.text.clear();
    }
}

/// As `Decision::view`, without building it. What a jail in observe mode decides is not in force: it shows as an alert that says what it would
/// have been.
fn as_json(decision: &Decision, out: &mut Vec<u8>) {
    let (verb, observed) = (decision.verb, decision.observed);
    let mut object = Object::begin(out);
    object.time("time", decision.time);
    object.word("action", if observed { Verb::Alert.as_str() } else { verb.as_str() });
    if observed {
        object.word("would", verb.as_str());
    }
    match &decision.subject {
        Subject::Net(net) => object.word("ip", &crate::address::display(*net)),
        Subject::Account(name) => object.str("account", name),
    };
    object.str("jail", &decision.jail);
    if matches!(verb, Verb::Ban | Verb::Unban | Verb::Lock | Verb::Unlock) {
        object.word("scope", decision.scope.as_str());
    }
    if matches!(verb, Verb::Ban | Verb::Lock) && decision.until != Timestamp::NEVER {
        object.time("until", decision.until);
    }
    object.str("reason", &decision.reason).word("cause", decision.cause.as_str());
    object.flag("observed", observed).texts("evidence", &decision.evidence);
    object.end();
}

/// `2026-11-24 03:04:05 ban 192.0.2.1 (auth) until 2026-11-24 04:04:05, jail postfix-auth: 6 failures in 12 s`
fn as_sentence(decision: &Decision, out: &mut Vec<u8>) {
    let subject = match &decision.subject {
        Subject::Net(net) => crate::address::display(*net),
        Subject::Account(name) => table::printable(name),
    };
    let verb = if decision.observed { format!("would {}", decision.verb) } else { decision.verb.to_string() };
    let lasting = match decision.verb {
        Verb::Ban => format!(" ({}) until {}", decision.scope, decision.until),
        Verb::Lock => format!(" until {}", decision.until),
        _ => String::new(),
    };
    let (time, jail, reason) = (decision.time, &decision.jail, table::printable(&decision.reason));
    write!(out, "{time} {verb} {subject}{lasting}, jail {jail}: {reason}").expect("a Vec takes everything");
}

/// What is told at the end.
#[derive(Default)]
struct Summary {
    jails: BTreeMap<String, Tally>,
    subjects: HashSet<Subject>,
    held: HashSet<Subject>,
    locked: HashSet<Subject>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    bans: u64,
    others: u64,
    observed: u64,
}

impl Summary {
    fn add(&mut self, decision: &Decision) {
        if matches!(decision.verb, Verb::Unban | Verb::Unlock | Verb::Release) {
            return;
        }
        if !self.jails.contains_key(&decision.jail) {
            self.jails.insert(decision.jail.clone(), Tally::default());
        }
        let Some(tally) = self.jails.get_mut(&decision.jail) else { return };
        match (decision.observed, decision.verb) {
            (true, _) => tally.observed += 1,
            (false, Verb::Ban) => {
                tally.bans += 1;
                self.subjects.insert(decision.subject.clone());
            }
            (false, verb) => {
                tally.others += 1;
                match verb {
                    Verb::Hold => drop(self.held.insert(decision.subject.clone())),
                    Verb::Lock => drop(self.locked.insert(decision.subject.clone())),
                    _ => {}
                }
            }
        }
    }

    fn print(&self, counts: &Counts, events: u64, clamped: u64) {
        let Counts { lines, recognised, unmatched, foreign, malformed, cut } = counts;
        let bans: u64 = self.jails.values().map(|tally| tally.bans).sum();
        let mut text = format!("{lines} lines, {recognised} recognised, {events} events, {bans} bans of {} addresses", self.subjects.len());
        for (accounts, done) in [(&self.locked, "locked"), (&self.held, "held")] {
            if !accounts.is_empty() {
                text.push_str(&format!(", {} accounts {done}", accounts.len()));
            }
        }
        text.push('\n');
        if unmatched + foreign + malformed > 0 {
            text.push_str(&format!("not recognised: {unmatched} of known programs, {foreign} of others, {malformed} no log lines\n"));
        }
        if clamped + cut > 0 {
            text.push_str(&format!("{clamped} stamps more than a day off, {cut} lines cut\n"));
        }
        for (jail, tally) in &self.jails {
            let Tally { bans, others, observed } = tally;
            let more = [(*others, "other decisions"), (*observed, "only observed")];
            let more: String = more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}")).collect();
            text.push_str(&format!("  {jail}: {bans} bans{more}\n"));
        }
        // Nobody to tell when stderr is closed.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// A percentage for whoever waits at a terminal.
struct Progress {
    total: u64,
    done: u64,
    shown: u64,
    wanted: bool,
}

impl Progress {
    fn new(total: u64) -> Self {
        Progress { total, done: 0, shown: 0, wanted: total >= PROGRESS_BYTES && io::stderr().is_terminal() }
    }

    fn show(&mut self, bytes: u64) {
        self.done += bytes;
        if !self.wanted || self.done - self.shown < PROGRESS_BYTES / 4 {
            return;
        }
        self.shown = self.done;
        // Packed files hold more than they weigh.
        if self.done < self.total { eprint!("\r{:3} %\r", self.done * 100 / self.total) } else { eprint!("\r{} MB\r", self.done >> 20) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::jail::Scope;

    fn decision(observed: bool) -> Decision {
        Decision {
            id: 7,
            time: Timestamp::from_seconds(1_795_485_600),
            verb: Verb::Ban,
            subject: Subject::Net("192.0.2.1/32".parse().unwrap()),
            scope: Scope::Auth,
            until: Timestamp::from_seconds(1_795_489_200),
            jail: "auth".to_owned(),
            reason: "6 failures \"x\\y\"".to_owned(),
            cause: Cause::Engine,
            observed,
            evidence: vec!["a\u{1b}".to_owned(), "b".to_owned()],
        }
    }

    #[test]
    fn json_is_the_decisions_view() {
        let mut out = Vec::new();
        as_json(&decision(false), &mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, serde_json::to_value(decision(false).view()).unwrap());
    }

    #[test]
    fn an_observed_ban_is_an_alert() {
        let mut out = Vec::new();
        as_json(&decision(true), &mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&value["action"], &value["would"], &value["observed"]), (&"alert".into(), &"ban".into(), &true.into()));
    }

    #[test]
    fn people_read_sentences() {
        let mut out = Vec::new();
        as_sentence(&decision(true), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(" would ban 192.0.2.1 (auth) until ") && text.ends_with(", jail auth: 6 failures \"x\\y\""), "{text}");
    }
}
