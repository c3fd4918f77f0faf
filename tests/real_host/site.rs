//! The mail host: Debian's Postfix, Dovecot and rsyslog with the configuration from `etc/`, in the namespaces of `network`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::isolation::run;
use crate::network::{self, Client, Namespace};

/// Where the programs get their files; in the private `/run` of `isolation`.
pub const ROOT: &str = "/run/site";
/// rsyslog hands the lines on to this socket.
pub const SYSLOG_SOCKET: &str = "/run/mailwarden-syslog/syslog.sock";
/// rsyslog writes the same lines here, and a test that fails shows the end of it.
const MAIL_LOG: &str = "/run/site/mail.log";
/// The owner of the mailboxes.
const VMAIL: u32 = 5000;

const CONFIGURATION: [(&str, &str); 6] = [
    ("main.cf", include_str!("etc/main.cf")),
    ("master.cf", include_str!("etc/master.cf")),
    ("dovecot.conf", include_str!("etc/dovecot.conf")),
    ("rsyslog.conf", concat!(include_str!("etc/rsyslog.conf"), include_str!("../../contrib/rsyslog/60-mailwarden.conf"))),
    ("users", include_str!("etc/users")),
    ("mailboxes", include_str!("etc/mailboxes")),
];

/// Who has no part in mail.
pub const NOBODY: u32 = 65_534;

/// Where Postfix and Dovecot run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// On the host that has the address.
    Host,
    /// In a container behind it; the host rewrites the destination.
    Container,
}

pub struct Site {
    pub host: Namespace,
    /// Keeps the namespace of the container.
    _container: Option<Namespace>,
}

impl Site {
    /// Builds the network and the files; nothing runs yet.
    fn lay_out(layout: Layout) -> Self {
        for directory in
            ["etc", "spool", "rsyslog", "mail", "postfix-data", "/run/mailwarden", "/run/mailwarden-syslog", "/run/mailwarden-hookd"]
        {
            fs::create_dir_all(Path::new(ROOT).join(directory)).unwrap();
        }
        chown(format!("{ROOT}/mail"), Some(VMAIL), Some(VMAIL)).unwrap();
        run("chown", &["postfix", &format!("{ROOT}/postfix-data")]);
        for (name, text) in CONFIGURATION {
            // A queue that overflows sooner, for the test of a hung daemon.
            let text = text.replace("$ActionQueueSize 50000", "$ActionQueueSize 1000");
            fs::write(Path::new(ROOT).join("etc").join(name), text).unwrap();
        }
        let host = network::mail_host();
        let container = (layout == Layout::Container).then(|| network::container(&host));
        Self { host, _container: container }
    }

    /// Starts everything that logs. `listen` comes before it and binds [`SYSLOG_SOCKET`]: lines for a socket that is not
    /// there are lost. Each program returns when it is ready.
    pub fn start<T: Send>(layout: Layout, listen: impl FnOnce(&Namespace) -> T) -> (Self, T) {
        let site = Self::lay_out(layout);
        let listener = listen(&site.host);
        // A copy: Ubuntu's AppArmor keeps the one at the usual place out of our directories.
        fs::copy("/usr/sbin/rsyslogd", format!("{ROOT}/rsyslogd")).unwrap();
        run("/run/site/rsyslogd", &["-f", "/run/site/etc/rsyslog.conf", "-i", "/run/site/rsyslog.pid"]);
        site._container.as_ref().unwrap_or(&site.host).within(|| {
            run("postfix", &["-c", "/run/site/etc", "start"]);
            run("dovecot", &["-c", "/run/site/etc/dovecot.conf"]);
        });
        (site, listener)
    }

    /// A machine out there; `number` is the last byte of its IPv4 address.
    pub fn client(&self, name: &str, number: u8) -> Client {
        Client::new(&self.host, name, number)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(MAIL_LOG).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("The last lines of the mail log:");
            last.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Mails that lie in an account's mailbox.
pub fn delivered(account: &str) -> usize {
    fs::read_dir(format!("{ROOT}/mail/example.test/{account}/new")).map_or(0, Iterator::count)
}

/// Sends datagrams to a socket as a user of the host. `logger` would tidy them up.
pub fn send_as(uid: u32, socket: &str, datagrams: &[String]) {
    const SEND: &str = "
import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
peer.connect(sys.argv[1])
for line in sys.stdin:
    peer.send(bytes.fromhex(line))
";
    let mut python = Command::new("/usr/bin/python3").args(["-c", SEND, socket]).uid(uid).gid(uid).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = python.stdin.take().unwrap();
    for datagram in datagrams {
        let hex: String = datagram.bytes().map(|byte| format!("{byte:02x}")).collect();
        writeln!(input, "{hex}").unwrap();
    }
    drop(input);
    assert!(python.wait().unwrap().success());
}
