//! The daemon's own log: one line a decision, to the journal (stderr) or to syslog.
//!
//! Writing never holds up the core: lines go through a bounded channel to a thread of their own; what does not fit is
//! dropped and counted.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Lines that wait to be written.
const LINES_MAX: usize = 1_024;

static SENDER: OnceLock<SyncSender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Message {
    Line(Level, String),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// With the journal's level marks where the journal reads it.
    Stderr,
    Syslog,
}

/// Writes what is still waiting when it is dropped.
pub struct Writer(Option<JoinHandle<()>>);

/// Starts the log thread; later calls change nothing.
pub fn start(target: Target, level: LevelFilter) -> Writer {
    let (sender, receiver) = sync_channel(LINES_MAX);
    if SENDER.set(sender).is_err() || log::set_logger(&Forward).is_err() {
        return Writer(None);
    }
    log::set_max_level(level);
    Writer(std::thread::Builder::new().name("log".into()).spawn(move || write_all(&receiver, target)).ok())
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(thread) = self.0.take() else { return };
        if SENDER.get().is_some_and(|sender| sender.send(Message::End).is_ok()) {
            let _ = thread.join();
        }
    }
}

struct Forward;

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("mailwarden")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(sender) = SENDER.get() else { return };
        if sender.try_send(Message::Line(record.level(), printable(&record.args().to_string()))).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn write_all(receiver: &Receiver<Message>, target: Target) {
    let mut sink = Sink::open(target);
    while let Ok(Message::Line(level, text)) = receiver.recv() {
        sink.write(level, &text);
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            sink.write(Level::Warn, &format!("{dropped} lines of this log were dropped: it is written too slowly"));
        }
    }
}

enum Sink {
    /// Under the journal a line starts with its level in angle brackets (sd-daemon(3)).
    Journal,
    Terminal,
    Syslog(Box<syslog::Logger<syslog::LoggerBackend, syslog::Formatter3164>>),
}

impl Sink {
    fn open(target: Target) -> Sink {
        let formatter = syslog::Formatter3164 {
            facility: syslog::Facility::LOG_DAEMON,
            hostname: None,
            process: "mailwardend".into(),
            pid: std::process::id(),
        };
        match target {
            Target::Syslog => match syslog::unix(formatter) {
                Ok(logger) => Sink::Syslog(Box::new(logger)),
                Err(error) => {
                    eprintln!("mailwardend: cannot reach syslog ({error}); writing to standard error instead");
                    Sink::Terminal
                }
            },
            Target::Stderr if std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal() => Sink::Journal,
            Target::Stderr => Sink::Terminal,
        }
    }

    fn write(&mut self, level: Level, text: &str) {
        // There is nobody to tell that the log cannot be written.
        let _ = match self {
            Sink::Journal => writeln!(std::io::stderr(), "<{}>{text}", severity(level)),
            Sink::Terminal => writeln!(
                std::io::stderr(),
                "{} {:5} {text}",
                crate::time::Timestamp::from(std::time::SystemTime::now()),
                level.as_str().to_lowercase()
            ),
            Sink::Syslog(logger) => {
                let _ = match level {
                    Level::Error => logger.err(text),
                    Level::Warn => logger.warning(text),
                    Level::Info => logger.info(text),
                    Level::Debug | Level::Trace => logger.debug(text),
                };
                Ok(())
            }
        };
    }
}

const fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Log text is written by attackers: no control character leaves here, a newline least of all.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
