//! The daemon's own settings: bans in general, enforcement, state, control socket, log.

use std::path::PathBuf;
use std::time::Duration;

use super::accounts::cased;
use super::files::{self, Paths};
use super::raw::{AccountPattern, RawBans, RawControl, RawEnforcement, RawLog, RawRisk, RawState, RawWiden};
use super::read::{At, Bantime, Many, word};
use super::report::{Problem, Report};
use crate::enforce::nft::{Feature, NftOptions};
use crate::engine::account::RiskRules;
use crate::engine::jail::Scope;
use crate::engine::sanction::{SanctionConfig, WideningConfig};
use crate::event::words;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(5);
/// Longest name of an nftables table that the kernel takes is 255; nobody needs it.
const TABLE_NAME_BYTES_MAX: usize = 64;

/// What holds for the bans of all jails.
#[derive(Clone, Debug, PartialEq)]
pub struct BanRules {
    /// Each further ban of a subject lasts this many times as long as the one before. At least 1.
    pub factor: f64,
    /// No growth beyond this; `None`: no bound. The first ban of a jail is never cut.
    pub max: Option<Duration>,
    /// How long a ban is held against its subject, from its beginning; the store keeps the row of an ended one as long, from its end.
    pub memory: Duration,
    /// `None`: never widen.
    pub widen: Option<Widen>,
}

/// When enough addresses of a network are banned, the network is.
#[derive(Clone, Debug, PartialEq)]
pub struct Widen {
    /// Banned addresses of an IPv4 /24; 0: never.
    pub addresses_of_ipv4_24: u32,
    /// Banned /64s of an IPv6 /56; 0: never.
    pub nets_of_ipv6_56: u32,
    /// Banned /56s of an IPv6 /48; 0: never.
    pub nets_of_ipv6_48: u32,
    pub findtime: Duration,
    pub bantime: Duration,
}

impl Default for BanRules {
    fn default() -> Self {
        BanRules { factor: 4.0, max: Some(7 * DAY), memory: 30 * DAY, widen: Some(Widen::default()) }
    }
}

impl Default for Widen {
    fn default() -> Self {
        Widen { addresses_of_ipv4_24: 8, nets_of_ipv6_56: 16, nets_of_ipv6_48: 4, findtime: DAY, bantime: 6 * HOUR }
    }
}

impl BanRules {
    /// In the engine's words.
    pub fn sanction(&self) -> SanctionConfig {
        let widening = self.widen.as_ref().map(|widen| WideningConfig {
            addresses_of_24: widen.addresses_of_ipv4_24,
            nets_of_56: widen.nets_of_ipv6_56,
            nets_of_48: widen.nets_of_ipv6_48,
            within: widen.findtime,
            longest: widen.bantime,
            ..WideningConfig::default()
        });
        SanctionConfig { factor: self.factor, longest: self.max.unwrap_or(Duration::MAX), memory: self.memory, widening }
    }

    pub(super) fn resolve(raw: RawBans, report: &mut Report) -> BanRules {
        let default = BanRules::default();
        if let Some(At { value, place }) = raw.factor
            && !(1.0..=1000.0).contains(&value)
        {
            let problem = Problem::error(place, format!("factor {value} is not between 1 and 1000"));
            report.push(problem.help("1: repeated bans last as long as the first; 4: four times as long each time"));
        }
        BanRules {
            factor: value_or(raw.factor, default.factor),
            max: raw.max.map_or(default.max, |At { value: Bantime(span), .. }| span),
            memory: value_or(raw.memory, default.memory),
            widen: Widen::resolve(value_or(raw.widen, RawWiden::default())),
        }
    }
}

impl Widen {
    fn resolve(raw: RawWiden) -> Option<Widen> {
        let default = Widen::default();
        value_or(raw.enabled, true).then(|| Widen {
            addresses_of_ipv4_24: value_or(raw.addresses_of_ipv4_24, default.addresses_of_ipv4_24),
            nets_of_ipv6_56: value_or(raw.nets_of_ipv6_56, default.nets_of_ipv6_56),
            nets_of_ipv6_48: value_or(raw.nets_of_ipv6_48, default.nets_of_ipv6_48),
            findtime: value_or(raw.findtime, default.findtime),
            bantime: value_or(raw.bantime, default.bantime),
        })
    }
}

/// Accounts and domains; `file:PATH` is a list of them, one a line.
fn names(raw: Option<At<Many<AccountPattern>>>, lowercase: bool, report: &mut Report) -> Vec<String> {
    let mut names = Vec::new();
    for At { value: AccountPattern(name), place } in raw.map_or_else(Vec::new, |list| list.value.0) {
        match name.strip_prefix("file:") {
            Some(path) => {
                let lines = files::read_list(std::path::Path::new(path), place, report);
                names.extend(lines.iter().map(|line| cased(&line.value, lowercase)));
            }
            None => names.push(cased(&name, lowercase)),
        }
    }
    names
}

/// What the signs against an account lead to.
pub(super) fn risk(raw: RawRisk, lowercase: bool, report: &mut Report) -> RiskRules {
    let default = RiskRules::default();
    let place = raw.alert.as_ref().or(raw.hold.as_ref()).or(raw.lock.as_ref()).map(|at| at.place);
    let points = |raw: Option<At<u32>>, default: f64| raw.map_or(default, |at| f64::from(at.value));
    let (alert, hold, lock) = (points(raw.alert, default.alert), points(raw.hold, default.hold), points(raw.lock, default.lock));
    if let Some(place) = place.filter(|_| !(1.0 <= alert && alert <= hold && hold <= lock)) {
        let problem = Problem::error(place, format!("alert {alert}, hold {hold} and lock {lock} do not rise"));
        report.push(problem.help("an account is alerted on first, then held, then locked: 40, 70, 100"));
    }
    if let Some(At { place, .. }) = raw.half_life.as_ref().filter(|at| at.value < Duration::from_secs(60)) {
        report.push(Problem::error(*place, "a half_life below a minute").help("then nothing ever adds up; 1h is usual"));
    }
    let count = |raw: Option<At<u32>>, default: usize| raw.map_or(default, |at| at.value as usize);
    RiskRules {
        alert,
        hold,
        lock,
        half_life: value_or(raw.half_life, default.half_life),
        lock_time: value_or(raw.lock_time, default.lock_time),
        lock_full: value_or(raw.lock_full, default.lock_full),
        locks_per_10_minutes: count(raw.locks_per_10_minutes, default.locks_per_10_minutes),
        locks_per_domain: count(raw.locks_per_domain, default.locks_per_domain),
        locks_per_day: count(raw.locks_per_day, default.locks_per_day),
        learning: raw.learning.map_or(default.learning, |at| at.value.0),
        protected: names(raw.protected, lowercase, report),
        bulk: names(raw.bulk, lowercase, report),
        system_users: raw.system_users.map_or(default.system_users, |list| unplaced(list.value.0)),
    }
}

word!(Feature, "kernel feature");

#[derive(Clone, Debug, PartialEq)]
pub struct Enforcement {
    /// Name of the nftables table, family inet.
    pub table: String,
    /// Decide, log, remember, but leave the kernel alone.
    pub dry_run: bool,
    /// Scopes whose clients get an answer (TCP reset, ICMP) in place of silence.
    pub reject: Vec<Scope>,
    /// Closes connections that a banned client has open.
    pub destroy_sockets: bool,
    /// Do without these even where the kernel has them.
    pub features_off: Vec<Feature>,
}

impl Default for Enforcement {
    fn default() -> Self {
        Enforcement {
            table: NftOptions::default().table,
            dry_run: false,
            reject: Vec::new(),
            destroy_sockets: false,
            features_off: Vec::new(),
        }
    }
}

impl Enforcement {
    pub(super) fn resolve(raw: RawEnforcement, report: &mut Report) -> Enforcement {
        let default = Enforcement::default();
        if let Some(table) = &raw.table
            && !is_table_name(&table.value)
        {
            let problem = Problem::error(table.place, format!("{:?} cannot be the name of a table", table.value));
            report.push(problem.help("letters, digits and _ only, a letter first"));
        }
        Enforcement {
            table: value_or(raw.table, default.table),
            dry_run: value_or(raw.dry_run, default.dry_run),
            reject: raw.reject.map_or(default.reject, |list| unplaced(list.value.0)),
            destroy_sockets: value_or(raw.destroy_sockets, default.destroy_sockets),
            features_off: raw.features_off.map_or(default.features_off, |list| unplaced(list.value.0)),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub dir: PathBuf,
    /// How often counts are saved: what a power cut or SIGKILL can lose.
    pub snapshot_interval: Duration,
}

impl State {
    pub(super) fn resolve(raw: RawState, paths: &Paths) -> State {
        let dir = raw.dir.filter(|_| !paths.state_dir_wins);
        State { dir: value_or(dir, paths.state_dir.clone()), snapshot_interval: value_or(raw.snapshot_interval, SNAPSHOT_INTERVAL) }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    pub socket: PathBuf,
    /// Its members may use the tool without being root.
    pub group: Option<String>,
}

impl Control {
    pub(super) fn resolve(raw: RawControl, paths: &Paths) -> Control {
        let group = raw.group.map(|group| group.value).filter(|group| !group.is_empty());
        let socket = raw.socket.filter(|_| !paths.runtime_dir_wins);
        Control { socket: value_or(socket, paths.runtime_dir.join("control.sock")), group }
    }
}

words! {
    LogTarget {
        /// The journal when systemd started us, else standard error.
        Auto = "auto",
        Stderr = "stderr",
        Journal = "journal",
        Syslog = "syslog",
    }
}
word!(LogTarget, "log target");

words! {
    LogLevel { Error = "error", Warn = "warn", Info = "info", Debug = "debug" }
}
word!(LogLevel, "log level");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub to: LogTarget,
    pub level: LogLevel,
}

impl Default for Log {
    fn default() -> Self {
        Log { to: LogTarget::Auto, level: LogLevel::Info }
    }
}

impl Log {
    pub(super) fn resolve(raw: RawLog) -> Log {
        Log { to: value_or(raw.to, Log::default().to), level: value_or(raw.level, Log::default().level) }
    }
}

/// What was written, or else `default`.
pub(super) fn value_or<T>(field: Option<At<T>>, default: T) -> T {
    field.map_or(default, |at| at.value)
}

pub(super) fn unplaced<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

pub(super) fn is_table_name(name: &str) -> bool {
    name.len() <= TABLE_NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
