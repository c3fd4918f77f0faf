//! Tables for people, and the few formats in them.

use std::io::{self, IsTerminal, Write};

pub(super) struct Table {
    inner: comfy_table::Table,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(comfy_table::presets::NOTHING);
        inner.set_header(header.iter().copied());
        // A pipe gets whole rows; a terminal gets wrapped ones.
        let arrangement =
            if io::stdout().is_terminal() { comfy_table::ContentArrangement::Dynamic } else { comfy_table::ContentArrangement::Disabled };
        inner.set_content_arrangement(arrangement);
        Table { inner }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.inner.add_row(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    pub(super) fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for line in self.inner.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `3 d 4 h`, `12 min 5 s`: the two largest units.
pub(super) fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (length, name) in UNITS {
        if rest >= length && parts.len() < 2 {
            parts.push(format!("{} {name}", rest / length));
        } else if !parts.is_empty() {
            break;
        }
        rest %= length;
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// An RFC 3339 stamp in local time, as people read it.
pub(super) fn local_time(stamp: &str) -> String {
    match stamp.parse::<jiff::Timestamp>() {
        Ok(time) => crate::time::Timestamp::from_micros(time.as_microsecond()).to_string(),
        Err(_) => stamp.to_owned(),
    }
}

/// Log text is written by attackers: control characters do not reach the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if crate::shell::is_hidden(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_two_units() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (3_600, "1 h"), (3_661, "1 h 1 min"), (90_061, "1 d 1 h"), (86_401, "1 d")] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a?[2Jb?c");
    }
}
