//! Which of a pattern's reasons a line has, by its reply code and by the server's own words.
//!
//! **Invariant:** what the client wrote does not choose the reason. A Postfix reply begins with the client's text in brackets,
//! `<rcpt>: Recipient address rejected: …`, and that text may itself hold `>: Relay access denied`. So the server's words are
//! looked for behind the *last* `>: ` at which words of the table stand; a reply that does not begin with `<` is the server's
//! from its first byte.

use memchr::memmem;

use super::{Field, Parsed};
use crate::event::Reason;

/// One row: the first that holds gives the reason. Conditions left out hold always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReasonRow {
    /// How the server's words begin.
    pub words: Option<Box<[u8]>>,
    /// Texts of which one stands anywhere in the reply, in lower case; empty: none need. For what a remote server answers a message of
    /// ours, all of which is that server's to choose.
    pub contains: Box<[Box<[u8]>]>,
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
                row.contains.iter().any(|wanted| memmem::find(lowered, wanted).is_some())
            })
            && row.words.as_ref().is_none_or(|start| words.is_some_and(|words| words.starts_with(start)))
            && row.code.as_ref().is_none_or(|start| parsed.code > 0 && code.starts_with(start))
    })
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
