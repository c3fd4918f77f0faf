//! What a message says: plain, short, of use at three in the morning. Pure.
//!
//! Names and log lines are written by strangers. Headers carry names with nothing but letters, digits and a few signs in them; in
//! the body, control characters are made visible, and whatever is to be typed into a shell is quoted for it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Notice;
use crate::address::display;
use crate::engine::decision::{Cause, Subject, Verb};
use crate::engine::jail::Scope;
use crate::limits::{DIGEST_FULL_MAX, DIGEST_LINES_MAX, EVIDENCE_LINES_MAX, PLACES_TOLD_MAX};
use crate::shell;
use crate::time::Timestamp;

/// Characters of a name in a subject line.
const NAME_IN_SUBJECT_MAX: usize = 64;
/// Characters of a log line, and of a reason.
const LINE_CHARS_MAX: usize = 300;
const REASON_CHARS_MAX: usize = 1_200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub subject: String,
    pub body: String,
}

/// To the administrator: one decision, or all that were gathered. They are of one verb.
pub fn to_admin(notices: &[&Notice], host: &str) -> Text {
    let tag = format!("[mailwarden {}]", in_header(host));
    match notices {
        [] => Text { subject: tag, body: String::new() },
        [only] => {
            let subject = format!("{tag} {}: {}", headline(only), in_header(&name(only)));
            Text { subject, body: format!("{}\n{}", story(only, host), footer(host)) }
        }
        [first, ..] => {
            let mut body = format!("{} decisions since {}, the latest last:\n\n", notices.len(), stamp(first.time));
            for notice in notices.iter().take(DIGEST_LINES_MAX) {
                let _ = writeln!(body, "  {}  {}: {}", stamp(notice.time), headline(notice), visible(&name(notice), LINE_CHARS_MAX));
            }
            if let Some(more) = notices.len().checked_sub(DIGEST_LINES_MAX).filter(|more| *more > 0) {
                let _ = writeln!(body, "  and {more} more; `mailwarden list locks` shows who is stopped now");
            }
            for notice in notices.iter().take(DIGEST_FULL_MAX) {
                let _ = write!(body, "\n----\n\n{}", story(notice, host));
            }
            if let Some(more) = notices.len().checked_sub(DIGEST_FULL_MAX).filter(|more| *more > 0) {
                let _ = write!(body, "\n----\n\nOf the other {more}, `mailwarden why NAME` tells as much.\n");
            }
            let _ = write!(body, "\n{}", footer(host));
            Text { subject: format!("{tag} {} × {}", notices.len(), headline(first)), body }
        }
    }
}

/// To the owner of an account. He learns neither the limits nor the evidence: the thief may read along.
pub fn to_owner(notice: &Notice, host: &str) -> Text {
    let account = name(notice);
    let (subject, what) = match notice.verb {
        Verb::Lock => ("sending is suspended", "can send no mail for now"),
        Verb::Hold => ("mail is held back", "can send mail, but it is held back for now"),
        Verb::Unlock => ("sending is possible again", "can send mail again"),
        _ => ("mail goes on", "can send mail again, and what was held back goes on"),
    };
    let mut body = format!("The mailbox {} on {} {what}.\n", visible(&account, LINE_CHARS_MAX), visible(host, LINE_CHARS_MAX));
    if matches!(notice.verb, Verb::Lock | Verb::Hold) {
        let _ = write!(
            body,
            "\nSince {} it was used in a way that looks as if somebody else knew its password.\n\n\
             Please\n  - do not read or answer this in that mailbox,\n  - check the computers and telephones that use it for malware,\n  \
             - then call the people who run your mail, and agree on a new password with them.\n",
            stamp(notice.time)
        );
    }
    Text { subject: format!("[{}] {}: {subject}", in_header(host), in_header(&account)), body }
}

/// Once a day, how many were banned by which jail.
pub fn bans_of_the_day(counts: &[(String, u64)], day: &str, host: &str) -> Text {
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let mut body = format!("Bans on {day} (UTC), by jail:\n\n");
    for (jail, count) in counts {
        let _ = writeln!(body, "  {count:>8}  {}", visible(jail, 80));
    }
    let _ = write!(body, "\n`mailwarden list` shows those in force.\n\n{}", footer(host));
    Text { subject: format!("[mailwarden {}] {total} bans on {day}", in_header(host)), body }
}

/// For the webhook.
pub fn to_json(notice: &Notice, host: &str) -> Value {
    let (ip, account) = match &notice.subject {
        Subject::Net(net) => (Some(display(*net)), None),
        Subject::Account(name) => (None, Some(name)),
    };
    let places: Vec<Value> = notice.places.iter().map(|(ip, country)| json!({ "ip": ip, "country": country })).collect();
    json!({
        "id": format!("{:016x}", notice.id),
        "text": to_admin(&[notice], host).subject,
        "host": host,
        "time": Timestamp::from_micros(notice.time).rfc3339(),
        "action": notice.verb,
        "ip": ip,
        "account": account,
        "jail": notice.jail,
        "scope": notice.scope,
        "until": ends(notice).map(Timestamp::rfc3339),
        "reason": notice.reason,
        "cause": notice.cause,
        "observed": notice.observed,
        "in_force": notice.in_force,
        "places": places,
        "recipients": notice.recipients,
        "evidence": notice.evidence,
    })
}

/// `locked`, `would be held`, `alert`.
fn headline(notice: &Notice) -> String {
    let (done, would) = match notice.verb {
        Verb::Lock => ("locked", "would be locked"),
        Verb::Unlock => ("unlocked", "would be unlocked"),
        Verb::Hold => ("mail held", "mail would be held"),
        Verb::Release => ("mail released", "mail would be released"),
        Verb::Ban => ("banned", "would be banned"),
        Verb::Unban => ("ban lifted", "ban would be lifted"),
        Verb::Alert => ("alert", "alert"),
    };
    if is_done(notice) { done } else { would }.to_owned()
}

/// An end of something needs no way to carry it out.
const fn is_done(notice: &Notice) -> bool {
    !notice.observed && (notice.in_force || matches!(notice.verb, Verb::Unlock | Verb::Release | Verb::Alert))
}

fn name(notice: &Notice) -> String {
    match &notice.subject {
        Subject::Net(net) => display(*net),
        Subject::Account(name) if name == "*" => "the whole host".to_owned(),
        Subject::Account(name) => name.clone(),
    }
}

fn is_whole_host(notice: &Notice) -> bool {
    notice.account() == Some("*")
}

fn story(notice: &Notice, host: &str) -> String {
    let mut out = format!("{}: {} on {}\n\n", visible(&name(notice), LINE_CHARS_MAX), headline(notice), visible(host, LINE_CHARS_MAX));
    row(&mut out, "when", &stamp(notice.time));
    if let Some(until) = ends(notice) {
        row(&mut out, "until", &until.to_string());
    }
    row(&mut out, "why", &visible(&notice.reason, REASON_CHARS_MAX));
    let by = match notice.cause {
        Cause::Operator => "the operator".to_owned(),
        Cause::Engine | Cause::Fleet => format!("jail {}", visible(&notice.jail, 80)),
    };
    row(&mut out, "by", &by);
    if !notice.places.is_empty() {
        row(&mut out, "from", &places(notice));
    }
    if notice.recipients > 0 {
        row(&mut out, "reached", &format!("{} recipients outside within the last day", notice.recipients));
    }
    row(&mut out, "done", done(notice));
    out.push_str(&todo(notice));
    if !notice.evidence.is_empty() {
        out.push_str("\nThe last lines of the log:\n");
        let skip = notice.evidence.len().saturating_sub(EVIDENCE_LINES_MAX);
        for line in notice.evidence.iter().skip(skip) {
            let _ = writeln!(out, "  {}", visible(line, LINE_CHARS_MAX));
        }
    }
    out
}

fn row(out: &mut String, title: &str, text: &str) {
    let _ = writeln!(out, "  {title:<8} {text}");
}

fn places(notice: &Notice) -> String {
    let one = |(ip, country): &(String, Option<String>)| match country {
        Some(country) => format!("{} ({})", visible(ip, 60), visible(country, 2)),
        None => visible(ip, 60),
    };
    let mut text = notice.places.iter().take(PLACES_TOLD_MAX).map(one).collect::<Vec<_>>().join(", ");
    if let Some(more) = notice.places.len().checked_sub(PLACES_TOLD_MAX).filter(|more| *more > 0) {
        let _ = write!(text, " and {more} more");
    }
    text
}

fn done(notice: &Notice) -> &'static str {
    match (notice.verb, is_done(notice)) {
        (Verb::Alert, _) => "nothing; somebody should look",
        (_, false) if notice.observed => "nothing: it is only observed",
        (_, false) => "NOTHING: a dry run, or no way to carry it out (`mailwarden status`, docs/accounts.md)",
        (Verb::Lock, _) if notice.scope == Scope::Submission => {
            "sending is refused; its mail in the queue is on hold, where the helper runs"
        }
        (Verb::Lock, _) => "no login works; its mail in the queue is on hold, where the helper runs",
        (Verb::Hold, _) => "mail is still taken, but waits in the queue on hold",
        (Verb::Unlock, _) => "sending works again; what is on hold stays there",
        (Verb::Release, _) => "mail goes out again, also what was on hold",
        (Verb::Ban, _) => "the address is shut out",
        (Verb::Unban, _) => "the address may come again",
    }
}

/// What to do now, and how to undo it.
fn todo(notice: &Notice) -> String {
    let account = shell::word(&name(notice));
    let stopped = "
What to do
  1. Reach the owner by telephone, not by mail: whoever has the password reads the mailbox.
  2. New password; look for malware on his devices, for forwards and filter rules in the mailbox.
";
    match notice.verb {
        Verb::Lock => format!(
            "{stopped}  3. Look at the queue (`postqueue -p`), delete what is spam, then:\n\n\
             \x20      mailwarden why {account}\n\
             \x20      mailwarden unlock {account}       # sending works again\n\
             \x20      mailwarden release {account}      # what is on hold goes out\n\n\
             \x20    If it was the owner after all, `unlock --false-alarm`: where he was is his own place from then on.\n"
        ),
        Verb::Hold => format!(
            "{stopped}  3. If the mail is all right and the owner's own (his new place is known then):\n\n\
             \x20      mailwarden release --false-alarm {account}\n\n\
             \x20    if it is not:\n\n\
             \x20      mailwarden why {account}\n\
             \x20      mailwarden lock {account}\n"
        ),
        Verb::Unlock => {
            format!("\nTo take it back: mailwarden lock {account}\nMail of before that is still on hold: mailwarden release {account}\n")
        }
        Verb::Release => format!("\nTo take it back: mailwarden hold {account}\n"),
        Verb::Ban => format!("\nTo take it back: mailwarden unban {account}\n"),
        Verb::Alert if is_whole_host(notice) => {
            "\nWhat to do\n  `mailwarden status` and `mailwarden list locks` show how things stand.\n".to_owned()
        }
        Verb::Alert if matches!(notice.subject, Subject::Account(_)) => format!(
            "\nWhat to do\n\
             \x20      mailwarden why {account}\n\
             \x20      mailwarden hold {account}         # if in doubt: mail waits, nothing is lost\n\
             \x20      mailwarden lock {account}         # if it is stolen\n"
        ),
        Verb::Alert | Verb::Unban => format!("\nWhat to do\n       mailwarden why {account}\n"),
    }
}

fn footer(host: &str) -> String {
    format!("-- \nmailwarden on {}. Who is told what: [notify] in mailwarden.toml.\n", visible(host, LINE_CHARS_MAX))
}

fn stamp(micros: i64) -> String {
    Timestamp::from_micros(micros).to_string()
}

fn ends(notice: &Notice) -> Option<Timestamp> {
    let until = Timestamp::from_micros(notice.until);
    (matches!(notice.verb, Verb::Lock | Verb::Ban) && until != Timestamp::NEVER).then_some(until)
}

/// A name as it may stand in a header: of everything else, `?`.
pub fn in_header(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '@' | '.' | '-' | '_' | '+' | '=' | '/' | ':' | ' ');
    let mut text: String = name.chars().take(NAME_IN_SUBJECT_MAX).map(|c| if is_plain(c) { c } else { '?' }).collect();
    if name.chars().nth(NAME_IN_SUBJECT_MAX).is_some() {
        text.push('…');
    }
    text
}

/// Foreign text on one line: control characters and those that turn the direction around are written out, the rest is cut.
pub fn visible(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    for c in text.chars().take(chars_max) {
        if shell::is_hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if text.chars().nth(chars_max).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
pub(in crate::notify) mod tests {
    use super::*;

    pub fn notice(id: u64, verb: Verb, account: &str) -> Notice {
        Notice {
            id,
            time: 1_795_500_000_000_000,
            verb,
            subject: Subject::Account(account.to_owned()),
            scope: Scope::Submission,
            until: i64::MAX,
            jail: "risk".to_owned(),
            reason: "score 112: 41 recipients in 1h from a country new to the account (VN) (50)".to_owned(),
            cause: Cause::Engine,
            observed: false,
            in_force: true,
            evidence: vec!["postfix/smtpd[1]: 4X: client=x[203.0.113.9], sasl_username=anna@example.org".to_owned()],
            places: vec![("203.0.113.9".to_owned(), Some("VN".to_owned())), ("198.51.100.7".to_owned(), None)],
            recipients: 412,
        }
    }

    #[test]
    fn a_lock_says_what_happened_and_how_to_undo_it() {
        let text = to_admin(&[&notice(1, Verb::Lock, "anna@example.org")], "mx1.example.org");
        assert_eq!(text.subject, "[mailwarden mx1.example.org] locked: anna@example.org");
        for part in [
            "anna@example.org: locked on mx1.example.org\n",
            "  why      score 112: 41 recipients in 1h",
            "  from     203.0.113.9 (VN), 198.51.100.7\n",
            "  reached  412 recipients outside within the last day\n",
            "  done     sending is refused",
            "by telephone, not by mail",
            "       mailwarden unlock anna@example.org ",
            "       mailwarden release anna@example.org ",
            "\n  postfix/smtpd[1]: 4X: client=x[203.0.113.9]",
        ] {
            assert!(text.body.contains(part), "no {part:?} in\n{}", text.body);
        }
    }

    #[test]
    fn what_was_not_done_is_not_claimed() {
        let mut dry = notice(1, Verb::Lock, "anna@example.org");
        dry.in_force = false;
        let text = to_admin(&[&dry], "mx1");
        assert_eq!(text.subject, "[mailwarden mx1] would be locked: anna@example.org");
        assert!(text.body.contains("  done     NOTHING"), "{}", text.body);
        dry.observed = true;
        assert!(to_admin(&[&dry], "mx1").body.contains("only observed"));
    }

    #[test]
    fn no_foreign_text_breaks_a_header_a_line_or_a_shell() {
        let evil = "x\r\nBcc: all@example.net\r\n\r\n<b>'; rm -rf / #\u{202e}$(id)@example.org";
        for text in [to_admin(&[&notice(1, Verb::Lock, evil)], "mx1"), to_owner(&notice(1, Verb::Lock, evil), "mx1")] {
            assert!(!text.subject.contains(['\r', '\n', '<', '\u{202e}']), "{:?}", text.subject);
            assert!(!text.body.contains(['\r', '\u{202e}']), "{:?}", text.body);
            assert!(!text.body.lines().any(|line| line.starts_with("Bcc")), "{:?}", text.body);
        }
        let body = to_admin(&[&notice(1, Verb::Lock, "x;id>/tmp/PWNED;@b.example\u{1b}")], "mx1").body;
        assert!(body.contains("mailwarden unlock '\"x;id>/tmp/PWNED;@b.example\\u001b\"' "), "{body}");
        assert_eq!(in_header(&"a".repeat(500)).chars().count(), NAME_IN_SUBJECT_MAX + 1);
    }

    #[test]
    fn a_digest_is_bounded() {
        let notices: Vec<Notice> = (0..2_000).map(|id| notice(id, Verb::Alert, &format!("user{id}@example.org"))).collect();
        let text = to_admin(&notices.iter().collect::<Vec<_>>(), "mx1");
        assert_eq!(text.subject, "[mailwarden mx1] 2000 × alert");
        assert!(text.body.len() < 40_000, "{}", text.body.len());
        assert!(text.body.contains("and 1900 more"));
    }

    #[test]
    fn the_owner_learns_neither_limits_nor_evidence() {
        let body = to_owner(&notice(1, Verb::Lock, "anna@example.org"), "mx1").body;
        assert!(body.contains("anna@example.org") && body.contains("new password"));
        assert!(!body.contains("score") && !body.contains("203.0.113.9") && !body.contains("412"), "{body}");
    }
}
