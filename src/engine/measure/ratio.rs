//! The window of a ratio: how many of the recipients were refused for good.

use std::collections::VecDeque;

use super::{Addition, Levels, SHARERS_MAX, Summary, Terms, When, Window};
use crate::engine::snapshot::{Mark, Reader};
use crate::engine::table::{Aging, Rank, Value};
use crate::limits;

/// What one moment added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unit {
    when: When,
    all: u32,
    bad: u32,
    /// Whose servers the bad ones are; 0: nobody's.
    operator: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Ratio {
    /// By rising stamp.
    units: VecDeque<Unit>,
    /// Of all units.
    all: u64,
    bad: u64,
    levels: Levels,
    mark: Mark,
}

/// What a delivery adds, as an [`Addition`]'s value. A retry is no new recipient, but may be the answer to an old one.
pub const fn value(is_new: bool, is_bad: bool, operator: u32) -> u128 {
    (operator as u128) << 2 | (is_new as u128) << 1 | is_bad as u128
}

impl Ratio {
    fn counting(&self, slot: u8, cutoff: i64) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(move |unit| unit.when.counts_for(slot, cutoff))
    }

    /// Whether so many different providers refused. One provider is one vote: whoever runs a mail server can refuse all he likes.
    fn has_operators(&self, slot: u8, cutoff: i64, wanted: u32) -> bool {
        if wanted <= 1 {
            return true;
        }
        let mut seen: Vec<u32> = Vec::with_capacity(wanted as usize);
        self.counting(slot, cutoff).filter(|unit| unit.bad > 0).any(|unit| {
            if !seen.contains(&unit.operator) {
                seen.push(unit.operator);
            }
            seen.len() >= wanted as usize
        })
    }

    fn drop_oldest(&mut self) {
        if let Some(unit) = self.units.pop_front() {
            self.all -= u64::from(unit.all);
            self.bad -= u64::from(unit.bad);
        }
    }

    fn add_up(&mut self) {
        (self.all, self.bad) = sum(self.units.iter());
    }
}

fn sum<'a>(units: impl Iterator<Item = &'a Unit>) -> (u64, u64) {
    units.fold((0, 0), |(all, bad), unit| (all + u64::from(unit.all), bad + u64::from(unit.bad)))
}

impl Window for Ratio {
    fn prune(&mut self, terms: &Terms) {
        while self.units.front().is_some_and(|unit| unit.when.stamp() <= terms.horizon) {
            self.drop_oldest();
        }
    }

    fn add(&mut self, addition: &Addition, _terms: &Terms) {
        let when = When::new(addition.stamp, 0);
        let (all, bad) = ((addition.value >> 1) as u32 & 1, addition.value as u32 & 1);
        let operator = if bad == 1 { (addition.value >> 2) as u32 } else { 0 };
        let place = self.units.iter().rev().take_while(|other| other.when.stamp() > addition.stamp).count();
        let index = self.units.len() - place;
        match index
            .checked_sub(1)
            .and_then(|before| self.units.get_mut(before))
            .filter(|unit| unit.when == when && unit.operator == operator)
        {
            Some(same) if same.all < u32::MAX && same.bad < u32::MAX => {
                same.all += all;
                same.bad += bad;
            }
            _ => self.units.insert(index, Unit { when, all, bad, operator }),
        }
        self.all += u64::from(all);
        self.bad += u64::from(bad);
        if self.units.len() > limits::RATIO_UNITS_PER_KEY_MAX {
            self.drop_oldest();
        }
    }

    /// In percent, rounded down.
    fn total(&self, slot: u8, cutoff: i64, terms: &Terms) -> u64 {
        let (all, bad) = if terms.is_shared() { sum(self.counting(slot, cutoff)) } else { (self.all, self.bad) };
        if bad == 0 || all == 0 || all < terms.min {
            return 0;
        }
        let percent = (bad * 100 / all).min(100);
        // Whose the refusals are is looked at only where they are many enough to matter.
        let matters = (terms.least..=terms.max).contains(&percent);
        if matters && self.has_operators(slot, cutoff, terms.operators) { percent } else { 0 }
    }

    fn level(&self, slot: u8) -> u8 {
        self.levels.of(slot)
    }

    fn set_level(&mut self, slot: u8, level: u8) {
        self.levels.set(slot, level);
    }

    /// A ratio goes up and down with every answer: it is over when it has halved.
    fn rearms_below(limit: u64) -> u64 {
        limit.div_ceil(2)
    }

    fn clear(&mut self, slot: u8, terms: &Terms) {
        for unit in &mut self.units {
            unit.when = unit.when.consume(1 << slot);
        }
        self.units.retain(|unit| unit.when.consumed() & terms.sharers != terms.sharers);
        self.add_up();
    }

    fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    fn summary(&self, slot: u8, cutoff: i64, _latest: Option<&Addition>, terms: &Terms) -> Summary {
        let first = self.counting(slot, cutoff).next().map_or(terms.now, |unit| unit.when.stamp());
        Summary { first, ..Summary::default() }
    }

    /// A login that works says nothing about deliveries.
    fn forgive(&mut self, _tag: u16, _value: Option<u128>, _terms: &Terms) -> bool {
        false
    }

    fn decode(bytes: &[u8], slots: &[u8; SHARERS_MAX], terms: &Terms) -> Option<Self> {
        let mut reader = Reader(bytes);
        let levels = Levels::read(&mut reader, slots)?;
        let mut units = VecDeque::new();
        while !reader.is_empty() {
            units.push_back(Unit {
                when: When::restore(reader.i64()?, slots, terms.now),
                all: reader.u32()?,
                bad: reader.u32()?,
                operator: reader.u32()?,
            });
        }
        units.retain(|unit| unit.when.consumed() & terms.sharers != terms.sharers);
        let (all, bad) = sum(units.iter());
        units.iter().is_sorted_by_key(|unit| unit.when.stamp()).then_some(Ratio { units, all, bad, levels, mark: Mark::default() })
    }
}

impl Value for Ratio {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn end(&self, _aging: &Aging) -> i64 {
        self.units.back().map_or(i64::MIN, |unit| unit.when.stamp())
    }

    fn rank(&self, _aging: &Aging) -> Rank {
        Rank { hot: self.bad > 0, last: self.units.back().map_or(i64::MIN, |unit| unit.when.stamp()) }
    }

    fn encode(&self, _now: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(SHARERS_MAX + self.units.len() * 20);
        self.levels.write(&mut out);
        for unit in &self.units {
            out.extend_from_slice(&unit.when.raw().to_le_bytes());
            out.extend_from_slice(&unit.all.to_le_bytes());
            out.extend_from_slice(&unit.bad.to_le_bytes());
            out.extend_from_slice(&unit.operator.to_le_bytes());
        }
        out
    }
}
