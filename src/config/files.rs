//! Which files make up the configuration, and their texts.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::read::{At, FromToml, Reader};
use super::report::{FileId, Place, Problem, Report};
use crate::limits::CONFIG_FILE_BYTES_MAX;

/// Where the configuration lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    pub main: PathBuf,
    /// The distribution's first, then the administrator's: of two files with one name the later counts.
    pub jail_dirs: Vec<PathBuf>,
    pub filter_dirs: Vec<PathBuf>,
    /// Where state lies and sockets are, unless the configuration says otherwise.
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    /// They were named on the command line, and so win over the configuration.
    pub state_dir_wins: bool,
    pub runtime_dir_wins: bool,
    /// Somebody named this directory, so it has to exist.
    required: Option<PathBuf>,
}

impl Paths {
    /// Everything in one directory, as `--config DIR` says.
    pub fn in_dir(dir: &Path) -> Paths {
        // "./jail.d/a.toml" says no more than "jail.d/a.toml".
        let shown = if dir == Path::new(".") { Path::new("") } else { dir };
        Paths {
            main: shown.join("mailwarden.toml"),
            jail_dirs: vec![shown.join("jail.d")],
            filter_dirs: vec![shown.join("filters")],
            required: Some(dir.to_owned()),
            ..Paths::installed()
        }
    }

    /// `/etc/mailwarden` over `/usr/share/mailwarden`.
    pub fn installed() -> Paths {
        let (shipped, own) = (Path::new("/usr/share/mailwarden"), Path::new("/etc/mailwarden"));
        Paths {
            main: own.join("mailwarden.toml"),
            jail_dirs: vec![shipped.join("jail.d"), own.join("jail.d")],
            filter_dirs: vec![shipped.join("filters"), own.join("filters")],
            state_dir: PathBuf::from("/var/lib/mailwarden"),
            runtime_dir: PathBuf::from("/run/mailwarden"),
            state_dir_wins: false,
            runtime_dir_wins: false,
            required: None,
        }
    }

    /// Where systemd listens for `service`, "syslog" or "hookd". It gives its sockets to their owners as root, so it must not find them
    /// in a directory that the daemon's user could put something else into. A runtime directory that somebody named holds them all.
    pub fn systemd_socket(&self, service: &str) -> PathBuf {
        let name = format!("{service}.sock");
        if self.runtime_dir_wins { self.runtime_dir.join(name) } else { PathBuf::from(format!("/run/mailwarden-{service}")).join(name) }
    }

    pub fn choose(config_dir: Option<&Path>) -> Paths {
        config_dir.map_or_else(Paths::installed, Paths::in_dir)
    }

    /// The directory that somebody named, where there is none.
    pub fn missing_dir(&self) -> Option<&Path> {
        self.required.as_deref().filter(|dir| !dir.is_dir())
    }
}

/// One file.
#[derive(Clone, Debug)]
pub struct Text {
    pub file: FileId,
    pub text: Arc<str>,
    /// Which of the directories it comes from.
    pub rank: usize,
}

/// All files, read.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    pub main: Option<Text>,
    /// By name in byte order.
    pub jails: Vec<Text>,
    pub filters: Vec<Text>,
    /// A file is missing or cannot be parsed: what other files say may be incomplete without it.
    pub is_partial: bool,
}

impl Texts {
    pub fn read(paths: &Paths, report: &mut Report) -> Texts {
        if let Some(dir) = paths.missing_dir() {
            whole_file(&dir.display().to_string(), "no such directory", report);
            return Texts::default();
        }
        let mut texts = Texts::default();
        if paths.main.exists() || paths.main.is_symlink() {
            texts.main = texts.add(&paths.main, 0, report);
        }
        texts.jails = texts.add_dirs(&paths.jail_dirs, report);
        texts.filters = texts.add_dirs(&paths.filter_dirs, report);
        texts
    }

    /// From memory: names such as `mailwarden.toml`, `jail.d/a.toml`, `filters/postfix.toml`.
    pub fn from_memory(files: &[(&str, &str)], report: &mut Report) -> Texts {
        let mut texts = Texts::default();
        for (name, text) in files {
            let text: Arc<str> = (*text).into();
            let Some(file) = report.add_file(*name, Arc::clone(&text)) else { continue };
            let text = Text { file, text, rank: 0 };
            match name.split_once('/') {
                Some(("jail.d", _)) => texts.jails.push(text),
                Some(("filters", _)) => texts.filters.push(text),
                _ => texts.main = Some(text),
            }
        }
        texts
    }

    fn add_dirs(&mut self, dirs: &[PathBuf], report: &mut Report) -> Vec<Text> {
        let mut by_name: BTreeMap<OsString, (usize, PathBuf)> = BTreeMap::new();
        for (rank, dir) in dirs.iter().enumerate() {
            match toml_files(dir, report) {
                Ok(found) => by_name.extend(found.into_iter().map(|(name, path)| (name, (rank, path)))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    self.is_partial = true;
                    whole_file(&dir.display().to_string(), &format!("cannot read the directory: {error}"), report);
                }
            }
        }
        by_name.into_values().filter_map(|(rank, path)| self.add(&path, rank, report)).collect()
    }

    fn add(&mut self, path: &Path, rank: usize, report: &mut Report) -> Option<Text> {
        let read = read_text(path, report).map(|(file, text)| Text { file, text, rank });
        self.is_partial |= read.is_none();
        read
    }
}

/// Parses a file into `T`; what can be read of it, where it is mistaken only in part.
pub fn parse<T: FromToml>(text: &Text, report: &mut Report) -> Option<T> {
    let (document, errors) = DeTable::parse_recoverable(&text.text);
    let is_readable = errors.iter().all(|error| error.message().starts_with("duplicate key"));
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        report.push(Problem::error(Place::new(text.file, span), error.message()));
    }
    if !is_readable {
        return None;
    }
    let span = document.span();
    let node = toml::Spanned::new(span, DeValue::Table(document.into_inner()));
    T::read(&node, &mut Reader { file: text.file, report })
}

/// The lines of a list file without comments and empty ones, each with its place. `from` is where the file is named.
pub fn read_list(path: &Path, from: Place, report: &mut Report) -> Vec<At<String>> {
    let Some((file, text)) = read_text(path, report) else {
        report.push(Problem::error(from, format!("cannot use {}", path.display())));
        return Vec::new();
    };
    let mut offset = 0;
    let mut lines = Vec::new();
    for line in text.split_inclusive('\n') {
        let content = line.split('#').next().unwrap_or_default();
        let trimmed = content.trim();
        let start = offset + (content.len() - content.trim_start().len());
        if !trimmed.is_empty() {
            lines.push(At { value: trimmed.to_owned(), place: Place::new(file, start..start + trimmed.len()) });
        }
        offset += line.len();
    }
    lines
}

/// A problem with a file that has no text to quote.
fn whole_file(name: &str, message: &str, report: &mut Report) {
    if let Some(file) = report.add_file(name, "".into()) {
        report.push(Problem::error(Place::new(file, 0..0), message));
    }
}

fn read_text(path: &Path, report: &mut Report) -> Option<(FileId, Arc<str>)> {
    let name = path.display().to_string();
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        Err(message) => {
            whole_file(&name, &message, report);
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => {
            let text: Arc<str> = text.into();
            Some((report.add_file(name, Arc::clone(&text))?, text))
        }
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let file = report.add_file(name, String::from_utf8_lossy(error.as_bytes()).into())?;
            let place = Place::new(file, at..at + char::REPLACEMENT_CHARACTER.len_utf8());
            report.push(Problem::error(place, "not UTF-8").help("save the file as UTF-8"));
            None
        }
    }
}

pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error| format!("cannot read: {error}");
    // Asked before it is opened: opening a FIFO would wait for a writer.
    if !fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let limit = CONFIG_FILE_BYTES_MAX as u64 + 1;
    fs::File::open(path).map_err(cannot)?.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > CONFIG_FILE_BYTES_MAX {
        return Err(format!("larger than {CONFIG_FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// `*.toml` in `dir`; hidden files and editors' copies do not count. Of other files it is told that they are not read.
fn toml_files(dir: &Path, report: &mut Report) -> std::io::Result<Vec<(OsString, PathBuf)>> {
    let mut found = Vec::new();
    let dir_or_here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    for entry in fs::read_dir(dir_or_here)? {
        let name = entry?.file_name();
        if !name.as_bytes().starts_with(b".") && Path::new(&name).extension() == Some(OsStr::new("toml")) {
            let path = dir.join(&name);
            found.push((name, path));
        } else if is_overlooked(&dir.join(&name)) {
            let problem = Problem::notice(format!("{} is not read: only *.toml is", dir.join(&name).display()));
            report.push(problem.help("rename it if it is meant to count; add .off behind .toml if not"));
        }
    }
    Ok(found)
}

/// A file that somebody may believe to be read. What is called `….toml.bak`, `….toml~` or the like was put aside on purpose.
fn is_overlooked(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let is_aside = name.starts_with(b".") || name.starts_with(b"#") || name.starts_with(b"README") || name.ends_with(b"~");
    !is_aside && memchr::memmem::find(name, b".toml").is_none() && path.is_file()
}
