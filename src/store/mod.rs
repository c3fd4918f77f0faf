//! What outlives the daemon: bans, stopped accounts, errands of the helper and every decision in `state.db` (of a dry run: in
//! `dry-run.db`), counts and source positions in `windows.db`.
//!
//! **Invariant:** nobody waits for the disk. Each file has a thread of its own that commits what has gathered in one
//! transaction; a disk that is full or broken is reported ([`Store::health`]) and tried again, and enforcement goes on. A row that
//! was committed survives SIGKILL (SQLite, WAL, `synchronous=NORMAL`); a power cut may lose the last commits.
//!
//! A cursor and the counts that include its lines are saved in one transaction, so no line is counted twice or skipped.
//! Times on disk are wall clock. An operator can read both files with `sqlite3`.

mod claim;
mod error;
mod file;
mod state;
mod windows;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use claim::Claim;
pub use error::StoreError;
pub use file::{Aside, give_to_owner};
pub use state::Reader;
pub use windows::SavedWindows;

use crate::enforce::errand::{Errand, Outcome, QueuedMail};
use crate::engine::account::{Freed, Stopped};
use crate::engine::decision::{Ban, Decision, Lifted};
use crate::engine::snapshot::SnapshotRow;
use crate::notify::{self, Outbox, Telling};
use crate::time::Timestamp;
use state::StateJob;
use windows::Snapshot;
use writer::Writer;

/// The handle; dropping it commits what waits and ends the threads.
pub struct Store {
    state_path: PathBuf,
    state: Writer<StateJob>,
    windows: Writer<Snapshot>,
}

/// Whose decisions are kept: those of a dry run stand in a file of their own, so that none of them ever comes into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    Real,
    Dry,
}

impl Run {
    const fn state_file(self) -> &'static str {
        match self {
            Run::Real => "state.db",
            Run::Dry => "dry-run.db",
        }
    }
}

/// What was found at the start.
pub struct Loaded {
    /// In force at `now`, one for each network and scope.
    pub bans: Vec<Ban>,
    /// Accounts held or locked; also those whose time ran out meanwhile, which nobody has been told yet.
    pub stopped: Vec<Stopped>,
    /// What the helper has not done yet, in order.
    pub errands: Vec<Errand>,
    /// Messages that it was told to put on hold and not to release, with their accounts.
    pub parked: Vec<(String, QueuedMail)>,
    /// What people are still to be told, and what they were.
    pub outbox: Outbox,
    /// Tables of the firewall that bans of the last real runs were written to. None: whatever the firewall holds, the state
    /// knows nothing of it.
    pub tables: Vec<String>,
    /// What was ended before its time within a day: lines from before that may come again.
    pub lifted: Vec<Lifted>,
    pub freed: Vec<Freed>,
    /// Source name and position.
    pub cursors: Vec<(String, String)>,
    pub windows: SavedWindows,
    /// What the operator must be told.
    pub notices: Vec<String>,
    /// What became of a dry run's decisions.
    pub dropped: Option<String>,
}

/// How one of the files does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileHealth {
    /// Why the latest commit failed; it is tried again every second.
    pub error: Option<String>,
    /// Rows that wait to be committed.
    pub pending: usize,
    pub committed: u64,
    /// Rows given up because too many waited.
    pub lost: u64,
    /// Times that the file turned out damaged and was begun anew.
    pub rebuilt: u64,
    /// When it was noticed that somebody had removed the file, the last time.
    pub gone: Option<Timestamp>,
    /// Damaged files that were moved aside, until somebody takes them away.
    pub asides: Vec<Aside>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub state: FileHealth,
    pub windows: FileHealth,
}

impl Health {
    /// Why nothing is saved; `None`: all is.
    pub fn problem(&self) -> Option<&str> {
        self.state.error.as_deref().or(self.windows.error.as_deref())
    }

    /// What was lost, for as long as nobody has seen to it.
    pub fn loss(&self) -> Option<String> {
        if let Some(time) = self.state.gone.max(self.windows.gone) {
            return Some(format!(
                "somebody removed files of the state while the daemon ran (noticed at {time}): bans, holds and locks were written anew, \
                 but histories, counts and earlier decisions are lost on disk; a restart of the daemon ends this message"
            ));
        }
        let (what, aside) = if let Some(aside) = self.state.asides.first() {
            ("bans, holds and locks may have been lost", aside)
        } else {
            ("counts and histories were lost", self.windows.asides.first()?)
        };
        let time = aside.time.map_or_else(String::new, |time| format!(" at {time}"));
        Some(format!(
            "{what}: a file was damaged and begun anew{time}; the damaged file is {}: when you have looked at it, remove it, and this message ends",
            aside.path.display()
        ))
    }

    /// Bans may be missing on disk: hand the ledger to [`Store::replace_bans`] whenever this number has grown.
    pub fn bans_missing(&self) -> u64 {
        self.state.lost + self.state.rebuilt
    }
}

fn tables_of_real_runs(directory: &Path) -> Vec<String> {
    file::read_only(&directory.join(Run::Real.state_file()), state::tables).unwrap_or_default()
}

/// What a dry run decided is over with it. Says what that was.
fn drop_dry_run(directory: &Path, now: Timestamp) -> Option<String> {
    let path = directory.join(Run::Dry.state_file());
    if !path.exists() {
        return None;
    }
    let found = file::read_only(&path, |connection| state::load(connection, now)).unwrap_or_default();
    let (bans, stops) = (found.bans.len(), found.stopped.len());
    match file::remove(&path) {
        Ok(()) => Some(format!("what a dry run decided does not come into force: {bans} bans and {stops} holds and locks are dropped")),
        Err(error) => Some(format!("{} cannot be removed: {error}; what is in it does not come into force", path.display())),
    }
}

impl Store {
    /// Opens or creates both files in `directory`. A damaged file is moved aside and begun anew, one that cannot be written is read
    /// as far as possible; both are told in [`Loaded::notices`]. The one error is a file of a newer version.
    pub fn open(directory: &Path, run: Run, now: Timestamp) -> Result<(Store, Loaded), StoreError> {
        let mut notices = Vec::new();
        file::make_directory(directory, &mut notices);
        let state_path = directory.join(run.state_file());
        let dropped = if run == Run::Real { drop_dry_run(directory, now) } else { None };
        let windows_path = directory.join("windows.db");
        let load = |connection: &_| state::load(connection, now);
        let state = file::open(&state_path, &state::SCHEMA, &mut notices, load, |connection| state::salvage(connection, now))?;
        let remembered = state.loaded;
        if state.is_anew
            && let Some(notice) = notices.last_mut()
        {
            let (bans, stops) = (remembered.bans.len(), remembered.stopped.len());
            notice.push_str(&format!("; {bans} bans and {stops} holds and locks could still be read from it"));
        } else if remembered.left_out > 0 {
            notices.push(format!("{}: {} rows make no sense and are left out", state_path.display(), remembered.left_out));
        }
        let windows = file::open(&windows_path, &windows::SCHEMA, &mut notices, windows::load_cursors, |_| Vec::new())?;
        let saved = SavedWindows::new(&windows_path, &windows.condition);
        let store = Store {
            state: Writer::start("store-state", state_path.clone(), &state::SCHEMA, state.condition, state::apply),
            windows: Writer::start("store-windows", windows_path, &windows::SCHEMA, windows.condition, windows::apply),
            state_path,
        };
        if state.is_anew {
            store.state.send(StateJob::Begin(Box::new(remembered.clone()), now), remembered.rows().max(1));
        }
        let state::Remembered { bans, stopped, errands, parked, outbox, tables, lifted, freed, left_out: _ } = remembered;
        let tables = if run == Run::Dry { tables_of_real_runs(directory) } else { tables };
        let cursors = windows.loaded;
        let loaded = Loaded { bans, stopped, errands, parked, outbox, tables, lifted, freed, cursors, windows: saved, notices, dropped };
        Ok((store, loaded))
    }

    /// Keeps which tables of the firewall bans of this state were written to.
    pub fn note_tables(&self, tables: Vec<String>) {
        self.state.send(StateJob::Tables(tables), 1);
    }

    /// Keeps decisions, and the bans that they put in force or lift (unless they were only observed); in the same transaction what the
    /// helper is to do about them and what people are to be told. False when too many wait and these were given up; see
    /// [`Health::bans_missing`].
    pub fn record_all(&self, decisions: Vec<Decision>, errands: Vec<Errand>, tellings: Vec<Telling>) -> bool {
        let rows = decisions.len() + errands.len() + tellings.len();
        rows == 0 || self.state.send(StateJob::Decisions(decisions, errands, tellings), rows)
    }

    /// As [`Store::record_all`], where nobody is to be told anything.
    pub fn record_with(&self, decisions: Vec<Decision>, errands: Vec<Errand>) -> bool {
        self.record_all(decisions, errands, Vec::new())
    }

    /// These messages to people are over: sent, or given up.
    pub fn tellings_over(&self, ids: Vec<String>, outcome: notify::Outcome, now: Timestamp) {
        let rows = ids.len().max(1);
        self.state.send(StateJob::TellingsOver(ids, outcome, now), rows);
    }

    /// A message that was to be parked is in the queue no more.
    pub fn left_queue(&self, account: String, queue_id: String) {
        self.state.send(StateJob::Left(account, queue_id), 1);
    }

    pub fn errand_done(&self, id: String, outcome: Outcome) {
        self.state.send(StateJob::ErrandDone(id, outcome), 1);
    }

    /// Makes the stopped accounts on disk these and no others.
    pub fn replace_stopped(&self, stopped: Vec<Stopped>) -> bool {
        let rows = stopped.len().max(1);
        self.state.send(StateJob::ReplaceStops(stopped), rows)
    }

    /// Makes the bans on disk these and no others.
    pub fn replace_bans(&self, bans: Vec<Ban>, now: Timestamp) -> bool {
        let rows = bans.len().max(1);
        self.state.send(StateJob::ReplaceBans { bans, now }, rows)
    }

    /// Forgets a little of the bans that ended, and the decisions that were made, longer than `memory` ago: at most ten thousand of
    /// each; and what else is over and too old. Call it every minute.
    pub fn prune(&self, now: Timestamp, memory: Duration) {
        self.state.send(StateJob::Prune { before: now - memory, now }, 1);
    }

    /// Saves the rows that changed, and where the sources stand, in one transaction. Hands them back while the snapshot before
    /// is not on disk yet ([`Store::can_save_windows`] tells beforehand).
    pub fn save_windows(&self, rows: Vec<SnapshotRow>, cursors: Vec<(String, String)>) -> Result<(), Vec<SnapshotRow>> {
        if !self.can_save_windows() {
            return Err(rows);
        }
        let count = rows.len() + cursors.len();
        if count > 0 {
            self.windows.send(Snapshot::Save { rows, cursors }, count);
        }
        Ok(())
    }

    pub fn can_save_windows(&self) -> bool {
        self.windows.pending() == 0
    }

    /// Forgets the rows of all other tables: those of jails that are gone. Passes over all rows, on the store's thread.
    pub fn keep_tables(&self, tables: Vec<u64>) {
        self.windows.send(Snapshot::KeepTables(tables), 1);
    }

    /// Waits until everything that was handed over is on disk, or says why it is not.
    pub fn flush(&self) -> Result<(), StoreError> {
        let (state, windows) = (self.state.flush(), self.windows.flush());
        state.and(windows)
    }

    /// Calls `done`, on another thread, when the decisions handed over so far are on disk or could not be written.
    pub fn after_decisions(&self, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.state.after(Box::new(done));
    }

    pub fn health(&self) -> Health {
        Health { state: self.state.health(), windows: self.windows.health() }
    }

    /// A view of the decisions of its own, for another thread than the core's.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.state_path)
    }
}
