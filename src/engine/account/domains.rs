//! Where a submitter writes to: the domains outside that it has sent mail to.
//!
//! **Invariant:** bounded. A domain is known from the day after the first message to it on, so a flood does not make its own
//! targets familiar; and what was written to on one day only goes before what was written to again. To whoever writes to more
//! new ones in a day than can be remembered, a newsletter, none is new.

use crate::engine::snapshot::Reader;

/// Of each submitter so many are remembered.
const DOMAINS: usize = 80;
/// Room is made for so many at once: a submitter takes no more memory than it must.
const STEP: usize = 16;
/// A domain that nothing was sent to for so many days is a new one.
const FORGOTTEN_DAYS: u16 = 120;
/// Whoever wrote to more new ones in a day is expected to do so again for so many days: some do once a month.
const CROWDED_DAYS: u16 = 35;

/// The lowest bit of [`Written::name`]: written to on an earlier day than the last.
const AGAIN: u16 = 1;

/// In four bytes, as every submitter has many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    /// 15 bits of the name's hash: two names that share them are taken for one, which makes one in 400 known too early.
    name: u16,
    /// Days since 1970.
    last: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    written: Vec<Written>,
    /// The last two days on which there was no room for those of that day alone; 0: none.
    crowded: [u16; 2],
}

impl Domains {
    /// No mail went to it before `today`, as far as can be told.
    pub fn is_new(&self, name: u128, today: u16) -> bool {
        let is_known = |known: &Written| known.is(name) && (known.last < today || known.is_again()) && !known.is_forgotten(today);
        !self.is_crowded(today) && !self.written.iter().any(is_known)
    }

    fn is_crowded(&self, today: u16) -> bool {
        self.crowded.iter().any(|day| *day > 0 && *day < today && today - day <= CROWDED_DAYS)
    }

    pub fn note(&mut self, name: u128, today: u16) {
        let new = Written { name: short(name), last: today };
        if let Some(known) = self.written.iter_mut().find(|known| known.is(name)) {
            if known.is_forgotten(today) {
                *known = new;
            } else if known.last < today {
                *known = Written { name: new.name | AGAIN, last: today };
            }
            return;
        }
        if self.written.len() < DOMAINS {
            if self.written.len() == self.written.capacity() {
                self.written.reserve_exact(STEP);
            }
            self.written.push(new);
            return;
        }
        let Some(least) = self.written.iter_mut().min_by_key(|known| (known.is_again(), known.last)) else { return };
        if !least.is_again() && least.last == today && self.crowded[1] < today {
            self.crowded = [self.crowded[1], today];
        }
        *least = new;
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.crowded.iter().for_each(|day| out.extend_from_slice(&day.to_le_bytes()));
        out.push(self.written.len() as u8);
        for Written { name, last } in &self.written {
            out.extend_from_slice(&name.to_le_bytes());
            out.extend_from_slice(&last.to_le_bytes());
        }
    }

    /// `None`: there is nothing, as in what was written before domains were remembered.
    pub fn decode(reader: &mut Reader<'_>) -> Option<Domains> {
        let crowded = [reader.u16()?, reader.u16()?];
        let count = usize::from(reader.u8()?).min(DOMAINS);
        let one = |_| Some(Written { name: reader.u16()?, last: reader.u16()? });
        Some(Domains { crowded, written: (0..count).map(one).collect::<Option<_>>()? })
    }

    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        self.written.capacity() * size_of::<Written>()
    }
}

impl Written {
    const fn is(self, name: u128) -> bool {
        self.name | AGAIN == short(name) | AGAIN
    }

    const fn is_again(self) -> bool {
        self.name & AGAIN != 0
    }

    const fn is_forgotten(self, today: u16) -> bool {
        today.saturating_sub(self.last) > FORGOTTEN_DAYS
    }
}

/// A part of it: the whole hash is as good as random.
const fn short(name: u128) -> u16 {
    name as u16 & !AGAIN
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of names, all different in the bits that count.
    fn name(number: u16) -> u128 {
        u128::from(number) << 1
    }

    #[test]
    fn a_domain_is_known_from_the_next_day_on() {
        let mut domains = Domains::default();
        for (today, new) in [(100, true), (100, true), (101, false), (221, false), (342, true), (342, true), (343, false)] {
            assert_eq!(domains.is_new(name(7), today), new, "day {today}");
            domains.note(name(7), today);
        }
    }

    #[test]
    fn a_flood_does_not_push_out_whom_one_writes_to() {
        let mut domains = Domains::default();
        for day in [10, 11] {
            (0..20).for_each(|number| domains.note(name(number), day));
        }
        (1_000..9_000).for_each(|number| domains.note(name(number), 12));
        assert!((0..20).all(|number| !domains.is_new(name(number), 12)));
        assert!(domains.is_new(name(9_000), 12));
        assert_eq!(domains.written.len(), DOMAINS);
    }

    #[test]
    fn to_a_newsletter_no_domain_is_new() {
        let mut domains = Domains::default();
        (0..500).for_each(|number| domains.note(name(number), 12));
        for (today, new) in [(12, true), (13, false), (47, false), (48, true)] {
            assert_eq!(domains.is_new(name(9_000), today), new, "day {today}");
        }
        // Nor on the day on which it writes again.
        (500..1_000).for_each(|number| domains.note(name(number), 19));
        assert!(!domains.is_new(name(9_000), 19));
    }

    #[test]
    fn a_shop_has_new_customers_every_day() {
        let mut domains = Domains::default();
        (0..1_000).for_each(|order| domains.note(name(order), 10 + order / 30));
        assert!(domains.is_new(name(9_000), 45));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut domains = Domains::default();
        (0..100).for_each(|number| domains.note(name(number), 12));
        domains.note(name(99), 13);
        let mut bytes = Vec::new();
        domains.encode(&mut bytes);
        assert_eq!(Domains::decode(&mut Reader(&bytes)), Some(domains));
        (0..bytes.len()).for_each(|cut| assert_eq!(Domains::decode(&mut Reader(&bytes[..cut])), None));
    }
}
