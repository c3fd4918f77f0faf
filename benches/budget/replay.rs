//! `mailwarden replay` beside `grep` and, where it is installed, `fail2ban-regex`: whole processes over the same file.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::log::{self, Plan};
use crate::table::Row;

const PATTERN: &str = "SASL .* authentication failed|NOQUEUE: reject";
/// fail2ban-regex takes minutes for a million lines: it gets the head of the log.
const FAIL2BAN_LINES: usize = 20_000;
const ROUNDS: usize = 3;

pub fn measure(directory: &Path, lines: u64) -> io::Result<Vec<Row>> {
    let log = directory.join("mail.log");
    let mut out = BufWriter::new(File::create(&log)?);
    let offending = log::write(&Plan { lines, addresses: 50_000, seed: 1, seconds: 300 }, &mut out)?;
    out.flush()?;
    println!("{lines} lines, {offending} of them offending, {} MB", fs::metadata(&log)?.len() / 1_000_000);

    let mut rows = Vec::new();
    let two_cores = compare(&log, &[], &directory.join("out"))?;
    rows.push(two_cores.row(format!("replay of {lines} lines, on all cores"), 2.0));
    if has("taskset") {
        let pinned = compare(&log, &["taskset", "--cpu-list", "0"], &directory.join("out"))?;
        rows.push(pinned.row(format!("replay of {lines} lines, pinned to one core"), 3.0));
    } else {
        rows.push(Row::not_measured("replay pinned to one core", "no taskset"));
    }
    rows.push(fail2ban(&log, directory, lines, two_cores.grep)?);
    Ok(rows)
}

struct Pair {
    grep: Duration,
    replay: io::Result<Duration>,
}

impl Pair {
    fn row(&self, what: String, limit: f64) -> Row {
        match &self.replay {
            Ok(replay) => {
                let ratio = replay.as_secs_f64() / self.grep.as_secs_f64();
                Row::at_most(
                    what,
                    limit,
                    "× grep",
                    ratio,
                    format_args!("({:.2} s; grep {:.2} s)", replay.as_secs_f64(), self.grep.as_secs_f64()),
                )
            }
            Err(error) => Row::not_measured(what, error.to_string()),
        }
    }
}

/// The best of some rounds, taken in turns so that a disturbance meets both.
fn compare(log: &Path, prefix: &[&str], out: &Path) -> io::Result<Pair> {
    let root = env!("CARGO_MANIFEST_DIR");
    let grep: Vec<&str> = prefix.iter().copied().chain(["grep", "-cE", PATTERN]).collect();
    let replay: Vec<&str> =
        prefix.iter().copied().chain([env!("CARGO_BIN_EXE_mailwarden"), "replay", "--config", root, "--json"]).collect();
    let mut pair = Pair { grep: Duration::MAX, replay: Ok(Duration::MAX) };
    for _ in 0..ROUNDS {
        pair.grep = pair.grep.min(timed(&grep, log, out)?);
        pair.replay = pair.replay.and_then(|best| timed(&replay, log, out).map(|taken| best.min(taken)));
    }
    Ok(pair)
}

/// Runs `command log >out`. It must succeed and print something: what fails at once is not fast.
fn timed(command: &[&str], log: &Path, out: &Path) -> io::Result<Duration> {
    let started = Instant::now();
    let status = Command::new(command[0])
        .args(&command[1..])
        .arg(log)
        .stdin(Stdio::null())
        .stdout(File::create(out)?)
        .stderr(Stdio::null())
        .status()?;
    let taken = started.elapsed();
    if !status.success() || fs::metadata(out)?.len() == 0 {
        return Err(io::Error::other(format!("{} failed or printed nothing ({status})", command.join(" "))));
    }
    Ok(taken)
}

fn fail2ban(log: &Path, directory: &Path, lines: u64, grep: Duration) -> io::Result<Row> {
    let what = "fail2ban-regex, postfix[mode=aggressive]";
    if !has("fail2ban-regex") {
        return Ok(Row::not_measured(what, "not installed"));
    }
    let head = directory.join("head.log");
    let mut out = BufWriter::new(File::create(&head)?);
    for line in BufReader::new(File::open(log)?).lines().take(FAIL2BAN_LINES) {
        writeln!(out, "{}", line?)?;
    }
    out.flush()?;
    let started = Instant::now();
    Command::new("fail2ban-regex").arg(&head).arg("postfix[mode=aggressive]").stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let scaled = started.elapsed().as_secs_f64() * lines as f64 / FAIL2BAN_LINES.min(lines as usize) as f64;
    let ratio = scaled / grep.as_secs_f64();
    Ok(Row::compare(what, format!("{ratio:.0} × grep ({scaled:.0} s, from its first {FAIL2BAN_LINES} lines)")))
}

fn has(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).is_file())
}
