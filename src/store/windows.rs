//! `windows.db`: the engine's counts as it encodes them, and how far each source had been read when they stood so.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::error::StoreError;
use super::file::{self, Condition, Schema};
use crate::engine::snapshot::SnapshotRow;

pub(super) const SCHEMA: Schema = Schema {
    steps: &["CREATE TABLE windows (tab INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (tab, key)) WITHOUT ROWID;
              CREATE TABLE cursors (source TEXT NOT NULL PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;"],
};

#[derive(Debug)]
pub(super) enum Snapshot {
    Save { rows: Vec<SnapshotRow>, cursors: Vec<(String, String)> },
    KeepTables(Vec<u64>),
}

pub(super) fn apply(connection: &Connection, jobs: &[Snapshot]) -> rusqlite::Result<()> {
    jobs.iter().try_for_each(|job| apply_one(connection, job))
}

fn apply_one(connection: &Connection, job: &Snapshot) -> rusqlite::Result<()> {
    match job {
        Snapshot::Save { rows, cursors } => {
            save_rows(connection, rows)?;
            let mut save = connection.prepare_cached("INSERT OR REPLACE INTO cursors (source, position) VALUES (?1, ?2)")?;
            cursors.iter().try_for_each(|(source, position)| save.execute(params![source, position]).map(drop))
        }
        Snapshot::KeepTables(tables) => keep_tables(connection, tables),
    }
}

fn save_rows(connection: &Connection, rows: &[SnapshotRow]) -> rusqlite::Result<()> {
    let mut save = connection.prepare_cached("INSERT OR REPLACE INTO windows (tab, key, value) VALUES (?1, ?2, ?3)")?;
    let mut delete = connection.prepare_cached("DELETE FROM windows WHERE tab = ?1 AND key = ?2")?;
    // In the order of the tree that they go into: several times as fast as at random. Stable, so the later row of a key wins.
    let mut ordered: Vec<&SnapshotRow> = rows.iter().collect();
    ordered.sort_by_key(|row| (row.table.cast_signed(), row.key));
    for row in ordered {
        let (table, key) = (row.table.cast_signed(), row.key.to_be_bytes());
        if row.value.is_empty() {
            delete.execute(params![table, key])?;
        } else {
            save.execute(params![table, key, row.value])?;
        }
    }
    Ok(())
}

fn keep_tables(connection: &Connection, tables: &[u64]) -> rusqlite::Result<()> {
    let found: Vec<i64> =
        connection.prepare("SELECT DISTINCT tab FROM windows")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut delete = connection.prepare("DELETE FROM windows WHERE tab = ?1")?;
    for table in found.into_iter().filter(|table| !tables.contains(&table.cast_unsigned())) {
        delete.execute([table])?;
    }
    Ok(())
}

pub(super) fn load_cursors(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    connection.prepare("SELECT source, position FROM cursors")?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// The rows saved before the restart, to be read once before new ones are saved.
pub struct SavedWindows {
    path: PathBuf,
    /// Whether there is anything to read.
    is_readable: bool,
}

impl SavedWindows {
    pub(super) fn new(path: &Path, condition: &Condition) -> Self {
        SavedWindows { path: path.to_owned(), is_readable: condition.error().is_none() || path.exists() }
    }

    /// Gives `sink` every row, one at a time. Says how many. What was given before an error is good.
    pub fn read(self, mut sink: impl FnMut(u64, u128, &[u8])) -> Result<usize, StoreError> {
        if !self.is_readable {
            return Ok(0);
        }
        let mut given = 0;
        let outcome = file::read_only(&self.path, |connection| {
            // A second attempt is for a file that could not be opened, not for one that broke off.
            if given > 0 { Ok(()) } else { read_rows(connection, &mut given, &mut sink) }
        });
        outcome.map(|()| given).map_err(|error| StoreError::sqlite(&self.path, error))
    }
}

fn read_rows(connection: &Connection, given: &mut usize, sink: &mut dyn FnMut(u64, u128, &[u8])) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT tab, key, value FROM windows")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (Ok(key), Ok(value)) = (row.get_ref(1)?.as_blob(), row.get_ref(2)?.as_blob()) else { continue };
        let Ok(key) = <[u8; 16]>::try_from(key) else { continue };
        *given += 1;
        sink(row.get::<_, i64>(0)?.cast_unsigned(), u128::from_be_bytes(key), value);
    }
    Ok(())
}
