//! Brings the kernel in line with the ledger, a slice at a time, so that the core can look after its lines in between.
//!
//! **Invariant:** the ledger is asked at the moment of writing, not when the work began: what is banned or unbanned meanwhile is
//! written at once by the core and not undone by an older wish here.

use std::mem;

use super::nft::{Change, Element, Kernel, Key, NftError, SetId};
use crate::limits;

/// At start, when nothing else is to be done yet, sets up to this size are read for elements that nobody wants any more (50 ms).
pub const LIST_AT_START_MAX: usize = 50_000;
/// Later the core must not stand still for that long (1 ms).
const LIST_WHILE_RUNNING_MAX: usize = 4_096;
/// Refusals that are kept for the log; all are counted.
const REFUSALS_KEPT_MAX: usize = 100;

/// One pass over the ledger.
pub struct Reconcile {
    list_max: usize,
    listed: bool,
    /// Found in the kernel and not in the ledger.
    stale: Vec<Key>,
    /// Keys of the ledger that are still to be written.
    wanted: Vec<Key>,
    report: Report,
}

#[derive(Debug, Default)]
pub struct Report {
    pub restored: usize,
    pub removed: usize,
    pub refused: usize,
    /// The first of the refusals.
    pub refusals: Vec<(Element, NftError)>,
    /// Sets too large to be searched for leftovers; those end with their own timeouts.
    pub unread: Vec<SetId>,
}

impl Reconcile {
    /// `wanted` are the keys of all bans in force; sets of up to `list_max` elements are searched for what is in excess.
    pub fn new(wanted: Vec<Key>, list_max: usize) -> Reconcile {
        Reconcile { list_max, listed: false, stale: Vec::new(), wanted, report: Report::default() }
    }

    /// Does one slice of the work; the report when all is done. `ledger` says what should be in force for a key now. After an error
    /// the same slice is tried again by the next call.
    pub fn step(
        &mut self,
        kernel: &mut (impl Kernel + ?Sized),
        ledger: impl Fn(&Key) -> Option<Element>,
    ) -> Result<Option<Report>, NftError> {
        if !self.listed {
            let listing = kernel.list(self.list_max)?;
            self.stale = listing.elements.iter().map(Element::key).filter(|key| ledger(key).is_none()).collect();
            self.report.unread = listing.unread;
            self.listed = true;
        } else if !self.stale.is_empty() {
            let slice = tail(&self.stale);
            let unwanted: Vec<Key> = slice.iter().filter(|key| ledger(key).is_none()).copied().collect();
            kernel.remove(&unwanted)?;
            self.report.removed += unwanted.len();
            self.stale.truncate(self.stale.len() - slice.len());
        } else if !self.wanted.is_empty() {
            let slice = tail(&self.wanted);
            let elements: Vec<Element> = slice.iter().filter_map(&ledger).collect();
            let refused = kernel.add(&elements)?.refused;
            self.report.restored += elements.len() - refused.len();
            self.report.refused += refused.len();
            let room = REFUSALS_KEPT_MAX.saturating_sub(self.report.refusals.len());
            self.report.refusals.extend(refused.into_iter().take(room));
            self.wanted.truncate(self.wanted.len() - slice.len());
        }
        let done = self.listed && self.stale.is_empty() && self.wanted.is_empty();
        Ok(done.then(|| mem::take(&mut self.report)))
    }

    /// All of it at once, for the start.
    pub fn run(mut self, kernel: &mut (impl Kernel + ?Sized), ledger: impl Fn(&Key) -> Option<Element>) -> Result<Report, NftError> {
        loop {
            if let Some(report) = self.step(kernel, &ledger)? {
                return Ok(report);
            }
        }
    }
}

fn tail(keys: &[Key]) -> &[Key] {
    keys.get(keys.len().saturating_sub(limits::BULK_ELEMENTS_MAX)..).unwrap_or_default()
}

/// Watches over the kernel's state for the core: looks once a second, and repairs in slices.
#[derive(Default)]
pub struct Keeper {
    running: Option<Reconcile>,
    requested: bool,
    /// The structure is broken and could not be put back yet.
    damaged: bool,
}

impl Keeper {
    /// Something went wrong with an earlier change: write everything again at the next [`Keeper::look`].
    pub fn request(&mut self) {
        self.requested = true;
    }
    /// A change failed in a way that leaves everything open: put table and rules in place and write everything again at the next
    /// [`Keeper::look`].
    pub fn distrust(&mut self) {
        self.running = None;
        self.requested = true;
        self.damaged = true;
    }
    pub fn is_working(&self) -> bool {
        self.running.is_some()
    }

    /// Once a second. `keys` gives the keys of all bans in force; it is asked only when they have to be written again. The answer
    /// is for the log.
    pub fn look(&mut self, kernel: &mut (impl Kernel + ?Sized), keys: impl FnOnce() -> Vec<Key>) -> Result<Change, NftError> {
        let change = kernel.changed_behind_us()?;
        self.damaged |= matches!(change, Change::Lost(_));
        if self.damaged {
            self.requested = true;
            kernel.rebuild()?;
            self.damaged = false;
        }
        if mem::take(&mut self.requested) {
            self.running = Some(Reconcile::new(keys(), LIST_WHILE_RUNNING_MAX));
        }
        Ok(change)
    }

    /// Between batches, while [`Keeper::is_working`].
    pub fn step(
        &mut self,
        kernel: &mut (impl Kernel + ?Sized),
        ledger: impl Fn(&Key) -> Option<Element>,
    ) -> Result<Option<Report>, NftError> {
        let Some(running) = &mut self.running else { return Ok(None) };
        let report = running.step(kernel, ledger)?;
        if report.is_some() {
            self.running = None;
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::enforce::nft::{FakeKernel, NftOptions};
    use crate::engine::jail::Scope;
    use crate::time::Timestamp;

    type Ledger = BTreeMap<Key, Element>;

    fn element(number: u8) -> Element {
        let scope = if number.is_multiple_of(3) { Scope::All } else { Scope::Mail };
        let timeout = (!number.is_multiple_of(5)).then(|| Duration::from_secs(60 * (1 + u64::from(number))));
        let net = if number.is_multiple_of(2) { format!("192.0.2.{number}") } else { format!("2001:db8:0:{number}::/64") };
        Element { net: net.parse().unwrap(), scope, timeout }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ban(u8),
        Unban(u8),
        ForeignFlush,
        ForeignCommit,
        Failure,
        Work,
        Look,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            any::<u8>().prop_map(Step::Ban),
            any::<u8>().prop_map(Step::Unban),
            Just(Step::ForeignFlush),
            Just(Step::ForeignCommit),
            Just(Step::Failure),
            Just(Step::Work),
            Just(Step::Look),
        ];
        proptest::collection::vec(step, 0..60)
    }

    fn act(step: &Step, kernel: &mut FakeKernel, ledger: &mut Ledger, keeper: &mut Keeper) {
        match step {
            Step::Ban(number) => {
                ledger.insert(element(*number).key(), element(*number));
                if kernel.add(&[element(*number)]).is_err() {
                    keeper.request();
                }
            }
            Step::Unban(number) => {
                ledger.remove(&element(*number).key());
                if kernel.remove(&[element(*number).key()]).is_err() {
                    keeper.request();
                }
            }
            Step::ForeignFlush => kernel.foreign_flush(),
            Step::ForeignCommit => kernel.foreign_commit(),
            Step::Failure => kernel.fail_next(NftError::Uncertain),
            Step::Work => {
                if keeper.step(kernel, |key| ledger.get(key).copied()).is_err() {
                    keeper.distrust();
                }
            }
            Step::Look => {
                let _ = keeper.look(kernel, || ledger.keys().copied().collect());
            }
        }
    }

    proptest! {
        #[test]
        fn converges_from_any_state(before: Vec<u8>, banned: Vec<u8>, steps in steps()) {
            let mut kernel = FakeKernel::new(NftOptions::default(), Timestamp::ZERO);
            kernel.add(&before.iter().map(|number| element(*number)).collect::<Vec<_>>()).unwrap();
            let mut ledger: Ledger = banned.iter().map(|number| (element(*number).key(), element(*number))).collect();
            let mut keeper = Keeper::default();
            keeper.request();
            for step in &steps {
                act(step, &mut kernel, &mut ledger, &mut keeper);
            }
            while keeper.look(&mut kernel, || ledger.keys().copied().collect()).is_err() || keeper.is_working() {
                while keeper.is_working() {
                    if keeper.step(&mut kernel, |key| ledger.get(key).copied()).is_err() {
                        keeper.distrust();
                    }
                }
            }
            prop_assert_eq!(kernel.elements(), ledger.into_values().collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_sets_are_written_but_not_searched() {
        let mut kernel = FakeKernel::new(NftOptions::default(), Timestamp::ZERO);
        let host = |number: u16| Element {
            net: format!("10.0.{}.{}", number / 256, number % 256).parse().unwrap(),
            scope: Scope::Mail,
            timeout: None,
        };
        kernel.add(&(0..600).map(host).collect::<Vec<_>>()).unwrap();
        let wanted: Ledger = (500..1700).map(|number| (host(number).key(), host(number))).collect();
        let report = Reconcile::new(wanted.keys().copied().collect(), 500).run(&mut kernel, |key| wanted.get(key).copied()).unwrap();
        assert_eq!((report.restored, report.removed, report.unread.len()), (1200, 0, 1));
        assert_eq!(kernel.elements().len(), 1700);
        let report = Reconcile::new(wanted.keys().copied().collect(), 5000).run(&mut kernel, |key| wanted.get(key).copied()).unwrap();
        assert_eq!((report.restored, report.removed, report.unread.len()), (1200, 500, 0));
    }

    #[test]
    fn a_full_set_is_reported_once_for_each_element() {
        let mut kernel = FakeKernel::new(NftOptions { set_size: 3, ..NftOptions::default() }, Timestamp::ZERO);
        let wanted: Ledger = (0..5).map(|number| element(number * 30 + 2)).map(|element| (element.key(), element)).collect();
        let report = Reconcile::new(wanted.keys().copied().collect(), 10).run(&mut kernel, |key| wanted.get(key).copied()).unwrap();
        assert_eq!((report.restored, report.refused), (3, 2));
    }
}
