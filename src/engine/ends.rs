//! The bans by their end: an ordered set of sixteen bytes a ban.
//!
//! Sorted runs in a tree. Most bans are added in the order in which they end, and so fill one run after the other to the
//! brim, where a tree of single entries leaves half of each node free.

use std::collections::BTreeMap;

/// The place of a ban in the queue of ends. The hash finds the ban again, with its end: half the size of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    pub until: i64,
    pub hash: u64,
}

#[derive(Debug, Default)]
pub struct Ends {
    /// Each by something that is not greater than any entry of it, and greater than all of the run before.
    runs: BTreeMap<End, Vec<End>>,
}

const RUN: usize = 256;

impl Ends {
    pub fn first(&self) -> Option<End> {
        self.runs.values().next()?.first().copied()
    }

    pub fn insert(&mut self, end: End) {
        let Some((start, run)) = self.runs.range_mut(..=end).next_back() else {
            // Before all others: it opens the first run, if that has room.
            let first = self.runs.first_entry().filter(|first| first.get().len() < RUN).map(|first| first.remove());
            let mut run = first.unwrap_or_default();
            run.insert(0, end);
            self.runs.insert(end, run);
            return;
        };
        let Err(place) = run.binary_search(&end) else { return };
        if run.len() < RUN {
            run.insert(place, end);
            return;
        }
        if place == RUN {
            let next = self.runs.range_mut(end..).next().filter(|(_, next)| next.len() < RUN).map(|(start, _)| *start);
            let mut run = next.and_then(|start| self.runs.remove(&start)).unwrap_or_default();
            run.insert(0, end);
            self.runs.insert(end, run);
            return;
        }
        let start = *start;
        let mut upper = run.split_off(RUN / 2);
        run.shrink_to_fit();
        let middle = upper.first().copied().unwrap_or(start);
        let half = if end < middle { run } else { &mut upper };
        if let Err(place) = half.binary_search(&end) {
            half.insert(place, end);
        }
        self.runs.insert(middle, upper);
    }

    pub fn remove(&mut self, end: End) {
        let Some((start, run)) = self.runs.range_mut(..=end).next_back() else { return };
        if let Ok(place) = run.binary_search(&end) {
            run.remove(place);
        }
        if run.is_empty() {
            let start = *start;
            self.runs.remove(&start);
        }
    }

    /// In order, those behind `after`.
    pub fn iter_after(&self, after: Option<End>) -> impl Iterator<Item = End> {
        let lowest = End { until: i64::MIN, hash: 0 };
        let from = after.and_then(|after| self.runs.range(..=after).next_back()).map_or(lowest, |(start, _)| *start);
        let runs = self.runs.range(from..).flat_map(|(_, run)| run.iter().copied());
        runs.skip_while(move |end| after.is_some_and(|after| *end <= after))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_an_ordered_set(steps in prop::collection::vec((any::<bool>(), 0..900i64, 0..3u64), 0..3_000), sorted: bool) {
            let mut steps = steps;
            if sorted {
                steps.sort_by_key(|step| step.1);
            }
            let (mut ends, mut model) = (Ends::default(), BTreeSet::new());
            for (is_removed, until, hash) in steps {
                let end = End { until, hash };
                if is_removed && !sorted {
                    ends.remove(end);
                    model.remove(&end);
                } else {
                    ends.insert(end);
                    model.insert(end);
                }
                prop_assert_eq!(ends.first(), model.first().copied());
            }
            prop_assert!(ends.iter_after(None).eq(model.iter().copied()));
            let after = End { until: 450, hash: 1 };
            prop_assert!(ends.iter_after(Some(after)).eq(model.range((Bound::Excluded(after), Bound::Unbounded)).copied()));
            prop_assert!(ends.runs.values().all(|run| !run.is_empty() && run.len() <= RUN));
        }
    }

    #[test]
    fn what_comes_in_order_fills_its_runs() {
        let mut ends = Ends::default();
        (0..10_000).for_each(|until| ends.insert(End { until, hash: 7 }));
        assert!(ends.runs.len() <= 10_000 / RUN + 1);
        let taken: Vec<i64> = std::iter::from_fn(|| ends.first().inspect(|end| ends.remove(*end))).map(|end| end.until).collect();
        assert!(taken.into_iter().eq(0..10_000) && ends.runs.is_empty());
    }
}
