//! Lines of chunks joined to events, on the log's own clock: told at once, or kept for another thread.
//!
//! **Invariant:** whoever is told later is told the same, in the same order.

use std::net::IpAddr;

use super::{Chunk, LogClock};
use crate::correlate::Correlator;
use crate::event::{DeliveryStatus, Event, EventKind, Reason, Service};
use crate::parse::FilterSet;
use crate::time::Timestamp;

/// What takes the events of a log.
pub trait Consumer {
    /// The log begins.
    fn begin(&mut self, now: Timestamp);
    /// The next line was written then; its events follow.
    fn line(&mut self, now: Timestamp);
    fn event(&mut self, event: &Event<'_>, now: Timestamp);
}

/// Joins the lines of chunks that come in order.
pub struct Joiner<'f> {
    filters: &'f FilterSet,
    correlator: Correlator,
    /// Set when the first line tells the time.
    clock: Option<LogClock>,
}

impl<'f> Joiner<'f> {
    pub fn new(filters: &'f FilterSet, correlator: Correlator) -> Self {
        Joiner { filters, correlator, clock: None }
    }

    pub fn join(&mut self, chunk: &mut Chunk, consumer: &mut impl Consumer) {
        if self.clock.is_none() {
            self.clock = LogClock::starting_with(chunk.stamps());
            if let Some(clock) = &self.clock {
                consumer.begin(clock.now());
            }
        }
        let Some(clock) = &mut self.clock else { return };
        for (line, record) in chunk.records_mut() {
            let parsed = &mut record.parsed;
            parsed.unfold(clock.now());
            parsed.time = clock.advance(parsed.time);
            let now = clock.now();
            consumer.line(now);
            let filter = self.filters.filter_name(parsed.pattern);
            self.correlator.handle(line, parsed, filter, true, now, &mut |event| consumer.event(event, now));
        }
    }

    /// Stamps that were too far off to be believed.
    pub fn clamped(&self) -> u64 {
        self.clock.as_ref().map_or(0, |clock| clock.clamped)
    }
}

/// A chunk with the events of its lines.
#[derive(Default)]
pub struct Joined {
    chunk: Chunk,
    begin: Option<Timestamp>,
    /// For each record when it was, and how many events it told.
    lines: Vec<(Timestamp, u32)>,
    events: Vec<Kept>,
    texts: Vec<u8>,
}

/// An event without its line and filter.
struct Kept {
    kind: EventKind,
    service: Service,
    reason: Reason,
    status: Option<DeliveryStatus>,
    weak: bool,
    restates: bool,
    code: u16,
    count: u32,
    recipients: u32,
    ip: Option<IpAddr>,
    time: Timestamp,
    bytes: u64,
    account: Text,
    submitter: Text,
    queue_id: Text,
    sender: Text,
    recipient: Text,
    dsn: Text,
    relay: Text,
}

/// Where a text of an event is in [`Joined::texts`]; `None`: the event has none.
type Text = Option<(u32, u32)>;

impl Joined {
    /// Joins the lines of `chunk` and keeps it; leaves the former one there to be used again.
    pub fn fill(&mut self, joiner: &mut Joiner<'_>, chunk: &mut Chunk) {
        self.begin = None;
        self.lines.clear();
        self.events.clear();
        self.texts.clear();
        joiner.join(chunk, self);
        std::mem::swap(&mut self.chunk, chunk);
    }

    /// The chunk as it was.
    pub fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// Tells `consumer` what the joiner told.
    pub fn tell(&self, filters: &FilterSet, consumer: &mut impl Consumer) {
        if let Some(now) = self.begin {
            consumer.begin(now);
        }
        let mut events = self.events.iter();
        for (record, (now, count)) in self.chunk.records.iter().zip(&self.lines) {
            consumer.line(*now);
            let (line, filter) = (self.chunk.line(record), filters.filter_name(record.parsed.pattern));
            for kept in events.by_ref().take(*count as usize) {
                consumer.event(&kept.event(&self.texts, line, filter), *now);
            }
        }
    }
}

impl Consumer for Joined {
    fn begin(&mut self, now: Timestamp) {
        self.begin = Some(now);
    }

    fn line(&mut self, now: Timestamp) {
        self.lines.push((now, 0));
    }

    fn event(&mut self, event: &Event<'_>, _now: Timestamp) {
        if let Some((_, count)) = self.lines.last_mut() {
            *count += 1;
            self.events.push(Kept::of(event, &mut self.texts));
        }
    }
}

impl Kept {
    fn of(event: &Event<'_>, texts: &mut Vec<u8>) -> Kept {
        let mut keep = |text: Option<&[u8]>| {
            let start = texts.len() as u32;
            text.map(|text| {
                texts.extend_from_slice(text);
                (start, text.len() as u32)
            })
        };
        Kept {
            account: keep(event.account),
            submitter: keep(event.submitter),
            queue_id: keep(event.queue_id),
            sender: keep(event.sender),
            recipient: keep(event.recipient),
            dsn: keep(event.dsn),
            relay: keep(event.relay),
            kind: event.kind,
            service: event.service,
            reason: event.reason,
            status: event.status,
            weak: event.weak,
            restates: event.restates,
            code: event.code,
            count: event.count,
            recipients: event.recipients,
            ip: event.ip,
            time: event.time,
            bytes: event.bytes,
        }
    }

    fn event<'a>(&self, texts: &'a [u8], line: &'a [u8], filter: &'a str) -> Event<'a> {
        let text = |place: Text| place.and_then(|(start, len)| texts.get(start as usize..)?.get(..len as usize));
        Event {
            service: self.service,
            reason: self.reason,
            filter,
            count: self.count,
            weak: self.weak,
            restates: self.restates,
            ip: self.ip,
            account: text(self.account),
            submitter: text(self.submitter),
            queue_id: text(self.queue_id),
            sender: text(self.sender),
            recipient: text(self.recipient),
            recipients: self.recipients,
            bytes: self.bytes,
            code: self.code,
            status: self.status,
            dsn: text(self.dsn),
            relay: text(self.relay),
            line,
            ..Event::new(self.kind, self.time)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccountRules;
    use crate::parse::{FilterSource, ParserOptions};
    use crate::pipeline::{Options, run};
    use std::ops::ControlFlow;
    use std::sync::Arc;

    /// What a consumer is told, in words.
    #[derive(Default)]
    struct Record(Vec<String>);

    impl Consumer for Record {
        fn begin(&mut self, now: Timestamp) {
            self.0.push(format!("begin {now}"));
        }
        fn line(&mut self, now: Timestamp) {
            self.0.push(format!("line {now}"));
        }
        fn event(&mut self, event: &Event<'_>, now: Timestamp) {
            self.0.push(format!("{now} {event:?}"));
        }
    }

    fn filters() -> Arc<FilterSet> {
        let text = include_str!("../../filters/postfix-smtpd.toml").to_owned();
        Arc::new(FilterSet::compile(&[FilterSource { file: "postfix-smtpd.toml".to_owned(), text }]).unwrap())
    }

    /// More than one chunk: logins that fail, with long names and none, between noise.
    fn log() -> Vec<u8> {
        let mut log = Vec::new();
        for n in 0..4_000 {
            let (minute, second, ip) = (n / 60 % 60, n % 60, format!("198.51.100.{}", n % 200));
            let head = format!("2026-11-24T0{}:{minute:02}:{second:02}.5+00:00 mx postfix/smtpd[{}]:", n / 3_600, n % 7);
            log.extend_from_slice(format!("{head} connect from unknown[{ip}]\n").as_bytes());
            let name = if n % 3 == 0 { String::new() } else { format!(", sasl_username=User{n}@Shop.example") };
            let failed = "SASL LOGIN authentication failed: UGFzc3dvcmQ6";
            log.extend_from_slice(format!("{head} warning: unknown[{ip}]: {failed}{name}\n").as_bytes());
        }
        log
    }

    #[test]
    fn whoever_is_told_later_is_told_the_same() {
        let (filters, log) = (filters(), log());
        let joiner = || Joiner::new(&filters, Correlator::new(AccountRules::default(), Vec::new()));
        let options = Options { threads: 1, prompt: false, parser: ParserOptions::new(Timestamp::from_seconds(1_796_000_000)) };
        let (mut at_once, mut later) = (Record::default(), Record::default());
        let (mut one, mut other, mut joined, mut chunks) = (joiner(), joiner(), Joined::default(), 0);
        run(&log[..], &filters, &options, |chunk| {
            one.join(chunk, &mut at_once);
            ControlFlow::Continue(())
        })
        .unwrap();
        run(&log[..], &filters, &options, |chunk| {
            chunks += 1;
            joined.fill(&mut other, chunk);
            joined.tell(&filters, &mut later);
            ControlFlow::Continue(())
        })
        .unwrap();
        let events = at_once.0.iter().filter(|told| told.contains("AuthFailure")).count();
        assert!(chunks > 2 && events == 4_000, "{chunks} chunks, {events} events");
        assert!(at_once.0 == later.0);
    }
}
