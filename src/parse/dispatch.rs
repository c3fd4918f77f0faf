//! The compiled filters. A line tries only the patterns of its program whose first bytes can be its own: by the first byte of
//! the message or, behind a queue id, by the byte after it. Buckets keep file order, so the first pattern that fits wins.

use std::collections::HashMap;
use std::sync::Arc;

use regex::bytes::CaptureLocations;

use super::filter::{self, Body, FilterError, FilterSource, Pattern, TagForm};
use super::matcher::{Matcher, Progress};
use super::scan::{leading_queue_id, queue_id_length};
use super::template::Op;
use super::{Field, LineKind, Parsed};

/// Patterns and alternative lines of all filters together.
const FORMS_MAX: usize = 16_384;

/// Postfix cuts its messages at 2,000 bytes (`MSG_SYSLOG_RECLEN`).
const CUT_BYTES_MIN: usize = 1_990;

/// All filters, compiled. Shared by the threads that parse.
#[derive(Debug)]
pub struct FilterSet {
    pub(super) names: Vec<String>,
    pub(super) files: Vec<String>,
    pub(super) patterns: Vec<Pattern>,
    /// For each pattern its filter's index in `names`.
    pub(super) owners: Vec<u16>,
    /// Every `line` and `regex` of every pattern, in file order: (pattern, which of its shapes).
    forms: Vec<(u16, u16)>,
    tables: Vec<Table>,
    plain: HashMap<Box<[u8]>, u16>,
    postfix: HashMap<Box<[u8]>, u16>,
    dovecot: HashMap<Box<[u8]>, u16>,
}

/// Room for the groups of regex patterns; one a thread.
pub(super) type Scratch = HashMap<u16, CaptureLocations>;

impl FilterSet {
    /// Compiles all files, in this order; every mistake of every file is told.
    pub fn compile(sources: &[FilterSource]) -> Result<FilterSet, Vec<FilterError>> {
        let mut errors = Vec::new();
        let mut builder = Builder::default();
        for (index, source) in sources.iter().enumerate() {
            if let Some(filter) = filter::read(index, source, &mut errors) {
                builder.add(filter);
            }
        }
        if builder.forms.len() > FORMS_MAX {
            let file = sources.last().map(|source| source.file.clone()).unwrap_or_default();
            errors.push(FilterError { file, span: 0..0, message: format!("more than {FORMS_MAX} patterns"), help: None });
        }
        if errors.is_empty() { Ok(builder.finish(sources)) } else { Err(errors) }
    }

    /// Names of the filters, each once. Several files may add to one filter.
    pub fn filter_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The filter that a pattern belongs to; empty for a number that is none.
    pub fn filter_name(&self, pattern: u16) -> &str {
        let owner = self.owners.get(usize::from(pattern)).copied().unwrap_or(u16::MAX);
        self.names.get(usize::from(owner)).map_or("", String::as_str)
    }

    pub fn pattern_name(&self, pattern: u16) -> &str {
        self.patterns.get(usize::from(pattern)).map_or("", |pattern| pattern.name.as_str())
    }

    /// Patterns are numbered from 0 to this.
    pub fn pattern_count(&self) -> usize {
        self.patterns.len()
    }

    pub(super) fn table_of(&self, form: TagForm, daemon: &[u8]) -> Option<u16> {
        self.tables_of(form).get(daemon).copied()
    }

    fn tables_of(&self, form: TagForm) -> &HashMap<Box<[u8]>, u16> {
        match form {
            TagForm::Plain => &self.plain,
            TagForm::Postfix => &self.postfix,
            TagForm::Dovecot => &self.dovecot,
        }
    }

    pub(super) fn has(&self, form: TagForm) -> bool {
        !self.tables_of(form).is_empty()
    }

    /// Tries the patterns of `table` on the message in `line[start..]`; true if one fits, and `parsed` is complete but for the
    /// envelope's part.
    pub(super) fn recognise(&self, line: &[u8], start: usize, table: u16, parsed: &mut Parsed, scratch: &mut Scratch) -> bool {
        let message = line.get(start..).unwrap_or_default();
        let queue_id = leading_queue_id(message);
        let Some(table) = self.tables.get(usize::from(table)) else {
            return false;
        };
        let blank = parsed.save();
        for &form in table.candidates(message, queue_id) {
            if self.try_form(form, line, start, queue_id, parsed, scratch).is_none() {
                self.complete(form, line, parsed);
                if parsed.kind == LineKind::Reject && message.len() >= CUT_BYTES_MIN {
                    // What stands last may be the client's quoted text, cut where it pleased the client.
                    parsed.unset(Field::Account);
                }
                return true;
            }
            parsed.restore(blank);
        }
        false
    }

    /// `None` if the form fits; else how far it came.
    pub(super) fn try_form(
        &self,
        form: u16,
        line: &[u8],
        start: usize,
        queue_id: usize,
        parsed: &mut Parsed,
        scratch: &mut Scratch,
    ) -> Option<Progress> {
        let (pattern, shape) = *self.forms.get(usize::from(form))?;
        let shape = &self.patterns[usize::from(pattern)].shapes[usize::from(shape)];
        let mut matcher = Matcher { line, start, queue_id, parsed, progress: Progress::default() };
        let fits = match &shape.body {
            Body::Template(template) => matcher.matches(&template.ops),
            Body::Regex(regex) => regex.matches(&mut matcher, scratch.entry(form).or_insert_with(|| regex.scratch())),
        };
        if fits { None } else { Some(matcher.progress) }
    }

    fn complete(&self, form: u16, line: &[u8], parsed: &mut Parsed) {
        let index = self.forms[usize::from(form)].0;
        let pattern = &self.patterns[usize::from(index)];
        parsed.pattern = index;
        parsed.kind = pattern.kind;
        parsed.reason = pattern.reason;
        parsed.restates = pattern.restates;
        parsed.weak = pattern.weak;
        if let Some(service) = pattern.service {
            parsed.service = service;
        }
        if pattern.kind == LineKind::Disconnect && !self.form(form).1.counts() {
            parsed.count = 0;
        }
        if !pattern.rows.is_empty()
            && let Some(row) = super::reasons::choose(&pattern.rows, parsed, line)
        {
            parsed.reason = row.reason;
            parsed.weak |= row.weak;
        }
    }

    /// The forms of one table in file order, for `explain`.
    pub(super) fn all_forms(&self, table: u16) -> &[u16] {
        self.tables.get(usize::from(table)).map_or(&[], |table| &table.all)
    }

    pub(super) fn form(&self, form: u16) -> (u16, &filter::Shape) {
        let (pattern, shape) = self.forms[usize::from(form)];
        (pattern, &self.patterns[usize::from(pattern)].shapes[usize::from(shape)])
    }
}

#[derive(Default)]
struct Builder {
    names: Vec<String>,
    patterns: Vec<Pattern>,
    owners: Vec<u16>,
    forms: Vec<(u16, u16)>,
    /// Forms of each program, in file order.
    programs: Vec<(TagForm, String, Vec<u16>)>,
}

impl Builder {
    fn add(&mut self, filter: filter::Filter) {
        let owner = self.names.iter().position(|name| *name == filter.name).unwrap_or_else(|| {
            self.names.push(filter.name);
            self.names.len() - 1
        });
        for pattern in filter.patterns {
            let index = self.patterns.len() as u16;
            let first = self.forms.len() as u16;
            self.forms.extend((0..pattern.shapes.len() as u16).map(|shape| (index, shape)));
            for daemon in &pattern.daemons {
                let forms = first..self.forms.len() as u16;
                match self.programs.iter_mut().find(|(form, name, _)| *form == filter.form && name == daemon) {
                    Some((_, _, list)) => list.extend(forms),
                    None => self.programs.push((filter.form, daemon.clone(), forms.collect())),
                }
            }
            self.patterns.push(pattern);
            self.owners.push(owner as u16);
        }
    }

    fn finish(self, sources: &[FilterSource]) -> FilterSet {
        let mut set = FilterSet {
            names: self.names,
            files: sources.iter().map(|source| source.file.clone()).collect(),
            patterns: self.patterns,
            owners: self.owners,
            forms: self.forms,
            tables: Vec::new(),
            plain: HashMap::new(),
            postfix: HashMap::new(),
            dovecot: HashMap::new(),
        };
        for (form, daemon, forms) in self.programs {
            let starts: Vec<(u16, Starts)> = forms.iter().map(|&form| (form, starts_of(&set.form(form).1.body))).collect();
            let index = set.tables.len() as u16;
            set.tables.push(Table::new(forms, &starts));
            let names = match form {
                TagForm::Plain => &mut set.plain,
                TagForm::Postfix => &mut set.postfix,
                TagForm::Dovecot => &mut set.dovecot,
            };
            names.insert(daemon.into_bytes().into(), index);
        }
        set
    }
}

/// The patterns of one program.
#[derive(Debug)]
struct Table {
    all: Vec<u16>,
    /// By the first byte of a message that starts with no queue id.
    plain: Buckets,
    /// By the first byte behind `QUEUEID: `.
    queued: Buckets,
}

impl Table {
    fn new(all: Vec<u16>, starts: &[(u16, Starts)]) -> Table {
        Table {
            all,
            plain: Buckets::new(starts.iter().map(|(form, starts)| (*form, starts.plain))),
            queued: Buckets::new(starts.iter().map(|(form, starts)| (*form, starts.queued))),
        }
    }

    fn candidates(&self, message: &[u8], queue_id: usize) -> &[u16] {
        let (buckets, byte) = if queue_id > 0 { (&self.queued, message.get(queue_id + 2)) } else { (&self.plain, message.first()) };
        byte.map_or(&self.all, |byte| buckets.get(*byte))
    }
}

#[derive(Debug)]
struct Buckets {
    /// For each byte, which of `lists`.
    list: Box<[u8; 256]>,
    lists: Vec<Vec<u16>>,
}

impl Buckets {
    fn new(forms: impl Iterator<Item = (u16, ByteSet)> + Clone) -> Buckets {
        let named =
            forms.clone().map(|(_, starts)| starts).filter(|starts| *starts != ByteSet::ALL).fold(ByteSet::default(), ByteSet::union);
        let anything = forms.clone().filter(|(_, starts)| *starts == ByteSet::ALL).map(|(form, _)| form).collect();
        // Most bytes are named by no form.
        let mut buckets = Buckets { list: Box::new([0; 256]), lists: vec![anything] };
        for byte in (0..=255).filter(|byte| named.has(*byte)) {
            let list: Vec<u16> = forms.clone().filter(|(_, starts)| starts.has(byte)).map(|(form, _)| form).collect();
            let index = buckets.lists.iter().position(|other| *other == list).unwrap_or_else(|| {
                buckets.lists.push(list);
                buckets.lists.len() - 1
            });
            buckets.list[usize::from(byte)] = index as u8;
        }
        buckets
    }

    fn get(&self, byte: u8) -> &[u16] {
        &self.lists[usize::from(self.list[usize::from(byte)])]
    }
}

/// Which first bytes a form can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Starts {
    plain: ByteSet,
    queued: ByteSet,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ByteSet([u128; 2]);

impl ByteSet {
    const ALL: ByteSet = ByteSet([u128::MAX; 2]);

    fn one(byte: u8) -> ByteSet {
        let mut set = ByteSet::default();
        set.0[usize::from(byte >> 7)] |= 1 << (byte & 127);
        set
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 7)] & 1 << (byte & 127) != 0
    }

    fn union(self, other: ByteSet) -> ByteSet {
        ByteSet([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }
}

impl Starts {
    const ALL: Starts = Starts { plain: ByteSet::ALL, queued: ByteSet::ALL };
}

fn starts_of(body: &Body) -> Starts {
    match body {
        Body::Template(template) => starts(&template.ops, 0),
        Body::Regex(regex) => regex.first_byte().map_or(Starts::ALL, |byte| Starts { plain: ByteSet::one(byte), queued: ByteSet::ALL }),
    }
}

fn starts(ops: &[Op], index: usize) -> Starts {
    match ops.get(index) {
        Some(Op::Optional { end }) => {
            let (with, without) = (starts(ops, index + 1), starts(ops, *end));
            Starts { plain: with.plain.union(without.plain), queued: with.queued.union(without.queued) }
        }
        Some(Op::Literal(literal)) => {
            let queued = if may_be_queue_id(literal) { ByteSet::ALL } else { ByteSet::default() };
            Starts { plain: ByteSet::one(literal[0]), queued }
        }
        Some(Op::QueueId(_)) => match ops.get(index + 1) {
            Some(Op::Literal(literal)) if literal.starts_with(b": ") => {
                let queued = literal.get(2).map_or_else(|| starts(ops, index + 2).plain, |byte| ByteSet::one(*byte));
                Starts { plain: ByteSet::default(), queued }
            }
            _ => Starts::ALL,
        },
        _ => Starts::ALL,
    }
}

/// Whether a message that starts with `literal` can start with a queue id and a colon.
fn may_be_queue_id(literal: &[u8]) -> bool {
    match literal.iter().position(|byte| !byte.is_ascii_alphanumeric()) {
        None => true,
        Some(length) => literal[length] == b':' && queue_id_length(&literal[..length]) > 0,
    }
}

impl FilterSet {
    /// A set with no filter, which recognises nothing.
    pub fn empty() -> Arc<FilterSet> {
        Arc::new(Builder::default().finish(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::template::Template;

    fn starts_text(text: &str) -> (String, String) {
        let starts = starts(&Template::compile(text).unwrap().ops, 0);
        let show = |set: ByteSet| {
            if set == ByteSet::ALL { "*".to_owned() } else { (0..=255).filter(|byte| set.has(*byte)).map(char::from).collect() }
        };
        (show(starts.plain), show(starts.queued))
    }

    #[test]
    fn first_bytes() {
        let cases = [
            ("connect from <client>", "c", ""),
            ("[<queue-id>: ]lost <rest>", "l", "l"),
            ("<queue-id>: [a]b", "", "ab"),
            ("<queue-id>: x", "", "x"),
            ("NOQUEUE: x", "N", "*"),
            ("ABCDEF", "A", "*"),
            ("<client>: x", "*", "*"),
        ];
        for (text, plain, queued) in cases {
            assert_eq!(starts_text(text), (plain.to_owned(), queued.to_owned()), "{text}");
        }
    }
}
