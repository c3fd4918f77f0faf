//! The kernel's firewall as the daemon sees it: there, not there (and tried again), or left alone in a dry run.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};

use crate::enforce::nft::{Change, Element, Kernel, KernelStatus, Key, NetlinkKernel, NftError, NftOptions};
use crate::engine::Engine;
use crate::engine::decision::Ban;
use crate::limits::BULK_ELEMENTS_MAX;
use crate::time::Timestamp;

/// How often a firewall that cannot be used is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often the same trouble is told again.
const REMINDER: Duration = Duration::from_secs(600);

pub(super) struct Firewall {
    state: State,
    options: NftOptions,
    /// Bans that have yet to be written: a restore goes in slices, so that nothing else waits for it.
    pending: VecDeque<Element>,
    told: Option<(String, Instant)>,
    pub(super) refused: u64,
}

enum State {
    Up(Box<NetlinkKernel>),
    Down { error: String, retry: Instant },
    DryRun,
}

impl Firewall {
    /// Opens the kernel's firewall. When it cannot be used the daemon runs all the same, says so, and tries again.
    pub(super) fn open(options: NftOptions, dry_run: bool) -> Firewall {
        let state = if dry_run { State::DryRun } else { State::Down { error: "not tried yet".into(), retry: Instant::now() } };
        let mut firewall = Firewall { state, options, pending: VecDeque::new(), told: None, refused: 0 };
        firewall.connect();
        firewall
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty() && matches!(self.state, State::Up(_))
    }

    /// `None` when nothing is wrong.
    pub(super) fn problem(&self) -> Option<&str> {
        match &self.state {
            State::Down { error, .. } => Some(error),
            _ => None,
        }
    }

    pub(super) fn is_dry_run(&self) -> bool {
        matches!(self.state, State::DryRun)
    }

    pub(super) fn status(&self) -> Option<KernelStatus> {
        match &self.state {
            State::Up(kernel) => Some(kernel.status()),
            _ => None,
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Packets dropped since the rules were written.
    pub(super) fn dropped_packets(&mut self) -> Option<u64> {
        match &mut self.state {
            State::Up(kernel) => kernel.counters().ok().map(|counters| counters.iter().map(|counter| counter.packets).sum()),
            _ => None,
        }
    }

    /// Every ban in force, to be written from now on.
    pub(super) fn restore(&mut self, engine: &Engine, now: Timestamp) {
        self.pending = engine.bans().filter_map(|ban| element(ban, now)).collect();
    }

    /// Writes new bans at once; a burst goes in slices.
    pub(super) fn add(&mut self, elements: Vec<Element>) {
        if self.pending.is_empty() && elements.len() <= BULK_ELEMENTS_MAX {
            self.write(&elements);
        } else {
            self.pending.extend(elements);
        }
    }

    pub(super) fn remove(&mut self, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        self.pending.retain(|element| !keys.contains(&element.key()));
        if let State::Up(kernel) = &mut self.state
            && let Err(error) = kernel.remove(keys)
        {
            self.fail(&error);
        }
    }

    /// One slice of what is pending.
    pub(super) fn work(&mut self) {
        if !self.is_busy() {
            return;
        }
        let count = self.pending.len().min(BULK_ELEMENTS_MAX);
        let slice: Vec<Element> = self.pending.drain(..count).collect();
        self.write(&slice);
        if self.pending.is_empty() {
            debug!("all bans are in the kernel");
        }
    }

    fn write(&mut self, elements: &[Element]) {
        let State::Up(kernel) = &mut self.state else { return };
        match kernel.add(elements) {
            Ok(applied) => {
                self.refused += applied.refused.len() as u64;
                if let Some((element, error)) = applied.refused.first() {
                    let text = format!("{} bans are not enforced: {error} (the first: {})", applied.refused.len(), crate::address::display(element.net));
                    self.tell(text);
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Once a second: a firewall that was down is tried again, one that somebody damaged is put back.
    pub(super) fn tick(&mut self, engine: &Engine, now: Timestamp) {
        match &mut self.state {
            State::DryRun => {}
            State::Down { retry, .. } if *retry <= Instant::now() => {
                if self.connect() {
                    self.restore(engine, now);
                }
            }
            State::Down { .. } => {}
            State::Up(kernel) => match kernel.changed_behind_us() {
                Ok(Change::None | Change::Elsewhere) => {}
                Ok(Change::Lost(what)) => {
                    warn!("somebody changed our nftables table ({what}); putting it back with every ban");
                    match kernel.rebuild() {
                        Ok(()) => self.restore(engine, now),
                        Err(error) => self.fail(&error),
                    }
                }
                Err(error) => self.fail(&error),
            },
        }
    }

    fn connect(&mut self) -> bool {
        if self.is_dry_run() {
            info!("dry run: nothing is enforced");
            return false;
        }
        match NetlinkKernel::start(self.options.clone()) {
            Ok(kernel) => {
                let status = kernel.status();
                info!("enforcing in nftables: table inet {}, {:?}, features {}", status.table, status.mode, status.features.names().join(" "));
                self.state = State::Up(Box::new(kernel));
                self.told = None;
                true
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// What happens to the kernel's firewall stops nothing else.
    fn fail(&mut self, error: &NftError) {
        let text = error.to_string();
        self.state = State::Down { error: text.clone(), retry: Instant::now() + RETRY };
        self.tell(format!("NOT ENFORCING: {text}; trying again every {} s", RETRY.as_secs()));
    }

    fn tell(&mut self, text: String) {
        let known = self.told.as_ref().is_some_and(|(told, at)| *told == text && at.elapsed() < REMINDER);
        if !known {
            error!("{text}");
            self.told = Some((text, Instant::now()));
        }
    }
}

/// `None` for a ban that has run out.
pub(super) fn element(ban: &Ban, now: Timestamp) -> Option<Element> {
    let timeout = if ban.until == Timestamp::NEVER { None } else { Some(ban.until.since(now)) };
    if timeout.is_some_and(|left| left.is_zero()) {
        return None;
    }
    Some(Element { net: ban.net, scope: ban.scope, timeout })
}
