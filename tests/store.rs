//! What the store keeps: over a restart, SIGKILL, a damaged file, a full disk.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mailwarden::enforce::errand::{Errand, Outcome, QueuedMail};
use mailwarden::engine::account::Hindrance;
use mailwarden::engine::decision::{Ban, Cause, Decision, Subject, Verb};
use mailwarden::engine::jail::Scope;
use mailwarden::engine::snapshot::SnapshotRow;
use mailwarden::limits::OUTBOX_MEMORY;
use mailwarden::notify;
use mailwarden::store::{Loaded, Run, Store, StoreError};
use mailwarden::time::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3_600);
const MEMORY: Duration = Duration::from_secs(30 * 86_400);

fn decision(verb: Verb, net: &str, at: Timestamp, until: Timestamp) -> Decision {
    Decision {
        id: u64::MAX - net.len() as u64,
        time: at,
        verb,
        subject: Subject::Net(net.parse().unwrap()),
        scope: Scope::Auth,
        until,
        jail: "postfix-auth".to_owned(),
        reason: "6 failures in 10 minutes".to_owned(),
        cause: Cause::Engine,
        observed: false,
        evidence: vec!["a line \"with\" quotes".to_owned(), "another".to_owned()],
    }
}

fn ban(net: &str, at: Timestamp, until: Timestamp) -> Decision {
    decision(Verb::Ban, net, at, until)
}

/// The `number`th of many addresses.
fn numbered(number: u32) -> Decision {
    let mut decision = ban("10.0.0.0/32", NOW, NOW + HOUR);
    // Not in order: neither are attackers.
    let bits = 0x0a00_0000 | (number.wrapping_mul(0x9e37_79b1) >> 8);
    decision.subject = Subject::Net(std::net::IpAddr::V4(bits.into()).into());
    decision.id = u64::from(number);
    decision.evidence =
        vec!["Nov 24 03:00:00 mx postfix/smtpd[1234]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed".to_owned()];
    decision
}

fn open(dir: &Path, now: Timestamp) -> (Store, Loaded) {
    Store::open(dir, Run::Real, now).unwrap()
}

fn record(store: &Store, decisions: Vec<Decision>) -> bool {
    store.record_with(decisions, Vec::new())
}

/// How many a table of the state has.
fn rows(dir: &Path, table: &str) -> i64 {
    let file = rusqlite::Connection::open(dir.join("state.db")).unwrap();
    file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

fn nets(loaded: &Loaded) -> Vec<String> {
    let mut nets: Vec<String> = loaded.bans.iter().map(|ban| ban.net.to_string()).collect();
    nets.sort();
    nets
}

fn row(table: u64, key: u128, value: &[u8]) -> SnapshotRow {
    SnapshotRow { table, key, value: value.to_vec() }
}

fn windows(loaded: Loaded) -> Vec<(u64, u128, Vec<u8>)> {
    let mut rows = Vec::new();
    let count = loaded.windows.read(|table, key, value| rows.push((table, key, value.to_vec()))).unwrap();
    assert_eq!(count, rows.len());
    rows
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn bans_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (store, loaded) = open(dir.path(), NOW);
    assert!(loaded.bans.is_empty() && loaded.notices.is_empty(), "{:?}", loaded.notices);
    let observed = Decision { observed: true, ..ban("192.0.2.9/32", NOW, NOW + HOUR) };
    let alert = Decision { verb: Verb::Alert, subject: Subject::Account("anna@example.org".into()), ..ban("192.0.2.9/32", NOW, NOW) };
    record(
        &store,
        vec![
            ban("192.0.2.1/32", NOW, NOW + HOUR),
            ban("2001:db8::/64", NOW, Timestamp::NEVER),
            ban("198.51.100.0/24", NOW, NOW + Duration::from_secs(5)),
            ban("203.0.113.1/32", NOW, NOW + HOUR),
            decision(Verb::Unban, "203.0.113.1/32", NOW, NOW),
            observed,
            alert,
        ],
    );
    drop(store);
    let (store, loaded) = open(dir.path(), NOW + Duration::from_secs(10));
    assert_eq!(nets(&loaded), ["192.0.2.1/32", "2001:db8::/64"]);
    let found = loaded.bans.iter().find(|ban| ban.net.is_ipv4()).unwrap();
    let expected = ban("192.0.2.1/32", NOW, NOW + HOUR);
    assert_eq!(
        *found,
        Ban {
            id: expected.id,
            net: "192.0.2.1/32".parse().unwrap(),
            scope: Scope::Auth,
            since: NOW,
            until: NOW + HOUR,
            jail: expected.jail,
            reason: expected.reason,
            cause: Cause::Engine,
            earlier: 0,
            evidence: expected.evidence,
        }
    );
    store.flush().unwrap();
    assert_eq!(rows(dir.path(), "bans"), 4, "ended and lifted ones are remembered");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(dir.path().join("state.db")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_dry_runs_decisions_last_as_long_as_dry_runs_do() {
    let dir = tempfile::tempdir().unwrap();
    let lock = || Decision { verb: Verb::Lock, subject: Subject::Account("anna".into()), ..ban("192.0.2.1/32", NOW, Timestamp::NEVER) };
    let (store, _) = open(dir.path(), NOW);
    record(&store, vec![ban("192.0.2.1/32", NOW, NOW + HOUR)]);
    store.save_windows(vec![row(1, 7, b"x")], Vec::new()).unwrap();
    drop(store);
    for known in [0, 1] {
        let (store, loaded) = Store::open(dir.path(), Run::Dry, NOW).unwrap();
        assert_eq!((nets(&loaded).len(), loaded.stopped.len()), (known, known));
        assert_eq!(windows(loaded).len(), 1, "counts are shared");
        record(&store, vec![ban("192.0.2.2/32", NOW, NOW + HOUR), lock()]);
    }
    let (_, loaded) = open(dir.path(), NOW);
    assert_eq!((nets(&loaded), loaded.stopped.len()), (vec!["192.0.2.1/32".to_owned()], 0));
    assert!(loaded.dropped.unwrap().contains("1 bans and 1 holds"));
    let (_, loaded) = Store::open(dir.path(), Run::Dry, NOW).unwrap();
    assert!(loaded.bans.is_empty());
}

#[test]
fn a_ban_is_prolonged_or_counted_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), NOW);
    let net = "192.0.2.1/32";
    record(&store, vec![ban(net, NOW, NOW + HOUR)]);
    record(&store, vec![ban(net, NOW + HOUR / 2, NOW + HOUR * 2)]);
    store.flush().unwrap();
    let look = |now| open(dir.path(), now).1;
    let prolonged = look(NOW + HOUR);
    assert_eq!((prolonged.bans[0].since, prolonged.bans[0].until, prolonged.bans[0].earlier), (NOW, NOW + HOUR * 2, 0));
    record(&store, vec![ban(net, NOW + HOUR * 3, NOW + HOUR * 4)]);
    store.flush().unwrap();
    let again = look(NOW + HOUR * 3);
    assert_eq!((again.bans[0].since, again.bans[0].earlier), (NOW + HOUR * 3, 1));
    record(&store, vec![decision(Verb::Unban, net, NOW + HOUR * 3, NOW), ban(net, NOW + HOUR * 3, NOW + HOUR * 9)]);
    store.flush().unwrap();
    let lifted = look(NOW + HOUR * 4);
    assert_eq!((lifted.bans[0].since, lifted.bans[0].earlier), (NOW + HOUR * 3, 2));
    record(&store, vec![Decision { scope: Scope::Mx, ..ban(net, NOW + HOUR * 3, NOW + HOUR * 9) }]);
    store.flush().unwrap();
    assert_eq!(look(NOW + HOUR * 4).bans.len(), 2, "another scope is another ban");
}

#[test]
fn stopped_accounts_and_errands_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (store, loaded) = open(dir.path(), NOW);
    assert!(loaded.stopped.is_empty() && loaded.errands.is_empty() && loaded.parked.is_empty());
    let about =
        |verb, name: &str, id| Decision { id, subject: Subject::Account(name.into()), ..decision(verb, "192.0.2.1/32", NOW, NOW + HOUR) };
    let mail = |queue_id: &str| QueuedMail { queue_id: queue_id.into(), arrival: NOW.micros() / 1_000_000 };
    let (lock, hold) = (about(Verb::Lock, "anna", 1), about(Verb::Hold, "anna", 2));
    let parked = [mail("4XYZAA"), mail("4XYZBB")];
    let errands = [Errand::of(&lock, "anna", &[]), Errand::of(&hold, "anna", &parked)].concat();
    store.record_with(vec![lock.clone(), hold, about(Verb::Lock, "bob", 3)], errands.clone());
    // The same decision again, as after a kill.
    store.record_with(vec![lock], vec![errands[0].clone()]);
    record(&store, vec![about(Verb::Unlock, "bob", 4), Decision { observed: true, ..about(Verb::Lock, "carl", 5) }]);
    store.errand_done(errands[1].id.clone(), Outcome::Done("told".into()));
    drop(store);

    let (store, loaded) = open(dir.path(), NOW + HOUR * 2);
    let names: Vec<(String, Hindrance)> = loaded.stopped.iter().map(|stopped| (stopped.name.clone(), stopped.hindrance)).collect();
    assert_eq!(names, [("anna".to_owned(), Hindrance::Held), ("anna".to_owned(), Hindrance::Locked)], "also what has ended meanwhile");
    let stop = &loaded.stopped[1].stop;
    assert_eq!((stop.id, stop.since, stop.until, stop.evidence.len()), (1, NOW, NOW + HOUR, 2));
    assert_eq!(loaded.errands, [errands[0].clone(), errands[2].clone()]);
    assert_eq!(loaded.parked, [("anna".to_owned(), mail("4XYZAA")), ("anna".to_owned(), mail("4XYZBB"))]);

    // What left the queue by itself is not told to be parked after the next start.
    store.left_queue("anna".to_owned(), "4XYZBB".to_owned());
    drop(store);
    let (store, left) = open(dir.path(), NOW);
    assert_eq!(left.parked, [("anna".to_owned(), mail("4XYZAA"))]);

    // A part of them is let go; what is not done yet is not forgotten, nor what waits for the end of a hold.
    store.left_queue("anna".to_owned(), "4XYZAA".to_owned());
    store.record_with(Vec::new(), Errand::of(&about(Verb::Hold, "anna", 6), "anna", &[mail("4XYZCC")]));
    store.record_with(Vec::new(), Errand::more_mail(Verb::Release, "anna", 2, NOW, &parked[..1]));
    store.prune(NOW + OUTBOX_MEMORY * 2, Duration::ZERO);
    store.replace_stopped(vec![loaded.stopped[0].clone()]);
    drop(store);
    let (store, loaded) = open(dir.path(), NOW);
    assert_eq!((loaded.stopped.len(), loaded.errands.len()), (1, 5), "{:?}", loaded.errands);
    assert_eq!(loaded.parked, [("anna".to_owned(), mail("4XYZCC"))]);
    loaded.errands.iter().for_each(|errand| store.errand_done(errand.id.clone(), Outcome::Done(String::new())));
    store.replace_stopped(Vec::new());
    store.prune(NOW + OUTBOX_MEMORY * 2, MEMORY);
    store.flush().unwrap();
    assert_eq!(["errands", "parked", "freed"].map(|table| rows(dir.path(), table)), [0, 0, 0]);
}

#[test]
fn the_memory_of_bans_is_for_bans_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), NOW);
    let unlock =
        Decision { subject: Subject::Account("anna".into()), cause: Cause::Operator, ..decision(Verb::Unlock, "192.0.2.1/32", NOW, NOW) };
    let errands = Errand::of(&unlock, "anna", &[]);
    record(&store, vec![ban("192.0.2.1/32", NOW, NOW + HOUR), Decision { verb: Verb::Unban, ..ban("192.0.2.1/32", NOW + HOUR / 2, NOW) }]);
    store.record_with(vec![unlock], errands.clone());
    store.tellings_over(vec!["told".to_owned()], notify::Outcome::Told, NOW);
    let later = NOW + HOUR * 3;
    store.prune(later, HOUR);
    store.flush().unwrap();
    let (_other, loaded) = open(dir.path(), later);
    assert_eq!((loaded.lifted.len(), loaded.freed.len(), loaded.errands.len(), loaded.outbox.told.len()), (1, 1, errands.len(), 1));
    assert!(!errands.is_empty());
}

#[test]
fn what_ended_long_ago_is_forgotten_and_what_is_in_force_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), NOW);
    record(&store, vec![ban("192.0.2.1/32", NOW, NOW + HOUR), ban("192.0.2.2/32", NOW, Timestamp::NEVER)]);
    let later = NOW + MEMORY + HOUR * 2;
    record(&store, vec![ban("192.0.2.3/32", later - HOUR, later)]);
    store.prune(later, MEMORY);
    store.flush().unwrap();
    let (_other, loaded) = open(dir.path(), later);
    assert_eq!(nets(&loaded), ["192.0.2.2/32"]);
    assert_eq!(["bans", "decisions"].map(|table| rows(dir.path(), table)), [2, 2]);
}

#[test]
fn the_ledger_can_be_handed_over_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), NOW);
    record(&store, vec![ban("192.0.2.1/32", NOW, NOW + HOUR), ban("192.0.2.2/32", NOW, NOW + HOUR)]);
    store.flush().unwrap();
    let mut bans = open(dir.path(), NOW).1.bans;
    bans.retain(|ban| ban.net.to_string() == "192.0.2.2/32");
    store.replace_bans(bans.clone(), NOW + HOUR / 2);
    store.flush().unwrap();
    assert_eq!(open(dir.path(), NOW + HOUR / 2).1.bans, bans);
}

#[test]
fn windows_and_cursors_are_saved_together() {
    let dir = tempfile::tempdir().unwrap();
    let (store, loaded) = open(dir.path(), NOW);
    assert!(loaded.cursors.is_empty() && windows(loaded).is_empty());
    let rows = vec![row(1, 7, b"old"), row(u64::MAX, u128::MAX, b"x"), row(2, 0, b"y"), row(1, 7, b"new"), row(2, 0, b"")];
    store.save_windows(rows, vec![("mail.log".into(), "file:1 …".into())]).unwrap();
    store.flush().unwrap();
    store.save_windows(vec![row(3, 1, b"z")], vec![("mail.log".into(), "file:1 2".into())]).unwrap();
    drop(store);
    let (store, loaded) = open(dir.path(), NOW);
    assert_eq!(loaded.cursors, [("mail.log".to_owned(), "file:1 2".to_owned())]);
    let mut rows = windows(loaded);
    rows.sort();
    assert_eq!(rows, [(1, 7, b"new".to_vec()), (3, 1, b"z".to_vec()), (u64::MAX, u128::MAX, b"x".to_vec())]);
    store.keep_tables(vec![3]);
    drop(store);
    assert_eq!(windows(open(dir.path(), NOW).1), [(3, 1, b"z".to_vec())]);
}

#[test]
fn what_can_still_be_read_of_a_damaged_file_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (store, loaded) = open(dir.path(), NOW);
    assert!(loaded.tables.is_empty());
    let lock = Decision { verb: Verb::Lock, subject: Subject::Account("anna".into()), ..ban("192.0.2.1/32", NOW, Timestamp::NEVER) };
    record(&store, (0..5_000).map(numbered).chain([lock]).collect());
    store.note_tables(vec!["mailwarden".to_owned()]);
    drop(store);
    assert_eq!(open(dir.path(), NOW).1.tables, ["mailwarden"]);
    // A page in the middle of the bans is overwritten.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    drop(connection);
    // Leaves of a table without row ids begin with 10 (SQLite's file format, 1.6).
    let leaves: Vec<usize> = (1..bytes.len() / 4096).map(|page| page * 4096).filter(|place| bytes[*place] == 10).collect();
    assert!(leaves.len() > 20, "{} pages of bans", leaves.len());
    let place = leaves[leaves.len() / 2];
    bytes[place..place + 3_000].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (store, loaded) = open(dir.path(), NOW);
    assert!(loaded.notices[0].contains("could still be read"), "{:?}", loaded.notices);
    assert!((4_000..5_000).contains(&loaded.bans.len()), "{} bans", loaded.bans.len());
    assert_eq!((loaded.bans[0].jail.as_str(), loaded.stopped.len(), loaded.stopped[0].name.as_str()), ("postfix-auth", 1, "anna"));
    assert!(loaded.tables.is_empty(), "the firewall may have bans that are not among them");
    drop(store);
    // They are in the new file, and the loss is told until somebody has seen to it.
    let (store, again) = open(dir.path(), NOW);
    assert_eq!((again.bans.len(), again.stopped.len()), (loaded.bans.len(), 1));
    let aside = store.health().state.asides[0].clone();
    let loss = store.health().loss().unwrap();
    assert!(loss.contains(&aside.path.display().to_string()) && aside.time.is_some(), "{loss}");
    assert!(store.health().problem().is_none(), "everything is saved");
    fs::remove_file(aside.path).unwrap();
    wait_for("the loss is seen to", || store.health().loss().is_none());
}

#[test]
fn no_damage_loses_a_ban_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (store, _) = open(dir.path(), NOW);
    let lock =
        |name: &str| Decision { verb: Verb::Lock, subject: Subject::Account(name.into()), ..ban("192.0.2.1/32", NOW, Timestamp::NEVER) };
    record(&store, (0..300).map(numbered).chain((0..60).map(|number| lock(&format!("user{number}")))).collect());
    store.note_tables(vec!["mailwarden".to_owned()]);
    drop(store);
    let bytes = fs::read(&path).unwrap();
    let whole = open(dir.path(), NOW).1;
    assert_eq!((whole.bans.len(), whole.stopped.len(), whole.tables.len()), (300, 60, 1));
    let key = |ban: &Ban| (ban.net, ban.until);
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut told, mut kept) = (0, 0);
    let random = (0..bytes.len() - 3_000).step_by(1_500).map(|start| {
        let mut damaged = bytes.clone();
        for byte in &mut damaged[start..start + 3_000] {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (dice >> 56) as u8;
        }
        (start, damaged)
    });
    // A leaf of the bans says that it has fewer rows than it has (SQLite's file format, 1.6).
    let leaf = (1..bytes.len() / 4096).map(|page| page * 4096).find(|place| bytes[*place] == 10 && bytes[place + 4] > 8).unwrap();
    let mut fewer = bytes.clone();
    fewer[leaf + 4] /= 2;
    for (start, damaged) in random.chain([(leaf, fewer)]) {
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("state.db"), damaged).unwrap();
        let (_store, found) = open(other.path(), NOW);
        let is_whole = found.bans.iter().map(key).eq(whole.bans.iter().map(key)) && found.stopped == whole.stopped;
        assert!(is_whole || found.tables.is_empty() && !found.notices.is_empty(), "bytes {start}: {} bans", found.bans.len());
        told += usize::from(!found.notices.is_empty());
        kept += found.bans.len();
    }
    assert!(told > 5 && kept > 1_000, "{told} damages told, {kept} bans kept");
}

#[test]
fn a_file_that_is_removed_while_it_is_open_is_made_anew_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (store, _) = open(&state, NOW);
    record(&store, vec![ban("192.0.2.1/32", NOW, NOW + HOUR)]);
    store.flush().unwrap();
    let missing = store.health().bans_missing();
    fs::remove_dir_all(&state).unwrap();
    // Noticed by the next write, and also while nothing is written.
    record(&store, vec![ban("192.0.2.2/32", NOW, NOW + HOUR)]);
    store.flush().unwrap();
    assert_eq!(nets(&open(&state, NOW).1), ["192.0.2.2/32"]);
    assert!(store.health().bans_missing() > missing, "the caller writes the ledger again");
    assert!(store.health().loss().unwrap().contains("removed files of the state"));
    fs::remove_dir_all(&state).unwrap();
    wait_for("it is noticed", || store.health().bans_missing() > missing + 1);
    assert!(state.join("state.db").exists());
    assert_eq!(store.health().problem(), None);
    // Where it cannot be made anew, that is a problem.
    fs::remove_dir_all(&state).unwrap();
    fs::write(&state, "in the way").unwrap();
    assert!(store.flush().is_err() && store.health().problem().is_some());
}

#[test]
fn a_damaged_file_is_moved_aside_and_the_rest_goes_on() {
    for damage in ["header", "tables"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let (store, _) = open(dir.path(), NOW);
        record(&store, vec![ban("192.0.2.1/32", NOW, NOW + HOUR)]);
        store.save_windows(vec![row(1, 7, b"kept")], Vec::new()).unwrap();
        drop(store);
        match damage {
            "header" => fs::write(&path, vec![0x55; 8192]).unwrap(),
            _ => rusqlite::Connection::open(&path).unwrap().execute_batch("DROP TABLE bans").unwrap(),
        }
        let (store, loaded) = open(dir.path(), NOW);
        assert_eq!(loaded.notices.len(), 1, "{:?}", loaded.notices);
        assert!(loaded.notices[0].contains("is damaged") && loaded.notices[0].contains("state.db.corrupt-"), "{:?}", loaded.notices);
        assert!(loaded.bans.is_empty());
        assert_eq!(windows(loaded), [(1, 7, b"kept".to_vec())], "the other file is untouched");
        let names: Vec<String> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.starts_with("state.db.corrupt-2")), "{names:?}");
        record(&store, vec![ban("192.0.2.2/32", NOW, NOW + HOUR)]);
        store.flush().unwrap();
        assert_eq!(nets(&open(dir.path(), NOW).1), ["192.0.2.2/32"]);
    }
}

#[test]
fn a_file_damaged_while_we_run_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), NOW);
    record(&store, (0..2_000).map(numbered).collect());
    store.flush().unwrap();
    let other = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("DROP TABLE bans").unwrap();
    record(&store, vec![ban("192.0.2.2/32", NOW, NOW + HOUR)]);
    assert!(store.flush().is_err());
    wait_for("the new file", || store.health().state.error.is_none());
    assert_eq!((store.health().state.rebuilt, store.health().bans_missing()), (1, 1));
    assert_eq!(nets(&open(dir.path(), NOW).1), ["192.0.2.2/32"]);
}

#[test]
fn a_newer_format_is_an_error_and_stays_untouched() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), NOW));
    let path = dir.path().join("windows.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let before = fs::read(&path).unwrap();
    let Err(error) = Store::open(dir.path(), Run::Real, NOW) else { panic!("opened") };
    assert!(matches!(error, StoreError::Newer { found: 99, .. }));
    assert!(error.to_string().contains("was written by a newer mailwarden"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn no_link_in_the_directory_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (state, link) = (dir.path().join("state"), dir.path().join("link"));
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::symlink(&state, &link).unwrap();
    // To the directory itself one may lead.
    drop(open(&link, NOW));
    for name in ["state.db", "windows.db"] {
        fs::rename(state.join(name), dir.path().join(name)).unwrap();
        std::os::unix::fs::symlink(dir.path().join(name), state.join(name)).unwrap();
        let before = fs::read(dir.path().join(name)).unwrap();
        let (store, _) = open(&state, NOW);
        assert!(store.health().problem().unwrap().contains("symbolic link"), "{:?}", store.health());
        drop(store);
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), before);
        fs::remove_file(state.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), state.join("lock")).unwrap();
    let refused = mailwarden::store::Claim::take(&state).unwrap_err().to_string();
    assert!(refused.contains("lock") && refused.contains("symbolic link"), "{refused}");
}

#[test]
fn a_lock_held_by_somebody_else_is_waited_out() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), NOW);
    let other = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    record(&store, vec![ban("192.0.2.1/32", NOW, NOW + HOUR)]);
    wait_for("the error", || store.health().state.error.is_some());
    assert!(store.health().problem().unwrap().contains("another program has locked it"), "{:?}", store.health());
    assert_eq!(store.health().state.pending, 1);
    other.execute_batch("ROLLBACK").unwrap();
    wait_for("the commit", || store.health().state.pending == 0);
    assert_eq!((store.health().state.error, store.health().state.committed), (None, 1));
}

#[test]
fn too_much_that_waits_is_given_up_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), NOW);
    let other = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let small = Decision { evidence: Vec::new(), reason: String::new(), jail: String::new(), ..ban("192.0.2.1/32", NOW, NOW + HOUR) };
    let mut is_kept = true;
    for _ in 0..11 {
        is_kept = record(&store, vec![small.clone(); 100_000]);
    }
    assert!(!is_kept);
    assert_eq!((store.health().state.lost, store.health().bans_missing()), (100_000, 100_000));
    // Dropping the store tries once more and gives up: it must not hang on the lock.
    drop(store);
}

// ------------------------------------------------------------------------------------------- children of the tests below

/// Runs the test `name` of this file as another process, with `MAILWARDEN_TEST_DIR`.
fn child(name: &str, dir: &Path, wrapper: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let mut words: Vec<&str> = wrapper.to_vec();
    words.extend([test.to_str().unwrap(), "--exact", name, "--nocapture"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("MAILWARDEN_TEST_DIR", dir).stdout(Stdio::piped());
    command
}

fn child_dir() -> Option<std::path::PathBuf> {
    std::env::var_os("MAILWARDEN_TEST_DIR").map(Into::into)
}

#[test]
fn child_writes_until_it_is_killed() {
    let Some(dir) = child_dir() else { return };
    let (store, _) = open(&dir, NOW);
    for number in 0.. {
        record(&store, vec![numbered(number)]);
        if number == 5_000 {
            store.save_windows(vec![row(1, 1, b"counts")], vec![("mail.log".into(), "here".into())]).unwrap();
            store.flush().unwrap();
            println!("flushed");
        }
    }
}

#[test]
fn what_was_flushed_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child("child_writes_until_it_is_killed", dir.path(), &["env"]).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().map_while(Result::ok).any(|line| line.contains("flushed")));
    child.kill().unwrap();
    child.wait().unwrap();
    let (_store, loaded) = open(dir.path(), NOW);
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
    assert!(loaded.bans.len() > 5_000, "{} bans", loaded.bans.len());
    assert_eq!(loaded.cursors, [("mail.log".to_owned(), "here".to_owned())]);
    let check: String =
        rusqlite::Connection::open(dir.path().join("state.db")).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// In a mount namespace of its own, as root.
#[test]
fn child_fills_its_disk() {
    let Some(dir) = child_dir() else { return };
    let mount = |arguments: &[&str]| assert!(Command::new("mount").args(arguments).arg(&dir).status().unwrap().success());
    mount(&["-t", "tmpfs", "-o", "size=2m", "none"]);
    let (store, _) = open(&dir, NOW);
    record(&store, vec![ban("192.0.2.1/32", NOW, NOW + HOUR)]);
    store.flush().unwrap();
    let filler = dir.join("filler");
    let _ = fs::write(&filler, vec![0; 4 << 20]);
    record(&store, (0..20_000).map(numbered).collect());
    assert!(store.flush().is_err());
    let problem = store.health().problem().unwrap_or_default().to_owned();
    assert!(problem.contains("the disk is full"), "{problem}");
    assert_eq!(store.health().state.pending, 20_000);
    println!("full: {problem}");

    // A start on the full disk reads what there is.
    let (second, loaded) = open(&dir, NOW);
    println!("second start: {:?}", loaded.notices);
    assert_eq!(nets(&loaded), ["192.0.2.1/32"]);
    drop(second);

    fs::remove_file(&filler).unwrap();
    mount(&["-o", "remount,size=64m"]);
    wait_for("the retry", || store.health().state.pending == 0);
    assert_eq!(store.health().problem(), None);
    drop(store);

    mount(&["-o", "remount,ro"]);
    let (store, loaded) = open(&dir, NOW);
    println!("read-only: {:?}", loaded.notices);
    assert_eq!(loaded.bans.len(), 20_001);
    assert!(loaded.notices.iter().all(|notice| notice.contains("what it held was read")), "{:?}", loaded.notices);
    assert!(store.health().problem().is_some());
    mount(&["-o", "remount,rw"]);
    record(&store, vec![ban("192.0.2.7/32", NOW, NOW + HOUR)]);
    wait_for("the end of read-only", || store.health().state.pending == 0 && store.health().problem().is_none());
    println!("child is done");
}

#[test]
fn a_full_disk_is_told_and_waited_out() {
    let dir = tempfile::tempdir().unwrap();
    let namespace: &[&str] = if nix::unistd::Uid::effective().is_root() { &["unshare", "-m"] } else { &["unshare", "-rm"] };
    if !Command::new(namespace[0]).args(&namespace[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mount namespace to be had here");
        return;
    }
    let output = child("child_fills_its_disk", dir.path(), namespace).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("child is done"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_burst_is_committed_together() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), NOW);
    const BANS: u32 = 300_000;
    let decisions: Vec<Decision> = (0..BANS).map(numbered).collect();
    let (start, work) = (Instant::now(), writer_work());
    let mut decisions = decisions.into_iter();
    loop {
        let some: Vec<Decision> = decisions.by_ref().take(500).collect();
        if some.is_empty() {
            break;
        }
        assert!(record(&store, some));
    }
    let handed_over = start.elapsed();
    store.flush().unwrap();
    let (committed, work) = (start.elapsed(), writer_work() - work);
    drop(store);
    let (start, reading) = (Instant::now(), process_work());
    let (_store, loaded) = open(dir.path(), NOW);
    let (read, reading) = (start.elapsed(), process_work() - reading);
    let rate = f64::from(BANS) / committed.as_secs_f64();
    eprintln!("{BANS} bans: handed over in {handed_over:?}, on disk in {committed:?} ({rate:.0} a second), read in {read:?}");
    // What a busy machine does not blur.
    let alone = f64::from(BANS) / work.as_secs_f64();
    eprintln!("the writer worked {work:?} (a core of its own writes {alone:.0} a second), reading took {reading:?}");
    assert_eq!(loaded.bans.len(), BANS as usize);
    assert!(rate > 10_000.0, "{rate} a second");
}

fn process_work() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().into()
}

/// Processor time of all threads that write a `state.db`, in hundredths of a second.
fn writer_work() -> Duration {
    let of_task = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let fields: Vec<&str> = stat.strip_prefix(task.file_name().to_str()?)?.strip_prefix(" (store-state) ")?.split(' ').collect();
        Some(Duration::from_millis(10) * (fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?))
    };
    fs::read_dir("/proc/self/task").unwrap().filter_map(|task| of_task(task.ok()?)).sum()
}
