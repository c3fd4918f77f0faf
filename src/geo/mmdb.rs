//! One database file in MaxMind's format. The format says nothing about the names of the fields, and every publisher has its
//! own: they are found out when the file is opened.

use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use maxminddb::{LookupResult, PathElement, Reader, WithinOptions};

use super::{Country, Place};
use crate::limits::{GEO_FILE_BYTES_MAX, GEO_PROBES_MAX};
use crate::time::Timestamp;

type Keys = &'static [PathElement<'static>];
type Found<'a> = LookupResult<'a, Vec<u8>>;

/// Where the country's code stands: MaxMind and DB-IP; ipinfo lite and ip-location-db; ipinfo before 2024. The second has a
/// `country` too: its name.
const COUNTRY: [Keys; 3] =
    [&[PathElement::Key("country"), PathElement::Key("iso_code")], &[PathElement::Key("country_code")], &[PathElement::Key("country")]];
/// And the operator's number: MaxMind and DB-IP; MaxMind's enterprise file; ipinfo (a text, `AS64500`).
const ASN: [Keys; 3] = [
    &[PathElement::Key("autonomous_system_number")],
    &[PathElement::Key("traits"), PathElement::Key("autonomous_system_number")],
    &[PathElement::Key("asn")],
];
/// And the place: MaxMind and DB-IP; ip-location-db; ipinfo (texts).
const LOCATION: [[Keys; 2]; 3] = [
    [&[PathElement::Key("location"), PathElement::Key("latitude")], &[PathElement::Key("location"), PathElement::Key("longitude")]],
    [&[PathElement::Key("latitude")], &[PathElement::Key("longitude")]],
    [&[PathElement::Key("lat")], &[PathElement::Key("lng")]],
];

/// An open file. It is read as a whole: a mapped one that an updater writes over would kill us.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
    reader: Reader<Vec<u8>>,
    fields: Fields,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// `None`: there is no such file, or nothing is known of it.
    pub(super) fn of(path: &Path) -> Option<Stamp> {
        fs::metadata(path).ok().map(|meta| Stamp::from(&meta))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(meta: &fs::Metadata) -> Stamp {
        Stamp { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// Which of the known fields the file has.
#[derive(Clone, Copy, Debug, Default)]
struct Fields {
    country: Option<Keys>,
    asn: Option<Keys>,
    location: Option<[Keys; 2]>,
}

impl Database {
    /// The error says what is wrong with the file; the caller names it.
    pub(super) fn open(path: &Path) -> Result<Database, String> {
        let (bytes, stamp) = read(path)?;
        let reader = Reader::from_source(bytes).map_err(|error| format!("not a database in MaxMind's format: {error}"))?;
        let fields = Fields::find(&reader)?;
        Ok(Database { path: path.to_owned(), stamp, reader, fields })
    }

    /// Adds what `place` lacks.
    pub(super) fn complete(&self, place: &mut Place, ip: IpAddr) {
        let Fields { country, asn, location } = self.fields;
        let wants = |field: bool, is_known: bool| field && !is_known;
        if !wants(country.is_some(), place.country.is_some())
            && !wants(asn.is_some(), place.asn.is_some())
            && !wants(location.is_some(), place.location.is_some())
        {
            return;
        }
        let Ok(found) = self.reader.lookup(ip) else { return };
        if !found.has_data() {
            return;
        }
        place.country = place.country.or_else(|| country_of(&found, country?));
        place.asn = place.asn.or_else(|| asn_of(&found, asn?));
        place.location = place.location.or_else(|| location_of(&found, location?));
    }

    pub(super) fn has_asn(&self) -> bool {
        self.fields.asn.is_some()
    }

    pub(super) fn describe(&self) -> String {
        format!("{}: {}, of {}: {}", self.path.display(), self.kind(), self.built(), self.fields.describe())
    }

    pub(super) fn built(&self) -> String {
        let epoch = i64::try_from(self.reader.metadata().build_epoch).unwrap_or(i64::MAX);
        Timestamp::from_seconds(epoch).rfc3339().chars().take(10).collect()
    }

    /// What the file calls itself; it is shown to people.
    fn kind(&self) -> String {
        self.reader.metadata().database_type.chars().filter(|c| !c.is_control()).take(64).collect()
    }
}

impl Fields {
    /// Looks at the first entries: those that lack a field (a country that is not known) are not the rule.
    fn find(reader: &Reader<Vec<u8>>) -> Result<Fields, String> {
        let mut fields = Fields::default();
        let networks = reader.networks(WithinOptions::default()).map_err(|error| format!("damaged: {error}"))?;
        for found in networks.take(GEO_PROBES_MAX) {
            let found = found.map_err(|error| format!("damaged: {error}"))?;
            fields.country = fields.country.or_else(|| COUNTRY.into_iter().find(|keys| country_of(&found, keys).is_some()));
            fields.asn = fields.asn.or_else(|| ASN.into_iter().find(|keys| asn_of(&found, keys).is_some()));
            fields.location = fields.location.or_else(|| LOCATION.into_iter().find(|keys| location_of(&found, *keys).is_some()));
            if fields.country.is_some() && fields.asn.is_some() && fields.location.is_some() {
                break;
            }
        }
        if fields.country.is_none() && fields.asn.is_none() && fields.location.is_none() {
            let kind = &reader.metadata().database_type;
            return Err(format!("it has neither country nor AS number in a field that is known (its type is {kind:?})"));
        }
        Ok(fields)
    }

    fn describe(self) -> String {
        let names = [("country", self.country.is_some()), ("AS number", self.asn.is_some()), ("location", self.location.is_some())];
        names.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, Stamp), String> {
    let cannot = |error| format!("cannot read: {error}");
    // Asked before it is opened: opening a FIFO would wait for a writer.
    if !fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let file = File::open(path).map_err(cannot)?;
    let stamp = Stamp::from(&file.metadata().map_err(cannot)?);
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size.min(GEO_FILE_BYTES_MAX)).unwrap_or(0));
    file.take(GEO_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > GEO_FILE_BYTES_MAX {
        return Err(format!("larger than {GEO_FILE_BYTES_MAX} bytes"));
    }
    Ok((bytes, stamp))
}

fn country_of(found: &Found<'_>, keys: Keys) -> Option<Country> {
    Country::new(found.decode_path::<&str>(keys).ok()??.as_bytes())
}

fn asn_of(found: &Found<'_>, keys: Keys) -> Option<u32> {
    let number = match found.decode_path::<u32>(keys) {
        Ok(number) => number?,
        Err(_) => found.decode_path::<&str>(keys).ok()??.trim_start_matches("AS").parse().ok()?,
    };
    // Publishers write 0 where there is none.
    (number != 0).then_some(number)
}

fn location_of(found: &Found<'_>, [latitude, longitude]: [Keys; 2]) -> Option<(f32, f32)> {
    let (latitude, longitude) = (degrees_of(found, latitude, 90.0)?, degrees_of(found, longitude, 180.0)?);
    Some((latitude, longitude))
}

fn degrees_of(found: &Found<'_>, keys: Keys, most: f64) -> Option<f32> {
    let degrees = match found.decode_path::<f64>(keys) {
        Ok(degrees) => degrees?,
        Err(_) => match found.decode_path::<f32>(keys) {
            Ok(degrees) => f64::from(degrees?),
            Err(_) => found.decode_path::<&str>(keys).ok()??.parse().ok()?,
        },
    };
    (-most..=most).contains(&degrees).then_some(degrees as f32)
}
