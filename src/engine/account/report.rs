//! What is shown of submitters: one story, and the list of those that somebody should look at.

use std::net::IpAddr;

use serde::Serialize;

use super::history::Visited;
use super::ladder::is_remembered;
use super::risk::{Family, Rung};
use super::standing::{Hindrance, Stop};
use super::submitter::Record;
use crate::engine::Engine;
use crate::engine::jail::Scope;
use crate::engine::key::Host;
use crate::engine::known::seconds;
use crate::event::words;
use crate::limits;
use crate::time::Timestamp;

/// A sign counts as recent for so long: that is whom `accounts` shows.
const RECENT_MICROS: i64 = 7 * 86_400_000_000;
/// What is left of a score below this is nothing.
const SCORE_SHOWN_MIN: f64 = 1.0;

words! {
    AccountState { Quiet = "quiet", Watched = "watched", Alerted = "alerted", Held = "held", Locked = "locked" }
}

/// One line of `accounts`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccountLine {
    pub account: String,
    pub state: AccountState,
    pub score: u32,
    /// The latest sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sign: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sign: String,
    /// Addresses strange to the account that used it.
    pub strangers: Vec<String>,
}

/// Everything known about one submitter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccountView {
    pub state: AccountState,
    pub score: u32,
    /// Points by family.
    pub families: Vec<(Family, u32)>,
    pub stops: Vec<StopView>,
    pub signs: Vec<SignView>,
    pub first_seen: String,
    pub last_seen: String,
    pub countries: Vec<PlaceView>,
    /// How many different networks it was used from.
    pub networks: usize,
    /// The busiest hour of the last four weeks, today's left out.
    pub usual_recipients_an_hour: u64,
    pub usual_messages_an_hour: u64,
    /// Addresses strange to the account that used it, the latest first.
    pub strangers: Vec<String>,
    pub besieged: bool,
    pub locks: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StopView {
    /// `held` or `locked`.
    pub state: AccountState,
    pub scope: Scope,
    pub since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    pub jail: String,
    pub reason: String,
    pub evidence: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SignView {
    pub time: String,
    pub jail: String,
    pub family: Family,
    pub points: u32,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlaceView {
    pub country: String,
    pub first: String,
    pub last: String,
    pub days: u8,
}

impl Engine {
    /// Whom somebody should look at: held, locked, or with a sign within a week; the worst first. With an address only those
    /// that it entered.
    pub fn accounts(&self, entered_by: Option<IpAddr>) -> Vec<AccountLine> {
        let entered_by = entered_by.map(Host::new);
        let mut keys: Vec<u128> = self.watched.keys().copied().collect();
        keys.extend(self.standings.iter().map(|stopped| self.submitters.key(stopped.name.as_bytes())));
        keys.sort_unstable();
        keys.dedup();
        let mut lines: Vec<AccountLine> = keys.iter().filter_map(|key| self.account_line(*key, entered_by)).collect();
        // Nobody but the operator may have heard of an account.
        for stopped in self.standings.iter().filter(|_| entered_by.is_none()) {
            if !lines.iter().any(|line| line.account == stopped.name) {
                lines.push(AccountLine {
                    account: stopped.name.clone(),
                    state: state_of(stopped.hindrance),
                    score: 0,
                    last_sign: None,
                    sign: stopped.stop.reason.clone(),
                    strangers: Vec::new(),
                });
            }
        }
        lines.sort_by(|a, b| (b.state, b.score, &a.account).cmp(&(a.state, a.score, &b.account)));
        lines
    }

    fn account_line(&self, key: u128, entered_by: Option<Host>) -> Option<AccountLine> {
        let record = self.submitters.get(key)?;
        if let Some(host) = entered_by
            && !record.strangers.iter().any(|stranger| stranger.host == host)
        {
            return None;
        }
        let latest = record.risk.signals.back();
        Some(AccountLine {
            account: name(record),
            state: self.state(record),
            score: self.score_of(record),
            last_sign: latest.map(|signal| Timestamp::from_micros(signal.time).rfc3339()),
            sign: latest.map(|signal| signal.text.clone()).unwrap_or_default(),
            strangers: strangers(record),
        })
    }

    pub(in crate::engine) fn account_view(&self, name: &str) -> Option<AccountView> {
        let record = self.submitters.get(self.submitters.key(name.as_bytes()));
        let stops: Vec<StopView> = [Hindrance::Locked, Hindrance::Held]
            .into_iter()
            .filter_map(|hindrance| self.standings.get(name, hindrance).map(|stop| stop_view(hindrance, stop)))
            .collect();
        if record.is_none() && stops.is_empty() {
            return None;
        }
        let nobody = Record::default();
        let record = record.unwrap_or(&nobody);
        let (now, half_life) = (self.now, self.risk.half_life);
        let families = Family::ALL.iter().map(|family| (*family, record.risk.of(*family, now, half_life).round() as u32));
        let date = |seconds: u32| if seconds == 0 { String::new() } else { Timestamp::from_seconds(i64::from(seconds)).rfc3339() };
        Some(AccountView {
            state: stops.first().map_or_else(|| self.state(record), |stop| stop.state),
            score: self.score_of(record),
            families: families.filter(|(_, points)| *points > 0).collect(),
            stops,
            signs: record
                .risk
                .signals
                .iter()
                .map(|signal| SignView {
                    time: Timestamp::from_micros(signal.time).rfc3339(),
                    jail: signal.jail.clone(),
                    family: signal.family,
                    points: signal.points,
                    text: signal.text.clone(),
                })
                .collect(),
            first_seen: date(record.history.first),
            last_seen: date(record.history.last),
            countries: record.history.countries().map(place_view).collect(),
            networks: record.history.networks().count(),
            usual_recipients_an_hour: record.history.usual_recipients(seconds(now)),
            usual_messages_an_hour: record.history.usual_messages(seconds(now)),
            strangers: strangers(record),
            besieged: self.is_besieged(record, seconds(now)),
            locks: record
                .risk
                .locks
                .iter()
                .filter(|lock| is_remembered(**lock, now))
                .map(|lock| Timestamp::from_micros(*lock).rfc3339())
                .collect(),
        })
    }

    fn state(&self, record: &Record) -> AccountState {
        let name = name(record);
        if self.standings.get(&name, Hindrance::Locked).is_some() {
            AccountState::Locked
        } else if self.standings.get(&name, Hindrance::Held).is_some() {
            AccountState::Held
        } else if record.risk.rung >= Rung::Alerted {
            AccountState::Alerted
        } else if record.risk.total(self.now, self.risk.half_life) >= SCORE_SHOWN_MIN {
            AccountState::Watched
        } else {
            AccountState::Quiet
        }
    }

    fn score_of(&self, record: &Record) -> u32 {
        record.risk.total(self.now, self.risk.half_life).round() as u32
    }

    /// It has logged in here, or sent mail.
    pub fn knows(&self, name: &str) -> bool {
        self.submitters.get(self.submitters.key(name.as_bytes())).is_some()
    }

    /// Somebody has a sign against him: `accounts` shows it for a week.
    pub(in crate::engine) fn watch(&mut self, key: u128) {
        let now = self.now;
        if self.watched.len() >= limits::WATCHED_ACCOUNTS_MAX && !self.watched.contains_key(&key) {
            self.watched.retain(|_, last| now.saturating_sub(*last) < RECENT_MICROS);
            if self.watched.len() >= limits::WATCHED_ACCOUNTS_MAX {
                return;
            }
        }
        self.watched.insert(key, now);
    }

    pub(in crate::engine) fn forget_watched(&mut self) {
        let now = self.now;
        self.watched.retain(|_, last| now.saturating_sub(*last) < RECENT_MICROS);
    }
}

const fn state_of(hindrance: Hindrance) -> AccountState {
    match hindrance {
        Hindrance::Held => AccountState::Held,
        Hindrance::Locked => AccountState::Locked,
    }
}

fn stop_view(hindrance: Hindrance, stop: &Stop) -> StopView {
    StopView {
        state: state_of(hindrance),
        scope: stop.scope,
        since: stop.since.rfc3339(),
        until: (stop.until != Timestamp::NEVER).then(|| stop.until.rfc3339()),
        jail: stop.jail.clone(),
        reason: stop.reason.clone(),
        evidence: stop.evidence.clone(),
    }
}

fn place_view(seen: &Visited) -> PlaceView {
    let code = (seen.place as u16).to_be_bytes().map(char::from);
    let date = |seconds: u32| Timestamp::from_seconds(i64::from(seconds)).rfc3339();
    PlaceView { country: code.iter().collect(), first: date(seen.first), last: date(seen.last), days: seen.days }
}

fn strangers(record: &Record) -> Vec<String> {
    let mut strangers = record.strangers.clone();
    strangers.sort_by_key(|stranger| std::cmp::Reverse(stranger.last));
    strangers.iter().map(|stranger| crate::address::display(stranger.host.subnet().to_network())).collect()
}

fn name(record: &Record) -> String {
    String::from_utf8_lossy(&record.name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineConfig;

    #[test]
    fn locks_of_more_than_a_month_ago_are_not_shown() {
        const DAY: i64 = 86_400_000_000;
        let now = Timestamp::from_seconds(1_795_489_200);
        let mut engine = Engine::new(EngineConfig::default(), now);
        let key = engine.submitters.key(b"anna");
        let locks = [50, 2].map(|days| now.micros() - days * DAY);
        engine.submitters.update(key, b"anna", now.micros(), |record| record.risk.locks.extend(locks));
        assert_eq!(engine.account_view("anna").unwrap().locks, [Timestamp::from_micros(locks[1]).rfc3339()]);
    }
}
