//! `status`: what the daemon does, and what is wrong.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::table::{self, Table};
use super::{Global, call};
use crate::control::Request;

pub(super) fn run(global: &Global, jail: Option<String>) -> ExitCode {
    let status = match call(global, &Request::Status { jail }) {
        Ok(response) => response.data,
        Err(code) => return code,
    };
    // The reader may have gone.
    let _ = if global.json { writeln!(io::stdout(), "{status}") } else { print(&status) };
    ExitCode::SUCCESS
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
    for source in status["sources"].as_array().into_iter().flatten() {
        writeln!(out, "source    {}", source_line(source))?;
    }
    for problem in [&status["state"]["problem"]].into_iter().filter_map(|problem| problem.as_str()) {
        writeln!(out, "state     NOT SAVED: {}", table::printable(problem))?;
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
    writeln!(out, "bans      {} in force\n", status["engine"]["bans"])?;
    drop(out);
    jails(&status["engine"]["jails"]).print()
}

fn firewall(firewall: &Value) -> String {
    if let Some(problem) = firewall["problem"].as_str() {
        return format!("NOT ENFORCING: {problem}");
    }
    if firewall["dry_run"] == true {
        return "dry run: nothing is enforced".to_owned();
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

fn source_line(source: &Value) -> String {
    let mut line = format!("{}: {} lines", text(&source["name"]), source["lines"]);
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

fn jails(jails: &Value) -> Table {
    let mut table = Table::new(&["jail", "mode", "events", "subjects", "tripped", "bans now", "bans in all"]);
    for jail in jails.as_array().into_iter().flatten() {
        let cells = ["jail", "mode", "events", "keys", "tripped", "bans_now", "bans_total"];
        table.row(cells.iter().map(|cell| text(&jail[*cell])).collect());
    }
    table
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
