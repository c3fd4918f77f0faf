//! `list locks`: who is held, and who is locked.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::table::{self, Table};
use super::{Global, call};
use crate::control::{Request, StopView};
use crate::shell;

pub(super) fn list(global: &Global) -> ExitCode {
    let stops = match call(global, &Request::ListLocks) {
        Ok(response) => serde_json::from_value::<Vec<StopView>>(response.data),
        Err(code) => return code,
    };
    let Ok(stops) = stops else { return super::unreadable(global) };
    super::out::finish(if global.json { print_json(&stops) } else { print(&stops) })
}

fn print_json(stops: &[StopView]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for stop in stops {
        serde_json::to_writer(&mut out, stop)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn print(stops: &[StopView]) -> io::Result<()> {
    if stops.is_empty() {
        return writeln!(io::stdout(), "no account is held or locked");
    }
    let mut table = Table::new(&["account", "state", "jail", "since", "ends in", "parked", "reason"]);
    for stop in stops {
        table.row(vec![
            shell::shown(&stop.account),
            state(&stop.verb, stop.in_force, stop.scope == Some(crate::engine::jail::Scope::Auth)).to_owned(),
            stop.jail.clone(),
            table::local_time(&stop.since),
            stop.remaining_seconds.map_or_else(|| "never".to_owned(), table::span),
            stop.parked.to_string(),
            table::printable(&stop.reason),
        ]);
    }
    table.print()?;
    for (stop, failure) in stops.iter().filter_map(|stop| Some((stop, stop.failure.as_ref()?))) {
        let account = shell::shown(&stop.account);
        writeln!(io::stdout(), "{account}: {}", undone(failure))?;
    }
    Ok(())
}

/// Why the helper has not done all of its part.
pub(super) fn undone(failure: &str) -> String {
    format!("NOT ALL OF IT IS DONE, it is tried again: {}", table::printable(failure.trim_end()))
}

/// One line of `status`.
pub(super) fn sentence(stop: &Value) -> String {
    let text = |key: &str| stop[key].as_str().unwrap_or_default();
    let state = state(text("verb"), stop["in_force"] == true, stop["scope"] == "auth");
    let since = table::local_time(text("since"));
    format!("{}: {state} since {since}, jail {}: {}", shell::shown(text("account")), text("jail"), table::printable(text("reason")))
}

/// A lock that nothing carries out must not be called one.
fn state(verb: &str, in_force: bool, is_full: bool) -> &'static str {
    match (verb, in_force, is_full) {
        ("lock", true, true) => "LOCKED (all logins)",
        ("lock", true, false) => "LOCKED (sending)",
        ("lock", false, _) => "would lock: no lock path",
        ("parked", _, _) => "free, mail on hold",
        (_, true, _) => "HELD",
        (_, false, _) => "would hold: no lock path",
    }
}
