//! Names of submitters, each stored once however many messages carry it.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// A name in a [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NameId(u32);

#[derive(Default)]
pub(super) struct Names {
    index: HashTable<u32>,
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    hasher: DefaultHashBuilder,
}

struct Entry {
    text: Box<[u8]>,
    holders: u32,
    hash: u64,
}

impl Names {
    /// The id of `text`, held once more: whoever calls this calls [`Names::release`] later.
    pub fn hold(&mut self, text: &[u8]) -> NameId {
        let hash = self.hasher.hash_one(text);
        let entries = &mut self.entries;
        if let Some(&found) = self.index.find(hash, |&at| *entries[at as usize].text == *text) {
            entries[found as usize].holders = entries[found as usize].holders.saturating_add(1);
            return NameId(found);
        }
        let entry = Entry { text: text.into(), holders: 1, hash };
        let at = match self.vacant.pop() {
            Some(at) => {
                entries[at as usize] = entry;
                at
            }
            None => {
                entries.push(entry);
                (entries.len() - 1) as u32
            }
        };
        self.index.insert_unique(hash, at, |&at| entries[at as usize].hash);
        NameId(at)
    }

    /// Holds a known name once more.
    pub fn hold_again(&mut self, id: NameId) -> NameId {
        let entry = &mut self.entries[id.0 as usize];
        entry.holders = entry.holders.saturating_add(1);
        id
    }

    /// Gives a name back; the last holder's call frees it.
    pub fn release(&mut self, id: NameId) {
        let entry = &mut self.entries[id.0 as usize];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        entry.text = Box::default();
        if let Ok(found) = self.index.find_entry(entry.hash, |&at| at == id.0) {
            found.remove();
        }
        self.vacant.push(id.0);
    }

    /// A name that somebody holds, and how many do.
    pub fn find(&self, text: &[u8]) -> Option<(NameId, usize)> {
        let found = *self.index.find(self.hasher.hash_one(text), |&at| *self.entries[at as usize].text == *text)?;
        Some((NameId(found), self.entries[found as usize].holders as usize))
    }

    pub fn text(&self, id: NameId) -> &[u8] {
        &self.entries[id.0 as usize].text
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_a_name_freed_with_its_last_holder() {
        let mut names = Names::default();
        let anna = names.hold(b"anna");
        let bob = names.hold(b"bob");
        assert_eq!(names.hold(b"anna"), anna);
        assert_eq!((names.text(anna), names.text(bob), names.len()), (&b"anna"[..], &b"bob"[..], 2));
        names.release(anna);
        assert_eq!(names.text(anna), b"anna");
        names.release(anna);
        assert_eq!(names.len(), 1);
        let carol = names.hold(b"carol");
        assert_eq!((names.text(carol), names.entries.len()), (&b"carol"[..], 2));
        names.hold_again(bob);
        names.release(bob);
        assert_eq!(names.text(bob), b"bob");
    }
}
