//! Stage 4, event → decision. Pure: no I/O, no clock.
//!
//! **Invariant:** one owner, no locks, no `Result`. The same events at the same times give the same decisions: nothing
//! depends on the order of a hash map. `now` never runs backwards; an event later than `now` counts as of now.
//!
//! The files: `jail` what an operator wrote, `rule` the same compiled, and `matching` which events that is about; `key` what is
//! counted; `measure` how; `table` where the counts live; `known` who behaved; `allow` who is never banned; `counting` an event's way
//! through all that; `verdict` what follows when a limit is reached; `sanction` for how long; `ledger` what is in force; `account` the
//! same for submitters; `command` what an operator wants; `snapshot` and `saving` what outlives a restart; `report` what is shown.

pub mod account;
pub mod allow;
mod command;
mod counting;
pub mod decision;
mod ends;
mod evidence;
mod forged;
pub mod jail;
mod key;
mod known;
mod ledger;
mod matching;
mod measure;
mod outage;
mod reason;
pub mod report;
mod rule;
pub mod sanction;
mod saving;
pub mod snapshot;
mod table;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use allow::{Allow, AllowConfig};
use decision::{Ban, Decision};
use evidence::Evidence;
use forged::Forgeries;
use jail::Jail;
pub use key::Seed;
use known::Known;
use ledger::{BanKey, Ledger};
use matching::Candidates;
use measure::Firing;
use rule::Group;
use sanction::{History, SanctionConfig, Widening};
use saving::Saving;

use crate::event::Event;
use crate::limits;
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    pub jails: Vec<Jail>,
    pub allow: AllowConfig,
    pub sanction: SanctionConfig,
    pub risk: account::RiskRules,
    /// The host's secret: names are hashed under it. Must be the same after a restart for saved windows to be found.
    pub seed: Seed,
    /// Keep track of changes for snapshots.
    pub persist: bool,
    /// Bans are carried out, so lines of a banned address are a sign that its ban does not bite. In a replay they are not.
    pub enforced: bool,
    pub keys_per_table_max: usize,
    pub bans_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            jails: Vec::new(),
            allow: AllowConfig::default(),
            sanction: SanctionConfig::default(),
            risk: account::RiskRules::default(),
            seed: Seed::default(),
            persist: false,
            enforced: true,
            keys_per_table_max: limits::KEYS_PER_TABLE_MAX,
            bans_max: limits::BANS_MAX,
        }
    }
}

#[derive(Debug)]
pub struct Engine {
    now: i64,
    /// When that happened which is being handled: what is decided is decided as of then. A log that is read late gives the
    /// same decisions as one that is read at once.
    at: i64,
    seed: Seed,
    persist: bool,
    enforced: bool,
    keys_per_table_max: usize,
    /// Memory is short: what jails count in grows no further.
    tight: bool,
    groups: Vec<Group>,
    candidates: Candidates,
    allow: Allow,
    sanction: SanctionConfig,
    known: Known,
    history: History,
    widening: Widening,
    ledger: Ledger,
    /// Bans that were lifted after the state that was restored.
    lifted: Ledger,
    /// Since when bans are carried out; never while they are not. What was written before says nothing of a ban.
    enforcing_since: i64,
    /// Bans that were made later than what they were made for, as the log was read late: when that was.
    late: std::collections::BTreeMap<BanKey, i64>,
    standings: account::Standings,
    submitters: account::Submitters,
    tally: account::Tally,
    risk: account::RiskRules,
    /// Since when there is history of accounts, in seconds since 1970; 0: there is none.
    accounts_since: u32,
    /// Submitters with a sign against them, and when the last one was counted.
    watched: std::collections::BTreeMap<u128, i64>,
    /// Locks of the last day.
    locks_made: VecDeque<account::Spent>,
    /// When it was last told that the budget of locks is used up.
    budget_told: i64,
    /// Accounts are only watched: what would be done is told.
    accounts_observed: bool,
    geo: Arc<dyn crate::geo::Look>,
    evidence: Evidence,
    forgeries: Forgeries,
    outage: outage::Outage,
    decisions: VecDeque<Decision>,
    /// Bans that jails of `on = ["banned"]` have not seen yet.
    feedback: VecDeque<Feedback>,
    fired: Vec<Firing>,
    /// Groups that count the event at hand, and where.
    matching: Vec<u16>,
    places: Vec<counting::Place>,
    hashes: Vec<(u16, u64)>,
    saving: Option<Saving>,
    /// Restored bans that were made after the state that was restored, by their beginning.
    upcoming: VecDeque<Ban>,
    /// A saved state was restored: lines may come again.
    is_resumed: bool,
    /// Bans made at this very moment.
    made_now: Vec<u64>,
    next_sweep: i64,
    totals: Totals,
}

#[derive(Debug)]
struct Feedback {
    host: key::Host,
    service: crate::event::Service,
    /// A jail does not count its own bans.
    jail: Arc<Jail>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    events: u64,
    /// From subjects whose ban covers the service: noted, not counted.
    noted: u64,
    /// From addresses that are never banned: not counted either.
    allowed: u64,
    /// Bans that were lifted early because there were too many.
    bans_evicted: u64,
    decisions_dropped: u64,
}

/// The name under which bans stand of which nobody knows any more who made them.
pub const RECOVERED: &str = "recovered";
/// A stamp that lies further back counts as of so long ago.
const LATE_MICROS_MAX: i64 = 86_400_000_000;
/// Between two sweeps of a quiet engine.
const SWEEP_EVERY_MICROS: i64 = 60_000_000;
/// Buckets looked at in each table then.
const SWEEP_BUCKETS: usize = 4_096;
/// Bans that end in one call; the next call goes on.
const ENDED_PER_EVENT: usize = 32;
const ENDED_PER_TIMEOUT: usize = 1_024;

impl Engine {
    pub fn new(config: EngineConfig, now: Timestamp) -> Engine {
        let EngineConfig { jails, allow, sanction, risk, seed, persist, enforced, keys_per_table_max, bans_max } = config;
        let groups = Group::compile(jails, seed, keys_per_table_max, persist);
        Engine {
            now: now.micros().max(0),
            at: now.micros().max(0),
            seed,
            persist,
            enforced,
            keys_per_table_max,
            tight: false,
            candidates: Candidates::new(&groups),
            groups,
            allow: Allow::new(&allow),
            known: Known::new(seed.0[1], persist),
            history: History::new(seed.0[1], &sanction, persist),
            widening: Widening::new(seed, persist),
            sanction,
            ledger: Ledger::new(bans_max),
            lifted: Ledger::new(bans_max),
            enforcing_since: now.micros(),
            late: Default::default(),
            standings: account::Standings::default(),
            submitters: account::Submitters::new(seed, persist),
            tally: account::Tally::default(),
            risk,
            accounts_since: 0,
            watched: Default::default(),
            locks_made: VecDeque::new(),
            budget_told: i64::MIN,
            accounts_observed: false,
            geo: Arc::new(crate::geo::Nowhere),
            evidence: Evidence::new(),
            forgeries: Forgeries::default(),
            outage: outage::Outage::default(),
            decisions: VecDeque::new(),
            feedback: VecDeque::new(),
            fired: Vec::new(),
            matching: Vec::new(),
            places: Vec::new(),
            hashes: Vec::new(),
            saving: None,
            upcoming: VecDeque::new(),
            is_resumed: false,
            made_now: Vec::new(),
            next_sweep: 0,
            totals: Totals::default(),
        }
    }

    /// Takes one event in. Decisions that follow wait for [`Engine::poll_decision`].
    pub fn handle_event(&mut self, event: &Event<'_>, now: Timestamp) {
        self.advance(now);
        self.end_bans(ENDED_PER_EVENT);
        self.end_stops();
        self.at = event.time.micros().clamp(self.now.saturating_sub(LATE_MICROS_MAX), self.now);
        self.totals.events += 1;
        self.tally.note(event, self.at);
        let mut event = *event;
        let context = self.look_up(&mut event);
        self.count(&event, context.key);
        self.learn(&event, &context);
    }

    /// Where addresses are looked up; at first nowhere is known.
    pub fn set_geo(&mut self, geo: Arc<dyn crate::geo::Look>) {
        self.geo = geo;
    }

    /// While memory is short, the tables of jails grow no further: a new key takes the place of the quietest of a handful. Bans, and
    /// what is known of accounts, stay.
    pub fn set_tight(&mut self, tight: bool) {
        self.tight = tight;
        self.groups.iter_mut().for_each(|group| group.windows.set_tight(tight));
        self.widening.windows_mut().set_tight(tight);
    }

    /// Since when the firewall holds the bans; `None`: it does not.
    pub fn note_enforcing(&mut self, since: Option<Timestamp>) {
        self.enforcing_since = since.map_or(i64::MAX, Timestamp::micros);
    }

    /// While that is so, accounts are only watched: what would be done about them is told.
    pub fn observe_accounts(&mut self, observed: bool) {
        self.accounts_observed = observed;
    }

    /// Call when [`Engine::poll_timeout`] says so; earlier or later does no harm.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.advance(now);
        self.end_bans(ENDED_PER_TIMEOUT);
        self.end_stops();
        if self.now >= self.next_sweep {
            self.sweep();
            self.next_sweep = self.now.saturating_add(SWEEP_EVERY_MICROS);
        }
    }

    pub fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// Decisions that wait for [`Engine::poll_decision`].
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &Decision> {
        self.decisions.iter()
    }

    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let has_rows = !self.known.is_empty() || !self.history.is_empty() || self.groups.iter().any(|group| !group.windows.is_empty());
        let sweep = has_rows.then_some(self.next_sweep);
        self.ledger.next_end().into_iter().chain(self.standings.next_due()).chain(sweep).min().map(Timestamp::from_micros)
    }

    /// The latest moment that the engine has heard of.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    /// Bans in force, in no particular order. After a restart also those that the state has yet to come to.
    pub fn bans(&self) -> impl Iterator<Item = Ban> {
        self.ledger.iter().map(|entry| self.ledger.to_ban(entry)).chain(self.upcoming.iter().cloned())
    }

    pub fn ban_count(&self) -> usize {
        self.ledger.len()
    }

    fn advance(&mut self, now: Timestamp) {
        // Stamps are kept in 56 bits.
        let now = now.micros().min(1 << 54);
        if now > self.now {
            self.now = now;
            self.made_now.clear();
            self.enter_upcoming();
        }
        self.at = self.now;
    }

    fn sweep(&mut self) {
        let now = self.now;
        for group in &mut self.groups {
            let aging = group.terms(now).aging(u64::MAX);
            group.windows.sweep(SWEEP_BUCKETS, &aging);
        }
        self.known.sweep(SWEEP_BUCKETS, now);
        self.history.sweep(SWEEP_BUCKETS, now);
        self.submitters.sweep(SWEEP_BUCKETS, now);
        self.forget_watched();
        let before = now.saturating_sub(LATE_MICROS_MAX);
        self.forget_freed(before);
        while self.lifted.pop_ended(before).is_some() {}
        self.late.retain(|_, made| *made >= before);
        if let Some(config) = &self.sanction.widening {
            let aging = Widening::terms(config, now).aging(u64::MAX);
            self.widening.windows_mut().sweep(SWEEP_BUCKETS, &aging);
        }
    }

    fn push(&mut self, decision: Decision) {
        if self.decisions.len() >= limits::DECISIONS_PENDING_MAX {
            self.totals.decisions_dropped += 1;
            return;
        }
        self.decisions.push_back(decision);
    }
}
