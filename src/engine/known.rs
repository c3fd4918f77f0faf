//! Addresses that behaved: a successful login within 30 days, a message accepted within 7.
//!
//! What that protects is narrow, since one own mailbox must not buy immunity: such an address is no stranger (it is never
//! banned as one of many, and no wider network is banned over it); a plain jail on failures bans it all the same. Only an
//! address where three or more accounts succeed within a week is shared, and judged by (address, account).

use super::key::{Host, Subnet};
use super::snapshot::{Mark, Reader};
use super::table::{Aging, Fate, Rank, Table, Value};
use crate::limits;

const DAY: u32 = 86_400;
/// A successful login makes an address known for so long.
pub const GOOD_SECONDS: u32 = 30 * DAY;
/// An accepted message makes it accepted for so long.
pub const ACCEPTED_SECONDS: u32 = 7 * DAY;
/// Accounts that succeeded within so long …
pub const SHARED_SECONDS: u32 = 7 * DAY;
/// … make it shared, when there are so many.
pub const SHARED_ACCOUNTS: usize = 3;
/// A later success within so long changes nothing worth saving.
const FRESH_SECONDS: u32 = 60;
const ACCOUNTS: usize = 4;

#[derive(Debug)]
pub struct Known {
    hosts: Table<KnownHost>,
    /// IPv4 /24, IPv6 /56 and /48 with anybody good in them.
    networks: Table<KnownNetwork>,
}

/// What is known of an address; all stamps in seconds since 1970, 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownHost {
    first: u32,
    good: u32,
    accepted: u32,
    accounts: [(u32, u32); ACCOUNTS],
    mark: Mark,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct KnownNetwork {
    good: u32,
    accepted: u32,
    mark: Mark,
}

/// How an address stands at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// A success within 30 days: no stranger.
    pub good: bool,
    pub shared: bool,
    pub accepted: bool,
}

/// [`Standing`], with dates, for `why`.
#[derive(Clone, Copy, Debug)]
pub struct KnownFacts {
    pub standing: Standing,
    pub first: u32,
    pub good: u32,
    pub accepted: u32,
    pub accounts: usize,
}

pub fn seconds(micros: i64) -> u32 {
    u32::try_from(micros.div_euclid(1_000_000)).unwrap_or(if micros < 0 { 0 } else { u32::MAX })
}

fn aging(now: i64) -> Aging {
    Aging { now, cutoff: now, half: u64::MAX }
}

impl Known {
    pub fn new(secret: u64, persist: bool) -> Known {
        Known {
            hosts: Table::new(secret, limits::KNOWN_ADDRESSES_MAX, persist),
            networks: Table::new(secret, limits::KNOWN_ADDRESSES_MAX, persist),
        }
    }

    pub fn succeeded(&mut self, host: Host, account: Option<u128>, stamp: i64, now: i64) {
        let at = seconds(stamp);
        let changed = self.hosts.update(host.key(), &aging(now), false, |known| {
            let changed = known.succeeded(account.map(|account| account as u32), at);
            (if changed { Fate::Keep } else { Fate::Untouched }, changed)
        });
        if changed {
            self.mark_networks(host, now, |network| &mut network.good, at);
        }
    }

    pub fn accepted(&mut self, host: Host, stamp: i64, now: i64) {
        let at = seconds(stamp);
        let changed = self.hosts.update(host.key(), &aging(now), false, |known| {
            let changed = refresh(&mut known.accepted, at);
            (if changed { Fate::Keep } else { Fate::Untouched }, changed)
        });
        if changed {
            self.mark_networks(host, now, |network| &mut network.accepted, at);
        }
    }

    fn mark_networks(&mut self, host: Host, now: i64, field: impl Fn(&mut KnownNetwork) -> &mut u32, at: u32) {
        let middle = if host.is_ipv4() { None } else { Some(host.subnet().widen(56)) };
        for network in [Some(host.network()), middle].into_iter().flatten() {
            self.networks.update(network.key(), &aging(now), false, |known| {
                let changed = refresh(field(known), at);
                (if changed { Fate::Keep } else { Fate::Untouched }, ())
            });
        }
    }

    pub fn standing(&self, host: Host, now: i64) -> Standing {
        if self.hosts.is_empty() {
            return Standing::default();
        }
        self.hosts.get(host.key()).map_or(Standing::default(), |known| known.standing(seconds(now)))
    }

    /// Whether accounts other than this one have logged in from there within a week.
    pub fn is_good_for_others(&self, host: Host, account: u128, now: i64) -> bool {
        let now = seconds(now);
        let is_other = |(known, stamp): &(u32, u32)| *known != account as u32 && within(*stamp, now, SHARED_SECONDS);
        self.hosts.get(host.key()).is_some_and(|known| known.accounts.iter().any(is_other))
    }

    pub fn facts(&self, host: Host, now: i64) -> Option<KnownFacts> {
        let known = self.hosts.get(host.key())?;
        let now = seconds(now);
        let facts = KnownFacts {
            standing: known.standing(now),
            first: known.first,
            good: known.good,
            accepted: known.accepted,
            accounts: known.recent_accounts(now),
        };
        Some(facts)
    }

    /// Whether anybody good lives in the IPv4 /24 or IPv6 /56 or /48, or mail was accepted from there.
    pub fn lives_in(&self, network: Subnet, now: i64) -> bool {
        let now = seconds(now);
        self.networks
            .get(network.key())
            .is_some_and(|known| within(known.good, now, GOOD_SECONDS) || within(known.accepted, now, GOOD_SECONDS))
    }

    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    pub fn sweep(&mut self, buckets: usize, now: i64) {
        self.hosts.sweep(buckets, &aging(now));
        self.networks.sweep(buckets, &aging(now));
    }

    pub fn hosts_mut(&mut self) -> &mut Table<KnownHost> {
        &mut self.hosts
    }

    pub fn networks_mut(&mut self) -> &mut Table<KnownNetwork> {
        &mut self.networks
    }

    pub fn restore_host(&mut self, key: u128, bytes: &[u8], now: i64) -> bool {
        KnownHost::decode(bytes).map(|host| self.hosts.restore(key, host, &aging(now))).is_some()
    }

    pub fn restore_network(&mut self, key: u128, bytes: &[u8], now: i64) -> bool {
        KnownNetwork::decode(bytes).map(|network| self.networks.restore(key, network, &aging(now))).is_some()
    }
}

fn within(stamp: u32, now: u32, span: u32) -> bool {
    stamp != 0 && now.saturating_sub(stamp) < span
}

/// The microsecond from which on `stamp` is not [`within`] the span any more.
fn end(stamp: u32, span: u32) -> i64 {
    if stamp == 0 { i64::MIN } else { (i64::from(stamp) + i64::from(span)) * 1_000_000 }
}

/// False where the stamp is as good as it was.
fn refresh(stamp: &mut u32, at: u32) -> bool {
    if *stamp != 0 && at < stamp.saturating_add(FRESH_SECONDS) {
        return false;
    }
    *stamp = at;
    true
}

impl KnownHost {
    fn succeeded(&mut self, account: Option<u32>, at: u32) -> bool {
        if self.first == 0 {
            self.first = at;
        }
        let changed = refresh(&mut self.good, at);
        let Some(account) = account else { return changed };
        if let Some((_, stamp)) = self.accounts.iter_mut().find(|(known, stamp)| *known == account && *stamp != 0) {
            return refresh(stamp, at) || changed;
        }
        if let Some(oldest) = self.accounts.iter_mut().min_by_key(|(_, stamp)| *stamp) {
            *oldest = (account, at);
        }
        true
    }

    fn recent_accounts(&self, now: u32) -> usize {
        self.accounts.iter().filter(|(_, stamp)| within(*stamp, now, SHARED_SECONDS)).count()
    }

    fn standing(&self, now: u32) -> Standing {
        Standing {
            good: within(self.good, now, GOOD_SECONDS),
            shared: self.recent_accounts(now) >= SHARED_ACCOUNTS,
            accepted: within(self.accepted, now, ACCEPTED_SECONDS),
        }
    }

    fn decode(bytes: &[u8]) -> Option<KnownHost> {
        let mut reader = Reader(bytes);
        let mut host = KnownHost { first: reader.u32()?, good: reader.u32()?, accepted: reader.u32()?, ..KnownHost::default() };
        for account in &mut host.accounts {
            *account = (reader.u32()?, reader.u32()?);
        }
        Some(host)
    }
}

impl Value for KnownHost {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn end(&self, _aging: &Aging) -> i64 {
        end(self.good, GOOD_SECONDS).max(end(self.accepted, ACCEPTED_SECONDS))
    }

    fn rank(&self, _aging: &Aging) -> Rank {
        Rank { hot: false, last: i64::from(self.good.max(self.accepted)) }
    }

    fn encode(&self, _now: i64) -> Vec<u8> {
        let accounts = self.accounts.iter().flat_map(|(account, stamp)| [*account, *stamp]);
        [self.first, self.good, self.accepted].into_iter().chain(accounts).flat_map(u32::to_le_bytes).collect()
    }
}

impl KnownNetwork {
    fn decode(bytes: &[u8]) -> Option<KnownNetwork> {
        let mut reader = Reader(bytes);
        Some(KnownNetwork { good: reader.u32()?, accepted: reader.u32()?, mark: Mark::default() })
    }
}

impl Value for KnownNetwork {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn end(&self, _aging: &Aging) -> i64 {
        end(self.good.max(self.accepted), GOOD_SECONDS)
    }

    fn rank(&self, _aging: &Aging) -> Rank {
        Rank { hot: false, last: i64::from(self.good.max(self.accepted)) }
    }

    fn encode(&self, _now: i64) -> Vec<u8> {
        [self.good, self.accepted].into_iter().flat_map(u32::to_le_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const DAYS: i64 = 86_400 * SECOND;

    fn host(text: &str) -> Host {
        Host::new(text.parse().unwrap())
    }

    #[test]
    fn a_success_is_good_for_thirty_days() {
        let mut known = Known::new(1, false);
        let start = 20_000 * DAYS;
        known.succeeded(host("192.0.2.1"), Some(7), start, start);
        let cases = [(0, true), (30 * DAYS - SECOND, true), (30 * DAYS, false)];
        for (later, good) in cases {
            assert_eq!(known.standing(host("192.0.2.1"), start + later), Standing { good, ..Standing::default() });
            assert_eq!(known.lives_in(host("192.0.2.99").network(), start + later), good);
        }
        assert_eq!(known.standing(host("192.0.2.2"), start), Standing::default());
    }

    #[test]
    fn a8_three_accounts_within_a_week_share_an_address() {
        let mut known = Known::new(1, false);
        let start = 20_000 * DAYS;
        for (account, day) in [(1, 0), (2, 3), (1, 4)] {
            known.succeeded(host("2001:db8::1"), Some(account), start + day * DAYS, start + day * DAYS);
        }
        assert!(!known.standing(host("2001:db8::9"), start + 4 * DAYS).shared);
        known.succeeded(host("2001:db8::2"), Some(3), start + 5 * DAYS, start + 5 * DAYS);
        assert!(known.standing(host("2001:db8::9"), start + 9 * DAYS).shared);
        assert!(!known.standing(host("2001:db8::9"), start + 10 * DAYS).shared, "account 2 was last seen a week ago");
        assert!(known.lives_in(host("2001:db8::1").subnet().widen(56), start + 9 * DAYS));
    }
}
