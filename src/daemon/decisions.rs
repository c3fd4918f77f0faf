//! What the engine has decided, carried out: the store is told, the kernel is written, the log and the monitors hear of it.
//!
//! The store has each decision before the kernel does, but nobody waits for the disk: a slow one delays no ban.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use super::closer::Closer;
use super::firewall::{Firewall, lasting};
use super::inbox::Inbox;
use super::stopping::Stopping;
use super::telling::Notifier;
use tokio::sync::oneshot;

use crate::address::display;
use crate::control::Response;
use crate::correlate::Correlator;
use crate::enforce::errand::Errand;
use crate::enforce::nft::{Element, Key};
use crate::engine::Engine;
use crate::engine::decision::{Decision, Subject, Verb};
use crate::source::SourceError;
use crate::store::{Claim, Store};
use crate::time::Timestamp;

/// Decisions taken from the engine before the other inputs get a turn.
const DECISIONS_PER_TURN: usize = 4_096;
/// Decisions that the log tells one by one in a second; of a larger burst the rest is summed up in one line.
const LOGGED_PER_SECOND: usize = 100;
/// How often the same trouble with a source is told.
const REMINDER: Duration = Duration::from_secs(600);
/// How often what is too old is forgotten on disk.
const PRUNE: Duration = Duration::from_secs(60);

pub(super) struct Effects {
    pub(super) firewall: Firewall,
    pub(super) store: Store,
    /// Given back after the store has ended.
    _claim: Claim,
    pub(super) stopping: Stopping,
    pub(super) notifier: Notifier,
    destroy_sockets: bool,
    closer: Closer,
    troubles: HashMap<usize, (String, Instant)>,
    store_problem: Option<String>,
    /// What was lost, as the log has it.
    loss: Option<String>,
    bans_missing: u64,
    /// The tables of the firewall that the state tells of.
    tables: Vec<String>,
    last_prune: Instant,
    told: Told,
}

/// What the log has told of the second at hand.
struct Told {
    second: Instant,
    told: usize,
    untold: usize,
}

impl Effects {
    pub(super) fn new(
        firewall: Firewall,
        tables: Vec<String>,
        (store, claim): (Store, Claim),
        stopping: Stopping,
        notifier: Notifier,
        destroy_sockets: bool,
    ) -> Effects {
        let mut effects = Effects {
            firewall,
            store,
            _claim: claim,
            stopping,
            notifier,
            destroy_sockets,
            closer: Closer::default(),
            troubles: HashMap::new(),
            store_problem: None,
            loss: None,
            bans_missing: 0,
            tables,
            last_prune: Instant::now(),
            told: Told { second: Instant::now(), told: 0, untold: 0 },
        };
        effects.note_tables();
        effects
    }

    /// The next start knows by them where bans of ours are.
    fn note_tables(&mut self) {
        if let Some(tables) = self.firewall.tables().filter(|tables| *tables != self.tables) {
            self.store.note_tables(tables.clone());
            self.tables = tables;
        }
    }

    pub(super) fn reconfigure(&mut self, destroy_sockets: bool) {
        self.destroy_sockets = destroy_sockets;
    }

    /// Whether a lock is more than a word here: Postfix asks us, or the helper has a hook for it.
    pub(super) fn has_lock_path(&self) -> bool {
        self.stopping.lock_path().exists()
    }

    /// Carries out what waits. True when more waits.
    pub(super) fn apply(&mut self, engine: &mut Engine, correlator: &Correlator, inbox: &Inbox, now: Timestamp) -> bool {
        let mut decisions = Vec::new();
        while decisions.len() < DECISIONS_PER_TURN
            && let Some(decision) = engine.poll_decision()
        {
            decisions.push(decision);
        }
        if decisions.is_empty() {
            return false;
        }
        let more = decisions.len() == DECISIONS_PER_TURN;
        let (added, removed) = changes(&decisions, now);
        publish(&decisions, inbox);
        let told = self.told.choose(&decisions);
        let errands = self.stopping.apply(&decisions, engine, correlator);
        let tellings = self.notifier.tellings(&decisions, engine, &self.stopping);
        // The ledger first: the hand-over costs a microsecond, and the store's thread commits while the kernel is written.
        if !self.store.record_all(decisions, errands.clone(), tellings.clone()) {
            warn!("the disk is too slow: decisions were given up in the state on disk; enforcement goes on");
        }
        self.stopping.deliver(errands, &self.store);
        self.notifier.deliver(tellings, &self.store);
        self.firewall.remove(&removed);
        self.firewall.add(&added);
        // The thread that writes the log would take the processor when it is woken.
        let is_dry_run = self.firewall.is_dry_run();
        told.iter().for_each(|decision| log_one(decision, &self.stopping, is_dry_run));
        // Afterwards, or the client would connect again.
        if self.destroy_sockets && !self.firewall.is_dry_run() {
            self.closer.close(&added);
        }
        more
    }

    /// Every tick: further messages of the stopped.
    pub(super) fn chase(&mut self, engine: &Engine, correlator: &Correlator, now: Timestamp) {
        let errands = self.stopping.chase(engine, correlator, now);
        self.send(errands);
    }

    /// Lets some messages of an account go; how many.
    pub(super) fn let_go(&mut self, account: &str, count: usize, is_stopped: bool, now: Timestamp) -> usize {
        let errands = self.stopping.let_go(account, count, is_stopped, now);
        let messages = errands.iter().map(|errand| errand.mail.len()).sum();
        self.send(errands);
        messages
    }

    fn send(&mut self, errands: Vec<Errand>) {
        if !errands.is_empty() {
            self.store.record_with(Vec::new(), errands.clone());
            self.stopping.deliver(errands, &self.store);
        }
    }

    /// Every tick: what was not saved is noticed, and made good from the ledger.
    pub(super) fn keep_store(&mut self, engine: &Engine, now: Timestamp, memory: Duration) {
        self.told.sum_up();
        let health = self.store.health();
        if health.bans_missing() > self.bans_missing && health.problem().is_none() {
            self.bans_missing = health.bans_missing();
            self.store.replace_bans(engine.bans().collect(), now);
            self.store.replace_stopped(engine.stopped().collect());
            self.tables.clear();
        }
        self.note_tables();
        let loss = health.loss();
        if self.loss != loss {
            if let Some(loss) = &loss {
                error!("{loss}");
            }
            self.loss = loss;
        }
        if self.store_problem.as_deref() != health.problem() {
            self.store_problem = health.problem().map(str::to_owned);
            match &self.store_problem {
                Some(problem) => error!("the state cannot be saved: {problem}; enforcement goes on"),
                None => info!("the state is saved again"),
            }
        }
        if self.last_prune.elapsed() >= PRUNE {
            self.last_prune = Instant::now();
            self.store.prune(now, memory);
        }
    }

    /// What an operator was told to be done survives a crash: the answer waits for the disk, but nobody else does.
    pub(super) fn answer_when_saved(&self, mut response: Response, answer: oneshot::Sender<Response>) {
        self.store.after_decisions(move |outcome| {
            if let Err(problem) = outcome {
                response.message.push_str(&format!("\nin force, but not saved, so a restart forgets it: {problem}"));
            }
            // The asker may have gone.
            let _ = answer.send(response);
        });
    }

    pub(super) fn warn_of_source(&mut self, index: usize, name: &str, error: &SourceError) {
        let text = format!("source \"{name}\": {error}");
        let known = self.troubles.get(&index).is_some_and(|(told, at)| *told == text && at.elapsed() < REMINDER);
        if !known {
            error!("{text}");
            self.troubles.insert(index, (text, Instant::now()));
        }
    }
}

/// What the kernel must have and must not have afterwards; of two decisions about one key the later one counts.
fn changes(decisions: &[Decision], now: Timestamp) -> (Vec<Element>, Vec<Key>) {
    let mut added: Vec<Element> = Vec::new();
    let mut removed: Vec<Key> = Vec::new();
    let mut place: HashMap<Key, usize> = HashMap::new();
    for decision in decisions.iter().filter(|decision| !decision.observed) {
        let Subject::Net(net) = decision.subject else { continue };
        let key = (net, decision.scope);
        match decision.verb {
            Verb::Ban => {
                let Some(element) = lasting(net, decision.scope, decision.until, now) else { continue };
                removed.retain(|other| *other != key);
                match place.get(&key).and_then(|index| added.get_mut(*index)) {
                    Some(known) => *known = element,
                    None => {
                        place.insert(key, added.len());
                        added.push(element);
                    }
                }
            }
            Verb::Unban => {
                if place.remove(&key).is_some() {
                    added.retain(|element| element.key() != key);
                    place = added.iter().enumerate().map(|(index, element)| (element.key(), index)).collect();
                }
                removed.push(key);
            }
            Verb::Lock | Verb::Unlock | Verb::Hold | Verb::Release | Verb::Alert => {}
        }
    }
    (added, removed)
}

impl Told {
    /// Those that are to be told one by one.
    fn choose(&mut self, decisions: &[Decision]) -> Vec<Decision> {
        self.sum_up();
        let room = LOGGED_PER_SECOND.saturating_sub(self.told).min(decisions.len());
        self.told += room;
        self.untold += decisions.len() - room;
        decisions.iter().take(room).cloned().collect()
    }

    fn sum_up(&mut self) {
        if self.second.elapsed() < Duration::from_secs(1) {
            return;
        }
        if self.untold > 0 {
            info!("and {} more decisions at once; `mailwarden list` has all bans", self.untold);
        }
        *self = Told { second: Instant::now(), told: 0, untold: 0 };
    }
}

fn log_one(decision: &Decision, stopping: &Stopping, is_dry_run: bool) {
    let text = if is_dry_run && decision.verb != Verb::Alert && !stopping.is_only_a_word(decision) {
        let would = if decision.observed { "" } else { "would " };
        format!("dry run: {would}{}", sentence(decision))
    } else if stopping.is_only_a_word(decision) {
        format!("would {}; there is no lock path (docs/accounts.md)", sentence(decision))
    } else {
        sentence(decision)
    };
    match decision.verb {
        Verb::Alert => warn!("{text}"),
        _ => info!("{text}"),
    }
}

fn publish(decisions: &[Decision], inbox: &Inbox) {
    if inbox.has_monitors() {
        for decision in decisions {
            match serde_json::to_string(&decision.view()) {
                Ok(text) => inbox.publish(&text),
                Err(error) => debug!("a decision cannot be shown: {error}"),
            }
        }
    }
}

/// `ban 192.0.2.1 scope auth until 2026-11-24 04:05:06, jail postfix-auth: 6 failures in 12 s`
fn sentence(decision: &Decision) -> String {
    let subject = match &decision.subject {
        Subject::Net(net) => display(*net),
        Subject::Account(name) => name.clone(),
    };
    let observed = if decision.observed { "would " } else { "" };
    let mut text = format!("{observed}{} {subject}", decision.verb);
    if matches!(decision.verb, Verb::Ban | Verb::Unban | Verb::Lock) {
        text.push_str(&format!(" scope {}", decision.scope));
    }
    if decision.verb == Verb::Ban || decision.verb == Verb::Lock && decision.until != Timestamp::NEVER {
        text.push_str(&format!(" until {}", decision.until));
    }
    text.push_str(&format!(", jail {}: {}", decision.jail, decision.reason));
    text
}
