//! Account names: the many spellings of one account become one name.
//!
//! A name is made canonical once, on entry; everything behind compares bytes.

use crate::config::AccountRules;
use crate::limits::ACCOUNT_BYTES_MAX;

/// What Dovecot puts behind a name that it cut, and what is put behind every other cut name, so that it equals no whole one.
const CUT_MARK: &[u8] = b"...";
/// Postfix shows at most so many bytes of the name in a failed login (`sasl_username=%.100s`).
pub(super) const POSTFIX_NAME_BYTES: usize = 100;

/// Applies [`AccountRules`]; reuses one buffer, so that a name costs no allocation.
pub struct Canonical {
    rules: AccountRules,
    buffer: Vec<u8>,
}

impl Canonical {
    pub fn new(rules: AccountRules) -> Self {
        Canonical { rules, buffer: Vec::with_capacity(ACCOUNT_BYTES_MAX + CUT_MARK.len()) }
    }

    /// The canonical form of `shown`, a name as a log line shows it. Borrowed from `shown` where nothing changes.
    pub fn name<'a>(&'a mut self, shown: &'a [u8]) -> &'a [u8] {
        if shown.len() > ACCOUNT_BYTES_MAX {
            return self.cut_name(&shown[..ACCOUNT_BYTES_MAX]);
        }
        if shown.is_empty() || shown.ends_with(CUT_MARK) || self.is_canonical(shown) {
            return shown;
        }
        self.rewrite(shown);
        &self.buffer
    }

    /// A name of which the line shows only the beginning.
    pub fn cut_name<'a>(&'a mut self, shown: &'a [u8]) -> &'a [u8] {
        let start = &shown[..shown.len().min(ACCOUNT_BYTES_MAX)];
        self.buffer.clear();
        self.buffer.extend_from_slice(start);
        self.buffer.extend_from_slice(CUT_MARK);
        &self.buffer
    }

    /// Whether mail to `recipient` stays on this host.
    pub fn is_local(&self, recipient: &[u8]) -> bool {
        if self.rules.local_domains.is_empty() {
            return false;
        }
        let Some(at) = memchr::memrchr(b'@', recipient) else { return true };
        let domain = &recipient[at + 1..];
        self.rules.local_domains.iter().any(|local| local.as_bytes().eq_ignore_ascii_case(domain))
    }

    /// The quick test that most names pass: nothing in it can change.
    fn is_canonical(&self, shown: &[u8]) -> bool {
        let rules = &self.rules;
        if !rules.aliases.is_empty() || !rules.domain_aliases.is_empty() {
            return false;
        }
        let extension = ascii(rules.extension);
        let mut has_domain = rules.default_domain.is_none();
        for &byte in shown {
            if rules.lowercase && byte.is_ascii_uppercase() || Some(byte) == extension {
                return false;
            }
            has_domain |= byte == b'@';
        }
        has_domain
    }

    fn rewrite(&mut self, shown: &[u8]) {
        let Canonical { rules, buffer } = self;
        buffer.clear();
        buffer.extend_from_slice(shown);
        if rules.lowercase {
            buffer.make_ascii_lowercase();
        }
        let mut at = memchr::memrchr(b'@', buffer);
        let local_end = at.unwrap_or(buffer.len());
        // A name that starts with the separator is no extension of anybody.
        if let Some(plus) = ascii(rules.extension).and_then(|sign| memchr::memchr(sign, &buffer[..local_end])).filter(|&plus| plus > 0) {
            buffer.drain(plus..local_end);
            at = at.map(|_| plus);
        }
        match at {
            Some(at) => {
                if let Some(domain) = find(&rules.domain_aliases, &buffer[at + 1..]) {
                    buffer.truncate(at + 1);
                    buffer.extend_from_slice(domain.as_bytes());
                }
            }
            None => {
                if let Some(domain) = &rules.default_domain {
                    buffer.push(b'@');
                    buffer.extend_from_slice(domain.as_bytes());
                }
            }
        }
        if let Some(account) = find(&rules.aliases, buffer) {
            buffer.clear();
            buffer.extend_from_slice(account.as_bytes());
        }
    }
}

fn ascii(sign: Option<char>) -> Option<u8> {
    sign.and_then(|sign| u8::try_from(sign).ok()).filter(u8::is_ascii)
}

fn find<'a>(map: &'a std::collections::HashMap<String, String>, key: &[u8]) -> Option<&'a String> {
    if map.is_empty() { None } else { map.get(std::str::from_utf8(key).ok()?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> AccountRules {
        AccountRules {
            default_domain: Some("corp.test".to_owned()),
            domain_aliases: [("corp.example".to_owned(), "corp.test".to_owned())].into(),
            aliases: [("boss@corp.test".to_owned(), "anna@corp.test".to_owned())].into(),
            local_domains: vec!["corp.test".to_owned()],
            ..AccountRules::default()
        }
    }

    #[test]
    fn spellings_become_one_name() {
        let cases = [
            ("bob@corp.test", "bob@corp.test"),
            ("bob", "bob@corp.test"),
            ("BOB", "bob@corp.test"),
            ("Bob@Corp.Test", "bob@corp.test"),
            ("bob+lists@corp.test", "bob@corp.test"),
            ("bob+lists", "bob@corp.test"),
            ("bob+a+b@corp.example", "bob@corp.test"),
            ("+bob@corp.test", "+bob@corp.test"),
            ("bob@CORP.example", "bob@corp.test"),
            ("boss", "anna@corp.test"),
            ("a@b@corp.example", "a@b@corp.test"),
            ("", ""),
        ];
        let mut canonical = Canonical::new(rules());
        for (shown, expected) in cases {
            assert_eq!(canonical.name(shown.as_bytes()), expected.as_bytes(), "{shown}");
        }
    }

    #[test]
    fn cut_names_equal_no_whole_name() {
        let mut canonical = Canonical::new(rules());
        let whole = [b'l'; 64];
        let mut dovecot = whole.to_vec();
        dovecot.extend_from_slice(b"...");
        assert_eq!(canonical.name(&dovecot).to_vec(), dovecot);
        let postfix = canonical.cut_name(&whole).to_vec();
        assert_ne!(canonical.name(&whole), postfix);
        let long = [b'x'; 4 * ACCOUNT_BYTES_MAX];
        assert!(canonical.name(&long).len() <= ACCOUNT_BYTES_MAX + 3);
        assert!(canonical.cut_name(&long).ends_with(b"x..."));
    }

    #[test]
    fn nothing_to_change_is_borrowed() {
        let mut canonical = Canonical::new(AccountRules::default());
        for shown in [&b"bob@corp.test"[..], b"bob", "grüße@x".as_bytes()] {
            assert_eq!(canonical.name(shown).as_ptr(), shown.as_ptr());
        }
    }

    #[test]
    fn local_recipients() {
        let canonical = Canonical::new(rules());
        for (recipient, local) in [("a@corp.test", true), ("a@CORP.TEST", true), ("root", true), ("a@else.test", false)] {
            assert_eq!(canonical.is_local(recipient.as_bytes()), local, "{recipient}");
        }
        assert!(!Canonical::new(AccountRules::default()).is_local(b"a@corp.test"));
    }
}
