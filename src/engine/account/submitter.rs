//! The table of submitters: who sends, with history and risk.

use super::domains::Domains;
use super::history::{History, day};
use super::risk::Risk;
use crate::engine::key::{Host, Seed, name_key};
use crate::engine::snapshot::{Mark, Reader};
use crate::engine::table::{Aging, Fate, Rank, Table, Value};
use crate::limits;

/// A submitter that nobody has heard of for so long is forgotten.
const FORGOTTEN_SECONDS: u32 = 120 * 86_400;
/// Points from which somebody is never forgotten for one without any.
const HOT_POINTS: u32 = 10;
/// Stranger addresses of an account that are remembered, to be banned with a lock.
const STRANGERS_MAX: usize = 24;

/// Who can be done what to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Logged in.
    Account,
    /// Handed in by a local user: a web site.
    Local(u32),
    /// A client that needs no login.
    Client,
    /// Sent on for somebody outside.
    Forward,
}

impl Kind {
    pub fn of(name: &[u8]) -> Kind {
        if let Some(uid) = name.strip_prefix(b"local:") {
            return std::str::from_utf8(uid).ok().and_then(|uid| uid.parse().ok()).map_or(Kind::Account, Kind::Local);
        }
        if name.starts_with(b"client:") {
            Kind::Client
        } else if name.starts_with(b"forward:") {
            Kind::Forward
        } else {
            Kind::Account
        }
    }
}

/// One submitter. Boxed: a row of the table is small, and most of them are quiet.
#[derive(Clone, Debug, Default)]
pub struct Submitter {
    record: Option<Box<Record>>,
    mark: Mark,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub name: Box<[u8]>,
    pub history: History,
    pub risk: Risk,
    /// Addresses that it was used from and that are strange to it; the one longest ago goes first.
    pub strangers: Vec<Stranger>,
    /// Many addresses failed to log in as it lately; seconds since 1970.
    pub besieged: u32,
    /// Where it was last seen: degrees, and when.
    pub last_location: Option<(f32, f32, u32)>,
    /// Domains that it writes to.
    pub domains: Domains,
}

/// An address that used an account from a place strange to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    pub host: Host,
    /// Seconds since 1970.
    pub last: u32,
    /// It has sent mail with it.
    pub has_sent: bool,
}

impl Record {
    /// It never wrote to that domain before today, and there is enough history to say so.
    pub fn is_new_domain(&self, domain: u128, now: u32) -> bool {
        self.history.is_settled(now) && self.domains.is_new(domain, day(now))
    }

    pub fn stranger(&mut self, host: Host, now: u32, has_sent: bool) {
        if let Some(known) = self.strangers.iter_mut().find(|known| known.host == host) {
            known.last = now;
            known.has_sent |= has_sent;
            return;
        }
        if self.strangers.len() >= STRANGERS_MAX {
            let oldest = self.strangers.iter().enumerate().min_by_key(|(_, known)| known.last).map(|(index, _)| index);
            oldest.map(|index| self.strangers.swap_remove(index));
        }
        self.strangers.push(Stranger { host, last: now, has_sent });
    }
}

impl Value for Submitter {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn end(&self, _aging: &Aging) -> i64 {
        let last = self.record.as_ref().map(|record| record.history.last.max(record.besieged));
        last.map_or(i64::MIN, |last| (i64::from(last) + i64::from(FORGOTTEN_SECONDS)) * 1_000_000)
    }

    fn rank(&self, _aging: &Aging) -> Rank {
        let Some(record) = &self.record else { return Rank { hot: false, last: i64::MIN } };
        let recent: u32 = record.risk.signals.iter().map(|signal| signal.points).sum();
        let is_hot = recent >= HOT_POINTS || record.history.last.saturating_sub(record.history.first) >= 7 * 86_400;
        Rank { hot: is_hot, last: i64::from(record.history.last) }
    }

    fn encode(&self, _now: i64) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(record) = &self.record else { return out };
        let name = record.name.get(..limits::ACCOUNT_BYTES_MAX + 3).unwrap_or(&record.name);
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        record.history.encode(&mut out);
        record.risk.encode(&mut out);
        out.push(record.strangers.len() as u8);
        for Stranger { host, last, has_sent } in &record.strangers {
            out.extend_from_slice(&host.key().to_le_bytes());
            out.extend_from_slice(&last.to_le_bytes());
            out.push(u8::from(*has_sent));
        }
        out.extend_from_slice(&record.besieged.to_le_bytes());
        out.push(u8::from(record.last_location.is_some()));
        if let Some((latitude, longitude, at)) = record.last_location {
            out.extend_from_slice(&latitude.to_le_bytes());
            out.extend_from_slice(&longitude.to_le_bytes());
            out.extend_from_slice(&at.to_le_bytes());
        }
        record.domains.encode(&mut out);
        out
    }
}

fn decode(bytes: &[u8]) -> Option<Submitter> {
    let mut reader = Reader(bytes);
    let mut record = Record { name: reader.bytes()?.into(), ..Record::default() };
    record.history = History::decode(&mut reader)?;
    record.risk = Risk::decode(&mut reader)?;
    for _ in 0..reader.u8()? {
        let host = Host::from_key(u128::from_le_bytes(reader.array()?));
        record.strangers.push(Stranger { host, last: reader.u32()?, has_sent: reader.u8()? == 1 });
    }
    record.strangers.truncate(STRANGERS_MAX);
    record.besieged = reader.u32()?;
    if reader.u8()? == 1 {
        record.last_location = Some((f32::from_le_bytes(reader.array()?), f32::from_le_bytes(reader.array()?), reader.u32()?));
    }
    record.domains = Domains::decode(&mut reader).unwrap_or_default();
    Some(Submitter { record: Some(Box::new(record)), mark: Mark::default() })
}

/// All submitters that a login or a message vouched for. Names seen only in failures never come in here.
#[derive(Debug)]
pub struct Submitters {
    table: Table<Submitter>,
    seed: Seed,
}

fn aging(now: i64) -> Aging {
    Aging { now, cutoff: now, half: u64::MAX }
}

impl Submitters {
    pub fn new(seed: Seed, persist: bool) -> Submitters {
        Submitters { table: Table::new(seed.0[1], limits::SUBMITTERS_MAX, persist), seed }
    }

    pub fn key(&self, name: &[u8]) -> u128 {
        name_key(self.seed, name)
    }

    pub fn get(&self, key: u128) -> Option<&Record> {
        self.table.get(key)?.record.as_deref()
    }

    /// Works on a submitter, a new one if need be.
    pub fn update<R>(&mut self, key: u128, name: &[u8], now: i64, work: impl FnOnce(&mut Record) -> R) -> R {
        self.table.update(key, &aging(now), false, |submitter| {
            let record = submitter.record.get_or_insert_with(|| Box::new(Record { name: name.into(), ..Record::default() }));
            (Fate::Keep, work(record))
        })
    }

    /// Works on a submitter that there is.
    pub fn modify<R>(&mut self, key: u128, now: i64, work: impl FnOnce(&mut Record) -> R) -> Option<R> {
        self.table.modify(key, &aging(now), |submitter| (Fate::Keep, submitter.record.as_deref_mut().map(work)))?
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn evictions(&self) -> u64 {
        self.table.evictions
    }

    pub fn sweep(&mut self, buckets: usize, now: i64) {
        self.table.sweep(buckets, &aging(now));
    }

    pub fn table_mut(&mut self) -> &mut Table<Submitter> {
        &mut self.table
    }

    pub fn restore(&mut self, key: u128, bytes: &[u8], now: i64) -> bool {
        decode(bytes).map(|submitter| self.table.restore(key, submitter, &aging(now))).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let cases = [
            ("anna@example.org", Kind::Account),
            ("local:1001", Kind::Local(1001)),
            ("local:x", Kind::Account),
            ("client:10.0.0.1", Kind::Client),
            ("forward:5000", Kind::Forward),
        ];
        for (name, kind) in cases {
            assert_eq!(Kind::of(name.as_bytes()), kind, "{name}");
        }
    }

    /// Two kilobytes are what a submitter may take. One that was used for a year from five countries and a dozen networks, and
    /// has four signs against it.
    #[test]
    fn a_submitter_takes_less_than_two_kilobytes() {
        use super::super::risk::{Family, Signal};
        let mut record = Record { name: b"firstname.lastname@customer.example".as_slice().into(), ..Record::default() };
        let start = 20_000 * 86_400;
        for day in 0..365u32 {
            let (ip, country) = ([10, (day % 12) as u8, 0, 1].into(), Some((day % 5) as u16));
            record.history.visit(ip, country, start + day * 86_400, true);
            record.history.sent(1, 3, start + day * 86_400);
            (0..3).for_each(|domain| record.domains.note(u128::from(day * 3 + domain), day as u16));
        }
        for number in 0..4u8 {
            record.stranger(Host::new([192, 0, 2, number].into()), start, true);
            let text = "12 recipients in 1h from a country new to the account (DE)".to_owned();
            let jail = "outbound-from-new-country".to_owned();
            record.risk.add(Signal { time: 1, jail, family: Family::Login, points: 15, text }, std::time::Duration::from_secs(3_600));
        }
        let own = size_of::<Submitter>() + size_of::<[u32; 4]>() + size_of::<Record>() + record.name.len();
        let strangers = record.strangers.capacity() * size_of::<Stranger>();
        let total = own + strangers + record.history.heap_bytes() + record.domains.heap_bytes() + record.risk.heap_bytes();
        assert!(total <= 2_048, "{total} bytes");
    }

    #[test]
    fn a_record_survives_being_written() {
        let mut record = Record { name: b"anna@example.org".as_slice().into(), besieged: 7, ..Record::default() };
        record.last_location = Some((52.5, 13.4, 99));
        for last in 0..40u8 {
            record.stranger(Host::new([192, 0, 2, last].into()), u32::from(last), last % 2 == 0);
        }
        assert_eq!(record.strangers.len(), STRANGERS_MAX);
        record.domains.note(1, 20_000);
        let submitter = Submitter { record: Some(Box::new(record)), mark: Mark::default() };
        let bytes = submitter.encode(0);
        assert_eq!(decode(&bytes).and_then(|back| back.record), submitter.record);
        for cut in 0..bytes.len() {
            let _ = decode(&bytes[..cut]);
        }
    }
}
