//! A message as mail: built by `lettre`, handed to a mail server over SMTP. (Postfix's sendmail command does not work for a
//! service that may gain no privileges.)
//!
//! The envelope has no sender, so that no failure of it ever comes back as mail, and one recipient, so that none who is refused
//! stands in the way of the others.

use std::time::Duration;

use lettre::address::Envelope;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};
use lettre::transport::smtp::client::SmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message};

use super::text::{self, Text};
use super::{Failure, Settings, Telling, Way};

/// For the connection, and for each answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// RFC 3834: nobody's holiday notice answers it.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }
    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted)
    }
    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// Sends what tells of all these; they are of one kind, so for one recipient.
pub(super) fn send(tellings: &[Telling], settings: &Settings) -> Result<(), Failure> {
    let Some(first) = tellings.first() else { return Ok(()) };
    let notices: Vec<_> = tellings.iter().map(|telling| &telling.notice).collect();
    // Whoever has gone from the list since is not told.
    let (text, to) = match first.way {
        Way::Owner => {
            let Some(last) = notices.last() else { return Ok(()) };
            let Some(contact) = last.account().and_then(|account| settings.config.contact(account)) else { return Ok(()) };
            (text::to_owner(last, &settings.host), contact)
        }
        Way::Mail | Way::Webhook => {
            let mut listed = settings.config.mail_to.iter();
            // A state of before each was told by himself names nobody.
            let Some(to) = listed.find(|listed| first.to.as_ref().is_none_or(|to| to == *listed)) else { return Ok(()) };
            (text::to_admin(&notices, &settings.host), to.as_str())
        }
    };
    deliver(text, to, &message_id(tellings, &settings.host), settings)
}

pub(super) fn deliver(text: Text, to: &str, id: &str, settings: &Settings) -> Result<(), Failure> {
    // What cannot be written today cannot be written tomorrow.
    let message = build(text, to, id, settings).map_err(Failure::Refused)?;
    let smtp = &settings.config.smtp;
    let hello = if is_host_name(&settings.host) { ClientId::Domain(settings.host.clone()) } else { ClientId::default() };
    let mut connection = SmtpConnection::connect((smtp.host.as_str(), smtp.port), Some(TIMEOUT), &hello, None, None)
        .map_err(|error| Failure::Server(format!("{smtp}: {}", chain(&error))))?;
    if let Err(error) = connection.send(message.envelope(), &message.formatted()) {
        let problem = format!("{smtp}, {to}: {}", chain(&error));
        return Err(match () {
            () if error.is_permanent() || error.is_client() => Failure::Refused(problem),
            () if error.is_transient() => Failure::Deferred(problem),
            () => Failure::Server(problem),
        });
    }
    // The message is taken, whatever is answered to that.
    let _ = connection.quit();
    Ok(())
}

fn build(text: Text, to: &str, id: &str, settings: &Settings) -> Result<Message, String> {
    let address = |text: &str| text.parse::<Address>().map_err(|error| format!("{text:?} is no address: {error}"));
    let to = address(to)?;
    let from = settings.config.mail_from.clone().unwrap_or_else(|| default_from(&settings.host));
    let from = Mailbox::new(Some("mailwarden".to_owned()), address(&from)?);
    let envelope = Envelope::new(None, vec![to.clone()]).map_err(|error| format!("nobody to send it to: {error}"))?;
    Message::builder()
        .to(Mailbox::new(None, to))
        .from(from)
        .subject(text.subject)
        .date_now()
        .message_id(Some(id.to_owned()))
        .header(AutoSubmitted)
        .envelope(envelope)
        .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text.body))
        .map_err(|error| error.to_string())
}

/// The same decision has the same one, so that a message that comes twice, after a crash or by an alias, can be told to be one.
fn message_id(tellings: &[Telling], host: &str) -> String {
    let host = if is_host_name(host) { host } else { "localhost" };
    match tellings {
        [only] => format!("<{}@{host}>", only.notice.name(only.way)),
        many => {
            let first = many.first().map_or_else(|| "none".to_owned(), |telling| telling.notice.name(telling.way));
            let last = many.last().map_or(0, |telling| telling.notice.id);
            format!("<{first}-{last:016x}-{}@{host}>", many.len())
        }
    }
}

fn default_from(host: &str) -> String {
    format!("mailwarden@{}", if is_host_name(host) { host } else { "localhost" })
}

/// The name of this host, as the kernel has it.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if is_host_name(name) { name.to_owned() } else { "localhost".to_owned() }
}

fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && !label.starts_with('-') && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// With what lies behind it: lettre's own words are "network error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text::visible(&text, 300)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Notify;
    use crate::engine::decision::Verb;
    use crate::notify::text::tests::notice;

    fn settings() -> Settings {
        Settings { host: "mx1.example.org".into(), ..Settings::new(&Notify::default()) }
    }

    fn telling(account: &str) -> Telling {
        Telling::new(Way::Mail, Some("root@example.org".into()), notice(255, Verb::Lock, account))
    }

    fn written(account: &str) -> String {
        let telling = telling(account);
        let text = text::to_admin(&[&telling.notice], "mx1.example.org");
        let id = message_id(std::slice::from_ref(&telling), "mx1.example.org");
        let message = build(text, "root@example.org", &id, &settings()).unwrap();
        assert_eq!(message.envelope().from(), None);
        assert_eq!(message.envelope().to().len(), 1);
        String::from_utf8(message.formatted()).unwrap()
    }

    #[test]
    fn the_headers_say_who_and_that_a_program_wrote_it() {
        let text = written("anna@example.org");
        let (headers, body) = text.split_once("\r\n\r\n").unwrap();
        for header in [
            "From: mailwarden <mailwarden@mx1.example.org>",
            "To: root@example.org",
            "Subject: [mailwarden mx1.example.org] locked: anna@example.org",
            "Message-ID: <00000000000000ff-lock-mail@mx1.example.org>",
            "Auto-Submitted: auto-generated",
            "Date: ",
        ] {
            assert!(headers.lines().any(|line| line.starts_with(header)), "no {header:?} in\n{headers}");
        }
        assert!(body.contains("mailwarden unlock anna@example.org"), "{body}");
    }

    #[test]
    fn an_account_name_adds_no_header_and_no_recipient() {
        let text = written("x\r\nBcc: everybody@example.net\r\n.\r\nMAIL FROM:<x>\r\nanna");
        let (headers, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(!headers.to_lowercase().contains("\nbcc"), "{headers}");
        assert!(!body.lines().any(|line| line == "." || line.starts_with("MAIL FROM")), "{body}");
    }

    #[test]
    fn names_of_hosts() {
        for (name, expected) in [("mx1.example.org", true), ("mx1", true), ("", false), ("a b", false), ("a..b", false), ("x\n", false)] {
            assert_eq!(is_host_name(name), expected, "{name:?}");
        }
    }
}
