//! What follows when a limit is reached.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::account::{Rung, Sign};
use super::counting::is_failure;
use super::decision::{Cause, Decision, Subject, Verb};
use super::evidence::text_of;
use super::jail::{Action, Distinct, Jail, KeyPart, Measure, Mode, Scope};
use super::key::{Facets, Host, Subnet};
use super::ledger::{Added, BanKey, Entry};
use super::measure::Firing;
use super::{Engine, Feedback, reason};
use crate::event::{Event, EventKind, Familiarity, Service};
use crate::limits;
use crate::time::Timestamp;

/// What decisions that are about no single subject name.
const WHOLE_HOST: &str = "*";
/// Names of what decides without being a jail.
pub(super) const WIDENING: &str = "widening";
const FORGED: &str = "forged";
/// What is said of an office that has a new line.
const MOVED: &str =
    ", of one domain and from the same network until now: a house that has a new line, so nothing is held against its accounts";

/// A jail tripped.
pub(super) struct Trip {
    pub group: usize,
    pub firing: Firing,
    /// Whoever tripped it is not to be banned.
    pub refusal: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoAddress,
    NeverBanned,
    Shared,
    SomebodyGood,
    KnownGood,
}

impl Refusal {
    const fn text(self) -> &'static str {
        match self {
            Refusal::NoAddress => "the event names no address",
            Refusal::NeverBanned => "the address is one that is never banned",
            Refusal::Shared => "several accounts log in from this address",
            Refusal::SomebodyGood => "somebody with a good login or accepted mail lives in this network",
            Refusal::KnownGood => "the address logged in successfully within 30 days",
        }
    }
}

/// Everything that the decisions of one trip have in common.
struct Case {
    jail: Arc<Jail>,
    group: usize,
    rule: usize,
    subject: Subject,
    network: Option<Subnet>,
    service: Service,
    reason: String,
    count: u64,
    span: i64,
    evidence: Vec<String>,
    from_failures: bool,
}

impl Engine {
    pub(super) fn act(&mut self, trip: Trip, facets: &mut Facets<'_>) {
        let Some(mut case) = self.case(&trip, facets) else { return };
        let jail = case.jail.clone();
        let steps = jail.steps.get(trip.firing.from..trip.firing.to).unwrap_or_default();
        if self.is_move(&trip, facets) {
            // Told once; more of them are no more news.
            if trip.firing.from > 0 {
                return;
            }
            case.reason.push_str(MOVED);
        } else {
            self.score(&case, &trip, facets);
        }
        for action in steps.iter().flat_map(|step| &step.then) {
            match action {
                Action::Ban => match (trip.refusal, case.network) {
                    (None, Some(subnet)) => self.ban(subnet, &case, case.evidence.clone()),
                    (refusal, _) => self.alert(&case, refusal.map(Refusal::text)),
                },
                Action::BanContributors => self.ban_contributors(&trip.firing.summary.contributors, &case),
                Action::Alert | Action::Slow => self.alert(&case, None),
                Action::Hold => self.demand(&case, Rung::Held, facets),
                // An attacker can make anybody's logins fail.
                Action::Lock if case.from_failures => self.alert(&case, Some("an account is never locked for failures")),
                Action::Lock => self.demand(&case, Rung::Locked, facets),
            }
        }
    }

    /// Those who came to a new address together lived together before, in the same country.
    fn is_move(&self, trip: &Trip, facets: &Facets<'_>) -> bool {
        let names = &trip.firing.summary.names;
        facets.event.whence.familiarity == Familiarity::NewNetwork && names.len() > 1 && self.is_one_house(names)
    }

    /// What the steps say against the submitter, or against every account that a strange address entered.
    fn score(&mut self, case: &Case, trip: &Trip, facets: &mut Facets<'_>) {
        let jail = &case.jail;
        if case.from_failures && jail.measure == Measure::Distinct(Distinct::Network) && jail.key == [KeyPart::Account] {
            if let Some(name) = facets.event.account {
                self.besiege(name);
            }
            return;
        }
        let steps = jail.steps.get(trip.firing.from..trip.firing.to).unwrap_or_default();
        let points: u32 = steps.iter().map(|step| step.score).sum();
        if points == 0 || matches!(facets.event.kind, EventKind::AuthFailure | EventKind::ProtocolAbuse) || jail.mode == Mode::Observe {
            return;
        }
        let text = reason::sign(jail, facets.event, trip.firing.total);
        let sign = |text| Sign { jail: &jail.name, family: jail.family, points, text, evidence: &case.evidence };
        let by_name = jail.key.iter().any(|part| matches!(part, KeyPart::Account | KeyPart::Submitter));
        match (facets.submitter(), facets.event.submitter.or(facets.event.account)) {
            (Some(key), Some(name)) if by_name => self.suspect(key, Some(name), sign(text)),
            _ => trip.firing.summary.names.iter().for_each(|key| self.suspect(*key, None, sign(text.clone()))),
        }
    }

    fn case(&mut self, trip: &Trip, facets: &mut Facets<'_>) -> Option<Case> {
        let group = self.groups.get_mut(trip.group)?;
        let rule = group.rules.get_mut(trip.firing.rule)?;
        rule.tripped += 1;
        let jail = rule.jail.clone();
        let (event, firing) = (facets.event, &trip.firing);
        let limit = firing.to.checked_sub(1).and_then(|last| jail.steps.get(last)).map_or(0, |step| step.limit);
        let span = self.now.saturating_sub(firing.summary.first).max(0);
        let mut reason = format!(
            "{} {} in {} (limit {limit} in {})",
            firing.total,
            reason::what(event.kind, jail.measure),
            reason::span(span),
            reason::span(rule.span.micros()),
        );
        if firing.summary.accounts > 1 {
            reason.push_str(&format!(", {} accounts", firing.summary.accounts));
        }
        // It is the host's own mail as a whole: whose is it?
        let is_about_all_mail = group.parts == [KeyPart::Global] && event.kind == EventKind::Delivery;
        if is_about_all_mail {
            reason.push_str(&self.tally.sentence(self.now));
        }
        let by_address = group.parts.iter().any(|part| matches!(part, KeyPart::Ip | KeyPart::Network));
        let evidence = match (by_address, facets.host) {
            _ if is_about_all_mail => Vec::new(),
            (true, Some(host)) => self.evidence.of_host(host.key()),
            _ => facets.submitter().map(|name| self.evidence.of_account(name)).unwrap_or_default(),
        };
        let evidence = if evidence.is_empty() { own_line(event) } else { evidence };
        let network = target(&group.parts, facets.host);
        let subject = subject(&group.parts, event, network);
        let from_failures = is_failure(event.kind);
        let (group, rule) = (trip.group, firing.rule);
        Some(Case {
            jail,
            group,
            rule,
            subject,
            network,
            service: event.service,
            reason,
            count: firing.total,
            span,
            evidence,
            from_failures,
        })
    }

    fn ban_contributors(&mut self, contributors: &[Host], case: &Case) {
        for host in contributors {
            let key = BanKey { subnet: host.subnet(), scope: case.jail.ban.scope };
            // Whoever is out already and adds to the siege by another door needs no second ban.
            let is_in_force = self.ledger.get(key).is_some_and(|entry| entry.covers(self.now));
            let is_stranger = !self.known.standing(*host, self.now).good && self.allow.find(host.subnet()).is_none();
            if is_stranger && !is_in_force {
                // What this address did, not what the others did: their bans have that.
                let own = self.evidence.of_host(host.key());
                let evidence = if own.is_empty() { case.evidence.clone() } else { own };
                self.ban(host.subnet(), case, evidence);
            }
        }
    }

    fn ban(&mut self, subnet: Subnet, case: &Case, evidence: Vec<String>) {
        let now = self.at;
        let earlier = if case.jail.shared { 0 } else { self.history.earlier(subnet, now) };
        let until = end(now, self.sanction.duration(case.jail.ban.bantime, earlier));
        let key = BanKey { subnet, scope: case.jail.ban.scope };
        let mut decision =
            self.decision(Verb::Ban, Subject::Net(subnet.to_network()), key.scope, until, &case.jail.name, case.reason.clone());
        decision.evidence = evidence;
        if case.jail.mode == super::jail::Mode::Observe {
            decision.observed = true;
            self.push(decision);
            return;
        }
        let entry = Entry {
            jail: self.ledger.names.number(&case.jail.name),
            count: u32::try_from(case.count).unwrap_or(u32::MAX),
            span: u32::try_from(case.span / 1_000_000).unwrap_or(u32::MAX),
            earlier: u8::try_from(earlier).unwrap_or(u8::MAX),
            ..Entry::new(key, decision.id, now, until)
        };
        let added = self.enforce(entry, decision);
        if added == Added::New {
            if let Some(rule) = self.groups.get_mut(case.group).and_then(|group| group.rules.get_mut(case.rule)) {
                rule.banned += 1;
            }
            if case.jail.shared {
                return;
            }
            self.history.note(subnet, now, now);
            if subnet.prefix == if subnet.is_ipv4() { 128 } else { 64 } {
                self.feedback.push_back(Feedback { host: Host::from_key(subnet.bits), service: case.service, jail: case.jail.clone() });
            }
            self.widen(subnet, key.scope, until);
        }
    }

    /// A ban that no jail makes.
    pub(super) fn ban_for(&mut self, subnet: Subnet, scope: Scope, duration: Duration, origin: &str, reason: String) {
        let (now, key) = (self.at, BanKey { subnet, scope });
        let earlier = self.history.earlier(subnet, now);
        let until = end(now, self.sanction.duration(Some(duration), earlier));
        let mut decision = self.decision(Verb::Ban, Subject::Net(subnet.to_network()), scope, until, origin, reason);
        decision.evidence = self.evidence.of_host(Host::from_key(subnet.bits).key());
        let entry = Entry {
            jail: self.ledger.names.number(origin),
            count: 1,
            earlier: u8::try_from(earlier).unwrap_or(u8::MAX),
            ..Entry::new(key, decision.id, now, until)
        };
        if self.enforce(entry, decision) == Added::New {
            self.history.note(subnet, now, now);
        }
    }

    /// Enters a ban in the ledger, and tells about it if that changed anything.
    pub(super) fn enforce(&mut self, entry: Entry, decision: Decision) -> Added {
        if self.ledger.is_full() && self.ledger.get(entry.key()).is_none() {
            self.make_room();
        }
        let added = self.ledger.add(entry, self.now);
        if matches!(added, Added::New | Added::Prolonged) {
            self.made_now.push(decision.id);
            // Nobody asks a replay why.
            if self.enforced {
                self.ledger.tell(decision.id, &decision.reason, &decision.evidence);
            }
            self.push(decision);
        }
        added
    }

    fn make_room(&mut self) {
        if let Some(entry) = self.ledger.pop_soonest() {
            self.totals.bans_evicted += 1;
            let time = self.at;
            self.push_unban(&entry, time, "lifted early: as many bans as there may be are in force", Cause::Engine);
        }
    }

    /// A part of a network was banned: perhaps the network is to be.
    fn widen(&mut self, part: Subnet, scope: Scope, part_until: i64) {
        let Some(config) = self.sanction.widening.clone() else { return };
        let mut part = part;
        let now = self.at;
        loop {
            let (allow, known) = (&self.allow, &self.known);
            let is_free = |network: Subnet| allow.find(network).is_none() && !known.lives_in(network, now);
            let Some(wider) = self.widening.banned(part, scope, &config, now, is_free) else { return };
            let until = end(now, Some(config.longest)).min(part_until);
            let what = if part.is_ipv4() { "addresses".to_owned() } else { format!("/{}s", part.prefix) };
            let net = wider.network.to_network();
            let reason = format!(
                "{} {what} of {net} banned within {}, nobody good lives there",
                wider.parts,
                reason::span(config.within.as_micros() as i64)
            );
            let decision = self.decision(Verb::Ban, Subject::Net(net), wider.scope, until, WIDENING, reason);
            let entry = Entry {
                jail: self.ledger.names.number(WIDENING),
                count: u32::try_from(wider.parts).unwrap_or(u32::MAX),
                ..Entry::new(BanKey { subnet: wider.network, scope: wider.scope }, decision.id, now, until)
            };
            self.enforce(entry, decision);
            part = wider.network;
        }
    }

    /// A jail wants a submitter stopped, whatever its score.
    fn demand(&mut self, case: &Case, rung: Rung, facets: &mut Facets<'_>) {
        let (Some(key), Some(name)) = (facets.submitter(), facets.event.submitter.or(facets.event.account)) else { return };
        let observed = case.jail.mode == Mode::Observe;
        self.stop_for(key, name, rung, &case.jail.name, case.reason.clone(), &case.evidence, observed);
    }

    fn alert(&mut self, case: &Case, but: Option<&str>) {
        let reason = match but {
            Some(but) => format!("{}; nothing done: {but}", case.reason),
            None => case.reason.clone(),
        };
        let mut decision = self.decision(Verb::Alert, case.subject.clone(), case.jail.ban.scope, self.now, &case.jail.name, reason);
        decision.observed = case.jail.mode == super::jail::Mode::Observe;
        decision.evidence = case.evidence.clone();
        self.push(decision);
    }

    pub(super) fn note_forgery(&mut self, event: &Event<'_>) {
        if let Some(reason) = self.forgeries.note(event.filter, event.line, self.now) {
            let mut decision = self.decision(Verb::Alert, Subject::Account(WHOLE_HOST.to_owned()), Scope::All, self.now, FORGED, reason);
            decision.evidence = own_line(event);
            self.push(decision);
        }
    }

    pub(super) fn alert_ineffective(&mut self, entry: &Entry, event: &Event<'_>, stamp: i64) {
        let jail = self.ledger.names.get(entry.jail).to_owned();
        let since = reason::span(stamp.saturating_sub(entry.since));
        let reason = format!(
            "the ban does not bite: {} still gets through {since} after it (a proxy in front, or packets that do not pass this firewall?)",
            event.service
        );
        let subject = Subject::Net(entry.key().subnet.to_network());
        let mut decision = self.decision(Verb::Alert, subject, entry.scope, self.now, &jail, reason);
        decision.evidence = own_line(event);
        self.push(decision);
    }

    /// Takes out up to `max` bans that have ended, and says so. The kernel lets them go by itself.
    pub(super) fn end_bans(&mut self, max: usize) {
        if self.ledger.next_end().is_none_or(|until| until > self.now) {
            return;
        }
        for _ in 0..max {
            let Some(entry) = self.ledger.pop_ended(self.now) else { break };
            self.push_unban(&entry, entry.until, "the ban is over", Cause::Engine);
        }
    }

    pub(super) fn push_unban(&mut self, entry: &Entry, time: i64, reason: &str, cause: Cause) {
        let jail = self.ledger.names.get(entry.jail).to_owned();
        let decision =
            self.decision(Verb::Unban, Subject::Net(entry.key().subnet.to_network()), entry.scope, entry.until, &jail, reason.to_owned());
        self.push_at(decision, time, cause);
    }

    /// A decision of another moment than that of the event at hand.
    pub(super) fn push_at(&mut self, mut decision: Decision, time: i64, cause: Cause) {
        decision.time = Timestamp::from_micros(time);
        decision.id = decision_id(&decision);
        decision.cause = cause;
        self.push(decision);
    }

    pub(super) fn decision(&self, verb: Verb, subject: Subject, scope: Scope, until: i64, jail: &str, reason: String) -> Decision {
        let mut decision = Decision {
            id: 0,
            time: Timestamp::from_micros(self.at),
            verb,
            subject,
            scope,
            until: Timestamp::from_micros(until),
            jail: jail.to_owned(),
            reason,
            cause: Cause::Engine,
            observed: false,
            evidence: Vec::new(),
        };
        decision.id = decision_id(&decision);
        decision
    }
}

/// The same decision has the same id, on every host and after every restart.
fn decision_id(decision: &Decision) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    // Little-endian everywhere, and each text with its length: `hash` methods may change, this may not.
    hasher.write(&decision.time.micros().to_le_bytes());
    hasher.write(&[decision.verb as u8, decision.scope as u8]);
    match &decision.subject {
        Subject::Net(net) => {
            let subnet = Subnet::new(*net);
            hasher.write(&subnet.bits.to_le_bytes());
            hasher.write(&[subnet.prefix]);
        }
        Subject::Account(name) => {
            hasher.write(&(name.len() as u64).to_le_bytes());
            hasher.write(name.as_bytes());
        }
    }
    hasher.write(decision.jail.as_bytes());
    hasher.finish()
}

pub(super) fn end(now: i64, duration: Option<Duration>) -> i64 {
    duration.map_or(i64::MAX, |duration| (Timestamp::from_micros(now) + duration).micros())
}

pub(super) fn own_line(event: &Event<'_>) -> Vec<String> {
    let line = event.line.get(..limits::EVIDENCE_LINE_BYTES_MAX).unwrap_or(event.line);
    if line.is_empty() { Vec::new() } else { vec![text_of(line)] }
}

/// Whom a ban of a jail with such a key hits.
fn target(parts: &[KeyPart], host: Option<Host>) -> Option<Subnet> {
    let by_network = parts.contains(&KeyPart::Network) && !parts.contains(&KeyPart::Ip);
    host.map(|host| if by_network { host.network() } else { host.subnet() })
}

/// Whom an alert of such a jail is about.
fn subject(parts: &[KeyPart], event: &Event<'_>, network: Option<Subnet>) -> Subject {
    let name = parts.iter().find_map(|part| match part {
        KeyPart::Account => event.account.map(lossy),
        KeyPart::Submitter => event.submitter.or(event.account).map(lossy),
        KeyPart::Domain => event.submitter.or(event.account).and_then(super::key::domain).map(|domain| format!("@{}", lossy(domain))),
        KeyPart::Ip | KeyPart::Network | KeyPart::Global => None,
    });
    let by_address = parts.iter().any(|part| matches!(part, KeyPart::Ip | KeyPart::Network));
    match (name, network) {
        (Some(name), _) if !by_address || event.kind == EventKind::Message => Subject::Account(name),
        (_, Some(network)) if by_address => Subject::Net(network.to_network()),
        (Some(name), _) => Subject::Account(name),
        _ => Subject::Account(WHOLE_HOST.to_owned()),
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..limits::ACCOUNT_BYTES_MAX).unwrap_or(name)).into_owned()
}
