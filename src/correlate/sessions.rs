//! One failed login counts once: what the lines of one connection have already told.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::event::Reason;
use crate::limits::SESSIONS_MAX;

/// A server process on a host: who handles one connection at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub host: u64,
    pub pid: u32,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    /// The client, so that a line of the next connection to the same process is not taken for this one's.
    ip: Option<IpAddr>,
    told: u32,
}

/// Connections with failures. Two generations: when the young one is full the old one is forgotten, so that the table is
/// bounded without a list, and a connection is remembered for at least half the cap.
#[derive(Default)]
pub(super) struct Sessions {
    young: HashMap<Process, Session>,
    old: HashMap<Process, Session>,
}

impl Sessions {
    /// A new connection: whatever the process did before is over.
    pub fn connect(&mut self, process: Process) {
        if !self.is_empty() {
            self.young.remove(&process);
            self.old.remove(&process);
        }
    }

    /// A line told of `count` failures.
    pub fn failed(&mut self, process: Process, ip: Option<IpAddr>, count: u32) {
        let told = self.told(process, ip).saturating_add(count);
        if self.young.len() >= SESSIONS_MAX / 2 && !self.young.contains_key(&process) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(process, Session { ip, told });
    }

    /// How many failures of this connection have been told.
    pub fn told(&self, process: Process, ip: Option<IpAddr>) -> u32 {
        if self.is_empty() {
            return 0;
        }
        let session = self.young.get(&process).or_else(|| self.old.get(&process));
        session.filter(|session| session.ip == ip).map_or(0, |session| session.told)
    }

    /// The connection ends. What it told.
    pub fn disconnect(&mut self, process: Process, ip: Option<IpAddr>) -> u32 {
        let told = self.told(process, ip);
        self.connect(process);
        told
    }

    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

/// Whether a line of smtpd tells what became of an AUTH command that `disconnect … auth=0/1` will count among the failed ones:
/// the client went away in the middle of it, or it was refused for coming too often.
pub(super) fn ends_login(reason: Reason, message: &[u8]) -> bool {
    if !matches!(reason, Reason::LostConnection | Reason::Rate) {
        return false;
    }
    // The server's own words; the client's name comes behind them.
    let words = memchr::memmem::find(message, b" from ").map_or(message, |end| &message[..end]);
    words.ends_with(b" after AUTH") || memchr::memmem::find(words, b"AUTH command rate limit").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_connection_add_up() {
        let mut sessions = Sessions::default();
        let process = Process { host: 1, pid: 7 };
        let ip = Some(IpAddr::from([192, 0, 2, 1]));
        sessions.failed(process, ip, 1);
        sessions.failed(process, ip, 2);
        assert_eq!(sessions.told(process, ip), 3);
        assert_eq!(sessions.told(Process { host: 2, pid: 7 }, ip), 0);
        assert_eq!(sessions.told(process, None), 0, "another client of the same process");
        assert_eq!(sessions.disconnect(process, ip), 3);
        assert_eq!((sessions.disconnect(process, ip), sessions.len()), (0, 0));
        sessions.failed(process, ip, 1);
        sessions.connect(process);
        assert_eq!(sessions.told(process, ip), 0);
    }

    #[test]
    fn logins_that_were_not_finished() {
        let cases = [
            (Reason::LostConnection, "lost connection after AUTH from unknown[192.0.2.10]", true),
            (Reason::LostConnection, "NOQUEUE: timeout after AUTH from unknown[192.0.2.10]", true),
            (Reason::LostConnection, "lost connection after RCPT from unknown[192.0.2.10]", false),
            (Reason::Rate, "warning: AUTH command rate limit exceeded: 3 from x[192.0.2.10] for service 25", true),
            (Reason::Rate, "warning: Connection rate limit exceeded: 3 from x[192.0.2.10] for service 25", false),
            (Reason::Helo, "lost connection after AUTH from unknown[192.0.2.10]", false),
        ];
        for (reason, message, expected) in cases {
            assert_eq!(ends_login(reason, message.as_bytes()), expected, "{message}");
        }
    }

    #[test]
    fn bounded() {
        let mut sessions = Sessions::default();
        for pid in 0..(3 * SESSIONS_MAX as u32) {
            sessions.failed(Process { host: 1, pid }, None, 1);
            assert!(sessions.len() <= SESSIONS_MAX);
        }
        let recent = Process { host: 1, pid: 3 * SESSIONS_MAX as u32 - SESSIONS_MAX as u32 / 2 };
        assert_eq!(sessions.told(recent, None), 1);
    }
}
