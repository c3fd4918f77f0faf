//! Whose mail is held, and who is locked: the ledger of accounts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::decision::{Cause, Decision, Reply, Subject, Verb};
use crate::engine::jail::Scope;
use crate::engine::verdict::end;
use crate::event::{Event, EventKind};
use crate::limits;
use crate::time::Timestamp;

/// Under which name stands what an operator says.
const MANUAL: &str = "manual";

/// How a submitter is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hindrance {
    /// Its mail is accepted and parked.
    Held,
    /// It is refused: at submission only, or wherever it logs in (`Stop::scope`).
    Locked,
}

/// A hold or a lock in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    /// Of the decision.
    pub id: u64,
    /// What a lock closes: [`Scope::Submission`] (mail can still be read) or [`Scope::Auth`] (nothing is left).
    pub scope: Scope,
    pub since: Timestamp,
    /// [`Timestamp::NEVER`]: until somebody lifts it.
    pub until: Timestamp,
    pub jail: String,
    pub reason: String,
    pub cause: Cause,
    pub evidence: Vec<String>,
}

/// What a decision to hold or lock puts in force.
impl From<&Decision> for Stop {
    fn from(decision: &Decision) -> Stop {
        Stop {
            id: decision.id,
            scope: decision.scope,
            since: decision.time,
            until: decision.until,
            jail: decision.jail.clone(),
            reason: decision.reason.clone(),
            cause: decision.cause,
            evidence: decision.evidence.clone(),
        }
    }
}

/// A submitter that is stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopped {
    pub name: String,
    pub hindrance: Hindrance,
    pub stop: Stop,
}

impl Stopped {
    /// What put it in force.
    pub fn decision(&self) -> Decision {
        let Stopped { name, hindrance, stop } = self;
        Decision {
            id: stop.id,
            time: stop.since,
            verb: hindrance.verb(),
            subject: Subject::Account(name.clone()),
            scope: stop.scope,
            until: stop.until,
            jail: stop.jail.clone(),
            reason: stop.reason.clone(),
            cause: stop.cause,
            observed: false,
            evidence: stop.evidence.clone(),
        }
    }
}

/// A hold or lock that an operator ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Freed {
    pub name: String,
    pub hindrance: Hindrance,
    pub time: Timestamp,
}

/// All holds and locks in force. Few: bounded by what people can look after.
#[derive(Debug, Default)]
pub struct Standings {
    held: BTreeMap<String, Stop>,
    locked: BTreeMap<String, Stop>,
    /// Up to when the operator was reminded of holds.
    reminded: i64,
    /// Whom an operator freed after the state that was restored, and when: lines from before that may come again.
    freed: BTreeMap<u128, i64>,
    /// When the next one ends, or somebody has to be reminded of a hold: asked for at every line.
    due: Option<i64>,
}

impl Standings {
    pub fn get(&self, name: &str, hindrance: Hindrance) -> Option<&Stop> {
        match hindrance {
            Hindrance::Held => self.held.get(name),
            Hindrance::Locked => self.locked.get(name),
        }
    }

    const fn of(&mut self, hindrance: Hindrance) -> &mut BTreeMap<String, Stop> {
        match hindrance {
            Hindrance::Held => &mut self.held,
            Hindrance::Locked => &mut self.locked,
        }
    }

    /// Holds and locks together.
    pub fn count(&self) -> usize {
        self.held.len() + self.locked.len()
    }

    /// Who is held and locked is one account.
    pub fn accounts(&self) -> usize {
        self.locked.len() + self.held.keys().filter(|name| !self.locked.contains_key(*name)).count()
    }

    pub fn is_full(&self) -> bool {
        self.count() >= limits::STOPPED_ACCOUNTS_MAX
    }

    /// By name, the hold of one before its lock.
    pub fn iter(&self) -> impl Iterator<Item = Stopped> {
        let with = |hindrance| move |(name, stop): (&String, &Stop)| Stopped { name: name.clone(), hindrance, stop: stop.clone() };
        let mut all: Vec<Stopped> = self.held.iter().map(with(Hindrance::Held)).collect();
        all.extend(self.locked.iter().map(with(Hindrance::Locked)));
        all.sort_by(|a, b| (&a.name, a.hindrance).cmp(&(&b.name, b.hindrance)));
        all.into_iter()
    }

    pub const fn next_due(&self) -> Option<i64> {
        self.due
    }

    /// To be called after each change.
    fn look_ahead(&mut self) {
        let ends = self.held.values().chain(self.locked.values()).map(|stop| stop.until.micros()).filter(|until| *until != i64::MAX);
        let holds = self.held.values().map(|stop| next_reminder(stop.since.micros(), self.reminded));
        self.due = ends.chain(holds).min();
    }

    /// Holds of which somebody is to be reminded now: a locked account has been decided on.
    fn take_reminders(&mut self, now: i64) -> Vec<Stopped> {
        let is_due = |stop: &Stop| next_reminder(stop.since.micros(), self.reminded) <= now;
        let is_open = |stopped: &Stopped| stopped.hindrance == Hindrance::Held && self.get(&stopped.name, Hindrance::Locked).is_none();
        let due = self.iter().filter(|stopped| is_open(stopped) && is_due(&stopped.stop)).collect();
        self.reminded = now;
        self.look_ahead();
        due
    }

    /// True where that changed anything.
    pub fn enter(&mut self, name: &str, hindrance: Hindrance, stop: Stop) -> bool {
        match self.get(name, hindrance) {
            Some(old) if old.until >= stop.until && wider(old.scope, stop.scope) => false,
            None if self.is_full() => false,
            _ => {
                self.of(hindrance).insert(name.to_owned(), stop);
                self.look_ahead();
                true
            }
        }
    }

    pub fn lift(&mut self, name: &str, hindrance: Hindrance) -> Option<Stop> {
        let stop = self.of(hindrance).remove(name);
        self.look_ahead();
        stop
    }

    fn pop_ended(&mut self, now: i64) -> Option<Stopped> {
        for hindrance in [Hindrance::Held, Hindrance::Locked] {
            let stops = self.of(hindrance);
            let Some(name) = stops.iter().find(|(_, stop)| stop.until.micros() <= now).map(|(name, _)| name.clone()) else { continue };
            let Some(stop) = stops.remove(&name) else { continue };
            self.look_ahead();
            return Some(Stopped { name, hindrance, stop });
        }
        None
    }
}

const MINUTE_MICROS: i64 = 60_000_000;
const DAY_MICROS: i64 = 1_440 * MINUTE_MICROS;

/// A hold must end in a decision: after a quarter of an hour, two hours, and every day it is told again.
fn next_reminder(since: i64, after: i64) -> i64 {
    let early = [15 * MINUTE_MICROS, 120 * MINUTE_MICROS].map(|span| since.saturating_add(span));
    let days = after.saturating_sub(since).max(0) / DAY_MICROS + 1;
    let daily = since.saturating_add(days.saturating_mul(DAY_MICROS));
    early.into_iter().chain([daily]).filter(|moment| *moment > after).min().unwrap_or(daily)
}

/// A lock that closes everything is as good as one that closes submission.
fn wider(old: Scope, new: Scope) -> bool {
    old == new || old == Scope::Auth
}

impl Engine {
    /// Everybody who is held or locked, by name.
    pub fn stopped(&self) -> impl Iterator<Item = Stopped> {
        self.standings.iter()
    }

    /// A login fails because we have locked the account: that is nobody's offence, and least of all its owner's.
    pub(in crate::engine) fn is_our_refusal(&self, event: &Event<'_>) -> bool {
        if event.kind != EventKind::AuthFailure || self.standings.locked.is_empty() {
            return false;
        }
        let lock = event.account.and_then(|name| self.standings.get(std::str::from_utf8(name).ok()?, Hindrance::Locked));
        lock.is_some_and(|lock| lock.scope == Scope::Auth)
    }

    /// What the store remembers; no decisions follow.
    pub fn restore_stopped(&mut self, stopped: Vec<Stopped>) {
        self.standings.reminded = self.now;
        for Stopped { name, hindrance, stop } in stopped {
            if stop.until.micros() > self.now {
                self.standings.enter(&name, hindrance, stop);
            }
        }
    }

    /// What an operator ended since the state that was restored: lines from before that are no sign any more. Call after
    /// [`Engine::restore_stopped`].
    pub fn restore_freed(&mut self, freed: Vec<Freed>) {
        for Freed { name, hindrance, time } in freed {
            if self.is_resumed && time.micros() <= self.now {
                continue;
            }
            self.freed(&name, hindrance, Cause::Operator);
            let last = self.standings.freed.entry(self.submitters.key(name.as_bytes())).or_default();
            *last = time.micros().max(*last);
        }
    }

    /// Lines from before that do not come any more.
    pub(in crate::engine) fn forget_freed(&mut self, before: i64) {
        self.standings.freed.retain(|_, time| *time >= before);
    }

    /// Whether an operator has freed the submitter after what is being handled happened.
    pub(in crate::engine) fn is_freed_later(&self, key: u128) -> bool {
        !self.standings.freed.is_empty() && self.standings.freed.get(&key).is_some_and(|time| self.at <= *time)
    }

    pub(in crate::engine) fn stop_by_hand(
        &mut self,
        name: &str,
        hindrance: Hindrance,
        scope: Scope,
        duration: Option<Duration>,
        reason: &str,
    ) -> Reply {
        let reason = match (reason, hindrance) {
            ("", Hindrance::Held) => "held by the operator",
            ("", Hindrance::Locked) => "locked by the operator",
            (reason, _) => reason,
        };
        if self.standings.is_full() {
            return Reply::Refused(format!(
                "{} accounts are stopped already: more than people can look after",
                limits::STOPPED_ACCOUNTS_MAX
            ));
        }
        let until = end(self.now, duration);
        let mut decision = self.decision(hindrance.verb(), Subject::Account(name.to_owned()), scope, until, MANUAL, reason.to_owned());
        decision.cause = Cause::Operator;
        Reply::Done { changed: usize::from(self.stop(name, hindrance, decision)) }
    }

    pub(in crate::engine) fn free_by_hand(&mut self, name: &str, hindrance: Hindrance, false_alarm: bool) -> Reply {
        let Some(stop) = self.standings.lift(name, hindrance) else { return Reply::NotFound };
        if hindrance == Hindrance::Locked {
            self.lift_strangers(name);
        }
        let reason = if hindrance == Hindrance::Held { "released by the operator" } else { "unlocked by the operator" };
        self.push_freed(name, hindrance, &stop, self.now, reason, Cause::Operator);
        if false_alarm {
            self.note_false_alarm(name, hindrance, stop.cause);
        }
        Reply::Done { changed: 1 }
    }

    /// Enters a hold or lock and tells of it, if that changed anything. In observe mode it is only told.
    pub(in crate::engine) fn stop(&mut self, name: &str, hindrance: Hindrance, mut decision: Decision) -> bool {
        // A second one makes the first neither shorter nor narrower.
        if let Some(old) = self.standings.get(name, hindrance).filter(|_| !decision.observed) {
            decision.until = decision.until.max(old.until);
            if wider(old.scope, decision.scope) {
                decision.scope = old.scope;
            }
        }
        let changed = decision.observed || self.standings.enter(name, hindrance, Stop::from(&decision));
        if changed {
            self.push(decision);
        }
        changed
    }

    /// Frees everybody who was stopped since then; how many those are.
    pub(in crate::engine) fn undo_stops(&mut self, since: i64) -> usize {
        let undone: Vec<Stopped> = self.standings.iter().filter(|stopped| stopped.stop.since.micros() >= since).collect();
        for Stopped { name, hindrance, stop } in &undone {
            self.standings.lift(name, *hindrance);
            self.push_freed(name, *hindrance, stop, self.now, "undone by the operator", Cause::Operator);
        }
        undone.len()
    }

    /// Lifts what has run out, and says so.
    pub(in crate::engine) fn end_stops(&mut self) {
        if self.standings.next_due().is_none_or(|due| due > self.now) {
            return;
        }
        for Stopped { name, stop, .. } in self.standings.take_reminders(self.now) {
            let reason = format!("its mail is still held, since {}: release it or lock it; {}", stop.since, stop.reason);
            let decision = self.decision(Verb::Alert, Subject::Account(name), stop.scope, self.now, &stop.jail, reason);
            self.push(decision);
        }
        while let Some(Stopped { name, hindrance, stop }) = self.standings.pop_ended(self.now) {
            if hindrance == Hindrance::Locked && stop.cause == Cause::Engine && self.is_still_used_by_strangers(&name, self.now) {
                self.prolong_lock(&name, &stop);
                continue;
            }
            let reason = if hindrance == Hindrance::Held { "the hold is over" } else { "the lock is over" };
            self.push_freed(&name, hindrance, &stop, stop.until.micros(), reason, Cause::Engine);
        }
    }

    pub(in crate::engine) fn push_freed(&mut self, name: &str, hindrance: Hindrance, stop: &Stop, time: i64, reason: &str, cause: Cause) {
        self.freed(name, hindrance, cause);
        let verb = if hindrance == Hindrance::Held { Verb::Release } else { Verb::Unlock };
        let decision = self.decision(verb, Subject::Account(name.to_owned()), stop.scope, time, &stop.jail, reason.to_owned());
        self.push_at(decision, time, cause);
    }
}

impl Hindrance {
    pub const fn verb(self) -> Verb {
        match self {
            Hindrance::Held => Verb::Hold,
            Hindrance::Locked => Verb::Lock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_told_again_after_a_quarter_of_an_hour_two_hours_and_daily() {
        let (since, mut after) = (1_000 * DAY_MICROS + 7, 1_000 * DAY_MICROS + 7);
        let spans: Vec<i64> = (0..5)
            .map(|_| {
                after = next_reminder(since, after);
                (after - since) / MINUTE_MICROS
            })
            .collect();
        assert_eq!(spans, [15, 120, 1_440, 2_880, 4_320]);
        assert_eq!(next_reminder(since, 0), since + 15 * MINUTE_MICROS);
    }
}
