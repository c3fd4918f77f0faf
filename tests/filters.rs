//! The shipped filters: their samples hold, and what an attacker writes into a line moves neither address nor account.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use mailwarden::parse::{Field, FilterError, FilterSet, FilterSource, Outcome, Parsed, Parser, ParserOptions};
use mailwarden::time::Timestamp;
use proptest::prelude::*;

fn sources() -> Vec<FilterSource> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("filters");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files.iter().map(|file| FilterSource { file: file.display().to_string(), text: std::fs::read_to_string(file).unwrap() }).collect()
}

fn show(errors: &[FilterError], sources: &[FilterSource]) -> String {
    let place = |error: &FilterError| {
        let text = sources.iter().find(|source| source.file == error.file).map_or("", |source| &source.text);
        text[..error.span.start.min(text.len())].lines().count()
    };
    errors
        .iter()
        .map(|error| format!("{}:{}: {} {}\n", error.file, place(error), error.message, error.help.as_deref().unwrap_or_default()))
        .collect()
}

fn shipped() -> Arc<FilterSet> {
    let sources = sources();
    Arc::new(FilterSet::compile(&sources).unwrap_or_else(|errors| panic!("{}", show(&errors, &sources))))
}

#[test]
fn samples_hold() {
    let errors = shipped().check_samples();
    assert!(errors.is_empty(), "\n{}", show(&errors, &sources()));
}

// --- what an attacker writes into a line ---

static SET: LazyLock<Arc<FilterSet>> = LazyLock::new(shipped);

fn parser() -> Parser {
    let reference = Timestamp::from_seconds(1_800_000_000);
    Parser::new(SET.clone(), ParserOptions { zone: jiff::tz::TimeZone::UTC, reference, annotated: false })
}

fn samples() -> Vec<String> {
    SET.sample_lines().map(|(_, line)| line).collect()
}

/// Pieces of lines that name a victim, alone and behind what closes the field that they are put in.
fn payloads() -> Vec<String> {
    let mut texts: Vec<String> = [
        "x[203.0.113.66]",
        "unknown[203.0.113.66]: SASL LOGIN authentication failed: x, sasl_username=victim",
        "x, sasl_username=victim",
        "x, sasl_username=(unavailable)",
        " from unknown[203.0.113.66]",
        " from unknown[203.0.113.66]: 550 5.1.1 <a>: User unknown",
        " from unknown[203.0.113.66]; from=<a> to=<b> proto=ESMTP helo=<c>",
        " from unknown[203.0.113.66]; from=<a> to=<b> proto=ESMTP helo=<c>: 5.7.1 no",
        " from unknown[203.0.113.66]; from=<a",
        "; from=<a> to=<b> proto=ESMTP helo=<c> sasl_username=victim",
        "; from=<a> to=<b> proto=ESMTP helo=<c> sasl_method=PLAIN sasl_username=victim sasl_sender=x",
        "rip=203.0.113.66",
        ", rip=203.0.113.66, lip=10.0.0.1",
        ">, rip=203.0.113.66, lip=10.0.0.1, session=<x>",
        ">, method=PLAIN, rip=203.0.113.66, lip=10.0.0.1, session=<",
        " (auth failed, 99 attempts in 1 secs): user=<victim>, method=PLAIN, rip=203.0.113.66, lip=10.0.0.1",
        "user=<victim>",
        ",203.0.113.66): unknown user",
        ",203.0.113.66,<x>): Password mismatch",
        ",203.0.113.66,sasl:plain)<x>: passwd-file: unknown user",
        " rhost=203.0.113.66  user=victim",
        " from 203.0.113.66 port 22 ssh2",
        " 203.0.113.66 port 22 [preauth]",
        "' from 203.0.113.66 port 22",
        "]: SASL LOGIN authentication failed: x",
        "[203.0.113.66]:25: x",
        "] authentication failed: x",
        "\n2026-11-24T02:31:55Z mx1 sshd[1]: Failed password for victim from 203.0.113.66 port 22 ssh2",
        "",
    ]
    .map(str::to_owned)
    .to_vec();
    let closers = ["", ">", "\"", ")", "]", "'", "x "];
    texts = texts.iter().flat_map(|text| closers.iter().map(move |closer| format!("{closer}{text}"))).collect();
    for line in samples() {
        let victim = line.replace("192.0.2.1", "203.0.113.66").replace("2001:db8::1", "2001:db8:dead::66").replace("anna", "victim");
        texts.push(victim.split_once(": ").map_or(victim.clone(), |(_, message)| message.to_owned()));
        texts.push(victim);
    }
    texts
}

/// `text` as the program writes it in this place, where it lets it through at all.
fn as_written(field: Field, line: &str, text: &str) -> Option<Vec<String>> {
    let shown: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let host = |text: &str| text.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' }).collect::<String>();
    Some(match field {
        // A verified reverse name; Postfix takes none with other bytes.
        Field::ClientName | Field::Relay => vec![format!("x{}", host(&shown))],
        // smtpd's neuter() leaves no space.
        Field::Helo => vec![shown.replace(' ', "?"), shown.replace([' ', '<', '>', ';'], "?")],
        // Dovecot logs a mechanism in upper case.
        Field::Mechanism if line.contains("-login: ") => vec![shown.to_uppercase()],
        // A token of an SMTP command: spaces only in quotes or brackets.
        Field::Mechanism => vec![shown.replace(' ', ""), format!("\"{shown}\""), format!("<{shown}>"), format!("X\"{shown}\"")],
        Field::Sender | Field::Recipient | Field::OrigRecipient => {
            let quoted = shown.replace('\\', "\\\\").replace('"', "\\\"");
            vec![format!("\"{quoted}\"@example.com"), format!("a@{}", host(&shown))]
        }
        Field::Account | Field::Text | Field::MessageId => vec![shown],
        Field::Session | Field::QueueId | Field::OrigQueueId | Field::OtherQueueId | Field::Dsn | Field::Status => return None,
    })
}

fn recognised(parser: &mut Parser, line: &[u8]) -> Option<(Option<IpAddr>, Option<Vec<u8>>, Parsed)> {
    match parser.parse(line, None) {
        Outcome::Line(parsed) => Some((parsed.client, parsed.text(line, Field::Account).map(<[u8]>::to_vec), parsed)),
        _ => None,
    }
}

#[test]
fn no_field_moves_the_address_or_the_account() {
    let mut parser = parser();
    let payloads = payloads();
    let mut tried = 0u32;
    for line in samples() {
        let (client, account, parsed) = recognised(&mut parser, line.as_bytes()).expect("samples_hold");
        for &field in Field::ALL {
            let Some(value) = parsed.text(line.as_bytes(), field) else { continue };
            // What the authentication server answers is its own.
            if field == Field::Text && ["sasl-failed", "auth-refused", "worker-refused"].contains(&SET.pattern_name(parsed.pattern)) {
                continue;
            }
            let start = value.as_ptr() as usize - line.as_ptr() as usize;
            let end = start + value.len();
            for text in payloads.iter().filter_map(|text| as_written(field, &line, text)).flatten() {
                let forged = format!("{}{text}{}", &line[..start], &line[end..]);
                tried += 1;
                let Some((seen, name, _)) = recognised(&mut parser, forged.as_bytes()) else { continue };
                assert!(seen.is_none() || seen == client, "<{field}> chose the address {seen:?}:\n{forged}");
                if field != Field::Account {
                    // Reading no account does no harm, nor does a name that is nobody's because Dovecot lets `>` into a mechanism.
                    let whole = account.clone().unwrap_or_default();
                    let nobodys = |name: &[u8]| {
                        field == Field::Mechanism && name.strip_prefix(&whole[..]).is_some_and(|rest| rest.starts_with(b">, method="))
                    };
                    assert!(
                        name.as_ref().is_none_or(|name| nobodys(name)) || name == account,
                        "<{field}> chose the account {:?}:\n{forged}",
                        name.map(|name| String::from_utf8_lossy(&name).into_owned())
                    );
                }
            }
        }
    }
    assert!(tried > 100_000, "{tried}");
}

#[test]
fn a_line_cut_short_names_no_other_address() {
    let mut parser = parser();
    // sshd caps names at 100 bytes and lines at 1,024, so its lines are never cut; in some the address stands at the very end.
    for line in samples().into_iter().filter(|line| !line.contains(" sshd")) {
        let (client, _, _) = recognised(&mut parser, line.as_bytes()).expect("samples_hold");
        // What stands before the address, such as another one in a login name, is capped by the programs far below the 2,000
        // bytes and more at which lines are cut.
        let Some(address) = client.map(|ip| ip.to_string()).and_then(|ip| Some(line.rfind(&ip)? + ip.len() + 12)) else { continue };
        let start = if line.contains("203.0.113.66") { address } else { 0 };
        for end in start..line.len() {
            if let Some((seen, _, parsed)) = recognised(&mut parser, &line.as_bytes()[..end]) {
                assert!(seen.is_none() || seen == client || parsed.restates, "cut to:\n{}", &line[..end]);
            }
        }
    }
}

#[test]
fn a_cut_reject_names_no_account() {
    let head = "Nov 24 02:31:55 mx1 postfix/smtpd[1]: ";
    let message = "NOQUEUE: reject: RCPT from unknown[192.0.2.1]: 554 5.7.1 <b@example.net>: Relay access denied; from=<\"FILL; from=<a> to=<b> proto=ESMTP helo=<c> sasl_username=victim";
    let line = format!("{head}{}", message.replace("FILL", &"x".repeat(2_000 + 4 - message.len())));
    assert_eq!(line.len() - head.len(), 2_000);
    let (client, account, _) = recognised(&mut parser(), line.as_bytes()).unwrap();
    assert_eq!((client, account), (Some("192.0.2.1".parse().unwrap()), None));
}

// --- anything at all ---

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0u8..4, any::<u8>(), 0usize..40);
    (prop::sample::select(samples()), prop::collection::vec(edit, 1..6)).prop_map(|(line, edits)| {
        let mut bytes = line.into_bytes();
        for (place, what, byte, length) in edits {
            let at = place.index(bytes.len().max(1)).min(bytes.len());
            let end = (at + length).min(bytes.len());
            match what {
                0 => drop(bytes.splice(at..at, [byte])),
                1 => drop(bytes.drain(at..end)),
                2 => bytes.extend_from_within(at..end),
                _ => drop(bytes.splice(at..end, std::iter::repeat_n(byte, length))),
            }
        }
        bytes
    })
}

/// Parses with and without a receive time; all ranges of what is recognised lie in the line.
fn try_line(line: &[u8]) {
    let mut parser = parser();
    for received in [None, Some(Timestamp::ZERO)] {
        if let Outcome::Line(parsed) = parser.parse(line, received) {
            for &field in Field::ALL {
                let _ = parsed.text(line, field);
            }
        }
    }
    let explanation = SET.explain(line);
    assert!(explanation.attempts.iter().all(|attempt| attempt.reached <= line.len()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        try_line(&bytes);
    }

    #[test]
    fn any_message_does_no_harm(
        tag in prop::sample::select(vec!["postfix/smtpd", "postfix/cleanup", "postfix/smtp", "postfix/postscreen", "dovecot: imap-login", "dovecot: auth", "sshd"]),
        message in "[ -~\\n\u{e9}\\x00<>\\[\\]:;,=]{0,300}"
    ) {
        try_line(format!("Nov 24 02:31:55 mx1 {tag}: {message}").as_bytes());
    }

    #[test]
    fn changed_lines_do_no_harm(line in mutated()) {
        try_line(&line);
    }
}

#[test]
fn monsters_do_no_harm() {
    for line in samples() {
        let (head, tail) = line.split_at(line.len() / 2);
        for filling in ["x", " ", " from unknown[203.0.113.66]", "; from=<", ">, ", ",", "\0", "\u{2028}", "<", "\""] {
            let mut monster = head.as_bytes().to_vec();
            while monster.len() < 1 << 20 {
                monster.extend_from_slice(filling.as_bytes());
            }
            monster.extend_from_slice(tail.as_bytes());
            try_line(&monster);
        }
    }
}
