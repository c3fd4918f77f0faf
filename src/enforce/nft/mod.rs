//! The firewall: bans as elements of nftables sets.
//!
//! **Invariant:** `plan` and `layout` are pure; everything that is told to the kernel is an [`plan::NftOp`] first. `unsafe` lives in
//! `sys` alone. No batch fails in normal running: nothing is added exclusively, nothing absent is deleted (a failing batch costs
//! 8 ms, a good one 6 µs). Our own state is the truth: large sets are never read back.

mod encode;
mod error;
mod fake;
mod features;
mod kernel;
pub mod layout;
mod leftover;
mod link;
pub mod plan;
mod read;
pub(crate) mod sys;
mod uapi;
mod watch;
pub(crate) mod wire;
mod write;

use std::time::Duration;

use ipnetwork::IpNetwork;

pub use error::{NftError, Owner};
pub use fake::FakeKernel;
pub use features::{Feature, Features, probe};
pub use kernel::{NetlinkKernel, teardown};
pub use layout::SetId;
pub use leftover::{Leftover, left_holding, leftover};

use crate::engine::jail::Scope;
use crate::limits;

/// What names a ban in the kernel.
pub type Key = (IpNetwork, Scope);

/// A ban as the kernel keeps it. `timeout` counts from the moment it is written; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    pub net: IpNetwork,
    pub scope: Scope,
    pub timeout: Option<Duration>,
}

impl Element {
    pub fn key(&self) -> Key {
        (self.net, self.scope)
    }
}

/// How long an element stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    Forever,
    For(Duration),
}

/// What others did to the rule set since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// Something changed, but nothing of ours.
    Elsewhere,
    /// Ours is damaged, and in which way. The caller calls [`Kernel::rebuild`] and restores every ban.
    Lost(String),
}

/// What became of the elements of one call. Those not named are in force.
#[derive(Debug, Default)]
pub struct Applied {
    pub refused: Vec<(Element, NftError)>,
}

/// The kernel's firewall. Every call is idempotent and takes effect before it returns.
pub trait Kernel {
    /// Elements are there with exactly these timeouts afterwards, whatever was there before: shortened, prolonged, made permanent.
    /// More than [`limits::BULK_ELEMENTS_MAX`] are written in several commits; a caller that has other things to do hands over
    /// slices of that size. An error means that an unknown part is in force: call again.
    fn add(&mut self, elements: &[Element]) -> Result<Applied, NftError>;
    /// None of the keys is there afterwards; absent ones are no error.
    fn remove(&mut self, keys: &[Key]) -> Result<(), NftError>;
    /// The element of exactly this network and scope; a wider one that covers it does not count.
    fn contains(&mut self, net: IpNetwork, scope: Scope) -> Result<Option<Remaining>, NftError>;
    /// Cheap (5 µs) when nothing happened: once a second.
    fn changed_behind_us(&mut self) -> Result<Change, NftError>;
    /// Puts table, sets, chains and rules in place, in one commit; elements that are there stay.
    fn rebuild(&mut self) -> Result<(), NftError>;
    /// Removes every element.
    fn flush(&mut self) -> Result<(), NftError>;
    /// The elements of every set that has no more than `limit`. Never for large sets: the kernel's work grows with the square of
    /// the number (10,000: 7 ms, 100,000: 260 ms).
    fn list(&mut self, limit: usize) -> Result<Listing, NftError>;
    /// Packets dropped or rejected by each set since the rules were last written.
    fn counters(&mut self) -> Result<Vec<Counter>, NftError>;
    fn status(&self) -> KernelStatus;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub elements: Vec<Element>,
    /// Sets that were too large to be read.
    pub unread: Vec<SetId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    pub set: SetId,
    pub packets: u64,
    pub bytes: u64,
}

/// What `status` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelStatus {
    pub table: String,
    pub mode: TableMode,
    pub features: Features,
    pub sets: Vec<SetId>,
    pub set_size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableMode {
    /// Nobody else can change or flush it.
    Owned,
    /// Anybody with CAP_NET_ADMIN can; we look once a second and put it back.
    Plain,
    /// No kernel behind it.
    Imagined,
}

#[derive(Clone, Debug)]
pub struct NftOptions {
    /// Of the family inet.
    pub table: String,
    /// Scopes that get their sets at start; others get them with their first ban.
    pub scopes: Vec<Scope>,
    /// Scopes whose clients are answered (TCP reset) instead of ignored. Such rules sit at input, so a container behind DNAT is not
    /// covered by them.
    pub reject: Vec<Scope>,
    /// Elements in one set at most.
    pub set_size: u32,
    /// Features that are not used although the kernel has them.
    pub disabled: Vec<Feature>,
}

impl Default for NftOptions {
    fn default() -> Self {
        NftOptions {
            table: "mailwarden".to_owned(),
            scopes: vec![Scope::Auth, Scope::Mail, Scope::All],
            reject: Vec::new(),
            set_size: limits::SET_ELEMENTS_MAX,
            disabled: Vec::new(),
        }
    }
}
