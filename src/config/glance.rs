//! What the tool needs of the main file to reach the daemon and to take its table out of the kernel. A file with mistakes keeps
//! nobody from either: what can be read of it counts, and the rest is as if it were not written.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::files::{self, Paths};
use super::settings::is_table_name;

/// What the main file says of the daemon's surroundings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// `socket` of `[control]`.
    pub socket: Option<PathBuf>,
    /// `table` of `[enforcement]`.
    pub table: Option<String>,
    /// Why it may say something else; with the place.
    pub problem: Option<String>,
}

/// Looks at the main file alone.
pub fn glance(paths: &Paths) -> Glance {
    if let Some(dir) = paths.missing_dir() {
        return Glance { problem: Some(format!("cannot read the configuration: {} is no directory", dir.display())), ..Glance::default() };
    }
    if !paths.main.exists() && !paths.main.is_symlink() {
        return Glance::default();
    }
    let name = paths.main.display();
    match files::read_bytes(&paths.main).map(String::from_utf8) {
        Ok(Ok(text)) => {
            let mut glance = read(&text);
            glance.problem = glance.problem.map(|problem| format!("{name}:{problem} (`mailwarden check` tells more)"));
            glance
        }
        Ok(Err(_)) => Glance { problem: Some(format!("{name}: not UTF-8")), ..Glance::default() },
        Err(problem) => Glance { problem: Some(format!("{name}: {problem}")), ..Glance::default() },
    }
}

fn read(text: &str) -> Glance {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut problem = errors.first().map(|error| at(text, error.span().map_or(0, |span| span.start), error.message()));
    let mut look = |table: &str, key: &str, is_right: fn(&str) -> bool| -> Option<String> {
        let DeValue::Table(table) = document.get_ref().get(table)?.get_ref() else { return None };
        let value = table.get(key)?;
        match value.get_ref().as_str().filter(|text| is_right(text)) {
            Some(text) => Some(text.to_owned()),
            None => {
                problem.get_or_insert_with(|| at(text, value.span().start, &format!("`{key}` cannot be that")));
                None
            }
        }
    };
    let socket = look("control", "socket", |path| path.starts_with('/')).map(PathBuf::from);
    let table = look("enforcement", "table", is_table_name);
    Glance { socket, table, problem }
}

/// `LINE: message`
fn at(text: &str, offset: usize, message: &str) -> String {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    format!("{}: {message}", before.iter().filter(|byte| **byte == b'\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_gives_what_can_be_read_of_it() {
        let whole = read("[control]\nsocket = \"/run/x/c.sock\"\n[enforcement]\ntable = \"mw2\"\n");
        assert_eq!((whole.socket, whole.table.as_deref(), whole.problem), (Some("/run/x/c.sock".into()), Some("mw2"), None));
        assert_eq!(read("[bnas]\nx = 1\n"), Glance::default(), "what other tables say is for `check`");
        for (text, line) in [
            ("[control]\nsocket = \"c.sock\"\n", "2: `socket`"),
            ("[enforcement]\ntable = 7\n", "2: `table`"),
            ("[state\ndir = \"/x\"\n", "1: "),
            ("x = \n", "1: "),
        ] {
            let glance = read(text);
            assert!(glance.problem.as_ref().is_some_and(|problem| problem.starts_with(line)), "{text:?}: {glance:?}");
            assert!(glance.socket.is_none() && glance.table.is_none());
        }
    }
}
