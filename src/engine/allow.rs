//! Who is never banned: the host itself, its neighbours, and whom the operator names.

use ipnetwork::IpNetwork;

use super::key::Subnet;
use crate::event::words;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllowConfig {
    /// `ignoreip`.
    pub ignore: Vec<IpNetwork>,
    /// Addresses of this host.
    pub own: Vec<IpNetwork>,
    /// Own MX hosts, relays, proxies.
    pub relays: Vec<IpNetwork>,
    /// Postfix' `mynetworks`: on old systems the provider's whole subnet, so it exempts only where it is private or tiny.
    pub mynetworks: Vec<IpNetwork>,
}

words! {
    AllowReason {
        Ignored = "ignoreip",
        Own = "own address",
        Relay = "own MX or relay",
        /// Loopback, unspecified, link-local, multicast.
        Special = "special address",
        MyNetworks = "mynetworks",
    }
}

/// Disjoint ranges of addresses, by rising start.
#[derive(Clone, Debug, Default)]
pub struct Allow {
    ipv4: Vec<Range>,
    ipv6: Vec<Range>,
    /// Entries of `mynetworks` that exempt nobody: too wide for a public network.
    pub too_wide: Vec<IpNetwork>,
    config: AllowConfig,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    first: u128,
    last: u128,
    net: Subnet,
    reason: AllowReason,
}

/// Never a client on the internet.
const SPECIAL: [&str; 9] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/128", "::1/128", "fe80::/10", "ff00::/8"];
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
/// Addresses of a public network that `mynetworks` may exempt: 8, an IPv4 /29.
const PUBLIC_PREFIX_MIN: u8 = 128 - 3;

impl Allow {
    pub fn new(config: &AllowConfig) -> Allow {
        let special: Vec<IpNetwork> = SPECIAL.iter().filter_map(|net| net.parse().ok()).collect();
        let harmless: Vec<Subnet> = PRIVATE.iter().chain(&SPECIAL).filter_map(|net| net.parse().ok()).map(Subnet::new).collect();
        let (mynetworks, too_wide) = config.mynetworks.iter().partition(|net| is_narrow(Subnet::new(**net), &harmless));
        let named = [
            (AllowReason::Ignored, &config.ignore),
            (AllowReason::Own, &config.own),
            (AllowReason::Relay, &config.relays),
            (AllowReason::Special, &special),
            (AllowReason::MyNetworks, &mynetworks),
        ];
        let ranges = named.into_iter().flat_map(|(reason, nets)| nets.iter().map(move |net| Range::new(Subnet::new(*net), reason)));
        let (ipv4, ipv6) = ranges.partition(|range| range.net.is_ipv4());
        Allow { ipv4: disjoint(ipv4), ipv6: disjoint(ipv6), too_wide, config: config.clone() }
    }

    /// The same for a host with these addresses.
    pub fn with_own(&self, own: Vec<IpNetwork>) -> Allow {
        Allow::new(&AllowConfig { own, ..self.config.clone() })
    }

    /// Why `subnet`, or a part of it, is never banned.
    pub fn find(&self, subnet: Subnet) -> Option<(IpNetwork, AllowReason)> {
        let ranges = if subnet.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let before = ranges.partition_point(|range| range.first <= subnet.last());
        let range = ranges.get(before.checked_sub(1)?)?;
        (range.last >= subnet.first()).then(|| (range.net.to_network(), range.reason))
    }
}

fn is_narrow(net: Subnet, private: &[Subnet]) -> bool {
    net.prefix >= PUBLIC_PREFIX_MIN || private.iter().any(|private| private.contains(net))
}

impl Range {
    fn new(net: Subnet, reason: AllowReason) -> Range {
        Range { first: net.first(), last: net.last(), net, reason }
    }
}

/// Networks nest or are apart: those within another are dropped, so that one search finds the only candidate.
fn disjoint(mut ranges: Vec<Range>) -> Vec<Range> {
    // Of two equal networks the one named first in the configuration gives the reason.
    ranges.sort_by_key(|range| (range.first, std::cmp::Reverse(range.last), range.reason));
    let mut kept: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if kept.last().is_none_or(|other| other.last < range.first) {
            kept.push(range);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(ignore: &[&str], mynetworks: &[&str]) -> Allow {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Allow::new(&AllowConfig {
            ignore: nets(ignore),
            own: nets(&["203.0.113.5"]),
            relays: nets(&["198.51.100.0/28"]),
            mynetworks: nets(mynetworks),
        })
    }

    #[test]
    fn finds_whoever_is_in_the_way() {
        let allow = allow(&["192.0.2.0/25", "192.0.2.7", "2001:db8:5::/48"], &[]);
        let cases = [
            ("192.0.2.7", Some(AllowReason::Ignored)),
            ("192.0.2.127", Some(AllowReason::Ignored)),
            ("192.0.2.128", None),
            ("192.0.2.0/24", Some(AllowReason::Ignored)),
            ("192.0.3.0/24", None),
            ("203.0.113.5", Some(AllowReason::Own)),
            ("203.0.113.0/24", Some(AllowReason::Own)),
            ("198.51.100.9", Some(AllowReason::Relay)),
            ("127.1.2.3", Some(AllowReason::Special)),
            ("0.0.0.0/0", Some(AllowReason::Special)),
            ("::1", Some(AllowReason::Special)),
            ("::/0", Some(AllowReason::Special)),
            ("::/64", Some(AllowReason::Special)),
            ("fe80::1", Some(AllowReason::Special)),
            ("2001:db8:5:77::/64", Some(AllowReason::Ignored)),
            ("2001:db8::/32", Some(AllowReason::Ignored)),
            ("2001:db8:6::/48", None),
            ("8.8.8.8", None),
        ];
        for (net, expected) in cases {
            let found = allow.find(Subnet::new(net.parse().unwrap())).map(|(_, reason)| reason);
            assert_eq!(found, expected, "{net}");
        }
    }

    #[test]
    fn a21_mynetworks_exempts_no_public_neighbours() {
        let allow = allow(&[], &["10.0.0.0/8", "198.18.0.0/29", "198.18.7.0/24", "fd00::/8", "2001:db8::/64"]);
        let cases = [("10.9.8.7", true), ("198.18.0.6", true), ("198.18.7.1", false), ("fd12::1", true), ("2001:db8::1", false)];
        for (ip, exempt) in cases {
            assert_eq!(allow.find(Subnet::new(ip.parse().unwrap())).is_some(), exempt, "{ip}");
        }
        assert_eq!(allow.too_wide.len(), 2);
    }
}
