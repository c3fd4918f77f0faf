//! The core: one thread that waits on its inputs, takes a batch, decides, and writes to the kernel.
//!
//! A hand-over to another thread costs 60–80 µs and everything else is noise, so parse, correlate, engine and the netlink
//! commit all happen here.

use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::decisions::Effects;
use super::inbox::{ControlThread, Inbox, Message};
use super::setup::{self, Setup};
use super::views;
use super::Options;
use crate::config::Config;
use crate::control::{Code, Request, Response};
use crate::correlate::Correlator;
use crate::engine::Engine;
use crate::limits;
use crate::parse::{FilterSet, Outcome, Parser};
use crate::source::origin::Trust;
use crate::source::{Batch, Source};
use crate::time::{Clock, SteadyClock, Timestamp};

/// How often files are looked at without a notification, the kernel's generation is compared, and the watchdog fed.
const TICK: Duration = Duration::from_secs(1);
/// Rows of a snapshot written between two batches.
const SNAPSHOT_SLICE_ROWS: usize = 512;

/// Runs the daemon until it is told to stop.
pub fn run(options: &Options) -> ExitCode {
    match setup::start(options) {
        Ok((setup, inbox, control)) => {
            let mut core = Core::new(setup, inbox);
            core.serve();
            core.finish();
            drop::<ControlThread>(control);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mailwardend: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What became of the lines of one program family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    pub lines: u64,
    pub recognised: u64,
    pub unmatched: u64,
    pub foreign: u64,
    pub malformed: u64,
    pub unvouched: u64,
}

pub struct Core {
    pub(super) clock: SteadyClock,
    pub(super) started: Timestamp,
    pub(super) config: Arc<Config>,
    filters: Arc<FilterSet>,
    parser: Parser,
    trust: Trust,
    correlator: Correlator,
    pub(super) engine: Engine,
    pub(super) sources: Vec<Source>,
    pub(super) effects: Effects,
    pub(super) counts: LineCounts,
    batch: Batch,
    inbox: Inbox,
    snapshot: Snapshot,
    next_tick: Instant,
    watchdog: Option<Duration>,
}

/// The windows' way to the disk: a consistent cut, written in slices.
struct Snapshot {
    interval: Duration,
    next: Instant,
    /// Cursors as they stood when the running snapshot began.
    running: Option<Vec<(String, String)>>,
    rows: Vec<crate::engine::snapshot::SnapshotRow>,
}

/// What the loop should do next.
#[derive(PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

impl Core {
    fn new(setup: Setup, inbox: Inbox) -> Core {
        let now = Instant::now();
        let interval = setup.config.state.snapshot_interval;
        Core {
            started: setup.clock.now(),
            parser: Parser::new(setup.filters.clone(), setup.parser_options),
            clock: setup.clock,
            config: setup.config,
            filters: setup.filters,
            trust: setup.trust,
            correlator: setup.correlator,
            engine: setup.engine,
            sources: setup.sources,
            effects: setup.effects,
            counts: LineCounts::default(),
            batch: Batch::new(),
            inbox,
            snapshot: Snapshot { interval, next: now + interval, running: None, rows: Vec::new() },
            next_tick: now + TICK,
            watchdog: setup::watchdog(),
        }
    }

    /// The loop: wait, read, decide, act; until somebody says stop.
    fn serve(&mut self) {
        loop {
            let busy = self.read_sources();
            self.act();
            if self.answer() == Flow::Stop {
                return;
            }
            self.keep_time();
            self.write_snapshot_slice();
            if !busy {
                self.wait();
            }
        }
    }

    /// One batch of each source. True when there may be more at once.
    fn read_sources(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.sources.len() {
            self.batch.clear();
            let now = self.clock.now();
            let Some(source) = self.sources.get_mut(index) else { continue };
            match source.read(&mut self.batch, limits::BATCH_EVENTS_MAX, now) {
                Ok(count) => busy |= count >= limits::BATCH_EVENTS_MAX,
                Err(error) => self.effects.warn_of_source(index, &error),
            }
            self.handle_batch(now);
        }
        busy
    }

    fn handle_batch(&mut self, now: Timestamp) {
        let Core { batch, parser, filters, trust, correlator, engine, counts, .. } = self;
        for (line, text) in batch.iter() {
            counts.lines += 1;
            let parsed = match parser.parse(text, line.received) {
                Outcome::Line(parsed) => parsed,
                Outcome::Unmatched { .. } => {
                    counts.unmatched += 1;
                    continue;
                }
                Outcome::Foreign => {
                    counts.foreign += 1;
                    continue;
                }
                Outcome::Malformed => {
                    counts.malformed += 1;
                    continue;
                }
            };
            counts.recognised += 1;
            let vouched = trust.vouches(line.origin, crate::parse::slice(text, parsed.program), parsed.sender_uid);
            counts.unvouched += u64::from(!vouched);
            let filter = filters.filter_name(parsed.pattern);
            correlator.handle(text, &parsed, filter, vouched, now, &mut |event| engine.handle_event(event, now));
        }
    }

    /// Everything that the engine has decided, into the ledger's store, the kernel, the log.
    fn act(&mut self) {
        let now = self.clock.now();
        self.effects.apply(&mut self.engine, &self.inbox, now);
    }

    fn answer(&mut self) -> Flow {
        self.inbox.clear_wake();
        while let Some(message) = self.inbox.next() {
            match message {
                Message::Request(request, answer) => {
                    let response = self.respond(request);
                    // The asker may have gone.
                    let _ = answer.send(response);
                }
                Message::Reload => {
                    let response = self.reload();
                    log::log!(if response.code == Code::Ok { log::Level::Info } else { log::Level::Error }, "reload: {}", response.message);
                }
                Message::Stop => return Flow::Stop,
            }
        }
        Flow::Go
    }

    fn respond(&mut self, request: Request) -> Response {
        let now = self.clock.now();
        match request {
            Request::Reload => self.reload(),
            Request::Ping => Response::ok("mailwardend is running"),
            Request::Status { jail } => views::status(self, jail.as_deref(), now),
            Request::ListBans { after } => views::bans(&self.engine, after, now),
            Request::Why { subject } => views::why(&self.engine, &subject, now),
            Request::Monitor => Response::error(Code::BadRequest, "monitor is answered before it comes here"),
            command => {
                let response = views::command(&mut self.engine, command, now);
                self.act();
                response
            }
        }
    }
}
