//! The daemon's end of the root helper: errands are delivered again and again until they are done, on a thread of its own; an account's
//! hooks in order, and its queue work in order.
//!
//! Each errand carries an id that the helper remembers, so that one which is delivered twice (after a kill, say) is done once.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::errand::{Errand, Outcome};
use crate::engine::decision::Verb;
use crate::hookd::{Answer, DESCRIBE, Request, Status};
use crate::limits::{ERRANDS_WAITING_MAX, HELPER_REQUEST_BYTES_MAX};

/// Longer than a hook (`hookd::hooks::TOTAL_MAX`) or a change of the queue may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(660);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// How often the helper is asked which hooks there are.
const DESCRIBE_INTERVAL: Duration = Duration::from_secs(30);

/// The handle; the thread ends with it.
pub struct Helper {
    path: PathBuf,
    errands: Sender<Vec<Errand>>,
    view: Arc<Mutex<View>>,
}

/// What is known about the helper.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The verbs that have hooks; `None`: it has not answered yet.
    pub verbs: Option<Vec<String>>,
    /// Why the latest errand or question failed.
    pub problem: Option<String>,
    pub waiting: usize,
    /// The accounts for which something failed that is tried again, and why.
    pub failing: BTreeMap<String, String>,
    /// Verbs that got a hook since the daemon has known the others.
    new_verbs: Vec<String>,
}

impl Helper {
    /// `pending` was not done when the daemon ended; `done` is called for each errand that needs no further try.
    pub fn start(path: PathBuf, pending: Vec<Errand>, done: impl Fn(String, Outcome) + Send + 'static) -> io::Result<Helper> {
        let (errands, receiver) = channel();
        let view = Arc::new(Mutex::new(View::default()));
        let mut courier = Courier { path: path.clone(), waiting: VecDeque::new(), view: view.clone(), next_question: None, known: None };
        courier.take(pending);
        std::thread::Builder::new().name("helper".into()).spawn(move || courier.run(&receiver, &done))?;
        Ok(Helper { path, errands, view })
    }

    /// Somebody listens there, or did: systemd keeps the socket.
    pub fn is_installed(&self) -> bool {
        self.path.exists()
    }

    /// For threads that hand errands over later.
    pub fn sender(&self) -> Sender<Vec<Errand>> {
        self.errands.clone()
    }

    /// Asks anew which hooks there are, without waiting for the answer.
    pub fn ask(&self) {
        // The thread lives as long as we do.
        let _ = self.errands.send(Vec::new());
    }

    /// The verbs that got a hook, each once.
    pub fn take_new_verbs(&self) -> Vec<String> {
        std::mem::take(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner).new_verbs)
    }

    /// Why something that was to be done about an account is not done yet.
    pub fn failure(&self, account: &str) -> Option<String> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).failing.get(account).cloned()
    }

    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn has_hook(&self, verb: Verb) -> bool {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).verbs.iter().flatten().any(|name| name == verb.as_str())
    }
}

struct Courier {
    path: PathBuf,
    waiting: VecDeque<Waiting>,
    view: Arc<Mutex<View>>,
    /// `None`: at the next chance.
    next_question: Option<Instant>,
    /// The verbs that had hooks when that was last known.
    known: Option<Vec<String>>,
}

struct Waiting {
    errand: Errand,
    attempts: u32,
    due: Instant,
}

/// What came of one delivery.
enum Delivery {
    Over(Outcome),
    /// Try again later; why.
    Failed(String),
}

impl Courier {
    fn run(mut self, errands: &Receiver<Vec<Errand>>, done: &dyn Fn(String, Outcome)) {
        loop {
            let now = Instant::now();
            let due = self.waiting.iter().map(|waiting| waiting.due).chain(self.next_question).min();
            let pause = due.map_or(DESCRIBE_INTERVAL, |due| due.saturating_duration_since(now));
            let pause = if self.next_question.is_none() { Duration::ZERO } else { pause };
            match errands.recv_timeout(pause) {
                Ok(more) => {
                    if more.is_empty() {
                        self.next_question = None;
                    }
                    self.take(more);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(more) = errands.try_recv() {
                self.take(more);
            }
            self.deliver_due(done);
            self.ask_when_due();
            let waiting = self.waiting.len();
            self.view.lock().unwrap_or_else(PoisonError::into_inner).waiting = waiting;
        }
    }

    fn take(&mut self, errands: Vec<Errand>) {
        let due = Instant::now();
        for errand in errands {
            if self.waiting.len() >= ERRANDS_WAITING_MAX {
                log::error!(
                    "helper: {ERRANDS_WAITING_MAX} errands wait; {} of {} is tried with the next start",
                    errand.verb,
                    errand.account
                );
            } else if self.waiting.iter().all(|waiting| waiting.errand.id != errand.id) {
                self.waiting.push_back(Waiting { errand, attempts: 0, due });
            }
        }
    }

    /// The hooks of one account in order, and its queue work in order: a hook that fails must not let mail out of the queue. Nor does
    /// a later account wait for an earlier one that fails.
    fn deliver_due(&mut self, done: &dyn Fn(String, Outcome)) {
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            if self.is_superseded(index) {
                self.end(index, Outcome::Superseded, done);
                continue;
            }
            let queues_with = |earlier: &Waiting| {
                earlier.errand.account == waiting.errand.account && earlier.errand.is_hook() == waiting.errand.is_hook()
            };
            let is_first = !self.waiting.range(..index).any(queues_with);
            if !is_first || waiting.due > Instant::now() {
                index += 1;
                continue;
            }
            match deliver(&self.path, &waiting.errand) {
                Delivery::Over(outcome) => self.end(index, outcome, done),
                Delivery::Failed(why) => {
                    self.put_off(index, &why);
                    index += 1;
                }
            }
        }
    }

    /// A hook that has failed, and whose opposite is to run since: what it did in part the opposite one undoes. Queue work is not:
    /// a release of some messages undoes nothing else.
    fn is_superseded(&self, index: usize) -> bool {
        let Some(Waiting { errand, attempts, .. }) = self.waiting.get(index) else { return false };
        let opposite = match errand.verb {
            Verb::Lock => Verb::Unlock,
            Verb::Hold => Verb::Release,
            Verb::Unlock => Verb::Lock,
            Verb::Release => Verb::Hold,
            _ => return false,
        };
        let mut later = self.waiting.range(index + 1..);
        let is_opposite = |later: &Errand| later.is_hook() && later.account == errand.account && later.verb == opposite;
        *attempts > 0 && errand.is_hook() && later.any(|later| is_opposite(&later.errand))
    }

    fn end(&mut self, index: usize, outcome: Outcome, done: &dyn Fn(String, Outcome)) {
        let Some(Waiting { errand, .. }) = self.waiting.remove(index) else { return };
        match &outcome {
            Outcome::Done(output) if output.is_empty() => log::debug!("helper: {} of {} is done", errand.verb, errand.account),
            Outcome::Done(output) => {
                log::info!("helper: {} of {} is done: {}", errand.verb, errand.account, output.trim_end().escape_debug())
            }
            Outcome::Refused(why) => log::error!("helper: {} of {} was refused: {}", errand.verb, errand.account, why.escape_debug()),
            Outcome::Superseded => log::info!("helper: {} of {} had failed and is no longer wanted", errand.verb, errand.account),
        }
        // What another errand still waits for goes on being told.
        let mut failed = self.waiting.iter().filter(|waiting| waiting.attempts > 0);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(outcome, Outcome::Done(_)) && failed.clone().next().is_none() {
            view.problem = None;
        }
        if !failed.any(|waiting| waiting.errand.account == errand.account) {
            view.failing.remove(&errand.account);
        }
        drop(view);
        done(errand.id, outcome);
    }

    fn put_off(&mut self, index: usize, why: &str) {
        let Some(waiting) = self.waiting.get_mut(index) else { return };
        waiting.attempts = waiting.attempts.saturating_add(1);
        let pause = FIRST_RETRY.saturating_mul(1 << waiting.attempts.saturating_sub(1).min(16)).min(RETRY_MAX);
        waiting.due = Instant::now() + pause;
        // The first failure is told, and then one a few minutes.
        let level = if waiting.attempts == 1 || pause == RETRY_MAX { log::Level::Error } else { log::Level::Debug };
        let (verb, account) = (waiting.errand.verb, waiting.errand.account.clone());
        log::log!(level, "helper: {verb} of {account} failed, next try in {} s: {}", pause.as_secs(), why.escape_debug());
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.problem = Some(why.to_owned());
        view.failing.insert(account, why.to_owned());
    }

    fn ask_when_due(&mut self) {
        if self.next_question.is_some_and(|due| due > Instant::now()) {
            return;
        }
        self.next_question = Some(Instant::now() + DESCRIBE_INTERVAL);
        if !self.path.exists() {
            self.known = Some(Vec::new());
            self.view.lock().unwrap_or_else(PoisonError::into_inner).verbs = None;
            return;
        }
        let question = Request { id: String::new(), verb: DESCRIBE.into(), account: String::new(), data: serde_json::Value::Null };
        let answer = exchange(&self.path, &question);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(Answer { status: Status::Done, verbs, .. }) => {
                if view.verbs.is_none() {
                    view.problem = None;
                }
                if let Some(before) = self.known.replace(verbs.clone()) {
                    view.new_verbs.extend(verbs.iter().filter(|verb| !before.contains(verb)).cloned());
                }
                view.verbs = Some(verbs);
            }
            Ok(Answer { output, .. }) => (view.verbs, view.problem) = (None, Some(output)),
            Err(error) => (view.verbs, view.problem) = (None, Some(error.to_string())),
        }
    }
}

fn deliver(path: &Path, errand: &Errand) -> Delivery {
    let data = serde_json::from_str(&errand.data).unwrap_or_default();
    let request = Request { id: errand.id.clone(), verb: errand.helper_verb(), account: errand.account.clone(), data };
    match exchange(path, &request) {
        Ok(Answer { status: Status::Done, output, .. }) => Delivery::Over(Outcome::Done(output)),
        Ok(Answer { status: Status::Refused, output, .. }) => Delivery::Over(Outcome::Refused(output)),
        Ok(Answer { status: Status::Failed, output, .. }) => Delivery::Failed(output),
        Err(error) => Delivery::Failed(error.to_string()),
    }
}

/// One question, one answer, one connection.
pub fn exchange(path: &Path, request: &Request) -> io::Result<Answer> {
    let at = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::new(error.kind(), format!("no answer on {}", path.display())),
        _ => io::Error::new(error.kind(), format!("cannot reach the helper on {}: {error}", path.display())),
    };
    let packet = serde_json::to_vec(request).map_err(io::Error::other)?;
    if packet.len() > HELPER_REQUEST_BYTES_MAX {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the request is too long for the helper"));
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?).map_err(at)?;
    uninterrupted(|| socket.send(&packet)).map_err(at)?;
    let mut buffer = vec![0; HELPER_REQUEST_BYTES_MAX];
    let count = uninterrupted(|| io::Read::read(&mut &socket, &mut buffer)).map_err(at)?;
    if count == 0 {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the helper hung up without an answer; its log says why"));
    }
    serde_json::from_slice(buffer.get(..count).unwrap_or_default())
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("the helper's answer cannot be read: {error}")))
}

/// A socket with a time limit is not taken up again by itself after a signal.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforce::errand::QueuedMail;
    use crate::time::Timestamp;

    fn errand(id: &str, verb: Verb, mail: &[QueuedMail]) -> Errand {
        let (time, account) = (Timestamp::from_seconds(1), "anna".to_owned());
        Errand { id: id.to_owned(), time, verb, account, data: "{}".to_owned(), mail: mail.to_vec() }
    }

    /// What came of the errands when each was tried once by a helper whose hooks all fail, in the order in which they ended, and how
    /// many wait.
    fn tried_while_hooks_fail(rounds: &[&[Errand]]) -> (Vec<(String, Outcome)>, View) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(8).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut peer, _)) = socket.accept() {
                let mut packet = vec![0; HELPER_REQUEST_BYTES_MAX];
                let count = io::Read::read(&mut peer, &mut packet).unwrap();
                let request: Request = serde_json::from_slice(&packet[..count]).unwrap();
                let status = if request.verb.starts_with("queue-") { Status::Done } else { Status::Failed };
                peer.send(&serde_json::to_vec(&Answer::new(status, "told")).unwrap()).unwrap();
            }
        });
        let view = Arc::new(Mutex::new(View::default()));
        let mut courier = Courier { path, waiting: VecDeque::new(), view: view.clone(), next_question: None, known: None };
        let (sender, ended) = channel();
        for round in rounds {
            courier.take(round.to_vec());
            courier.deliver_due(&|id, outcome| sender.send((id, outcome)).unwrap());
        }
        let view = View { waiting: courier.waiting.len(), ..view.lock().unwrap().clone() };
        (ended.try_iter().collect(), view)
    }

    #[test]
    fn mail_is_parked_although_a_hook_fails() {
        let mail = [QueuedMail { queue_id: "4XYZ".into(), arrival: 1 }];
        let errands = [
            errand("lock", Verb::Lock, &[]),
            errand("park", Verb::Hold, &mail),
            errand("unlock", Verb::Unlock, &[]),
            errand("let-go", Verb::Release, &mail),
        ];
        let (ended, view) = tried_while_hooks_fail(&[&errands]);
        assert_eq!(ended, ["park", "let-go"].map(|id| (id.to_owned(), Outcome::Done("told".into()))));
        assert_eq!((view.waiting, view.problem.as_deref()), (2, Some("told")), "the hooks, and why they wait");
    }

    #[test]
    fn a_failed_hook_is_superseded_by_its_opposite_and_not_by_mail_let_go() {
        let mail = [QueuedMail { queue_id: "4XYZ".into(), arrival: 1 }];
        let hold = errand("hold", Verb::Hold, &[]);
        let some = errand("some", Verb::Release, &mail);
        let (ended, view) = tried_while_hooks_fail(&[&[hold], &[some]]);
        assert_eq!((ended, view.waiting), (vec![("some".to_owned(), Outcome::Done("told".into()))], 1));

        let [hold, release] = [("hold", Verb::Hold), ("release", Verb::Release)].map(|(id, verb)| errand(id, verb, &[]));
        let (ended, view) = tried_while_hooks_fail(&[&[hold], &[release]]);
        assert_eq!((ended, view.waiting), (vec![("hold".to_owned(), Outcome::Superseded)], 1));
    }
}
