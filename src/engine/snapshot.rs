//! Saving the windows without stopping: what changed since the last time, as it stood at one moment, in slices.
//!
//! A change costs one push; a row that is about to change while it waits to be written is written first, so that the
//! finished snapshot is the state at its beginning.

/// One row to store. An empty value: delete the row. Rows are applied in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    pub table: u64,
    pub key: u128,
    pub value: Vec<u8>,
}

/// What a row carries for the journal: in which generation it changed last, and whether the store has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u8);

impl Mark {
    const GENERATION: u8 = 0b011;
    const SAVED: u8 = 0b100;
    /// Of a row that came from the store.
    pub const RESTORED: Mark = Mark(Mark::SAVED);

    pub(super) const fn touch(self) -> u32 {
        self.0 as u32
    }
    const fn generation(self) -> u8 {
        self.0 & Mark::GENERATION
    }
    const fn is_saved(self) -> bool {
        self.0 & Mark::SAVED != 0
    }
    const fn changed_in(self, generation: u8) -> Mark {
        Mark(self.0 & Mark::SAVED | generation)
    }
}

/// Keys in pieces: growing never copies what is there.
#[derive(Debug, Default)]
struct Keys {
    pieces: Vec<Vec<u128>>,
}

impl Keys {
    const PIECE: usize = 4_096;

    fn push(&mut self, key: u128) {
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < Self::PIECE => piece.push(key),
            _ => self.pieces.push(vec![key]),
        }
    }

    fn pop(&mut self) -> Option<u128> {
        let key = self.pieces.last_mut()?.pop();
        if self.pieces.last().is_some_and(Vec::is_empty) {
            self.pieces.pop();
        }
        key
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// The changes of one table. `generation` is 1 or 2, so that a row's mark tells the running set from the frozen one.
#[derive(Debug)]
pub(super) struct Journal {
    generation: u8,
    dirty: Keys,
    gone: Keys,
    frozen: Option<Frozen>,
}

#[derive(Debug, Default)]
struct Frozen {
    gone: Keys,
    dirty: Keys,
    /// Rows that changed before their turn came, as they stood.
    early: Vec<(u128, Vec<u8>)>,
}

impl Journal {
    pub fn new() -> Self {
        Journal { generation: 1, dirty: Keys::default(), gone: Keys::default(), frozen: None }
    }

    const fn frozen_generation(&self) -> u8 {
        3 - self.generation
    }

    /// Call before a row changes or goes.
    #[inline]
    pub fn before_change(&mut self, key: u128, mark: Mark, encode: impl FnOnce() -> Vec<u8>) -> Mark {
        if mark.generation() != self.frozen_generation() {
            return mark;
        }
        match &mut self.frozen {
            Some(frozen) => {
                frozen.early.push((key, encode()));
                Mark(Mark::SAVED)
            }
            None => mark,
        }
    }

    /// Call after a row came or changed; gives its new mark.
    #[inline]
    pub fn changed(&mut self, key: u128, mark: Mark) -> Mark {
        if mark.generation() != self.generation {
            self.dirty.push(key);
        }
        mark.changed_in(self.generation)
    }

    /// Call after a row went, with the mark that `before_change` gave.
    pub fn removed(&mut self, key: u128, mark: Mark) {
        if mark.is_saved() {
            self.gone.push(key);
        }
    }

    pub fn freeze(&mut self) {
        self.frozen = Some(Frozen { gone: std::mem::take(&mut self.gone), dirty: std::mem::take(&mut self.dirty), early: Vec::new() });
        self.generation = self.frozen_generation();
    }

    /// The next thing to write, `None` at the end. Deleted rows come first: a row may have come again since.
    pub fn next(&mut self) -> Option<Next> {
        let frozen = self.frozen.as_mut()?;
        if let Some(key) = frozen.gone.pop() {
            return Some(Next::Gone(key));
        }
        if let Some((key, value)) = frozen.early.pop() {
            return Some(Next::Early(key, value));
        }
        if let Some(key) = frozen.dirty.pop() {
            return Some(Next::Dirty(key));
        }
        debug_assert!(frozen.gone.is_empty());
        self.frozen = None;
        None
    }

    /// For a key that came as [`Next::Dirty`]: whether the row that is there now still waits, and its mark once written.
    pub fn written(&self, mark: Mark) -> Option<Mark> {
        (mark.generation() == self.frozen_generation()).then_some(Mark(Mark::SAVED))
    }
}

#[derive(Debug)]
pub(super) enum Next {
    Gone(u128),
    Early(u128, Vec<u8>),
    Dirty(u128),
}

/// Reads what an `encode` wrote; every read may fail, none panics.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// A length in two bytes, and so many bytes.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u16()?);
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
    pub fn text(&mut self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
