//! `parse` and `replay` as programs, with the shipped filters and jails.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mailwarden::config::{self, Config, Paths};
use mailwarden::correlate::Correlator;
use mailwarden::engine::{Engine, EngineConfig};
use mailwarden::parse::{Outcome, Parser, ParserOptions};
use mailwarden::pipeline::{self, LogClock};
use mailwarden::time::Timestamp;
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Twelve hours in which 40 addresses guess, 10 try to relay, and customers send mail, one of them through a content filter.
/// One line is of the year 2100, one of 1999.
fn log() -> Vec<String> {
    let mut lines = Vec::new();
    for n in 0..6_000u32 {
        let time = 7 * 3_600 + 7 * n;
        let stamp = format!("2026-03-10T{:02}:{:02}:{:02}.000000+01:00 mx1", time / 3_600, time / 60 % 60, time % 60);
        let attacker = format!("unknown[198.51.100.{}]", n / 300 * 2 % 40 + n % 2);
        let id = format!("{:05X}4E0{:02X}", n, n % 200);
        let mut put = |text: String| lines.push(format!("{stamp} {text}"));
        match n % 6 {
            0 | 1 => put(format!(
                "postfix/submission/smtpd[{}]: warning: {attacker}: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username=info{}@corp.test",
                n % 40,
                n / 40 % 3
            )),
            2 => put(format!(
                "postfix/smtpd[9]: NOQUEUE: reject: RCPT from unknown[203.0.113.{}]: 554 5.7.1 <x@y.test>: Relay access denied; from=<a@b.test> to=<x@y.test> proto=ESMTP helo=<h>",
                n % 10
            )),
            3 => put(
                "dovecot: imap-login: Login: user=<anna@corp.test>, method=PLAIN, rip=192.0.2.7, lip=192.0.2.1, mpid=1, TLS, session=<abc>"
                    .to_owned(),
            ),
            4 => {
                put(format!(
                    "postfix/submission/smtpd[8]: {id}: client=x.isp.test[192.0.2.7], sasl_method=PLAIN, sasl_username=anna@corp.test"
                ));
                put(format!("postfix/qmgr[3]: {id}: from=<anna@corp.test>, size=400, nrcpt=1 (queue active)"));
                put(format!("postfix/qmgr[3]: {id}: removed"));
            }
            _ => put(format!("cron[{n}]: a line of somebody else")),
        }
    }
    lines[500] = lines[500].replacen("2026-", "2100-", 1);
    lines[900] = lines[900].replacen("2026-", "1999-", 1);
    lines
}

fn write(directory: &Path, name: &str, lines: &[String]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mailwarden")).args(["--config", ROOT]).args(arguments).output().unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn replay(files: &[&Path]) -> Vec<Value> {
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    objects(&tool(&[&["replay", "--json"], &files[..]].concat()))
}

fn shipped() -> Config {
    config::load(&Paths::in_dir(Path::new(ROOT))).unwrap()
}

/// As the daemon would see it: one line after the other.
fn line_by_line(lines: &[String], config: &Config) -> Vec<Value> {
    let options = ParserOptions::new(Timestamp::from_seconds(1_800_000_000));
    let mut parser = Parser::new(config.filters.set.clone(), options);
    let mut stamps = Vec::new();
    for line in lines {
        if let Outcome::Line(parsed) = parser.parse(line.as_bytes(), None) {
            stamps.push(parsed.time);
        }
    }
    let mut clock = LogClock::starting_with(stamps.into_iter()).unwrap();
    let mut correlator = Correlator::new(config.accounts.clone(), Vec::new());
    let mut engine = Engine::new(EngineConfig { enforced: false, ..EngineConfig::from(config) }, clock.now());
    let mut decisions = Vec::new();
    for line in lines {
        let Outcome::Line(mut parsed) = parser.parse(line.as_bytes(), None) else { continue };
        parsed.time = clock.advance(parsed.time);
        let now = clock.now();
        if engine.poll_timeout().is_some_and(|due| due <= now) {
            engine.handle_timeout(now);
        }
        let filter = config.filters.set.filter_name(parsed.pattern);
        correlator.handle(line.as_bytes(), &parsed, filter, true, now, &mut |event| engine.handle_event(event, now));
        while let Some(decision) = engine.poll_decision() {
            decisions.push(serde_json::to_value(decision.view()).unwrap());
        }
    }
    decisions.retain(|decision| decision["action"] != "unban");
    decisions
}

#[test]
fn a_replay_decides_what_line_by_line_feeding_decides() {
    let directory = tempfile::tempdir().unwrap();
    let lines = log();
    let expected = line_by_line(&lines, &shipped());
    assert!(expected.len() >= 40, "{} decisions", expected.len());
    assert!(
        expected.iter().all(|decision| decision["time"].as_str().unwrap().starts_with("2026-03-10")),
        "one stamp of 2100 moved the clock"
    );
    assert_eq!(replay(&[&write(directory.path(), "mail.log", &lines)]), expected);
}

/// A zone whose clocks are put back on every 25th of October: after 02:59:59 comes 02:00:00 once more.
#[test]
fn the_hour_that_comes_twice_is_no_blind_spot() {
    let directory = tempfile::tempdir().unwrap();
    let login = |time: &str| {
        format!(
            "Oct 25 {time} mx1 dovecot: imap-login: Login: user=<anna@corp.test>, method=PLAIN, rip=192.0.2.7, lip=192.0.2.1, mpid=1, TLS, session=<abc>"
        )
    };
    let failure = |time: &str| {
        format!(
            "Oct 25 {time} mx1 postfix/submission/smtpd[7]: warning: unknown[198.51.100.9]: SASL LOGIN authentication failed: x, sasl_username=anna@corp.test"
        )
    };
    let mut lines: Vec<String> = ["02:40:00", "02:50:00", "02:59:50"].map(login).to_vec();
    lines.extend((0..6).map(|n| failure(&format!("02:01:{:02}", 9 * n))));
    let file = write(directory.path(), "log", &lines);
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailwarden"));
    let output = command.env("TZ", "WST-1SST,J80/2,J298/3").args(["--config", ROOT, "replay", "--json"]).arg(&file).output().unwrap();
    let decisions = objects(&output);
    let found: Vec<_> =
        decisions.iter().map(|decision| (decision["action"].as_str().unwrap(), decision["time"].as_str().unwrap())).collect();
    assert!(matches!(found[..], [("ban", time)] if time.ends_with("-10-25T01:01:45.000000Z")), "{decisions:?}");
}

/// Three accounts that log in make an address a shared one, which no plain jail bans: a guesser can have them.
#[test]
fn three_mailboxes_of_his_own_buy_no_unlimited_guesses() {
    let line = |second: u32, text: String| {
        format!(
            "2026-03-10T09:{:02}:{:02}.000000+01:00 mx1 dovecot: imap-login: {text}, method=PLAIN, rip=192.0.2.7, lip=192.0.2.1, TLS, session=<a>",
            second / 60,
            second % 60
        )
    };
    let logins = ["m1", "m2", "m3"].map(|name| line(0, format!("Login: user=<{name}@corp.test>")));
    for (account, expected) in [("boss@other.test", true), ("m2@corp.test", false)] {
        let failures = (1..300)
            .map(|n| line(10 * n, format!("Disconnected: Connection closed (auth failed, 3 attempts in 2 secs): user=<{account}>")));
        let directory = tempfile::tempdir().unwrap();
        let file = write(directory.path(), "log", &logins.iter().cloned().chain(failures).collect::<Vec<_>>());
        let banned = replay(&[&file]).iter().any(|decision| decision["action"] == "ban" && decision["jail"] == "auth-shared-flood");
        assert_eq!(banned, expected, "{account}: an old password in a telephone of the house is no guesser");
    }
}

#[test]
fn files_come_in_any_order_and_packed() {
    let directory = tempfile::tempdir().unwrap();
    let lines = log();
    let whole = replay(&[&write(directory.path(), "whole.log", &lines)]);
    let (first, second) = lines.split_at(3_500);
    let late = write(directory.path(), "mail.log", second);
    let early = directory.path().join("mail.log.1.gz");
    let mut packer = flate2::write::GzEncoder::new(std::fs::File::create(&early).unwrap(), flate2::Compression::fast());
    packer.write_all((first.join("\n") + "\n").as_bytes()).unwrap();
    packer.finish().unwrap();
    assert_eq!(replay(&[&late, &early]), whole);
}

#[test]
fn expiries_are_told_when_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "mail.log", &log());
    let told = objects(&tool(&["replay", "--json", "--expiries", path.to_str().unwrap()]));
    assert!(told.iter().any(|decision| decision["action"] == "unban"));
    let sentences = tool(&["replay", path.to_str().unwrap()]);
    let first = String::from_utf8(sentences.stdout).unwrap().lines().next().unwrap().to_owned();
    assert!(first.contains(" ban ") && first.contains(", jail "), "{first}");
    let summary = String::from_utf8(sentences.stderr).unwrap();
    assert!(summary.contains("8000 lines, 7000 recognised") && summary.contains("2 stamps more than a day off"), "{summary}");
}

#[test]
fn parse_numbers_lines_and_names_submitters() {
    let directory = tempfile::tempdir().unwrap();
    let mut lines = log();
    lines.truncate(100);
    lines.insert(0, "no log line, with a \u{2028}separator\r".to_owned());
    let objects = objects(&tool(&["parse", write(directory.path(), "mail.log", &lines).to_str().unwrap()]));
    for object in &objects {
        let line = &lines[usize::try_from(object["line"].as_u64().unwrap()).unwrap() - 1];
        let is_guess = line.contains("authentication failed");
        assert_eq!(object["offence"], is_guess || line.contains("Relay access denied"), "{object}");
        if line.contains("queue active") || line.contains("removed") || line.contains("client=") {
            assert_eq!(object["account"], "anna@corp.test", "{object}");
        }
        if line.contains("queue active") {
            assert_eq!((&object["kind"], &object["recipients"], &object["ip"]), (&"message".into(), &1.into(), &"192.0.2.7".into()));
        }
    }
    assert!(objects.iter().any(|object| object["kind"] == "auth-success"));
}

#[test]
fn a_reader_that_goes_away_is_no_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "mail.log", &log());
    for verb in ["parse", "replay"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mailwarden"))
            .args(["--config", ROOT, verb, path.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("panicked"), "{verb}: {output:?}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let output = tool(&["parse", "/nonexistent/mail.log"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/mail.log"));
}

/// The pipeline is also what the daemon catches up with: any number of threads, the same lines.
#[test]
fn threads_change_nothing() {
    let config = shipped();
    let text = log().join("\n").repeat(3);
    let collect = |threads| {
        let options = pipeline::Options { threads, prompt: false, parser: ParserOptions::new(Timestamp::from_seconds(1_800_000_000)) };
        let mut all = Vec::new();
        pipeline::run(text.as_bytes(), &config.filters.set, &options, |chunk| {
            all.extend(chunk.records.iter().map(|record| (record.parsed.time, record.parsed.kind, chunk.line(record).to_vec())));
            ControlFlow::Continue(())
        })
        .unwrap();
        all
    };
    let alone = collect(1);
    assert!(alone.len() > 20_000);
    assert!(collect(2) == alone && collect(4) == alone);
}
