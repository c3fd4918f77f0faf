//! People are told: e-mail to the administrator, to the owner of an account at another address, a webhook.
//!
//! What is to be told stands in the store's outbox, in the same transaction as its decision, until a server has taken it.
//! `text` and `desk` are pure: what a message says, and when which messages go; `mail` and `webhook` are the ways out, each with a
//! thread of its own (`courier`).
//!
//! **Invariant:** nobody waits for a mail server here, no recipient for another one, nothing that was taken is told again (each
//! message has the id of its decision), nothing is told about messages that could not be sent, and no text of an attacker stands in a
//! header.

mod courier;
mod desk;
mod mail;
mod text;
mod webhook;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use courier::{BansOf, Courier, CourierView, Done};

use crate::config::Notify;
use crate::engine::decision::{Cause, Decision, Subject, Verb};
use crate::engine::jail::Scope;
use crate::event::words;
use crate::time::Timestamp;

words! {
    /// How somebody is told.
    Way {
        /// The administrator, by mail.
        Mail = "mail",
        /// The owner of the account, by mail to another address.
        Owner = "owner",
        Webhook = "webhook",
    }
}

/// A decision as people are told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Of the decision.
    pub id: u64,
    /// Microseconds since 1970, as all times in here.
    pub time: i64,
    pub verb: Verb,
    pub subject: Subject,
    pub scope: Scope,
    pub until: i64,
    pub jail: String,
    pub reason: String,
    pub cause: Cause,
    pub observed: bool,
    /// Something was done: it is neither a dry run, nor is there no way to do it.
    pub in_force: bool,
    pub evidence: Vec<String>,
    /// Where the account was used from lately: address and country.
    pub places: Vec<(String, Option<String>)>,
    /// Recipients outside of this host within the last day, at least.
    pub recipients: u64,
}

/// One message to be sent; a row of the outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    /// Follows from the decision: the same decision, made again after a kill, is the same message.
    pub id: String,
    pub way: Way,
    /// Of a mail to administrators, which of them.
    pub to: Option<String>,
    pub notice: Notice,
}

/// What is known beside the decision.
#[derive(Clone, Debug, Default)]
pub struct Context {
    pub in_force: bool,
    pub places: Vec<(String, Option<String>)>,
    pub recipients: u64,
}

/// What the outbox on disk holds for the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outbox {
    /// Not sent yet, in order.
    pub waiting: Vec<Telling>,
    /// Ids of what was sent, or given up, lately: not to be told again.
    pub told: Vec<String>,
    /// When something was last told, by way, verb and administrator.
    pub last: Vec<Last>,
}

pub type Last = (Way, Verb, Option<String>, Timestamp);

/// Why a try failed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// There is no server, or it does not talk: nothing else can be sent either.
    Server(String),
    /// Not this message to this recipient, and not now.
    Deferred(String),
    /// Not this message to this recipient, for good.
    Refused(String),
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A server took it.
    Told,
    /// It will not be tried again.
    GivenUp,
}

impl Outcome {
    /// For the disk.
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Told => "told",
            Outcome::GivenUp => "given up",
        }
    }
}

impl Notice {
    pub fn of(decision: &Decision, context: Context) -> Notice {
        let Context { in_force, places, recipients } = context;
        Notice {
            id: decision.id,
            time: decision.time.micros(),
            verb: decision.verb,
            subject: decision.subject.clone(),
            scope: decision.scope,
            until: decision.until.micros(),
            jail: decision.jail.clone(),
            reason: decision.reason.clone(),
            cause: decision.cause,
            observed: decision.observed,
            in_force,
            evidence: decision.evidence.clone(),
            places,
            recipients,
        }
    }

    /// The same for all who are told that way.
    fn name(&self, way: Way) -> String {
        format!("{:016x}-{}-{way}", self.id, self.verb)
    }

    pub fn account(&self) -> Option<&str> {
        match &self.subject {
            Subject::Account(name) => Some(name),
            Subject::Net(_) => None,
        }
    }
}

impl Telling {
    /// The messages that a decision leads to; `context` is worked out where there is one.
    pub fn of(decision: &Decision, config: &Notify, context: impl FnOnce() -> Context) -> Vec<Telling> {
        if !config.is_on() {
            return Vec::new();
        }
        let is_wanted = config.on.contains(&decision.verb);
        let owner = match &decision.subject {
            Subject::Account(name) if !decision.observed && concerns_owner(decision.verb) => config.contact(name),
            _ => None,
        };
        let mut ways = Vec::new();
        if is_wanted {
            ways.extend(config.mail_to.iter().map(|to| (Way::Mail, Some(to.clone()))));
            ways.extend(config.webhook.is_some().then_some((Way::Webhook, None)));
        }
        ways.extend(owner.map(|_| (Way::Owner, None)));
        if ways.is_empty() {
            return Vec::new();
        }
        let notice = Notice::of(decision, context());
        // What was not done is not the owner's concern.
        ways.retain(|(way, _)| *way != Way::Owner || notice.in_force);
        ways.into_iter().map(|(way, to)| Telling::new(way, to, notice.clone())).collect()
    }

    fn new(way: Way, to: Option<String>, notice: Notice) -> Telling {
        let name = notice.name(way);
        let id = to.as_ref().map_or_else(|| name.clone(), |to| format!("{name}-{to}"));
        Telling { id, way, to, notice }
    }
}

/// Whether the owner of the account notices anything of it.
pub const fn concerns_owner(verb: Verb) -> bool {
    matches!(verb, Verb::Lock | Verb::Unlock | Verb::Hold | Verb::Release)
}

/// What the threads work with: the configuration, and the name of this host.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Arc<Notify>,
    pub host: String,
}

impl Settings {
    pub fn new(config: &Notify) -> Settings {
        Settings { config: Arc::new(config.clone()), host: mail::host_name() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(verb: Verb, observed: bool) -> Decision {
        Decision {
            id: 255,
            time: Timestamp::from_seconds(1_000),
            verb,
            subject: Subject::Account("anna@example.org".to_owned()),
            scope: Scope::Submission,
            until: Timestamp::NEVER,
            jail: "risk".to_owned(),
            reason: "x".to_owned(),
            cause: Cause::Engine,
            observed,
            evidence: Vec::new(),
        }
    }

    fn ids(config: &Notify, verb: Verb, observed: bool, in_force: bool) -> Vec<String> {
        let context = || Context { in_force, ..Context::default() };
        Telling::of(&decision(verb, observed), config, context).into_iter().map(|telling| telling.id).collect()
    }

    #[test]
    fn who_is_told_of_what() {
        let mut config = Notify::default();
        assert!(ids(&config, Verb::Lock, false, true).is_empty(), "nobody is to be told of anything");
        config.mail_to.push("root@example.org".to_owned());
        assert_eq!(ids(&config, Verb::Lock, false, true), ["00000000000000ff-lock-mail-root@example.org"]);
        config.mail_to.push("abuse@example.org".to_owned());
        assert_eq!(ids(&config, Verb::Lock, false, true).len(), 2, "each is told by himself");
        config.mail_to.pop();
        assert!(ids(&config, Verb::Ban, false, true).is_empty());
        config.webhook = Some("http://127.0.0.1/".to_owned());
        config.owners.insert("anna@example.org".to_owned(), "anna@example.net".to_owned());
        let all = ["00000000000000ff-hold-mail-root@example.org", "00000000000000ff-hold-webhook", "00000000000000ff-hold-owner"];
        assert_eq!(ids(&config, Verb::Hold, false, true), all);
        assert_eq!(ids(&config, Verb::Hold, true, true), all[..2], "the owner does not hear of what was only observed");
        assert_eq!(ids(&config, Verb::Hold, false, false), all[..2], "nor of what is not done");
        assert_eq!(ids(&config, Verb::Alert, false, true).len(), 2);
        config.on.clear();
        assert_eq!(ids(&config, Verb::Hold, false, true), all[2..]);
    }
}
