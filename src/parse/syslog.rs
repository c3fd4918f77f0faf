//! The envelope of a line: who wrote it and when, and where the message starts.
//!
//! Forms: `<PRI>` or none; then RFC 3164 with a host (also as BusyBox writes it, with `facility.level` before the tag), RFC 3164 as
//! it stands in /dev/log (no host), RFC 3339 with or without a host, or RFC 5424. `message repeated N times: [ … ]` (rsyslog) is
//! unwrapped. A relay may put the sender's uid, as the kernel told it, in front of the message: `[uid=33] `; only the one right behind
//! the tag and its space counts, any other is the sender's text.

use jiff::tz::TimeZone;
use memchr::{memchr, memchr3};

use super::Span;
use super::stamp::{SHORT, Stamp, Stamps};
use crate::time::Timestamp;

/// Longest syslog tag that is looked at.
const TAG_BYTES_MAX: usize = 256;
/// What the kernel calls no user (`(uid_t) -1`).
const UNKNOWN_UID: u32 = u32::MAX;

/// What stands around a message. Positions are those of the whole line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub time: Timestamp,
    /// So many minutes later it may have been as well: see [`super::Parsed::unfold`].
    pub fold_minutes: u8,
    /// Empty when the line names none.
    pub host: Span,
    /// The syslog tag without pid.
    pub program: Span,
    /// 0 when the line has none.
    pub pid: u32,
    pub message: Span,
    /// How many times the message was written; 1 unless the line says "message repeated".
    pub repeated: u32,
    /// The sender's uid as a relay annotated it; `u32::MAX`, which is nobody's, where the relay did not know it.
    pub sender_uid: Option<u32>,
}

/// What stands in front of a message.
struct Stamped {
    stamp: Stamp,
    host: Span,
    program: Span,
    pid: u32,
}

/// Takes envelopes off. One a thread, since it remembers the last second.
pub struct EnvelopeReader {
    stamps: Stamps,
    annotated: bool,
}

impl EnvelopeReader {
    pub fn new(zone: TimeZone, reference: Timestamp, annotated: bool) -> Self {
        EnvelopeReader { stamps: Stamps::new(zone, reference), annotated }
    }

    /// Moves "now" for stamps without a year.
    pub fn set_reference(&mut self, reference: Timestamp) {
        self.stamps.set_reference(reference);
    }

    /// The envelope of `line` (at most `u16::MAX` bytes); `None` where it has no form that is known.
    /// With a receive time the stamp is stepped over and only its shape matters.
    pub fn read(&mut self, line: &[u8], received: Option<Timestamp>) -> Option<Envelope> {
        let line = trim_end(line.get(..usize::from(u16::MAX)).unwrap_or(line));
        let at = skip_priority(line);
        let head = match line.get(at)? {
            b'1'..=b'9' if matches!(line.get(at + 1), Some(b' ')) => return self.rfc5424(line, at + 2, received),
            b'0'..=b'9' => self.iso(&line[at..], received).map(|(time, length)| (Stamp::certain(time), at + length)),
            b'A'..=b'Z' => self.short(&line[at..], received).map(|(stamp, length)| (stamp, at + length)),
            _ => None,
        };
        // Some senders leave the stamp out on a local socket.
        let (stamp, at) = head.or_else(|| received.map(|time| (Stamp::certain(time), at)))?;
        let (host, program, pid, at) = host_and_tag(line, at, !self.annotated)?;
        Some(self.finish(line, at, Stamped { stamp, host, program, pid }))
    }

    fn short(&mut self, text: &[u8], received: Option<Timestamp>) -> Option<(Stamp, usize)> {
        let shape: &[u8; SHORT] = text.first_chunk()?;
        if shape[3] != b' ' || shape[6] != b' ' || shape[9] != b':' || shape[12] != b':' {
            return None;
        }
        let stamp = match received {
            Some(time) => Stamp::certain(time),
            None => self.stamps.short(shape)?,
        };
        let mut at = SHORT;
        if text.get(at) == Some(&b'.') {
            at += 1 + text[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        }
        (text.get(at) == Some(&b' ')).then_some((stamp, at + 1))
    }

    fn iso(&mut self, text: &[u8], received: Option<Timestamp>) -> Option<(Timestamp, usize)> {
        let (time, length) = self.stamps.iso(text)?;
        (text.get(length) == Some(&b' ')).then_some((received.unwrap_or(time), length + 1))
    }

    /// RFC 5424 after `<PRI>1 `: stamp, host, application, pid, message id, structured data, message.
    fn rfc5424(&mut self, line: &[u8], at: usize, received: Option<Timestamp>) -> Option<Envelope> {
        let (stamp, at) = token(line, at)?;
        let time = match received {
            Some(time) => time,
            None => self.stamps.iso(text(line, stamp)).filter(|(_, length)| *length == stamp.len())?.0,
        };
        let (host, at) = token(line, at)?;
        let (program, at) = token(line, at)?;
        let (pid, at) = token(line, at)?;
        let (_, at) = token(line, at)?;
        let mut at = skip_structured_data(line, at)?;
        at += usize::from(line.get(at) == Some(&b' '));
        if line[at..].starts_with(b"\xef\xbb\xbf") {
            at += 3;
        }
        let host = if text(line, host) == b"-" { Span::default() } else { host };
        Some(self.finish(line, at, Stamped { stamp: Stamp::certain(time), host, program, pid: number(text(line, pid)) }))
    }

    /// Takes the relay's note and rsyslog's "message repeated" off the message that starts at `at`.
    #[inline]
    fn finish(&self, line: &[u8], mut at: usize, head: Stamped) -> Envelope {
        let (mut sender_uid, mut repeated) = (None, 1);
        // rsyslog ends a tag at the first space, so a forger's own note can stand in his tag (`a[1]:[uid=0]`) but never behind it.
        if self.annotated
            && line[..at].ends_with(b" ")
            && let Some((uid, length)) = annotation(&line[at..])
        {
            sender_uid = Some(uid);
            at += length;
        }
        let mut end = line.len();
        if line.get(at) == Some(&b'm')
            && line[at..].starts_with(b"message repeated ")
            && let Some((times, skipped)) = repetition(&line[at..end])
        {
            repeated = times;
            at += skipped;
            end -= 1;
        }
        let Stamped { stamp: Stamp { time, fold_minutes }, host, program, pid } = head;
        Envelope { time, fold_minutes, host, program, pid, message: Span::new(at, end), repeated, sender_uid }
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    let mut line = line;
    while let [rest @ .., b'\n' | b'\r' | 0] = line {
        line = rest;
    }
    line
}

/// The length of `<PRI>`.
fn skip_priority(line: &[u8]) -> usize {
    if line.first() != Some(&b'<') {
        return 0;
    }
    let digits = line[1..].iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    if digits > 0 && line.get(1 + digits) == Some(&b'>') { digits + 2 } else { 0 }
}

/// Host (if any), tag and pid, and where the message starts. Without a host the first word is the tag: it ends with a colon,
/// which a host name never does. BusyBox writes facility and level between the two; where a relay takes notes, they are behind the
/// tag, so nothing else may pass for it there.
fn host_and_tag(line: &[u8], at: usize, may_have_level: bool) -> Option<(Span, Span, u32, usize)> {
    let first = word_end(line, at)?;
    if line[first] != b' '
        && let Some((program, pid, next)) = tag(line, at, first)
    {
        return Some((Span::default(), program, pid, next));
    }
    let space = if line[first] == b' ' { first } else { first + memchr(b' ', &line[first..])? };
    let mut start = space + 1;
    let mut end = word_end(line, start)?;
    if line[end] == b' ' && may_have_level && is_level(&line[start..end]) {
        start = end + 1;
        end = word_end(line, start)?;
    }
    let (program, pid, next) = tag(line, start, end)?;
    (space > at).then(|| (Span::new(at, space), program, pid, next))
}

/// `mail.info`, `auth.err`.
fn is_level(word: &[u8]) -> bool {
    const FACILITIES: [&[u8]; 6] = [b"mail", b"auth", b"authpriv", b"daemon", b"user", b"syslog"];
    const LEVELS: [&[u8]; 8] = [b"debug", b"info", b"notice", b"warn", b"err", b"crit", b"alert", b"emerg"];
    let Some(dot) = memchr(b'.', word) else { return false };
    let facility = &word[..dot];
    (FACILITIES.contains(&facility) || facility.starts_with(b"local") && facility.len() == 6) && LEVELS.contains(&&word[dot + 1..])
}

/// Where the first space, colon or opening bracket stands.
fn word_end(line: &[u8], at: usize) -> Option<usize> {
    let limit = line.len().min(at + TAG_BYTES_MAX);
    Some(at + memchr3(b' ', b':', b'[', line.get(at..limit)?)?)
}

/// `name[pid]: ` or `name: `, where the name ends at `end`.
fn tag(line: &[u8], at: usize, end: usize) -> Option<(Span, u32, usize)> {
    if end == at {
        return None;
    }
    let mut next = end;
    let mut pid = 0;
    if line[next] == b'[' {
        next += 1;
        while let Some(digit @ b'0'..=b'9') = line.get(next) {
            pid = u32::wrapping_add(u32::wrapping_mul(pid, 10), u32::from(digit - b'0'));
            next += 1;
        }
        if line.get(next) != Some(&b']') {
            // A pid that is no number.
            pid = 0;
            next += memchr(b']', line.get(next..)?)?;
        }
        next += 1;
    }
    if line.get(next) != Some(&b':') {
        return None;
    }
    next += 1;
    match line.get(next) {
        None | Some(b'[') => {}
        Some(b' ') => next += 1,
        // `2001:db8::1` is a host.
        Some(_) => return None,
    }
    Some((Span::new(at, end), pid, next))
}

/// The bytes up to the next space, and where the one after it starts.
fn token(line: &[u8], at: usize) -> Option<(Span, usize)> {
    let length = memchr(b' ', line.get(at..)?)?;
    (length > 0).then(|| (Span::new(at, at + length), at + length + 1))
}

fn skip_structured_data(line: &[u8], mut at: usize) -> Option<usize> {
    if line.get(at)? == &b'-' {
        return Some(at + 1);
    }
    while line.get(at) == Some(&b'[') {
        let mut quoted = false;
        loop {
            at += 1;
            match line.get(at)? {
                b'\\' if quoted => at += 1,
                b'"' => quoted = !quoted,
                b']' if !quoted => break,
                _ => {}
            }
        }
        at += 1;
    }
    (at < line.len() && line[at] == b' ').then_some(at)
}

/// `[uid=33] ` and its length. A relay that does not know the sender writes `[uid=]`: nobody's word then, and not the relay's.
fn annotation(text: &[u8]) -> Option<(u32, usize)> {
    let value = text.strip_prefix(b"[uid=")?;
    let length = value.iter().take(12).position(|&byte| byte == b']')?;
    let uid = std::str::from_utf8(&value[..length]).ok().and_then(|digits| digits.parse().ok()).unwrap_or(UNKNOWN_UID);
    let next = 5 + length + 1;
    Some((uid, next + usize::from(text.get(next) == Some(&b' '))))
}

/// `message repeated 3 times: [ text]`: how many times, and where the text starts (it ends before the last byte).
fn repetition(text: &[u8]) -> Option<(u32, usize)> {
    const LEAD: usize = "message repeated ".len();
    let digits = text[LEAD..].iter().take(10).take_while(|byte| byte.is_ascii_digit()).count();
    let times = number(&text[LEAD..LEAD + digits]);
    let rest = text[LEAD + digits..].strip_prefix(b" times: [")?;
    if times == 0 || rest.last() != Some(&b']') {
        return None;
    }
    let start = text.len() - rest.len();
    Some((times, start + usize::from(rest.len() > 1 && rest[0] == b' ')))
}

fn number(digits: &[u8]) -> u32 {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn text(line: &[u8], span: Span) -> &[u8] {
    super::slice(line, span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(annotated: bool) -> EnvelopeReader {
        let reference = "2026-11-24T03:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
        EnvelopeReader::new(TimeZone::UTC, Timestamp::from_micros(reference), annotated)
    }

    /// `host|program|pid|message|repeated|uid`, or `-`.
    fn read(line: &[u8], annotated: bool, received: Option<Timestamp>) -> String {
        let show = |span: Span| String::from_utf8_lossy(text(line, span)).into_owned();
        match reader(annotated).read(line, received) {
            None => "-".to_owned(),
            Some(e) => format!("{}|{}|{}|{}|{}|{:?}", show(e.host), show(e.program), e.pid, show(e.message), e.repeated, e.sender_uid),
        }
    }

    #[test]
    fn forms() {
        let cases: &[(&[u8], &str)] = &[
            (b"Nov 24 02:31:55 mx1 postfix/smtpd[21111]: connect from x", "mx1|postfix/smtpd|21111|connect from x|1|None"),
            (b"<22>Nov 24 02:31:55 postfix/smtpd[21111]: connect from x\n", "|postfix/smtpd|21111|connect from x|1|None"),
            (b"Nov 24 02:31:55 mx1 dovecot: auth: x\r\n\0", "mx1|dovecot|0|auth: x|1|None"),
            (b"<22>Nov 24 02:31:55 dovecot: auth: x", "|dovecot|0|auth: x|1|None"),
            (b"Nov  4 02:31:55.123456 2001:db8::1 a[1]: b", "2001:db8::1|a|1|b|1|None"),
            (b"2026-11-24T02:31:55.123456+01:00 mx1 a/b[7]: c: d", "mx1|a/b|7|c: d|1|None"),
            (b"<22>2026-11-24T02:31:55Z a[7]: c", "|a|7|c|1|None"),
            (b"<22>1 2026-11-24T02:31:55.1Z mx1 postfix/smtpd 12 - - hello", "mx1|postfix/smtpd|12|hello|1|None"),
            (b"<22>1 2026-11-24T02:31:55.1Z - app - ID7 [a x=\"]\\\"\"][b] \xef\xbb\xbfhello", "|app|0|hello|1|None"),
            (b"Nov 24 02:31:55 mx1 a[1]: message repeated 3 times: [ bad login]", "mx1|a|1|bad login|3|None"),
            (b"Nov 24 02:31:55 mx1 a[1]: message repeated 3 times, or so", "mx1|a|1|message repeated 3 times, or so|1|None"),
            (b"Nov 24 02:31:55 mx1 a[1]: [uid=0] x", "mx1|a|1|[uid=0] x|1|None"),
            (b"Nov 24 02:31:55 mx1 a[1]:", "mx1|a|1||1|None"),
            (b"Nov 24 02:31:55 gr mail.warn postfix/smtpd[7]: warning: x", "gr|postfix/smtpd|7|warning: x|1|None"),
            (b"Nov 24 02:31:55 gr local7.err a: x", "gr|a|0|x|1|None"),
            (b"Nov 24 02:31:55 gr mail.warm a: x", "-"),
            (b"Nov 24 02:31:55 gr mail.warn mail.warn a: x", "-"),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line, false, None), *expected, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn only_the_relays_own_note_counts() {
        let cases: &[(&[u8], &str)] = &[
            (b"Nov 24 02:31:55 mx1 a[1]: [uid=33] [uid=0] x", "mx1|a|1|[uid=0] x|1|Some(33)"),
            // What a forger puts into his tag (seen with rsyslog 8.2302) is not the relay's word.
            (b"Nov 24 02:31:55 mx1 a[1]:[uid=0] [uid=33] x", "mx1|a|1|[uid=0] [uid=33] x|1|None"),
            (b"Nov 24 02:31:55 mx1 a[1]:[uid=0]: [uid=33] x", "mx1|a|1|[uid=0]: [uid=33] x|1|None"),
            (b"Nov 24 02:31:55 mx1 [uid=0] [uid=33] a[1]: x", "-"),
            (b"Nov 24 02:31:55 mx1  [uid=33] [uid=0] a[1]: x", "-"),
            (b"Nov 24 02:31:55 mx1 mail.warn a[1]: [uid=0] x", "-"),
            (b"Nov 24 02:31:55 mx1 a[1]: [uid=33] x", "mx1|a|1|x|1|Some(33)"),
            (b"Nov 24 02:31:55 mx1 a[1]: [uid=] [uid=0] x", "mx1|a|1|[uid=0] x|1|Some(4294967295)"),
            (b"Nov 24 02:31:55 mx1 a[1]: x [uid=0]", "mx1|a|1|x [uid=0]|1|None"),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line, true, None), *expected, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_received_record_may_lack_a_good_stamp() {
        let time = Timestamp::from_seconds(1_000);
        let now = Some(time);
        assert_eq!(read(b"<22>Nov 99 99:31:55 a[1]: x", false, now), "|a|1|x|1|None");
        assert_eq!(read(b"<22>a[1]: x", false, now), "|a|1|x|1|None");
        assert_eq!(read(b"<22>a[1]: x", false, None), "-");
        assert_eq!(reader(false).read(b"Nov 24 02:31:55 mx1 a: x", now).unwrap().time, time);
    }

    #[test]
    fn malformed_lines() {
        for line in [
            &b""[..],
            b"\n",
            b"<",
            b"<22>",
            b"hello",
            b"Nov 24 02:31:55",
            b"Nov 24 02:31:55 ",
            b"Nov 24 02:31:55 mx1",
            b"Nov 31 02:31:55 mx1 a: x",
            b"Feb 30 02:31:55 mx1 a: x",
            b"<22>1 - - - - - -",
            b"2026-11-24T02:31:55Z",
            b"1 2026-11-24T02:31:55Z h a p m [x",
            b"\xff\xfe\0\x01",
        ] {
            assert_eq!(read(line, true, None), "-", "{}", String::from_utf8_lossy(line));
        }
    }
}
