//! The netlink socket. The only file of the crate with `unsafe`: each block says what it relies on.
#![expect(unsafe_code, reason = "socket options and descriptors that mnl and nix do not wrap")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{NetlinkAddr, recvfrom};

/// A dump's reply is at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A bound netlink socket that no child process inherits: the owner of an nf_tables table is a *socket*, so an inherited copy
/// would keep the table owned after the daemon's death.
pub struct Socket {
    inner: mnl::Socket,
    buffer: Box<[u8]>,
    seq: u32,
}

// SAFETY: `mnl_socket` (libmnl's src/socket.c) is a heap object of a descriptor and an address, without thread-local state or
// references to other objects, and `mnl::Socket` owns it alone; it may move to another thread. It is not made `Sync`.
unsafe impl Send for Socket {}

impl Socket {
    /// Opens and binds a socket of that netlink family, CLOEXEC, with extended ACKs.
    pub fn open(bus: mnl::Bus) -> io::Result<Socket> {
        let inner = mnl::Socket::open(bus)?;
        let socket = Socket { inner, buffer: vec![0; RECEIVE_BYTES].into_boxed_slice(), seq: 1 };
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Both only add detail to errors; kernels before 4.12 lack the first, and errors are then searched for by halving.
        let _ = socket.option(libc::NETLINK_EXT_ACK);
        let _ = socket.option(libc::NETLINK_CAP_ACK);
        socket.inner.bind(0, mnl::mnl_sys::MNL_SOCKET_AUTOPID)?;
        Ok(socket)
    }

    /// The address of this socket inside netlink, by which the kernel names a table's owner.
    pub fn port(&self) -> u32 {
        self.inner.portid()
    }

    /// The first of `count` sequence numbers that no earlier message of this socket had.
    pub fn sequence(&mut self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX / 2);
        if self.seq > u32::MAX - count {
            self.seq = 1;
        }
        let first = self.seq;
        self.seq += count;
        first
    }

    /// Sends the bytes as one datagram: for nf_tables the whole batch, which is worked off before this returns.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.inner.send(bytes) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What the kernel has to say, without waiting: `None` when it has said everything.
    pub fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            let fd = self.inner.as_raw_fd();
            match recvfrom::<NetlinkAddr>(fd, &mut self.buffer) {
                // Not from the kernel: only root could send it, and nothing good can be in it.
                Ok((_, Some(sender))) if sender.pid() != 0 => {}
                Ok((length, _)) => return Ok(Some(self.buffer.get(..length).unwrap_or_default())),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn option(&self, name: libc::c_int) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open for as long as `self`, and the kernel reads `size_of::<c_int>()` bytes at `on`, which
        // lives until after the call.
        let result = unsafe {
            libc::setsockopt(
                self.inner.as_raw_fd(),
                libc::SOL_NETLINK,
                name,
                std::ptr::from_ref(&on).cast(),
                std::mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `inner` keeps the descriptor open until it is dropped, which the borrow of `self` prevents.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}
