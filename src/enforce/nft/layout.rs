//! Which sets, chains and rules there are. Pure.
//!
//! One hash set for each (scope, family, prefix length) in use: updates take the same time whatever the size, each element has its
//! own timeout, and overlapping networks need no merging. For each (scope, family) there is one chain with a look-up for each of its
//! sets; the base chain compares the ports once and jumps there. A set, its chain and its rules come into being with the first
//! element that needs them, so scopes that nobody uses cost no packet anything.
//!
//! ```text
//! chain prerouting {                                      # raw, -300: before DNAT and conntrack
//!     iif "lo" return
//!     meta nfproto ipv4 jump all_v4
//!     meta l4proto != tcp return
//!     meta nfproto ipv4 tcp dport { 465, 587 } jump submission_v4
//! }
//! chain submission_v4 {
//!     ip saddr @submission_v4_32 counter drop
//!     ip saddr & 255.255.255.0 @submission_v4_24 counter drop
//! }
//! ```
//! Fragments: the first fragment of a TCP packet has its ports (eight bytes at least), so a port rule drops it and the packet is never
//! put together; the later fragments that pass are of no use to anybody.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;

use super::plan::NftOp;
use crate::address;
use crate::engine::jail::Scope;

/// Prefix lengths that every scope in use has a set for from the start; others come with the first ban that needs them.
pub const USUAL_PREFIXES: [(Family, u8); 6] =
    [(Family::V4, 32), (Family::V4, 24), (Family::V6, 128), (Family::V6, 64), (Family::V6, 56), (Family::V6, 48)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
    pub const fn key_bytes(self) -> u32 {
        self.bits() as u32 / 8
    }
    /// nft's number for the type of the key (`datatype.h`): `ipv4_addr`, `ipv6_addr`.
    pub const fn key_type(self) -> u32 {
        match self {
            Family::V4 => 7,
            Family::V6 => 8,
        }
    }
    const fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }
}

/// One set: a scope, a family and a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId {
    pub scope: Scope,
    pub family: Family,
    pub prefix: u8,
}

impl SetId {
    /// The set that holds bans of `net` for `scope`.
    pub fn of(net: IpNetwork, scope: Scope) -> SetId {
        SetId { scope, family: Family::of(net.ip()), prefix: net.prefix() }
    }
    /// The netmask of its prefix length.
    pub fn mask(self) -> IpAddr {
        let all = match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::BROADCAST),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(u128::MAX)),
        };
        address::network(all, self.prefix).ip()
    }
    pub fn is_hosts(self) -> bool {
        self.prefix == self.family.bits()
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.scope.as_str(), self.family.as_str(), self.prefix)
    }
}

impl FromStr for SetId {
    type Err = ();
    /// The inverse of `Display`; anything else is not ours.
    fn from_str(name: &str) -> Result<Self, ()> {
        let mut parts = name.splitn(3, '_');
        let scope: Scope = parts.next().ok_or(())?.parse()?;
        let family = match parts.next() {
            Some("v4") => Family::V4,
            Some("v6") => Family::V6,
            _ => return Err(()),
        };
        let prefix: u8 = parts.next().and_then(|text| text.parse().ok()).filter(|prefix| *prefix <= family.bits()).ok_or(())?;
        let set = SetId { scope, family, prefix };
        if set.to_string() == name { Ok(set) } else { Err(()) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chain {
    Scope(Scope, Family),
    Base(Hook),
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Priority raw, before DNAT and connection tracking.
    Prerouting,
    /// Just before the usual filters; `reject` is possible here.
    Input,
}

impl Hook {
    /// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_IN`.
    pub const fn number(self) -> u32 {
        match self {
            Hook::Prerouting => 0,
            Hook::Input => 1,
        }
    }
    pub const fn priority(self) -> i32 {
        match self {
            Hook::Prerouting => -300,
            Hook::Input => -10,
        }
    }
    pub const fn as_str(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chain::Scope(scope, family) => write!(f, "{}_{}", scope.as_str(), family.as_str()),
            Chain::Base(hook) => f.write_str(hook.as_str()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// What the host says to itself is never dropped.
    Loopback,
    /// What follows in a base chain compares TCP ports.
    OnlyTcp,
    /// To the chain of a scope, for its ports.
    Jump(Scope, Family),
    Match(SetId, Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    /// TCP only.
    Reset,
    Unreachable,
}

/// The sets in use and what happens to their packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    sets: BTreeSet<SetId>,
    reject: BTreeSet<Scope>,
    size: u32,
}

impl Layout {
    /// With the usual sets for each of `scopes`. `size` caps each set; scopes in `reject` answer instead of dropping.
    pub fn new(scopes: &[Scope], reject: &[Scope], size: u32) -> Layout {
        let sets = scopes.iter().flat_map(|scope| USUAL_PREFIXES.map(|(family, prefix)| SetId { scope: *scope, family, prefix })).collect();
        Layout { sets, reject: reject.iter().copied().collect(), size }
    }
    pub fn sets(&self) -> &BTreeSet<SetId> {
        &self.sets
    }
    pub fn size(&self) -> u32 {
        self.size
    }
    pub fn has(&self, set: SetId) -> bool {
        self.sets.contains(&set)
    }
    /// Takes a set that is already in the kernel.
    pub fn adopt(&mut self, set: SetId) {
        self.sets.insert(set);
    }

    pub fn chains(&self) -> BTreeSet<Chain> {
        let scopes = self.sets.iter().map(|set| Chain::Scope(set.scope, set.family));
        let input = (!self.reject.is_empty()).then_some(Chain::Base(Hook::Input));
        scopes.chain([Chain::Base(Hook::Prerouting)]).chain(input).collect()
    }

    pub fn rules(&self, chain: Chain) -> Vec<Rule> {
        match chain {
            Chain::Base(hook) => self.base_rules(hook),
            Chain::Scope(scope, family) => {
                let sets = self.sets.iter().filter(|set| set.scope == scope && set.family == family);
                // The narrowest first: most bans are of hosts.
                let mut sets: Vec<SetId> = sets.copied().collect();
                sets.sort_by_key(|set| std::cmp::Reverse(set.prefix));
                sets.into_iter().flat_map(|set| self.set_rules(set)).collect()
            }
        }
    }

    /// Sets, chains and rules, whatever of them is there already. Chains must have been emptied before.
    pub fn install(&self) -> Vec<NftOp> {
        let sets = self.sets.iter().map(|set| NftOp::AddSet { set: *set, size: self.size });
        let chains = self.chains();
        let rules = chains.iter().flat_map(|chain| self.rules(*chain).into_iter().map(|rule| NftOp::AddRule(*chain, rule)));
        sets.chain(chains.iter().map(|chain| NftOp::AddChain(*chain))).chain(rules).collect()
    }

    /// Adds one more set while everything else goes on working.
    pub fn extend(&mut self, set: SetId) -> Vec<NftOp> {
        let chain = Chain::Scope(set.scope, set.family);
        let new_chain = !self.chains().contains(&chain);
        if !self.sets.insert(set) {
            return Vec::new();
        }
        let mut ops = vec![NftOp::AddSet { set, size: self.size }];
        if new_chain {
            ops.push(NftOp::AddChain(chain));
        }
        ops.extend(self.set_rules(set).into_iter().map(|rule| NftOp::AddRule(chain, rule)));
        if new_chain {
            let base = Chain::Base(self.hook(set.scope));
            ops.push(NftOp::FlushChain(base.to_string()));
            ops.extend(self.rules(base).into_iter().map(|rule| NftOp::AddRule(base, rule)));
        }
        ops
    }

    fn hook(&self, scope: Scope) -> Hook {
        if self.reject.contains(&scope) { Hook::Input } else { Hook::Prerouting }
    }

    fn set_rules(&self, set: SetId) -> Vec<Rule> {
        match (self.hook(set.scope), set.scope) {
            (Hook::Prerouting, _) => vec![Rule::Match(set, Verdict::Drop)],
            (Hook::Input, Scope::All) => vec![Rule::Match(set, Verdict::Reset), Rule::Match(set, Verdict::Unreachable)],
            (Hook::Input, _) => vec![Rule::Match(set, Verdict::Reset)],
        }
    }

    fn base_rules(&self, hook: Hook) -> Vec<Rule> {
        let jumps = |all: bool| {
            let chains = self.chains().into_iter().filter_map(|chain| match chain {
                Chain::Scope(scope, family) if self.hook(scope) == hook && (scope == Scope::All) == all => Some(Rule::Jump(scope, family)),
                _ => None,
            });
            chains.collect::<Vec<_>>()
        };
        let (whole, by_port) = (jumps(true), jumps(false));
        if whole.is_empty() && by_port.is_empty() {
            return Vec::new();
        }
        let gate = (!by_port.is_empty()).then_some(Rule::OnlyTcp);
        [Rule::Loopback].into_iter().chain(whole).chain(gate).chain(by_port).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for scope in Scope::ALL {
            for (family, prefix) in USUAL_PREFIXES {
                let set = SetId { scope: *scope, family, prefix };
                assert_eq!(set.to_string().parse(), Ok(set));
            }
        }
        for name in ["", "all", "all_v4", "all_v4_33", "all_v4_032", "all_v5_3", "ALL_v4_32", "all_v4_32_x", "all_v4_+3"] {
            assert_eq!(name.parse::<SetId>(), Err(()), "{name}");
        }
    }

    #[test]
    fn masks() {
        for (name, mask) in [("all_v4_32", "255.255.255.255"), ("all_v4_0", "0.0.0.0"), ("all_v6_56", "ffff:ffff:ffff:ff00::")] {
            assert_eq!(name.parse::<SetId>().unwrap().mask().to_string(), mask);
        }
    }

    #[test]
    fn growing_one_by_one_is_the_same_layout_as_all_at_once() {
        let scopes = [Scope::All, Scope::Mail];
        let whole = Layout::new(&scopes, &[Scope::Mail], 10);
        let mut grown = Layout::new(&[], &[Scope::Mail], 10);
        for set in whole.sets() {
            assert!(!grown.extend(*set).is_empty());
            assert!(grown.extend(*set).is_empty());
        }
        assert_eq!(grown, whole);
    }
}
