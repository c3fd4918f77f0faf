//! Closes the connections of banned clients, on a thread of its own: to find them the kernel goes through every socket of the
//! host, once for each ban.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use log::{debug, warn};

use crate::address::display;
use crate::enforce::nft::{Element, Key};
use crate::enforce::sockets;

/// Bans whose connections wait to be closed. Beyond that the server's own timeouts end them: the packets are dropped anyhow.
const WAITING_MAX: usize = 4_096;

/// The core's end; the thread starts with the first ban and ends with the daemon.
#[derive(Default)]
pub(super) struct Closer {
    queue: Option<SyncSender<Key>>,
    is_full: bool,
}

impl Closer {
    /// Never waits.
    pub(super) fn close(&mut self, bans: &[Element]) {
        if self.queue.is_none() && !bans.is_empty() {
            self.queue = start();
        }
        let Some(queue) = &self.queue else { return };
        let left_out = bans.iter().filter(|ban| queue.try_send(ban.key()).is_err()).count();
        if left_out > 0 && !self.is_full {
            warn!("too many bans at once: open connections of {left_out} of them are left to the server's timeouts");
        }
        self.is_full = left_out > 0;
    }
}

fn start() -> Option<SyncSender<Key>> {
    let (queue, waiting) = sync_channel(WAITING_MAX);
    match std::thread::Builder::new().name("closer".into()).spawn(move || run(&waiting)) {
        Ok(_) => Some(queue),
        Err(error) => {
            warn!("cannot start the thread that closes connections: {error}");
            None
        }
    }
}

fn run(waiting: &Receiver<Key>) {
    let mut told = String::new();
    for (net, scope) in waiting {
        match sockets::destroy(net, scope) {
            Ok(0) => {}
            Ok(count) => debug!("closed {count} connections of {}", display(net)),
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    warn!("cannot close the connections of {}: {text}", display(net));
                    told = text;
                }
            }
        }
    }
}
