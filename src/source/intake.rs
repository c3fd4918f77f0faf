//! What every source does with a line: cut it, count it, put it into the batch.

use super::blind;
use super::{Batch, Origin, Sender, SourceStats};
use crate::limits::LINE_BYTES_MAX;
use crate::time::Timestamp;

#[derive(Debug)]
pub(super) struct Intake {
    id: u8,
    pub stats: SourceStats,
}

impl Intake {
    pub fn new(name: &str, id: u8) -> Self {
        Intake { id, stats: SourceStats { name: name.to_owned(), ..SourceStats::default() } }
    }

    /// `is_cut`: the source itself has cut it already. A blank line is dropped.
    pub fn admit(&mut self, batch: &mut Batch, line: &[u8], is_cut: bool, received: Option<Timestamp>, sender: Sender) {
        let line = trim(line);
        if line.is_empty() {
            return;
        }
        let kept = line.get(..LINE_BYTES_MAX).unwrap_or(line);
        self.stats.lines += 1;
        self.stats.bytes += kept.len() as u64;
        self.stats.truncated += u64::from(is_cut || kept.len() < line.len());
        if let Some(lines) = blind::dropped_lines(kept).filter(|_| may_be_a_logger(sender)) {
            self.stats.blind_notices += 1;
            self.stats.blind_lines = self.stats.blind_lines.saturating_add(lines);
        }
        batch.push(kept, received, Origin { source: self.id, sender });
    }
}

/// journald speaks as root. Through syslog a forged notice raises an alert at worst.
fn may_be_a_logger(sender: Sender) -> bool {
    !matches!(sender, Sender::Nobody | Sender::Journal(1..))
}

/// Without the newline, carriage return or NUL that loggers put at the end, and without the NULs that a writer leaves at the
/// start when its file was truncated under it.
fn trim(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r' | 0)).map_or(0, |last| last + 1);
    let start = line.iter().position(|byte| *byte != 0).unwrap_or(end).min(end);
    line.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_trimmed() {
        for (line, expected) in [
            (&b"a b\n"[..], &b"a b"[..]),
            (b"a\r\n", b"a"),
            (b"a\0", b"a"),
            (b"\0\0a\0b", b"a\0b"),
            (b"\0\n", b""),
            (b"", b""),
            (b" a ", b" a "),
        ] {
            assert_eq!(trim(line), expected);
        }
    }

    #[test]
    fn a_long_line_is_cut_and_counted() {
        let mut intake = Intake::new("test", 3);
        let mut batch = Batch::new();
        intake.admit(&mut batch, &vec![b'x'; LINE_BYTES_MAX + 1], false, None, Sender::Nobody);
        intake.admit(&mut batch, b"y", false, None, Sender::Uid(5));
        intake.admit(&mut batch, b"\n", false, None, Sender::Nobody);
        let lines: Vec<usize> = batch.iter().map(|(_, text)| text.len()).collect();
        assert_eq!(lines, [LINE_BYTES_MAX, 1]);
        assert_eq!((intake.stats.lines, intake.stats.truncated, intake.stats.bytes), (2, 1, LINE_BYTES_MAX as u64 + 1));
        assert_eq!(batch.lines.last().map(|line| line.origin), Some(Origin { source: 3, sender: Sender::Uid(5) }));
    }
}
