//! `teardown`: everything out of the kernel, without a daemon.

use std::process::ExitCode;

use super::{FAILED, Global};
use crate::config::{self, Paths};
use crate::control::client::Client;
use crate::enforce::nft;

pub(super) fn run(global: &Global, table: Option<String>) -> ExitCode {
    if Client::connect(global.socket()).is_ok() {
        eprintln!(
            "mailwarden: the daemon is running and would write its bans again; stop it first (systemctl stop mailwardend), or use: mailwarden unban --all"
        );
        return ExitCode::from(FAILED);
    }
    let (table, is_certain) = table.map_or_else(|| configured_table(global), |table| (table, true));
    match nft::teardown(&table) {
        Ok(true) => println!("removed the table inet {table} with all its bans"),
        Ok(false) if is_certain => println!("there is no table inet {table}; nothing to remove"),
        Ok(false) => {
            eprintln!("mailwarden: there is no table inet {table}; if yours has another name: mailwarden teardown --table NAME");
            return ExitCode::from(FAILED);
        }
        Err(error) => {
            eprintln!("mailwarden: {error}");
            return ExitCode::from(FAILED);
        }
    }
    ExitCode::SUCCESS
}

/// The table's name, and whether the configuration could be read for it: a broken one is no reason to leave bans in the kernel.
fn configured_table(global: &Global) -> (String, bool) {
    let config::Glance { table, problem, .. } = config::glance(&Paths::choose(global.config.as_deref()));
    let table = table.unwrap_or_else(|| nft::NftOptions::default().table);
    if let Some(problem) = &problem {
        eprintln!("mailwarden: {problem}; the table is taken to be inet {table} (--table NAME: another)");
    }
    (table, problem.is_none())
}
