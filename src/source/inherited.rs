//! Sockets that systemd opened and handed over (sd_listen_fds(3)): they outlive a restart, so no line is lost while the
//! daemon is away.

use std::io;
use std::os::unix::net::UnixDatagram;

use listenfd::ListenFd;

use super::SourceError;

/// What was handed over and not yet taken. Make it once, at the very start: it clears the environment variables so that
/// no child takes the sockets for its own.
pub struct Inherited {
    sockets: ListenFd,
    names: Vec<String>,
}

impl Inherited {
    pub fn from_environment() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(str::to_owned).collect();
        Inherited { sockets: ListenFd::from_env(), names }
    }

    /// Nothing was handed over.
    pub fn none() -> Self {
        Inherited { sockets: ListenFd::empty(), names: Vec::new() }
    }

    /// Whether a socket of this name was handed over.
    pub fn has(&self, name: &str) -> bool {
        self.index(name).is_some()
    }

    /// `ListenDatagram=`
    pub fn take_datagram(&mut self, name: &str) -> Result<UnixDatagram, SourceError> {
        self.take(name, |sockets, index| sockets.take_unix_datagram(index))
    }

    fn take<T>(&mut self, name: &str, taker: impl FnOnce(&mut ListenFd, usize) -> io::Result<Option<T>>) -> Result<T, SourceError> {
        let missing = |error| SourceError::NotInherited { name: name.to_owned(), error };
        let index = self.index(name).ok_or_else(|| missing(None))?;
        match taker(&mut self.sockets, index) {
            Ok(Some(socket)) => Ok(socket),
            Ok(None) => Err(missing(None)),
            Err(error) => Err(missing(Some(error))),
        }
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().take(self.sockets.len()).position(|known| known == name)
    }
}
