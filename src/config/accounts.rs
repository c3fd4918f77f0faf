//! How the many spellings of one account become one name.

use std::collections::HashMap;

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
