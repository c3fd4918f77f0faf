//! `why`: the story of one address or account.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::table;
use super::{Global, call};
use crate::control::Request;

pub(super) fn run(global: &Global, subject: String) -> ExitCode {
    let why = match call(global, &Request::Why { subject: subject.clone() }) {
        Ok(response) => response.data,
        Err(code) => return code,
    };
    super::out::finish(if global.json { writeln!(io::stdout(), "{why}") } else { print(&subject, &why) })
}

fn print(subject: &str, why: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let bans = list(&why["bans"]);
    let account = &why["account"];
    if account.is_object() {
        super::story::print(&mut out, subject, account)?;
    } else if bans.is_empty() {
        writeln!(out, "{} is not banned.", crate::shell::shown(subject))?;
    }
    for ban in &bans {
        let until = ban["until"].as_str().map_or("for ever".to_owned(), |until| format!("until {}", table::local_time(until)));
        let since = table::local_time(&text(&ban["since"]));
        writeln!(
            out,
            "{} {} since {since} {until}: ports of \"{}\", jail {}.",
            text(&ban["net"]),
            if why["dry_run"] == true { "would be banned (dry run)" } else { "is banned" },
            text(&ban["scope"]),
            text(&ban["jail"])
        )?;
        writeln!(out, "  because: {}", table::printable(&text(&ban["reason"])))?;
        if ban["earlier"].as_u64().is_some_and(|earlier| earlier > 0) {
            writeln!(out, "  bans before this one: {}", ban["earlier"])?;
        }
        if ban["ineffective"] == true {
            writeln!(out, "  THE BAN DOES NOT BITE: its lines keep coming. Is there a proxy or NAT in front of this host?")?;
        }
        evidence(&mut out, &ban["evidence"])?;
    }
    if let Some(allowed) = why["allowed"].as_str() {
        writeln!(out, "It is never banned: {allowed}.")?;
    }
    known(&mut out, &why["known"])?;
    let history = list(&why["history"]);
    if !history.is_empty() {
        let times: Vec<String> = history.iter().map(|stamp| table::local_time(&text(stamp))).collect();
        writeln!(out, "Bans that are remembered: {}.", times.join(", "))?;
    }
    let counters = list(&why["counters"]);
    if !counters.is_empty() {
        writeln!(out, "Counted now:")?;
    }
    for counter in counters {
        let findtime = table::span(counter["findtime_seconds"].as_u64().unwrap_or(0));
        writeln!(out, "  {}: {} of {} within {findtime}", text(&counter["jail"]), counter["count"], counter["limit"])?;
    }
    if bans.is_empty() && account["stops"].as_array().is_none_or(Vec::is_empty) {
        evidence(&mut out, &why["evidence"])?;
    }
    Ok(())
}

fn known(out: &mut impl Write, known: &Value) -> io::Result<()> {
    let stamp = |key: &str| known[key].as_str().map(table::local_time);
    if let Some(login) = stamp("last_login") {
        let shared = if known["shared"] == true { "; several accounts use it" } else { "" };
        writeln!(out, "Good logins from it: the last at {login}{shared}.")?;
    }
    if let Some(accepted) = stamp("last_accepted") {
        writeln!(out, "Mail from it was accepted: the last at {accepted}.")?;
    }
    Ok(())
}

fn evidence(out: &mut impl Write, lines: &Value) -> io::Result<()> {
    for line in list(lines) {
        writeln!(out, "  | {}", table::printable(&text(line)))?;
    }
    Ok(())
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
