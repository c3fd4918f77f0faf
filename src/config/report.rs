//! All that is wrong with a configuration, each with its line quoted.
//!
//! ```text
//! jail.d/10-logins.toml:7:12: unknown filter "postfx"
//!   |
//! 7 | filter = "postfx"
//!   |          ^^^^^^^^ did you mean "postfix"?
//! ```

use std::fmt;
use std::io::IsTerminal;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// What was found, with the texts that it was found in.
#[derive(Clone, Debug, Default)]
pub struct Report {
    files: Vec<Quoted>,
    problems: Vec<Problem>,
}

#[derive(Clone, Debug)]
struct Quoted {
    name: String,
    text: Arc<str>,
}

/// Index of a file of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u16);

/// Some bytes of a file of the report; of a file without text, the file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: FileId,
    start: u32,
    end: u32,
}

impl Place {
    pub fn new(file: FileId, span: Range<usize>) -> Self {
        let offset = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        Place { file, start: offset(span.start), end: offset(span.end) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, but somebody should look.
    Warning,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub severity: Severity,
    pub place: Option<Place>,
    pub message: String,
    /// Stands behind the caret: mostly "did you mean …?".
    pub label: String,
    pub help: Option<String>,
}

impl Problem {
    pub fn error(place: Place, message: impl Into<String>) -> Self {
        Problem { severity: Severity::Error, place: Some(place), message: message.into(), label: String::new(), help: None }
    }
    pub fn warning(place: Place, message: impl Into<String>) -> Self {
        Problem { severity: Severity::Warning, ..Problem::error(place, message) }
    }
    /// As [`Problem::notice`], and the configuration is refused for it.
    pub fn mistake(message: impl Into<String>) -> Self {
        Problem { severity: Severity::Error, ..Problem::notice(message) }
    }
    /// About the host or the configuration as a whole.
    pub fn notice(message: impl Into<String>) -> Self {
        Problem { severity: Severity::Warning, place: None, message: message.into(), label: String::new(), help: None }
    }
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A [`Problem`] with its place in words, as `check --json` prints it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Located<'a> {
    pub file: Option<&'a str>,
    /// 1-based.
    pub line: Option<usize>,
    /// 1-based, in characters.
    pub column: Option<usize>,
    pub message: &'a str,
    pub label: &'a str,
    pub help: Option<&'a str>,
}

impl Report {
    pub fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Registers a file so that problems can point into it. `None`: there are 65,535 already.
    pub fn add_file(&mut self, name: impl Into<String>, text: Arc<str>) -> Option<FileId> {
        let id = u16::try_from(self.files.len()).ok()?;
        self.files.push(Quoted { name: name.into(), text });
        Some(FileId(id))
    }

    pub fn file_name(&self, file: FileId) -> &str {
        self.files.get(usize::from(file.0)).map_or("", |quoted| quoted.name.as_str())
    }

    pub fn file_of_name(&self, name: &str) -> Option<FileId> {
        let index = self.files.iter().position(|quoted| quoted.name == name)?;
        u16::try_from(index).ok().map(FileId)
    }

    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// In the order of the files and of their lines.
    pub fn problems(&self) -> Vec<&Problem> {
        let mut problems: Vec<_> = self.problems.iter().collect();
        problems.sort_by_key(|problem| (problem.place.is_none(), problem.place));
        problems
    }

    pub fn located(&self, severity: Severity) -> Vec<Located<'_>> {
        self.problems().into_iter().filter(|problem| problem.severity == severity).map(|problem| self.locate(problem)).collect()
    }

    /// For people: plain text, or with colours.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let blocks: Vec<String> = self.problems().iter().map(|problem| self.render_one(problem, &renderer)).collect();
        blocks.join("\n")
    }

    fn render_one(&self, problem: &Problem, renderer: &Renderer) -> String {
        let at = self.locate(problem);
        let (level, tag) = match problem.severity {
            Severity::Error => (Level::ERROR, ""),
            Severity::Warning => (Level::WARNING, "warning: "),
        };
        let place = match (at.file, at.line, at.column) {
            (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: "),
            (Some(file), ..) => format!("{file}: "),
            _ => String::new(),
        };
        let title = level.no_name().primary_title(format!("{place}{tag}{}", problem.message));
        let quote = problem.place.and_then(|place| self.quote(place));
        let mut group = match (&quote, at.line) {
            (Some((text, span)), Some(line)) => {
                let mark = AnnotationKind::Primary.span(span.clone()).label(problem.label.as_str());
                title.element(Snippet::source(*text).line_start(line).annotation(mark))
            }
            _ => annotate_snippets::Group::with_title(title),
        };
        if let Some(help) = &problem.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let mut text = renderer.render(&[group]);
        text.push('\n');
        text
    }

    fn locate<'a>(&'a self, problem: &'a Problem) -> Located<'a> {
        let quoted = problem.place.and_then(|place| Some((self.files.get(usize::from(place.file.0))?, place)));
        let (mut line, mut column) = (None, None);
        if let Some((quoted, place)) = quoted.filter(|(quoted, _)| !quoted.text.is_empty()) {
            let before = head(&quoted.text, place.start);
            line = Some(before.matches('\n').count() + 1);
            column = Some(before.rsplit('\n').next().unwrap_or_default().chars().count() + 1);
        }
        let file = quoted.map(|(quoted, _)| quoted.name.as_str());
        Located { file, line, column, message: &problem.message, label: &problem.label, help: problem.help.as_deref() }
    }

    /// The first line of `place` and where in it the place lies.
    fn quote(&self, place: Place) -> Option<(&str, Range<usize>)> {
        let text = &*self.files.get(usize::from(place.file.0))?.text;
        let before = head(text, place.start);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text.get(line_start..)?.lines().next()?;
        let start = before.len() - line_start;
        let end = head(text, place.end).len().saturating_sub(line_start).min(line.len());
        Some((line, start.min(line.len())..end.max(start).min(line.len())))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Whether to colour what goes to standard error.
pub fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal()
}

/// `text` up to `offset`, moved back to a character's start.
fn head(text: &str, offset: u32) -> &str {
    let mut end = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str, span: Range<usize>, problem: impl FnOnce(Place) -> Problem) -> String {
        let mut report = Report::default();
        let file = report.add_file("jail.d/a.toml", text.into()).unwrap();
        report.push(problem(Place::new(file, span)));
        report.to_string()
    }

    #[test]
    fn first_line_can_be_found_by_grep() {
        let text = "[jail.a]\n  filter = \"postfx\"\n";
        let shown = report(text, 20..28, |place| Problem::error(place, "unknown filter \"postfx\"").label("did you mean \"postfix\"?"));
        let expected = "jail.d/a.toml:2:12: unknown filter \"postfx\"\n  |\n2 |   filter = \"postfx\"\n  |            ^^^^^^^^ did you mean \"postfix\"?\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn odd_places_do_not_panic() {
        for text in ["", "\n", "ä", "a\r\nb", "no newline", "\u{1b}[31m\u{7}"] {
            for start in 0..14 {
                for end in [0, start, start + 3, usize::MAX] {
                    report(text, start..end, |place| Problem::warning(place, "x").label("y").help("z"));
                }
            }
        }
    }

    #[test]
    fn a_place_over_several_lines_marks_the_first() {
        let shown = report("a = [\n1,\n2]\n", 4..11, |place| Problem::error(place, "wrong"));
        assert_eq!(shown, "jail.d/a.toml:1:5: wrong\n  |\n1 | a = [\n  |     ^\n");
    }
}
