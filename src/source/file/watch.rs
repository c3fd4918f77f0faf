//! Something to poll: readable when the file or its directory changed. The caller looks with every tick besides, so a watch that
//! cannot be had is no error.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::tail::Tail;
use crate::source::SourceError;

#[derive(Debug)]
pub(super) struct Watch {
    kind: Kind,
    directory: PathBuf,
    is_directory_watched: bool,
    files: Vec<WatchDescriptor>,
}

#[derive(Debug)]
enum Kind {
    Inotify(Inotify),
    /// Out of inotify instances (`fs.inotify.max_user_instances`): an fd that is never readable.
    Blind(EventFd),
}

impl Watch {
    pub fn new(path: &Path) -> Result<Watch, SourceError> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let kind = match Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) {
            Ok(inotify) => Kind::Inotify(inotify),
            Err(_) => Kind::Blind(
                EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
                    .map_err(|error| SourceError::io(format!("watch {}", path.display()), error))?,
            ),
        };
        Ok(Watch { kind, directory, is_directory_watched: false, files: Vec::new() })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Inotify(inotify) => inotify.as_fd(),
            Kind::Blind(event) => event.as_fd(),
        }
    }

    /// Forgets what was told so far; everything is looked at anyway.
    pub fn clear(&self) {
        let mut buffer = [0; 4096];
        while nix::unistd::read(self.fd(), &mut buffer).is_ok_and(|count| count > 0) {}
    }

    /// Watches the directory, once it is there, and exactly these files.
    pub fn set(&mut self, tails: &[Tail]) {
        self.set_directory();
        let Kind::Inotify(inotify) = &self.kind else { return };
        for watch in self.files.drain(..) {
            let _ = inotify.rm_watch(watch);
        }
        for tail in tails {
            // By descriptor, because the name may lead to another file by now.
            let path = format!("/proc/self/fd/{}", tail.file.as_raw_fd());
            self.files.extend(inotify.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY));
        }
    }

    /// Tries for the directory alone, if it is not watched yet.
    pub fn set_directory(&mut self) {
        if let Kind::Inotify(inotify) = &self.kind
            && !self.is_directory_watched
        {
            self.is_directory_watched = inotify.add_watch(&self.directory, directory_events()).is_ok();
        }
    }
}

fn directory_events() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_ONLYDIR
}
