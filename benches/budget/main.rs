//! The budgets of the project, measured: `make bench`, or `cargo bench --bench budget -- [PART…] [--lines N]`.
//!
//! Times are ratios to something else in the same run where they can be, since machines differ. A part that cannot run
//! here says why. `genlog FILE [--lines N]` writes the log that the parts use and stops.

mod engine;
mod flood;
mod host;
mod latency;
mod log;
mod policy;
mod replay;
mod table;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use host::Host;
use table::{Row, Verdict};

struct Part {
    name: &'static str,
    run: Run,
}

enum Run {
    /// Anywhere.
    Alone(fn(&Path, &Options) -> io::Result<Vec<Row>>),
    /// With the real daemon, in network namespaces.
    OnHost(fn(&Host, &Path) -> io::Result<Vec<Row>>),
}

const PARTS: &[Part] = &[
    Part { name: "replay", run: Run::Alone(|directory, options| replay::measure(directory, options.lines)) },
    Part { name: "engine", run: Run::Alone(|_, _| engine::measure()) },
    Part { name: "latency", run: Run::OnHost(latency::measure) },
    Part { name: "flood", run: Run::OnHost(flood::measure) },
    Part { name: "policy", run: Run::OnHost(policy::measure) },
];

struct Options {
    lines: u64,
    words: Vec<String>,
}

fn main() -> ExitCode {
    let options = match Options::from(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(word) => {
            eprintln!("budget: what is {word:?}? usage: [PART…] [--lines N] | genlog FILE [--lines N]");
            return ExitCode::from(2);
        }
    };
    let done = match options.words.as_slice() {
        [verb, file] if verb == "genlog" => genlog(file, options.lines),
        [verb, name] if verb == engine::VERB => Ok(if engine::print_section(name) { ExitCode::SUCCESS } else { ExitCode::from(2) }),
        _ => run(&options),
    };
    done.unwrap_or_else(|error| {
        eprintln!("budget: {error}");
        ExitCode::FAILURE
    })
}

impl Options {
    fn from(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options { lines: 1_000_000, words: Vec::new() };
        let mut arguments = arguments;
        while let Some(word) = arguments.next() {
            match word.as_str() {
                // cargo bench adds it.
                "--bench" => {}
                "--lines" => {
                    let number = arguments.next().unwrap_or_default();
                    options.lines = number.replace('_', "").parse().map_err(|_| number)?;
                }
                _ if word.starts_with('-') => return Err(word),
                _ => options.words.push(word),
            }
        }
        Ok(options)
    }
}

fn genlog(file: &str, lines: u64) -> io::Result<ExitCode> {
    let mut out = BufWriter::new(File::create(file)?);
    log::write(&log::Plan { lines, addresses: 50_000, seed: 1, seconds: 300 }, &mut out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the parts that are asked for, or all. A missed budget is told, not a failure: the machine may be a busy one.
fn run(options: &Options) -> io::Result<ExitCode> {
    if let Some(unknown) = options.words.iter().find(|word| !PARTS.iter().any(|part| part.name == **word)) {
        let names: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
        return Err(io::Error::other(format!("no part is called {unknown:?}; there are: {}", names.join(", "))));
    }
    let host = host::enter();
    let directory = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for part in PARTS.iter().filter(|part| options.words.is_empty() || options.words.iter().any(|word| word == part.name)) {
        println!("== {}", part.name);
        match (&part.run, &host) {
            (Run::Alone(run), _) => run(directory.path(), options),
            (Run::OnHost(run), Some(host)) => run(host, &directory.path().join(part.name)),
            (Run::OnHost(_), None) => Err(io::Error::other("no network namespaces here")),
        }
        .map(|measured| rows.extend(measured))
        .unwrap_or_else(|error| rows.push(Row::not_measured(part.name, error.to_string())));
    }
    println!("\n{:<7} {:<58} {:<23} measured", "", "what", "budget");
    for row in &rows {
        println!("{row}");
    }
    let missed = rows.iter().filter(|row| row.verdict == Verdict::Missed).count();
    println!("\n{missed} of {} budgets missed", rows.iter().filter(|row| row.verdict != Verdict::ForComparison).count());
    Ok(ExitCode::SUCCESS)
}
