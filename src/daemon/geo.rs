//! Where addresses are looked up: opened at the start, kept current while the daemon runs. The core itself opens no file.

use log::{error, info, warn};

use crate::config::Config;
use crate::geo::{Atlas, Look, Shared, Watch};
use crate::time::Timestamp;

pub(super) struct Geo {
    pub(super) shared: Shared,
    watch: Watch,
}

/// What a reload has opened, and a watch from before it did.
pub(super) struct Reloaded {
    atlas: Atlas,
    watch: Watch,
}

impl Reloaded {
    /// Takes a while. Files that have not changed are taken over.
    pub(super) fn open(config: &Config, now: &Shared) -> Reloaded {
        // Due at the next tick: what has changed since is not missed.
        let watch = Watch::new(config.geo.clone(), Timestamp::ZERO);
        Reloaded { watch, atlas: open(config, Some(&now.atlas())) }
    }
}

impl Geo {
    pub(super) fn start(config: &Config, now: Timestamp) -> Geo {
        let watch = Watch::new(config.geo.clone(), now);
        Geo { watch, shared: Shared::new(open(config, None)) }
    }

    pub(super) fn take_over(&mut self, reloaded: Reloaded) {
        self.watch = reloaded.watch;
        self.shared.swap(reloaded.atlas);
    }

    /// Looks whether files have changed, once a minute; a thread opens them.
    pub(super) fn tick(&mut self, now: Timestamp) {
        let Some(change) = self.watch.poll(now) else { return };
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("geo".into()).spawn(move || {
            change.apply(&shared).iter().for_each(|problem| warn!("geo: {problem}"));
            shared.describe().iter().for_each(|line| info!("geo: now {line}"));
        });
        if let Err(problem) = thread {
            error!("geo: cannot start a thread: {problem}; going on with the old databases");
        }
    }
}

fn open(config: &Config, before: Option<&Atlas>) -> Atlas {
    let (atlas, problems) = Atlas::open(&config.geo, before);
    problems.iter().for_each(|problem| warn!("geo: {problem}"));
    atlas.describe().iter().for_each(|line| info!("geo: {line}"));
    atlas
}
