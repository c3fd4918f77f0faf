//! What the configuration says about a source, resolved; and whether two sources carry the same lines.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::event::words;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpec {
    /// Names the source in `status` and its cursor in the store.
    pub name: String,
    pub input: Input,
    /// Every line has a `[uid=N]` that a relay put in front of its message; one without is not believed.
    pub annotate: bool,
    /// What it carries, for [`overlaps`].
    pub carries: Facilities,
    /// It may carry what another source carries as well.
    pub force: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A datagram socket of our own.
    Socket { path: PathBuf, mode: u32, group: Option<String> },
    /// The one that systemd hands over under this name.
    InheritedSocket { name: String },
    /// `trusted`: whatever its owner and mode say.
    File { path: PathBuf, start: Start, trusted: Option<bool> },
    /// `matches` are journalctl's: `FIELD=value` and `+`; empty: [`JOURNAL_MATCHES`].
    Journal { command: PathBuf, matches: Vec<String>, start: Start },
}

words! {
    /// Where a source without a saved cursor starts.
    Start { End = "end", Beginning = "beginning" }
}

/// Mail, auth and authpriv, and what the loggers say about themselves.
pub const JOURNAL_MATCHES: &[&str] = &[
    "SYSLOG_FACILITY=2",
    "SYSLOG_FACILITY=4",
    "SYSLOG_FACILITY=10",
    "+",
    "SYSLOG_IDENTIFIER=systemd-journald",
    "+",
    "SYSLOG_IDENTIFIER=rsyslogd",
];

/// A set of syslog facilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facilities(u32);

const FACILITY_NAMES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "security", "console",
    "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

impl Facilities {
    pub const NONE: Facilities = Facilities(0);
    pub const MAIL: Facilities = Facilities(1 << 2);
    pub const AUTH: Facilities = Facilities(1 << 4 | 1 << 10);
    pub const MAIL_AND_AUTH: Facilities = Facilities(Self::MAIL.0 | Self::AUTH.0);
    pub const ALL: Facilities = Facilities((1 << 24) - 1);

    /// The facility of this name, as in syslog.conf(5); `*` is all of them.
    pub fn named(name: &str) -> Option<Facilities> {
        if name == "*" {
            return Some(Facilities::ALL);
        }
        FACILITY_NAMES.iter().position(|known| *known == name).map(|bit| Facilities(1 << bit))
    }

    /// What a log file of this name carries on Debian, Ubuntu, RHEL and SUSE. A file that one program writes itself
    /// (`/var/log/dovecot.log`) carries nothing that reaches syslog as well.
    pub fn of_file(path: &Path) -> Facilities {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name {
            "syslog" | "messages" => Facilities(Self::ALL.0 & !Self::AUTH.0),
            "auth.log" | "secure" | "authlog" => Self::AUTH,
            "mail" | "maillog" => Self::MAIL,
            _ if name.starts_with("mail.") => Self::MAIL,
            _ => Self::NONE,
        }
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Facilities) -> Facilities {
        Facilities(self.0 | other.0)
    }

    const fn common(self, other: Facilities) -> Facilities {
        Facilities(self.0 & other.0)
    }
}

impl fmt::Display for Facilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = FACILITY_NAMES.iter().enumerate().filter(|(bit, _)| self.0 & (1 << bit) != 0);
        for (count, (_, name)) in names.enumerate() {
            write!(f, "{}{name}", if count == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Two sources that carry the same lines: each failure would count twice, so bans would come at half of `maxretry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub first: String,
    pub second: String,
    pub message: String,
}

/// The first two sources that would count a line twice, unless one of them says `force`.
pub fn overlaps(specs: &[SourceSpec]) -> Option<Conflict> {
    specs.iter().enumerate().find_map(|(index, first)| specs.iter().skip(index + 1).find_map(|second| conflict(first, second)))
}

fn conflict(first: &SourceSpec, second: &SourceSpec) -> Option<Conflict> {
    let what = if same_input(&first.input, &second.input) {
        "read the same input".to_owned()
    } else {
        let common = first.carries.common(second.carries);
        if common == Facilities::NONE || first.force || second.force {
            return None;
        }
        format!("both carry {common}")
    };
    Some(Conflict {
        first: first.name.clone(),
        second: second.name.clone(),
        message: format!(
            "sources \"{}\" and \"{}\" {what}: every line would count twice; remove one of them, or say with facilities = [...] what each carries, or set force = true",
            first.name, second.name
        ),
    })
}

fn same_input(first: &Input, second: &Input) -> bool {
    match (first, second) {
        (Input::Socket { path: a, .. }, Input::Socket { path: b, .. }) | (Input::File { path: a, .. }, Input::File { path: b, .. }) => {
            a == b
        }
        (Input::InheritedSocket { name: a }, Input::InheritedSocket { name: b }) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> SourceSpec {
        SourceSpec {
            name: path.to_owned(),
            input: Input::File { path: path.into(), start: Start::End, trusted: None },
            annotate: false,
            carries: Facilities::of_file(Path::new(path)),
            force: false,
        }
    }

    fn journal() -> SourceSpec {
        let input = Input::Journal { command: "journalctl".into(), matches: Vec::new(), start: Start::End };
        SourceSpec { name: "journal".into(), input, annotate: false, carries: Facilities::MAIL_AND_AUTH, force: false }
    }

    #[test]
    fn what_would_count_twice_is_refused() {
        let cases: [(&[SourceSpec], Option<&str>); 7] = [
            (&[file("/var/log/mail.log"), file("/var/log/auth.log")], None),
            (&[file("/var/log/mail.log"), journal()], Some("both carry mail:")),
            (&[journal(), file("/var/log/secure")], Some("both carry auth, authpriv:")),
            (&[file("/var/log/mail.log"), file("/var/log/syslog")], Some("both carry mail:")),
            (&[file("/var/log/dovecot.log"), journal()], None),
            (&[file("/var/log/x.log"), file("/var/log/x.log")], Some("read the same input")),
            (&[SourceSpec { force: true, ..file("/var/log/mail.log") }, journal()], None),
        ];
        for (specs, expected) in cases {
            let found = overlaps(specs).map(|conflict| conflict.message);
            match expected {
                None => assert_eq!(found, None),
                Some(part) => assert!(found.as_ref().is_some_and(|message| message.contains(part)), "{found:?} lacks {part}"),
            }
        }
    }

    #[test]
    fn facilities_by_name() {
        assert_eq!(Facilities::named("mail"), Some(Facilities::MAIL));
        assert_eq!(Facilities::named("auth").and_then(|a| Facilities::named("authpriv").map(|b| a.and(b))), Some(Facilities::AUTH));
        assert_eq!(Facilities::named("mali"), None);
        assert_eq!(Facilities::MAIL_AND_AUTH.to_string(), "mail, auth, authpriv");
    }
}
