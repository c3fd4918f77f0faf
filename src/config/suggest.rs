//! What the writer of an unknown word may have meant.

/// Below this similarity a word is another word, not a mistyped one.
const SIMILARITY_MIN: f64 = 0.8;

/// The most similar of `known`, if any is similar enough.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = normal(word);
    let scored = known.iter().map(|candidate| (strsim::jaro_winkler(&word, &normal(candidate)), *candidate));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= SIMILARITY_MIN).then_some(best.1)
}

/// What to use in place of a key that other programs have.
pub fn foreign_hint(key: &str) -> Option<&'static str> {
    let hint = match key {
        "port" | "protocol" | "chain" => {
            "the ports that a ban closes are named by `scope`: mx, submission, mailbox, auth, mail, web, ssh or all"
        }
        "action" | "actions" | "banaction" | "banaction_allports" => "a jail says what happens with `then`; without it, it bans",
        "logpath" | "journalmatch" | "backend" => "where lines come from is said by [[source]] in mailwarden.toml",
        "failregex" | "ignoreregex" | "prefregex" | "maxlines" | "datepattern" => "patterns stand in filters/*.toml",
        "ignoreip" => "`ignoreip` stands in [allow] in mailwarden.toml and holds for all jails",
        "ignoreself" => "the host's own addresses are never banned",
        "ignorecommand" | "ignorecache" => "there is no `ignorecommand`; see [allow] in mailwarden.toml, and `unless` of a jail",
        "usedns" => "host names are never looked up",
        "dbfile" | "dbpurgeage" => "see [state] and `memory` of [bans] in mailwarden.toml",
        "jail" => "jails stand in jail.d/*.toml",
        "accounts" | "allow" | "bans" | "source" | "trust" | "enforcement" | "state" | "control" | "log" => {
            "this stands in mailwarden.toml"
        }
        _ => return None,
    };
    Some(hint)
}

fn normal(word: &str) -> String {
    word.to_lowercase().replace(['_', ' '], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_words_find_their_meaning() {
        let known = ["maxretry", "findtime", "bantime", "limit", "auth-failure", "postfix", "has-account"];
        let cases = [
            ("max_retry", Some("maxretry")),
            ("findTime", Some("findtime")),
            ("auth_failure", Some("auth-failure")),
            ("postfx", Some("postfix")),
            ("zebra", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
        assert_eq!(nearest("x", &[]), None);
    }
}
