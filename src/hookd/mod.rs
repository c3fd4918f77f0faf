//! The root helper: does what a decision about an account asks for and what the daemon itself may not do.
//!
//! **Invariant:** whoever controls the daemon can make the helper run the commands that root has written into its file, for account
//! names without control characters, and hold or release messages of the queue; nothing else. Nothing of a request is ever part of
//! a command line: a hook gets it as environment variables and as JSON on standard input. An errand is run at least once, and one
//! that is done is not run again.

mod done;
mod hooks;
mod queue;
mod request;
mod run;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

pub use request::{Answer, DESCRIBE, Request, Status};

/// Root's helper of mailwarden: runs the hooks of /etc/mailwarden/hooks.toml.
#[derive(Parser, Clone, Debug)]
#[command(name = "mailwarden-hookd", version, max_term_width = 100)]
pub struct Options {
    /// The hooks; the file and its directory belong to root, and nobody else may write them.
    #[arg(long, value_name = "FILE", default_value = "/etc/mailwarden/hooks.toml")]
    hooks: PathBuf,
    /// Who may ask, beside root.
    #[arg(long, value_name = "USER", default_value = "mailwarden")]
    user: String,
    /// Where it remembers what is done, and where hooks may keep what they need to undo themselves.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mailwarden-hookd")]
    state: PathBuf,
    /// Listen there instead of serving one connection on standard input, as under systemd.
    #[arg(long, value_name = "SOCKET")]
    listen: Option<PathBuf>,
    /// Check the file of hooks and exit.
    #[arg(long)]
    check: bool,
}

pub fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.listen {
        _ if options.check => hooks::Hooks::load(&options.hooks).map(|hooks| {
            hooks.warnings().iter().for_each(|warning| eprintln!("mailwarden-hookd: {}: {warning}", options.hooks.display()));
            println!("{}", hooks.summary());
        }),
        Some(path) => serve::listen(&options, path),
        None => serve::serve_standard_input(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mailwarden-hookd: {error}");
            ExitCode::FAILURE
        }
    }
}
