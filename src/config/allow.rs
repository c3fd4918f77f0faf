//! Who is never banned.

use std::path::Path;

use ipnetwork::IpNetwork;

use super::files;
use super::raw::{AutoOr, Listed, RawAllow};
use super::read::{At, FromText, Many};
use super::report::{Place, Problem, Report};
use super::settings::unplaced;
use crate::engine::allow as engine;

/// An entry of `ignoreip` that is wider is more likely a mistake.
const IGNORED_PREFIX_MIN: (u8, u8) = (8, 16);

/// Never banned, whatever they do. The host's own addresses and loopback come on top.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allow {
    pub ignoreip: Vec<IpNetwork>,
    /// Own MX hosts, backup MX, smarthosts, proxies: neighbours.
    pub relays: Vec<IpNetwork>,
    pub mynetworks: Mynetworks,
}

/// The networks that Postfix relays for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mynetworks {
    /// Postfix is asked (`postconf -h mynetworks`).
    #[default]
    Auto,
    These(Vec<IpNetwork>),
}

impl Allow {
    pub(super) fn resolve(raw: RawAllow, report: &mut Report) -> Allow {
        let ignoreip = networks(raw.ignoreip, report);
        let relays = networks(raw.relays, report);
        Allow { ignoreip, relays, mynetworks: raw.mynetworks.map_or(Mynetworks::Auto, |list| mynetworks(list, report)) }
    }
}

/// Networks of `mynetworks` that exempt nobody: Postfix's default on old hosts is the provider's whole network, whose other
/// customers must not go free.
pub fn too_wide(mynetworks: &[IpNetwork]) -> Vec<IpNetwork> {
    engine::Allow::new(&engine::AllowConfig { mynetworks: mynetworks.to_vec(), ..Default::default() }).too_wide
}

/// Reads Postfix's form of `mynetworks`: `127.0.0.0/8 [::1]/128, …`. Tables, files and exclusions (`!`) are left out: what is
/// not read is not exempt.
pub fn parse_postfix(text: &str) -> Vec<IpNetwork> {
    let words = text.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty() && !word.starts_with('!'));
    words.filter_map(|word| IpNetwork::parse(&word.replace(['[', ']'], "")).ok()).collect()
}

/// Where `postconf` looks; and the seconds that it has for its answer.
const POSTFIX_MAIN: &str = "/etc/postfix/main.cf";
const POSTCONF_SECONDS: &str = "5";

/// Asks Postfix for its networks; `None` when there is no Postfix, or it has no answer.
pub fn ask_postfix() -> Option<Vec<IpNetwork>> {
    // An installed Postfix that nobody has configured thinks for a second before it says so.
    if !Path::new(POSTFIX_MAIN).exists() {
        return None;
    }
    let mut command = std::process::Command::new("timeout");
    command.args([POSTCONF_SECONDS, "postconf", "-h", "mynetworks"]).stdin(std::process::Stdio::null());
    let output = command.output().ok()?;
    output.status.success().then(|| parse_postfix(&String::from_utf8_lossy(&output.stdout)))
}

fn mynetworks(list: At<Many<AutoOr<IpNetwork>>>, report: &mut Report) -> Mynetworks {
    let mut these = Vec::new();
    let entries = list.value.0;
    let is_single = entries.len() == 1;
    for At { value, place } in entries {
        match value {
            AutoOr::Auto if is_single => return Mynetworks::Auto,
            AutoOr::Auto => report.push(Problem::error(place, "\"auto\" cannot stand beside networks").help("write one or the other")),
            AutoOr::This(network) => {
                if !too_wide(&[network]).is_empty() {
                    let problem = Problem::warning(place, format!("{network} is wide and public: it is exempt from nothing"));
                    report.push(problem.help("hosts that you trust in there belong into `relays`, one by one"));
                }
                these.push(network);
            }
        }
    }
    Mynetworks::These(these)
}

fn networks(list: Option<At<Many<Listed>>>, report: &mut Report) -> Vec<IpNetwork> {
    let mut networks = Vec::new();
    for At { value, place } in list.map_or_else(Vec::new, |at| at.value.0) {
        match value {
            Listed::Net(network) => networks.push(At { value: network, place }),
            Listed::File(path) => networks.extend(networks_of_file(&path, place, report)),
        }
    }
    for At { value: network, place } in &networks {
        if network.prefix() < by_family(*network, IGNORED_PREFIX_MIN) {
            let problem = Problem::warning(*place, format!("{network} is a large part of the Internet, and nobody in it is ever banned"));
            report.push(problem);
        }
    }
    unplaced(networks)
}

/// One address or network a line; `#` begins a comment.
fn networks_of_file(path: &Path, place: Place, report: &mut Report) -> Vec<At<IpNetwork>> {
    let mut networks = Vec::new();
    for line in files::read_list(path, place, report) {
        match IpNetwork::parse(&line.value) {
            Ok(value) => networks.push(At { value, place: line.place }),
            Err(wrong) => report.push(wrong.at(line.place)),
        }
    }
    networks
}

fn by_family(network: IpNetwork, (ipv4, ipv6): (u8, u8)) -> u8 {
    if network.is_ipv4() { ipv4 } else { ipv6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_or_narrow_networks_are_exempt() {
        let cases = [
            ("10.0.0.0/8", true),
            ("203.0.113.0/24", false),
            ("203.0.113.8/29", true),
            ("fd00::/8", true),
            ("2001:db8::/32", false),
            ("127.0.0.0/8", true),
            ("::ffff:127.0.0.0/104", true),
        ];
        for (network, expected) in cases {
            assert_eq!(too_wide(&[network.parse().unwrap()]).is_empty(), expected, "{network}");
        }
    }

    #[test]
    fn postfix_form_is_read() {
        let read = parse_postfix("127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128, !192.0.2.1, hash:/etc/postfix/net\n 198.51.100.7");
        let shown: Vec<String> = read.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.0/8", "127.0.0.0/8", "::1/128", "198.51.100.7/32"]);
    }
}
