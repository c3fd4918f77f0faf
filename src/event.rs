//! One fact about the mail host: what the engine counts.

use std::net::IpAddr;

use crate::time::Timestamp;

/// Declares a closed set of words: the enum, its names in TOML and JSON, and the list of all of them.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            pub const fn as_str(self) -> &'static str { match self { $($name::$variant => $text),+ } }
        }
        impl std::str::FromStr for $name {
            type Err = ();
            fn from_str(text: &str) -> Result<Self, ()> { match text { $($text => Ok($name::$variant),)+ _ => Err(()) } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.as_str()) }
        }
    };
}
pub(crate) use words;

words! {
    /// What happened.
    EventKind {
        AuthFailure = "auth-failure",
        AuthSuccess = "auth-success",
        Reject = "reject",
        ProtocolAbuse = "protocol-abuse",
        /// One message, told once, at the first "queue active" of its root queue id.
        Message = "message",
        Delivery = "delivery",
        SpamVerdict = "spam-verdict",
        /// A mailbox session has ended; its bytes are what was sent to the client.
        Session = "session",
        /// The engine's own decisions, fed back for recidive and widening; never in observe mode.
        Banned = "banned",
        Held = "held",
        Locked = "locked",
    }
}

words! {
    /// Which door the client came to.
    Service {
        /// Port 25, postscreen included.
        Smtp = "smtp",
        /// Ports 587 and 465.
        Submission = "submission",
        Imap = "imap",
        Pop3 = "pop3",
        ManageSieve = "managesieve",
        Ssh = "ssh",
        Webmail = "webmail",
        Other = "other",
    }
}

words! {
    /// Why, in the words that jails use in `where` and `weight`.
    Reason {
        None = "none",
        // auth-failure
        BadPassword = "bad-password",
        UnknownUser = "unknown-user",
        /// A failed login whose cause the line does not tell.
        AuthFailed = "auth-failed",
        BadMechanism = "bad-mechanism",
        PlaintextRefused = "plaintext-refused",
        AccountDisabled = "account-disabled",
        // reject
        Relay = "relay",
        UnknownRecipient = "unknown-recipient",
        UnknownSender = "unknown-sender",
        Rbl = "rbl",
        Helo = "helo",
        NoReverseName = "no-reverse-name",
        Sender = "sender",
        /// The sender address belongs to somebody else than the login.
        SenderOwner = "sender-owner",
        Policy = "policy",
        Content = "content",
        Rate = "rate",
        Greylist = "greylist",
        Protocol = "protocol",
        /// Quota, size, mailbox busy, wrong server state: nobody's offence.
        Temporary = "temporary",
        // protocol-abuse
        Pregreet = "pregreet",
        Hangup = "hangup",
        NonSmtpCommand = "non-smtp-command",
        Pipelining = "pipelining",
        TooManyErrors = "too-many-errors",
        BareNewline = "bare-newline",
        Limit = "limit",
        Tls = "tls",
        LostConnection = "lost-connection",
        NoAuthAttempt = "no-auth-attempt",
        Dnsbl = "dnsbl",
        OtherReason = "other",
    }
}

words! {
    /// What became of a delivery.
    DeliveryStatus { Sent = "sent", Deferred = "deferred", Bounced = "bounced", Expired = "expired", Other = "other" }
}

words! {
    /// How the place that a client comes from stands to the account that it uses.
    Familiarity {
        /// There is no history to compare with, or no address.
        Unknown = "unknown",
        Known = "known",
        /// Another provider, in a country that it was used from before or that is not known.
        NewNetwork = "new-network",
        NewCountry = "new-country",
    }
}

/// What is new about where a client comes from, to the account that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whence {
    pub familiarity: Familiarity,
    /// Never used before by that account.
    pub is_first_country: bool,
    pub is_first_network: bool,
    /// Nothing was ever done at that hour of the day.
    pub is_first_hour: bool,
    /// How fast its user must have travelled since the last login.
    pub kilometres_per_hour: u32,
}

impl Whence {
    pub const NOWHERE: Whence = Whence {
        familiarity: Familiarity::Unknown,
        is_first_country: false,
        is_first_network: false,
        is_first_hour: false,
        kilometres_per_hour: 0,
    };
}

/// One fact. Borrowed and `Copy`: its texts live with whoever tells it until the call that receives it returns.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub kind: EventKind,
    pub time: Timestamp,
    /// Somebody trustworthy says that the named program wrote the line. What nobody vouches for never bans and never locks.
    pub vouched: bool,
    pub service: Service,
    pub reason: Reason,
    /// Name of the filter (`postfix`, `dovecot`, …) that recognised the line; empty for the engine's own events.
    pub filter: &'a str,
    /// How many failures the event stands for (Dovecot: "N attempts"); 1 for everything else.
    pub count: u32,
    /// Suspicious, but by itself no offence: counted only by a jail that says `weak = true`.
    pub weak: bool,
    /// Says again what another line already told: never counted.
    pub restates: bool,
    pub ip: Option<IpAddr>,
    /// Canonical account name: of the login for auth events, of the submitter for mail events.
    pub account: Option<&'a [u8]>,
    /// Who sends: an account, `local:UID`, `client:ADDR`, `forward:ALIAS`.
    pub submitter: Option<&'a [u8]>,
    pub queue_id: Option<&'a [u8]>,
    pub sender: Option<&'a [u8]>,
    pub recipient: Option<&'a [u8]>,
    /// External recipients of a message, as far as known; 1 for a reject that names a recipient.
    pub recipients: u32,
    pub bytes: u64,
    /// SMTP reply code, 0 when the line has none.
    pub code: u16,
    pub status: Option<DeliveryStatus>,
    /// Enhanced status code of a delivery, such as `5.1.1`.
    pub dsn: Option<&'a [u8]>,
    /// `relay=` of a delivery: `name[addr]:port`, `local`, `none`, …
    pub relay: Option<&'a [u8]>,
    /// Filled in by the engine.
    pub whence: Whence,
    /// Filled in by the engine: many addresses have failed to log in as this account lately.
    pub besieged: bool,
    /// Filled in by the engine: a delivery to a domain that the submitter had not written to before today.
    pub new_recipient_domain: bool,
    /// Filled in by the engine, where it says something about where the client is.
    pub country: Option<u16>,
    /// Filled in by the engine: the number of the client's provider.
    pub asn: Option<u32>,
    /// The line itself, for evidence; empty for the engine's own events.
    pub line: &'a [u8],
}

impl Event<'_> {
    /// An event of `kind` at `time` with nothing else known; vouched.
    pub const fn new(kind: EventKind, time: Timestamp) -> Self {
        Event {
            kind,
            time,
            vouched: true,
            service: Service::Other,
            reason: Reason::None,
            filter: "",
            count: 1,
            weak: false,
            restates: false,
            ip: None,
            account: None,
            submitter: None,
            queue_id: None,
            sender: None,
            recipient: None,
            recipients: 0,
            bytes: 0,
            code: 0,
            status: None,
            dsn: None,
            relay: None,
            whence: Whence::NOWHERE,
            besieged: false,
            new_recipient_domain: false,
            country: None,
            asn: None,
            line: b"",
        }
    }
}
