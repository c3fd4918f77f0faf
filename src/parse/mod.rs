//! Stage 2, line → parsed line. Pure: no I/O, no clock.
//!
//! **Invariant:** what an attacker writes into a line (HELO, addresses, login names, reverse names, remote replies) never
//! becomes the client address or the account of another one. Every pattern is anchored at both ends and reads by position.

mod dispatch;
mod explain;
mod filter;
mod ip;
mod matcher;
mod parser;
mod program;
mod reasons;
mod regex;
mod samples;
mod scan;
mod stamp;
mod syslog;
mod template;

use std::net::IpAddr;
use std::time::Duration;

pub use dispatch::FilterSet;
pub use explain::{Attempt, Explanation};
pub use filter::{FilterError, FilterSource};
pub use parser::{Outcome, Parser, ParserOptions, Unmatched};
pub use syslog::{Envelope, EnvelopeReader};
pub use template::{Template, TemplateError};

use crate::event::words;
use crate::event::{DeliveryStatus, EventKind, Reason, Service};
use crate::time::Timestamp;

words! {
    /// What kind of line a pattern recognises: an event in itself, or a piece that `correlate` joins.
    LineKind {
        AuthFailure = "auth-failure",
        AuthSuccess = "auth-success",
        Reject = "reject",
        ProtocolAbuse = "protocol-abuse",
        Delivery = "delivery",
        SpamVerdict = "spam-verdict",
        /// imap `Disconnected: … out=BYTES`.
        Session = "session",
        Connect = "connect",
        /// `count` is the number of failed AUTH commands that smtpd's statistics tell, 0 for none: an offence only where no
        /// line told the failures.
        Disconnect = "disconnect",
        /// smtpd `QID: client=…` (with a login it is an auth-success as well).
        Client = "client",
        /// pickup `QID: uid=… from=…`.
        Pickup = "pickup",
        /// cleanup `QID: message-id=…`.
        MessageId = "message-id",
        /// qmgr `QID: from=…, size=…, nrcpt=… (queue active)`.
        Active = "active",
        /// qmgr `QID: removed` and everything else that ends a queue id.
        Removed = "removed",
        /// bounce `QID: sender non-delivery notification: QID2`.
        Bounce = "bounce",
        /// smtpd `proxy-accept: … queued as QID`.
        ProxyAccept = "proxy-accept",
        /// Known and of no consequence.
        Noise = "noise",
    }
}

words! {
    /// A piece of a line that a pattern names. In a template it is written `<name>`.
    Field {
        ClientName = "client-name",
        Account = "account",
        Mechanism = "mechanism",
        Session = "session",
        QueueId = "queue-id",
        /// `orig_queue_id=`: the id before a content filter.
        OrigQueueId = "orig-queue-id",
        /// The second queue id of a line: a bounce's own, or "queued as" of a proxy.
        OtherQueueId = "other-queue-id",
        MessageId = "message-id",
        Sender = "sender",
        Recipient = "recipient",
        OrigRecipient = "orig-recipient",
        Helo = "helo",
        Relay = "relay",
        Dsn = "dsn",
        Status = "status",
        /// Free text: the cause of a failure, a server's reply.
        Text = "text",
    }
}
pub const FIELDS: usize = Field::ALL.len();

/// A range of bytes of one line: length and start in one word. As two fields they would be written apart and read together,
/// and then the processor waits for all earlier writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span(u32);

impl Span {
    /// Positions are below `LINE_BYTES_MAX`, and so fit.
    pub const fn new(start: usize, end: usize) -> Span {
        Span((end.saturating_sub(start) as u32) << 16 | start as u16 as u32)
    }

    pub const fn start(self) -> usize {
        self.0 as u16 as usize
    }

    pub const fn len(self) -> usize {
        (self.0 >> 16) as usize
    }

    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// One recognised line. `Copy`, no allocation: its texts are ranges of the line it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    pub time: Timestamp,
    fold_minutes: u8,
    /// Which pattern recognised it: index into the filter set's patterns.
    pub pattern: u16,
    pub kind: LineKind,
    pub service: Service,
    pub reason: Reason,
    /// Says again what another line tells.
    pub restates: bool,
    /// A sign, not an offence.
    pub weak: bool,
    /// The failures that the line stands for; 1 unless it says otherwise.
    pub count: u32,
    pub client: Option<IpAddr>,
    /// SMTP reply code, 0 when there is none.
    pub code: u16,
    pub status: Option<DeliveryStatus>,
    pub pid: u32,
    /// `uid=` of a pickup line.
    pub uid: Option<u32>,
    /// The sender's uid as an annotating relay (rsyslog's `$!uid`) put it in front of the message.
    pub sender_uid: Option<u32>,
    /// nrcpt of a queue-active line.
    pub recipients: u32,
    pub bytes: u64,
    pub host: Span,
    /// The syslog tag, such as `postfix/submission/smtpd`.
    pub program: Span,
    /// Where the message starts in the line.
    pub message: Span,
    fields: [Span; FIELDS],
    present: u32,
}

/// What a try may have set and a later one must not see.
#[derive(Clone, Copy)]
struct Saved {
    count: u32,
    client: Option<IpAddr>,
    code: u16,
    status: Option<DeliveryStatus>,
    uid: Option<u32>,
    recipients: u32,
    bytes: u64,
    present: u32,
}

impl Parsed {
    /// An empty result with the envelope's part filled in.
    fn new(envelope: &Envelope, service: Service) -> Self {
        Parsed {
            time: envelope.time,
            fold_minutes: envelope.fold_minutes,
            pattern: 0,
            kind: LineKind::Noise,
            service,
            reason: Reason::None,
            restates: false,
            weak: false,
            count: 1,
            client: None,
            code: 0,
            status: None,
            pid: envelope.pid,
            uid: None,
            sender_uid: envelope.sender_uid,
            recipients: 0,
            bytes: 0,
            host: envelope.host,
            program: envelope.program,
            message: envelope.message,
            fields: [Span::default(); FIELDS],
            present: 0,
        }
    }

    /// When clocks are put back an hour comes twice, and a stamp without an offset does not say which of the two it means: the one
    /// nearer to `latest`, the time of the line before.
    pub fn unfold(&mut self, latest: Timestamp) {
        if self.fold_minutes == 0 {
            return;
        }
        let later = self.time + Duration::from_secs(60 * u64::from(self.fold_minutes));
        let distance = |time: Timestamp| time.micros().abs_diff(latest.micros());
        if distance(later) < distance(self.time) {
            self.time = later;
        }
    }

    fn save(&self) -> Saved {
        Saved {
            count: self.count,
            client: self.client,
            code: self.code,
            status: self.status,
            uid: self.uid,
            recipients: self.recipients,
            bytes: self.bytes,
            present: self.present,
        }
    }

    fn restore(&mut self, saved: Saved) {
        self.count = saved.count;
        self.client = saved.client;
        self.code = saved.code;
        self.status = saved.status;
        self.uid = saved.uid;
        self.recipients = saved.recipients;
        self.bytes = saved.bytes;
        self.present = saved.present;
    }

    /// The text of `field` in `line`, the line that this was parsed from.
    pub fn text<'a>(&self, line: &'a [u8], field: Field) -> Option<&'a [u8]> {
        let index = field as usize;
        if self.present & (1 << index) == 0 { None } else { Some(slice(line, self.fields[index])) }
    }

    fn unset(&mut self, field: Field) {
        self.present &= !(1 << field as usize);
    }

    pub fn set(&mut self, field: Field, span: Span) {
        self.fields[field as usize] = span;
        self.present |= 1 << field as usize;
    }
}

/// The bytes of `span`; empty where it does not fit.
pub fn slice(line: &[u8], span: Span) -> &[u8] {
    line.get(span.start()..span.start() + span.len()).unwrap_or_default()
}

impl LineKind {
    /// The event that such a line is by itself, if any.
    pub const fn event(self) -> Option<EventKind> {
        match self {
            LineKind::AuthFailure => Some(EventKind::AuthFailure),
            LineKind::AuthSuccess => Some(EventKind::AuthSuccess),
            LineKind::Reject => Some(EventKind::Reject),
            LineKind::ProtocolAbuse => Some(EventKind::ProtocolAbuse),
            LineKind::Delivery => Some(EventKind::Delivery),
            LineKind::SpamVerdict => Some(EventKind::SpamVerdict),
            LineKind::Session => Some(EventKind::Session),
            _ => None,
        }
    }
}
