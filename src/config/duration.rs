//! Spans of time as people write them: `10m`, `1h30m`, `1d`, `1w`, or seconds.

use std::time::Duration;

/// Longest span: ten years. What shall last longer lasts for ever.
const SECONDS_MAX: u64 = 10 * 366 * 86_400;
/// What a message says about the form.
pub const FORM: &str = "write it like \"90s\", \"10m\", \"1h30m\", \"1d\", \"1w\", or as a number of seconds";

const UNITS: &[(&[&str], u64)] = &[
    (&["s", "sec", "secs", "second", "seconds"], 1),
    (&["m", "min", "mins", "minute", "minutes"], 60),
    (&["h", "hr", "hour", "hours"], 3_600),
    (&["d", "day", "days"], 86_400),
    (&["w", "week", "weeks"], 7 * 86_400),
];

/// Parses a span. Zero is a span too: whoever cannot take it has to look. The error says what is wrong with `text`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return text.parse().map_err(|_| too_long()).and_then(from_seconds);
    }
    let mut rest = text;
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let (number, after) = split_while(rest, |c| c.is_ascii_digit());
        let (unit, after) = split_while(after.trim_start(), |c| c.is_ascii_alphabetic());
        let number: u64 = number.parse().map_err(|_| if number.is_empty() { no_number(rest) } else { too_long() })?;
        let factor = unit_seconds(unit).ok_or_else(|| no_unit(unit))?;
        seconds = number.checked_mul(factor).and_then(|part| seconds.checked_add(part)).ok_or_else(too_long)?;
        rest = after.trim_start();
    }
    if text.is_empty() { Err("an empty duration".to_owned()) } else { from_seconds(seconds) }
}

/// As [`parse`], and `None` for `-1` and `forever`.
pub fn parse_bantime(text: &str) -> Result<Option<Duration>, String> {
    match text.trim() {
        "-1" | "forever" => Ok(None),
        other => parse(other).map(Some),
    }
}

pub fn from_seconds(seconds: u64) -> Result<Duration, String> {
    if seconds > SECONDS_MAX { Err(too_long()) } else { Ok(Duration::from_secs(seconds)) }
}

fn split_while(text: &str, accept: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !accept(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn unit_seconds(unit: &str) -> Option<u64> {
    UNITS.iter().find(|(names, _)| names.contains(&unit)).map(|(_, factor)| *factor)
}

fn no_number(rest: &str) -> String {
    format!("a duration needs a number, not {rest:?}")
}

fn no_unit(unit: &str) -> String {
    if unit.is_empty() { "a duration needs a unit behind each number".to_owned() } else { format!("unknown unit of time {unit:?}") }
}

fn too_long() -> String {
    "longer than ten years".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_as_people_write_them() {
        let cases = [
            ("600", 600),
            ("10m", 600),
            ("1h30m", 5_400),
            ("1d 2h", 93_600),
            ("1w", 604_800),
            (" 2 hours ", 7_200),
            ("0", 0),
            ("90s", 90),
            ("1d2d", 259_200),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn junk_is_refused() {
        for text in ["", " ", "-1", "m", "10x", "10 m 5", "1.5h", "10mo", "1y", "99999999999999999999", "99999w", "١m", "1h-5m"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn for_ever_is_a_bantime() {
        assert_eq!(parse_bantime("-1"), Ok(None));
        assert_eq!(parse_bantime("forever"), Ok(None));
        assert_eq!(parse_bantime("1h"), Ok(Some(Duration::from_secs(3_600))));
        assert!(parse_bantime("-2").is_err());
    }
}
