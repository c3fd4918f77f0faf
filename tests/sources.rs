//! The sources against real sockets, files and a child that plays journalctl. The file source's long property is in
//! `tests/sources/rotation.rs`.

#[path = "sources/files.rs"]
mod files;
#[path = "sources/journal.rs"]
mod journal;
#[path = "sources/rotation.rs"]
mod rotation;
#[path = "sources/sockets.rs"]
mod sockets;

use std::time::Duration;

use mailwarden::source::spec::Facilities;
use mailwarden::source::{Batch, Inherited, Input, Source, SourceSpec};
use mailwarden::time::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn open(input: Input, cursor: Option<&str>, now: Timestamp) -> Result<Source, String> {
    let spec = SourceSpec { name: "test".to_owned(), input, annotate: false, carries: Facilities::MAIL, force: false };
    Source::open(&spec, 5, cursor, &mut Inherited::none(), now).map_err(|error| error.to_string())
}

/// Everything that is there to read, as text.
fn drain(source: &mut Source, max_lines: usize, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut batch = Batch::new();
        let taken = source.read(&mut batch, max_lines, now).unwrap();
        lines.extend(texts(&batch));
        if taken < max_lines {
            return lines;
        }
    }
}

fn texts(batch: &Batch) -> Vec<String> {
    batch.iter().map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect()
}

/// Whether the source's fd turns readable in time.
fn wakes(source: &Source, within: Duration) -> bool {
    let mut fds = [PollFd::new(source.fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(within).unwrap()).unwrap() > 0
}

const SOON: Duration = Duration::from_secs(5);
