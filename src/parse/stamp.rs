//! The time in a line's header. The text of the last second is remembered, so most lines cost one comparison.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::time::Timestamp;

/// How far ahead of the reference time a stamp without a year may lie before it is taken for last year's.
const FUTURE_MICROS: i64 = 86_400_000_000;
/// February 29 comes back after at most eight years (1896 → 1904, 2096 → 2104).
const YEARS_BACK: i16 = 8;
const SECOND: i64 = 1_000_000;
/// `Nov 24 02:31:55`
pub(super) const SHORT: usize = 15;
/// `2026-11-24T02:31:55`
const NAIVE: usize = 19;

/// What a header's stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The earlier one, where it may be either of two.
    pub time: Timestamp,
    /// So many minutes later it may be as well: the hour that comes twice when clocks are put back. Else 0.
    pub fold_minutes: u8,
}

impl Stamp {
    pub const fn certain(time: Timestamp) -> Stamp {
        Stamp { time, fold_minutes: 0 }
    }
}

/// Turns header stamps into points in time.
pub(super) struct Stamps {
    zone: TimeZone,
    /// "Now" for stamps without a year.
    reference: Timestamp,
    short: Option<([u8; SHORT], Stamp)>,
    /// Micros of the full hour that `Nov 24 02` names, and by how much later it may be.
    hour: Option<([u8; 9], (i64, u8))>,
    /// Seconds of `2026-11-24T02:31:55` read as UTC.
    naive: Option<([u8; NAIVE], i64)>,
}

impl Stamps {
    pub fn new(zone: TimeZone, reference: Timestamp) -> Self {
        Stamps { zone, reference, short: None, hour: None, naive: None }
    }

    pub fn set_reference(&mut self, reference: Timestamp) {
        if reference.micros().abs_diff(self.reference.micros()) > FUTURE_MICROS as u64 {
            // What the remembered texts mean may be another year now.
            (self.short, self.hour) = (None, None);
        }
        self.reference = reference;
    }

    /// RFC 3164: `Nov 24 02:31:55` (15 bytes), local time without a year.
    pub fn short(&mut self, text: &[u8]) -> Option<Stamp> {
        let text: &[u8; SHORT] = text.first_chunk()?;
        if let Some((known, stamp)) = &self.short
            && known == text
        {
            return Some(*stamp);
        }
        let minute = two_digits(text, 10).filter(|&minute| minute < 60)?;
        let second = two_digits(text, 13).filter(|&second| second <= 60)?;
        let (hour, fold_minutes) = self.hour(text.first_chunk()?)?;
        let time = Timestamp::from_micros(hour + i64::from(minute * 60 + second) * SECOND);
        let stamp = Stamp { time, fold_minutes };
        self.short = Some((*text, stamp));
        Some(stamp)
    }

    /// Micros of the full hour `Nov 24 02`: the latest one that is not in the future.
    fn hour(&mut self, text: &[u8; 9]) -> Option<(i64, u8)> {
        if let Some((known, found)) = &self.hour
            && known == text
        {
            return Some(*found);
        }
        let month = month(text.first_chunk()?)?;
        let day = if text[4] == b' ' { digit(text[5])? } else { two_digits(text, 4)? };
        let hour = two_digits(text, 7).filter(|&hour| hour < 24)?;
        let latest = self.reference.micros().saturating_add(FUTURE_MICROS);
        let this_year = self.zone.to_datetime(jiff::Timestamp::from_microsecond(self.reference.micros()).ok()?).year();
        let found = (this_year - YEARS_BACK..=this_year + 1)
            .rev()
            .filter_map(|year| Date::new(year, month, day as i8).ok())
            .filter_map(|date| self.local_micros(date.at(hour as i8, 0, 0, 0)))
            .find(|(micros, _)| *micros <= latest)?;
        self.hour = Some((*text, found));
        Some(found)
    }

    fn local_micros(&self, time: DateTime) -> Option<(i64, u8)> {
        let local = self.zone.to_ambiguous_timestamp(time);
        let fold = if let AmbiguousOffset::Fold { before, after } = local.offset() { before.seconds() - after.seconds() } else { 0 };
        Some((local.compatible().ok()?.as_microsecond(), u8::try_from(fold / 60).unwrap_or(0)))
    }

    /// RFC 3339, also with an offset without colon. Returns the time and how many bytes of `text` the stamp takes.
    pub fn iso(&mut self, text: &[u8]) -> Option<(Timestamp, usize)> {
        let seconds = self.naive_seconds(text.first_chunk()?)?;
        let mut at = NAIVE;
        let mut micros = 0i64;
        if matches!(text.get(at), Some(b'.' | b',')) {
            at += 1;
            let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 || digits > 9 {
                return None;
            }
            micros = (0..6).fold(0, |sum, i| sum * 10 + if i < digits { i64::from(text[at + i] - b'0') } else { 0 });
            at += digits;
        }
        let (offset, length) = offset_seconds(&text[at..])?;
        Some((Timestamp::from_micros((seconds - offset) * SECOND + micros), at + length))
    }

    fn naive_seconds(&mut self, text: &[u8; NAIVE]) -> Option<i64> {
        if let Some((known, seconds)) = &self.naive
            && known == text
        {
            return Some(*seconds);
        }
        let punctuated = text[4] == b'-' && text[7] == b'-' && text[10] == b'T' && text[13] == b':' && text[16] == b':';
        let year = two_digits(text, 0)? * 100 + two_digits(text, 2)?;
        let date = Date::new(year as i16, two_digits(text, 5)? as i8, two_digits(text, 8)? as i8).ok()?;
        let hour = two_digits(text, 11).filter(|&hour| hour < 24)?;
        let minute = two_digits(text, 14).filter(|&minute| minute < 60)?;
        let second = two_digits(text, 17).filter(|&second| second <= 60)?;
        if !punctuated {
            return None;
        }
        let midnight = TimeZone::UTC.to_ambiguous_timestamp(date.at(0, 0, 0, 0)).compatible().ok()?.as_second();
        let seconds = midnight + i64::from(hour * 3600 + minute * 60 + second);
        self.naive = Some((*text, seconds));
        Some(seconds)
    }
}

/// `Z`, `+01:00` or `+0100` in seconds, and its length.
fn offset_seconds(text: &[u8]) -> Option<(i64, usize)> {
    let sign = match text.first()? {
        b'Z' | b'z' => return Some((0, 1)),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let colon = usize::from(text.get(3) == Some(&b':'));
    let hours = two_digits(text, 1).filter(|&hours| hours < 24)?;
    let minutes = two_digits(text, 3 + colon).filter(|&minutes| minutes < 60)?;
    Some((sign * i64::from(hours * 3600 + minutes * 60), 5 + colon))
}

fn month(name: &[u8; 3]) -> Option<i8> {
    const NAMES: [&[u8; 3]; 12] = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    NAMES.iter().position(|known| *known == name).map(|index| index as i8 + 1)
}

fn two_digits(text: &[u8], at: usize) -> Option<u32> {
    Some(digit(*text.get(at)?)? * 10 + digit(*text.get(at + 1)?)?)
}

fn digit(byte: u8) -> Option<u32> {
    byte.is_ascii_digit().then(|| u32::from(byte - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short_in(zone: &str, reference: &str, text: &str) -> Option<String> {
        let reference = Timestamp::from_micros(reference.parse::<jiff::Timestamp>().unwrap().as_microsecond());
        let mut stamps = Stamps::new(TimeZone::get(zone).unwrap(), reference);
        let stamp = stamps.short(text.as_bytes());
        assert_eq!(stamp, stamps.short(text.as_bytes()), "the remembered answer is the same");
        stamp.map(|stamp| stamp.time.rfc3339())
    }

    #[test]
    fn a_stamp_without_a_year_is_the_latest_that_is_not_in_the_future() {
        let cases = [
            ("UTC", "2026-11-24T03:00:00Z", "Nov 24 02:31:55", "2026-11-24T02:31:55.000000Z"),
            ("UTC", "2026-11-24T03:00:00Z", "Nov 25 02:59:59", "2026-11-25T02:59:59.000000Z"),
            ("UTC", "2026-11-24T03:00:00Z", "Nov 25 04:00:00", "2025-11-25T04:00:00.000000Z"),
            ("UTC", "2027-01-01T00:00:10Z", "Dec 31 23:59:59", "2026-12-31T23:59:59.000000Z"),
            ("UTC", "2026-12-31T23:59:59Z", "Jan  1 00:00:01", "2027-01-01T00:00:01.000000Z"),
            ("UTC", "2027-01-05T00:00:00Z", "Feb 29 12:00:00", "2024-02-29T12:00:00.000000Z"),
            ("Europe/Berlin", "2026-07-01T00:00:00Z", "Jun 30 12:00:00", "2026-06-30T10:00:00.000000Z"),
            ("Europe/Berlin", "2026-12-01T00:00:00Z", "Nov 24 12:00:00", "2026-11-24T11:00:00.000000Z"),
        ];
        for (zone, reference, text, expected) in cases {
            assert_eq!(short_in(zone, reference, text).as_deref(), Some(expected), "{text} seen at {reference} in {zone}");
        }
    }

    #[test]
    fn a_year_later_the_same_text_means_another_time() {
        let at = |text: &str| Timestamp::from_micros(text.parse::<jiff::Timestamp>().unwrap().as_microsecond());
        let mut stamps = Stamps::new(TimeZone::UTC, at("2026-11-24T03:00:00Z"));
        assert_eq!(stamps.short(b"Nov 24 02:31:55").unwrap().time, at("2026-11-24T02:31:55Z"));
        stamps.set_reference(at("2027-11-24T03:00:00Z"));
        assert_eq!(stamps.short(b"Nov 24 02:31:55").unwrap().time, at("2027-11-24T02:31:55Z"));
    }

    #[test]
    fn the_hour_that_comes_twice_may_be_either() {
        let now = Timestamp::from_micros("2026-12-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond());
        let cases = [
            ("Europe/Berlin", "Oct 25 01:59:59", 0),
            ("Europe/Berlin", "Oct 25 02:00:00", 60),
            ("Europe/Berlin", "Oct 25 03:00:00", 0),
            ("UTC", "Oct 25 02:00:00", 0),
        ];
        for (zone, text, expected) in cases {
            let mut stamps = Stamps::new(TimeZone::get(zone).unwrap(), now);
            assert_eq!(stamps.short(text.as_bytes()).unwrap().fold_minutes, expected, "{text} in {zone}");
        }
    }

    #[test]
    fn impossible_stamps_are_refused() {
        for text in [
            "Nov 31 02:31:55",
            "Nox 24 02:31:55",
            "Nov 24 24:31:55",
            "Nov 24 02:60:55",
            "Nov 24 02:31:61",
            "Nov 2x 02:31:55",
            "Nov  0 02:31:55",
        ] {
            assert_eq!(short_in("UTC", "2026-11-24T03:00:00Z", text), None, "{text}");
        }
        let mut stamps = Stamps::new(TimeZone::UTC, Timestamp::ZERO);
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00+1",
        ] {
            assert_eq!(stamps.iso(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn offsets_and_fractions() {
        let cases = [
            ("2026-11-24T02:31:55.477488+00:00", "2026-11-24T02:31:55.477488Z"),
            ("2026-11-24T02:31:55Z", "2026-11-24T02:31:55.000000Z"),
            ("2026-11-24T02:31:55.5+05:45", "2026-11-23T20:46:55.500000Z"),
            ("2026-11-24T02:31:55.123456789-0330", "2026-11-24T06:01:55.123456Z"),
        ];
        let mut stamps = Stamps::new(TimeZone::UTC, Timestamp::ZERO);
        for (text, expected) in cases {
            let (time, length) = stamps.iso(text.as_bytes()).unwrap();
            assert_eq!((time.rfc3339().as_str(), length), (expected, text.len()), "{text}");
        }
    }
}
