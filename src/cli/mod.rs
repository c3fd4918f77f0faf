//! The tool: one file a verb.

use std::process::ExitCode;

pub mod check;

pub fn main() -> ExitCode {
    ExitCode::from(2)
}
