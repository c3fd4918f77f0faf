//! Where a reader stands in a file, said so that the file is found again under another name, and a file that took its
//! place is told from it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::siblings::FileId;

/// The first bytes of a file: log lines start with a time, so two files differ within them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<u8>);

pub(super) const FINGERPRINT_BYTES_MAX: usize = 256;

impl Fingerprint {
    /// Of what stands in `file` now.
    pub fn read(file: &File) -> std::io::Result<Self> {
        let mut bytes = [0; FINGERPRINT_BYTES_MAX];
        let count = read_full(file, &mut bytes)?;
        Ok(Fingerprint(bytes[..count].to_vec()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds what stands behind it in the file.
    pub fn extend(&mut self, bytes: &[u8]) {
        let room = FINGERPRINT_BYTES_MAX.saturating_sub(self.0.len());
        self.0.extend(bytes.iter().take(room));
    }

    /// Whether `file` still starts with it.
    pub fn matches(&self, file: &File) -> std::io::Result<bool> {
        let mut bytes = [0; FINGERPRINT_BYTES_MAX];
        let count = read_full(file, &mut bytes[..self.0.len()])?;
        Ok(bytes[..count] == self.0[..])
    }

    /// FNV-1a, 64 bits: nobody gains by a collision.
    fn hash(&self) -> u64 {
        self.0.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

fn read_full(file: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, count as u64)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

/// One file of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub id: FileId,
    /// Of the first byte that was not handed out.
    pub offset: u64,
    pub fingerprint_len: usize,
    pub fingerprint_hash: u64,
    pub modified_nanos: i64,
}

impl Position {
    pub fn new(id: FileId, offset: u64, fingerprint: &Fingerprint, modified_nanos: i64) -> Self {
        Position { id, offset, fingerprint_len: fingerprint.len(), fingerprint_hash: fingerprint.hash(), modified_nanos }
    }

    /// Whether it is a position in this file, which was empty then.
    pub fn is_empty_of(&self, id: FileId) -> bool {
        self.fingerprint_len == 0 && self.id == id
    }

    /// Whether `file` starts as the one that this is a position in. A position in an empty file says nothing.
    pub fn fits(&self, file: &File) -> bool {
        let Ok(Fingerprint(mut found)) = Fingerprint::read(file) else { return false };
        let is_long_enough = self.fingerprint_len > 0 && found.len() >= self.fingerprint_len;
        found.truncate(self.fingerprint_len);
        is_long_enough && Fingerprint(found).hash() == self.fingerprint_hash
    }
}

/// `file:1 DEVICE:INODE:OFFSET:LENGTH:HASH:MODIFIED …`, oldest file first.
pub(super) fn format(positions: impl Iterator<Item = Position>) -> String {
    let mut text = MARK.to_owned();
    for Position { id, offset, fingerprint_len, fingerprint_hash, modified_nanos } in positions {
        let FileId { device, inode } = id;
        text.push_str(&format!(" {device}:{inode}:{offset}:{fingerprint_len}:{fingerprint_hash:016x}:{modified_nanos}"));
    }
    text
}

/// `None` where it is no cursor of a file.
pub(super) fn parse(text: &str) -> Option<Vec<Position>> {
    let mut words = text.split(' ');
    if words.next()? != MARK {
        return None;
    }
    words.map(parse_one).collect()
}

const MARK: &str = "file:1";

fn parse_one(word: &str) -> Option<Position> {
    let mut parts = word.split(':');
    let position = Position {
        id: FileId { device: parts.next()?.parse().ok()?, inode: parts.next()?.parse().ok()? },
        offset: parts.next()?.parse().ok()?,
        fingerprint_len: parts.next()?.parse().ok().filter(|len| *len <= FINGERPRINT_BYTES_MAX)?,
        fingerprint_hash: u64::from_str_radix(parts.next()?, 16).ok()?,
        modified_nanos: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_round_trip() {
        let position = Position {
            id: FileId { device: 65025, inode: u64::MAX },
            offset: 1 << 40,
            fingerprint_len: 256,
            fingerprint_hash: 7,
            modified_nanos: -5,
        };
        let text = format([position, position].into_iter());
        assert_eq!(parse(&text), Some(vec![position, position]));
        for junk in ["", "file:2", "file:1 ", "file:1 1:2:3", "file:1 1:2:3:257:0:0", "file:1 1:2:3:4:5:6:7", "s=abc;i=1"] {
            assert_eq!(parse(junk), None, "{junk}");
        }
    }
}
