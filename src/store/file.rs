//! One SQLite file: opened, brought to the current format, moved aside when it is damaged.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OpenFlags};

use super::error::{Damage, StoreError, damage};
use crate::time::Timestamp;

/// The formats of a file, one step after the other; `user_version` counts those taken.
pub(super) struct Schema {
    pub steps: &'static [&'static str],
}

impl Schema {
    fn version(&self) -> i64 {
        i64::try_from(self.steps.len()).unwrap_or(i64::MAX)
    }
}

/// How a file came out of [`open`].
pub(super) enum Condition {
    Writable(Connection),
    /// Not now; why.
    Unwritable(String),
}

/// Longest wait for an operator's `sqlite3` that holds a lock.
const BUSY: Duration = Duration::from_secs(2);

pub(super) fn make_directory(directory: &Path, notices: &mut Vec<String>) {
    match DirBuilder::new().recursive(true).mode(0o750).create(directory) {
        Ok(()) => {}
        Err(error) => notices.push(format!("cannot create {}: {error}; nothing is remembered over a restart", directory.display())),
    }
}

/// A file as [`open`] found it.
pub(super) struct Opened<T> {
    pub condition: Condition,
    pub loaded: T,
    /// It was damaged, and is begun anew: what was loaded is what could still be read.
    pub is_anew: bool,
}

/// Opens `path` and reads it with `load`. A damaged file is moved aside and begun anew, with what `salvage` still finds in it.
pub(super) fn open<T: Default>(
    path: &Path,
    schema: &Schema,
    notices: &mut Vec<String>,
    load: impl Fn(&Connection) -> rusqlite::Result<T>,
    salvage: impl Fn(&Connection) -> T,
) -> Result<Opened<T>, StoreError> {
    let opened = connect(path, schema).and_then(|connection| match load(&connection) {
        Ok(loaded) => Ok((connection, loaded)),
        Err(error) => Err(StoreError::sqlite(path, error)),
    });
    let error = match opened {
        Ok((connection, loaded)) => return Ok(Opened { condition: Condition::Writable(connection), loaded, is_anew: false }),
        Err(error @ StoreError::Newer { .. }) => return Err(error),
        Err(error) => error,
    };
    if is_content(&error) {
        return Ok(begin_anew(path, schema, notices, &error.to_string(), salvage));
    }
    let loaded = read_only(path, &load).ok();
    let found = if loaded.is_some() { "what it held was read" } else { "starting without what it held" };
    notices.push(format!("{error}; {found}, and nothing is saved until that ends"));
    Ok(Opened { condition: Condition::Unwritable(error.to_string()), loaded: loaded.unwrap_or_default(), is_anew: false })
}

fn begin_anew<T: Default>(
    path: &Path,
    schema: &Schema,
    notices: &mut Vec<String>,
    why: &str,
    salvage: impl Fn(&Connection) -> T,
) -> Opened<T> {
    let mut loaded = T::default();
    let moved = match move_aside(path) {
        Ok(aside) => {
            loaded = open_itself(&aside, OpenFlags::SQLITE_OPEN_READ_ONLY).map(|connection| salvage(&connection)).unwrap_or_default();
            format!("moved to {}, starting with a new one", aside.display())
        }
        Err(error) => format!("it cannot be moved aside either ({error})"),
    };
    notices.push(format!("{} is damaged ({why}): {moved}", path.display()));
    let condition = match connect(path, schema) {
        Ok(connection) => Condition::Writable(connection),
        Err(error) => Condition::Unwritable(error.to_string()),
    };
    Opened { condition, loaded, is_anew: true }
}

/// What a file is known by while its name may come to stand for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// `None`: there is no such file.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    let found = fs::metadata(path).ok()?;
    Some(Identity { device: found.dev(), inode: found.ino() })
}

/// Opens `path` for writing, in the current format.
pub(super) fn connect(path: &Path, schema: &Schema) -> Result<Connection, StoreError> {
    let failed = |error| StoreError::sqlite(path, error);
    create_private(path).map_err(|error| StoreError::Io { path: path.to_owned(), error })?;
    let mut connection = open_itself(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    // A burst of random inserts wants its pages at hand; the writer gives the memory back when it is idle.
    let settings = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA journal_size_limit=16777216; PRAGMA wal_autocheckpoint=8192; PRAGMA cache_size=-32000; PRAGMA temp_store=MEMORY;";
    connection.execute_batch(settings).map_err(failed)?;
    migrate(&mut connection, path, schema)?;
    Ok(connection)
}

/// Root may be the one who opens a file in the daemon's directory: never what a link there points to.
const ITSELF: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);

pub(super) fn open_itself(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(in_real_directory(path), flags | ITSELF)
}

/// SQLite then takes no link in the path of the directory either, where one does no harm.
fn in_real_directory(path: &Path) -> PathBuf {
    let directory = path.parent().and_then(|directory| fs::canonicalize(directory).ok());
    directory.zip(path.file_name()).map_or_else(|| path.to_owned(), |(directory, name)| directory.join(name))
}

/// It names accounts: for the daemon's user alone. SQLite gives its other files the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            give_to_owner(&file, path);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_symlink() => Err(Error::other(IS_LINK)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) const IS_LINK: &str = "it is a symbolic link, which is not followed here: remove it";

/// What root makes in the daemon's directory belongs to the daemon's user, who must be able to write it. `file` was just made at
/// `path`. SQLite does the same with its own files.
pub fn give_to_owner(file: &fs::File, path: &Path) {
    let Some(Ok(directory)) = path.parent().map(fs::metadata) else { return };
    if nix::unistd::geteuid().is_root() && directory.uid() != 0 {
        // Where that is not possible it will be told when the file cannot be written.
        let _ = std::os::unix::fs::fchown(file, Some(directory.uid()), Some(directory.gid()));
    }
}

fn migrate(connection: &mut Connection, path: &Path, schema: &Schema) -> Result<(), StoreError> {
    let failed = |error| StoreError::sqlite(path, error);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let known = schema.version();
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    if found == known {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(failed)?;
    for step in schema.steps.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Reads a file that may not be writable: first as any other, then without the shared-memory file that WAL wants to create, then
/// without the WAL.
pub(super) fn read_only<T>(path: &Path, mut load: impl FnMut(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let plain = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let first = open_itself(path, plain).and_then(|connection| load(&connection));
    let Err(error) = first else { return first };
    if damage(&error) == Damage::Content {
        return Err(error);
    }
    let alone = open_itself(path, plain).and_then(|connection| {
        connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE;")?;
        load(&connection)
    });
    let mut immutable = || {
        let uri = format!("file:{}?immutable=1", escape_uri(&in_real_directory(path)));
        Connection::open_with_flags(uri, plain | ITSELF | OpenFlags::SQLITE_OPEN_URI).and_then(|connection| load(&connection))
    };
    alone.or_else(|_| immutable()).map_err(|_| error)
}

fn escape_uri(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

/// What the name of a damaged file goes on with, before the time.
const ASIDE: &str = ".corrupt-";
const ASIDE_TIME: &str = "%Y%m%dT%H%M%SZ";

/// A damaged file that was moved aside and still lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    pub path: PathBuf,
    /// When that was; `None`: its name does not tell.
    pub time: Option<Timestamp>,
}

/// The damaged files of that name that nobody has taken away yet, the oldest first.
pub(super) fn asides(path: &Path) -> Vec<Aside> {
    let Some((directory, name)) = path.parent().zip(path.file_name()) else { return Vec::new() };
    let prefix = format!("{}{ASIDE}", name.to_string_lossy());
    let names = fs::read_dir(directory).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_aside = |name: &String| name.starts_with(&prefix) && !COMPANIONS.iter().any(|suffix| name.ends_with(suffix));
    let mut names: Vec<String> = names.filter(is_aside).collect();
    names.sort();
    let time = |name: &str| {
        let stamp = name.get(prefix.len()..)?.get(..16)?;
        let time = jiff::civil::DateTime::strptime(ASIDE_TIME, stamp).ok()?;
        Some(Timestamp::from_seconds(jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?.as_second()))
    };
    names.iter().map(|name| Aside { path: directory.join(name), time: time(name) }).collect()
}

/// What SQLite puts beside a file.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// Renames a file and its companions to `NAME.corrupt-TIME`. Says the new name.
pub(super) fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let stamp = jiff::Timestamp::try_from(SystemTime::now()).map_or_else(|_| "0".to_owned(), |now| now.strftime(ASIDE_TIME).to_string());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let candidates = (0..100).map(|number| if number == 0 { stamp.clone() } else { format!("{stamp}-{number}") });
    let free = candidates.map(|stamp| path.with_file_name(format!("{name}{ASIDE}{stamp}"))).find(|aside| !aside.exists());
    let aside = free.ok_or(ErrorKind::AlreadyExists)?;
    fs::rename(path, &aside)?;
    for suffix in COMPANIONS {
        // Often there is none.
        let _ = fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix));
    }
    Ok(aside)
}

/// Removes a file and its companions.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    for suffix in COMPANIONS {
        // Often there is none.
        let _ = fs::remove_file(with_suffix(path, suffix));
    }
    fs::remove_file(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn is_content(error: &StoreError) -> bool {
    matches!(error, StoreError::Sqlite { error, .. } if damage(error) == Damage::Content)
}

impl Condition {
    pub fn error(&self) -> Option<String> {
        match self {
            Condition::Writable(_) => None,
            Condition::Unwritable(why) => Some(why.clone()),
        }
    }
}
