//! A datagram socket that rsyslog, syslog-ng or the programs themselves write to. One datagram is one line.
//!
//! The kernel says with each datagram who sent it (SO_PASSCRED, unix(7)). A full queue blocks or refuses the *sender*, so
//! this must never be `/dev/log`: the relay in front of it has a queue that discards.

use std::fs;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, cmsg_space, recvmsg, setsockopt, sockopt};
use nix::unistd::{Gid, Group, chown};

use super::intake::Intake;
use super::{Batch, Sender, SourceError, SourceStats};
use crate::limits::LINE_BYTES_MAX;
use crate::time::Timestamp;

#[derive(Debug)]
pub struct SyslogSocket {
    socket: UnixDatagram,
    intake: Intake,
    /// One byte longer than a line may be, so that a cut is noticed whatever ends the line.
    buffer: Box<[u8]>,
    control: [u8; CONTROL_BYTES],
    /// Takes its path away at the end, if that is still ours.
    #[expect(dead_code, reason = "kept for its Drop")]
    own_path: Option<OwnPath>,
}

#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    inode: u64,
}

/// Room for the sender's credentials and nothing else: the kernel closes file descriptors that a sender attaches.
const CONTROL_BYTES: usize = cmsg_space::<UnixCredentials>();

impl SyslogSocket {
    /// Listens on `path`. A socket that nobody listens on any more is replaced; a live one is an error.
    pub fn bind(name: &str, id: u8, path: &Path, mode: u32, group: Option<&str>) -> Result<Self, SourceError> {
        let gid = group.map(gid_of).transpose()?;
        refuse_if_taken(path)?;
        let doing = || format!("listen on {}", path.display());
        // Bound under another name and moved into place, so that nobody ever sees it with other permissions.
        let temporary = temporary_name(path);
        let _ = fs::remove_file(&temporary);
        let socket = UnixDatagram::bind(&temporary).map_err(|error| SourceError::io(doing(), error))?;
        let placed = place(&temporary, path, mode, gid);
        if placed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        let inode = placed.map_err(|error| SourceError::io(doing(), error))?;
        let own_path = Some(OwnPath { path: path.to_owned(), inode });
        Ok(SyslogSocket { own_path, ..SyslogSocket::adopt(name, id, socket)? })
    }

    /// Takes over a socket that systemd holds. Its unit wants `PassCredentials=yes`: what arrives before this call has no
    /// sender otherwise.
    pub fn adopt(name: &str, id: u8, socket: UnixDatagram) -> Result<Self, SourceError> {
        let doing = || format!("set up the syslog socket \"{name}\"");
        socket.set_nonblocking(true).map_err(|error| SourceError::io(doing(), error))?;
        setsockopt(&socket, sockopt::PassCred, &true).map_err(|error| SourceError::io(doing(), error))?;
        let buffer = vec![0; LINE_BYTES_MAX + 1].into_boxed_slice();
        Ok(SyslogSocket { socket, intake: Intake::new(name, id), buffer, control: [0; CONTROL_BYTES], own_path: None })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn read(&mut self, batch: &mut Batch, max_lines: usize, now: Timestamp) -> Result<usize, SourceError> {
        let mut taken = 0;
        while taken < max_lines {
            match self.receive() {
                Ok(datagram) => {
                    let line = self.buffer.get(..datagram.len).unwrap_or_default();
                    self.intake.admit(batch, line, datagram.is_cut, Some(now), datagram.sender);
                    taken += 1;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => {
                    self.intake.stats.errors += 1;
                    return Err(SourceError::io(format!("receive from the syslog socket \"{}\"", self.intake.stats.name), error));
                }
            }
        }
        Ok(taken)
    }

    pub fn stats(&self) -> SourceStats {
        self.intake.stats.clone()
    }

    fn receive(&mut self) -> Result<Datagram, Errno> {
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut self.control), MsgFlags::MSG_DONTWAIT)?;
        let sender = message.cmsgs().ok().and_then(|mut parts| parts.find_map(uid_in)).map_or(Sender::Nobody, Sender::Uid);
        Ok(Datagram { len: message.bytes, is_cut: message.flags.contains(MsgFlags::MSG_TRUNC), sender })
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

struct Datagram {
    len: usize,
    is_cut: bool,
    sender: Sender,
}

fn uid_in(part: ControlMessageOwned) -> Option<u32> {
    match part {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.uid()),
        _ => None,
    }
}

fn refuse_if_taken(path: &Path) -> Result<(), SourceError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(SourceError::NotASocket { path: path.to_owned() });
    }
    let probe = UnixDatagram::unbound().map_err(|error| SourceError::io("make a socket", error))?;
    match probe.connect(path) {
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        // Connected, or of another type, or not for us to ask: somebody is there.
        _ => Err(SourceError::PathTaken { path: path.to_owned() }),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

/// Gives the socket its owner and mode and moves it to `path`. Says its inode.
fn place(temporary: &Path, path: &Path, mode: u32, gid: Option<Gid>) -> io::Result<u64> {
    fs::set_permissions(temporary, fs::Permissions::from_mode(mode))?;
    if gid.is_some() {
        chown(temporary, None, gid)?;
    }
    let inode = fs::symlink_metadata(temporary)?.ino();
    fs::rename(temporary, path)?;
    Ok(inode)
}

fn gid_of(group: &str) -> Result<Gid, SourceError> {
    let found = Group::from_name(group).ok().flatten();
    found.map(|found| found.gid).ok_or_else(|| SourceError::UnknownGroup { group: group.to_owned() })
}
