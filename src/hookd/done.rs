//! Which errands are done: a line each in a file, so that none is run again. One errand runs at a time.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::limits::HELPER_DONE_MAX;

pub(super) struct Done {
    path: PathBuf,
    ids: VecDeque<String>,
    /// Held until the errand is over; another process of ours waits for it.
    _lock: Flock<File>,
}

impl Done {
    /// Waits until no other errand runs.
    pub fn open(directory: &Path) -> io::Result<Done> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join("lock")).map_err(at)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| at(error.into()))?;
        let path = directory.join("done");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
            text => text.unwrap_or_default(),
        };
        // A last line without its end was never finished.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let ids: VecDeque<String> = whole.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if whole.len() + 1 < text.len() {
            write_all(&path, &ids).map_err(at)?;
        }
        Ok(Done { path, ids, _lock: lock })
    }

    pub fn has(&self, id: &str) -> bool {
        self.ids.iter().any(|known| known == id)
    }

    /// On disk when it returns.
    pub fn add(&mut self, id: &str) -> io::Result<()> {
        self.ids.push_back(id.to_owned());
        if self.ids.len() > HELPER_DONE_MAX {
            self.ids.drain(..HELPER_DONE_MAX / 2);
            return write_all(&self.path, &self.ids);
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(format!("{id}\n").as_bytes())?;
        file.sync_data()
    }
}

fn write_all(path: &Path, ids: &VecDeque<String>) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(ids.iter().map(|id| format!("{id}\n")).collect::<String>().as_bytes())?;
    file.sync_data()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_known_again_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut done = Done::open(dir.path()).unwrap();
        done.add("a").unwrap();
        done.add("b").unwrap();
        drop(done);
        let mut file = OpenOptions::new().append(true).open(dir.path().join("done")).unwrap();
        file.write_all(b"c").unwrap();
        let mut done = Done::open(dir.path()).unwrap();
        assert_eq!(["a", "b", "c"].map(|id| done.has(id)), [true, true, false]);
        done.add("d").unwrap();
        drop(done);
        assert!(Done::open(dir.path()).unwrap().has("d"));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let many: VecDeque<String> = (0..HELPER_DONE_MAX).map(|n| format!("id-{n}")).collect();
        write_all(&dir.path().join("done"), &many).unwrap();
        let mut done = Done::open(dir.path()).unwrap();
        done.add("last").unwrap();
        drop(done);
        let done = Done::open(dir.path()).unwrap();
        assert!(done.has("last") && done.has(&format!("id-{}", HELPER_DONE_MAX - 1)) && !done.has("id-0"));
        assert!(done.ids.len() < HELPER_DONE_MAX);
    }
}
