//! One command, run to its end or to its time limit.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::hooks::check_owner;
use crate::limits::HOOK_OUTPUT_BYTES_MAX;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a command is looked after.
const LOOK: Duration = Duration::from_millis(5);
/// A command that has ended may have left somebody behind who holds its output open.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// What a command came to.
#[derive(Debug)]
pub(super) struct Ran {
    pub is_good: bool,
    /// The end of what it printed; if that is not good, with the reason.
    pub output: String,
}

/// Runs `command` with exactly these variables, and `input` on its standard input. Whoever it started and left in its process group
/// ends with it.
pub(super) fn run(command: &[OsString], variables: &[(&str, String)], input: &[u8], timeout: Duration) -> Ran {
    run_keeping(HOOK_OUTPUT_BYTES_MAX, command, variables, input, timeout)
}

/// The same, with so many bytes of what it printed.
pub(super) fn run_keeping(bytes: usize, command: &[OsString], variables: &[(&str, String)], input: &[u8], timeout: Duration) -> Ran {
    match try_run(bytes, command, variables, input, timeout) {
        Ok(ran) => ran,
        Err(error) => {
            let program = command.first().map_or(Path::new(""), Path::new);
            Ran { is_good: false, output: format!("cannot run {}: {error}", program.display()) }
        }
    }
}

fn try_run(bytes: usize, command: &[OsString], variables: &[(&str, String)], input: &[u8], timeout: Duration) -> io::Result<Ran> {
    let Some((program, arguments)) = command.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
    // Again: it may have changed since the file of hooks was read.
    check_owner(Path::new(program)).map_err(io::Error::other)?;
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LANG", "C").envs(variables.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It holds the writing ends of the pipe.
    drop(command);
    feed(&mut child, input);
    let output = read_tail(reader, bytes);
    let status = wait(&mut child, timeout)?;
    if status.is_none() {
        kill_group(&child);
        child.wait()?;
    }
    let text = match output.recv_timeout(LEFT_BEHIND) {
        Ok(text) => text,
        Err(RecvTimeoutError::Timeout) => {
            kill_group(&child);
            output.recv_timeout(LEFT_BEHIND).unwrap_or_default()
        }
        Err(RecvTimeoutError::Disconnected) => Vec::new(),
    };
    Ok(judge(status, &text, timeout, Path::new(program)))
}

fn judge(status: Option<ExitStatus>, output: &[u8], timeout: Duration, program: &Path) -> Ran {
    let text = String::from_utf8_lossy(output).trim_end().to_owned();
    let why = match status {
        Some(status) if status.success() => return Ran { is_good: true, output: text },
        Some(status) => status.to_string(),
        None => format!("killed after {} s", timeout.as_secs_f32()),
    };
    Ran { is_good: false, output: format!("{}: {why}\n{text}", program.display()).trim_end().to_owned() }
}

/// A command that does not read its input does not hold us up.
fn feed(child: &mut Child, input: &[u8]) {
    let Some(mut stdin) = child.stdin.take() else { return };
    let input = input.to_vec();
    let _ = std::thread::Builder::new().spawn(move || drop(stdin.write_all(&input)));
}

/// Reads to the end, and keeps the last bytes.
fn read_tail(mut reader: PipeReader, bytes: usize) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    let _ = std::thread::Builder::new().spawn(move || {
        let mut tail = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            tail.extend_from_slice(piece.get(..count).unwrap_or_default());
            // Not at each piece: moving the rest up costs as much as reading it.
            if tail.len() > 2 * bytes {
                tail.drain(..tail.len() - bytes);
            }
        }
        let surplus = tail.len().saturating_sub(bytes);
        tail.drain(..surplus);
        let _ = sender.send(tail);
    });
    receiver
}

/// `None`: its time is over.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

fn kill_group(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // Nobody left: fine.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &[u8], timeout: Duration) -> Option<Ran> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let command = ["/bin/sh", "-c", script].map(OsString::from);
        Some(run(&command, &[("MAILWARDEN_ACCOUNT", "anna@example.org".into())], input, timeout))
    }

    #[test]
    fn a_command_gets_its_variables_and_its_input_and_no_more() {
        let Some(ran) = sh("env | sort; cat", b"{}", Duration::from_secs(5)) else { return };
        let kept: Vec<&str> =
            ran.output.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL=") && !line.starts_with("_=")).collect();
        assert_eq!(kept, ["LANG=C", "MAILWARDEN_ACCOUNT=anna@example.org", &format!("PATH={PATH}"), "{}"]);
    }

    #[test]
    fn a_command_that_takes_too_long_ends_with_its_children() {
        let marker = format!("86{}", std::process::id());
        let started = Instant::now();
        let Some(ran) = sh(&format!("sleep {marker} & sleep {marker}"), b"", Duration::from_millis(200)) else { return };
        assert!(!ran.is_good && ran.output.contains("killed after 0.2 s"), "{ran:?}");
        assert!(started.elapsed() < Duration::from_secs(3));
        let left = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        assert!(
            !left.into_iter().any(|line| line.starts_with(b"sleep\0") && line.windows(marker.len()).any(|part| part == marker.as_bytes()))
        );
    }

    #[test]
    fn what_a_command_leaves_behind_does_not_hold_us_up() {
        let started = Instant::now();
        let Some(ran) = sh("sleep 60 & echo done", b"", Duration::from_secs(5)) else { return };
        assert_eq!((ran.is_good, ran.output.as_str()), (true, "done"));
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn of_a_long_output_the_end_is_kept() {
        let Some(ran) = sh("yes x | head -100000; echo end; exit 3", b"", Duration::from_secs(5)) else { return };
        assert!(!ran.is_good && ran.output.len() <= HOOK_OUTPUT_BYTES_MAX + 100 && ran.output.ends_with("end"), "{}", ran.output.len());
    }
}
