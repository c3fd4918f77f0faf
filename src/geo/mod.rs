//! Where an address is: its country, its operator (AS number), and whether that says anything about where its user is.
//!
//! The engine asks through [`Look`] and knows no more. What is behind it: lists of networks, database files of the operator's
//! choice, and a country table in the program itself. A file that changes is taken up while the daemon runs ([`Watch`]).
//!
//! **Invariant:** what is not known is `None`, never a guess: private addresses, codes that are no country (`EU`, `AP`, `A1`,
//! `ZZ`) and addresses that no database has are nowhere.

mod atlas;
mod embedded;
pub mod lists;
mod mmdb;
mod watch;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use atlas::Atlas;
pub use lists::Entry;
pub use watch::{Change, Watch};

/// This program contains a country table.
pub const HAS_EMBEDDED: bool = cfg!(feature = "geo-embedded");

/// ISO 3166-1: two letters, upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country(pub [u8; 2]);

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Of the address, not of its user; see [`Place::users_country`].
    pub country: Option<Country>,
    pub asn: Option<u32>,
    /// Latitude and longitude in degrees; only a city database has them.
    pub location: Option<(f32, f32)>,
    pub nature: Nature,
}

/// Whether an address stands where its user does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Nature {
    #[default]
    Ordinary,
    /// A cloud that fetches mail for people, a private relay: its country says nothing about where its user is.
    Relay,
    /// Tor, a VPN.
    Anonymiser,
    /// A mobile or satellite network: users far away come out at its gateway.
    Mobile,
}

/// Looks addresses up. A look-up takes less than a microsecond and never fails.
pub trait Look: Send + Sync + fmt::Debug {
    fn look(&self, ip: IpAddr) -> Place;
    /// One line a database: path, type, build date.
    fn describe(&self) -> Vec<String>;
}

/// Knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl Look for Nowhere {
    fn look(&self, _: IpAddr) -> Place {
        Place::default()
    }
    fn describe(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What to look addresses up in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Database files, the first that knows an address counts. `None`: those that are found where packages put them.
    pub databases: Option<Vec<PathBuf>>,
    /// Use the country table in the program where no file knows the country.
    pub embedded: bool,
    /// On top of the lists that are shipped.
    pub listed: Vec<Listed>,
}

/// An entry of a list in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub entry: Entry,
    /// [`Nature::Ordinary`] takes an entry of the shipped lists out.
    pub nature: Nature,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { databases: None, embedded: true, listed: Vec::new() }
    }
}

/// What all threads look into. It can be exchanged while they do.
#[derive(Clone, Debug)]
pub struct Shared(Arc<ArcSwap<Atlas>>);

impl Shared {
    pub fn new(atlas: Atlas) -> Shared {
        Shared(Arc::new(ArcSwap::from_pointee(atlas)))
    }

    /// From here on look-ups are answered from `atlas`.
    pub fn swap(&self, atlas: Atlas) {
        self.0.store(Arc::new(atlas));
    }

    /// As [`Shared::swap`], unless somebody else has done so since `before`.
    fn swap_if(&self, before: &Arc<Atlas>, atlas: Atlas) {
        self.0.compare_and_swap(before, Arc::new(atlas));
    }

    pub fn atlas(&self) -> Arc<Atlas> {
        self.0.load_full()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Shared::new(Atlas::default())
    }
}

impl Look for Shared {
    fn look(&self, ip: IpAddr) -> Place {
        self.0.load().look(ip)
    }
    fn describe(&self) -> Vec<String> {
        self.0.load().describe()
    }
}

impl Place {
    /// The country that its user is in, as far as that can be told.
    pub fn users_country(&self) -> Option<Country> {
        self.country.filter(|_| self.nature == Nature::Ordinary)
    }

    /// As [`Place::users_country`].
    pub fn users_location(&self) -> Option<(f32, f32)> {
        self.location.filter(|_| self.nature == Nature::Ordinary)
    }
}

impl Nature {
    pub const ALL: [Nature; 4] = [Nature::Ordinary, Nature::Relay, Nature::Anonymiser, Nature::Mobile];

    pub const fn as_str(self) -> &'static str {
        match self {
            Nature::Ordinary => "ordinary",
            Nature::Relay => "relay",
            Nature::Anonymiser => "anonymiser",
            Nature::Mobile => "mobile",
        }
    }
}

impl fmt::Display for Nature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Country {
    /// `None` for what is no country: `EU` and `AP` (a region), `ZZ` and the other codes that ISO 3166 leaves to users (but `XK`,
    /// which everybody uses for Kosovo), anything but two letters.
    pub fn new(code: &[u8]) -> Option<Country> {
        let code: [u8; 2] = <[u8; 2]>::try_from(code).ok()?.map(|letter| letter.to_ascii_uppercase());
        let is_country = code.iter().all(u8::is_ascii_uppercase)
            && !matches!(&code, b"EU" | b"AP" | b"AA" | b"ZZ" | b"UN" | [b'Q', b'M'..=b'Z'])
            && (code[0] != b'X' || code == *b"XK");
        is_country.then_some(Country(code))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl FromStr for Country {
    type Err = ();
    fn from_str(text: &str) -> Result<Country, ()> {
        Country::new(text.as_bytes()).ok_or(())
    }
}
