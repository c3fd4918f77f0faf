//! The latest offending lines, so that a decision can show what it was made from.
//!
//! Lines for each key would cost more than the keys (150 bytes a key is the budget, a line has that many). One ring for all
//! keeps the last few thousand offences; a decision takes the lines of its address or account from it. In a flood from
//! 100,000 addresses the older ones are gone: then the line that tripped and the sentence with count, span and accounts
//! remain.

use std::collections::VecDeque;

use super::key::spread;
use crate::limits;

#[derive(Debug)]
pub struct Evidence {
    /// By age; their texts follow one another in `bytes`, which is written round and round.
    lines: VecDeque<Line>,
    bytes: Vec<u8>,
    write: usize,
    /// Number of the first of `lines`, counted from the beginning of time.
    first: u64,
    by_host: Vec<u64>,
    by_account: Vec<u64>,
}

#[derive(Debug)]
struct Line {
    host: u128,
    account: u128,
    /// One more than the number of the line before it in the same chain; 0: none.
    host_before: u64,
    account_before: u64,
    start: usize,
    len: usize,
}

/// Chains of lines whose subjects hash alike.
const CHAINS: usize = 4_096;
/// Lines kept, however short they are.
const LINES_MAX: usize = 8_192;
/// Lines of a chain looked at: other subjects' lines stand in it too.
const STEPS_MAX: usize = 64;

impl Evidence {
    pub fn new() -> Evidence {
        Evidence { lines: VecDeque::new(), bytes: Vec::new(), write: 0, first: 0, by_host: Vec::new(), by_account: Vec::new() }
    }

    pub fn add(&mut self, host: Option<u128>, account: Option<u128>, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        if self.by_host.is_empty() {
            self.by_host = vec![0; CHAINS];
            self.by_account = vec![0; CHAINS];
        }
        let text = line.get(..limits::EVIDENCE_LINE_BYTES_MAX).unwrap_or(line);
        let start = self.place(text);
        let (host, account) = (host.unwrap_or(0), account.unwrap_or(0));
        let number = self.first + self.lines.len() as u64 + 1;
        let host_before = swap(&mut self.by_host, host, number);
        let account_before = swap(&mut self.by_account, account, number);
        self.lines.push_back(Line { host, account, host_before, account_before, start, len: text.len() });
    }

    /// Copies a text over the oldest ones; returns where it begins.
    fn place(&mut self, text: &[u8]) -> usize {
        if self.write + text.len() > limits::EVIDENCE_RING_BYTES {
            // What lies between here and the end is older than what lies at the beginning.
            while self.lines.front().is_some_and(|oldest| oldest.start >= self.write) {
                self.drop_oldest();
            }
            self.write = 0;
        }
        let (start, end) = (self.write, self.write + text.len());
        while self.lines.len() >= LINES_MAX
            || self.lines.front().is_some_and(|oldest| oldest.start < end && oldest.start + oldest.len > start)
        {
            self.drop_oldest();
        }
        // Grown piece by piece: a quiet host never pays for the whole ring.
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(text);
        }
        self.write = end;
        start
    }

    fn drop_oldest(&mut self) {
        if self.lines.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// The last lines about an address, oldest first.
    pub fn of_host(&self, host: u128) -> Vec<String> {
        self.collect(&self.by_host, host, |line| (line.host, line.host_before))
    }

    /// The last lines that name an account, oldest first.
    pub fn of_account(&self, account: u128) -> Vec<String> {
        self.collect(&self.by_account, account, |line| (line.account, line.account_before))
    }

    fn collect(&self, heads: &[u64], subject: u128, chain: impl Fn(&Line) -> (u128, u64)) -> Vec<String> {
        let mut found = Vec::new();
        let mut next = heads.get(slot(subject)).copied().unwrap_or(0);
        for _ in 0..STEPS_MAX {
            let line =
                next.checked_sub(1).and_then(|number| number.checked_sub(self.first)).and_then(|index| self.lines.get(index as usize));
            let Some(line) = line else { break };
            let (owner, before) = chain(line);
            if owner == subject {
                let text = self.bytes.get(line.start..line.start + line.len).unwrap_or_default();
                found.push(text_of(text));
                if found.len() >= limits::EVIDENCE_LINES_MAX {
                    break;
                }
            }
            next = before;
        }
        found.reverse();
        found
    }
}

/// Nearly all lines are text already, which is seen faster than `from_utf8_lossy` mends them.
pub(super) fn text_of(line: &[u8]) -> String {
    std::str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line).into_owned(), str::to_owned)
}

fn slot(subject: u128) -> usize {
    spread(subject, 0) as usize % CHAINS
}

fn swap(heads: &mut [u64], subject: u128, number: u64) -> u64 {
    heads.get_mut(slot(subject)).map_or(0, |head| std::mem::replace(head, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_each_subject_are_found() {
        let mut evidence = Evidence::new();
        for n in 0..40u128 {
            evidence.add(Some(n % 4), Some(n % 2), format!("line {n}").as_bytes());
        }
        let lines = evidence.of_host(3);
        assert_eq!((lines.len(), lines.last().unwrap().as_str(), lines[0].as_str()), (10, "line 39", "line 3"));
        assert_eq!(evidence.of_account(1).first().unwrap(), "line 21");
        assert!(evidence.of_host(9).is_empty());
    }

    #[test]
    fn texts_are_never_mixed_up() {
        let mut evidence = Evidence::new();
        for n in 0..100_000usize {
            let text = vec![(n % 251) as u8 & 0x7f; 1 + n * 7 % 390];
            evidence.add(Some(n as u128 % 997), None, &text);
            let lines = evidence.of_host(n as u128 % 997);
            assert_eq!(lines.last().unwrap().as_bytes(), text);
            assert!(lines.iter().all(|line| line.bytes().all(|byte| byte == line.as_bytes()[0])));
        }
    }

    #[test]
    fn the_ring_is_bounded() {
        let mut evidence = Evidence::new();
        for n in 0..50_000u128 {
            evidence.add(Some(n), None, &[b'x'; 9_000]);
        }
        assert!(evidence.bytes.len() <= limits::EVIDENCE_RING_BYTES && evidence.lines.len() > 1_000);
        assert!(evidence.of_host(1).is_empty());
        assert_eq!(evidence.of_host(49_999)[0].len(), limits::EVIDENCE_LINE_BYTES_MAX);
    }
}
