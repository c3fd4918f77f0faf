//! Connections and logins: one failed login is one event.

use super::canonical::POSTFIX_NAME_BYTES;
use super::{Correlator, MessageRef, Process, Seen, Sink, host};
use crate::event::{Event, EventKind, Reason, Service};
use crate::parse::Field;

impl Correlator {
    pub(super) fn connect(&mut self, seen: Seen<'_>) -> Option<MessageRef> {
        let process = self.process(seen);
        self.sessions.connect(process);
        None
    }

    /// smtpd's `disconnect from … auth=0/2`: logins that failed without a line of their own (AUTH before EHLO or TLS).
    pub(super) fn disconnect(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let process = self.process(seen);
        let told = self.sessions.disconnect(process, seen.parsed.client);
        let count = seen.parsed.count.saturating_sub(told);
        if count > 0 {
            sink(&Event { reason: Reason::AuthFailed, count, ..seen.event(EventKind::AuthFailure) });
        }
        None
    }

    pub(super) fn auth_failure(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
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
            // What sshd says of a user of the system explains no login to a mailbox.
            if event.service != Service::Ssh {
                self.hints.remember(host(&self.hasher, seen), ip, event.reason, event.account.unwrap_or_default(), seen.now);
            }
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

    /// imap's `(anna)<1><x>: Disconnected: … out=61204`: how much somebody has read.
    pub(super) fn session(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let account = seen.text(Field::Account).map(|name| self.canonical.name(name));
        sink(&Event { account, submitter: account, ..seen.event(EventKind::Session) });
        None
    }

    pub(super) fn auth_success(&mut self, seen: Seen<'_>, sink: &mut Sink<'_>) -> Option<MessageRef> {
        let account = seen.text(Field::Account).map(|name| self.canonical.name(name));
        sink(&Event { account, submitter: account, ..seen.event(EventKind::AuthSuccess) });
        None
    }
}
