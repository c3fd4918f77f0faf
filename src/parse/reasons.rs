//! Which of a pattern's reasons a line has, by its reply code and by the server's own words.
//!
//! **Invariant:** what the client wrote does not choose the reason. A Postfix reply begins with the client's text in brackets,
//! `<rcpt>: Recipient address rejected: …`, and that text may itself hold `>: Relay access denied`. So the server's words are
//! looked for behind the *last* `>: ` at which words of the table stand; a reply that does not begin with `<` is the server's
//! from its first byte.

use memchr::memmem::{self, Finder};

use super::{Field, Parsed};
use crate::event::Reason;

/// One row: the first that holds gives the reason. Conditions left out hold always.
#[derive(Clone, Debug)]
pub(super) struct ReasonRow {
    /// How the server's words begin.
    pub words: Option<Box<[u8]>>,
    /// Texts of which one stands anywhere in the reply, in lower case; empty: none need. For what a remote server answers a message of
    /// ours, all of which is that server's to choose.
    pub contains: Vec<Finder<'static>>,
    /// An address stands in what a remote server answers: ours, as its own stands before that.
    pub names_address: bool,
    /// First digits of the reply code, such as `45`.
    pub code: Option<Box<[u8]>>,
    /// First bytes of the enhanced status code, such as `4.3.`.
    pub dsn: Option<Box<[u8]>>,
    pub reason: Reason,
    pub weak: bool,
}

/// The row of `rows` that holds for a matched line.
pub(super) fn choose<'a>(rows: &'a [ReasonRow], parsed: &Parsed, line: &[u8]) -> Option<&'a ReasonRow> {
    let text = parsed.text(line, Field::Text).unwrap_or_default();
    let words = server_words(rows, text);
    let code = [b'0' + (parsed.code / 100 % 10) as u8, b'0' + (parsed.code / 10 % 10) as u8, b'0' + (parsed.code % 10) as u8];
    let dsn = parsed.text(line, Field::Dsn).unwrap_or_default();
    let mut lowered: Option<Vec<u8>> = None;
    rows.iter().find(|row| {
        row.dsn.as_ref().is_none_or(|start| dsn.starts_with(start))
            && (row.contains.is_empty() || {
                let lowered = lowered.get_or_insert_with(|| text.to_ascii_lowercase());
                row.contains.iter().any(|wanted| wanted.find(lowered).is_some())
            })
            && (!row.names_address || names_address(text))
            && row.words.as_ref().is_none_or(|start| words.is_some_and(|words| words.starts_with(start)))
            && row.code.as_ref().is_none_or(|start| parsed.code > 0 && code.starts_with(start))
    })
}

/// Postfix writes `host NAME[ADDRESS] said: ` before a remote server's words; in these an address is looked for.
fn names_address(text: &[u8]) -> bool {
    const SAID: &[u8] = b"] said: ";
    let words = memmem::find(text, SAID).and_then(|at| text.get(at + SAID.len()..)).unwrap_or(text);
    let tokens = words.split(|byte| !byte.is_ascii_hexdigit() && !matches!(byte, b'.' | b':'));
    let texts = tokens.filter(|token| token.len() >= 6).filter_map(|token| std::str::from_utf8(token).ok());
    texts.map(|token| token.trim_matches(['.', ':'])).any(|token| token.parse::<std::net::IpAddr>().is_ok())
}

/// Where in a reply the server's own words begin; `None` where none of the table's stand at a place the client cannot reach.
fn server_words<'a>(rows: &[ReasonRow], text: &'a [u8]) -> Option<&'a [u8]> {
    let known = |words: &[u8]| {
        rows.iter().any(|row| row.words.as_ref().is_some_and(|start| words.first() == start.first() && words.starts_with(start)))
    };
    if text.first() != Some(&b'<') {
        return known(text).then_some(text);
    }
    let mut limit = text.len();
    for _ in 0..16 {
        let place = memmem::rfind(&text[..limit], b">: ")?;
        let words = &text[place + 3..];
        if known(words) {
            return Some(words);
        }
        limit = place;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_the_answer_is_ours() {
        let cases = [
            ("host mx[198.51.100.1] said: 554 5.7.1 Client host [192.0.2.1] blocked using x", true),
            ("host mx[198.51.100.1] said: 554 5.7.1 listed at 1.2.0.192.zen.example.", true),
            ("host mx[2001:db8::9] said: 550 5.7.1 [2001:db8::25      12] on our block list", true),
            ("host mx[198.51.100.1] said: 554 5.7.1 URL evil.example listed in dbl.example", false),
            ("host mx[198.51.100.1] said: 554 5.7.1 refused; error 1234567, 5.7.1, 10:20:30", false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(names_address(text.as_bytes()), expected, "{text}");
        }
    }
}
