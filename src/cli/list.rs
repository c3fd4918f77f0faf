//! `list`: what is in force, page by page, so that a million bans stop nobody.

use std::io::{self, Write};
use std::process::ExitCode;

use super::table::{self, Table};
use super::{Global, call};
use crate::control::{BanPage, BanView, Request};

pub(super) fn bans(global: &Global) -> ExitCode {
    let mut after = None;
    let mut table = Table::new(&["address", "scope", "jail", "since", "ends in", "reason"]);
    let is_dry_run = loop {
        let page = match call(global, &Request::ListBans { after }) {
            Ok(response) => serde_json::from_value::<BanPage>(response.data),
            Err(code) => return code,
        };
        let Ok(page) = page else {
            eprintln!("mailwarden: the daemon's list cannot be read; are tool and daemon of one version?");
            return ExitCode::from(super::FAILED);
        };
        if print(global, &page.bans, &mut table).is_err() {
            return ExitCode::SUCCESS; // the reader has gone
        }
        after = page.next;
        if after.is_none() {
            break page.dry_run;
        }
    };
    if !global.json {
        if is_dry_run && !table.is_empty() {
            let _ = writeln!(io::stdout(), "dry run: nobody is cut off; these would be banned");
        }
        let _ = if table.is_empty() { writeln!(io::stdout(), "no bans in force") } else { table.print() };
    }
    ExitCode::SUCCESS
}

fn print(global: &Global, bans: &[BanView], table: &mut Table) -> io::Result<()> {
    if !global.json {
        bans.iter().for_each(|ban| table.row(row(ban)));
        return Ok(());
    }
    let mut out = io::stdout().lock();
    for ban in bans {
        serde_json::to_writer(&mut out, ban)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn row(ban: &BanView) -> Vec<String> {
    let ends = ban.remaining_seconds.map_or_else(|| "never".to_owned(), table::span);
    vec![
        crate::address::display(ban.ip),
        ban.scope.to_string(),
        ban.jail.clone(),
        table::local_time(&ban.since),
        ends,
        table::printable(&ban.reason),
    ]
}
