//! What the daemon asks and what it hears: one JSON object a packet.

use serde::{Deserialize, Serialize};

use super::queue;
use crate::limits::ACCOUNT_BYTES_MAX;

/// The question which hooks there are.
pub const DESCRIBE: &str = "describe";
const ID_BYTES_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The same errand has the same id, however often it is sent.
    pub id: String,
    pub verb: String,
    pub account: String,
    /// What the hook gets on standard input.
    #[serde(default)]
    pub data: serde_json::Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub status: Status,
    /// The end of what the hooks printed, or what is wrong.
    #[serde(default)]
    pub output: String,
    /// To [`DESCRIBE`]: the verbs that have hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Done,
    /// Worth another try.
    Failed,
    /// The same request will never be done.
    Refused,
}

impl Request {
    /// What is wrong with it, whoever wrote it.
    pub fn mistake(&self) -> Option<String> {
        let is_id = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.id.is_empty() || self.id.len() > ID_BYTES_MAX || !self.id.chars().all(is_id) {
            return Some(format!("{:?} is no id", self.id));
        }
        // Only a hook gets the name: mail is parked and let go whatever the log has put there.
        if self.is_queue_work() { None } else { account_mistake(&self.account) }
    }

    pub fn is_queue_work(&self) -> bool {
        matches!(self.verb.as_str(), queue::HOLD | queue::RELEASE)
    }
}

/// Nothing that a program could take for an option, a second line, or the end of its input.
fn account_mistake(name: &str) -> Option<String> {
    let is_odd = name.is_empty()
        || name.len() > ACCOUNT_BYTES_MAX
        || name.starts_with('-')
        || name.chars().any(|c| c.is_control() || c.is_whitespace());
    is_odd.then(|| format!("{name:?} is no account's name"))
}

impl Answer {
    pub fn new(status: Status, output: impl Into<String>) -> Answer {
        Answer { status, output: output.into(), verbs: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_and_ids_are_refused() {
        let verb_of = |verb: &str, id: &str, account: &str| Request {
            id: id.into(),
            verb: verb.into(),
            account: account.into(),
            data: serde_json::Value::Null,
        };
        let request = |id: &str, account: &str| verb_of("lock", id, account);
        for account in ["anna", "anna@example.org", "local:33", "o'hara@example.org", "müller@example.org", "a$(id)@x"] {
            assert_eq!(request("a-1", account).mistake(), None, "{account}");
        }
        for account in ["", "-rf", "a\nb", "a\0b", "a b", "a\u{7f}", "a\u{85}b", "a\u{2028}b", &"x".repeat(256)] {
            assert!(request("a-1", account).mistake().is_some(), "{account:?}");
            for verb in ["queue-hold", "queue-release"] {
                assert_eq!(verb_of(verb, "a-1", account).mistake(), None, "{account:?}");
            }
        }
        for id in ["", "a b", "a\n", "../a", "a/b", &"x".repeat(129)] {
            assert!(request(id, "anna").mistake().is_some(), "{id:?}");
        }
    }
}
