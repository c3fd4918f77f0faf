//! Any bytes through the shipped filters: no panic, the same answer twice, and every text that is named lies within the line.
#![no_main]

use std::fs;
use std::sync::{Arc, LazyLock};

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use mailwarden::parse::{Field, FilterSet, FilterSource, Outcome, Parsed, Parser, ParserOptions};
use mailwarden::time::Timestamp;

const REFERENCE: Timestamp = Timestamp::from_seconds(1_795_488_000);

static FILTERS: LazyLock<Arc<FilterSet>> = LazyLock::new(|| {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../filters");
    let files = fs::read_dir(directory).expect("the project has filters").map(|entry| entry.expect("a directory entry").path());
    let sources: Vec<FilterSource> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| FilterSource { text: fs::read_to_string(&path).expect("filters are text"), file: path.display().to_string() })
        .collect();
    Arc::new(FilterSet::compile(&sources).expect("the shipped filters compile"))
});

fuzz_target!(|line: &[u8]| {
    let options = ParserOptions { zone: TimeZone::UTC, reference: REFERENCE, annotated: true };
    let mut parser = Parser::new(Arc::clone(&FILTERS), options);
    let first = parser.parse(line, Some(REFERENCE));
    if let Outcome::Line(parsed) = &first {
        check(parsed, line);
    }
    // The parser remembers stamps and tags: what it remembers must not change what it says.
    let again = parser.parse(line, Some(REFERENCE));
    assert_eq!(format!("{first:?}"), format!("{again:?}"));
    parser.parse(line, None);
});

fn check(parsed: &Parsed, line: &[u8]) {
    let within = line.as_ptr_range();
    for field in Field::ALL {
        if let Some(text) = parsed.text(line, *field).filter(|text| !text.is_empty()) {
            let range = text.as_ptr_range();
            assert!(within.start <= range.start && range.end <= within.end);
        }
    }
    // No address out of nothing: with no digit and no colon in the line there is none.
    assert!(parsed.client.is_none() || line.iter().any(|byte| byte.is_ascii_hexdigit() || *byte == b':'));
}
