//! Lines for whose writer nobody vouches: counted and told, and nothing else.

use std::collections::BTreeMap;

use crate::limits;

/// Between two alerts about one filter.
const ALERT_EVERY_MICROS: i64 = 3_600_000_000;
const FILTERS_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct Forgeries {
    by_filter: BTreeMap<String, Forgery>,
}

#[derive(Debug)]
pub struct Forgery {
    pub count: u64,
    pub last: i64,
    pub last_line: String,
    alerted: i64,
    /// At the last alert.
    counted: u64,
}

impl Forgeries {
    /// Notes one. Gives the sentence of an alert when one is due.
    pub fn note(&mut self, filter: &str, line: &[u8], now: i64) -> Option<String> {
        if !self.by_filter.contains_key(filter) && self.by_filter.len() >= FILTERS_MAX {
            return None;
        }
        let new = || Forgery { count: 0, last: now, last_line: String::new(), alerted: i64::MIN, counted: 0 };
        let forgery = self.by_filter.entry(filter.to_owned()).or_insert_with(new);
        forgery.count += 1;
        forgery.last = now;
        forgery.last_line = String::from_utf8_lossy(line.get(..limits::EVIDENCE_LINE_BYTES_MAX).unwrap_or(line)).into_owned();
        if now.saturating_sub(forgery.alerted) < ALERT_EVERY_MICROS {
            return None;
        }
        let fresh = forgery.count - forgery.counted;
        (forgery.alerted, forgery.counted) = (now, forgery.count);
        let lines = if fresh == 1 { "a line".to_owned() } else { format!("{fresh} lines") };
        Some(format!("{lines} for filter {filter} from a writer that nobody vouches for: forged, or a source without origin; not counted"))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Forgery)> {
        self.by_filter.iter().map(|(filter, forgery)| (filter.as_str(), forgery))
    }
}
