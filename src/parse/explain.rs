//! Why a line is or is not recognised, for `mailwarden test-filter`.

use jiff::tz::TimeZone;

use super::dispatch::{FilterSet, Scratch};
use super::program::Programs;
use super::scan::leading_queue_id;
use super::syslog::{Envelope, EnvelopeReader};
use super::template::{Op, Slot};
use super::{Field, Parsed, filter, slice};
use crate::time::Timestamp;

/// What the filters make of one line.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `None`: no syslog line.
    pub envelope: Option<Envelope>,
    /// Whether any filter is for the program.
    pub known_program: bool,
    /// The line as the first pattern that fits reads it.
    pub hit: Option<Parsed>,
    /// The patterns of the program in file order, up to and with the one that fits.
    pub attempts: Vec<Attempt>,
}

/// One pattern tried on the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Number of the pattern, see [`FilterSet::pattern_name`].
    pub pattern: u16,
    /// The `line` or `regex` that was tried.
    pub text: String,
    pub fits: bool,
    /// How many bytes of the line fitted; for a regex that does not fit, where the message starts.
    pub reached: usize,
    /// What the pattern expects there; empty when it fits.
    pub expected: String,
}

impl FilterSet {
    /// Tries every pattern of the line's program. A line without time and host will do.
    pub fn explain(&self, line: &[u8]) -> Explanation {
        let line = line.get(..crate::limits::LINE_BYTES_MAX).unwrap_or(line);
        let mut reader = EnvelopeReader::new(TimeZone::UTC, Timestamp::ZERO, true);
        let envelope = reader.read(line, None).or_else(|| reader.read(line, Some(Timestamp::ZERO)));
        let mut explanation = Explanation { envelope, known_program: false, hit: None, attempts: Vec::new() };
        let Some(envelope) = envelope else {
            return explanation;
        };
        let message = slice(line, envelope.message);
        let Some(place) = Programs::new().place(self, slice(line, envelope.program), message) else {
            return explanation;
        };
        explanation.known_program = true;
        let line = &line[..envelope.message.start() + message.len()];
        let start = envelope.message.start() + place.skipped;
        let queue_id = leading_queue_id(&line[start..]);
        let mut scratch = Scratch::new();
        for &form in self.all_forms(place.table) {
            let mut parsed = Parsed::new(&envelope, place.service);
            let (pattern, shape) = self.form(form);
            let progress = self.try_form(form, line, start, queue_id, &mut parsed, &mut scratch);
            let (reached, expected) = match progress {
                None => (line.len(), String::new()),
                Some(progress) => (progress.reached.max(start), expectation(shape, progress.op)),
            };
            explanation.attempts.push(Attempt { pattern, text: shape.text.clone(), fits: progress.is_none(), reached, expected });
            if progress.is_none() {
                let mut hit = Parsed::new(&envelope, place.service);
                if self.recognise(line, start, place.table, &mut hit, &mut scratch) {
                    explanation.hit = Some(hit);
                }
                break;
            }
        }
        explanation
    }
}

fn expectation(shape: &filter::Shape, op: usize) -> String {
    match &shape.body {
        filter::Body::Regex(_) => "the regular expression does not match".to_owned(),
        filter::Body::Template(template) => template.ops.get(op).map_or("the end of the line".to_owned(), describe),
    }
}

fn describe(op: &Op) -> String {
    match op {
        Op::Literal(literal) => format!("{:?}", String::from_utf8_lossy(literal)),
        Op::Client => "a client: name[address]".to_owned(),
        Op::Ip => "an address".to_owned(),
        Op::QueueId(Field::QueueId) => "a queue id or NOQUEUE".to_owned(),
        Op::QueueId(_) => "a queue id".to_owned(),
        Op::Session => "a session id".to_owned(),
        Op::Mechanism => "a mechanism's name".to_owned(),
        Op::Dsn => "an enhanced status code such as 5.7.1".to_owned(),
        Op::Status => "a delivery status".to_owned(),
        Op::Code => "a reply code of three digits".to_owned(),
        Op::Number(Slot::Ignored) => "a number".to_owned(),
        Op::Number(slot) => format!("a number ({slot:?})").to_lowercase(),
        Op::Commands => "command statistics such as ehlo=1 auth=0/1".to_owned(),
        Op::Free { field: Some(field), .. } => format!("<{field}> and what follows it"),
        Op::Free { field: None, .. } => "free text and what follows it".to_owned(),
        Op::Rest => "anything".to_owned(),
        Op::Reply => "the server's closing words, without `; from=<`".to_owned(),
        Op::Optional { .. } => "an optional part".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::FilterSource;

    fn set() -> FilterSet {
        let text = "[filter]\nname = 'x'\nprograms = ['x']\n\
            [[pattern]]\nname = 'a'\nkind = 'noise'\nline = 'from <ip>: no'\n\
            [[pattern]]\nname = 'b'\nkind = 'reject'\nregex = '^from (?<ip>[0-9.]+): yes (?<count>[0-9]+)$'\n";
        FilterSet::compile(&[FilterSource { file: "x.toml".into(), text: text.into() }]).unwrap()
    }

    #[test]
    fn tells_how_far_each_pattern_came() {
        let set = set();
        let line = b"x: from 192.0.2.1: yes 7";
        let explanation = set.explain(line);
        let hit = explanation.hit.unwrap();
        assert_eq!((set.pattern_name(hit.pattern), hit.client, hit.count), ("b", Some("192.0.2.1".parse().unwrap()), 7));
        let attempts: Vec<_> =
            explanation.attempts.iter().map(|attempt| (attempt.fits, attempt.reached, attempt.expected.as_str())).collect();
        assert_eq!(attempts, [(false, 17, "\": no\""), (true, line.len(), "")]);
    }

    #[test]
    fn tells_what_is_no_line_of_ours() {
        let set = set();
        assert!(set.explain(b"no line").envelope.is_none());
        let foreign = set.explain(b"Nov 24 02:31:55 mx1 y[1]: from 192.0.2.1: no");
        assert!(!foreign.known_program && foreign.attempts.is_empty());
        let missed = set.explain(b"x: from 192.0.2.1: perhaps");
        assert!(missed.known_program && missed.hit.is_none() && missed.attempts.len() == 2);
    }
}
