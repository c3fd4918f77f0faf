//! JSON objects of one line, written without building a value: `parse` prints millions of them.

use std::io::Write;

use crate::time::Timestamp;

/// An object being written.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out }
    }

    /// Goes on with an object that was left open at the end of `out`.
    pub(super) fn resume(out: &'a mut Vec<u8>) -> Self {
        Object { out }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    /// A text; bytes that are no UTF-8 become U+FFFD. Nothing for `None`.
    pub(super) fn text(&mut self, key: &str, value: Option<&[u8]>) -> &mut Self {
        if let Some(value) = value {
            self.key(key);
            self.out.push(b'"');
            for chunk in value.utf8_chunks() {
                escape(chunk.valid(), self.out);
                if !chunk.invalid().is_empty() {
                    self.out.extend_from_slice("\u{fffd}".as_bytes());
                }
            }
            self.out.push(b'"');
        }
        self
    }

    pub(super) fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.out.push(b'"');
        escape(value, self.out);
        self.out.push(b'"');
        self
    }

    /// Texts; nothing for an empty list.
    pub(super) fn texts(&mut self, key: &str, values: &[String]) -> &mut Self {
        if values.is_empty() {
            return self;
        }
        self.key(key);
        for (place, value) in values.iter().enumerate() {
            self.out.extend_from_slice(if place == 0 { b"[\"" } else { b",\"" });
            escape(value, self.out);
            self.out.push(b'"');
        }
        self.out.push(b']');
        self
    }

    /// A text that needs no escaping.
    pub(super) fn word(&mut self, key: &str, value: &str) -> &mut Self {
        self.shown(key, format_args!("\"{value}\""))
    }

    pub(super) fn time(&mut self, key: &str, value: Timestamp) -> &mut Self {
        self.key(key);
        self.out.push(b'"');
        value.write_rfc3339(&mut Utf8(self.out)).expect("a Vec takes everything");
        self.out.push(b'"');
        self
    }

    pub(super) fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.shown(key, value)
    }

    /// `true`, or nothing.
    pub(super) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        if value { self.shown(key, value) } else { self }
    }

    /// A value that is JSON as it is displayed.
    pub(super) fn shown(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Self {
        self.key(key);
        write!(self.out, "{value}").expect("a Vec takes everything");
        self
    }

    fn key(&mut self, key: &str) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// Takes text into bytes.
struct Utf8<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Most text needs no escaping, and is copied in runs.
fn escape(text: &str, out: &mut Vec<u8>) {
    let mut bytes = text.as_bytes();
    loop {
        let (plain, rest) = bytes.split_at(plain_length(bytes));
        out.extend_from_slice(plain);
        let Some((special, rest)) = rest.split_first() else { return };
        match special {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *special]),
            control => write!(out, "\\u{control:04x}").expect("a Vec takes everything"),
        }
        bytes = rest;
    }
}

/// How many bytes at the beginning need no escaping. Eight are looked at together.
fn plain_length(bytes: &[u8]) -> usize {
    let whole = bytes.as_chunks::<8>().0.iter().take_while(|word| !has_special(u64::from_le_bytes(**word))).count() * 8;
    whole + bytes[whole..].iter().take_while(|byte| !is_special(**byte)).count()
}

/// Whether a byte in it may be special, all eight in parallel: the highest bit of each says whether a subtraction borrowed.
const fn has_special(word: u64) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHEST: u64 = ONES << 7;
    const fn has_below(word: u64, limit: u64) -> u64 {
        word.wrapping_sub(ONES * limit) & !word & HIGHEST
    }
    const fn has(word: u64, byte: u8) -> u64 {
        has_below(word ^ (ONES * byte as u64), 1)
    }
    has_below(word, 0x20) | has(word, b'"') | has(word, b'\\') | has(word, 0x7f) != 0
}

const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_special_byte_is_seen_wherever_it_stands() {
        for byte in 0..=255 {
            for place in 0..8 {
                let mut word = *b"ordinary";
                word[place] = byte;
                assert_eq!(has_special(u64::from_le_bytes(word)), is_special(byte), "{byte} at {place}");
                assert_eq!(plain_length(&word), if is_special(byte) { place } else { 8 });
            }
        }
    }

    #[test]
    fn any_bytes_become_valid_json() {
        let all: Vec<u8> = (0..=255).collect();
        for text in [&b""[..], b"a\"b\\c\n\x7f", "\u{2028}\u{202e}\u{e9}".as_bytes(), &all, b"{"] {
            let mut out = Vec::new();
            let mut object = Object::begin(&mut out);
            object
                .text("empty", None)
                .text("a", Some(text))
                .texts("none", &[])
                .texts("two", &["x\\".to_owned(), String::new()])
                .number("n", 7)
                .flag("no", false)
                .flag("yes", true)
                .word("w", "x");
            object.end();
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(value["a"], *String::from_utf8_lossy(text));
            assert_eq!((&value["n"], &value["yes"], &value["w"]), (&7.into(), &true.into(), &"x".into()));
            assert_eq!(value["two"], serde_json::json!(["x\\", ""]));
            assert_eq!(value.as_object().unwrap().len(), 5);
        }
    }
}
