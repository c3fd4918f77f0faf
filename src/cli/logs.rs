//! What the verbs that read logs share: the configuration they need, and opening the files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::out::complain;
use crate::config::{self, Config, Paths};
use crate::correlate::Correlator;
use crate::engine::{Engine, EngineConfig};
use crate::geo;
use crate::parse::{FilterSet, Outcome, Parser, ParserOptions};
use crate::pipeline;
use crate::source::{SourceError, archive};
use crate::time::Timestamp;

/// A file may have been written to a little after its last line.
const MODIFIED_SLACK: Duration = Duration::from_secs(60);
/// Where the first stamp of a log is looked for.
const HEAD_BYTES: u64 = 256 * 1024;

/// The configuration, as far as reading logs needs it.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) filters: Arc<FilterSet>,
    pub(super) geo: geo::Shared,
}

impl Setup {
    /// Loads the configuration; or says what is wrong with it.
    pub(super) fn load(dir: Option<&Path>) -> Result<Setup, String> {
        match config::load(&Paths::choose(dir)) {
            Ok(config) => {
                let (atlas, problems) = geo::Atlas::open(&config.geo, None);
                problems.iter().for_each(|problem| complain!("mailwarden: {problem}"));
                Ok(Setup { filters: Arc::clone(&config.filters.set), geo: geo::Shared::new(atlas), config })
            }
            Err(report) => Err(format!("the configuration has mistakes\n{report}")),
        }
    }

    pub(super) fn correlator(&self) -> Correlator {
        let trusted = EngineConfig::from(&self.config).allow.mynetworks;
        Correlator::new(self.config.accounts.clone(), trusted)
    }

    pub(super) fn engine(&self, now: Timestamp) -> Engine {
        let mut config = EngineConfig { enforced: false, ..EngineConfig::from(&self.config) };
        // The log itself is the history that there is.
        config.risk.learning = Duration::ZERO;
        let mut engine = Engine::new(config, now);
        engine.set_geo(Arc::new(self.geo.clone()));
        engine
    }
}

/// One log, open.
pub(super) struct Log {
    pub(super) path: PathBuf,
    pub(super) reader: Box<dyn Read + Send>,
    /// Lines come as they are written: a pipe or a terminal.
    pub(super) prompt: bool,
    /// Bytes on disk, 0 when that is unknown.
    pub(super) size: u64,
    /// The latest time that its stamps can mean.
    newest: Timestamp,
}

impl Log {
    pub(super) fn open(path: &Path) -> Result<Log, String> {
        Log::try_open(path).map_err(|error| error.to_string())
    }

    fn try_open(path: &Path) -> Result<Log, SourceError> {
        let now = Timestamp::from(SystemTime::now());
        if path == Path::new("-") {
            let is_file = File::open("/dev/stdin").and_then(|file| file.metadata()).is_ok_and(|meta| meta.is_file());
            return Ok(Log { path: path.to_owned(), reader: archive::open(path)?, prompt: !is_file, size: 0, newest: now });
        }
        let reader = archive::open(path)?;
        let Ok(meta) = std::fs::metadata(path) else {
            return Ok(Log { path: path.to_owned(), reader, prompt: false, size: 0, newest: now });
        };
        // A log without years is as old as its file, which a rotated one has been for long.
        let modified = meta.modified().map_or(now, Timestamp::from) + MODIFIED_SLACK;
        Ok(Log {
            path: path.to_owned(),
            reader,
            prompt: meta.file_type().is_fifo() || meta.file_type().is_char_device(),
            size: meta.len(),
            newest: modified.min(now),
        })
    }

    pub(super) fn options(&self) -> pipeline::Options {
        pipeline::Options { threads: pipeline::threads(), prompt: self.prompt, parser: self.parser() }
    }

    fn parser(&self) -> ParserOptions {
        ParserOptions::new(self.newest)
    }

    /// The time of the first line that has one; `None` where there is none. The log itself stays unread.
    pub(super) fn first_stamp(&self, filters: &Arc<FilterSet>) -> Option<Timestamp> {
        if self.prompt || self.path == Path::new("-") {
            return None;
        }
        let mut head = Vec::new();
        archive::open(&self.path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
        let mut parser = Parser::new(Arc::clone(filters), self.parser());
        head.split(|byte| *byte == b'\n').find_map(|line| match parser.parse(line, None) {
            Outcome::Line(parsed) => Some(parsed.time),
            _ => None,
        })
    }
}

/// Says why a log cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> String {
    let name = if path == Path::new("-") { "standard input".into() } else { path.to_string_lossy() };
    format!("cannot read {name}: {error}")
}

/// Ends the program: nobody reads what it writes (`| head`), which is no mistake, or it cannot be written.
pub(super) fn output_failed(error: &io::Error) -> ! {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    complain!("mailwarden: cannot write: {error}");
    std::process::exit(1);
}
