//! A thread that carries messages out by one way, and tries again where nobody takes them.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use log::{error, info, warn};
use serde::Serialize;

use super::desk::{Desk, Recipient, recipient};
use super::webhook::Poster;
use super::{Failure, Outbox, Outcome, Settings, Telling, Way, mail, text};
use crate::time::Timestamp;

/// Tries of one message to the webhook, and to an owner whom the server does not take; the administrator's go on until they are
/// forgotten.
const TRIES_OF_WEBHOOK: u32 = 3;
const TRIES_OF_OWNER: u32 = 12;
/// Wait after the bans of a day could not be told.
const DAY_RETRY: Duration = Duration::from_secs(900);
const IDLE: Duration = Duration::from_secs(3_600);
const DAY_MICROS: i64 = 86_400_000_000;

/// Called with the ids of messages that are over.
pub type Done = Box<dyn Fn(Vec<String>, Outcome) + Send>;
/// How many were banned by each jail in a span of time.
pub type BansOf = Box<dyn Fn(Timestamp, Timestamp) -> Vec<(String, u64)> + Send>;

/// The handle; the thread ends with it.
pub struct Courier {
    jobs: Sender<Job>,
    standing: Arc<Mutex<CourierView>>,
}

/// What one way has still to do, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CourierView {
    /// Messages that nobody has taken yet.
    pub waiting: usize,
    /// When what the oldest of them tells happened.
    pub oldest: Option<String>,
    /// Why the latest tries failed; `None`: they did not.
    pub problem: Option<String>,
}

/// Who or what a problem is about. The server stands first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Server,
    Recipient(Recipient),
}

enum Job {
    Tell(Vec<Telling>),
    Settings(Box<Settings>),
    /// Answered when there is nothing more to try now.
    Rest(Sender<()>),
}

impl Courier {
    /// Goes on with what `outbox` has waiting.
    pub fn start(way: Way, settings: Settings, mut outbox: Outbox, done: Done, bans: Option<BansOf>) -> io::Result<Courier> {
        let (jobs, receiver) = channel();
        outbox.waiting.retain(|telling| telling.way == way);
        outbox.last.retain(|(other, ..)| *other == way);
        let standing = Arc::new(Mutex::new(CourierView::default()));
        let mut round = Round {
            standing: standing.clone(),
            problems: BTreeMap::new(),
            way,
            settings,
            desk: Desk::new(&outbox),
            poster: (way == Way::Webhook).then(Poster::new),
            done,
            bans,
            days_told: outbox.told.iter().filter(|id| id.starts_with(BANS)).cloned().collect(),
            has_lost: false,
            is_day_due: false,
        };
        round.take(outbox.waiting);
        round.show();
        std::thread::Builder::new().name(format!("tell-{way}")).spawn(move || round.run(&receiver))?;
        Ok(Courier { jobs, standing })
    }

    /// Never waits for a server.
    pub fn view(&self) -> CourierView {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For threads that hand messages over later.
    pub fn sender(&self) -> impl Fn(Vec<Telling>) + Send + 'static {
        let jobs = self.jobs.clone();
        move |tellings| drop(jobs.send(Job::Tell(tellings)))
    }

    pub fn reconfigure(&self, settings: Settings) {
        let _ = self.jobs.send(Job::Settings(Box::new(settings)));
    }

    /// `rested` hears when what can be sent now is sent.
    pub fn rest(&self, rested: Sender<()>) {
        let _ = self.jobs.send(Job::Rest(rested));
    }
}

/// What the id of a day's count of bans begins with.
const BANS: &str = "bans-";

struct Round {
    standing: Arc<Mutex<CourierView>>,
    /// Why the latest tries failed, as the log has it.
    problems: BTreeMap<About, String>,
    way: Way,
    settings: Settings,
    desk: Desk,
    poster: Option<Poster>,
    done: Done,
    bans: Option<BansOf>,
    days_told: HashSet<String>,
    has_lost: bool,
    /// The bans of yesterday could not be told.
    is_day_due: bool,
}

impl Round {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let mut resting = Vec::new();
            match jobs.recv_timeout(self.patience()) {
                Ok(job) => resting.extend(self.handle(job)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(job) = jobs.try_recv() {
                resting.extend(self.handle(job));
            }
            self.show();
            self.work();
            self.show();
            for rested in resting {
                let _ = rested.send(());
            }
        }
    }

    fn show(&self) {
        let (waiting, oldest) = self.desk.waiting();
        let view = CourierView { waiting, oldest: oldest.map(Timestamp::rfc3339), problem: self.problem() };
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    fn problem(&self) -> Option<String> {
        let first = self.problems.values().next()?;
        let others = self.problems.len() - 1;
        Some(if others == 0 { first.clone() } else { format!("{first}; and {others} more") })
    }

    fn handle(&mut self, job: Job) -> Option<Sender<()>> {
        match job {
            Job::Tell(tellings) => self.take(tellings),
            Job::Settings(settings) => {
                self.settings = *settings;
                // Those whom it was about may be gone; what persists is told again.
                self.problems.clear();
            }
            Job::Rest(rested) => return Some(rested),
        }
        None
    }

    fn take(&mut self, tellings: Vec<Telling>) {
        let lost = self.desk.add(tellings);
        if !lost.is_empty() {
            if !std::mem::replace(&mut self.has_lost, true) {
                warn!("{}: more messages wait than there is room for; the oldest are given up", self.title());
            }
            (self.done)(ids(&lost), Outcome::GivenUp);
        }
    }

    /// How long nothing is to be done.
    fn patience(&self) -> Duration {
        let now = now();
        let wake = self.desk.wake(now, |way| self.span(way)).map_or(IDLE, |wake| wake.since(now));
        let midnight = Duration::from_micros((DAY_MICROS - now.micros().rem_euclid(DAY_MICROS)).unsigned_abs()) + Duration::from_secs(1);
        wake.min(midnight).min(if self.is_day_due { DAY_RETRY } else { midnight })
    }

    fn span(&self, way: Way) -> Duration {
        if way == Way::Webhook { Duration::ZERO } else { self.settings.config.digest }
    }

    /// Sends what is due, until the server fails.
    fn work(&mut self) {
        self.tell_bans();
        loop {
            let batch = self.desk.next(now(), |way| self.span(way));
            if batch.is_empty() {
                self.has_lost &= !self.desk.is_empty();
                return;
            }
            let sent = match (&self.poster, batch.first()) {
                (Some(poster), Some(telling)) => poster.post(telling, &self.settings),
                _ => mail::send(&batch, &self.settings),
            };
            match sent {
                Ok(()) => {
                    self.works(batch.first().and_then(recipient));
                    self.desk.done(&batch, now());
                    (self.done)(ids(&batch), Outcome::Told);
                }
                Err(failure) => self.failed(&batch, failure),
            }
        }
    }

    fn works(&mut self, recipient: Recipient) {
        let server = self.problems.remove(&About::Server);
        if server.or(self.problems.remove(&About::Recipient(recipient))).is_some() {
            info!("{}: messages go out again", self.title());
        }
    }

    fn failed(&mut self, batch: &[Telling], failure: Failure) {
        let recipient = batch.first().and_then(recipient);
        let (about, problem, is_over) = match failure {
            Failure::Server(problem) => {
                let failures = self.desk.failed(now());
                (About::Server, problem, self.way == Way::Webhook && failures >= TRIES_OF_WEBHOOK)
            }
            Failure::Deferred(problem) => {
                let failures = self.desk.defer(batch, now());
                (About::Recipient(recipient), problem, self.way == Way::Owner && failures >= TRIES_OF_OWNER)
            }
            Failure::Refused(problem) => {
                self.note(About::Recipient(recipient), problem, true);
                return self.give_up(batch);
            }
        };
        self.note(about, problem, false);
        if is_over {
            self.give_up(batch);
        }
    }

    /// A problem is told once, until it has ended.
    fn note(&mut self, about: About, problem: String, is_final: bool) {
        if about != About::Server {
            self.problems.remove(&About::Server);
        }
        if !self.problems.contains_key(&about) {
            if is_final {
                error!("{}: {problem}; this message is not sent there, and that is not told of again until one is taken", self.title());
            } else {
                warn!("{}: {problem}; it is tried again, and not told of again until it works", self.title());
            }
        }
        self.problems.insert(about, problem);
    }

    fn give_up(&mut self, batch: &[Telling]) {
        self.desk.give_up(batch);
        (self.done)(ids(batch), Outcome::GivenUp);
    }

    /// Once a day: the bans of yesterday, to each administrator.
    fn tell_bans(&mut self) {
        self.is_day_due = false;
        let Some(bans) = self.bans.as_ref().filter(|_| self.settings.config.bans && self.way == Way::Mail) else { return };
        let midnight = now().micros().div_euclid(DAY_MICROS) * DAY_MICROS;
        let begin = Timestamp::from_micros(midnight - DAY_MICROS);
        let day = begin.rfc3339().get(..10).unwrap_or_default().to_owned();
        let id_of = |to: &String| format!("{BANS}{day}-{to}");
        let open: Vec<&String> = self.settings.config.mail_to.iter().filter(|to| !self.days_told.contains(&id_of(to))).collect();
        if open.is_empty() {
            return;
        }
        let counts = bans(begin, Timestamp::from_micros(midnight));
        let message_id = format!("<{BANS}{day}@{}>", self.settings.host);
        for to in open {
            let text = text::bans_of_the_day(&counts, &day, &self.settings.host);
            let sent = if counts.is_empty() { Ok(()) } else { mail::deliver(text, to, &message_id, &self.settings) };
            let outcome = match sent {
                Ok(()) => Outcome::Told,
                Err(Failure::Refused(problem)) => {
                    error!("{}: {problem}; the bans of {day} are not told there", self.title());
                    Outcome::GivenUp
                }
                Err(Failure::Server(_) | Failure::Deferred(_)) => {
                    self.is_day_due = true;
                    continue;
                }
            };
            self.days_told.insert(id_of(to));
            (self.done)(vec![id_of(to)], outcome);
        }
    }

    fn title(&self) -> &'static str {
        match self.way {
            Way::Mail => "mail to the administrator",
            Way::Owner => "mail to owners of accounts",
            Way::Webhook => "the webhook",
        }
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

fn ids(tellings: &[Telling]) -> Vec<String> {
    tellings.iter().map(|telling| telling.id.clone()).collect()
}
