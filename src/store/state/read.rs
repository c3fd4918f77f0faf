//! `state.db`, read: at the start, and for `why` and `monitor`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use rusqlite::{Connection, OpenFlags, Row, params};

use super::record::write_subject;
use super::{errands, stops, tellings};
use crate::enforce::errand::{Errand, QueuedMail};
use crate::engine::account::Stopped;
use crate::engine::decision::{Ban, Cause, Decision, Subject};
use crate::limits::STORIES_MAX;
use crate::notify::Outbox;
use crate::store::{PastBan, StoreError};
use crate::time::Timestamp;

/// What the file holds for the start.
#[derive(Default)]
pub struct Remembered {
    pub bans: Vec<Ban>,
    pub stopped: Vec<Stopped>,
    pub errands: Vec<Errand>,
    pub parked: Vec<(String, QueuedMail)>,
    pub outbox: Outbox,
}

pub fn load(connection: &Connection, now: Timestamp) -> rusqlite::Result<Remembered> {
    Ok(Remembered {
        bans: bans(connection, now)?,
        stopped: stops::load(connection)?,
        errands: errands::load(connection)?,
        parked: errands::parked(connection)?,
        outbox: tellings::load(connection)?,
    })
}

/// The bans in force; the evidence of the latest ones only, as the ledger keeps no more. A row that makes no sense is left out.
fn bans(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<Ban>> {
    // The inner select puts them in the order in which their decisions stand in the file; its LIMIT, which limits nothing, keeps
    // SQLite from merging it into the outer one.
    let mut select = connection.prepare(
        "SELECT d.id, b.net, b.scope, b.since, b.until, b.earlier, d.jail, d.reason, d.cause,
            CASE WHEN d.number > (SELECT max(number) FROM decisions) - ?2 THEN d.evidence END
         FROM (SELECT * FROM bans WHERE lifted IS NULL AND until > ?1 ORDER BY decision LIMIT -1) AS b
         CROSS JOIN decisions d ON d.number = b.decision",
    )?;
    let rows = select.query_map(params![now.micros(), STORIES_MAX as i64], |row| Ok(ban(row).ok().flatten()))?;
    rows.filter_map(Result::transpose).collect()
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

pub(super) fn word<T: FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    Ok(row.get_ref(column)?.as_str()?.parse().ok())
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_micros)
}

pub(super) fn lines(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
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
    pub(in crate::store) fn open(path: &Path) -> Result<Reader, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|error| StoreError::sqlite(path, error))?;
        Ok(Reader { path: path.to_owned(), connection })
    }

    /// Every network that was banned within the memory, whether it still is or not.
    pub fn history(&self) -> Result<Vec<PastBan>, StoreError> {
        let select = || -> rusqlite::Result<Vec<PastBan>> {
            let mut select = self.connection.prepare("SELECT net, scope, earlier, since FROM bans")?;
            let rows = select.query_map([], |row| Ok(past_ban(row).ok().flatten()))?;
            rows.filter_map(Result::transpose).collect()
        };
        select().map_err(|error| StoreError::sqlite(&self.path, error))
    }

    /// How many networks each jail banned in `[begin, end)`, the busiest first. Passes over all decisions.
    pub fn bans_by_jail(&self, begin: Timestamp, end: Timestamp) -> Result<Vec<(String, u64)>, StoreError> {
        let select = || -> rusqlite::Result<Vec<(String, u64)>> {
            let mut select = self.connection.prepare(
                "SELECT jail, count(*) FROM decisions WHERE verb = 'ban' AND NOT observed AND time >= ?1 AND time < ?2
                 GROUP BY jail ORDER BY 2 DESC, 1",
            )?;
            let rows = select.query_map([begin.micros(), end.micros()], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
            rows.collect()
        };
        select().map_err(|error| StoreError::sqlite(&self.path, error))
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
