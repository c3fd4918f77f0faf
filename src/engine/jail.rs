//! A jail: which events, keyed by what, measured how, over which window, up to which limit, then what.
//!
//! These are the resolved types: no illegal state has a value. `config/` makes them from `jail.d/*.toml`.

use std::collections::HashMap;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::account::Family;
use crate::event::{EventKind, Familiarity, Reason, Service, words};

#[derive(Clone, Debug, PartialEq)]
pub struct Jail {
    pub name: String,
    pub mode: Mode,
    pub on: Vec<EventKind>,
    /// Names of filters; empty: any.
    pub filters: Vec<String>,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// The jail also counts weak signs.
    pub weak: bool,
    /// Subjects that are left alone.
    pub unless: Unless,
    /// Only addresses from which several accounts log in, which all other jails judge account by account. Its bans stay as short as
    /// they are, and lead to no others.
    pub shared: bool,
    pub key: Vec<KeyPart>,
    pub measure: Measure,
    pub window: Window,
    pub findtime: Duration,
    /// What an event adds by its reason; 1 where none is named.
    pub weight: Vec<(Reason, u32)>,
    /// By rising limit; never empty.
    pub steps: Vec<Step>,
    /// A `ratio` says nothing about fewer deliveries, a `burst` about a smaller sum.
    pub min: u64,
    /// A `ratio` counts only where so many different providers refused.
    pub operators: u32,
    /// A `ratio` above this, in percent, says nothing.
    pub max: u64,
    /// Of which kind a sign its score is.
    pub family: Family,
    pub ban: BanSpec,
    /// A success of the same (ip, account) clears that pair's failures.
    pub forgive: bool,
    /// By account (`name@domain`), domain (`@domain`) or class name: other limits.
    pub overrides: HashMap<String, Override>,
}

words! {
    Mode {
        Enforce = "enforce",
        /// Everything but the effect.
        Observe = "observe",
    }
}

/// One line of `where`. `negated` turns the answer around.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub negated: bool,
    pub test: Test,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    Service(Vec<Service>),
    Reason(Vec<Reason>),
    Ip(Vec<IpNetwork>),
    /// Full names, or `@domain`.
    Account(Vec<String>),
    /// Reply codes: a number below 10 is a class (5 = 5xx).
    Code(Vec<u16>),
    /// The event names an account (true) or does not (false).
    HasAccount(bool),
    /// The sender is empty (true), as that of a bounce is, or not.
    NullSender(bool),
    /// How the client's place stands to the account.
    Place(Vec<Familiarity>),
    /// Many addresses have failed to log in as the account lately (true), or not.
    Besieged(bool),
    /// The submitter had never written to the recipient's domain before today (true), or had.
    NewRecipientDomain(bool),
    Submitter(Vec<SubmitterKind>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unless {
    /// The address had a successful login within 30 days.
    pub known_good: bool,
    /// The address had a message accepted within 7 days.
    pub accepted: bool,
}

words! {
    KeyPart {
        /// IPv4 address, or the IPv6 /64.
        Ip = "ip",
        /// IPv4 /24, IPv6 /48.
        Network = "network",
        Account = "account",
        Submitter = "submitter",
        Domain = "domain",
        Global = "global",
    }
}

words! {
    SubmitterKind {
        Account = "account",
        /// A web site, or another local user.
        Local = "local",
        /// Needs no login.
        Client = "client",
        /// Sends on what came from outside.
        Forward = "forward",
    }
}

words! {
    /// What can be `new` to an account.
    Novelty { Country = "country", Network = "network", Hour = "hour" }
}

words! {
    /// What `distinct` tells apart.
    Distinct {
        Ip = "ip",
        Network = "network",
        Country = "country",
        Asn = "asn",
        Account = "account",
        Recipient = "recipient",
        RecipientDomain = "recipient-domain",
        Operator = "operator",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Count,
    Distinct(Distinct),
    SumRecipients,
    SumBytes,
    /// Recipients that do not exist, or whose server calls the message spam, in percent of all.
    RatioBounced,
    /// Only the latter.
    RatioSpam,
    /// Times the submitter's own busiest hour.
    BurstRecipients,
    BurstMessages,
    /// Each time that something is new.
    New(Novelty),
    /// In kilometres per hour, from one login to the next.
    Speed,
}

impl Measure {
    /// Sees one event at a time and needs no window.
    pub const fn is_momentary(self) -> bool {
        matches!(self, Measure::New(_) | Measure::Speed)
    }

    /// Its limit is a multiple of what is usual.
    pub const fn is_relative(self) -> bool {
        matches!(self, Measure::BurstRecipients | Measure::BurstMessages)
    }
}

words! {
    Window {
        /// Exact: the half-open span (now − findtime, now].
        Sliding = "sliding",
        /// Spans of findtime aligned to the epoch.
        Fixed = "fixed",
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Trips at the event that reaches it.
    pub limit: u64,
    pub score: u32,
    pub then: Vec<Action>,
}

words! {
    Action {
        Ban = "ban",
        /// Ban every stranger that added to the count.
        BanContributors = "ban-contributors",
        Alert = "alert",
        Slow = "slow",
        Hold = "hold",
        Lock = "lock",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanSpec {
    /// Of the first ban; repeated ones last longer (see `sanction`). `None`: for ever.
    pub bantime: Option<Duration>,
    pub scope: Scope,
}

words! {
    /// Which ports a ban closes.
    Scope {
        /// 25
        Mx = "mx",
        /// 465 587
        Submission = "submission",
        /// 110 143 993 995 4190
        Mailbox = "mailbox",
        /// submission and mailbox
        Auth = "auth",
        /// mx and auth
        Mail = "mail",
        /// 80 443
        Web = "web",
        /// 22
        Ssh = "ssh",
        All = "all",
    }
}

impl Scope {
    /// The TCP ports it closes; empty for [`Scope::All`], which closes everything.
    pub const fn ports(self) -> &'static [u16] {
        match self {
            Scope::Mx => &[25],
            Scope::Submission => &[465, 587],
            Scope::Mailbox => &[110, 143, 993, 995, 4190],
            Scope::Auth => &[110, 143, 465, 587, 993, 995, 4190],
            Scope::Mail => &[25, 110, 143, 465, 587, 993, 995, 4190],
            Scope::Web => &[80, 443],
            Scope::Ssh => &[22],
            Scope::All => &[],
        }
    }

    /// Whether a ban of this scope keeps a client away from `service`.
    pub const fn covers(self, service: Service) -> bool {
        match service {
            Service::Smtp => matches!(self, Scope::Mx | Scope::Mail | Scope::All),
            Service::Submission => matches!(self, Scope::Submission | Scope::Auth | Scope::Mail | Scope::All),
            Service::Imap | Service::Pop3 | Service::ManageSieve => matches!(self, Scope::Mailbox | Scope::Auth | Scope::Mail | Scope::All),
            Service::Webmail => matches!(self, Scope::Web | Scope::All),
            Service::Ssh => matches!(self, Scope::Ssh | Scope::All),
            Service::Other => matches!(self, Scope::All),
        }
    }
}

/// Another limit for one account, domain or class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// Multiplies every limit of the jail; `None`: unchanged.
    pub factor: Option<f64>,
    pub limit: Option<u64>,
    pub exempt: bool,
    pub class: Option<String>,
}

/// What holds where a configuration is silent. Without events and steps it counts nothing yet.
impl Default for Jail {
    fn default() -> Jail {
        Jail {
            name: String::new(),
            mode: Mode::Enforce,
            on: Vec::new(),
            filters: Vec::new(),
            conditions: Vec::new(),
            weak: false,
            unless: Unless::default(),
            shared: false,
            key: vec![KeyPart::Ip],
            measure: Measure::Count,
            window: Window::Sliding,
            findtime: Duration::from_secs(600),
            weight: Vec::new(),
            steps: Vec::new(),
            min: 0,
            operators: 0,
            max: 100,
            family: Family::Login,
            ban: BanSpec { bantime: Some(Duration::from_secs(3_600)), scope: Scope::Mail },
            forgive: false,
            overrides: HashMap::new(),
        }
    }
}

impl Jail {
    /// What names the jail's table: everything that decides what is in it. Limits, findtime and actions may change on reload
    /// with the history kept, these may not. Jails with the same identity share one table.
    pub fn identity(&self) -> String {
        let mut identity = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {} {:?} {:?} {}{}",
            self.on,
            self.filters,
            self.conditions,
            self.key,
            self.measure,
            self.window,
            self.weak,
            self.unless,
            self.weight,
            self.forgive,
            if self.shared { " shared" } else { "" }
        );
        // What one jail leaves out of a window is missing for all that share it.
        if matches!(self.measure, Measure::RatioBounced | Measure::RatioSpam) {
            identity.push_str(&format!(" {} {} {}", self.min, self.operators, self.max));
        }
        if self.steps.iter().any(|step| step.then.contains(&Action::BanContributors)) {
            identity.push_str(" strangers");
        }
        identity
    }
}
