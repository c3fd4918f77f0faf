//! From options and configuration to everything that the core needs; each failure says what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use log::{LevelFilter, info, warn};
use nix::unistd::Uid;

use super::decisions::Effects;
use super::firewall::Firewall;
use super::inbox::{self, ControlThread, Inbox};
use super::{Options, log as logging};
use crate::config::allow::{Mynetworks, Trusted, ask_postfix};
use crate::config::raw::User;
use crate::config::settings::{LogLevel, LogTarget};
use crate::config::sources::{Begin, Host, Input as Configured, SOCKET_PATH};
use crate::config::{self, Config, Paths};
use crate::correlate::Correlator;
use crate::enforce::nft::NftOptions;
use crate::engine::allow::AllowConfig;
use crate::engine::{Engine, EngineConfig};
use crate::parse::{FilterSet, ParserOptions};
use crate::source::origin::Trust;
use crate::source::spec::{Facilities, Start};
use crate::source::{Inherited, Input, Source, SourceSpec};
use crate::store::Store;
use crate::time::{Clock, SteadyClock, Timestamp};

/// The name under which systemd hands over the syslog socket.
const SOCKET_NAME: &str = "syslog";

/// What `core` starts with.
pub(super) struct Setup {
    pub clock: SteadyClock,
    pub config: Arc<Config>,
    pub parser_options: ParserOptions,
    pub trust: Trust,
    pub correlator: Correlator,
    pub engine: Engine,
    pub sources: Vec<Source>,
    pub effects: Effects,
    pub places: Places,
    pub log_writer: logging::Writer,
}

/// Where things are, options over configuration.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub config: Paths,
    pub state_dir: PathBuf,
    pub control_socket: PathBuf,
    pub syslog_socket: PathBuf,
}

pub(super) fn start(options: &Options) -> Result<(Setup, Inbox, ControlThread), String> {
    let paths = Paths::choose(options.config.as_deref());
    let config = config::load(&paths).map_err(|report| format!("the configuration has mistakes; nothing was started\n{report}"))?;
    let log_writer = logging::start(log_target(&config), log_level(&config));
    if !config.warnings.is_empty() {
        warn!("{}", config.warnings);
    }
    let clock = SteadyClock::start();
    let now = clock.now();
    let places = Places::new(paths, options, &config);
    // First of all, so that of two daemons the second one touches nothing.
    let (inbox, control) = inbox::start(places.control_socket.clone(), config.control.group.clone())?;
    let (store, loaded) = Store::open(&places.state_dir, now).map_err(|error| error.to_string())?;
    for notice in &loaded.notices {
        log::error!("{notice}");
    }
    let mut engine = Engine::new(engine_config(&config), now);
    engine.restore(loaded.windows, now);
    engine.restore_bans(loaded.bans, now);
    let dry_run = options.dry_run || config.enforcement.dry_run;
    let mut firewall = Firewall::open(nft_options(&config), dry_run);
    firewall.restore(&engine, now);
    let mut inherited = Inherited::from_environment();
    let specs = specs(&config, &places, inherited.has(SOCKET_NAME));
    let trust = trust(&config, &specs);
    let sources = open_sources(&specs, &loaded.cursors, &mut inherited, now)?;
    info!("{} jails, {} patterns, {} sources, {} bans taken over", config.jails.len(), config.filters.pattern_count(), sources.len(), engine.ban_count());
    let setup = Setup {
        clock,
        parser_options: parser_options(&config, &specs, now),
        trust,
        correlator: Correlator::new(config.accounts.clone(), mynetworks(&config)),
        engine,
        sources,
        effects: Effects::new(firewall, store),
        places,
        log_writer,
        config: Arc::new(config),
    };
    Ok((setup, inbox, control))
}

impl Places {
    fn new(config_paths: Paths, options: &Options, config: &Config) -> Places {
        let state_dir = options.state_dir.clone().unwrap_or_else(|| config.state.dir.clone());
        let in_runtime = |name: &str| options.runtime_dir.as_deref().map(|dir| dir.join(name));
        Places {
            config: config_paths,
            state_dir,
            control_socket: in_runtime("control.sock").unwrap_or_else(|| config.control.socket.clone()),
            syslog_socket: in_runtime("syslog.sock").unwrap_or_else(|| SOCKET_PATH.into()),
        }
    }
}

/// What the engine is made from; also on reload.
pub(super) fn engine_config(config: &Config) -> EngineConfig {
    let allow = AllowConfig {
        ignore: config.allow.ignoreip.clone(),
        own: own_addresses(),
        relays: config.allow.relays.clone(),
        mynetworks: mynetworks(config),
    };
    EngineConfig { jails: config.jails.clone(), allow, sanction: config.bans.clone(), ..EngineConfig::default() }
}

pub(super) fn mynetworks(config: &Config) -> Vec<IpNetwork> {
    let networks = match &config.allow.mynetworks {
        Mynetworks::These(networks) => networks.clone(),
        Mynetworks::Auto => ask_postfix().unwrap_or_default(),
    };
    Trusted::of(&networks).exempt
}

/// The addresses of this host's interfaces.
fn own_addresses() -> Vec<IpNetwork> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| -> Option<IpNetwork> {
        let storage = interface.address?;
        let ip = storage
            .as_sockaddr_in()
            .map(|v4| std::net::IpAddr::V4(v4.ip()))
            .or_else(|| storage.as_sockaddr_in6().map(|v6| std::net::IpAddr::V6(v6.ip())))?;
        Some(crate::address::single(ip))
    };
    interfaces.filter_map(address).collect()
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

fn specs(config: &Config, places: &Places, has_passed_socket: bool) -> Vec<SourceSpec> {
    let configured = config.sources.on(Host::look(has_passed_socket));
    configured.into_iter().map(|source| spec(source.name, source.input, places, has_passed_socket)).collect()
}

fn trust(config: &Config, specs: &[SourceSpec]) -> Trust {
    let mut trust = Trust::new();
    for rule in &config.trust {
        for user in &rule.users {
            match user {
                User::Name(name) => drop(trust.allow_user(&rule.program, name)),
                User::Id(uid) => trust.allow(&rule.program, *uid),
            }
        }
    }
    for (id, _) in specs.iter().enumerate().filter(|(_, spec)| spec.annotate) {
        trust.require_annotation(u8::try_from(id).unwrap_or(u8::MAX));
    }
    trust
}

fn open_sources(specs: &[SourceSpec], cursors: &[(String, String)], inherited: &mut Inherited, now: Timestamp) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for (id, spec) in specs.iter().enumerate() {
        let cursor = cursors.iter().find(|(name, _)| *name == spec.name).map(|(_, cursor)| cursor.as_str());
        let source = Source::open(spec, u8::try_from(id).unwrap_or(u8::MAX), cursor, inherited, now);
        sources.push(source.map_err(|error| format!("source \"{}\": {error}", spec.name))?);
    }
    Ok(sources)
}

fn log_target(config: &Config) -> logging::Target {
    if config.log.to == LogTarget::Syslog { logging::Target::Syslog } else { logging::Target::Stderr }
}

fn log_level(config: &Config) -> LevelFilter {
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
