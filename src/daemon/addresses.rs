//! The addresses of this host, followed: it must not ban itself, whatever it is called next.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::inbox::{Message, Outside};

/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What the interfaces have now, in order; `None`: the kernel did not say.
pub(super) fn own() -> Option<Vec<IpNetwork>> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| -> Option<IpNetwork> {
        let storage = interface.address?;
        let ipv4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let ip = ipv4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
        // Those of one link come and go with every container, and are never banned anyway.
        let is_of_link = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        (!is_of_link).then(|| crate::address::single(ip))
    };
    let mut found: Vec<IpNetwork> = nix::ifaddrs::getifaddrs().ok()?.filter_map(address).collect();
    found.sort();
    found.dedup();
    Some(found)
}

/// Tells the core what they are, and then whenever they are others.
pub(super) async fn follow(outside: Outside) {
    let mut known = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let found = own();
        if found.is_some() && found != known {
            known.clone_from(&found);
            outside.send(Message::OwnAddresses(found.unwrap_or_default()));
        }
    }
}
