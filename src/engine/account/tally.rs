//! Who sent how much to people outside within the last day: for the question whose mail it is that others refuse.
//!
//! An hour keeps a bounded number of names apart. Where there are more, all counts of it are lowered together (Misra and Gries, 1982),
//! so that whoever sends much stays in it; a number is then too low, never too high. Nothing of it is saved: after a restart
//! the tally begins anew.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::submitter::Stranger;
use crate::address::display;
use crate::engine::Engine;
use crate::event::{Event, EventKind};
use crate::limits::{PLACES_TOLD_MAX, TALLY_NAMES_PER_HOUR_MAX};

const HOUR_MICROS: i64 = 3_600_000_000;
/// The hour that runs and the day before it.
const HOURS: i64 = 25;
/// Submitters that an alert names.
const NAMED: usize = 5;

/// Recipients by submitter.
type Counts = HashMap<Box<[u8]>, u64>;

#[derive(Debug, Default)]
pub(in crate::engine) struct Tally {
    /// The oldest first, with their numbers since 1970.
    hours: VecDeque<(i64, Counts)>,
}

/// What is known of an account beside its signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// Strange addresses that it was used from, the latest first, with their countries.
    pub places: Vec<(String, Option<String>)>,
    /// Recipients outside within the last day, at least.
    pub recipients: u64,
}

impl Tally {
    pub fn note(&mut self, event: &Event<'_>, at: i64) {
        let counts = event.kind == EventKind::Delivery && event.recipients > 0 && event.vouched && !event.restates;
        if let Some(name) = event.submitter.or(event.account).filter(|_| counts) {
            self.add(name, u64::from(event.recipients), at);
        }
    }

    fn add(&mut self, name: &[u8], recipients: u64, at: i64) {
        let hour = at.div_euclid(HOUR_MICROS);
        let newest = self.hours.back().map_or(hour, |(newest, _)| *newest);
        if hour > newest || self.hours.is_empty() {
            self.hours.push_back((hour, Counts::new()));
            self.hours.retain(|(other, _)| hour - other < HOURS);
        }
        // One that comes late counts for the running hour.
        let Some((_, counts)) = self.hours.back_mut() else { return };
        if let Some(count) = counts.get_mut(name) {
            *count = count.saturating_add(recipients);
        } else if counts.len() < TALLY_NAMES_PER_HOUR_MAX {
            counts.insert(name.into(), recipients);
        } else {
            counts.retain(|_, count| {
                *count = count.saturating_sub(recipients);
                *count > 0
            });
        }
    }

    pub fn of(&self, name: &[u8], now: i64) -> u64 {
        self.within_a_day(now).filter_map(|counts| counts.get(name)).sum()
    }

    /// The busiest first.
    fn top(&self, now: i64) -> Vec<(&[u8], u64)> {
        let mut sums: HashMap<&[u8], u64> = HashMap::new();
        for (name, count) in self.within_a_day(now).flatten() {
            *sums.entry(name).or_default() += count;
        }
        let mut sums: Vec<(&[u8], u64)> = sums.into_iter().collect();
        sums.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        sums.truncate(NAMED);
        sums
    }

    /// `; most sent outside within a day: anna@example.org 412, local:33 20`
    pub fn sentence(&self, now: i64) -> String {
        let named: Vec<String> = self.top(now).iter().map(|(name, count)| format!("{} {count}", String::from_utf8_lossy(name))).collect();
        if named.is_empty() { String::new() } else { format!("; most sent outside within a day: {}", named.join(", ")) }
    }

    fn within_a_day(&self, now: i64) -> impl Iterator<Item = &Counts> {
        let hour = now.div_euclid(HOUR_MICROS);
        self.hours.iter().filter(move |(other, _)| hour - other < HOURS).map(|(_, counts)| counts)
    }
}

impl Engine {
    /// For people who are told of an account.
    pub fn lately(&self, name: &str) -> Lately {
        let record = self.submitters.get(self.submitters.key(name.as_bytes()));
        let mut strangers = record.map(|record| record.strangers.clone()).unwrap_or_default();
        strangers.sort_by_key(|stranger| (std::cmp::Reverse(stranger.last), stranger.host));
        let place = |stranger: &Stranger| {
            let net = stranger.host.subnet().to_network();
            (display(net), self.geo.look(net.ip()).country.map(|country| country.to_string()))
        };
        let places = strangers.iter().take(PLACES_TOLD_MAX + 1).map(place).collect();
        Lately { places, recipients: self.tally.of(name.as_bytes(), self.now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(tally: &Tally, hour: i64) -> Vec<(String, u64)> {
        tally.top(hour * HOUR_MICROS).iter().map(|(name, count)| (String::from_utf8_lossy(name).into_owned(), *count)).collect()
    }

    #[test]
    fn the_busiest_of_the_last_day_come_first() {
        let mut tally = Tally::default();
        for (name, count, hour) in [("old", 900, 0), ("anna", 3, 30), ("bob", 5, 31), ("anna", 4, 50), ("late", 1, 40)] {
            tally.add(name.as_bytes(), count, hour * HOUR_MICROS);
        }
        assert_eq!(top(&tally, 50), [("anna".to_owned(), 7), ("bob".to_owned(), 5), ("late".to_owned(), 1)]);
        assert_eq!(tally.of(b"anna", 60 * HOUR_MICROS), 4, "of the last day only");
        assert_eq!(tally.sentence(50 * HOUR_MICROS), "; most sent outside within a day: anna 7, bob 5, late 1");
        assert_eq!(tally.sentence(500 * HOUR_MICROS), "");
    }

    #[test]
    fn a_flood_of_names_pushes_no_heavy_sender_out() {
        let mut tally = Tally::default();
        for number in 0..20_000u32 {
            tally.add(format!("user{number}").as_bytes(), 1, 0);
            if number % 4 == 0 {
                tally.add(b"heavy", 1, 0);
            }
        }
        assert!(tally.hours.iter().all(|(_, counts)| counts.len() <= TALLY_NAMES_PER_HOUR_MAX));
        assert_eq!(top(&tally, 0).first().map(|(name, _)| name.as_str()), Some("heavy"));
        assert!(tally.of(b"heavy", 0) > 4_900, "{}", tally.of(b"heavy", 0));
    }
}
