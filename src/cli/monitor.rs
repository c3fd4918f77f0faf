//! `monitor`: decisions as they fall.

use std::io::{self, Write};
use std::process::ExitCode;

use super::{Global, refuse, report, table};
use crate::control::client::Client;
use crate::control::{Code, Request, Response};

pub(super) fn run(global: &Global) -> ExitCode {
    let mut client = match Client::connect(global.socket()) {
        Ok(client) => client,
        Err(error) => return report(global, &error),
    };
    if let Err(error) = client.send(&Request::Monitor) {
        return report(global, &error);
    }
    client.wait_for_ever();
    loop {
        match client.receive() {
            Ok(Some(response)) if response.code != Code::Ok => return refuse(global, &response),
            Ok(Some(response)) => {
                if let Err(error) = print(global, &response) {
                    return super::out::finish(Err(error));
                }
            }
            Ok(None) => {
                return super::out::fail(global.json, super::NOT_RUNNING, "the daemon has stopped");
            }
            Err(error) => return report(global, &error),
        }
    }
}

fn print(global: &Global, response: &Response) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if global.json {
        if response.data.is_object() {
            writeln!(out, "{}", response.data)?;
        }
    } else if response.data.is_object() {
        writeln!(out, "{}", sentence(&response.data))?;
    } else {
        writeln!(io::stderr(), "mailwarden: {}", response.message)?;
    }
    out.flush()
}

/// `2026-11-24 03:04:05 ban 192.0.2.1 (auth) until 04:04:05, jail postfix-auth: 6 failures in 12 s`
fn sentence(decision: &serde_json::Value) -> String {
    let text = |key: &str| decision.get(key).and_then(|value| value.as_str()).unwrap_or_default();
    let subject = if text("ip").is_empty() { crate::shell::shown(text("account")) } else { text("ip").to_owned() };
    let mut out = format!("{} {} {}", table::local_time(text("time")), text("action"), subject);
    if !text("scope").is_empty() {
        out.push_str(&format!(" ({})", text("scope")));
    }
    if !text("until").is_empty() {
        out.push_str(&format!(" until {}", table::local_time(text("until"))));
    }
    out.push_str(&format!(", jail {}: {}", text("jail"), text("reason")));
    table::printable(&out)
}
