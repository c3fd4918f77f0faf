//! The clock of a log: `now` is the latest stamp so far. One broken stamp must not move it.

use std::time::Duration;

use crate::time::Timestamp;

/// How far a stamp may be from `now`, either way, and be taken as it is.
const TRUSTED_SPAN: Duration = Duration::from_secs(86_400);
/// So many lines in a row, at most a day apart, say that time has really moved on (a quiet weekend, the next file).
const AGREEING_LINES: u32 = 4;
/// Stamps looked at to find where a log begins.
const START_STAMPS: usize = 15;

/// Follows the stamps of a log.
#[derive(Clone, Debug)]
pub struct LogClock {
    now: Timestamp,
    /// Where the last lines in a row would have moved `now` to, and how many they were.
    leap: Timestamp,
    leap_lines: u32,
    /// Stamps more than a day from `now`, replaced by the nearest that is not.
    pub clamped: u64,
}

impl LogClock {
    pub fn starting_at(now: Timestamp) -> Self {
        LogClock { now, leap: now, leap_lines: 0, clamped: 0 }
    }

    /// Starts where a log with these first stamps starts: at the earliest within a day of their middle one.
    /// `None` without any.
    pub fn starting_with(stamps: impl Iterator<Item = Timestamp>) -> Option<Self> {
        let mut first: Vec<Timestamp> = stamps.take(START_STAMPS).collect();
        first.sort_unstable();
        let middle = *first.get(first.len() / 2)?;
        let start = first.into_iter().find(|stamp| middle.since(*stamp) <= TRUSTED_SPAN)?;
        Some(LogClock::starting_at(start))
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Takes the next line's stamp; returns the stamp to use for it. [`LogClock::now`] has moved on.
    pub fn advance(&mut self, stamp: Timestamp) -> Timestamp {
        if stamp <= self.now {
            self.leap_lines = 0;
            let earliest = self.now - TRUSTED_SPAN;
            self.clamped += u64::from(stamp < earliest);
            return stamp.max(earliest);
        }
        if stamp.since(self.now) > TRUSTED_SPAN && !self.leaps(stamp) {
            self.clamped += 1;
            return self.now;
        }
        self.leap_lines = 0;
        self.now = stamp;
        stamp
    }

    fn leaps(&mut self, stamp: Timestamp) -> bool {
        let agrees = stamp.since(self.leap).max(self.leap.since(stamp)) <= TRUSTED_SPAN;
        self.leap_lines = if agrees { self.leap_lines + 1 } else { 1 };
        self.leap = stamp;
        self.leap_lines >= AGREEING_LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    /// The clock's `now` after each of the stamps (in seconds), starting at 1,000 days.
    fn walk(stamps: &[i64]) -> (Vec<i64>, Vec<i64>, u64) {
        let mut clock = LogClock::starting_at(Timestamp::from_seconds(1_000 * DAY));
        let (mut used, mut now) = (Vec::new(), Vec::new());
        for stamp in stamps {
            used.push(clock.advance(Timestamp::from_seconds(1_000 * DAY + stamp)).seconds() - 1_000 * DAY);
            now.push(clock.now().seconds() - 1_000 * DAY);
        }
        (used, now, clock.clamped)
    }

    #[test]
    fn now_is_the_latest_stamp() {
        assert_eq!(walk(&[1, 5, 3, 7]), (vec![1, 5, 3, 7], vec![1, 5, 5, 7], 0));
    }

    #[test]
    fn one_broken_stamp_moves_nothing() {
        let far = 70 * 365 * DAY;
        assert_eq!(walk(&[1, far, 2, far, far, 3]), (vec![1, 1, 2, 2, 2, 3], vec![1, 1, 2, 2, 2, 3], 3));
        assert_eq!(walk(&[1, -far, 2]), (vec![1, 1 - DAY, 2], vec![1, 1, 2], 1));
        assert_eq!(walk(&[i64::MAX / 2_000_000, i64::MIN / 2_000_000]).2, 2);
    }

    #[test]
    fn a_quiet_week_is_believed() {
        let week = 7 * DAY;
        assert_eq!(walk(&[1, week, week + 1, week + 1, week + 2, week + 3]).1, [1, 1, 1, 1, week + 2, week + 3]);
    }

    #[test]
    fn a_log_starts_where_most_of_its_first_lines_do() {
        let start =
            |stamps: &[i64]| LogClock::starting_with(stamps.iter().map(|s| Timestamp::from_seconds(*s))).map(|clock| clock.now().seconds());
        assert_eq!(start(&[]), None);
        assert_eq!(start(&[5 * DAY]), Some(5 * DAY));
        assert_eq!(start(&[900 * DAY, 5 * DAY + 9, 5 * DAY + 8, 5 * DAY + 10, 0]), Some(5 * DAY + 8));
    }
}
