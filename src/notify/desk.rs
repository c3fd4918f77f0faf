//! When which messages go: the first of a kind at once, what follows within the span together in one; tried again, ever more
//! rarely, while nobody takes them. A server that is down holds up everything, a recipient that is not taken only itself. Pure;
//! time is an argument.

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
    /// Since the server failed.
    retry: Option<Retry>,
    /// Since a recipient was not taken.
    deferred: HashMap<Recipient, Retry>,
}

/// Who is told; `None`: there is but one.
pub(super) type Recipient = Option<String>;

/// The administrator, or the account whose owner it is.
pub(super) fn recipient(telling: &Telling) -> Recipient {
    match telling.way {
        Way::Owner => telling.notice.account().map(str::to_owned),
        Way::Mail | Way::Webhook => telling.to.clone(),
    }
}

/// What is gathered in one message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    way: Way,
    verb: Verb,
    recipient: Recipient,
}

impl Kind {
    fn of(telling: &Telling) -> Kind {
        Kind { way: telling.way, verb: telling.notice.verb, recipient: recipient(telling) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    /// In a row.
    failures: u32,
    at: Timestamp,
}

impl Retry {
    fn after(before: Option<Retry>, now: Timestamp) -> Retry {
        let failures = before.map_or(0, |before| before.failures);
        let wait = FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(RETRY_MAX);
        Retry { failures: failures.saturating_add(1), at: now + wait }
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
        let kind = |way: &Way, verb: &Verb, to: &Recipient| Kind { way: *way, verb: *verb, recipient: to.clone() };
        let last = outbox.last.iter().map(|(way, verb, to, at)| (kind(way, verb, to), *at)).collect();
        Desk { waiting: VecDeque::new(), last, known, retry: None, deferred: HashMap::new() }
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
        if self.retry.is_some_and(|retry| retry.at > now) {
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
        Some(self.retry.map_or(due, |retry| retry.at.max(due)))
    }

    fn due(&self, telling: &Telling, now: Timestamp, span: &impl Fn(Way) -> Duration) -> Timestamp {
        // A clock that was set back must not keep a message for long.
        let kind = Kind::of(telling);
        let due = self.last.get(&kind).map_or(now, |last| (*last).min(now) + span(telling.way));
        self.deferred.get(&kind.recipient).map_or(due, |retry| retry.at.max(due))
    }

    /// These are over.
    pub fn done(&mut self, told: &[Telling], now: Timestamp) {
        self.give_up(told);
        self.last.extend(told.iter().map(|telling| (Kind::of(telling), now)));
        // Owners are many.
        self.last.retain(|kind, last| kind.way != Way::Owner || now.since(*last) < Duration::from_secs(86_400));
    }

    /// The server failed; how often in a row.
    pub fn failed(&mut self, now: Timestamp) -> u32 {
        let retry = Retry::after(self.retry, now);
        self.retry = Some(retry);
        retry.failures
    }

    /// The server works, but does not take these now; how often in a row.
    pub fn defer(&mut self, batch: &[Telling], now: Timestamp) -> u32 {
        self.retry = None;
        let Some(recipient) = batch.first().map(recipient) else { return 0 };
        let retry = Retry::after(self.deferred.get(&recipient).copied(), now);
        self.deferred.insert(recipient, retry);
        retry.failures
    }

    /// These will not be tried again; the next ones are not held up by them.
    pub fn give_up(&mut self, over: &[Telling]) {
        self.forget(over);
        self.retry = None;
        for telling in over {
            self.deferred.remove(&recipient(telling));
        }
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
        to(id, verb, "root@example.org")
    }

    fn to(id: u64, verb: Verb, recipient: &str) -> Telling {
        Telling::new(Way::Mail, Some(recipient.to_owned()), notice(id, verb, "anna@example.org"))
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
        let Telling { id, to, .. } = telling(1, Verb::Lock);
        let told = Outbox { told: vec![id], last: vec![(Way::Mail, Verb::Lock, to, at(0))], ..Outbox::default() };
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
    fn a_recipient_who_is_not_taken_holds_up_only_himself() {
        let mut desk = Desk::new(&Outbox::default());
        let span = |_| SPAN;
        desk.add(vec![
            to(1, Verb::Lock, "full@example.org"),
            to(1, Verb::Lock, "root@example.org"),
            to(2, Verb::Alert, "full@example.org"),
        ]);
        let full = desk.next(at(0), span);
        assert_eq!(full.len(), 1);
        assert_eq!(desk.defer(&full, at(0)), 1);
        let root = desk.next(at(0), span);
        assert_eq!(root[0].to.as_deref(), Some("root@example.org"));
        desk.done(&root, at(0));
        assert!(desk.next(at(4), span).is_empty(), "his others wait as well");
        assert_eq!(desk.wake(at(4), span), Some(at(5)));
        assert_eq!(desk.defer(&desk.next(at(5), span), at(5)), 2);
        assert_eq!(desk.wake(at(5), span), Some(at(15)));
        desk.give_up(&desk.next(at(15), span));
        assert_eq!(ids(&desk.next(at(15), span)), [2], "what is given up does not hold up the next one");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut desk = Desk::new(&Outbox::default());
        let over = desk.add((0..TELLINGS_WAITING_MAX as u64 + 3).map(|id| telling(id, Verb::Alert)).collect());
        assert_eq!(ids(&over), [0, 1, 2]);
    }
}
