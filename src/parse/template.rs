//! Templates: `warning: <client>: SASL <mechanism> authentication failed: <text>[, sasl_username=<account>]`.
//!
//! A template is compiled to a list of steps that [`super::matcher`] walks from the first byte of the message to its last.
//! * `<name>` is a field, listed in [`Word`]; everything else is literal, also a `<` that starts no field: `from=<<sender>>`.
//! * `[…]` may be missing. It is taken where the rest of the line then fits.
//! * A backslash makes the next byte literal: `\[`, `\]`, `\<`, `\\`.
//! * A field of free text ends at the first place where the literal behind it stands; written `<name:last>`, at the last place
//!   from which the rest of the template fits; written `<name:only>`, at the only one, and a line with two is not recognised.
//!   A literal that ends the template is looked for at the end of the line.

use std::ops::Range;

use super::Field;
use crate::event::words;

/// Steps of one template.
const OPS_MAX: usize = 128;
/// Optional groups of one template: each may double the ways to read a line.
const GROUPS_MAX: usize = 10;

words! {
    /// What may stand between `<` and `>` in a template, or as a group's name in a regex (with `_` for `-`).
    Word {
        // These end by themselves.
        /// `name[addr]` or `name[addr]:port`, sets the client address and its name; `name[unknown]` and `local` (mail from the
        /// sendmail command) leave the address open.
        Client = "client",
        /// A bare address, sets the client address.
        Ip = "ip",
        /// A Postfix queue id; `NOQUEUE` stands for none.
        QueueId = "queue-id",
        OrigQueueId = "orig-queue-id",
        OtherQueueId = "other-queue-id",
        /// A SASL mechanism or SSH method: letters, digits, `-`, `_`, `/`. With `:last` any text.
        Mechanism = "mechanism",
        /// Dovecot's session id: base64.
        Session = "session",
        /// `5.7.1`
        Dsn = "dsn",
        /// `sent`, `deferred`, …
        Status = "status",
        /// Digits of no interest.
        Number = "number",
        /// How many failures the line stands for.
        Count = "count",
        /// A three-digit SMTP reply code.
        Code = "code",
        Uid = "uid",
        Recipients = "recipients",
        Bytes = "bytes",
        /// Postfix's command statistics (` ehlo=1 auth=0/2 …`), to the end of the line: sets the count to the failed AUTH commands.
        Commands = "commands",
        // Free text: ends at the literal behind it.
        Account = "account",
        Text = "text",
        MessageId = "message-id",
        /// Free text of no interest.
        Any = "any",
        // Free text without spaces.
        /// The account of a session that has logged in, such as may stand behind text of the client.
        Login = "login",
        Relay = "relay",
        /// No spaces, of no interest.
        Plain = "word",
        /// The SMTP command that a session had come to, as the text.
        Command = "command",
        /// No spaces; ends at the last place where the literal behind it stands.
        Helo = "helo",
        // Addresses as Postfix logs them: a local part with spaces or brackets is quoted.
        Sender = "sender",
        Recipient = "recipient",
        OrigRecipient = "orig-recipient",
        // To the end of the line.
        Rest = "rest",
        /// The server's own closing words: to the end of the line, in which no `; from=<` stands any more.
        Reply = "reply",
    }
}

/// Which bytes free text may hold and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Any,
    NoSpace,
    /// No space, ends at the last place within it.
    Longest,
    Address,
}

/// At which place of the literal behind it free text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// The first, whatever follows.
    First,
    /// The last from which the rest of the template fits.
    Last,
    /// The one from which the rest fits; with two of them the line is not recognised.
    Only,
}

/// Where a number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Ignored,
    Count,
    Uid,
    Recipients,
    Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Literal(Box<[u8]>),
    Client,
    Ip,
    QueueId(Field),
    Session,
    Mechanism,
    Dsn,
    Status,
    Code,
    Number(Slot),
    Commands,
    Free {
        field: Option<Field>,
        class: Class,
        ends: Ends,
    },
    Rest,
    Reply,
    /// The steps up to `end` may be left out.
    Optional {
        end: usize,
    },
}

#[derive(Clone, Debug)]
pub struct Template {
    pub(super) ops: Vec<Op>,
}

/// What is wrong with a template, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

impl Template {
    pub fn compile(text: &str) -> Result<Template, TemplateError> {
        let mut compiler = Compiler { text, at: 0, ops: Vec::new(), literal: Vec::new(), groups: 0 };
        compiler.sequence(Level::Top)?;
        let ops = compiler.ops;
        if ops.is_empty() {
            return Err(error(0..text.len(), "an empty template matches nothing", None));
        }
        if ops.len() > OPS_MAX || compiler.groups > GROUPS_MAX {
            return Err(error(0..text.len(), format!("too long: at most {OPS_MAX} steps and {GROUPS_MAX} optional groups"), None));
        }
        check_neighbours(&ops).map_err(|message| error(0..text.len(), message, None))?;
        Ok(Template { ops })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Top,
    Group { opened: usize },
}

struct Compiler<'a> {
    text: &'a str,
    at: usize,
    ops: Vec<Op>,
    literal: Vec<u8>,
    groups: usize,
}

impl Compiler<'_> {
    fn sequence(&mut self, level: Level) -> Result<(), TemplateError> {
        while let Some(&byte) = self.text.as_bytes().get(self.at) {
            match byte {
                b'\\' => self.escape()?,
                b'[' => self.group()?,
                b']' if level == Level::Top => {
                    return Err(error(self.at..self.at + 1, "`]` without `[`", Some(r"a bracket of the log line is written \]".into())));
                }
                b']' => {
                    self.flush();
                    self.at += 1;
                    return Ok(());
                }
                b'<' => self.field()?,
                _ => {
                    self.literal.push(byte);
                    self.at += 1;
                }
            }
        }
        self.flush();
        match level {
            Level::Top => Ok(()),
            Level::Group { opened } => {
                Err(error(opened..opened + 1, "`[` is never closed", Some(r"a bracket of the log line is written \[".into())))
            }
        }
    }

    fn escape(&mut self) -> Result<(), TemplateError> {
        match self.text.as_bytes().get(self.at + 1) {
            Some(&byte @ (b'[' | b']' | b'<' | b'>' | b'\\')) => {
                self.literal.push(byte);
                self.at += 2;
                Ok(())
            }
            _ => Err(error(self.at..self.at + 1, "a backslash stands only before [ ] < > and \\", None)),
        }
    }

    fn group(&mut self) -> Result<(), TemplateError> {
        let opened = self.at;
        self.flush();
        self.at += 1;
        self.groups += 1;
        let index = self.ops.len();
        self.ops.push(Op::Optional { end: 0 });
        self.sequence(Level::Group { opened })?;
        let end = self.ops.len();
        if end == index + 1 {
            return Err(error(opened..self.at, "an empty group", None));
        }
        self.ops[index] = Op::Optional { end };
        Ok(())
    }

    /// `<name>`, `<name:last>` or `<name:only>`; a `<` that starts neither is literal.
    fn field(&mut self) -> Result<(), TemplateError> {
        let inner = &self.text[self.at + 1..];
        let length = inner.bytes().take_while(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b':')).count();
        if length == 0 || inner.as_bytes().get(length) != Some(&b'>') {
            self.literal.push(b'<');
            self.at += 1;
            return Ok(());
        }
        let span = self.at..self.at + length + 2;
        let (name, ends) = match inner[..length].split_once(':') {
            None => (&inner[..length], Ends::First),
            Some((name, "last")) => (name, Ends::Last),
            Some((name, "only")) => (name, Ends::Only),
            Some(_) => return Err(error(span, "only `last` and `only` may follow the colon", None)),
        };
        let Ok(word) = name.parse::<Word>() else {
            let help =
                nearest(name).map_or(r"a literal `<` before a word is written \<".to_owned(), |near| format!("did you mean <{near}>?"));
            return Err(error(span, format!("unknown field <{name}>"), Some(help)));
        };
        let op = word.op(ends).ok_or_else(|| error(span.clone(), format!("<{name}> ends by itself: nothing may follow its name"), None))?;
        self.flush();
        self.ops.push(op);
        self.at = span.end;
        Ok(())
    }

    fn flush(&mut self) {
        if !self.literal.is_empty() {
            self.ops.push(Op::Literal(std::mem::take(&mut self.literal).into()));
        }
    }
}

impl Word {
    /// The step for this field; `None` where it ends by itself and `ends` would say otherwise.
    fn op(self, ends: Ends) -> Option<Op> {
        let first = ends == Ends::First;
        let fixed = |op| first.then_some(op);
        let free = |field, class| Some(Op::Free { field, class, ends });
        // The last place that fits is as good as the quoting, and holds for the unquoted form before Postfix 3.5 too.
        let address = if first { Class::Address } else { Class::Any };
        match self {
            Word::Client => fixed(Op::Client),
            Word::Ip => fixed(Op::Ip),
            Word::QueueId => fixed(Op::QueueId(Field::QueueId)),
            Word::OrigQueueId => fixed(Op::QueueId(Field::OrigQueueId)),
            Word::OtherQueueId => fixed(Op::QueueId(Field::OtherQueueId)),
            Word::Session => fixed(Op::Session),
            Word::Dsn => fixed(Op::Dsn),
            Word::Status => fixed(Op::Status),
            Word::Code => fixed(Op::Code),
            Word::Number => fixed(Op::Number(Slot::Ignored)),
            Word::Count => fixed(Op::Number(Slot::Count)),
            Word::Uid => fixed(Op::Number(Slot::Uid)),
            Word::Recipients => fixed(Op::Number(Slot::Recipients)),
            Word::Bytes => fixed(Op::Number(Slot::Bytes)),
            Word::Commands => fixed(Op::Commands),
            Word::Rest => fixed(Op::Rest),
            Word::Reply => fixed(Op::Reply),
            Word::Account => free(Some(Field::Account), Class::Any),
            Word::Text => free(Some(Field::Text), Class::Any),
            Word::MessageId => free(Some(Field::MessageId), Class::Any),
            Word::Any => free(None, Class::Any),
            Word::Mechanism if !first => free(Some(Field::Mechanism), Class::Any),
            Word::Mechanism => fixed(Op::Mechanism),
            Word::Login => free(Some(Field::Account), Class::NoSpace),
            Word::Relay => free(Some(Field::Relay), Class::NoSpace),
            Word::Command => free(Some(Field::Text), Class::NoSpace),
            Word::Plain => free(None, Class::NoSpace),
            Word::Helo => free(Some(Field::Helo), Class::Longest),
            Word::Sender => free(Some(Field::Sender), address),
            Word::Recipient => free(Some(Field::Recipient), address),
            Word::OrigRecipient => free(Some(Field::OrigRecipient), address),
        }
    }
}

impl Word {
    /// How the text of a regex's group of this name is read; `None` for what a group cannot be.
    pub(super) fn group(self) -> Option<Op> {
        match self {
            Word::Rest | Word::Reply | Word::Any | Word::Plain | Word::Number | Word::Commands => None,
            _ => self.op(Ends::First).map(|op| match op {
                Op::Free { field, .. } => Op::Free { field, class: Class::Any, ends: Ends::First },
                op => op,
            }),
        }
    }
}

/// Free text needs to know where it ends, and what takes the rest of the line must be last.
fn check_neighbours(ops: &[Op]) -> Result<(), String> {
    for (index, op) in ops.iter().enumerate() {
        match op {
            Op::Free { ends, .. } => followers(ops, index + 1, &mut |next| match next {
                Some(Op::Literal(_)) => Ok(()),
                None if *ends == Ends::First => Ok(()),
                None => Err("`:last` and `:only` need a literal behind them".to_owned()),
                Some(_) => Err("free text needs a literal behind it, or the end of the template".to_owned()),
            })?,
            Op::Rest | Op::Reply | Op::Commands => followers(ops, index + 1, &mut |next| match next {
                None => Ok(()),
                Some(_) => Err("<rest>, <reply> and <commands> must be the last of the template".to_owned()),
            })?,
            _ => {}
        }
        if let Op::Free { ends: Ends::Last | Ends::Only, .. } = op
            && matches!(ops.get(index + 1), Some(Op::Optional { .. }))
        {
            return Err("`:last` and `:only` need a literal directly behind them, not an optional group".to_owned());
        }
    }
    Ok(())
}

/// Calls `check` for every step that may come next at `index`; `None` is the end.
fn followers(ops: &[Op], index: usize, check: &mut dyn FnMut(Option<&Op>) -> Result<(), String>) -> Result<(), String> {
    match ops.get(index) {
        Some(Op::Optional { end }) => {
            followers(ops, index + 1, check)?;
            followers(ops, *end, check)
        }
        next => check(next),
    }
}

/// The known field whose name is most like `name`.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    super::filter::nearest(name, Word::ALL.iter().map(|word| word.as_str()))
}

fn error(span: Range<usize>, message: impl Into<String>, help: Option<String>) -> TemplateError {
    TemplateError { span, message: message.into(), help }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Op {
        Op::Literal(text.as_bytes().into())
    }

    #[test]
    fn compiles_to_steps() {
        let template = Template::compile(r"from=<<sender>>[, x \[<number>\]] <<any").unwrap();
        let expected = vec![
            literal("from=<"),
            Op::Free { field: Some(Field::Sender), class: Class::Address, ends: Ends::First },
            literal(">"),
            Op::Optional { end: 7 },
            literal(", x ["),
            Op::Number(Slot::Ignored),
            literal("]"),
            literal(" <<any"),
        ];
        assert_eq!(template.ops, expected);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let cases = [
            ("", 0..0, "empty template"),
            ("a]", 1..2, "without `[`"),
            ("a[b", 1..2, "never closed"),
            ("a[]b", 1..3, "empty group"),
            (r"a\b", 1..2, "backslash"),
            ("<cliant>: x", 0..8, "unknown field <cliant>"),
            ("<client:last>: x", 0..13, "ends by itself"),
            ("<text:first>: x", 0..12, "only `last`"),
            ("<text><client>", 0..14, "needs a literal"),
            ("<text>[<client>]", 0..16, "needs a literal"),
            ("<text:last>[, x]", 0..16, "need a literal"),
            ("<rest>x", 0..7, "must be the last"),
        ];
        for (text, span, message) in cases {
            let error = Template::compile(text).unwrap_err();
            assert!(error.message.contains(message) && error.span == span, "{text}: {error:?}");
        }
        assert_eq!(Template::compile("<cliant>").unwrap_err().help.as_deref(), Some("did you mean <client>?"));
    }
}
