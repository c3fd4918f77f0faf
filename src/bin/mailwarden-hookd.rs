//! The root helper.

use std::process::ExitCode;

fn main() -> ExitCode {
    mailwarden::hookd::main()
}
