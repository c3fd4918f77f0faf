//! The composition root: the only place that knows everything.

use std::process::ExitCode;

pub fn main() -> ExitCode {
    ExitCode::from(2)
}
