//! How the many spellings of one account become one name.

use std::collections::HashMap;

use super::files;
use super::raw::{Delimiter, RawAccounts};
use super::read::{At, Named};
use super::report::{Problem, Report};
use super::settings::value_or;

/// The rules by which `correlate` makes account names canonical. All names in here are canonical already: lower case
/// if `lowercase` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRules {
    /// Put behind a name without `@`.
    pub default_domain: Option<String>,
    pub lowercase: bool,
    /// Postfix's `recipient_delimiter`: in `bob+lists@example.org` the part from it to the `@` is dropped.
    pub extension: Option<char>,
    /// Domain → the domain that it is another name of.
    pub domain_aliases: HashMap<String, String>,
    /// Full name → the account that it is another name of.
    pub aliases: HashMap<String, String>,
    /// The domains whose mail stays here: their recipients are not external.
    pub local_domains: Vec<String>,
}

impl Default for AccountRules {
    fn default() -> Self {
        AccountRules {
            default_domain: None,
            lowercase: true,
            extension: Some('+'),
            domain_aliases: HashMap::new(),
            aliases: HashMap::new(),
            local_domains: Vec::new(),
        }
    }
}

impl AccountRules {
    pub(super) fn resolve(raw: RawAccounts, report: &mut Report) -> AccountRules {
        let default = AccountRules::default();
        let lowercase = value_or(raw.lowercase, default.lowercase);
        let mut aliases = HashMap::new();
        if let Some(At { value: path, place }) = raw.aliases {
            for line in files::read_list(&path, place, report) {
                match line.value.split_whitespace().collect::<Vec<_>>().as_slice() {
                    [alias, account] => drop(aliases.insert(cased(alias, lowercase), cased(account, lowercase))),
                    _ => report.push(Problem::error(line.place, "not an alias and an account").help("one pair a line: ALIAS ACCOUNT")),
                }
            }
        }
        AccountRules {
            default_domain: raw.default_domain.map(|domain| domain_name(domain, report)),
            lowercase,
            extension: raw.extension.map_or(default.extension, |At { value: Delimiter(delimiter), .. }| delimiter),
            domain_aliases: domain_aliases(raw.domain_aliases, report),
            aliases,
            local_domains: raw
                .local_domains
                .map_or_else(Vec::new, |list| list.value.0.into_iter().map(|at| domain_name(at, report)).collect()),
        }
    }
}

/// As the correlator compares names: domains are always lower case.
pub(super) fn cased(name: &str, lowercase: bool) -> String {
    match name.rsplit_once('@') {
        Some((local, domain)) if !lowercase => format!("{local}@{}", domain.to_lowercase()),
        None if !lowercase => name.to_owned(),
        _ => name.to_lowercase(),
    }
}

fn domain_aliases(raw: Option<At<Named<String>>>, report: &mut Report) -> HashMap<String, String> {
    let mut aliases = HashMap::new();
    for (alias, domain) in raw.map_or_else(Vec::new, |at| at.value.0) {
        let (place, alias, domain) = (alias.place, domain_name(alias, report), domain_name(domain, report));
        if alias == domain {
            report.push(Problem::error(place, format!("{alias:?} is an alias of itself")));
        }
        aliases.insert(alias, domain);
    }
    aliases
}

fn domain_name(domain: At<String>, report: &mut Report) -> String {
    let name = domain.value.to_lowercase();
    if name.is_empty() || name.contains(['@', ' ', '*']) || name.starts_with('.') {
        let problem = Problem::error(domain.place, format!("{:?} is not a domain", domain.value));
        report.push(problem.help("write it like \"example.org\""));
    }
    name
}
