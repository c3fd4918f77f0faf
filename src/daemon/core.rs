//! The core: one thread that waits on its inputs, takes a batch, decides, and writes to the kernel.
//!
//! A hand-over to another thread costs 60–80 µs and everything else is noise, so parse, correlate, engine and the netlink
//! commit all happen here.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Options;
use super::decisions::Effects;
use super::geo::Geo;
use super::inbox::{ControlThread, Inbox, Message};
use super::memory::Memory;
use super::setup::{self, Loaded, Setup};
use super::timing::{News, Timing};
use super::{stops, views};
use crate::config::{Config, Enforcement, Paths};
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use crate::control::{Code, Request, Response};
use crate::correlate::Correlator;
use crate::engine::Engine;
use crate::event::Event;
use crate::limits;
use crate::parse::{Field, LineKind, Outcome, Parsed, Parser, ParserOptions};
use crate::source::origin::Trust;
use crate::source::{Batch, Source};
use crate::time::{Clock, SteadyClock, Timestamp};

/// How often files are looked at without a notification, the kernel's generation is compared, and the watchdog fed. Bans that
/// somebody flushed are to be in force again within a second.
const TICK: Duration = Duration::from_millis(500);
/// The wall clock is slewed all the time; what is more than this was a step.
const CLOCK_MICROS_TOLERATED: i64 = 2_000_000;
/// Rows of a snapshot written between two batches.
const SNAPSHOT_SLICE_ROWS: usize = 512;
/// Recognised lines in a batch from which it pays to let the engine look ahead.
const FORESEEN_LINES_MIN: usize = 32;
/// How long the sources are still read after the word to stop.
const LAST_TURN: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to stop.
pub fn run(options: &Options) -> ExitCode {
    match setup::start(options) {
        Ok((setup, inbox, control)) => {
            let mut core = Core::new(setup, inbox);
            core.note_enforcing(core.clock.now());
            notify(&[NotifyState::Ready]);
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

/// A time by another clock.
fn moved(micros: i64) -> impl Fn(Timestamp) -> Timestamp {
    move |time| Timestamp::from_micros(time.micros().saturating_add(micros))
}

/// Tables of the configuration of which something has changed that a reload does not take up.
fn waits_for_restart(config: &Config, before: &Config) -> Vec<&'static str> {
    let enforcement = Enforcement { destroy_sockets: before.enforcement.destroy_sockets, ..config.enforcement.clone() };
    let tables = [
        ("[[source]]", config.sources != before.sources),
        ("[trust]", config.trust != before.trust),
        ("[enforcement]", enforcement != before.enforcement),
        ("[helper]", config.helper != before.helper),
        ("[state]", config.state != before.state),
        ("[control]", config.control != before.control),
        ("[log]", config.log.to != before.log.to),
    ];
    tables.into_iter().filter(|(_, has_changed)| *has_changed).map(|(table, _)| table).collect()
}

/// Tells the service manager; without one, nobody.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

/// What became of the lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
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
    paths: Paths,
    parser_options: ParserOptions,
    parser: Parser,
    trust: Trust,
    pub(super) correlator: Correlator,
    pub(super) engine: Engine,
    pub(super) geo: Geo,
    pub(super) sources: Vec<Source>,
    pub(super) effects: Effects,
    pub(super) counts: LineCounts,
    /// The longest that the core was busy between two looks at its inputs.
    pub(super) worst_turn: Duration,
    batch: Batch,
    /// The recognised lines of the batch, by their place in it.
    parsed: Vec<(usize, Parsed)>,
    /// By source.
    pub(super) timings: Vec<Timing>,
    /// How far our clock is ahead of everybody else's, in microseconds, when that is worth a word.
    clock_ahead: i64,
    inbox: Inbox,
    /// Addresses of this host.
    own: Vec<IpNetwork>,
    /// As the engine knows it.
    is_enforcing: bool,
    snapshot: Snapshot,
    pub(super) memory: Memory,
    next_tick: Instant,
    watchdog: Option<Duration>,
    /// Last of all: what the others say while they end is still written.
    _log_writer: super::log::Writer,
}

/// The windows' way to the disk: a consistent cut, written in slices.
struct Snapshot {
    interval: Duration,
    next: Instant,
    /// Jails may have gone: the next one that is saved is followed by their end on disk.
    may_have_orphans: bool,
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
            parser: Parser::new(setup.config.filters.set.clone(), setup.parser_options.clone()),
            clock: setup.clock,
            config: setup.config,
            paths: setup.paths,
            parser_options: setup.parser_options.clone(),
            trust: setup.trust,
            correlator: setup.correlator,
            engine: setup.engine,
            geo: setup.geo,
            sources: setup.sources,
            effects: setup.effects,
            counts: LineCounts::default(),
            worst_turn: Duration::ZERO,
            batch: Batch::new(),
            timings: Vec::new(),
            clock_ahead: 0,
            parsed: Vec::with_capacity(limits::BATCH_EVENTS_MAX),
            inbox,
            own: setup.own,
            is_enforcing: true,
            snapshot: Snapshot { interval, next: now + interval, may_have_orphans: true, running: None, rows: Vec::new() },
            memory: Memory::new(),
            next_tick: now + TICK,
            watchdog: setup::watchdog(),
            _log_writer: setup.log_writer,
        }
    }

    /// The loop: wait, read, decide, act; until somebody says stop.
    fn serve(&mut self) {
        loop {
            let begin = Instant::now();
            let more_lines = self.read_sources();
            let more_to_do = self.act();
            if self.answer() == Flow::Stop {
                return;
            }
            self.keep_time();
            self.write_snapshot_slice();
            self.worst_turn = self.worst_turn.max(begin.elapsed());
            // A repair that the tick began does not wait for the next line.
            if !more_lines && !more_to_do && !self.effects.firewall.is_busy() {
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
            let mut is_more = false;
            match source.read(&mut self.batch, limits::BATCH_EVENTS_MAX, now) {
                Ok(count) => is_more = count >= limits::BATCH_EVENTS_MAX,
                Err(error) => self.effects.warn_of_source(index, &source.stats().name, &error),
            }
            self.handle_batch(index, now);
            self.watch_stamps(index, is_more);
            busy |= is_more;
        }
        busy
    }

    /// Says so when the lines of a source are of another time zone, and when they no longer are.
    fn watch_stamps(&mut self, source: usize, is_more: bool) {
        let Some(timing) = self.timings.get_mut(source) else { return };
        if !is_more {
            timing.caught_up();
        }
        if let (Some(news), Some(source)) = (timing.take_news(), self.sources.get(source)) {
            match news {
                News::Off(off) => log::error!("source \"{}\": {off}", source.stats().name),
                News::RightAgain => log::info!("source \"{}\": its lines say the time that it is here again", source.stats().name),
            }
        }
    }

    fn handle_batch(&mut self, source: usize, now: Timestamp) {
        let Core { batch, parser, trust, correlator, engine, counts, parsed, timings, clock_ahead, effects, .. } = self;
        if timings.len() <= source {
            timings.resize_with(source + 1, || Timing::new(now));
        }
        let Some(timing) = timings.get_mut(source) else { return };
        if !batch.is_empty() {
            timing.heard = Some(now);
        }
        // What a socket hands us is stamped by our clock, what others wrote by theirs.
        let (by_wall, by_ours) = (moved(-*clock_ahead), moved(*clock_ahead));
        let wall = by_wall(now);
        parsed.clear();
        for (index, (line, text)) in batch.iter().enumerate() {
            counts.lines += 1;
            match parser.parse(text, line.received.map(&by_wall)) {
                Outcome::Line(mut line) => {
                    timing.take(&mut line, wall);
                    parsed.push((index, line));
                }
                Outcome::Unmatched { .. } => counts.unmatched += 1,
                Outcome::Foreign => counts.foreign += 1,
                Outcome::Malformed => counts.malformed += 1,
            }
        }
        counts.recognised += parsed.len() as u64;
        let line_of = |index: usize| batch.lines.get(index).map(|line| (line, batch.text(line)));
        if parsed.len() >= FORESEEN_LINES_MIN {
            engine.foresee(parsed.iter().filter_map(|(index, parsed)| {
                let (_, text) = line_of(*index)?;
                Some((parsed.kind.event()?, parsed.client, parsed.text(text, Field::Account)))
            }));
        }
        for (index, parsed) in parsed.iter() {
            let Some((line, text)) = line_of(*index) else { continue };
            let vouched = trust.vouches(line.origin, crate::parse::slice(text, parsed.program), parsed.sender_uid);
            counts.unvouched += u64::from(!vouched);
            let filter = parser.filters().filter_name(parsed.pattern);
            if parsed.kind == LineKind::Removed && vouched {
                effects.stopping.gone(parsed.text(text, Field::QueueId).unwrap_or_default(), &effects.store);
            }
            correlator.handle(text, parsed, filter, vouched, now, &mut |event| {
                engine.handle_event(&Event { time: by_ours(event.time), ..*event }, now);
            });
        }
    }

    /// Everything that the engine has decided, into the store, the kernel, the log. True when there is more.
    fn act(&mut self) -> bool {
        let now = self.clock.now();
        let more = self.effects.apply(&mut self.engine, &self.correlator, &self.inbox, now);
        self.effects.firewall.work(&self.engine, now);
        more || self.effects.firewall.is_busy()
    }

    fn answer(&mut self) -> Flow {
        self.inbox.clear_wake();
        while let Some(message) = self.inbox.next() {
            match message {
                Message::Request(request, answer) => self.respond(request, answer),
                Message::Reload => self.begin_reload(None),
                Message::Loaded(loaded, answer) => self.finish_reload(loaded, answer),
                Message::ErrandDone(id, outcome) => self.effects.store.errand_done(id, outcome),
                Message::Told(ids, outcome) => self.effects.store.tellings_over(ids, outcome, self.clock.now()),
                Message::OwnAddresses(own) => self.take_addresses(own),
                Message::Stop => return Flow::Stop,
            }
        }
        Flow::Go
    }

    fn take_addresses(&mut self, own: Vec<IpNetwork>) {
        if own == self.own {
            return;
        }
        let new: Vec<IpNetwork> = own.iter().filter(|net| !self.own.contains(net)).copied().collect();
        let lifted = self.engine.set_own_addresses(own.clone(), &new, self.clock.now());
        self.own = own;
        if !new.is_empty() {
            let new: Vec<String> = new.into_iter().map(crate::address::display).collect();
            log::info!("this host has new addresses, which are never banned: {}; {lifted} bans are lifted", new.join(", "));
        }
        self.act();
    }

    fn respond(&mut self, request: Request, answer: oneshot::Sender<Response>) {
        let now = self.clock.now();
        let response = match request {
            Request::Reload => return self.begin_reload(Some(answer)),
            Request::Ping => Response::ok("mailwardend is running"),
            Request::Status { jail } => views::status(self, jail.as_deref(), now),
            Request::ListBans { after } => views::bans(self, after, now),
            Request::Accounts { entered_by } => views::accounts(&self.engine, entered_by),
            Request::ListLocks => stops::list(self, now),
            Request::Why { subject } => {
                let account = stops::name(self, &subject);
                views::why(self, &subject, account)
            }
            Request::Monitor => Response::error(Code::BadRequest, "monitor is answered before it comes here"),
            command => {
                let response =
                    if stops::is_about_account(&command) { stops::command(self, command, now) } else { views::command(self, command, now) };
                while self.effects.apply(&mut self.engine, &self.correlator, &self.inbox, now) {}
                return self.effects.answer_when_saved(response, answer);
            }
        };
        // The asker may have gone.
        let _ = answer.send(response);
    }

    /// Everything is read and checked, on a thread of its own, before anything changes.
    fn begin_reload(&mut self, answer: Option<oneshot::Sender<Response>>) {
        notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Reloading)]);
        let (paths, geo, sender) = (self.paths.clone(), self.geo.shared.clone(), self.inbox.sender());
        let loader = std::thread::Builder::new().name("reload".into());
        let thread = loader.spawn(move || {
            let loaded = setup::load(&paths, &geo).map(Box::new);
            sender.send(Message::Loaded(loaded, answer));
        });
        if let Err(problem) = thread {
            log::error!("reload: cannot start a thread: {problem}; nothing was changed");
        }
    }

    fn finish_reload(&mut self, loaded: Result<Box<Loaded>, String>, answer: Option<oneshot::Sender<Response>>) {
        let response = match loaded {
            Ok(loaded) => self.take_over(*loaded),
            Err(mistakes) => Response::error(Code::Failed, mistakes),
        };
        notify(&[NotifyState::Ready]);
        match answer {
            // The asker may have gone.
            Some(answer) => drop(answer.send(response)),
            None => {
                // Warnings are in the log already.
                let (level, lines) = if response.code == Code::Ok { (log::Level::Info, 1) } else { (log::Level::Error, usize::MAX) };
                response.message.lines().take(lines).for_each(|line| log::log!(level, "reload: {line}"));
            }
        }
    }

    fn take_over(&mut self, Loaded { mut config, mut engine, geo }: Loaded) -> Response {
        // Those that are followed are never older than the ones of when the reload began, or become so at once.
        engine.allow.own.clone_from(&self.own);
        let warnings = setup::warn_of(&config);
        config.forget_texts();
        self.parser = Parser::new(config.filters.set.clone(), self.parser_options.clone());
        self.correlator.reconfigure(config.accounts.clone(), engine.allow.mynetworks.clone());
        self.engine.reconfigure(engine, self.clock.now());
        self.snapshot.may_have_orphans = true;
        self.geo.take_over(geo);
        self.effects.reconfigure(config.enforcement.destroy_sockets);
        self.effects.stopping.reconfigure(&config, config.policy != self.config.policy);
        self.effects.notifier.reconfigure(&config.notify, &self.effects.store);
        let mut text = format!("reloaded: {} jails, {} patterns", config.jails.len(), config.filters.set.pattern_count());
        log::set_max_level(setup::log_level(&config));
        let waiting = waits_for_restart(&config, &self.config);
        if !waiting.is_empty() {
            text.push_str(&format!("; what has changed in {} takes effect with the next restart", waiting.join(", ")));
        }
        self.config = Arc::new(config);
        if !warnings.is_empty() {
            text.push_str(&format!("; with warnings:\n{warnings}"));
        }
        Response::ok(text)
    }

    /// What is due: ends of bans, the duties of every tick, the watchdog.
    fn keep_time(&mut self) {
        let now = self.clock.now();
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now);
            self.act();
        }
        if Instant::now() < self.next_tick {
            return;
        }
        self.next_tick = Instant::now() + TICK;
        self.parser.set_reference(self.clock.wall());
        self.watch_clock();
        self.effects.firewall.tick(&mut self.engine, now);
        self.note_enforcing(now);
        // A lock that nothing carries out must not be called one.
        self.engine.observe_accounts(!self.effects.has_lock_path());
        self.effects.chase(&self.engine, &self.correlator, now);
        self.geo.tick(now);
        self.watch_memory();
        self.effects.keep_store(&self.engine, now, self.config.bans.memory);
        if self.watchdog.is_some() {
            // Fed from here, so that a core that hangs is restarted.
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// The wall clock was set: our own goes on as it was, so that no ban ends early, and what others wrote is moved to it.
    fn watch_clock(&mut self) {
        let ahead = self.clock.ahead_of_wall();
        let ahead = if ahead.abs() < CLOCK_MICROS_TOLERATED { 0 } else { ahead };
        if (ahead - self.clock_ahead).abs() >= CLOCK_MICROS_TOLERATED {
            log::warn!(
                "the clock of this host was set, or stood still, by {} s; windows and bans go on by the old one until the next restart",
                (self.clock_ahead - ahead) / 1_000_000
            );
            self.clock_ahead = ahead;
        }
    }

    fn watch_memory(&mut self) {
        let Some(tight) = self.memory.look() else { return };
        self.engine.set_tight(tight);
        match tight {
            true => log::warn!("{}: what jails count in grows no further, the quietest addresses make room for new ones", self.memory),
            false => log::info!("{}: what jails count in may grow again", self.memory),
        }
    }

    /// Lines of the banned are no sign of anything while their bans are not in the kernel.
    fn note_enforcing(&mut self, now: Timestamp) {
        let is_enforcing = self.effects.firewall.is_enforcing();
        if is_enforcing != self.is_enforcing {
            self.is_enforcing = is_enforcing;
            self.engine.note_enforcing(is_enforcing.then_some(now));
        }
    }

    /// Begins a snapshot when one is due, and goes on with the one that runs. Its cursors and its rows are of one moment.
    fn write_snapshot_slice(&mut self) {
        if self.snapshot.running.is_none() {
            if Instant::now() < self.snapshot.next || !self.effects.store.can_save_windows() {
                return;
            }
            self.snapshot.next = Instant::now() + self.snapshot.interval;
            self.snapshot.running = Some(self.cursors());
            self.engine.begin_snapshot();
        }
        let is_done = self.engine.next_slice(SNAPSHOT_SLICE_ROWS, &mut self.snapshot.rows);
        if is_done && let Some(cursors) = self.snapshot.running.take() {
            let rows = std::mem::take(&mut self.snapshot.rows);
            if self.effects.store.save_windows(rows, cursors).is_err() {
                log::error!("a snapshot was begun before the last one was on disk: its counts are lost until the next one");
            } else if std::mem::take(&mut self.snapshot.may_have_orphans) {
                self.effects.store.keep_tables(self.engine.snapshot_tables());
            }
        }
    }

    fn cursors(&self) -> Vec<(String, String)> {
        self.sources.iter().filter_map(|source| Some((source.stats().name, source.cursor()?))).collect()
    }

    /// Sleeps until an input has something, or something is due.
    fn wait(&mut self) {
        let now = self.clock.now();
        let due = self.engine.poll_timeout().map_or(TICK, |due| due.since(now));
        let mut span = due.min(self.next_tick.saturating_duration_since(Instant::now()));
        if self.snapshot.running.is_some() {
            span = Duration::ZERO;
        }
        // Rounded up: a millisecond early would be a turn for nothing.
        let timeout = PollTimeout::try_from(span.as_micros().div_ceil(1_000).min(1_000)).unwrap_or(PollTimeout::ZERO);
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(self.sources.len() + 1);
        fds.push(PollFd::new(self.inbox.fd(), PollFlags::POLLIN));
        fds.extend(self.sources.iter().map(|source| PollFd::new(source.fd(), PollFlags::POLLIN)));
        // EINTR: a turn for nothing does no harm.
        let _ = poll(&mut fds, timeout);
    }

    /// The last turn: what waits is read, decided and saved.
    fn finish(&mut self) {
        log::info!("stopping");
        notify(&[NotifyState::Stopping]);
        let end = Instant::now() + LAST_TURN;
        while self.read_sources() && Instant::now() < end {
            self.act();
        }
        while self.act() {}
        // What was decided last reaches those who tell it when it is on disk.
        let _ = self.effects.store.flush();
        self.effects.notifier.rest();
        self.answer();
        self.save_all();
        if let Err(error) = self.effects.store.flush() {
            log::error!("not everything could be saved: {error}");
        }
    }

    fn save_all(&mut self) {
        // The one that runs is finished, then a last one is made.
        for _ in 0..2 {
            while self.snapshot.running.is_some() {
                self.write_snapshot_slice();
            }
            if self.effects.store.flush().is_err() {
                return;
            }
            self.snapshot.next = Instant::now();
            self.write_snapshot_slice();
        }
        while self.snapshot.running.is_some() {
            self.write_snapshot_slice();
        }
    }
}
