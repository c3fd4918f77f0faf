//! The shipped filters: their samples hold, and what an attacker writes into a line moves neither address nor account.

use std::path::Path;
use std::sync::Arc;

use mailwarden::parse::{FilterError, FilterSet, FilterSource};

fn sources() -> Vec<FilterSource> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("filters");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files.iter().map(|file| FilterSource { file: file.display().to_string(), text: std::fs::read_to_string(file).unwrap() }).collect()
}

fn show(errors: &[FilterError], sources: &[FilterSource]) -> String {
    let place = |error: &FilterError| {
        let text = sources.iter().find(|source| source.file == error.file).map_or("", |source| &source.text);
        text[..error.span.start.min(text.len())].lines().count()
    };
    errors
        .iter()
        .map(|error| format!("{}:{}: {} {}\n", error.file, place(error), error.message, error.help.as_deref().unwrap_or_default()))
        .collect()
}

fn shipped() -> Arc<FilterSet> {
    let sources = sources();
    Arc::new(FilterSet::compile(&sources).unwrap_or_else(|errors| panic!("{}", show(&errors, &sources))))
}

#[test]
fn samples_hold() {
    let errors = shipped().check_samples();
    assert!(errors.is_empty(), "\n{}", show(&errors, &sources()));
}
