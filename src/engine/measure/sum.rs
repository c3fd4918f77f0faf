//! Windows of stamps with amounts: sums, and counts whose limit is too large for [`super::count`].

use std::collections::VecDeque;

use super::{Addition, Levels, SHARERS_MAX, Summary, Terms, When, Window};
use crate::engine::snapshot::{Mark, Reader};
use crate::engine::table::{Aging, Rank, Value};
use crate::limits;

/// One event, or several of the same moment and account: 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub when: When,
    /// 48 bits of amount over 16 bits of (ip, account).
    what: u64,
}

/// Small enough that no window's total overflows.
const AMOUNT_MAX: u64 = (1 << 47) - 1;

impl Unit {
    pub fn new(when: When, amount: u64, tag: u16) -> Unit {
        Unit { when, what: amount.min(AMOUNT_MAX) << 16 | u64::from(tag) }
    }
    pub const fn amount(self) -> u64 {
        self.what >> 16
    }
    pub const fn tag(self) -> u16 {
        self.what as u16
    }
}

#[derive(Clone, Debug, Default)]
pub struct Weighted {
    /// By rising stamp.
    units: VecDeque<Unit>,
    /// Of all units.
    total: u64,
    levels: Levels,
    mark: Mark,
}

impl Weighted {
    fn drop_oldest(&mut self) {
        if let Some(unit) = self.units.pop_front() {
            self.total -= unit.amount();
        }
    }

    /// What lies before the last `need` cannot matter; a window longer than the cap forgets its beginning.
    fn trim(&mut self, terms: &Terms) {
        while !terms.is_shared()
            && self.units.len() > 1
            && self.units.front().is_some_and(|oldest| self.total - oldest.amount() >= terms.need)
        {
            self.drop_oldest();
        }
        while self.units.len() > limits::WINDOW_UNITS_PER_KEY_MAX {
            self.drop_oldest();
        }
    }

    fn counting(&self, slot: u8, cutoff: i64) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(move |unit| unit.when.counts_for(slot, cutoff))
    }
}

impl Window for Weighted {
    fn prune(&mut self, terms: &Terms) {
        while self.units.front().is_some_and(|unit| unit.when.stamp() <= terms.horizon) {
            self.drop_oldest();
        }
    }

    fn add(&mut self, addition: &Addition, terms: &Terms) {
        let unit = Unit::new(When::new(addition.stamp, 0), addition.amount, addition.tag);
        let place = self.units.iter().rev().take_while(|other| other.when.stamp() > addition.stamp).count();
        let index = self.units.len() - place;
        self.total += unit.amount();
        let same = index.checked_sub(1).and_then(|before| self.units.get_mut(before));
        if let Some(same) = same
            && same.when == unit.when
            && same.tag() == unit.tag()
            && same.amount() + unit.amount() <= AMOUNT_MAX
        {
            *same = Unit::new(same.when, same.amount() + unit.amount(), same.tag());
        } else {
            self.units.insert(index, unit);
        }
        self.trim(terms);
    }

    fn total(&self, slot: u8, cutoff: i64, terms: &Terms) -> u64 {
        if terms.is_shared() { self.counting(slot, cutoff).map(|unit| unit.amount()).sum() } else { self.total }
    }

    fn level(&self, slot: u8) -> u8 {
        self.levels.of(slot)
    }

    fn set_level(&mut self, slot: u8, level: u8) {
        self.levels.set(slot, level);
    }

    fn clear(&mut self, slot: u8, terms: &Terms) {
        for unit in &mut self.units {
            unit.when = unit.when.consume(1 << slot);
        }
        self.units.retain(|unit| unit.when.consumed() & terms.sharers != terms.sharers);
        self.total = self.units.iter().map(|unit| unit.amount()).sum();
    }

    fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    fn summary(&self, slot: u8, cutoff: i64, _latest: Option<&Addition>, terms: &Terms) -> Summary {
        let first = self.counting(slot, cutoff).next().map_or(terms.now, |unit| unit.when.stamp());
        let mut tags: Vec<u16> = self.counting(slot, cutoff).map(|unit| unit.tag()).filter(|tag| *tag != 0).collect();
        tags.sort_unstable();
        tags.dedup();
        Summary { first, accounts: tags.len() as u32, ..Summary::default() }
    }

    fn forgive(&mut self, tag: u16, _value: Option<u128>, _terms: &Terms) -> bool {
        let before = self.units.len();
        self.units.retain(|unit| unit.tag() != tag);
        self.total = self.units.iter().map(|unit| unit.amount()).sum();
        self.units.len() != before
    }

    fn decode(bytes: &[u8], slots: &[u8; SHARERS_MAX], terms: &Terms) -> Option<Self> {
        let mut reader = Reader(bytes);
        let levels = Levels::read(&mut reader, slots)?;
        let units: VecDeque<Unit> =
            read_units(&mut reader, slots, terms.now)?.filter(|unit| unit.when.consumed() & terms.sharers != terms.sharers).collect();
        let total = units.iter().map(|unit| unit.amount()).sum();
        units.iter().is_sorted_by_key(|unit| unit.when.stamp()).then_some(Weighted { units, total, levels, mark: Mark::default() })
    }
}

impl Value for Weighted {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn end(&self, _aging: &Aging) -> i64 {
        self.units.back().map_or(i64::MIN, |unit| unit.when.stamp())
    }

    fn rank(&self, aging: &Aging) -> Rank {
        // The stored total may hold what has left the window: that makes a key hotter, never quieter.
        Rank { hot: self.total >= aging.half, last: self.units.back().map_or(i64::MIN, |unit| unit.when.stamp()) }
    }

    fn encode(&self, _now: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(SHARERS_MAX + self.units.len() * 16);
        self.levels.write(&mut out);
        write_units(self.units.iter().copied(), &mut out);
        out
    }
}

pub(super) fn write_units(units: impl Iterator<Item = Unit>, out: &mut Vec<u8>) {
    for unit in units {
        out.extend_from_slice(&unit.when.raw().to_le_bytes());
        out.extend_from_slice(&unit.what.to_le_bytes());
    }
}

/// By rising stamp; `None` where the bytes are no units.
pub(super) fn read_units(reader: &mut Reader<'_>, slots: &[u8; SHARERS_MAX], now: i64) -> Option<impl Iterator<Item = Unit>> {
    let mut units = Vec::new();
    while !reader.is_empty() {
        units.push(Unit { when: When::restore(reader.i64()?, slots, now), what: reader.u64()? });
    }
    units.sort_by_key(|unit| unit.when.stamp());
    Some(units.into_iter())
}
