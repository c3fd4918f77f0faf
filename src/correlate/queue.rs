//! Messages, from the queue to the end: what becomes of them.

use super::messages::Flags;
use super::{Correlator, MessageRef, Seen, Sink, mail_scope, reinjected, scope, sessions};
use crate::event::{Event, EventKind};
use crate::parse::{Field, slice};

impl Correlator {
    /// qmgr's `QID: from=<…>, size=…, nrcpt=… (queue active)`.
    pub(super) fn active(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let (scope, id) = (scope(&self.hasher, seen), seen.queue_id()?);
        let at = match self.messages.find(scope, id) {
            Some(at) => at,
            // Begun before the log, or by Postfix itself: the bounce line may follow.
            None => self.messages.begin(scope, id, seen.parsed.time, seen.now)?,
        };
        let message = self.messages.get_mut(at)?;
        message.activations = message.activations.saturating_add(1);
        if message.activations == 1 {
            message.recipients = seen.parsed.recipients;
            message.bytes = u32::try_from(seen.parsed.bytes).unwrap_or(u32::MAX);
        }
        if let Some(root) = message.perhaps.take()
            && self.messages.get(root).is_some_and(|root| seen.parsed.recipients <= root.recipients)
        {
            // A content filter hands in what it was given. With more recipients it is another message that says it is this one.
            self.messages.inherit(at, root);
        }
        let message = self.messages.get_mut(at)?;
        if message.flags.has(Flags::KNOWN) && !message.flags.has(Flags::AWAITS_PROXY) {
            self.tell(at, seen.text(Field::Sender), seen, sink);
        }
        Some(at)
    }

    /// The `message` event, once.
    pub(super) fn tell(&mut self, at: MessageRef, sender: Option<&[u8]>, seen: Seen<'_>, sink: &mut Sink<'_>) {
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

    pub(super) fn removed(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let at = self.messages.find(scope(&self.hasher, seen), seen.queue_id()?)?;
        if self.messages.get(at)?.flags.has(Flags::AWAITS_PROXY) {
            self.tell(at, None, seen, sink);
        }
        self.messages.retire(at);
        Some(at)
    }

    /// bounce's `QID: sender non-delivery notification: QID2`: the notice belongs to the sender, but is not his doing.
    pub(super) fn bounce(&mut self, seen: Seen<'_>) -> Option<MessageRef> {
        let scope = scope(&self.hasher, seen);
        let root = self.messages.find(scope, seen.queue_id()?);
        if let Some(id) = seen.text(Field::OtherQueueId) {
            let begun = self.messages.find(scope, id).filter(|at| self.may_learn(*at));
            let notice = begun.or_else(|| self.messages.begin(scope, id, seen.parsed.time, seen.now));
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
    pub(super) fn delivery(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let at = seen.queue_id().and_then(|id| self.messages.find(scope(&self.hasher, seen), id));
        let relay = seen.text(Field::Relay).and_then(crate::address::of_relay);
        let loopback = relay.is_some_and(|ip| ip.is_loopback());
        if relay.is_some_and(|ip| self.is_inside(ip))
            && let Some(id) = seen.text(Field::Text).and_then(reinjected::queued_as)
            && (self.handed_to_filter(at, id, seen) || loopback)
        {
            return at;
        }
        let recipient = seen.text(Field::Recipient);
        let leaves = seen.program().ends_with(b"/smtp") && !loopback && !recipient.is_some_and(|to| self.canonical.is_local(to));
        let Some(at) = at.filter(|at| self.messages.get(*at).is_some()) else {
            sink(&Event { recipients: u32::from(leaves), ..seen.event(EventKind::Delivery) });
            return None;
        };
        if relay.is_some_and(|ip| !self.is_inside(ip))
            && let Some(message) = self.messages.get_mut(at)
        {
            message.flags.set(Flags::LEFT);
        }
        let message = self.messages.get(at)?;
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
    pub(super) fn about_mail(&mut self, kind: EventKind, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        if sessions::ends_login(seen.parsed.reason, slice(seen.line, seen.parsed.message)) {
            let process = self.process(seen);
            self.sessions.failed(process, seen.parsed.client, 1);
        }
        let scope = if kind == EventKind::SpamVerdict { mail_scope(&self.hasher, seen) } else { scope(&self.hasher, seen) };
        let at = seen.queue_id().and_then(|id| self.messages.find(scope, id));
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
}
