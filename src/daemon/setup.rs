//! From options and configuration to everything that the core needs; each failure says what to do.

use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use log::{LevelFilter, error, info, warn};

use super::decisions::Effects;
use super::firewall::Firewall;
use super::geo::{self, Geo};
use super::inbox::{self, ControlThread, Inbox};
use super::stopping::{Saved, Stopping};
use super::telling::Notifier;
use super::{Options, addresses, log as logging, secret};
use crate::config::allow::{Mynetworks, ask_postfix};
use crate::config::settings::{LogLevel, LogTarget};
use crate::config::sources::{self, Host, INHERITED_NAME};
use crate::config::{self, Config, Paths};
use crate::correlate::Correlator;
use crate::enforce::nft::NftOptions;
use crate::engine::account::Stopped;
use crate::engine::snapshot::SnapshotRow;
use crate::engine::{Engine, EngineConfig};
use crate::geo::Shared;
use crate::parse::ParserOptions;
use crate::source::{Inherited, Source, SourceSpec, Trust};
use crate::store::{Claim, Run, SavedWindows, Store};
use crate::time::{Clock, SteadyClock, Timestamp};

/// What `core` starts with.
pub(super) struct Setup {
    pub clock: SteadyClock,
    pub config: Arc<Config>,
    pub parser_options: ParserOptions,
    pub trust: Trust,
    pub correlator: Correlator,
    pub engine: Engine,
    pub geo: Geo,
    pub sources: Vec<Source>,
    pub effects: Effects,
    /// Addresses of this host.
    pub own: Vec<IpNetwork>,
    pub paths: Paths,
    pub log_writer: logging::Writer,
}

pub(super) fn start(options: &Options) -> Result<(Setup, Inbox, ControlThread), String> {
    let paths = paths(options);
    let mut config =
        config::load_complete(&paths).map_err(|report| format!("the configuration has mistakes; nothing was started\n{report}"))?;
    let log_writer = logging::start(log_target(&config), log_level(&config));
    warn_of(&config);
    config.forget_texts();
    let clock = SteadyClock::start();
    let now = clock.now();
    let claim = Claim::take(&config.state.dir).map_err(|error| error.to_string())?;
    // First of all, so that of two daemons the second one touches nothing.
    let (inbox, control) = inbox::start(config.control.socket.clone(), config.control.group.clone())?;
    // While the state is read, Postfix is asked: either takes a while.
    let asking = {
        let config = config.clone();
        std::thread::spawn(move || engine_config(&config))
    };
    let dry_run = options.dry_run || config.enforcement.dry_run;
    let run = if dry_run { Run::Dry } else { Run::Real };
    let (store, loaded) = Store::open(&config.state.dir, run, now).map_err(|error| error.to_string())?;
    for notice in &loaded.notices {
        error!("{notice}");
    }
    if let Some(dropped) = &loaded.dropped {
        info!("{dropped}");
    }
    let engine_config = asking.join().map_err(|_| "asking the host for its addresses and networks failed")?;
    let (trusted, own) = (engine_config.allow.mynetworks.clone(), engine_config.allow.own.clone());
    let mut engine = Engine::new(EngineConfig { seed: secret::load_or_make(&config.state.dir), ..engine_config }, now);
    engine.restore(&saved_rows(loaded.windows));
    engine.restore_lifted(loaded.lifted);
    engine.restore_bans(loaded.bans);
    let saved = Saved { errands: loaded.errands, parked: loaded.parked };
    engine.restore_stopped(unended(loaded.stopped, now));
    engine.restore_freed(loaded.freed);
    // Before the firewall is compared with the ledger: a ban that is not in there is taken for one that nobody wants.
    engine.enter_restored_bans();
    let allowed = engine.lift_allowed();
    if allowed > 0 {
        warn!("{allowed} bans of an earlier run are lifted: their addresses are never banned now ([allow], or addresses of this host)");
    }
    // Nothing carries out a lock in a dry run, so none is to be called one.
    engine.observe_accounts(dry_run);
    let firewall = Firewall::open(nft_options(&config), dry_run, &loaded.tables, &mut engine, now);
    let mut inherited = Inherited::from_environment();
    let geo = Geo::start(&config, now);
    engine.set_geo(Arc::new(geo.shared.clone()));
    let specs = config.sources.on(Host::look(inherited.has(INHERITED_NAME)));
    let trust = trust(&config, &specs);
    let sources = open_sources(&specs, &loaded.cursors, &mut inherited, now)?;
    let (jails, sources_open, bans, span) = (config.jails.len(), sources.len(), engine.ban_count(), clock.now().since(now));
    info!("{jails} jails, {sources_open} sources, {bans} bans taken over in {} ms", span.as_millis());
    let stopping = Stopping::start(&config, &engine, dry_run, saved, inbox.sender());
    let notifier = Notifier::start(&config.notify, loaded.outbox, &store, inbox.sender());
    let setup = Setup {
        parser_options: parser_options(now),
        correlator: Correlator::new(config.accounts.clone(), trusted),
        effects: Effects::new(firewall, loaded.tables, (store, claim), stopping, notifier, config.enforcement.destroy_sockets),
        config: Arc::new(config),
        clock,
        trust,
        engine,
        geo,
        sources,
        own,
        paths,
        log_writer,
    };
    Ok((setup, inbox, control))
}

/// A hold or lock whose time ran out while nobody was here ends now, so that whatever carried it out is told.
fn unended(mut stopped: Vec<Stopped>, now: Timestamp) -> Vec<Stopped> {
    let soon = now + Duration::from_millis(1);
    for Stopped { stop, .. } in &mut stopped {
        stop.until = stop.until.max(soon);
    }
    stopped
}

fn saved_rows(windows: SavedWindows) -> Vec<SnapshotRow> {
    let mut rows = Vec::new();
    if let Err(problem) = windows.read(|table, key, value| rows.push(SnapshotRow { table, key, value: value.to_vec() })) {
        error!("not all saved counts can be read: {problem}; going on with {} of them", rows.len());
    }
    rows
}

/// A configuration, checked, with what the engine is made from.
pub(super) struct Loaded {
    pub config: Config,
    pub engine: EngineConfig,
    pub geo: geo::Reloaded,
}

/// Reads the configuration and asks the host what only it knows; takes a while.
pub(super) fn load(paths: &Paths, geo: &Shared) -> Result<Loaded, String> {
    let config = config::load_complete(paths).map_err(|report| format!("the configuration has mistakes; nothing was changed\n{report}"))?;
    let engine = engine_config(&config);
    let geo = geo::Reloaded::open(&config, geo);
    Ok(Loaded { config, engine, geo })
}

/// Where the configuration, the state and the sockets are; the options say otherwise.
pub(super) fn paths(options: &Options) -> Paths {
    let mut paths = Paths::choose(options.config.as_deref());
    if let Some(dir) = &options.state_dir {
        paths.state_dir.clone_from(dir);
        paths.state_dir_wins = true;
    }
    if let Some(dir) = &options.runtime_dir {
        paths.runtime_dir.clone_from(dir);
        paths.runtime_dir_wins = true;
    }
    paths
}

/// Into the log; says them again, for whoever asked.
pub(super) fn warn_of(config: &Config) -> String {
    let text = config.warnings.to_string();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        warn!("configuration: {line}");
    }
    text
}

/// What the engine is made from, with what only the host knows; also on reload.
pub(super) fn engine_config(config: &Config) -> EngineConfig {
    let mut engine = EngineConfig::from(config);
    engine.allow.own = addresses::own().unwrap_or_default();
    engine.allow.mynetworks = mynetworks(config);
    engine.persist = true;
    engine
}

pub(super) fn mynetworks(config: &Config) -> Vec<IpNetwork> {
    match &config.allow.mynetworks {
        Mynetworks::These(networks) => networks.clone(),
        Mynetworks::Auto => ask_postfix().unwrap_or_default(),
    }
}

pub(super) fn nft_options(config: &Config) -> NftOptions {
    let enforcement = &config.enforcement;
    NftOptions {
        table: enforcement.table.clone(),
        reject: enforcement.reject.clone(),
        disabled: enforcement.features_off.clone(),
        ..NftOptions::default()
    }
}

pub(super) fn trust(config: &Config, specs: &[SourceSpec]) -> Trust {
    let (trust, missing) = sources::trust(&config.trust, specs);
    for user in missing {
        warn!("configuration: [trust] names the user {user:?}, whom this host does not have");
    }
    trust
}

/// A source that cannot be opened stops the others from nothing; without any there is nothing to do.
fn open_sources(
    specs: &[SourceSpec],
    cursors: &[(String, String)],
    inherited: &mut Inherited,
    now: Timestamp,
) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    let mut troubles = Vec::new();
    for (id, spec) in (0..=u8::MAX).zip(specs) {
        let cursor = cursors.iter().find(|(name, _)| *name == spec.name).map(|(_, cursor)| cursor.as_str());
        match Source::open(spec, id, cursor, inherited, now) {
            Ok(source) => {
                if let Some(problem) = source.stats().problem {
                    warn!("source \"{}\": {problem}", spec.name);
                }
                sources.push(source);
            }
            Err(error) => troubles.push(format!("source \"{}\": {error}", spec.name)),
        }
    }
    if sources.is_empty() {
        return Err(format!("no source of log lines could be opened: {}", troubles.join("; ")));
    }
    for trouble in troubles {
        error!("{trouble}; going on without it");
    }
    Ok(sources)
}

/// A relay's note about the sender is read where there is one: with the snippets that we ship it is there, whatever the
/// configuration says. `annotated = true` is about the lines without one.
fn parser_options(now: Timestamp) -> ParserOptions {
    ParserOptions { annotated: true, ..ParserOptions::new(now) }
}

fn log_target(config: &Config) -> logging::Target {
    if config.log.to == LogTarget::Syslog { logging::Target::Syslog } else { logging::Target::Stderr }
}

pub(super) fn log_level(config: &Config) -> LevelFilter {
    match config.log.level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    }
}

/// How often the service manager wants to hear from us; half of its patience. `None`: it does not.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 2)
}
