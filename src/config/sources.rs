//! Where lines come from, and which programs are believed from whom.

use std::path::{Path, PathBuf};

use super::raw::{RawSource, User};
use super::read::{At, Many, Named, word};
use super::report::{Place, Problem, Report};
use super::settings::{unplaced, value_or};
use crate::event::words;

/// Where rsyslog or syslog-ng hand lines to.
pub const SOCKET_PATH: &str = "/run/mailwarden/syslog.sock";
/// Origins are numbered by a byte.
const SOURCES_MAX: usize = 64;

words! {
    Kind { Socket = "socket", File = "file", Journal = "journal" }
}
word!(Kind, "kind of source");

words! {
    /// Where to begin when no earlier position is known.
    Begin { End = "end", Start = "start" }
}
word!(Begin, "starting point");

/// The sources that are configured.
#[derive(Clone, Debug, PartialEq)]
pub enum Sources {
    /// None are: see [`Sources::on`].
    Auto,
    These(Vec<Source>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Unique; names the source in `status` and its position in the state.
    pub name: String,
    pub input: Input,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Socket {
        path: PathBuf,
        /// The relay writes `[uid=N]`, the sender's uid as the kernel tells it, in front of each message.
        annotated: bool,
    },
    File {
        path: PathBuf,
        from: Begin,
        /// `None`: by owner and mode of the file.
        trusted: Option<bool>,
    },
    Journal {
        from: Begin,
        /// `FIELD=value`, or `+` between alternatives, as for journalctl. Empty: the facilities mail, auth and authpriv.
        matches: Vec<String>,
    },
}

/// What a host offers, for [`Sources::Auto`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// The service manager has passed the syslog socket: `setup` has chosen it.
    pub has_passed_socket: bool,
    pub has_journal: bool,
}

impl Host {
    /// Looks at the host that we run on.
    pub fn look(has_passed_socket: bool) -> Host {
        Host { has_passed_socket, has_journal: Path::new("/run/systemd/journal/socket").exists() }
    }
}

impl Sources {
    /// The sources to open. Without configuration: the socket if systemd hands it over, else the journal if there is one,
    /// else the socket. Never both: the same line would count twice.
    pub fn on(&self, host: Host) -> Vec<Source> {
        match self {
            Sources::These(list) => list.clone(),
            Sources::Auto if host.has_journal && !host.has_passed_socket => {
                vec![Source { name: "journal".to_owned(), input: Input::Journal { from: Begin::End, matches: Vec::new() } }]
            }
            Sources::Auto => {
                vec![Source { name: "socket".to_owned(), input: Input::Socket { path: SOCKET_PATH.into(), annotated: false } }]
            }
        }
    }

    pub(super) fn resolve(raw: Option<At<Many<RawSource>>>, report: &mut Report) -> Sources {
        let Some(raw) = raw else { return Sources::Auto };
        let mut list: Vec<(Source, Place, bool)> = Vec::new();
        for At { value, place } in raw.value.0 {
            let forced = value.force.as_ref().is_some_and(|force| force.value);
            if let Some(source) = resolve_one(value, place, report) {
                refuse_twins(&source, place, &list, report);
                list.push((source, place, forced));
            }
        }
        if list.len() > SOURCES_MAX {
            report.push(Problem::error(raw.place, format!("more than {SOURCES_MAX} sources")));
        }
        refuse_overlap(&list, report);
        Sources::These(list.into_iter().map(|(source, ..)| source).collect())
    }
}

fn resolve_one(raw: RawSource, place: Place, report: &mut Report) -> Option<Source> {
    let Some(kind) = raw.kind else {
        report.push(Problem::error(place, "a source without `kind`").help("kind = \"journal\", \"socket\" or \"file\""));
        return None;
    };
    refuse_foreign_keys(&raw, kind.value, report);
    if kind.value == Kind::File && raw.path.is_none() {
        report.push(Problem::error(kind.place, "a file source without `path`").help("path = \"/var/log/mail.log\""));
        return None;
    }
    let path = raw.path.map(|path| path.value);
    let from = value_or(raw.from, Begin::End);
    let default_name = path.as_deref().and_then(Path::file_name).map_or_else(|| kind.value.to_string(), |name| name.display().to_string());
    let input = match (kind.value, path) {
        (Kind::Socket, path) => {
            Input::Socket { path: path.unwrap_or_else(|| SOCKET_PATH.into()), annotated: value_or(raw.annotated, false) }
        }
        (Kind::File, Some(path)) => Input::File { path, from, trusted: raw.trusted.map(|trusted| trusted.value) },
        (Kind::File, None) => return None,
        (Kind::Journal, _) => Input::Journal { from, matches: raw.matches.map_or_else(Vec::new, |list| unplaced(list.value.0)) },
    };
    let name = raw.name.map_or(default_name, |name| name.value);
    Some(Source { name, input })
}

fn refuse_foreign_keys(raw: &RawSource, kind: Kind, report: &mut Report) {
    let keys = [
        ("path", raw.path.as_ref().map(|at| at.place), &[Kind::Socket, Kind::File][..]),
        ("annotated", raw.annotated.as_ref().map(|at| at.place), &[Kind::Socket]),
        ("trusted", raw.trusted.as_ref().map(|at| at.place), &[Kind::File]),
        ("from", raw.from.as_ref().map(|at| at.place), &[Kind::File, Kind::Journal]),
        ("match", raw.matches.as_ref().map(|at| at.place), &[Kind::Journal]),
    ];
    for (key, place, kinds) in keys {
        if let Some(place) = place.filter(|_| !kinds.contains(&kind)) {
            report.push(Problem::error(place, format!("`{key}` means nothing for a source of kind \"{kind}\"")));
        }
    }
}

fn refuse_twins(source: &Source, place: Place, earlier: &[(Source, Place, bool)], report: &mut Report) {
    for (other, ..) in earlier {
        if other.name == source.name {
            let problem = Problem::error(place, format!("two sources are called {:?}", source.name));
            report.push(problem.help("give each its own `name`"));
        } else if other.input.path().is_some_and(|path| Some(path) == source.input.path()) {
            report.push(Problem::error(place, format!("the source {:?} reads the same path", other.name)));
        }
    }
}

/// The journal, the relay's socket and the relay's files mostly carry the same lines: each would count twice.
fn refuse_overlap(list: &[(Source, Place, bool)], report: &mut Report) {
    let Some((first, ..)) = list.first() else { return };
    let Some((other, place, _)) = list.iter().find(|(source, ..)| source.input.kind() != first.input.kind()) else { return };
    let what = format!("the sources {:?} and {:?} may carry the same lines, and each would count twice", first.name, other.name);
    if list.iter().any(|(_, _, forced)| *forced) {
        report.push(Problem::warning(*place, what).help("taken, because one of them says `force = true`"));
    } else {
        report.push(Problem::error(*place, what).help("remove one; or, if they carry different programs, write `force = true`"));
    }
}

impl Input {
    pub fn kind(&self) -> Kind {
        match self {
            Input::Socket { .. } => Kind::Socket,
            Input::File { .. } => Kind::File,
            Input::Journal { .. } => Kind::Journal,
        }
    }

    pub fn path(&self) -> Option<&Path> {
        match self {
            Input::Socket { path, .. } | Input::File { path, .. } => Some(path),
            Input::Journal { .. } => None,
        }
    }
}

/// Lines of `program` (a syslog tag; `*` at its end stands for anything) are believed when one of `users` wrote them. root always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRule {
    pub program: String,
    pub users: Vec<User>,
}

/// Under which users the programs of a mail host run. What is configured comes first and wins.
const TRUSTED: &[(&str, &[&str])] = &[
    ("postfix*", &["postfix"]),
    ("dovecot*", &["dovecot", "dovenull", "vmail"]),
    ("rspamd*", &["_rspamd", "rspamd"]),
    ("amavis*", &["amavis", "vscan"]),
    ("opendkim*", &["opendkim"]),
    ("opendmarc*", &["opendmarc"]),
    ("spamd*", &["debian-spamd", "spamd"]),
    ("sshd*", &["sshd"]),
];

pub(super) fn resolve_trust(raw: Option<At<Named<Many<User>>>>, report: &mut Report) -> Vec<TrustRule> {
    let mut rules = Vec::new();
    for (program, users) in raw.map_or_else(Vec::new, |at| at.value.0) {
        if program.value.is_empty() || program.value == "*" {
            let problem = Problem::error(program.place, "trust needs the name of a program");
            report.push(problem.help("for example \"roundcube\" = [\"www-data\"]; `*` may only end a name"));
        }
        rules.push(TrustRule { program: program.value, users: unplaced(users.value.0) });
    }
    rules.extend(TRUSTED.iter().map(|(program, users)| TrustRule {
        program: (*program).to_owned(),
        users: users.iter().map(|user| User::Name((*user).to_owned())).collect(),
    }));
    rules
}
