//! All that addresses are looked up in, as one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lists::Lists;
use super::mmdb::{Database, Stamp};
use super::{Look, Place, Settings, embedded};
use crate::address;

/// Where packages and updaters put databases.
const DIRECTORIES: [&str; 3] = ["/var/lib/GeoIP", "/usr/share/GeoIP", "/usr/local/share/GeoIP"];
/// Files with countries, and with AS numbers. Of each the first is taken that is there; a city file has the country too.
const PLACES: [&str; 7] = [
    "GeoIP2-City.mmdb",
    "GeoLite2-City.mmdb",
    "GeoIP2-Country.mmdb",
    "GeoLite2-Country.mmdb",
    "dbip-city-lite.mmdb",
    "dbip-country-lite.mmdb",
    "ipinfo_lite.mmdb",
];
const OPERATORS: [&str; 4] = ["GeoIP2-ISP.mmdb", "GeoLite2-ASN.mmdb", "dbip-asn-lite.mmdb", "ipinfo_lite.mmdb"];

/// Files, table and lists. The default one knows nothing.
#[derive(Clone, Debug, Default)]
pub struct Atlas {
    databases: Vec<Arc<Database>>,
    embedded: bool,
    lists: Lists,
}

impl Atlas {
    /// Opens what is there, and says what is not. A file that has not changed since `before` is taken over from it, and so is
    /// one that cannot be read any more.
    pub fn open(settings: &Settings, before: Option<&Atlas>) -> (Atlas, Vec<String>) {
        let mut problems = Vec::new();
        let mut databases: Vec<Arc<Database>> = Vec::new();
        for path in chosen(settings) {
            let old = before.and_then(|atlas| atlas.databases.iter().find(|database| database.path == path));
            match (reopen(&path, old), old) {
                (Ok(database), _) => databases.push(database),
                (Err(problem), Some(old)) => {
                    problems.push(format!("{}: {problem}; going on with its contents of {}", path.display(), old.built()));
                    databases.push(Arc::clone(old));
                }
                (Err(problem), None) => problems.push(format!("{}: {problem}; going on without it", path.display())),
            }
        }
        let embedded = settings.embedded && super::HAS_EMBEDDED;
        (Atlas { databases, embedded, lists: Lists::new(&settings.listed) }, problems)
    }
}

impl Look for Atlas {
    fn look(&self, ip: IpAddr) -> Place {
        let ip = address::canonical(ip);
        let mut place = Place::default();
        if is_public(ip) {
            for database in &self.databases {
                database.complete(&mut place, ip);
            }
            if self.embedded && place.country.is_none() {
                place.country = embedded::country(ip);
            }
        }
        place.nature = self.lists.nature(ip, place.asn);
        place
    }

    fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.databases.iter().map(|database| database.describe()).collect();
        if self.embedded {
            lines.push(embedded::describe());
        }
        let operators = self.lists.operator_count();
        let blind = if self.databases.iter().any(|database| database.has_asn()) { "" } else { " (unused: no database has AS numbers)" };
        lines.push(format!("lists: {} ranges, {operators} AS numbers{blind}", self.lists.range_count()));
        lines
    }
}

/// The files that matter: their changes are watched, whether they are there yet or not.
pub(super) fn candidates(settings: &Settings) -> Vec<PathBuf> {
    match &settings.databases {
        Some(paths) => paths.clone(),
        None => [&PLACES[..], &OPERATORS[..]].into_iter().flat_map(in_directories).collect(),
    }
}

/// The files to open.
fn chosen(settings: &Settings) -> Vec<PathBuf> {
    match &settings.databases {
        Some(paths) => paths.clone(),
        None => {
            let first = |names: &[&str]| in_directories(names).find(|path| path.is_file());
            let (place, operator) = (first(&PLACES), first(&OPERATORS));
            let operator = operator.filter(|path| Some(path) != place.as_ref());
            place.into_iter().chain(operator).collect()
        }
    }
}

fn in_directories(names: &[&str]) -> impl Iterator<Item = PathBuf> {
    DIRECTORIES.into_iter().flat_map(|directory| names.iter().map(|name| Path::new(directory).join(name)))
}

fn reopen(path: &Path, old: Option<&Arc<Database>>) -> Result<Arc<Database>, String> {
    match old.filter(|old| Stamp::of(path) == Some(old.stamp)) {
        Some(same) => Ok(Arc::clone(same)),
        None => Database::open(path).map(Arc::new),
    }
}

/// Not one of those that everybody has: private, shared by a provider's customers (RFC 6598), this host's own.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || (a == 100 && b & 0xc0 == 64))
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local()),
    }
}
