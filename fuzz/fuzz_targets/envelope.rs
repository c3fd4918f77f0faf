//! Any bytes have an envelope or none, and whatever it says lies within the line.
#![no_main]

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use mailwarden::parse::EnvelopeReader;
use mailwarden::time::Timestamp;

fuzz_target!(|line: &[u8]| {
    let line = &line[..line.len().min(mailwarden::limits::LINE_BYTES_MAX)];
    let reference = Timestamp::from_seconds(1_795_488_000);
    for annotated in [false, true] {
        let mut reader = EnvelopeReader::new(TimeZone::UTC, reference, annotated);
        for received in [None, Some(reference)] {
            let Some(envelope) = reader.read(line, received) else { continue };
            for span in [envelope.host, envelope.program, envelope.message] {
                assert!(span.start() + span.len() <= line.len());
            }
            assert!(annotated || envelope.sender_uid.is_none(), "nobody said that the relay annotates");
            assert!(received.is_none_or(|received| envelope.time == received));
        }
    }
});
