//! The real firewall, over netlink. One socket, which owns the table where the kernel knows owners.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::encode::{Ack, TableName};
use super::error::{NftError, Owner};
use super::features::{self, Features};
use super::layout::{Layout, SetId};
use super::link::{Blame, CommitError, Link};
use super::plan::{self, Group, NftOp, Script, TableFlags};
use super::read::{self, TableInfo};
use super::watch::{Structure, Witnesses};
use super::{Applied, Change, Counter, Element, Kernel, KernelStatus, Key, Listing, NftOptions, Remaining, TableMode, uapi};
use crate::engine::jail::Scope;
use crate::limits;

/// Elements of a plain leftover table that are carried over into an owned one in the same commit.
const CARRIED_MAX: usize = 1_000;

pub struct NetlinkKernel {
    pub(super) link: Link,
    options: NftOptions,
    pub(super) features: Features,
    pub(super) mode: TableMode,
    pub(super) layout: Layout,
    /// The rule set's generation as our own commits leave it.
    generation: u32,
    pub(super) structure: Structure,
    pub(super) witnesses: Witnesses,
    /// Damage that a commit met and repaired, not yet told to the caller.
    pub(super) lost: Option<String>,
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
        link.offsets = features.error_offset;
        let layout = Layout::new(&options.scopes, &options.reject, options.set_size);
        let mut kernel = NetlinkKernel {
            link,
            options,
            features,
            mode: TableMode::Plain,
            layout,
            generation,
            structure: Structure::default(),
            witnesses: Witnesses::default(),
            lost: None,
        };
        kernel.rebuild()?;
        Ok(kernel)
    }

    pub fn features(&self) -> Features {
        self.features
    }

    pub(super) fn commit(&mut self, ops: &[NftOp]) -> Result<(), CommitError> {
        let ack = if self.features.batch_end_ack { Ack::End } else { Ack::LastOp };
        let mut result = self.link.commit(ops, ack);
        let removes = |op: &NftOp| matches!(op, NftOp::DeleteSet(_) | NftOp::DeleteChain(_));
        if matches!(result, Err(CommitError::Nft(NftError::Uncertain))) && !ops.iter().any(removes) {
            // Everything else may be committed twice.
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

    pub(super) fn commit_structure(&mut self, ops: &[NftOp]) -> Result<(), NftError> {
        self.commit(ops).map_err(|error| translate(&mut self.link, ops, error))?;
        self.structure = Structure::read(&self.link)?;
        Ok(())
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
            // One that an earlier run made for a ban long over goes.
            if self.layout.has(set) || read::elements(&self.link, set, 0)?.is_none() {
                self.layout.adopt(set);
            }
        }
        let wanted = self.layout.chains();
        let mut ops: Vec<NftOp> = chains.iter().map(|chain| NftOp::FlushChain(chain.name.clone())).collect();
        let unfit = chains.iter().filter(|chain| !wanted.iter().any(|wanted| chain.is(*wanted)));
        ops.extend(unfit.map(|chain| NftOp::DeleteChain(chain.name.clone())));
        let useless = sets.iter().filter(|set| !set.is_anonymous() && set.ours().is_none_or(|set| !self.layout.has(set)));
        ops.extend(useless.map(|set| NftOp::DeleteSet(set.name.clone())));
        Ok(ops)
    }

    /// A plain table cannot become an owned one, but a small one can be replaced by one in the same commit.
    fn replacement(&mut self, existing: TableInfo) -> Result<Option<Vec<NftOp>>, NftError> {
        if !self.features.owner_persist || existing.flags & uapi::table::F_PERSIST != 0 {
            return Ok(None);
        }
        let Listing { elements, unread } = self.list(CARRIED_MAX)?;
        if elements.len() > CARRIED_MAX || !unread.is_empty() {
            return Ok(None);
        }
        let mut ops = vec![NftOp::DeleteTable, NftOp::AddTable(TableFlags { owner: true, persist: true })];
        ops.extend(self.layout.install());
        ops.extend(plan::by_set(&elements).into_iter().map(|Group { set, elements }| NftOp::Add { set, elements }));
        Ok(Some(ops))
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
                Err(CommitError::Failed(blames)) if is_gone(&blames, &ops) => self.repair()?,
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
            self.witnesses.removed(slice);
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
            if existing.is_none() || !matches!(error, NftError::Refused { .. } | NftError::Gone { .. }) {
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
            Err(CommitError::Failed(blames)) if is_gone(&blames, &ops) => self.repair(),
            result => result.map_err(|error| translate(&mut self.link, &ops, error)),
        }
    }

    fn list(&mut self, limit: usize) -> Result<Listing, NftError> {
        let mut listing = Listing::default();
        for set in self.layout.sets() {
            match read::elements(&self.link, *set, limit)? {
                Some(elements) => listing.elements.extend(elements),
                None => listing.unread.push(*set),
            }
        }
        Ok(listing)
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
        Err(CommitError::Failed(blames)) if is_gone(&blames, &[NftOp::DeleteTable]) => Ok(false),
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
        _ if is_gone(std::slice::from_ref(&blame), ops) => NftError::Gone { table },
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

/// Not an element but what it belongs to is missing. A delete that does not say what it misses only follows from another failure.
pub fn is_gone(blames: &[Blame], ops: &[NftOp]) -> bool {
    blames.iter().any(|blame| {
        let op = blame.op.and_then(|op| ops.get(op));
        blame.errno == Errno::ENOENT && blame.element.is_none() && !matches!(op, Some(NftOp::Delete { .. }))
    })
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
