//! Which events a jail counts at all, whoever they are about.
//!
//! Most of what a jail can ask of an event has few answers: its service, its reason, who sends, where from. An event has one bit for
//! its answer to each question, a jail the bits that it lets through, and one word compared with another tells most of them apart.

use super::account::Kind;
use super::counting::is_failure;
use super::jail::{Condition, Jail, SubmitterKind, Test, Unless};
use super::key::{Subnet, bits_of};
use super::rule::Group;
use crate::event::{Event, EventKind, Familiarity, Reason, Service};

/// Answers of an event, or those that a jail lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traits(u64);

/// A question: the places of its answers.
#[derive(Clone, Copy)]
struct Question {
    first: usize,
    answers: usize,
}

impl Question {
    const fn after(self, answers: usize) -> Question {
        Question { first: self.first + self.answers, answers }
    }

    const fn answer(self, number: usize) -> u64 {
        1 << (self.first + number)
    }

    /// Everything but the other answers to this question.
    fn only(self, numbers: impl Iterator<Item = usize>) -> u64 {
        let all = ((1 << self.answers) - 1) << self.first;
        numbers.fold(u64::MAX ^ all, |bits, number| bits | self.answer(number))
    }
}

const SERVICE: Question = Question { first: 0, answers: Service::ALL.len() };
const REASON: Question = SERVICE.after(Reason::ALL.len());
const PLACE: Question = REASON.after(Familiarity::ALL.len());
/// The last answer: nobody is named.
const SUBMITTER: Question = PLACE.after(SubmitterKind::ALL.len() + 1);
const HAS_ACCOUNT: Question = SUBMITTER.after(2);
const NULL_SENDER: Question = HAS_ACCOUNT.after(2);
const BESIEGED: Question = NULL_SENDER.after(2);
const NEW_RECIPIENT_DOMAIN: Question = BESIEGED.after(2);
const WEAK: Question = NEW_RECIPIENT_DOMAIN.after(2);
const _: () = assert!(WEAK.first + WEAK.answers <= 64, "all answers fit into one word");

const NOBODY: usize = SubmitterKind::ALL.len();

impl Traits {
    fn of(event: &Event<'_>) -> Traits {
        let submitter = event.submitter.or(event.account).map_or(NOBODY, |name| kind(Kind::of(name)) as usize);
        let bits = SERVICE.answer(event.service as usize)
            | REASON.answer(event.reason as usize)
            | PLACE.answer(event.whence.familiarity as usize)
            | SUBMITTER.answer(submitter)
            | HAS_ACCOUNT.answer(usize::from(event.account.is_some()))
            | NULL_SENDER.answer(usize::from(event.sender.is_some_and(<[u8]>::is_empty)))
            | BESIEGED.answer(usize::from(event.besieged))
            | NEW_RECIPIENT_DOMAIN.answer(usize::from(event.new_recipient_domain))
            | WEAK.answer(usize::from(event.weak));
        Traits(bits)
    }

    /// The answers that a condition lets through; `None`: it asks something else.
    fn passing(condition: &Condition) -> Option<Traits> {
        let (question, wanted): (Question, Vec<usize>) = match &condition.test {
            Test::Service(services) => (SERVICE, services.iter().map(|service| *service as usize).collect()),
            Test::Reason(reasons) => (REASON, reasons.iter().map(|reason| *reason as usize).collect()),
            Test::Place(places) => (PLACE, places.iter().map(|place| *place as usize).collect()),
            Test::Submitter(kinds) => (SUBMITTER, kinds.iter().map(|kind| *kind as usize).collect()),
            Test::HasAccount(wanted) => (HAS_ACCOUNT, vec![usize::from(*wanted)]),
            Test::NullSender(wanted) => (NULL_SENDER, vec![usize::from(*wanted)]),
            Test::Besieged(wanted) => (BESIEGED, vec![usize::from(*wanted)]),
            Test::NewRecipientDomain(wanted) => (NEW_RECIPIENT_DOMAIN, vec![usize::from(*wanted)]),
            Test::Ip(_) | Test::Account(_) | Test::Code(_) => return None,
        };
        let passes = |answer: &usize| wanted.contains(answer) != condition.negated;
        Some(Traits(question.only((0..question.answers).filter(passes))))
    }
}

const fn kind(kind: Kind) -> SubmitterKind {
    match kind {
        Kind::Account => SubmitterKind::Account,
        Kind::Local(_) => SubmitterKind::Local,
        Kind::Client => SubmitterKind::Client,
        Kind::Forward => SubmitterKind::Forward,
    }
}

/// What a jail asks of an event, compiled.
#[derive(Debug)]
pub(super) struct Matcher {
    on: Vec<EventKind>,
    filters: Vec<String>,
    passing: Traits,
    /// Reasons that are nobody's offence: as failures they count only where a jail names them.
    forgiven: Traits,
    /// What needs more than a look at the traits.
    conditions: Vec<Compiled>,
    pub unless: Unless,
}

#[derive(Debug)]
struct Compiled {
    negated: bool,
    test: CompiledTest,
}

#[derive(Debug)]
enum CompiledTest {
    Nets(Vec<Subnet>),
    /// Full names, or `@domain`.
    Account(Vec<String>),
    Code(Vec<u16>),
}

impl Matcher {
    pub fn new(jail: &Jail) -> Matcher {
        let names = |reason: Reason| {
            let in_where =
                |condition: &Condition| !condition.negated && matches!(&condition.test, Test::Reason(reasons) if reasons.contains(&reason));
            jail.conditions.iter().any(in_where) || jail.weight.iter().any(|(weighted, _)| *weighted == reason)
        };
        let forgiven = [Reason::Temporary, Reason::Greylist].into_iter().filter(|reason| !names(*reason));
        let forgiven = Traits(forgiven.fold(0, |bits, reason| bits | REASON.answer(reason as usize)));
        let strong = if jail.weak { u64::MAX } else { WEAK.only(std::iter::once(0)) };
        let told = jail.conditions.iter().filter_map(Traits::passing).fold(strong, |bits, passing| bits & passing.0);
        Matcher {
            on: jail.on.clone(),
            filters: jail.filters.clone(),
            passing: Traits(told),
            forgiven,
            conditions: jail.conditions.iter().filter_map(Compiled::new).collect(),
            unless: jail.unless,
        }
    }

    /// What a [`Candidate`] leaves to be asked.
    fn holds(&self, event: &Event<'_>) -> bool {
        (self.filters.is_empty() || self.filters.iter().any(|filter| filter == event.filter))
            && self.conditions.iter().all(|condition| condition.holds(event))
    }
}

impl Compiled {
    /// `None`: the traits tell.
    fn new(condition: &Condition) -> Option<Compiled> {
        let test = match &condition.test {
            Test::Ip(nets) => CompiledTest::Nets(nets.iter().map(|net| Subnet::new(*net)).collect()),
            Test::Account(names) => CompiledTest::Account(names.clone()),
            Test::Code(codes) => CompiledTest::Code(codes.clone()),
            _ => return None,
        };
        Some(Compiled { negated: condition.negated, test })
    }

    fn holds(&self, event: &Event<'_>) -> bool {
        self.negated != self.test.holds(event)
    }
}

impl CompiledTest {
    /// A test of something that the event does not have does not hold.
    fn holds(&self, event: &Event<'_>) -> bool {
        match self {
            CompiledTest::Nets(nets) => event.ip.is_some_and(|ip| {
                let single = Subnet { bits: bits_of(ip), prefix: 128 };
                nets.iter().any(|net| net.contains(single))
            }),
            CompiledTest::Account(names) => {
                event.account.or(event.submitter).is_some_and(|account| names.iter().any(|name| is_named(name, account)))
            }
            CompiledTest::Code(codes) => {
                codes.iter().any(|code| event.code == *code || *code < 10 && event.code != 0 && event.code / 100 == *code)
            }
        }
    }
}

fn is_named(name: &str, account: &[u8]) -> bool {
    let name = name.as_bytes();
    name == account || name.starts_with(b"@") && account.ends_with(name)
}

/// A group as the events of one kind see it.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    passing: Traits,
    group: u16,
    /// There is nothing more to ask.
    plain: bool,
}

/// For each kind of event the groups that count some of them, side by side.
#[derive(Debug)]
pub(super) struct Candidates {
    by_kind: Vec<Vec<Candidate>>,
    /// The groups that a success forgives.
    forgiving: Vec<u16>,
}

impl Candidates {
    pub fn new(groups: &[Group]) -> Candidates {
        let counting = |kind: &EventKind| {
            let of_kind = groups.iter().enumerate().filter(|(_, group)| group.matcher.on.contains(kind));
            of_kind.map(|(index, group)| Candidate::new(index, &group.matcher, *kind)).collect()
        };
        let forgiving = groups.iter().enumerate().filter(|(_, group)| group.forgive).map(|(index, _)| index as u16);
        Candidates { by_kind: EventKind::ALL.iter().map(counting).collect(), forgiving: forgiving.collect() }
    }

    pub fn forgiving(&self) -> &[u16] {
        &self.forgiving
    }

    /// The groups that count such an event at all, whoever it is about. Whoever asks has the groups.
    #[inline]
    pub fn matching<'m>(&'m self, event: &'m Event<'m>, groups: &'m [Group]) -> impl Iterator<Item = u16> + 'm {
        let traits = Traits::of(event);
        let is_counted = move |candidate: &&Candidate| {
            traits.0 & !candidate.passing.0 == 0
                && (candidate.plain || groups.get(usize::from(candidate.group)).is_some_and(|group| group.matcher.holds(event)))
        };
        self.of(event.kind).iter().filter(is_counted).map(|candidate| candidate.group)
    }

    /// The groups that count events of that kind.
    pub fn of_kind(&self, kind: EventKind) -> impl Iterator<Item = u16> + '_ {
        self.of(kind).iter().map(|candidate| candidate.group)
    }

    fn of(&self, kind: EventKind) -> &[Candidate] {
        self.by_kind.get(kind as usize).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Candidate {
    fn new(index: usize, matcher: &Matcher, kind: EventKind) -> Candidate {
        let forgiven = if is_failure(kind) { matcher.forgiven.0 } else { 0 };
        Candidate {
            passing: Traits(matcher.passing.0 & !forgiven),
            group: index as u16,
            plain: matcher.filters.is_empty() && matcher.conditions.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn passes(condition: &Condition, event: &Event<'_>) -> bool {
        match Traits::passing(condition) {
            Some(passing) => Traits::of(event).0 & !passing.0 == 0,
            None => Compiled::new(condition).is_some_and(|compiled| compiled.holds(event)),
        }
    }

    #[test]
    fn conditions_hold_for_what_they_name() {
        let account = Event {
            service: Service::Imap,
            reason: Reason::OtherReason,
            account: Some(b"anna@shop.example"),
            ip: Some("192.0.2.7".parse().unwrap()),
            code: 554,
            besieged: true,
            ..Event::new(EventKind::AuthSuccess, Timestamp::ZERO)
        };
        let site = Event { submitter: Some(b"local:33"), ..Event::new(EventKind::Message, Timestamp::ZERO) };
        let nobody = Event { sender: Some(b""), ..Event::new(EventKind::Reject, Timestamp::ZERO) };
        // (test, whether it holds for the account, the site, nobody)
        let cases = [
            (Test::Service(vec![Service::Pop3, Service::Imap]), [true, false, false]),
            (Test::Service(vec![Service::Other]), [false, true, true]),
            (Test::Reason(vec![Reason::OtherReason]), [true, false, false]),
            (Test::Place(vec![Familiarity::Unknown]), [true, true, true]),
            (Test::Place(vec![Familiarity::NewCountry, Familiarity::Known]), [false, false, false]),
            (Test::Submitter(vec![SubmitterKind::Account]), [true, false, false]),
            (Test::Submitter(vec![SubmitterKind::Local, SubmitterKind::Forward]), [false, true, false]),
            (Test::HasAccount(true), [true, false, false]),
            (Test::HasAccount(false), [false, true, true]),
            (Test::NullSender(true), [false, false, true]),
            (Test::Besieged(true), [true, false, false]),
            (Test::NewRecipientDomain(false), [true, true, true]),
            (Test::Ip(vec!["192.0.2.0/24".parse().unwrap()]), [true, false, false]),
            (Test::Account(vec!["@shop.example".to_owned()]), [true, false, false]),
            (Test::Account(vec!["local:33".to_owned()]), [false, true, false]),
            (Test::Code(vec![5]), [true, false, false]),
            (Test::Code(vec![550]), [false, false, false]),
        ];
        for (test, expected) in cases {
            for negated in [false, true] {
                let condition = Condition { negated, test: test.clone() };
                let held = [&account, &site, &nobody].map(|event| passes(&condition, event) != negated);
                assert_eq!(held, expected, "{condition:?}");
            }
        }
    }

    #[test]
    fn weak_signs_and_what_is_nobodys_offence_are_for_jails_that_say_so() {
        let counts = |jail: Jail, event: &Event<'_>| {
            let passing = Candidate::new(0, &Matcher::new(&jail), event.kind).passing;
            Traits::of(event).0 & !passing.0 == 0
        };
        let reject = Event { reason: Reason::Greylist, ..Event::new(EventKind::Reject, Timestamp::ZERO) };
        let named = vec![Condition { negated: false, test: Test::Reason(vec![Reason::Greylist]) }];
        assert!(!counts(Jail::default(), &reject));
        assert!(counts(Jail { conditions: named, ..Jail::default() }, &reject));
        assert!(counts(Jail::default(), &Event { kind: EventKind::Delivery, ..reject }), "of a delivery it is only news");
        let sign = Event { weak: true, ..Event::new(EventKind::Reject, Timestamp::ZERO) };
        assert!(!counts(Jail::default(), &sign));
        assert!(counts(Jail { weak: true, ..Jail::default() }, &sign));
    }
}
