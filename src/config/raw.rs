//! The configuration as written: every key optional, every value with its place. `docs/configuration.md` lists the same
//! keys; a test compares the two.

use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::jails::Draft;
use super::read::{Bantime, FromText, FromToml, Many, Named, Negatable, Node, NoneOrLonger, Reader, Wrong, raw, word};
use super::settings::{LogLevel, LogTarget};
use super::sources::{Begin, Kind};
use crate::enforce::nft::Feature;
use crate::engine::account::Family;
use crate::engine::decision::Verb;
use crate::engine::jail::{Action, Distinct, KeyPart, Measure, Mode, Novelty, Scope, SubmitterKind, Window};
use crate::event::{EventKind, Familiarity, Reason, Service, words};
use crate::geo::Entry;
use crate::source::spec::Facilities;

/// All tables and their keys, for the test of the documentation.
pub const TABLES: &[(&str, &[&str])] = &[
    ("mailwarden.toml", RawMain::KEYS),
    ("[accounts]", RawAccounts::KEYS),
    ("[allow]", RawAllow::KEYS),
    ("[bans]", RawBans::KEYS),
    ("[risk]", RawRisk::KEYS),
    ("[bans.widen]", RawWiden::KEYS),
    ("[[source]]", RawSource::KEYS),
    ("[geo]", RawGeo::KEYS),
    ("[enforcement]", RawEnforcement::KEYS),
    ("[state]", RawState::KEYS),
    ("[control]", RawControl::KEYS),
    ("[policy]", RawPolicy::KEYS),
    ("[helper]", RawHelper::KEYS),
    ("[notify]", RawNotify::KEYS),
    ("[log]", RawLog::KEYS),
    ("jail.d/*.toml", RawJailFile::KEYS),
    ("[jail.NAME]", RawJail::KEYS),
    ("where", RawWhere::KEYS),
    ("steps", RawStep::KEYS),
    ("[jail.NAME.override.WHO]", RawOverride::KEYS),
];

raw! {
    /// `mailwarden.toml`.
    RawMain in "mailwarden.toml" {
        accounts: RawAccounts = "accounts",
        allow: RawAllow = "allow",
        bans: RawBans = "bans",
        risk: RawRisk = "risk",
        sources: Many<RawSource> = "source",
        trust: Named<Many<User>> = "trust",
        geo: RawGeo = "geo",
        enforcement: RawEnforcement = "enforcement",
        state: RawState = "state",
        control: RawControl = "control",
        policy: RawPolicy = "policy",
        helper: RawHelper = "helper",
        notify: RawNotify = "notify",
        log: RawLog = "log",
    }
}

raw! {
    RawAccounts in "[accounts]" {
        default_domain: String = "default_domain",
        lowercase: bool = "lowercase",
        extension: Delimiter = "extension",
        domain_aliases: Named<String> = "domain_aliases",
        aliases: PathBuf = "aliases",
        local_domains: Many<String> = "local_domains",
    }
}

raw! {
    RawAllow in "[allow]" {
        ignoreip: Many<Listed> = "ignoreip",
        relays: Many<Listed> = "relays",
        mynetworks: Many<AutoOr<IpNetwork>> = "mynetworks",
    }
}

raw! {
    RawBans in "[bans]" {
        factor: f64 = "factor",
        max: Bantime = "max",
        memory: Duration = "memory",
        widen: RawWiden = "widen",
    }
}

raw! {
    RawRisk in "[risk]" {
        alert: u32 = "alert",
        hold: u32 = "hold",
        lock: u32 = "lock",
        half_life: Duration = "half_life",
        lock_time: Duration = "lock_time",
        lock_full: bool = "lock_full",
        locks_per_10_minutes: u32 = "locks_per_10_minutes",
        locks_per_domain: u32 = "locks_per_domain",
        locks_per_day: u32 = "locks_per_day",
        bulk: Many<AccountPattern> = "bulk",
        learning: NoneOrLonger = "learning",
        protected: Many<AccountPattern> = "protected",
        system_users: Many<u32> = "system_users",
    }
}

raw! {
    RawWiden in "[bans.widen]" {
        enabled: bool = "enabled",
        addresses_of_ipv4_24: u32 = "addresses_of_ipv4_24",
        nets_of_ipv6_56: u32 = "nets_of_ipv6_56",
        nets_of_ipv6_48: u32 = "nets_of_ipv6_48",
        findtime: Duration = "findtime",
        bantime: Duration = "bantime",
    }
}

raw! {
    RawSource in "[[source]]" {
        kind: Kind = "kind",
        name: String = "name",
        path: PathBuf = "path",
        group: String = "group",
        annotated: bool = "annotated",
        trusted: bool = "trusted",
        from: Begin = "from",
        matches: Many<String> = "match",
        command: PathBuf = "command",
        facilities: Many<FacilityName> = "facilities",
        force: bool = "force",
    }
}

raw! {
    RawGeo in "[geo]" {
        database: Many<PathBuf> = "database",
        embedded: bool = "embedded",
        relays: Many<Negatable<Entry>> = "relays",
        anonymisers: Many<Negatable<Entry>> = "anonymisers",
        mobile: Many<Negatable<Entry>> = "mobile",
    }
}

raw! {
    RawEnforcement in "[enforcement]" {
        table: String = "table",
        dry_run: bool = "dry_run",
        reject: Many<Scope> = "reject",
        destroy_sockets: bool = "destroy_sockets",
        features_off: Many<Feature> = "features_off",
    }
}

raw! {
    RawState in "[state]" {
        dir: PathBuf = "dir",
        snapshot_interval: Duration = "snapshot_interval",
    }
}

raw! {
    RawControl in "[control]" {
        socket: PathBuf = "socket",
        group: String = "group",
    }
}

raw! {
    RawPolicy in "[policy]" {
        enabled: bool = "enabled",
        socket: PathBuf = "socket",
        group: String = "group",
        users: Many<String> = "users",
        text: String = "text",
    }
}

raw! {
    RawHelper in "[helper]" {
        enabled: bool = "enabled",
        socket: PathBuf = "socket",
    }
}

raw! {
    RawNotify in "[notify]" {
        mail_to: Many<String> = "mail_to",
        mail_from: String = "mail_from",
        smtp: String = "smtp",
        webhook: String = "webhook",
        digest: Duration = "digest",
        on: Many<Verb> = "on",
        bans: bool = "bans",
        owner: bool = "owner",
        owners: PathBuf = "owners",
    }
}

raw! {
    RawLog in "[log]" {
        to: LogTarget = "to",
        level: LogLevel = "level",
    }
}

raw! {
    /// A file of `jail.d`.
    RawJailFile in "a file of jail.d" {
        jails: Named<Draft> = "jail",
    }
}

raw! {
    /// `[jail.NAME]`, or what one file says of it.
    RawJail in "a jail" {
        enabled: bool = "enabled",
        mode: Mode = "mode",
        on: Many<EventKind> = "on",
        filter: Many<String> = "filter",
        conditions: RawWhere = "where",
        unless: Many<Exception> = "unless",
        weak: bool = "weak",
        shared: bool = "shared",
        key: Key = "key",
        measure: Measure = "measure",
        weight: Named<u32> = "weight",
        limit: Limit = "limit" | "maxretry",
        min: u64 = "min",
        operators: u32 = "operators",
        max: u64 = "max",
        findtime: Duration = "findtime",
        window: Window = "window",
        then: Many<Action> = "then",
        score: u32 = "score",
        family: Family = "family",
        steps: Many<RawStep> = "steps",
        bantime: Bantime = "bantime",
        scope: Scope = "scope",
        forgive: Forgive = "forgive",
        overrides: Named<RawOverride> = "override",
    }
}

raw! {
    RawWhere in "`where`" {
        service: Many<Negatable<Service>> = "service",
        reason: Many<Negatable<Reason>> = "reason",
        ip: Many<Negatable<IpNetwork>> = "ip",
        account: Many<Negatable<AccountPattern>> = "account",
        code: Many<CodeTest> = "code",
        has_account: bool = "has-account",
        null_sender: bool = "null-sender",
        place: Many<Negatable<Familiarity>> = "place",
        besieged: bool = "besieged",
        new_recipient_domain: bool = "new-recipient-domain",
        submitter: Many<Negatable<SubmitterKind>> = "submitter",
    }
}

raw! {
    RawStep in "a step" {
        limit: Limit = "limit" | "maxretry",
        score: u32 = "score",
        then: Many<Action> = "then",
    }
}

raw! {
    RawOverride in "an override" {
        factor: f64 = "factor",
        limit: u64 = "limit" | "maxretry",
        exempt: bool = "exempt",
        class: String = "class",
    }
}

impl RawJail {
    /// What a later file says of the same jail: single keys count, overrides are added to, a new ladder replaces the old limit.
    pub fn amend(&mut self, mut later: RawJail) {
        if later.steps.is_some() {
            (self.limit, self.score, self.then) = (None, None, None);
        }
        if let (Some(earlier), Some(added)) = (self.overrides.take(), later.overrides.as_mut()) {
            let is_new = |name: &str| !added.value.0.iter().any(|(other, _)| other.value == name);
            let kept: Vec<_> = earlier.value.0.into_iter().filter(|(name, _)| is_new(&name.value)).collect();
            added.value.0.splice(0..0, kept);
        }
        self.overlay(later);
    }
}

word!(Mode, "mode");
word!(EventKind, "kind of event");
word!(Service, "service");
word!(Reason, "reason");
word!(Action, "action");
word!(Scope, "scope");
word!(Window, "window");
word!(Exception, "exception");
word!(Family, "family of signs");
word!(Familiarity, "place");
word!(SubmitterKind, "kind of submitter");
word!(Forgive, "condition for forgiveness");

words! {
    /// A word of `unless`.
    Exception { KnownGood = "known-good", Accepted = "accepted" }
}

words! {
    /// The words of `forgive`.
    Forgive { AuthSuccess = "auth-success", Never = "never" }
}

/// `key = "ip+account"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Key(pub Vec<KeyPart>);

impl FromText for Key {
    const EXPECTED: &'static str = "a string such as \"ip\" or \"ip+account\"";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let known: Vec<&str> = KeyPart::ALL.iter().map(|part| part.as_str()).collect();
        let mut parts = Vec::new();
        for word in text.split('+').map(str::trim) {
            let part: KeyPart = word.parse().map_err(|()| Wrong::unknown("key to count by", word, &known))?;
            if parts.contains(&part) {
                return Err(Wrong::new(format!("{word:?} stands twice in the key")));
            }
            parts.push(part);
        }
        if parts.len() > 1 && parts.contains(&KeyPart::Global) {
            return Err(Wrong::new("\"global\" is one key for everything: nothing can be joined to it"));
        }
        Ok(Key(parts))
    }
}

impl FromText for Measure {
    const EXPECTED: &'static str = "a string such as \"count\" or \"distinct account\"";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let wanted: Vec<&str> = Distinct::ALL.iter().map(|what| what.as_str()).collect();
        match words.as_slice() {
            ["count"] => Ok(Measure::Count),
            ["distinct", what] => what.parse().map(Measure::Distinct).map_err(|()| Wrong::unknown("thing to tell apart", what, &wanted)),
            ["distinct"] => Err(Wrong::new("\"distinct\" of what?").help(format!("there are: distinct {}", wanted.join(", distinct ")))),
            ["sum", "recipients"] => Ok(Measure::SumRecipients),
            ["sum", "bytes"] => Ok(Measure::SumBytes),
            ["ratio", "bounced"] => Ok(Measure::RatioBounced),
            ["ratio", "spam"] => Ok(Measure::RatioSpam),
            ["burst", "recipients"] => Ok(Measure::BurstRecipients),
            ["burst", "messages"] => Ok(Measure::BurstMessages),
            ["speed"] => Ok(Measure::Speed),
            ["new", what] => {
                let wanted: Vec<&str> = Novelty::ALL.iter().map(|what| what.as_str()).collect();
                what.parse().map(Measure::New).map_err(|()| Wrong::unknown("thing that can be new", what, &wanted))
            }
            _ => Err(Wrong::unknown("measure", text, MEASURES)),
        }
    }
}

const MEASURES: &[&str] = &[
    "count",
    "distinct account",
    "distinct network",
    "sum recipients",
    "sum bytes",
    "ratio bounced",
    "ratio spam",
    "burst recipients",
    "burst messages",
    "new country",
    "new network",
    "new hour",
    "speed",
];

/// A limit: a number, which may say what it is a number of (`"12%"`, `"4x"`, `"900km/h"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub u64);

impl FromToml for Limit {
    const EXPECTED: &'static str = "a number, or a string such as \"12%\", \"4x\" or \"900km/h\"";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let toml::de::DeValue::String(text) = node.get_ref() else { return u64::read(node, reader).map(Limit) };
        let number = ["%", "x", "km/h"].iter().find_map(|unit| text.strip_suffix(unit)).and_then(|number| number.trim_end().parse().ok());
        match number {
            Some(number) => Some(Limit(number)),
            None => {
                let help = "a number such as 6, or one of \"12%\", \"4x\", \"900km/h\"";
                reader.error(node, Wrong::new(format!("{text:?} is no limit: expected a number, found a string")).help(help))
            }
        }
    }
}

/// A reply code (550) or the class of one (5, or "5xx").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodeTest {
    pub negated: bool,
    pub code: u16,
}

impl FromToml for CodeTest {
    const EXPECTED: &'static str = "a reply code such as 550, or 5 for all of 5xx";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = match node.get_ref() {
            toml::de::DeValue::Integer(integer) => integer.to_string(),
            toml::de::DeValue::String(text) => text.to_string(),
            _ => return reader.wrong_type(node, Self::EXPECTED),
        };
        let (negated, digits) = text.strip_prefix('!').map_or((false, text.as_str()), |rest| (true, rest));
        match digits.strip_suffix("xx").unwrap_or(digits).parse() {
            Ok(code @ (2..=5 | 200..=599)) => Some(CodeTest { negated, code }),
            _ => {
                reader.error(node, Wrong::new(format!("{text:?} is no reply code")).help("write 550, or 5 or \"5xx\" for the whole class"))
            }
        }
    }
}

/// A full account name, or `@domain`. In the canonical form of account names: lower case.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountPattern(pub String);

impl FromText for AccountPattern {
    const EXPECTED: &'static str = "a string: an account or \"@domain\"";
    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() || text == "@" {
            return Err(Wrong::new("an empty account name").help("write \"name@domain\", or \"@domain\" for all of it"));
        }
        Ok(AccountPattern(text.to_owned()))
    }
}

/// An address, a network, or `file:` and the path of a list of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Listed {
    Net(IpNetwork),
    File(PathBuf),
}

impl FromText for Listed {
    const EXPECTED: &'static str = "a string: an address, a network, or \"file:/path\"";
    fn parse(text: &str) -> Result<Self, Wrong> {
        match text.strip_prefix("file:") {
            Some(path) => PathBuf::parse(path).map(Listed::File),
            None => IpNetwork::parse(text).map(Listed::Net),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum AutoOr<T> {
    Auto,
    This(T),
}

impl<T: FromText> FromText for AutoOr<T> {
    const EXPECTED: &'static str = "\"auto\", or a list";
    fn parse(text: &str) -> Result<Self, Wrong> {
        if text == "auto" { Ok(AutoOr::Auto) } else { T::parse(text).map(AutoOr::This) }
    }
}

/// One character, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delimiter(pub Option<char>);

impl FromText for Delimiter {
    const EXPECTED: &'static str = "a string of one character, or \"\"";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (None, _) => Ok(Delimiter(None)),
            (Some(only), None) if only != '@' && !only.is_alphanumeric() => Ok(Delimiter(Some(only))),
            _ => Err(Wrong::new(format!("{text:?} is no delimiter")).help("write one character such as \"+\" or \"-\", or \"\" for none")),
        }
    }
}

/// A user of this host: a name, or a uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    Name(String),
    Id(u32),
}

impl FromToml for User {
    const EXPECTED: &'static str = "a user name or a uid";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match node.get_ref() {
            toml::de::DeValue::Integer(_) => u32::read(node, reader).map(User::Id),
            toml::de::DeValue::String(name) if !name.is_empty() => Some(User::Name(name.to_string())),
            _ => reader.wrong_type(node, Self::EXPECTED),
        }
    }
}

/// A syslog facility.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FacilityName(pub Facilities);

impl FromText for FacilityName {
    const EXPECTED: &'static str = "a string: a syslog facility such as \"mail\"";
    fn parse(text: &str) -> Result<Self, Wrong> {
        Facilities::named(text)
            .map(FacilityName)
            .ok_or_else(|| Wrong::unknown("facility", text, &["mail", "auth", "authpriv", "daemon", "user"]))
    }
}
