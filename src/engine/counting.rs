//! An event's way through the jails.

use std::net::IpAddr;

use super::jail::{KeyPart, Measure, Unless};
use super::key::{Facets, Host, Subnet, bits_of, representative, spread};
use super::known::{Standing, seconds};
use super::ledger::BanKey;
use super::measure::{Addition, Firing, RuleTerms, SHARERS_MAX, Spot, Summary};
use super::rule::Group;
use super::verdict::{Refusal, Trip};
use super::{Engine, Feedback};
use crate::event::{Event, EventKind, Familiarity, Reason, Service};
use crate::time::Timestamp;

/// Lines of a banned subject are told this long after the ban: until then they may have been on their way.
const BITES_AFTER_MICROS: i64 = 10_000_000;
/// Dovecot tells a failed login when the connection ends, which a client that was cut off lets happen by timeout.
const BITES_AFTER_SESSION_MICROS: i64 = 240_000_000;
/// Bans that one event may set off through jails that count bans.
const FEEDBACK_MAX: usize = 64;

/// Where an event counts, and as what.
#[derive(Debug)]
pub(super) struct Place {
    group: usize,
    spot: Spot,
    addition: Addition,
}

/// What is known about the client of an event, worked out once for all jails.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    /// Never banned: nothing it does is an offence.
    allowed: bool,
    /// Its /64 holds somebody who is never banned.
    protected: bool,
    banned: Option<BanKey>,
    standing: Standing,
}

impl Engine {
    /// Some jail keyed by address or network, enforcing or observing, counts this event against its address, whatever is
    /// known about that address.
    pub fn offends(&self, event: &Event<'_>) -> bool {
        let mut facets = Facets::new(event, self.seed);
        let counts = |group: &Group| {
            let by_address = group.parts.iter().any(|part| matches!(part, KeyPart::Ip | KeyPart::Network));
            by_address && group.bans && group.amount(event) > 0 && facets.key(&group.parts).is_some()
        };
        let mut matching = self.candidates.matching(event, &self.groups).filter_map(|group| self.groups.get(usize::from(group)));
        event.vouched && !event.restates && matching.any(counts)
    }

    /// Reads what such events will need, and changes nothing. For the lines of a batch, before the first of them is handled:
    /// with a million addresses it is waiting for memory that takes the time, and here the waits overlap. What is foreseen
    /// and does not come does no harm.
    pub fn foresee<'a>(&mut self, batch: impl Iterator<Item = (EventKind, Option<IpAddr>, Option<&'a [u8]>)>) {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        for (kind, ip, account) in batch {
            let event = Event { ip, account, ..Event::new(kind, Timestamp::ZERO) };
            let mut facets = Facets::new(&event, self.seed);
            for index in self.candidates.of_kind(kind) {
                let key = self.groups.get(usize::from(index)).and_then(|group| facets.key(&group.parts));
                hashes.extend(key.map(|key| (index, spread(key, self.seed.0[1]))));
            }
        }
        // As few instructions as can be between one wait and the next.
        let touched = hashes.iter().filter_map(|(index, hash)| Some(self.groups.get(usize::from(*index))?.windows.touch(*hash)));
        std::hint::black_box(touched.fold(0, u32::wrapping_add));
        self.hashes = hashes;
    }

    /// `name`: the key of whoever answers for the event, where it is known already.
    pub(super) fn count(&mut self, event: &Event<'_>, name: Option<u128>) {
        if !event.vouched {
            self.note_forgery(event);
            return;
        }
        if event.restates || self.is_our_refusal(event) {
            return;
        }
        let stamp = self.at;
        let mut facets = Facets::named(event, self.seed, name);
        self.count_facets(&mut facets, stamp, None);
        for _ in 0..FEEDBACK_MAX {
            let Some(feedback) = self.feedback.pop_front() else { break };
            self.count_ban(&feedback);
        }
        self.feedback.clear();
        if event.kind == EventKind::AuthSuccess {
            self.succeeded(&mut facets, stamp);
        } else if matches!(event.kind, EventKind::Message | EventKind::Delivery) && event.account.is_none() {
            self.accepted(&facets, stamp);
        }
    }

    fn count_ban(&mut self, feedback: &Feedback) {
        let mut event = Event::new(EventKind::Banned, Timestamp::from_micros(self.at));
        event.ip = Some(representative(feedback.host.subnet()));
        event.service = feedback.service;
        let mut facets = Facets::new(&event, self.seed);
        self.count_facets(&mut facets, self.at, Some(&feedback.jail.name));
    }

    /// `origin`: the jail whose ban this event is.
    fn count_facets(&mut self, facets: &mut Facets<'_>, stamp: i64, origin: Option<&str>) {
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        let client = self.find_places(facets, stamp, &mut places);
        if places.len() > 1 {
            // The same as in `foresee`, for the tables of one event.
            let touched = places.iter().filter_map(|place| Some(self.groups.get(place.group)?.windows.touch(place.spot.hash)));
            std::hint::black_box(touched.fold(0, u32::wrapping_add));
        }
        if !places.is_empty() && is_telling(facets.event) {
            self.evidence.add(facets.host.map(|host| host.key()), facets.submitter(), facets.event.line);
        }
        for place in &places {
            self.count_in_group(place, facets, &client, origin);
        }
        self.places = places;
    }

    /// In which groups, and under which keys, an event counts.
    fn find_places(&mut self, facets: &mut Facets<'_>, stamp: i64, places: &mut Vec<Place>) -> Client {
        let event = facets.event;
        let mut matching = std::mem::take(&mut self.matching);
        matching.clear();
        matching.extend(self.candidates.matching(event, &self.groups));
        let mut client = Client::default();
        if !matching.is_empty() {
            client = self.client(facets, stamp);
            if is_countable(event, &client) && !self.is_everybodys(event, &client, facets.host) {
                let tag = facets.pair_tag();
                places.extend(matching.iter().filter_map(|group| self.place_in_group(usize::from(*group), facets, &client, tag, stamp)));
            }
            self.note_client(event, &client, stamp);
        }
        self.matching = matching;
        client
    }

    fn client(&self, facets: &Facets<'_>, stamp: i64) -> Client {
        let (Some(host), Some(ip)) = (facets.host, facets.event.ip) else { return Client::default() };
        let bits = bits_of(ip);
        let protected = self.allow.find(host.subnet()).is_some();
        // An IPv6 /64 is one client, but only the address named in it is one of us.
        let allowed = protected && (host.is_ipv4() || self.allow.find(Subnet { bits, prefix: 128 }).is_some());
        let service = facets.event.service;
        let banned = self.ledger.covering(bits, service, stamp).or_else(|| self.lifted.covering(bits, service, stamp));
        let banned = banned.map(|entry| entry.key());
        Client { allowed, protected, banned, standing: self.known.standing(host, self.now) }
    }

    /// A failure of an address that is known to log in, while nobody gets in.
    fn is_everybodys(&mut self, event: &Event<'_>, client: &Client, host: Option<Host>) -> bool {
        let known = host.filter(|_| event.kind == EventKind::AuthFailure && event.service != Service::Ssh && client.standing.good);
        known.is_some_and(|host| self.is_outage(event, host))
    }

    /// That somebody is heard who is banned, or never banned.
    fn note_client(&mut self, event: &Event<'_>, client: &Client, stamp: i64) {
        if let Some(key) = client.banned
            && self.enforced
        {
            self.note_banned(key, event, stamp);
        }
        if is_failure(event.kind) {
            self.totals.allowed += u64::from(client.allowed);
            self.totals.noted += u64::from(!client.allowed && client.banned.is_some());
        }
    }

    /// `None`: not in this group.
    fn place_in_group(&self, index: usize, facets: &mut Facets<'_>, client: &Client, tag: u16, stamp: i64) -> Option<Place> {
        let group = self.groups.get(index)?;
        if is_spared(group.unless(), client.standing) || group.strangers_only && (client.standing.good || client.protected) {
            return None;
        }
        let amount = group.amount(facets.event);
        if amount == 0 || stamp <= group.horizon(self.now) {
            return None;
        }
        if group.shared_only && !client.standing.shared {
            return None;
        }
        let by_pair = client.standing.shared && facets.event.kind == EventKind::AuthFailure && group.by_address && !group.shared_only;
        let key = if by_pair { facets.pair() } else { facets.key(&group.parts) }?;
        let value = group.value(facets, self.seed)?;
        let spot = Spot { key, hash: facets.hash(key) };
        Some(Place { group: index, spot, addition: Addition { stamp, amount, tag, value } })
    }

    fn count_in_group(&mut self, place: &Place, facets: &mut Facets<'_>, client: &Client, origin: Option<&str>) {
        let (now, event) = (self.now, facets.event);
        let Some(group) = self.groups.get_mut(place.group) else { return };
        let refusal = refusal(group, facets, client, &self.allow, &self.known, now);
        let name = if group.by_name { event.submitter.or(event.account) } else { None };
        if group.measure.is_momentary() {
            self.count_moment(place.group, facets, name, &place.addition);
            return;
        }
        let usual = match group.measure {
            Measure::BurstRecipients | Measure::BurstMessages => {
                let history = facets.submitter().and_then(|key| self.submitters.get(key)).map(|record| &record.history);
                let by_recipients = group.measure == Measure::BurstRecipients;
                let at = seconds(self.at);
                Some(history.map_or(0, |history| if by_recipients { history.usual_recipients(at) } else { history.usual_messages(at) }))
            }
            _ => None,
        };
        let scaled: Vec<Vec<u64>> = usual
            .map(|usual| group.rules.iter().map(|rule| rule.scaled(rule.limits(name).unwrap_or_default(), usual)).collect())
            .unwrap_or_default();
        let mut counting = [RuleTerms::default(); SHARERS_MAX];
        let mut count = 0;
        for (rule, compiled) in group.rules.iter().enumerate() {
            let is_own = origin.is_some_and(|origin| origin == compiled.jail.name);
            if let (false, Some(limits), Some(terms)) = (is_own, compiled.limits(name), counting.get_mut(count)) {
                let limits = scaled.get(rule).map_or(limits, Vec::as_slice);
                let clears = if refusal.is_some() { compiled.bans_contributors } else { compiled.bans | compiled.bans_contributors };
                *terms = RuleTerms { rule, slot: compiled.slot, cutoff: compiled.span.cutoff(now), limits, clears };
                count += 1;
            }
        }
        let rules = counting.get(..count).unwrap_or_default();
        if rules.is_empty() {
            return;
        }
        let terms = group.terms(now);
        group.windows.count_at(&place.spot, &place.addition, &terms, rules, &mut self.fired);
        group.counted += 1;
        if !self.fired.is_empty() {
            let mut fired = std::mem::take(&mut self.fired);
            for firing in fired.drain(..) {
                self.act(Trip { group: place.group, firing, refusal }, facets);
            }
            self.fired = fired;
        }
    }

    /// A jail that sees one event at a time.
    fn count_moment(&mut self, index: usize, facets: &mut Facets<'_>, name: Option<&[u8]>, addition: &Addition) {
        let Some(group) = self.groups.get_mut(index) else { return };
        group.counted += 1;
        let mut fired = std::mem::take(&mut self.fired);
        for (rule, compiled) in group.rules.iter().enumerate() {
            let reached = compiled.limits(name).unwrap_or_default().iter().take_while(|limit| **limit <= addition.amount).count();
            if reached > 0 {
                let summary = Summary { first: addition.stamp, ..Summary::default() };
                fired.push(Firing { rule, from: 0, to: reached, total: addition.amount, summary });
            }
        }
        for firing in fired.drain(..) {
            self.act(Trip { group: index, firing, refusal: None }, facets);
        }
        self.fired = fired;
    }

    fn succeeded(&mut self, facets: &mut Facets<'_>, stamp: i64) {
        let (now, tag) = (self.now, facets.pair_tag());
        let account = facets.account();
        let pair = facets.pair();
        for index in self.candidates.forgiving() {
            let Some(group) = self.groups.get_mut(usize::from(*index)) else { continue };
            let value = group.forgiven_value(facets);
            let terms = group.terms(now);
            let pair = pair.filter(|_| group.by_address);
            for key in facets.key(&group.parts).into_iter().chain(pair) {
                if tag != 0 {
                    group.windows.forgive(key, tag, value, &terms);
                }
            }
        }
        if facets.event.service != Service::Ssh {
            self.outage.succeeded();
        }
        // A thief's login works as well: an address in a country where the account never was is no acquaintance yet.
        let is_strange = facets.event.whence.familiarity == Familiarity::NewCountry;
        if let Some(host) = facets.host.filter(|_| !is_strange) {
            self.known.succeeded(host, account, stamp, now);
        }
    }

    fn accepted(&mut self, facets: &Facets<'_>, stamp: i64) {
        if let Some(host) = facets.host {
            self.known.accepted(host, stamp, self.now);
        }
    }

    fn note_banned(&mut self, key: BanKey, event: &Event<'_>, stamp: i64) {
        let Some(entry) = self.ledger.get(key).copied() else { return };
        let patience = match event.service {
            Service::Imap | Service::Pop3 | Service::ManageSieve => BITES_AFTER_SESSION_MICROS,
            _ => BITES_AFTER_MICROS,
        };
        // A connection that was cut off is told, too: only what needs fresh packets says that they still come.
        let is_fresh = matches!(event.kind, EventKind::AuthFailure | EventKind::AuthSuccess | EventKind::Reject);
        // Only what was written when the firewall had the ban.
        let since = self.late.get(&key).copied().unwrap_or(entry.since).max(self.enforcing_since);
        if is_fresh && !entry.ineffective && stamp.saturating_sub(since) >= patience {
            self.ledger.patch(key, |entry| entry.ineffective = true);
            self.alert_ineffective(&entry, event, since, stamp);
        }
    }
}

/// Failures of an address that is never banned are no offence; those of one that is banned are noted only.
const fn is_countable(event: &Event<'_>, client: &Client) -> bool {
    !is_failure(event.kind) || !client.allowed && client.banned.is_none()
}

/// A line that somebody will want to see. What everybody does all day would push out the rest.
fn is_telling(event: &Event<'_>) -> bool {
    match event.kind {
        EventKind::AuthSuccess | EventKind::Message => event.whence.familiarity >= Familiarity::NewNetwork,
        EventKind::Session => false,
        EventKind::Delivery => !matches!(event.reason, Reason::None | Reason::Temporary | Reason::Greylist),
        _ => true,
    }
}

pub(super) const fn is_failure(kind: EventKind) -> bool {
    matches!(kind, EventKind::AuthFailure | EventKind::Reject | EventKind::ProtocolAbuse)
}

const fn is_spared(unless: Unless, standing: Standing) -> bool {
    unless.known_good && standing.good || unless.accepted && standing.accepted
}

/// Why whoever trips a limit of this group now is not to be banned.
fn refusal(group: &Group, facets: &Facets<'_>, client: &Client, allow: &super::Allow, known: &super::Known, now: i64) -> Option<Refusal> {
    if !group.bans {
        return None;
    }
    let Some(host) = facets.host else { return Some(Refusal::NoAddress) };
    if client.protected {
        return Some(Refusal::NeverBanned);
    }
    if group.parts.contains(&KeyPart::Ip) {
        let is_spared = client.standing.shared && facets.event.kind == EventKind::AuthFailure && !group.shared_only;
        return is_spared.then_some(Refusal::Shared);
    }
    if group.parts.contains(&KeyPart::Network) {
        if allow.find(host.network()).is_some() {
            return Some(Refusal::NeverBanned);
        }
        return known.lives_in(host.network(), now).then_some(Refusal::SomebodyGood);
    }
    // What others did to an account or a whole host is not held against an address that is known here.
    client.standing.good.then_some(Refusal::KnownGood)
}
