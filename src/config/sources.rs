//! Where lines come from, and which programs are believed from whom.

use std::path::{Path, PathBuf};

use super::files::Paths;
use super::raw::{RawSource, User};
use super::read::{At, Many, Named, word};
use super::report::{Place, Problem, Report};
use super::settings::{unplaced, value_or};
use crate::event::words;
use crate::source::spec::Facilities;
use crate::source::{Input, SourceSpec, Start, Trust, overlaps};

/// Name of the socket that systemd hands over: `FileDescriptorName=` of mailwarden.socket.
pub const INHERITED_NAME: &str = "syslog";
const SOCKET_MODE: u32 = 0o660;
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
pub struct Sources {
    list: Vec<SourceSpec>,
    /// Where rsyslog or syslog-ng hand lines to, unless a source says otherwise.
    socket: PathBuf,
}

/// What a host offers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// The service manager has passed the syslog socket, so somebody has chosen it.
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
    pub fn on(&self, host: Host) -> Vec<SourceSpec> {
        let mut list = match self.list.as_slice() {
            [] if host.has_journal && !host.has_passed_socket => vec![journal()],
            // Whoever installed the socket unit feeds it by the shipped snippets, which say who wrote each line.
            [] => vec![SourceSpec { annotate: host.has_passed_socket, ..socket(self.socket.clone()) }],
            list => list.to_vec(),
        };
        for source in list.iter_mut().filter(|_| host.has_passed_socket) {
            if matches!(&source.input, Input::Socket { path, .. } if *path == self.socket) {
                source.input = Input::InheritedSocket { name: INHERITED_NAME.to_owned() };
            }
        }
        list
    }

    pub(super) fn resolve(raw: Option<At<Many<RawSource>>>, paths: &Paths, report: &mut Report) -> Sources {
        let socket = paths.systemd_socket(INHERITED_NAME);
        let mut list: Vec<SourceSpec> = Vec::new();
        for At { value, place } in raw.map_or_else(Vec::new, |at| at.value.0) {
            let Some(source) = resolve_one(value, place, &socket, report) else { continue };
            let twin = list.iter().find(|other| other.name == source.name);
            if twin.is_some() {
                let problem = Problem::error(place, format!("two sources are called {:?}", source.name));
                report.push(problem.help("give each its own `name`"));
            } else if let Some(conflict) = list.iter().find_map(|other| overlaps(&[other.clone(), source.clone()])) {
                report.push(Problem::error(place, conflict.message));
            }
            if list.len() == SOURCES_MAX {
                report.push(Problem::error(place, format!("more than {SOURCES_MAX} sources")));
            }
            list.push(source);
        }
        Sources { list, socket }
    }
}

fn resolve_one(raw: RawSource, place: Place, socket_path: &Path, report: &mut Report) -> Option<SourceSpec> {
    let Some(At { value: kind, place: kind_place }) = raw.kind else {
        if !raw.spoiled.contains(&"kind") {
            report.push(Problem::error(place, "a source without `kind`").help("kind = \"journal\", \"socket\" or \"file\""));
        }
        return None;
    };
    refuse_foreign_keys(&raw, kind, report);
    let start = match value_or(raw.from, Begin::End) {
        Begin::End => Start::End,
        Begin::Start => Start::Beginning,
    };
    let path = raw.path.map(|path| path.value);
    let mut source = match (kind, path) {
        (Kind::Socket, path) => SourceSpec {
            input: Input::Socket {
                path: path.unwrap_or_else(|| socket_path.to_owned()),
                mode: SOCKET_MODE,
                group: raw.group.map(|group| group.value),
            },
            ..socket(PathBuf::new())
        },
        (Kind::File, Some(path)) => file(path, start, raw.trusted.map(|trusted| trusted.value)),
        (Kind::File, None) => {
            if !raw.spoiled.contains(&"path") {
                report.push(Problem::error(kind_place, "a file source without `path`").help("path = \"/var/log/mail.log\""));
            }
            return None;
        }
        (Kind::Journal, _) => {
            let matches = raw.matches.map_or_else(Vec::new, |list| unplaced(list.value.0));
            let command = value_or(raw.command, PathBuf::from(JOURNAL_COMMAND));
            SourceSpec { input: Input::Journal { command, matches, start }, ..journal() }
        }
    };
    source.name = value_or(raw.name, source.name);
    source.annotate = value_or(raw.annotated, false);
    source.force = value_or(raw.force, false);
    if let Some(names) = raw.facilities {
        source.carries = names.value.0.iter().fold(Facilities::NONE, |all, name| all.and(name.value.0));
    }
    Some(source)
}

/// Looked up in PATH, which the service manager sets.
const JOURNAL_COMMAND: &str = "journalctl";

fn journal() -> SourceSpec {
    let input = Input::Journal { command: JOURNAL_COMMAND.into(), matches: Vec::new(), start: Start::End };
    plain("journal", input, Facilities::MAIL_AND_AUTH)
}

fn socket(path: PathBuf) -> SourceSpec {
    plain("socket", Input::Socket { path, mode: SOCKET_MODE, group: None }, Facilities::MAIL_AND_AUTH)
}

fn file(path: PathBuf, start: Start, trusted: Option<bool>) -> SourceSpec {
    let name = path.file_name().map_or_else(|| "file".to_owned(), |name| name.display().to_string());
    let carries = Facilities::of_file(&path);
    plain(&name, Input::File { path, start, trusted }, carries)
}

fn plain(name: &str, input: Input, carries: Facilities) -> SourceSpec {
    SourceSpec { name: name.to_owned(), input, annotate: false, carries, force: false }
}

fn refuse_foreign_keys(raw: &RawSource, kind: Kind, report: &mut Report) {
    let keys = [
        ("path", raw.path.as_ref().map(|at| at.place), &[Kind::Socket, Kind::File][..]),
        ("annotated", raw.annotated.as_ref().map(|at| at.place), &[Kind::Socket, Kind::File]),
        ("group", raw.group.as_ref().map(|at| at.place), &[Kind::Socket]),
        ("trusted", raw.trusted.as_ref().map(|at| at.place), &[Kind::File]),
        ("from", raw.from.as_ref().map(|at| at.place), &[Kind::File, Kind::Journal]),
        ("match", raw.matches.as_ref().map(|at| at.place), &[Kind::Journal]),
        ("command", raw.command.as_ref().map(|at| at.place), &[Kind::Journal]),
    ];
    for (key, place, kinds) in keys {
        if let Some(place) = place.filter(|_| !kinds.contains(&kind)) {
            report.push(Problem::error(place, format!("`{key}` means nothing for a source of kind \"{kind}\"")));
        }
    }
}

/// Lines of `program` (a syslog tag, or the part before its first `/`) are believed when one of `users` wrote them. They come
/// on top of those that [`Trust::new`] knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRule {
    pub program: String,
    pub users: Vec<User>,
}

pub(super) fn resolve_trust(raw: Option<At<Named<Many<User>>>>, report: &mut Report) -> Vec<TrustRule> {
    let mut rules = Vec::new();
    for (program, users) in raw.map_or_else(Vec::new, |at| at.value.0) {
        if program.value.is_empty() || program.value.contains(['*', '[', ' ']) {
            let problem = Problem::error(program.place, format!("{:?} is not the name of a program", program.value));
            report.push(problem.help("a syslog tag such as roundcube or \"postfix/smtpd\"; \"postfix\" stands for all of postfix/…"));
        }
        rules.push(TrustRule { program: program.value, users: unplaced(users.value.0) });
    }
    rules
}

/// What is believed of `sources` (by their index) under `rules`, and the users of `rules` that do not exist here.
pub fn trust(rules: &[TrustRule], sources: &[SourceSpec]) -> (Trust, Vec<String>) {
    let mut trust = Trust::new();
    let mut missing = Vec::new();
    for TrustRule { program, users } in rules {
        for user in users {
            match user {
                User::Id(uid) => trust.allow(program, *uid),
                User::Name(name) if !trust.allow_user(program, name) => missing.push(name.clone()),
                User::Name(_) => {}
            }
        }
    }
    for (id, source) in (0..=u8::MAX).zip(sources) {
        if source.annotate {
            trust.require_annotation(id);
        }
    }
    (trust, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_configuration_one_source_is_taken() {
        let sources = Sources { list: Vec::new(), socket: "/run/mailwarden-syslog/syslog.sock".into() };
        let cases = [((false, false), "socket"), ((false, true), "journal"), ((true, true), "inherited"), ((true, false), "inherited")];
        for ((has_passed_socket, has_journal), expected) in cases {
            let list = sources.on(Host { has_passed_socket, has_journal });
            let kind = match list.as_slice() {
                [SourceSpec { input: Input::Socket { .. }, .. }] => "socket",
                [SourceSpec { input: Input::Journal { .. }, .. }] => "journal",
                [SourceSpec { input: Input::InheritedSocket { .. }, .. }] => "inherited",
                other => panic!("{other:?}"),
            };
            assert_eq!(kind, expected);
        }
    }

    #[test]
    fn a_configured_socket_is_the_one_that_systemd_passes_if_it_is_at_its_place() {
        let at = |path: &str| Sources { list: vec![socket(path.into())], socket: "/run/mailwarden-syslog/syslog.sock".into() };
        let host = Host { has_passed_socket: true, has_journal: true };
        let is_inherited =
            |sources: Sources| matches!(sources.on(host).as_slice(), [SourceSpec { input: Input::InheritedSocket { .. }, .. }]);
        assert!(is_inherited(at("/run/mailwarden-syslog/syslog.sock")));
        assert!(!is_inherited(at("/run/other.sock")));
    }
}
