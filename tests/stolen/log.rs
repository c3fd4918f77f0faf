//! The lines that Postfix 3.7 and Dovecot 2.3 write for what people and thieves do.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;

use mailwarden::time::Timestamp;

use crate::dice::Dice;

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;
/// Monday, 2026-02-16, midnight.
pub const START: i64 = 20_500 * DAY;

pub const FREEMAILERS: u64 = 7;
const SUBMISSION: &str = "postfix/submission/smtpd";

/// What the other server says to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Sent,
    Unknown,
    Spam,
    /// Not now; fifteen minutes later it is.
    Slow,
    /// The recipient lives on this host.
    Inside,
}

pub type Recipients = Vec<(String, Answer)>;

#[derive(Clone, Debug)]
pub struct Line {
    pub at: i64,
    pub text: String,
    pub vouched: bool,
    /// Written by a thief's doing: there is no such line while that submitter is locked.
    pub by: Option<Rc<str>>,
    /// About a message that came in then: nor is there this one, if its mail was held before.
    pub came_in: Option<i64>,
}

/// Recipients outside of the host to whom a thief's message goes.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub at: i64,
    pub by: Rc<str>,
    pub recipients: u64,
}

pub struct Log {
    pub lines: Vec<Line>,
    pub accepted: Vec<Accepted>,
    pub dice: Dice,
    /// In whose name what follows is written, if it is a thief.
    pub by: Option<Rc<str>>,
    /// A local user writes the lines, not Postfix.
    pub forged: bool,
    number: u64,
}

impl Log {
    pub fn new(seed: u64) -> Log {
        Log { lines: Vec::new(), accepted: Vec::new(), dice: Dice(seed), by: None, forged: false, number: 0 }
    }

    /// By time; what happens at the same time stays in the order in which it was written.
    pub fn sorted(mut self) -> (Vec<Line>, Vec<Accepted>) {
        self.lines.sort_by_key(|line| line.at);
        self.accepted.sort_by_key(|accepted| accepted.at);
        (self.lines, self.accepted)
    }

    fn put(&mut self, at: i64, program: &str, message: &str) {
        self.write(at, program, message, None);
    }

    fn write(&mut self, at: i64, program: &str, message: &str, came_in: Option<i64>) {
        let text = format!("{} mail {program}: {message}", Timestamp::from_micros(at).rfc3339());
        self.lines.push(Line { at, text, vouched: !self.forged, by: self.by.clone(), came_in });
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// A login to the mailbox, and its end.
    pub fn imap(&mut self, at: i64, ip: IpAddr, account: &str) {
        let n = self.next();
        let login = format!("Login: user=<{account}>, method=PLAIN, rip={ip}, lip=198.51.100.1, mpid={n}, TLS, session=<s{n}>");
        self.put(at, "dovecot: imap-login", &login);
        self.put(at + 20 * SECOND, &format!("dovecot: imap({account})<{n}><s{n}>"), "Disconnected: Logged out in=120 out=4711");
    }

    pub fn imap_failure(&mut self, at: i64, ip: IpAddr, account: &str) {
        let n = self.next();
        let failed = format!(
            "Disconnected: Connection closed (auth failed, 1 attempts in 2 secs): user=<{account}>, method=PLAIN, rip={ip}, lip=198.51.100.1, TLS, session=<s{n}>"
        );
        self.put(at, "dovecot: imap-login", &failed);
    }

    pub fn smtp_failure(&mut self, at: i64, ip: IpAddr, account: &str) {
        let smtpd = format!("{SUBMISSION}[{}]", self.next());
        self.put(at, &smtpd, &format!("connect from unknown[{ip}]"));
        let failed = format!("warning: unknown[{ip}]: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username={account}");
        self.put(at + SECOND, &smtpd, &failed);
        self.put(at + 2 * SECOND, &smtpd, &format!("disconnect from unknown[{ip}] ehlo=1 auth=0/1 quit=1 commands=2/3"));
    }

    /// Whoever has the password of a locked account is refused after the login.
    pub fn refused(&mut self, at: i64, ip: IpAddr, account: &str) {
        let smtpd = format!("{SUBMISSION}[{}]", self.next());
        let refused = format!(
            "NOQUEUE: reject: RCPT from unknown[{ip}]: 421 4.7.1 <b@far.example>: Recipient address rejected: Sending from this account is suspended; please contact the postmaster; from=<{account}> to=<b@far.example> proto=ESMTP helo=<x> sasl_method=PLAIN sasl_username={account}"
        );
        self.put(at, &smtpd, &refused);
    }

    /// One message, as people send it.
    pub fn mail(&mut self, at: i64, ip: IpAddr, account: &str, recipients: Recipients) {
        self.submit(at, ip, account, vec![recipients], SECOND);
    }

    /// A session with so many messages, so far apart; when it ends.
    pub fn submit(&mut self, at: i64, ip: IpAddr, account: &str, messages: Vec<Recipients>, gap: i64) -> i64 {
        let smtpd = format!("{SUBMISSION}[{}]", self.next());
        self.put(at, &smtpd, &format!("connect from client.example[{ip}]"));
        let (mut at, count) = (at + SECOND, messages.len());
        for recipients in messages {
            let id = self.queue_id(at);
            let client = format!("{id}: client=client.example[{ip}], sasl_method=PLAIN, sasl_username={account}");
            self.put(at, &smtpd, &client);
            let message_id = format!("{id}.{}", account.replace('@', "."));
            self.queue(at, &id, account, &message_id, &recipients);
            at += gap;
        }
        let end = format!("disconnect from client.example[{ip}] ehlo=2 starttls=1 auth=1 mail={count} rcpt={count} data={count} quit=1");
        self.put(at, &smtpd, &end);
        at
    }

    /// A web site, or Sieve, hands in a message with `sendmail`.
    pub fn sendmail(&mut self, at: i64, uid: u32, sender: &str, message_id: Option<&str>, recipients: &Recipients) {
        let id = self.queue_id(at);
        self.put(at, "postfix/pickup[7]", &format!("{id}: uid={uid} from=<{sender}>"));
        let own = format!("{id}.local");
        self.queue(at, &id, sender, message_id.unwrap_or(&own), recipients);
    }

    /// Another server brings mail.
    pub fn incoming(&mut self, at: i64, ip: IpAddr, sender: &str, message_id: &str, to: &str) {
        let smtpd = format!("postfix/smtpd[{}]", self.next());
        self.put(at, &smtpd, &format!("connect from mx.example[{ip}]"));
        let id = self.queue_id(at);
        self.put(at + SECOND / 2, &smtpd, &format!("{id}: client=mx.example[{ip}]"));
        self.queue(at + SECOND / 2, &id, sender, message_id, &vec![(to.to_owned(), Answer::Inside)]);
        self.put(at + 2 * SECOND, &smtpd, &format!("disconnect from mx.example[{ip}] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5"));
    }

    fn queue_id(&mut self, at: i64) -> String {
        // Long ids, which are not used again; they have no vowels.
        format!("4{:09}z{}", (at / SECOND).rem_euclid(1_000_000_000), self.next())
    }

    fn queue(&mut self, at: i64, id: &str, sender: &str, message_id: &str, recipients: &Recipients) {
        let outside = recipients.iter().filter(|(_, answer)| *answer != Answer::Inside).count() as u64;
        if let Some(by) = &self.by {
            self.accepted.push(Accepted { at, by: by.clone(), recipients: outside });
        }
        let (count, came_in) = (recipients.len(), Some(at));
        self.write(at + SECOND / 10, "postfix/cleanup[8]", &format!("{id}: message-id=<{message_id}>"), came_in);
        let active = |count: usize| format!("{id}: from=<{sender}>, size=2317, nrcpt={count} (queue active)");
        self.write(at + SECOND / 5, "postfix/qmgr[9]", &active(count), came_in);
        for (recipient, answer) in recipients {
            self.delivery(at + SECOND, came_in, id, recipient, *answer);
        }
        if recipients.iter().any(|(_, answer)| matches!(answer, Answer::Unknown | Answer::Spam)) {
            self.notice(at + 2 * SECOND, came_in, id, sender);
        }
        let slow: Vec<&String> = recipients.iter().filter(|(_, answer)| *answer == Answer::Slow).map(|(to, _)| to).collect();
        let mut end = at + 2 * SECOND;
        if !slow.is_empty() {
            end = at + 15 * MINUTE;
            self.write(end, "postfix/qmgr[9]", &active(slow.len()), came_in);
            slow.iter().for_each(|to| self.delivery(end + SECOND, came_in, id, to, Answer::Sent));
        }
        self.write(end + 2 * SECOND, "postfix/qmgr[9]", &format!("{id}: removed"), came_in);
    }

    fn delivery(&mut self, at: i64, came_in: Option<i64>, id: &str, to: &str, answer: Answer) {
        let (name, ip) = exchanger(to);
        let program = if answer == Answer::Inside { "postfix/lmtp[10]" } else { "postfix/smtp[11]" };
        let mut text = match answer {
            Answer::Inside => format!("{id}: to=<{to}>, relay=mail[private/dovecot-lmtp]"),
            _ => format!("{id}: to=<{to}>, relay={name}[{ip}]:25"),
        };
        text.push_str(", delay=0.8, delays=0.1/0/0.3/0.4, ");
        let said = format!("host {name}[{ip}] said: ");
        let _ = match answer {
            Answer::Inside => write!(text, "dsn=2.0.0, status=sent (250 2.0.0 <{to}> Saved)"),
            Answer::Sent => write!(text, "dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4Zq{id})"),
            Answer::Unknown => write!(
                text,
                "dsn=5.1.1, status=bounced ({said}550 5.1.1 <{to}>: Recipient address rejected: User unknown (in reply to RCPT TO command))"
            ),
            Answer::Spam => write!(
                text,
                "dsn=5.7.1, status=bounced ({said}550 5.7.1 This message was classified as spam (in reply to end of DATA command))"
            ),
            Answer::Slow => write!(
                text,
                "dsn=4.7.0, status=deferred ({said}421 4.7.0 Try again later: unusual rate of mail from your address (in reply to end of DATA command))"
            ),
        };
        self.write(at, program, &text, came_in);
    }

    /// Postfix itself tells the sender what was refused.
    fn notice(&mut self, at: i64, came_in: Option<i64>, root: &str, sender: &str) {
        let id = self.queue_id(at);
        self.write(at, "postfix/cleanup[8]", &format!("{id}: message-id=<{id}@mail>"), came_in);
        self.write(at, "postfix/bounce[12]", &format!("{root}: sender non-delivery notification: {id}"), came_in);
        self.write(at, "postfix/qmgr[9]", &format!("{id}: from=<>, size=4100, nrcpt=1 (queue active)"), came_in);
        self.delivery(at + SECOND / 2, came_in, &id, sender, Answer::Inside);
        self.write(at + SECOND, "postfix/qmgr[9]", &format!("{id}: removed"), came_in);
    }
}

/// The server of a domain. `freemailN` are large providers, `firmN` small ones, each somewhere else. `trapN` all stand in one
/// network, `spreadN` each in one of its own, and both belong to whoever made them up.
fn exchanger(to: &str) -> (String, IpAddr) {
    let domain = to.rsplit_once('@').map_or(to, |(_, domain)| domain);
    let number: u32 = domain.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    let byte = |number: u32| number as u8;
    let ip = if domain.starts_with("freemail") {
        [198, 20 + byte(number), 1, 25]
    } else if domain.starts_with("trap") {
        [91, 200, byte(number), 25]
    } else if domain.starts_with("spread") {
        [150 + byte(number), 20, 1, 25]
    } else {
        [185, byte(number), byte(number >> 8), 25]
    };
    (format!("mx.{domain}"), ip.into())
}

/// Somebody outside, whose address is right.
pub fn correspondent(dice: &mut Dice) -> String {
    if dice.percent(60) {
        format!("kontakt{}@freemail{}.example", dice.below(90_000), dice.below(FREEMAILERS))
    } else {
        format!("info@firm{}.example", dice.below(3_000))
    }
}

/// So many of them; some of these do not exist, and some call it spam (in percent).
pub fn strangers(dice: &mut Dice, count: usize, unknown: u64, spam: u64) -> Recipients {
    let answer = |dice: &mut Dice| match dice.below(100) {
        roll if roll < unknown => Answer::Unknown,
        roll if roll < unknown + spam => Answer::Spam,
        roll if roll < unknown + spam + spam / 3 => Answer::Slow,
        _ => Answer::Sent,
    };
    (0..count)
        .map(|_| {
            let answer = answer(dice);
            (correspondent(dice), answer)
        })
        .collect()
}
