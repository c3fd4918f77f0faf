//! Look-ups in the databases of `tests/geo`, in each publisher's shape; and what a changed or broken file does.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::lists::shipped;
use super::*;
use crate::time::Timestamp;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/geo").join(name)
}

fn settings(databases: &[PathBuf]) -> Settings {
    Settings { databases: Some(databases.to_vec()), embedded: false, listed: Vec::new() }
}

fn atlas(names: &[&str]) -> Atlas {
    let paths: Vec<PathBuf> = names.iter().map(|name| fixture(name)).collect();
    let (atlas, problems) = Atlas::open(&settings(&paths), None);
    assert_eq!(problems, Vec::<String>::new());
    atlas
}

fn listing(entries: &[(&str, Nature)]) -> Atlas {
    let listed = entries.iter().map(|(entry, nature)| Listed { entry: Entry::parse(entry).unwrap(), nature: *nature }).collect();
    Atlas::open(&Settings { listed, ..settings(&[fixture("asn.mmdb")]) }, None).0
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `DE 64500`, `- -`.
fn shown(look: &impl Look, address: &str) -> String {
    let place = look.look(ip(address));
    let country = place.country.map_or("-".to_owned(), |country| country.to_string());
    format!("{country} {}", place.asn.map_or("-".to_owned(), |asn| asn.to_string()))
}

#[test]
fn every_shape_is_read() {
    for (files, address, expected) in [
        (&["city.mmdb"][..], "192.0.2.1", "DE -"),
        (&["city.mmdb"], "2001:db8:1::25", "NL -"),
        (&["asn.mmdb"], "192.0.2.1", "- 64500"),
        (&["ipinfo_lite.mmdb"], "192.0.2.1", "DE 64500"),
        (&["ipinfo_lite.mmdb"], "2001:db8:1::25", "NL 64501"),
        (&["ipinfo_old.mmdb"], "198.51.100.7", "FR 64502"),
        (&["flat.mmdb"], "2001:db8:1::25", "NL -"),
        (&["city.mmdb", "asn.mmdb"], "192.0.2.1", "DE 64500"),
        // What the first file does not know, the next may.
        (&["flat.mmdb", "ipinfo_old.mmdb"], "198.51.100.7", "FR 64502"),
    ] {
        assert_eq!(shown(&atlas(files), address), expected, "{files:?} {address}");
    }
}

#[test]
fn only_a_city_database_has_locations() {
    assert_eq!(atlas(&["city.mmdb"]).look(ip("192.0.2.1")).location, Some((52.5, 13.4)));
    assert_eq!(atlas(&["flat.mmdb"]).look(ip("192.0.2.1")).location, None);
}

#[test]
fn a_mapped_address_is_ipv4() {
    for files in [&["city.mmdb", "asn.mmdb"][..], &["ipinfo_lite.mmdb"]] {
        assert_eq!(shown(&atlas(files), "::ffff:192.0.2.1"), "DE 64500");
    }
}

#[test]
fn unknown_is_unknown() {
    let atlas = atlas(&["city.mmdb", "asn.mmdb"]);
    // In no entry; an entry without a country, one of no country; addresses that everybody has.
    for address in ["9.9.9.9", "192.0.2.200", "10.0.0.1", "100.64.0.1", "127.0.0.1", "::1", "fe80::1", "fd00::1", "2001:db8:2::1"] {
        assert_eq!(shown(&atlas, address), "- -", "{address}");
    }
    assert_eq!(shown(&atlas, "203.0.113.1"), "- 8075");
    assert_eq!(Nowhere.look(ip("192.0.2.1")), Place::default());
    assert_eq!(Shared::default().look(ip("192.0.2.1")), Place::default());
}

#[test]
fn codes_of_no_country_are_refused() {
    for code in ["EU", "AP", "A1", "A2", "O1", "??", "ZZ", "XX", "T1", "", "D", "DEU", "dé", "QM"] {
        assert_eq!(code.parse::<Country>(), Err(()), "{code}");
    }
    for code in ["DE", "de", "XK", "QA", "GB"] {
        assert_eq!(code.parse::<Country>().unwrap().to_string(), code.to_ascii_uppercase());
    }
}

#[test]
#[cfg(feature = "geo-embedded")]
fn without_a_file_the_table_in_the_program_knows() {
    let without_files = Settings { databases: Some(Vec::new()), ..Settings::default() };
    let (embedded, problems) = Atlas::open(&without_files, None);
    assert!(problems.is_empty());
    assert_eq!(shown(&embedded, "193.0.6.139"), "NL -");
    assert_eq!(shown(&embedded, "::ffff:193.0.6.139"), "NL -");
    assert!(embedded.describe().iter().any(|line| line.contains("CC BY-SA 4.0")), "{:?}", embedded.describe());
    let (both, _) = Atlas::open(&Settings { databases: Some(vec![fixture("city.mmdb")]), ..Settings::default() }, None);
    assert_eq!((shown(&both, "192.0.2.1"), shown(&both, "193.0.6.139")), ("DE -".to_owned(), "NL -".to_owned()));
}

#[test]
fn a_database_is_described() {
    let lines = atlas(&["city.mmdb", "asn.mmdb"]).describe();
    assert!(lines[0].contains("city.mmdb: GeoLite2-City, of 20") && lines[0].ends_with(": country, location"), "{lines:?}");
    assert!(lines[1].ends_with(": AS number"), "{lines:?}");
    assert!(atlas(&["city.mmdb"]).describe().last().unwrap().contains("no database has AS numbers"));
}

#[test]
fn what_is_no_database_is_said_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.mmdb");
    let whole = fs::read(fixture("city.mmdb")).unwrap();
    for (bytes, expected) in [(&b""[..], "not a database"), (b"<html>", "not a database"), (&whole[..whole.len() / 2], "not a database")] {
        fs::write(&path, bytes).unwrap();
        let (_, problems) = Atlas::open(&settings(std::slice::from_ref(&path)), None);
        assert!(problems[0].contains(expected) && problems[0].ends_with("going on without it"), "{problems:?}");
    }
    for (path, expected) in [
        (dir.path().to_owned(), "not a regular file"),
        (dir.path().join("none.mmdb"), "cannot read"),
        (fixture("other.mmdb"), "neither country nor AS number"),
    ] {
        let (atlas, problems) = Atlas::open(&settings(&[path, fixture("city.mmdb")]), None);
        assert!(problems[0].contains(expected), "{problems:?}");
        assert_eq!(shown(&atlas, "192.0.2.1"), "DE -");
    }
}

#[test]
fn damaged_files_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.mmdb");
    let whole = fs::read(fixture("ipinfo_lite.mmdb")).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        let (atlas, _) = Atlas::open(&settings(std::slice::from_ref(&path)), None);
        for address in ["192.0.2.1", "2001:db8:1::1", "255.255.255.255", "2fff::"] {
            atlas.look(ip(address));
        }
    }
}

#[test]
fn a_changed_file_is_taken_up_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("geo.mmdb");
    let replace = |name: &str| {
        let new = dir.path().join("new");
        fs::copy(fixture(name), &new).unwrap();
        fs::rename(new, &path).unwrap();
    };
    replace("flat.mmdb");
    let settings = settings(std::slice::from_ref(&path));
    let minute = |number: i64| Timestamp::from_seconds(1_800_000_000 + number * 60);
    let mut watch = Watch::new(settings.clone(), minute(0));
    let shared = Shared::new(Atlas::open(&settings, None).0);
    let everywhere = shared.clone();
    assert_eq!(shown(&everywhere, "192.0.2.1"), "DE -");
    assert!(watch.poll(minute(1)).is_none());

    replace("ipinfo_old.mmdb");
    assert!(watch.poll(minute(2) - Duration::from_secs(1)).is_none(), "once a minute");
    let change = watch.poll(minute(2)).unwrap();
    assert_eq!((change.paths.as_slice(), change.apply(&shared)), (&[path.clone()][..], Vec::new()));
    assert_eq!(shown(&everywhere, "198.51.100.1"), "FR 64502");

    fs::write(&path, "half").unwrap();
    let problems = watch.poll(minute(3)).unwrap().apply(&shared);
    assert!(problems[0].contains("going on with its contents of 20"), "{problems:?}");
    assert_eq!(shown(&everywhere, "198.51.100.1"), "FR 64502");
    assert!(watch.poll(minute(4)).is_none(), "told once");

    fs::remove_file(&path).unwrap();
    assert_eq!(watch.poll(minute(5)).unwrap().apply(&shared).len(), 1);
    assert_eq!(shown(&everywhere, "198.51.100.1"), "FR 64502");

    replace("city.mmdb");
    assert_eq!(watch.poll(minute(6)).unwrap().apply(&shared), Vec::<String>::new());
    assert_eq!(shown(&everywhere, "192.0.2.1"), "DE -");
}

#[test]
fn shipped_lists_are_read_whole() {
    let count: usize =
        [include_str!("../../lists/relays.toml"), include_str!("../../lists/anonymisers.toml"), include_str!("../../lists/mobile.toml")]
            .into_iter()
            .map(|text| {
                let file: toml::Table = text.parse().unwrap();
                let lists = file["list"].as_array().unwrap();
                lists.iter().map(|list| list["entries"].as_array().unwrap().len()).sum::<usize>()
            })
            .sum();
    assert_eq!(shipped().len(), count);
    for nature in [Nature::Relay, Nature::Anonymiser, Nature::Mobile] {
        assert!(shipped().iter().any(|listed| listed.nature == nature), "{nature}");
    }
}

#[test]
fn listed_networks_are_no_countries() {
    let look = Atlas::open(&settings(&[fixture("city.mmdb"), fixture("asn.mmdb")]), None).0;
    // By network, with no database of AS numbers that knows them; by AS number.
    assert_eq!(look.look(ip("52.125.130.1")).nature, Nature::Relay);
    assert_eq!(look.look(ip("2a00:1450:4864:20::32")).nature, Nature::Relay);
    assert_eq!(look.look(ip("203.0.113.1")).nature, Nature::Relay);
    let home = look.look(ip("192.0.2.1"));
    assert_eq!((home.nature, home.users_country(), home.users_location().is_some()), (Nature::Ordinary, Country::new(b"DE"), true));
    let away = Place { nature: Nature::Mobile, ..home };
    assert_eq!((away.country, away.users_country(), away.users_location()), (Country::new(b"DE"), None, None));
}

#[test]
fn own_entries_come_on_top_and_the_narrowest_counts() {
    let look = listing(&[
        ("192.0.2.0/24", Nature::Mobile),
        ("192.0.2.64/26", Nature::Anonymiser),
        ("192.0.2.64/32", Nature::Ordinary),
        ("AS64501", Nature::Relay),
        ("AS8075", Nature::Ordinary),
        ("52.125.128.0/20", Nature::Ordinary),
        ("2001:db8:9::/48", Nature::Mobile),
        ("255.255.255.255", Nature::Mobile),
    ]);
    for (address, expected) in [
        ("192.0.1.255", Nature::Ordinary),
        ("192.0.2.0", Nature::Mobile),
        ("192.0.2.63", Nature::Mobile),
        ("192.0.2.64", Nature::Ordinary),
        ("192.0.2.65", Nature::Anonymiser),
        ("192.0.2.127", Nature::Anonymiser),
        ("192.0.2.128", Nature::Mobile),
        ("192.0.2.255", Nature::Mobile),
        ("192.0.3.0", Nature::Ordinary),
        ("255.255.255.255", Nature::Mobile),
        ("2001:db8:1::1", Nature::Relay),
        ("2001:db8:9:ffff::", Nature::Mobile),
        ("2001:db8:a::", Nature::Ordinary),
        ("203.0.113.1", Nature::Ordinary),
        ("52.125.130.1", Nature::Ordinary),
    ] {
        assert_eq!(look.look(ip(address)).nature, expected, "{address}");
    }
}

#[test]
fn entries_are_parsed() {
    for text in ["AS0", "AS", "ASx", "AS-1", "AS4294967296", "example.org", "1.2.3.4/33", ""] {
        assert_eq!(Entry::parse(text), None, "{text}");
    }
    assert_eq!(Entry::parse("as64500"), Some(Entry::Asn(64500)));
    assert_eq!(Entry::parse("192.0.2.77/24"), Entry::parse("192.0.2.0/24"));
}

/// Far above what is measured in a release build (see the budget), so that only a mistake of order fails here.
#[test]
#[cfg(feature = "geo-embedded")]
fn a_look_up_is_quick() {
    let (atlas, _) = Atlas::open(&Settings { databases: Some(Vec::new()), ..Settings::default() }, None);
    let shared = Shared::new(atlas);
    let addresses: Vec<IpAddr> = (0..100_000_u32).map(|n| IpAddr::V4(n.wrapping_mul(2_654_435_761).into())).collect();
    let begin = Instant::now();
    let known = addresses.iter().filter(|ip| shared.look(**ip).country.is_some()).count();
    let each = begin.elapsed().as_nanos() / addresses.len() as u128;
    println!("{each} ns a look-up, {known} of {} known", addresses.len());
    assert!(each < 3_000, "{each} ns a look-up");
    assert!(known > addresses.len() / 2);
}
