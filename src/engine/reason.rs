//! Decisions in one sentence.

use std::fmt::Write as _;

use super::jail::{Distinct, Jail, Measure, Test};
use crate::event::{Event, EventKind, Familiarity};

/// `8m12s`, `3h`, `2d4h`: the two largest units.
pub fn span(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let mut rest = seconds;
    let mut text = String::new();
    let mut told = 0;
    for (name, size) in units {
        let count = rest / size;
        if count > 0 && told < 2 {
            let _ = write!(text, "{count}{name}");
            told += 1;
        } else if told == 1 {
            break;
        }
        rest %= size;
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// What a jail's numbers count.
pub fn what(kind: EventKind, measure: Measure) -> String {
    match measure {
        Measure::SumRecipients => "recipients".to_owned(),
        Measure::SumBytes if kind == EventKind::Session => "bytes read".to_owned(),
        Measure::SumBytes => "bytes".to_owned(),
        Measure::Distinct(of) => format!("different {} in {}", plural(of.as_str()), events(kind)),
        Measure::Count => events(kind).to_owned(),
        Measure::RatioBounced => "percent refused".to_owned(),
        Measure::RatioSpam => "percent called spam".to_owned(),
        Measure::BurstRecipients => "recipients".to_owned(),
        Measure::BurstMessages => "messages".to_owned(),
        Measure::New(what) => format!("new {what}"),
        Measure::Speed => "km/h".to_owned(),
    }
}

/// One sign of a story: what was seen, in words that a customer understands.
pub fn sign(jail: &Jail, event: &Event<'_>, total: u64) -> String {
    let mut text = match jail.measure {
        Measure::New(what) => format!("first login from a new {what}"),
        Measure::Speed => format!("two logins that need a journey at {total} km/h"),
        Measure::RatioBounced => format!("{total} % of the recipients refused"),
        Measure::RatioSpam => format!("{total} % of the mail called spam by other providers"),
        Measure::Distinct(Distinct::RecipientDomain) if wants_new_domains(jail) => {
            format!("mail to {total} domains it had never written to, in {}", span(jail.findtime.as_micros() as i64))
        }
        measure => {
            let what = what(event.kind, measure);
            let what = if total == 1 { what.strip_suffix('s').unwrap_or(&what) } else { &what };
            format!("{total} {what} in {}", span(jail.findtime.as_micros() as i64))
        }
    };
    match event.whence.familiarity {
        Familiarity::NewCountry if !speaks_for_itself(jail.measure) => text.push_str(" from a country new to the account"),
        Familiarity::NewNetwork if !speaks_for_itself(jail.measure) => text.push_str(" from a network new to the account"),
        _ => {}
    }
    if let Some([first, second]) = event.country.map(u16::to_be_bytes).filter(|_| event.whence.familiarity == Familiarity::NewCountry) {
        text.push_str(&format!(" ({}{})", char::from(first), char::from(second)));
    }
    text
}

fn wants_new_domains(jail: &Jail) -> bool {
    jail.conditions.iter().any(|condition| !condition.negated && condition.test == Test::NewRecipientDomain(true))
}

const fn speaks_for_itself(measure: Measure) -> bool {
    matches!(measure, Measure::RatioBounced | Measure::RatioSpam | Measure::New(_) | Measure::Speed)
}

const fn events(kind: EventKind) -> &'static str {
    match kind {
        EventKind::AuthFailure => "failed logins",
        EventKind::AuthSuccess => "logins",
        EventKind::Reject => "refused attempts",
        EventKind::ProtocolAbuse => "protocol violations",
        EventKind::Message => "messages",
        EventKind::Delivery => "deliveries",
        EventKind::SpamVerdict => "spam verdicts",
        EventKind::Session => "mailbox sessions",
        EventKind::Banned => "bans",
        EventKind::Held => "holds",
        EventKind::Locked => "locks",
    }
}

fn plural(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{word}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        let cases = [(0, "0s"), (492, "8m12s"), (10_800, "3h"), (187_200, "2d4h"), (3_605, "1h"), (86_399, "23h59m"), (-5, "0s")];
        for (seconds, expected) in cases {
            assert_eq!(span(seconds * 1_000_000), expected);
        }
    }
}
