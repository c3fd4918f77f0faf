//! The window of a count jail with a small limit: up to five stamps, inline.
//!
//! A jail that bans at the sixth failure never holds more than five: the sixth clears the window. 44 bytes in all, 60 with
//! the key; a list on the heap costs three times that.

use super::sum::{Unit, read_units, write_units};
use super::{Addition, Levels, SHARERS_MAX, Summary, Terms, When, Window};
use crate::engine::snapshot::{Mark, Reader};
use crate::engine::table::{Aging, Rank, Value};

/// 48 bits of stamp and 16 bits of (ip, account).
#[derive(Clone, Copy, Debug, Default)]
struct Slot([u32; 2]);

/// Belongs to one jail alone. An event that counts n fold has n stamps.
#[derive(Clone, Debug, Default)]
pub struct Small {
    slots: [Slot; Small::UNITS],
    len: u8,
    level: u8,
    /// What the event at hand added beyond the slots.
    over: u8,
    mark: Mark,
}

const STAMP_BITS: u32 = 48;
const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;

impl Slot {
    fn new(stamp: i64, tag: u16) -> Slot {
        let word = stamp as u64 & STAMP_MASK | u64::from(tag) << STAMP_BITS;
        Slot([word as u32, (word >> 32) as u32])
    }
    fn word(self) -> u64 {
        u64::from(self.0[0]) | u64::from(self.0[1]) << 32
    }
    /// Exact for what lies less than 8.9 years back; stamps are never later than now.
    fn stamp(self, now: i64) -> i64 {
        now - ((now as u64).wrapping_sub(self.word()) & STAMP_MASK) as i64
    }
    fn tag(self) -> u16 {
        (self.word() >> STAMP_BITS) as u16
    }
}

impl Small {
    pub const UNITS: usize = 5;

    fn live(&self) -> &[Slot] {
        self.slots.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn retain(&mut self, mut keep: impl FnMut(Slot) -> bool) {
        let mut kept = 0;
        for index in 0..usize::from(self.len).min(Small::UNITS) {
            let slot = self.slots[index];
            if keep(slot) {
                self.slots[kept] = slot;
                kept += 1;
            }
        }
        self.len = kept as u8;
    }

    /// One more stamp; the oldest goes if there is no room.
    fn push(&mut self, slot: Slot, now: i64) {
        let len = usize::from(self.len);
        if let Some(free) = self.slots.get_mut(len) {
            *free = slot;
            self.len += 1;
            return;
        }
        if let Some(oldest) = self.slots.iter_mut().min_by_key(|slot| slot.stamp(now))
            && oldest.stamp(now) < slot.stamp(now)
        {
            *oldest = slot;
        }
    }
}

impl Window for Small {
    fn prune(&mut self, terms: &Terms) {
        let (cutoff, now) = (terms.horizon, terms.now);
        if self.live().iter().any(|slot| slot.stamp(now) <= cutoff) {
            self.retain(|slot| slot.stamp(now) > cutoff);
        }
    }

    fn add(&mut self, addition: &Addition, terms: &Terms) {
        let free = (Small::UNITS as u64).saturating_sub(u64::from(self.len)).min(addition.amount);
        for _ in 0..free {
            self.push(Slot::new(addition.stamp, addition.tag), terms.now);
        }
        self.over = u8::try_from(addition.amount - free).unwrap_or(u8::MAX);
    }

    fn settle(&mut self, addition: &Addition, terms: &Terms) {
        for _ in 0..self.over.min(Small::UNITS as u8) {
            self.push(Slot::new(addition.stamp, addition.tag), terms.now);
        }
        self.over = 0;
    }

    fn total(&self, _slot: u8, cutoff: i64, terms: &Terms) -> u64 {
        self.live().iter().filter(|slot| slot.stamp(terms.now) > cutoff).count() as u64 + u64::from(self.over)
    }

    fn level(&self, _slot: u8) -> u8 {
        self.level
    }

    fn set_level(&mut self, _slot: u8, level: u8) {
        self.level = level;
    }

    fn ceiling(&self) -> u64 {
        Small::UNITS as u64
    }

    fn clear(&mut self, _slot: u8, _terms: &Terms) {
        self.len = 0;
        self.over = 0;
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn summary(&self, _slot: u8, cutoff: i64, latest: Option<&Addition>, terms: &Terms) -> Summary {
        let counting = || self.live().iter().filter(|slot| slot.stamp(terms.now) > cutoff);
        let first = counting().map(|slot| slot.stamp(terms.now)).min().unwrap_or(terms.now);
        let mut tags: Vec<u16> = counting().map(|slot| slot.tag()).chain(latest.map(|latest| latest.tag)).filter(|tag| *tag != 0).collect();
        tags.sort_unstable();
        tags.dedup();
        Summary { first, accounts: tags.len() as u32, ..Summary::default() }
    }

    fn forgive(&mut self, tag: u16, _value: Option<u128>, _terms: &Terms) -> bool {
        let before = self.len;
        self.retain(|slot| slot.tag() != tag);
        self.len != before
    }

    fn decode(bytes: &[u8], slots: &[u8; SHARERS_MAX], terms: &Terms) -> Option<Self> {
        let mut reader = Reader(bytes);
        let levels = Levels::read(&mut reader, slots)?;
        let mut window = Small { level: levels.of(0), ..Small::default() };
        for unit in read_units(&mut reader, slots, terms.now)? {
            if unit.when.consumed() & 1 == 0 {
                for _ in 0..unit.amount().min(Small::UNITS as u64) {
                    window.push(Slot::new(unit.when.stamp(), unit.tag()), terms.now);
                }
            }
        }
        Some(window)
    }
}

impl Value for Small {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn end(&self, aging: &Aging) -> i64 {
        self.live().iter().map(|slot| slot.stamp(aging.now)).max().unwrap_or(i64::MIN)
    }

    fn rank(&self, aging: &Aging) -> Rank {
        let counting = || self.live().iter().map(|slot| slot.stamp(aging.now)).filter(|stamp| *stamp > aging.cutoff);
        Rank { hot: counting().count() as u64 >= aging.half, last: counting().max().unwrap_or(i64::MIN) }
    }

    fn encode(&self, now: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(SHARERS_MAX + Small::UNITS * 16);
        let mut levels = Levels::default();
        levels.set(0, self.level);
        levels.write(&mut out);
        write_units(self.live().iter().map(|slot| Unit::new(When::new(slot.stamp(now), 0), 1, slot.tag())), &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_exact_and_small() {
        assert_eq!(size_of::<Small>(), 44);
        let now = 1_795_500_000_123_456;
        for age in [0, 1, 999_999, 86_400_000_000, 400 * 86_400_000_000] {
            let slot = Slot::new(now - age, 0xbeef);
            assert_eq!((slot.stamp(now), slot.tag()), (now - age, 0xbeef));
        }
    }
}
