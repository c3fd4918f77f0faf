//! Line in, parsed line out. One parser a thread; the filters are shared.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::dispatch::{FilterSet, Scratch};
use super::program::Programs;
use super::syslog::{Envelope, EnvelopeReader};
use super::{Parsed, Span, slice};
use crate::limits::LINE_BYTES_MAX;
use crate::time::{Timestamp, local_zone};

/// How envelopes are read.
#[derive(Clone, Debug)]
pub struct ParserOptions {
    /// The zone of stamps that name none.
    pub zone: TimeZone,
    /// "Now" for stamps without a year: they mean the latest time that is not in its future.
    pub reference: Timestamp,
    /// A relay in front of us puts `[uid=N] ` before each message.
    pub annotated: bool,
}

impl ParserOptions {
    /// Local zone, no annotation.
    pub fn new(reference: Timestamp) -> Self {
        ParserOptions { zone: local_zone(), reference, annotated: false }
    }
}

/// What became of a line.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Line(Parsed),
    /// Of a program that a filter is for, but no pattern fits.
    Unmatched(Unmatched),
    /// Of a program that no filter is for.
    Foreign,
    /// No syslog line, or with an impossible time.
    Malformed,
}

/// What is known of a line that no pattern fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmatched {
    pub time: Timestamp,
    pub host: Span,
    pub program: Span,
    pub message: Span,
}

/// Recognises lines; remembers the last second and the tags it has seen.
pub struct Parser {
    set: Arc<FilterSet>,
    envelopes: EnvelopeReader,
    programs: Programs,
    scratch: Scratch,
}

impl Parser {
    pub fn new(set: Arc<FilterSet>, options: ParserOptions) -> Self {
        let envelopes = EnvelopeReader::new(options.zone, options.reference, options.annotated);
        Parser { set, envelopes, programs: Programs::new(), scratch: Scratch::new() }
    }

    pub fn filters(&self) -> &Arc<FilterSet> {
        &self.set
    }

    /// Moves "now" for stamps without a year, for a parser that lives long.
    pub fn set_reference(&mut self, reference: Timestamp) {
        self.envelopes.set_reference(reference);
    }

    /// Parses one line, with or without its newline. `received` is the record's receive time where it has one, and then the
    /// header's time is ignored. Of a longer line only the first [`LINE_BYTES_MAX`] bytes are looked at.
    pub fn parse(&mut self, line: &[u8], received: Option<Timestamp>) -> Outcome {
        let line = line.get(..LINE_BYTES_MAX).unwrap_or(line);
        let Some(envelope) = self.envelopes.read(line, received) else {
            return Outcome::Malformed;
        };
        let message = slice(line, envelope.message);
        let Some(place) = self.programs.place(&self.set, slice(line, envelope.program), message) else {
            return Outcome::Foreign;
        };
        let start = envelope.message.start();
        let text = line.get(..start + message.len()).unwrap_or_default();
        let mut parsed = Parsed::new(&envelope, place.service);
        if self.set.recognise(text, start + place.skipped, place.table, &mut parsed, &mut self.scratch) {
            finish(&mut parsed, &envelope);
            Outcome::Line(parsed)
        } else {
            Outcome::Unmatched(Unmatched { time: envelope.time, host: envelope.host, program: envelope.program, message: envelope.message })
        }
    }
}

fn finish(parsed: &mut Parsed, envelope: &Envelope) {
    if envelope.repeated > 1 {
        parsed.count = parsed.count.saturating_mul(envelope.repeated);
    }
}
