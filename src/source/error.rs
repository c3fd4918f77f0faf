//! What can go wrong with a source, said so that the operator knows what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

#[derive(Debug)]
pub enum SourceError {
    /// Somebody else receives on our path.
    PathTaken {
        path: PathBuf,
    },
    /// What stands on our path is no socket.
    NotASocket {
        path: PathBuf,
    },
    CannotRead {
        path: PathBuf,
        error: io::Error,
        advice: String,
    },
    NotAFile {
        path: PathBuf,
    },
    /// systemd handed over no such socket.
    NotInherited {
        name: String,
        error: Option<io::Error>,
    },
    UnknownGroup {
        group: String,
    },
    CannotRun {
        command: PathBuf,
        error: io::Error,
    },
    /// Everything else: what was tried, on what.
    Io {
        doing: String,
        error: io::Error,
    },
}

impl SourceError {
    pub(super) fn io(doing: impl Into<String>, error: impl Into<io::Error>) -> Self {
        SourceError::Io { doing: doing.into(), error: error.into() }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceError::PathTaken { path } => {
                write!(f, "socket path taken: another process listens on {} (is mailwardend running already?)", path.display())
            }
            SourceError::NotASocket { path } => {
                write!(f, "cannot listen on {}: a file that is no socket is there; remove it or choose another path", path.display())
            }
            SourceError::CannotRead { path, error, advice } => {
                write!(f, "cannot read {}: {}", path.display(), words(error))?;
                if advice.is_empty() { Ok(()) } else { write!(f, "; {advice}") }
            }
            SourceError::NotAFile { path } => {
                write!(f, "cannot read {}: it is no regular file; give the path of a log file", path.display())
            }
            SourceError::NotInherited { name, error: None } => {
                write!(f, "systemd handed over no socket named \"{name}\"; set FileDescriptorName={name} in the socket unit")
            }
            SourceError::NotInherited { name, error: Some(error) } => {
                write!(f, "the socket \"{name}\" handed over by systemd does not fit: {}; use ListenDatagram=", words(error))
            }
            SourceError::UnknownGroup { group } => write!(f, "unknown group \"{group}\" for the syslog socket"),
            SourceError::CannotRun { command, error } => write!(
                f,
                "cannot run {}: {}; the journal source needs it: install systemd, set command = \"PATH\" in its [[source]], or use the file or socket source",
                command.display(),
                words(error)
            ),
            SourceError::Io { doing, error } => write!(f, "cannot {doing}: {}", words(error)),
        }
    }
}

impl std::error::Error for SourceError {}

/// The error as a person would say it, without "(os error 13)".
pub(super) fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotFound => "not found".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_a_key_that_there_is() {
        let error = SourceError::CannotRun { command: "journalctl".into(), error: io::ErrorKind::NotFound.into() }.to_string();
        assert!(error.contains("set command = "), "{error}");
        assert!(crate::config::raw::RawSource::KEYS.contains(&"command"));
    }
}
