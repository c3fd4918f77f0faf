//! A bounded hash table of keys and what is known of each.
//!
//! **Invariant:** no call passes over the whole table. It is cut into 256 shards, so that growth re-hashes one of them;
//! dead rows are swept a few buckets at a time; a full table lets the quietest key of a handful go, never a hot one before
//! a quiet one.

use hashbrown::HashTable;

use super::key::spread;
use super::snapshot::{Journal, Mark, Next};
use crate::limits;

/// What a table holds for a key.
pub trait Value: Default {
    fn mark(&self) -> Mark;
    fn set_mark(&mut self, mark: Mark);
    /// When the cutoff has come to this, in microseconds, nothing is left that could still count.
    fn end(&self, aging: &Aging) -> i64;
    fn is_dead(&self, aging: &Aging) -> bool {
        self.end(aging) <= aging.cutoff
    }
    fn rank(&self, aging: &Aging) -> Rank;
    fn encode(&self, now: i64) -> Vec<u8>;
}

/// How old things are, all in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Aging {
    pub now: i64,
    /// What is not later than this has left every window.
    pub cutoff: i64,
    /// A key that counts this much or more is hot.
    pub half: u64,
}

/// Who goes first when the table is full: the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    pub hot: bool,
    pub last: i64,
}

/// What becomes of a row after it was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Keep,
    /// Nothing was changed.
    Untouched,
    Remove,
}

#[derive(Debug)]
struct Row<V> {
    /// In pieces, so that the row of a small window needs no padding.
    key: [u32; 4],
    value: V,
}

#[derive(Debug)]
struct Shard<V> {
    rows: HashTable<Row<V>>,
    /// Where the next search for somebody to evict begins.
    hand: u32,
}

#[derive(Debug)]
pub struct Table<V> {
    /// None until the first row comes: most jails of a quiet host have nothing to count.
    shards: Vec<Shard<V>>,
    len: usize,
    cap: usize,
    /// Rows beyond which somebody has to go; below `cap` while memory is short.
    room: usize,
    secret: u64,
    sweep_shard: usize,
    sweep_bucket: usize,
    /// Buckets to look at for keys that came in since the last sweep.
    sweep_owed: usize,
    /// No row ends before this, as far as the last pass and the rows since tell: until then a pass would find nothing. And
    /// the same for the pass at hand.
    first_end: i64,
    pass_first_end: i64,
    journal: Option<Journal>,
    pub evictions: u64,
}

/// A table that may not grow may grow to so many rows.
const TIGHT_ROWS_MIN: usize = 16_384;
/// Buckets looked at for each new key: more than one, so that sweeping keeps up with filling.
const SWEEP_BUCKETS: usize = 4;
/// So many at once: the processor reads ahead of a longer run.
const SWEEP_RUN: usize = 64;
/// Calls of [`Table::sweep`] in which it gets around.
const SWEEPS_PER_PASS: usize = 32;
/// Shards that are empty, or nearly so, are passed over at this speed.
const SWEEP_BUCKETS_MIN: usize = 16;
/// Buckets looked at for somebody to evict.
const EVICTION_SCAN: usize = 128;

impl<V: Value> Table<V> {
    pub fn new(secret: u64, cap: usize, persist: bool) -> Self {
        Table {
            shards: Vec::new(),
            len: 0,
            cap: cap.max(1),
            room: cap.max(1),
            secret,
            sweep_shard: 0,
            sweep_bucket: 0,
            sweep_owed: 0,
            first_end: i64::MIN,
            pass_first_end: i64::MAX,
            journal: persist.then(Journal::new),
            evictions: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// While memory is short the table grows no further: for a new row another one goes.
    pub fn set_tight(&mut self, tight: bool) {
        self.room = if tight { self.cap.min(self.len.max(TIGHT_ROWS_MIN)) } else { self.cap };
    }

    /// Bytes taken from the allocator, without what the values own.
    pub fn allocated(&self) -> usize {
        self.shards.iter().map(|shard| shard.rows.allocation_size()).sum()
    }

    pub fn get(&self, key: u128) -> Option<&V> {
        let hash = spread(key, self.secret);
        let wanted = split(key);
        let row = self.shards.get(shard_of(hash))?.rows.find(hash, |row| row.key == wanted)?;
        Some(&row.value)
    }

    /// Reads both ends of the first row whose tag fits, right or not, and nothing depends on it: the processor need not wait.
    #[inline]
    pub fn touch(&self, hash: u64) -> u32 {
        self.shards
            .get(shard_of(hash))
            .and_then(|shard| shard.rows.find(hash, |_| true))
            .map_or(0, |row| row.key[0] ^ row.value.mark().touch())
    }

    #[inline]
    pub fn hash(&self, key: u128) -> u64 {
        spread(key, self.secret)
    }

    /// Works on the row of `key`, a new one if there is none. A new row for which no room can be made is worked on and
    /// forgotten; `newcomer_hot` says that it would be hot at once.
    #[inline]
    pub fn update<R>(&mut self, key: u128, aging: &Aging, newcomer_hot: bool, work: impl FnOnce(&mut V) -> (Fate, R)) -> R {
        self.update_at(spread(key, self.secret), key, aging, newcomer_hot, work)
    }

    /// The same for whoever knows the hash of `key` already.
    #[inline]
    pub fn update_at<R>(&mut self, hash: u64, key: u128, aging: &Aging, newcomer_hot: bool, work: impl FnOnce(&mut V) -> (Fate, R)) -> R {
        let wanted = split(key);
        if let Some(shard) = self.shards.get_mut(shard_of(hash))
            && let Ok(mut entry) = shard.rows.find_entry(hash, |row| row.key == wanted)
        {
            let (fate, result) = change(&mut self.journal, key, &mut entry.get_mut().value, aging.now, work);
            if fate == Fate::Remove {
                let (row, _) = entry.remove();
                forget(&mut self.journal, key, row.value.mark());
                self.len -= 1;
            }
            return result;
        }
        let mut value = V::default();
        let (fate, result) = work(&mut value);
        if fate == Fate::Keep {
            self.insert(hash, key, value, aging, newcomer_hot);
        }
        result
    }

    /// Works on the row of `key` if there is one.
    pub fn modify<R>(&mut self, key: u128, aging: &Aging, work: impl FnOnce(&mut V) -> (Fate, R)) -> Option<R> {
        let hash = spread(key, self.secret);
        let wanted = split(key);
        let mut entry = self.shards.get_mut(shard_of(hash))?.rows.find_entry(hash, |row| row.key == wanted).ok()?;
        let (fate, result) = change(&mut self.journal, key, &mut entry.get_mut().value, aging.now, work);
        if fate == Fate::Remove {
            let (row, _) = entry.remove();
            forget(&mut self.journal, key, row.value.mark());
            self.len -= 1;
        }
        Some(result)
    }

    /// A row as the store had it.
    pub fn restore(&mut self, key: u128, mut value: V, aging: &Aging) {
        value.set_mark(Mark::RESTORED);
        self.place(key, value, aging);
    }

    /// A row of a table that this one takes the place of; the store does not have it yet.
    pub fn adopt(&mut self, key: u128, mut value: V, aging: &Aging) {
        let mark = self.journal.as_mut().map_or(Mark::default(), |journal| journal.changed(key, Mark::default()));
        value.set_mark(mark);
        self.place(key, value, aging);
    }

    fn place(&mut self, key: u128, value: V, aging: &Aging) {
        let hash = spread(key, self.secret);
        if value.is_dead(aging) || self.len >= self.room && !self.make_room(shard_of(hash), aging, false) {
            return;
        }
        // The next pass finds out when it ends.
        (self.first_end, self.pass_first_end) = (i64::MIN, i64::MIN);
        let (secret, wanted) = (self.secret, split(key));
        let Some(shard) = self.shard_mut(shard_of(hash)) else { return };
        match shard.rows.find_mut(hash, |row| row.key == wanted) {
            Some(row) => row.value = value,
            None => {
                shard.rows.insert_unique(hash, Row { key: wanted, value }, |row| spread(join(row.key), secret));
                self.len += 1;
            }
        }
    }

    /// Passes over everything: for conversions on reload and for tests only.
    pub fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        self.shards.iter().flat_map(|shard| shard.rows.iter().map(|row| (join(row.key), &row.value)))
    }

    fn insert(&mut self, hash: u64, key: u128, mut value: V, aging: &Aging, newcomer_hot: bool) {
        self.sweep_owed += SWEEP_BUCKETS;
        if self.sweep_owed >= SWEEP_RUN {
            self.sweep_owed = 0;
            self.sweep(SWEEP_RUN, aging);
        }
        let end = value.end(aging);
        self.first_end = if self.len == 0 { end } else { self.first_end.min(end) };
        self.pass_first_end = self.pass_first_end.min(end);
        let index = shard_of(hash);
        if self.len >= self.room && !self.make_room(index, aging, newcomer_hot) {
            self.evictions += 1;
            return;
        }
        if let Some(journal) = &mut self.journal {
            value.set_mark(journal.changed(key, Mark::default()));
        }
        let secret = self.secret;
        if let Some(shard) = self.shard_mut(index) {
            shard.rows.insert_unique(hash, Row { key: split(key), value }, |row| spread(join(row.key), secret));
            self.len += 1;
        }
    }

    fn shard_mut(&mut self, index: usize) -> Option<&mut Shard<V>> {
        if self.shards.is_empty() {
            self.shards.resize_with(limits::TABLE_SHARDS, || Shard { rows: HashTable::new(), hand: 0 });
        }
        self.shards.get_mut(index)
    }

    /// Looks at the next buckets, at most `max`, and removes the dead rows among them. A small table needs a small broom: a
    /// pass takes some sixty calls whatever its size.
    pub fn sweep(&mut self, max: usize, aging: &Aging) {
        let is_new_pass = self.sweep_shard == 0 && self.sweep_bucket == 0;
        if self.len == 0 || is_new_pass && self.first_end > aging.cutoff {
            return;
        }
        for _ in 0..max.min(self.len / SWEEPS_PER_PASS + SWEEP_BUCKETS_MIN) {
            let Some(shard) = self.shards.get_mut(self.sweep_shard) else {
                self.sweep_shard = 0;
                self.first_end = std::mem::replace(&mut self.pass_first_end, i64::MAX);
                if self.first_end > aging.cutoff {
                    return;
                }
                continue;
            };
            if self.sweep_bucket >= shard.rows.num_buckets() || shard.rows.is_empty() {
                shrink(shard, self.secret);
                self.sweep_shard += 1;
                self.sweep_bucket = 0;
                continue;
            }
            let first_end = &mut self.pass_first_end;
            let is_dead = |value: &V| {
                let end = value.end(aging);
                if end > aging.cutoff {
                    *first_end = (*first_end).min(end);
                }
                end <= aging.cutoff
            };
            if remove_if(shard, self.sweep_bucket, &mut self.journal, aging.now, is_dead) {
                self.len -= 1;
            }
            self.sweep_bucket += 1;
        }
    }

    /// Lets a dead or quiet row of the shard go. False: all that were looked at are hot, and the newcomer is not.
    fn make_room(&mut self, index: usize, aging: &Aging, newcomer_hot: bool) -> bool {
        let shards = self.shards.len();
        let occupied = (0..shards)
            .map(|step| (index + step) % shards)
            .find(|index| self.shards.get(*index).is_some_and(|shard| !shard.rows.is_empty()));
        let Some(shard) = occupied.and_then(|index| self.shards.get_mut(index)) else { return false };
        let buckets = shard.rows.num_buckets();
        // A hot newcomer may only take a hot one's place when no quiet one is left at all.
        let scan = if newcomer_hot { buckets } else { EVICTION_SCAN.min(buckets) };
        let mut best: Option<(Rank, usize)> = None;
        for step in 0..scan {
            let bucket = (shard.hand as usize + step) % buckets;
            let Some(row) = shard.rows.get_bucket(bucket) else { continue };
            let rank = if row.value.is_dead(aging) { Rank { hot: false, last: i64::MIN } } else { row.value.rank(aging) };
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, bucket));
                if rank.last == i64::MIN {
                    break;
                }
            }
        }
        shard.hand = ((shard.hand as usize + scan) % buckets) as u32;
        let Some((rank, bucket)) = best.filter(|(rank, _)| newcomer_hot || !rank.hot) else { return false };
        if remove_if(shard, bucket, &mut self.journal, aging.now, |_| true) {
            self.len -= 1;
            self.evictions += u64::from(rank.last != i64::MIN);
        }
        true
    }

    pub fn freeze(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.freeze();
        }
    }

    /// Writes up to `max` frozen rows; returns how many keys were looked at, fewer than `max` when all are written.
    pub fn write_frozen(&mut self, max: usize, now: i64, mut emit: impl FnMut(u128, Vec<u8>)) -> usize {
        let Some(journal) = &mut self.journal else { return 0 };
        for done in 0..max {
            match journal.next() {
                None => return done,
                Some(Next::Gone(key)) => emit(key, Vec::new()),
                Some(Next::Early(key, value)) => emit(key, value),
                Some(Next::Dirty(key)) => {
                    let hash = spread(key, self.secret);
                    let wanted = split(key);
                    let Some(shard) = self.shards.get_mut(shard_of(hash)) else { continue };
                    let Some(row) = shard.rows.find_mut(hash, |row| row.key == wanted) else { continue };
                    if let Some(mark) = journal.written(row.value.mark()) {
                        emit(key, row.value.encode(now));
                        row.value.set_mark(mark);
                    }
                }
            }
        }
        max
    }
}

fn change<V: Value, R>(
    journal: &mut Option<Journal>,
    key: u128,
    value: &mut V,
    now: i64,
    work: impl FnOnce(&mut V) -> (Fate, R),
) -> (Fate, R) {
    let Some(journal) = journal else { return work(value) };
    let mark = journal.before_change(key, value.mark(), || value.encode(now));
    value.set_mark(mark);
    let (fate, result) = work(value);
    if fate == Fate::Keep {
        let mark = journal.changed(key, value.mark());
        value.set_mark(mark);
    }
    (fate, result)
}

fn forget(journal: &mut Option<Journal>, key: u128, mark: Mark) {
    if let Some(journal) = journal {
        journal.removed(key, mark);
    }
}

fn remove_if<V: Value>(
    shard: &mut Shard<V>,
    bucket: usize,
    journal: &mut Option<Journal>,
    now: i64,
    condition: impl FnOnce(&V) -> bool,
) -> bool {
    let Ok(entry) = shard.rows.get_bucket_entry(bucket) else { return false };
    if !condition(&entry.get().value) {
        return false;
    }
    let (row, _) = entry.remove();
    let key = join(row.key);
    let mark = match journal {
        Some(journal) => journal.before_change(key, row.value.mark(), || row.value.encode(now)),
        None => row.value.mark(),
    };
    forget(journal, key, mark);
    true
}

/// Gives memory back after a flood.
fn shrink<V>(shard: &mut Shard<V>, secret: u64) {
    let len = shard.rows.len();
    if shard.rows.num_buckets() > 64 && len < shard.rows.num_buckets() / 8 {
        shard.rows.shrink_to(len * 2, |row| spread(join(row.key), secret));
        shard.hand = 0;
    }
}

/// The last shard gets twice as many keys as the first, so that shards double one after the other: neither does all of the
/// memory double at once, nor is the whole table ever as empty as a shard that just did.
pub(super) const fn shard_of(hash: u64) -> usize {
    // Other bits than the ones hashbrown takes for the bucket (lowest) and the tag (highest seven).
    let part = (hash >> 40) & 0xffff;
    // 256 · log₂(1 + part), nearly: log₂(1 + x) ≈ x + 0.344 x (1 − x).
    let bend = ((part * (0x1_0000 - part)) >> 16) * 88;
    let shard = (part * limits::TABLE_SHARDS as u64 + bend) >> 16;
    if shard < limits::TABLE_SHARDS as u64 { shard as usize } else { limits::TABLE_SHARDS - 1 }
}

const fn split(key: u128) -> [u32; 4] {
    [key as u32, (key >> 32) as u32, (key >> 64) as u32, (key >> 96) as u32]
}

const fn join(key: [u32; 4]) -> u128 {
    key[0] as u128 | (key[1] as u128) << 32 | (key[2] as u128) << 64 | (key[3] as u128) << 96
}
