//! The composition root: the only place that knows everything.
//!
//! Threads: `core` (this one) owns parse, correlate, engine and the netlink socket; `control` runs tokio for the control
//! socket and the signals, and follows the addresses of this host; the store and the log have a thread each, and so has the closing of banned clients' connections;
//! `policy` answers Postfix, `helper` talks to the root helper, `tell-mail`, `tell-owner` and `tell-webhook` tell people. A database
//! of countries that has changed is opened on a thread that then ends.
//!
//! **Invariant:** the core never waits for anybody: not for the disk, not for a client of the control socket, not for the log.

mod addresses;
mod closer;
mod core;
mod decisions;
mod firewall;
mod geo;
mod inbox;
mod log;
mod memory;
mod secret;
mod setup;
mod stopping;
mod stops;
mod telling;
mod timing;
mod views;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Guards a mail host: reads its log, bans abusive clients in nftables.
#[derive(Parser, Debug)]
#[command(name = "mailwardend", version, max_term_width = 100)]
pub struct Options {
    /// Directory with mailwarden.toml, jail.d and filters [default: /etc/mailwarden over /usr/share/mailwarden].
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Where bans and counters are kept [default: the configuration's, /var/lib/mailwarden].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the sockets are [default: the configuration's, /run/mailwarden].
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// Decide and log, but leave the kernel alone.
    #[arg(long)]
    pub dry_run: bool,
    /// Check the configuration and exit.
    #[arg(long)]
    pub check: bool,
}

pub fn main() -> ExitCode {
    let options = Options::parse();
    if options.check {
        return crate::cli::check(options.config.as_deref());
    }
    core::run(&options)
}

/// The secret under which names are hashed, for whoever writes the state beside the daemon.
pub fn secret(state_dir: &std::path::Path) -> crate::engine::Seed {
    secret::load_or_make(state_dir)
}
