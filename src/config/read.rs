//! TOML → raw structs. Reads on after a mistake, so that one run tells all of them; every value keeps its place.
//!
//! serde's derive would stop at a file's first mistake, so the few shapes that the configuration has are read here.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration;
use super::report::{FileId, Place, Problem, Report};
use super::suggest::{foreign_hint, nearest};
use crate::address;

pub type Node<'i> = Spanned<DeValue<'i>>;

/// A value and where it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At<T> {
    pub value: T,
    pub place: Place,
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Many<T>(pub Vec<At<T>>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Many(Vec::new())
    }
}

/// A table with names that the administrator chooses, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T>(pub Vec<(At<String>, At<T>)>);

/// `!` in front of a value turns it around.
#[derive(Clone, Debug, PartialEq)]
pub struct Negatable<T> {
    pub negated: bool,
    pub value: T,
}

/// The length of a ban; `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bantime(pub Option<Duration>);

/// A time that may be none at all: zero.
#[derive(Clone, Copy, Debug)]
pub struct NoneOrLonger(pub Duration);

/// What is wrong with a text.
#[derive(Clone, Debug, Default)]
pub struct Wrong {
    pub message: String,
    pub label: String,
    pub help: Option<String>,
}

impl Wrong {
    pub fn new(message: impl Into<String>) -> Self {
        Wrong { message: message.into(), ..Wrong::default() }
    }
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// `unknown WHAT "word"`, with the nearest of the words that are known, or all of them.
    pub fn unknown(what: &str, word: &str, known: &[&str]) -> Self {
        let wrong = Wrong::new(format!("unknown {what} {word:?}"));
        match nearest(word, known) {
            Some(near) => Wrong { label: format!("did you mean {near:?}?"), ..wrong },
            None if known.is_empty() => wrong.help("there are none"),
            None => wrong.help(format!("there are: {}", known.join(", "))),
        }
    }
    pub fn at(self, place: Place) -> Problem {
        Problem { help: self.help, ..Problem::error(place, self.message).label(self.label) }
    }
}

/// Reads the values of one file.
pub struct Reader<'r> {
    pub file: FileId,
    pub report: &'r mut Report,
}

/// What a TOML value can be read as. Mistakes are reported; `None`: nothing usable is left.
pub trait FromToml: Sized {
    const EXPECTED: &'static str;
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self>;
}

/// What a TOML string can be read as.
pub trait FromText: Sized {
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Result<Self, Wrong>;
}

impl Reader<'_> {
    pub fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.file, span)
    }

    pub fn read_at<T: FromToml>(&mut self, node: &Node<'_>) -> Option<At<T>> {
        let place = self.place(node.span());
        T::read(node, self).map(|value| At { value, place })
    }

    /// Fills a field of a raw struct; false: with nothing, since the value is a mistake. Two keys for one field contradict each other.
    pub fn put<T: FromToml>(&mut self, field: &mut Option<At<T>>, key: &Spanned<impl AsRef<str>>, node: &Node<'_>) -> bool {
        if field.is_some() {
            let place = self.place(key.span());
            let message = format!("`{}` says again what another key of this table says", key.get_ref().as_ref());
            self.report.push(Problem::error(place, message).label("keep one of them"));
        }
        let value = self.read_at(node);
        let is_usable = value.is_some();
        if is_usable {
            *field = value;
        }
        is_usable
    }

    pub fn unknown_key(&mut self, key: &Spanned<impl AsRef<str>>, known: &[&str], title: &str) {
        let word = key.get_ref().as_ref();
        let mut problem = Wrong::unknown("key", word, known).at(self.place(key.span()));
        problem.message.push_str(&format!(" in {title}"));
        if let Some(hint) = foreign_hint(word) {
            problem = problem.label("").help(hint);
        }
        self.report.push(problem);
    }

    pub fn table<'n, 'i>(&mut self, node: &'n Node<'i>, expected: &str) -> Option<&'n DeTable<'i>> {
        match node.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => self.wrong_type(node, expected),
        }
    }

    pub fn wrong_type<T>(&mut self, node: &Node<'_>, expected: &str) -> Option<T> {
        let found = match node.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(node, Wrong::new(format!("expected {expected}, found {found}")))
    }

    pub fn error<T>(&mut self, node: &Node<'_>, wrong: Wrong) -> Option<T> {
        let problem = wrong.at(self.place(node.span()));
        self.report.push(problem);
        None
    }
}

/// The entries of a table in the order of the file.
pub fn entries<'n, 'i>(table: &'n DeTable<'i>) -> Vec<(&'n Spanned<toml::de::DeString<'i>>, &'n Node<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Declares a table of the configuration: the struct of what stands in a file, and the reader of it.
macro_rules! raw {
    ($(#[$meta:meta])* $name:ident in $title:literal { $($(#[$fmeta:meta])* $field:ident: $type:ty = $($key:literal)|+),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: Option<$crate::config::read::At<$type>>,)+
            /// Fields whose values are mistakes, which are told: that they are missing is none.
            pub spoiled: Vec<&'static str>,
        }
        impl $name {
            pub const KEYS: &'static [&'static str] = &[$($($key),+),+];
            /// The places of what `later` says again.
            pub fn said_again(&self, later: &Self) -> Vec<$crate::config::report::Place> {
                let mut places = Vec::new();
                $(if let (Some(here), Some(_)) = (&self.$field, &later.$field) { places.push(here.place); })+
                places
            }
            /// What `later` says counts, the rest stays.
            pub fn overlay(&mut self, later: Self) { $(if later.$field.is_some() { self.$field = later.$field; })+ }
        }
        impl $crate::config::read::FromToml for $name {
            const EXPECTED: &'static str = concat!("the table ", $title);
            fn read(node: &$crate::config::read::Node<'_>, reader: &mut $crate::config::read::Reader<'_>) -> Option<Self> {
                let table = reader.table(node, Self::EXPECTED)?;
                let mut raw = Self::default();
                for (key, value) in $crate::config::read::entries(table) {
                    match key.get_ref().as_ref() {
                        $($($key)|+ => {
                            if !reader.put(&mut raw.$field, key, value) {
                                raw.spoiled.push(stringify!($field));
                            }
                        })+
                        _ => reader.unknown_key(key, Self::KEYS, $title),
                    }
                }
                Some(raw)
            }
        }
    };
}
pub(crate) use raw;

/// Makes a closed set of words readable.
macro_rules! word {
    ($type:ty, $what:literal) => {
        impl $crate::config::read::FromText for $type {
            const EXPECTED: &'static str = concat!("a string: the ", $what);
            fn parse(text: &str) -> Result<Self, $crate::config::read::Wrong> {
                let known: Vec<&str> = Self::ALL.iter().map(|word| word.as_str()).collect();
                text.parse().map_err(|()| $crate::config::read::Wrong::unknown($what, text, &known))
            }
        }
    };
}
pub(crate) use word;

impl<T: FromText> FromToml for T {
    const EXPECTED: &'static str = <T as FromText>::EXPECTED;
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(text) = node.get_ref().as_str() else { return reader.wrong_type(node, <T as FromText>::EXPECTED) };
        T::parse(text).map_or_else(|wrong| reader.error(node, wrong), Some)
    }
}

impl FromText for String {
    const EXPECTED: &'static str = "a string";
    fn parse(text: &str) -> Result<Self, Wrong> {
        Ok(text.to_owned())
    }
}

impl FromText for PathBuf {
    const EXPECTED: &'static str = "a string: a path";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let path = PathBuf::from(text);
        if path.is_absolute() { Ok(path) } else { Err(Wrong::new(format!("{text:?} is not an absolute path"))) }
    }
}

impl FromText for IpNetwork {
    const EXPECTED: &'static str = "a string: an address or a network";
    fn parse(text: &str) -> Result<Self, Wrong> {
        let network: IpNetwork = text.parse().map_err(|_| {
            Wrong::new(format!("{text:?} is neither an address nor a network"))
                .help("write it like \"192.0.2.1\", \"192.0.2.0/24\" or \"2001:db8::/32\"; host names are not looked up")
        })?;
        Ok(canonical(network))
    }
}

impl<T: FromText> FromText for Negatable<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn parse(text: &str) -> Result<Self, Wrong> {
        let (negated, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest.trim_start()));
        T::parse(text).map(|value| Negatable { negated, value })
    }
}

impl FromToml for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        node.get_ref().as_bool().or_else(|| reader.wrong_type(node, Self::EXPECTED))
    }
}

impl FromToml for i64 {
    const EXPECTED: &'static str = "a number";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(integer) = node.get_ref().as_integer() else { return reader.wrong_type(node, Self::EXPECTED) };
        let parsed = i64::from_str_radix(integer.as_str(), integer.radix());
        parsed.map_or_else(|_| reader.error(node, Wrong::new(format!("{integer} is too large"))), Some)
    }
}

impl FromToml for u64 {
    const EXPECTED: &'static str = "a number";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let number = i64::read(node, reader)?;
        u64::try_from(number).map_or_else(|_| reader.error(node, Wrong::new(format!("{number} is below zero"))), Some)
    }
}

impl FromToml for u32 {
    const EXPECTED: &'static str = "a number";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let number = u64::read(node, reader)?;
        u32::try_from(number).map_or_else(|_| reader.error(node, Wrong::new(format!("{number} is too large"))), Some)
    }
}

impl FromToml for f64 {
    const EXPECTED: &'static str = "a number";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = match node.get_ref() {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => return reader.wrong_type(node, Self::EXPECTED),
        };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Some(number),
            _ => reader.error(node, Wrong::new(format!("{text} is not a number"))),
        }
    }
}

impl FromToml for Bantime {
    const EXPECTED: &'static str = "a duration";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match any_duration(node, reader)? {
            Some(Duration::ZERO) => reader.error(node, Wrong::new("a duration of zero")),
            span => Some(Bantime(span)),
        }
    }
}

/// `None` inside: for ever.
fn any_duration(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Option<Duration>> {
    let parsed = match node.get_ref() {
        DeValue::Integer(integer) => duration::parse_bantime(&integer.to_string()),
        DeValue::String(text) => duration::parse_bantime(text),
        _ => return reader.wrong_type(node, "a duration such as \"10m\""),
    };
    parsed.map_or_else(|message| reader.error(node, Wrong::new(message).help(duration::FORM)), Some)
}

impl FromToml for NoneOrLonger {
    const EXPECTED: &'static str = "a duration";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match any_duration(node, reader)? {
            Some(span) => Some(NoneOrLonger(span)),
            None => reader.error(node, Wrong::new("only a ban can last for ever").help(duration::FORM)),
        }
    }
}

impl FromToml for Duration {
    const EXPECTED: &'static str = "a duration";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match Bantime::read(node, reader)? {
            Bantime(Some(span)) => Some(span),
            Bantime(None) => reader.error(node, Wrong::new("only a ban can last for ever").help(duration::FORM)),
        }
    }
}

impl<T: FromToml> FromToml for Many<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Array(list) = node.get_ref() else { return reader.read_at(node).map(|one| Many(vec![one])) };
        Some(Many(list.iter().filter_map(|item| reader.read_at(item)).collect()))
    }
}

impl<T: FromToml> FromToml for Named<T> {
    const EXPECTED: &'static str = "a table";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let table = reader.table(node, Self::EXPECTED)?;
        let mut named = Vec::new();
        for (key, value) in entries(table) {
            let name = At { value: key.get_ref().as_ref().to_owned(), place: reader.place(key.span()) };
            if let Some(value) = reader.read_at(value) {
                named.push((name, value));
            }
        }
        Some(Named(named))
    }
}

/// IPv4-mapped networks become IPv4, host bits are cleared.
fn canonical(network: IpNetwork) -> IpNetwork {
    let ip = address::canonical(network.ip());
    let prefix = if ip.is_ipv4() && network.is_ipv6() { network.prefix().checked_sub(96) } else { Some(network.prefix()) };
    match prefix {
        Some(prefix) => address::network(ip, prefix),
        None => address::network(network.ip(), network.prefix()),
    }
}
