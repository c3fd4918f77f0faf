//! Walks a template over a message, from its first byte to its last. No allocation; every free text is found by `memchr`, and
//! the ways to read a line are capped by [`STEPS_MAX`].

use std::net::{IpAddr, Ipv4Addr};

use memchr::{memchr, memchr2, memrchr};

use super::template::{Class, Op, Slot};
use super::{Field, Parsed, Span};
use crate::event::DeliveryStatus;

/// Steps of one try. A line written to be read in a thousand ways is not recognised.
const STEPS_MAX: u32 = 4_096;
/// Places that `:last` looks at.
const PLACES_MAX: u32 = 64;
/// Longest queue id (`MAIL_QUEUE_NAME` in Postfix is shorter).
const QUEUE_ID_MAX: usize = 32;

/// One try of one template on one message.
pub(super) struct Matcher<'a> {
    /// The line up to the message's end; positions are those of the line.
    pub line: &'a [u8],
    pub start: usize,
    /// Length of the queue id (or NOQUEUE) that the message starts with; 0 when it starts with none.
    pub queue_id: usize,
    pub parsed: &'a mut Parsed,
    pub progress: Progress,
}

/// How far a try came, for `test-filter`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    steps: u32,
    /// Furthest position in the line at which a step failed.
    pub reached: usize,
    /// That step.
    pub op: usize,
}

impl<'a> Matcher<'a> {
    /// Whether the whole message fits; if so, `parsed` has its fields.
    pub fn matches(&mut self, ops: &[Op]) -> bool {
        self.run(ops, 0, self.start)
    }

    /// Reads one step at `at`; true if it takes all that is left of the line. For the groups of a regex.
    pub fn part(&mut self, op: &Op, at: usize) -> bool {
        match op {
            Op::Free { field, class, .. } => self.take(*field, *class, at, self.line.len()),
            _ => self.run(std::slice::from_ref(op), 0, at),
        }
    }

    fn run(&mut self, ops: &[Op], mut index: usize, mut at: usize) -> bool {
        loop {
            self.progress.steps += 1;
            if self.progress.steps > STEPS_MAX {
                return false;
            }
            let Some(op) = ops.get(index) else {
                return at == self.line.len() || self.fail(index, at);
            };
            let next = match op {
                Op::Literal(literal) => self.rest(at).starts_with(literal).then(|| at + literal.len()),
                Op::Client => self.client(at),
                Op::Ip => self.ip(at),
                Op::QueueId(field) => self.queue_id(*field, at),
                Op::Session => self.run_of(Field::Session, at, |byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_' | b'.' | b':')
                }),
                Op::Mechanism => {
                    self.run_of(Field::Mechanism, at, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/' | b'.'))
                }
                Op::Dsn => self.dsn(at),
                Op::Status => self.status(at),
                Op::Code => self.code(at),
                Op::Number(slot) => self.number(*slot, at),
                Op::Commands => self.commands(at),
                Op::Rest => Some(self.line.len()),
                Op::Reply => find(self.rest(at), b"; from=<").is_none().then_some(self.line.len()),
                Op::Free { .. } => return self.free(ops, index, index + 1, at),
                Op::Optional { end } => {
                    let kept = self.parsed.save();
                    if self.run(ops, index + 1, at) {
                        return true;
                    }
                    self.parsed.restore(kept);
                    index = *end;
                    continue;
                }
            };
            match next {
                Some(position) => at = position,
                None => return self.fail(index, at),
            }
            index += 1;
        }
    }

    /// Free text at `at` whose end the step `next` tells, and everything behind it.
    fn free(&mut self, ops: &[Op], index: usize, next: usize, at: usize) -> bool {
        let Some(Op::Free { field, class, last }) = ops.get(index) else {
            return false;
        };
        match ops.get(next) {
            None => self.take(*field, *class, at, self.line.len()) || self.fail(index, at),
            Some(Op::Literal(literal)) if *last => self.last(ops, index, next, at, literal),
            Some(Op::Literal(literal)) => {
                let ends = next + 1 == ops.len();
                let stop = match class {
                    Class::Any if ends => end_of(self.rest(at), literal),
                    Class::Any | Class::NoSpace => find(self.rest(at), literal),
                    Class::Longest => longest(self.rest(at), literal),
                    Class::Address => address(self.rest(at), literal),
                };
                match stop {
                    Some(length) if self.take(*field, *class, at, at + length) => self.run(ops, next + 1, at + length + literal.len()),
                    _ => self.fail(index, at),
                }
            }
            Some(Op::Optional { end }) => {
                let kept = self.parsed.save();
                if self.free(ops, index, next + 1, at) {
                    return true;
                }
                self.parsed.restore(kept);
                self.free(ops, index, *end, at)
            }
            Some(_) => self.fail(index, at),
        }
    }

    /// The last place of `literal` from which the rest fits.
    fn last(&mut self, ops: &[Op], index: usize, next: usize, at: usize, literal: &[u8]) -> bool {
        let Some(Op::Free { field, class, .. }) = ops.get(index) else {
            return false;
        };
        let kept = self.parsed.save();
        let mut limit = self.line.len();
        for _ in 0..PLACES_MAX {
            let Some(length) = self.line.get(at..limit).and_then(|text| rfind(text, literal)) else {
                break;
            };
            if self.take(*field, *class, at, at + length) && self.run(ops, next + 1, at + length + literal.len()) {
                return true;
            }
            self.parsed.restore(kept);
            limit = at + length + literal.len() - 1;
        }
        self.fail(index, at)
    }

    /// Notes a value if its bytes are such as the class allows.
    fn take(&mut self, field: Option<Field>, class: Class, start: usize, end: usize) -> bool {
        let value = self.line.get(start..end).unwrap_or_default();
        if matches!(class, Class::NoSpace | Class::Longest) && memchr(b' ', value).is_some() {
            return false;
        }
        match field {
            // What the client did not tell is no account.
            Some(Field::Account) if value.is_empty() || value == b"(unavailable)" => {}
            Some(field) => self.parsed.set(field, span(start, end)),
            None => {}
        }
        true
    }

    /// `name[addr]` or `name[addr]:port`. Postfix lets only host name bytes into a name, so it cannot forge an address.
    fn client(&mut self, at: usize) -> Option<usize> {
        let text = self.rest(at);
        let name = text.iter().position(|byte| !is_host_byte(*byte))?;
        if name == 0 || text[name] != b'[' {
            return None;
        }
        let close = memchr(b']', text)?;
        let address = &text[name + 1..close];
        self.parsed.client = match parse_ip(address) {
            Some(ip) => Some(ip),
            None if address == b"unknown" || is_scoped(address) => None,
            None => return None,
        };
        self.parsed.set(Field::ClientName, span(at, at + name));
        let mut end = close + 1;
        if text.get(end) == Some(&b':') {
            let digits = text[end + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            end += if digits > 0 { digits + 1 } else { 0 };
        }
        Some(at + end)
    }

    fn ip(&mut self, at: usize) -> Option<usize> {
        let length = self.rest(at).iter().take_while(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':')).count();
        let mut length = length;
        // A colon behind an address is punctuation: `192.0.2.1: text`.
        if length > 0 && self.rest(at)[length - 1] == b':' && !self.rest(at)[..length].ends_with(b"::") {
            length -= 1;
        }
        self.parsed.client = Some(parse_ip(&self.rest(at)[..length])?);
        Some(at + length)
    }

    fn queue_id(&mut self, field: Field, at: usize) -> Option<usize> {
        let length = if at == self.start { self.queue_id } else { queue_id_length(self.rest(at)) };
        if length == 0 {
            return None;
        }
        if &self.rest(at)[..length] != b"NOQUEUE" {
            self.parsed.set(field, span(at, at + length));
        }
        Some(at + length)
    }

    fn run_of(&mut self, field: Field, at: usize, allowed: impl Fn(u8) -> bool) -> Option<usize> {
        let length = self.rest(at).iter().take_while(|byte| allowed(**byte)).count();
        self.parsed.set(field, span(at, at + length));
        Some(at + length)
    }

    fn dsn(&mut self, at: usize) -> Option<usize> {
        let text = self.rest(at);
        let length = text.iter().take(11).take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
        let value = &text[..length];
        let class = value.first().is_some_and(|byte| matches!(byte, b'2' | b'4' | b'5'));
        if !class || value.get(1) != Some(&b'.') || value.iter().filter(|byte| **byte == b'.').count() != 2 || value.ends_with(b".") {
            return None;
        }
        self.parsed.set(Field::Dsn, span(at, at + length));
        Some(at + length)
    }

    fn status(&mut self, at: usize) -> Option<usize> {
        let length = self.rest(at).iter().take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'-').count();
        let status = match &self.rest(at)[..length] {
            b"" => return None,
            b"sent" => DeliveryStatus::Sent,
            b"deferred" => DeliveryStatus::Deferred,
            b"bounced" => DeliveryStatus::Bounced,
            b"expired" | b"force-expired" => DeliveryStatus::Expired,
            _ => DeliveryStatus::Other,
        };
        self.parsed.status = Some(status);
        self.parsed.set(Field::Status, span(at, at + length));
        Some(at + length)
    }

    fn code(&mut self, at: usize) -> Option<usize> {
        let digits = self.rest(at).get(..3)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.parsed.code = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        Some(at + 3)
    }

    fn number(&mut self, slot: Slot, at: usize) -> Option<usize> {
        let length = self.rest(at).iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return None;
        }
        let value = self.rest(at)[..length].iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
        let small = u32::try_from(value).unwrap_or(u32::MAX);
        match slot {
            Slot::Ignored => {}
            Slot::Count => self.parsed.count = small,
            Slot::Uid => self.parsed.uid = Some(small),
            Slot::Recipients => self.parsed.recipients = small,
            Slot::Bytes => self.parsed.bytes = value,
        }
        Some(at + length)
    }

    /// ` ehlo=1 auth=0/2 commands=1/3` (Postfix ≥ 3.0): `ok/total` where they differ.
    fn commands(&mut self, at: usize) -> Option<usize> {
        let text = self.rest(at);
        if !text.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b' ' | b'=' | b'/' | b'_')) {
            return None;
        }
        self.parsed.count = 0;
        if let Some(place) = find(text, b" auth=") {
            let mut halves = text[place + 6..].split(|byte| *byte == b' ').next().unwrap_or_default().splitn(2, |byte| *byte == b'/');
            let number = |half: Option<&[u8]>| half.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u32>().ok());
            let good = number(halves.next())?;
            self.parsed.count = halves.next().map_or(Some(good), |total| number(Some(total)))?.saturating_sub(good);
        }
        Some(self.line.len())
    }

    fn rest(&self, at: usize) -> &'a [u8] {
        self.line.get(at..).unwrap_or_default()
    }

    fn fail(&mut self, op: usize, at: usize) -> bool {
        if at >= self.progress.reached {
            self.progress.reached = at;
            self.progress.op = op;
        }
        false
    }
}

/// The length of the queue id at the start of `text`, of `NOQUEUE`, or 0. Short ids are six or more upper-case hex digits, long
/// ones (`enable_long_queue_ids`) digits and consonants with a `z` after ten or more.
pub(super) fn queue_id_length(text: &[u8]) -> usize {
    let length = text.iter().take(QUEUE_ID_MAX + 1).take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let id = &text[..length];
    if !(6..=QUEUE_ID_MAX).contains(&length) {
        return 0;
    }
    let is_hex = id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    if is_hex || id == b"NOQUEUE" || is_long_id(id) { length } else { 0 }
}

/// The queue id, or NOQUEUE, that a message starts with and a colon ends.
pub(super) fn leading_queue_id(message: &[u8]) -> usize {
    let length = queue_id_length(message);
    if length > 0 && message[length..].starts_with(b": ") { length } else { 0 }
}

fn is_long_id(id: &[u8]) -> bool {
    id.len() > 11
        && id[10..].contains(&b'z')
        && id.iter().all(|byte| !matches!(byte, b'A' | b'E' | b'I' | b'O' | b'U' | b'a' | b'e' | b'i' | b'o' | b'u'))
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// `fe80::1%eth0`: a neighbour on the link, which is no subject.
fn is_scoped(address: &[u8]) -> bool {
    memchr(b'%', address)
        .is_some_and(|place| parse_ip(&address[..place]).is_some() && address[place + 1..].iter().all(|byte| is_host_byte(*byte)))
}

/// An address as it stands in a log line. The common IPv4 form is read by hand, which is what most lines have.
pub(super) fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    parse_ipv4(text).map(IpAddr::V4).or_else(|| crate::address::parse(text))
}

fn parse_ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    if !(7..=15).contains(&text.len()) {
        return None;
    }
    let (mut address, mut octet, mut digits, mut dots) = (0u32, 0u32, 0, 0);
    for &byte in text {
        match byte {
            b'0'..=b'9' if digits < 3 => {
                octet = octet * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' if digits > 0 && octet < 256 && dots < 3 => {
                address = address << 8 | octet;
                (octet, digits) = (0, 0);
                dots += 1;
            }
            _ => return None,
        }
    }
    (dots == 3 && digits > 0 && octet < 256).then(|| Ipv4Addr::from(address << 8 | octet))
}

/// The first place of `literal`.
fn find(text: &[u8], literal: &[u8]) -> Option<usize> {
    let (&first, tail) = literal.split_first()?;
    let mut at = 0;
    loop {
        at += memchr(first, text.get(at..)?)?;
        if text[at + 1..].starts_with(tail) {
            return Some(at);
        }
        at += 1;
    }
}

/// The last place of `literal`.
fn rfind(text: &[u8], literal: &[u8]) -> Option<usize> {
    let (&first, tail) = literal.split_first()?;
    let mut limit = text.len();
    loop {
        let at = memrchr(first, &text[..limit])?;
        if text[at + 1..].starts_with(tail) {
            return Some(at);
        }
        limit = at;
    }
}

fn end_of(text: &[u8], literal: &[u8]) -> Option<usize> {
    text.ends_with(literal).then(|| text.len() - literal.len())
}

/// The last place of `literal` that starts before the first space.
fn longest(text: &[u8], literal: &[u8]) -> Option<usize> {
    let run = memchr(b' ', text).unwrap_or(text.len());
    rfind(&text[..(run + literal.len() - 1).min(text.len())], literal)
}

/// The end of a mail address in Postfix's external form: `user@domain` or `"any bytes, \" escaped"@domain`, or nothing.
fn address(text: &[u8], literal: &[u8]) -> Option<usize> {
    let mut quoted = 0;
    if text.first() == Some(&b'"') {
        let mut at = 1;
        loop {
            at += memchr2(b'"', b'\\', text.get(at..)?)?;
            if text[at] == b'"' {
                break;
            }
            at += 2;
        }
        quoted = at + 1;
    }
    let length = find(&text[quoted..], literal)?;
    let plain = &text[quoted..quoted + length];
    (!plain.iter().any(|byte| matches!(byte, b' ' | b'"' | b'<' | b'>'))).then_some(quoted + length)
}

fn span(start: usize, end: usize) -> Span {
    Span { start: start as u16, len: end.saturating_sub(start) as u16 }
}
