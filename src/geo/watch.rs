//! Notices that a database file has changed. A look at the files each minute needs no watch on directories and sees a rename,
//! a copy and a bind mount alike.

use std::path::PathBuf;
use std::time::Duration;

use super::atlas::{Atlas, candidates};
use super::mmdb::Stamp;
use super::{Settings, Shared};
use crate::time::Timestamp;

const INTERVAL: Duration = Duration::from_secs(60);

/// Looks at the files that are configured, or at those that could be there.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    seen: Vec<(PathBuf, Option<Stamp>)>,
    next: Timestamp,
}

/// Files are not what they were.
#[derive(Debug)]
pub struct Change {
    settings: Settings,
    pub paths: Vec<PathBuf>,
}

impl Watch {
    /// Made before the files are opened, so that no change is missed in between.
    pub fn new(settings: Settings, now: Timestamp) -> Watch {
        let seen = look(&settings);
        Watch { settings, seen, next: now + INTERVAL }
    }

    /// Looks once a minute. Each change is told once: a file that turns out to be broken is not tried again before it changes.
    pub fn poll(&mut self, now: Timestamp) -> Option<Change> {
        if now < self.next {
            return None;
        }
        self.next = now + INTERVAL;
        let found = look(&self.settings);
        let changed = found.iter().zip(&self.seen).filter(|(new, old)| new != old);
        let paths: Vec<PathBuf> = changed.map(|((path, _), _)| path.clone()).collect();
        self.seen = found;
        (!paths.is_empty()).then(|| Change { settings: self.settings.clone(), paths })
    }
}

impl Change {
    /// Opens the files, which takes a while, and lets `shared` look into them. What has become broken stays as it was. Returns
    /// what people should know.
    pub fn apply(&self, shared: &Shared) -> Vec<String> {
        let before = shared.atlas();
        let (atlas, problems) = Atlas::open(&self.settings, Some(&before));
        // A reload that came in between has opened the same files, by newer settings.
        shared.swap_if(&before, atlas);
        problems
    }
}

fn look(settings: &Settings) -> Vec<(PathBuf, Option<Stamp>)> {
    candidates(settings).into_iter().map(|path| (path.clone(), Stamp::of(&path))).collect()
}
