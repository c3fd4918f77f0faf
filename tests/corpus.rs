//! A labelled corpus of real lines, if there is one: `MAILWARDEN_CORPUS=DIR cargo test --test corpus -- --ignored --nocapture`.
//! DIR holds `labels.jsonl` and beside it the same lines as `real.iso.log`, `real.log` and `real.raw`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mailwarden::event::Reason;
use mailwarden::parse::{Field, FilterSet, FilterSource, LineKind, Outcome, Parsed, Parser, ParserOptions, slice};
use mailwarden::time::Timestamp;
use serde_json::Value;

fn shipped() -> Arc<FilterSet> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("filters");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let sources: Vec<_> =
        files.iter().map(|file| FilterSource { file: file.display().to_string(), text: std::fs::read_to_string(file).unwrap() }).collect();
    Arc::new(FilterSet::compile(&sources).expect("the shipped filters compile"))
}

/// Counts what a correlator would: AUTH refused without a warning is told by the disconnect line alone.
#[derive(Default)]
struct Sessions {
    warned: HashMap<(Vec<u8>, u32), u32>,
}

impl Sessions {
    fn offence(&mut self, line: &[u8], parsed: &Parsed) -> bool {
        let key = (slice(line, parsed.program).to_vec(), parsed.pid);
        match parsed.kind {
            LineKind::Connect => {
                self.warned.remove(&key);
            }
            LineKind::AuthFailure => *self.warned.entry(key).or_default() += parsed.count,
            // An AUTH that the client or a limit ended.
            LineKind::ProtocolAbuse if parsed.text(line, Field::Text) == Some(b"AUTH") => *self.warned.entry(key).or_default() += 1,
            LineKind::Reject if parsed.reason == Reason::Rate => *self.warned.entry(key).or_default() += 1,
            LineKind::Disconnect => return parsed.count > self.warned.remove(&key).unwrap_or(0),
            _ => {}
        }
        let kind = matches!(parsed.kind, LineKind::AuthFailure | LineKind::Reject | LineKind::ProtocolAbuse);
        kind && !parsed.weak && !parsed.restates && !matches!(parsed.reason, Reason::Temporary | Reason::Greylist)
    }
}

#[derive(Debug, Default)]
struct Score {
    expected: u32,
    right: u32,
    weight_right: u32,
    wrong: u32,
    false_or_twice: u32,
    quiet: u32,
    accounts: u32,
    accounts_right: u32,
    ids: u32,
    ids_right: u32,
    restated_wrong_ip: u32,
    unmatched: u32,
}

fn score(name: &str, lines: &[Vec<u8>], labels: &[Value]) -> Score {
    let reference = "2026-11-24T12:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let mut parser = Parser::new(shipped(), ParserOptions::new(Timestamp::from_micros(reference)));
    let mut sessions = Sessions::default();
    let mut score = Score::default();
    let show = std::env::var_os("MAILWARDEN_SHOW").is_some();
    for (line, label) in lines.iter().zip(labels) {
        let outcome = parser.parse(line, None);
        let (offence, parsed) = match &outcome {
            Outcome::Line(parsed) => (sessions.offence(line, parsed), Some(parsed)),
            _ => (false, None),
        };
        let truth: Option<IpAddr> = label["ip"].as_str().map(|ip| mailwarden::address::canonical(ip.parse().unwrap()));
        let flag = |key: &str| label[key].as_bool().unwrap();
        let expected = flag("ban_relevant") && !flag("duplicate") && !flag("weak");
        let client = parsed.and_then(|parsed| parsed.client);
        let mut bad = "";
        if offence && client != truth {
            score.wrong += 1;
            bad = "wrong address";
        }
        if !offence && client.is_some() && client != truth {
            score.restated_wrong_ip += 1;
            bad = "wrong address (no offence)";
        }
        if expected {
            score.expected += 1;
            if offence && client == truth {
                score.right += 1;
                let count = label["count"].as_u64().unwrap().max(1);
                score.weight_right += u32::from(u64::from(parsed.unwrap().count) == count);
            } else {
                bad = "missed";
            }
        } else if offence {
            score.false_or_twice += 1;
            bad = "false";
        } else {
            score.quiet += 1;
        }
        let text = |field| parsed.and_then(|parsed| parsed.text(line, field)).map(|text| String::from_utf8_lossy(text).into_owned());
        if let (Some(account), Some("auth_failure" | "auth_success")) =
            (label["account"].as_str().filter(|account| !account.is_empty()), label["kind"].as_str())
        {
            score.accounts += 1;
            if text(Field::Account).as_deref() == Some(account) {
                score.accounts_right += 1;
            } else {
                bad = "account";
            }
        }
        if let (Some(id), Some(_)) = (label["queue_id"].as_str(), parsed.filter(|parsed| parsed.kind != LineKind::Noise)) {
            score.ids += 1;
            if text(Field::QueueId).as_deref() == Some(id) {
                score.ids_right += 1;
            } else {
                bad = "queue id";
            }
        }
        if matches!(outcome, Outcome::Unmatched(_) | Outcome::Malformed) {
            score.unmatched += 1;
            bad = if bad.is_empty() { "unmatched" } else { bad };
        }
        if show && !bad.is_empty() {
            println!(
                "{name}: {bad}: {} {} {:?} {:?}\n    {}",
                label["sub"],
                label["ip"],
                client,
                text(Field::Account),
                String::from_utf8_lossy(line)
            );
        }
    }
    score
}

#[test]
#[ignore = "needs a corpus"]
fn corpus() {
    let directory = PathBuf::from(std::env::var_os("MAILWARDEN_CORPUS").expect("MAILWARDEN_CORPUS names a directory"));
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
    let split = |bytes: &[u8]| bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let labels: Vec<Value> = split(&read("labels.jsonl")).iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    let raw = split(&read("real.raw")).iter().map(|line| serde_json::from_slice::<String>(line).unwrap().into_bytes()).collect::<Vec<_>>();
    for (name, lines) in [("iso", split(&read("real.iso.log"))), ("short", split(&read("real.log"))), ("raw", raw)] {
        let score = score(name, &lines, &labels);
        println!("{name}: {score:?}");
        assert_eq!(score.wrong, 0);
        assert!(f64::from(score.right) >= 0.98 * f64::from(score.expected));
        assert!(f64::from(score.accounts_right) >= 0.99 * f64::from(score.accounts));
        assert!(f64::from(score.false_or_twice) <= 0.01 * f64::from(score.false_or_twice + score.quiet));
    }
}

/// `MAILWARDEN_LOG=FILE cargo test --release --test corpus speed -- --ignored --nocapture`
#[test]
#[ignore = "needs a log file"]
fn speed() {
    let file = std::env::var_os("MAILWARDEN_LOG").expect("MAILWARDEN_LOG names a file");
    let mut parser = Parser::new(shipped(), ParserOptions::new(Timestamp::from_seconds(1_800_000_000)));
    for _ in 0..5 {
        let started = std::time::Instant::now();
        let bytes = std::fs::read(&file).unwrap();
        let read = started.elapsed();
        let (mut start, mut lines, mut matched, mut clients) = (0, 0u64, 0u64, 0u64);
        for end in memchr::memchr_iter(b'\n', &bytes) {
            lines += 1;
            if let Outcome::Line(parsed) = parser.parse(&bytes[start..end], None) {
                matched += 1;
                clients += u64::from(parsed.client.is_some());
            }
            start = end + 1;
        }
        println!("{lines} lines, {matched} matched, {clients} with a client: read {read:?}, with parsing {:?}", started.elapsed());
    }
}
