//! The policy protocol (Postfix, SMTPD_POLICY_README): lines `name=value`, an empty line, an answer. Pure: no I/O, no clock.

use crate::limits::POLICY_REQUEST_BYTES_MAX;

/// What one request says, as far as it matters here. Everything in it is the client's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    pub account: &'a [u8],
    pub client: &'a [u8],
    /// Empty at the end of a message with several recipients.
    pub recipient: &'a [u8],
}

/// How a submitter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Held,
    Locked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing to say: Postfix goes on with its next restriction.
    Dunno,
    /// The message is accepted and parked.
    Hold,
    /// Refused, and the connection is closed: also the session of a thief who is logged in.
    HangUp,
}

/// Takes a stream apart into requests, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct Requests {
    bytes: Vec<u8>,
    /// What of `bytes` has been given out.
    taken: usize,
    /// Within a request that is too long: its rest is passed over.
    is_cut: bool,
}

/// A request without its empty line.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    Request(Request<'a>),
    /// It was too long.
    Cut,
}

impl Requests {
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next complete request.
    pub fn take(&mut self) -> Option<Taken<'_>> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        // An empty line where a request would begin is a request without attributes.
        let end = if rest.first() == Some(&b'\n') && !self.is_cut {
            Some((0, 1))
        } else {
            memchr::memmem::find(rest, b"\n\n").map(|at| (at, at + 2))
        };
        let Some((length, behind)) = end else {
            if rest.len() > POLICY_REQUEST_BYTES_MAX + 1 {
                // The last byte stays: it may be the first half of the end.
                self.taken = self.bytes.len() - 1;
                self.is_cut = true;
            }
            return None;
        };
        let start = self.taken;
        self.taken += behind;
        if std::mem::take(&mut self.is_cut) || length > POLICY_REQUEST_BYTES_MAX {
            return Some(Taken::Cut);
        }
        self.bytes.get(start..start + length).map(|text| Taken::Request(Request::read(text)))
    }
}

impl<'a> Request<'a> {
    /// Unknown attributes are passed over, and so are lines that are none; of one name the first counts.
    fn read(text: &'a [u8]) -> Self {
        let mut request = Request::default();
        let mut is_policy = false;
        for line in text.split(|byte| *byte == b'\n') {
            let Some(equals) = memchr::memchr(b'=', line) else { continue };
            let (name, value) = (&line[..equals], &line[equals + 1..]);
            let field = match name {
                b"request" => {
                    is_policy = value == b"smtpd_access_policy";
                    continue;
                }
                b"sasl_username" => &mut request.account,
                b"client_address" => &mut request.client,
                b"recipient" => &mut request.recipient,
                _ => continue,
            };
            if field.is_empty() {
                *field = value;
            }
        }
        if is_policy { request } else { Request::default() }
    }

    /// The submitter in the words of `correlate`; its name may still have to be made canonical.
    pub fn submitter(&self) -> Option<Submitter<'a>> {
        match (self.account, self.client) {
            ([], []) => None,
            ([], client) => Some(Submitter::Client(client)),
            (account, _) => Some(Submitter::Account(account)),
        }
    }

    /// Whether the message goes to the people who can help: postmaster or abuse of `domains`.
    fn is_for_help(&self, domains: &[String]) -> bool {
        let Some(at) = memchr::memrchr(b'@', self.recipient) else { return false };
        let (local, domain) = (&self.recipient[..at], &self.recipient[at + 1..]);
        let is_role = [&b"postmaster"[..], b"abuse"].iter().any(|role| local.eq_ignore_ascii_case(role));
        is_role && domains.iter().any(|ours| !ours.is_empty() && ours.as_bytes().eq_ignore_ascii_case(domain))
    }

    /// What follows from how the submitter stands. `domains` are the host's own.
    pub fn answer(&self, standing: Option<Standing>, domains: &[String]) -> Answer {
        match standing {
            None => Answer::Dunno,
            Some(_) if self.is_for_help(domains) => Answer::Dunno,
            Some(Standing::Held) => Answer::Hold,
            Some(Standing::Locked) => Answer::HangUp,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitter<'a> {
    /// As the client wrote it.
    Account(&'a [u8]),
    /// An address without a login.
    Client(&'a [u8]),
}

impl Answer {
    /// `text` is what a refused client reads; it holds no line break.
    pub fn write(self, text: &str, out: &mut Vec<u8>) {
        match self {
            Answer::Dunno => out.extend_from_slice(b"action=DUNNO\n\n"),
            Answer::Hold => out.extend_from_slice(b"action=HOLD mailwarden: the sender's mail is held\n\n"),
            Answer::HangUp => {
                out.extend_from_slice(b"action=421 4.7.1 ");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\n\n");
            }
        }
    }
}

/// Whether a configured text can be an SMTP reply: one line of printable ASCII.
pub fn is_reply_text(text: &str) -> bool {
    const REPLY_BYTES_MAX: usize = 200;
    !text.trim().is_empty() && text.len() <= REPLY_BYTES_MAX && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ASKED: &str = "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.7\nsasl_username=anna@example.org\nrecipient=x@example.net\n\n";

    /// Account, client, recipient.
    type Asked = (Vec<u8>, Vec<u8>, Vec<u8>);

    fn all(pieces: &[&[u8]]) -> Vec<Option<Asked>> {
        let mut requests = Requests::default();
        let mut taken = Vec::new();
        for piece in pieces {
            requests.push(piece);
            while let Some(one) = requests.take() {
                taken.push(match one {
                    Taken::Request(request) => Some((request.account.to_vec(), request.client.to_vec(), request.recipient.to_vec())),
                    Taken::Cut => None,
                });
            }
        }
        taken
    }

    #[test]
    fn a_request_is_read_however_it_is_cut() {
        let whole = all(&[ASKED.as_bytes()]);
        assert_eq!(whole, [Some((b"anna@example.org".to_vec(), b"192.0.2.7".to_vec(), b"x@example.net".to_vec()))]);
        let bytes: Vec<&[u8]> = ASKED.as_bytes().chunks(1).collect();
        assert_eq!(all(&bytes), whole);
        assert_eq!(all(&[ASKED.repeat(3).as_bytes()]).len(), 3);
    }

    #[test]
    fn what_is_no_policy_request_names_nobody() {
        for text in ["sasl_username=anna\n\n", "request=other\nsasl_username=anna\n\n", "\n", "=\n\n", "sasl_username\n\n", "\0\u{1}=\n\n"]
        {
            assert_eq!(all(&[text.as_bytes()]), [Some(Default::default())], "{text:?}");
        }
    }

    #[test]
    fn the_first_of_two_attributes_counts() {
        let text = "request=smtpd_access_policy\nsasl_username=anna\nsasl_username=bob\n\n";
        assert_eq!(all(&[text.as_bytes()])[0].as_ref().unwrap().0, b"anna");
    }

    #[test]
    fn a_request_that_is_too_long_is_passed_over_and_answered() {
        let long = "x".repeat(POLICY_REQUEST_BYTES_MAX * 3);
        let text = format!("request=smtpd_access_policy\nsasl_username={long}\n\n{ASKED}");
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(1_000).collect();
        let taken = all(&pieces);
        assert_eq!((taken.len(), taken[0].is_none(), taken[1].is_some()), (2, true, true));
    }

    #[test]
    fn the_stopped_can_write_to_the_postmaster() {
        let domains = ["example.org".to_owned(), String::new()];
        for (recipient, standing, expected) in [
            ("x@example.net", None, Answer::Dunno),
            ("x@example.net", Some(Standing::Held), Answer::Hold),
            ("x@example.net", Some(Standing::Locked), Answer::HangUp),
            ("Postmaster@Example.org", Some(Standing::Locked), Answer::Dunno),
            ("abuse@example.org", Some(Standing::Held), Answer::Dunno),
            ("postmaster@example.net", Some(Standing::Locked), Answer::HangUp),
            ("postmaster@", Some(Standing::Locked), Answer::HangUp),
            ("postmaster", Some(Standing::Locked), Answer::HangUp),
            ("", Some(Standing::Locked), Answer::HangUp),
        ] {
            let request = Request { recipient: recipient.as_bytes(), ..Request::default() };
            assert_eq!(request.answer(standing, &domains), expected, "{recipient} {standing:?}");
        }
    }

    #[test]
    fn an_answer_is_one_line() {
        for answer in [Answer::Dunno, Answer::Hold, Answer::HangUp] {
            let mut out = Vec::new();
            answer.write("Sending is suspended", &mut out);
            assert!(out.starts_with(b"action=") && out.ends_with(b"\n\n"));
            assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 2);
        }
        for (text, is_good) in [("Call us: +1 555", true), ("", false), (" ", false), ("a\nb", false), ("ä", false), ("a\tb", false)] {
            assert_eq!(is_reply_text(text), is_good, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_the_same_requests(
            words in prop::collection::vec(prop_oneof![
                Just("request=smtpd_access_policy\n"), Just("sasl_username="), Just("anna"), Just("\n"), Just("="), Just("\n\n"), Just("\r\n"), Just("\0"),
            ], 0..60),
            cuts in prop::collection::vec(1usize..20, 1..40),
        ) {
            let text = words.concat();
            let whole = all(&[text.as_bytes()]);
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces.push(rest);
            prop_assert_eq!(all(&pieces), whole);
        }
    }
}
