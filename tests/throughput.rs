//! A coarse guard: the whole path of a line, with the shipped filters and jails, beside one regex search over the same lines.
//! It catches a cliff (a pattern that backtracks, a table that is passed over), not a few per cent: `make bench` measures those.

#[path = "../benches/budget/log.rs"]
mod log;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use mailwarden::config::{self, Config, Paths};
use mailwarden::correlate::Correlator;
use mailwarden::engine::{Engine, EngineConfig};
use mailwarden::parse::ParserOptions;
use mailwarden::pipeline;
use mailwarden::time::Timestamp;
use regex::bytes::Regex;

/// Six times what was seen in the test profile.
const RATIO_MAX: f64 = 32.0;
const RUNS: usize = 3;

#[test]
fn a_line_costs_no_cliff() {
    let mut text = Vec::new();
    let offending = log::write(&log::Plan { lines: 60_000, addresses: 3_000, seed: 1, seconds: 600 }, &mut text).unwrap();
    let config = config::load(&Paths::in_dir(Path::new(env!("CARGO_MANIFEST_DIR")))).unwrap();
    let search = Regex::new("SASL .* authentication failed|NOQUEUE: reject").unwrap();
    let searched = fastest(|| {
        let found = text.split(|byte| *byte == b'\n').filter(|line| search.is_match(line)).count();
        assert_eq!(found as u64, offending);
    });
    let replayed = fastest(|| assert!(bans(&config, &text) > 100, "the guard measures a replay that bans"));
    let ratio = replayed.as_secs_f64() / searched.as_secs_f64();
    println!("one search {searched:?}, the whole path {replayed:?}, ratio {ratio:.1}");
    assert!(ratio < RATIO_MAX, "the whole path takes {ratio:.0} times as long as one search; {RATIO_MAX} is a cliff");
}

fn fastest(mut run: impl FnMut()) -> Duration {
    let times = (0..RUNS).map(|_| {
        let begin = Instant::now();
        run();
        begin.elapsed()
    });
    times.min().unwrap()
}

fn bans(config: &Config, text: &[u8]) -> usize {
    let start = Timestamp::from_seconds(1_795_500_000);
    let mut engine = Engine::new(EngineConfig::from(config), start);
    let mut correlator = Correlator::new(config.accounts.clone(), Vec::new());
    let options = pipeline::Options { threads: 1, prompt: false, parser: ParserOptions::new(start) };
    let filters = &config.filters.set;
    let outcome = pipeline::run(text, filters, &options, |chunk| {
        for record in &chunk.records {
            let now = record.parsed.time;
            let filter = filters.filter_name(record.parsed.pattern);
            correlator.handle(chunk.line(record), &record.parsed, filter, true, now, &mut |event| engine.handle_event(event, now));
            while engine.poll_decision().is_some() {}
        }
        ControlFlow::Continue(())
    });
    outcome.unwrap();
    engine.ban_count()
}
