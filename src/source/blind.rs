//! The loggers' own "I dropped lines": a flood makes journald and rsyslog go blind exactly while it lasts.
//!
//! Texts: systemd `src/journal/journald-rate-limit.c` ("Suppressed %u messages from %s"), rsyslog `runtime/ratelimit.c`
//! ("%s: %u messages lost due to rate-limiting (…)", "%s: begin to drop messages due to rate-limiting").

use memchr::memmem;

/// How many lines a notice says were dropped (0 where it does not say); `None`: the line is no such notice.
pub(super) fn dropped_lines(line: &[u8]) -> Option<u64> {
    let text = spoken_by_a_logger(line)?;
    let is_notice = text.starts_with(b"Suppressed ") || memmem::find(text, b"due to rate-limiting").is_some();
    is_notice.then(|| number_before(text, b" messages").unwrap_or(0))
}

/// The message, if the tag before the first `: ` is journald's or rsyslog's.
fn spoken_by_a_logger(line: &[u8]) -> Option<&[u8]> {
    let head = line.get(..line.len().min(HEADER_BYTES_MAX))?;
    let end = memmem::find(head, b": ")?;
    let tag_start = memchr::memrchr(b' ', head.get(..end)?).map_or(0, |space| space + 1);
    let tag = head.get(tag_start..end)?;
    let is_logger = tag.starts_with(b"systemd-journald[") || tag == b"rsyslogd" || tag.starts_with(b"rsyslogd[");
    if is_logger { line.get(end + 2..) } else { None }
}

/// A time, a host name and a tag fit in this.
const HEADER_BYTES_MAX: usize = 160;

fn number_before(text: &[u8], word: &[u8]) -> Option<u64> {
    let end = memmem::find(text, word)?;
    let digits = text.get(..end)?;
    let start = digits.iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |other| other + 1);
    std::str::from_utf8(digits.get(start..)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_told_from_what_clients_write() {
        let cases: [(&str, Option<u64>); 8] = [
            ("2026-11-24T02:31:15.477488+00:00 mx systemd-journald[233]: Suppressed 8385 messages from postfix.service", Some(8385)),
            (
                "<46>Nov 24 02:31:15 mx rsyslogd: imjournal: 13 messages lost due to rate-limiting (20000 allowed within 600 seconds)",
                Some(13),
            ),
            ("<46>Nov 24 02:31:15 mx rsyslogd: imuxsock[pid 7]: begin to drop messages due to rate-limiting", Some(0)),
            ("Nov 24 02:31:15 mx rsyslogd[9]: imuxsock lost 250 messages from pid 7 due to rate-limiting", Some(250)),
            ("Nov 24 02:31:15 mx postfix/smtpd[9]: warning: Suppressed 5 messages from due to rate-limiting", None),
            ("Nov 24 02:31:15 mx systemd-journald[1]: System Journal (/var/log/journal/x) is 8.0M", None),
            ("Suppressed 1 messages from x", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(dropped_lines(line.as_bytes()), expected, "{line}");
        }
    }
}
