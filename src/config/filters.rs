//! The filters that the configuration brings.

use std::sync::Arc;

use super::files::{Text, Texts};
use super::report::{FileId, Place, Problem, Report, Severity};
use crate::parse::{FilterError, FilterSet, FilterSource};

/// The filters, compiled.
#[derive(Clone, Debug)]
pub struct Filters {
    pub set: Arc<FilterSet>,
}

/// No filter.
impl Default for Filters {
    fn default() -> Self {
        Filters { set: FilterSet::empty() }
    }
}

impl Filters {
    pub fn names(&self) -> Vec<&str> {
        self.set.filter_names().collect()
    }

    pub fn pattern_count(&self) -> usize {
        self.set.pattern_count()
    }

    /// Does nothing where somebody else has the filters as well.
    pub fn forget_samples(&mut self) {
        if let Some(set) = Arc::get_mut(&mut self.set) {
            set.forget_samples();
        }
    }

    /// Runs the samples of the filters; what is wrong with them becomes a warning. `report` is that of the configuration.
    pub fn check_samples(&self, report: &mut Report) {
        for error in self.set.check_samples() {
            let file = report.file_of_name(&error.file);
            tell(error, file, Severity::Warning, report);
        }
    }
}

/// The filters; none, with the reasons in `report`, when one of them has a mistake.
pub(super) fn load(texts: &Texts, report: &mut Report) -> Option<Filters> {
    let source = |text: &Text| FilterSource { file: report.file_name(text.file).to_owned(), text: text.text.to_string() };
    let sources: Vec<FilterSource> = texts.filters.iter().filter(|text| !is_empty(&text.text)).map(source).collect();
    let errors = match FilterSet::compile(&sources) {
        Ok(set) => return Some(Filters { set: Arc::new(set) }),
        Err(errors) => errors,
    };
    for error in errors {
        let file = report.file_of_name(&error.file);
        tell(error, file, Severity::Error, report);
    }
    None
}

/// Nothing but comments: such a file takes the place of a shipped one, and so removes it.
fn is_empty(text: &str) -> bool {
    text.lines().map(str::trim_start).all(|line| line.is_empty() || line.starts_with('#'))
}

fn tell(error: FilterError, file: Option<FileId>, severity: Severity, report: &mut Report) {
    let place = file.map(|file| Place::new(file, error.span));
    let (label, help) = match error.help {
        Some(help) if help.starts_with("did you mean") => (help, None),
        help => (String::new(), help),
    };
    report.push(Problem { severity, place, message: error.message, label, help });
}
