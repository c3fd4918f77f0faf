//! Runs the samples that stand beside each pattern: `mailwarden check` and the tests do.

use std::sync::Arc;

use jiff::tz::TimeZone;
use toml::Spanned;

use super::dispatch::FilterSet;
use super::filter::{FilterError, Pattern, Sample, Samples};
use super::parser::{Outcome, Parser, ParserOptions};
use super::{Field, Parsed};
use crate::time::Timestamp;

/// Every pattern shows so many lines that it matches, and so many that it must not.
const HITS_MIN: usize = 2;
const MISSES_MIN: usize = 1;
const HEADER: &str = "Nov 24 02:31:55 mx1 ";

impl FilterSet {
    /// For whoever runs the filters and does not check them.
    pub fn forget_samples(&mut self) {
        for pattern in &mut self.patterns {
            pattern.samples = Samples::default();
        }
    }

    /// What is wrong with the samples: too few, not matched, matched by another pattern, read differently.
    pub fn check_samples(self: &Arc<Self>) -> Vec<FilterError> {
        let options = ParserOptions { zone: TimeZone::UTC, reference: Timestamp::ZERO, annotated: false };
        let mut check = Check { set: self, parser: Parser::new(self.clone(), options), errors: Vec::new() };
        for (index, pattern) in self.patterns.iter().enumerate() {
            check.pattern(index, pattern);
        }
        check.errors
    }

    /// All lines that a pattern must match, with a header, and the pattern's number. For tests that vary them.
    pub fn sample_lines(&self) -> impl Iterator<Item = (u16, String)> {
        self.patterns.iter().enumerate().flat_map(|(index, pattern)| {
            pattern.samples.hits.iter().map(move |sample| (index as u16, format!("{HEADER}{}", sample.get_ref().line)))
        })
    }
}

struct Check<'a> {
    set: &'a FilterSet,
    parser: Parser,
    errors: Vec<FilterError>,
}

impl Check<'_> {
    fn pattern(&mut self, index: usize, pattern: &Pattern) {
        let (hits, misses) = (&pattern.samples.hits, &pattern.samples.misses);
        if hits.len() < HITS_MIN || misses.len() < MISSES_MIN {
            let message = format!("pattern \"{}\" needs at least {HITS_MIN} lines in `match` and {MISSES_MIN} in `miss`", pattern.name);
            self.add(pattern, pattern.span.start..pattern.span.start, message);
        }
        for sample in hits {
            self.hit(index, pattern, sample);
        }
        for line in misses {
            if self.parse(line.get_ref()).is_ok_and(|(_, parsed)| usize::from(parsed.pattern) == index) {
                self.add(pattern, line.span(), format!("pattern \"{}\" matches this line, and must not", pattern.name));
            }
        }
    }

    fn hit(&mut self, index: usize, pattern: &Pattern, sample: &Spanned<Sample>) {
        let message = match self.parse(&sample.get_ref().line) {
            Err(why) => format!("pattern \"{}\" does not match this line: {why}", pattern.name),
            Ok((_, parsed)) if usize::from(parsed.pattern) != index => {
                format!("pattern \"{}\" comes first and matches this line of \"{}\"", self.set.pattern_name(parsed.pattern), pattern.name)
            }
            Ok((line, parsed)) => {
                for message in differences(sample.get_ref(), &line, &parsed) {
                    self.add(pattern, sample.span(), message);
                }
                return;
            }
        };
        self.add(pattern, sample.span(), message);
    }

    fn parse(&mut self, sample: &str) -> Result<(Vec<u8>, Parsed), &'static str> {
        let line = format!("{HEADER}{sample}").into_bytes();
        match self.parser.parse(&line, None) {
            Outcome::Line(parsed) => Ok((line, parsed)),
            Outcome::Unmatched(_) => Err("no pattern does"),
            Outcome::Foreign => Err("no filter is for its program"),
            Outcome::Malformed => Err("it does not start with `program: ` or `program[pid]: `"),
        }
    }

    fn add(&mut self, pattern: &Pattern, span: std::ops::Range<usize>, message: String) {
        self.errors.push(FilterError { file: self.set.files[pattern.file].clone(), span, message, help: None });
    }
}

fn differences(sample: &Sample, line: &[u8], parsed: &Parsed) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, read: Option<String>, expected: Option<&str>| {
        if read.as_deref() != expected {
            let show = |value: Option<&str>| value.map_or("missing".to_owned(), |value| format!("{value:?}"));
            found.push(format!("`{name}` is {}, expected {}", show(read.as_deref()), show(expected)));
        }
    };
    let text = |field| parsed.text(line, field).map(|text| String::from_utf8_lossy(text).into_owned());
    compare("ip", parsed.client.map(|ip| ip.to_string()), sample.ip.as_deref());
    compare("account", text(Field::Account), sample.account.as_deref());
    let texts = [
        (Field::Dsn, &sample.dsn),
        (Field::QueueId, &sample.queue_id),
        (Field::OrigQueueId, &sample.orig_queue_id),
        (Field::OtherQueueId, &sample.other_queue_id),
        (Field::MessageId, &sample.message_id),
        (Field::Sender, &sample.sender),
        (Field::Recipient, &sample.recipient),
        (Field::OrigRecipient, &sample.orig_recipient),
        (Field::Helo, &sample.helo),
        (Field::Mechanism, &sample.mechanism),
        (Field::Relay, &sample.relay),
        (Field::Session, &sample.session),
        (Field::Text, &sample.text),
    ];
    for (field, expected) in texts.iter().filter(|(_, expected)| expected.is_some()) {
        compare(field.as_str(), text(*field), expected.as_deref());
    }
    let words = [
        ("service", parsed.service.to_string(), sample.service.map(|word| word.to_string())),
        ("reason", parsed.reason.to_string(), sample.reason.map(|word| word.to_string())),
        ("weak", parsed.weak.to_string(), sample.weak.map(|flag| flag.to_string())),
        ("count", parsed.count.to_string(), sample.count.map(|number| number.to_string())),
        ("code", parsed.code.to_string(), sample.code.map(|number| number.to_string())),
        ("uid", parsed.uid.unwrap_or(u32::MAX).to_string(), sample.uid.map(|number| number.to_string())),
        ("recipients", parsed.recipients.to_string(), sample.recipients.map(|number| number.to_string())),
        ("bytes", parsed.bytes.to_string(), sample.bytes.map(|number| number.to_string())),
        ("status", parsed.status.map_or("none", |status| status.as_str()).to_owned(), sample.status.clone()),
    ];
    for (name, read, expected) in words.into_iter().filter(|(_, _, expected)| expected.is_some()) {
        compare(name, Some(read), expected.as_deref());
    }
    found
}
