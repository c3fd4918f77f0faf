//! The messages in the queue: whom each queue id belongs to.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::names::{NameId, Names};
use crate::event::Service;
use crate::limits::MESSAGES_MAX;
use crate::time::Timestamp;

/// Postfix's long queue ids have at most 22 bytes; a longer word is none.
pub(super) const QUEUE_ID_BYTES_MAX: usize = 23;
/// Postfix gives a message up after five days; a hold may last somewhat longer.
const AGE_MAX: Duration = Duration::from_secs(8 * 86_400);
/// Parts of the index, so that no single growth takes long.
const SHARDS: usize = 16;
const NONE: u32 = u32::MAX;

/// Where a message stands in the table; good until the table frees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRef {
    slot: u32,
    generation: u32,
}

/// What is known about one queue id.
pub(super) struct Message {
    scope: u64,
    id: [u8; QUEUE_ID_BYTES_MAX],
    id_len: u8,
    pub ip: Option<IpAddr>,
    pub service: Service,
    pub flags: Flags,
    /// How often it became active, counted up to [`u8::MAX`].
    pub activations: u8,
    pub submitter: Option<NameId>,
    /// nrcpt when it first became active.
    pub recipients: u32,
    /// Size; kept only for an event that has to wait.
    pub bytes: u32,
    /// When the first line about it was read.
    created: Timestamp,
    /// When that line was written, in seconds: about when Postfix took the message in.
    arrival: u32,
    /// The message that it may continue, judged by message-id alone: whether it does shows when it becomes active.
    pub perhaps: Option<MessageRef>,
    generation: u32,
    older: u32,
    /// The next younger one; of a vacant slot, the next vacant one.
    younger: u32,
}

/// What a message is, as far as its lines have told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    /// Its beginning was seen: who sent it is known, even if that is nobody in particular.
    pub const KNOWN: Flags = Flags(1);
    /// Its `message` event is out, or must never come: it came out of a content filter.
    pub const TOLD: Flags = Flags(2);
    /// A notice that Postfix itself wrote: its deliveries are nobody's doing.
    pub const NOTICE: Flags = Flags(4);
    /// The submitter is an account that logged in.
    pub const LOGIN: Flags = Flags(8);
    /// It came from this host (or a trusted one) without a login, so perhaps out of a content filter.
    pub const INSIDE: Flags = Flags(16);
    /// Its message-id was seen.
    pub const HAS_ID: Flags = Flags(32);
    /// It came through a before-queue filter, and whose it is will be told by the `proxy-accept` line.
    pub const AWAITS_PROXY: Flags = Flags(64);
    /// One message with the same message-id has already been taken for this one's continuation.
    pub const CONTINUED: Flags = Flags(128);
    /// A local user handed it in.
    pub const LOCAL: Flags = Flags(256);
    /// One message with the same message-id has already been taken for this one, sent on.
    pub const FORWARDED: Flags = Flags(512);
    /// A server elsewhere has been asked to take it, so no content filter is between.
    pub const LEFT: Flags = Flags(1024);

    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }
    pub fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }
    pub fn clear(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }
}

/// Bounded: the oldest message makes room.
pub(super) struct Messages {
    index: [HashTable<u32>; SHARDS],
    slots: Vec<Message>,
    vacant: u32,
    oldest: u32,
    youngest: u32,
    live: usize,
    capacity: usize,
    /// Removed by the last line; freed before the next one, so that the line itself can still be joined.
    retired: u32,
    pub names: Names,
    hasher: DefaultHashBuilder,
    pub evicted: u64,
}

impl Messages {
    pub fn new() -> Self {
        Messages::with_capacity(MESSAGES_MAX)
    }

    fn with_capacity(capacity: usize) -> Self {
        Messages {
            index: Default::default(),
            slots: Vec::new(),
            vacant: NONE,
            oldest: NONE,
            youngest: NONE,
            live: 0,
            capacity,
            retired: NONE,
            names: Names::default(),
            hasher: DefaultHashBuilder::default(),
            evicted: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.live
    }

    pub fn find(&self, scope: u64, id: &[u8]) -> Option<MessageRef> {
        if id.len() > QUEUE_ID_BYTES_MAX {
            return None;
        }
        let hash = self.hash(scope, id);
        let slot = *self.index[shard(hash)].find(hash, |&slot| self.slots[slot as usize].is(scope, id))?;
        Some(MessageRef { slot, generation: self.slots[slot as usize].generation })
    }

    /// The entry of a queue id that begins here, blank: short ids are re-used within minutes.
    pub fn begin(&mut self, scope: u64, id: &[u8], written: Timestamp, now: Timestamp) -> Option<MessageRef> {
        if id.is_empty() || id.len() > QUEUE_ID_BYTES_MAX {
            return None;
        }
        if let Some(old) = self.find(scope, id) {
            self.free(old.slot);
        }
        self.make_room(now);
        let slot = self.take_slot();
        let entry = &mut self.slots[slot as usize];
        let generation = entry.generation;
        let arrival = u32::try_from(written.seconds()).unwrap_or(0);
        *entry = Message { scope, id_len: id.len() as u8, created: now, arrival, generation, older: self.youngest, ..Message::vacant() };
        entry.id[..id.len()].copy_from_slice(id);
        match self.youngest {
            NONE => self.oldest = slot,
            youngest => self.slots[youngest as usize].younger = slot,
        }
        self.youngest = slot;
        self.live += 1;
        let hash = self.hash(scope, id);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index[shard(hash)].insert_unique(hash, slot, |&at| slots[at as usize].hash(hasher));
        Some(MessageRef { slot, generation })
    }

    pub fn get(&self, at: MessageRef) -> Option<&Message> {
        self.slots.get(at.slot as usize).filter(|message| message.generation == at.generation)
    }

    pub fn get_mut(&mut self, at: MessageRef) -> Option<&mut Message> {
        self.slots.get_mut(at.slot as usize).filter(|message| message.generation == at.generation)
    }

    /// Says who sends `at`.
    pub fn set_submitter(&mut self, at: MessageRef, name: &[u8]) {
        let id = self.names.hold(name);
        self.replace_submitter(at, Some(id));
    }

    /// Puts an already held name in place of the old one.
    pub fn replace_submitter(&mut self, at: MessageRef, id: Option<NameId>) {
        let old = match self.get_mut(at) {
            Some(message) => std::mem::replace(&mut message.submitter, id),
            None => id,
        };
        if let Some(old) = old {
            self.names.release(old);
        }
    }

    /// `child` is the same message as `root`, or a notice about it: it belongs to the same sender.
    pub fn inherit(&mut self, child: MessageRef, root: MessageRef) {
        let Some(root) = self.get(root) else { return };
        let (ip, service, submitter) = (root.ip, root.service, root.submitter);
        let login = root.flags.has(Flags::LOGIN);
        if let Some(message) = self.get_mut(child) {
            message.ip = ip;
            message.service = service;
            message.flags.clear(Flags::LOGIN);
            if login {
                message.flags.set(Flags::LOGIN);
            }
            message.flags.set(Flags::KNOWN);
            message.flags.set(Flags::TOLD);
        }
        let held = submitter.map(|id| self.names.hold_again(id));
        self.replace_submitter(child, held);
    }

    pub fn submitter(&self, at: MessageRef) -> Option<&[u8]> {
        self.get(at)?.submitter.map(|id| self.names.text(id))
    }

    /// The queue ids of a submitter, the youngest first, at most `max`. Looks no farther back than its oldest message.
    pub fn ids_of(&self, submitter: &[u8], max: usize) -> impl Iterator<Item = (&[u8], Timestamp)> {
        let found = self.names.find(submitter);
        let (id, count) = found.map_or((None, 0), |(id, holders)| (Some(id), holders));
        let entries = self.youngest_first();
        entries
            .filter(move |message| message.submitter.is_some() && message.submitter == id)
            .take(count)
            .filter(|message| message.has_come_in())
            .take(max)
            .map(|message| (message.id(), message.arrival()))
    }

    /// The queue ids of several submitters that began since then, each with the place of its name in `submitters`.
    pub fn ids_since<'n>(&self, submitters: impl Iterator<Item = &'n [u8]>, since: Timestamp) -> Vec<(usize, &[u8], Timestamp)> {
        let place_of: HashMap<NameId, usize> =
            submitters.enumerate().filter_map(|(place, name)| Some((self.names.find(name)?.0, place))).collect();
        if place_of.is_empty() {
            return Vec::new();
        }
        let young = self.youngest_first().take_while(|message| message.created >= since);
        let come_in = young.filter(|message| message.has_come_in());
        come_in.filter_map(|message| Some((*place_of.get(&message.submitter?)?, message.id(), message.arrival()))).collect()
    }

    /// What is in the queue.
    fn youngest_first(&self) -> impl Iterator<Item = &Message> {
        let mut at = self.youngest;
        let all = std::iter::from_fn(move || {
            let message = self.slots.get(at as usize)?;
            Some((std::mem::replace(&mut at, message.older), message))
        });
        all.filter(|(slot, _)| *slot != self.retired).map(|(_, message)| message)
    }

    /// The queue id is gone. Its entry stays until [`Messages::free_retired`].
    pub fn retire(&mut self, at: MessageRef) {
        self.free_retired();
        if self.get(at).is_some() {
            self.retired = at.slot;
        }
    }

    pub fn free_retired(&mut self) {
        if self.retired != NONE {
            let slot = std::mem::replace(&mut self.retired, NONE);
            self.free(slot);
        }
    }

    /// Frees what is too old, and the oldest when the table is full.
    fn make_room(&mut self, now: Timestamp) {
        for _ in 0..2 {
            match self.slots.get(self.oldest as usize) {
                Some(oldest) if now.since(oldest.created) > AGE_MAX => self.free(self.oldest),
                _ => break,
            }
        }
        if self.live >= self.capacity && self.oldest != NONE {
            self.evicted += 1;
            self.free(self.oldest);
        }
    }

    fn take_slot(&mut self) -> u32 {
        if self.vacant == NONE {
            self.slots.push(Message::vacant());
            return (self.slots.len() - 1) as u32;
        }
        let slot = self.vacant;
        self.vacant = self.slots[slot as usize].younger;
        slot
    }

    fn free(&mut self, slot: u32) {
        if self.retired == slot {
            self.retired = NONE;
        }
        let hash = self.slots[slot as usize].hash(&self.hasher);
        if let Ok(found) = self.index[shard(hash)].find_entry(hash, |&at| at == slot) {
            found.remove();
        }
        let entry = &mut self.slots[slot as usize];
        let (older, younger, submitter) = (entry.older, entry.younger, entry.submitter.take());
        entry.generation = entry.generation.wrapping_add(1);
        entry.younger = self.vacant;
        self.vacant = slot;
        match self.slots.get_mut(older as usize) {
            Some(older) => older.younger = younger,
            None => self.oldest = younger,
        }
        match self.slots.get_mut(younger as usize) {
            Some(younger) => younger.older = older,
            None => self.youngest = older,
        }
        self.live -= 1;
        if let Some(id) = submitter {
            self.names.release(id);
        }
    }

    fn hash(&self, scope: u64, id: &[u8]) -> u64 {
        hash(&self.hasher, scope, id)
    }
}

impl Message {
    /// Its content came: cleanup has told its message-id, or qmgr has taken it up. A client has a queue id from its first recipient on,
    /// and what is refused after that leaves no other line.
    fn has_come_in(&self) -> bool {
        self.flags.has(Flags::HAS_ID) || self.activations > 0
    }

    fn vacant() -> Self {
        Message {
            scope: 0,
            id: [0; QUEUE_ID_BYTES_MAX],
            id_len: 0,
            ip: None,
            service: Service::Other,
            flags: Flags::default(),
            activations: 0,
            submitter: None,
            recipients: 0,
            bytes: 0,
            created: Timestamp::ZERO,
            arrival: 0,
            perhaps: None,
            generation: 0,
            older: NONE,
            younger: NONE,
        }
    }

    pub fn id(&self) -> &[u8] {
        &self.id[..usize::from(self.id_len)]
    }

    pub fn arrival(&self) -> Timestamp {
        Timestamp::from_seconds(i64::from(self.arrival))
    }

    fn is(&self, scope: u64, id: &[u8]) -> bool {
        self.scope == scope && self.id() == id
    }

    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hash(hasher, self.scope, self.id())
    }
}

fn hash(hasher: &DefaultHashBuilder, scope: u64, id: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u64(scope);
    state.write(id);
    state.finish()
}

/// Neither the bits that pick the bucket nor those of the tag.
fn shard(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn an_entry_is_small() {
        // With index (about 5 bytes an entry), well under 200.
        assert!(size_of::<Message>() <= 112, "{}", size_of::<Message>());
    }

    #[test]
    fn ids_of_hosts_and_instances_stay_apart() {
        let mut messages = Messages::new();
        let one = messages.begin(1, b"4XYZ", at(0), at(0)).unwrap();
        let two = messages.begin(2, b"4XYZ", at(0), at(0)).unwrap();
        messages.set_submitter(one, b"anna");
        assert_eq!((messages.find(1, b"4XYZ"), messages.find(2, b"4XYZ"), messages.find(3, b"4XYZ")), (Some(one), Some(two), None));
        assert_eq!((messages.submitter(one), messages.submitter(two)), (Some(&b"anna"[..]), None));
    }

    #[test]
    fn a_reused_id_begins_blank() {
        let mut messages = Messages::new();
        let old = messages.begin(1, b"4XYZ", at(0), at(0)).unwrap();
        messages.set_submitter(old, b"anna");
        let new = messages.begin(1, b"4XYZ", at(1), at(1)).unwrap();
        assert_eq!((messages.submitter(new), messages.get(old).is_none(), messages.names.len()), (None, true, 0));
    }

    #[test]
    fn the_messages_of_a_submitter_are_found() {
        let mut messages = Messages::new();
        for n in 0..6u8 {
            let one = messages.begin(1, &[b'A', b'0' + n], at(i64::from(n)), at(i64::from(n))).unwrap();
            messages.set_submitter(one, if n % 2 == 0 { b"anna" } else { b"bob" });
            messages.get_mut(one).unwrap().flags.set(Flags::HAS_ID);
        }
        let gone = messages.find(1, b"A2").unwrap();
        messages.retire(gone);
        messages.free_retired();
        let ids = |name: &[u8], max| messages.ids_of(name, max).map(|(id, at)| (id.to_vec(), at)).collect::<Vec<_>>();
        assert_eq!(ids(b"anna", 9), [(b"A4".to_vec(), at(4)), (b"A0".to_vec(), at(0))]);
        assert_eq!((ids(b"bob", 1).len(), ids(b"carl", 9).len()), (1, 0));
        let since = |names: &[&'static [u8]], second| messages.ids_since(names.iter().copied(), at(second)).len();
        assert_eq!((since(&[b"carl", b"bob"], 2), since(&[b"anna", b"bob"], 3), since(&[b"carl"], 0)), (2, 3, 0));
        assert_eq!(messages.ids_since([&b"carl"[..], b"bob"].into_iter(), at(5)), [(1, &b"A5"[..], at(5))]);
    }

    #[test]
    fn what_was_refused_before_its_content_came_is_not_in_the_queue() {
        let mut messages = Messages::new();
        for (second, id) in [b"A0", b"A1", b"A2"].into_iter().enumerate() {
            let one = messages.begin(1, id, at(second as i64), at(second as i64)).unwrap();
            messages.set_submitter(one, b"anna");
        }
        let found = |messages: &Messages| {
            let all = messages.ids_of(b"anna", 9).map(|(id, _)| id.to_vec()).collect::<Vec<_>>();
            assert_eq!(messages.ids_since([&b"anna"[..]].into_iter(), at(0)).len(), all.len());
            all
        };
        assert!(found(&messages).is_empty());
        // On hold as soon as it comes in it never becomes active; one of before the log began does, and that is all.
        let (held, active) = (messages.find(1, b"A0").unwrap(), messages.find(1, b"A1").unwrap());
        messages.get_mut(held).unwrap().flags.set(Flags::HAS_ID);
        messages.get_mut(active).unwrap().activations = 1;
        assert_eq!(found(&messages), [b"A1", b"A0"]);
    }

    #[test]
    fn a_retired_entry_lives_until_the_next_line() {
        let mut messages = Messages::new();
        let one = messages.begin(1, b"4XYZ", at(0), at(0)).unwrap();
        messages.set_submitter(one, b"anna");
        messages.retire(one);
        assert_eq!(messages.submitter(one), Some(&b"anna"[..]));
        messages.free_retired();
        assert_eq!((messages.submitter(one), messages.len(), messages.find(1, b"4XYZ")), (None, 0, None));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut messages = Messages::with_capacity(3);
        for n in 0..5u8 {
            messages.begin(1, &[b'A', n], at(i64::from(n)), at(i64::from(n)));
        }
        assert_eq!((messages.len(), messages.evicted, messages.find(1, &[b'A', 1])), (3, 2, None));
        messages.begin(1, b"late", at(9 * 86_400), at(9 * 86_400));
        assert_eq!((messages.len(), messages.evicted), (2, 2), "two that were too old");
    }

    #[test]
    fn what_is_no_queue_id_is_not_followed() {
        let mut messages = Messages::new();
        assert_eq!((messages.begin(1, b"", at(0), at(0)), messages.begin(1, &[b'A'; 24], at(0), at(0))), (None, None));
        assert_eq!(messages.find(1, &[b'A'; 2000]), None);
    }

    proptest! {
        /// Against a plain list of (scope, id, name), oldest first.
        #[test]
        fn like_a_list(steps in prop::collection::vec((0u8..5, 0u64..3, 0u8..12, 0u8..4), 1..300)) {
            let mut messages = Messages::with_capacity(10);
            let mut model: Vec<(u64, [u8; 2], Option<u8>)> = Vec::new();
            for (step, scope, id, name) in steps {
                let id = [b'Q', id];
                let found = messages.find(scope, &id);
                let place = model.iter().position(|entry| (entry.0, entry.1) == (scope, id));
                prop_assert_eq!(found.is_some(), place.is_some());
                match (step, found, place) {
                    (0 | 1, _, _) => {
                        messages.begin(scope, &id, at(0), at(0));
                        if let Some(place) = place { model.remove(place); }
                        if model.len() == 10 { model.remove(0); }
                        model.push((scope, id, None));
                    }
                    (2 | 3, Some(found), Some(place)) => {
                        messages.set_submitter(found, &[b'n', name]);
                        model[place].2 = Some(name);
                    }
                    (4, Some(found), Some(place)) => {
                        messages.retire(found);
                        messages.free_retired();
                        model.remove(place);
                    }
                    _ => {}
                }
                prop_assert_eq!(messages.len(), model.len());
                let mut held: Vec<u8> = model.iter().filter_map(|entry| entry.2).collect();
                held.sort_unstable();
                held.dedup();
                prop_assert_eq!(messages.names.len(), held.len());
            }
            for (scope, id, name) in model {
                let found = messages.find(scope, &id).unwrap();
                let expected = name.map(|name| vec![b'n', name]);
                prop_assert_eq!(messages.submitter(found), expected.as_deref());
            }
        }
    }
}
