//! Addresses and networks, canonical on entry: an IPv4-mapped IPv6 address is IPv4.

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// `::ffff:192.0.2.1` → `192.0.2.1`; everything else unchanged.
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Parses an address as it stands in a log line (no brackets, no port, no scope); `None` for anything else.
pub fn parse(text: &[u8]) -> Option<IpAddr> {
    if text.len() > 45 {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse::<IpAddr>().ok().map(canonical)
}

/// The address in `name[address]:port`, as Postfix names a server; `None` for anything else, such as a socket's path.
pub fn of_relay(relay: &[u8]) -> Option<IpAddr> {
    let open = memchr::memchr(b'[', relay)?;
    let close = open + memchr::memchr(b']', relay.get(open..)?)?;
    parse(relay.get(open + 1..close)?)
}

/// The network of `prefix` bits around `ip` (host bits cleared). `prefix` is cut to the family's length.
pub fn network(ip: IpAddr, prefix: u8) -> IpNetwork {
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.min(longest);
    let masked = from_bits(to_bits(ip) & mask(ip.is_ipv4(), prefix), ip.is_ipv4());
    IpNetwork::new(masked, prefix).expect("a prefix cut to the family's length is valid")
}

/// The network with exactly this one address.
pub fn single(ip: IpAddr) -> IpNetwork {
    IpNetwork::from(ip)
}

/// `192.0.2.1` for a single address, `2001:db8::/64` for a network.
pub fn display(net: IpNetwork) -> String {
    let single = if net.is_ipv4() { 32 } else { 128 };
    if net.prefix() == single { net.ip().to_string() } else { net.to_string() }
}

/// The address as a number: IPv4 in the low 32 bits.
pub fn to_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The inverse of [`to_bits`].
pub fn from_bits(bits: u128, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(Ipv6Addr::from(bits)) }
}

fn mask(is_ipv4: bool, prefix: u8) -> u128 {
    let length = if is_ipv4 { 32 } else { 128 };
    if prefix == 0 { 0 } else { u128::MAX << (length - u32::from(prefix)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r42_mapped_address_is_one_subject() {
        assert_eq!(parse(b"::ffff:192.0.2.1"), parse(b"192.0.2.1"));
    }

    #[test]
    fn addresses_of_relays() {
        assert_eq!(of_relay(b"127.0.0.1[127.0.0.1]:10026"), Some([127, 0, 0, 1].into()));
        for relay in ["none", "local", "mx1[private/dovecot-lmtp]", "x[", "]["] {
            assert_eq!(of_relay(relay.as_bytes()), None, "{relay}");
        }
    }

    #[test]
    fn networks_clear_host_bits() {
        let cases = [
            ("192.0.2.77", 24, "192.0.2.0/24"),
            ("2001:db8::1", 64, "2001:db8::/64"),
            ("10.1.2.3", 0, "0.0.0.0/0"),
            ("10.1.2.3", 99, "10.1.2.3/32"),
        ];
        for (ip, prefix, expected) in cases {
            assert_eq!(network(ip.parse().unwrap(), prefix).to_string(), expected);
        }
    }

    #[test]
    fn junk_is_no_address() {
        for text in [&b""[..], b"unknown", b"999.1.1.1", b"1.2.3.4 ", b"fe80::1%eth0", &[b'1'; 60]] {
            assert_eq!(parse(text), None);
        }
    }
}
