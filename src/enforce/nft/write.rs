//! Writes elements, and finds out which of them the kernel does not take, so that the others are in force all the same.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::error::NftError;
use super::kernel::{NetlinkKernel, is_gone, translate};
use super::layout::SetId;
use super::link::{Blame, CommitError, Link};
use super::plan::{self, Group, NftOp, Timed};
use super::{Applied, Element, Kernel, read};

/// Commits of one slice before its remaining elements are given up; each refused element takes one.
const TRIES_MAX: usize = 16;

impl NetlinkKernel {
    /// Each element is in force afterwards or is named in `applied`.
    pub(super) fn add_groups(&mut self, mut groups: Vec<Group>, applied: &mut Applied) -> Result<(), NftError> {
        self.grow(&groups)?;
        let mut last = NftError::Uncertain;
        for attempt in 0..TRIES_MAX {
            groups.retain(|group| !group.elements.is_empty());
            let ops = plan::upserts(&groups, &self.features);
            match self.commit(&ops) {
                Ok(()) => {
                    self.witnesses.written(&groups);
                    return Ok(());
                }
                Err(CommitError::TooBig) => {
                    let error = translate(&mut self.link, &ops, CommitError::TooBig);
                    return self.add_halves(groups, applied, error);
                }
                Err(CommitError::Failed(blames)) if is_gone(&blames, &ops) && attempt == 0 => self.repair()?,
                Err(CommitError::Failed(blames)) => {
                    self.drop_blamed(&mut groups, &ops, &blames, applied)?;
                    last = translate(&mut self.link, &ops, CommitError::Failed(blames));
                }
                Err(CommitError::Nft(error)) => return Err(error),
            }
        }
        self.add_halves(groups, applied, last)
    }

    /// Takes out of the groups what the kernel refused, so that the rest can be sent again.
    fn drop_blamed(&mut self, groups: &mut [Group], ops: &[NftOp], blames: &[Blame], applied: &mut Applied) -> Result<(), NftError> {
        let ops_a_group = ops.len() / groups.len().max(1);
        let mut seen = BTreeSet::new();
        for blame in blames {
            let index = blame.op.map(|op| op / ops_a_group.max(1));
            let fatal = blame.errno == Errno::EPERM || is_gone(std::slice::from_ref(blame), ops);
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
                    self.add_halves(vec![group], applied, NftError::Uncertain)?;
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

    /// The set has no room for the element at `first`. What is in the set already can still be changed; of what is new, as much as
    /// there is room for stays.
    fn drop_overflow(&mut self, group: &mut Group, first: usize, applied: &mut Applied) -> Result<(), NftError> {
        let mut present = Vec::with_capacity(group.elements.len());
        for timed in &group.elements {
            present.push(read::element(&mut self.link, group.set, timed.net)?.is_some());
        }
        let existing = present.iter().filter(|present| **present).count();
        let new_before = present.iter().take(first).filter(|present| !**present).count();
        // Where all are taken out first, everything before `first` has used a place.
        let empties = self.features.destroy && !self.features.timeout_update;
        let mut room = if empties { first.saturating_sub(existing) } else { new_before };
        let elements = std::mem::take(&mut group.elements);
        let all = elements.len();
        let mut refuse = |timed: &Timed| {
            let error = NftError::SetFull { set: group.set, size: self.layout.size() };
            applied.refused.push((element_of(group.set, timed), error));
        };
        for (timed, present) in elements.into_iter().zip(present) {
            if present || room > 0 {
                room -= usize::from(!present);
                group.elements.push(timed);
            } else {
                refuse(&timed);
            }
        }
        if group.elements.len() == all && first < all {
            refuse(&group.elements.remove(first));
        }
        Ok(())
    }

    /// Writes two halves, one after the other; `error` is for a single element, which has none.
    fn add_halves(&mut self, groups: Vec<Group>, applied: &mut Applied, error: NftError) -> Result<(), NftError> {
        let all = groups.iter().flat_map(|group| group.elements.iter().map(|timed| element_of(group.set, timed)));
        let elements: Vec<Element> = all.collect();
        if elements.len() < 2 {
            return Err(error);
        }
        let (left, right) = elements.split_at(elements.len() / 2);
        self.add_groups(plan::by_set(left), applied)?;
        self.add_groups(plan::by_set(right), applied)
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

    pub(super) fn repair(&mut self) -> Result<(), NftError> {
        self.rebuild()?;
        self.lost = Some("a commit found the table or a part of it missing".to_owned());
        Ok(())
    }
}

fn element_of(set: SetId, timed: &Timed) -> Element {
    Element { net: timed.net, scope: set.scope, timeout: timed.timeout }
}
