//! Which decisions people are told of, and the threads that tell them.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

use log::error;

use super::inbox::{Message, Outside};
use super::stopping::Stopping;
use crate::config::Notify;
use crate::engine::Engine;
use crate::engine::account::Hindrance;
use crate::engine::decision::{Decision, Subject, Verb};
use crate::notify::{BansOf, Context, Courier, CourierView, Outbox, Outcome, Settings, Telling, Way};
use crate::store::Store;

/// How long the end of the daemon waits for a mail server.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Notifier {
    settings: Settings,
    couriers: Vec<(Way, Courier)>,
    outside: Outside,
}

impl Notifier {
    pub fn start(config: &Notify, outbox: Outbox, store: &Store, outside: Outside) -> Notifier {
        let mut notifier = Notifier { settings: Settings::new(config), couriers: Vec::new(), outside };
        notifier.hire(&outbox, store);
        let idle: Vec<String> =
            outbox.waiting.iter().filter(|telling| notifier.courier(telling.way).is_none()).map(|telling| telling.id.clone()).collect();
        if !idle.is_empty() {
            // Whoever is put on the list next month does not want the news of today.
            store.tellings_over(idle, Outcome::GivenUp, SystemTime::now().into());
        }
        notifier
    }

    pub fn reconfigure(&mut self, config: &Notify, store: &Store) {
        self.settings = Settings::new(config);
        for (_, courier) in &self.couriers {
            courier.reconfigure(self.settings.clone());
        }
        self.hire(&Outbox::default(), store);
    }

    /// What is to be told of these decisions.
    pub fn tellings(&self, decisions: &[Decision], engine: &Engine, stopping: &Stopping) -> Vec<Telling> {
        let config = &self.settings.config;
        if !config.is_on() {
            return Vec::new();
        }
        let of = |decision| Telling::of(decision, config, || context(decision, engine, stopping));
        decisions.iter().filter(|decision| !matches!(decision.verb, Verb::Ban | Verb::Unban)).flat_map(of).collect()
    }

    /// Hands messages over when they are on disk, or at once where that fails: nobody waits for it here.
    pub fn deliver(&self, tellings: Vec<Telling>, store: &Store) {
        for (way, courier) in &self.couriers {
            let own: Vec<Telling> = tellings.iter().filter(|telling| telling.way == *way).cloned().collect();
            if !own.is_empty() {
                let send = courier.sender();
                store.after_decisions(move |_saved| send(own));
            }
        }
    }

    /// What each way has still to do.
    pub fn views(&self) -> BTreeMap<&'static str, CourierView> {
        self.couriers.iter().map(|(way, courier)| (way.as_str(), courier.view())).collect()
    }

    /// Before the end: what can be sent at once is sent.
    pub fn rest(&self) {
        let (rested, receiver) = channel();
        for (_, courier) in &self.couriers {
            courier.rest(rested.clone());
        }
        let end = Instant::now() + LAST_PATIENCE;
        for _ in &self.couriers {
            let _ = receiver.recv_timeout(end.saturating_duration_since(Instant::now()));
        }
    }

    fn courier(&self, way: Way) -> Option<&Courier> {
        self.couriers.iter().find(|(other, _)| *other == way).map(|(_, courier)| courier)
    }

    /// A thread for each way that is in use and has none.
    fn hire(&mut self, outbox: &Outbox, store: &Store) {
        let config = self.settings.config.clone();
        let in_use =
            [(Way::Mail, !config.mail_to.is_empty()), (Way::Owner, config.tells_owners()), (Way::Webhook, config.webhook.is_some())];
        for (way, is_wanted) in in_use {
            if !is_wanted || self.courier(way).is_some() {
                continue;
            }
            let outside = self.outside.clone();
            let done = Box::new(move |ids, outcome| outside.send(Message::Told(ids, outcome)));
            match Courier::start(way, self.settings.clone(), outbox.clone(), done, bans_of(store)) {
                Ok(courier) => self.couriers.push((way, courier)),
                Err(problem) => error!("cannot start the thread that tells people by {way}: {problem}; nobody is told that way"),
            }
        }
    }
}

/// For the courier's thread: it takes a while.
fn bans_of(store: &Store) -> Option<BansOf> {
    let reader = store.reader().ok()?;
    Some(Box::new(move |begin, end| reader.bans_by_jail(begin, end).unwrap_or_default()))
}

fn context(decision: &Decision, engine: &Engine, stopping: &Stopping) -> Context {
    let Subject::Account(name) = &decision.subject else { return Context { in_force: true, ..Context::default() } };
    let in_force = match decision.verb {
        Verb::Lock | Verb::Unlock => stopping.carries_out(Hindrance::Locked, name),
        Verb::Hold | Verb::Release => stopping.carries_out(Hindrance::Held, name),
        Verb::Ban | Verb::Unban | Verb::Alert => true,
    };
    let lately = engine.lately(name);
    Context { in_force, places: lately.places, recipients: lately.recipients }
}
