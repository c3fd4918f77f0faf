//! A log file, followed by name through rotation, truncation and restarts: no line twice, none lost.
//!
//! A writer goes on writing to a rotated file until it is told to reopen, so several files may be open at once: the one that
//! `path` leads to, and before it those that it superseded, kept until they are quiet. Each is known by inode and by its
//! first bytes; a cursor names them all.

mod position;
mod siblings;
mod tail;
mod watch;

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::unistd::{Gid, Group, User};

use self::position::Position;
use self::siblings::{Candidate, FileId, candidates};
use self::tail::{Fill, Tail};
use self::watch::Watch;
use super::intake::Intake;
use super::{Batch, Sender, SourceError, SourceStats, Start};
use crate::time::Timestamp;

#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    /// The operator's word, over owner and mode.
    trusted: Option<bool>,
    intake: Intake,
    /// Oldest first; the last is, or was, what `path` leads to.
    tails: Vec<Tail>,
    watch: Watch,
    opened: Timestamp,
}

/// A superseded file is let go when it gave nothing for this long and its successor was written to.
const QUIET: Duration = Duration::from_secs(60);
/// Chunks read in one call, so that a file without newlines does not keep the caller.
const FILLS_MAX: usize = 64;
/// Superseded files kept open at once.
const TAILS_MAX: usize = 64;

impl FileSource {
    pub fn open(
        name: &str,
        id: u8,
        path: &Path,
        start: Start,
        trusted: Option<bool>,
        cursor: Option<&str>,
        now: Timestamp,
    ) -> Result<Self, SourceError> {
        let mut source = FileSource {
            path: path.to_owned(),
            trusted,
            intake: Intake::new(name, id),
            tails: Vec::new(),
            watch: Watch::new(path)?,
            opened: now,
        };
        source.check_readable()?;
        match cursor.and_then(position::parse) {
            Some(positions) if !positions.is_empty() => source.resume(&positions, now)?,
            _ => source.start(start, now)?,
        }
        source.watch.set(&source.tails);
        Ok(source)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }

    pub fn read(&mut self, batch: &mut Batch, max_lines: usize, now: Timestamp) -> Result<usize, SourceError> {
        self.watch.clear();
        let mut quota = Quota { lines: max_lines, fills: FILLS_MAX };
        loop {
            let is_done = self.read_tails(batch, &mut quota, now).map_err(|error| self.failed(&error))?;
            if !is_done {
                // Cut short: whatever the cause, there may be more.
                return Ok(max_lines);
            }
            if !self.follow(now)? {
                break;
            }
        }
        self.retire(batch, now);
        Ok(max_lines - quota.lines)
    }

    pub fn cursor(&self) -> Option<String> {
        (!self.tails.is_empty()).then(|| position::format(self.tails.iter().map(Tail::position)))
    }

    pub fn stats(&self) -> SourceStats {
        let mut stats = self.intake.stats.clone();
        // Asked only where it matters: files that are trusted are the rule.
        if stats.problem.is_none() && self.tails.last().is_some_and(|tail| !tail.trusted) {
            stats.problem = Doubt::of(&self.path, self.trusted).map(|doubt| doubt.to_string());
        }
        stats
    }

    /// Reads every file to its end, oldest first. False when the quota was used up.
    fn read_tails(&mut self, batch: &mut Batch, quota: &mut Quota, now: Timestamp) -> io::Result<bool> {
        let mut index = 0;
        while let Some(tail) = self.tails.get_mut(index) {
            let sender = Sender::File { trusted: self.trusted.unwrap_or(tail.trusted) };
            quota.lines -= tail.drain(quota.lines, &mut |line, is_cut| self.intake.admit(batch, line, is_cut, None, sender));
            if quota.lines == 0 || quota.fills == 0 {
                return Ok(false);
            }
            let (was_empty, seen) = (tail.was_empty(), tail.modified_nanos());
            match tail.fill(now)? {
                Fill::More if was_empty => self.insert_missed(index, seen, now)?,
                Fill::End if was_empty && tail.modified_nanos() != seen => self.insert_missed(index, seen, now)?,
                Fill::End => index += 1,
                Fill::More => quota.fills -= 1,
                Fill::Replaced => {
                    quota.fills -= 1;
                    self.relocate(index, now)?;
                }
            }
        }
        Ok(true)
    }

    /// Opens what `path` leads to now, and what was rotated since. True when there is something new.
    fn follow(&mut self, now: Timestamp) -> Result<bool, SourceError> {
        let current = fs::metadata(&self.path).ok().map(|metadata| FileId::of(&metadata));
        let newest = self.tails.last().map(|tail| tail.id);
        if current.is_none() {
            self.watch.set_directory();
        }
        if current == newest {
            return Ok(false);
        }
        let known = self.intake.stats.problem.clone();
        if let Err(error) = self.check_readable() {
            // Told once; `stats` goes on saying it.
            return if known == self.intake.stats.problem { Ok(false) } else { Err(error) };
        }
        let is_new = self.discover(now).map_err(|error| self.failed(&error))?;
        // Only then: changing the watches makes the descriptor readable.
        if is_new {
            self.watch.set(&self.tails);
        }
        Ok(is_new)
    }

    /// The newest file that we have is no longer the newest: adds those that came after it.
    fn discover(&mut self, now: Timestamp) -> io::Result<bool> {
        let mut found = candidates(&self.path);
        let Some(newest) = self.tails.last() else {
            let opened = self.opened;
            return self.add_newer(found, opened.micros().saturating_mul(1_000), now);
        };
        let is_newest = |candidate: &Candidate| candidate.id == newest.id;
        if !newest.is_unlinked && !found.iter().any(is_newest) {
            // Renamed between the listing and the opening, perhaps.
            found = candidates(&self.path);
        }
        if let Some(place) = found.iter().position(is_newest) {
            return self.add(found.into_iter().skip(place + 1), now);
        }
        let position = newest.position();
        // Its content was moved to another file (a log kept in memory, an editor): go on there.
        if newest.is_unlinked
            && let Some(place) = found.iter().rposition(|candidate| position.fits(&candidate.file))
            && let Some(tail) = self.tails.last_mut()
        {
            tail.move_to(found.remove(place));
            self.add(found.into_iter().skip(place), now)?;
            return Ok(true);
        }
        self.add_newer(found, position.modified_nanos, now)
    }

    /// The file at `index` was truncated and written anew. What we did not read of it may stand in a copy.
    fn relocate(&mut self, index: usize, now: Timestamp) -> io::Result<()> {
        let lost = self.tails.remove(index);
        let was_newest = index == self.tails.len();
        let position = lost.position();
        let mut found = candidates(&self.path);
        if let Some(place) = found.iter().rposition(|candidate| position.fits(&candidate.file)) {
            let later = found.split_off(place + 1);
            if let Some(copy) = found.pop().filter(|copy| !self.has(copy.id)) {
                self.tails.insert(index, Tail::new(copy, position.offset, now)?);
            }
            if was_newest {
                self.add(later.into_iter(), now)?;
            }
        } else if was_newest {
            self.add_newer(found, position.modified_nanos, now)?;
        }
        self.watch.set(&self.tails);
        Ok(())
    }

    /// The file at `index` was empty and was touched since: it may have been filled, copied and truncated meanwhile. Puts such
    /// copies before it.
    fn insert_missed(&mut self, index: usize, seen_empty: i64, now: Timestamp) -> io::Result<()> {
        let Some(id) = self.tails.get(index).map(|tail| tail.id) else { return Ok(()) };
        let earlier = candidates(&self.path).into_iter().take_while(|candidate| candidate.id != id);
        let missed: Vec<Candidate> = earlier.filter(|one| one.modified_nanos > seen_empty && !self.has(one.id)).collect();
        if missed.is_empty() {
            return Ok(());
        }
        for (place, candidate) in missed.into_iter().enumerate() {
            self.tails.insert(index + place, Tail::new(candidate, 0, now)?);
        }
        self.mark_superseded(now);
        self.watch.set(&self.tails);
        Ok(())
    }

    /// Every file that is not known yet and was written to after `modified_nanos`; the one at `path` anyway.
    fn add_newer(&mut self, found: Vec<Candidate>, modified_nanos: i64, now: Timestamp) -> io::Result<bool> {
        self.add(found.into_iter().filter(|one| one.is_current || one.modified_nanos > modified_nanos), now)
    }

    fn add(&mut self, found: impl Iterator<Item = Candidate>, now: Timestamp) -> io::Result<bool> {
        let before = self.tails.len();
        for candidate in found {
            if !self.has(candidate.id) {
                self.tails.push(Tail::new(candidate, 0, now)?);
            }
        }
        self.mark_superseded(now);
        Ok(self.tails.len() > before)
    }

    fn has(&self, id: FileId) -> bool {
        self.tails.iter().any(|tail| tail.id == id)
    }

    fn mark_superseded(&mut self, now: Timestamp) {
        let newest = self.tails.len().saturating_sub(1);
        for tail in self.tails.iter_mut().take(newest).filter(|tail| !tail.is_superseded) {
            tail.is_superseded = true;
            tail.active = now;
        }
    }

    /// Lets go of superseded files that are quiet, once the writer is known to have moved on.
    fn retire(&mut self, batch: &mut Batch, now: Timestamp) {
        if self.tails.last().is_none_or(Tail::is_untouched) && self.tails.len() <= TAILS_MAX {
            return;
        }
        let before = self.tails.len();
        let surplus = before.saturating_sub(TAILS_MAX);
        let mut index = 0;
        self.tails.retain_mut(|tail| {
            index += 1;
            let is_quiet = tail.is_superseded && !tail.has_unread() && (now.since(tail.active) >= QUIET || index <= surplus);
            if is_quiet {
                let sender = Sender::File { trusted: self.trusted.unwrap_or(tail.trusted) };
                tail.flush(&mut |line, is_cut| self.intake.admit(batch, line, is_cut, None, sender));
            }
            !is_quiet
        });
        if self.tails.len() != before {
            self.watch.set(&self.tails);
        }
    }
}

/// How a source finds its place when it is opened.
impl FileSource {
    fn start(&mut self, start: Start, now: Timestamp) -> Result<(), SourceError> {
        match siblings::open(&self.path) {
            Ok(candidate) => {
                let tail = match start {
                    Start::Beginning => Tail::new(candidate, 0, now),
                    Start::End => Tail::at_end(candidate, now),
                };
                let tail = tail.map_err(|error| self.failed(&error))?;
                self.tails.push(tail);
                Ok(())
            }
            // It may come later.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn resume(&mut self, positions: &[Position], now: Timestamp) -> Result<(), SourceError> {
        let found = candidates(&self.path);
        self.resume_in(found, positions, now).map_err(|error| self.failed(&error))
    }

    fn resume_in(&mut self, found: Vec<Candidate>, positions: &[Position], now: Timestamp) -> io::Result<()> {
        let mut found: Vec<Option<Candidate>> = found.into_iter().map(Some).collect();
        let mut newest = None;
        for position in positions {
            newest = find(&found, position);
            match newest.and_then(|place| found.get_mut(place)?.take()) {
                Some(candidate) => self.tails.push(Tail::new(candidate, position.offset, now)?),
                None if position.fingerprint_len > 0 => self.intake.stats.gaps += 1,
                None => {}
            }
        }
        let last_modified = positions.last().map_or(i64::MAX, |last| last.modified_nanos);
        let is_wanted = |place: usize, one: &Candidate| match newest {
            Some(newest) => place > newest,
            // A file that was empty is known by its inode alone.
            None => one.is_current || one.modified_nanos > last_modified || positions.iter().any(|position| position.is_empty_of(one.id)),
        };
        let wanted = found.into_iter().enumerate().filter_map(|(place, one)| one.filter(|one| is_wanted(place, one)));
        self.add(wanted, now)?;
        Ok(())
    }

    /// Says early, and in words, that the file is not ours to read.
    fn check_readable(&mut self) -> Result<(), SourceError> {
        match siblings::open(&self.path) {
            Ok(_) => self.intake.stats.problem = None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.failed(&error)),
        }
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) -> SourceError {
        let error = match error.kind() {
            io::ErrorKind::InvalidInput => SourceError::NotAFile { path: self.path.clone() },
            kind => {
                let error = error.raw_os_error().map_or_else(|| io::Error::from(kind), io::Error::from_raw_os_error);
                SourceError::CannotRead { path: self.path.clone(), advice: self.advice(&error), error }
            }
        };
        self.intake.stats.errors += 1;
        self.intake.stats.problem = Some(error.to_string());
        error
    }

    fn advice(&self, error: &io::Error) -> String {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return String::new();
        }
        let readers = fs::metadata(&self.path).ok().filter(|metadata| metadata.mode() & 0o040 != 0);
        let group = readers.and_then(|metadata| Group::from_gid(Gid::from_raw(metadata.gid())).ok().flatten());
        match group {
            Some(group) => format!("add the daemon's user to group {} or use the journal source", group.name),
            None => "use the journal source, or let a group read the file and add the daemon's user to it".to_owned(),
        }
    }
}

/// Where the file of `position` is: by inode and start, else by its start alone (a copy).
fn find(found: &[Option<Candidate>], position: &Position) -> Option<usize> {
    let fits = |one: &Option<Candidate>| one.as_ref().is_some_and(|candidate| position.fits(&candidate.file));
    let same = |one: &Option<Candidate>| one.as_ref().is_some_and(|candidate| candidate.id.inode == position.id.inode);
    found.iter().position(|one| same(one) && fits(one)).or_else(|| found.iter().rposition(fits))
}

struct Quota {
    lines: usize,
    fills: usize,
}

/// Why the lines of a file are not believed, although nobody said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    pub reason: String,
    pub remedy: String,
}

impl Doubt {
    /// `None`: they are believed; or the operator has decided, or there is no file.
    pub fn of(path: &Path, trusted: Option<bool>) -> Option<Doubt> {
        let metadata = fs::metadata(path).ok().filter(|_| trusted.is_none())?;
        let (mode, shown) = (metadata.mode() & 0o7777, path.display());
        let (what, command) = if mode & OTHERS_WRITE != 0 {
            (format!("has mode {mode:04o}, so others than its owner can write into it"), format!("chmod go-w {shown}"))
        } else if !is_log_owner(metadata.uid()) {
            let owner = User::from_uid(metadata.uid().into()).ok().flatten().map_or_else(|| metadata.uid().to_string(), |user| user.name);
            (format!("belongs to {owner}, who is no logger"), format!("chown root {shown}"))
        } else {
            return None;
        };
        let reason = format!("its lines ban and lock nobody: {shown} {what}");
        Some(Doubt { reason, remedy: format!("{command}, or say trusted = true in its [[source]]") })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.remedy)
    }
}

/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// Whether only a logger can have made a file of this owner.
fn is_log_owner(uid: u32) -> bool {
    static OWNERS: OnceLock<Vec<u32>> = OnceLock::new();
    const NAMES: &[&str] = &["syslog", "postfix", "_postfix", "dovecot"];
    let owners = || NAMES.iter().filter_map(|name| User::from_name(name).ok().flatten()).map(|user| user.uid.as_raw()).collect();
    uid == 0 || OWNERS.get_or_init(owners).contains(&uid)
}
