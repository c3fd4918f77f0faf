//! A firewall in memory, for tests. `tests/enforcer_contract.rs` holds it to what the real one does.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::layout::{Layout, SetId};
use super::plan::{self, Timed};
use super::{Applied, Change, Counter, Element, Features, Kernel, KernelStatus, Key, Listing, NftError, NftOptions, Remaining, TableMode};
use crate::address;
use crate::engine::jail::Scope;
use crate::limits;
use crate::time::Timestamp;

pub struct FakeKernel {
    now: Timestamp,
    options: NftOptions,
    layout: Layout,
    /// `None`: somebody flushed the rule set.
    table: Option<HashMap<Key, Timestamp>>,
    foreign_change: bool,
    lost: Option<String>,
    failures: Vec<NftError>,
    /// Calls that changed something, for tests that count them.
    pub commits: usize,
}

impl FakeKernel {
    pub fn new(options: NftOptions, now: Timestamp) -> FakeKernel {
        let layout = Layout::new(&options.scopes, &options.reject, options.set_size);
        FakeKernel {
            now,
            options,
            layout,
            table: Some(HashMap::new()),
            foreign_change: false,
            lost: None,
            failures: Vec::new(),
            commits: 0,
        }
    }
    pub fn advance(&mut self, span: Duration) {
        self.now = self.now + span;
    }
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }
    /// `nft flush ruleset` by somebody else.
    pub fn foreign_flush(&mut self) {
        self.table = None;
        self.foreign_change = true;
    }
    /// Somebody else changes rules of their own.
    pub fn foreign_commit(&mut self) {
        self.foreign_change = true;
    }
    /// The next changing call fails with this.
    pub fn fail_next(&mut self, error: NftError) {
        self.failures.push(error);
    }
    /// What is in force now.
    pub fn elements(&self) -> Vec<Element> {
        let all = self.table.iter().flatten().filter(|(_, until)| **until > self.now);
        let mut all: Vec<Element> =
            all.map(|((net, scope), until)| Element { net: *net, scope: *scope, timeout: self.left(*until) }).collect();
        all.sort_by_key(|element| element.key());
        all
    }

    fn left(&self, until: Timestamp) -> Option<Duration> {
        (until != Timestamp::NEVER).then(|| until.since(self.now))
    }

    fn change(&mut self) -> Result<(), NftError> {
        self.commits += 1;
        if let Some(error) = self.failures.pop() {
            return Err(error);
        }
        if self.table.is_none() {
            self.rebuild()?;
            self.lost = Some("a commit found the table or a part of it missing".into());
        }
        Ok(())
    }
}

impl Kernel for FakeKernel {
    fn add(&mut self, elements: &[Element]) -> Result<Applied, NftError> {
        self.change()?;
        let (now, size) = (self.now, self.layout.size());
        let mut applied = Applied::default();
        let table = self.table.as_mut().expect("`change` made it");
        table.retain(|_, until| *until > now);
        for group in elements.chunks(limits::BULK_ELEMENTS_MAX).flat_map(plan::by_set) {
            let _ = self.layout.extend(group.set);
            let scope = group.set.scope;
            let mut in_set = table.keys().filter(|key| SetId::of(key.0, key.1) == group.set).count();
            for Timed { net, timeout } in group.elements {
                let is_new = !table.contains_key(&(net, scope));
                if is_new && in_set >= size as usize {
                    applied.refused.push((Element { net, scope, timeout }, NftError::SetFull { set: group.set, size }));
                    continue;
                }
                in_set += usize::from(is_new);
                table.insert((net, scope), timeout.map_or(Timestamp::NEVER, |left| now + left));
            }
        }
        Ok(applied)
    }

    fn remove(&mut self, keys: &[Key]) -> Result<(), NftError> {
        self.change()?;
        for key in keys {
            self.table.as_mut().map(|table| table.remove(&canonical(*key)));
        }
        Ok(())
    }

    fn contains(&mut self, net: IpNetwork, scope: Scope) -> Result<Option<Remaining>, NftError> {
        let until = self.table.as_ref().and_then(|table| table.get(&canonical((net, scope)))).filter(|until| **until > self.now);
        Ok(until.map(|until| self.left(*until).map_or(Remaining::Forever, Remaining::For)))
    }

    fn changed_behind_us(&mut self) -> Result<Change, NftError> {
        if let Some(lost) = self.lost.take() {
            return Ok(Change::Lost(lost));
        }
        match (std::mem::take(&mut self.foreign_change), self.table.is_some()) {
            (false, _) => Ok(Change::None),
            (true, true) => Ok(Change::Elsewhere),
            (true, false) => Ok(Change::Lost("the table was removed".into())),
        }
    }

    fn rebuild(&mut self) -> Result<(), NftError> {
        self.failures.pop().map_or(Ok(()), Err)?;
        self.table.get_or_insert_default();
        self.lost = None;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), NftError> {
        self.change()?;
        self.table = Some(HashMap::new());
        Ok(())
    }

    fn list(&mut self, limit: usize) -> Result<Listing, NftError> {
        let mut sets: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        for element in self.elements() {
            sets.entry(SetId::of(element.net, element.scope)).or_default().push(element);
        }
        let mut listing = Listing::default();
        for (set, elements) in sets {
            if elements.len() <= limit { listing.elements.extend(elements) } else { listing.unread.push(set) }
        }
        Ok(listing)
    }

    fn counters(&mut self) -> Result<Vec<Counter>, NftError> {
        Ok(self.layout.sets().iter().map(|set| Counter { set: *set, packets: 0, bytes: 0 }).collect())
    }

    fn status(&self) -> KernelStatus {
        KernelStatus {
            table: self.options.table.clone(),
            mode: TableMode::Imagined,
            features: Features::default(),
            sets: self.layout.sets().iter().copied().collect(),
            set_size: self.layout.size(),
        }
    }
}

fn canonical((net, scope): Key) -> Key {
    (address::network(net.ip(), net.prefix()), scope)
}
