//! Addresses as they stand in log lines, read by hand: every second line has one, and the standard library's reader, made for
//! text that may go on, takes three times as long. Equal to it in what it accepts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::canonical;

/// The whole of `text` as an address; an IPv4-mapped one is IPv4.
pub(super) fn parse(text: &[u8]) -> Option<IpAddr> {
    match ipv4_at(text) {
        Some((address, length)) if length == text.len() => Some(IpAddr::V4(address)),
        _ => ipv6(text).map(|address| canonical(IpAddr::V6(address))),
    }
}

/// The IPv4 address at the start of `text`, and its length.
pub(super) fn ipv4_at(text: &[u8]) -> Option<(Ipv4Addr, usize)> {
    let (mut address, mut octet, mut digits, mut dots) = (0u32, 0u32, 0, 0);
    let mut length = 0;
    for &byte in text {
        match byte {
            // A leading zero could be octal: nobody writes it, and nobody may be banned for it.
            b'0'..=b'9' if digits < 3 && !(digits > 0 && octet == 0) => {
                octet = octet * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'0'..=b'9' => return None,
            b'.' if digits > 0 && octet < 256 && dots < 3 => {
                address = address << 8 | octet;
                (octet, digits) = (0, 0);
                dots += 1;
            }
            _ => break,
        }
        length += 1;
    }
    (dots == 3 && digits > 0 && octet < 256).then(|| (Ipv4Addr::from(address << 8 | octet), length))
}

fn ipv6(text: &[u8]) -> Option<Ipv6Addr> {
    let mut groups = [0u16; 8];
    let mut count = 0;
    // Where `::` stands.
    let mut gap = None;
    let mut at = 0;
    if text.starts_with(b"::") {
        gap = Some(0);
        at = 2;
    }
    while at < text.len() {
        let (value, digits) = hex_at(&text[at..]);
        if digits == 0 || count == 8 {
            return None;
        }
        if text.get(at + digits) == Some(&b'.') {
            let (tail, length) = ipv4_at(&text[at..])?;
            if count > 6 || at + length != text.len() {
                return None;
            }
            let bits = u32::from(tail);
            (groups[count], groups[count + 1]) = ((bits >> 16) as u16, bits as u16);
            count += 2;
            break;
        }
        groups[count] = value;
        count += 1;
        at += digits;
        if at == text.len() {
            break;
        }
        if text[at] != b':' || at + 1 == text.len() {
            return None;
        }
        at += 1;
        if text[at] == b':' {
            if gap.is_some() {
                return None;
            }
            gap = Some(count);
            at += 1;
        }
    }
    match gap {
        None if count == 8 => Some(groups.into()),
        Some(gap) if count < 8 => {
            groups[gap..].rotate_right(8 - count);
            Some(groups.into())
        }
        _ => None,
    }
}

/// Up to four hex digits, and how many they are.
fn hex_at(text: &[u8]) -> (u16, usize) {
    let mut value = 0;
    let mut digits = 0;
    for &byte in text.iter().take(4) {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => break,
        };
        value = value << 4 | u16::from(digit);
        digits += 1;
    }
    (value, digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standard(text: &str) -> Option<IpAddr> {
        text.parse::<IpAddr>().ok().map(canonical)
    }

    #[test]
    fn edge_cases_agree_with_the_standard_library() {
        let cases = [
            "",
            ":",
            "::",
            ":::",
            "1",
            "1::",
            "::1",
            "1::1",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "::1:2:3:4:5:6:7",
            "1:2:3:4::5:6:7:8",
            "1:2:3:4:5:6:7",
            "1:2:3:4:5:6:7:8:9",
            "::ffff:192.0.2.1",
            "1:2:3:4:5:6:192.0.2.1",
            "1:2:3:4:5:6:7:192.0.2.1",
            "::192.0.2.1",
            "192.0.2.1",
            "192.0.2",
            "192.0.2.1.",
            ".192.0.2.1",
            "192.0.2.256",
            "192.0.2.01",
            "0.0.0.0",
            "00.0.0.0",
            "1::2::3",
            "12345::",
            "1:",
            ":1",
            "g::",
            "1::192.0.2.1:5",
            "fe80::1%eth0",
            "255.255.255.255",
            "1::1:",
        ];
        for text in cases {
            assert_eq!(parse(text.as_bytes()), standard(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(text in "[0-9a-f:.]{0,40}") {
            prop_assert_eq!(parse(text.as_bytes()), standard(&text));
        }

        #[test]
        fn reads_what_is_printed(bits: u128, keep in 0u32..128) {
            let address = IpAddr::V6(Ipv6Addr::from(bits & (u128::MAX << keep)));
            prop_assert_eq!(parse(address.to_string().as_bytes()), Some(canonical(address)));
        }
    }
}
