//! The window of a distinct jail: each value with the moment it was seen last, 24 bytes a value.

use super::{Addition, Group, Levels, SHARERS_MAX, Summary, Terms, When, Window};
use crate::engine::key::Host;
use crate::engine::snapshot::{Mark, Reader};
use crate::engine::table::{Aging, Rank, Value};
use crate::limits;

#[derive(Clone, Copy, Debug)]
struct One {
    value: [u64; 2],
    when: When,
}

#[derive(Clone, Debug, Default)]
pub struct Seen {
    values: Values,
    levels: Levels,
    mark: Mark,
}

/// By rising value, so that the addresses of one network stand together. Most keys never see more than one value: that one
/// needs no memory of its own.
#[derive(Clone, Debug)]
enum Values {
    One(One),
    Many(Vec<One>),
}

impl Default for Values {
    fn default() -> Self {
        Values::Many(Vec::new())
    }
}

impl std::ops::Deref for Values {
    type Target = [One];
    fn deref(&self) -> &[One] {
        match self {
            Values::One(one) => std::slice::from_ref(one),
            Values::Many(many) => many,
        }
    }
}

impl std::ops::DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [One] {
        match self {
            Values::One(one) => std::slice::from_mut(one),
            Values::Many(many) => many,
        }
    }
}

impl Values {
    fn find(&self, value: u128) -> Result<usize, usize> {
        self.binary_search_by_key(&value, One::value)
    }

    fn insert(&mut self, index: usize, one: One) {
        match self {
            Values::One(first) => {
                let mut many = Vec::with_capacity(2);
                many.push(*first);
                many.insert(index.min(1), one);
                *self = Values::Many(many);
            }
            Values::Many(many) if many.is_empty() => *self = Values::One(one),
            Values::Many(many) => many.insert(index, one),
        }
    }

    fn retain(&mut self, keep: impl Fn(&One) -> bool) {
        match self {
            Values::One(one) if keep(one) => {}
            Values::One(_) => *self = Values::default(),
            Values::Many(many) => many.retain(keep),
        }
    }

    fn remove(&mut self, index: usize) {
        match self {
            Values::Many(many) if index < many.len() => drop(many.remove(index)),
            Values::Many(_) => {}
            Values::One(_) => *self = Values::default(),
        }
    }
}

impl One {
    const fn value(&self) -> u128 {
        (self.value[0] as u128) << 64 | self.value[1] as u128
    }
}

impl Group {
    fn of(self, value: u128) -> u128 {
        match self {
            Group::Name | Group::Host => value,
            Group::Network => Host::from_key(value).network().bits,
        }
    }
}

impl Seen {
    fn counting(&self, slot: u8, cutoff: i64) -> impl Iterator<Item = &One> {
        self.values.iter().filter(move |one| one.when.counts_for(slot, cutoff))
    }

    /// Forgets the oldest values beyond what can matter.
    fn trim(&mut self, terms: &Terms) {
        let wanted = match terms.group {
            Group::Name | Group::Host if !terms.is_shared() => usize::try_from(terms.need).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        while self.values.len() > wanted.min(limits::DISTINCT_PER_KEY_MAX) {
            let oldest = self.values.iter().enumerate().min_by_key(|(_, one)| one.when.stamp()).map(|(index, _)| index);
            if let Some(index) = oldest {
                self.values.remove(index);
            }
        }
    }
}

impl Window for Seen {
    fn prune(&mut self, terms: &Terms) {
        self.values.retain(|one| one.when.stamp() > terms.horizon);
    }

    fn add(&mut self, addition: &Addition, terms: &Terms) {
        match self.values.find(addition.value) {
            Ok(index) => {
                if let Some(one) = self.values.get_mut(index) {
                    one.when = When::new(one.when.stamp().max(addition.stamp), 0);
                }
            }
            Err(index) => {
                let value = [(addition.value >> 64) as u64, addition.value as u64];
                self.values.insert(index, One { value, when: When::new(addition.stamp, 0) });
                self.trim(terms);
            }
        }
    }

    fn total(&self, slot: u8, cutoff: i64, terms: &Terms) -> u64 {
        let mut total = 0;
        let mut last = None;
        for one in self.counting(slot, cutoff) {
            let group = terms.group.of(one.value());
            if last != Some(group) {
                total += 1;
                last = Some(group);
            }
        }
        total
    }

    fn level(&self, slot: u8) -> u8 {
        self.levels.of(slot)
    }

    fn set_level(&mut self, slot: u8, level: u8) {
        self.levels.set(slot, level);
    }

    fn clear(&mut self, slot: u8, terms: &Terms) {
        for one in self.values.iter_mut() {
            one.when = one.when.consume(1 << slot);
        }
        self.values.retain(|one| one.when.consumed() & terms.sharers != terms.sharers);
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn summary(&self, slot: u8, cutoff: i64, _latest: Option<&Addition>, terms: &Terms) -> Summary {
        let first = self.counting(slot, cutoff).map(|one| one.when.stamp()).min().unwrap_or(terms.now);
        let contributors = match terms.group {
            Group::Host | Group::Network => self.counting(slot, cutoff).map(|one| Host::from_key(one.value())).collect(),
            Group::Name => Vec::new(),
        };
        let names = if terms.group == Group::Name { self.counting(slot, cutoff).map(One::value).collect() } else { Vec::new() };
        Summary { first, accounts: 0, contributors, names }
    }

    fn forgive(&mut self, _tag: u16, value: Option<u128>, _terms: &Terms) -> bool {
        let found = value.and_then(|value| self.values.find(value).ok());
        found.map(|index| self.values.remove(index)).is_some()
    }

    fn decode(bytes: &[u8], slots: &[u8; SHARERS_MAX], terms: &Terms) -> Option<Self> {
        let mut reader = Reader(bytes);
        let levels = Levels::read(&mut reader, slots)?;
        let mut values = Vec::new();
        while !reader.is_empty() {
            let value = [reader.u64()?, reader.u64()?];
            values.push(One { value, when: When::restore(reader.i64()?, slots, terms.now) });
        }
        values.retain(|one| one.when.consumed() & terms.sharers != terms.sharers);
        if !values.is_sorted_by_key(One::value) {
            return None;
        }
        let values = if let [one] = values.as_slice() { Values::One(*one) } else { Values::Many(values) };
        Some(Seen { values, levels, mark: Mark::default() })
    }
}

impl Value for Seen {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn end(&self, _aging: &Aging) -> i64 {
        self.values.iter().map(|one| one.when.stamp()).max().unwrap_or(i64::MIN)
    }

    fn rank(&self, aging: &Aging) -> Rank {
        let last = self.values.iter().map(|one| one.when.stamp()).max().unwrap_or(i64::MIN);
        Rank { hot: self.values.len() as u64 >= aging.half, last }
    }

    fn encode(&self, _now: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(SHARERS_MAX + self.values.len() * 24);
        self.levels.write(&mut out);
        for one in self.values.iter() {
            out.extend_from_slice(&one.value[0].to_le_bytes());
            out.extend_from_slice(&one.value[1].to_le_bytes());
            out.extend_from_slice(&one.when.raw().to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_one_value_is_small() {
        assert!(size_of::<Seen>() <= 40);
    }
}
