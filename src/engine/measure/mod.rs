//! How a jail adds events up. A closed set: [`Windows`] has one arm a representation.
//!
//! **Invariant:** what a window says is exact, to the microsecond, and the same as a plain list of all events would say
//! (`tests` compare the two), as long as no cap of `limits.rs` is reached.

pub mod count;
pub mod distinct;
pub mod ratio;
pub mod sum;
#[cfg(test)]
mod tests;

use super::jail::{Distinct as Of, Jail, Measure, Window as Kind};
use super::key::Host;
use super::snapshot::Reader;
use super::table::{Aging, Fate, Table, Value};
use count::Small;
use distinct::Seen;
use ratio::Ratio;
use sum::Weighted;

/// Jails that can share one table: each has a bit in every unit. With the mark their levels make eight bytes.
pub const SHARERS_MAX: usize = 7;
/// A longer findtime is cut to this: stamps of small windows repeat after 8.9 years.
pub const FINDTIME_MICROS_MAX: i64 = 400 * 86_400 * 1_000_000;

/// The span over which a jail adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    kind: Kind,
    micros: i64,
}

impl Span {
    pub fn of(jail: &Jail) -> Span {
        let micros = i64::try_from(jail.findtime.as_micros()).unwrap_or(i64::MAX).clamp(1, FINDTIME_MICROS_MAX);
        Span { kind: jail.window, micros }
    }

    /// The latest moment that no longer counts at `now`.
    pub fn cutoff(self, now: i64) -> i64 {
        match self.kind {
            Kind::Sliding => now.saturating_sub(self.micros),
            Kind::Fixed => now.div_euclid(self.micros).saturating_mul(self.micros).saturating_sub(1),
        }
    }

    pub const fn micros(self) -> i64 {
        self.micros
    }

    /// How long, if it slides.
    pub const fn sliding(self) -> Option<i64> {
        match self.kind {
            Kind::Sliding => Some(self.micros),
            Kind::Fixed => None,
        }
    }
}

/// What one event adds.
#[derive(Clone, Copy, Debug)]
pub struct Addition {
    pub stamp: i64,
    pub amount: u64,
    /// Finds the failures of one (ip, account) again; 0: no account.
    pub tag: u16,
    /// Of a `distinct`.
    pub value: u128,
}

/// Where a key stands in tables under one secret.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub key: u128,
    pub hash: u64,
}

/// What holds for a whole table.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub now: i64,
    /// The earliest cutoff of all its jails.
    pub horizon: i64,
    /// Nothing beyond this total need be remembered: the highest limit of all its jails.
    pub need: u64,
    /// One bit for each of its jails.
    pub sharers: u8,
    pub group: Group,
    /// A ratio of fewer is none.
    pub min: u64,
    /// Nor is one that fewer providers speak for …
    pub operators: u32,
    /// … nor one above this, in percent.
    pub max: u64,
    /// A ratio below this changes nothing: half of the lowest limit of all its jails.
    pub least: u64,
}

/// What a `distinct` takes for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Values are hashes.
    Name,
    /// Values are addresses.
    Host,
    /// Values are addresses and counted by network.
    Network,
}

/// What holds for one jail of a table.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuleTerms<'a> {
    pub rule: usize,
    /// Its bit is `1 << slot`.
    pub slot: u8,
    pub cutoff: i64,
    /// By rising limit.
    pub limits: &'a [u64],
    /// Bit n: step n clears the window.
    pub clears: u16,
}

/// Steps `from..to` of a jail tripped.
#[derive(Debug)]
pub struct Firing {
    pub rule: usize,
    pub from: usize,
    pub to: usize,
    pub total: u64,
    pub summary: Summary,
}

/// What can be said about a window in one sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub first: i64,
    /// How many accounts the failures named, as far as known.
    pub accounts: u32,
    /// The addresses that added to it, where they are remembered.
    pub contributors: Vec<Host>,
    /// Keys of the names that added to it, where they are remembered.
    pub names: Vec<u128>,
}

/// What every representation of a window can do.
pub trait Window: Value {
    /// Drops what has left every window.
    fn prune(&mut self, terms: &Terms);
    fn add(&mut self, addition: &Addition, terms: &Terms);
    /// The event at hand is done with, and did not clear the window.
    fn settle(&mut self, _addition: &Addition, _terms: &Terms) {}
    fn total(&self, slot: u8, cutoff: i64, terms: &Terms) -> u64;
    /// How many steps have fired and not been re-armed.
    fn level(&self, slot: u8) -> u8;
    fn set_level(&mut self, slot: u8, level: u8);
    /// The most that `total` can say; a limit beyond it counts as reached there.
    fn ceiling(&self) -> u64 {
        u64::MAX
    }
    /// Below which total a step with that limit may fire again.
    fn rearms_below(limit: u64) -> u64 {
        limit
    }
    fn clear(&mut self, slot: u8, terms: &Terms);
    fn is_empty(&self) -> bool;
    /// `latest`: the event at hand, if it was just added.
    fn summary(&self, slot: u8, cutoff: i64, latest: Option<&Addition>, terms: &Terms) -> Summary;
    /// Forgets what one (ip, account) added; true if that was anything.
    fn forgive(&mut self, tag: u16, value: Option<u128>, terms: &Terms) -> bool;
    /// Reads what `encode` wrote, also that of another representation of the same measure. `slots` says for each bit as it
    /// was stored which bit it is now (7: none).
    fn decode(bytes: &[u8], slots: &[u8; SHARERS_MAX], terms: &Terms) -> Option<Self>;
}

/// The windows of all keys of one table.
#[derive(Debug)]
pub enum Windows {
    Small(Table<Small>),
    Weighted(Table<Weighted>),
    Distinct(Table<Seen>),
    Ratio(Table<Ratio>),
}

/// Runs the same code on each representation's table.
macro_rules! each {
    ($windows:expr, $table:ident => $body:expr) => {
        match $windows {
            Windows::Small($table) => $body,
            Windows::Weighted($table) => $body,
            Windows::Distinct($table) => $body,
            Windows::Ratio($table) => $body,
        }
    };
}

impl Windows {
    /// `units` is how many stamps a key must hold; `None`: that has no bound worth naming.
    pub fn new(measure: Measure, units: Option<usize>, secret: u64, cap: usize, persist: bool) -> Windows {
        match measure {
            Measure::Count if units.is_some_and(|units| units <= Small::UNITS) => Windows::Small(Table::new(secret, cap, persist)),
            Measure::RatioBounced | Measure::RatioSpam => Windows::Ratio(Table::new(secret, cap, persist)),
            Measure::Distinct(_) => Windows::Distinct(Table::new(secret, cap, persist)),
            _ => Windows::Weighted(Table::new(secret, cap, persist)),
        }
    }

    pub fn is_same_form(&self, other: &Windows) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Adds an event to the window of `key` and tells what tripped.
    pub fn count(&mut self, key: u128, addition: &Addition, terms: &Terms, rules: &[RuleTerms<'_>], fired: &mut Vec<Firing>) {
        let hash = each!(self, table => table.hash(key));
        self.count_at(&Spot { key, hash }, addition, terms, rules, fired);
    }

    /// The same for whoever knows the hash of the key already.
    pub fn count_at(&mut self, spot: &Spot, addition: &Addition, terms: &Terms, rules: &[RuleTerms<'_>], fired: &mut Vec<Firing>) {
        each!(self, table => count_in(table, spot, addition, terms, rules, fired));
    }

    /// Reads a row that hashes like that.
    #[inline]
    pub fn touch(&self, hash: u64) -> u32 {
        each!(self, table => table.touch(hash))
    }

    pub fn forgive(&mut self, key: u128, tag: u16, value: Option<u128>, terms: &Terms) {
        let aging = terms.aging(u64::MAX);
        each!(self, table => {
            table.modify(key, &aging, |window| {
                let changed = window.forgive(tag, value, terms);
                (if !changed { Fate::Untouched } else if window.is_empty() { Fate::Remove } else { Fate::Keep }, ())
            });
        });
    }

    /// Whatever was counted for `key` is over.
    pub fn forget(&mut self, key: u128, terms: &Terms) {
        let aging = terms.aging(u64::MAX);
        each!(self, table => { table.modify(key, &aging, |_| (Fate::Remove, ())); });
    }

    /// What the jail in `slot` sees of `key`, with a summary; `None`: nothing.
    pub fn look(&self, key: u128, slot: u8, cutoff: i64, terms: &Terms) -> Option<(u64, Summary)> {
        each!(self, table => {
            let window = table.get(key)?;
            // The sum that a window keeps may still hold what has left it.
            let total = window.total(slot, cutoff, &Terms { sharers: u8::MAX, least: 0, ..*terms });
            (total > 0).then(|| (total, window.summary(slot, cutoff, None, terms)))
        })
    }

    pub fn len(&self) -> usize {
        each!(self, table => table.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn set_tight(&mut self, tight: bool) {
        each!(self, table => table.set_tight(tight));
    }

    pub fn evictions(&self) -> u64 {
        each!(self, table => table.evictions)
    }

    pub fn allocated(&self) -> usize {
        each!(self, table => table.allocated())
    }

    pub fn sweep(&mut self, buckets: usize, aging: &Aging) {
        each!(self, table => table.sweep(buckets, aging));
    }

    pub fn freeze(&mut self) {
        each!(self, table => table.freeze());
    }

    pub fn write_frozen(&mut self, max: usize, now: i64, emit: impl FnMut(u128, Vec<u8>)) -> usize {
        each!(self, table => table.write_frozen(max, now, emit))
    }

    pub fn restore(&mut self, key: u128, bytes: &[u8], slots: &[u8; SHARERS_MAX], terms: &Terms) -> bool {
        let aging = terms.aging(u64::MAX);
        each!(self, table => Window::decode(bytes, slots, terms).map(|window| table.restore(key, window, &aging)).is_some())
    }

    /// Takes the rows of another table over. Passes over all of it: on reload, and only when the form changed.
    pub fn adopt(&mut self, old: &Windows, slots: &[u8; SHARERS_MAX], terms: &Terms) {
        let aging = terms.aging(u64::MAX);
        each!(old, from => for (key, window) in from.iter() {
            let bytes = window.encode(terms.now);
            each!(self, table => {
                if let Some(window) = Window::decode(&bytes, slots, terms) {
                    table.adopt(key, window, &aging);
                }
            });
        });
    }
}

fn count_in<W: Window>(
    table: &mut Table<W>,
    spot: &Spot,
    addition: &Addition,
    terms: &Terms,
    rules: &[RuleTerms<'_>],
    fired: &mut Vec<Firing>,
) {
    let least = rules.iter().filter_map(|rule| rule.limits.first().copied()).min().unwrap_or(u64::MAX);
    let aging = terms.aging(least.div_ceil(2));
    let newcomer_hot = addition.amount >= aging.half;
    table.update_at(spot.hash, spot.key, &aging, newcomer_hot, |window| {
        window.prune(terms);
        for rule in rules {
            rearm(window, rule, terms);
        }
        window.add(addition, terms);
        for rule in rules {
            fired.extend(trip(window, rule, addition, terms));
        }
        window.settle(addition, terms);
        (if window.is_empty() { Fate::Remove } else { Fate::Keep }, ())
    });
}

/// A step that fired may fire again once the total fell below its limit.
fn rearm<W: Window>(window: &mut W, rule: &RuleTerms<'_>, terms: &Terms) {
    let level = window.level(rule.slot);
    if level > 0 {
        let (total, ceiling) = (window.total(rule.slot, rule.cutoff, terms), window.ceiling());
        let reached = rule.limits.iter().take_while(|limit| W::rearms_below(**limit) <= total || total >= ceiling).count();
        window.set_level(rule.slot, level.min(reached as u8));
    }
}

fn trip<W: Window>(window: &mut W, rule: &RuleTerms<'_>, addition: &Addition, terms: &Terms) -> Option<Firing> {
    let from = usize::from(window.level(rule.slot));
    let next = *rule.limits.get(from)?;
    let total = window.total(rule.slot, rule.cutoff, terms);
    if total < next {
        return None;
    }
    let to = rule.limits.iter().take_while(|limit| **limit <= total).count();
    let firing = Firing { rule: rule.rule, from, to, total, summary: window.summary(rule.slot, rule.cutoff, Some(addition), terms) };
    if (from..to).any(|step| rule.clears >> step & 1 == 1) {
        window.clear(rule.slot, terms);
        window.set_level(rule.slot, 0);
    } else {
        window.set_level(rule.slot, to as u8);
    }
    Some(firing)
}

impl Terms {
    pub const fn aging(&self, half: u64) -> Aging {
        Aging { now: self.now, cutoff: self.horizon, half }
    }

    pub const fn is_shared(&self) -> bool {
        self.sharers.count_ones() > 1
    }
}

impl Of {
    pub const fn group(self) -> Group {
        match self {
            Of::Network => Group::Network,
            Of::Ip => Group::Host,
            _ => Group::Name,
        }
    }
}

/// A stamp and the jails that have used the unit up, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct When(i64);

impl When {
    pub const fn new(stamp: i64, consumed: u8) -> When {
        When(stamp << 8 | consumed as i64)
    }
    pub const fn stamp(self) -> i64 {
        self.0 >> 8
    }
    pub const fn consumed(self) -> u8 {
        self.0 as u8
    }
    pub const fn consume(self, bits: u8) -> When {
        When(self.0 | bits as i64)
    }
    pub const fn counts_for(self, slot: u8, cutoff: i64) -> bool {
        self.stamp() > cutoff && self.consumed() >> slot & 1 == 0
    }
    pub const fn raw(self) -> i64 {
        self.0
    }

    /// A stored word: clamped to now, its bits renamed.
    pub(super) fn restore(raw: i64, slots: &[u8; SHARERS_MAX], now: i64) -> When {
        let old = When(raw);
        let mut bits = 0;
        for (from, to) in slots.iter().enumerate() {
            if old.consumed() >> from & 1 == 1 && usize::from(*to) < SHARERS_MAX {
                bits |= 1 << to;
            }
        }
        When::new(old.stamp().min(now), bits)
    }
}

/// Levels of the jails that share a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Levels([u8; SHARERS_MAX]);

impl Levels {
    fn of(&self, slot: u8) -> u8 {
        self.0.get(usize::from(slot)).copied().unwrap_or(0)
    }

    fn set(&mut self, slot: u8, level: u8) {
        if let Some(place) = self.0.get_mut(usize::from(slot)) {
            *place = level;
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    /// Stored levels, their slots renamed.
    fn read(reader: &mut Reader<'_>, slots: &[u8; SHARERS_MAX]) -> Option<Levels> {
        let stored = Levels(reader.array()?);
        let mut levels = Levels::default();
        for (from, to) in (0..).zip(slots) {
            levels.set(*to, stored.of(from));
        }
        Some(levels)
    }
}

/// Every bit stays what it was.
pub const SAME_SLOTS: [u8; SHARERS_MAX] = [0, 1, 2, 3, 4, 5, 6];
