//! The outbox of messages to people, on disk.

use rusqlite::{Connection, params};

use super::read::{time, word};
use crate::limits::{TELLINGS_KNOWN_MAX, TELLINGS_WAITING_MAX};
use crate::notify::{Last, Outbox, Outcome, Telling};
use crate::time::Timestamp;

/// One that is there already is the same one: its decision was made again after a kill.
const ADD: &str = "INSERT OR IGNORE INTO tellings (id, time, way, verb, data, recipient) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// What is over without having been in here is remembered all the same.
const OVER: &str = "INSERT INTO tellings (id, time, way, verb, data, outcome, over) VALUES (?1, ?3, '', '', '', ?2, ?3)
                    ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, over = excluded.over";

pub(super) fn add(connection: &Connection, telling: &Telling) -> rusqlite::Result<()> {
    // Made of strings and numbers: that is always possible.
    let Ok(data) = serde_json::to_string(&telling.notice) else { return Ok(()) };
    let row = params![telling.id, telling.notice.time, telling.way.as_str(), telling.notice.verb.as_str(), data, telling.to];
    connection.prepare_cached(ADD)?.execute(row)?;
    Ok(())
}

pub(super) fn over(connection: &Connection, ids: &[String], outcome: Outcome, now: Timestamp) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(OVER)?;
    ids.iter().try_for_each(|id| update.execute(params![id, outcome.word(), now.micros()]).map(drop))
}

/// A row that makes no sense is left out.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Outbox> {
    Ok(Outbox { waiting: waiting(connection)?, told: told(connection)?, last: last(connection)? })
}

/// The column, where the file could be brought up to date.
fn recipient(connection: &Connection) -> rusqlite::Result<&'static str> {
    let select = "SELECT count(*) > 0 FROM pragma_table_info('tellings') WHERE name = 'recipient'";
    Ok(if connection.query_row(select, [], |row| row.get(0))? { "recipient" } else { "NULL" })
}

/// The latest ones, in order: there is no room for more.
fn waiting(connection: &Connection) -> rusqlite::Result<Vec<Telling>> {
    let mut select = connection.prepare(&format!(
        "SELECT id, way, data, {} FROM (SELECT * FROM tellings WHERE outcome IS NULL ORDER BY number DESC LIMIT ?1) ORDER BY number",
        recipient(connection)?
    ))?;
    let rows = select.query_map([3 * TELLINGS_WAITING_MAX as i64], |row| {
        let notice = serde_json::from_str(row.get_ref(2)?.as_str()?).ok();
        let (Some(way), Some(notice)) = (word(row, 1)?, notice) else { return Ok(None) };
        Ok(Some(Telling { id: row.get(0)?, way, to: row.get(3)?, notice }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

/// Oldest first.
fn told(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut select = connection.prepare(
        "SELECT id FROM (SELECT id, number FROM tellings WHERE outcome IS NOT NULL ORDER BY number DESC LIMIT ?1) ORDER BY number",
    )?;
    let rows = select.query_map([TELLINGS_KNOWN_MAX as i64], |row| row.get(0))?;
    rows.collect()
}

fn last(connection: &Connection) -> rusqlite::Result<Vec<Last>> {
    let mut select = connection.prepare(&format!(
        "SELECT way, verb, {} AS whom, max(over) FROM tellings WHERE outcome = ?1 AND way <> '' GROUP BY way, verb, whom",
        recipient(connection)?
    ))?;
    let rows = select.query_map([Outcome::Told.word()], |row| {
        let (Some(way), Some(verb)) = (word(row, 0)?, word(row, 1)?) else { return Ok(None) };
        Ok(Some((way, verb, row.get(2)?, time(row, 3)?)))
    })?;
    rows.filter_map(Result::transpose).collect()
}

/// What is still to be sent stays.
pub(super) fn prune(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM tellings WHERE time < ?1 AND outcome IS NOT NULL", [before.micros()])?;
    Ok(())
}
