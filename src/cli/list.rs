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
        let Ok(page) = page else { return super::unreadable(global) };
        if let Err(error) = print(global, &page.bans, &mut table) {
            return super::out::finish(Err(error));
        }
        after = page.next;
        if after.is_none() {
            break page.dry_run;
        }
    };
    super::out::finish(match global.json {
        true => Ok(()),
        false if table.is_empty() => writeln!(io::stdout(), "no bans in force"),
        false if is_dry_run => writeln!(io::stdout(), "dry run: nobody is cut off; these would be banned").and_then(|()| table.print()),
        false => table.print(),
    })
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
