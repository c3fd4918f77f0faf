//! The host's secret, under which names are hashed: kept, so that counts saved before a restart are found after it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use log::{error, warn};

use crate::engine::Seed;

const BYTES: usize = 16;

/// Reads the secret of `state_dir`, or makes one. Without a place to keep it, it lasts until the daemon ends.
pub(super) fn load_or_make(state_dir: &Path) -> Seed {
    let path = state_dir.join("secret");
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(problem) => {
            if problem.kind() != io::ErrorKind::NotFound {
                warn!("{} cannot be used ({problem}); a new secret is made, and counts of accounts begin anew", path.display());
            }
            make(&path)
        }
    };
    let [low, high] = [0, 8].map(|at| bytes[at..at + 8].try_into().map(u64::from_le_bytes).expect("sixteen bytes are two times eight"));
    Seed([low, high])
}

fn read(path: &Path) -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    File::open(path)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn make(path: &Path) -> [u8; BYTES] {
    let bytes = read(Path::new("/dev/urandom")).unwrap_or_else(|problem| {
        error!("/dev/urandom cannot be read ({problem}): names are hashed under a secret that can be guessed");
        [0x5a; BYTES]
    });
    // Written beside and renamed: a crash leaves no half secret.
    let beside = path.with_extension("new");
    // What an earlier crash has left; or a link, which the daemon's user may have laid for root to write through.
    let _ = fs::remove_file(&beside);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
        crate::store::give_to_owner(&file, &beside);
        file.write_all(&bytes)?;
        file.sync_all()
    });
    if let Err(problem) = written.and_then(|()| fs::rename(&beside, path)) {
        error!("{} cannot be written ({problem}): counts of accounts begin anew after a restart", path.display());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path());
        assert_eq!(load_or_make(dir.path()), first);
        fs::write(dir.path().join("secret"), b"short").unwrap();
        let second = load_or_make(dir.path());
        assert_ne!(second, first);
        assert_eq!(load_or_make(dir.path()), second);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, b"precious").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join("secret.new")).unwrap();
        let first = load_or_make(dir.path());
        assert_eq!(load_or_make(dir.path()), first);
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }
}
