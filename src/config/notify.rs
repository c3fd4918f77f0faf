//! Who is told: `[notify]`.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::accounts::{AccountRules, cased};
use super::files;
use super::raw::RawNotify;
use super::read::{At, word};
use super::report::{Place, Problem, Report};
use super::settings::value_or;
use crate::correlate::Canonical;
use crate::engine::decision::Verb;

word!(Verb, "decision");

const SMTP_PORT: u16 = 25;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// The administrators; empty: no mail.
    pub mail_to: Vec<String>,
    /// `None`: mailwarden at this host.
    pub mail_from: Option<String>,
    pub smtp: Server,
    /// Where each decision is posted to.
    pub webhook: Option<String>,
    /// At most one mail of a kind within this time.
    pub digest: Duration,
    /// Which decisions are told.
    pub on: Vec<Verb>,
    /// Once a day, how many were banned.
    pub bans: bool,
    /// Account → another address of its owner; empty: owners are not told.
    pub owners: HashMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl Default for Notify {
    fn default() -> Self {
        Notify {
            mail_to: Vec::new(),
            mail_from: None,
            smtp: Server { host: "127.0.0.1".into(), port: SMTP_PORT },
            webhook: None,
            digest: Duration::from_secs(900),
            on: vec![Verb::Lock, Verb::Hold, Verb::Alert, Verb::Unlock, Verb::Release],
            bans: false,
            owners: HashMap::new(),
        }
    }
}

impl Notify {
    /// Somebody is told of something.
    pub fn is_on(&self) -> bool {
        !self.mail_to.is_empty() || self.webhook.is_some() || self.tells_owners()
    }

    pub fn tells_owners(&self) -> bool {
        !self.owners.is_empty()
    }

    /// Where the owner of an account is told; never in the account itself.
    pub fn contact(&self, account: &str) -> Option<&str> {
        self.owners.get(account).map(String::as_str)
    }

    pub(super) fn resolve(raw: RawNotify, accounts: &AccountRules, report: &mut Report) -> Notify {
        let default = Notify::default();
        let smtp = raw.smtp.and_then(|At { value, place }| {
            let server = server(&value);
            if server.is_none() {
                report.push(Problem::error(place, format!("{value:?} is no mail server")).help("write \"127.0.0.1:25\" or \"[::1]:25\""));
            }
            server
        });
        let webhook = raw.webhook.filter(|at| !at.value.is_empty()).map(|At { value, place }| {
            if !is_url(&value) {
                report.push(Problem::error(place, "this is no URL").help("write \"https://host.example/path\""));
            }
            value
        });
        let on = raw.on.map_or(default.on, |list| verbs(list.value.0, report));
        let is_owner_told = value_or(raw.owner, false);
        let owners = raw.owners.map(|At { value, place }| (place, contacts(&value, place, accounts, report)));
        match &owners {
            None if is_owner_told => report.push(
                Problem::notice("[notify]: owner = true, but no `owners` says where the owners of accounts can be reached")
                    .help("owners = \"/etc/mailwarden/owners\", a file with a line each: ACCOUNT OTHER-ADDRESS"),
            ),
            Some((place, _)) if !is_owner_told => {
                report.push(Problem::warning(*place, "no owner is told").help("say owner = true as well"));
            }
            _ => {}
        }
        Notify {
            mail_to: raw.mail_to.map_or_else(Vec::new, |list| list.value.0.into_iter().map(|at| address(at, report)).collect()),
            mail_from: raw.mail_from.map(|at| address(at, report)),
            smtp: smtp.unwrap_or(default.smtp),
            webhook,
            digest: value_or(raw.digest, default.digest),
            on,
            bans: value_or(raw.bans, default.bans),
            owners: owners.map(|(_, owners)| owners).filter(|_| is_owner_told).unwrap_or_default(),
        }
    }
}

fn verbs(list: Vec<At<Verb>>, report: &mut Report) -> Vec<Verb> {
    for At { value, place } in &list {
        if matches!(value, Verb::Ban | Verb::Unban) {
            let problem = Problem::error(*place, format!("\"{value}\": there are thousands of them a day"));
            report.push(problem.help("bans = true sends their number once a day"));
        }
    }
    list.into_iter().map(|at| at.value).collect()
}

fn address(at: At<String>, report: &mut Report) -> String {
    if !is_address(&at.value) {
        let problem = Problem::error(at.place, format!("{:?} is no mail address", at.value));
        report.push(problem.help("write name@domain, without a display name; a local user is \"root@localhost\""));
    }
    at.value
}

fn is_address(text: &str) -> bool {
    text.parse::<lettre::Address>().is_ok()
}

fn is_url(text: &str) -> bool {
    let Ok(url) = text.parse::<ureq::http::Uri>() else { return false };
    matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty())
}

/// `host`, `host:port`, `[v6]:port`.
fn server(text: &str) -> Option<Server> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some(""))?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = if port.is_empty() { SMTP_PORT } else { port.parse().ok().filter(|port| *port > 0)? };
    let is_host = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'));
    is_host.then(|| Server { host: host.to_owned(), port })
}

/// Lines of `ACCOUNT OTHER-ADDRESS`.
fn contacts(path: &std::path::Path, from: Place, accounts: &AccountRules, report: &mut Report) -> HashMap<String, String> {
    let mut canonical = Canonical::new(accounts.clone());
    let mut canonical = |name: &str| String::from_utf8_lossy(canonical.name(name.as_bytes())).into_owned();
    let mut owners = HashMap::new();
    for At { value, place } in files::read_list(path, from, report) {
        let [account, contact] = value.split_whitespace().collect::<Vec<_>>()[..] else {
            report.push(Problem::error(place, "not an account and an address").help("one pair a line: ACCOUNT OTHER-ADDRESS"));
            continue;
        };
        let name = canonical(account);
        if !is_address(contact) {
            report.push(Problem::error(place, format!("{contact:?} is no mail address")));
        } else if canonical(contact) == name || cased(contact, true) == cased(account, true) {
            let problem = Problem::error(place, format!("{contact} is the mailbox itself"));
            report.push(problem.help("whoever has stolen it reads it there: name another address, or leave the line out"));
        } else {
            owners.insert(name, contact.to_owned());
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let cases = [
            ("127.0.0.1:25", Some("127.0.0.1:25")),
            ("127.0.0.1", Some("127.0.0.1:25")),
            ("mail.example.org:587", Some("mail.example.org:587")),
            ("[::1]:2525", Some("[::1]:2525")),
            ("[::1]", Some("[::1]:25")),
            ("::1", None),
            ("", None),
            (":25", None),
            ("host:0", None),
            ("host:port", None),
            ("a b:25", None),
        ];
        for (text, expected) in cases {
            assert_eq!(server(text).map(|server| server.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn addresses_and_urls() {
        for (text, expected) in [("root@localhost", true), ("a@example.org", true), ("root", false), ("A <a@example.org>", false)] {
            assert_eq!(is_address(text), expected, "{text}");
        }
        for (text, expected) in [("https://x.example/y", true), ("http://127.0.0.1:1/", true), ("ftp://x", false), ("x.example", false)] {
            assert_eq!(is_url(text), expected, "{text}");
        }
    }
}
