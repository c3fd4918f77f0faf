//! The bans that should be in force now: the truth that the kernel is reconciled to.
//!
//! **Invariant:** one ban for each (network, scope); a second one can only prolong it. A ban costs less than 200 bytes: its
//! texts are kept for the latest ones only (the store has all).

use std::collections::{BTreeMap, VecDeque};

use hashbrown::{HashMap, HashTable};

use super::decision::{Ban, Cause};
use super::ends::{End, Ends};
use super::jail::Scope;
use super::key::{Subnet, mask, spread};
use super::table::shard_of;
use crate::event::Service;
use crate::limits;
use crate::time::Timestamp;

/// What a ban is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BanKey {
    pub subnet: Subnet,
    pub scope: Scope,
}

/// A ban, packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub(super) bits: [u64; 2],
    pub id: u64,
    pub since: i64,
    pub until: i64,
    /// What was counted, and over how many seconds; of an operator's ban the number of its reason.
    pub count: u32,
    pub span: u32,
    pub earlier: u8,
    /// Index into [`Names`].
    pub jail: u16,
    pub(super) prefix: u8,
    pub scope: Scope,
    pub cause: Cause,
    /// Told that it does not bite.
    pub ineffective: bool,
}

impl Entry {
    pub fn new(key: BanKey, id: u64, since: i64, until: i64) -> Entry {
        Entry {
            bits: [(key.subnet.bits >> 64) as u64, key.subnet.bits as u64],
            id,
            since,
            until,
            count: 0,
            span: 0,
            earlier: 0,
            jail: 0,
            prefix: key.subnet.prefix,
            scope: key.scope,
            cause: Cause::Engine,
            ineffective: false,
        }
    }

    pub const fn key(&self) -> BanKey {
        let bits = (self.bits[0] as u128) << 64 | self.bits[1] as u128;
        BanKey { subnet: Subnet { bits, prefix: self.prefix }, scope: self.scope }
    }

    const fn form(&self) -> Form {
        Form { is_ipv4: self.key().subnet.is_ipv4(), scope: self.scope, prefix: self.prefix }
    }

    const fn end(&self) -> End {
        End { until: self.until, hash: hash_of(self.key()) }
    }

    /// In force at `at`.
    pub const fn covers(&self, at: i64) -> bool {
        at < self.until && at >= self.since
    }
}

/// What bans have in common that are found by the same cut of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    is_ipv4: bool,
    scope: Scope,
    prefix: u8,
}

/// What came of [`Ledger::add`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Added {
    New,
    Prolonged,
    /// There is one that lasts as long or longer.
    Unchanged,
}

/// How a ban stood before somebody changed it, for `undo`.
#[derive(Clone, Copy, Debug)]
struct Change {
    at: i64,
    before: Entry,
}

#[derive(Debug)]
pub struct Ledger {
    /// By key, the numbers of entries.
    shards: Vec<HashTable<u32>>,
    entries: Entries,
    len: usize,
    cap: usize,
    ends: Ends,
    /// How many bans there are of each form, in order: what a look-up has to try.
    in_use: Vec<(Form, u32)>,
    changes: VecDeque<Change>,
    pub names: Names,
    /// Bans in force by the number of their jail.
    by_jail: Vec<u32>,
    stories: Stories,
}

impl Ledger {
    pub fn new(cap: usize) -> Ledger {
        Ledger {
            shards: (0..limits::TABLE_SHARDS).map(|_| HashTable::new()).collect(),
            entries: Entries::default(),
            len: 0,
            cap: cap.max(1),
            ends: Ends::default(),
            in_use: Vec::new(),
            changes: VecDeque::new(),
            names: Names::default(),
            by_jail: Vec::new(),
            stories: Stories::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap.max(1);
    }

    pub fn is_full(&self) -> bool {
        self.len >= self.cap
    }

    pub fn get(&self, key: BanKey) -> Option<&Entry> {
        self.find(hash_of(key), |entry| entry.key() == key)
    }

    fn find(&self, hash: u64, is_wanted: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        let number = self.shards.get(shard_of(hash))?.find(hash, |number| self.entries.get(*number).is_some_and(&is_wanted))?;
        self.entries.get(*number)
    }

    fn forms(&self) -> impl Iterator<Item = &Form> {
        self.in_use.iter().map(|(form, _)| form)
    }

    fn get_mut(&mut self, key: BanKey) -> Option<&mut Entry> {
        let hash = hash_of(key);
        let entries = &mut self.entries;
        let number = *self.shards.get(shard_of(hash))?.find(hash, |number| entries.get(*number).is_some_and(|entry| entry.key() == key))?;
        entries.get_mut(number)
    }

    /// A ban in force at `at` that keeps the address `bits` (in mapped space) away from `service`.
    pub fn covering(&self, bits: u128, service: Service, at: i64) -> Option<&Entry> {
        if self.is_empty() {
            return None;
        }
        let is_ipv4 = Subnet { bits, prefix: 128 }.is_ipv4();
        let candidates = self.forms().filter(|form| form.is_ipv4 == is_ipv4 && form.scope.covers(service));
        candidates.filter_map(|form| self.get(form.key_around(bits))).find(|entry| entry.covers(at))
    }

    /// All bans, of any scope, that hold the whole of `subnet`.
    pub fn holding(&self, subnet: Subnet) -> Vec<&Entry> {
        let wide_enough = self.forms().filter(|form| form.is_ipv4 == subnet.is_ipv4() && form.prefix <= subnet.prefix);
        wide_enough.filter_map(|form| self.get(form.key_around(subnet.bits))).collect()
    }

    /// All bans of networks within `subnet`, itself not counted. Passes over the ledger only where there are longer prefixes.
    pub fn within(&self, subnet: Subnet) -> Vec<&Entry> {
        if !self.forms().any(|form| form.is_ipv4 == subnet.is_ipv4() && form.prefix > subnet.prefix) {
            return Vec::new();
        }
        self.iter().filter(|entry| entry.prefix > subnet.prefix && subnet.contains(entry.key().subnet)).collect()
    }

    /// Puts a ban in force, or prolongs the one that is.
    pub fn add(&mut self, entry: Entry, now: i64) -> Added {
        let Some(old) = self.get(entry.key()).copied() else {
            self.insert(entry);
            return Added::New;
        };
        if entry.until <= old.until {
            return Added::Unchanged;
        }
        self.remember(old, now);
        // It began when it began: only the end moves.
        self.replace(Entry { since: old.since, ..entry });
        Added::Prolonged
    }

    pub fn patch(&mut self, key: BanKey, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.get_mut(key) {
            change(entry);
        }
    }

    /// Lifts a ban because somebody wants it lifted.
    pub fn lift(&mut self, key: BanKey, now: i64) -> Option<Entry> {
        let entry = self.remove(key)?;
        self.remember(entry, now);
        Some(entry)
    }

    /// Bans in force that `jail` made.
    pub fn of_jail(&self, jail: &str) -> u32 {
        self.names.find(jail).and_then(|number| self.by_jail.get(usize::from(number))).copied().unwrap_or(0)
    }

    pub fn next_end(&self) -> Option<i64> {
        self.ends.first().map(|end| end.until).filter(|until| *until != i64::MAX)
    }

    /// Takes out a ban that has ended by `now`.
    pub fn pop_ended(&mut self, now: i64) -> Option<Entry> {
        let end = self.ends.first().filter(|end| end.until <= now && end.until != i64::MAX)?;
        let key = self.at_end(end)?.key();
        self.remove(key)
    }

    fn at_end(&self, end: End) -> Option<&Entry> {
        self.find(end.hash, |entry| entry.end() == end)
    }

    /// Takes out the ban that would end first, to make room.
    pub fn pop_soonest(&mut self) -> Option<Entry> {
        let until = self.next_end()?;
        self.pop_ended(until)
    }

    /// Passes over all bans: for an operator's command, a reload or a listing.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.shards.iter().flat_map(HashTable::iter).filter_map(|number| self.entries.get(*number))
    }

    /// By the time of their end, those that come after `after` in that order.
    pub fn by_end(&self, after: Option<(i64, BanKey)>) -> impl Iterator<Item = &Entry> {
        let after = after.map(|(until, key)| Entry::new(key, 0, 0, until).end());
        self.ends.iter_after(after).filter_map(|end| self.at_end(end))
    }

    /// Turns back everything that changed since then. Returns what must be lifted and what must be put in force.
    pub fn undo(&mut self, since: i64, now: i64) -> (Vec<Entry>, Vec<Entry>) {
        let mut before: BTreeMap<BanKey, Entry> = BTreeMap::new();
        // Newest first, so that the state before the first change is what stays.
        for change in self.changes.iter().rev().take_while(|change| change.at >= since) {
            before.insert(change.before.key(), change.before);
        }
        let mut back: Vec<Entry> = before.into_values().filter(|entry| entry.since < since && entry.until > now).collect();
        back.retain(|entry| self.get(entry.key()).is_none_or(|current| current.until != entry.until));
        let mut lifted: Vec<Entry> = self.iter().filter(|entry| entry.since >= since).copied().collect();
        lifted.sort_by_key(|entry| (entry.since, entry.key()));
        for entry in &lifted {
            self.lift(entry.key(), now);
        }
        for entry in &back {
            if let Some(current) = self.get(entry.key()).copied() {
                self.remember(current, now);
            }
            self.replace(*entry);
        }
        (lifted, back)
    }

    pub fn tell(&mut self, id: u64, reason: &str, evidence: &[String]) {
        self.stories.add(id, reason, evidence);
    }

    pub fn to_ban(&self, entry: &Entry) -> Ban {
        let story = self.stories.get(entry.id);
        Ban {
            id: entry.id,
            net: entry.key().subnet.to_network(),
            scope: entry.scope,
            since: Timestamp::from_micros(entry.since),
            until: Timestamp::from_micros(entry.until),
            jail: self.names.get(entry.jail).to_owned(),
            reason: story.map_or_else(|| self.reason(entry), |story| story.reason.clone()),
            cause: entry.cause,
            earlier: u32::from(entry.earlier),
            evidence: story.map(|story| story.evidence.clone()).unwrap_or_default(),
        }
    }

    /// What is left to say of a ban whose story was forgotten.
    fn reason(&self, entry: &Entry) -> String {
        match entry.cause {
            Cause::Engine if entry.count > 0 => format!("{} in {}", entry.count, super::reason::span(i64::from(entry.span) * 1_000_000)),
            Cause::Engine => String::new(),
            Cause::Operator | Cause::Fleet => self.names.get(u16::try_from(entry.count).unwrap_or(0)).to_owned(),
        }
    }

    fn insert(&mut self, entry: Entry) {
        let hash = hash_of(entry.key());
        let Some(shard) = self.shards.get_mut(shard_of(hash)) else { return };
        let number = self.entries.add(entry);
        let entries = &self.entries;
        shard.insert_unique(hash, number, |number| entries.get(*number).map_or(0, |entry| hash_of(entry.key())));
        self.len += 1;
        match self.in_use.binary_search_by_key(&entry.form(), |(form, _)| *form) {
            Ok(place) => self.in_use[place].1 += 1,
            Err(place) => self.in_use.insert(place, (entry.form(), 1)),
        }
        let jail = usize::from(entry.jail);
        if self.by_jail.len() <= jail {
            self.by_jail.resize(jail + 1, 0);
        }
        if let Some(count) = self.by_jail.get_mut(jail) {
            *count += 1;
        }
        self.ends.insert(entry.end());
    }

    fn remove(&mut self, key: BanKey) -> Option<Entry> {
        let hash = hash_of(key);
        let entries = &mut self.entries;
        let wanted = |number: &u32| entries.get(*number).is_some_and(|entry| entry.key() == key);
        let (number, _) = self.shards.get_mut(shard_of(hash))?.find_entry(hash, wanted).ok()?.remove();
        let entry = entries.take(number)?;
        self.len -= 1;
        self.ends.remove(entry.end());
        if let Some(count) = self.by_jail.get_mut(usize::from(entry.jail)) {
            *count -= 1;
        }
        if let Ok(place) = self.in_use.binary_search_by_key(&entry.form(), |(form, _)| *form) {
            self.in_use[place].1 -= 1;
            if self.in_use[place].1 == 0 {
                self.in_use.remove(place);
            }
        }
        Some(entry)
    }

    fn replace(&mut self, entry: Entry) {
        self.remove(entry.key());
        self.insert(entry);
    }

    fn remember(&mut self, before: Entry, at: i64) {
        if self.changes.len() >= limits::LEDGER_CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { at, before });
    }
}

impl Form {
    /// The key of the ban of this form that would hold the address.
    const fn key_around(self, bits: u128) -> BanKey {
        BanKey { subnet: Subnet { bits: bits & mask(self.prefix), prefix: self.prefix }, scope: self.scope }
    }
}

/// Bans are made by us, not chosen by attackers one by one; the hash needs no secret.
const fn hash_of(key: BanKey) -> u64 {
    spread(key.subnet.bits, (key.subnet.prefix as u64) << 8 | key.scope as u64)
}

/// Entries in blocks: an entry in the hash table itself would cost the room that a hash table leaves free.
#[derive(Debug, Default)]
struct Entries {
    blocks: Vec<Vec<Entry>>,
    /// Numbers of entries that were taken out.
    free: Vec<u32>,
}

impl Entries {
    const BLOCK: usize = 256;

    fn add(&mut self, entry: Entry) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(place) = self.get_mut(number)
        {
            *place = entry;
            return number;
        }
        if self.blocks.last().is_none_or(|block| block.len() >= Entries::BLOCK) {
            self.blocks.push(Vec::with_capacity(Entries::BLOCK));
        }
        let Some(block) = self.blocks.last_mut() else { return u32::MAX };
        block.push(entry);
        let within = block.len() - 1;
        ((self.blocks.len() - 1) * Entries::BLOCK + within) as u32
    }

    fn get(&self, number: u32) -> Option<&Entry> {
        self.blocks.get(number as usize / Entries::BLOCK)?.get(number as usize % Entries::BLOCK)
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.blocks.get_mut(number as usize / Entries::BLOCK)?.get_mut(number as usize % Entries::BLOCK)
    }

    fn take(&mut self, number: u32) -> Option<Entry> {
        let entry = *self.get(number)?;
        self.free.push(number);
        if self.free.len() == self.blocks.len() * Entries::BLOCK {
            // After a flood nothing of it is left: the memory goes back.
            *self = Entries::default();
        }
        Some(entry)
    }
}

/// Names of jails and operators' reasons, by number.
#[derive(Debug, Default)]
pub struct Names {
    names: Vec<String>,
}

impl Names {
    /// The number of `name`. Beyond 65,535 different ones all further ones share the last number.
    pub fn number(&mut self, name: &str) -> u16 {
        if let Some(number) = self.find(name) {
            return number;
        }
        if self.names.len() <= usize::from(u16::MAX) {
            self.names.push(name.to_owned());
        }
        (self.names.len() - 1) as u16
    }

    pub fn find(&self, name: &str) -> Option<u16> {
        self.names.iter().position(|known| known == name).map(|index| index as u16)
    }

    pub fn get(&self, number: u16) -> &str {
        self.names.get(usize::from(number)).map_or("", String::as_str)
    }
}

/// Reasons and evidence of the latest bans.
#[derive(Debug, Default)]
struct Stories {
    by_id: HashMap<u64, Story>,
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Story {
    reason: String,
    evidence: Vec<String>,
}

impl Stories {
    fn add(&mut self, id: u64, reason: &str, evidence: &[String]) {
        if self.by_id.insert(id, Story { reason: reason.to_owned(), evidence: evidence.to_vec() }).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > limits::STORIES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    fn get(&self, id: u64) -> Option<&Story> {
        self.by_id.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(net: &str, scope: Scope) -> BanKey {
        BanKey { subnet: Subnet::new(net.parse().unwrap()), scope }
    }

    fn bits(ip: &str) -> u128 {
        super::super::key::bits_of(ip.parse().unwrap())
    }

    #[test]
    fn a_ban_for_ever_is_listed_last_and_never_ends() {
        let mut ledger = Ledger::new(100);
        ledger.add(Entry::new(key("192.0.2.1", Scope::Mail), 1, 100, i64::MAX), 100);
        assert_eq!(ledger.next_end(), None);
        ledger.add(Entry::new(key("192.0.2.2", Scope::Mail), 2, 100, 200), 100);
        let listed: Vec<i64> = ledger.by_end(None).map(|entry| entry.until).collect();
        assert_eq!(listed, [200, i64::MAX]);
        assert!(ledger.pop_ended(i64::MAX).is_some() && ledger.pop_ended(i64::MAX).is_none());
    }

    #[test]
    fn a_ban_covers_its_network_its_scope_and_its_time() {
        let mut ledger = Ledger::new(100);
        ledger.add(Entry::new(key("192.0.2.0/24", Scope::Auth), 1, 100, 200), 100);
        ledger.add(Entry::new(key("2001:db8::/64", Scope::Mx), 2, 100, i64::MAX), 100);
        let cases = [
            ("192.0.2.9", Service::Imap, 100, true),
            ("192.0.2.9", Service::Imap, 99, false),
            ("192.0.2.9", Service::Imap, 199, true),
            ("192.0.2.9", Service::Imap, 200, false),
            ("192.0.2.9", Service::Smtp, 150, false),
            ("192.0.3.9", Service::Imap, 150, false),
            ("2001:db8::7", Service::Smtp, 1 << 60, true),
            ("2001:db8:0:1::7", Service::Smtp, 150, false),
        ];
        for (ip, service, at, covered) in cases {
            assert_eq!(ledger.covering(bits(ip), service, at).is_some(), covered, "{ip} {service} {at}");
        }
    }

    #[test]
    fn a_second_ban_only_prolongs() {
        let mut ledger = Ledger::new(100);
        let key = key("192.0.2.1/32", Scope::Auth);
        assert_eq!(ledger.add(Entry::new(key, 1, 100, 200), 100), Added::New);
        assert_eq!(ledger.add(Entry::new(key, 2, 150, 200), 150), Added::Unchanged);
        assert_eq!(ledger.add(Entry::new(key, 3, 150, 300), 150), Added::Prolonged);
        let entry = ledger.get(key).unwrap();
        assert_eq!((entry.since, entry.until, ledger.len()), (100, 300, 1));
        assert_eq!(ledger.pop_ended(299), None);
        assert_eq!(ledger.pop_ended(300).map(|entry| entry.id), Some(3));
        assert!(ledger.is_empty() && ledger.next_end().is_none() && ledger.in_use.is_empty());
    }

    #[test]
    fn undo_turns_back_bans_prolongations_and_liftings() {
        let mut ledger = Ledger::new(100);
        let nets = ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"].map(|net| key(net, Scope::Auth));
        ledger.add(Entry::new(nets[0], 1, 100, 1000), 100);
        ledger.add(Entry::new(nets[1], 2, 100, 1000), 100);
        ledger.add(Entry::new(nets[0], 3, 210, 2000), 210);
        ledger.lift(nets[1], 220);
        ledger.add(Entry::new(nets[2], 4, 230, 2000), 230);
        let (lifted, back) = ledger.undo(200, 300);
        assert_eq!(lifted.iter().map(|entry| entry.id).collect::<Vec<_>>(), [4]);
        assert_eq!(back.iter().map(|entry| (entry.id, entry.until)).collect::<Vec<_>>(), [(1, 1000), (2, 1000)]);
        assert_eq!(ledger.len(), 2);
        let (lifted, back) = ledger.undo(290, 310);
        assert_eq!(lifted, []);
        assert_eq!(
            back.iter().map(|entry| (entry.id, entry.until)).collect::<Vec<_>>(),
            [(3, 2000), (4, 2000)],
            "the undo itself is undone"
        );
    }

    #[test]
    fn a_ban_is_small() {
        assert!(size_of::<Entry>() <= 56);
    }
}
