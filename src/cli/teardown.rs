//! `teardown`: everything out of the kernel, without a daemon.

use std::process::ExitCode;

use serde_json::json;

use super::{FAILED, Global, out};
use crate::config::{self, Paths};
use crate::control::Request;
use crate::control::client::Client;
use crate::enforce::nft;

pub(super) fn run(global: &Global, table: Option<String>) -> ExitCode {
    if would_write_again(global) {
        let text = "the daemon is running and would write its bans again; stop it first (systemctl stop mailwardend), \
                    or use: mailwarden unban --all";
        return out::fail(global.json, FAILED, text);
    }
    let (table, is_certain) = table.map_or_else(|| configured_table(global), |table| (table, true));
    let (is_removed, sentence) = match nft::teardown(&table) {
        Ok(true) => (true, format!("removed the table inet {table} with all its bans")),
        Ok(false) if is_certain => (false, format!("there is no table inet {table}; nothing to remove")),
        Ok(false) => {
            let text = format!("there is no table inet {table}; if yours has another name: mailwarden teardown --table NAME");
            return out::fail(global.json, FAILED, &text);
        }
        Err(error) => return out::fail(global.json, FAILED, &error.to_string()),
    };
    let object = || json!({ "table": table, "removed": is_removed, "message": sentence }).to_string();
    out::done(out::say(&if global.json { object() } else { sentence.clone() }))
}

/// A dry run writes nothing.
fn would_write_again(global: &Global) -> bool {
    let Ok(mut client) = Client::connect(global.socket()) else { return false };
    let status = client.call(&Request::Status { jail: None });
    !status.is_ok_and(|status| status.data["firewall"]["dry_run"] == true)
}

/// The table's name, and whether the configuration could be read for it: a broken one is no reason to leave bans in the kernel.
fn configured_table(global: &Global) -> (String, bool) {
    let config::Glance { table, problem, .. } = config::glance(&Paths::choose(global.config.as_deref()));
    let table = table.unwrap_or_else(|| nft::NftOptions::default().table);
    if let Some(problem) = &problem {
        out::complain!("mailwarden: {problem}; the table is taken to be inet {table} (--table NAME: another)");
    }
    (table, problem.is_none())
}
