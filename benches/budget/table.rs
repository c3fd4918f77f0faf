//! One row a budget: what was asked, what was measured, and whether it is kept.

use std::fmt;
use std::time::Duration;

pub struct Row {
    pub what: String,
    pub budget: String,
    pub measured: String,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Kept,
    Missed,
    /// A figure to compare with, ours or somebody else's.
    ForComparison,
    NotMeasured,
}

impl Verdict {
    const ALL: [Verdict; 4] = [Verdict::Kept, Verdict::Missed, Verdict::ForComparison, Verdict::NotMeasured];

    const fn mark(self) -> &'static str {
        match self {
            Verdict::Kept => "ok",
            Verdict::Missed => "MISSED",
            Verdict::ForComparison => "",
            Verdict::NotMeasured => "-",
        }
    }
}

impl Row {
    pub fn at_most(what: impl Into<String>, limit: f64, unit: &str, measured: f64, how: impl fmt::Display) -> Row {
        let verdict = if measured <= limit { Verdict::Kept } else { Verdict::Missed };
        Row { what: what.into(), budget: format!("≤ {limit} {unit}"), measured: format!("{measured:.2} {unit} {how}"), verdict }
    }

    pub fn at_least(what: impl Into<String>, limit: f64, unit: &str, measured: f64, how: impl fmt::Display) -> Row {
        let verdict = if measured >= limit { Verdict::Kept } else { Verdict::Missed };
        Row { what: what.into(), budget: format!("≥ {limit} {unit}"), measured: format!("{measured:.0} {unit} {how}"), verdict }
    }

    pub fn compare(what: impl Into<String>, measured: impl Into<String>) -> Row {
        Row { what: what.into(), budget: String::new(), measured: measured.into(), verdict: Verdict::ForComparison }
    }

    /// In one line, for [`Row::read`] of another process.
    pub fn written(&self) -> String {
        format!("{}\t{}\t{}\t{}", self.verdict.mark(), self.what, self.budget, self.measured)
    }

    pub fn read(line: &str) -> Option<Row> {
        let [mark, what, budget, measured] = line.split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().ok()?;
        let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.mark() == mark)?;
        Some(Row { what, budget, measured, verdict })
    }

    pub fn not_measured(what: impl Into<String>, why: impl Into<String>) -> Row {
        Row { what: what.into(), budget: String::new(), measured: why.into(), verdict: Verdict::NotMeasured }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7} {:<58} {:<23} {}", self.verdict.mark(), self.what, self.budget, self.measured)
    }
}

pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
