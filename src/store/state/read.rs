//! `state.db`, read: at the start, and for the count of a day's bans.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use rusqlite::{Connection, OpenFlags, Row, ffi, params};

use super::{errands, stops, tellings};
use crate::enforce::errand::{Errand, QueuedMail};
use crate::engine::RECOVERED;
use crate::engine::account::{Freed, Stopped};
use crate::engine::decision::{Ban, Cause, Lifted};
use crate::limits::STORIES_MAX;
use crate::notify::Outbox;
use crate::store::StoreError;
use crate::store::file::open_itself;
use crate::time::Timestamp;

/// Lines that are older than this when they are read count as of then.
pub(super) const COMES_AGAIN: Duration = Duration::from_secs(86_400);

/// What the file holds for the start.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    pub bans: Vec<Ban>,
    pub stopped: Vec<Stopped>,
    pub errands: Vec<Errand>,
    pub parked: Vec<(String, QueuedMail)>,
    pub outbox: Outbox,
    pub tables: Vec<String>,
    /// Within a day.
    pub lifted: Vec<Lifted>,
    pub freed: Vec<Freed>,
    /// Bans, holds and locks whose rows make no sense.
    pub left_out: usize,
}

impl Remembered {
    pub fn rows(&self) -> usize {
        self.bans.len() + self.stopped.len() + self.errands.len() + self.parked.len() + self.outbox.waiting.len()
    }
}

pub fn load(connection: &Connection, now: Timestamp) -> rusqlite::Result<Remembered> {
    check(connection)?;
    let (bans, stopped) = (bans(connection, now)?, stops::load(connection)?);
    let left_out = bans.iter().filter(|ban| ban.is_none()).count() + stopped.iter().filter(|stopped| stopped.is_none()).count();
    Ok(Remembered {
        bans: bans.into_iter().flatten().collect(),
        stopped: stopped.into_iter().flatten().collect(),
        errands: errands::load(connection)?,
        parked: errands::parked(connection)?,
        outbox: tellings::load(connection)?,
        // The firewall may have what was left out.
        tables: if left_out == 0 { tables(connection)? } else { Vec::new() },
        lifted: lifted(connection, now - COMES_AGAIN)?,
        freed: stops::freed(connection, now - COMES_AGAIN)?,
        left_out,
    })
}

/// A damage may just as well hide rows as make them unreadable. `decisions` is too large to be looked through at each start, and what
/// is missing there is missed by nobody but `why`.
fn check(connection: &Connection) -> rusqlite::Result<()> {
    for table in ["bans", "stops"] {
        let verdict: String = connection.query_row(&format!("PRAGMA quick_check({table})"), [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(verdict)));
        }
    }
    Ok(())
}

pub fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    if !has(connection, "tables")? {
        return Ok(Vec::new());
    }
    connection.prepare("SELECT name FROM tables")?.query_map([], |row| row.get(0))?.collect()
}

/// A state that could not be brought up to date, on a full disk, lacks the newest tables.
pub(super) fn has(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = ?1", [table], |row| row.get(0))
}

/// What can still be read of a damaged file. It does not tell for which tables of the firewall that is all.
pub fn salvage(connection: &Connection, now: Timestamp) -> Remembered {
    Remembered {
        bans: salvage_bans(connection, now),
        stopped: stops::salvage(connection),
        errands: errands::load(connection).unwrap_or_default(),
        parked: errands::parked(connection).unwrap_or_default(),
        outbox: tellings::load(connection).unwrap_or_default(),
        ..Remembered::default()
    }
}

/// Bans lifted before their time since then. A row that makes no sense is left out.
fn lifted(connection: &Connection, since: Timestamp) -> rusqlite::Result<Vec<Lifted>> {
    let mut select = connection.prepare("SELECT net, scope, since, lifted FROM bans WHERE lifted > ?1 AND lifted < until")?;
    let rows = select.query_map([since.micros()], |row| {
        let (Some(net), Some(scope)) = (word(row, 0)?, word(row, 1)?) else { return Ok(None) };
        Ok(Some(Lifted { net, scope, since: time(row, 2)?, lifted: time(row, 3)? }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

/// Rows of a table up to the first one that cannot be read, from its beginning and from its end. `select` is given the order.
pub(super) fn from_both_ends<T>(
    connection: &Connection,
    select: impl Fn(&str) -> String,
    parameters: impl rusqlite::Params + Clone,
    read: impl Fn(&Row<'_>) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for order in ["ASC", "DESC"] {
        let Ok(mut select) = connection.prepare(&select(order)) else { continue };
        let Ok(mut rows) = select.query(parameters.clone()) else { continue };
        loop {
            match rows.next() {
                Ok(Some(row)) => found.extend(read(row)),
                // All of it.
                Ok(None) => return found,
                Err(_) => break,
            }
        }
    }
    found
}

/// The bans in force, those too whose decision cannot be read any more.
fn salvage_bans(connection: &Connection, now: Timestamp) -> Vec<Ban> {
    let select = |order: &str| {
        format!(
            "SELECT decision, net, scope, since, until, earlier FROM bans WHERE lifted IS NULL AND until > ?1 ORDER BY net {order}, scope {order}"
        )
    };
    let mut found: Vec<(i64, Ban)> = from_both_ends(connection, select, [now.micros()], |row| bare_ban(row).ok().flatten());
    found.sort_by_key(|(_, ban)| (ban.net, ban.scope));
    found.dedup_by_key(|(_, ban)| (ban.net, ban.scope));
    let mut story = connection.prepare("SELECT id, jail, reason, cause, evidence FROM decisions WHERE number = ?1").ok();
    let mut told = |(number, mut ban): (i64, Ban)| {
        let told = story.as_mut().map(|story| {
            story.query_row([number], |row| {
                let cause = word(row, 3)?.unwrap_or(ban.cause);
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?, row.get(2)?, cause, lines(row, 4)?))
            })
        });
        if let Some(Ok((id, jail, reason, cause, evidence))) = told {
            (ban.id, ban.jail, ban.reason, ban.cause, ban.evidence) = (id, jail, reason, cause, evidence);
        }
        ban
    };
    found.into_iter().map(&mut told).collect()
}

fn bare_ban(row: &Row<'_>) -> rusqlite::Result<Option<(i64, Ban)>> {
    let (Some(net), Some(scope)) = (word(row, 1)?, word(row, 2)?) else { return Ok(None) };
    let ban = Ban {
        id: 0,
        net,
        scope,
        since: time(row, 3)?,
        until: time(row, 4)?,
        jail: RECOVERED.to_owned(),
        reason: "why it was banned could not be read any more".to_owned(),
        cause: Cause::Engine,
        earlier: row.get(5)?,
        evidence: Vec::new(),
    };
    Ok(Some((row.get(0)?, ban)))
}

/// The bans in force; the evidence of the latest ones only, as the ledger keeps no more. `None` for a row that makes no sense.
fn bans(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<Option<Ban>>> {
    // The inner select puts them in the order in which their decisions stand in the file; its LIMIT, which limits nothing, keeps
    // SQLite from merging it into the outer one.
    let mut select = connection.prepare(
        "SELECT d.id, b.net, b.scope, b.since, b.until, b.earlier, d.jail, d.reason, d.cause,
            CASE WHEN d.number > (SELECT max(number) FROM decisions) - ?2 THEN d.evidence END
         FROM (SELECT * FROM bans WHERE lifted IS NULL AND until > ?1 ORDER BY decision LIMIT -1) AS b
         LEFT JOIN decisions d ON d.number = b.decision",
    )?;
    select.query_map(params![now.micros(), STORIES_MAX as i64], |row| Ok(ban(row).ok().flatten()))?.collect()
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

impl Reader {
    pub(in crate::store) fn open(path: &Path) -> Result<Reader, StoreError> {
        let connection = open_itself(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| StoreError::sqlite(path, error))?;
        Ok(Reader { path: path.to_owned(), connection })
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
}
