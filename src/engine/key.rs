//! What is counted: addresses, networks and names as 128-bit keys.

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use siphasher::sip128::SipHasher13;

use super::account::network;
use super::jail::KeyPart;
use crate::address;
use crate::event::Event;

/// Secret of this host. Names are hashed under it, so that nobody can choose names that collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(pub [u64; 2]);

/// An address as it is counted and banned: one IPv4 address, or the /64 around an IPv6 address, mapped into IPv6 space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(u128);

const MAPPED: u128 = 0xffff_0000_0000;

impl Host {
    pub fn new(ip: IpAddr) -> Host {
        match address::canonical(ip) {
            IpAddr::V4(v4) => Host(MAPPED | u128::from(u32::from(v4))),
            IpAddr::V6(v6) => Host(u128::from(v6) >> 64 << 64),
        }
    }

    pub const fn from_key(key: u128) -> Host {
        Host(key)
    }

    pub const fn key(self) -> u128 {
        self.0
    }

    pub const fn is_ipv4(self) -> bool {
        self.0 >> 32 == MAPPED >> 32
    }

    /// The /32 or /64.
    pub fn subnet(self) -> Subnet {
        Subnet { bits: self.0, prefix: if self.is_ipv4() { 128 } else { 64 } }
    }

    /// The IPv4 /24 or IPv6 /48 around it.
    pub const fn network(self) -> Subnet {
        let prefix = if self.is_ipv4() { 96 + 24 } else { 48 };
        Subnet { bits: self.0 & mask(prefix), prefix }
    }
}

/// A network in mapped space: `192.0.2.0/24` has the prefix 96 + 24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    pub bits: u128,
    pub prefix: u8,
}

impl Subnet {
    pub fn new(net: IpNetwork) -> Subnet {
        let (bits, prefix) = match net {
            IpNetwork::V4(v4) => (MAPPED | u128::from(u32::from(v4.ip())), 96 + v4.prefix()),
            IpNetwork::V6(v6) => (u128::from(v6.ip()), v6.prefix()),
        };
        Subnet { bits: bits & mask(prefix), prefix }
    }

    pub fn to_network(self) -> IpNetwork {
        let is_ipv4 = self.is_ipv4();
        let (bits, prefix) = if is_ipv4 { (self.bits & 0xffff_ffff, self.prefix - 96) } else { (self.bits, self.prefix) };
        address::network(address::from_bits(bits, is_ipv4), prefix)
    }

    pub const fn is_ipv4(self) -> bool {
        self.prefix >= 96 && self.bits >> 32 == MAPPED >> 32
    }

    pub const fn first(self) -> u128 {
        self.bits
    }

    pub const fn last(self) -> u128 {
        self.bits | !mask(self.prefix)
    }

    pub const fn contains(self, other: Subnet) -> bool {
        self.prefix <= other.prefix && other.bits & mask(self.prefix) == self.bits && self.is_ipv4() == other.is_ipv4()
    }

    /// The same address space seen from `prefix` bits up; itself where it is wider already.
    pub const fn widen(self, prefix: u8) -> Subnet {
        if prefix >= self.prefix { self } else { Subnet { bits: self.bits & mask(prefix), prefix } }
    }

    /// One number for an IPv4 /24 or /32, or an IPv6 network of /64 or wider: no two of them share it, and a single host has
    /// the same as [`Host::key`].
    pub const fn key(self) -> u128 {
        match (self.is_ipv4(), self.prefix) {
            (true, 128) | (false, 64) => self.bits,
            // The upper half of an IPv4 address and the lower half of an IPv6 network are free.
            (true, prefix) => self.bits | (prefix as u128) << 64,
            (false, prefix) => self.bits | prefix as u128,
        }
    }

    /// The inverse of [`Subnet::key`].
    pub fn from_key(key: u128) -> Subnet {
        let (low, high) = (key as u64, (key >> 64) as u64);
        if high != 0 && u128::from(low >> 32) == MAPPED >> 32 {
            Subnet { bits: u128::from(low), prefix: (high as u8).clamp(96, 128) }
        } else if high == 0 && u128::from(low >> 32) == MAPPED >> 32 {
            Subnet { bits: key, prefix: 128 }
        } else {
            let prefix = if low == 0 { 64 } else { (low as u8).min(64) };
            Subnet { bits: key & mask(prefix), prefix }
        }
    }
}

/// The whole address in mapped space, no bits cut off.
pub fn bits_of(ip: IpAddr) -> u128 {
    match address::canonical(ip) {
        IpAddr::V4(v4) => MAPPED | u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

pub const fn mask(prefix: u8) -> u128 {
    if prefix == 0 { 0 } else { u128::MAX << (128 - if prefix > 128 { 128 } else { prefix as u32 }) }
}

/// The address that stands for a network in an event of our own.
pub fn representative(subnet: Subnet) -> IpAddr {
    address::canonical(IpAddr::V6(Ipv6Addr::from(subnet.bits)))
}

/// The keys of one event, each worked out at most once.
pub struct Facets<'a> {
    pub event: &'a Event<'a>,
    pub host: Option<Host>,
    seed: Seed,
    account: Option<u128>,
    submitter: Option<u128>,
    operator: Option<Option<u32>>,
    /// The key that was hashed last, and its hash.
    hashed: Option<(u128, u64)>,
}

impl<'a> Facets<'a> {
    pub fn new(event: &'a Event<'a>, seed: Seed) -> Self {
        Facets { event, host: event.ip.map(Host::new), seed, account: None, submitter: None, operator: None, hashed: None }
    }

    /// As [`Facets::new`], with the key of the one name that the event has.
    pub fn named(event: &'a Event<'a>, seed: Seed, name: Option<u128>) -> Self {
        let account = name.filter(|_| event.account.is_some());
        let submitter = name.filter(|_| event.submitter.is_some());
        Facets { account, submitter, ..Facets::new(event, seed) }
    }

    /// Where `key` stands in tables under the engine's secret. Most jails have the same key.
    pub fn hash(&mut self, key: u128) -> u64 {
        match self.hashed {
            Some((known, hash)) if known == key => hash,
            _ => self.hashed.insert((key, spread(key, self.seed.0[1]))).1,
        }
    }

    pub fn account(&mut self) -> Option<u128> {
        if self.account.is_none() {
            self.account = self.event.account.map(|name| name_key(self.seed, name));
        }
        self.account
    }

    pub fn submitter(&mut self) -> Option<u128> {
        match self.event.submitter {
            None => self.account(),
            Some(name) => {
                let seed = self.seed;
                Some(*self.submitter.get_or_insert_with(|| name_key(seed, name)))
            }
        }
    }

    /// Who runs the server that a message was given to: one vote for each provider's range, so that nobody has many.
    pub fn operator(&mut self) -> Option<u32> {
        let event = self.event;
        *self.operator.get_or_insert_with(|| event.relay.and_then(address::of_relay).map(network))
    }

    /// The key of a jail that joins `parts`; `None` where the event lacks one of them.
    pub fn key(&mut self, parts: &[KeyPart]) -> Option<u128> {
        match parts {
            [part] => self.part(*part),
            _ => {
                let mut joined = Join::new(self.seed);
                for part in parts {
                    joined.add(self.part(*part)?);
                }
                Some(joined.finish())
            }
        }
    }

    /// (ip, account) as one subject.
    pub fn pair(&mut self) -> Option<u128> {
        let (host, account) = (self.host?, self.account()?);
        let mut joined = Join::new(self.seed);
        joined.add(host.key());
        joined.add(account);
        Some(joined.finish())
    }

    /// Sixteen bits of (ip, account), to find a pair's own failures again; 0 where no account is named.
    pub fn pair_tag(&mut self) -> u16 {
        let Some(account) = self.account() else { return 0 };
        let host = self.host.map_or(0, Host::key);
        (spread(account ^ host.rotate_left(64), self.seed.0[1]) as u16).max(1)
    }

    fn part(&mut self, part: KeyPart) -> Option<u128> {
        match part {
            KeyPart::Ip => self.host.map(Host::key),
            KeyPart::Network => self.host.map(|host| host.network().bits),
            KeyPart::Account => self.account(),
            KeyPart::Submitter => self.submitter(),
            KeyPart::Domain => self.event.submitter.or(self.event.account).and_then(domain).map(|name| name_key(self.seed, name)),
            KeyPart::Global => Some(0),
        }
    }
}

/// What stands behind the last `@`.
pub fn domain(name: &[u8]) -> Option<&[u8]> {
    let at = memchr::memrchr(b'@', name)?;
    name.get(at + 1..).filter(|domain| !domain.is_empty())
}

/// Of the domain of an address, in any case of letters.
pub fn domain_key(seed: Seed, address: &[u8]) -> Option<u128> {
    domain(address).map(|name| name_key(seed, &name.to_ascii_lowercase()))
}

pub fn name_key(seed: Seed, name: &[u8]) -> u128 {
    SipHasher13::new_with_keys(seed.0[0], seed.0[1]).hash(name).as_u128()
}

struct Join {
    seed: Seed,
    bytes: [u8; 16 * 6],
    len: usize,
}

impl Join {
    fn new(seed: Seed) -> Self {
        Join { seed, bytes: [0; 16 * 6], len: 0 }
    }

    /// More parts than there are kinds of them are folded into the last place; `config` allows none twice.
    fn add(&mut self, part: u128) {
        let start = self.len.min(self.bytes.len() - 16);
        if let Some(place) = self.bytes.get_mut(start..start + 16) {
            place.copy_from_slice(&part.to_le_bytes());
        }
        self.len = start + 16;
    }

    fn finish(&self) -> u128 {
        name_key(self.seed, self.bytes.get(..self.len).unwrap_or_default())
    }
}

/// Spreads a key over 64 bits. Keys are chosen by attackers (an IPv6 /32 has 2³² of them), the secret is not known to them.
pub const fn spread(key: u128, secret: u64) -> u64 {
    let a = key as u64 ^ secret;
    let b = (key >> 64) as u64 ^ secret.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15;
    let once = fold(a, b ^ 0xd6e8_feb8_6659_fd93);
    fold(once ^ b, a ^ 0xa076_1d64_78bd_642f)
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::time::Timestamp;

    #[test]
    fn hosts_and_networks() {
        let cases = [
            ("192.0.2.7", "192.0.2.7/32", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32", "192.0.2.0/24"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("::1", "::/64", "::/48"),
            ("0.0.0.0", "0.0.0.0/32", "0.0.0.0/24"),
        ];
        for (ip, subnet, network) in cases {
            let host = Host::new(ip.parse().unwrap());
            assert_eq!(host.subnet().to_network().to_string(), subnet);
            assert_eq!(host.network().to_network().to_string(), network);
            assert_eq!(Subnet::new(subnet.parse().unwrap()), host.subnet());
            for one in [host.subnet(), host.network()] {
                assert_eq!(Subnet::from_key(one.key()), one);
            }
        }
    }

    #[test]
    fn everything_of_one_family_does_not_contain_the_other() {
        let subnet = |text: &str| Subnet::new(text.parse().unwrap());
        assert!(subnet("0.0.0.0/0").contains(subnet("192.0.2.1/32")));
        assert!(!subnet("::/0").contains(subnet("192.0.2.1/32")));
        assert!(subnet("::/0").contains(subnet("2001:db8::/64")));
        assert!(!subnet("192.0.2.0/24").contains(subnet("192.0.0.0/16")));
        assert_eq!(subnet("192.0.2.1/32").widen(96 + 24), subnet("192.0.2.0/24"));
    }

    #[test]
    fn joins_need_all_their_parts() {
        let mut event = Event::new(EventKind::AuthFailure, Timestamp::ZERO);
        event.ip = Some("192.0.2.1".parse().unwrap());
        assert_eq!(Facets::new(&event, Seed([1, 2])).key(&[KeyPart::Ip, KeyPart::Account]), None);
        event.account = Some(b"anna@shop.example");
        let mut facets = Facets::new(&event, Seed([1, 2]));
        assert_eq!(facets.key(&[KeyPart::Ip, KeyPart::Account]), facets.pair());
        assert_ne!(facets.key(&[KeyPart::Account, KeyPart::Ip]), facets.pair());
        assert_eq!(facets.key(&[KeyPart::Domain]), Some(name_key(Seed([1, 2]), b"shop.example")));
    }
}
