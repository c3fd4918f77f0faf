//! Any text is a template or has an error that lies within it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailwarden::parse::Template;

fuzz_target!(|text: &str| {
    if let Err(error) = Template::compile(text) {
        assert!(error.span.start <= error.span.end && error.span.end <= text.len());
        assert!(text.get(error.span).is_some(), "an error points into the middle of a character");
    }
});
