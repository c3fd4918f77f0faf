//! The thread that writes one file: gathers what waits, commits it in one transaction, tries again when it cannot.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, TransactionBehavior};

use super::FileHealth;
use super::error::{Damage, StoreError, damage};
use super::file::{self, Condition, Identity, Schema};
use crate::limits::STORE_PENDING_ROWS_MAX;

/// How jobs, in their order, change the file; within a transaction.
pub(super) type Apply<J> = fn(&Connection, &[J]) -> rusqlite::Result<()>;

pub(super) struct Writer<J> {
    sender: Option<Sender<Message<J>>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What waits for the disk.
type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

enum Message<J> {
    Job(J, usize),
    /// Called when all that was sent before is on disk, or could not be written.
    Flush(Done),
}

#[derive(Default)]
struct Shared {
    pending: AtomicUsize,
    health: Mutex<FileHealth>,
}

/// Rows in one transaction, so that a burst does not keep all others waiting.
const GROUP_ROWS_MAX: usize = 100_000;
const BURST_ROWS: usize = 1_000;
const RETRY: Duration = Duration::from_secs(1);
/// A commit begins when nothing has come for so long: a transaction keeps a processor busy for milliseconds, which just now
/// the core needs itself.
const QUIET: Duration = Duration::from_millis(20);
/// How often an idle file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// But what waits for the disk waits no longer than this before it is written.
const GATHER_MAX: Duration = Duration::from_secs(1);

impl<J: Send + 'static> Writer<J> {
    pub fn start(name: &str, path: PathBuf, schema: &'static Schema, condition: Condition, apply: Apply<J>) -> Self {
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared::default());
        shared.health().error = condition.error();
        shared.health().asides = file::asides(&path);
        let connection = match condition {
            Condition::Writable(connection) => Some(connection),
            Condition::Unwritable(_) => None,
        };
        let worker = Worker {
            identity: file::identity(&path),
            path,
            schema,
            connection,
            apply,
            shared: shared.clone(),
            group: Vec::new(),
            group_rows: 0,
            is_burst: false,
            flushes: Vec::new(),
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.run(&receiver));
        if let Err(error) = &thread {
            shared.health().error = Some(format!("cannot start the thread {name}: {error}"));
        }
        Writer { sender: Some(sender), shared, thread: thread.ok() }
    }

    /// False when too many rows wait and these were given up.
    pub fn send(&self, job: J, rows: usize) -> bool {
        let waiting = self.shared.pending.fetch_add(rows, Ordering::Relaxed);
        let has_room = waiting == 0 || waiting.saturating_add(rows) <= STORE_PENDING_ROWS_MAX;
        let is_sent = has_room && self.sender.as_ref().is_some_and(|sender| sender.send(Message::Job(job, rows)).is_ok());
        if !is_sent {
            self.shared.pending.fetch_sub(rows, Ordering::Relaxed);
            self.shared.health().lost += rows as u64;
        }
        is_sent
    }

    pub fn flush(&self) -> Result<(), StoreError> {
        let (answer, receiver) = sync_channel(1);
        self.after(Box::new(move |outcome| drop(answer.send(outcome))));
        receiver.recv().map_err(|_| StoreError::Stopped)?
    }

    /// Calls `done`, on the thread of the file, when everything sent before is on disk or could not be written. It is dropped
    /// uncalled when the thread has ended.
    pub fn after(&self, done: Done) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(Message::Flush(done));
            self.wake();
        }
    }

    pub fn pending(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    pub fn health(&self) -> FileHealth {
        FileHealth { pending: self.pending(), ..self.shared.health().clone() }
    }
}

impl<J> Writer<J> {
    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl<J> Drop for Writer<J> {
    fn drop(&mut self) {
        drop(self.sender.take());
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The numbers mean something whatever happened to a thread that held the lock.
    fn health(&self) -> MutexGuard<'_, FileHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker<J> {
    path: PathBuf,
    schema: &'static Schema,
    connection: Option<Connection>,
    /// Of the file that is open.
    identity: Option<Identity>,
    apply: Apply<J>,
    shared: Arc<Shared>,
    /// What is in the next transaction.
    group: Vec<J>,
    group_rows: usize,
    /// The latest transaction was a large one.
    is_burst: bool,
    flushes: Vec<Done>,
}

/// What the channel had.
enum Gathered {
    Enough,
    Closed,
}

impl<J> Worker<J> {
    fn run(mut self, receiver: &Receiver<Message<J>>) {
        loop {
            let gathered = self.gather(receiver);
            let outcome = self.commit();
            self.answer(outcome);
            if matches!(gathered, Gathered::Closed) {
                return;
            }
        }
    }

    /// Waits for something to do, then takes what comes until it is quiet or somebody waits for the disk.
    fn gather(&mut self, receiver: &Receiver<Message<J>>) -> Gathered {
        if self.shared.health().error.is_some() {
            return self.gather_until(receiver, Instant::now() + RETRY);
        }
        self.give_memory_back();
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(message) => break self.take(message),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return Gathered::Closed,
            }
        }
        let begun = Instant::now();
        while self.flushes.is_empty() {
            let before = self.group_rows;
            // Asleep, since a message for which nobody waits costs its sender no call into the kernel. A flush wakes us.
            thread::park_timeout(QUIET);
            while self.group_rows < GROUP_ROWS_MAX {
                match receiver.try_recv() {
                    Ok(message) => self.take(message),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Gathered::Closed,
                }
            }
            if self.group_rows == before || self.group_rows >= GROUP_ROWS_MAX || begun.elapsed() >= GATHER_MAX {
                break;
            }
        }
        Gathered::Enough
    }

    /// After a failure: takes what comes until the next attempt, which somebody's wait for the disk brings forward.
    fn gather_until(&mut self, receiver: &Receiver<Message<J>>, next_attempt: Instant) -> Gathered {
        while self.flushes.is_empty() {
            match receiver.recv_timeout(next_attempt.saturating_duration_since(Instant::now())) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Gathered::Closed,
            }
        }
        Gathered::Enough
    }

    fn take(&mut self, message: Message<J>) {
        match message {
            Message::Job(job, rows) => {
                self.group.push(job);
                self.group_rows += rows;
            }
            Message::Flush(answer) => self.flushes.push(answer),
        }
    }

    /// The page cache that a burst took.
    fn give_memory_back(&mut self) {
        if std::mem::take(&mut self.is_burst)
            && let Some(connection) = &self.connection
        {
            let _ = connection.execute_batch("PRAGMA shrink_memory;");
        }
    }

    /// While nothing is to be done: what others do in the directory.
    fn look(&mut self) {
        let asides = file::asides(&self.path);
        self.shared.health().asides = asides;
        if self.is_gone() {
            let outcome = self.commit();
            self.answer(outcome);
        }
    }

    /// Somebody has removed the file that is open here: what is written to it is written to nothing.
    fn is_gone(&self) -> bool {
        self.connection.is_some() && file::identity(&self.path) != self.identity
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let outcome = self.try_commit();
        let mut health = self.shared.health();
        match &outcome {
            Ok(()) => {
                health.error = None;
                health.committed += self.group_rows as u64;
                self.is_burst = self.group_rows >= BURST_ROWS;
                self.group.clear();
                self.shared.pending.fetch_sub(std::mem::take(&mut self.group_rows), Ordering::Relaxed);
            }
            Err(error) => health.error = Some(error.to_string()),
        }
        outcome
    }

    fn try_commit(&mut self) -> Result<(), StoreError> {
        if self.is_gone() {
            self.connection = None;
            let mut health = self.shared.health();
            health.rebuilt += 1;
            health.gone = Some(SystemTime::now().into());
        }
        if self.connection.is_none() {
            self.connection = Some(reconnect(&self.path, self.schema, &self.shared)?);
            self.identity = file::identity(&self.path);
        }
        let Some(connection) = &mut self.connection else { return Err(StoreError::Stopped) };
        if self.group.is_empty() {
            return Ok(());
        }
        let Err(error) = write(connection, self.apply, &self.group) else { return Ok(()) };
        if damage(&error) == Damage::Content {
            // The next round begins a new file, and then writes this group to it.
            self.connection = None;
            let moved = file::move_aside(&self.path);
            self.shared.health().rebuilt += u64::from(moved.is_ok());
            self.look();
        }
        Err(StoreError::sqlite(&self.path, error))
    }

    fn answer(&mut self, outcome: Result<(), StoreError>) {
        let mut outcome = Some(outcome);
        for flush in self.flushes.drain(..) {
            let repeated = || match self.shared.health().error.clone() {
                Some(text) => Err(StoreError::Io { path: self.path.clone(), error: std::io::Error::other(text) }),
                None => Ok(()),
            };
            flush(outcome.take().unwrap_or_else(repeated));
        }
    }
}

fn reconnect(path: &std::path::Path, schema: &Schema, shared: &Shared) -> Result<Connection, StoreError> {
    if let Some(directory) = path.parent() {
        // Why it cannot be made is told by what follows.
        file::make_directory(directory, &mut Vec::new());
    }
    file::connect(path, schema).inspect_err(|error| {
        if file::is_content(error) && file::move_aside(path).is_ok() {
            shared.health().rebuilt += 1;
        }
    })
}

fn write<J>(connection: &mut Connection, apply: Apply<J>, group: &[J]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    apply(&transaction, group)?;
    transaction.commit()
}
