//! The outbox of the root helper, on disk, and the messages that it parked.

use rusqlite::{Connection, params};

use super::read::word;
use crate::enforce::errand::{Errand, Outcome, QueuedMail, mail_of};
use crate::engine::decision::Verb;
use crate::time::Timestamp;

/// One that is there already is the same one: its decision was made again after a kill.
const ADD: &str = "INSERT OR IGNORE INTO errands (id, time, verb, account, data) VALUES (?1, ?2, ?3, ?4, ?5)";

pub(super) fn add(connection: &Connection, errand: &Errand) -> rusqlite::Result<()> {
    let row = params![errand.id, errand.time.micros(), errand.verb.as_str(), errand.account, errand.data];
    if connection.prepare_cached(ADD)?.execute(row)? == 0 {
        return Ok(());
    }
    let change = match errand.verb {
        Verb::Hold => "INSERT OR REPLACE INTO parked (account, queue_id, arrival) VALUES (?1, ?2, ?3)",
        Verb::Release => "DELETE FROM parked WHERE account = ?1 AND queue_id = ?2 AND ?3 IS NOT NULL",
        _ => return Ok(()),
    };
    let mut change = connection.prepare_cached(change)?;
    for mail in &errand.mail {
        change.execute(params![errand.account, mail.queue_id, mail.arrival])?;
    }
    Ok(())
}

pub(super) fn done(connection: &Connection, id: &str, outcome: &Outcome) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached("UPDATE errands SET outcome = ?2, output = ?3 WHERE id = ?1")?;
    update.execute(params![id, outcome.word(), outcome.output()])?;
    Ok(())
}

/// What is not done yet, in order. A row that makes no sense is left out.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<Errand>> {
    let mut select = connection.prepare("SELECT id, time, verb, account, data FROM errands WHERE outcome IS NULL ORDER BY number")?;
    let rows = select.query_map([], |row| {
        let Some(verb) = word(row, 2)? else { return Ok(None) };
        let time = Timestamp::from_micros(row.get(1)?);
        let data: String = row.get(4)?;
        Ok(Some(Errand { id: row.get(0)?, time, verb, account: row.get(3)?, mail: mail_of(&data), data }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

pub(super) fn park(connection: &Connection, parked: &[(String, QueuedMail)]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO parked (account, queue_id, arrival) VALUES (?1, ?2, ?3)")?;
    parked.iter().try_for_each(|(account, mail)| insert.execute(params![account, mail.queue_id, mail.arrival]).map(drop))
}

pub(super) fn left(connection: &Connection, account: &str, queue_id: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM parked WHERE account = ?1 AND queue_id = ?2", [account, queue_id]).map(drop)
}

pub(super) fn parked(connection: &Connection) -> rusqlite::Result<Vec<(String, QueuedMail)>> {
    let mut select = connection.prepare("SELECT account, queue_id, arrival FROM parked")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, QueuedMail { queue_id: row.get(1)?, arrival: row.get(2)? })))?;
    rows.collect()
}

/// What is still to be done stays, and so does the mail of an account that is stopped: it is still to be let go.
pub(super) fn prune(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM errands WHERE time < ?1 AND outcome IS NOT NULL", [before.micros()])?;
    connection
        .execute("DELETE FROM parked WHERE arrival < ?1 AND account NOT IN (SELECT account FROM stops)", [before.micros() / 1_000_000])?;
    Ok(())
}
