//! One state, one writer: a file in the directory is locked for as long as somebody uses it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::error::StoreError;
use super::file;

const NAME: &str = "lock";

/// The right to write a state; given back when it is dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub struct Claim {
    /// `None`: nothing can be kept there anyhow, which [`super::Store::open`] tells.
    _file: Option<File>,
}

impl Claim {
    /// Fails when another process has the state.
    pub fn take(directory: &Path) -> Result<Claim, StoreError> {
        file::make_directory(directory, &mut Vec::new());
        let path = directory.join(NAME);
        let mut file = match open(&path) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
                return Err(StoreError::Io { path, error: Error::other(file::IS_LINK) });
            }
            Err(_) => return Ok(Claim { _file: None }),
        };
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            let mut holder = String::new();
            // Who it is, is told where it can be read.
            let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut holder);
            return Err(StoreError::InUse { directory: directory.to_owned(), holder: holder.trim().parse().ok() });
        }
        // For the message of the next one. A full disk does not make the lock worse.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Claim { _file: Some(file) })
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o644).custom_flags(OFlag::O_NOFOLLOW.bits());
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            file::give_to_owner(&file, path);
            Ok(file)
        }
        Err(_) => options.open(path),
    }
}
