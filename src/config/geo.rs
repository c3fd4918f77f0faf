//! Where addresses are looked up: `[geo]`.

use std::path::{Path, PathBuf};

use super::raw::RawGeo;
use super::read::{At, FromText, Many, Negatable, Wrong};
use super::report::{Problem, Report};
use super::settings::value_or;
use crate::geo::lists::shipped;
use crate::geo::{Entry, HAS_EMBEDDED, Listed, Nature, Settings};

impl FromText for Entry {
    const EXPECTED: &'static str = "a string: an address, a network, or an AS number";
    fn parse(text: &str) -> Result<Self, Wrong> {
        Entry::parse(text).ok_or_else(|| {
            Wrong::new(format!("{text:?} is neither a network nor an AS number"))
                .help("write it like \"192.0.2.0/24\", \"2001:db8::/32\" or \"AS64500\"")
        })
    }
}

pub(super) fn resolve(raw: RawGeo, report: &mut Report) -> Settings {
    let default = Settings::default();
    if let Some(At { value: true, place }) = raw.embedded
        && !HAS_EMBEDDED
    {
        let problem = Problem::warning(place, "this mailwarden was built without a table of countries");
        report.push(problem.help("build it with the feature geo-embedded, or name a file in `database`"));
    }
    let mut listed = Vec::new();
    for (nature, list) in [(Nature::Mobile, raw.mobile), (Nature::Anonymiser, raw.anonymisers), (Nature::Relay, raw.relays)] {
        listed.extend(entries(nature, list, report));
    }
    Settings {
        databases: raw.database.map(|list| databases(list.value, report)),
        embedded: value_or(raw.embedded, default.embedded),
        listed,
    }
}

fn databases(list: Many<PathBuf>, report: &mut Report) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for At { value: path, place } in list.0 {
        if paths.contains(&path) {
            report.push(Problem::error(place, format!("{} stands here twice", path.display())));
        } else if let Some(problem) = missing(&path) {
            let problem = Problem::warning(place, format!("{}: {problem}; going on without it", path.display()));
            report.push(
                problem.help(
                    "it is used as soon as it is there and the daemon may read it; geoipupdate or your publisher's script fetches it",
                ),
            );
        }
        paths.push(path);
    }
    paths
}

/// The daemon is not stopped for the want of a database.
fn missing(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => None,
        Ok(_) => Some("not a regular file".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

fn entries(nature: Nature, list: Option<At<Many<Negatable<Entry>>>>, report: &mut Report) -> Vec<Listed> {
    let mut listed = Vec::new();
    for At { value: Negatable { negated, value: entry }, place } in list.map_or_else(Vec::new, |at| at.value.0) {
        if negated && !shipped().contains(&Listed { entry, nature }) {
            let problem = Problem::error(place, "the list that is shipped has no such entry to take out");
            report.push(problem.help("only whole entries can be taken out; they stand in lists/*.toml of the source"));
            continue;
        }
        listed.push(Listed { entry, nature: if negated { Nature::Ordinary } else { nature } });
    }
    listed
}
