//! Walks a template over a message, from its first byte to its last. No allocation; every free text is found by `memchr`, and
//! the ways to read a line are capped by [`STEPS_MAX`].

use std::net::IpAddr;

use memchr::memchr;

use super::scan::{NOQUEUE, address, end_of, find, is_host_byte, is_scoped, longest, queue_id_length, rfind, starts_with, word};
use super::template::{Class, Ends, Op, Slot};
use super::{Field, Parsed, Span, ip};
use crate::event::DeliveryStatus;

/// Steps of one try. A line written to be read in a thousand ways is not recognised.
const STEPS_MAX: u32 = 4_096;
/// Places that `:last` looks at.
const PLACES_MAX: u32 = 64;

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
                Op::Literal(literal) => starts_with(self.rest(at), literal).then(|| at + literal.len()),
                Op::Free { field, class, ends } => match ops.get(index + 1) {
                    Some(Op::Literal(literal)) if *ends == Ends::First => {
                        let end = self.free(*field, *class, at, literal, index + 2 == ops.len());
                        index += usize::from(end.is_some());
                        end
                    }
                    Some(Op::Literal(_)) => return self.free_last(ops, index, at),
                    _ => return self.free_before_group(ops, index, index + 1, at),
                },
                Op::Optional { end } => {
                    // Most groups are missing, and their first literal shows it.
                    let absent = matches!(ops.get(index + 1), Some(Op::Literal(literal)) if !starts_with(self.rest(at), literal));
                    if absent {
                        self.fail(index + 1, at);
                    } else {
                        let kept = self.parsed.save();
                        if self.run(ops, index + 1, at) {
                            return true;
                        }
                        self.parsed.restore(kept);
                    }
                    index = *end;
                    continue;
                }
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
            };
            match next {
                Some(position) => at = position,
                None => return self.fail(index, at),
            }
            index += 1;
        }
    }

    /// Free text at `at` that ends at `literal`: where the literal ends. `closes`: it is the last of the template.
    fn free(&mut self, field: Option<Field>, class: Class, at: usize, literal: &[u8], closes: bool) -> Option<usize> {
        let text = self.rest(at);
        let length = match class {
            Class::Any if closes => end_of(text, literal),
            Class::Any => find(text, literal),
            Class::NoSpace => word(text, literal),
            Class::Longest => longest(text, literal),
            Class::Address => address(text, literal),
        }?;
        self.note(field, at, at + length);
        Some(at + length + literal.len())
    }

    /// Free text behind which an optional group or the end of the template stands (at `next`), and everything behind it.
    fn free_before_group(&mut self, ops: &[Op], index: usize, next: usize, at: usize) -> bool {
        let Some(Op::Free { field, class, .. }) = ops.get(index) else {
            return false;
        };
        match ops.get(next) {
            None => self.take(*field, *class, at, self.line.len()) || self.fail(index, at),
            Some(Op::Literal(literal)) => match self.free(*field, *class, at, literal, next + 1 == ops.len()) {
                Some(end) => self.run(ops, next + 1, end),
                None => self.fail(index, at),
            },
            Some(Op::Optional { end }) => {
                let kept = self.parsed.save();
                if self.free_before_group(ops, index, next + 1, at) {
                    return true;
                }
                self.parsed.restore(kept);
                self.free_before_group(ops, index, *end, at)
            }
            Some(_) => self.fail(index, at),
        }
    }

    /// Free text that ends at the last, or the only, place of the literal behind it from which the rest of the template fits.
    fn free_last(&mut self, ops: &[Op], index: usize, at: usize) -> bool {
        let (Some(Op::Free { field, class, ends }), Some(Op::Literal(literal))) = (ops.get(index), ops.get(index + 1)) else {
            return false;
        };
        let kept = self.parsed.save();
        let mut found: Option<Parsed> = None;
        let mut limit = self.line.len();
        for _ in 0..PLACES_MAX {
            let Some(length) = self.line.get(at..limit).and_then(|text| rfind(text, literal)) else {
                break;
            };
            if self.take(*field, *class, at, at + length) && self.run(ops, index + 2, at + length + literal.len()) {
                if *ends == Ends::Last {
                    return true;
                }
                if found.is_some() {
                    return self.fail(index, at);
                }
                found = Some(*self.parsed);
            }
            self.parsed.restore(kept);
            limit = at + length + literal.len() - 1;
        }
        match found {
            Some(parsed) => {
                *self.parsed = parsed;
                true
            }
            None => self.fail(index, at),
        }
    }

    /// Notes a value if its bytes are such as the class allows.
    fn take(&mut self, field: Option<Field>, class: Class, start: usize, end: usize) -> bool {
        if matches!(class, Class::NoSpace | Class::Longest) && memchr(b' ', self.line.get(start..end).unwrap_or_default()).is_some() {
            return false;
        }
        self.note(field, start, end);
        true
    }

    fn note(&mut self, field: Option<Field>, start: usize, end: usize) {
        let Some(field) = field else {
            return;
        };
        // What the client did not tell is no account.
        if field == Field::Account && (start == end || self.line.get(start..end) == Some(b"(unavailable)")) {
            return;
        }
        self.parsed.set(field, Span::new(start, end));
    }

    /// `name[addr]` or `name[addr]:port` (a number or `unknown`), or `local` for mail from the sendmail command. Postfix lets only host name bytes into a name, so it cannot forge an address.
    fn client(&mut self, at: usize) -> Option<usize> {
        let text = self.rest(at);
        // Most clients that do harm have no name.
        let name = if starts_with(text, b"unknown[") { 7 } else { text.iter().position(|byte| !is_host_byte(*byte))? };
        if &text[..name] == b"local" && text[name] != b'[' {
            self.parsed.set(Field::ClientName, Span::new(at, at + name));
            return Some(at + name);
        }
        if name == 0 || text[name] != b'[' {
            return None;
        }
        let close = match ip::ipv4_at(&text[name + 1..]) {
            Some((address, length)) if text.get(name + 1 + length) == Some(&b']') => {
                self.parsed.client = Some(IpAddr::V4(address));
                name + 1 + length
            }
            _ => {
                let close = memchr(b']', text)?;
                let address = text.get(name + 1..close)?;
                self.parsed.client = ip::parse(address);
                if self.parsed.client.is_none() && address != b"unknown" && !is_scoped(address) {
                    return None;
                }
                close
            }
        };
        self.parsed.set(Field::ClientName, Span::new(at, at + name));
        let mut end = close + 1;
        if text.get(end) == Some(&b':') {
            let port = &text[end + 1..];
            let digits = port.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let length = if starts_with(port, b"unknown") { 7 } else { digits };
            end += if length > 0 { length + 1 } else { 0 };
        }
        Some(at + end)
    }

    fn ip(&mut self, at: usize) -> Option<usize> {
        let mut length = self.rest(at).iter().take_while(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':')).count();
        // A colon behind an address is punctuation: `192.0.2.1: text`.
        if length > 0 && self.rest(at)[length - 1] == b':' && !self.rest(at)[..length].ends_with(b"::") {
            length -= 1;
        }
        self.parsed.client = Some(ip::parse(&self.rest(at)[..length])?);
        Some(at + length)
    }

    fn queue_id(&mut self, field: Field, at: usize) -> Option<usize> {
        let length = if at == self.start { self.queue_id } else { queue_id_length(self.rest(at)) };
        if length == 0 {
            return None;
        }
        if &self.rest(at)[..length] != NOQUEUE {
            self.parsed.set(field, Span::new(at, at + length));
        }
        Some(at + length)
    }

    fn run_of(&mut self, field: Field, at: usize, allowed: impl Fn(u8) -> bool) -> Option<usize> {
        let length = self.rest(at).iter().take_while(|byte| allowed(**byte)).count();
        self.parsed.set(field, Span::new(at, at + length));
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
        self.parsed.set(Field::Dsn, Span::new(at, at + length));
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
        self.parsed.set(Field::Status, Span::new(at, at + length));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::scan::leading_queue_id;
    use crate::parse::template::Template;
    use crate::parse::{Envelope, EnvelopeReader};

    fn envelope() -> Envelope {
        let mut reader = EnvelopeReader::new(jiff::tz::TimeZone::UTC, crate::time::Timestamp::ZERO, false);
        reader.read(b"Jan  1 00:00:00 h p: m", None).unwrap()
    }

    /// `ip|count|code|field=value …` of what `template` reads from `message`, or `-`.
    fn read(template: &str, message: &str) -> String {
        let ops = Template::compile(template).unwrap().ops;
        let mut parsed = Parsed::new(&envelope(), crate::event::Service::Other);
        let line = message.as_bytes();
        let queue_id = leading_queue_id(line);
        if !(Matcher { line, start: 0, queue_id, parsed: &mut parsed, progress: Progress::default() }).matches(&ops) {
            return "-".to_owned();
        }
        let mut shown = vec![parsed.client.map(|ip| ip.to_string()).unwrap_or_default(), parsed.count.to_string(), parsed.code.to_string()];
        shown
            .extend(Field::ALL.iter().filter_map(|field| Some(format!("{field}={}", String::from_utf8_lossy(parsed.text(line, *field)?)))));
        shown.join("|")
    }

    #[test]
    fn templates_read_by_position() {
        let cases = [
            ("a <client> b", "a x.y[192.0.2.1] b", "192.0.2.1|1|0|client-name=x.y"),
            ("a <client>", "a x[2001:db8::1]:25", "2001:db8::1|1|0|client-name=x"),
            ("a <client>: b", "a x[192.0.2.1]:unknown: b", "192.0.2.1|1|0|client-name=x"),
            ("a <client>", "a x[unknown]", "|1|0|client-name=x"),
            ("a <client>", "a x[fe80::1%eth0]", "|1|0|client-name=x"),
            ("a <client>", "a local", "-"),
            ("a <client>;", "a local;", "|1|0|client-name=local"),
            ("a <client>", "a x y[192.0.2.1]", "-"),
            ("a <client>", "a [192.0.2.1]", "-"),
            ("a <client>", "a x[192.0.2.256]", "-"),
            (r"a \[<ip>\]", "a [::ffff:192.0.2.1]", "192.0.2.1|1|0"),
            ("a <ip>: b", "a 192.0.2.1: b", "192.0.2.1|1|0"),
            ("<queue-id>: x", "4BB3B9B0516: x", "|1|0|queue-id=4BB3B9B0516"),
            ("<queue-id>: x", "4XYZBC12Fgz9bcd: x", "|1|0|queue-id=4XYZBC12Fgz9bcd"),
            ("<queue-id>: x", "NOQUEUE: x", "|1|0"),
            ("<queue-id>: x", "abcdef: x", "-"),
            ("<queue-id>: x", "ABCDE: x", "-"),
            ("a <code> <dsn> b", "a 554 5.7.1 b", "|1|554|dsn=5.7.1"),
            ("a <code> b", "a 55x b", "-"),
            ("a <dsn> b", "a 5.7 b", "-"),
            ("a<commands>", "a ehlo=1 auth=1/4 quit=1 commands=3/6", "|3|0"),
            ("a<commands>", "a auth=2", "|0|0"),
            ("a<commands>", "a", "|0|0"),
            ("a<commands>", "a X=1", "-"),
            ("<count> n", "99999999999999999999 n", "|4294967295|0"),
            ("u=<account>, x", "u=a, b, x", "|1|0|account=a, b"),
            ("u=<account>, x<rest>", "u=a, x, x", "|1|0|account=a"),
            ("u=<account:last>, x<rest>", "u=a, x, x", "|1|0|account=a, x"),
            ("u=<account:only>, x<rest>", "u=a, x, x", "-"),
            ("u=<account:only>, x", "u=a, x, x", "|1|0|account=a, x"),
            ("u=<account>", "u=(unavailable)", "|1|0"),
            ("t=<text>[, u=<account>][, v=<rest>]", "t=a, u=b, v=c", "|1|0|account=b|text=a"),
            ("t=<text>[, u=<account>][, v=<rest>]", "t=a, v=c, u=b", "|1|0|account=b|text=a, v=c"),
            ("t=<text>[, u=<account>]", "t=a", "|1|0|text=a"),
            ("from=<<sender>> x", "from=<a@b> x", "|1|0|sender=a@b"),
            ("from=<<sender>> x", "from=<> x", "|1|0|sender="),
            ("from=<<sender>> x", r#"from=<"a> x\" \\"@b> x"#, r#"|1|0|sender="a> x\" \\"@b"#),
            ("from=<<sender>> x", r#"from=<"a> x"#, "-"),
            ("from=<<sender>> x", "from=<a b> x", "-"),
            ("helo=<<helo>>[: <rest>]", "helo=<a>b>: c>", "|1|0|helo=a>b"),
            ("helo=<<helo>>", "helo=<a b>", "-"),
            ("after <command> from", "after  from", "-"),
            ("a: <reply>", "a: 5.7.1 no", "|1|0"),
            ("a: <reply>", "a: b; from=<c", "-"),
        ];
        for (template, message, expected) in cases {
            assert_eq!(read(template, message), expected, "{template} on {message}");
        }
    }

    #[test]
    fn a_line_with_a_thousand_ways_to_read_it_is_given_up() {
        let message = format!("a{}", ", b".repeat(2_000));
        assert_eq!(read("a<text:last>, b<account:last>, b[, b][, b][, b][, b][, b][, b]x", &message), "-");
    }
}
