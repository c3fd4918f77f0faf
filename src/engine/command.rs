//! What an operator asks for, and what changes with a new configuration.

use std::time::Duration;

use ipnetwork::IpNetwork;

use super::account::Hindrance;
use super::decision::{Ban, Cause, Command, Decision, Lifted, Reply, Subject, Verb};
use super::jail::{KeyPart, Scope};
use super::key::{Host, Subnet};
use super::known::seconds;
use super::ledger::{Added, BanKey, Entry};
use super::matching::Candidates;
use super::rule::Group;
use super::verdict::{WIDENING, end};
use super::{Allow, Engine, EngineConfig, RECOVERED};
use crate::limits;
use crate::time::Timestamp;

/// The name under which an operator's bans stand.
const MANUAL: &str = "manual";

impl Engine {
    pub fn handle_command(&mut self, command: Command, now: Timestamp) -> Reply {
        self.advance(now);
        match command {
            Command::Ban { net, duration, scope, reason, force } => self.ban_by_hand(net, duration, scope, &reason, force),
            Command::Unban { net } => match self.lift_on(Subnet::new(net)).len() {
                0 => Reply::NotFound,
                changed => Reply::Done { changed },
            },
            Command::UnbanAll => {
                let mut all: Vec<Entry> = self.ledger.iter().copied().collect();
                all.sort_by_key(|entry| (entry.since, entry.key()));
                Reply::Done { changed: self.lift_all(&all, "all bans lifted by the operator") }
            }
            Command::Lock { account, duration, full, reason } => {
                let scope = if full { Scope::Auth } else { Scope::Submission };
                self.stop_by_hand(&account, Hindrance::Locked, scope, duration, &reason)
            }
            Command::Unlock { account, false_alarm } => self.free_by_hand(&account, Hindrance::Locked, false_alarm),
            Command::Hold { account, reason } => self.stop_by_hand(&account, Hindrance::Held, Scope::Submission, None, &reason),
            Command::Release { account, false_alarm } => self.free_by_hand(&account, Hindrance::Held, false_alarm),
            Command::Undo { since } => self.undo(since.micros()),
        }
    }

    /// Bans that the store remembers; no decisions follow. Call after [`Engine::restore`], with the bans that ended after the
    /// last complete snapshot among them: lines of that time may come again.
    ///
    /// A ban made after the snapshot waits for the lines that made it to come again, or for the clock to pass it.
    pub fn restore_bans(&mut self, mut bans: Vec<Ban>) {
        bans.sort_by_key(|ban| (ban.since, ban.id));
        for ban in bans {
            if ban.until.micros() <= self.now {
                continue;
            }
            let since = ban.since.micros();
            if since > self.now || since == self.now && !self.made_now.contains(&ban.id) && self.is_resumed {
                self.upcoming.push_back(ban);
            } else {
                self.enter(ban);
            }
        }
    }

    /// Bans that were lifted since the state that was restored: lines from before that may come again, and neither bring them
    /// back nor count any more, and what counted for a ban made since then is dealt with. Call after [`Engine::restore`].
    pub fn restore_lifted(&mut self, lifted: Vec<Lifted>) {
        for Lifted { net, scope, since, lifted } in lifted {
            if self.is_resumed && lifted.micros() <= self.now {
                continue;
            }
            let subnet = Subnet::new(net);
            let until = lifted.micros().saturating_add(1);
            self.lifted.add(Entry::new(BanKey { subnet, scope }, 0, i64::MIN, until), self.now);
            if since.micros() > self.now {
                self.forget_counts(subnet);
            }
        }
    }

    /// What jails have counted by the address or the network itself.
    fn forget_counts(&mut self, subnet: Subnet) {
        let now = self.now;
        let is_host = subnet.prefix == if subnet.is_ipv4() { 128 } else { 64 };
        for group in &mut self.groups {
            let is_counted_by_it = match group.parts.as_slice() {
                [KeyPart::Ip] => is_host,
                [KeyPart::Network] => Host::from_key(subnet.bits).network() == subnet,
                _ => false,
            };
            if is_counted_by_it {
                let (terms, key) = (group.terms(now), if is_host { subnet.key() } else { subnet.bits });
                group.windows.forget(key, &terms);
            }
        }
    }

    /// Whether a ban made `at` that moment was lifted later.
    pub(super) fn is_lifted_later(&self, key: BanKey, at: i64) -> bool {
        !self.lifted.is_empty() && self.lifted.get(key).is_some_and(|entry| at < entry.until)
    }

    /// Enters all restored bans at once: for a live clock, which has passed them all, and a firewall that has them.
    pub fn enter_restored_bans(&mut self) {
        while let Some(ban) = self.upcoming.pop_front() {
            self.enter(ban);
        }
    }

    /// Enters the restored bans whose moment has passed.
    pub(super) fn enter_upcoming(&mut self) {
        while self.upcoming.front().is_some_and(|ban| ban.since.micros() < self.now)
            && let Some(ban) = self.upcoming.pop_front()
        {
            self.enter(ban);
        }
    }

    fn enter(&mut self, ban: Ban) {
        let subnet = Subnet::new(ban.net);
        let mut entry = Entry {
            cause: ban.cause,
            jail: self.ledger.names.number(&ban.jail),
            earlier: u8::try_from(ban.earlier).unwrap_or(u8::MAX),
            ..Entry::new(BanKey { subnet, scope: ban.scope }, ban.id, ban.since.micros(), ban.until.micros())
        };
        if self.ledger.is_full() && self.ledger.get(entry.key()).is_none() {
            return;
        }
        if ban.cause != Cause::Engine {
            entry.count = u32::from(self.ledger.names.number(&ban.reason));
        }
        self.ledger.add(entry, self.now);
        self.ledger.tell(ban.id, &ban.reason, &ban.evidence);
        if ban.cause == Cause::Engine && ban.jail != WIDENING {
            self.history.note(subnet, ban.since.micros(), self.now);
        }
    }

    /// Takes a new configuration: windows of jails with the same identity are kept, and so are all bans but those of
    /// addresses that are never banned from now on. The seed stays what it was.
    pub fn reconfigure(&mut self, config: EngineConfig, now: Timestamp) {
        self.advance(now);
        self.write_all_frozen();
        self.keys_per_table_max = config.keys_per_table_max;
        let mut groups = Group::compile(config.jails, self.seed, self.keys_per_table_max, self.persist);
        for group in &mut groups {
            if let Some(index) = self.groups.iter().position(|old| old.identity == group.identity) {
                group.inherit(self.groups.swap_remove(index), self.now);
            }
        }
        self.candidates = Candidates::new(&groups);
        self.groups = groups;
        self.set_tight(self.tight);
        self.allow = Allow::new(&config.allow);
        self.history.reconfigure(&config.sanction);
        self.sanction = config.sanction;
        self.risk = config.risk;
        self.ledger.set_cap(config.bans_max);
        self.lift_allowed();
    }

    /// Lifts the automatic bans of addresses that are never banned; what an operator insisted on stays. How many. Call after
    /// [`Engine::restore_bans`]: the configuration may be another one than that they were made under.
    pub fn lift_allowed(&mut self) -> usize {
        let is_allowed = |entry: &&Entry| entry.cause == Cause::Engine && self.allow.find(entry.key().subnet).is_some();
        let freed = self.ledger.iter().filter(is_allowed).copied().collect();
        self.lift_as_allowed(freed)
    }

    fn lift_as_allowed(&mut self, mut freed: Vec<Entry>) -> usize {
        freed.sort_by_key(|entry| (entry.since, entry.key()));
        freed.dedup();
        self.lift_all(&freed, "the address is one that is never banned")
    }

    /// The host has these addresses from now on, of which those are `new`. How many bans were lifted for it.
    pub fn set_own_addresses(&mut self, own: Vec<IpNetwork>, new: &[IpNetwork], now: Timestamp) -> usize {
        self.advance(now);
        self.allow = self.allow.with_own(own);
        let holding = new.iter().flat_map(|net| self.ledger.holding(Subnet::new(*net)));
        let freed = holding.filter(|entry| entry.cause == Cause::Engine).copied().collect();
        self.lift_as_allowed(freed)
    }

    /// Bans that the firewall holds and nobody remembers go on as they are, but for those of addresses that are never banned. How
    /// many are new here.
    pub fn adopt_bans(&mut self, found: impl IntoIterator<Item = (IpNetwork, Scope, Timestamp)>) -> usize {
        let mut adopted = 0;
        for (net, scope, until) in found {
            let (key, until) = (BanKey { subnet: Subnet::new(net), scope }, until.micros());
            let is_known = self.ledger.get(key).is_some() || self.ledger.is_full();
            if is_known || until <= self.now || self.allow.find(key.subnet).is_some() {
                continue;
            }
            let reason = "found in the kernel when what was known of it was lost".to_owned();
            let decision = self.decision(Verb::Ban, Subject::Net(key.subnet.to_network()), scope, until, RECOVERED, reason);
            let entry = Entry { jail: self.ledger.names.number(RECOVERED), ..Entry::new(key, decision.id, self.now, until) };
            if self.enforce(entry, decision) == Added::New {
                self.history.note(key.subnet, self.now, self.now);
                adopted += 1;
            }
        }
        adopted
    }

    fn ban_by_hand(&mut self, net: IpNetwork, duration: Option<Duration>, scope: Scope, reason: &str, force: bool) -> Reply {
        let subnet = Subnet::new(net);
        if let Some((found, why)) = self.allow.find(subnet).filter(|_| !force) {
            let net = crate::address::display(subnet.to_network());
            return Reply::Refused(format!(
                "{net} would ban {}, which is never banned ({why}); use --force if you mean it",
                crate::address::display(found)
            ));
        }
        let reason = if reason.is_empty() { "banned by the operator" } else { reason };
        let until = end(self.now, duration);
        let mut decision = self.decision(Verb::Ban, Subject::Net(subnet.to_network()), scope, until, MANUAL, reason.to_owned());
        decision.cause = Cause::Operator;
        let entry = Entry {
            cause: Cause::Operator,
            jail: self.ledger.names.number(MANUAL),
            count: u32::from(self.ledger.names.number(reason)),
            ..Entry::new(BanKey { subnet, scope }, decision.id, self.now, until)
        };
        let added = self.enforce(entry, decision);
        Reply::Done { changed: usize::from(matches!(added, Added::New | Added::Prolonged)) }
    }

    /// As [`Command::Unban`], and says which networks' bans were lifted.
    pub fn unban(&mut self, net: IpNetwork, now: Timestamp) -> Vec<IpNetwork> {
        self.advance(now);
        let mut nets: Vec<IpNetwork> = self.lift_on(Subnet::new(net)).iter().map(|entry| entry.key().subnet.to_network()).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    }

    /// Lifts what keeps the network out, wider bans included, and what was banned within it.
    fn lift_on(&mut self, subnet: Subnet) -> Vec<Entry> {
        let mut found: Vec<Entry> = self.ledger.holding(subnet).into_iter().copied().collect();
        found.extend(self.ledger.within(subnet));
        found.sort_by_key(|entry| (entry.since, entry.key()));
        let lifted = self.lift_all(&found, "lifted by the operator");
        found.truncate(lifted);
        found
    }

    /// Bans that were lifted were mistakes: they make no later one longer.
    pub(super) fn lift_all(&mut self, entries: &[Entry], reason: &str) -> usize {
        let now = self.now;
        let mut changed = 0;
        for entry in entries {
            if self.decisions.len() >= limits::DECISIONS_PENDING_MAX {
                break;
            }
            if self.ledger.lift(entry.key(), now).is_some() {
                changed += 1;
                self.history.forget(entry.key().subnet, |stamp| stamp == seconds(entry.since), now);
                self.push_unban(entry, now, reason, Cause::Operator);
            }
        }
        changed
    }

    fn undo(&mut self, since: i64) -> Reply {
        let now = self.now;
        let (lifted, back) = self.ledger.undo(since, now);
        self.history.forget_since(seconds(since), now);
        for entry in &lifted {
            self.push_unban(entry, now, "undone by the operator", Cause::Operator);
        }
        for entry in &back {
            let ban = self.ledger.to_ban(entry);
            let reason = if ban.reason.is_empty() {
                "in force again: what changed it was undone".to_owned()
            } else {
                format!("{} (in force again)", ban.reason)
            };
            let decision = self.decision(Verb::Ban, Subject::Net(ban.net), ban.scope, entry.until, &ban.jail, reason);
            self.push(Decision { cause: Cause::Operator, ..decision });
        }
        let freed = self.undo_stops(since);
        Reply::Done { changed: lifted.len() + back.len() + freed }
    }
}
