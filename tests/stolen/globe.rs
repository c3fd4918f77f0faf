//! A world in which the first bytes of an address tell its country.

use std::net::{IpAddr, Ipv6Addr};

use mailwarden::geo::{Country, Look, Nature, Place};

use crate::dice::Dice;

/// Five first bytes each, from 20 on.
const COUNTRIES: [&str; 40] = [
    "DE", "AT", "CH", "FR", "NL", "PL", "SE", "GB", "US", "FI", "ES", "IT", "TR", "GR", "TH", "AE", "PT", "CN", "RU", "VN", "BR", "IN",
    "ID", "IR", "UA", "BG", "KR", "MX", "NG", "PK", "EG", "ZA", "CO", "AR", "RO", "CL", "PE", "MY", "PH", "KE",
];
const FIRST: usize = 20;
const BYTES: usize = 5;
/// 2a00::/16 and on, one each.
const FIRST_IPV6: u16 = 0x2a00;

/// Knows every country, and nothing else.
#[derive(Debug)]
pub struct Globe;

impl Look for Globe {
    fn look(&self, ip: IpAddr) -> Place {
        let index = match ip {
            IpAddr::V4(v4) => usize::from(v4.octets()[0]).checked_sub(FIRST).map(|place| place / BYTES),
            IpAddr::V6(v6) => v6.segments()[0].checked_sub(FIRST_IPV6).map(usize::from),
        };
        let code = index.and_then(|index| COUNTRIES.get(index));
        Place { country: code.and_then(|code| code.parse::<Country>().ok()), asn: None, location: None, nature: Nature::Ordinary }
    }

    fn describe(&self) -> Vec<String> {
        Vec::new()
    }
}

fn index(country: &str) -> usize {
    COUNTRIES.iter().position(|code| *code == country).expect("a country of the list")
}

/// A line of a provider of that country; a provider is a /16.
pub fn line(country: &str, provider: u8, host: u16) -> IpAddr {
    let first = FIRST + BYTES * index(country) + usize::from(provider) % BYTES;
    // 127 is everybody's own.
    let first = if first == 127 { 126 } else { first };
    let [high, low] = host.to_be_bytes();
    IpAddr::from([first as u8, provider, high, low])
}

/// An address of a private IPv6 line: the provider gives a /56, the machine takes what it likes.
pub fn ipv6_line(country: &str, provider: u16, customer: u16, machine: u64) -> IpAddr {
    let prefix = u128::from(FIRST_IPV6 + index(country) as u16) << 112 | u128::from(provider) << 96 | u128::from(customer) << 72;
    Ipv6Addr::from(prefix | u128::from(machine)).into()
}

pub fn somewhere_in(dice: &mut Dice, country: &str) -> IpAddr {
    line(country, dice.below(256) as u8, dice.between(256, 65_000) as u16)
}

/// Anywhere but at home.
pub fn abroad(dice: &mut Dice) -> IpAddr {
    let country = *dice.pick(&COUNTRIES[1..]);
    somewhere_in(dice, country)
}

/// In one of the last so many countries of the list.
pub fn abroad_in(dice: &mut Dice, countries: usize) -> IpAddr {
    let country = *dice.pick(&COUNTRIES[COUNTRIES.len() - countries..]);
    somewhere_in(dice, country)
}
