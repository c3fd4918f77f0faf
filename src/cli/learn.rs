//! `learn`: histories of accounts from old logs, so that day one is not blind.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::unistd::{geteuid, setgid, setgroups, setuid};
use serde::Serialize;

use super::logs::Setup;
use super::{FAILED, Global, out, replay, table};
use crate::control::client::Client;
use crate::engine::snapshot::SnapshotRow;
use crate::engine::{Engine, EngineConfig};
use crate::store::{Claim, Run, Store};
use crate::time::Timestamp;

/// Another host's clock, or another time zone.
const FUTURE_SLACK: Duration = Duration::from_secs(86_400);

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Old logs, in any order, also packed (.gz, .xz, .zst)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The daemon's state, a directory that is there [default: the configuration's, /var/lib/mailwarden]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &Args) -> ExitCode {
    // Two writers of one state would undo each other's work.
    if Client::connect(global.socket()).is_ok() {
        let text = "the daemon is running and owns the state: stop it first (systemctl stop mailwardend), learn, start it again";
        return out::fail(global.json, FAILED, text);
    }
    let setup = match Setup::load(global.config.as_deref()) {
        Ok(setup) => setup,
        Err(problem) => return out::fail(global.json, FAILED, &problem),
    };
    if let Some(missing) = args.state_dir.as_ref().filter(|dir| !dir.is_dir()) {
        let text = format!("there is no directory {}; name the one where the daemon keeps its state, or make it first", missing.display());
        return out::fail(global.json, FAILED, &text);
    }
    let directory = args.state_dir.clone().unwrap_or_else(|| setup.config.state.dir.clone());
    match learn(&setup, &args.files, &directory) {
        Ok(learned) if global.json => out::done(serde_json::to_string(&learned).map_err(io::Error::from).and_then(|text| out::say(&text))),
        Ok(learned) => out::done(out::say(&learned.sentence())),
        Err(problem) => out::fail(global.json, FAILED, &problem),
    }
}

/// What came of it.
#[derive(Serialize)]
struct Learned {
    lines: u64,
    /// The time of the last line.
    until: String,
    submitters: usize,
    addresses: usize,
    /// Since when there is history.
    since: Option<String>,
    state_dir: PathBuf,
}

impl Learned {
    fn sentence(&self) -> String {
        let since = self.since.as_deref().map_or_else(|| "nowhere".to_owned(), table::local_time);
        let Learned { lines, until, submitters, addresses, state_dir, .. } = self;
        let (until, dir) = (table::local_time(until), state_dir.display());
        format!(
            "learned from {lines} lines, up to {until}: {submitters} submitters and {addresses} addresses, with history since {since}; in {dir}"
        )
    }
}

fn learn(setup: &Setup, files: &[PathBuf], directory: &Path) -> Result<Learned, String> {
    // Before the state is touched, and while they can be read.
    let logs = replay::open(files)?;
    become_owner(directory)?;
    let _claim = Claim::take(directory).map_err(|error| error.to_string())?;
    let now = Timestamp::from(SystemTime::now());
    let (store, loaded) = Store::open(directory, Run::Real, now).map_err(|error| error.to_string())?;
    if let Some(problem) = store.health().problem() {
        return Err(format!("the state in {} cannot be written: {problem}", directory.display()));
    }
    let mut known: Vec<SnapshotRow> = Vec::new();
    let keep = |table, key, value: &[u8]| known.push(SnapshotRow { table, key, value: value.to_vec() });
    loaded.windows.read(keep).map_err(|error| error.to_string())?;
    let seed = crate::daemon::secret(directory);
    let make = |now| {
        let mut engine = Engine::new(EngineConfig { seed, persist: true, enforced: false, ..EngineConfig::from(&setup.config) }, now);
        engine.set_geo(Arc::new(setup.geo.clone()));
        engine.restore_learned(&known);
        engine
    };
    let Some((mut engine, lines)) = replay::learn(setup, logs, &make)? else {
        return Err("no line of these files tells the time: are they mail logs?".to_owned());
    };
    let (status, until) = (engine.status(), engine.now());
    if until > now + FUTURE_SLACK {
        // Who was seen in the future is newer than all that will be seen.
        return Err(format!("these logs go on to {until}, which is yet to come; nothing was learned: leave the file that says so out"));
    }
    let rows = engine.learned_rows();
    if store.save_windows(rows, Vec::new()).is_err() {
        return Err("the state is busy; nothing was saved".to_owned());
    }
    store.flush().map_err(|error| error.to_string())?;
    drop(store);
    Ok(Learned {
        lines,
        until: until.rfc3339(),
        submitters: status.submitters,
        addresses: status.known_addresses,
        since: status.accounts_since,
        state_dir: directory.to_owned(),
    })
}

/// The state is the daemon's user's, who may have put a link to anything there: root must not be the one who writes through it, and
/// what is written must be the daemon's to write again.
fn become_owner(directory: &Path) -> Result<(), String> {
    let Some(found) = fs::metadata(directory).ok().filter(|found| found.uid() != 0 && geteuid().is_root()) else { return Ok(()) };
    setgroups(&[])
        .and_then(|()| setgid(found.gid().into()))
        .and_then(|()| setuid(found.uid().into()))
        .map_err(|error| format!("cannot become uid {}, to whom {} belongs: {error}", found.uid(), directory.display()))
}
