//! The tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    mailwarden::cli::main()
}
