//! What the engine shows: `status` and `why`.

use ipnetwork::IpNetwork;
use serde::{Serialize, Serializer};

use super::Engine;
use super::account::report::AccountView;
use super::decision::{Ban, Cause, Subject};
use super::jail::{KeyPart, Mode, Scope};
use super::key::{Facets, Host, Subnet};
use super::known::KnownFacts;
use super::ledger::{BanKey, Entry};
use super::rule::Group;
use crate::event::{Event, EventKind};
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    #[serde(serialize_with = "rfc3339")]
    pub now: Timestamp,
    pub events: u64,
    /// From banned subjects: noted, not counted.
    pub noted: u64,
    /// From addresses that are never banned: not counted.
    pub allowed: u64,
    pub bans: usize,
    /// Lifted early because there were too many.
    pub bans_evicted: u64,
    pub known_addresses: usize,
    pub remembered_subjects: usize,
    /// Submitters with a history.
    pub submitters: usize,
    /// That had to go because there were too many.
    pub submitters_evicted: u64,
    /// Held or locked.
    pub accounts_stopped: usize,
    /// What would be done about accounts is only told.
    pub accounts_observed: bool,
    /// Since when there is history of accounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts_since: Option<String>,
    /// Decisions that nobody picked up in time.
    pub decisions_dropped: u64,
    pub jails: Vec<JailStatus>,
    pub forged: Vec<ForgedStatus>,
    /// Entries of `mynetworks` too wide to exempt anybody.
    pub mynetworks_too_wide: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JailStatus {
    pub jail: String,
    pub mode: Mode,
    /// Events counted.
    pub events: u64,
    /// Keys in its table now.
    pub keys: usize,
    /// Keys that had to go because the table was full.
    pub evictions: u64,
    /// How often a limit was reached.
    pub tripped: u64,
    pub bans_now: u32,
    pub bans_total: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ForgedStatus {
    pub filter: String,
    pub lines: u64,
    #[serde(serialize_with = "rfc3339")]
    pub last: Timestamp,
    pub last_line: String,
}

/// Everything known about one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    pub subject: Subject,
    /// In force, those of wider networks included.
    pub bans: Vec<BanView>,
    /// Bans within the memory, oldest first.
    pub history: Vec<String>,
    pub counters: Vec<Counter>,
    pub known: Option<KnownView>,
    pub account: Option<AccountView>,
    /// Why it is never banned.
    pub allowed: Option<String>,
    /// The latest lines that were counted.
    pub evidence: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BanView {
    pub net: String,
    pub scope: Scope,
    #[serde(serialize_with = "rfc3339")]
    pub since: Timestamp,
    /// Missing: for ever.
    #[serde(serialize_with = "rfc3339", skip_serializing_if = "is_never")]
    pub until: Timestamp,
    pub jail: String,
    pub reason: String,
    pub cause: Cause,
    pub earlier: u32,
    /// Lines of the subject kept coming after the ban.
    pub ineffective: bool,
    pub evidence: Vec<String>,
}

impl Why {
    /// Nobody has heard of the subject.
    pub fn is_empty(&self) -> bool {
        let Why { subject: _, bans, history, counters, known, account, allowed, evidence } = self;
        account.is_none()
            && bans.is_empty()
            && history.is_empty()
            && counters.is_empty()
            && known.is_none()
            && allowed.is_none()
            && evidence.is_empty()
    }
}

/// Where a subject stands in one jail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counter {
    pub jail: String,
    pub count: u64,
    pub limit: u64,
    pub findtime_seconds: u64,
    #[serde(serialize_with = "rfc3339")]
    pub since: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KnownView {
    pub good: bool,
    pub shared: bool,
    pub accepted: bool,
    /// Accounts that logged in within 7 days; at most four are told apart.
    pub accounts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_login: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_accepted: Option<String>,
}

impl Engine {
    pub fn status(&self) -> Status {
        Status {
            now: self.now(),
            events: self.totals.events,
            noted: self.totals.noted,
            allowed: self.totals.allowed,
            bans: self.ledger.len(),
            bans_evicted: self.totals.bans_evicted,
            known_addresses: self.known.len(),
            remembered_subjects: self.history.len(),
            submitters: self.submitters.len(),
            submitters_evicted: self.submitters.evictions(),
            accounts_stopped: self.standings.accounts(),
            accounts_observed: self.is_observing_accounts(),
            accounts_since: (self.accounts_since > 0).then(|| Timestamp::from_seconds(i64::from(self.accounts_since)).rfc3339()),
            decisions_dropped: self.totals.decisions_dropped,
            jails: self.groups.iter().flat_map(|group| self.jails_of(group)).collect(),
            forged: self.forged(),
            mynetworks_too_wide: self.allow.too_wide.iter().map(ToString::to_string).collect(),
        }
    }

    /// Bans in force by the time of their end: at most `count` of those after `after`, and whether there are more.
    pub fn bans_after(&self, after: Option<(Timestamp, IpNetwork, Scope)>, count: usize) -> (Vec<Ban>, bool) {
        let after = after.map(|(until, net, scope)| (until.micros(), BanKey { subnet: Subnet::new(net), scope }));
        let mut entries = self.ledger.by_end(after);
        let page: Vec<Ban> = entries.by_ref().take(count).map(|entry| self.ledger.to_ban(entry)).collect();
        (page, entries.next().is_some())
    }

    /// What the bans in force are found by, in no particular order.
    pub fn ban_keys(&self) -> impl Iterator<Item = (IpNetwork, Scope)> {
        self.ledger.iter().map(|entry| (entry.key().subnet.to_network(), entry.scope))
    }

    /// When the ban of exactly this network and scope ends; `None`: there is none.
    pub fn ban_end(&self, net: IpNetwork, scope: Scope) -> Option<Timestamp> {
        self.ledger.get(BanKey { subnet: Subnet::new(net), scope }).map(|entry| Timestamp::from_micros(entry.until))
    }

    pub fn why(&self, subject: &Subject) -> Why {
        let mut why = Why {
            subject: subject.clone(),
            bans: Vec::new(),
            history: Vec::new(),
            counters: Vec::new(),
            known: None,
            account: None,
            allowed: None,
            evidence: Vec::new(),
        };
        let mut event = Event::new(EventKind::AuthFailure, self.now());
        match subject {
            Subject::Net(net) => {
                let subnet = Subnet::new(*net);
                let host = Host::new(net.ip());
                let stored = if host.subnet().contains(subnet) { host.subnet() } else { subnet };
                why.bans = self.ledger.holding(subnet).into_iter().map(|entry| self.ban_view(entry)).collect();
                why.history =
                    self.history.stamps(stored, self.now).map(|stamp| Timestamp::from_seconds(i64::from(stamp)).rfc3339()).collect();
                why.known = self.known.facts(host, self.now).map(KnownView::from);
                why.allowed = self.allow.find(subnet).map(|(net, reason)| format!("{reason}: {}", crate::address::display(net)));
                why.evidence = self.evidence.of_host(host.key());
                event.ip = Some(net.ip());
            }
            Subject::Account(name) => {
                event.account = Some(name.as_bytes());
                why.account = self.account_view(name);
                why.evidence = Facets::new(&event, self.seed).account().map(|key| self.evidence.of_account(key)).unwrap_or_default();
            }
        }
        why.counters = self.counters(&event);
        why
    }

    /// Where the subject that `event` names stands in every jail whose key it gives.
    fn counters(&self, event: &Event<'_>) -> Vec<Counter> {
        let mut facets = Facets::new(event, self.seed);
        let mut counters = Vec::new();
        for group in self.groups.iter().filter(|group| !group.parts.contains(&KeyPart::Global)) {
            let Some(key) = facets.key(&group.parts) else { continue };
            let terms = group.terms(self.now);
            for rule in &group.rules {
                let name = if group.by_name { event.account } else { None };
                let limit = rule.limits(name).and_then(|limits| limits.first().copied());
                let Some((count, summary)) = group.windows.look(key, rule.slot, rule.span.cutoff(self.now), &terms) else { continue };
                counters.push(Counter {
                    jail: rule.jail.name.clone(),
                    count,
                    limit: limit.unwrap_or(u64::MAX),
                    findtime_seconds: rule.span.micros() as u64 / 1_000_000,
                    since: Timestamp::from_micros(summary.first),
                });
            }
        }
        counters
    }

    fn jails_of(&self, group: &Group) -> Vec<JailStatus> {
        let status = |rule: &super::rule::Rule| JailStatus {
            jail: rule.jail.name.clone(),
            mode: rule.jail.mode,
            events: group.counted,
            keys: group.windows.len(),
            evictions: group.windows.evictions(),
            tripped: rule.tripped,
            bans_now: self.ledger.of_jail(&rule.jail.name),
            bans_total: rule.banned,
        };
        group.rules.iter().map(status).collect()
    }

    fn forged(&self) -> Vec<ForgedStatus> {
        let status = |(filter, forgery): (&str, &super::forged::Forgery)| ForgedStatus {
            filter: filter.to_owned(),
            lines: forgery.count,
            last: Timestamp::from_micros(forgery.last),
            last_line: forgery.last_line.clone(),
        };
        self.forgeries.iter().map(status).collect()
    }

    fn ban_view(&self, entry: &Entry) -> BanView {
        let Ban { net, scope, since, until, jail, reason, cause, earlier, evidence, .. } = self.ledger.to_ban(entry);
        BanView {
            net: crate::address::display(net),
            scope,
            since,
            until,
            jail,
            reason,
            cause,
            earlier,
            ineffective: entry.ineffective,
            evidence,
        }
    }
}

impl From<KnownFacts> for KnownView {
    fn from(facts: KnownFacts) -> Self {
        let date = |seconds: u32| (seconds != 0).then(|| Timestamp::from_seconds(i64::from(seconds)).rfc3339());
        KnownView {
            good: facts.standing.good,
            shared: facts.standing.shared,
            accepted: facts.standing.accepted,
            accounts: facts.accounts,
            first_seen: date(facts.first),
            last_login: date(facts.good),
            last_accepted: date(facts.accepted),
        }
    }
}

fn rfc3339<S: Serializer>(stamp: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&stamp.rfc3339())
}

fn is_never(stamp: &Timestamp) -> bool {
    *stamp == Timestamp::NEVER
}
