//! Jails, compiled: which events they count, under which key, and what their limits are for whom.

use std::collections::HashMap;
use std::sync::Arc;

use super::jail::{Action, Distinct, Jail, KeyPart, Measure, Novelty, Override, Unless};
use super::key::{Facets, Seed, domain_key, name_key};
use super::matching::Matcher;
use super::measure::count::Small;
use super::measure::{Group as Same, SHARERS_MAX, Span, Terms, Windows, ratio};
use crate::event::{Event, EventKind, Reason};

/// Steps of one jail; `config` refuses more.
const STEPS_MAX: usize = 16;

/// Jails that count the same events under the same key, and their windows.
#[derive(Debug)]
pub struct Group {
    /// Names the table in snapshots.
    pub id: u64,
    pub identity: String,
    pub matcher: Matcher,
    pub parts: Vec<KeyPart>,
    pub measure: Measure,
    pub forgive: bool,
    weight: Vec<(Reason, u32)>,
    /// Only what strangers do counts: some jail bans everybody who added to it.
    pub strangers_only: bool,
    /// Its jails are about shared addresses, and about no others.
    pub shared_only: bool,
    /// Failures are held against the address: shared addresses are judged by account instead.
    pub by_address: bool,
    /// The key names whose limits may differ.
    pub by_name: bool,
    /// Some jail bans whoever trips it.
    pub bans: bool,
    pub rules: Vec<Rule>,
    pub windows: Windows,
    /// Events counted.
    pub counted: u64,
    /// The longest sliding window, in microseconds; `None`: some window is fixed.
    longest: Option<i64>,
    /// Of [`Group::terms`].
    need: u64,
    sharers: u8,
    min: u64,
    operators: u32,
    max: u64,
    least: u64,
}

/// One jail of a group.
#[derive(Debug)]
pub struct Rule {
    pub jail: Arc<Jail>,
    pub slot: u8,
    pub span: Span,
    limits: Vec<u64>,
    /// Bit n: step n bans whoever trips it, and so clears the window.
    pub bans: u16,
    /// Bit n: step n bans everybody who added to it, and so clears the window.
    pub bans_contributors: u16,
    overrides: HashMap<Vec<u8>, Limits>,
    pub tripped: u64,
    pub banned: u64,
}

/// What an override makes of the limits.
#[derive(Clone, Debug)]
enum Limits {
    Exempt,
    These(Vec<u64>),
}

impl Group {
    /// All jails in groups, in the order of the first jail of each.
    pub fn compile(jails: Vec<Jail>, seed: Seed, cap: usize, persist: bool) -> Vec<Group> {
        let mut groups: Vec<(String, Vec<Jail>)> = Vec::new();
        for jail in jails {
            let mut identity = jail.identity();
            // A ninth jail of the same identity begins a table of its own.
            while groups.iter().any(|(other, members)| *other == identity && members.len() >= SHARERS_MAX) {
                identity.push('+');
            }
            match groups.iter_mut().find(|(other, _)| *other == identity) {
                Some((_, members)) => members.push(jail),
                None => groups.push((identity, vec![jail])),
            }
        }
        groups.into_iter().filter_map(|(identity, members)| Group::new(identity, members, seed, cap, persist)).collect()
    }

    fn new(identity: String, jails: Vec<Jail>, seed: Seed, cap: usize, persist: bool) -> Option<Group> {
        let first = jails.first()?;
        let id = table_id(&identity);
        let matcher = Matcher::new(first);
        let (parts, measure, forgive, weight) = (first.key.clone(), first.measure, first.forgive, first.weight.clone());
        // A window of the whole host holds too much to be searched at every login, and what it holds is not one client's.
        let forgive = forgive && parts.iter().any(|part| matches!(part, KeyPart::Ip | KeyPart::Network | KeyPart::Account));
        let rules: Vec<Rule> = jails.into_iter().enumerate().map(|(slot, jail)| Rule::new(jail, slot as u8)).collect();
        let strangers_only = rules.iter().any(|rule| rule.bans_contributors != 0);
        let shared_only = rules.iter().any(|rule| rule.jail.shared);
        let by_address = matches!(parts.as_slice(), [KeyPart::Ip | KeyPart::Network]);
        let by_name = parts.iter().any(|part| matches!(part, KeyPart::Account | KeyPart::Submitter | KeyPart::Domain));
        let bans = rules.iter().any(|rule| rule.bans != 0);
        let longest = rules.iter().map(|rule| rule.span.sliding()).max_by_key(|span| span.unwrap_or(i64::MAX)).flatten();
        let units = small_units(&rules, forgive);
        let windows = Windows::new(measure, units, seed.0[1], cap, persist);
        // What is forgiven may uncover what lies behind the highest limit.
        let need = if forgive { u64::MAX } else { rules.iter().map(Rule::highest_limit).max().unwrap_or(0) };
        let sharers = rules.iter().fold(0, |bits, rule| bits | 1 << rule.slot);
        let min = rules.iter().map(|rule| rule.jail.min).max().unwrap_or(0);
        let operators = rules.iter().map(|rule| rule.jail.operators).max().unwrap_or(0);
        let max = rules.iter().map(|rule| rule.jail.max).max().unwrap_or(100);
        let least = rules.iter().map(Rule::lowest_limit).min().unwrap_or(0) / 2;
        let counted = 0;
        Some(Group {
            id,
            identity,
            matcher,
            parts,
            measure,
            forgive,
            weight,
            strangers_only,
            shared_only,
            by_address,
            by_name,
            bans,
            rules,
            windows,
            counted,
            longest,
            need,
            sharers,
            min,
            operators,
            max,
            least,
        })
    }

    pub fn unless(&self) -> Unless {
        self.matcher.unless
    }

    pub fn amount(&self, event: &Event<'_>) -> u64 {
        let weight = if self.weight.is_empty() {
            1
        } else {
            self.weight.iter().find(|(reason, _)| *reason == event.reason).map_or(1, |(_, weight)| *weight)
        };
        match self.measure {
            Measure::Count => u64::from(event.count).saturating_mul(u64::from(weight)),
            Measure::Distinct(_) => 1,
            Measure::SumRecipients => u64::from(event.recipients),
            Measure::SumBytes => event.bytes,
            Measure::BurstRecipients => u64::from(event.recipients),
            Measure::BurstMessages => u64::from(event.kind == EventKind::Message),
            Measure::RatioBounced | Measure::RatioSpam => {
                u64::from(event.kind == EventKind::Delivery && (event.recipients > 0 || is_refused(event)))
            }
            Measure::New(novelty) => u64::from(match novelty {
                Novelty::Country => event.whence.is_first_country,
                Novelty::Network => event.whence.is_first_network,
                Novelty::Hour => event.whence.is_first_hour,
            }),
            Measure::Speed => u64::from(event.whence.kilometres_per_hour),
        }
    }

    /// What a `distinct` tells apart; `None` where the event lacks it.
    pub fn value(&self, facets: &mut Facets<'_>, seed: Seed) -> Option<u128> {
        let of = match self.measure {
            Measure::Distinct(of) => of,
            Measure::RatioBounced | Measure::RatioSpam => {
                let event = facets.event;
                let is_bad = is_refused(event) && (self.measure == Measure::RatioBounced || event.reason != Reason::UnknownRecipient);
                return Some(ratio::value(event.recipients > 0, is_bad, facets.operator().unwrap_or(0)));
            }
            _ => return Some(0),
        };
        match of {
            // By address: the network is worked out when it is counted, so that contributors are remembered.
            Distinct::Ip | Distinct::Network => facets.host.map(|host| host.key()),
            Distinct::Account => facets.account(),
            Distinct::Recipient => facets.event.recipient.map(|name| name_key(seed, &name.to_ascii_lowercase())),
            Distinct::RecipientDomain => facets.event.recipient.and_then(|recipient| domain_key(seed, recipient)),
            Distinct::Country => facets.event.country.map(u128::from),
            Distinct::Asn => facets.event.asn.map(u128::from),
            Distinct::Operator => facets.operator().map(u128::from),
        }
    }

    /// What a success of (ip, account) takes out of a distinct window, so that only that pair's own failures go.
    pub fn forgiven_value(&self, facets: &mut Facets<'_>) -> Option<u128> {
        match self.measure {
            Measure::Distinct(Distinct::Account) if self.parts.contains(&KeyPart::Ip) => facets.account(),
            Measure::Distinct(Distinct::Ip | Distinct::Network) if self.parts.contains(&KeyPart::Account) => {
                facets.host.map(|host| host.key())
            }
            _ => None,
        }
    }

    /// The latest moment that counts for none of its jails any more.
    pub fn horizon(&self, now: i64) -> i64 {
        match self.longest {
            Some(longest) => now.saturating_sub(longest),
            None => self.rules.iter().map(|rule| rule.span.cutoff(now)).min().unwrap_or(now),
        }
    }

    pub fn terms(&self, now: i64) -> Terms {
        let horizon = self.horizon(now);
        let (need, sharers) = (self.need, self.sharers);
        let group = if let Measure::Distinct(of) = self.measure { of.group() } else { Same::Name };
        let (min, operators, max, least) = (self.min, self.operators, self.max, self.least);
        Terms { now, horizon, need, sharers, group, min, operators, max, least }
    }
}

impl Rule {
    fn new(mut jail: Jail, slot: u8) -> Rule {
        jail.steps.truncate(STEPS_MAX);
        let limits: Vec<u64> = jail.steps.iter().map(|step| step.limit.max(1)).collect();
        let steps_with = |action| {
            jail.steps.iter().enumerate().filter(|(_, step)| step.then.contains(&action)).fold(0, |bits, (index, _)| bits | 1 << index)
        };
        let (bans, bans_contributors) = (steps_with(Action::Ban), steps_with(Action::BanContributors));
        let overrides =
            jail.overrides.keys().filter_map(|name| Some((name.clone().into_bytes(), resolve(name, &jail.overrides, &limits)?))).collect();
        Rule { span: Span::of(&jail), jail: Arc::new(jail), slot, limits, bans, bans_contributors, overrides, tripped: 0, banned: 0 }
    }

    /// The limits that hold for `name`; `None`: it is exempt.
    pub fn limits(&self, name: Option<&[u8]>) -> Option<&[u64]> {
        let found = if self.overrides.is_empty() { None } else { name.and_then(|name| self.find_override(name)) };
        match found {
            None => Some(&self.limits),
            Some(Limits::These(limits)) => Some(limits),
            Some(Limits::Exempt) => None,
        }
    }

    fn find_override(&self, name: &[u8]) -> Option<&Limits> {
        let domain = memchr::memrchr(b'@', name).and_then(|at| name.get(at..));
        self.overrides.get(name).or_else(|| self.overrides.get(domain?))
    }

    /// Limits in times of what is usual, as sums; at least the minimum, and as much more for each further step.
    pub fn scaled(&self, limits: &[u64], usual: u64) -> Vec<u64> {
        let floor = self.jail.min.max(1);
        let mut sums: Vec<u64> = Vec::with_capacity(limits.len());
        for limit in limits {
            // A step further needs that much more, also where the minimum decides.
            let first = limits.first().copied().unwrap_or(1).max(1);
            let least = floor.saturating_mul(*limit) / first;
            sums.push(usual.saturating_mul(*limit).max(least));
        }
        sums
    }

    fn highest_limit(&self) -> u64 {
        if self.jail.measure.is_relative() {
            return u64::MAX;
        }
        self.all_limits().filter_map(<[u64]>::last).copied().max().unwrap_or(0)
    }

    fn lowest_limit(&self) -> u64 {
        self.all_limits().filter_map(<[u64]>::first).copied().min().unwrap_or(0)
    }

    /// Its own, and those of its overrides.
    fn all_limits(&self) -> impl Iterator<Item = &[u64]> {
        let overridden =
            self.overrides.values().filter_map(|limits| if let Limits::These(limits) = limits { Some(&**limits) } else { None });
        std::iter::once(&*self.limits).chain(overridden)
    }
}

/// How many stamps a key must hold at most; `None`: too many to hold them inline.
fn small_units(rules: &[Rule], forgive: bool) -> Option<usize> {
    let [rule] = rules else { return None };
    let highest = usize::try_from(rule.highest_limit()).ok()?;
    let last = rule.jail.steps.len().checked_sub(1)?;
    let clears_at_top = (rule.bans | rule.bans_contributors) >> last & 1 == 1;
    let units = if clears_at_top { highest.checked_sub(1)? } else { highest };
    (clears_at_top || !forgive).then_some(units.max(1)).filter(|units| *units <= Small::UNITS)
}

/// The limits of one override; classes (names without `@`) are looked up by the accounts and domains that name them.
fn resolve(name: &str, overrides: &HashMap<String, Override>, limits: &[u64]) -> Option<Limits> {
    let own = overrides.get(name)?;
    let class = own.class.as_ref().and_then(|class| overrides.get(class));
    if own.exempt || class.is_some_and(|class| class.exempt) {
        return Some(Limits::Exempt);
    }
    let limit = own.limit.or(class.and_then(|class| class.limit));
    let factor = own.factor.or(class.and_then(|class| class.factor)).unwrap_or(1.0);
    let first = limits.first().copied().unwrap_or(1).max(1);
    let scale = limit.map_or(factor, |limit| limit as f64 / first as f64);
    let mut scaled: Vec<u64> = limits.iter().map(|old| ((*old as f64 * scale).round() as u64).max(1)).collect();
    if let (Some(place), Some(limit)) = (scaled.first_mut(), limit) {
        *place = limit.max(1);
    }
    Some(Limits::These(scaled))
}

pub fn table_id(identity: &str) -> u64 {
    name_key(Seed([0, 0]), identity.as_bytes()) as u64
}

/// The recipient will never get it, and it is the sender who should have known.
pub fn is_refused(event: &Event<'_>) -> bool {
    event.kind == EventKind::Delivery && matches!(event.reason, Reason::UnknownRecipient | Reason::Content | Reason::Rbl)
}
