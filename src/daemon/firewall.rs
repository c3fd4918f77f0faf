//! The kernel's firewall as the daemon sees it: there, not there (and tried again), or left alone in a dry run.

use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use log::{error, info, warn};

use crate::address::display;
use crate::enforce::nft::{Change, Element, Kernel, KernelStatus, Key, NetlinkKernel, NftError, NftOptions};
use crate::enforce::reconcile::{Keeper, LIST_AT_START_MAX, Reconcile, Report};
use crate::engine::Engine;
use crate::engine::jail::Scope;
use crate::limits::BULK_ELEMENTS_MAX;
use crate::time::Timestamp;

/// How often a firewall that cannot be used is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often the same trouble is told again.
const REMINDER: Duration = Duration::from_secs(600);

pub(super) struct Firewall {
    state: State,
    options: NftOptions,
    keeper: Keeper,
    told: Option<(String, Instant)>,
    /// Bans that the kernel did not take.
    pub(super) refused: u64,
}

enum State {
    Up(Box<NetlinkKernel>),
    Down { error: String, retry: Instant },
    DryRun,
}

impl Firewall {
    /// Opens the kernel's firewall and brings it in line with the ledger. When it cannot be used the daemon runs all the
    /// same, says so, and tries again.
    pub(super) fn open(options: NftOptions, dry_run: bool, engine: &Engine, now: Timestamp) -> Firewall {
        let state = if dry_run { State::DryRun } else { State::Down { error: "not tried yet".into(), retry: Instant::now() } };
        let mut firewall = Firewall { state, options, keeper: Keeper::default(), told: None, refused: 0 };
        if dry_run {
            info!("dry run: nothing is enforced");
        } else if firewall.connect() {
            firewall.catch_up(engine, now);
        }
        firewall
    }

    pub(super) fn is_busy(&self) -> bool {
        self.keeper.is_working() && matches!(self.state, State::Up(_))
    }

    /// `None` when nothing is wrong.
    pub(super) fn problem(&self) -> Option<&str> {
        match &self.state {
            State::Down { error, .. } => Some(error),
            State::Up(_) | State::DryRun => None,
        }
    }

    pub(super) fn is_dry_run(&self) -> bool {
        matches!(self.state, State::DryRun)
    }

    pub(super) fn status(&self) -> Option<KernelStatus> {
        match &self.state {
            State::Up(kernel) => Some(kernel.status()),
            State::Down { .. } | State::DryRun => None,
        }
    }

    /// Packets dropped since the rules were written.
    pub(super) fn dropped_packets(&mut self) -> Option<u64> {
        let State::Up(kernel) = &mut self.state else { return None };
        kernel.counters().ok().map(|counters| counters.iter().map(|counter| counter.packets).sum())
    }

    /// Writes new bans; in force when it returns.
    pub(super) fn add(&mut self, elements: &[Element]) {
        for slice in elements.chunks(BULK_ELEMENTS_MAX) {
            let State::Up(kernel) = &mut self.state else { return };
            match kernel.add(slice) {
                Ok(applied) => self.note_refused(&applied.refused, applied.refused.len()),
                Err(error) => self.fail(&error),
            }
        }
    }

    pub(super) fn remove(&mut self, keys: &[Key]) {
        let State::Up(kernel) = &mut self.state else { return };
        if !keys.is_empty()
            && let Err(error) = kernel.remove(keys)
        {
            self.fail(&error);
        }
    }

    /// One slice of a repair.
    pub(super) fn work(&mut self, engine: &Engine, now: Timestamp) {
        let State::Up(kernel) = &mut self.state else { return };
        match self.keeper.step(&mut **kernel, |key| element(engine, *key, now)) {
            Ok(Some(report)) => self.note_repair(&report),
            Ok(None) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// Once a second: a firewall that was down is tried again, one that somebody damaged is put back.
    pub(super) fn tick(&mut self, engine: &Engine) {
        match &mut self.state {
            State::DryRun => {}
            State::Down { retry, .. } => {
                if *retry <= Instant::now() && self.connect() {
                    self.keeper.request();
                }
            }
            State::Up(kernel) => match self.keeper.look(&mut **kernel, || keys(engine)) {
                Ok(Change::Lost(what)) => warn!("somebody changed our nftables table ({what}); putting it back with every ban"),
                Ok(Change::None | Change::Elsewhere) => {}
                Err(error) => self.fail(&error),
            },
        }
    }

    fn connect(&mut self) -> bool {
        match NetlinkKernel::start(self.options.clone()) {
            Ok(kernel) => {
                let status = kernel.status();
                info!(
                    "enforcing in nftables: table inet {}, {:?}, features: {}",
                    status.table,
                    status.mode,
                    status.features.names().join(" ")
                );
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

    /// At start, when nothing else is to be done yet, all at once.
    fn catch_up(&mut self, engine: &Engine, now: Timestamp) {
        let State::Up(kernel) = &mut self.state else { return };
        match Reconcile::new(keys(engine), LIST_AT_START_MAX).run(&mut **kernel, |key| element(engine, *key, now)) {
            Ok(report) => self.note_repair(&report),
            Err(error) => self.fail(&error),
        }
    }

    fn note_repair(&mut self, report: &Report) {
        if report.restored > 0 || report.removed > 0 {
            info!("{} bans are in the kernel, {} that nobody wants any more were removed", report.restored, report.removed);
        }
        self.note_refused(&report.refusals, report.refused);
    }

    fn note_refused(&mut self, first: &[(Element, NftError)], count: usize) {
        self.refused += count as u64;
        if let Some((element, error)) = first.first() {
            self.tell(format!("{count} bans are NOT ENFORCED, the first {}: {error}", display(element.net)));
        }
    }

    /// What happens to the kernel's firewall stops nothing else.
    fn fail(&mut self, error: &NftError) {
        let text = error.to_string();
        self.keeper = Keeper::default();
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

fn keys(engine: &Engine) -> Vec<Key> {
    engine.ban_keys().collect()
}

/// What should be in the kernel for `key`; `None` for a ban that is not, or has run out.
fn element(engine: &Engine, (net, scope): (IpNetwork, Scope), now: Timestamp) -> Option<Element> {
    lasting(net, scope, engine.ban_end(net, scope)?, now)
}

/// `None` for a ban that has run out.
pub(super) fn lasting(net: IpNetwork, scope: Scope, until: Timestamp, now: Timestamp) -> Option<Element> {
    let timeout = (until != Timestamp::NEVER).then(|| until.since(now));
    let is_over = timeout.is_some_and(|left| left.is_zero());
    (!is_over).then_some(Element { net, scope, timeout })
}
