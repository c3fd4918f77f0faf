//! A mail log to measure with: a busy host under attack, the same for the same seed.
//!
//! By line 70 % ordinary traffic (whole messages from `client=` to `removed`, and clients that only look in), 20 % failed
//! logins, 10 % rejects. Attackers are many and unequal: a few loud ones, a long tail of quiet ones.

use std::collections::VecDeque;
use std::io::{self, Write};

const USERS: [&str; 12] =
    ["info", "office", "sales", "admin", "anna", "jane.doe", "support", "billing", "hr", "noreply", "team", "contact"];
const DOMAINS: [&str; 5] = ["example.com", "example.org", "shop.example", "firma.example", "club.example"];
const CAUSES: [&str; 4] = ["UGFzc3dvcmQ6", "UGFzc3dvcmQ6", "VXNlcm5hbWU6", "authentication failure"];
/// Clients connected at once.
const SESSIONS: u64 = 16;
const SMTPD: [&str; 3] = ["postfix/smtpd", "postfix/submission/smtpd", "postfix/smtps/smtpd"];

pub struct Plan {
    pub lines: u64,
    pub addresses: u64,
    pub seed: u64,
    /// How much time the log covers.
    pub seconds: u64,
}

/// Writes the log and returns how many of its lines offend.
pub fn write(plan: &Plan, out: &mut impl Write) -> io::Result<u64> {
    let mut host = Host { random: Random(plan.seed), plan, queued: 0, sessions: Vec::new() };
    host.sessions = (0..SESSIONS).map(|_| host.session()).collect();
    let mut offending = 0;
    for number in 0..plan.lines {
        let second = number * plan.seconds / plan.lines.max(1);
        let (hour, minute) = (2 + second / 3600 % 20, second / 60 % 60);
        let line = match host.random.below(10) {
            0..7 => host.ordinary(),
            7..9 => host.failed_login(),
            _ => host.reject(),
        };
        offending += u64::from(line.text.contains("SASL") || line.text.contains("reject:"));
        writeln!(out, "Nov 24 {hour:02}:{minute:02}:{:02} mail {}[{}]: {}", second % 60, line.tag, line.pid, line.text)?;
    }
    Ok(offending)
}

struct Host<'a> {
    random: Random,
    plan: &'a Plan,
    queued: u64,
    /// Clients that are connected, each with the lines that it will still leave: their lines stand mixed in the log.
    sessions: Vec<VecDeque<Line>>,
}

struct Line {
    tag: &'static str,
    pid: u64,
    text: String,
}

impl Host<'_> {
    fn failed_login(&mut self) -> Line {
        let peer = self.attacker();
        let mechanism = *self.random.pick(&["LOGIN", "LOGIN", "PLAIN", "CRAM-MD5"]);
        let cause = *self.random.pick(&CAUSES);
        let mut text = format!("warning: {peer}: SASL {mechanism} authentication failed: {cause}");
        if self.random.below(10) < 7 {
            text += &format!(", sasl_username={}", self.mailbox());
        }
        Line { tag: self.random.pick::<&'static str>(&SMTPD), pid: self.smtpd(), text }
    }

    fn reject(&mut self) -> Line {
        let peer = self.attacker();
        let (from, to) = (self.mailbox(), self.mailbox());
        let reply = match self.random.below(4) {
            0 => format!("554 5.7.1 Service unavailable; Client host [{}] blocked using zen.spamhaus.org", address_of(&peer)),
            1 => format!("550 5.1.1 <{to}>: Recipient address rejected: User unknown in local recipient table"),
            2 => format!("454 4.7.1 <{to}>: Relay access denied"),
            _ => format!("450 4.7.1 Client host rejected: cannot find your hostname, [{}]", address_of(&peer)),
        };
        let text = format!("NOQUEUE: reject: RCPT from {peer}: {reply}; from=<{from}> to=<{to}> proto=ESMTP helo=<mx.bad.example>");
        Line { tag: "postfix/smtpd", pid: self.smtpd(), text }
    }

    fn ordinary(&mut self) -> Line {
        let chosen = self.random.below(SESSIONS) as usize;
        if self.sessions[chosen].is_empty() {
            self.sessions[chosen] = self.session();
        }
        self.sessions[chosen].pop_front().expect("a new session has lines")
    }

    fn session(&mut self) -> VecDeque<Line> {
        let (peer, pid) = (self.customer(), self.smtpd());
        let smtpd = |text: String| Line { tag: "postfix/smtpd", pid, text };
        let mut lines = VecDeque::from([smtpd(format!("connect from {peer}"))]);
        if self.random.below(2) == 0 {
            lines.extend(self.message(&peer, pid));
        } else if self.random.below(20) == 0 {
            let (user, address) = (self.mailbox(), address_of(&peer));
            let text = format!("imap-login: Login: user=<{user}>, method=PLAIN, rip={address}, lip=192.0.2.25, mpid=4711, TLS");
            lines.push_back(Line { tag: "dovecot", pid: 901, text });
        }
        lines.push_back(smtpd(format!("disconnect from {peer} ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5")));
        lines
    }

    fn message(&mut self, peer: &str, pid: u64) -> [Line; 5] {
        self.queued += 1;
        let id = format!("{:05X}{:X}", self.random.below(0x10_0000), 0x4_0000 + self.queued);
        let (from, to) = (self.mailbox(), self.mailbox());
        let size = 800 + self.random.below(200_000);
        let login = match self.random.below(5) {
            0 => format!(", sasl_method=PLAIN, sasl_username={from}"),
            _ => String::new(),
        };
        let (token, domain) = (self.random.next(), *self.random.pick(&DOMAINS));
        let relay = format!("mx.example.net[198.51.100.{}]:25", 1 + self.random.below(250));
        let sent = format!("relay={relay}, delay=0.7, delays=0.1/0.01/0.2/0.4, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {token:X})");
        [
            Line { tag: "postfix/smtpd", pid, text: format!("{id}: client={peer}{login}") },
            Line { tag: "postfix/cleanup", pid: 902, text: format!("{id}: message-id=<{token:x}@{domain}>") },
            Line { tag: "postfix/qmgr", pid: 903, text: format!("{id}: from=<{from}>, size={size}, nrcpt=1 (queue active)") },
            Line { tag: "postfix/smtp", pid: 904, text: format!("{id}: to=<{to}>, {sent}") },
            Line { tag: "postfix/qmgr", pid: 903, text: format!("{id}: removed") },
        ]
    }

    fn smtpd(&mut self) -> u64 {
        1000 + self.random.below(60_000)
    }

    /// `name[address]` of one of the addresses that attack: the smaller its number, the more often.
    fn attacker(&mut self) -> String {
        let count = (self.plan.addresses * 3 / 5).max(1);
        let uniform = self.random.below(1 << 20);
        peer((count * uniform * uniform) >> 40)
    }

    fn customer(&mut self) -> String {
        let attackers = self.plan.addresses * 3 / 5;
        peer(attackers + self.random.below((self.plan.addresses - attackers).max(1)))
    }

    fn mailbox(&mut self) -> String {
        let domain = *self.random.pick(&DOMAINS);
        match self.random.below(3) {
            0 => format!("user{}@{domain}", self.random.below(500)),
            _ => format!("{}@{domain}", self.random.pick(&USERS)),
        }
    }
}

/// The client with this number: a fifth of them speaks IPv6.
fn peer(number: u64) -> String {
    let mixed = Random(number).next();
    if number.is_multiple_of(5) {
        let [a, b, c] = [16, 32, 48].map(|shift| (mixed >> shift) & 0xffff);
        return format!("unknown[2001:db8:{a:x}:{b:x}::{c:x}]");
    }
    let address = format!("{}.{}.{}.{}", 31 + mixed % 90, mixed >> 8 & 0xff, mixed >> 16 & 0xff, 1 + (mixed >> 24) % 254);
    match number % 3 {
        0 => format!("host-{}.dyn.example.net[{address}]", address.replace('.', "-")),
        _ => format!("unknown[{address}]"),
    }
}

fn address_of(peer: &str) -> &str {
    peer.split(['[', ']']).nth(1).expect("a peer is name[address]")
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
