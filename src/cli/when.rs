//! Times and durations as an operator types them.

use std::time::{Duration, SystemTime};

use crate::time::Timestamp;

/// How long a manual ban lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BanTime(Option<Duration>);

impl BanTime {
    /// `None`: for ever.
    pub(super) fn seconds(self) -> Option<u64> {
        self.0.map(|span| span.as_secs())
    }
}

pub(super) fn ban_time(text: &str) -> Result<BanTime, String> {
    let span = crate::config::duration::parse_bantime(text)?;
    match span {
        Some(span) if span < Duration::from_secs(1) => Err("a ban lasts at least a second".into()),
        span => Ok(BanTime(span)),
    }
}

/// `2h` (ago), `02:00` (the last time it was so, local), or RFC 3339.
pub(super) fn since(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::from(SystemTime::now());
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp::from_micros(stamp.as_microsecond()));
    }
    if let Some(stamp) = time_of_day(text, now) {
        return Ok(stamp);
    }
    match crate::config::duration::parse(text) {
        Ok(span) => Ok(now - span),
        Err(_) => Err("give a span (2h), a time of day (02:00) or a stamp (2026-11-24T02:00:00Z)".into()),
    }
}

fn time_of_day(text: &str, now: Timestamp) -> Option<Timestamp> {
    let time = text.parse::<jiff::civil::Time>().ok().filter(|_| text.contains(':'))?;
    let zone = crate::time::local_zone();
    let today = jiff::ZonedDateTime::new(jiff::Timestamp::from_microsecond(now.micros()).ok()?, zone.clone()).date();
    let at = |date: jiff::civil::Date| -> Option<Timestamp> {
        let stamp = zone.to_timestamp(date.to_datetime(time)).ok()?;
        Some(Timestamp::from_micros(stamp.as_microsecond()))
    };
    at(today).filter(|stamp| *stamp <= now).or_else(|| at(today.yesterday().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_spans_times_and_stamps() {
        let now = Timestamp::from(SystemTime::now());
        assert_eq!(since("2026-11-24T02:00:00Z").unwrap(), Timestamp::from_seconds(1_795_485_600));
        let two_hours = now.since(since("2h").unwrap());
        assert!(two_hours.as_secs().abs_diff(7_200) < 5);
        let time = since("02:00").unwrap();
        assert!(time <= now + Duration::from_secs(1) && now.since(time).as_secs() < 90_000);
        assert!(since("yesterdayish").is_err());
    }
}
