//! Whether the lines of a source say the time that it is here.
//!
//! A log in another time zone (a container's, a host whose zone was changed) is read without a mistake, and its lines are an
//! hour old when they come: no window counts them. That must not go unnoticed.

use std::fmt;

use crate::parse::Parsed;
use crate::time::Timestamp;

/// A line that has just been written and is farther off than this is not just slow.
const OFF_MICROS_MIN: i64 = 600_000_000;
/// Lines of another zone are all off by the same, give or take the way here.
const SPREAD_MICROS_MAX: i64 = 30_000_000;
/// So many of them in a row …
const LINES_MIN: u32 = 10;
/// … over so long: what a relay held back comes all at once.
const LASTING_MICROS: i64 = 5_000_000;

/// What is known of one source's stamps.
pub(super) struct Timing {
    /// The time of the last line.
    latest: Timestamp,
    /// All that was there at the start is read: what comes now has just been written.
    is_live: bool,
    /// How far the last lines were off, in microseconds, and how many they are.
    off: i64,
    lines: u32,
    /// When the first and the last of them came.
    since: Timestamp,
    last: Timestamp,
    /// What was said about it last.
    told: Option<Off>,
    /// When anything came from it last, of whatever program.
    pub heard: Option<Timestamp>,
}

/// So far the lines of a source are off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Off(i64);

/// What is to be told.
pub(super) enum News {
    Off(Off),
    RightAgain,
}

impl Timing {
    pub fn new(now: Timestamp) -> Timing {
        Timing { latest: now, is_live: false, off: 0, lines: 0, since: now, last: now, told: None, heard: None }
    }

    /// Takes a line in that came at `now`; its own time is put right where it may mean two.
    pub fn take(&mut self, parsed: &mut Parsed, now: Timestamp) {
        parsed.unfold(self.latest);
        self.latest = parsed.time;
        if self.is_live {
            self.look(parsed.time.micros().saturating_sub(now.micros()), now);
        }
    }

    fn look(&mut self, off: i64, now: Timestamp) {
        self.last = now;
        if off.abs() < OFF_MICROS_MIN {
            self.lines = 0;
        } else if self.lines > 0 && (off - self.off).abs() <= SPREAD_MICROS_MAX {
            self.lines = self.lines.saturating_add(1);
        } else {
            (self.off, self.lines, self.since) = (off, 1, now);
        }
    }

    pub fn caught_up(&mut self) {
        self.is_live = true;
    }

    /// What is wrong with the stamps right now.
    pub fn off(&self) -> Option<Off> {
        // Rounded, so that it is the same as long as it is.
        let is_lasting = self.last.micros().saturating_sub(self.since.micros()) >= LASTING_MICROS;
        (self.lines >= LINES_MIN && is_lasting).then(|| Off((self.off + 30_000_000).div_euclid(60_000_000)))
    }

    /// The same when it is no longer what was told.
    pub fn take_news(&mut self) -> Option<News> {
        let off = self.off();
        if off == std::mem::replace(&mut self.told, off) {
            return None;
        }
        Some(off.map_or(News::RightAgain, News::Off))
    }
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, direction) = (self.0.abs(), if self.0 < 0 { "behind" } else { "ahead of" });
        write!(
            f,
            "its lines are {minutes} minutes {direction} this clock, so they do not count as they should: another time zone? Start the daemon in \
             theirs (Environment=TZ=… in a drop-in of its unit), or let them be written with RFC 3339 stamps"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(offs: &[i64]) -> Option<Off> {
        let mut timing = Timing::new(Timestamp::ZERO);
        timing.caught_up();
        for (second, off) in offs.iter().enumerate() {
            timing.look(off * 1_000_000, Timestamp::from_seconds(second as i64));
        }
        timing.off()
    }

    #[test]
    fn another_zone_is_told_from_a_slow_relay() {
        assert_eq!(timing(&[-3_600, -3_601, -3_600, -3_602, -3_600, -3_600, -3_600, -3_600, -3_600, -3_601]), Some(Off(-60)));
        assert_eq!(timing(&[-3_600; 9]), None, "too few");
        assert_eq!(timing(&[[-3_600; 10].as_slice(), &[0]].concat()), None, "right again");
        let backlog: Vec<i64> = (0..40).map(|line| -3_600 + 90 * line).collect();
        assert_eq!(timing(&backlog), None, "a backlog comes nearer line by line");
        assert_eq!(timing(&[-20; 40]), None);
    }
}
