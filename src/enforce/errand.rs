//! What the root helper is asked to do about one decision, and what came of it.

use serde_json::json;

use crate::engine::decision::{Decision, Verb};
use crate::limits::{ERRAND_MESSAGES_MAX, HELD_MESSAGES_MAX};
use crate::time::Timestamp;

/// One errand. Its id follows from the decision, so that the same decision, made again after a kill, is the same errand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    pub id: String,
    pub time: Timestamp,
    /// [`Verb::Lock`], [`Verb::Unlock`], [`Verb::Hold`] or [`Verb::Release`].
    pub verb: Verb,
    pub account: String,
    /// A JSON object: what the hooks get on standard input.
    pub data: String,
    /// The messages that `data` names.
    pub mail: Vec<QueuedMail>,
}

/// A message in the queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueuedMail {
    pub queue_id: String,
    /// Seconds since 1970: a short id is used again within minutes.
    pub arrival: i64,
}

/// How an errand ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(String),
    /// It will not be tried again; why.
    Refused(String),
    /// A later decision about the same account took its place.
    Superseded,
}

impl Errand {
    /// What follows from a decision about an account. `mail` is that account's: for a hold or a lock the messages to park, for a
    /// release those to let go.
    pub fn of(decision: &Decision, account: &str, mail: &[QueuedMail]) -> Vec<Errand> {
        match decision.verb {
            Verb::Lock => {
                let mut errands = vec![Errand::plain(decision, Verb::Lock, account)];
                errands.extend(Errand::about_mail(decision, Verb::Hold, account, mail));
                errands
            }
            Verb::Unlock => vec![Errand::plain(decision, Verb::Unlock, account)],
            Verb::Hold | Verb::Release => {
                let mut errands = vec![Errand::plain(decision, decision.verb, account)];
                errands.extend(Errand::about_mail(decision, decision.verb, account, mail));
                errands
            }
            Verb::Ban | Verb::Unban | Verb::Alert => Vec::new(),
        }
    }

    /// The hook of a decision that was made before there was one.
    pub fn late(decision: &Decision, account: &str) -> Errand {
        Errand::plain(decision, decision.verb, account)
    }

    /// Further messages of an account that is held already, or some that are let go before the others. `cause` tells apart what may
    /// happen to a message more than once: for a hold it is the stop.
    pub fn more_mail(verb: Verb, account: &str, cause: u64, time: Timestamp, mail: &[QueuedMail]) -> Vec<Errand> {
        let each = mail.chunks(ERRAND_MESSAGES_MAX).filter_map(|chunk| {
            let first = chunk.first()?;
            let id = format!("{cause:016x}-{verb}-{}-{}", first.queue_id, first.arrival);
            let data = json!({ "account": account, "verb": verb, "mail": rows(chunk) }).to_string();
            Some(Errand { id, time, verb, account: account.to_owned(), data, mail: chunk.to_vec() })
        });
        each.collect()
    }

    /// What the helper is to do: see to the queue, or run a hook.
    pub fn helper_verb(&self) -> String {
        if self.is_hook() { self.verb.to_string() } else { format!("queue-{}", self.verb) }
    }

    pub fn is_hook(&self) -> bool {
        self.mail.is_empty()
    }

    fn plain(decision: &Decision, verb: Verb, account: &str) -> Errand {
        Errand {
            id: format!("{:016x}-{verb}", decision.id),
            time: decision.time,
            verb,
            account: account.to_owned(),
            data: data(decision, verb, &[]).to_string(),
            mail: Vec::new(),
        }
    }

    fn about_mail(decision: &Decision, verb: Verb, account: &str, mail: &[QueuedMail]) -> Vec<Errand> {
        let chunks = mail.get(..mail.len().min(HELD_MESSAGES_MAX)).unwrap_or(mail).chunks(ERRAND_MESSAGES_MAX).enumerate();
        let each = chunks.map(|(number, chunk)| Errand {
            id: format!("{:016x}-{verb}-{number}", decision.id),
            data: data(decision, verb, chunk).to_string(),
            mail: chunk.to_vec(),
            ..Errand::plain(decision, verb, account)
        });
        each.collect()
    }
}

impl Outcome {
    /// For the disk.
    pub const fn word(&self) -> &'static str {
        match self {
            Outcome::Done(_) => "done",
            Outcome::Refused(_) => "refused",
            Outcome::Superseded => "superseded",
        }
    }

    pub fn output(&self) -> &str {
        match self {
            Outcome::Done(output) | Outcome::Refused(output) => output,
            Outcome::Superseded => "",
        }
    }
}

fn data(decision: &Decision, verb: Verb, mail: &[QueuedMail]) -> serde_json::Value {
    json!({
        "account": match &decision.subject {
            crate::engine::decision::Subject::Account(name) => name.as_str(),
            crate::engine::decision::Subject::Net(_) => "",
        },
        "verb": verb,
        "scope": decision.scope,
        "time": decision.time.rfc3339(),
        "until": (decision.until != Timestamp::NEVER).then(|| decision.until.rfc3339()),
        "jail": decision.jail,
        "reason": decision.reason,
        "cause": decision.cause,
        "evidence": decision.evidence,
        "mail": rows(mail),
    })
}

/// The messages that an errand's data name.
pub fn mail_of(data: &str) -> Vec<QueuedMail> {
    let data: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    let rows: Vec<(String, i64)> = data.get("mail").and_then(|mail| serde_json::from_value(mail.clone()).ok()).unwrap_or_default();
    rows.into_iter().map(|(queue_id, arrival)| QueuedMail { queue_id, arrival }).collect()
}

fn rows(mail: &[QueuedMail]) -> Vec<(&str, i64)> {
    mail.iter().map(|mail| (mail.queue_id.as_str(), mail.arrival)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::decision::{Cause, Subject};
    use crate::engine::jail::Scope;

    fn decision(verb: Verb) -> Decision {
        Decision {
            id: 7,
            time: Timestamp::from_seconds(1_000),
            verb,
            subject: Subject::Account("anna".into()),
            scope: Scope::Submission,
            until: Timestamp::NEVER,
            jail: "outbound".into(),
            reason: "x".into(),
            cause: Cause::Engine,
            observed: false,
            evidence: Vec::new(),
        }
    }

    #[test]
    fn a_lock_also_parks_what_is_queued_and_an_unlock_lets_nothing_go() {
        let mail = [QueuedMail { queue_id: "4XYZ".into(), arrival: 1 }];
        let verbs = |verb| Errand::of(&decision(verb), "anna", &mail).iter().map(|errand| errand.verb).collect::<Vec<_>>();
        assert_eq!(verbs(Verb::Lock), [Verb::Lock, Verb::Hold]);
        assert_eq!(verbs(Verb::Unlock), [Verb::Unlock]);
        assert_eq!(verbs(Verb::Release), [Verb::Release, Verb::Release]);
        assert_eq!(verbs(Verb::Alert), []);
    }

    #[test]
    fn many_messages_are_several_errands_that_fit_in_a_request() {
        let mail: Vec<_> =
            (0..ERRAND_MESSAGES_MAX as i64 + 1).map(|n| QueuedMail { queue_id: format!("4XYZabcdefghijklm{n:05}"), arrival: n }).collect();
        let errands = Errand::of(&decision(Verb::Hold), "anna", &mail);
        assert_eq!(errands.len(), 3);
        assert!(
            errands.iter().all(|errand| errand.data.len() < crate::limits::HELPER_REQUEST_BYTES_MAX * 9 / 10),
            "{}",
            errands[1].data.len()
        );
        assert_ne!(errands[1].id, errands[2].id);
        assert_eq!(errands[1].mail, mail_of(&errands[1].data));
    }
}
