//! What is usual for a submitter: where it comes from, when, and how much it sends.
//!
//! **Invariant:** bounded, and hardened against whoever wants to teach it: a place is settled only after days of use, nothing
//! is learned while the score is above alert, and what is usual raises no limit beyond a ceiling.

use std::net::IpAddr;

use crate::engine::key::bits_of;
use crate::engine::snapshot::Reader;
use crate::event::{Familiarity, Whence};

const DAY: u32 = 86_400;
const HOUR: u32 = 3_600;
/// Where somebody logs in during the first days is where they log in.
const FOUNDING_SECONDS: u32 = 3 * DAY;
/// Later places are settled when they are so old …
const SETTLED_SECONDS: u32 = 7 * DAY;
/// … and were used on so many days.
const SETTLED_DAYS: u8 = 3;
/// A place that was not used for so long is a new one.
const FORGOTTEN_SECONDS: u32 = 120 * DAY;
/// With less history than this nothing is called new: there is nothing to compare with.
const YOUNG_SECONDS: u32 = 2 * DAY;
const COUNTRIES: usize = 12;
const NETWORKS: usize = 32;
const DAYS: usize = 28;

/// A place and how well it is known; stamps in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visited {
    pub place: u32,
    pub first: u32,
    pub last: u32,
    /// Different days.
    pub days: u8,
}

/// The most of one day, an hour each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Peak {
    day: u16,
    recipients: u16,
    messages: u16,
}

/// The running hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hour {
    hour: u32,
    recipients: u16,
    messages: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub first: u32,
    pub last: u32,
    countries: Vec<Visited>,
    networks: Vec<Visited>,
    peaks: Vec<Peak>,
    hour: Hour,
    /// Logins and messages by hour of the day, halved when one is full.
    hours: [u8; 24],
}

/// IPv4 /16, IPv6 /32: about what one provider has in one region. A line at home changes its address within it.
pub fn network(ip: IpAddr) -> u32 {
    let bits = bits_of(ip);
    match bits >> 32 {
        // Mapped IPv4: its first two bytes, which no IPv6 prefix in use looks like.
        0xffff => (bits as u32) >> 16,
        _ => (bits >> 96) as u32,
    }
}

/// Since 1970.
pub const fn day(now: u32) -> u16 {
    (now / DAY) as u16
}

impl Visited {
    fn is_settled(&self, founded: u32, now: u32) -> bool {
        let is_founding = self.days > 0 && self.first.saturating_sub(founded) < FOUNDING_SECONDS;
        is_founding || self.days >= SETTLED_DAYS && now.saturating_sub(self.first) >= SETTLED_SECONDS
    }
}

fn find(list: &[Visited], place: u32, now: u32) -> Option<&Visited> {
    list.iter().find(|seen| seen.place == place && now.saturating_sub(seen.last) < FORGOTTEN_SECONDS)
}

fn visit(list: &mut Vec<Visited>, place: u32, now: u32, max: usize, founded: u32, counts: bool) {
    if let Some(seen) = list.iter_mut().find(|seen| seen.place == place) {
        if now.saturating_sub(seen.last) >= FORGOTTEN_SECONDS {
            *seen = Visited { place, first: now, last: now, days: u8::from(counts) };
        } else {
            seen.days = seen.days.saturating_add(u8::from(counts && (seen.last / DAY != now / DAY || seen.days == 0)));
            seen.last = seen.last.max(now);
        }
        return;
    }
    let new = Visited { place, first: now, last: now, days: u8::from(counts) };
    if list.len() < max {
        list.push(new);
        return;
    }
    // Strangers push out strangers: what is settled goes last.
    if let Some(least) = list.iter_mut().min_by_key(|seen| (seen.is_settled(founded, now), seen.last)) {
        *least = new;
    }
}

impl History {
    pub fn is_young(&self, now: u32) -> bool {
        self.first == 0 || now.saturating_sub(self.first) < YOUNG_SECONDS
    }

    /// Old enough to say what is usual.
    pub fn is_settled(&self, now: u32) -> bool {
        self.first > 0 && now.saturating_sub(self.first) >= SETTLED_SECONDS
    }

    /// Networks where it was a day ago already.
    pub fn former_networks(&self, now: u32) -> impl Iterator<Item = u32> {
        self.networks.iter().filter(move |seen| now.saturating_sub(seen.first) >= DAY).map(|seen| seen.place)
    }

    /// Wherever the submitter was within a week is its own place.
    pub fn settle(&mut self, now: u32) {
        for seen in self.countries.iter_mut().chain(&mut self.networks).filter(|seen| now.saturating_sub(seen.last) < SETTLED_SECONDS) {
            seen.first = seen.first.min(now.saturating_sub(SETTLED_SECONDS));
            seen.days = seen.days.max(SETTLED_DAYS);
        }
    }

    /// `country` only where it says something.
    pub fn whence(&self, ip: IpAddr, country: Option<u16>, now: u32) -> Whence {
        let is_young = self.is_young(now);
        let is_settled = |seen: Option<&Visited>| seen.is_some_and(|seen| seen.is_settled(self.first, now));
        let seen_network = find(&self.networks, network(ip), now);
        let seen_country = country.and_then(|country| find(&self.countries, u32::from(country), now));
        let familiarity = if is_young {
            Familiarity::Unknown
        } else if is_settled(seen_network) {
            Familiarity::Known
        } else if country.is_some() && !is_settled(seen_country) {
            Familiarity::NewCountry
        } else {
            Familiarity::NewNetwork
        };
        let hour = (now / HOUR % 24) as usize;
        let around = (23..=25).filter_map(|step| self.hours.get((hour + step) % 24)).any(|count| *count > 0);
        Whence {
            familiarity,
            is_first_country: familiarity == Familiarity::NewCountry && seen_country.is_none(),
            is_first_network: familiarity >= Familiarity::NewNetwork && seen_network.is_none(),
            is_first_hour: self.is_settled(now) && !around,
            kilometres_per_hour: 0,
        }
    }

    /// Whether it was ever used from there, lately or not.
    pub fn has_been_at(&self, ip: IpAddr, now: u32) -> bool {
        find(&self.networks, network(ip), now).is_some()
    }

    /// A login or message came from there. Where it does not count, it is no longer new, but comes no nearer to being settled.
    pub fn visit(&mut self, ip: IpAddr, country: Option<u16>, now: u32, counts: bool) {
        self.begin(now);
        let founded = self.first;
        visit(&mut self.networks, network(ip), now, NETWORKS, founded, counts);
        if let Some(country) = country {
            visit(&mut self.countries, u32::from(country), now, COUNTRIES, founded, counts);
        }
        let hour = (now / HOUR % 24) as usize;
        if self.hours.get(hour) == Some(&u8::MAX) {
            self.hours.iter_mut().for_each(|count| *count = count.div_ceil(2));
        }
        if let Some(count) = self.hours.get_mut(hour) {
            *count += 1;
        }
    }

    /// Something was sent. What a day's busiest hour was is kept for four weeks.
    pub fn sent(&mut self, messages: u32, recipients: u32, now: u32) {
        self.begin(now);
        let hour = now / HOUR;
        if self.hour.hour != hour {
            self.end_hour();
            self.hour = Hour { hour, ..Hour::default() };
        }
        self.hour.messages = add(self.hour.messages, messages);
        self.hour.recipients = add(self.hour.recipients, recipients);
    }

    fn begin(&mut self, now: u32) {
        if self.first == 0 || now < self.first {
            self.first = now;
        }
        self.last = self.last.max(now);
    }

    fn end_hour(&mut self) {
        let Hour { hour, recipients, messages } = self.hour;
        if messages == 0 && recipients == 0 {
            return;
        }
        let day = (hour / 24) as u16;
        let oldest = day.saturating_sub(DAYS as u16);
        self.peaks.retain(|peak| peak.day > oldest);
        match self.peaks.iter_mut().find(|peak| peak.day == day) {
            Some(peak) => {
                peak.recipients = peak.recipients.max(recipients);
                peak.messages = peak.messages.max(messages);
            }
            None => self.peaks.push(Peak { day, recipients, messages }),
        }
    }

    /// What was sent in the running hour is not what is usual: an incident does not excuse itself.
    pub fn forget_hour(&mut self) {
        self.hour = Hour::default();
    }

    /// The busiest hour of the last four weeks, today's left out.
    pub fn usual_recipients(&self, now: u32) -> u64 {
        self.usual(now, |peak| peak.recipients)
    }

    pub fn usual_messages(&self, now: u32) -> u64 {
        self.usual(now, |peak| peak.messages)
    }

    fn usual(&self, now: u32, of: impl Fn(&Peak) -> u16) -> u64 {
        let today = day(now);
        self.peaks
            .iter()
            .filter(|peak| peak.day < today && today - peak.day <= DAYS as u16)
            .map(|peak| u64::from(of(peak)))
            .max()
            .unwrap_or(0)
    }

    pub fn countries(&self) -> impl Iterator<Item = &Visited> {
        self.countries.iter()
    }

    pub fn networks(&self) -> impl Iterator<Item = &Visited> {
        self.networks.iter()
    }

    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        (self.countries.capacity() + self.networks.capacity()) * size_of::<Visited>() + self.peaks.capacity() * size_of::<Peak>()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        for word in [self.first, self.last, self.hour.hour] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for half in [self.hour.recipients, self.hour.messages] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        out.extend_from_slice(&self.hours);
        out.extend([self.countries.len() as u8, self.networks.len() as u8, self.peaks.len() as u8]);
        for seen in self.countries.iter().chain(&self.networks) {
            for word in [seen.place, seen.first, seen.last] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.push(seen.days);
        }
        for peak in &self.peaks {
            for half in [peak.day, peak.recipients, peak.messages] {
                out.extend_from_slice(&half.to_le_bytes());
            }
        }
    }

    pub fn decode(reader: &mut Reader<'_>) -> Option<History> {
        let mut history = History { first: reader.u32()?, last: reader.u32()?, ..History::default() };
        history.hour = Hour { hour: reader.u32()?, recipients: reader.u16()?, messages: reader.u16()? };
        history.hours = reader.array()?;
        let [countries, networks, peaks]: [u8; 3] = reader.array()?;
        let visited =
            |reader: &mut Reader<'_>| Some(Visited { place: reader.u32()?, first: reader.u32()?, last: reader.u32()?, days: reader.u8()? });
        for _ in 0..usize::from(countries).min(COUNTRIES) {
            history.countries.push(visited(reader)?);
        }
        for _ in 0..usize::from(networks).min(NETWORKS) {
            history.networks.push(visited(reader)?);
        }
        for _ in 0..usize::from(peaks).min(DAYS + 1) {
            history.peaks.push(Peak { day: reader.u16()?, recipients: reader.u16()?, messages: reader.u16()? });
        }
        Some(history)
    }
}

fn add(count: u16, more: u32) -> u16 {
    u16::try_from(u32::from(count).saturating_add(more)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u32 = 20_000 * DAY;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const DE: Option<u16> = Some(1);
    const FR: Option<u16> = Some(2);

    fn at_home(days: u32) -> History {
        let mut history = History::default();
        for day in 0..days {
            history.visit(ip("192.0.2.7"), DE, START + day * DAY, true);
        }
        history
    }

    #[test]
    fn a_young_history_calls_nothing_new() {
        let history = at_home(1);
        assert_eq!(history.whence(ip("198.51.100.1"), FR, START + DAY).familiarity, Familiarity::Unknown);
    }

    #[test]
    fn a_place_is_settled_after_a_week_and_three_days_of_use() {
        let mut history = at_home(10);
        let begin = START + 10 * DAY;
        let familiarity = |history: &History, day: u32| history.whence(ip("198.51.100.1"), FR, begin + day * DAY).familiarity;
        assert_eq!(familiarity(&history, 0), Familiarity::NewCountry);
        for day in [0, 1, 2, 6] {
            history.visit(ip("198.51.100.1"), FR, begin + day * DAY, true);
            assert_eq!(familiarity(&history, day), Familiarity::NewCountry, "day {day}");
        }
        assert_eq!(familiarity(&history, 7), Familiarity::Known);
        assert_eq!(history.whence(ip("203.0.113.1"), FR, begin + 7 * DAY).familiarity, Familiarity::NewNetwork);
        // A lease within the provider's range is the same place, and an unknown country is no new one.
        assert_eq!(history.whence(ip("192.0.77.7"), DE, begin).familiarity, Familiarity::Known);
        assert_eq!(history.whence(ip("203.0.113.1"), None, begin).familiarity, Familiarity::NewNetwork);
    }

    #[test]
    fn strangers_do_not_push_out_what_is_settled() {
        let mut history = at_home(10);
        let begin = START + 10 * DAY;
        for net in 0..200u8 {
            history.visit(IpAddr::from([10, net, 0, 1]), Some(u16::from(net) + 10), begin + u32::from(net), true);
        }
        assert_eq!(history.whence(ip("192.0.2.9"), DE, begin + 1_000).familiarity, Familiarity::Known);
        assert!(history.networks.len() <= NETWORKS && history.countries.len() <= COUNTRIES);
    }

    #[test]
    fn the_usual_is_the_busiest_hour_of_other_days() {
        let mut history = History::default();
        for (day, recipients) in [(0, 5), (1, 300), (2, 7)] {
            history.sent(1, recipients, START + day * DAY + 10 * HOUR);
        }
        history.sent(1, 4_000, START + 3 * DAY + 10 * HOUR);
        assert_eq!(history.usual_recipients(START + 3 * DAY + 11 * HOUR), 300);
        assert_eq!(history.usual_messages(START + 3 * DAY + 11 * HOUR), 1);
        history.sent(1, 1, START + 3 * DAY + 12 * HOUR);
        assert_eq!(history.usual_recipients(START + 40 * DAY), 0, "four weeks later nothing is usual");
        assert_eq!(history.usual_recipients(START + 4 * DAY), 4_000);
    }

    #[test]
    fn history_survives_being_written() {
        let mut history = at_home(5);
        history.visit(ip("2001:db8::1"), FR, START + 6 * DAY, true);
        history.sent(2, 9, START + 6 * DAY);
        history.sent(2, 9, START + 7 * DAY);
        let mut bytes = Vec::new();
        history.encode(&mut bytes);
        assert_eq!(History::decode(&mut Reader(&bytes)), Some(history));
        for cut in 0..bytes.len() {
            // Never more than an error.
            let _ = History::decode(&mut Reader(&bytes[..cut]));
        }
    }
}
