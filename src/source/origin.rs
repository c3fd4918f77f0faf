//! Who vouches for a line: whether the program that it names can have written it.
//!
//! Any local user may write `postfix/smtpd[1]: warning: …` to syslog, so a line's own tag proves nothing. What the kernel or
//! journald say about the sender does, and what a relay that asked the kernel writes in front of the message. A file says nothing of
//! the kind: its permissions tell who writes the file, and a syslog daemon writes into it whatever anybody logs.

use std::collections::HashMap;

use nix::unistd::User;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Which source: the `id` it was opened with.
    pub source: u8,
    pub sender: Sender,
}

/// Who wrote the line, as far as somebody trustworthy knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel: a datagram's sender (SO_PASSCRED, unix(7)).
    Uid(u32),
    /// journald: `_UID`, which a client cannot set (systemd.journal-fields(7)).
    Journal(u32),
    /// A log file; trusted when only its owner, a system user, can write to it. Who logged the line is then as unknown as before, if
    /// it is not annotated.
    File {
        trusted: bool,
    },
    Nobody,
}

/// Which users may write as which program.
#[derive(Clone, Debug)]
pub struct Trust {
    /// By family: the tag up to its first `/`.
    allowed: HashMap<Box<[u8]>, Vec<u32>>,
    /// Users that pass on what others wrote: root and rsyslog's own user.
    relays: Vec<u32>,
    /// By source id: lines must be annotated.
    annotated: [bool; 256],
}

/// Program families and the users they run as; root is always allowed.
const FAMILIES: &[(&str, &[&str])] = &[
    ("postfix", &["postfix", "_postfix"]),
    ("dovecot", &["dovecot", "dovenull", "vmail"]),
    ("auth", &["dovecot", "dovenull"]),
    ("sshd", &["sshd"]),
    ("saslauthd", &["sasl", "saslauth", "cyrus"]),
    ("rspamd", &["_rspamd", "rspamd"]),
    ("amavis", &["amavis", "amavisd", "vscan"]),
    ("spamd", &["debian-spamd", "spamd"]),
    ("opendkim", &["opendkim"]),
    ("opendmarc", &["opendmarc"]),
    ("postgrey", &["postgrey"]),
    ("exim", &["Debian-exim", "exim"]),
    ("cyrus", &["cyrus"]),
];

/// rsyslog's user on Ubuntu; elsewhere it runs as root.
const RELAYS: &[&str] = &["syslog"];

impl Trust {
    /// The built-in map. User names are looked up now and once; those that do not exist here are left out.
    pub fn new() -> Self {
        let mut trust = Trust::nobody();
        for (program, users) in FAMILIES {
            for uid in users.iter().filter_map(|user| uid_of(user)) {
                trust.allow(program, uid);
            }
        }
        trust.relays.extend(RELAYS.iter().filter_map(|user| uid_of(user)));
        trust
    }

    /// Root alone.
    pub fn nobody() -> Self {
        Trust { allowed: HashMap::new(), relays: vec![0], annotated: [false; 256] }
    }

    /// `uid` may write as `program` (a family, such as `postfix`, or a whole tag, such as `postfix/smtpd`).
    pub fn allow(&mut self, program: &str, uid: u32) {
        let uids = self.allowed.entry(program.as_bytes().into()).or_default();
        if !uids.contains(&uid) {
            uids.push(uid);
        }
    }

    /// As [`Trust::allow`], by name; false when there is no such user.
    pub fn allow_user(&mut self, program: &str, user: &str) -> bool {
        uid_of(user).map(|uid| self.allow(program, uid)).is_some()
    }

    /// `uid` passes on what others wrote.
    pub fn add_relay(&mut self, uid: u32) {
        self.relays.push(uid);
    }

    /// The relay in front of source `id` annotates every line (`annotated = true`).
    pub fn require_annotation(&mut self, id: u8) {
        self.annotated[usize::from(id)] = true;
    }

    /// Whether somebody trustworthy says that `program` (the syslog tag without its pid) wrote the line.
    /// `annotated_uid` is what the relay wrote in front of the message.
    pub fn vouches(&self, origin: Origin, program: &[u8], annotated_uid: Option<u32>) -> bool {
        let source = usize::from(origin.source);
        let passed_on = match origin.sender {
            Sender::Nobody | Sender::File { trusted: false } => return false,
            Sender::Journal(uid) => return self.may_write(uid, program),
            Sender::Uid(uid) if !self.relays.contains(&uid) => return self.may_write(uid, program),
            Sender::Uid(_) | Sender::File { trusted: true } => annotated_uid,
        };
        match passed_on {
            Some(uid) => self.may_write(uid, program),
            None => !self.annotated[source],
        }
    }

    fn may_write(&self, uid: u32, program: &[u8]) -> bool {
        uid == 0 || self.has(program, uid) || self.has(family(program), uid) || self.has(instance(family(program)), uid)
    }

    fn has(&self, program: &[u8], uid: u32) -> bool {
        self.allowed.get(program).is_some_and(|uids| uids.contains(&uid))
    }
}

impl Default for Trust {
    fn default() -> Self {
        Trust::new()
    }
}

/// `postfix/submission/smtpd` → `postfix`
fn family(program: &[u8]) -> &[u8] {
    program.split(|byte| *byte == b'/').next().unwrap_or(program)
}

/// The program of a named instance: `postfix-out` → `postfix`, `sshd-session` → `sshd`.
fn instance(family: &[u8]) -> &[u8] {
    family.split(|byte| *byte == b'-').next().unwrap_or(family)
}

fn uid_of(user: &str) -> Option<u32> {
    User::from_name(user).ok().flatten().map(|user| user.uid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTFIX: u32 = 101;
    const WEB: u32 = 33;
    const SYSLOG: u32 = 104;
    const ANNOTATED: u8 = 7;

    fn trust() -> Trust {
        let mut trust = Trust::nobody();
        trust.allow("postfix", POSTFIX);
        trust.allow("roundcube", WEB);
        trust.add_relay(SYSLOG);
        trust.require_annotation(ANNOTATED);
        trust
    }

    #[test]
    fn only_who_can_have_written_it_is_believed() {
        use Sender::{File, Journal, Nobody, Uid};
        let cases: [(u8, Sender, &str, Option<u32>, bool); 28] = [
            (0, Uid(0), "postfix/smtpd", None, true),
            (0, Uid(POSTFIX), "postfix/smtpd", None, true),
            (0, Uid(POSTFIX), "postfix/submission/smtpd", None, true),
            (0, Uid(POSTFIX), "postfix-out/smtpd", None, true),
            (0, Uid(POSTFIX), "dovecot", None, false),
            (0, Uid(WEB), "postfix/smtpd", None, false),
            (0, Uid(WEB), "roundcube", None, true),
            // A forger types an annotation of his own: his own uid is what the kernel says.
            (0, Uid(WEB), "postfix/smtpd", Some(0), false),
            (0, Uid(WEB), "postfix/smtpd", Some(POSTFIX), false),
            (0, Uid(0), "postfix/smtpd", Some(WEB), false),
            (0, Uid(0), "postfix/smtpd", Some(POSTFIX), true),
            (0, Uid(SYSLOG), "postfix/smtpd", Some(POSTFIX), true),
            (0, Uid(SYSLOG), "postfix/smtpd", Some(WEB), false),
            (0, Uid(SYSLOG), "postfix/smtpd", None, true),
            (ANNOTATED, Uid(SYSLOG), "postfix/smtpd", None, false),
            (ANNOTATED, Uid(0), "postfix/smtpd", None, false),
            (ANNOTATED, Uid(0), "postfix/smtpd", Some(0), true),
            (ANNOTATED, Uid(POSTFIX), "postfix/smtpd", None, true),
            (0, Journal(0), "sshd", None, true),
            (0, Journal(POSTFIX), "postfix/qmgr", None, true),
            (0, Journal(WEB), "postfix/qmgr", None, false),
            (0, Journal(WEB), "postfix/qmgr", Some(0), false),
            (0, File { trusted: true }, "postfix/smtpd", None, true),
            (0, File { trusted: true }, "postfix/smtpd", Some(WEB), false),
            (ANNOTATED, File { trusted: true }, "postfix/smtpd", None, false),
            (ANNOTATED, File { trusted: true }, "postfix/smtpd", Some(POSTFIX), true),
            (0, File { trusted: false }, "postfix/smtpd", Some(0), false),
            (0, Nobody, "postfix/smtpd", Some(0), false),
        ];
        let trust = trust();
        for (source, sender, program, annotated, expected) in cases {
            let got = trust.vouches(Origin { source, sender }, program.as_bytes(), annotated);
            assert_eq!(got, expected, "source {source} {sender:?} as {program}, annotated {annotated:?}");
        }
    }

    #[test]
    fn missing_users_are_left_out() {
        let mut trust = Trust::new();
        assert!(!trust.allow_user("postfix", "no such user"));
        assert!(trust.allow_user("postfix", "root"));
        assert!(!trust.vouches(Origin { source: 0, sender: Sender::Uid(4_000_000_000) }, b"postfix/smtpd", None));
    }
}
