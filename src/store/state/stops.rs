//! The accounts that are stopped, on disk: a row for each hold and each lock in force.

use rusqlite::{Connection, Row, params};

use super::read::{from_both_ends, lines, time, word};
use crate::engine::account::{Freed, Hindrance, Stop, Stopped};
use crate::engine::decision::{Cause, Decision, Verb};
use crate::time::Timestamp;

const ENTER: &str = "INSERT OR REPLACE INTO stops (account, verb, id, scope, since, until, jail, reason, cause, evidence)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// What a decision about an account changes.
pub(super) fn record(connection: &Connection, account: &str, decision: &Decision) -> rusqlite::Result<()> {
    let lifted = match decision.verb {
        _ if decision.observed => return Ok(()),
        Verb::Lock => return enter(connection, account, Hindrance::Locked, &Stop::from(decision)),
        Verb::Hold => return enter(connection, account, Hindrance::Held, &Stop::from(decision)),
        Verb::Unlock => Hindrance::Locked,
        Verb::Release => Hindrance::Held,
        Verb::Ban | Verb::Unban | Verb::Alert => return Ok(()),
    };
    let mut lift = connection.prepare_cached("DELETE FROM stops WHERE account = ?1 AND verb = ?2")?;
    lift.execute(params![account, lifted.verb().as_str()])?;
    if decision.cause == Cause::Operator {
        let mut free = connection.prepare_cached("INSERT OR REPLACE INTO freed (account, verb, time) VALUES (?1, ?2, ?3)")?;
        free.execute(params![account, lifted.verb().as_str(), decision.time.micros()])?;
    }
    Ok(())
}

/// What an operator ended since then. A row that makes no sense is left out.
pub(super) fn freed(connection: &Connection, since: Timestamp) -> rusqlite::Result<Vec<Freed>> {
    if !super::read::has(connection, "freed")? {
        return Ok(Vec::new());
    }
    let mut select = connection.prepare("SELECT account, verb, time FROM freed WHERE time > ?1 ORDER BY account, verb")?;
    let rows = select.query_map([since.micros()], |row| {
        let Some(hindrance) = hindrance(row, 1)? else { return Ok(None) };
        Ok(Some(Freed { name: row.get(0)?, hindrance, time: time(row, 2)? }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

pub(super) fn prune(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM freed WHERE time < ?1", [before.micros()])?;
    Ok(())
}

pub(super) fn replace(connection: &Connection, stopped: &[Stopped]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM stops", [])?;
    stopped.iter().try_for_each(|stopped| enter(connection, &stopped.name, stopped.hindrance, &stopped.stop))
}

/// `None` for a row that makes no sense.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<Option<Stopped>>> {
    let mut select = connection
        .prepare("SELECT account, verb, id, scope, since, until, jail, reason, cause, evidence FROM stops ORDER BY account, verb")?;
    select.query_map([], |row| Ok(stopped(row).ok().flatten()))?.collect()
}

/// What can still be read of a damaged file.
pub(super) fn salvage(connection: &Connection) -> Vec<Stopped> {
    let select = |order: &str| {
        format!(
            "SELECT account, verb, id, scope, since, until, jail, reason, cause, evidence FROM stops ORDER BY account {order}, verb {order}"
        )
    };
    let mut found: Vec<Stopped> = from_both_ends(connection, select, [], |row| stopped(row).ok().flatten());
    found.sort_by(|one, other| (&one.name, one.hindrance).cmp(&(&other.name, other.hindrance)));
    found.dedup_by(|one, other| one.name == other.name && one.hindrance == other.hindrance);
    found
}

fn enter(connection: &Connection, account: &str, hindrance: Hindrance, stop: &Stop) -> rusqlite::Result<()> {
    let evidence = serde_json::to_string(&stop.evidence).ok().filter(|_| !stop.evidence.is_empty());
    connection.prepare_cached(ENTER)?.execute(params![
        account,
        hindrance.verb().as_str(),
        stop.id.cast_signed(),
        stop.scope.as_str(),
        stop.since.micros(),
        stop.until.micros(),
        stop.jail,
        stop.reason,
        stop.cause.as_str(),
        evidence,
    ])?;
    Ok(())
}

fn hindrance(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Hindrance>> {
    Ok(match word(row, column)? {
        Some(Verb::Hold) => Some(Hindrance::Held),
        Some(Verb::Lock) => Some(Hindrance::Locked),
        _ => None,
    })
}

fn stopped(row: &Row<'_>) -> rusqlite::Result<Option<Stopped>> {
    let (Some(hindrance), Some(scope), Some(cause)) = (hindrance(row, 1)?, word(row, 3)?, word::<Cause>(row, 8)?) else {
        return Ok(None);
    };
    let stop = Stop {
        id: row.get::<_, i64>(2)?.cast_unsigned(),
        scope,
        since: time(row, 4)?,
        until: time(row, 5)?,
        jail: row.get(6)?,
        reason: row.get(7)?,
        cause,
        evidence: lines(row, 9)?,
    };
    Ok(Some(Stopped { name: row.get(0)?, hindrance, stop }))
}
