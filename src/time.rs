//! Points in time and the clocks that give them. Everything past `daemon/` takes `now` as an argument.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(stamp) => format!("{stamp:.6}"),
            Err(_) => "never".to_owned(),
        }
    }
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
                let zoned = jiff::ZonedDateTime::new(stamp, jiff::tz::TimeZone::system());
                write!(f, "{}", zoned.strftime("%Y-%m-%d %H:%M:%S"))
            }
            Err(_) => f.write_str("never"),
        }
    }
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
    /// How far the wall clock has moved away from this clock since start, in microseconds (positive: it is ahead).
    pub fn wall_offset_micros(&self) -> i64 {
        Timestamp::from(SystemTime::now()).micros().saturating_sub(self.now().micros())
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.anchor + self.started.elapsed()
    }
}
