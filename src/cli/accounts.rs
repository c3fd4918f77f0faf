//! `accounts`: whom somebody should look at.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use serde_json::Value;

use super::table::{self, Table};
use super::{Global, call};
use crate::control::Request;
use crate::shell;

pub(super) fn run(global: &Global, exposed: Option<IpAddr>) -> ExitCode {
    let data = match call(global, &Request::Accounts { entered_by: exposed }) {
        Ok(response) => response.data,
        Err(code) => return code,
    };
    super::out::finish(if global.json { print_json(&data) } else { print(&data, exposed) })
}

fn print_json(data: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    data.as_array().into_iter().flatten().try_for_each(|line| writeln!(out, "{line}"))
}

fn print(data: &Value, exposed: Option<IpAddr>) -> io::Result<()> {
    let lines = data.as_array().map(Vec::as_slice).unwrap_or_default();
    if lines.is_empty() {
        return match exposed {
            Some(ip) => writeln!(io::stdout(), "no account is known that {ip} entered as a stranger"),
            None => writeln!(io::stdout(), "nothing speaks against any account"),
        };
    }
    let text = |line: &Value, key: &str| line[key].as_str().map(table::printable).unwrap_or_default();
    let mut table = Table::new(&["account", "state", "score", "last sign", "what"]);
    for line in lines {
        table.row(vec![
            shell::shown(line["account"].as_str().unwrap_or_default()),
            text(line, "state"),
            line["score"].to_string(),
            line["last_sign"].as_str().map(table::local_time).unwrap_or_default(),
            text(line, "sign"),
        ]);
    }
    table.print()
}
