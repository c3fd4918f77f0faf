//! A log file and what it was called before: `mail.log.1`, `mail.log-20261124`, `mail-20261124.log`, `mail.log.0`.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

/// A file that is open and what fstat(2) said of it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub file: File,
    pub id: FileId,
    pub modified_nanos: i64,
    /// The path itself leads to it.
    pub is_current: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// More rotated files than this are not looked at; the oldest are left out.
const SIBLINGS_MAX: usize = 64;

/// The rotated, uncompressed files beside `path` and `path` itself, oldest first. What cannot be opened is left out.
pub(super) fn candidates(path: &Path) -> Vec<Candidate> {
    let mut siblings = rotated(path);
    let skipped = siblings.len().saturating_sub(SIBLINGS_MAX);
    siblings.drain(..skipped);
    let current = open(path).ok().map(|candidate| Candidate { is_current: true, ..candidate });
    siblings.iter().filter_map(|path| open(path).ok()).chain(current).collect()
}

/// Opens a regular file; anything else (a pipe would block) is [`io::ErrorKind::InvalidInput`].
pub(super) fn open(path: &Path) -> io::Result<Candidate> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Candidate { file, id: FileId::of(&metadata), modified_nanos: modified_nanos(&metadata), is_current: false })
}

impl FileId {
    pub fn of(metadata: &fs::Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

pub(super) fn modified_nanos(metadata: &fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// Oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else { return Vec::new() };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(Age, PathBuf)> =
        entries.filter_map(Result::ok).filter_map(|entry| Some((age(name, entry.file_name().to_str()?)?, entry.path()))).collect();
    let numbered = found.iter().filter(|(age, _)| matches!(age, Age::Number(_))).count();
    if numbered == 0 || numbered == found.len() {
        found.sort_by(|(left, _), (right, _)| left.cmp(right));
    } else {
        // Two schemes side by side: only the files themselves can tell.
        found.sort_by_cached_key(|(_, path)| fs::metadata(path).map_or(i64::MIN, |metadata| modified_nanos(&metadata)));
    }
    found.into_iter().map(|(_, path)| path).collect()
}

/// Sorts oldest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// Rotations since, counted the other way round.
    Number(std::cmp::Reverse<u32>),
    Date(String),
}

/// How old the file `name` is, if it is a rotated `base`.
fn age(base: &str, name: &str) -> Option<Age> {
    let with_suffix = || {
        let (stem, extension) = base.rsplit_once('.')?;
        name.strip_prefix(stem)?.strip_suffix(extension)?.strip_suffix('.')
    };
    let mark = name.strip_prefix(base).or_else(with_suffix)?;
    let mark = mark.strip_prefix(['.', '-'])?;
    if mark.is_empty() || !mark.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Ok(number) = mark.parse::<u32>()
        && mark.len() <= 5
    {
        return Some(Age::Number(std::cmp::Reverse(number)));
    }
    let is_date = mark.len() >= 6 && mark.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.' | b'T'));
    is_date.then(|| Age::Date(mark.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rotated_files() {
        let cases = [
            ("mail.log", "mail.log.1", true),
            ("mail.log", "mail.log.0", true),
            ("maillog", "maillog-20261124", true),
            ("maillog", "maillog-20261124-1798000000", true),
            ("mail.log", "mail-20261124.log", true),
            ("mail.log", "mail.1.log", true),
            ("mail.log", "mail.log", false),
            ("mail.log", "mail.log.1.gz", false),
            ("mail.log", "mail.log.bak", false),
            ("mail.log", "mail.log.", false),
            ("mail.log", "mail.log2", false),
            ("mail.log", "mail.err.1", false),
            ("mail.log", "mail.login", false),
        ];
        for (base, name, expected) in cases {
            assert_eq!(age(base, name).is_some(), expected, "{name}");
        }
    }

    #[test]
    fn oldest_first() {
        for names in [["log.10", "log.9", "log.1"], ["log-20251231", "log-20260101", "log-20260101-2"]] {
            let dir = tempfile::tempdir().unwrap();
            for name in names.iter().rev() {
                fs::write(dir.path().join(name), "x").unwrap();
            }
            let found: Vec<String> =
                rotated(&dir.path().join("log")).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
            assert_eq!(found, names);
        }
    }
}
