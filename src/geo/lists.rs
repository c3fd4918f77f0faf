//! Networks whose country says nothing about where their users are: clouds that fetch mail, anonymisers, mobile networks.
//!
//! The lists that are shipped are data (`lists/*.toml`), each entry with its source; the configuration adds to them and takes
//! out of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::{Listed, Nature};
use crate::address;

/// A network, or all networks of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Network(IpNetwork),
    /// Works where a database knows AS numbers.
    Asn(u32),
}

impl Entry {
    /// `AS64500`, an address or a network; `None` for anything else.
    pub fn parse(text: &str) -> Option<Entry> {
        if let Some(number) = text.strip_prefix("AS").or_else(|| text.strip_prefix("as")) {
            return number.parse().ok().filter(|number| *number != 0).map(Entry::Asn);
        }
        let network: IpNetwork = text.parse().ok()?;
        Some(Entry::Network(address::network(network.ip(), network.prefix())))
    }
}

const SHIPPED: [(Nature, &str); 3] = [
    // The later wins where two name the same.
    (Nature::Mobile, include_str!("../../lists/mobile.toml")),
    (Nature::Anonymiser, include_str!("../../lists/anonymisers.toml")),
    (Nature::Relay, include_str!("../../lists/relays.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    list: Vec<List>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[expect(dead_code, reason = "for whoever reads or checks the file")]
    name: String,
    #[expect(dead_code, reason = "for whoever reads or checks the file")]
    source: String,
    #[expect(dead_code, reason = "for whoever reads or checks the file")]
    date: String,
    entries: Vec<String>,
}

static ENTRIES: LazyLock<Vec<Listed>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (nature, text) in SHIPPED {
        let file: File = toml::from_str(text).unwrap_or_else(|_| File { list: Vec::new() });
        let entries = file.list.iter().flat_map(|list| &list.entries).filter_map(|text| Entry::parse(text));
        all.extend(entries.map(|entry| Listed { entry, nature }));
    }
    all
});

/// What is in the lists that are shipped.
pub fn shipped() -> &'static [Listed] {
    &ENTRIES
}

/// The lists, ready to be looked into.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    ipv4: Ranges,
    ipv6: Ranges,
    operators: HashMap<u32, Nature>,
}

impl Lists {
    /// What is shipped, and then `own`.
    pub(super) fn new(own: &[Listed]) -> Lists {
        let mut operators = HashMap::new();
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for Listed { entry, nature } in shipped().iter().chain(own) {
            match entry {
                Entry::Asn(number) => drop(operators.insert(*number, *nature)),
                Entry::Network(network) if network.is_ipv4() => ipv4.push((*network, *nature)),
                Entry::Network(network) => ipv6.push((*network, *nature)),
            }
        }
        operators.retain(|_, nature| *nature != Nature::Ordinary);
        Lists { ipv4: Ranges::new(ipv4), ipv6: Ranges::new(ipv6), operators }
    }

    /// Of a network that has this address, the narrowest; else of its operator.
    pub(super) fn nature(&self, ip: IpAddr, asn: Option<u32>) -> Nature {
        let ranges = if ip.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let by_operator = || asn.and_then(|number| self.operators.get(&number)).copied();
        ranges.nature(address::to_bits(ip)).or_else(by_operator).unwrap_or_default()
    }

    pub(super) fn operator_count(&self) -> usize {
        self.operators.len()
    }

    pub(super) fn range_count(&self) -> usize {
        self.ipv4.starts.len() + self.ipv6.starts.len()
    }
}

/// Networks laid side by side: each start holds up to the next one. `None`: in no list.
#[derive(Clone, Debug, Default)]
struct Ranges {
    starts: Vec<(u128, Option<Nature>)>,
}

impl Ranges {
    fn new(mut networks: Vec<(IpNetwork, Nature)>) -> Ranges {
        // Stable: of two that are the same, the later one counts.
        networks.sort_by_key(|(network, _)| (address::to_bits(network.ip()), network.prefix()));
        let mut ranges = Ranges::default();
        let mut open: Vec<(u128, Nature)> = Vec::new();
        for (network, nature) in networks {
            let start = address::to_bits(network.ip());
            ranges.close(&mut open, Some(start));
            ranges.starts.push((start, Some(nature)));
            open.push((last(network), nature));
        }
        ranges.close(&mut open, None);
        // Of several with one start the last one counts.
        ranges.starts.reverse();
        ranges.starts.dedup_by_key(|(start, _)| *start);
        ranges.starts.reverse();
        ranges
    }

    /// Ends what lies before `next`, innermost first.
    fn close(&mut self, open: &mut Vec<(u128, Nature)>, next: Option<u128>) {
        while let Some((end, _)) = open.last().copied().filter(|(end, _)| next.is_none_or(|next| *end < next)) {
            open.pop();
            if let Some(after) = end.checked_add(1) {
                self.starts.push((after, open.last().map(|(_, nature)| *nature)));
            }
        }
    }

    fn nature(&self, bits: u128) -> Option<Nature> {
        let after = self.starts.partition_point(|(start, _)| *start <= bits);
        self.starts.get(after.checked_sub(1)?)?.1
    }
}

fn last(network: IpNetwork) -> u128 {
    let length = if network.is_ipv4() { 32 } else { 128 };
    let host = match length - u32::from(network.prefix()) {
        128 => u128::MAX,
        bits => (1 << bits) - 1,
    };
    address::to_bits(network.ip()) | host
}
