//! `status`: what the daemon does, and what is wrong.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::table::{self, Table};
use super::{Global, call};
use crate::control::Request;

/// Held and locked accounts in `status`; `list locks` has all.
const STOPS_SHOWN: usize = 20;

pub(super) fn run(global: &Global, jail: Option<String>) -> ExitCode {
    let status = match call(global, &Request::Status { jail }) {
        Ok(response) => response.data,
        Err(code) => return code,
    };
    super::out::finish(if global.json { writeln!(io::stdout(), "{status}") } else { print(&status) })
}

fn print(status: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let up = status["uptime_seconds"].as_u64().unwrap_or(0);
    writeln!(out, "mailwardend {}, up {}", text(&status["version"]), table::span(up))?;
    writeln!(out, "firewall  {}", firewall(&status["firewall"]))?;
    let lines = &status["lines"];
    writeln!(
        out,
        "lines     {} read, {} recognised, {} of mail programs but unknown, {} vouched for by nobody",
        lines["lines"], lines["recognised"], lines["unmatched"], lines["unvouched"]
    )?;
    let followed = &status["followed"];
    if followed["messages_evicted"].as_u64().is_some_and(|evicted| evicted > 0) {
        writeln!(
            out,
            "messages  {} followed; {} TOO MANY, the oldest were dropped: whose they are is not known any more",
            followed["messages"], followed["messages_evicted"]
        )?;
    }
    if status["memory"]["tight"] == true {
        let megabytes = |key: &str| status["memory"][key].as_u64().unwrap_or(0) >> 20;
        writeln!(
            out,
            "memory    {} MB, {} MB ARE FOR THIS DAEMON: counters grow no further, the quietest addresses make room for new ones",
            megabytes("resident"),
            megabytes("limit")
        )?;
    }
    for source in status["sources"].as_array().into_iter().flatten() {
        writeln!(out, "source    {}", source_line(source))?;
    }
    if let Some(problem) = status["state"]["problem"].as_str() {
        let what = if status["state"]["saved"] == true { "PROBLEM" } else { "NOT SAVED" };
        writeln!(out, "state     {what}: {}", table::printable(problem))?;
    }
    for forged in status["engine"]["forged"].as_array().into_iter().flatten() {
        writeln!(
            out,
            "forged    {} lines of {}; the last: {}",
            forged["lines"],
            text(&forged["filter"]),
            table::printable(&text(&forged["last_line"]))
        )?;
    }
    writeln!(out, "stopping  {}", stopping(&status["stopping"], status["has_lock_path"] == true))?;
    for stop in status["stopped"].as_array().into_iter().flatten().take(STOPS_SHOWN) {
        writeln!(out, "account   {}", super::lock::sentence(stop))?;
    }
    for (way, courier) in status["notify"].as_object().into_iter().flatten() {
        if let Some(line) = undelivered(way, courier) {
            writeln!(out, "notify    {line}")?;
        }
    }
    writeln!(out, "accounts  {}", accounts(&status["engine"]))?;
    let in_force = if status["firewall"]["dry_run"] == true { "would be in force (dry run)" } else { "in force" };
    writeln!(out, "bans      {} {in_force}\n", status["engine"]["bans"])?;
    drop(out);
    jails(status["engine"]["jails"].as_array().map_or(&[], Vec::as_slice))
}

/// `1204 known since …, 2 held or locked`, and whether anything will be done.
fn accounts(engine: &Value) -> String {
    let since =
        engine["accounts_since"].as_str().map_or("; no history yet".to_owned(), |since| format!(" since {}", table::local_time(since)));
    let mut line = format!("{} known{since}, {} held or locked", engine["submitters"], engine["accounts_stopped"]);
    if engine["accounts_observed"] == true {
        line.push_str(
            "; ONLY WATCHED: what would be done is told (too little history, or no lock path; `mailwarden learn`, docs/accounts.md)",
        );
    }
    line
}

fn firewall(firewall: &Value) -> String {
    if let Some(problem) = firewall["problem"].as_str() {
        return format!("NOT ENFORCING: {problem}");
    }
    if firewall["dry_run"] == true {
        let leftover = firewall["leftover"].as_str().map_or_else(String::new, |leftover| format!("; {leftover}"));
        return format!("dry run: nothing is enforced{leftover}");
    }
    let features = firewall["features"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let mut line = format!("table inet {} ({}), features: {}", text(&firewall["table"]), text(&firewall["mode"]), features.join(" "));
    if let Some(packets) = firewall["dropped_packets"].as_u64() {
        line.push_str(&format!("; {packets} packets dropped"));
    }
    if firewall["repairing"] == true {
        line.push_str("; bans are being written again");
    }
    if firewall["refused"].as_u64().is_some_and(|refused| refused > 0) {
        line.push_str(&format!("; {} BANS WERE REFUSED BY THE KERNEL", firewall["refused"]));
    }
    line
}

fn stopping(stopping: &Value, has_lock_path: bool) -> String {
    let mut ways = Vec::new();
    if let Some(path) = stopping["policy"].as_str() {
        let number = |key: &str| stopping[key].as_u64().unwrap_or(0);
        let asked = match number("requests") {
            0 => "Postfix has not asked yet".to_owned(),
            requests => format!("{requests} requests, {} refused, {} held", number("refused"), number("held")),
        };
        ways.push(format!("policy on {path} ({asked})"));
    }
    if let Some(problem) = stopping["policy_problem"].as_str() {
        ways.push(format!("POLICY FAILED: {}", table::printable(problem)));
    }
    if let Some(helper) = stopping["helper"].as_str() {
        ways.push(format!("helper: {}", table::printable(helper)));
    }
    if !has_lock_path {
        ways.push("NO LOCK PATH: accounts are only reported (docs/accounts.md)".to_owned());
    }
    ways.join("; ")
}

/// `None` when there is nothing to tell of that way.
fn undelivered(way: &str, courier: &Value) -> Option<String> {
    let waiting = courier["waiting"].as_u64().unwrap_or(0);
    let problem = courier["problem"].as_str();
    if waiting == 0 && problem.is_none() {
        return None;
    }
    let oldest = courier["oldest"].as_str().map_or_else(String::new, |oldest| format!(", the oldest of {}", table::local_time(oldest)));
    let problem = problem.map_or_else(String::new, |problem| format!("; PROBLEM: {}", table::printable(problem)));
    Some(format!("{way}: {waiting} messages wait{oldest}{problem}"))
}

fn source_line(source: &Value) -> String {
    let mut line = format!("{}: {} lines", text(&source["name"]), source["lines"]);
    match source["silent_seconds"].as_u64() {
        Some(seconds) => line.push_str(&format!(", the last {} ago", table::span(seconds))),
        None => line.push_str(", NOTHING YET"),
    }
    for (key, what) in [("truncated", "cut"), ("errors", "errors"), ("gaps", "gaps"), ("blind_lines", "dropped by the logger before us")] {
        if source[key].as_u64().is_some_and(|count| count > 0) {
            line.push_str(&format!(", {} {what}", source[key]));
        }
    }
    if let Some(problem) = source["problem"].as_str() {
        line.push_str(&format!("; PROBLEM: {}", table::printable(problem)));
    }
    line
}

/// Those that have counted anything, or the one that was asked for.
fn jails(jails: &[Value]) -> io::Result<()> {
    let mut table = Table::new(&["jail", "mode", "events", "subjects", "tripped", "bans now", "bans in all"]);
    let is_busy = |jail: &&Value| jails.len() == 1 || jail["events"] != 0 || jail["bans_now"] != 0;
    let busy: Vec<&Value> = jails.iter().filter(is_busy).collect();
    for jail in &busy {
        let cells = ["jail", "mode", "events", "keys", "tripped", "bans_now", "bans_total"];
        table.row(cells.iter().map(|cell| text(&jail[*cell])).collect());
    }
    if !busy.is_empty() {
        table.print()?;
    }
    match jails.len() - busy.len() {
        0 => Ok(()),
        quiet => writeln!(io::stdout(), "\n{quiet} jails have counted nothing yet (--json names them)"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
