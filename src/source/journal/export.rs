//! The journal's export format (systemd.io/JOURNAL_EXPORT_FORMATS), read piece by piece. Pure.
//!
//! A field is `NAME=text\n`, or `NAME\n`, the length as 64 bits little-endian, that many bytes, `\n`. A blank line ends the
//! entry. Names with one or two leading underscores come from journald and cannot be set by whoever logged.

use crate::limits::LINE_BYTES_MAX;

/// Keeps what it needs of one entry at a time; nothing that it is fed makes it grow beyond its caps.
#[derive(Debug, Default)]
pub(super) struct ExportParser {
    state: State,
    name: Vec<u8>,
    /// The field whose value is being read; `None`: one that nobody needs.
    current: Option<Field>,
    entry: Entry,
    /// Whether `entry` was handed out and is to be cleared.
    is_done: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Name,
    Text,
    /// The bytes of the length so far, and how many.
    Length([u8; 8], usize),
    Binary(u64),
    BinaryEnd,
}

/// The fields of an entry that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Message,
    Identifier,
    SyslogPid,
    Pid,
    Uid,
    Comm,
    Hostname,
    Realtime,
    Cursor,
}

const FIELDS: [(&[u8], Field); 9] = [
    (b"MESSAGE", Field::Message),
    (b"SYSLOG_IDENTIFIER", Field::Identifier),
    (b"SYSLOG_PID", Field::SyslogPid),
    (b"_PID", Field::Pid),
    (b"_UID", Field::Uid),
    (b"_COMM", Field::Comm),
    (b"_HOSTNAME", Field::Hostname),
    (b"__REALTIME_TIMESTAMP", Field::Realtime),
    (b"__CURSOR", Field::Cursor),
];

const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 512;

/// One entry of the journal.
#[derive(Debug, Default)]
pub(super) struct Entry {
    values: [Vec<u8>; FIELDS.len()],
    /// Bit by field: it was there.
    seen: u16,
    pub is_message_cut: bool,
}

impl Entry {
    /// The value, cut at its cap.
    pub fn get(&self, field: Field) -> Option<&[u8]> {
        if self.seen & (1 << field as u16) == 0 { None } else { self.values.get(field as usize).map(Vec::as_slice) }
    }

    pub fn number(&self, field: Field) -> Option<u64> {
        let text = self.get(field)?;
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(text).ok()?.parse().ok()
    }

    fn clear(&mut self) {
        self.values.iter_mut().for_each(Vec::clear);
        self.seen = 0;
        self.is_message_cut = false;
    }

    fn append(&mut self, field: Field, bytes: &[u8]) {
        let cap = if field == Field::Message { LINE_BYTES_MAX } else { VALUE_BYTES_MAX };
        let Some(value) = self.values.get_mut(field as usize) else { return };
        let room = cap.saturating_sub(value.len());
        value.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.is_message_cut |= field == Field::Message && bytes.len() > room;
    }
}

impl ExportParser {
    /// Takes from the start of `input`, which it never asks for again, and says how much it took. It stops early only
    /// behind a whole entry, which [`ExportParser::entry`] then gives until the next call.
    pub fn take(&mut self, input: &[u8]) -> usize {
        if std::mem::take(&mut self.is_done) {
            self.entry.clear();
        }
        let mut rest = input;
        while !rest.is_empty() && !self.is_done {
            let count = self.step(rest);
            rest = rest.get(count..).unwrap_or_default();
        }
        input.len() - rest.len()
    }

    /// The entry that [`ExportParser::take`] stopped behind.
    pub fn entry(&self) -> Option<&Entry> {
        self.is_done.then_some(&self.entry)
    }

    /// Forgets the entry that was begun: the stream starts anew.
    pub fn reset(&mut self) {
        self.state = State::Name;
        self.name.clear();
        self.entry.clear();
        self.is_done = false;
    }

    fn step(&mut self, input: &[u8]) -> usize {
        match self.state {
            State::Name => self.name(input),
            State::Text => self.text(input),
            State::Length(bytes, count) => self.length(input, bytes, count),
            State::Binary(left) => self.binary(input, left),
            State::BinaryEnd => {
                self.state = State::Name;
                1
            }
        }
    }

    fn name(&mut self, input: &[u8]) -> usize {
        let end = memchr::memchr2(b'=', b'\n', input);
        let part = input.get(..end.unwrap_or(input.len())).unwrap_or_default();
        // One byte beyond the cap tells a long name from every known one.
        let room = (NAME_BYTES_MAX + 1).saturating_sub(self.name.len());
        self.name.extend_from_slice(part.get(..room).unwrap_or(part));
        let Some(end) = end else { return input.len() };
        if input.get(end) == Some(&b'=') {
            self.begin_value();
            self.state = State::Text;
        } else if self.name.is_empty() {
            self.is_done = self.entry.seen != 0;
        } else {
            self.begin_value();
            self.state = State::Length([0; 8], 0);
        }
        self.name.clear();
        end + 1
    }

    /// A field given twice counts by its first value.
    fn begin_value(&mut self) {
        let known = FIELDS.iter().find(|(name, _)| *name == self.name.as_slice()).map(|(_, field)| *field);
        self.current = known.filter(|field| self.entry.seen & (1 << *field as u16) == 0);
        if let Some(field) = self.current {
            self.entry.seen |= 1 << field as u16;
        }
    }

    fn text(&mut self, input: &[u8]) -> usize {
        let end = memchr::memchr(b'\n', input);
        let part = input.get(..end.unwrap_or(input.len())).unwrap_or_default();
        self.append(part);
        match end {
            Some(end) => {
                self.state = State::Name;
                end + 1
            }
            None => input.len(),
        }
    }

    fn length(&mut self, input: &[u8], mut bytes: [u8; 8], mut count: usize) -> usize {
        let mut taken = 0;
        for (slot, byte) in bytes.iter_mut().skip(count).zip(input) {
            *slot = *byte;
            taken += 1;
        }
        count += taken;
        self.state = match count {
            8 if u64::from_le_bytes(bytes) == 0 => State::BinaryEnd,
            8 => State::Binary(u64::from_le_bytes(bytes)),
            _ => State::Length(bytes, count),
        };
        taken
    }

    fn binary(&mut self, input: &[u8], left: u64) -> usize {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        self.append(input.get(..count).unwrap_or_default());
        let left = left - count as u64;
        self.state = if left == 0 { State::BinaryEnd } else { State::Binary(left) };
        count
    }

    fn append(&mut self, part: &[u8]) {
        if let Some(field) = self.current {
            self.entry.append(field, part);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Message and uid of every entry, the input cut into pieces of `step` bytes.
    fn entries(input: &[u8], step: usize) -> Vec<(Vec<u8>, Option<u64>)> {
        let mut parser = ExportParser::default();
        let mut found = Vec::new();
        for piece in input.chunks(step.max(1)) {
            let mut rest = piece;
            while !rest.is_empty() {
                rest = &rest[parser.take(rest)..];
                if let Some(entry) = parser.entry() {
                    found.push((entry.get(Field::Message).unwrap_or_default().to_vec(), entry.number(Field::Uid)));
                }
            }
        }
        found
    }

    fn binary(name: &str, value: &[u8]) -> Vec<u8> {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(b'\n');
        bytes.extend((value.len() as u64).to_le_bytes());
        bytes.extend(value);
        bytes.push(b'\n');
        bytes
    }

    #[test]
    fn text_and_binary_fields() {
        let mut input = b"__CURSOR=s=1;i=2\nMESSAGE=a=b\n_UID=0\n\n".to_vec();
        input.extend(binary("MESSAGE", b"x\n_UID=0\n\ny"));
        input.extend(b"_UID=33\nMESSAGE=second one\nUNKNOWN=1\n\n\n");
        input.extend(binary("MESSAGE", b""));
        input.extend(b"\nMESSAGE=unfinished\n");
        let expected = vec![(b"a=b".to_vec(), Some(0)), (b"x\n_UID=0\n\ny".to_vec(), Some(33)), (Vec::new(), None)];
        for step in 1..input.len() {
            assert_eq!(entries(&input, step), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn long_values_are_cut() {
        let mut input = binary("MESSAGE", &vec![b'x'; LINE_BYTES_MAX * 3]);
        input.extend([b"_".repeat(100), b"=1\n\n".to_vec()].concat());
        let mut parser = ExportParser::default();
        assert_eq!(parser.take(&input), input.len());
        let entry = parser.entry().unwrap();
        assert_eq!(entry.get(Field::Message).map(<[u8]>::len), Some(LINE_BYTES_MAX));
        assert!(entry.is_message_cut);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same(input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'='), Just(b'M'), Just(0u8), any::<u8>()], 0..400), step in 1usize..50) {
            prop_assert_eq!(entries(&input, step), entries(&input, usize::MAX));
        }
    }
}
