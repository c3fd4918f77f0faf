//! Who must never be locked, whatever others do: victims of guessing, people with old telephones, offices behind one address, a shop
//! whose form is abused, and whoever writes to an attacker whose own servers call everything spam.

use std::net::IpAddr;

use mailwarden::engine::account::Family;
use mailwarden::engine::decision::{Subject, Verb};

use crate::globe;
use crate::host::{Host, is_about, shipped};
use crate::log::{Answer, DAY, HOUR, Log, MINUTE, SECOND, correspondent, strangers};
use crate::people::{self, Clerk, mailing, midnight, write};
use crate::thieves::{self, Owner};

const OWNER: &str = "owner@praxis.example";

fn owner() -> Clerk<'static> {
    Clerk { account: OWNER, office: globe::line("DE", 11, 100), home: globe::line("DE", 31, 8) }
}

fn assert_never_locked(host: &Host, name: &str) {
    let locks: Vec<_> = host.decisions.iter().filter(|told| told.verb == Verb::Lock && is_about(told, name)).collect();
    assert!(locks.is_empty(), "{locks:#?}");
}

#[test]
fn a_victim_of_three_thousand_guessing_addresses_stays_free() {
    let mut log = Log::new(1);
    owner().days(&mut log, 0..14);
    people::siege(&mut log, 3_000, &[OWNER], midnight(7), midnight(14));
    let mut host = Host::shipped();
    host.play(log);
    assert!(host.view(OWNER).besieged);
    assert_eq!(host.stops(), Vec::<String>::new());
}

/// Abroad she mistypes once and gets in, each day; and each day others guess at her account.
#[test]
fn whoever_mistyped_and_got_in_is_no_part_of_a_siege() {
    let mut log = Log::new(2);
    owner().days(&mut log, 0..10);
    let hotel = globe::line("BR", 5, 9);
    for day in 10..13 {
        let at = midnight(day) + 8 * HOUR;
        log.smtp_failure(at, hotel, OWNER);
        log.imap(at + 20 * SECOND, hotel, OWNER);
        for guesser in 0..10 {
            log.smtp_failure(at + MINUTE * i64::from(guesser + 1), globe::line("CN", 10 + guesser, day as u16), OWNER);
        }
    }
    let mut host = Host::shipped();
    host.play(log);
    let banned = |ip| host.decisions.iter().any(|told| told.verb == Verb::Ban && told.subject == Subject::Net(IpAddr::into(ip)));
    assert!(banned(globe::line("CN", 12, 10)) && !banned(hotel));
}

#[test]
fn an_old_telephone_that_fails_for_days_stops_nobody() {
    let mut log = Log::new(3);
    people::old_phone(&mut log, OWNER, 1..14);
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
}

/// Thirty accounts, with a device that fails all day, and a visitor who guesses.
#[test]
fn a_whole_office_behind_one_address_stays_free() {
    let mut log = Log::new(4);
    let office = globe::line("DE", 50, 7);
    let names: Vec<String> = (0..30).map(|number| format!("clerk{number}@kanzlei.example")).collect();
    for name in &names {
        let home = globe::line("DE", 60 + log.dice.below(60) as u8, log.dice.below(60_000) as u16);
        Clerk { account: name, office, home }.days(&mut log, 0..12);
    }
    let mut at = midnight(1);
    while at < midnight(12) {
        log.smtp_failure(at, office, &names[3]);
        let guess = log.dice.pick(&names).clone();
        log.imap_failure(at + 7 * SECOND, office, &guess);
        at += 9 * MINUTE;
    }
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
}

/// On Monday its line is another provider's: in the eyes of each account a stranger logs in, and the same one everywhere.
#[test]
fn an_office_with_a_new_line_is_told_and_left_alone() {
    let mut log = Log::new(17);
    let names: Vec<String> = (0..16).map(|number| format!("clerk{number}@kanzlei.example")).collect();
    for name in &names {
        let home = globe::line("DE", 60 + log.dice.below(60) as u8, log.dice.below(60_000) as u16);
        for (office, days) in [(globe::line("DE", 50, 7), 0..14), (globe::line("DE", 51, 9), 14..21)] {
            Clerk { account: name, office, home }.days(&mut log, days);
        }
    }
    for day in 14..21 {
        let recipients = strangers(&mut log.dice, 25, 0, 0);
        log.mail(midnight(day) + 10 * HOUR, globe::line("DE", 51, 9), &names[3], recipients);
    }
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
    let told: Vec<_> = host.decisions.iter().filter(|told| told.jail == "credential-list").collect();
    assert!(told.iter().any(|told| told.reason.contains("a new line")), "{told:#?}");
}

/// Sign-ups with addresses that do not exist, five hundred of them.
#[test]
fn a_shop_whose_form_is_abused_is_not_locked() {
    let (uid, account, machine) = (people::WEB_SHOP, "shop@laden.example", globe::line("DE", 9, 9));
    let mut log = Log::new(5);
    for day in 0..14 {
        for _ in 0..20 {
            let at = midnight(day) + log.dice.between(8 * HOUR, 22 * HOUR);
            let recipients = strangers(&mut log.dice, 1, 3, 0);
            log.sendmail(at, uid, "web1@mail.example", None, &recipients);
            log.mail(at, machine, account, recipients);
        }
    }
    for number in 0..500 {
        let at = midnight(12) + 2 * HOUR + number * 30 * SECOND;
        let recipients = strangers(&mut log.dice, 1, 70, 0);
        log.sendmail(at, uid, "web1@mail.example", None, &recipients);
        log.mail(at, machine, account, recipients);
    }
    let mut host = Host::shipped();
    host.play(log);
    for name in ["local:1001", account] {
        assert_never_locked(&host, name);
        assert!(host.points(name, Family::Delivery) > 0 || host.stopped_at(name).is_some(), "nobody noticed");
    }
}

/// A help desk that answers everybody, 72 in its busiest hour, and among them an attacker with so many servers in each case.
fn answered_as_spam(domains: &[&str]) -> Host {
    let (account, office) = ("help@laden.example", globe::line("DE", 12, 5));
    let mut log = Log::new(6);
    for day in 0..14 {
        for number in 0..120 {
            let at = midnight(day) + 8 * HOUR + number * 50 * SECOND;
            let recipients = if day >= 10 && number % 3 == 0 {
                vec![(format!("order{number}@{}", log.dice.pick(domains)), Answer::Spam)]
            } else {
                vec![(correspondent(&mut log.dice), Answer::Sent)]
            };
            log.mail(at, office, account, recipients);
        }
    }
    let mut host = Host::shipped();
    host.play(log);
    assert_never_locked(&host, account);
    host
}

#[test]
fn one_attackers_own_servers_have_one_vote() {
    let host = answered_as_spam(&["trap1.example", "trap2.example", "trap3.example", "trap4.example"]);
    host.assert_free("help@laden.example");
}

/// He rents them at five providers. It is the usual volume, so nobody is locked; a hold is what five voices are worth.
#[test]
fn an_attackers_servers_at_five_providers_lock_nobody() {
    answered_as_spam(&["spread1.example", "spread2.example", "spread3.example", "spread4.example", "spread5.example"]);
}

/// A telephone at home, and a new VPN beside it.
#[test]
fn a_telephone_beside_a_vpn_is_no_thief() {
    let mut log = Log::new(8);
    owner().days(&mut log, 0..14);
    let exits = [globe::line("NL", 200, 1), globe::line("SE", 200, 1)];
    for day in 9..14 {
        let exit = exits[(day % 2) as usize];
        for session in 0..5 {
            let at = midnight(day) + 9 * HOUR + session * 2 * HOUR;
            log.imap(at, exit, OWNER);
            log.imap(at + 10 * SECOND, owner().home, OWNER);
            write(&mut log, at + 30 * SECOND, exit, OWNER);
            log.imap(at + 40 * SECOND, owner().home, OWNER);
        }
    }
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
}

/// In another country, with the hotel's line and the telephone's, and a mail program that looks for new mail every five minutes.
#[test]
fn a_traveller_whose_mail_program_looks_often_is_not_held() {
    let mut log = Log::new(14);
    owner().days(&mut log, 0..9);
    let (hotel, telephone) = (globe::line("ES", 7, 7), globe::line("ES", 99, 7));
    for poll in 0..60 {
        let at = midnight(9) + 18 * HOUR + poll * 5 * MINUTE;
        log.imap(at, hotel, OWNER);
        log.imap(at + MINUTE, telephone, OWNER);
    }
    log.mail(midnight(9) + 18 * HOUR + 2 * MINUTE, hotel, OWNER, vec![("kontakt1@freemail1.example".to_owned(), Answer::Sent)]);
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
}

/// Two exits abroad within a minute: that is two countries at once.
#[test]
fn a_vpn_that_changes_its_exit_locks_nobody() {
    let mut log = Log::new(9);
    owner().days(&mut log, 0..14);
    let exits = ["NL", "SE", "GB"].map(|country| globe::line(country, 200, 1));
    for day in 9..14 {
        for session in 0..4 {
            let at = midnight(day) + 9 * HOUR + session * 2 * HOUR;
            log.imap(at, exits[session as usize % 3], OWNER);
            log.imap(at + 30 * SECOND, exits[(session + 1) as usize % 3], OWNER);
            let recipients = vec![(correspondent(&mut log.dice), Answer::Sent)];
            log.mail(at + MINUTE, exits[(session + 1) as usize % 3], OWNER, recipients);
        }
    }
    let mut host = Host::shipped();
    host.play(log);
    assert!(
        host.decisions.iter().any(|told| is_about(told, OWNER)) || host.view(OWNER).signs.iter().any(|sign| sign.jail == "two-countries")
    );
    assert_never_locked(&host, OWNER);
}

/// What hands in mail for others is told about, and never stopped.
#[test]
fn users_of_the_system_are_never_stopped() {
    let mut log = Log::new(10);
    for day in 0..10 {
        for uid in [33, people::VMAIL] {
            let recipients = strangers(&mut log.dice, 2, 0, 0);
            log.sendmail(midnight(day) + 9 * HOUR, uid, "www-data", None, &recipients);
        }
    }
    for number in 0..1_000 {
        for uid in [33, people::VMAIL] {
            let recipients = strangers(&mut log.dice, 1, 30, 20);
            log.sendmail(midnight(10) + number * 5 * SECOND, uid, "www-data", None, &recipients);
        }
    }
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
    for name in ["local:33", "local:5000"] {
        assert_eq!(host.told(name, Verb::Alert).len(), 1, "{name}");
    }
}

#[test]
fn a_protected_account_is_alerted_on_and_not_stopped() {
    let mut config = shipped().clone();
    config.risk.protected = vec!["@praxis.example".to_owned()];
    let mut log = Log::new(11);
    owner().days(&mut log, 0..12);
    let stolen = Owner { account: OWNER.to_owned(), office: owner().office };
    let ip = globe::abroad(&mut log.dice);
    thieves::blast_from(&mut log, &stolen, midnight(10), &[ip], 30, 20);
    let mut host = Host::new(&config);
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
    assert!(!host.told(OWNER, Verb::Alert).is_empty());
}

/// A local user writes into the log what Postfix writes about a thief. Nobody vouches for it.
#[test]
fn forged_lines_stop_nobody_and_are_told() {
    let mut log = Log::new(12);
    owner().days(&mut log, 0..12);
    log.forged = true;
    let abroad = globe::abroad(&mut log.dice);
    for number in 0..40 {
        let at = midnight(10) + number * MINUTE;
        let ip = globe::abroad(&mut log.dice);
        log.imap(at, ip, OWNER);
        let messages = mailing(&mut log.dice, 2, 20, 30, 30);
        log.submit(at, abroad, OWNER, messages, SECOND);
        let recipients = strangers(&mut log.dice, 20, 30, 30);
        log.sendmail(at, people::WEB_SHOP, "web1@mail.example", None, &recipients);
    }
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.stops(), Vec::<String>::new());
    assert_eq!(host.view(OWNER).score, 0);
    assert!(host.view(OWNER).strangers.is_empty() && host.find("local:1001").is_none());
    assert!(host.decisions.iter().any(|told| told.jail == "forged" && told.subject == Subject::Account("*".to_owned())));
}

#[test]
fn names_that_only_failures_name_are_nobody() {
    let mut log = Log::new(13);
    people::siege(&mut log, 500, &["ghost@praxis.example"], midnight(0), midnight(9) + DAY);
    let mut host = Host::shipped();
    host.play(log);
    assert_eq!(host.find("ghost@praxis.example"), None);
    assert!(!host.decisions.iter().any(|told| told.verb != Verb::Alert && is_about(told, "ghost@praxis.example")));
}
