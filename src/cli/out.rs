//! What the tool says, to people or as JSON, and what becomes of the exit status when it cannot be written.
//!
//! Nothing here panics where `println!` would: a full disk behind `>file` must not make a ban look as if it had failed.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use serde_json::json;

use super::{FAILED, table};

/// A line on standard error, as `eprintln!`; where that is closed or full, nobody is told.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(super) use complain;

/// The end of a verb that shows something. A reader that has gone (`| head`) is no mistake.
pub(super) fn finish(written: io::Result<()>) -> ExitCode {
    end(written, "")
}

/// The end of a verb that has done something: whatever becomes of the message, it is done.
pub(super) fn done(written: io::Result<()>) -> ExitCode {
    end(written, "done, but ")
}

fn end(written: io::Result<()>, done: &str) -> ExitCode {
    match written.and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain!("mailwarden: {done}cannot write: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// The end of a verb that failed: `text` on standard error, or an object with `error` on standard output.
pub(super) fn fail(json: bool, code: u8, text: &str) -> ExitCode {
    if json {
        // Nothing is left to be said on a full disk.
        let _ = say(&json!({ "error": text }).to_string());
    } else {
        complain!("mailwarden: {}", lines(text));
    }
    ExitCode::from(code)
}

/// A line on standard output.
pub(super) fn say(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// A message of several lines: names and log text in it reach no terminal as they are.
pub(super) fn lines(message: &str) -> String {
    message.lines().map(table::printable).collect::<Vec<_>>().join("\n")
}
