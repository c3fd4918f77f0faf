//! An entry of the journal as one syslog line: `2026-11-24T02:31:15.477488+00:00 host tag[pid]: message`.

use super::export::{Entry, Field};
use crate::source::Sender;
use crate::time::Timestamp;

/// Renders entries. Remembers the second it wrote last: most lines share it.
#[derive(Debug, Default)]
pub(super) struct Renderer {
    second: i64,
    /// `2026-11-24T02:31:15`
    text: String,
    line: Vec<u8>,
}

const TAG_BYTES_MAX: usize = 64;
const HOST_BYTES_MAX: usize = 255;

impl Renderer {
    /// `None` when the entry has no time or no message.
    pub fn render(&mut self, entry: &Entry) -> Option<&[u8]> {
        let time = Timestamp::from_micros(i64::try_from(entry.number(Field::Realtime)?).ok()?);
        let message = entry.get(Field::Message)?;
        self.line.clear();
        self.stamp(time);
        self.line.push(b' ');
        self.word(entry.get(Field::Hostname), HOST_BYTES_MAX, b"localhost");
        self.line.push(b' ');
        self.word(entry.get(Field::Identifier).or_else(|| entry.get(Field::Comm)), TAG_BYTES_MAX, b"unknown");
        if let Some(pid) = entry.number(Field::SyslogPid).or_else(|| entry.number(Field::Pid)) {
            self.line.push(b'[');
            self.line.extend_from_slice(pid.to_string().as_bytes());
            self.line.push(b']');
        }
        self.line.extend_from_slice(b": ");
        self.message(message);
        Some(&self.line)
    }

    fn stamp(&mut self, time: Timestamp) {
        let second = time.seconds();
        if second != self.second || self.text.is_empty() {
            self.second = second;
            let stamp = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            self.text = stamp.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
        let micros = time.micros().rem_euclid(1_000_000);
        self.line.extend_from_slice(self.text.as_bytes());
        self.line.push(b'.');
        let mut divisor = 100_000;
        while divisor > 0 {
            self.line.push(b'0' + u8::try_from(micros / divisor % 10).unwrap_or(0));
            divisor /= 10;
        }
        self.line.extend_from_slice(b"+00:00");
    }

    /// Whoever logs chooses the identifier: it must not look like the rest of the line.
    fn word(&mut self, text: Option<&[u8]>, max: usize, fallback: &[u8]) {
        let text = text.filter(|text| !text.is_empty()).unwrap_or(fallback);
        let text = text.get(..max).unwrap_or(text);
        self.line.extend(text.iter().map(|byte| if byte.is_ascii_graphic() && !matches!(byte, b'[' | b']' | b':') { *byte } else { b'_' }));
    }

    /// Control characters as rsyslog writes them (`#012` is a newline): one entry stays one line.
    fn message(&mut self, text: &[u8]) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        if text.iter().all(|byte| *byte >= b' ' || *byte == b'\t') {
            self.line.extend_from_slice(text);
            return;
        }
        for byte in text {
            if *byte >= b' ' || *byte == b'\t' {
                self.line.push(*byte);
            } else {
                self.line.extend_from_slice(&[b'#', b'0', b'0' + (byte >> 3), b'0' + (byte & 7)]);
            }
        }
    }
}

/// Who wrote it, by journald's own word.
pub(super) fn sender(entry: &Entry) -> Sender {
    entry.number(Field::Uid).and_then(|uid| u32::try_from(uid).ok()).map_or(Sender::Nobody, Sender::Journal)
}

#[cfg(test)]
mod tests {
    use super::super::export::ExportParser;
    use super::*;

    #[test]
    fn entries_become_lines() {
        let cases: [(&[u8], &str); 6] = [
            (
                b"MESSAGE=warning: x\nSYSLOG_IDENTIFIER=postfix/smtpd\nSYSLOG_PID=12\n_PID=13\n_HOSTNAME=mx1",
                "2026-11-24T02:31:15.477488+00:00 mx1 postfix/smtpd[12]: warning: x",
            ),
            (b"MESSAGE=y\n_COMM=dovecot\n_PID=13\nSYSLOG_PID=1]: z", "2026-11-24T02:31:15.477488+00:00 localhost dovecot[13]: y"),
            (b"MESSAGE=\xff\tz\n_HOSTNAME=a b", "2026-11-24T02:31:15.477488+00:00 a_b unknown: \u{fffd}\tz"),
            (
                b"MESSAGE=q\nSYSLOG_IDENTIFIER=x[1]: Nov 24 postfix/smtpd",
                "2026-11-24T02:31:15.477488+00:00 localhost x_1___Nov_24_postfix/smtpd: q",
            ),
            (b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb", "2026-11-24T02:31:15.477488+00:00 localhost unknown: a#012b"),
            (b"MESSAGE\n\x02\0\0\0\0\0\0\0a\n", "2026-11-24T02:31:15.477488+00:00 localhost unknown: a"),
        ];
        let mut renderer = Renderer::default();
        for (fields, expected) in cases {
            let mut parser = ExportParser::default();
            parser.take(&[fields, b"\n__REALTIME_TIMESTAMP=1795487475477488\n\n"].concat());
            let line = renderer.render(parser.entry().unwrap()).unwrap();
            assert_eq!(String::from_utf8_lossy(line), expected);
        }
    }
}
