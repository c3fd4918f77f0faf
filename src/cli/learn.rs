//! `learn`: histories of accounts from old logs, so that day one is not blind.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use super::logs::Setup;
use super::{FAILED, Global, replay};
use crate::control::client::Client;
use crate::engine::snapshot::SnapshotRow;
use crate::engine::{Engine, EngineConfig};
use crate::store::{Claim, Run, Store};
use crate::time::Timestamp;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Old logs, in any order, also packed (.gz, .xz, .zst)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The daemon's state [default: the configuration's, /var/lib/mailwarden]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &Args) -> ExitCode {
    // Two writers of one state would undo each other's work.
    if Client::connect(&global.socket).is_ok() {
        eprintln!(
            "mailwarden: the daemon is running and owns the state: stop it first (systemctl stop mailwardend), learn, start it again"
        );
        return ExitCode::from(FAILED);
    }
    let setup = match Setup::load(global.config.as_deref()) {
        Ok(setup) => setup,
        Err(code) => return code,
    };
    let directory = args.state_dir.clone().unwrap_or_else(|| setup.config.state.dir.clone());
    match learn(&setup, &args.files, &directory) {
        Ok(sentence) => {
            println!("{sentence}");
            ExitCode::SUCCESS
        }
        Err(Failure::Told(code)) => code,
        Err(Failure::Because(problem)) => {
            eprintln!("mailwarden: {problem}");
            ExitCode::from(FAILED)
        }
    }
}

enum Failure {
    Told(ExitCode),
    Because(String),
}

fn learn(setup: &Setup, files: &[PathBuf], directory: &Path) -> Result<String, Failure> {
    let _claim = Claim::take(directory).map_err(|error| Failure::Because(error.to_string()))?;
    let now = Timestamp::from(SystemTime::now());
    let (store, loaded) = Store::open(directory, Run::Real, now).map_err(|error| Failure::Because(error.to_string()))?;
    if let Some(problem) = store.health().problem() {
        return Err(Failure::Because(format!("the state in {} cannot be written: {problem}", directory.display())));
    }
    let mut known: Vec<SnapshotRow> = Vec::new();
    let keep = |table, key, value: &[u8]| known.push(SnapshotRow { table, key, value: value.to_vec() });
    loaded.windows.read(keep).map_err(|error| Failure::Because(error.to_string()))?;
    let seed = crate::daemon::secret(directory);
    let make = |now| {
        let mut engine = Engine::new(EngineConfig { seed, persist: true, enforced: false, ..EngineConfig::from(&setup.config) }, now);
        engine.set_geo(Arc::new(setup.geo.clone()));
        engine.restore_learned(&known);
        engine
    };
    let Some((mut engine, lines)) = replay::learn(setup, files, &make).map_err(Failure::Told)? else {
        return Err(Failure::Because("no line of these files tells the time: are they mail logs?".to_owned()));
    };
    let (status, until) = (engine.status(), engine.now());
    let rows = engine.learned_rows();
    if store.save_windows(rows, Vec::new()).is_err() {
        return Err(Failure::Because("the state is busy; nothing was saved".to_owned()));
    }
    store.flush().map_err(|error| Failure::Because(error.to_string()))?;
    drop(store);
    give_to_owner(directory);
    let since = status.accounts_since.as_deref().map_or_else(|| "nowhere".to_owned(), super::table::local_time);
    Ok(format!(
        "learned from {lines} lines, up to {until}: {} submitters and {} addresses, with history since {since}; in {}",
        status.submitters,
        status.known_addresses,
        directory.display()
    ))
}

/// The daemon runs as its own user, and must be able to write what root has written here.
fn give_to_owner(directory: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(owner) = std::fs::metadata(directory) else { return };
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    for file in files.filter(|file| file.is_file()) {
        if let Err(problem) = std::os::unix::fs::lchown(&file, Some(owner.uid()), Some(owner.gid())) {
            eprintln!("mailwarden: {} cannot be given to the daemon's user: {problem}", file.display());
        }
    }
}
