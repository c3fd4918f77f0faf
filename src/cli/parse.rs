//! `parse`: what mailwarden understands of a log, one JSON object a recognised line.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::json::Object;
use super::logs::{self, Log, Setup};
use super::{FAILED, out};
use crate::correlate::{Correlator, MessageRef};
use crate::engine::Engine;
use crate::event::{Event, EventKind, Reason};
use crate::parse::{Field, LineKind, Parsed};
use crate::pipeline::{self, Chunk, LogClock};
use crate::time::Timestamp;

/// A line whose sender a later line may tell waits for at most so many lines: Postfix writes the queue id of a bounce a few
/// lines before it says whose bounce it is.
const LINES_HELD_MAX: u64 = 256;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The log, also packed (.gz, .xz, .zst); `-` for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

pub(super) fn run(config: Option<&Path>, json: bool, args: &Args) -> ExitCode {
    let (setup, log) = match Setup::load(config).and_then(|setup| Ok((setup, Log::open(&args.file)?))) {
        Ok(both) => both,
        Err(problem) => return out::fail(json, FAILED, &problem),
    };
    let mut printer = Printer::new(&setup);
    let (options, prompt) = (log.options(), log.prompt);
    let result = pipeline::run(log.reader, &setup.filters, &options, |chunk| {
        printer.print(chunk, prompt);
        ControlFlow::Continue(())
    });
    printer.settle(u64::MAX);
    printer.write();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => out::fail(json, FAILED, &logs::unreadable(&args.file, &error)),
    }
}

struct Printer<'a> {
    setup: &'a Setup,
    correlator: Correlator,
    engine: Engine,
    clock: LogClock,
    /// Lines of the chunks before.
    lines: u64,
    /// Text that waits to be written.
    ready: Vec<u8>,
    /// A line that waits for its sender, and all lines behind it.
    held: VecDeque<Held>,
    /// Text buffers for reuse.
    spare: Vec<Vec<u8>>,
    told: Told,
}

/// An object that is finished except for the sender of its message.
struct Held {
    text: Vec<u8>,
    line: u64,
    /// Whom it waits for; `None`: it is finished.
    message: Option<MessageRef>,
}

/// The event that a line completed.
#[derive(Default)]
struct Told {
    event: Option<Summary>,
    account: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Summary {
    kind: EventKind,
    reason: Reason,
    ip: Option<IpAddr>,
    count: u32,
    recipients: u32,
    bytes: u64,
    offence: bool,
}

impl<'a> Printer<'a> {
    fn new(setup: &'a Setup) -> Self {
        Printer {
            setup,
            correlator: setup.correlator(),
            engine: setup.engine(Timestamp::ZERO),
            clock: LogClock::starting_at(Timestamp::ZERO),
            lines: 0,
            ready: Vec::new(),
            held: VecDeque::new(),
            spare: Vec::new(),
            told: Told::default(),
        }
    }

    fn print(&mut self, chunk: &mut Chunk, prompt: bool) {
        if self.clock.now() == Timestamp::ZERO
            && let Some(clock) = LogClock::starting_with(chunk.stamps())
        {
            self.clock = clock;
        }
        for (text, record) in chunk.records_mut() {
            let line = self.lines + u64::from(record.number) + 1;
            self.record(line, text, &mut record.parsed);
            self.settle(line);
        }
        self.lines += chunk.counts.lines;
        if prompt {
            self.settle(u64::MAX);
        }
        self.write();
    }

    fn record(&mut self, number: u64, line: &[u8], parsed: &mut Parsed) {
        parsed.unfold(self.clock.now());
        self.clock.advance(parsed.time);
        let filter = self.setup.filters.filter_name(parsed.pattern);
        self.told.event = None;
        self.told.account.clear();
        let (told, engine) = (&mut self.told, &self.engine);
        let message = self.correlator.handle(line, parsed, filter, true, self.clock.now(), &mut |event| told.take(event, engine));
        let mut text = self.spare.pop().unwrap_or_default();
        let mut object = Object::begin(&mut text);
        object.number("line", number);
        let has_account = describe(&mut object, line, parsed, filter, &self.told);
        if matches!(parsed.kind, LineKind::Bounce | LineKind::ProxyAccept | LineKind::Removed | LineKind::Active) {
            self.learn();
        }
        let message = message.filter(|_| !has_account);
        let mut held = Held { text, line: number, message };
        if !message.is_some_and(|message| self.correlator.may_learn(message)) {
            finish(&mut held, &self.correlator);
        }
        self.held.push_back(held);
    }

    /// Finishes the lines whose sender has been told, or never will be.
    fn learn(&mut self) {
        for held in &mut self.held {
            if held.message.is_some_and(|message| !self.correlator.may_learn(message)) {
                finish(held, &self.correlator);
            }
        }
    }

    /// Makes ready what is finished at line `now`, in order.
    fn settle(&mut self, now: u64) {
        while let Some(first) = self.held.front_mut() {
            if first.message.is_some() {
                if now - first.line < LINES_HELD_MAX {
                    return;
                }
                finish(first, &self.correlator);
            }
            if let Some(Held { mut text, .. }) = self.held.pop_front() {
                self.ready.append(&mut text);
                self.spare.push(text);
            }
        }
    }

    fn write(&mut self) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(&self.ready).and_then(|()| out.flush()) {
            logs::output_failed(&error);
        }
        self.ready.clear();
    }
}

/// The last words of an object: whose message it is.
fn finish(held: &mut Held, correlator: &Correlator) {
    let mut object = Object::resume(&mut held.text);
    if let Some(message) = held.message.take() {
        object.text("account", correlator.submitter(message));
        if let Some(ip) = correlator.sent_from(message) {
            object.word("client", &ip.to_string());
        }
    }
    object.end();
    held.text.push(b'\n');
}

impl Told {
    fn take(&mut self, event: &Event<'_>, engine: &Engine) {
        self.account.extend_from_slice(event.account.unwrap_or_default());
        self.event = Some(Summary {
            kind: event.kind,
            reason: event.reason,
            ip: event.ip,
            count: event.count,
            recipients: event.recipients,
            bytes: event.bytes,
            offence: !event.restates && !event.weak && engine.offends(event),
        });
    }
}

/// Writes what a line says; whether that includes an account.
fn describe(object: &mut Object<'_>, line: &[u8], parsed: &Parsed, filter: &str, told: &Told) -> bool {
    let event = told.event;
    let text = |field| parsed.text(line, field).filter(|text| !text.is_empty());
    object.time("time", parsed.time);
    object.word("kind", event.map_or(parsed.kind.as_str(), |event| event.kind.as_str()));
    object.word("filter", filter);
    if let Some(ip) = event.map_or(parsed.client, |event| event.ip) {
        object.word("ip", &ip.to_string());
    }
    let known = Some(&told.account[..]).filter(|name| !name.is_empty());
    let account = text(Field::Account).or(known);
    object.text("account", account);
    object.text("canonical", known.filter(|known| Some(*known) != account));
    object.text("queue_id", text(Field::QueueId));
    object.word("service", parsed.service.as_str());
    let reason = event.map_or(parsed.reason, |event| event.reason);
    if reason != Reason::None {
        object.word("reason", reason.as_str());
    }
    object.number("count", u64::from(event.map_or(parsed.count, |event| event.count)));
    if let Some(event) = event.filter(|event| event.kind == EventKind::Message) {
        object.number("recipients", u64::from(event.recipients)).number("bytes", event.bytes);
    } else if parsed.kind == LineKind::Active {
        object.number("recipients", u64::from(parsed.recipients)).number("bytes", parsed.bytes);
    }
    if parsed.code > 0 {
        object.number("code", u64::from(parsed.code));
    }
    object.text("sender", text(Field::Sender)).text("recipient", text(Field::Recipient)).text("helo", text(Field::Helo));
    if let Some(status) = parsed.status {
        object.word("status", status.as_str());
    }
    object.text("dsn", text(Field::Dsn)).text("relay", text(Field::Relay));
    object.text("mechanism", text(Field::Mechanism)).text("message_id", text(Field::MessageId));
    object.flag("restates", parsed.restates).flag("weak", parsed.weak);
    object.shown("offence", event.is_some_and(|event| event.offence));
    account.is_some()
}
