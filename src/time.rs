//! Points in time and the clocks that give them. Everything past `daemon/` takes `now` as an argument.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

/// Microseconds since 1970-01-01T00:00:00Z, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const ZERO: Timestamp = Timestamp(0);
    /// Later than everything: the end of a permanent ban.
    pub const NEVER: Timestamp = Timestamp(i64::MAX);

    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }
    pub const fn from_seconds(seconds: i64) -> Self {
        Timestamp(seconds.saturating_mul(1_000_000))
    }
    pub const fn micros(self) -> i64 {
        self.0
    }
    /// Whole seconds, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
    /// RFC 3339 in UTC with microseconds, as `--json` prints it.
    pub fn rfc3339(self) -> String {
        let mut text = String::with_capacity(27);
        self.write_rfc3339(&mut text).expect("a String takes everything");
        text
    }

    /// As [`Timestamp::rfc3339`], without an allocation.
    pub fn write_rfc3339(self, out: &mut impl fmt::Write) -> fmt::Result {
        let (seconds, micros) = (self.seconds(), self.0.rem_euclid(1_000_000));
        let Some((year, month, day)) = civil(seconds.div_euclid(86_400)) else { return out.write_str("never") };
        let second = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (place, digits, value) in
            [(0, 4, year), (5, 2, month), (8, 2, day), (11, 2, hour), (14, 2, minute), (17, 2, second), (20, 6, micros)]
        {
            let mut rest = value;
            for digit in text[place..place + digits].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        out.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

/// Year, month and day of a day since 1970-01-01, for the years 0 to 9999. Howard Hinnant's `civil_from_days`.
fn civil(days: i64) -> Option<(i64, i64, i64)> {
    let days = days.checked_add(719_468)?;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (0..=9_999).contains(&year).then_some((year, month, day))
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let micros = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, span: Duration) -> Timestamp {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(micros))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, span: Duration) -> Timestamp {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_sub(micros))
    }
}

impl fmt::Display for Timestamp {
    /// Local time for people: `2026-11-24 03:04:05`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Timestamp::NEVER {
            return f.write_str("never");
        }
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(stamp) => {
                let zoned = jiff::ZonedDateTime::new(stamp, local_zone());
                write!(f, "{}", zoned.strftime("%Y-%m-%d %H:%M:%S"))
            }
            Err(_) => f.write_str("never"),
        }
    }
}

/// The zone of this host, as it was when it was first asked for. `TimeZone::system` is the same, but reads what zones there are in the
/// world, to find out what this one is called.
pub fn local_zone() -> TimeZone {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    let read = || {
        let own = if std::env::var_os("TZ").is_none() { std::fs::read("/etc/localtime").ok() } else { None };
        own.and_then(|data| TimeZone::tzif("local", &data).ok()).unwrap_or_else(TimeZone::system)
    };
    ZONE.get_or_init(read).clone()
}

/// Where the daemon's `now` comes from.
pub trait Clock {
    fn now(&self) -> Timestamp;
}

/// The wall clock as it stood at start, moved on by the monotonic clock: a jump of the wall clock ends no ban early.
pub struct SteadyClock {
    anchor: Timestamp,
    started: Instant,
}

impl SteadyClock {
    pub fn start() -> Self {
        SteadyClock { anchor: SystemTime::now().into(), started: Instant::now() }
    }

    /// What everybody else on this host takes for the time: their log lines say it.
    pub fn wall(&self) -> Timestamp {
        SystemTime::now().into()
    }

    /// How far this clock is ahead of the wall clock, in microseconds, because that was set since the start.
    pub fn ahead_of_wall(&self) -> i64 {
        self.now().micros().saturating_sub(self.wall().micros())
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.anchor + self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_is_what_jiff_writes() {
        let day = 86_400_000_000i64;
        let mut micros: Vec<i64> = (-719_000..2_900_000).step_by(97).map(|n| n * day + n * 7_919).collect();
        micros.extend([0, -1, 951_782_399_999_999, 951_782_400_000_000, 1_795_485_600_477_488]);
        for micros in micros {
            let expected = format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap());
            assert_eq!(Timestamp::from_micros(micros).rfc3339(), expected);
        }
        assert_eq!((Timestamp::NEVER.rfc3339(), Timestamp::from_micros(i64::MIN).rfc3339()), ("never".to_owned(), "never".to_owned()));
    }
}
