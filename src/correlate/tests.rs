//! Lines as Postfix and Dovecot write them.

use std::sync::Arc;

use super::*;
use crate::parse::{FilterSet, FilterSource, Outcome, Parser, ParserOptions};
use proptest::prelude::*;

fn filters() -> Arc<FilterSet> {
    let texts = [
        ("postfix.toml", include_str!("test-filter.toml")),
        ("dovecot.toml", include_str!("test-dovecot.toml")),
        ("rspamd.toml", include_str!("../../filters/rspamd.toml")),
        ("amavis.toml", include_str!("../../filters/amavis.toml")),
        ("sshd.toml", include_str!("../../filters/sshd.toml")),
    ];
    let sources = texts.map(|(file, text)| FilterSource { file: file.to_owned(), text: text.to_owned() });
    Arc::new(FilterSet::compile(&sources).unwrap())
}

struct World {
    parser: Parser,
    filters: Arc<FilterSet>,
    correlator: Correlator,
    vouched: bool,
}

impl World {
    fn new() -> Self {
        let filters = filters();
        let rules = AccountRules { default_domain: Some("corp.test".to_owned()), ..AccountRules::default() };
        World {
            parser: Parser::new(Arc::clone(&filters), ParserOptions::new(Timestamp::ZERO)),
            filters,
            correlator: Correlator::new(rules, vec!["10.0.0.0/8".parse().unwrap()]),
            vouched: true,
        }
    }

    /// What a line (`program[pid]: message`) tells: its events, and whose message it belongs to.
    fn line(&mut self, text: &str) -> (Vec<String>, Option<String>) {
        let line = format!("2026-11-24T02:31:55.000000+00:00 mx1 {text}");
        let Outcome::Line(parsed) = self.parser.parse(line.as_bytes(), None) else { panic!("not recognised: {line}") };
        let mut events = Vec::new();
        let filter = self.filters.filter_name(parsed.pattern);
        let message =
            self.correlator.handle(line.as_bytes(), &parsed, filter, self.vouched, parsed.time, &mut |event| events.push(show(event)));
        let whose = message.and_then(|message| self.correlator.submitter(message)).map(|name| String::from_utf8_lossy(name).into_owned());
        (events, whose)
    }

    fn events(&mut self, lines: &str) -> Vec<String> {
        lines.lines().map(str::trim).filter(|line| !line.is_empty()).flat_map(|line| self.line(line).0).collect()
    }

    fn whose(&mut self, lines: &str) -> Vec<String> {
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| self.line(line).1.unwrap_or_else(|| "-".to_owned())).collect()
    }
}

/// `kind ip submitter-or-account …`, without what is not there.
fn show(event: &Event<'_>) -> String {
    let text = |bytes: Option<&[u8]>| bytes.map_or("-".to_owned(), |bytes| String::from_utf8_lossy(bytes).into_owned());
    let ip = event.ip.map_or("-".to_owned(), |ip| ip.to_string());
    let who = if event.submitter.is_some() { event.submitter } else { event.account };
    let mut out = format!("{} {ip} {}", event.kind, text(who));
    match event.kind {
        EventKind::Message | EventKind::Delivery => out += &format!(" {} {}r", text(event.queue_id), event.recipients),
        EventKind::AuthFailure => out += &format!(" {}x {}", event.count, event.reason),
        _ => {}
    }
    out + if event.restates { " again" } else { "" }
}

fn events(lines: &str) -> Vec<String> {
    World::new().events(lines)
}

#[test]
fn a_message_of_an_account() {
    let told = events(
        "postfix/submission/smtpd[1]: B4ECE9B03E2: client=unknown[198.51.100.50], sasl_method=PLAIN, sasl_username=Bob
         postfix/cleanup[2]: B4ECE9B03E2: message-id=<ok1@bob>
         postfix/qmgr[3]: B4ECE9B03E2: from=<bob@corp.test>, size=221, nrcpt=2 (queue active)
         postfix/lmtp[4]: B4ECE9B03E2: to=<alice@corp.test>, relay=mx1.corp.test[private/dovecot-lmtp], delay=0.09, delays=0.02/0.02/0.04/0.01, dsn=2.0.0, status=sent (250 2.0.0 <alice@corp.test> iG Saved)
         postfix/smtp[5]: B4ECE9B03E2: to=<a@remote.test>, relay=mx.remote.test[203.0.113.3]:25, delay=0.14, delays=0.02/0.02/0.05/0.04, dsn=4.2.0, status=deferred (host mx said: 450 4.2.0 later)
         postfix/qmgr[3]: B4ECE9B03E2: from=<bob@corp.test>, size=221, nrcpt=2 (queue active)
         postfix/smtp[5]: B4ECE9B03E2: to=<a@remote.test>, relay=mx.remote.test[203.0.113.3]:25, delay=0.14, delays=0.02/0.02/0.05/0.04, dsn=2.0.0, status=sent (250 ok)
         postfix/qmgr[3]: B4ECE9B03E2: removed",
    );
    let expected = [
        "auth-success 198.51.100.50 bob@corp.test",
        "message 198.51.100.50 bob@corp.test B4ECE9B03E2 2r",
        "delivery 198.51.100.50 bob@corp.test B4ECE9B03E2 0r",
        "delivery 198.51.100.50 bob@corp.test B4ECE9B03E2 1r",
        "delivery 198.51.100.50 bob@corp.test B4ECE9B03E2 0r",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_message_without_login_is_its_address_alone() {
    let told = events(
        "postfix/smtpd[1]: 4ABC11111: client=mx.sender.test[192.0.2.9]
         postfix/qmgr[3]: 4ABC11111: from=<a@sender.test>, size=99, nrcpt=1 (queue active)",
    );
    assert_eq!(told, ["message 192.0.2.9 - 4ABC11111 1r"]);
}

#[test]
fn a_trusted_client_and_a_local_user_are_submitters() {
    let told = events(
        "postfix/smtpd[1]: AAAAA11111: client=printer[10.0.0.7]
         postfix/qmgr[3]: AAAAA11111: from=<a@corp.test>, size=99, nrcpt=1 (queue active)
         postfix/pickup[2]: BBBBB11111: uid=4294967295 from=<www-data>
         postfix/cleanup[2]: BBBBB11111: message-id=<x@y>
         postfix/qmgr[3]: BBBBB11111: from=<www-data@corp.test>, size=99, nrcpt=7 (queue active)",
    );
    assert_eq!(told, ["message 10.0.0.7 client:10.0.0.7 AAAAA11111 1r", "message - local:4294967295 BBBBB11111 7r"]);
}

#[test]
fn what_the_operator_queues_again_stays_its_submitters_and_is_no_other_message() {
    let mut world = World::new();
    let told = world.events(
        "postfix/smtpd[1]: A89EB7629C3: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=bob@corp.test
         postfix/qmgr[3]: A89EB7629C3: from=<bob@corp.test>, size=99, nrcpt=1 (queue active)
         postfix/pickup[2]: 94D3C762A0C: uid=105 from=<bob@corp.test> orig_id=A89EB7629C3
         postfix/cleanup[2]: 94D3C762A0C: message-id=<x@y>
         postfix/qmgr[3]: 94D3C762A0C: from=<bob@corp.test>, size=99, nrcpt=1 (queue active)
         postfix/pickup[2]: 94D3C762A0D: uid=105 from=<who@corp.test> orig_id=B89EB7629C3
         postfix/qmgr[3]: 94D3C762A0D: from=<who@corp.test>, size=99, nrcpt=1 (queue active)",
    );
    assert_eq!(told, ["auth-success 192.0.2.1 bob@corp.test", "message 192.0.2.1 bob@corp.test A89EB7629C3 1r"]);
    let delivery = "postfix/smtp[5]: 94D3C762A0C: to=<a@remote.test>, relay=mx.remote.test[203.0.113.3]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)";
    assert_eq!(world.events(delivery), ["delivery 192.0.2.1 bob@corp.test 94D3C762A0C 1r"]);
}

const XFORWARD: &str = "postfix/smtpd[1]: 8B4A59B04E2: client=isp.test[198.51.100.57], sasl_method=PLAIN, sasl_username=bob@corp.test
     postfix/cleanup[2]: 8B4A59B04E2: message-id=<>
     postfix/qmgr[3]: 8B4A59B04E2: from=<bob@corp.test>, size=198, nrcpt=2 (queue active)
     postfix/smtpd[5]: 8F7F19B04E4: client=localhost[127.0.0.1], orig_queue_id=8B4A59B04E2, orig_client=isp.test[198.51.100.57]
     postfix/cleanup[2]: 8F7F19B04E4: message-id=<>
     postfix/qmgr[3]: 8F7F19B04E4: from=<bob@corp.test>, size=348, nrcpt=2 (queue active)
     postfix/scan/smtp[6]: 8B4A59B04E2: to=<x@remote.test>, relay=127.0.0.1[127.0.0.1]:10026, delay=0.02, delays=0.01/0.01/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 8F7F19B04E4)
     postfix/qmgr[3]: 8B4A59B04E2: removed
     postfix/smtp[6]: 8F7F19B04E4: to=<x@remote.test>, relay=mx[203.0.113.3]:25, delay=0.1, delays=0/0/0.05/0.05, dsn=2.0.0, status=sent (250 ok)
     postfix/qmgr[3]: 8F7F19B04E4: removed";

#[test]
fn a_content_filter_with_xforward_is_one_message_and_one_delivery() {
    let expected = [
        "auth-success 198.51.100.57 bob@corp.test",
        "message 198.51.100.57 bob@corp.test 8B4A59B04E2 2r",
        "delivery 198.51.100.57 bob@corp.test 8F7F19B04E4 1r",
    ];
    assert_eq!(events(XFORWARD), expected);
    assert_eq!(World::new().whose(XFORWARD), ["bob@corp.test"; 10]);
}

#[test]
fn a_content_filter_is_seen_by_message_id() {
    let lines = XFORWARD
        .replace(", orig_queue_id=8B4A59B04E2, orig_client=isp.test[198.51.100.57]", "")
        .replace("message-id=<>", "message-id=<1@x>");
    assert_eq!(events(&lines).len(), 3);
    assert_eq!(World::new().whose(&lines)[5..], ["bob@corp.test"; 5]);
}

#[test]
fn a_content_filter_is_seen_by_its_answer() {
    let lines = XFORWARD.replace(", orig_queue_id=8B4A59B04E2, orig_client=isp.test[198.51.100.57]", "");
    assert_eq!(World::new().whose(&lines)[6..], ["bob@corp.test"; 4]);
    assert_eq!(events(&lines).last().unwrap(), "delivery 198.51.100.57 bob@corp.test 8F7F19B04E4 1r");
}

#[test]
fn a_message_is_continued_by_message_id_once() {
    let mut world = World::new();
    let mut told = Vec::new();
    for n in 0..5 {
        told.extend(world.events(&format!(
            "postfix/smtpd[1]: AAAAA1111{n}: client=localhost[127.0.0.1]
             postfix/cleanup[2]: AAAAA1111{n}: message-id=<same@x>
             postfix/qmgr[3]: AAAAA1111{n}: from=<w@corp.test>, size=9, nrcpt=50 (queue active)"
        )));
    }
    assert_eq!(told.len(), 4, "{told:?}");
}

/// Whoever got a message knows its message-id, and an accomplice on this host can use it.
#[test]
fn a_message_id_does_not_make_somebody_elses_mail_mine() {
    const MINE: &str =
        "postfix/submission/smtpd[1]: AAAAAA1: client=isp.test[198.51.100.57], sasl_method=PLAIN, sasl_username=bob@corp.test
         postfix/cleanup[2]: AAAAAA1: message-id=<1@x>
         postfix/qmgr[3]: AAAAAA1: from=<bob@corp.test>, size=198, nrcpt=1 (queue active)";
    const LEFT: &str = "
         postfix/smtp[5]: AAAAAA1: to=<x@remote.test>, relay=mx[203.0.113.3]:25, delay=1, delays=0/0/0.5/0.5, dsn=4.2.0, status=deferred (host mx[203.0.113.3] said: 451 later)";
    let other = |recipients: u32| {
        format!(
            "
         postfix/smtpd[5]: BBBBBB1: client=localhost[127.0.0.1]
         postfix/cleanup[2]: BBBBBB1: message-id=<1@x>
         postfix/qmgr[3]: BBBBBB1: from=<w@site.test>, size=199, nrcpt={recipients} (queue active)
         postfix/smtp[6]: BBBBBB1: to=<y@remote.test>, relay=mx[203.0.113.3]:25, delay=1, delays=0/0/0.5/0.5, dsn=5.1.1, status=bounced (said: 550 no)"
        )
    };
    for (lines, expected) in [
        (format!("{MINE}{}", other(1)), ["delivery 198.51.100.57 bob@corp.test BBBBBB1 1r"].as_slice()),
        (format!("{MINE}{}", other(400)), &["message 127.0.0.1 - BBBBBB1 400r", "delivery 127.0.0.1 - BBBBBB1 1r"]),
        (format!("{MINE}{LEFT}{}", other(1)), &["message 127.0.0.1 - BBBBBB1 1r", "delivery 127.0.0.1 - BBBBBB1 1r"]),
    ] {
        let told: Vec<String> = events(&lines).into_iter().filter(|event| event.contains("BBBBBB1")).collect();
        assert_eq!(told, expected, "{lines}");
    }
}

#[test]
fn a_before_queue_filter() {
    let lines = "postfix/smtpd[21128]: NOQUEUE: client=isp.test[198.51.100.56], sasl_method=PLAIN, sasl_username=bob@corp.test
         postfix/smtpd[21130]: 1C3A29B04E0: client=localhost[127.0.0.1], orig_client=isp.test[198.51.100.56]
         postfix/cleanup[21123]: 1C3A29B04E0: message-id=<>
         postfix/smtpd[21128]: proxy-accept: END-OF-MESSAGE: 250 2.0.0 Ok: queued as 1C3A29B04E0; from=<bob@corp.test> to=<alice@corp.test> proto=ESMTP helo=<mail.sender.test> sasl_username=<bob@corp.test>
         postfix/qmgr[21109]: 1C3A29B04E0: from=<bob@corp.test>, size=333, nrcpt=2 (queue active)
         postfix/qmgr[21109]: 1C3A29B04E0: removed";
    assert_eq!(events(lines), ["auth-success 198.51.100.56 bob@corp.test", "message 198.51.100.56 bob@corp.test 1C3A29B04E0 2r"]);
    assert_eq!(World::new().whose(lines), ["-", "bob@corp.test", "bob@corp.test", "bob@corp.test", "bob@corp.test", "bob@corp.test"]);
    // Two people behind one address: the proxy-accept line tells, even after the message has become active.
    let two =
        format!("postfix/smtpd[7]: NOQUEUE: client=isp.test[198.51.100.56], sasl_method=PLAIN, sasl_username=carol@corp.test\n{lines}");
    assert_eq!(events(&two)[2], "message 198.51.100.56 bob@corp.test 1C3A29B04E0 2r");
    let mut order: Vec<&str> = two.lines().collect();
    order.swap(4, 5);
    assert_eq!(events(&order.join("\n"))[2], "message 198.51.100.56 bob@corp.test 1C3A29B04E0 2r");
}

#[test]
fn a_bounce_belongs_to_its_sender_and_is_not_his_doing() {
    let lines = "postfix/smtpd[1]: 278609B062A: client=isp.test[198.51.100.62], sasl_method=PLAIN, sasl_username=bob@corp.test
         postfix/qmgr[3]: 278609B062A: from=<bob@corp.test>, size=198, nrcpt=1 (queue active)
         postfix/cleanup[2]: 2D6759B0693: message-id=<20261124023409.2D6759B0693@mx1.corp.test>
         postfix/qmgr[3]: 2D6759B0693: from=<>, size=2405, nrcpt=1 (queue active)
         postfix/bounce[4]: 278609B062A: sender non-delivery notification: 2D6759B0693
         postfix/qmgr[3]: 278609B062A: removed
         postfix/lmtp[5]: 2D6759B0693: to=<bob@corp.test>, relay=mx1[private/lmtp], delay=0.01, delays=0/0/0/0.01, dsn=2.0.0, status=sent (250 Saved)
         postfix/qmgr[3]: 2D6759B0693: removed";
    let told = events(lines);
    assert_eq!(told[1..], ["message 198.51.100.62 bob@corp.test 278609B062A 1r", "delivery - - 2D6759B0693 0r"]);
    assert_eq!(World::new().whose(lines)[4..], ["bob@corp.test"; 4]);
}

#[test]
fn a_reused_id_forgets_its_former_sender() {
    let mut world = World::new();
    world.line("postfix/smtpd[1]: 4ABC11111: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=bob@corp.test");
    world.line("postfix/qmgr[3]: 4ABC11111: from=<bob@corp.test>, size=198, nrcpt=1 (queue active)");
    // No "removed" line was seen. A bounce takes the id …
    assert_eq!(world.line("postfix/cleanup[2]: 4ABC11111: message-id=<1@mx1>").1, None);
    // … or another client.
    assert_eq!(world.line("postfix/smtpd[1]: 4ABC11111: client=x[192.0.2.2]").1, None);
}

#[test]
fn instances_have_their_own_ids_and_unvouched_lines_leave_nothing() {
    let mut world = World::new();
    world.line("postfix/smtpd[1]: 4ABC11111: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=bob@corp.test");
    assert_eq!(world.line("postfix-out/qmgr[3]: 4ABC11111: from=<x@y>, size=198, nrcpt=1 (queue active)").0.len(), 0);
    let before = world.correlator.stats().messages;
    world.vouched = false;
    assert_eq!(world.line("postfix/qmgr[3]: 4ABC11111: from=<x@y>, size=198, nrcpt=1 (queue active)").1, None);
    world.line("postfix/smtpd[1]: 4ABC11111: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=boss@corp.test");
    world.line("postfix/smtpd[1]: 4ABC22222: client=x[192.0.2.1]");
    assert_eq!(world.correlator.stats().messages, before);
    world.vouched = true;
    assert_eq!(world.line("postfix/qmgr[3]: 4ABC11111: from=<x@y>, size=198, nrcpt=1 (queue active)").1.as_deref(), Some("bob@corp.test"));
}

#[test]
fn a_disconnect_counts_what_no_line_has_told() {
    let failed = "postfix/smtpd[7]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username=bob";
    let gone = "postfix/smtpd[7]: disconnect from unknown[192.0.2.1] ehlo=1 auth=0/3 quit=1 commands=2/5";
    let counted = |lines: &str| -> Vec<String> {
        events(lines).iter().filter_map(|event| event.split(' ').find(|word| word.ends_with('x')).map(str::to_owned)).collect()
    };
    assert_eq!(counted(gone), ["3x"]);
    assert_eq!(counted(&format!("{failed}\n{gone}")), ["1x", "2x"]);
    assert_eq!(counted(&format!("{failed}\n{failed}\n{failed}\n{gone}")), ["1x", "1x", "1x"]);
    let other = failed.replace("smtpd[7]", "smtpd[8]");
    assert_eq!(counted(&format!("{other}\n{gone}")), ["1x", "3x"]);
    let again = "postfix/smtpd[7]: connect from unknown[192.0.2.1]";
    assert_eq!(counted(&format!("{failed}\n{again}\n{gone}")), ["1x", "3x"]);
}

#[test]
fn dovecot_tells_postfix_why() {
    let told = events(
        "dovecot: auth: passwd-file(nobody,192.0.2.1): unknown user
         postfix/smtpd[7]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6
         postfix/smtpd[7]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6",
    );
    let expected = [
        "auth-failure 192.0.2.1 nobody@corp.test 1x unknown-user again",
        "auth-failure 192.0.2.1 nobody@corp.test 1x unknown-user",
        "auth-failure 192.0.2.1 - 1x auth-failed",
    ];
    assert_eq!(told, expected);
}

#[test]
fn sshd_does_not_tell_postfix_whose_mailbox_was_tried() {
    let told = events(
        "sshd[7]: Failed password for invalid user admin from 192.0.2.1 port 40222 ssh2
         postfix/smtpd[7]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: UGFzc3dvcmQ6",
    );
    assert!(told[0].contains(" admin@") && !told[1].contains("admin"), "{told:?}");
}

#[test]
fn a_cut_name_is_nobodys() {
    let name = "l".repeat(100);
    let told = events(&format!("postfix/smtpd[7]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: x, sasl_username={name}"));
    assert!(told[0].contains("lll... 1x"), "{told:?}");
}

/// A verdict's program is not Postfix's, but its queue id is.
#[test]
fn a_spam_verdict_finds_the_submitter_by_queue_id_or_login() {
    let mut world = World::new();
    let client = "postfix/submission/smtpd[1]: B4ECE9B03E2: client=unknown[198.51.100.50], sasl_method=PLAIN, sasl_username=Bob";
    world.events(client);
    let (amavis, rspamd) = (
        "amavis[1]: (01155-07) Blocked SPAM {BouncedInternal}, LOCAL [198.51.100.50]:1 <a@corp.test> -> <b@remote.test>, Queue-ID: B4ECE9B03E2, Message-ID: <x>, mail_id: x, Hits: 9, size: 2, 4 ms",
        "rspamd[1]: <a91f69>; proxy; rspamd_task_write_log: id: <x>, qid: <B4ECE9B03E2>, from: <a@corp.test>, (default: T (reject): [26.79/15.00] []), len: 2",
    );
    for line in [amavis, rspamd] {
        assert_eq!(world.events(line), ["spam-verdict 198.51.100.50 bob@corp.test"]);
    }
    let named = rspamd.replace("B4ECE9B03E2>,", "4XYZBC12Fgz9bcd>, ip: 192.0.2.7, user: Eve,");
    assert_eq!(world.events(&named), ["spam-verdict 192.0.2.7 eve@corp.test"]);
    // From outside, or of a message that is not known: nobody's.
    world.events("postfix/smtpd[2]: 4ABC11111: client=mx.sender.test[192.0.2.9]");
    assert_eq!(world.events(&rspamd.replace("B4ECE9B03E2", "4ABC11111")), ["spam-verdict 192.0.2.9 -"]);
    assert_eq!(world.events(&amavis.replace("B4ECE9B03E2", "4ABC22222")), ["spam-verdict - -"]);
    world.vouched = false;
    assert_eq!(world.events(amavis), ["spam-verdict - -"]);
}

proptest! {
    /// Known lines, whole or with a byte changed, in any order: no panic, and every table stays small.
    #[test]
    fn any_order_of_lines(picks in prop::collection::vec((0usize..10, 0usize..220, any::<u8>(), any::<bool>()), 1..400)) {
        let lines: Vec<&str> = XFORWARD.lines().map(str::trim).collect();
        let mut world = World::new();
        for (pick, place, byte, whole) in picks {
            let mut line = format!("2026-11-24T02:31:55.000000+00:00 mx1 {}", lines[pick]).into_bytes();
            if let Some(target) = line.get_mut(place).filter(|_| !whole) {
                *target = byte;
            }
            if let Outcome::Line(parsed) = world.parser.parse(&line, None) {
                world.correlator.handle(&line, &parsed, "postfix", true, parsed.time, &mut |event| assert!(event.count >= 1));
            }
        }
        let stats = world.correlator.stats();
        prop_assert!(stats.messages <= 400 && stats.submitters <= stats.messages + 64);
    }
}
