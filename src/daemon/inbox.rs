//! How requests and signals reach the core: a queue and a descriptor that wakes its poll.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use ipnetwork::IpNetwork;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, oneshot};

use super::addresses;
use super::setup::Loaded;
use crate::control::server::{self, Access};
use crate::control::{Request, Response};
use crate::enforce::errand::Outcome;
use crate::notify;

/// Decisions that a slow monitor may lag behind.
const MONITOR_BACKLOG: usize = 1_024;

pub enum Message {
    Request(Request, oneshot::Sender<Response>),
    /// SIGHUP.
    Reload,
    /// A configuration that was asked for, or what is wrong with it.
    Loaded(Result<Box<Loaded>, String>, Option<oneshot::Sender<Response>>),
    /// The helper has done an errand, or never will.
    ErrandDone(String, Outcome),
    /// These messages to people are over.
    Told(Vec<String>, notify::Outcome),
    /// This host has these addresses now.
    OwnAddresses(Vec<IpNetwork>),
    /// SIGTERM or SIGINT.
    Stop,
}

/// The core's end.
pub struct Inbox {
    messages: Receiver<Message>,
    outside: Outside,
}

impl Inbox {
    /// Becomes readable when a message waits.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.outside.wake.as_fd()
    }

    /// The next message, if one waits. Call until `None` after each wake-up.
    pub fn next(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// For threads that have something to tell the core.
    pub(super) fn sender(&self) -> Outside {
        self.outside.clone()
    }

    /// Takes the wake-up back; before the queue is drained, so that none is missed.
    pub fn clear_wake(&self) {
        // EAGAIN: nobody woke us.
        let _ = self.outside.wake.read();
    }

    pub fn has_monitors(&self) -> bool {
        self.outside.monitors.receiver_count() > 0
    }

    pub fn publish(&self, decision: &str) {
        // Nobody listening is no failure.
        let _ = self.outside.monitors.send(Arc::from(decision));
    }
}

/// The others' end.
#[derive(Clone)]
pub(super) struct Outside {
    messages: Sender<Message>,
    wake: Arc<EventFd>,
    monitors: broadcast::Sender<Arc<str>>,
}

impl Outside {
    pub(super) fn send(&self, message: Message) {
        // A core that is gone answers nobody; the dropped channel tells the asker.
        if self.messages.send(message).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

impl server::Core for Outside {
    fn submit(&self, request: Request) -> oneshot::Receiver<Response> {
        let (answer, receiver) = oneshot::channel();
        self.send(Message::Request(request, answer));
        receiver
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.monitors.subscribe()
    }
}

/// The thread that serves the control socket and the signals; stops when dropped.
pub struct ControlThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the control thread on `path`.
pub fn start(path: PathBuf, group: Option<String>) -> Result<(Inbox, ControlThread), String> {
    let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|error| format!("cannot create an eventfd: {error}"))?;
    let (sender, messages) = channel();
    let (monitors, _) = broadcast::channel(MONITOR_BACKLOG);
    let outside = Outside { messages: sender, wake: Arc::new(wake), monitors };
    let inbox = Inbox { messages, outside: outside.clone() };
    let (stop, stopped) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(format!("cannot start the control thread: {error}")))),
        };
        runtime.block_on(async {
            match server::bind(&path, group.as_deref()) {
                Ok((listener, access)) => {
                    let _ = ready.send(Ok(()));
                    run(listener, path, access, outside, stopped).await;
                }
                Err(error) => drop(ready.send(Err(error.to_string()))),
            }
        });
    });
    let thread = thread.map_err(|error| format!("cannot start the control thread: {error}"))?;
    let control = ControlThread { stop: Some(stop), thread: Some(thread) };
    match is_ready.recv() {
        Ok(Ok(())) => Ok((inbox, control)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err("the control thread ended before it was ready".into()),
    }
}

async fn run(listener: UnixListener, path: PathBuf, access: Access, outside: Outside, stopped: oneshot::Receiver<()>) {
    for (kind, make) in [
        (SignalKind::hangup(), (|| Message::Reload) as fn() -> Message),
        (SignalKind::terminate(), || Message::Stop),
        (SignalKind::interrupt(), || Message::Stop),
    ] {
        let outside = outside.clone();
        let Ok(mut signals) = signal(kind) else { continue };
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                outside.send(make());
            }
        });
    }
    tokio::spawn(addresses::follow(outside.clone()));
    server::serve(listener, path, access, Arc::new(outside), stopped).await;
}
