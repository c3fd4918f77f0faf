//! The engine's part in snapshots: which tables there are, and in which order.

use std::collections::{HashMap, VecDeque};

use super::measure::{SAME_SLOTS, SHARERS_MAX};
use super::rule::{Group, table_id};
use super::sanction::{Widening, WideningConfig};
use super::snapshot::{Reader, SnapshotRow};
use super::{Engine, sanction::SanctionConfig};

/// A saved clock that is farther ahead than this was wrong.
const AHEAD_MICROS_MAX: i64 = 86_400_000_000;

/// And this much is the difference of two looks at it.
const AHEAD_MICROS_TOLERATED: i64 = 1_000_000;

/// A snapshot under way.
#[derive(Debug)]
pub(super) struct Saving {
    /// Rows made already.
    ready: VecDeque<SnapshotRow>,
    /// Which table is being written: the groups, and then those of [`Fixed`].
    stage: usize,
}

/// Tables that every engine has.
#[derive(Clone, Copy)]
enum Fixed {
    Hosts,
    Networks,
    History,
    Widening,
    Submitters,
}

const FIXED: [(Fixed, &str); 5] = [
    (Fixed::Hosts, "known addresses"),
    (Fixed::Networks, "known networks"),
    (Fixed::History, "earlier bans"),
    (Fixed::Widening, "widening"),
    (Fixed::Submitters, "submitters"),
];
/// The clock and the bans made at that moment (key 0), since when accounts are known (key 1), the locks of a day (key 2), and the names of the jails of each group (key: its id).
const ABOUT: &str = "about";

impl Engine {
    /// Begins a snapshot of everything that changed since the last one. Does nothing while one is under way.
    pub fn begin_snapshot(&mut self) {
        if self.saving.is_some() {
            return;
        }
        let about = |key, value| SnapshotRow { table: table_id(ABOUT), key, value };
        let mut ready =
            VecDeque::from([about(0, self.moment()), about(1, self.accounts_since.to_le_bytes().to_vec()), about(2, self.encode_budget())]);
        ready.extend(self.groups.iter().map(|group| about(u128::from(group.id), group.names().into_bytes())));
        for group in &mut self.groups {
            group.windows.freeze();
        }
        self.known.hosts_mut().freeze();
        self.known.networks_mut().freeze();
        self.history.table_mut().freeze();
        self.widening.windows_mut().freeze();
        self.submitters.table_mut().freeze();
        self.saving = Some(Saving { ready, stage: 0 });
    }

    /// Writes up to `max_entries` more rows; true when the snapshot is complete. The rows of all slices together are the
    /// state at [`Engine::begin_snapshot`]; store them in one transaction, in this order.
    pub fn next_slice(&mut self, max_entries: usize, out: &mut Vec<SnapshotRow>) -> bool {
        let Some(mut saving) = self.saving.take() else { return true };
        let mut room = max_entries.max(1);
        while room > 0 {
            if let Some(row) = saving.ready.pop_front() {
                out.push(row);
                room -= 1;
                continue;
            }
            let Some(done) = self.write_stage(saving.stage, room, out) else { return true };
            if done < room {
                saving.stage += 1;
            }
            room -= done;
        }
        self.saving = Some(saving);
        false
    }

    /// Tables that snapshots may name; rows of others can be deleted from the store.
    pub fn snapshot_tables(&self) -> Vec<u64> {
        self.groups.iter().map(|group| group.id).chain(FIXED.iter().map(|(_, name)| table_id(name))).chain([table_id(ABOUT)]).collect()
    }

    /// What [`Engine::learned_rows`] hands on: histories of submitters and addresses, and since when there are any.
    fn is_learned(row: &SnapshotRow) -> bool {
        let tables = [Fixed::Hosts, Fixed::Networks, Fixed::Submitters];
        let is_history =
            FIXED.iter().any(|(fixed, name)| tables.iter().any(|table| *table as u8 == *fixed as u8) && table_id(name) == row.table);
        is_history || row.table == table_id(ABOUT) && row.key == 1
    }

    /// Of the rows of a state those that `learn` goes on from.
    pub fn restore_learned(&mut self, rows: &[SnapshotRow]) {
        let learned: Vec<SnapshotRow> = rows.iter().filter(|row| Engine::is_learned(row)).cloned().collect();
        self.restore(&learned);
    }

    /// What old logs have taught, as rows of a snapshot.
    pub fn learned_rows(&mut self) -> Vec<SnapshotRow> {
        self.begin_snapshot();
        let mut rows = Vec::new();
        while !self.next_slice(usize::MAX, &mut rows) {}
        rows.retain(Engine::is_learned);
        rows
    }

    /// Takes saved rows back; rows of jails that are no more are left out. Call on a new engine, before `restore_bans`.
    ///
    /// The engine's clock goes back to the moment of the snapshot, so that the lines since then can come again, each at its
    /// own time; where none come, the next call sets it to the present.
    pub fn restore(&mut self, rows: &[SnapshotRow]) {
        let about: HashMap<u128, &[u8]> =
            rows.iter().filter(|row| row.table == table_id(ABOUT)).map(|row| (row.key, row.value.as_slice())).collect();
        if let Some(moment) = about.get(&0) {
            self.resume_at(moment);
        }
        if let Some(spent) = about.get(&2) {
            self.restore_budget(spent);
        }
        if let Some(since) = about.get(&1).and_then(|since| Reader(since).u32()).filter(|since| *since > 0) {
            self.accounts_since = since;
        }
        let slots: HashMap<u64, (usize, [u8; SHARERS_MAX])> = self
            .groups
            .iter()
            .enumerate()
            .map(|(index, group)| (group.id, (index, about.get(&u128::from(group.id)).map_or(SAME_SLOTS, |names| group.slots_of(names)))))
            .collect();
        let fixed: HashMap<u64, Fixed> = FIXED.iter().map(|(fixed, name)| (table_id(name), *fixed)).collect();
        let now = self.now;
        for row in rows.iter().filter(|row| !row.value.is_empty()) {
            if let Some((index, slots)) = slots.get(&row.table) {
                if let Some(group) = self.groups.get_mut(*index) {
                    let terms = group.terms(now);
                    group.windows.restore(row.key, &row.value, slots, &terms);
                }
                continue;
            }
            let _is_readable = match fixed.get(&row.table) {
                Some(Fixed::Hosts) => self.known.restore_host(row.key, &row.value, now),
                Some(Fixed::Networks) => self.known.restore_network(row.key, &row.value, now),
                Some(Fixed::History) => self.history.restore(row.key, &row.value, now),
                Some(Fixed::Submitters) => self.submitters.restore(row.key, &row.value, now),
                Some(Fixed::Widening) => {
                    let terms = Widening::terms(&widening_config(&self.sanction), now);
                    self.widening.windows_mut().restore(row.key, &row.value, &SAME_SLOTS, &terms)
                }
                None => false,
            };
        }
    }

    fn moment(&self) -> Vec<u8> {
        self.now.to_le_bytes().into_iter().chain(self.made_now.iter().flat_map(|id| id.to_le_bytes())).collect()
    }

    fn resume_at(&mut self, moment: &[u8]) {
        let mut reader = Reader(moment);
        let Some(saved) = reader.i64().filter(|saved| saved.saturating_sub(self.now) <= AHEAD_MICROS_MAX) else { return };
        // A clock that went ahead has been set right since: what is still to come must not wait for it.
        self.now = saved.clamp(0, self.now.saturating_add(AHEAD_MICROS_TOLERATED));
        self.is_resumed = true;
        self.made_now = std::iter::from_fn(|| reader.u64()).collect();
    }

    /// Ends a snapshot under way before the tables change: the rest of it waits for the next slices.
    pub(super) fn write_all_frozen(&mut self) {
        let Some(mut saving) = self.saving.take() else { return };
        let mut rows = Vec::new();
        while let Some(done) = self.write_stage(saving.stage, usize::MAX, &mut rows) {
            debug_assert!(done < usize::MAX);
            saving.stage += 1;
        }
        saving.ready.extend(rows);
        saving.stage = usize::MAX;
        self.saving = Some(saving);
    }

    /// Writes rows of one table; returns how many keys it looked at, `None` behind the last table.
    fn write_stage(&mut self, stage: usize, max: usize, out: &mut Vec<SnapshotRow>) -> Option<usize> {
        let now = self.now;
        if let Some(group) = self.groups.get_mut(stage) {
            let table = group.id;
            return Some(group.windows.write_frozen(max, now, |key, value| out.push(SnapshotRow { table, key, value })));
        }
        let (fixed, name) = *FIXED.get(stage.checked_sub(self.groups.len())?)?;
        let table = table_id(name);
        let emit = |key, value| out.push(SnapshotRow { table, key, value });
        Some(match fixed {
            Fixed::Hosts => self.known.hosts_mut().write_frozen(max, now, emit),
            Fixed::Networks => self.known.networks_mut().write_frozen(max, now, emit),
            Fixed::History => self.history.table_mut().write_frozen(max, now, emit),
            Fixed::Widening => self.widening.windows_mut().write_frozen(max, now, emit),
            Fixed::Submitters => self.submitters.table_mut().write_frozen(max, now, emit),
        })
    }
}

fn widening_config(sanction: &SanctionConfig) -> WideningConfig {
    sanction.widening.clone().unwrap_or_default()
}

impl Group {
    /// The names of its jails, one a line, in the order of their slots.
    fn names(&self) -> String {
        let mut names = [""; SHARERS_MAX];
        for rule in &self.rules {
            if let Some(place) = names.get_mut(usize::from(rule.slot)) {
                *place = &rule.jail.name;
            }
        }
        names.join("\n")
    }

    /// For each slot that [`Group::names`] told which slot that jail has now.
    fn slots_of(&self, names: &[u8]) -> [u8; SHARERS_MAX] {
        let mut slots = [SHARERS_MAX as u8; SHARERS_MAX];
        for (place, name) in slots.iter_mut().zip(names.split(|byte| *byte == b'\n')) {
            if let Some(rule) = self.rules.iter().find(|rule| rule.jail.name.as_bytes() == name) {
                *place = rule.slot;
            }
        }
        slots
    }

    /// Takes over the windows of the group that had this identity before.
    pub fn inherit(&mut self, old: Group, now: i64) {
        self.counted = old.counted;
        for rule in &mut self.rules {
            if let Some(before) = old.rules.iter().find(|before| before.jail.name == rule.jail.name) {
                (rule.tripped, rule.banned) = (before.tripped, before.banned);
            }
        }
        let slots = self.slots_of(old.names().as_bytes());
        let are_the_same =
            old.rules.iter().all(|rule| slots.get(usize::from(rule.slot)) == Some(&rule.slot)) && old.rules.len() == self.rules.len();
        if are_the_same && self.windows.is_same_form(&old.windows) {
            self.windows = old.windows;
        } else {
            let terms = self.terms(now);
            self.windows.adopt(&old.windows, &slots, &terms);
        }
    }
}
