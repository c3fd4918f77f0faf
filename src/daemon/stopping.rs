//! Accounts that are stopped, made real: published to the policy server, and put before the root helper.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{error, info};
use serde::Serialize;

use super::inbox::{Message, Outside};
use crate::config::Config;
use crate::correlate::Correlator;
use crate::enforce::errand::{Errand, QueuedMail};
use crate::enforce::helper::Helper;
use crate::engine::Engine;
use crate::engine::account::{Hindrance, Kind, Stopped};
use crate::engine::decision::{Decision, Subject, Verb};
use crate::engine::jail::Scope;
use crate::limits::HELD_MESSAGES_MAX;
use crate::policy::{Board, Numbers, server::Server};
use crate::store::Store;
use crate::time::Timestamp;

/// How often the queue is looked through for further messages of the stopped: those that Postfix held at our word, and those that
/// were on their way.
const CHASE: Duration = Duration::from_secs(2);
/// Before that Postfix may just have had no mail to ask about.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// How far back: a message may be known as somebody's only some lines after its first one.
const CHASED: Duration = Duration::from_secs(60);

pub(super) struct Stopping {
    board: Arc<Board>,
    policy: Option<Server>,
    policy_problem: Option<String>,
    helper: Option<Helper>,
    /// Account → queue id → arrival: what the helper was told to put on hold.
    parked: HashMap<String, BTreeMap<String, i64>>,
    /// Account → messages that were let go while it is stopped.
    let_go: HashMap<String, HashSet<String>>,
    next_chase: Instant,
    started: Instant,
    is_dry_run: bool,
}

/// What the store remembers for us.
pub(super) struct Saved {
    pub errands: Vec<Errand>,
    pub parked: Vec<(String, QueuedMail)>,
}

/// By which ways a lock becomes more than a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LockPath {
    /// Postfix asks the policy server.
    pub policy: bool,
    /// The helper has a hook for locks.
    pub hooks: bool,
}

impl LockPath {
    pub fn exists(self) -> bool {
        self.policy || self.hooks
    }
}

/// For `status`.
#[derive(Serialize)]
pub(super) struct StoppingView {
    lock_path: LockPath,
    policy: Option<String>,
    policy_problem: Option<String>,
    helper: Option<String>,
    errands_waiting: usize,
    #[serde(flatten)]
    numbers: Numbers,
}

impl Stopping {
    /// Whoever is stopped already is stopped from here on.
    pub fn start(config: &Config, engine: &Engine, is_dry_run: bool, saved: Saved, outside: Outside) -> Stopping {
        let mut stopping = Stopping {
            board: Arc::new(Board::new(&config.accounts)),
            policy: None,
            policy_problem: None,
            helper: None,
            parked: HashMap::new(),
            let_go: HashMap::new(),
            started: Instant::now(),
            next_chase: Instant::now(),
            is_dry_run,
        };
        for (account, QueuedMail { queue_id, arrival }) in saved.parked {
            stopping.parked.entry(account).or_default().insert(queue_id, arrival);
        }
        if config.helper.enabled && !is_dry_run {
            let done = move |id, outcome| outside.send(Message::ErrandDone(id, outcome));
            match Helper::start(config.helper.socket.clone(), saved.errands, done) {
                Ok(helper) => stopping.helper = Some(helper),
                Err(problem) => error!("cannot start the thread that talks to the helper: {problem}; no hook runs"),
            }
        }
        stopping.publish(engine);
        stopping.listen(config);
        stopping
    }

    pub fn reconfigure(&mut self, config: &Config, has_policy_changed: bool) {
        self.board.reconfigure(&config.accounts);
        if let Some(helper) = &self.helper {
            helper.ask();
        }
        if has_policy_changed || self.policy.is_none() {
            self.listen(config);
        }
    }

    /// After decisions: those about accounts take effect. Gives what the helper is to do about them.
    pub fn apply(&mut self, decisions: &[Decision], engine: &Engine, correlator: &Correlator) -> Vec<Errand> {
        if self.is_dry_run || !decisions.iter().any(changes_standing) {
            return Vec::new();
        }
        self.publish(engine);
        let still_stopped: HashSet<String> = engine.stopped().map(|stopped| stopped.name).collect();
        let mut errands = Vec::new();
        for decision in decisions.iter().filter(|decision| changes_standing(decision)) {
            let Subject::Account(account) = &decision.subject else { continue };
            let mail = match decision.verb {
                Verb::Hold | Verb::Lock => self.park(account, correlator),
                Verb::Release => self.take_parked(account, correlator),
                _ => Vec::new(),
            };
            if !still_stopped.contains(account) {
                self.let_go.remove(account);
            }
            errands.extend(Errand::of(decision, account, &mail));
        }
        self.wanted(errands)
    }

    /// Every tick: messages of stopped accounts that came into the queue since. Gives what the helper is to do.
    pub fn chase(&mut self, engine: &Engine, correlator: &Correlator, now: Timestamp) -> Vec<Errand> {
        if !self.has_helper() || self.next_chase > Instant::now() {
            return Vec::new();
        }
        self.next_chase = Instant::now() + CHASE;
        let stopped: Vec<Stopped> = engine.stopped().collect();
        let mut errands = self.late_hooks(&stopped);
        let found = correlator.queue_ids_since(stopped.iter().map(|stopped| stopped.name.as_str()), now - CHASED);
        let mut of_each: BTreeMap<usize, Vec<(String, Timestamp)>> = BTreeMap::new();
        for (place, queue_id, arrival) in found {
            of_each.entry(place).or_default().push((queue_id, arrival));
        }
        for (place, mail) in of_each {
            let Some(Stopped { name, stop, .. }) = stopped.get(place) else { continue };
            let mail = self.note_parked(name, mail);
            errands.extend(Errand::more_mail(Verb::Hold, name, stop.id, now, &mail));
        }
        errands
    }

    /// An operator gave the helper a hook while accounts are stopped: it is for them, too.
    fn late_hooks(&self, stopped: &[Stopped]) -> Vec<Errand> {
        let new = self.helper.as_ref().map(Helper::take_new_verbs).unwrap_or_default();
        let is_late = |stopped: &&Stopped| new.iter().any(|verb| verb == stopped.hindrance.verb().as_str());
        stopped.iter().filter(is_late).map(|stopped| Errand::late(&stopped.decision(), &stopped.name)).collect()
    }

    /// Lets the `count` oldest parked messages of an account go. While it is stopped they are not parked again; a later stop parks what
    /// of them is still in the queue.
    pub fn let_go(&mut self, account: &str, count: usize, is_stopped: bool, now: Timestamp) -> Vec<Errand> {
        let Some(parked) = self.parked.get_mut(account).filter(|_| self.helper.is_some()) else { return Vec::new() };
        let mut mail: Vec<QueuedMail> =
            parked.iter().map(|(queue_id, arrival)| QueuedMail { queue_id: queue_id.clone(), arrival: *arrival }).collect();
        mail.sort_by(|one, other| (one.arrival, &one.queue_id).cmp(&(other.arrival, &other.queue_id)));
        mail.truncate(count);
        parked.retain(|queue_id, _| mail.iter().all(|mail| mail.queue_id != *queue_id));
        if parked.is_empty() {
            self.parked.remove(account);
        }
        if is_stopped {
            self.let_go.entry(account.to_owned()).or_default().extend(mail.iter().map(|mail| mail.queue_id.clone()));
        }
        // Its time tells this release from an earlier one of the same message.
        Errand::more_mail(Verb::Release, account, now.micros().cast_unsigned(), now, &mail)
    }

    /// Hands errands over when they are on disk, or at once where that fails: nobody waits for it here.
    pub fn deliver(&self, errands: Vec<Errand>, store: &Store) {
        let Some(helper) = self.helper.as_ref().filter(|_| !errands.is_empty()) else { return };
        let sender = helper.sender();
        // The thread lives as long as we do.
        store.after_decisions(move |_saved| drop(sender.send(errands)));
    }

    pub fn lock_path(&self) -> LockPath {
        let hooks = self.helper.as_ref().is_some_and(|helper| helper.has_hook(Verb::Lock));
        // A server that nobody asks stops nobody. Whoever sends mail through Postfix has it asked before that shows in the log.
        let is_asked = self.policy.is_some() && (self.board.numbers().requests > 0 || self.started.elapsed() < PATIENCE);
        LockPath { policy: is_asked && !self.is_dry_run, hooks }
    }

    /// Whether a hold or lock of that submitter is more than a word. Postfix asks about nobody who hands in mail by a command, and a
    /// client without a login has nothing to lock.
    pub fn carries_out(&self, hindrance: Hindrance, name: &str) -> bool {
        match (hindrance, Kind::of(name.as_bytes())) {
            (Hindrance::Locked, Kind::Account) => self.lock_path().exists(),
            (Hindrance::Locked, Kind::Local(_)) => self.lock_path().hooks,
            (Hindrance::Locked, Kind::Client | Kind::Forward) => false,
            (Hindrance::Held, Kind::Account | Kind::Client) => self.lock_path().policy || self.has_helper(),
            (Hindrance::Held, Kind::Local(_) | Kind::Forward) => self.has_helper(),
        }
    }

    /// What a lock really closes: the mailboxes are a hook's business.
    pub fn scope_of_lock(&self, scope: Scope) -> Scope {
        if self.lock_path().hooks { scope } else { Scope::Submission }
    }

    /// A hold or lock that nothing carries out must not be told as one.
    pub fn is_only_a_word(&self, decision: &Decision) -> bool {
        let Subject::Account(name) = &decision.subject else { return false };
        match decision.verb {
            _ if decision.observed => false,
            Verb::Lock => !self.carries_out(Hindrance::Locked, name),
            Verb::Hold => !self.carries_out(Hindrance::Held, name),
            _ => false,
        }
    }

    /// A message has left the queue: it went out before it could be put on hold, or somebody else saw to it.
    pub fn gone(&mut self, queue_id: &[u8], store: &Store) {
        let Ok(queue_id) = std::str::from_utf8(queue_id) else { return };
        self.parked.retain(|account, parked| {
            if parked.remove(queue_id).is_some() {
                store.left_queue(account.clone(), queue_id.to_owned());
            }
            !parked.is_empty()
        });
    }

    /// Why the helper has not done what it was asked to do about an account.
    pub fn failure(&self, account: &str) -> Option<String> {
        self.helper.as_ref()?.failure(account)
    }

    /// Messages of an account that were put on hold.
    pub fn parked(&self, account: &str) -> usize {
        self.parked.get(account).map_or(0, BTreeMap::len)
    }

    /// Accounts with messages on hold: how many, and when the oldest arrived.
    pub fn all_parked(&self) -> impl Iterator<Item = (&str, usize, Timestamp)> {
        self.parked.iter().map(|(account, mail)| {
            let oldest = mail.values().copied().min().unwrap_or_default();
            (account.as_str(), mail.len(), Timestamp::from_seconds(oldest))
        })
    }

    fn has_helper(&self) -> bool {
        self.helper.as_ref().is_some_and(Helper::is_installed)
    }

    /// What the helper is known to have no hook for is not asked of it. Where errands wait for one that is gone, what undoes them
    /// waits behind them: it may come back.
    fn wanted(&self, mut errands: Vec<Errand>) -> Vec<Errand> {
        let Some(helper) = self.helper.as_ref().filter(|helper| helper.is_installed() || helper.view().waiting > 0) else {
            return Vec::new();
        };
        let verbs = helper.view().verbs;
        errands
            .retain(|errand| !errand.is_hook() || verbs.as_ref().is_none_or(|verbs| verbs.iter().any(|verb| verb == errand.verb.as_str())));
        errands
    }

    /// The messages of an account that are in the queue and not known to be on hold; from now on they are.
    fn park(&mut self, account: &str, correlator: &Correlator) -> Vec<QueuedMail> {
        if !self.has_helper() {
            return Vec::new();
        }
        self.note_parked(account, correlator.queue_ids_of(account, HELD_MESSAGES_MAX))
    }

    /// Of these messages, those that are not known to be on hold and were not let go; from now on they are on hold.
    fn note_parked(&mut self, account: &str, found: Vec<(String, Timestamp)>) -> Vec<QueuedMail> {
        let parked = self.parked.entry(account.to_owned()).or_default();
        let let_go = self.let_go.get(account);
        let mut mail = Vec::new();
        for (queue_id, arrival) in found {
            let is_new = !parked.contains_key(&queue_id) && let_go.is_none_or(|let_go| !let_go.contains(&queue_id));
            if is_new && parked.len() < HELD_MESSAGES_MAX {
                let arrival = arrival.seconds();
                parked.insert(queue_id.clone(), arrival);
                mail.push(QueuedMail { queue_id, arrival });
            }
        }
        if parked.is_empty() {
            self.parked.remove(account);
        }
        mail
    }

    /// All messages of an account that may be on hold.
    fn take_parked(&mut self, account: &str, correlator: &Correlator) -> Vec<QueuedMail> {
        // Those too that Postfix has just held and nobody has chased yet.
        let _ = self.park(account, correlator);
        let parked = self.parked.remove(account).unwrap_or_default();
        self.let_go.entry(account.to_owned()).or_default().extend(parked.keys().cloned());
        parked.into_iter().map(|(queue_id, arrival)| QueuedMail { queue_id, arrival }).collect()
    }

    pub fn view(&self) -> StoppingView {
        StoppingView {
            lock_path: self.lock_path(),
            policy: self.policy.as_ref().map(|server| server.path().display().to_string()),
            policy_problem: self.policy_problem.clone(),
            helper: self.helper_line(),
            errands_waiting: self.helper.as_ref().map_or(0, |helper| helper.view().waiting),
            numbers: self.board.numbers(),
        }
    }

    fn helper_line(&self) -> Option<String> {
        let helper = self.helper.as_ref().filter(|helper| helper.is_installed() || helper.view().waiting > 0)?;
        let view = helper.view();
        let mut line = match view.verbs {
            _ if !helper.is_installed() => "its socket is gone".to_owned(),
            None => "has not answered yet".to_owned(),
            Some(verbs) if verbs.is_empty() => "no hooks, looks after the queue".to_owned(),
            Some(verbs) => format!("hooks for {}", verbs.join(", ")),
        };
        if view.waiting > 0 {
            line.push_str(&format!("; {} ERRANDS WAIT", view.waiting));
        }
        if let Some(problem) = view.problem {
            line.push_str(&format!("; PROBLEM: {problem}"));
        }
        Some(line)
    }

    fn publish(&self, engine: &Engine) {
        if !self.is_dry_run {
            self.board.publish(engine.stopped());
        }
    }

    fn listen(&mut self, config: &Config) {
        // The old one first: they may have one path.
        self.policy = None;
        match Server::start(&config.policy, self.board.clone()) {
            Ok(server) => {
                if let Some(server) = &server {
                    info!("policy requests are answered on {}", server.path().display());
                }
                (self.policy, self.policy_problem) = (server, None);
            }
            Err(problem) => {
                error!("{problem}; locks and holds do not reach Postfix this way");
                self.policy_problem = Some(problem);
            }
        }
    }
}

fn changes_standing(decision: &Decision) -> bool {
    let is_about_account = matches!(decision.subject, Subject::Account(_));
    !decision.observed && is_about_account && matches!(decision.verb, Verb::Lock | Verb::Unlock | Verb::Hold | Verb::Release)
}
