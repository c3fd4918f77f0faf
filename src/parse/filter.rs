//! Filter files: TOML → checked patterns. `docs/filters.md` describes the format.
//!
//! Raw structs keep the place of every value, so that all mistakes of all files are told at once, each with its bytes.

use std::ops::Range;

use memchr::memmem::Finder;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::LineKind;
use super::reasons::ReasonRow;
use super::regex::RegexPattern;
use super::template::{Op, Slot, Template, TemplateError};
use crate::event::words;
use crate::event::{Reason, Service};

/// One filter file as it was read.
#[derive(Clone, Debug)]
pub struct FilterSource {
    /// Its path, for messages; files count in the order in which they are given.
    pub file: String,
    pub text: String,
}

/// One mistake in a filter file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    pub file: String,
    /// Bytes of the file's text.
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

words! {
    /// How the programs of a filter name themselves in the log.
    TagForm {
        /// The tag is the program.
        Plain = "plain",
        /// `SYSLOG_NAME[/SERVICE]/DAEMON`, under any syslog_name.
        Postfix = "postfix",
        /// The tag is `dovecot` and the message starts with the process: `imap-login: …`, `auth(…): …`.
        Dovecot = "dovecot",
    }
}

#[derive(Debug)]
pub(super) struct Filter {
    pub name: String,
    pub form: TagForm,
    pub patterns: Vec<Pattern>,
}

#[derive(Debug)]
pub(super) struct Pattern {
    pub name: String,
    /// Index of the file and the pattern's place in it.
    pub file: usize,
    pub span: Range<usize>,
    /// Programs (plain), daemons (Postfix) or processes (Dovecot).
    pub daemons: Vec<String>,
    pub kind: LineKind,
    pub reason: Reason,
    pub service: Option<Service>,
    pub restates: bool,
    pub weak: bool,
    pub rows: Vec<ReasonRow>,
    pub shapes: Vec<Shape>,
    pub samples: Samples,
}

/// One way a line may look, as it was written and as it is run.
#[derive(Debug)]
pub(super) struct Shape {
    pub text: String,
    pub body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Template(Template),
    Regex(Box<RegexPattern>),
}

impl Shape {
    /// Whether the line tells how many failures it stands for.
    pub fn counts(&self) -> bool {
        match &self.body {
            Body::Template(template) => template.ops.iter().any(|op| matches!(op, Op::Commands | Op::Number(Slot::Count))),
            Body::Regex(regex) => regex.counts(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Samples {
    pub hits: Vec<Spanned<Sample>>,
    pub misses: Vec<Spanned<String>>,
}

/// A line that must be recognised, without time and host, and what must be read from it. `ip` and `account` are compared also
/// where they are left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Sample {
    pub line: String,
    pub ip: Option<String>,
    pub account: Option<String>,
    pub service: Option<Service>,
    pub reason: Option<Reason>,
    pub weak: Option<bool>,
    pub count: Option<u32>,
    pub code: Option<u16>,
    pub uid: Option<u32>,
    pub recipients: Option<u32>,
    pub bytes: Option<u64>,
    pub status: Option<String>,
    pub dsn: Option<String>,
    pub queue_id: Option<String>,
    pub orig_queue_id: Option<String>,
    pub other_queue_id: Option<String>,
    pub message_id: Option<String>,
    pub sender: Option<String>,
    pub recipient: Option<String>,
    pub orig_recipient: Option<String>,
    pub helo: Option<String>,
    pub mechanism: Option<String>,
    pub relay: Option<String>,
    pub session: Option<String>,
    pub text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    filter: RawHeader,
    #[serde(default)]
    pattern: Vec<Spanned<RawPattern>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeader {
    name: Spanned<String>,
    #[serde(default)]
    form: Option<Spanned<String>>,
    #[serde(default)]
    programs: Option<Spanned<Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPattern {
    name: Spanned<String>,
    #[serde(default)]
    daemon: Option<Spanned<OneOrMany>>,
    kind: Spanned<String>,
    #[serde(default)]
    reason: Option<Spanned<String>>,
    #[serde(default)]
    service: Option<Spanned<String>>,
    #[serde(default)]
    restates: bool,
    #[serde(default)]
    weak: bool,
    #[serde(default)]
    line: Option<Spanned<OneOrMany>>,
    #[serde(default)]
    regex: Option<Spanned<OneOrMany>>,
    #[serde(default)]
    reasons: Vec<Spanned<RawReason>>,
    #[serde(default, rename = "match")]
    hits: Vec<Spanned<Sample>>,
    #[serde(default, rename = "miss")]
    misses: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReason {
    text: Option<String>,
    #[serde(default)]
    contains: Option<OneOrMany>,
    #[serde(default)]
    address: bool,
    code: Option<String>,
    dsn: Option<String>,
    reason: Spanned<String>,
    #[serde(default)]
    weak: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// Reads one file. Mistakes go to `errors`; a pattern with one is left out.
pub(super) fn read(index: usize, source: &FilterSource, errors: &mut Vec<FilterError>) -> Option<Filter> {
    let mut report = Report { source, errors, spoiled: Vec::new() };
    let raw = report.file()?;
    let form = match &raw.filter.form {
        None => TagForm::Plain,
        Some(text) => report.word(text, "form", TagForm::ALL)?,
    };
    let first = raw.pattern.first().map_or(usize::MAX, |pattern| pattern.span().start);
    let is_header_spoiled = report.spoiled.iter().any(|place| *place < first);
    let programs = match (form, raw.filter.programs) {
        (TagForm::Plain, Some(programs)) if !programs.get_ref().is_empty() => programs.into_inner(),
        (TagForm::Plain, _) => {
            if !is_header_spoiled {
                let help = "or `form = \"postfix\"` / `\"dovecot\"`".to_owned();
                report.add(raw.filter.name.span(), "a filter needs `programs`: the syslog tags that it reads", Some(help));
            }
            // The patterns may have mistakes of their own.
            vec!["program".to_owned()]
        }
        (_, None) => Vec::new(),
        (_, Some(programs)) => {
            report.add(programs.span(), format!("`programs` has no meaning with form = \"{form}\": patterns name their `daemon`"), None);
            Vec::new()
        }
    };
    if raw.filter.name.get_ref().is_empty() {
        report.add(raw.filter.name.span(), "a filter needs a name", None);
    }
    let begins: Vec<usize> = raw.pattern.iter().map(|pattern| pattern.span().start).collect();
    let ends = begins.iter().skip(1).copied().chain([usize::MAX]);
    let whole = raw.pattern.into_iter().zip(begins.iter().zip(ends)).filter_map(|(raw, (begin, end))| {
        let is_spoiled = report.spoiled.iter().any(|place| (*begin..end).contains(place));
        if is_spoiled { None } else { report.pattern(index, form, &programs, raw) }
    });
    let patterns = whole.collect();
    Some(Filter { name: raw.filter.name.into_inner(), form, patterns })
}

/// The word of `known` that is most like `name`, if any is.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|word| (strsim::jaro_winkler(name, word), word)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (near.0 >= 0.8).then_some(near.1)
}

type Compile = fn(&str) -> Result<Body, TemplateError>;

/// Mistakes of form that are looked for in one file.
const MISTAKES_MAX: usize = 100;

/// Collects the mistakes of one file.
struct Report<'a> {
    source: &'a FilterSource,
    errors: &'a mut Vec<FilterError>,
    /// Where something was taken out that means something: what it stood in lacks it, which is no mistake of its own.
    spoiled: Vec<usize>,
}

/// Takes out the entry of which `span` is the key or the value, however deep it stands; returns the key, which is empty for one of a list.
fn take_out(value: &mut DeValue<'_>, span: &Range<usize>) -> Option<String> {
    match value {
        DeValue::Table(table) => take_entry(table, span),
        DeValue::Array(array) => {
            if let Some(index) = array.iter().position(|item| item.span() == *span) {
                let rest = array.clone().into_iter().enumerate().filter(|(at, _)| *at != index);
                *array = rest.map(|(_, item)| item).collect();
                return Some(String::new());
            }
            array.iter_mut().find_map(|item| take_out(item.get_mut(), span))
        }
        _ => None,
    }
}

fn take_entry(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    // The innermost first: a list of tables has the span of its first one.
    if let Some(key) = table.iter_mut().find_map(|(_, value)| take_out(value.get_mut(), span)) {
        return Some(key);
    }
    let key = table.iter().find(|(key, value)| key.span() == *span || value.span() == *span).map(|(key, _)| key.clone())?;
    table.remove(&key);
    Some(key.into_inner().into_owned())
}

impl Report<'_> {
    fn add(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.errors.push(FilterError { file: self.source.file.clone(), span, message: message.into(), help });
    }

    /// The file, without what is wrong in it. Reading stops at the first mistake, so that is told, taken out, and the rest read again.
    fn file(&mut self) -> Option<RawFile> {
        let (mut document, errors) = DeTable::parse_recoverable(&self.source.text);
        if !errors.is_empty() {
            errors.iter().for_each(|error| self.add(error.span().unwrap_or(0..0), error.message(), None));
            return None;
        }
        // Fields that are missing only because they were taken out, or misspelt.
        let mut excused: Vec<String> = Vec::new();
        for _ in 0..MISTAKES_MAX {
            let error = match RawFile::deserialize(toml::Deserializer::from(document.clone())) {
                Ok(file) => return Some(file),
                Err(error) => error,
            };
            let (span, message) = (error.span().unwrap_or(0..0), error.message());
            let mut quoted = message.split('`').skip(1).step_by(2);
            let first = quoted.next().unwrap_or_default();
            let is_unknown = message.starts_with("unknown field");
            let is_excused = message.starts_with("missing field") && excused.iter().any(|field| field == first);
            let meant = if is_unknown { nearest(first, quoted) } else { None };
            if !is_excused {
                self.add(span.clone(), message, meant.map(|meant| format!("did you mean `{meant}`?")));
            }
            excused.extend(meant.map(str::to_owned));
            let key = take_entry(document.get_mut(), &span)?;
            if !is_unknown && !key.is_empty() {
                self.spoiled.push(span.start);
            }
            excused.push(key);
        }
        None
    }

    fn pattern(&mut self, file: usize, form: TagForm, programs: &[String], raw: Spanned<RawPattern>) -> Option<Pattern> {
        let before = self.errors.len();
        let span = raw.span();
        let raw = raw.into_inner();
        let kind = self.word(&raw.kind, "kind", LineKind::ALL);
        let reason = raw.reason.as_ref().map_or(Some(Reason::None), |text| self.word(text, "reason", Reason::ALL));
        let service = raw.service.as_ref().map(|text| self.word(text, "service", Service::ALL));
        let rows = raw.reasons.into_iter().filter_map(|row| self.row(row)).collect();
        let daemons = self.daemons(form, programs, raw.daemon, &raw.name);
        let shapes = self.shapes(raw.line, raw.regex, &raw.name);
        if self.errors.len() > before {
            return None;
        }
        Some(Pattern {
            name: raw.name.into_inner(),
            file,
            span,
            daemons,
            kind: kind?,
            reason: reason?,
            service: service.flatten(),
            restates: raw.restates,
            weak: raw.weak,
            rows,
            shapes,
            samples: Samples { hits: raw.hits, misses: raw.misses },
        })
    }

    fn daemons(&mut self, form: TagForm, programs: &[String], daemon: Option<Spanned<OneOrMany>>, name: &Spanned<String>) -> Vec<String> {
        let Some(daemon) = daemon else {
            if form != TagForm::Plain {
                self.add(name.span(), "a pattern needs `daemon`: which of the filter's programs writes the line", None);
            }
            return programs.to_vec();
        };
        let span = daemon.span();
        let daemons = daemon.into_inner().into_vec();
        if form == TagForm::Plain {
            for unknown in daemons.iter().filter(|daemon| !programs.contains(daemon)) {
                let help = nearest(unknown, programs.iter().map(String::as_str)).map(|near| format!("did you mean \"{near}\"?"));
                self.add(span.clone(), format!("\"{unknown}\" is not one of the filter's programs"), help);
            }
        }
        daemons
    }

    fn shapes(&mut self, line: Option<Spanned<OneOrMany>>, regex: Option<Spanned<OneOrMany>>, name: &Spanned<String>) -> Vec<Shape> {
        let (texts, compile): (_, Compile) = match (line, regex) {
            (Some(line), None) => (line, |text| Template::compile(text).map(Body::Template)),
            (None, Some(regex)) => (regex, |text| RegexPattern::compile(text).map(|regex| Body::Regex(Box::new(regex)))),
            _ => {
                self.add(name.span(), "a pattern needs either `line` or `regex`", None);
                return Vec::new();
            }
        };
        let span = texts.span();
        let mut shapes = Vec::new();
        for text in texts.into_inner().into_vec() {
            match compile(&text) {
                Ok(body) => shapes.push(Shape { text, body }),
                Err(error) => {
                    let place = self.place(&span, &text, &error.span);
                    self.add(place, error.message, error.help);
                }
            }
        }
        shapes
    }

    /// Where in the file the bytes `inner` of the string `text`, written somewhere in `span`, stand. Exact for literal strings.
    fn place(&self, span: &Range<usize>, text: &str, inner: &Range<usize>) -> Range<usize> {
        match self.source.text.get(span.clone()).and_then(|written| written.find(text)) {
            Some(offset) => span.start + offset + inner.start..span.start + offset + inner.end,
            None => span.clone(),
        }
    }

    fn row(&mut self, raw: Spanned<RawReason>) -> Option<ReasonRow> {
        let span = raw.span();
        let raw = raw.into_inner();
        let reason = self.word(&raw.reason, "reason", Reason::ALL)?;
        if raw.text.is_none() && raw.contains.is_none() && raw.code.is_none() && raw.dsn.is_none() {
            self.add(
                span,
                "a row of `reasons` needs `text`, `contains`, `code` or `dsn`",
                Some("the reason of all other lines is the pattern's own `reason`".into()),
            );
            return None;
        }
        let bytes = |text: Option<String>| text.map(|text| text.into_bytes().into_boxed_slice());
        let contains = raw.contains.map_or_else(Vec::new, OneOrMany::into_vec);
        let contains = contains.iter().map(|text| Finder::new(&text.to_ascii_lowercase()).into_owned()).collect();
        let names_address = raw.address;
        let (words, code, dsn) = (bytes(raw.text), bytes(raw.code), bytes(raw.dsn));
        Some(ReasonRow { words, contains, names_address, code, dsn, reason, weak: raw.weak })
    }

    fn word<T: Copy + std::str::FromStr + std::fmt::Display>(&mut self, text: &Spanned<String>, what: &str, all: &[T]) -> Option<T> {
        let name = text.get_ref();
        if let Ok(word) = name.parse() {
            return Some(word);
        }
        let known: Vec<String> = all.iter().map(T::to_string).collect();
        let help = match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("one of: {}", known.join(", ")),
        };
        self.add(text.span(), format!("unknown {what} \"{name}\""), Some(help));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<FilterError> {
        let mut errors = Vec::new();
        read(0, &FilterSource { file: "x.toml".into(), text: text.into() }, &mut errors);
        errors
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let header = "[filter]\nname = 'x'\nprograms = ['x']\n";
        let cases = [
            ("[filter]\nname = 'x'\n", "'x'", "needs `programs`"),
            ("[filter]\nname = 'x'\nform = 'postfx'\n", "'postfx'", "unknown form"),
            ("[filter]\nname = 'x'\nform = 'postfix'\nprograms = ['a']\n", "['a']", "no meaning"),
            ("[filter]\nnam = 'x'\n", "nam", "unknown field"),
            ("[filter\n", "", ""),
            (&format!("{header}[[pattern]]\nname = 'p'\nkind = 'rejct'\nline = 'x'\n"), "'rejct'", "unknown kind"),
            (&format!("{header}[[pattern]]\nname = 'p'\nkind = 'noise'\n"), "'p'", "either `line` or `regex`"),
            (&format!("{header}[[pattern]]\nname = 'p'\nkind = 'noise'\nline = ['x', 'y <cliant>']\n"), "<cliant>", "unknown field"),
            (&format!("{header}[[pattern]]\nname = 'p'\nkind = 'noise'\nregex = 'x$'\n"), "x$", "must start with"),
            (
                &format!("{header}[[pattern]]\nname = 'p'\nkind = 'noise'\nline = 'x'\ndaemon = 'y'\n"),
                "'y'",
                "not one of the filter's programs",
            ),
            (
                &format!("{header}[[pattern]]\nname = 'p'\nkind = 'noise'\nline = 'x'\nreasons = [{{ reason = 'rbl' }}]\n"),
                "{ reason = 'rbl' }",
                "needs `text`",
            ),
        ];
        for (text, place, message) in cases {
            let errors = errors(text);
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert!(errors[0].message.contains(message), "{text}: {errors:?}");
            assert!(place.is_empty() || text.get(errors[0].span.clone()) == Some(place), "{text}: {errors:?}");
        }
    }

    #[test]
    fn two_mistakes_are_two_errors() {
        let text = "[filter]\nname='x'\nprograms=['x']\n[[pattern]]\nname='p'\nkind='nois'\nline='['\n[[pattern]]\nname='q'\nkind='noise'\nline=']'\n";
        assert_eq!(errors(text).len(), 3);
    }

    #[test]
    fn mistakes_of_form_are_told_with_all_others() {
        let text = "[filter]
name = 'x'
programs = ['x']
colour = 'red'
[[pattern]]
name = 'p'
knd = 'noise'
line = 3
match = [{ line = 'x[1]: a', adress = '192.0.2.1' }, { line = 4 }]
[[pattern]]
name = 'q'
kind = 'noise'
[[pattern]]
kind = 'noise'
line = ']'
[[pattern]]
name = 'r'
kind = 'noise'
weak = 'yes'
line = '<cliant>'
";
        let told: Vec<(&str, Option<String>)> =
            errors(text).into_iter().map(|error| (text.get(error.span.clone()).unwrap_or_default(), error.help)).collect();
        let places: Vec<&str> = told.iter().map(|(place, _)| *place).collect();
        // The misspelt `kind` is not missing as well, and a pattern that lacks what was wrong in it is not judged further.
        let mut expected = vec!["colour", "knd", "3", "adress", "4", "'q'", "[[pattern]]", "'yes'"];
        for place in places {
            let at = expected.iter().position(|wanted| *wanted == place);
            expected.remove(at.unwrap_or_else(|| panic!("{place:?} is told, beside {expected:?}")));
        }
        assert!(expected.is_empty(), "not told: {expected:?}");
        assert!(told.contains(&("knd", Some("did you mean `kind`?".to_owned()))));
    }
}
