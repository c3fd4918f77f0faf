//! `state.db`: every decision, the latest ban of each network and scope, the accounts that are stopped, and the errands of the
//! root helper and the messages to people that follow from that.
//!
//! A ban's texts stand in its decision (`bans.decision`). A row of `bans` outlives its ban by the memory, so the table is the history
//! of the networks as well. `decisions` has no index: it is written hundreds of thousands of times for each time that
//! it is read, for the count of a day, and reading a million rows takes a fraction of a second.

mod errands;
mod read;
mod record;
mod stops;
mod tellings;

use rusqlite::{Connection, params};

use super::file::Schema;
use crate::enforce::errand::{Errand, Outcome};
use crate::engine::account::Stopped;
use crate::engine::decision::{Ban, Decision};
use crate::limits::OUTBOX_MEMORY;
use crate::notify::{self, Telling};
use crate::time::Timestamp;
use read::COMES_AGAIN;
pub use read::Reader;
pub(super) use read::{Remembered, load, salvage, tables};
use record::Recorder;

pub(super) const SCHEMA: Schema = Schema {
    steps: &[
        "CREATE TABLE decisions (
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
              CREATE TABLE bans (
                net TEXT NOT NULL,
                scope TEXT NOT NULL,
                decision INTEGER NOT NULL,  -- decisions.number
                since INTEGER NOT NULL,
                until INTEGER NOT NULL,
                earlier INTEGER NOT NULL,
                lifted INTEGER,             -- when somebody ended it
                PRIMARY KEY (net, scope)
              ) WITHOUT ROWID;",
        "CREATE TABLE stops (
                account TEXT NOT NULL,
                verb TEXT NOT NULL,         -- hold or lock
                id INTEGER NOT NULL,
                scope TEXT NOT NULL,
                since INTEGER NOT NULL,
                until INTEGER NOT NULL,
                jail TEXT NOT NULL,
                reason TEXT NOT NULL,
                cause TEXT NOT NULL,
                evidence TEXT,
                PRIMARY KEY (account, verb)
              ) WITHOUT ROWID;
              CREATE TABLE errands (        -- what the root helper is to do, in this order
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                time INTEGER NOT NULL,
                verb TEXT NOT NULL,
                account TEXT NOT NULL,
                data TEXT NOT NULL,         -- JSON
                outcome TEXT,               -- NULL: not done yet
                output TEXT
              );
              CREATE TABLE parked (         -- messages that the helper was told to put on hold
                account TEXT NOT NULL,
                queue_id TEXT NOT NULL,
                arrival INTEGER NOT NULL,   -- seconds since 1970
                PRIMARY KEY (account, queue_id)
              ) WITHOUT ROWID;",
        "CREATE TABLE tellings (       -- what people are told, in this order
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                time INTEGER NOT NULL,
                way TEXT NOT NULL,
                verb TEXT NOT NULL,
                data TEXT NOT NULL,         -- JSON
                outcome TEXT,               -- NULL: not sent yet
                over INTEGER                -- when that was
              );",
        "CREATE TABLE tables (         -- of the firewall, that bans of this file were written to
                name TEXT NOT NULL PRIMARY KEY
              ) WITHOUT ROWID;",
        "CREATE TABLE freed (          -- holds and locks that an operator ended
                account TEXT NOT NULL,
                verb TEXT NOT NULL,
                time INTEGER NOT NULL,
                PRIMARY KEY (account, verb)
              ) WITHOUT ROWID;",
        "ALTER TABLE tellings ADD COLUMN recipient TEXT; -- of a mail to administrators",
    ],
};

#[derive(Debug)]
pub(super) enum StateJob {
    /// A new file begins with what could be read of the damaged one.
    Begin(Box<Remembered>, Timestamp),
    Decisions(Vec<Decision>, Vec<Errand>, Vec<Telling>),
    TellingsOver(Vec<String>, notify::Outcome, Timestamp),
    ErrandDone(String, Outcome),
    /// Account and queue id of a message that is parked no more.
    Left(String, String),
    ReplaceStops(Vec<Stopped>),
    ReplaceBans {
        bans: Vec<Ban>,
        now: Timestamp,
    },
    /// The tables of the firewall, instead of those before.
    Tables(Vec<String>),
    Prune {
        before: Timestamp,
        now: Timestamp,
    },
}

pub(super) fn apply(connection: &Connection, jobs: &[StateJob]) -> rusqlite::Result<()> {
    let mut recorder = Recorder::new(connection)?;
    for job in jobs {
        match job {
            StateJob::Begin(remembered, now) => begin(connection, &mut recorder, remembered, *now)?,
            StateJob::Decisions(decisions, errands, tellings) => {
                decisions.iter().try_for_each(|decision| recorder.record(decision))?;
                errands.iter().try_for_each(|errand| errands::add(connection, errand))?;
                tellings.iter().try_for_each(|telling| tellings::add(connection, telling))?;
            }
            StateJob::TellingsOver(ids, outcome, now) => tellings::over(connection, ids, *outcome, *now)?,
            StateJob::ErrandDone(id, outcome) => errands::done(connection, id, outcome)?,
            StateJob::Left(account, queue_id) => errands::left(connection, account, queue_id)?,
            StateJob::ReplaceStops(stopped) => stops::replace(connection, stopped)?,
            StateJob::ReplaceBans { bans, now } => recorder.replace_bans(bans, *now)?,
            StateJob::Tables(tables) => note_tables(connection, tables)?,
            StateJob::Prune { before, now } => {
                recorder.flush()?;
                prune(connection, *before, *now)?;
            }
        }
    }
    recorder.flush()
}

fn begin(connection: &Connection, recorder: &mut Recorder<'_>, remembered: &Remembered, now: Timestamp) -> rusqlite::Result<()> {
    let Remembered { bans, stopped, errands, parked, outbox, tables, lifted: _, freed: _, left_out: _ } = remembered;
    recorder.replace_bans(bans, now)?;
    stops::replace(connection, stopped)?;
    errands.iter().try_for_each(|errand| errands::add(connection, errand))?;
    errands::park(connection, parked)?;
    outbox.waiting.iter().try_for_each(|telling| tellings::add(connection, telling))?;
    tellings::over(connection, &outbox.told, notify::Outcome::Told, now)?;
    note_tables(connection, tables)
}

fn note_tables(connection: &Connection, tables: &[String]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM tables", [])?;
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO tables (name) VALUES (?1)")?;
    tables.iter().try_for_each(|table| insert.execute([table]).map(drop))
}

/// Rows removed in one go, and rows looked at for it.
const PRUNE_ROWS: u32 = 10_000;
const PRUNE_WINDOW: u32 = 50_000;

fn prune(connection: &Connection, before: Timestamp, now: Timestamp) -> rusqlite::Result<()> {
    let ended = "DELETE FROM bans WHERE (net, scope) IN
                 (SELECT net, scope FROM bans WHERE min(until, ifnull(lifted, until)) < ?1 AND ifnull(lifted < ?3, TRUE) LIMIT ?2)";
    // What was lifted or freed is needed for as long as its lines may come again, whatever the memory of bans.
    let come_again = now - COMES_AGAIN;
    connection.execute(ended, params![before.micros(), PRUNE_ROWS, come_again.micros()])?;
    // Decisions come in the order of time, or nearly: the oldest rows are the oldest decisions. One that is in force stays.
    let decided = "DELETE FROM decisions WHERE number IN
                   (SELECT number FROM (SELECT number, time, subject, scope FROM decisions ORDER BY number LIMIT ?4) AS old
                    WHERE time < ?1 AND NOT EXISTS
                      (SELECT 1 FROM bans WHERE net = old.subject AND scope = old.scope AND decision = old.number AND until > ?2 AND lifted IS NULL)
                    LIMIT ?3)";
    connection.execute(decided, params![before.micros(), now.micros(), PRUNE_ROWS, PRUNE_WINDOW])?;
    stops::prune(connection, come_again)?;
    errands::prune(connection, now - OUTBOX_MEMORY)?;
    tellings::prune(connection, now - OUTBOX_MEMORY)?;
    Ok(())
}
