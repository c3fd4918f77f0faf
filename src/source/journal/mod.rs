//! systemd's journal, by way of a `journalctl -f -o export` child: what it says about the sender (`_UID`) cannot be forged,
//! nothing is lost while the daemon is away, and no sender ever waits for us.

mod export;
mod render;

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use self::export::{ExportParser, Field};
use self::render::Renderer;
use super::intake::Intake;
use super::spec::JOURNAL_MATCHES;
use super::{Batch, SourceError, SourceStats, Start};
use crate::time::Timestamp;

#[derive(Debug)]
pub struct JournalSource {
    intake: Intake,
    command: PathBuf,
    matches: Vec<String>,
    child: Option<Running>,
    from: From,
    parser: ExportParser,
    renderer: Renderer,
    /// What was read and not yet parsed is `buffer[pos..filled]`.
    buffer: Box<[u8]>,
    pos: usize,
    filled: usize,
    retry: Retry,
}

#[derive(Debug)]
struct Running {
    child: Child,
    output: ChildStdout,
    errors: ChildStderr,
    /// The last thing it complained about.
    complaint: String,
    has_delivered: bool,
}

/// Where the next child starts.
#[derive(Clone, Debug)]
enum From {
    Beginning,
    End,
    Cursor(String),
    Time(Timestamp),
}

/// When to start the next child.
#[derive(Debug)]
struct Retry {
    timer: TimerFd,
    pause: Duration,
    at: Timestamp,
}

const BUFFER_BYTES: usize = 64 * 1024;
const PIPE_BYTES: i32 = 1 << 20;
/// Reads in one call, so that one endless entry does not keep the caller.
const READS_MAX: usize = 64;
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const COMPLAINT_BYTES_MAX: usize = 300;
/// What is asked for; without it each entry comes with all its fields, ten times as much.
const OUTPUT_FIELDS: &str = "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_UID,_COMM,_HOSTNAME";

impl JournalSource {
    pub fn open(
        name: &str,
        id: u8,
        command: &Path,
        matches: &[String],
        start: Start,
        cursor: Option<&str>,
        now: Timestamp,
    ) -> Result<Self, SourceError> {
        let from = match (cursor, start) {
            (Some(cursor), _) => From::Cursor(cursor.to_owned()),
            (None, Start::End) => From::End,
            (None, Start::Beginning) => From::Beginning,
        };
        let matches = if matches.is_empty() { JOURNAL_MATCHES.iter().map(|word| (*word).to_owned()).collect() } else { matches.to_vec() };
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
            .map_err(|error| SourceError::io("make a timer", error))?;
        let mut source = JournalSource {
            intake: Intake::new(name, id),
            command: command.to_owned(),
            matches,
            child: None,
            from,
            parser: ExportParser::default(),
            renderer: Renderer::default(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            pos: 0,
            filled: 0,
            retry: Retry { timer, pause: PAUSE_MIN, at: now },
        };
        source.spawn(now)?;
        Ok(source)
    }

    /// The child's output; while there is none, a timer.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.child.as_ref().map_or_else(|| self.retry.timer.as_fd(), |child| child.output.as_fd())
    }

    pub fn read(&mut self, batch: &mut Batch, max_lines: usize, now: Timestamp) -> Result<usize, SourceError> {
        if self.child.is_none() {
            if now < self.retry.at {
                return Ok(0);
            }
            self.spawn(now).inspect_err(|error| self.intake.stats.problem = Some(error.to_string()))?;
        }
        let mut taken = 0;
        for _ in 0..READS_MAX {
            taken += self.parse(batch, max_lines - taken);
            if taken == max_lines {
                return Ok(taken);
            }
            match self.refill() {
                Refill::Some => {}
                Refill::NothingYet => return Ok(taken),
                Refill::Ended(what) if taken == 0 => return Err(self.ended(&what, now)),
                // The lines first; the next call finds the end again.
                Refill::Ended(_) => return Ok(taken),
            }
        }
        Ok(max_lines)
    }

    pub fn cursor(&self) -> Option<String> {
        match &self.from {
            From::Cursor(cursor) => Some(cursor.clone()),
            From::Beginning | From::End | From::Time(_) => None,
        }
    }

    pub fn stats(&self) -> SourceStats {
        self.intake.stats.clone()
    }

    fn parse(&mut self, batch: &mut Batch, max_lines: usize) -> usize {
        let mut taken = 0;
        while taken < max_lines {
            let input = self.buffer.get(self.pos..self.filled).unwrap_or_default();
            if input.is_empty() {
                break;
            }
            self.pos += self.parser.take(input);
            let Some(entry) = self.parser.entry() else { continue };
            taken += 1;
            match self.renderer.render(entry) {
                Some(line) => self.intake.admit(batch, line, entry.is_message_cut, None, render::sender(entry)),
                None => self.intake.stats.errors += 1,
            }
            if let Some(cursor) = entry.get(Field::Cursor).and_then(|text| std::str::from_utf8(text).ok()) {
                set_cursor(&mut self.from, cursor);
            }
        }
        taken
    }

    fn refill(&mut self) -> Refill {
        let Some(running) = &mut self.child else { return Refill::NothingYet };
        running.listen();
        loop {
            return match running.output.read(&mut self.buffer) {
                Ok(0) => Refill::Ended("it ended".to_owned()),
                Ok(count) => {
                    (self.pos, self.filled) = (0, count);
                    if !std::mem::replace(&mut running.has_delivered, true) {
                        self.retry.pause = PAUSE_MIN;
                        self.intake.stats.problem = None;
                    }
                    Refill::Some
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !running.complaint.is_empty() {
                        self.intake.stats.problem = Some(running.complaint.clone());
                    }
                    Refill::NothingYet
                }
                Err(error) => Refill::Ended(error.to_string()),
            };
        }
    }

    fn spawn(&mut self, now: Timestamp) -> Result<(), SourceError> {
        let spawned = Running::start(&self.command, &self.from, &self.matches);
        match spawned {
            Ok(running) => {
                self.parser.reset();
                (self.pos, self.filled) = (0, 0);
                self.child = Some(running);
                // What comes while a first child fails is not to be missed by the second.
                if matches!(self.from, From::End) {
                    self.from = From::Time(now);
                }
                Ok(())
            }
            Err(error) => {
                self.pause(now);
                self.intake.stats.errors += 1;
                Err(SourceError::CannotRun { command: self.command.clone(), error })
            }
        }
    }

    /// Takes leave of a child that ended, and says why.
    fn ended(&mut self, what: &str, now: Timestamp) -> SourceError {
        self.intake.stats.errors += 1;
        let mut reason = what.to_owned();
        if let Some(mut running) = self.child.take() {
            running.listen();
            if !running.has_delivered && running.complaint.contains("cursor") {
                self.forget_cursor();
            }
            if !running.complaint.is_empty() {
                reason = running.complaint.clone();
            } else if let Some(status) = running.reap() {
                reason = status;
            }
        }
        self.pause(now);
        let doing = format!("go on reading the journal (next try in {} s)", self.retry.pause.as_secs());
        let error = SourceError::io(doing, std::io::Error::other(reason));
        self.intake.stats.problem = Some(error.to_string());
        self.retry.pause = (self.retry.pause * 2).min(PAUSE_MAX);
        error
    }

    /// journalctl refuses the cursor: go on from its time instead.
    fn forget_cursor(&mut self) {
        if let From::Cursor(cursor) = &self.from {
            self.from = time_in(cursor).map_or(From::End, From::Time);
            self.intake.stats.gaps += 1;
        }
    }

    fn pause(&mut self, now: Timestamp) {
        self.retry.at = now + self.retry.pause;
        let expiration = Expiration::OneShot(TimeSpec::from_duration(self.retry.pause));
        // Without the timer the caller's poll once a second does it.
        let _ = self.retry.timer.set(expiration, TimerSetTimeFlags::empty());
    }
}

enum Refill {
    Some,
    NothingYet,
    Ended(String),
}

impl Running {
    fn start(command: &Path, from: &From, matches: &[String]) -> std::io::Result<Running> {
        let mut child = Command::new(command)
            .args(["--follow", "--output=export", "--all", "--no-pager", OUTPUT_FIELDS])
            .args(from.arguments())
            .args(matches.iter().filter(|word| !word.starts_with('-')))
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(std::io::Error::other("no pipes"));
        };
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(&errors, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Fewer wake-ups; refused beyond fs.pipe-user-pages-soft, which costs nothing but them.
        let _ = fcntl(&output, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok(Running { child, output, errors, complaint: String::new(), has_delivered: false })
    }

    /// Reads what it wrote to standard error, so that it never waits there.
    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.errors.read(&mut buffer) {
            let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
            if let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) {
                self.complaint = line.trim().chars().filter(|letter| !letter.is_control()).take(COMPLAINT_BYTES_MAX).collect();
            }
        }
    }

    /// Ends it. Says how it ended, if it had by itself and badly.
    fn reap(&mut self) -> Option<String> {
        // One that closed its output is about to exit; the signal makes sure that the wait is short.
        let _ = self.child.kill();
        let status = self.child.wait().ok()?;
        (!status.success() && status.signal().is_none()).then(|| format!("it ended with {status}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.reap();
    }
}

impl From {
    /// `--follow` alone would show the last ten entries first.
    fn arguments(&self) -> Vec<String> {
        match self {
            From::Beginning => vec!["--no-tail".to_owned()],
            From::End => vec!["--lines=0".to_owned()],
            From::Cursor(cursor) => vec![format!("--after-cursor={cursor}"), "--no-tail".to_owned()],
            From::Time(time) => {
                let micros = time.micros().rem_euclid(1_000_000);
                vec![format!("--since=@{}.{micros:06}", time.seconds()), "--no-tail".to_owned()]
            }
        }
    }
}

fn set_cursor(from: &mut From, cursor: &str) {
    match from {
        From::Cursor(text) => {
            text.clear();
            text.push_str(cursor);
        }
        From::Beginning | From::End | From::Time(_) => *from = From::Cursor(cursor.to_owned()),
    }
}

/// A cursor names its entry's time: `s=…;i=…;b=…;m=…;t=5f6d8c0a1b2c3;x=…`, microseconds, hexadecimal.
fn time_in(cursor: &str) -> Option<Timestamp> {
    let time = cursor.split(';').find_map(|part| part.strip_prefix("t="))?;
    Some(Timestamp::from_micros(i64::from_str_radix(time, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_tells_its_time() {
        assert_eq!(time_in("s=ab;i=1;b=c;m=2;t=5f5e100;x=9"), Some(Timestamp::from_seconds(100)));
        for junk in ["", "t=", "s=1;t=xyz", "t=ffffffffffffffff"] {
            assert_eq!(time_in(junk), None);
        }
    }
}
