//! The configuration: files → raw (as written, with places) → resolved (no illegal state has a value).
//!
//! **Invariant:** [`load`] changes nothing but what it returns, so a reload with a mistake leaves the running daemon as it is;
//! and it tells all mistakes of all files at once.

pub mod accounts;
pub mod allow;
mod conditions;
pub mod duration;
pub mod files;
pub mod filters;
mod geo;
mod glance;
mod jails;
mod notify;
pub mod raw;
mod read;
pub mod report;
pub mod settings;
pub mod sources;
mod stopping;
mod suggest;

pub use accounts::AccountRules;
pub use allow::{Allow, Mynetworks};
pub use files::Paths;
pub use filters::Filters;
pub use glance::{Glance, glance};
pub use notify::{Notify, Server};
pub(crate) use read::Wrong;
pub use report::Report;
pub use settings::{BanRules, Control, Enforcement, Log, State};
pub use sources::{Sources, TrustRule};
pub use stopping::{Helper, Policy};

use files::Texts;
use raw::RawMain;
use settings::value_or;

use crate::engine::EngineConfig;
use crate::engine::account::RiskRules;
use crate::engine::allow::AllowConfig;
use crate::engine::jail::Jail;

/// Everything that is configured, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Those that are enabled, in the order of the files.
    pub jails: Vec<Jail>,
    pub filters: Filters,
    pub accounts: AccountRules,
    pub allow: Allow,
    pub bans: BanRules,
    pub risk: RiskRules,
    pub sources: Sources,
    /// On top of what is built in; see [`sources::trust`].
    pub trust: Vec<TrustRule>,
    /// Where addresses are looked up.
    pub geo: crate::geo::Settings,
    pub enforcement: Enforcement,
    pub state: State,
    pub control: Control,
    pub policy: Policy,
    pub helper: Helper,
    pub notify: Notify,
    pub log: Log,
    /// The files name a jail, be it enabled or not.
    pub has_jails: bool,
    /// Warnings only.
    pub warnings: Report,
}

/// What the files say, without what only the host knows: its own addresses, Postfix's answer. Nothing is saved. As `replay` wants it.
impl From<&Config> for EngineConfig {
    fn from(config: &Config) -> EngineConfig {
        let mynetworks = match &config.allow.mynetworks {
            allow::Mynetworks::Auto => Vec::new(),
            allow::Mynetworks::These(networks) => networks.clone(),
        };
        let (ignore, relays) = (config.allow.ignoreip.clone(), config.allow.relays.clone());
        let allow = AllowConfig { ignore, relays, mynetworks, own: Vec::new() };
        EngineConfig {
            jails: config.jails.clone(),
            allow,
            sanction: config.bans.sanction(),
            risk: config.risk.clone(),
            ..EngineConfig::default()
        }
    }
}

impl Config {
    /// Lets go of what only messages about mistakes and `check` need: the texts of the files, the samples of the filters.
    pub fn forget_texts(&mut self) {
        self.warnings = Report::default();
        self.filters.forget_samples();
    }
}

/// Reads and checks the whole configuration.
pub fn load(paths: &Paths) -> Result<Config, Report> {
    let mut report = Report::default();
    let texts = Texts::read(paths, &mut report);
    resolve(&texts, paths, report)
}

/// As [`load`], for a daemon: without any jail or any filter it would run and do nothing, so that is a mistake.
pub fn load_complete(paths: &Paths) -> Result<Config, Report> {
    let config = load(paths)?;
    let mut gaps = Report::default();
    for (is_missing, what, dirs) in [
        (!config.has_jails, "there is no jail: nothing would be banned", &paths.jail_dirs),
        (config.filters.pattern_count() == 0, "there is no filter: no line would be recognised", &paths.filter_dirs),
    ] {
        if is_missing {
            let places: Vec<String> = dirs.iter().map(|dir| format!("{}/*.toml", dir.display())).collect();
            let help =
                format!("read are {}; `make install` puts the shipped ones there, --config DIR names another place", places.join(" and "));
            gaps.push(report::Problem::mistake(what).help(help));
        }
    }
    if gaps.is_empty() { Ok(config) } else { Err(gaps) }
}

/// As [`load`], from texts that are named as in a configuration directory: `mailwarden.toml`, `jail.d/a.toml`, `filters/postfix.toml`.
pub fn load_texts(files: &[(&str, &str)]) -> Result<Config, Report> {
    let mut report = Report::default();
    let texts = Texts::from_memory(files, &mut report);
    resolve(&texts, &Paths::installed(), report)
}

fn resolve(texts: &Texts, paths: &Paths, mut report: Report) -> Result<Config, Report> {
    let main: Option<RawMain> = texts.main.as_ref().and_then(|text| files::parse(text, &mut report));
    let main = main.unwrap_or_default();
    let filters = filters::load(texts, &mut report);
    let accounts = AccountRules::resolve(value_or(main.accounts, Default::default()), &mut report);
    let lowercase = accounts.lowercase;
    let known = jails::Known { filters: filters.as_ref().map(Filters::names), is_partial: texts.is_partial, lowercase };
    let jails::Resolved { jails, has_any } = jails::resolve(texts, &known, &mut report);
    let config = Config {
        jails,
        has_jails: has_any,
        filters: filters.unwrap_or_default(),
        notify: Notify::resolve(value_or(main.notify, Default::default()), &accounts, &mut report),
        accounts,
        allow: Allow::resolve(value_or(main.allow, Default::default()), &mut report),
        bans: BanRules::resolve(value_or(main.bans, Default::default()), &mut report),
        risk: settings::risk(value_or(main.risk, Default::default()), lowercase, &mut report),
        sources: Sources::resolve(main.sources, paths, &mut report),
        trust: sources::resolve_trust(main.trust, &mut report),
        geo: geo::resolve(value_or(main.geo, Default::default()), &mut report),
        enforcement: Enforcement::resolve(value_or(main.enforcement, Default::default()), &mut report),
        state: State::resolve(value_or(main.state, Default::default()), paths),
        control: Control::resolve(value_or(main.control, Default::default()), paths),
        policy: Policy::resolve(value_or(main.policy, Default::default()), &mut report),
        helper: Helper::resolve(value_or(main.helper, Default::default()), paths),
        log: Log::resolve(value_or(main.log, Default::default())),
        warnings: Report::default(),
    };
    if report.has_errors() {
        return Err(report);
    }
    if config.jails.is_empty() {
        report.push(report::Problem::notice("no jail is enabled: nothing will be banned"));
    }
    if config.filters.pattern_count() == 0 {
        report.push(report::Problem::notice("there is no filter: no line will be recognised"));
    }
    Ok(Config { warnings: report, ..config })
}
