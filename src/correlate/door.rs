//! Messages, from the door to the queue: who hands them in.

use std::net::IpAddr;

use super::messages::Flags;
use super::reinjected::{self, Behind, Client};
use super::{Correlator, MessageRef, Process, Seen, Sink, host, local_user, message_id_hash, scope};
use crate::event::{Event, EventKind};
use crate::parse::{Field, slice};

impl Correlator {
    /// smtpd's `QID: client=…`: a message begins. With a login it is a successful login as well.
    pub(super) fn client(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
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
        let at = self.messages.begin(scope(&self.hasher, seen), id, seen.parsed.time, seen.now)?;
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
            self.came_from_inside(at, ip);
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
    fn came_from_inside(&mut self, at: MessageRef, ip: IpAddr) {
        if let Some(message) = self.messages.get_mut(at) {
            message.flags.set(Flags::INSIDE);
        }
        if self.trusted.iter().any(|network| network.contains(ip)) {
            self.messages.set_submitter(at, format!("client:{ip}").as_bytes());
        }
    }

    /// pickup's `QID: uid=33 from=<www-data>`: a local user hands in a message.
    pub(super) fn pickup(&mut self, seen: Seen<'_>) -> Option<MessageRef> {
        let at = self.messages.begin(scope(&self.hasher, seen), seen.queue_id()?, seen.parsed.time, seen.now)?;
        self.messages.get_mut(at)?.flags.set(Flags::KNOWN);
        if let Some(original) = seen.text(Field::OrigQueueId) {
            // Put into the queue once more by the operator (`postsuper -r`): Postfix's own uid hands it in.
            self.continues(at, original, seen);
        } else if let Some(uid) = seen.parsed.uid {
            self.messages.get_mut(at)?.flags.set(Flags::LOCAL);
            let mut text = [0u8; 16];
            self.messages.set_submitter(at, local_user(uid, &mut text));
        }
        Some(at)
    }

    /// cleanup's `QID: message-id=<…>`. The last resort to recognise what a content filter hands in again.
    pub(super) fn message_id(&mut self, seen: Seen<'_>) -> Option<MessageRef> {
        let (scope, id) = (scope(&self.hasher, seen), seen.queue_id()?);
        let found = self.messages.find(scope, id);
        // A file that already went through the queue is over: Postfix itself begins a message under the same id.
        let fresh = found.filter(|at| self.messages.get(*at).is_some_and(|message| message.activations == 0));
        let at = match fresh {
            Some(at) => at,
            None => self.messages.begin(scope, id, seen.parsed.time, seen.now)?,
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
            let may = self.may_continue(root);
            let message = self.messages.get_mut(at)?;
            if may {
                message.perhaps = Some(root);
                return Some(at);
            }
            message.flags.set(Flags::CONTINUED);
        }
        if flags.has(Flags::LOCAL)
            && let Some(root) = root
            && self.may_forward(root)
        {
            self.sent_on(at);
        }
        if !flags.has(Flags::TOLD) {
            self.message_ids.remember(hash, at, seen.now);
        }
        Some(at)
    }

    /// A local user hands in what has just come from outside, under its own message-id: Sieve, or an alias that is a program,
    /// sends it on. It is nobody's own mail.
    fn may_forward(&mut self, root: MessageRef) -> bool {
        let Some(message) = self.messages.get_mut(root) else { return false };
        let is_from_outside = message.submitter.is_none() && message.ip.is_some() && !message.flags.has(Flags::FORWARDED);
        if is_from_outside {
            // Once: whoever writes mail on this host could send thousands under the message-id of one that he got.
            message.flags.set(Flags::FORWARDED);
        }
        is_from_outside
    }

    fn sent_on(&mut self, at: MessageRef) {
        let Some(name) = self.messages.submitter(at).and_then(|name| name.strip_prefix(b"local:")).map(<[u8]>::to_vec) else { return };
        self.messages.set_submitter(at, &[b"forward:", name.as_slice()].concat());
    }

    /// A message in the queue is continued once by message-id alone: whoever writes mail on this host chooses the
    /// message-id, and must not send a thousand messages as continuations of one. Nor may it have been on its way to somebody
    /// already, who so knows its message-id.
    fn may_continue(&mut self, root: MessageRef) -> bool {
        let Some(message) = self.messages.get_mut(root) else { return false };
        let may = message.activations > 0 && !message.flags.has(Flags::CONTINUED) && !message.flags.has(Flags::LEFT);
        message.flags.set(Flags::CONTINUED);
        may
    }

    /// smtpd's `proxy-accept: … queued as QID`: the client's connection and the message belong together.
    pub(super) fn proxy_accept(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
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
