//! Names that strangers chose, as a person may see them and type them again: on a terminal, in a mail, in a command.
//!
//! **Invariant:** what [`word`] gives is one word of a shell's command line, whatever is in the name, and [`typed`] reads the name
//! back from it.

/// `name` on one line, with nothing hidden in it: as it is, or written as a JSON string where it has characters that do not show,
/// or could be taken for such a string or for an option.
pub fn shown(name: &str) -> String {
    if !name.starts_with(['"', '-']) && !name.chars().any(is_hidden) {
        return name.to_owned();
    }
    let mut out = String::from("\"");
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if is_hidden(c) => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `name` as one word of a command line: in single quotes when anything but plain letters, digits and a few signs occurs.
pub fn word(name: &str) -> String {
    let shown = shown(name);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '_' | '+' | ':' | '/' | '-');
    if !shown.is_empty() && shown.chars().all(is_plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
}

/// The name that somebody typed: as it is, or a JSON string, which is how control characters can be typed at all.
pub fn typed(text: &str) -> Result<String, String> {
    if !text.starts_with('"') {
        return Ok(text.to_owned());
    }
    serde_json::from_str(text).map_err(|error| {
        format!("a name that begins with '\"' is a JSON string, as `list locks --json` prints it, and this is none: {error}")
    })
}

/// Control characters, those that turn the direction around, and those without a width: nobody sees them.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_whatever_is_in_it() {
        for (name, expected) in [
            ("anna@example.org", "anna@example.org"),
            ("local:33", "local:33"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("", "''"),
            ("Anna Smith@b.example", "'Anna Smith@b.example'"),
            ("x;id>/tmp/PWNED;@b.example", "'x;id>/tmp/PWNED;@b.example'"),
            ("$(id)`id`", "'$(id)`id`'"),
            ("a';id;'b", r"'a'\'';id;'\''b'"),
            ("-rf", "'\"-rf\"'"),
            ("a\u{1b}[2J\n@b", r#"'"a\u001b[2J\u000a@b"'"#),
            ("a\u{202e}b\"\\", r#"'"a\u202eb\"\\"'"#),
            ("\"a\"", r#"'"\"a\""'"#),
            ("grüße@b", "'grüße@b'"),
        ] {
            assert_eq!(word(name), expected, "{name:?}");
            assert_eq!(typed(&shown(name)).as_deref(), Ok(name), "{name:?}");
        }
        assert!(typed("\"open").unwrap_err().contains("JSON string"));
    }

    #[test]
    fn a_real_shell_reads_the_name_back() {
        for name in ["x;id>/tmp/PWNED;@b.example", "a';id;'b", "$(id)", "-n", "a b\t\u{7}\u{202e}", "*", "~", "!x", "\\"] {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", word(name))).output().unwrap();
            assert_eq!(typed(&String::from_utf8(output.stdout).unwrap()).as_deref(), Ok(name), "{name:?}");
        }
    }
}
