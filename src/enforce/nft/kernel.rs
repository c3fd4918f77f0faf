//! The real firewall, over netlink. One socket, which owns the table where the kernel knows owners.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::encode::{Ack, TableName};
use super::error::{NftError, Owner};
use super::features::{self, Features};
use super::layout::{Layout, SetId};
use super::link::{Blame, CommitError, Link};
use super::plan::{self, Group, NftOp, Script, TableFlags, Timed};
use super::read::{self, ChainInfo, TableInfo};
use super::{Applied, Change, Counter, Element, Kernel, KernelStatus, Key, NftOptions, Remaining, TableMode, uapi};
use crate::engine::jail::Scope;
use crate::limits;

/// Commits of one slice before its remaining elements are given up; each refused element takes one.
const TRIES_MAX: usize = 16;
/// Elements of a plain leftover table that are carried over into an owned one in the same commit.
const CARRIED_MAX: usize = 1_000;
/// An element that lives this long is a good witness that nobody emptied its set.
const WITNESS_LIFE_MIN: Duration = Duration::from_secs(10);

pub struct NetlinkKernel {
    link: Link,
    options: NftOptions,
    features: Features,
    mode: TableMode,
    layout: Layout,
    /// The rule set's generation as our own commits leave it.
    generation: u32,
    structure: Structure,
    witnesses: BTreeMap<SetId, Witness>,
    /// Damage that a commit met and repaired, not yet told to the caller.
    lost: Option<String>,
}

/// What our table consists of, elements aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Structure {
    chains: Vec<ChainInfo>,
    sets: BTreeSet<SetId>,
    /// (chain, handle)
    rules: Vec<(String, u64)>,
}

/// The last long-lived element written to a set.
struct Witness {
    net: IpNetwork,
    until: Option<Instant>,
}

impl NetlinkKernel {
    /// Opens the socket, finds out what the kernel can do, and puts the table in place or adopts the one that is there: its
    /// elements stay, and no packet passes meanwhile.
    pub fn start(options: NftOptions) -> Result<NetlinkKernel, NftError> {
        let mut link = Link::open(TableName::new(&options.table)?)?;
        refuse_foreign_owner(&mut link)?;
        let features = features::probe()?.without(&options.disabled);
        let generation = read::generation(&mut link)?;
        link.expiration = features.timeout_update;
        let layout = Layout::new(&options.scopes, &options.reject, options.set_size);
        let mut kernel = NetlinkKernel {
            link,
            options,
            features,
            mode: TableMode::Plain,
            layout,
            generation,
            structure: Structure::default(),
            witnesses: BTreeMap::new(),
            lost: None,
        };
        kernel.rebuild()?;
        Ok(kernel)
    }

    pub fn features(&self) -> Features {
        self.features
    }

    fn commit(&mut self, ops: &[NftOp]) -> Result<(), CommitError> {
        let ack = if self.features.batch_end_ack { Ack::End } else { Ack::LastOp };
        let mut result = self.link.commit(ops, ack);
        if matches!(result, Err(CommitError::Nft(NftError::Uncertain))) {
            // Everything we ever commit may be committed twice.
            result = self.link.commit(ops, ack);
            self.generation = read::generation(&mut self.link)?;
        }
        result?;
        if ops.iter().any(always_changes) {
            self.generation = next_generation(self.generation);
        } else if !ops.is_empty() {
            self.generation = read::generation(&mut self.link)?;
        }
        Ok(())
    }

    fn commit_structure(&mut self, ops: &[NftOp]) -> Result<(), NftError> {
        self.commit(ops).map_err(|error| translate(&mut self.link, ops, error))?;
        self.structure = self.read_structure()?;
        Ok(())
    }

    fn read_structure(&self) -> Result<Structure, NftError> {
        let sets = read::sets(&self.link)?.iter().filter_map(|set| set.ours()).collect();
        let rules = read::rules(&self.link)?.into_iter().map(|rule| (rule.chain, rule.handle)).collect();
        Ok(Structure { chains: read::chains(&self.link)?, sets, rules })
    }

    /// The table's flags: owned if it is new or an orphan of the same kind, otherwise as it stands, since a plain table cannot be
    /// upgraded.
    fn flags_for(&self, existing: Option<TableInfo>) -> TableFlags {
        let owned = TableFlags { owner: true, persist: true };
        let persists = existing.is_some_and(|info| info.flags & uapi::table::F_PERSIST != 0);
        match existing {
            None if self.features.owner_persist => owned,
            Some(_) if persists && self.features.owner_persist => owned,
            _ => TableFlags { owner: false, persist: persists },
        }
    }

    /// Ops that turn whatever is in the table into our layout. Sets that are as ours stay with their elements.
    fn adopt(&mut self) -> Result<Vec<NftOp>, NftError> {
        let sets = read::sets(&self.link)?;
        let chains = read::chains(&self.link)?;
        for set in sets.iter().filter_map(|set| set.ours()) {
            self.layout.adopt(set);
        }
        let wanted = self.layout.chains();
        let mut ops: Vec<NftOp> = chains.iter().map(|chain| NftOp::FlushChain(chain.name.clone())).collect();
        let unfit = chains.iter().filter(|chain| !wanted.iter().any(|wanted| chain.is(*wanted)));
        ops.extend(unfit.map(|chain| NftOp::DeleteChain(chain.name.clone())));
        let unknown = sets.iter().filter(|set| !set.is_anonymous() && set.ours().is_none());
        ops.extend(unknown.map(|set| NftOp::DeleteSet(set.name.clone())));
        Ok(ops)
    }

    /// A plain table cannot become an owned one, but a small one can be replaced by one in the same commit.
    fn replacement(&mut self, existing: TableInfo) -> Result<Option<Vec<NftOp>>, NftError> {
        if !self.features.owner_persist || existing.flags & uapi::table::F_PERSIST != 0 {
            return Ok(None);
        }
        let Some(elements) = self.list(CARRIED_MAX)?.filter(|elements| elements.len() <= CARRIED_MAX) else { return Ok(None) };
        let mut ops = vec![NftOp::DeleteTable, NftOp::AddTable(TableFlags { owner: true, persist: true })];
        ops.extend(self.layout.install());
        ops.extend(plan::by_set(&elements).into_iter().map(|Group { set, elements }| NftOp::Add { set, elements }));
        Ok(Some(ops))
    }

    /// Makes sure that each group's set exists.
    fn grow(&mut self, groups: &[Group]) -> Result<(), NftError> {
        if groups.iter().all(|group| self.layout.has(group.set)) {
            return Ok(());
        }
        let mut layout = self.layout.clone();
        let ops: Vec<NftOp> = groups.iter().flat_map(|group| layout.extend(group.set)).collect();
        match self.commit_structure(&ops) {
            Ok(()) => {
                self.layout = layout;
                Ok(())
            }
            Err(NftError::Gone { .. }) => {
                self.layout = layout;
                self.repair()
            }
            Err(error) => Err(error),
        }
    }

    fn repair(&mut self) -> Result<(), NftError> {
        self.rebuild()?;
        self.lost = Some("a commit found the table or a part of it missing".to_owned());
        Ok(())
    }

    fn add_groups(&mut self, mut groups: Vec<Group>, applied: &mut Applied) -> Result<(), NftError> {
        self.grow(&groups)?;
        for attempt in 0..TRIES_MAX {
            groups.retain(|group| !group.elements.is_empty());
            let ops = plan::upserts(&groups, &self.features);
            match self.commit(&ops) {
                Ok(()) => {
                    self.remember(&groups);
                    return Ok(());
                }
                Err(CommitError::TooBig) => return self.add_halves(groups, applied, ops),
                Err(CommitError::Failed(blames)) if blames.iter().any(is_gone) && attempt == 0 => self.repair()?,
                Err(CommitError::Failed(blames)) => self.drop_blamed(&mut groups, &ops, &blames, applied)?,
                Err(CommitError::Nft(error)) => return Err(error),
            }
        }
        let errors = groups.iter().flat_map(|group| group.elements.iter().map(|timed| (element_of(group.set, timed), NftError::Uncertain)));
        applied.refused.extend(errors);
        Ok(())
    }

    /// Takes out of the groups what the kernel refused, so that the rest can be sent again.
    fn drop_blamed(&mut self, groups: &mut Vec<Group>, ops: &[NftOp], blames: &[Blame], applied: &mut Applied) -> Result<(), NftError> {
        let ops_a_group = ops.len() / groups.len().max(1);
        let mut seen = BTreeSet::new();
        for blame in blames {
            let index = blame.op.map(|op| op / ops_a_group.max(1));
            let fatal = blame.errno == Errno::EPERM || is_gone(blame);
            let Some(group) = index.filter(|_| !fatal).and_then(|index| groups.get_mut(index)) else {
                return Err(translate(&mut self.link, ops, CommitError::Failed(vec![blame.clone()])));
            };
            // What follows in the same group fails because of the first.
            if !seen.insert(group.set) {
                continue;
            }
            match blame.element {
                Some(element) if blame.errno == Errno::ENFILE => self.drop_overflow(group, element, applied)?,
                Some(element) if element < group.elements.len() => {
                    let timed = group.elements.remove(element);
                    let error = translate(&mut self.link, ops, CommitError::Failed(vec![blame.clone()]));
                    applied.refused.push((element_of(group.set, &timed), error));
                }
                _ if group.elements.len() == 1 && blame.errno == Errno::ENFILE => self.drop_overflow(group, 0, applied)?,
                // Which element it was is not said (kernels without extended ACK): halves, until there is one.
                _ if group.elements.len() > 1 => {
                    let group = std::mem::replace(group, Group { set: group.set, elements: Vec::new() });
                    self.add_halves(vec![group], applied, Vec::new())?;
                }
                _ => {
                    let error = |link: &mut Link| translate(link, ops, CommitError::Failed(vec![blame.clone()]));
                    for timed in std::mem::take(&mut group.elements) {
                        applied.refused.push((element_of(group.set, &timed), error(&mut self.link)));
                    }
                }
            }
        }
        Ok(())
    }

    /// From `first` on the set has no room: only what is in it already can still be changed.
    fn drop_overflow(&mut self, group: &mut Group, first: usize, applied: &mut Applied) -> Result<(), NftError> {
        let tail = group.elements.split_off(first.min(group.elements.len()));
        for timed in tail {
            if read::element(&mut self.link, group.set, timed.net)?.is_some() {
                group.elements.push(timed);
            } else {
                let error = NftError::SetFull { set: group.set, size: self.layout.size() };
                applied.refused.push((element_of(group.set, &timed), error));
            }
        }
        Ok(())
    }

    fn add_halves(&mut self, groups: Vec<Group>, applied: &mut Applied, ops: Vec<NftOp>) -> Result<(), NftError> {
        let elements: Vec<Element> =
            groups.iter().flat_map(|group| group.elements.iter().map(|timed| element_of(group.set, timed))).collect();
        if elements.len() < 2 {
            return Err(translate(&mut self.link, &ops, CommitError::TooBig));
        }
        let (left, right) = elements.split_at(elements.len() / 2);
        self.add_groups(plan::by_set(left), applied)?;
        self.add_groups(plan::by_set(right), applied)
    }

    fn remember(&mut self, groups: &[Group]) {
        for group in groups {
            let lasting = group.elements.iter().rev().find(|timed| timed.timeout.is_none_or(|timeout| timeout > WITNESS_LIFE_MIN));
            let witness =
                lasting.map(|timed| Witness { net: timed.net, until: timed.timeout.and_then(|left| Instant::now().checked_add(left)) });
            // A witness may have been rewritten by this very call; then only the new one is to be believed.
            let stale = |old: &Witness| group.elements.iter().any(|timed| timed.net == old.net);
            if let Some(witness) = witness {
                self.witnesses.insert(group.set, witness);
            } else if self.witnesses.get(&group.set).is_some_and(stale) {
                self.witnesses.remove(&group.set);
            }
        }
    }

    /// What is missing of our table, in words; `None` when all is well.
    fn damage(&mut self) -> Result<Option<String>, NftError> {
        let Some(info) = read::table(&mut self.link)? else { return Ok(Some("the table was removed".into())) };
        if info.flags & uapi::table::F_DORMANT != 0 {
            return Ok(Some("the table was made dormant".into()));
        }
        if self.mode == TableMode::Owned {
            let ours = info.owner == Some(self.link.port());
            return Ok((!ours).then(|| "the table is not ours any more".into()));
        }
        if self.read_structure()? != self.structure {
            return Ok(Some("sets, chains or rules were changed".into()));
        }
        let soon = Instant::now() + Duration::from_secs(1);
        let witnesses: Vec<(SetId, IpNetwork)> = self
            .witnesses
            .iter()
            .filter(|(_, witness)| witness.until.is_none_or(|until| until > soon))
            .map(|(set, witness)| (*set, witness.net))
            .collect();
        for (set, net) in witnesses {
            if read::element(&mut self.link, set, net)?.is_none() {
                return Ok(Some(format!("elements of set {set} were removed")));
            }
        }
        Ok(None)
    }
}

impl Kernel for NetlinkKernel {
    fn add(&mut self, elements: &[Element]) -> Result<Applied, NftError> {
        let mut applied = Applied::default();
        for slice in elements.chunks(limits::BULK_ELEMENTS_MAX) {
            self.add_groups(plan::by_set(slice), &mut applied)?;
        }
        Ok(applied)
    }

    fn remove(&mut self, keys: &[Key]) -> Result<(), NftError> {
        for slice in keys.chunks(limits::BULK_ELEMENTS_MAX) {
            let ops = plan::removals(slice, &self.layout, &self.features);
            match self.commit(&ops) {
                Ok(()) => {}
                Err(CommitError::Failed(blames)) if blames.iter().any(is_gone) => self.repair()?,
                // Without "destroy" an absent key is added first, for which a full set has no room.
                Err(CommitError::Failed(blames)) if blames.iter().any(|blame| blame.errno == Errno::ENFILE) => {
                    let mut present = Vec::new();
                    for (net, scope) in slice {
                        if self.contains(*net, *scope)?.is_some() {
                            present.push((*net, *scope));
                        }
                    }
                    let ops = plan::removals(&present, &self.layout, &self.features);
                    self.commit(&ops).map_err(|error| translate(&mut self.link, &ops, error))?;
                }
                Err(error) => return Err(translate(&mut self.link, &ops, error)),
            }
            for (net, scope) in slice {
                let set = SetId::of(*net, *scope);
                if self.witnesses.get(&set).is_some_and(|witness| witness.net == *net) {
                    self.witnesses.remove(&set);
                }
            }
        }
        Ok(())
    }

    fn contains(&mut self, net: IpNetwork, scope: Scope) -> Result<Option<Remaining>, NftError> {
        let net = crate::address::network(net.ip(), net.prefix());
        read::element(&mut self.link, SetId::of(net, scope), net)
    }

    fn changed_behind_us(&mut self) -> Result<Change, NftError> {
        if let Some(lost) = self.lost.take() {
            return Ok(Change::Lost(lost));
        }
        let generation = read::generation(&mut self.link)?;
        if generation == self.generation {
            return Ok(Change::None);
        }
        self.generation = generation;
        Ok(self.damage()?.map_or(Change::Elsewhere, Change::Lost))
    }

    fn rebuild(&mut self) -> Result<(), NftError> {
        self.witnesses.clear();
        self.lost = None;
        refuse_foreign_owner(&mut self.link)?;
        let existing = read::table(&mut self.link)?;
        let mut flags = self.flags_for(existing);
        let clearing = if existing.is_some() { self.adopt()? } else { Vec::new() };
        let replacement = existing.map_or(Ok(None), |info| self.replacement(info))?;
        let ops = match replacement {
            Some(ops) => {
                flags = TableFlags { owner: true, persist: true };
                ops
            }
            None => [NftOp::AddTable(flags)].into_iter().chain(clearing).chain(self.layout.install()).collect(),
        };
        if let Err(error) = self.commit_structure(&ops) {
            if existing.is_none() || matches!(error, NftError::NotPermitted | NftError::Owned { .. }) {
                return Err(error);
            }
            // Something in there cannot be cleared piece by piece. The caller restores the bans anyhow.
            flags = self.flags_for(None);
            let ops: Vec<NftOp> = [NftOp::DeleteTable, NftOp::AddTable(flags)].into_iter().chain(self.layout.install()).collect();
            self.commit_structure(&ops)?;
        }
        self.mode = if flags.owner { TableMode::Owned } else { TableMode::Plain };
        Ok(())
    }

    fn flush(&mut self) -> Result<(), NftError> {
        self.witnesses.clear();
        let ops: Vec<NftOp> = self.layout.sets().iter().map(|set| NftOp::FlushSet(*set)).collect();
        match self.commit(&ops) {
            Err(CommitError::Failed(blames)) if blames.iter().any(is_gone) => self.repair(),
            result => result.map_err(|error| translate(&mut self.link, &ops, error)),
        }
    }

    fn list(&mut self, limit: usize) -> Result<Option<Vec<Element>>, NftError> {
        let mut all = Vec::new();
        for set in self.layout.sets() {
            let Some(elements) = read::elements(&self.link, *set, limit)? else { return Ok(None) };
            all.extend(elements);
        }
        Ok(Some(all))
    }

    fn counters(&mut self) -> Result<Vec<Counter>, NftError> {
        let mut counters: BTreeMap<SetId, Counter> = BTreeMap::new();
        for rule in read::rules(&self.link)? {
            for set in rule.sets.iter().filter_map(|name| name.parse::<SetId>().ok()) {
                let counter = counters.entry(set).or_insert(Counter { set, packets: 0, bytes: 0 });
                counter.packets = counter.packets.saturating_add(rule.packets);
                counter.bytes = counter.bytes.saturating_add(rule.bytes);
            }
        }
        Ok(counters.into_values().collect())
    }

    fn status(&self) -> KernelStatus {
        KernelStatus {
            table: self.options.table.clone(),
            mode: self.mode,
            features: self.features,
            sets: self.layout.sets().iter().copied().collect(),
            set_size: self.layout.size(),
        }
    }
}

/// Removes the table with everything in it, without a daemon. `false`: there was none.
pub fn teardown(table: &str) -> Result<bool, NftError> {
    let mut link = Link::open(TableName::new(table)?)?;
    refuse_foreign_owner(&mut link)?;
    if read::table(&mut link)?.is_none() {
        return Ok(false);
    }
    match link.commit(&[NftOp::DeleteTable], Ack::LastOp) {
        Ok(_) => Ok(true),
        Err(CommitError::Failed(blames)) if blames.iter().any(is_gone) => Ok(false),
        Err(error) => Err(translate(&mut link, &[NftOp::DeleteTable], error)),
    }
}

/// The operator's words for a failed commit of `ops`.
pub fn translate(link: &mut Link, ops: &[NftOp], error: CommitError) -> NftError {
    let table = link.table().as_str().to_owned();
    let blame = match error {
        CommitError::Nft(error) => return error,
        CommitError::TooBig => Blame { op: None, element: None, errno: Errno::EMSGSIZE, text: None },
        CommitError::Failed(blames) => match blames.into_iter().next() {
            Some(blame) => blame,
            None => return NftError::Uncertain,
        },
    };
    let op = blame.op.and_then(|op| ops.get(op));
    match (blame.errno, op) {
        (Errno::EPERM, _) => refuse_foreign_owner(link).err().unwrap_or(NftError::NotPermitted),
        _ if is_gone(&blame) => NftError::Gone { table },
        (errno, op) => {
            let what = op.map_or_else(|| "the batch".into(), |op| Script { table: &table, ops: std::slice::from_ref(op) }.to_string());
            NftError::Refused { what: what.trim().chars().take(200).collect(), errno, text: blame.text }
        }
    }
}

/// The kernel does not know what was asked for.
pub fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT)
}

/// Not an element but what it belongs to is missing.
fn is_gone(blame: &Blame) -> bool {
    blame.errno == Errno::ENOENT && blame.element.is_none()
}

fn refuse_foreign_owner(link: &mut Link) -> Result<(), NftError> {
    let Some(TableInfo { owner: Some(port), .. }) = read::table(link)? else { return Ok(()) };
    if port == link.port() {
        return Ok(());
    }
    Err(NftError::Owned { table: link.table().as_str().to_owned(), owner: Owner::of_port(port) })
}

/// Whether a commit with this op moves the generation on, whatever was there before.
fn always_changes(op: &NftOp) -> bool {
    match op {
        NftOp::Add { elements, .. } => elements.iter().any(|timed| timed.timeout.is_some()),
        NftOp::Destroy { .. } | NftOp::FlushSet(_) | NftOp::FlushChain(_) => false,
        NftOp::AddTable(_) | NftOp::AddSet { .. } | NftOp::AddChain(_) => false,
        NftOp::Delete { .. } | NftOp::AddRule(..) | NftOp::DeleteTable | NftOp::DeleteSet(_) | NftOp::DeleteChain(_) => true,
    }
}

/// The kernel's count skips zero.
fn next_generation(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

fn element_of(set: SetId, timed: &Timed) -> Element {
    Element { net: timed.net, scope: set.scope, timeout: timed.timeout }
}
