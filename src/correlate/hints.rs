//! What the login backend said about a failure a moment before the server reported it.
//!
//! Postfix (and Dovecot's login processes) say that a login failed; Dovecot's `auth` says why: unknown user or wrong password.
//! The second line restates the first and is never counted, but its reason is worth having.

use std::net::IpAddr;
use std::time::Duration;

use crate::event::Reason;
use crate::time::Timestamp;

/// Failures remembered at once; a power of two.
const HINTS: usize = 1_024;
/// Dovecot delays its refusal by about two seconds, under attack by up to 15.
const AGE_MAX: Duration = Duration::from_secs(20);
/// Longer names are not remembered.
const NAME_BYTES_MAX: usize = 80;

#[derive(Clone, Copy)]
pub(super) struct Hint {
    host: u64,
    ip: IpAddr,
    seen: Timestamp,
    pub reason: Reason,
    name_len: u8,
    name: [u8; NAME_BYTES_MAX],
}

/// Direct mapped by address, so bounded; made at the first use.
#[derive(Default)]
pub(super) struct Hints(Vec<Option<Hint>>);

impl Hints {
    pub fn remember(&mut self, host: u64, ip: IpAddr, reason: Reason, name: &[u8], now: Timestamp) {
        if name.len() > NAME_BYTES_MAX || !matches!(reason, Reason::UnknownUser | Reason::BadPassword | Reason::AccountDisabled) {
            return;
        }
        if self.0.is_empty() {
            self.0 = vec![None; HINTS];
        }
        let mut hint = Hint { host, ip, seen: now, reason, name_len: name.len() as u8, name: [0; NAME_BYTES_MAX] };
        hint.name[..name.len()].copy_from_slice(name);
        self.0[place(host, ip)] = Some(hint);
    }

    /// What was said about the last failure of `ip`; each is told once. `name`: the name that is known already.
    pub fn take(&mut self, host: u64, ip: IpAddr, name: Option<&[u8]>, now: Timestamp) -> Option<Hint> {
        let slot = self.0.get_mut(place(host, ip))?;
        let hint = slot.filter(|hint| hint.host == host && hint.ip == ip && now.since(hint.seen) <= AGE_MAX)?;
        if name.is_some_and(|name| name != hint.name()) {
            return None;
        }
        *slot = None;
        Some(hint)
    }
}

impl Hint {
    pub fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.name_len)]
    }
}

fn place(host: u64, ip: IpAddr) -> usize {
    let bits = crate::address::to_bits(ip);
    let folded = (bits as u64) ^ ((bits >> 64) as u64) ^ host;
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % HINTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_and_for_its_own_name() {
        let (mut hints, ip) = (Hints::default(), IpAddr::from([192, 0, 2, 1]));
        let at = Timestamp::from_seconds;
        assert!(hints.take(1, ip, None, at(1)).is_none());
        hints.remember(1, ip, Reason::UnknownUser, b"bob", at(1));
        assert!(hints.take(2, ip, None, at(2)).is_none(), "another host");
        assert!(hints.take(1, ip, Some(b"anna"), at(2)).is_none(), "another name");
        assert!(hints.take(1, ip, Some(b"bob"), at(60)).is_none(), "too late");
        let hint = hints.take(1, ip, None, at(3)).unwrap();
        assert_eq!((hint.reason, hint.name()), (Reason::UnknownUser, &b"bob"[..]));
        assert!(hints.take(1, ip, None, at(3)).is_none(), "told");
    }
}
