//! What the store can fail at.

use std::fmt;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

#[derive(Debug)]
pub enum StoreError {
    /// A later version of mailwarden wrote it. It is left alone.
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    Sqlite {
        path: PathBuf,
        error: rusqlite::Error,
    },
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
    /// Another process uses the state.
    InUse {
        directory: PathBuf,
        holder: Option<u32>,
    },
    /// The thread that writes it is gone.
    Stopped,
}

impl StoreError {
    pub(super) fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        StoreError::Sqlite { path: path.to_owned(), error }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Newer { path, found, known } => write!(
                f,
                "{} was written by a newer mailwarden (format {found}, this one knows up to {known}): install that version again, or move the file away to start without its bans",
                path.display()
            ),
            StoreError::Sqlite { path, error } => write!(f, "cannot write {}: {}", path.display(), words(error)),
            StoreError::Io { path, error } => write!(f, "cannot write {}: {error}", path.display()),
            StoreError::InUse { directory, holder } => {
                let holder = holder.map_or_else(|| "another process".to_owned(), describe);
                write!(
                    f,
                    "the state in {} is in use by {holder}: stop that first (systemctl stop mailwardend), or use another --state-dir",
                    directory.display()
                )
            }
            StoreError::Stopped => f.write_str("the store has stopped"),
        }
    }
}

impl std::error::Error for StoreError {}

fn describe(process: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{process}/comm")) {
        Ok(name) => format!("{} (pid {process})", name.trim_end().escape_default()),
        Err(_) => format!("the process with pid {process}"),
    }
}

/// SQLite's own words for the common cases are for programmers.
pub(super) fn words(error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::ReadOnly) => "the file or its directory is read-only",
        Some(ErrorCode::CannotOpen) => "it cannot be opened or created (disk full, read-only, or not owned by the daemon's user?)",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another program has locked it",
        _ => return error.to_string(),
    };
    advice.to_owned()
}

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// The content is broken: begin anew.
    Content,
    /// The world around it is: try again later.
    World,
}

pub(super) fn damage(error: &rusqlite::Error) -> Damage {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Damage::Content,
        // "no such table", "no such column": it is a database, but not ours.
        Some(ErrorCode::Unknown) => Damage::Content,
        _ => Damage::World,
    }
}
