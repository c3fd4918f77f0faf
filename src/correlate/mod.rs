//! Stage 3, line → event: lines of one message, one connection, one login are joined. Pure: no I/O, no clock.
//!
//! **Invariant:** one failed login is one event and one message is one event, whatever number of lines they leave; a mail
//! event carries the submitter whom the queue id belongs to, and nobody when that is not known. Lines that nobody vouches
//! for are joined only with lines that nobody vouches for. Everything is bounded; what is full forgets its oldest.

mod canonical;
mod hints;
mod messages;
mod names;
mod reinjected;
mod sessions;

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use hashbrown::DefaultHashBuilder;
use ipnetwork::IpNetwork;

use crate::config::AccountRules;
use crate::event::{Event, EventKind, Reason};
use crate::parse::{Field, LineKind, Parsed, slice};
use crate::time::Timestamp;
use canonical::{Canonical, POSTFIX_NAME_BYTES};
use hints::Hints;
use messages::{Flags, Messages};
use reinjected::{Behind, Client, MessageIds, Proxied};
use sessions::{Process, Sessions};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
            message_ids: MessageIds::new(),
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
        }
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
        self.messages.get(message).is_some_and(|message| !message.flags.has(Flags::KNOWN) || message.flags.has(Flags::AWAITS_PROXY))
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

/// Connections and logins.
impl Correlator {
    fn connect(&mut self, seen: Seen<'_>) -> Option<MessageRef> {
        let process = self.process(seen);
        self.sessions.connect(process);
        None
    }

    /// smtpd's `disconnect from … auth=0/2`: logins that failed without a line of their own (AUTH before EHLO or TLS).
    fn disconnect(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let process = self.process(seen);
        let told = self.sessions.disconnect(process, seen.parsed.client);
        let count = seen.parsed.count.saturating_sub(told);
        if count > 0 {
            sink(&Event { reason: Reason::AuthFailed, count, ..seen.event(EventKind::AuthFailure) });
        }
        None
    }

    fn auth_failure(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let mut event = seen.event(EventKind::AuthFailure);
        let shown = seen.text(Field::Account).filter(|name| !name.is_empty());
        let smtpd = seen.program().ends_with(b"smtpd");
        event.account = match shown {
            Some(name) if smtpd && name.len() >= POSTFIX_NAME_BYTES => Some(self.canonical.cut_name(name)),
            Some(name) => Some(self.canonical.name(name)),
            None => None,
        };
        if smtpd {
            let process = Process { host: host(&self.hasher, seen), pid: seen.parsed.pid };
            self.sessions.failed(process, event.ip, event.count);
        }
        let Some(ip) = event.ip else {
            sink(&event);
            return None;
        };
        if event.restates {
            self.hints.remember(host(&self.hasher, seen), ip, event.reason, event.account.unwrap_or_default(), seen.now);
            sink(&event);
        } else if matches!(event.reason, Reason::None | Reason::AuthFailed) {
            let hint = self.hints.take(host(&self.hasher, seen), ip, event.account, seen.now);
            if let Some(hint) = &hint {
                event.reason = hint.reason;
                event.account = event.account.or(Some(hint.name()).filter(|name| !name.is_empty()));
            }
            sink(&event);
        } else {
            sink(&event);
        }
        None
    }

    fn auth_success(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let account = seen.text(Field::Account).map(|name| self.canonical.name(name));
        sink(&Event { account, submitter: account, ..seen.event(EventKind::AuthSuccess) });
        None
    }
}

/// Messages, from the door to the queue.
impl Correlator {
    /// smtpd's `QID: client=…`: a message begins. With a login it is a successful login as well.
    fn client(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let login = seen.text(Field::Account).filter(|name| !name.is_empty()).map(|name| self.canonical.name(name));
        if login.is_some() {
            sink(&Event { account: login, submitter: login, ..seen.event(EventKind::AuthSuccess) });
        }
        let Some(id) = seen.queue_id() else {
            let client = Client {
                process: Process { host: host(&self.hasher, seen), pid: seen.parsed.pid },
                ip: seen.parsed.client,
                service: seen.parsed.service,
                login: login.map(|name| self.messages.names.hold(name)),
                seen: seen.now,
            };
            self.proxied.push(client, &mut self.messages.names);
            return None;
        };
        let at = self.messages.begin(scope(&self.hasher, seen), id, seen.now)?;
        let message = self.messages.get_mut(at)?;
        message.ip = seen.parsed.client;
        message.service = seen.parsed.service;
        message.flags.set(Flags::KNOWN);
        if let Some(name) = login {
            message.flags.set(Flags::LOGIN);
            self.messages.set_submitter(at, name);
            return Some(at);
        }
        if let Some(original) = seen.text(Field::OrigQueueId) {
            self.continues(at, original, seen);
        } else if let Some(ip) = reinjected::original_client(slice(seen.line, seen.parsed.message)) {
            self.came_through_proxy(at, ip, seen);
        } else if let Some(ip) = seen.parsed.client.filter(|ip| self.is_inside(*ip)) {
            self.from_inside(at, ip);
        }
        Some(at)
    }

    /// `at` came out of a content filter that knows (XFORWARD) which message it was: that one's `message` event is out.
    fn continues(&mut self, at: MessageRef, original: &[u8], seen: Seen<'_>) {
        match self.messages.find(scope(&self.hasher, seen), original) {
            Some(root) => self.messages.inherit(at, root),
            None => {
                let ip = reinjected::original_client(slice(seen.line, seen.parsed.message));
                if let Some(message) = self.messages.get_mut(at) {
                    message.flags.set(Flags::TOLD);
                    message.ip = ip.or(message.ip);
                }
            }
        }
    }

    /// `at` came out of a before-queue filter: the login is on the `NOQUEUE: client=` line of the client's own connection.
    fn came_through_proxy(&mut self, at: MessageRef, ip: IpAddr, seen: Seen<'_>) {
        let behind = self.proxied.of_address(host(&self.hasher, seen), ip, seen.now);
        let Some(message) = self.messages.get_mut(at) else { return };
        message.ip = Some(ip);
        match behind {
            Behind::Nobody => {}
            Behind::Several => message.flags.set(Flags::AWAITS_PROXY),
            Behind::One(client) => {
                message.service = client.service;
                if let Some(login) = client.login {
                    message.flags.set(Flags::LOGIN);
                    let held = self.messages.names.hold_again(login);
                    self.messages.replace_submitter(at, Some(held));
                }
            }
        }
    }

    /// `at` came without a login from this host or from a network that needs none.
    fn from_inside(&mut self, at: MessageRef, ip: IpAddr) {
        if let Some(message) = self.messages.get_mut(at) {
            message.flags.set(Flags::INSIDE);
        }
        if self.trusted.iter().any(|network| network.contains(ip)) {
            self.messages.set_submitter(at, format!("client:{ip}").as_bytes());
        }
    }

    /// pickup's `QID: uid=33 from=<www-data>`: a local user hands in a message.
    fn pickup(&mut self, seen: Seen<'_>) -> Option<MessageRef> {
        let at = self.messages.begin(scope(&self.hasher, seen), seen.queue_id()?, seen.now)?;
        self.messages.get_mut(at)?.flags.set(Flags::KNOWN);
        if let Some(uid) = seen.parsed.uid {
            let mut text = [0u8; 16];
            self.messages.set_submitter(at, local_user(uid, &mut text));
        }
        Some(at)
    }

    /// cleanup's `QID: message-id=<…>`. The last resort to recognise what a content filter hands in again.
    fn message_id(&mut self, seen: Seen<'_>) -> Option<MessageRef> {
        let (scope, id) = (scope(&self.hasher, seen), seen.queue_id()?);
        let found = self.messages.find(scope, id);
        // A file that already went through the queue is over: Postfix itself begins a message under the same id.
        let fresh = found.filter(|at| self.messages.get(*at).is_some_and(|message| message.activations == 0));
        let at = match fresh {
            Some(at) => at,
            None => self.messages.begin(scope, id, seen.now)?,
        };
        let message = self.messages.get_mut(at)?;
        message.flags.set(Flags::HAS_ID);
        let flags = message.flags;
        // `<>` is no id.
        let Some(text) = seen.text(Field::MessageId).filter(|text| text.len() > 2) else { return Some(at) };
        if !flags.has(Flags::KNOWN) || flags.has(Flags::NOTICE) {
            return Some(at);
        }
        let hash = message_id_hash(&self.hasher, seen, text);
        let root = self.message_ids.find(hash, seen.now).filter(|root| *root != at);
        if flags.has(Flags::INSIDE)
            && !flags.has(Flags::TOLD)
            && let Some(root) = root
        {
            if self.may_continue(root) {
                self.messages.inherit(at, root);
                return Some(at);
            }
            self.messages.get_mut(at)?.flags.set(Flags::CONTINUED);
        }
        if !flags.has(Flags::TOLD) {
            self.message_ids.remember(hash, at, seen.now);
        }
        Some(at)
    }

    /// A message in the queue is continued once by message-id alone: whoever writes mail on this host chooses the
    /// message-id, and must not send a thousand messages as continuations of one.
    fn may_continue(&mut self, root: MessageRef) -> bool {
        let Some(message) = self.messages.get_mut(root) else { return false };
        let may = message.activations > 0 && !message.flags.has(Flags::CONTINUED);
        message.flags.set(Flags::CONTINUED);
        may
    }

    /// smtpd's `proxy-accept: … queued as QID`: the client's connection and the message belong together.
    fn proxy_accept(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let id = seen.text(Field::OtherQueueId).or_else(|| seen.queue_id())?;
        let at = self.messages.find(scope(&self.hasher, seen), id)?;
        let process = self.process(seen);
        let message = self.messages.get_mut(at)?;
        let waited = message.flags.has(Flags::AWAITS_PROXY);
        message.flags.clear(Flags::AWAITS_PROXY);
        if message.submitter.is_some() && !waited {
            return Some(at);
        }
        let client = self.proxied.of_process(process, seen.now);
        if let Some(client) = client {
            message.ip = client.ip;
            message.service = client.service;
        }
        let shown = seen.text(Field::Account).filter(|name| !name.is_empty());
        if shown.is_some() || client.is_some_and(|client| client.login.is_some()) {
            message.flags.set(Flags::LOGIN);
        }
        match (client.and_then(|client| client.login), shown) {
            (Some(login), _) => {
                let held = self.messages.names.hold_again(login);
                self.messages.replace_submitter(at, Some(held));
            }
            (None, Some(shown)) => self.messages.set_submitter(at, self.canonical.name(shown)),
            (None, None) => {}
        }
        if self.messages.get(at)?.activations > 0 {
            self.tell(at, None, seen, sink);
        }
        Some(at)
    }
}

/// Messages, from the queue to the end.
impl Correlator {
    /// qmgr's `QID: from=<…>, size=…, nrcpt=… (queue active)`.
    fn active(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let (scope, id) = (scope(&self.hasher, seen), seen.queue_id()?);
        let at = match self.messages.find(scope, id) {
            Some(at) => at,
            // Begun before the log, or by Postfix itself: the bounce line may follow.
            None => self.messages.begin(scope, id, seen.now)?,
        };
        let message = self.messages.get_mut(at)?;
        message.activations = message.activations.saturating_add(1);
        if message.activations == 1 {
            message.recipients = seen.parsed.recipients;
            message.bytes = u32::try_from(seen.parsed.bytes).unwrap_or(u32::MAX);
        }
        if message.flags.has(Flags::KNOWN) && !message.flags.has(Flags::AWAITS_PROXY) {
            self.tell(at, seen.text(Field::Sender), seen, sink);
        }
        Some(at)
    }

    /// The `message` event, once.
    fn tell(&mut self, at: MessageRef, sender: Option<&[u8]>, seen: Seen<'_>, sink: &mut Sink<'_>) {
        let Some(message) = self.messages.get_mut(at).filter(|message| !message.flags.has(Flags::TOLD)) else { return };
        message.flags.set(Flags::TOLD);
        let (recipients, bytes, ip, service) = (message.recipients, u64::from(message.bytes), message.ip, message.service);
        let Some(message) = self.messages.get(at) else { return };
        let event = Event {
            ip,
            service,
            sender,
            recipients,
            bytes,
            count: 1,
            queue_id: Some(message.id()),
            ..self.mail_event(EventKind::Message, at, seen)
        };
        sink(&event);
    }

    fn removed(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let at = self.messages.find(scope(&self.hasher, seen), seen.queue_id()?)?;
        if self.messages.get(at)?.flags.has(Flags::AWAITS_PROXY) {
            self.tell(at, None, seen, sink);
        }
        self.messages.retire(at);
        Some(at)
    }

    /// bounce's `QID: sender non-delivery notification: QID2`: the notice belongs to the sender, but is not his doing.
    fn bounce(&mut self, seen: Seen<'_>) -> Option<MessageRef> {
        let scope = scope(&self.hasher, seen);
        let root = self.messages.find(scope, seen.queue_id()?);
        if let Some(id) = seen.text(Field::OtherQueueId) {
            let begun = self.messages.find(scope, id).filter(|at| self.may_learn(*at));
            let notice = begun.or_else(|| self.messages.begin(scope, id, seen.now));
            if let Some(message) = notice.and_then(|at| self.messages.get_mut(at)) {
                message.flags.set(Flags::KNOWN);
                message.flags.set(Flags::TOLD);
                message.flags.set(Flags::NOTICE);
            }
            if let (Some(notice), Some(root)) = (notice, root) {
                self.messages.inherit(notice, root);
            }
        }
        root
    }

    /// `QID: to=<…>, relay=…, status=…`.
    fn delivery(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let at = seen.queue_id().and_then(|id| self.messages.find(scope(&self.hasher, seen), id));
        let relay = seen.text(Field::Relay).and_then(reinjected::relay_address);
        let loopback = relay.is_some_and(|ip| ip.is_loopback());
        if relay.is_some_and(|ip| self.is_inside(ip))
            && let Some(id) = seen.text(Field::Text).and_then(reinjected::queued_as)
            && (self.handed_to_filter(at, id, seen) || loopback)
        {
            return at;
        }
        let recipient = seen.text(Field::Recipient);
        let leaves = seen.program().ends_with(b"/smtp") && !loopback && !recipient.is_some_and(|to| self.canonical.is_local(to));
        let Some((at, message)) = at.and_then(|at| Some((at, self.messages.get(at)?))) else {
            sink(&Event { recipients: u32::from(leaves), ..seen.event(EventKind::Delivery) });
            return None;
        };
        // Each recipient is told once: retries come after the message has become active again.
        let recipients = u32::from(leaves && message.activations <= 1);
        if message.flags.has(Flags::NOTICE) {
            sink(&Event { recipients: 0, ..seen.event(EventKind::Delivery) });
        } else {
            sink(&Event { ip: message.ip, recipients, ..self.mail_event(EventKind::Delivery, at, seen) });
        }
        Some(at)
    }

    /// Whether a content filter took the message and has already handed it in again as `id`. That is no delivery.
    fn handed_to_filter(&mut self, root: Option<MessageRef>, id: &[u8], seen: Seen<'_>) -> bool {
        let Some(child) = self.messages.find(scope(&self.hasher, seen), id) else { return false };
        let Some(flags) = self.messages.get(child).map(|message| message.flags) else { return false };
        let open = flags.has(Flags::INSIDE) && !flags.has(Flags::LOGIN) && !flags.has(Flags::NOTICE);
        match root.filter(|root| *root != child) {
            Some(root) if open => {
                self.messages.inherit(child, root);
                true
            }
            // XFORWARD has told it already.
            _ => flags.has(Flags::TOLD),
        }
    }

    /// Rejects, abuse and verdicts: the line's own words, and whose message it is where it names one.
    fn about_mail(&mut self, kind: EventKind, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        if sessions::ends_login(seen.parsed.reason, slice(seen.line, seen.parsed.message)) {
            let process = self.process(seen);
            self.sessions.failed(process, seen.parsed.client, 1);
        }
        let at = seen.queue_id().and_then(|id| self.messages.find(scope(&self.hasher, seen), id));
        let account = seen.text(Field::Account).filter(|name| !name.is_empty()).map(|name| self.canonical.name(name));
        let mut event = seen.event(kind);
        if let Some(at) = at.filter(|_| account.is_none()) {
            event = self.mail_event(kind, at, seen);
            event.ip = if kind == EventKind::SpamVerdict { event.ip.or_else(|| self.sent_from(at)) } else { event.ip };
        } else {
            event.account = account;
            event.submitter = account;
        }
        sink(&event);
        at
    }

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
        }
    }
}

/// Queue ids mean something within one Postfix instance (the first word of the tag) of one host.
fn scope(hasher: &DefaultHashBuilder, seen: Seen<'_>) -> u64 {
    let program = seen.program();
    let instance = &program[..memchr::memchr(b'/', program).unwrap_or(program.len())];
    hash(hasher, seen, instance)
}

fn host(hasher: &DefaultHashBuilder, seen: Seen<'_>) -> u64 {
    hash(hasher, seen, b"")
}

fn message_id_hash(hasher: &DefaultHashBuilder, seen: Seen<'_>, text: &[u8]) -> u64 {
    hash(hasher, seen, text)
}

/// The lowest bit keeps vouched lines and others apart for certain.
fn hash(hasher: &DefaultHashBuilder, seen: Seen<'_>, text: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(slice(seen.line, seen.parsed.host));
    state.write_u8(0xff);
    state.write(text);
    state.finish() << 1 | u64::from(seen.vouched)
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
