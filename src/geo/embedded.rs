//! The country table in the program itself, so that countries are known without any file.
//!
//! The data is the export of IPFire Location, CC BY-SA 4.0, as the Tor project packs it: see NOTICE.

#[cfg(feature = "geo-embedded")]
use std::cell::RefCell;
use std::net::IpAddr;
#[cfg(feature = "geo-embedded")]
use std::sync::{Arc, LazyLock};

#[cfg(feature = "geo-embedded")]
use tor_geoip::GeoipDb;

use super::Country;

/// When IPFire made the export. Goes with the version of tor-geoip-db in Cargo.lock; a test compares them.
const BUILT: &str = "2026-09-23";

#[cfg(feature = "geo-embedded")]
static TABLE: LazyLock<Arc<GeoipDb>> = LazyLock::new(GeoipDb::new_embedded);

#[cfg(feature = "geo-embedded")]
thread_local! {
    /// What was looked up lately, by a few bits of the address: most of the mail of a host comes from few.
    static LATELY: RefCell<Vec<(Option<IpAddr>, Option<Country>)>> = const { RefCell::new(Vec::new()) };
}

/// Addresses remembered by each thread.
#[cfg(feature = "geo-embedded")]
const LATELY_MAX: usize = 2_048;

/// `ip` is canonical.
#[cfg(feature = "geo-embedded")]
pub(super) fn country(ip: IpAddr) -> Option<Country> {
    LATELY.with_borrow_mut(|lately| {
        if lately.is_empty() {
            lately.resize(LATELY_MAX, (None, None));
        }
        let bits = crate::address::to_bits(ip);
        let mixed = (bits as u64 ^ (bits >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let slot = lately.get_mut(mixed as usize % LATELY_MAX)?;
        if slot.0 != Some(ip) {
            *slot = (Some(ip), TABLE.lookup_country_code(ip).and_then(|code| Country::new(code.get().as_bytes())));
        }
        slot.1
    })
}

#[cfg(not(feature = "geo-embedded"))]
pub(super) fn country(_: IpAddr) -> Option<Country> {
    None
}

pub(super) fn describe() -> String {
    format!("built in: IPFire Location (CC BY-SA 4.0), of {BUILT}: country")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_the_table() {
        let lock = include_str!("../../Cargo.lock");
        assert!(lock.contains("name = \"tor-geoip-db\"\nversion = \"0.1.1\"\n"), "look up the date in the crate's doc/export-info-v4.txt");
    }

    #[test]
    #[cfg(feature = "geo-embedded")]
    fn well_known_addresses_have_a_country() {
        // Networks of national registries and universities, which do not wander.
        for (ip, code) in [("193.0.6.139", "NL"), ("130.149.7.201", "DE"), ("2001:67c:2e8::1", "NL"), ("133.11.0.1", "JP")] {
            assert_eq!(country(ip.parse().unwrap()).unwrap().to_string(), code, "{ip}");
        }
        for ip in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::1"] {
            assert_eq!(country(ip.parse().unwrap()), None, "{ip}");
        }
    }
}
