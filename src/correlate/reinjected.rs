//! Content filters take a message out of the queue and hand it in again under another id. What is remembered to see that
//! it is the same message: clients of a before-queue filter, and message-ids of the last minutes.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::messages::MessageRef;
use super::names::{NameId, Names};
use super::sessions::Process;
use crate::address;
use crate::event::Service;
use crate::time::Timestamp;

/// Clients of a before-queue filter remembered at once: as many as a busy host has smtpd processes.
const PROXIED_MAX: usize = 1_024;
/// A before-queue filter answers while the client waits.
const PROXIED_AGE_MAX: Duration = Duration::from_secs(3_600);
/// Message-ids remembered at once; a power of two.
const MESSAGE_IDS: usize = 4_096;
/// A content filter hands a message in again within so long.
const MESSAGE_ID_AGE_MAX: Duration = Duration::from_secs(600);

/// A client whose message goes through a before-queue filter (`NOQUEUE: client=…`): it has no queue id yet.
pub(super) struct Client {
    pub process: Process,
    pub ip: Option<IpAddr>,
    pub service: Service,
    /// The account that logged in.
    pub login: Option<NameId>,
    pub seen: Timestamp,
}

/// The last such clients, the newest last.
#[derive(Default)]
pub(super) struct Proxied(VecDeque<Client>);

/// Who stands behind a message that a before-queue filter hands in.
pub(super) enum Behind<'a> {
    Nobody,
    One(&'a Client),
    /// Several people share the address: the `proxy-accept` line will tell.
    Several,
}

impl Proxied {
    pub fn push(&mut self, client: Client, names: &mut Names) {
        // A process serves one client at a time: its former one is over.
        if let Some(former) = self.0.iter().position(|known| known.process == client.process) {
            self.drop_at(former, names);
        }
        if self.0.len() >= PROXIED_MAX {
            self.drop_at(0, names);
        }
        self.0.push_back(client);
    }

    pub fn of_process(&self, process: Process, now: Timestamp) -> Option<&Client> {
        self.0.iter().rev().find(|client| client.process == process).filter(|client| is_fresh(client, now))
    }

    pub fn of_address(&self, host: u64, ip: IpAddr, now: Timestamp) -> Behind<'_> {
        let mut clients =
            self.0.iter().rev().filter(|client| client.process.host == host && client.ip == Some(ip) && is_fresh(client, now));
        let Some(newest) = clients.next() else { return Behind::Nobody };
        if clients.all(|client| client.login == newest.login) { Behind::One(newest) } else { Behind::Several }
    }

    fn drop_at(&mut self, place: usize, names: &mut Names) {
        if let Some(login) = self.0.remove(place).and_then(|client| client.login) {
            names.release(login);
        }
    }
}

fn is_fresh(client: &Client, now: Timestamp) -> bool {
    now.since(client.seen) < PROXIED_AGE_MAX
}

/// The last message-ids: direct mapped, so bounded; two ids that meet in one place only forget the older one. Takes no memory
/// before the first.
#[derive(Default)]
pub(super) struct MessageIds(Box<[Option<(u64, MessageRef, Timestamp)>]>);

impl MessageIds {
    /// `hash` is of host and message-id.
    pub fn remember(&mut self, hash: u64, message: MessageRef, now: Timestamp) {
        if self.0.is_empty() {
            self.0 = vec![None; MESSAGE_IDS].into();
        }
        self.0[place(hash)] = Some((hash, message, now));
    }

    pub fn find(&self, hash: u64, now: Timestamp) -> Option<MessageRef> {
        let (known, message, seen) = (*self.0.get(place(hash))?)?;
        (known == hash && now.since(seen) < MESSAGE_ID_AGE_MAX).then_some(message)
    }
}

fn place(hash: u64) -> usize {
    (hash >> 32) as usize % MESSAGE_IDS
}

/// The queue id in a content filter's answer, the last one it names: amavis answers
/// `250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4XYZ`.
pub(super) fn queued_as(reply: &[u8]) -> Option<&[u8]> {
    const WORDS: &[u8] = b"queued as ";
    let start = memchr::memmem::rfind(reply, WORDS)? + WORDS.len();
    let rest = &reply[start..];
    let length = rest.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(rest.len());
    (length > 0).then(|| &rest[..length])
}

/// `orig_client=` of `QID: client=…, orig_client=name[address]`: Postfix writes it last.
pub(super) fn original_client(message: &[u8]) -> Option<IpAddr> {
    const WORDS: &[u8] = b", orig_client=";
    let start = memchr::memmem::rfind(message, WORDS)? + WORDS.len();
    address::of_relay(&message[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_queue_id_of_a_reply() {
        let cases: [(&str, Option<&str>); 6] = [
            ("250 2.0.0 Ok: queued as 8F7F19B04E4", Some("8F7F19B04E4")),
            ("250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4XYZz1", Some("4XYZz1")),
            ("250 queued as A; queued as B)", Some("B")),
            ("250 2.0.0 <bob@corp.test> gHU1 Saved", None),
            ("250 queued as ", None),
            ("", None),
        ];
        for (reply, expected) in cases {
            assert_eq!(queued_as(reply.as_bytes()), expected.map(str::as_bytes), "{reply}");
        }
    }

    #[test]
    fn original_clients() {
        let line = b"client=localhost[127.0.0.1], orig_queue_id=8B4A, orig_client=unknown[2001:db8:a:1::55]:4711";
        assert_eq!(original_client(line), Some("2001:db8:a:1::55".parse().unwrap()));
        assert_eq!(original_client(b"client=localhost[127.0.0.1]"), None);
    }

    #[test]
    fn people_behind_one_address() {
        let (mut names, mut proxied) = (Names::default(), Proxied::default());
        let (now, ip) = (Timestamp::from_seconds(1), IpAddr::from([192, 0, 2, 1]));
        let mut push = |pid, login: &[u8], names: &mut Names| {
            let client = Client {
                process: Process { host: 1, pid },
                ip: Some(ip),
                service: Service::Submission,
                login: Some(names.hold(login)),
                seen: now,
            };
            proxied.push(client, names);
            match proxied.of_address(1, ip, now) {
                Behind::Nobody => 0,
                Behind::One(_) => 1,
                Behind::Several => 2,
            }
        };
        assert_eq!(push(1, b"anna", &mut names), 1);
        assert_eq!(push(2, b"anna", &mut names), 1);
        assert_eq!(push(3, b"bob", &mut names), 2);
        assert_eq!(push(3, b"anna", &mut names), 1);
        for pid in 10..3_000 {
            push(pid, &pid.to_le_bytes(), &mut names);
        }
        assert_eq!(names.len(), PROXIED_MAX);
    }
}
