//! How accounts are stopped: `[policy]` and `[helper]`.

use std::path::PathBuf;

use super::files::Paths;
use super::raw::{RawHelper, RawPolicy};
use super::read::At;
use super::report::{Problem, Report};
use super::settings::{unplaced, value_or};
use crate::policy::protocol::is_reply_text;

/// The policy server for Postfix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// It listens where it is enabled and the directory of the socket exists.
    pub enabled: bool,
    pub socket: PathBuf,
    /// The socket's group; `None`: its directory decides.
    pub group: Option<String>,
    /// Who may ask, beside root.
    pub users: Vec<String>,
    /// What the client of a locked account reads.
    pub text: String,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            enabled: true,
            socket: PathBuf::from("/var/spool/postfix/mailwarden/policy"),
            group: None,
            users: vec!["postfix".into()],
            text: "Sending from this account is suspended; please contact the postmaster".into(),
        }
    }
}

impl Policy {
    pub(super) fn resolve(raw: RawPolicy, report: &mut Report) -> Policy {
        let default = Policy::default();
        if let Some(At { value, place }) = &raw.text
            && !is_reply_text(value)
        {
            let problem = Problem::error(*place, "this cannot be the text of an SMTP reply");
            report.push(problem.help("one line of printable ASCII, at most 200 bytes"));
        }
        Policy {
            enabled: value_or(raw.enabled, default.enabled),
            socket: value_or(raw.socket, default.socket),
            group: raw.group.map(|group| group.value).filter(|group| !group.is_empty()),
            users: raw.users.map_or(default.users, |list| unplaced(list.value.0)),
            text: value_or(raw.text, default.text),
        }
    }
}

/// The root helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    /// It is used where it is enabled and its socket exists.
    pub enabled: bool,
    pub socket: PathBuf,
}

impl Helper {
    pub(super) fn resolve(raw: RawHelper, paths: &Paths) -> Helper {
        let socket = raw.socket.filter(|_| !paths.runtime_dir_wins);
        Helper { enabled: value_or(raw.enabled, true), socket: value_or(socket, paths.systemd_socket("hookd")) }
    }
}
