//! `teardown`: everything out of the kernel, without a daemon.

use std::process::ExitCode;

use super::{FAILED, Global};
use crate::control::Request;
use crate::control::client::Client;
use crate::enforce::nft;

pub(super) fn run(global: &Global, table: Option<String>) -> ExitCode {
    if would_write_again(global) {
        eprintln!(
            "mailwarden: the daemon is running and would write its bans again; stop it first (systemctl stop mailwardend), or use: mailwarden unban --all"
        );
        return ExitCode::from(FAILED);
    }
    let table = table.unwrap_or_else(|| configured_table(global));
    match nft::teardown(&table) {
        Ok(true) => println!("removed the table inet {table} with all its bans"),
        Ok(false) => println!("there is no table inet {table}; nothing to remove"),
        Err(error) => {
            eprintln!("mailwarden: {error}");
            return ExitCode::from(FAILED);
        }
    }
    ExitCode::SUCCESS
}

/// A dry run writes nothing.
fn would_write_again(global: &Global) -> bool {
    let Ok(mut client) = Client::connect(&global.socket) else { return false };
    let status = client.call(&Request::Status { jail: None });
    !status.is_ok_and(|status| status.data["firewall"]["dry_run"] == true)
}

/// A broken configuration is no reason to leave bans in the kernel.
fn configured_table(global: &Global) -> String {
    let paths = crate::config::Paths::choose(global.config.as_deref());
    crate::config::load(&paths).map_or_else(|_| nft::NftOptions::default().table, |config| config.enforcement.table)
}
