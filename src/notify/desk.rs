//! When which messages go: the first of a kind at once, what follows within the span together in one; tried again, ever more
//! rarely, while nobody takes them. Pure; time is an argument.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::{Outbox, Telling, Way};
use crate::engine::decision::Verb;
use crate::limits::{TELLINGS_KNOWN_MAX, TELLINGS_WAITING_MAX};
use crate::time::Timestamp;

const FIRST_RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(900);

pub(super) struct Desk {
    waiting: VecDeque<Telling>,
    /// When something of a kind was last told.
    last: HashMap<Kind, Timestamp>,
    known: Known,
    failures: u32,
    retry: Option<Timestamp>,
}

/// What is gathered in one message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    way: Way,
    verb: Verb,
    /// An owner reads of his own account alone.
    account: Option<String>,
}

impl Kind {
    fn of(telling: &Telling) -> Kind {
        let account = telling.notice.account().filter(|_| telling.way == Way::Owner);
        Kind { way: telling.way, verb: telling.notice.verb, account: account.map(str::to_owned) }
    }
}

/// Ids that need not be taken again; the oldest are forgotten.
#[derive(Default)]
struct Known {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Known {
    /// False: it is known already.
    fn add(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > TELLINGS_KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

impl Desk {
    pub fn new(outbox: &Outbox) -> Desk {
        let mut known = Known::default();
        for id in &outbox.told {
            known.add(id);
        }
        let last = outbox.last.iter().map(|(way, verb, at)| (Kind { way: *way, verb: *verb, account: None }, *at)).collect();
        Desk { waiting: VecDeque::new(), last, known, failures: 0, retry: None }
    }

    /// Takes messages in; gives those back for which there is no room: the oldest.
    pub fn add(&mut self, tellings: Vec<Telling>) -> Vec<Telling> {
        for telling in tellings {
            if self.known.add(&telling.id) {
                self.waiting.push_back(telling);
            }
        }
        let over = self.waiting.len().saturating_sub(TELLINGS_WAITING_MAX);
        self.waiting.drain(..over).collect()
    }

    /// What goes now, all of one kind.
    pub fn next(&self, now: Timestamp, span: impl Fn(Way) -> Duration) -> Vec<Telling> {
        if self.retry.is_some_and(|retry| retry > now) {
            return Vec::new();
        }
        let due = self.waiting.iter().find(|telling| self.due(telling, now, &span) <= now);
        let Some(first) = due else { return Vec::new() };
        if span(first.way).is_zero() {
            return vec![first.clone()];
        }
        let kind = Kind::of(first);
        self.waiting.iter().filter(|telling| Kind::of(telling) == kind).cloned().collect()
    }

    /// When to ask [`Desk::next`] again; `None`: nothing waits.
    pub fn wake(&self, now: Timestamp, span: impl Fn(Way) -> Duration) -> Option<Timestamp> {
        let due = self.waiting.iter().map(|telling| self.due(telling, now, &span)).min()?;
        Some(self.retry.map_or(due, |retry| retry.max(due)))
    }

    fn due(&self, telling: &Telling, now: Timestamp, span: &impl Fn(Way) -> Duration) -> Timestamp {
        // A clock that was set back must not keep a message for long.
        self.last.get(&Kind::of(telling)).map_or(now, |last| (*last).min(now) + span(telling.way))
    }

    /// These are over.
    pub fn done(&mut self, told: &[Telling], now: Timestamp) {
        self.forget(told);
        self.last.extend(told.iter().map(|telling| (Kind::of(telling), now)));
        // Kinds of owners are many.
        self.last.retain(|kind, last| kind.account.is_none() || now.since(*last) < Duration::from_secs(86_400));
        (self.failures, self.retry) = (0, None);
    }

    /// Nobody took what [`Desk::next`] gave; how often in a row.
    pub fn failed(&mut self, now: Timestamp) -> u32 {
        self.retry = Some(now + FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX));
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// These will not be tried again; the next ones are not held up by them.
    pub fn give_up(&mut self, over: &[Telling]) {
        self.forget(over);
        self.failures = 0;
    }

    fn forget(&mut self, over: &[Telling]) {
        let ids: HashSet<&str> = over.iter().map(|telling| telling.id.as_str()).collect();
        self.waiting.retain(|telling| !ids.contains(telling.id.as_str()));
    }

    /// How many messages wait, and when what the oldest of them tells happened.
    pub fn waiting(&self) -> (usize, Option<Timestamp>) {
        (self.waiting.len(), self.waiting.iter().map(|telling| Timestamp::from_micros(telling.notice.time)).min())
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::text::tests::notice;

    const SPAN: Duration = Duration::from_secs(900);

    fn telling(id: u64, verb: Verb) -> Telling {
        Telling { id: format!("{id:016x}-{verb}-mail"), way: Way::Mail, notice: notice(id, verb, "anna@example.org") }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_000_000 + seconds)
    }

    fn ids(tellings: &[Telling]) -> Vec<u64> {
        tellings.iter().map(|telling| telling.notice.id).collect()
    }

    #[test]
    fn the_first_goes_at_once_and_what_follows_is_gathered() {
        let mut desk = Desk::new(&Outbox::default());
        let span = |_| SPAN;
        desk.add(vec![telling(1, Verb::Lock)]);
        let first = desk.next(at(0), span);
        assert_eq!(ids(&first), [1]);
        desk.done(&first, at(0));
        desk.add(vec![telling(2, Verb::Lock), telling(3, Verb::Lock), telling(4, Verb::Alert)]);
        assert_eq!(ids(&desk.next(at(10), span)), [4], "another kind does not wait");
        desk.done(&desk.next(at(10), span), at(10));
        assert!(desk.next(at(899), span).is_empty());
        assert_eq!(desk.wake(at(11), span), Some(at(900)));
        let rest = desk.next(at(900), span);
        assert_eq!(ids(&rest), [2, 3]);
        desk.done(&rest, at(900));
        assert!(desk.is_empty());
        assert_eq!(desk.wake(at(901), span), None);
    }

    #[test]
    fn without_a_span_each_goes_by_itself() {
        let mut desk = Desk::new(&Outbox::default());
        desk.add(vec![telling(1, Verb::Lock), telling(2, Verb::Lock)]);
        assert_eq!(ids(&desk.next(at(0), |_| Duration::ZERO)), [1]);
    }

    #[test]
    fn nothing_is_taken_twice_not_even_over_a_restart() {
        let told = Outbox { told: vec![telling(1, Verb::Lock).id], last: vec![(Way::Mail, Verb::Lock, at(0))], ..Outbox::default() };
        let mut desk = Desk::new(&told);
        desk.add(vec![telling(1, Verb::Lock), telling(2, Verb::Lock), telling(2, Verb::Lock)]);
        assert!(desk.next(at(10), |_| SPAN).is_empty(), "within the span of the last one before the restart");
        assert_eq!(ids(&desk.next(at(900), |_| SPAN)), [2]);
    }

    #[test]
    fn what_fails_is_tried_again_ever_more_rarely() {
        let mut desk = Desk::new(&Outbox::default());
        let span = |_| SPAN;
        desk.add(vec![telling(1, Verb::Lock)]);
        let mut now = at(0);
        let mut waits = Vec::new();
        for attempt in 1..=12 {
            assert_eq!(ids(&desk.next(now, span)), [1], "attempt {attempt}");
            assert_eq!(desk.failed(now), attempt);
            let wake = desk.wake(now, span).unwrap();
            waits.push(wake.since(now).as_secs());
            assert!(desk.next(now, span).is_empty());
            now = wake;
        }
        assert_eq!(&waits[..9], [5, 10, 20, 40, 80, 160, 320, 640, 900]);
        desk.done(&desk.next(now, span), now);
        assert!(desk.is_empty() && desk.failed(now) == 1);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut desk = Desk::new(&Outbox::default());
        let over = desk.add((0..TELLINGS_WAITING_MAX as u64 + 3).map(|id| telling(id, Verb::Alert)).collect());
        assert_eq!(ids(&over), [0, 1, 2]);
    }
}
