//! The control socket: one JSON object a line in each direction. The tool is its client, the daemon its server.
//!
//! **Invariant:** nothing here decides anything; a request is checked for who asks and handed to the core.

pub mod client;
pub mod server;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize, Serializer};

use crate::engine::jail::Scope;

/// What the tool asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    Ping,
    Ban {
        nets: Vec<IpNetwork>,
        /// `None`: for ever.
        seconds: Option<u64>,
        scope: Scope,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        force: bool,
    },
    Unban {
        nets: Vec<IpNetwork>,
    },
    UnbanAll,
    Lock {
        account: String,
        /// `None`: until somebody unlocks it.
        seconds: Option<u64>,
        /// Nothing can be logged in to, where a hook sees to that.
        #[serde(default)]
        full: bool,
        #[serde(default)]
        reason: String,
    },
    Unlock {
        account: String,
        /// It was the owner: the places that were used are the account's own from now on.
        #[serde(default)]
        false_alarm: bool,
    },
    Hold {
        account: String,
        #[serde(default)]
        reason: String,
    },
    Release {
        account: String,
        /// Only so many of the messages on hold, the oldest; the account stays held.
        #[serde(default)]
        some: Option<u32>,
        /// As with `Unlock`.
        #[serde(default)]
        false_alarm: bool,
    },
    /// Who is held or locked.
    ListLocks,
    /// Accounts that somebody should look at; those that one address entered.
    Accounts {
        entered_by: Option<std::net::IpAddr>,
    },
    Undo {
        /// Microseconds since the epoch.
        since: i64,
    },
    Status {
        jail: Option<String>,
    },
    /// One page of the bans in force, by the time of their end.
    ListBans {
        /// The last one of the page before: its end in microseconds since the epoch, network and scope.
        after: Option<(i64, IpNetwork, Scope)>,
    },
    Why {
        subject: String,
    },
    Reload,
    /// Keeps the connection open and writes a decision a line.
    Monitor,
}

/// How it went. The tool's exit status follows from `code`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    pub code: Code,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub data: serde_json::Value,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    #[default]
    Ok,
    Failed,
    Refused,
    NotFound,
    BadRequest,
    /// What was asked for can never be right: exit status 2.
    Usage,
    Forbidden,
}

impl Response {
    pub fn ok(message: impl Into<String>) -> Self {
        Response { code: Code::Ok, message: message.into(), data: serde_json::Value::Null }
    }

    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Response { code, message: message.into(), data: serde_json::Value::Null }
    }

    /// A good answer that carries `data`.
    pub fn data(data: &impl Serialize) -> Self {
        match serde_json::to_value(data) {
            Ok(data) => Response { code: Code::Ok, message: String::new(), data },
            Err(error) => Response::error(Code::Failed, format!("cannot write the answer as JSON: {error}")),
        }
    }
}

/// A ban as `list` and `why` show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BanView {
    /// A network, or the bare address of a single host.
    #[serde(serialize_with = "bare")]
    pub ip: IpNetwork,
    pub scope: Scope,
    pub jail: String,
    pub since: String,
    /// RFC 3339; `null`: for ever.
    pub until: Option<String>,
    pub remaining_seconds: Option<u64>,
    pub reason: String,
    pub cause: String,
    pub earlier_bans: u32,
}

fn bare<S: Serializer>(net: &IpNetwork, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::address::display(*net))
}

/// An account that is stopped, as `list locks` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopView {
    pub account: String,
    /// `hold`, `lock`, or `parked`: it is free again, and its mail is still on hold.
    pub verb: String,
    /// Of a lock: `submission` or `auth`.
    pub scope: Option<Scope>,
    /// There is a way to carry it out; else it is only a word.
    pub in_force: bool,
    /// Why the helper could not do its part; it tries again.
    pub failure: Option<String>,
    pub jail: String,
    pub since: String,
    /// RFC 3339; `null`: until somebody lifts it.
    pub until: Option<String>,
    pub remaining_seconds: Option<u64>,
    pub reason: String,
    pub cause: String,
    /// Messages in the queue that were put on hold.
    pub parked: usize,
}

/// One page of `list bans`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BanPage {
    pub bans: Vec<BanView>,
    /// Where the next page begins; `null`: this is the last one.
    pub next: Option<(i64, IpNetwork, Scope)>,
    /// None of them is carried out.
    #[serde(default)]
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_they_are_written() {
        let requests = [
            Request::Ban {
                nets: vec!["192.0.2.1/32".parse().unwrap()],
                seconds: Some(60),
                scope: Scope::Mail,
                reason: "x".into(),
                force: false,
            },
            Request::ListBans { after: Some((17, "2001:db8::/64".parse().unwrap(), Scope::Auth)) },
            Request::Monitor,
        ];
        for request in requests {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
        }
    }

    #[test]
    fn unknown_verbs_and_keys_are_refused() {
        for text in [r#"{"verb":"explode"}"#, r#"{"verb":"unban","nets":[],"x":1}"#, r#"{}"#, "[]"] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
