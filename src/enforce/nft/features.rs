//! What this kernel's nf_tables can do. Probed at start, because distributions bring features back to older kernels.

use std::time::Duration;

use super::encode::{Ack, TableName};
use super::error::NftError;
use super::layout::SetId;
use super::link::{CommitError, Committed, Link};
use super::plan::{NftOp, TableFlags, Timed};
use super::{Remaining, kernel, read};
use crate::address;
use crate::engine::jail::Scope;
use crate::event::words;

words! {
    /// Names of the features, for forcing one off.
    Feature {
        /// Tables owned by a socket that outlive it (Linux 6.9).
        OwnerPersist = "owner-persist",
        /// Adding an element again changes its timeout (Linux 6.12).
        TimeoutUpdate = "timeout-update",
        /// Deleting without failing for what is absent (Linux 6.3).
        Destroy = "destroy",
        /// The end of a batch is acknowledged (Linux 6.10).
        BatchEndAck = "batch-end-ack",
        /// An error says which element it is about (Linux 5.15).
        ErrorOffset = "error-offset",
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub owner_persist: bool,
    pub timeout_update: bool,
    pub destroy: bool,
    pub batch_end_ack: bool,
    pub error_offset: bool,
}

impl Features {
    pub fn has(&self, feature: Feature) -> bool {
        match feature {
            Feature::OwnerPersist => self.owner_persist,
            Feature::TimeoutUpdate => self.timeout_update,
            Feature::Destroy => self.destroy,
            Feature::BatchEndAck => self.batch_end_ack,
            Feature::ErrorOffset => self.error_offset,
        }
    }

    pub fn without(mut self, disabled: &[Feature]) -> Features {
        for feature in disabled {
            match feature {
                Feature::OwnerPersist => self.owner_persist = false,
                Feature::TimeoutUpdate => self.timeout_update = false,
                Feature::Destroy => self.destroy = false,
                Feature::BatchEndAck => self.batch_end_ack = false,
                Feature::ErrorOffset => self.error_offset = false,
            }
        }
        self
    }

    /// Names of those that are in use.
    pub fn names(&self) -> Vec<&'static str> {
        Feature::ALL.iter().filter(|feature| self.has(**feature)).map(|feature| feature.as_str()).collect()
    }
}

/// Tries each feature on a table of its own, which is gone afterwards.
pub fn probe() -> Result<Features, NftError> {
    // The socket's port makes the name unique among the processes of this network namespace.
    let port = Link::open(TableName::new("probe")?)?.port();
    let mut link = Link::open(TableName::new(&format!("mailwarden-probe-{port}"))?)?;
    let (owner_persist, committed) = probe_table(&mut link)?;
    let features = probe_elements(&mut link);
    must(&mut link, &[NftOp::DeleteTable])?;
    Ok(Features { owner_persist, batch_end_ack: committed.end_acknowledged, ..features? })
}

fn probe_elements(link: &mut Link) -> Result<Features, NftError> {
    Ok(Features {
        timeout_update: probe_timeout_update(link)?,
        destroy: accepts(link, NftOp::Destroy { set: SCRATCH, elements: vec![scratch("192.0.2.2", 1)] })?,
        error_offset: probe_error_offset(link)?,
        ..Features::default()
    })
}

const SCRATCH: SetId = SetId { scope: Scope::All, family: super::layout::Family::V4, prefix: 32 };

fn scratch(ip: &str, seconds: u64) -> Timed {
    let ip = ip.parse().expect("written out here");
    Timed { net: address::single(ip), timeout: Some(Duration::from_secs(seconds)) }
}

fn probe_table(link: &mut Link) -> Result<(bool, Committed), NftError> {
    let owned = NftOp::AddTable(TableFlags { owner: true, persist: true });
    match link.commit(&[owned], Ack::Both) {
        Ok(committed) => return Ok((true, committed)),
        Err(CommitError::Failed(blames)) if blames.iter().all(|blame| kernel::is_unsupported(blame.errno)) => {}
        Err(error) => return Err(kernel::translate(link, &[], error)),
    }
    let plain = [NftOp::AddTable(TableFlags::default())];
    match link.commit(&plain, Ack::Both) {
        Ok(committed) => Ok((false, committed)),
        // Neither kind of table: the family inet or nf_tables as a whole is missing.
        Err(CommitError::Failed(blames)) if blames.iter().all(|blame| kernel::is_unsupported(blame.errno)) => Err(NftError::NoNfTables),
        Err(error) => Err(kernel::translate(link, &plain, error)),
    }
}

fn probe_timeout_update(link: &mut Link) -> Result<bool, NftError> {
    let add = |seconds| NftOp::Add { set: SCRATCH, elements: vec![scratch("192.0.2.1", seconds)] };
    must(link, &[NftOp::AddSet { set: SCRATCH, size: 16 }, add(10)])?;
    let taken = accepts(link, add(100))?;
    let left = read::element(link, SCRATCH, scratch("192.0.2.1", 0).net)?;
    Ok(taken && matches!(left, Some(Remaining::For(left)) if left > Duration::from_secs(50)))
}

fn probe_error_offset(link: &mut Link) -> Result<bool, NftError> {
    let absent = [NftOp::Delete { set: SCRATCH, elements: vec![scratch("192.0.2.1", 1), scratch("192.0.2.3", 1)] }];
    match link.commit(&absent, Ack::LastOp) {
        Err(CommitError::Failed(blames)) => Ok(blames.iter().any(|blame| blame.element == Some(1))),
        Ok(_) => Ok(false),
        Err(error) => Err(kernel::translate(link, &absent, error)),
    }
}

fn accepts(link: &mut Link, op: NftOp) -> Result<bool, NftError> {
    match link.commit(&[op], Ack::LastOp) {
        Ok(_) => Ok(true),
        Err(CommitError::Failed(_)) => Ok(false),
        Err(error) => Err(kernel::translate(link, &[], error)),
    }
}

fn must(link: &mut Link, ops: &[NftOp]) -> Result<(), NftError> {
    link.commit(ops, Ack::LastOp).map(drop).map_err(|error| kernel::translate(link, ops, error))
}
