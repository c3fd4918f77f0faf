//! How long a ban lasts, and how wide it grows.
//!
//! Each ban of a subject within the memory makes the next one longer. When enough of a network is banned within a day and
//! nobody good lives there, the network is.

use std::time::Duration;

use super::jail::{Distinct, Measure, Scope};
use super::key::{Seed, Subnet, name_key};
use super::known::seconds;
use super::measure::{Addition, Firing, RuleTerms, Terms, Windows};
use super::snapshot::{Mark, Reader};
use super::table::{Aging, Fate, Rank, Table, Value};
use crate::limits;

#[derive(Clone, Debug, PartialEq)]
pub struct SanctionConfig {
    /// A ban lasts so many times longer for each earlier one; 1 turns that off.
    pub factor: f64,
    /// No longer than this, unless the jail's own bantime is.
    pub longest: Duration,
    /// How long a ban is remembered, from its beginning.
    pub memory: Duration,
    /// `None`: never ban a network for its members.
    pub widening: Option<WideningConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WideningConfig {
    /// Banned addresses of an IPv4 /24.
    pub addresses_of_24: u32,
    /// Banned /64s of an IPv6 /56.
    pub nets_of_56: u32,
    /// Banned /56s of an IPv6 /48.
    pub nets_of_48: u32,
    pub within: Duration,
    pub longest: Duration,
    /// Networks banned in an hour, of all.
    pub per_hour_max: u32,
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

impl Default for SanctionConfig {
    fn default() -> Self {
        SanctionConfig { factor: 4.0, longest: 7 * DAY, memory: 30 * DAY, widening: Some(WideningConfig::default()) }
    }
}

impl Default for WideningConfig {
    fn default() -> Self {
        WideningConfig { addresses_of_24: 8, nets_of_56: 16, nets_of_48: 4, within: DAY, longest: 6 * HOUR, per_hour_max: 60 }
    }
}

impl SanctionConfig {
    /// How long a ban lasts after `earlier` others; `None`: for ever.
    pub fn duration(&self, bantime: Option<Duration>, earlier: u32) -> Option<Duration> {
        let first = bantime?;
        let factor = self.factor.max(1.0).powi(i32::try_from(earlier).unwrap_or(i32::MAX));
        let longest = self.longest.max(first);
        // Whole seconds: a float has no room for the microseconds of a week times a large factor.
        Some(Duration::try_from_secs_f64((first.as_secs_f64() * factor).min(longest.as_secs_f64())).unwrap_or(longest))
    }
}

/// Earlier bans by subject.
#[derive(Debug)]
pub struct History {
    past: Table<Past>,
    memory: i64,
}

/// The last six bans of a subject, in seconds since 1970; more of them change nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past {
    stamps: [u32; 6],
    len: u8,
    mark: Mark,
}

impl History {
    pub fn new(secret: u64, config: &SanctionConfig, persist: bool) -> History {
        History { past: Table::new(secret, limits::HISTORY_SUBJECTS_MAX, persist), memory: memory(config) }
    }

    pub fn reconfigure(&mut self, config: &SanctionConfig) {
        self.memory = memory(config);
    }

    fn aging(&self, now: i64) -> Aging {
        Aging { now, cutoff: now.saturating_sub(self.memory), half: 3 }
    }

    /// Bans before this second that are still remembered.
    pub fn earlier(&self, subject: Subnet, now: i64) -> u32 {
        self.stamps(subject, now).filter(|stamp| *stamp < seconds(now)).count() as u32
    }

    pub fn stamps(&self, subject: Subnet, now: i64) -> impl Iterator<Item = u32> + '_ {
        let cutoff = now.saturating_sub(self.memory);
        let stamps = self.past.get(subject.key()).map(Past::stamps).unwrap_or_default();
        stamps.iter().copied().filter(move |stamp| i64::from(*stamp) * 1_000_000 > cutoff)
    }

    /// Noting the same ban twice changes nothing.
    pub fn note(&mut self, subject: Subnet, since: i64, now: i64) {
        let aging = self.aging(now);
        let stamp = seconds(since);
        self.past.update(subject.key(), &aging, false, |past| (if past.note(stamp) { Fate::Keep } else { Fate::Untouched }, ()));
    }

    /// The ban of that moment, or all since then, were a mistake.
    pub fn forget(&mut self, subject: Subnet, stamps: impl Fn(u32) -> bool, now: i64) {
        let aging = self.aging(now);
        self.past.modify(subject.key(), &aging, |past| {
            past.retain(|stamp| !stamps(stamp));
            (if past.len == 0 { Fate::Remove } else { Fate::Keep }, ())
        });
    }

    /// All bans since then were mistakes. Passes over everything: for an operator's command.
    pub fn forget_since(&mut self, since: u32, now: i64) {
        let hit: Vec<u128> =
            self.past.iter().filter(|(_, past)| past.stamps().iter().any(|stamp| *stamp >= since)).map(|(key, _)| key).collect();
        for key in hit {
            self.forget(Subnet::from_key(key), |stamp| stamp >= since, now);
        }
    }

    pub fn len(&self) -> usize {
        self.past.len()
    }

    pub fn is_empty(&self) -> bool {
        self.past.is_empty()
    }

    pub fn sweep(&mut self, buckets: usize, now: i64) {
        let aging = self.aging(now);
        self.past.sweep(buckets, &aging);
    }

    pub fn table_mut(&mut self) -> &mut Table<Past> {
        &mut self.past
    }

    pub fn restore(&mut self, key: u128, bytes: &[u8], now: i64) -> bool {
        let aging = self.aging(now);
        let Some(mut past) = Past::decode(bytes) else { return false };
        for stamp in self.past.get(key).map(|known| known.stamps().to_vec()).unwrap_or_default() {
            past.note(stamp);
        }
        self.past.restore(key, past, &aging);
        true
    }
}

fn memory(config: &SanctionConfig) -> i64 {
    i64::try_from(config.memory.as_micros()).unwrap_or(i64::MAX)
}

impl Past {
    fn stamps(&self) -> &[u32] {
        self.stamps.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// False where it is known already.
    fn note(&mut self, stamp: u32) -> bool {
        if self.stamps().contains(&stamp) {
            return false;
        }
        match self.stamps.get_mut(usize::from(self.len)) {
            Some(free) => {
                *free = stamp;
                self.len += 1;
            }
            None => {
                if let Some(oldest) = self.stamps.iter_mut().min() {
                    *oldest = stamp.max(*oldest);
                }
            }
        }
        true
    }

    fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        let kept: Vec<u32> = self.stamps().iter().copied().filter(|stamp| keep(*stamp)).collect();
        self.stamps = [0; 6];
        self.len = kept.len() as u8;
        self.stamps.iter_mut().zip(kept).for_each(|(place, stamp)| *place = stamp);
    }

    fn decode(bytes: &[u8]) -> Option<Past> {
        let mut reader = Reader(bytes);
        let mut past = Past::default();
        while !reader.is_empty() {
            past.note(reader.u32()?);
        }
        Some(past)
    }
}

impl Value for Past {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn end(&self, _aging: &Aging) -> i64 {
        self.stamps().iter().max().map_or(i64::MIN, |stamp| i64::from(*stamp) * 1_000_000)
    }

    fn rank(&self, aging: &Aging) -> Rank {
        Rank { hot: u64::from(self.len) >= aging.half, last: self.stamps().iter().copied().max().map_or(i64::MIN, i64::from) }
    }

    fn encode(&self, _now: i64) -> Vec<u8> {
        self.stamps().iter().copied().flat_map(u32::to_le_bytes).collect()
    }
}

/// Counts the banned parts of networks.
#[derive(Debug)]
pub struct Widening {
    parts: Windows,
    seed: Seed,
    /// The hour at hand, and the networks banned in it.
    hour: i64,
    in_hour: u32,
}

/// A network that should be banned, and how many of its parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wider {
    pub network: Subnet,
    pub scope: Scope,
    pub parts: u64,
}

impl Widening {
    pub fn new(seed: Seed, persist: bool) -> Widening {
        let parts = Windows::new(Measure::Distinct(Distinct::Network), None, seed.0[1], limits::HISTORY_SUBJECTS_MAX, persist);
        Widening { parts, seed, hour: 0, in_hour: 0 }
    }

    pub fn terms(config: &WideningConfig, now: i64) -> Terms {
        let within = i64::try_from(config.within.as_micros()).unwrap_or(i64::MAX);
        Terms {
            now,
            horizon: now.saturating_sub(within),
            need: u64::MAX,
            sharers: 1,
            group: super::measure::Group::Name,
            min: 0,
            operators: 0,
            max: 100,
            least: 0,
        }
    }

    /// `part` was banned. `is_free` tells whether a network may be banned at all.
    pub fn banned(
        &mut self,
        part: Subnet,
        scope: Scope,
        config: &WideningConfig,
        now: i64,
        is_free: impl Fn(Subnet) -> bool,
    ) -> Option<Wider> {
        let scope = wide_scope(scope)?;
        let (prefix, limit) = match (part.is_ipv4(), part.prefix) {
            (true, 128) => (96 + 24, config.addresses_of_24),
            (false, 64) => (56, config.nets_of_56),
            (false, 56) => (48, config.nets_of_48),
            _ => return None,
        };
        let network = part.widen(prefix);
        if limit == 0 || !is_free(network) || !self.has_budget(config, now) {
            return None;
        }
        let terms = Widening::terms(config, now);
        let addition = Addition { stamp: now, amount: 1, tag: 0, value: part.key() };
        let limits = [u64::from(limit)];
        let rule = RuleTerms { rule: 0, slot: 0, cutoff: terms.horizon, limits: &limits, clears: 1 };
        let mut fired: Vec<Firing> = Vec::new();
        self.parts.count(self.key(network, scope), &addition, &terms, &[rule], &mut fired);
        let parts = fired.first()?.total;
        self.in_hour += 1;
        Some(Wider { network, scope, parts })
    }

    fn has_budget(&mut self, config: &WideningConfig, now: i64) -> bool {
        let hour = now.div_euclid(3_600_000_000);
        if hour != self.hour {
            (self.hour, self.in_hour) = (hour, 0);
        }
        self.in_hour < config.per_hour_max
    }

    fn key(&self, network: Subnet, scope: Scope) -> u128 {
        let mut bytes = [0; 17];
        if let Some((head, tail)) = bytes.split_first_chunk_mut::<16>() {
            *head = network.key().to_le_bytes();
            tail.fill(scope as u8);
        }
        name_key(self.seed, &bytes)
    }

    pub fn windows_mut(&mut self) -> &mut Windows {
        &mut self.parts
    }
}

/// Port 25 is where other people's servers come from: a network is never closed to it for what some of its hosts did.
const fn wide_scope(scope: Scope) -> Option<Scope> {
    match scope {
        Scope::Mx => None,
        Scope::Auth | Scope::Mail | Scope::All => Some(Scope::Auth),
        Scope::Submission | Scope::Mailbox | Scope::Web | Scope::Ssh => Some(scope),
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Host;
    use super::*;

    const fn minutes(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n * 60))
    }

    #[test]
    fn each_ban_lasts_longer() {
        let config = SanctionConfig::default();
        let cases = [
            (minutes(10), 0, minutes(10)),
            (minutes(10), 1, minutes(40)),
            (minutes(10), 2, minutes(160)),
            (minutes(10), 3, minutes(640)),
            (minutes(10), 8, minutes(7 * 24 * 60)),
            (minutes(30 * 24 * 60), 2, minutes(30 * 24 * 60)),
            (None, 2, None),
        ];
        for (bantime, earlier, expected) in cases {
            assert_eq!(config.duration(bantime, earlier), expected, "{bantime:?} after {earlier}");
        }
        let off = SanctionConfig { factor: 1.0, ..config };
        assert_eq!(off.duration(minutes(10), 8), minutes(10));
    }

    #[test]
    fn bans_are_forgotten_after_the_memory() {
        let mut history = History::new(1, &SanctionConfig::default(), false);
        let subject = Host::new("192.0.2.1".parse().unwrap()).subnet();
        let second = 1_000_000;
        let month = 30 * 86_400 * second;
        let start = 1_700_000_000 * second;
        history.note(subject, start, start);
        assert_eq!(history.earlier(subject, start), 0, "a ban is not earlier than itself");
        history.note(subject, start, start + second);
        assert_eq!(history.earlier(subject, start + second), 1);
        assert_eq!(history.earlier(subject, start + month - second), 1);
        assert_eq!(history.earlier(subject, start + month), 0);
    }

    #[test]
    fn a9_networks_are_banned_for_their_members_only_off_port_25() {
        let config = WideningConfig::default();
        let part = |n: u8| Host::new([192, 0, 2, n].into()).subnet();
        let try_all = |scope, count, free: bool| {
            let mut widening = Widening::new(Seed::default(), false);
            (1..=count).filter_map(|n| widening.banned(part(n), scope, &config, 1_000_000, |_| free)).last()
        };
        assert_eq!(try_all(Scope::Auth, 7, true), None);
        let wider = try_all(Scope::Mail, 8, true).unwrap();
        assert_eq!((wider.network.to_network().to_string().as_str(), wider.scope, wider.parts), ("192.0.2.0/24", Scope::Auth, 8));
        assert_eq!(try_all(Scope::Auth, 8, false), None);
        assert_eq!(try_all(Scope::Mx, 200, true), None);
    }
}
