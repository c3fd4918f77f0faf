//! Stage 3, line → event: lines of one message, one connection, one login are joined. Pure: no I/O, no clock.
//!
//! **Invariant:** one failed login is one event and one message is one event, whatever number of lines they leave; a mail
//! event carries the submitter whom the queue id belongs to, and nobody when that is not known. Lines that nobody vouches
//! for are joined only with lines that nobody vouches for. Everything is bounded; what is full forgets its oldest.

mod canonical;
mod door;
mod hints;
mod logins;
mod messages;
mod names;
mod queue;
mod reinjected;
mod sessions;

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use hashbrown::DefaultHashBuilder;
use ipnetwork::IpNetwork;

use crate::config::AccountRules;
use crate::event::{Event, EventKind};
use crate::parse::{Field, LineKind, Parsed, slice};
use crate::time::Timestamp;
use hints::Hints;
use messages::{Flags, Messages};
use reinjected::{MessageIds, Proxied};
use sessions::{Process, Sessions};

pub use canonical::Canonical;
pub use messages::MessageRef;

/// What takes the events.
pub type Sink<'s> = dyn FnMut(&Event<'_>) + 's;

/// Joins parsed lines to events.
pub struct Correlator {
    canonical: Canonical,
    messages: Messages,
    sessions: Sessions,
    proxied: Proxied,
    message_ids: MessageIds,
    hints: Hints,
    /// Networks whose clients may hand in mail without a login.
    trusted: Vec<IpNetwork>,
    hasher: DefaultHashBuilder,
}

/// How full the tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    pub messages: usize,
    pub messages_evicted: u64,
    pub submitters: usize,
    pub sessions: usize,
}

/// A line on its way through [`Correlator::handle`].
#[derive(Clone, Copy)]
struct Seen<'a> {
    line: &'a [u8],
    parsed: &'a Parsed,
    filter: &'a str,
    vouched: bool,
    now: Timestamp,
}

impl Correlator {
    pub fn new(accounts: AccountRules, trusted: Vec<IpNetwork>) -> Self {
        Correlator {
            canonical: Canonical::new(accounts),
            messages: Messages::new(),
            sessions: Sessions::default(),
            proxied: Proxied::default(),
            message_ids: MessageIds::default(),
            hints: Hints::default(),
            trusted,
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// New rules; what is being followed stays.
    pub fn reconfigure(&mut self, accounts: AccountRules, trusted: Vec<IpNetwork>) {
        self.canonical = Canonical::new(accounts);
        self.trusted = trusted;
    }

    /// Takes one line and gives `sink` the events that it completes. Returns the message that the line belongs to.
    pub fn handle(
        &mut self,
        line: &[u8],
        parsed: &Parsed,
        filter: &str,
        vouched: bool,
        now: Timestamp,
        sink: &mut Sink<'_>,
    ) -> Option<MessageRef> {
        self.messages.free_retired();
        let seen = Seen { line, parsed, filter, vouched, now };
        if !vouched {
            // Told, and not remembered: it would push out what is true.
            if let Some(kind) = parsed.kind.event() {
                sink(&seen.event(kind));
            }
            return None;
        }
        match parsed.kind {
            LineKind::Noise => None,
            LineKind::Connect => self.connect(seen),
            LineKind::Disconnect => self.disconnect(seen, sink),
            LineKind::AuthFailure => self.auth_failure(seen, sink),
            LineKind::AuthSuccess => self.auth_success(seen, sink),
            LineKind::Client => self.client(seen, sink),
            LineKind::Pickup => self.pickup(seen),
            LineKind::MessageId => self.message_id(seen),
            LineKind::Active => self.active(seen, sink),
            LineKind::Removed => self.removed(seen, sink),
            LineKind::Bounce => self.bounce(seen),
            LineKind::ProxyAccept => self.proxy_accept(seen, sink),
            LineKind::Delivery => self.delivery(seen, sink),
            LineKind::Reject => self.about_mail(EventKind::Reject, seen, sink),
            LineKind::ProtocolAbuse => self.about_mail(EventKind::ProtocolAbuse, seen, sink),
            LineKind::SpamVerdict => self.about_mail(EventKind::SpamVerdict, seen, sink),
            LineKind::Session => self.session(seen, sink),
        }
    }

    /// The canonical form of a submitter's name, as an operator writes it. One that is no account stands as it is.
    pub fn canonical_name(&mut self, shown: &str) -> String {
        if ["local:", "client:", "forward:"].iter().any(|kind| shown.starts_with(kind)) {
            return shown.to_owned();
        }
        String::from_utf8_lossy(self.canonical.name(shown.as_bytes())).into_owned()
    }

    /// The messages of a submitter that are still in the queue, the youngest first, at most `max`: id, and when it
    /// arrived.
    pub fn queue_ids_of(&self, submitter: &str, max: usize) -> Vec<(String, Timestamp)> {
        self.messages.ids_of(submitter.as_bytes(), max).map(|(id, arrival)| (String::from_utf8_lossy(id).into_owned(), arrival)).collect()
    }

    /// The messages of several submitters that came since then, with the place of each one's name in `submitters`. One look at the
    /// youngest messages, however many submitters there are.
    pub fn queue_ids_since<'n>(&self, submitters: impl Iterator<Item = &'n str>, since: Timestamp) -> Vec<(usize, String, Timestamp)> {
        let found = self.messages.ids_since(submitters.map(str::as_bytes), since);
        found.into_iter().map(|(place, id, arrival)| (place, String::from_utf8_lossy(id).into_owned(), arrival)).collect()
    }

    /// Who sends a message; `None` while that is not known. Good until the next [`Correlator::handle`].
    pub fn submitter(&self, message: MessageRef) -> Option<&[u8]> {
        self.messages.submitter(message)
    }

    /// The client that handed a message in.
    pub fn sent_from(&self, message: MessageRef) -> Option<IpAddr> {
        self.messages.get(message)?.ip
    }

    /// Whether a later line may still tell who sends a message.
    pub fn may_learn(&self, message: MessageRef) -> bool {
        let is_open = |message: &messages::Message| {
            !message.flags.has(Flags::KNOWN) || message.flags.has(Flags::AWAITS_PROXY) || message.perhaps.is_some()
        };
        self.messages.get(message).is_some_and(is_open)
    }

    pub fn stats(&self) -> Stats {
        Stats {
            messages: self.messages.len(),
            messages_evicted: self.messages.evicted,
            submitters: self.messages.names.len(),
            sessions: self.sessions.len(),
        }
    }
}

impl Correlator {
    fn mail_event<'a>(&'a self, kind: EventKind, at: MessageRef, seen: Seen<'a>) -> Event<'a> {
        let submitter = self.messages.submitter(at);
        let login = self.messages.get(at).is_some_and(|message| message.flags.has(Flags::LOGIN));
        Event { account: submitter.filter(|_| login), submitter, ..seen.event(kind) }
    }

    fn is_inside(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.trusted.iter().any(|network| network.contains(ip))
    }

    fn process(&self, seen: Seen<'_>) -> Process {
        Process { host: host(&self.hasher, seen), pid: seen.parsed.pid }
    }
}

impl<'a> Seen<'a> {
    fn text(self, field: Field) -> Option<&'a [u8]> {
        self.parsed.text(self.line, field)
    }

    fn program(self) -> &'a [u8] {
        slice(self.line, self.parsed.program)
    }

    /// `NOQUEUE` is none.
    fn queue_id(self) -> Option<&'a [u8]> {
        self.text(Field::QueueId).filter(|id| !id.is_empty() && *id != b"NOQUEUE")
    }

    /// What the line says by itself; without names, which have to be made canonical.
    fn event(self, kind: EventKind) -> Event<'a> {
        let parsed = self.parsed;
        let recipient = self.text(Field::Recipient);
        Event {
            kind,
            time: parsed.time,
            vouched: self.vouched,
            service: parsed.service,
            reason: parsed.reason,
            filter: self.filter,
            count: parsed.count,
            weak: parsed.weak,
            restates: parsed.restates,
            ip: parsed.client,
            account: None,
            submitter: None,
            queue_id: self.queue_id(),
            sender: self.text(Field::Sender),
            recipient,
            recipients: u32::from(recipient.is_some()),
            bytes: parsed.bytes,
            code: parsed.code,
            status: parsed.status,
            dsn: self.text(Field::Dsn),
            relay: self.text(Field::Relay),
            line: self.line,
            ..Event::new(kind, parsed.time)
        }
    }
}

/// Queue ids mean something within one Postfix instance (the first word of the tag) of one host.
fn scope(hasher: &DefaultHashBuilder, seen: Seen<'_>) -> u64 {
    let program = seen.program();
    let instance = &program[..memchr::memchr(b'/', program).unwrap_or(program.len())];
    hash(hasher, seen, instance)
}

/// As [`scope`], for a line of a content filter: it has the queue id of the Postfix that called it, which is the one that is named
/// so unless there are several.
fn mail_scope(hasher: &DefaultHashBuilder, seen: Seen<'_>) -> u64 {
    if seen.program().contains(&b'/') { scope(hasher, seen) } else { hash(hasher, seen, b"postfix") }
}

fn host(hasher: &DefaultHashBuilder, seen: Seen<'_>) -> u64 {
    hash(hasher, seen, b"")
}

fn message_id_hash(hasher: &DefaultHashBuilder, seen: Seen<'_>, text: &[u8]) -> u64 {
    hash(hasher, seen, text)
}

fn hash(hasher: &DefaultHashBuilder, seen: Seen<'_>, text: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(slice(seen.line, seen.parsed.host));
    state.write_u8(0xff);
    state.write(text);
    state.finish()
}

/// `local:UID` without an allocation.
fn local_user(uid: u32, text: &mut [u8; 16]) -> &[u8] {
    use std::io::Write;
    let mut rest = &mut text[..];
    write!(rest, "local:{uid}").expect("6 + 10 digits fit in 16 bytes");
    let unused = rest.len();
    &text[..16 - unused]
}

#[cfg(test)]
mod tests;
