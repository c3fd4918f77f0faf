//! Are we being listed? The shipped filters and jails, from the refusals of other servers to the alert.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A day of mail: each line one minute after the one before.
#[derive(Default)]
struct Log {
    lines: Vec<String>,
    messages: u32,
    minute: u32,
}

impl Log {
    fn line(&mut self, text: &str) {
        let (day, rest) = (self.minute / 1_440 + 1, self.minute % 1_440);
        self.lines.push(format!("2026-03-{day:02}T{:02}:{:02}:00.000000+00:00 mx1 {text}", rest / 60, rest % 60));
    }

    /// A message of `account`; what becomes of it at each server: `(relay, dsn, status, text)`.
    fn message(&mut self, account: &str, deliveries: &[(&str, &str, &str, &str)]) {
        self.minute += 1;
        self.messages += 1;
        let id = format!("{:05X}4E0{:02X}", self.messages, self.messages % 200);
        self.line(&format!("postfix/submission/smtpd[8]: {id}: client=x.isp.test[192.0.2.7], sasl_method=PLAIN, sasl_username={account}"));
        self.line(&format!("postfix/qmgr[3]: {id}: from=<{account}>, size=400, nrcpt={} (queue active)", deliveries.len()));
        for (number, (relay, dsn, status, text)) in deliveries.iter().enumerate() {
            self.line(&format!(
                "postfix/smtp[4]: {id}: to=<r{number}@far.test>, relay={relay}:25, delay=1, delays=0/0/0/1, dsn={dsn}, status={status} ({text})"
            ));
        }
        self.line(&format!("postfix/qmgr[3]: {id}: removed"));
    }

    fn sent(&mut self, account: &str, recipients: usize) {
        self.message(account, &vec![("mx.fine.test[198.51.100.9]", "2.0.0", "sent", "250 ok"); recipients]);
    }

    fn refused(&mut self, relay: &str, text: &str) {
        self.message("anna@corp.test", &[(relay, "5.7.1", "bounced", text)]);
    }

    /// The alerts of the jail.
    fn alerts(&self) -> Vec<Value> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mail.log");
        std::fs::write(&path, self.lines.join("\n") + "\n").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_mailwarden"))
            .args(["--config", ROOT, "replay", "--json"])
            .arg::<&Path>(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let decisions = String::from_utf8(output.stdout).unwrap();
        let all = decisions.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|decision| decision["jail"] == "host-listed").collect()
    }
}

const ONE: &str = "mx.one.test[198.51.100.1]";
const ONE_AGAIN: &str = "mx2.one.test[198.51.100.2]";
const TWO: &str = "mx.two.test[203.0.113.1]";
const THREE: &str = "mx.three.test[192.88.98.1]";
const BLOCKED: &str = "host mx said: 554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org";
const OUTLOOK: &str = "host mx said: 550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150)";
const GOOGLE: &str = "host mx said: 550-5.7.1 [192.0.2.1] The IP you're using to send mail is not authorized; blocked due to the low reputation of the sending IP";

#[test]
fn two_providers_trip_it_and_one_does_not() {
    let mut log = Log::default();
    for _ in 0..5 {
        log.refused(ONE, BLOCKED);
        log.refused(ONE_AGAIN, BLOCKED);
    }
    assert_eq!(log.alerts().len(), 0, "one provider's network, one vote");
    log.refused(TWO, "host mx said: 550 5.1.1 <r0@far.test>: user unknown");
    log.refused(THREE, "host mx said: 550 5.7.1 message content rejected as spam");
    assert_eq!(log.alerts().len(), 0, "refused for other reasons");
    log.refused(TWO, OUTLOOK);
    let alerts = log.alerts();
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!((&alerts[0]["action"], &alerts[0]["account"]), (&"alert".into(), &"*".into()));
    assert!(alerts[0]["evidence"][0].as_str().unwrap().contains("(S3150)"), "{alerts:?}");
}

#[test]
fn the_alert_names_those_who_sent_most() {
    let mut log = Log::default();
    log.sent("bob@corp.test", 3);
    log.sent("thief@corp.test", 40);
    log.sent("carl@corp.test", 5);
    log.refused(ONE, BLOCKED);
    log.refused(TWO, GOOGLE);
    let alerts = log.alerts();
    let reason = alerts[0]["reason"].as_str().unwrap();
    let expected = "; most sent outside within a day: thief@corp.test 40, carl@corp.test 5, bob@corp.test 3, anna@corp.test 2";
    assert!(reason.starts_with("2 different operators in deliveries in ") && reason.ends_with(expected), "{reason}");
}

#[test]
fn it_is_told_once_a_day_at_most() {
    let mut log = Log::default();
    for _ in 0..60 {
        log.refused(ONE, BLOCKED);
        log.refused(TWO, OUTLOOK);
        log.refused(THREE, BLOCKED);
        log.minute += 30;
    }
    assert_eq!(log.alerts().len(), 1, "over more than a day");
    // Two days without a refusal, and it begins anew.
    for _ in 0..8 {
        log.minute += 360;
        log.sent("bob@corp.test", 1);
    }
    log.refused(ONE, BLOCKED);
    assert_eq!(log.alerts().len(), 1);
    log.refused(TWO, OUTLOOK);
    assert_eq!(log.alerts().len(), 2);
}

/// What a link or a sender's domain is refused for says nothing of our address.
#[test]
fn a_listed_link_or_domain_is_no_listed_address() {
    let mut log = Log::default();
    log.refused(ONE, "host mx said: 554 5.7.1 This message contains a URL (evil.example) listed in dbl.spamhaus.org");
    log.refused(TWO, "host mx said: 550 5.7.1 Sender address rejected: corp.test is listed at rhsbl.example");
    assert_eq!(log.alerts().len(), 0);
}
