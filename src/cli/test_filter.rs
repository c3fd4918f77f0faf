//! `test-filter`: which pattern hits or misses which line, and why.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::table::printable;
use super::{FAILED, NOT_FOUND, logs, out};
use crate::config::report::Severity;
use crate::config::{self, Paths};
use crate::parse::{Explanation, Field, FilterSet};
use crate::source::archive;

/// Patterns shown for a line that none fits: those that read furthest.
const NEAREST: usize = 3;

/// Without `file` the filter's own samples are run.
pub(super) fn run(config_dir: Option<&Path>, filter: &str, file: Option<&Path>, json: bool) -> ExitCode {
    let config = match config::load(&Paths::choose(config_dir)) {
        Ok(config) => config,
        Err(report) => {
            let text = format!("the configuration has mistakes\n{report}");
            return out::fail(json, FAILED, &text);
        }
    };
    let set = &config.filters.set;
    let names = config.filters.names();
    if !names.contains(&filter) {
        return out::fail(json, NOT_FOUND, &format!("there is no filter \"{filter}\"; there are: {}", names.join(", ")));
    }
    let Some(path) = file else { return samples(&config, filter, json) };
    let reader = match archive::open(path) {
        Ok(reader) => BufReader::new(reader),
        Err(error) => return out::fail(json, FAILED, &error.to_string()),
    };
    match explain_all(reader, set, filter, json) {
        Ok(0) => ExitCode::from(FAILED),
        Ok(_) => out::finish(Ok(())),
        Err(Stop::Reading(error)) => out::fail(json, FAILED, &logs::unreadable(path, &error)),
        Err(Stop::Writing(error)) => out::finish(Err(error)),
    }
}

/// Why not every line was looked at.
enum Stop {
    Reading(io::Error),
    Writing(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Writing(error)
    }
}

fn samples(config: &config::Config, filter: &str, json: bool) -> ExitCode {
    let mut report = config.warnings.clone();
    config.filters.check_samples(&mut report);
    if json {
        let object = json!({ "filter": filter, "ok": report.is_empty(), "problems": report.located(Severity::Warning) });
        let written = out::finish(out::say(&object.to_string()));
        return if report.is_empty() { written } else { ExitCode::from(FAILED) };
    }
    if report.is_empty() {
        return out::finish(out::say(&format!("{filter}: every sample is read as its pattern says")));
    }
    out::complain!("{}", report.render(config::report::colours_wanted()));
    ExitCode::from(FAILED)
}

/// Says how many lines a pattern of `filter` fits.
fn explain_all(mut reader: impl BufRead, set: &FilterSet, filter: &str, json: bool) -> Result<usize, Stop> {
    let mut out = io::stdout().lock();
    let (mut line, mut number, mut hits) = (Vec::new(), 0usize, 0);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(Stop::Reading)? == 0 {
            break;
        }
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let explanation = set.explain(text);
        hits += usize::from(hit_by(&explanation, set, filter));
        if json {
            writeln!(out, "{}", object(number, text, &explanation, set, filter))?;
        } else {
            write_text(&mut out, number, text, &explanation, set, filter)?;
        }
    }
    if !json {
        writeln!(out, "{hits} of {number} lines are recognised by {filter}")?;
    }
    Ok(hits)
}

fn hit_by(explanation: &Explanation, set: &FilterSet, filter: &str) -> bool {
    explanation.hit.is_some_and(|parsed| set.filter_name(parsed.pattern) == filter)
}

fn fields<'a>(explanation: &Explanation, line: &'a [u8]) -> Vec<(&'static str, std::borrow::Cow<'a, str>)> {
    let Some(parsed) = explanation.hit else { return Vec::new() };
    Field::ALL.iter().filter_map(|field| Some((field.as_str(), String::from_utf8_lossy(parsed.text(line, *field)?)))).collect()
}

fn object(number: usize, line: &[u8], explanation: &Explanation, set: &FilterSet, filter: &str) -> serde_json::Value {
    let fields: serde_json::Map<_, _> = fields(explanation, line).into_iter().map(|(name, text)| (name.to_owned(), json!(text))).collect();
    json!({
        "line": number,
        "hit": hit_by(explanation, set, filter),
        "filter": explanation.hit.map(|parsed| set.filter_name(parsed.pattern)),
        "pattern": explanation.hit.map(|parsed| set.pattern_name(parsed.pattern)),
        "kind": explanation.hit.map(|parsed| parsed.kind),
        "reason": explanation.hit.map(|parsed| parsed.reason),
        "ip": explanation.hit.and_then(|parsed| parsed.client),
        "fields": fields,
    })
}

fn write_text(
    out: &mut impl Write,
    number: usize,
    line: &[u8],
    explanation: &Explanation,
    set: &FilterSet,
    filter: &str,
) -> io::Result<()> {
    let text = String::from_utf8_lossy(line);
    writeln!(out, "{number}: {}", printable(&text))?;
    if let Some(parsed) = explanation.hit {
        let ip = parsed.client.map_or_else(|| "no address".to_owned(), |ip| ip.to_string());
        let (pattern, by) = (set.pattern_name(parsed.pattern), set.filter_name(parsed.pattern));
        let hit = if by == filter { format!("hit: {pattern}") } else { format!("miss: filter {by} takes it: {pattern}") };
        writeln!(out, "    {hit} → {}, reason {}, {ip}", parsed.kind, parsed.reason)?;
        for (name, text) in fields(explanation, line) {
            writeln!(out, "      {name} = {}", printable(&text))?;
        }
        return Ok(());
    }
    if explanation.envelope.is_none() {
        return writeln!(out, "    miss: this is no syslog line");
    }
    if !explanation.known_program {
        return writeln!(out, "    miss: no filter is for this program");
    }
    let mut attempts: Vec<_> = explanation.attempts.iter().filter(|attempt| set.filter_name(attempt.pattern) == filter).collect();
    attempts.sort_by_key(|attempt| std::cmp::Reverse(attempt.reached));
    writeln!(out, "    miss: {} patterns tried; those that read furthest:", attempts.len())?;
    for attempt in attempts.into_iter().take(NEAREST) {
        let rest = String::from_utf8_lossy(line.get(attempt.reached..).unwrap_or_default()).chars().take(40).collect::<String>();
        writeln!(
            out,
            "      {}: expected {} at byte {}, found \"{}\"",
            set.pattern_name(attempt.pattern),
            attempt.expected,
            attempt.reached,
            printable(&rest)
        )?;
    }
    Ok(())
}
