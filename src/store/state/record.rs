//! `state.db`, written.

use std::fmt::Write as _;

use ipnetwork::IpNetwork;
use rusqlite::{CachedStatement, Connection, params};

use super::stops;
use crate::address::to_bits;
use crate::engine::decision::{Ban, Decision, Subject, Verb};
use crate::engine::jail::Scope;
use crate::time::Timestamp;

/// Writes decisions at once and the bans that come of them at [`Recorder::flush`], in the order of the tree that they go into:
/// neighbours share its pages, which halves the time that a flood takes.
pub(super) struct Recorder<'c> {
    connection: &'c Connection,
    log: CachedStatement<'c>,
    ban: CachedStatement<'c>,
    lift: CachedStatement<'c>,
    changes: Vec<Change>,
    subject: String,
    evidence: Vec<u8>,
}

/// What a decision does to a ban.
#[derive(Clone, Copy)]
struct Change {
    net: IpNetwork,
    scope: Scope,
    /// Of the decision that bans; `None`: the ban is lifted.
    number: Option<i64>,
    time: Timestamp,
    until: Timestamp,
}

const LOG: &str = "INSERT INTO decisions (id, time, verb, subject, is_account, scope, until, jail, reason, cause, observed, evidence)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

/// A ban that comes while one is in force prolongs it: it began when it began.
const BAN: &str = "INSERT INTO bans (net, scope, decision, since, until, earlier, lifted) VALUES (?1, ?2, ?3, ?4, ?5, 0, NULL)
                   ON CONFLICT DO UPDATE SET
                     earlier = earlier + (lifted IS NOT NULL OR until <= excluded.since),
                     since = iif(lifted IS NULL AND until > excluded.since, since, excluded.since),
                     decision = excluded.decision, until = excluded.until, lifted = NULL";

const LIFT: &str = "UPDATE bans SET lifted = ?3 WHERE net = ?1 AND scope = ?2 AND lifted IS NULL";

impl<'c> Recorder<'c> {
    pub fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Recorder {
            connection,
            log: connection.prepare_cached(LOG)?,
            ban: connection.prepare_cached(BAN)?,
            lift: connection.prepare_cached(LIFT)?,
            changes: Vec::new(),
            subject: String::new(),
            evidence: Vec::new(),
        })
    }

    pub fn record(&mut self, decision: &Decision) -> rusqlite::Result<()> {
        let number = self.log(decision)?;
        let net = match &decision.subject {
            Subject::Net(net) => *net,
            Subject::Account(account) => return stops::record(self.connection, account, decision),
        };
        let number = match decision.verb {
            _ if decision.observed => return Ok(()),
            Verb::Ban => Some(number),
            Verb::Unban => None,
            Verb::Lock | Verb::Unlock | Verb::Hold | Verb::Release | Verb::Alert => return Ok(()),
        };
        self.changes.push(Change { net, scope: decision.scope, number, time: decision.time, until: decision.until });
        Ok(())
    }

    pub fn replace_bans(&mut self, bans: &[Ban], now: Timestamp) -> rusqlite::Result<()> {
        self.flush()?;
        self.connection.execute("UPDATE bans SET lifted = ?1 WHERE lifted IS NULL AND until > ?1", [now.micros()])?;
        bans.iter().try_for_each(|ban| self.record(&decision_of(ban)))?;
        self.flush()?;
        let mut count = self.connection.prepare_cached("UPDATE bans SET earlier = ?3 WHERE net = ?1 AND scope = ?2")?;
        for ban in bans {
            self.subject.clear();
            write_net(&mut self.subject, ban.net);
            count.execute(params![self.subject, ban.scope.as_str(), ban.earlier])?;
        }
        Ok(())
    }

    /// Writes the bans.
    pub fn flush(&mut self) -> rusqlite::Result<()> {
        // Stable: what happened to one network stays in order.
        self.changes.sort_by_key(|change| (to_bits(change.net.ip()), change.net.prefix()));
        for change in self.changes.drain(..) {
            self.subject.clear();
            write_net(&mut self.subject, change.net);
            let (scope, time) = (change.scope.as_str(), change.time.micros());
            match change.number {
                Some(number) => self.ban.execute(params![self.subject, scope, number, time, change.until.micros()])?,
                None => self.lift.execute(params![self.subject, scope, time])?,
            };
        }
        Ok(())
    }

    /// The number that it got.
    fn log(&mut self, decision: &Decision) -> rusqlite::Result<i64> {
        self.subject.clear();
        self.evidence.clear();
        write_subject(&mut self.subject, &decision.subject);
        if !decision.evidence.is_empty() && serde_json::to_writer(&mut self.evidence, &decision.evidence).is_err() {
            self.evidence.clear();
        }
        self.log.execute(params![
            decision.id.cast_signed(),
            decision.time.micros(),
            decision.verb.as_str(),
            self.subject,
            matches!(decision.subject, Subject::Account(_)),
            decision.scope.as_str(),
            decision.until.micros(),
            decision.jail,
            decision.reason,
            decision.cause.as_str(),
            decision.observed,
            std::str::from_utf8(&self.evidence).ok().filter(|text| !text.is_empty()),
        ])?;
        Ok(self.connection.last_insert_rowid())
    }
}

fn write_subject(text: &mut String, subject: &Subject) {
    match subject {
        Subject::Account(name) => text.push_str(name),
        Subject::Net(net) => write_net(text, *net),
    }
}

fn write_net(text: &mut String, net: IpNetwork) {
    let is_single = net.prefix() == if net.is_ipv4() { 32 } else { 128 };
    let written = if is_single { write!(text, "{}", net.ip()) } else { write!(text, "{net}") };
    written.expect("writing to a string does not fail");
}

/// A ban as the decision that made it.
fn decision_of(ban: &Ban) -> Decision {
    Decision {
        id: ban.id,
        time: ban.since,
        verb: Verb::Ban,
        subject: Subject::Net(ban.net),
        scope: ban.scope,
        until: ban.until,
        jail: ban.jail.clone(),
        reason: ban.reason.clone(),
        cause: ban.cause,
        observed: false,
        evidence: ban.evidence.clone(),
    }
}
