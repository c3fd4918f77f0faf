//! The filters that the configuration brings.

use super::files::Texts;
use super::report::Report;

/// Names of the filters, by file name.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    pub names: Vec<String>,
    pub patterns: usize,
}

pub fn load(texts: &Texts, report: &mut Report) -> Filters {
    let stem = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or_default();
        file.strip_suffix(".toml").unwrap_or(file).to_owned()
    };
    Filters { names: texts.filters.iter().map(|text| stem(report.file_name(text.file))).collect(), patterns: 0 }
}
