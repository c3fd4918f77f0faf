//! `state.db`: every decision, and the latest ban of each network and scope.
//!
//! A ban's texts stand in its decision (`bans.decision`). A row of `bans` outlives its ban by the memory, so the table is the history
//! of the networks as well.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use rusqlite::{CachedStatement, Connection, OpenFlags, Row, params};

use super::PastBan;
use super::error::StoreError;
use super::file::Schema;
use crate::engine::decision::{Ban, Cause, Decision, Subject, Verb};
use crate::time::Timestamp;

pub(super) const SCHEMA: Schema = Schema {
    steps: &["CREATE TABLE decisions (
                number INTEGER PRIMARY KEY,
                id INTEGER NOT NULL,
                time INTEGER NOT NULL,      -- microseconds since 1970, as all times
                verb TEXT NOT NULL,
                subject TEXT NOT NULL,      -- a network (an address stands without its /32 or /128) or an account
                is_account INTEGER NOT NULL,
                scope TEXT NOT NULL,
                until INTEGER NOT NULL,     -- 9223372036854775807: for ever
                jail TEXT NOT NULL,
                reason TEXT NOT NULL,
                cause TEXT NOT NULL,
                observed INTEGER NOT NULL,
                evidence TEXT               -- a JSON list of lines
              );
              CREATE INDEX decisions_by_subject ON decisions (subject);
              CREATE TABLE bans (
                net TEXT NOT NULL,
                scope TEXT NOT NULL,
                decision INTEGER NOT NULL,  -- decisions.number
                since INTEGER NOT NULL,
                until INTEGER NOT NULL,
                earlier INTEGER NOT NULL,
                lifted INTEGER,             -- when somebody ended it
                PRIMARY KEY (net, scope)
              ) WITHOUT ROWID;"],
};

#[derive(Debug)]
pub(super) enum StateJob {
    Decisions(Vec<Decision>),
    ReplaceBans { bans: Vec<Ban>, now: Timestamp },
    Prune { before: Timestamp, now: Timestamp },
}

pub(super) fn apply(connection: &Connection, job: &StateJob) -> rusqlite::Result<()> {
    match job {
        StateJob::Decisions(decisions) => {
            let mut statements = Statements::prepare(connection)?;
            decisions.iter().try_for_each(|decision| statements.record(connection, decision))
        }
        StateJob::ReplaceBans { bans, now } => {
            let lift = "UPDATE bans SET lifted = ?1 WHERE lifted IS NULL AND until > ?1";
            connection.execute(lift, [now.micros()])?;
            let mut statements = Statements::prepare(connection)?;
            let mut set = connection.prepare_cached("UPDATE bans SET earlier = ?3 WHERE net = ?1 AND scope = ?2")?;
            bans.iter().try_for_each(|ban| {
                statements.record(connection, &decision_of(ban))?;
                set.execute(params![statements.subject, ban.scope.as_str(), ban.earlier]).map(drop)
            })
        }
        StateJob::Prune { before, now } => prune(connection, *before, *now),
    }
}

struct Statements<'c> {
    log: CachedStatement<'c>,
    ban: CachedStatement<'c>,
    lift: CachedStatement<'c>,
    subject: String,
    evidence: Vec<u8>,
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

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Statements {
            log: connection.prepare_cached(LOG)?,
            ban: connection.prepare_cached(BAN)?,
            lift: connection.prepare_cached(LIFT)?,
            subject: String::new(),
            evidence: Vec::new(),
        })
    }

    fn record(&mut self, connection: &Connection, decision: &Decision) -> rusqlite::Result<()> {
        self.write_texts(decision);
        let scope = decision.scope.as_str();
        self.log.execute(params![
            decision.id.cast_signed(),
            decision.time.micros(),
            decision.verb.as_str(),
            self.subject,
            matches!(decision.subject, Subject::Account(_)),
            scope,
            decision.until.micros(),
            decision.jail,
            decision.reason,
            decision.cause.as_str(),
            decision.observed,
            std::str::from_utf8(&self.evidence).ok().filter(|text| !text.is_empty()),
        ])?;
        if decision.observed || !matches!(decision.subject, Subject::Net(_)) {
            return Ok(());
        }
        match decision.verb {
            Verb::Ban => {
                let number = connection.last_insert_rowid();
                self.ban.execute(params![self.subject, scope, number, decision.time.micros(), decision.until.micros()])?;
            }
            Verb::Unban => {
                self.lift.execute(params![self.subject, scope, decision.time.micros()])?;
            }
            Verb::Lock | Verb::Unlock | Verb::Hold | Verb::Release | Verb::Alert => {}
        }
        Ok(())
    }

    fn write_texts(&mut self, decision: &Decision) {
        self.subject.clear();
        self.evidence.clear();
        write_subject(&mut self.subject, &decision.subject);
        if !decision.evidence.is_empty() && serde_json::to_writer(&mut self.evidence, &decision.evidence).is_err() {
            self.evidence.clear();
        }
    }
}

fn write_subject(text: &mut String, subject: &Subject) {
    match subject {
        Subject::Account(name) => text.push_str(name),
        Subject::Net(net) => {
            let is_single = net.prefix() == if net.is_ipv4() { 32 } else { 128 };
            let written = if is_single { write!(text, "{}", net.ip()) } else { write!(text, "{net}") };
            written.expect("writing to a string does not fail");
        }
    }
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

/// Rows removed in one go, and rows looked at for it.
const PRUNE_ROWS: u32 = 10_000;
const PRUNE_WINDOW: u32 = 50_000;

fn prune(connection: &Connection, before: Timestamp, now: Timestamp) -> rusqlite::Result<()> {
    let ended = "DELETE FROM bans WHERE (net, scope) IN
                 (SELECT net, scope FROM bans WHERE min(until, ifnull(lifted, until)) < ?1 LIMIT ?2)";
    connection.execute(ended, params![before.micros(), PRUNE_ROWS])?;
    // Decisions come in the order of time, or nearly: the oldest rows are the oldest decisions. One that is in force stays.
    let decided = "DELETE FROM decisions WHERE number IN
                   (SELECT number FROM (SELECT number, time, subject, scope FROM decisions ORDER BY number LIMIT ?4) AS old
                    WHERE time < ?1 AND NOT EXISTS
                      (SELECT 1 FROM bans WHERE net = old.subject AND scope = old.scope AND decision = old.number AND until > ?2 AND lifted IS NULL)
                    LIMIT ?3)";
    connection.execute(decided, params![before.micros(), now.micros(), PRUNE_ROWS, PRUNE_WINDOW])?;
    Ok(())
}

/// The bans in force, and the history. A row that makes no sense is left out.
pub(super) fn load(connection: &Connection, now: Timestamp) -> rusqlite::Result<(Vec<Ban>, Vec<PastBan>)> {
    let mut select = connection.prepare(
        "SELECT d.id, b.net, b.scope, b.since, b.until, b.earlier, d.jail, d.reason, d.cause, d.evidence
         FROM bans b JOIN decisions d ON d.number = b.decision WHERE b.lifted IS NULL AND b.until > ?1",
    )?;
    let bans = select
        .query_map([now.micros()], |row| Ok(ban(row).ok().flatten()))?
        .filter_map(Result::transpose)
        .collect::<rusqlite::Result<_>>()?;
    let mut select = connection.prepare("SELECT net, scope, earlier, since FROM bans")?;
    let past =
        select.query_map([], |row| Ok(past_ban(row).ok().flatten()))?.filter_map(Result::transpose).collect::<rusqlite::Result<_>>()?;
    Ok((bans, past))
}

fn ban(row: &Row<'_>) -> rusqlite::Result<Option<Ban>> {
    let (Some(net), Some(scope), Some(cause)) = (word::<IpNetwork>(row, 1)?, word(row, 2)?, word(row, 8)?) else { return Ok(None) };
    Ok(Some(Ban {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        net,
        scope,
        since: time(row, 3)?,
        until: time(row, 4)?,
        earlier: row.get(5)?,
        jail: row.get(6)?,
        reason: row.get(7)?,
        cause,
        evidence: lines(row, 9)?,
    }))
}

fn past_ban(row: &Row<'_>) -> rusqlite::Result<Option<PastBan>> {
    let (Some(net), Some(scope)) = (word(row, 0)?, word(row, 1)?) else { return Ok(None) };
    Ok(Some(PastBan { net, scope, count: row.get::<_, u32>(2)?.saturating_add(1), last: time(row, 3)? }))
}

fn word<T: FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    Ok(row.get_ref(column)?.as_str()?.parse().ok())
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_micros)
}

fn lines(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    Ok(text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
}

/// Reads decisions, beside the writer.
pub struct Reader {
    path: PathBuf,
    connection: Connection,
}

/// Which decisions; the latest come first.
#[derive(Clone, Debug, Default)]
pub struct DecisionQuery {
    pub since: Option<Timestamp>,
    /// About one of these; empty: about anything.
    pub subjects: Vec<Subject>,
    pub limit: u32,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Reader, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| StoreError::sqlite(path, error))?;
        Ok(Reader { path: path.to_owned(), connection })
    }

    pub fn decisions(&self, query: &DecisionQuery) -> Result<Vec<Decision>, StoreError> {
        self.select(query).map_err(|error| StoreError::sqlite(&self.path, error))
    }

    fn select(&self, query: &DecisionQuery) -> rusqlite::Result<Vec<Decision>> {
        const COLUMNS: &str = "id, time, verb, subject, is_account, scope, until, jail, reason, cause, observed, evidence";
        let since = query.since.map_or(i64::MIN, Timestamp::micros);
        if query.subjects.is_empty() {
            let mut select =
                self.connection.prepare(&format!("SELECT {COLUMNS} FROM decisions WHERE time >= ?1 ORDER BY number DESC LIMIT ?2"))?;
            return select.query_map(params![since, query.limit], decision)?.filter_map(Result::transpose).collect();
        }
        let text =
            format!("SELECT {COLUMNS} FROM decisions WHERE subject = ?3 AND is_account = ?4 AND time >= ?1 ORDER BY number DESC LIMIT ?2");
        let mut select = self.connection.prepare(&text)?;
        let mut found: Vec<Decision> = Vec::new();
        for subject in &query.subjects {
            let mut name = String::new();
            write_subject(&mut name, subject);
            let rows = select.query_map(params![since, query.limit, name, matches!(subject, Subject::Account(_))], decision)?;
            for row in rows.filter_map(Result::transpose) {
                found.push(row?);
            }
        }
        found.sort_by_key(|decision| std::cmp::Reverse(decision.time));
        found.truncate(query.limit as usize);
        Ok(found)
    }
}

fn decision(row: &Row<'_>) -> rusqlite::Result<Option<Decision>> {
    let subject = if row.get(4)? { Some(Subject::Account(row.get(3)?)) } else { word(row, 3)?.map(Subject::Net) };
    let (Some(verb), Some(subject), Some(scope), Some(cause)) = (word(row, 2)?, subject, word(row, 5)?, word::<Cause>(row, 9)?) else {
        return Ok(None);
    };
    Ok(Some(Decision {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        time: time(row, 1)?,
        verb,
        subject,
        scope,
        until: time(row, 6)?,
        jail: row.get(7)?,
        reason: row.get(8)?,
        cause,
        observed: row.get(10)?,
        evidence: lines(row, 11)?,
    }))
}
