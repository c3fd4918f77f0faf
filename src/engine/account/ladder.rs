//! From signs to measures: alert, hold, lock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::history::day;
use super::risk::{FAMILY_POINTS_MIN, Family, LOCKS_KEPT, RiskRules, Rung, Signal};
use super::submitter::{Kind, Record};
use super::{Hindrance, Stop};
use crate::engine::Engine;
use crate::engine::decision::{Cause, Decision, Subject, Verb};
use crate::engine::jail::Scope;
use crate::engine::key::{Host, Seed, domain, domain_key};
use crate::engine::known::seconds;
use crate::engine::ledger::{BanKey, Entry};
use crate::engine::snapshot::Reader;
use crate::engine::verdict::end;
use crate::event::{Event, EventKind, Familiarity, Service, Whence};
use crate::limits;
use crate::time::Timestamp;

/// Many failures from many addresses make an account besieged for so long.
const BESIEGED_SECONDS: u32 = 7 * 86_400;
/// Strangers that sent mail with the account so recently are banned with its lock. Not those of yesterday: the owner may travel.
const STRANGER_SECONDS: u32 = 7_200;
/// And if they used it so recently, its lock is prolonged.
const STILL_SECONDS: u32 = 3_600;
/// How long the ban is.
const STRANGER_BAN: Duration = Duration::from_secs(86_400);
/// Locks by the engine within so long make the next one last.
const LOCKS_REMEMBERED_MICROS: i64 = 30 * 86_400_000_000;
/// After so many the next one lasts until somebody lifts it.
const LOCKS_THAT_END: usize = 2;
/// The part of a day's locks, one in so many, that is kept for other domains than the one that has used up the rest.
const KEPT_FOR_OTHERS: usize = 4;
const TEN_MINUTES_MICROS: i64 = 600_000_000;
const DAY_MICROS: i64 = 86_400_000_000;
/// Users of the system itself.
const SYSTEM_UID_MAX: u32 = 999;
/// Under which name stands what the sum of all signs decides.
const RISK: &str = "risk";
const OVER_BUDGET: &str = "held in place of locked: so many locks in so short a time are a mistake of the rules until somebody has looked \
     (`mailwarden lock` is not bound by it; [risk] has the numbers)";
/// Points of the login family that make an account look like it is in other hands.
const STRANGE_POINTS_MIN: f64 = 30.0;
/// Points that say that there is mail worth a look.
const MAIL_POINTS_MIN: f64 = 10.0;
/// Points of the delivery family from which a list is not just old.
const BOUNCING_POINTS_MIN: f64 = 35.0;
/// Two log-ins closer together than this are not a journey: the clocks of servers differ.
const JOURNEY_SECONDS_MIN: u32 = 60;
/// Within so many kilometres a database of addresses may be wrong.
const JOURNEY_KILOMETRES_MIN: f64 = 300.0;

/// A lock that the engine made, for the budget.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Spent {
    time: i64,
    domain: u128,
}

/// What was looked up for an event, beside what stands in it.
#[derive(Default)]
pub(in crate::engine) struct Context {
    /// Of whoever answers for it, or whose login failed.
    pub key: Option<u128>,
    location: Option<(f32, f32)>,
    /// The domain to which a message of it left this host.
    domain: Option<u128>,
    /// It came from an address that is never banned.
    is_ours: bool,
    /// As far as the account's own record tells.
    is_stopped: bool,
}

/// What a step of a jail says against a submitter.
pub(in crate::engine) struct Sign<'a> {
    pub jail: &'a str,
    pub family: Family,
    pub points: u32,
    pub text: String,
    pub evidence: &'a [String],
}

impl Engine {
    /// Fills in what is known about the account of an event.
    pub(in crate::engine) fn look_up(&self, event: &mut Event<'_>) -> Context {
        let is_failure = event.kind == EventKind::AuthFailure && event.service != Service::Ssh;
        let name = if is_failure { event.account } else { submitter(event) };
        let Some(name) = name else { return Context::default() };
        let key = self.submitters.key(name);
        let (record, now) = (self.submitters.get(key), seconds(self.at));
        let domain = recipient_domain(event, self.seed);
        let is_stopped = record.is_some_and(|record| record.risk.rung >= Rung::Held);
        let mut context = Context { key: Some(key), domain, is_stopped, ..Context::default() };
        event.besieged = record.is_some_and(|record| self.is_besieged(record, now));
        event.new_recipient_domain = record.zip(domain).is_some_and(|(record, domain)| record.is_new_domain(domain, now));
        let Some(ip) = event.ip.filter(|_| needs_place(event) && (record.is_some() || !is_failure)) else {
            return context;
        };
        context.is_ours = self.allow.find(Host::new(ip).subnet()).is_some();
        // Webmail on this host, the operator's own office: who sits there cannot be told. And whoever has ever been let in from a
        // place may have a telephone there with an old password.
        if context.is_ours || is_failure && record.is_some_and(|record| record.history.has_been_at(ip, now)) {
            event.whence.familiarity = Familiarity::Known;
            return context;
        }
        if is_failure {
            // Failures come in floods, and from where makes no difference.
            event.whence.familiarity = Familiarity::NewNetwork;
            return context;
        }
        let place = self.geo.look(ip);
        let country = place.users_country().map(|country| u16::from_be_bytes(country.0));
        context.location = place.users_location();
        event.country = country;
        event.asn = place.asn;
        if let Some(record) = record {
            let whence = record.history.whence(ip, country, now);
            event.whence = Whence { kilometres_per_hour: speed(record, context.location, now), ..whence };
        }
        context
    }

    pub(in crate::engine) fn is_besieged(&self, record: &Record, now: u32) -> bool {
        record.besieged != 0 && now.saturating_sub(record.besieged) < BESIEGED_SECONDS
    }

    /// What was seen becomes what is usual, unless much speaks against it.
    pub(in crate::engine) fn learn(&mut self, event: &Event<'_>, context: &Context) {
        let Context { key, location, domain, is_ours, is_stopped } = context;
        if event.kind == EventKind::Reject {
            self.note_refused(event);
        }
        let (Some(name), Some(key)) = (submitter(event), *key) else { return };
        let (messages, recipients) = match event.kind {
            EventKind::Message => (1, 0),
            EventKind::Delivery if event.recipients > 0 => (0, event.recipients),
            EventKind::AuthSuccess => (0, 0),
            _ => return,
        };
        let (now, micros, half_life, alert) = (seconds(self.at), self.at, self.risk.half_life, self.risk.alert);
        self.note_history(now);
        if *is_stopped {
            self.reconsider(key);
        }
        let is_delivery = event.kind == EventKind::Delivery;
        let was_stopped = self.is_freed_later(key);
        self.submitters.update(key, name, micros, |record| {
            let is_frozen = was_stopped || record.risk.total(micros, half_life) >= alert || record.risk.rung >= Rung::Held;
            if let Some(ip) = event.ip.filter(|_| needs_place(event) && !is_delivery && !is_ours) {
                if event.whence.familiarity >= Familiarity::NewNetwork {
                    record.stranger(Host::new(ip), now, event.kind == EventKind::Message);
                }
                record.history.visit(ip, event.country, now, !is_frozen);
            }
            if let Some((latitude, longitude)) = location.filter(|_| !is_delivery) {
                record.last_location = Some((latitude, longitude, now));
            }
            if !is_frozen && messages + recipients > 0 {
                record.history.sent(messages, recipients, now);
            }
            if let Some(domain) = domain.filter(|_| !is_frozen) {
                record.domains.note(domain, day(now));
            }
        });
    }

    /// A locked account is refused at submission, after a login that worked: whoever is refused there has its password still.
    fn note_refused(&mut self, event: &Event<'_>) {
        let (Some(name), Some(ip), true) = (event.account, event.ip, event.vouched && !event.restates) else { return };
        let is_locked = std::str::from_utf8(name).is_ok_and(|name| self.standings.get(name, Hindrance::Locked).is_some());
        if !is_locked || self.allow.find(Host::new(ip).subnet()).is_some() {
            return;
        }
        let (key, now) = (self.submitters.key(name), seconds(self.at));
        self.submitters.modify(key, self.at, |record| {
            if record.history.whence(ip, None, now).familiarity >= Familiarity::NewNetwork {
                record.stranger(Host::new(ip), now, true);
            }
        });
    }

    fn note_history(&mut self, now: u32) {
        if self.accounts_since == 0 || now < self.accounts_since {
            self.accounts_since = now;
        }
    }

    /// What would be done about accounts is only told.
    pub(in crate::engine) fn is_observing_accounts(&self) -> bool {
        self.accounts_observed || self.is_learning()
    }

    /// Who counts as stopped and is not is judged anew: that was only told while accounts were only watched, or what is saved of
    /// the account is older than the end of its stop.
    fn reconsider(&mut self, key: u128) {
        let Some(record) = self.submitters.get(key).filter(|record| record.risk.rung >= Rung::Held) else { return };
        let name = String::from_utf8_lossy(&record.name);
        let is_stopped = [Hindrance::Held, Hindrance::Locked].iter().any(|hindrance| self.standings.get(&name, *hindrance).is_some());
        if !is_stopped && !self.is_observing_accounts() {
            self.submitters.modify(key, self.at, |record| record.risk.rung = Rung::Alerted);
        }
    }

    /// There is too little history to tell what is unusual.
    pub(in crate::engine) fn is_learning(&self) -> bool {
        let learned = seconds(self.now).saturating_sub(self.accounts_since);
        self.accounts_since == 0 && !self.risk.learning.is_zero() || u64::from(learned) < self.risk.learning.as_secs()
    }

    /// Many addresses fail to log in as that account.
    pub(in crate::engine) fn besiege(&mut self, name: &[u8]) {
        let (key, now) = (self.submitters.key(name), self.at);
        // Whoever never logged in is nobody: names seen only in failures are not remembered here.
        self.submitters.modify(key, now, |record| record.besieged = seconds(now));
    }

    /// Nearly all of these are of one domain, and were at home in the same network before: an office that has a new line.
    pub(in crate::engine) fn is_one_house(&self, keys: &[u128]) -> bool {
        let now = seconds(self.at);
        let nearly_all = keys.len() - keys.len() / 4;
        let (mut domains, mut networks) = (BTreeMap::<&[u8], usize>::new(), BTreeMap::<u32, usize>::new());
        for record in keys.iter().filter_map(|key| self.submitters.get(*key)) {
            *domains.entry(domain(&record.name).unwrap_or_default()).or_default() += 1;
            record.history.former_networks(now).for_each(|network| *networks.entry(network).or_default() += 1);
        }
        let most = |counts: Option<&usize>| counts.copied().unwrap_or(0) >= nearly_all;
        most(domains.values().max()) && most(networks.values().max())
    }

    /// Counts a sign against the submitter of that key, and does what follows.
    pub(in crate::engine) fn suspect(&mut self, key: u128, name: Option<&[u8]>, sign: Sign<'_>) {
        if self.is_freed_later(key) {
            return;
        }
        if name.or_else(|| self.submitters.get(key).map(|record| &*record.name)).is_some_and(|name| !self.risk.counts(sign.family, name)) {
            return;
        }
        let (now, half_life) = (self.at, self.risk.half_life);
        let signal = Signal { time: now, jail: sign.jail.to_owned(), family: sign.family, points: sign.points, text: sign.text };
        let alert = self.risk.alert;
        let add = |record: &mut Record| {
            if record.risk.rung == Rung::Alerted && record.risk.total(now, half_life) < alert / 2.0 {
                record.risk.rung = Rung::Quiet;
            }
            record.risk.add(signal, half_life);
        };
        match name {
            Some(name) => self.submitters.update(key, name, now, add),
            None => match self.submitters.modify(key, now, add) {
                Some(()) => {}
                None => return,
            },
        }
        self.watch(key);
        self.climb(key, sign.evidence);
    }

    fn climb(&mut self, key: u128, evidence: &[String]) {
        self.reconsider(key);
        let (now, rules) = (self.at, &self.risk);
        let Some(record) = self.submitters.get(key) else { return };
        let (risk, rung) = (&record.risk, record.risk.rung);
        let total = risk.total(now, rules.half_life);
        if total < rules.alert || rung == Rung::Locked {
            return;
        }
        let story = story(record, now, rules);
        let name = record.name.clone();
        let is_proven = is_proven(record, now, rules);
        let wanted = if total >= rules.lock && is_proven {
            Rung::Locked
        } else if total >= rules.hold && is_worth_a_hold(record, now, rules) {
            Rung::Held
        } else if risk.families(now, rules.half_life) >= 2 {
            Rung::Alerted
        } else {
            // Whoever travels, or writes to a whole club, is no news.
            Rung::Quiet
        };
        self.stop_for(key, &name, wanted, RISK, story, evidence, false);
    }

    /// Goes up to `wanted`, as far as that submitter may be stopped.
    #[expect(clippy::too_many_arguments, reason = "all of them are one decision")]
    pub(in crate::engine) fn stop_for(
        &mut self,
        key: u128,
        name: &[u8],
        wanted: Rung,
        jail: &str,
        reason: String,
        evidence: &[String],
        observed: bool,
    ) {
        self.reconsider(key);
        let (highest, but) = self.highest_rung(name);
        let mut notes: Vec<&str> = Vec::new();
        let mut rung = wanted.min(highest);
        if wanted > highest {
            notes.extend(but);
        }
        let now = self.at;
        if self.is_freed_later(key) || self.submitters.get(key).is_some_and(|record| rung <= record.risk.rung) {
            return;
        }
        if rung == Rung::Locked && !observed && !self.may_lock(name) {
            rung = Rung::Held;
            notes.push(OVER_BUDGET);
            if self.submitters.get(key).is_some_and(|record| record.risk.rung >= Rung::Held) {
                self.tell_of_budget(name, jail, &reason, evidence);
            }
        }
        let is_higher = self.submitters.update(key, name, now, |record| {
            let is_higher = rung > record.risk.rung;
            if is_higher && !observed {
                record.risk.rung = rung;
            }
            is_higher
        });
        if !is_higher {
            return;
        }
        let reason = if notes.is_empty() { reason } else { format!("{reason}; {}", notes.join("; ")) };
        let text = String::from_utf8_lossy(name).into_owned();
        let verb = match rung {
            Rung::Locked => Verb::Lock,
            Rung::Held => Verb::Hold,
            _ => Verb::Alert,
        };
        let scope = if verb == Verb::Lock && self.risk.lock_full { Scope::Auth } else { Scope::Submission };
        let mut decision = self.decision(verb, Subject::Account(text), scope, i64::MAX, jail, reason);
        decision.evidence = evidence.iter().take(limits::EVIDENCE_LINES_MAX).cloned().collect();
        decision.observed = verb != Verb::Alert && (observed || self.is_observing_accounts());
        match rung {
            Rung::Locked => self.lock(key, decision, true),
            Rung::Held => self.enter_stop(Hindrance::Held, decision),
            _ => self.push(decision),
        }
    }

    /// A held account should be locked by now. One of them speaks for all.
    fn tell_of_budget(&mut self, name: &[u8], jail: &str, reason: &str, evidence: &[String]) {
        if self.at.saturating_sub(self.budget_told) < TEN_MINUTES_MICROS {
            return;
        }
        self.budget_told = self.at;
        let subject = Subject::Account(String::from_utf8_lossy(name).into_owned());
        let mut decision = self.decision(Verb::Alert, subject, Scope::Submission, self.at, jail, format!("{reason}; {OVER_BUDGET}"));
        decision.evidence = evidence.iter().take(limits::EVIDENCE_LINES_MAX).cloned().collect();
        self.push(decision);
    }

    fn enter_stop(&mut self, hindrance: Hindrance, decision: Decision) {
        if let Subject::Account(name) = &decision.subject {
            let name = name.clone();
            self.stop(&name, hindrance, decision);
        }
    }

    /// How far a submitter may be stopped without being asked, and why no farther.
    fn highest_rung(&self, name: &[u8]) -> (Rung, Option<&'static str>) {
        if self.risk.is_protected(name) {
            return (Rung::Alerted, Some("nothing done: the account is protected"));
        }
        match Kind::of(name) {
            Kind::Account => (Rung::Locked, None),
            Kind::Local(uid) if uid <= SYSTEM_UID_MAX || self.risk.system_users.contains(&uid) => {
                (Rung::Alerted, Some("nothing done: a user of the system, which hands in mail of others"))
            }
            Kind::Local(_) => (Rung::Locked, None),
            Kind::Client => (Rung::Held, Some("a client without a login has nothing to lock")),
            Kind::Forward => (Rung::Alerted, Some("nothing done: mail of others that is sent on")),
        }
    }

    /// The budget: a bad rule must not lock everybody, nor can one customer use all of it up, neither at once nor over a day. Who was locked within a month is locked
    /// again for nothing.
    fn may_lock(&mut self, name: &[u8]) -> bool {
        let (now, rules) = (self.at, &self.risk);
        let record = self.submitters.get(self.submitters.key(name));
        if record.is_some_and(|record| record.risk.locks.iter().any(|lock| is_remembered(*lock, now))) {
            return true;
        }
        self.locks_made.retain(|spent| now.saturating_sub(spent.time) < DAY_MICROS);
        let domain = self.submitters.key(domain(name).unwrap_or(name));
        let per_day = rules.locks_per_day.max(self.submitters.len() / 100);
        let of_domain = self.locks_made.iter().filter(|spent| spent.domain == domain).count();
        let recent = || self.locks_made.iter().filter(|spent| now.saturating_sub(spent.time) < TEN_MINUTES_MICROS);
        let is_affordable = recent().count() < rules.locks_per_10_minutes
            && recent().filter(|spent| spent.domain == domain).count() < rules.locks_per_domain
            && self.locks_made.len() < per_day
            && of_domain < per_day - per_day / KEPT_FOR_OTHERS;
        if is_affordable {
            self.locks_made.push_back(Spent { time: now, domain });
        }
        is_affordable
    }

    /// `is_new`: not an old one that goes on.
    fn lock(&mut self, key: u128, mut decision: Decision, is_new: bool) {
        let (now, is_enforced) = (self.at, !decision.observed);
        let (earlier, strangers) = self
            .submitters
            .modify(key, now, |record| {
                record.history.forget_hour();
                record.risk.locks.retain(|lock| is_remembered(*lock, now));
                let earlier = record.risk.locks.len().saturating_sub(usize::from(!is_new));
                if is_enforced && is_new {
                    if record.risk.locks.len() >= LOCKS_KEPT {
                        record.risk.locks.remove(0);
                    }
                    record.risk.locks.push(now);
                }
                let recent = |last: u32| seconds(now).saturating_sub(last) < STRANGER_SECONDS;
                let strangers = record.strangers.iter().filter(|stranger| stranger.has_sent && recent(stranger.last));
                let strangers: Vec<Host> = strangers.map(|stranger| stranger.host).collect();
                (earlier, strangers)
            })
            .unwrap_or_default();
        let until = if earlier >= LOCKS_THAT_END { i64::MAX } else { end(now, Some(self.risk.lock_time)) };
        decision.until = Timestamp::from_micros(until);
        let Subject::Account(name) = decision.subject.clone() else { return };
        if self.stop(&name, Hindrance::Locked, decision) && is_enforced {
            for host in strangers {
                self.ban_stranger(host, key, &name);
            }
        }
    }

    pub(in crate::engine) fn encode_budget(&self) -> Vec<u8> {
        self.locks_made.iter().flat_map(|spent| spent.time.to_le_bytes().into_iter().chain(spent.domain.to_le_bytes())).collect()
    }

    pub(in crate::engine) fn restore_budget(&mut self, bytes: &[u8]) {
        let mut reader = Reader(bytes);
        self.locks_made =
            std::iter::from_fn(|| Some(Spent { time: reader.i64()?, domain: u128::from_le_bytes(reader.array()?) })).collect();
    }

    /// An address that used a locked account, and from which nobody else logs in.
    fn ban_stranger(&mut self, host: Host, key: u128, account: &str) {
        let is_spared = self.known.is_good_for_others(host, key, self.now) || self.allow.find(host.subnet()).is_some();
        if !is_spared {
            self.ban_for(host.subnet(), Scope::Auth, STRANGER_BAN, RISK, format!("used the account {account}, which was locked for abuse"));
        }
    }

    /// The bans that came with a lock go with it: the lock may have been a mistake, and a thief has the old password only.
    pub(in crate::engine) fn lift_strangers(&mut self, name: &str) {
        let Some(record) = self.submitters.get(self.submitters.key(name.as_bytes())) else { return };
        let keys = record.strangers.iter().map(|stranger| BanKey { subnet: stranger.host.subnet(), scope: Scope::Auth });
        let entries = keys.filter_map(|key| self.ledger.get(key)).filter(|entry| self.ledger.names.get(entry.jail) == RISK).copied();
        let entries: Vec<Entry> = entries.collect();
        self.lift_all(&entries, "lifted with the lock of an account");
    }

    /// Strangers used the account a moment ago: its password is still in their hands, so a lock does not just run out.
    pub(in crate::engine) fn is_still_used_by_strangers(&self, name: &str, now: i64) -> bool {
        let record = self.submitters.get(self.submitters.key(name.as_bytes()));
        record.is_some_and(|record| record.strangers.iter().any(|stranger| seconds(now).saturating_sub(stranger.last) < STILL_SECONDS))
    }

    /// A lock that was about to end goes on.
    pub(in crate::engine) fn prolong_lock(&mut self, name: &str, stop: &Stop) {
        let key = self.submitters.key(name.as_bytes());
        const STILL: &str = "still used by strangers within the last hour; ";
        let reason = format!("{STILL}{}", stop.reason.trim_start_matches(STILL));
        let mut decision = self.decision(Verb::Lock, Subject::Account(name.to_owned()), stop.scope, i64::MAX, &stop.jail, reason);
        decision.evidence = stop.evidence.clone();
        self.lock(key, decision, false);
    }

    /// The operator says that it was the owner: the places are his own, and the lock, if we made one, counts for nothing.
    pub(in crate::engine) fn note_false_alarm(&mut self, name: &str, hindrance: Hindrance, cause: Cause) {
        let (key, now) = (self.submitters.key(name.as_bytes()), seconds(self.now));
        self.submitters.modify(key, self.now, |record| {
            record.history.settle(now);
            if hindrance == Hindrance::Locked && cause == Cause::Engine {
                record.risk.locks.pop();
            }
        });
    }

    /// A hold or lock of a submitter ended: it begins anew, or goes on to wait for the operator.
    pub(in crate::engine) fn freed(&mut self, name: &str, hindrance: Hindrance, cause: Cause) {
        let (key, now) = (self.submitters.key(name.as_bytes()), self.at);
        let is_held = self.standings.get(name, Hindrance::Held).is_some();
        self.submitters.modify(key, now, |record| {
            if cause == Cause::Operator || hindrance == Hindrance::Locked {
                record.risk.settle(now);
                record.strangers.clear();
            }
            record.risk.rung = if is_held { Rung::Held } else { Rung::Quiet };
        });
    }
}

/// Who answers for an event, where somebody does.
fn submitter<'a>(event: &Event<'a>) -> Option<&'a [u8]> {
    let is_vouched = event.vouched && !event.restates && event.service != Service::Ssh;
    let tells = matches!(event.kind, EventKind::AuthSuccess | EventKind::Message | EventKind::Delivery | EventKind::SpamVerdict);
    event.submitter.or(event.account).filter(|name| is_vouched && tells && !name.is_empty())
}

/// A lock of then still counts against its account.
pub(super) const fn is_remembered(lock: i64, now: i64) -> bool {
    now.saturating_sub(lock) < LOCKS_REMEMBERED_MICROS
}

/// Where a message went that left this host.
fn recipient_domain(event: &Event<'_>, seed: Seed) -> Option<u128> {
    let leaves = event.kind == EventKind::Delivery && event.recipients > 0;
    event.recipient.filter(|_| leaves).and_then(|recipient| domain_key(seed, recipient))
}

/// A web site's mail comes from nowhere.
fn needs_place(event: &Event<'_>) -> bool {
    event.account.is_some()
}

/// Two kinds of signs. What comes from a strange place is the thief's; what comes from the usual place may be the owner's own
/// clumsiness, so then somebody must have called the mail spam, and there must be much of it.
fn is_proven(record: &Record, now: i64, rules: &RiskRules) -> bool {
    let of = |family| record.risk.of(family, now, rules.half_life);
    let is_strange = of(Family::Login) >= STRANGE_POINTS_MIN;
    let is_called_spam = of(Family::Content) >= FAMILY_POINTS_MIN && of(Family::Volume) >= FAMILY_POINTS_MIN;
    record.risk.families(now, rules.half_life) >= 2 && (is_strange || is_called_spam)
}

/// From the usual place much mail alone is a newsletter, and a few bounces are an old list: more must be said against it. From a
/// strange one there must be mail at all: whoever only reads has nothing to hold.
fn is_worth_a_hold(record: &Record, now: i64, rules: &RiskRules) -> bool {
    let of = |family| record.risk.of(family, now, rules.half_life);
    let has_mail = [Family::Volume, Family::Delivery, Family::Content].into_iter().any(|family| of(family) >= MAIL_POINTS_MIN);
    let is_strange = of(Family::Login) >= FAMILY_POINTS_MIN && (has_mail || of(Family::Login) >= rules.lock);
    is_strange || of(Family::Content) >= FAMILY_POINTS_MIN || of(Family::Delivery) >= BOUNCING_POINTS_MIN
}

/// `score 112: 41 recipients from a new country (50), …`: the latest signs, the heaviest first.
fn story(record: &Record, now: i64, rules: &RiskRules) -> String {
    let since = now.saturating_sub(rules.half_life.as_micros().saturating_mul(4).try_into().unwrap_or(i64::MAX));
    let mut signs: Vec<&Signal> = record.risk.signals.iter().filter(|signal| signal.time >= since).collect();
    signs.sort_by_key(|signal| std::cmp::Reverse((signal.points, signal.time)));
    let mut told: Vec<String> = Vec::new();
    for signal in signs {
        let text = format!("{} ({})", signal.text, signal.points);
        if told.len() < 5 && !told.contains(&text) {
            told.push(text);
        }
    }
    format!("score {:.0}: {}", record.risk.total(now, rules.half_life), told.join(", "))
}

/// Kilometres per hour since the last login.
fn speed(record: &Record, location: Option<(f32, f32)>, now: u32) -> u32 {
    let (Some((latitude, longitude)), Some((last_latitude, last_longitude, last))) = (location, record.last_location) else { return 0 };
    let kilometres = distance((f64::from(latitude), f64::from(longitude)), (f64::from(last_latitude), f64::from(last_longitude)));
    if kilometres < JOURNEY_KILOMETRES_MIN {
        return 0;
    }
    let hours = f64::from(now.saturating_sub(last).max(JOURNEY_SECONDS_MIN)) / 3_600.0;
    (kilometres / hours) as u32
}

/// Along the great circle, in kilometres.
fn distance(a: (f64, f64), b: (f64, f64)) -> f64 {
    const EARTH_RADIUS_KILOMETRES: f64 = 6_371.0;
    let (from, to) = (a.0.to_radians(), b.0.to_radians());
    let (across, along) = ((to - from) / 2.0, (b.1 - a.1).to_radians() / 2.0);
    let half = libm::sin(across).powi(2) + libm::cos(from) * libm::cos(to) * libm::sin(along).powi(2);
    2.0 * EARTH_RADIUS_KILOMETRES * libm::asin(half.sqrt().min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let (berlin, paris, sydney) = ((52.52, 13.40), (48.86, 2.35), (-33.87, 151.21));
        assert!((distance(berlin, paris) - 878.0).abs() < 10.0, "{}", distance(berlin, paris));
        assert!((distance(berlin, sydney) - 16_090.0).abs() < 60.0);
        assert_eq!(distance(berlin, berlin), 0.0);
    }
}
