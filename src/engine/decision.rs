//! What the engine decides, and what it is told.

use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::jail::Scope;
use crate::event::words;
use crate::time::Timestamp;

words! {
    Verb {
        Ban = "ban",
        Unban = "unban",
        Lock = "lock",
        Unlock = "unlock",
        Hold = "hold",
        Release = "release",
        Alert = "alert",
    }
}

/// One decision. The shell hands it to the ledger's store, the enforcers and the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Deterministic: the same lines give the same id, so nothing is done twice.
    pub id: u64,
    pub time: Timestamp,
    pub verb: Verb,
    pub subject: Subject,
    /// Of a ban; of a lock, `submission` or `auth`.
    pub scope: Scope,
    /// [`Timestamp::NEVER`]: for ever.
    pub until: Timestamp,
    /// The jail, or `manual`.
    pub jail: String,
    /// One sentence: what was seen.
    pub reason: String,
    pub cause: Cause,
    /// The jail only observes: log it, enforce nothing.
    pub observed: bool,
    pub evidence: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Net(IpNetwork),
    Account(String),
}

words! {
    /// Who asked for it.
    Cause {
        Engine = "engine",
        Operator = "operator",
        /// Another mail host.
        Fleet = "fleet",
    }
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    pub id: u64,
    pub net: IpNetwork,
    pub scope: Scope,
    pub since: Timestamp,
    pub until: Timestamp,
    pub jail: String,
    pub reason: String,
    pub cause: Cause,
    /// How many bans of this subject came before, within the memory.
    pub earlier: u32,
    pub evidence: Vec<String>,
}

/// A ban that was lifted before its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Lifted {
    pub net: IpNetwork,
    pub scope: Scope,
    pub since: Timestamp,
    pub lifted: Timestamp,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Ban {
        net: IpNetwork,
        duration: Option<Duration>,
        scope: Scope,
        reason: String,
        force: bool,
    },
    Unban {
        net: IpNetwork,
    },
    UnbanAll,
    Lock {
        account: String,
        /// `None`: until somebody unlocks it.
        duration: Option<Duration>,
        /// Not only sending: nothing can be logged in to.
        full: bool,
        reason: String,
    },
    Unlock {
        account: String,
        /// It was the owner.
        false_alarm: bool,
    },
    Hold {
        account: String,
        reason: String,
    },
    Release {
        account: String,
        /// It was the owner.
        false_alarm: bool,
    },
    /// Takes back every decision since then.
    Undo {
        since: Timestamp,
    },
}

/// What came of a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done { changed: usize },
    Refused(String),
    NotFound,
}

/// A decision as `replay --json` and `monitor --json` print it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecisionView<'a> {
    pub time: String,
    pub action: Verb,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<&'a str>,
    pub jail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Missing: for ever, or no such thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    pub reason: &'a str,
    pub cause: Cause,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub observed: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub evidence: &'a [String],
}

impl Decision {
    pub fn view(&self) -> DecisionView<'_> {
        let (ip, account) = match &self.subject {
            Subject::Net(net) => (Some(crate::address::display(*net)), None),
            Subject::Account(name) => (None, Some(name.as_str())),
        };
        let lasts = matches!(self.verb, Verb::Ban | Verb::Lock) && self.until != Timestamp::NEVER;
        DecisionView {
            time: self.time.rfc3339(),
            action: self.verb,
            ip,
            account,
            jail: &self.jail,
            scope: matches!(self.verb, Verb::Ban | Verb::Unban | Verb::Lock | Verb::Unlock).then_some(self.scope),
            until: lasts.then(|| self.until.rfc3339()),
            reason: &self.reason,
            cause: self.cause,
            observed: self.observed,
            evidence: &self.evidence,
        }
    }
}
