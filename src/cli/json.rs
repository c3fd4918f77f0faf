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

/// Most text needs no escaping: it is looked at, and copied, in pieces.
fn escape(text: &str, out: &mut Vec<u8>) {
    // Pieces of a known length are looked at in one go.
    let (pieces, rest) = text.as_bytes().as_chunks::<PIECE>();
    for piece in pieces {
        if piece.iter().fold(false, |any, byte| any | is_special(*byte)) {
            escape_bytes(piece, out);
        } else {
            out.extend_from_slice(piece);
        }
    }
    if rest.iter().any(|byte| is_special(*byte)) { escape_bytes(rest, out) } else { out.extend_from_slice(rest) }
}

fn escape_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            byte if is_special(byte) => write!(out, "\\u{byte:04x}").expect("a Vec takes everything"),
            byte => out.push(byte),
        }
    }
}

const PIECE: usize = 32;

const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

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
