//! The story of an account, as `why` tells it: one that can be sent on to its owner.

use std::io::{self, Write};

use serde_json::Value;

use super::table;
use crate::shell;

/// Addresses that are shown; the rest is in `--json`.
const STRANGERS_SHOWN: usize = 10;

pub(super) fn print(out: &mut impl Write, name: &str, account: &Value) -> io::Result<()> {
    let shown = shell::shown(name);
    let stops = list(&account["stops"]);
    for stop in &stops {
        let until =
            stop["until"].as_str().map_or("until somebody lifts it".to_owned(), |until| format!("until {}", table::local_time(until)));
        let how = match (stop["state"].as_str(), stop["scope"].as_str()) {
            _ if stop["in_force"] == false => "not stopped, though it should be: nothing carries that out (docs/accounts.md)",
            (Some("held"), _) => "HELD: its mail is accepted and parked",
            (_, Some("auth")) => "LOCKED: it can neither send nor log in",
            _ => "LOCKED: it cannot send",
        };
        writeln!(out, "{shown} is {how}, since {} {until}.", time(&stop["since"]))?;
        if let Some(failure) = stop["failure"].as_str() {
            writeln!(out, "  {}", super::lock::undone(failure))?;
        }
        writeln!(out, "  because: {}", text(&stop["reason"]))?;
        for line in list(&stop["evidence"]) {
            writeln!(out, "  | {}", text(line))?;
        }
    }
    if stops.is_empty() {
        writeln!(out, "{shown} is {}, score {}.", text(&account["state"]), account["score"])?;
    }
    let signs = list(&account["signs"]);
    if !signs.is_empty() {
        writeln!(out, "What was counted against it (points halve with time; score now {}):", account["score"])?;
        for sign in &signs {
            let (points, family) = (&sign["points"], text(&sign["family"]));
            writeln!(out, "  {}  {points:>3} {family:<8} {} (jail {})", time(&sign["time"]), text(&sign["text"]), text(&sign["jail"]))?;
        }
    }
    usual(out, account)?;
    let strangers = list(&account["strangers"]);
    if !strangers.is_empty() {
        let shown: Vec<String> = strangers.iter().take(STRANGERS_SHOWN).map(|ip| text(ip)).collect();
        let rest = strangers.len().saturating_sub(STRANGERS_SHOWN);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        writeln!(out, "Used from addresses that are strange to it: {}{more}.", shown.join(", "))?;
    }
    if account["besieged"] == true {
        writeln!(out, "Many networks have been guessing its password within the last week.")?;
    }
    let locks = list(&account["locks"]);
    if !locks.is_empty() {
        let times: Vec<String> = locks.iter().map(|lock| time(lock)).collect();
        writeln!(out, "Locked within the last month: {}.", times.join(", "))?;
    }
    if !stops.is_empty() {
        clean_up(out, name, &stops)?;
    }
    Ok(())
}

fn usual(out: &mut impl Write, account: &Value) -> io::Result<()> {
    if account["first_seen"].as_str().is_none_or(str::is_empty) {
        return writeln!(out, "It has no history here.");
    }
    let countries: Vec<String> = list(&account["countries"])
        .iter()
        .map(|place| format!("{} ({} days, last {})", text(&place["country"]), place["days"], time(&place["last"])))
        .collect();
    writeln!(out, "Known since {}, last seen {}.", time(&account["first_seen"]), time(&account["last_seen"]))?;
    if !countries.is_empty() {
        writeln!(out, "Used from: {}; {} networks.", countries.join(", "), account["networks"])?;
    }
    let (recipients, messages) = (&account["usual_recipients_an_hour"], &account["usual_messages_an_hour"]);
    writeln!(out, "Its busiest hour within four weeks: {messages} messages, {recipients} recipients outside.")
}

/// What is left to do once the account is stopped.
fn clean_up(out: &mut impl Write, name: &str, stops: &[&Value]) -> io::Result<()> {
    writeln!(out, "To do:")?;
    writeln!(out, "  1. Reach its owner by telephone, not by mail: whoever has the password reads the mail.")?;
    writeln!(out, "  2. New password; then look for forwards, Sieve rules and app passwords that were not there before.")?;
    writeln!(out, "  3. Look at what is parked (postqueue -p), delete the spam (postsuper -d), keep the rest.")?;
    let has = |state: &str| stops.iter().any(|stop| stop["state"] == state);
    if has("locked") {
        writeln!(out, "  4. mailwarden unlock {}", shell::word(name))?;
    }
    if has("held") {
        writeln!(out, "  {}. mailwarden release {}", if has("locked") { 5 } else { 4 }, shell::word(name))?;
    }
    Ok(())
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}

fn text(value: &Value) -> String {
    table::printable(value.as_str().unwrap_or_default())
}

fn time(value: &Value) -> String {
    value.as_str().map(table::local_time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_locked_account_has_a_story_and_a_list_of_things_to_do() {
        let account = json!({
            "state": "locked", "score": 112, "besieged": true, "networks": 2, "first_seen": "2026-11-01T08:00:00Z",
            "last_seen": "2026-11-24T02:31:00Z", "usual_recipients_an_hour": 4, "usual_messages_an_hour": 3,
            "stops": [{ "state": "locked", "scope": "submission", "since": "2026-11-24T02:31:00Z", "reason": "score 112: x", "evidence": ["a\u{1b}b"] }],
            "signs": [{ "time": "2026-11-24T02:31:00Z", "points": 50, "family": "volume", "text": "41 recipients", "jail": "j" }],
            "countries": [{ "country": "DE", "days": 9, "last": "2026-11-23T08:00:00Z" }],
            "strangers": ["192.0.2.1"], "locks": []
        });
        let mut out = Vec::new();
        print(&mut out, "anna@example.org", &account).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in
            ["LOCKED: it cannot send", "score 112: x", "41 recipients", "DE (9 days", "192.0.2.1", "unlock anna@example.org", "guessing"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains("release"), "{text}");
    }

    #[test]
    fn a_name_that_is_a_command_is_none_when_it_is_copied() {
        let stop = |state| json!({ "state": state, "scope": "submission", "since": "2026-11-24T02:31:00Z", "reason": "x", "evidence": [] });
        let account = json!({ "stops": [stop("locked"), stop("held")] });
        let mut out = Vec::new();
        print(&mut out, "x;id>/tmp/PWNED;@b.example", &account).unwrap();
        print(&mut out, "a\u{1b}b@b.example", &account).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("  4. mailwarden unlock 'x;id>/tmp/PWNED;@b.example'\n"), "{text}");
        assert!(text.contains("  5. mailwarden release 'x;id>/tmp/PWNED;@b.example'\n"), "{text}");
        assert!(text.contains("  5. mailwarden release '\"a\\u001bb@b.example\"'\n"), "{text}");
    }
}
