//! The daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    mailwarden::daemon::main()
}
