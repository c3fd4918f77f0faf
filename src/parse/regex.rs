//! Patterns as regular expressions, for what a template cannot say. Bytes, no Unicode classes, anchored at both ends.
//!
//! A named group is a field: `(?<client>…)` takes `name[addr]`, `(?<ip>…)` an address, `(?<queue_id>…)` and so on, with `_`
//! where a template writes `-`.

use regex::bytes::{CaptureLocations, Regex, RegexBuilder};

use super::matcher::Matcher;
use super::template::{Op, Slot, TemplateError, Word, nearest};

/// Compiled size of one regex.
const SIZE_MAX: usize = 4 << 20;

#[derive(Clone, Debug)]
pub(super) struct RegexPattern {
    regex: Regex,
    /// Group number and how its text is read.
    groups: Vec<(usize, Op)>,
    /// The byte that every match starts with.
    first: Option<u8>,
}

impl RegexPattern {
    pub fn compile(text: &str) -> Result<RegexPattern, TemplateError> {
        let refuse =
            |message: String, help: Option<&str>| Err(TemplateError { span: 0..text.len(), message, help: help.map(str::to_owned) });
        if !text.starts_with('^') || !text.ends_with('$') || text.ends_with(r"\$") {
            return refuse(
                "a regex must start with `^` and end with `$`".into(),
                Some("an unanchored pattern lets the client's text stand in for the server's"),
            );
        }
        let build = || RegexBuilder::new(&format!(r"\A(?:{text})\z")).unicode(false).size_limit(SIZE_MAX).build();
        let regex = match build() {
            Ok(regex) => regex,
            Err(error) => return refuse(format!("not a regular expression: {}", error.to_string().replace('\n', " ")), None),
        };
        let mut groups = Vec::new();
        for (index, name) in regex.capture_names().enumerate() {
            let Some(name) = name else { continue };
            let Some(op) = name.replace('_', "-").parse::<Word>().ok().and_then(Word::group) else {
                let help = nearest(&name.replace('_', "-")).map(|near| format!("did you mean `{}`?", near.replace('-', "_")));
                return refuse(format!("a group may not be named `{name}`"), help.as_deref());
            };
            groups.push((index, op));
        }
        Ok(RegexPattern { regex, groups, first: first_byte(text) })
    }

    pub fn first_byte(&self) -> Option<u8> {
        self.first
    }

    pub fn counts(&self) -> bool {
        self.groups.iter().any(|(_, op)| matches!(op, Op::Number(Slot::Count)))
    }

    pub fn scratch(&self) -> CaptureLocations {
        self.regex.capture_locations()
    }

    /// Whether the message fits; if so the fields are set. Each group is read like the template field of that name.
    pub fn matches(&self, matcher: &mut Matcher<'_>, scratch: &mut CaptureLocations) -> bool {
        let (line, start) = (matcher.line, matcher.start);
        let message = line.get(start..).unwrap_or_default();
        if self.regex.captures_read(scratch, message).is_none() {
            return false;
        }
        self.groups.iter().all(|(index, op)| match scratch.get(*index) {
            None => true,
            Some((from, to)) => {
                matcher.line = &line[..start + to];
                let good = matcher.part(op, start + from);
                matcher.line = line;
                good
            }
        })
    }
}

/// The byte after `^` if it is a plain one that must stand there.
fn first_byte(text: &str) -> Option<u8> {
    let bytes = text.as_bytes();
    let first = *bytes.get(1)?;
    let plain = first.is_ascii_alphanumeric() || matches!(first, b' ' | b'<' | b':' | b'/' | b'"');
    let repeated = matches!(bytes.get(2), Some(b'*' | b'?' | b'{'));
    (plain && !repeated && !text.contains('|') && !text.contains("(?i")).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused() {
        let cases = [
            ("x$", "start with"),
            ("^x", "start with"),
            (r"^x\$", "start with"),
            ("^(x$", "not a regular expression"),
            ("^(?<cliant>x)$", "named `cliant`"),
            ("^(?<rest>x)$", "named `rest`"),
        ];
        for (text, message) in cases {
            let error = RegexPattern::compile(text).unwrap_err();
            assert!(error.message.contains(message), "{text}: {error:?}");
        }
    }

    #[test]
    fn the_first_byte_is_known_only_where_it_must_stand() {
        for (text, expected) in
            [("^Failed x$", Some(b'F')), ("^F?x$", None), ("^a|b$", None), ("^(a)$", None), ("^[a]$", None), ("^(?i)a$", None)]
        {
            assert_eq!(RegexPattern::compile(text).unwrap().first_byte(), expected, "{text}");
        }
    }
}
