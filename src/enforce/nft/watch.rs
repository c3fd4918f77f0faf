//! Notices what others did to our table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use super::error::NftError;
use super::kernel::NetlinkKernel;
use super::layout::SetId;
use super::link::Link;
use super::plan::Group;
use super::read::{self, ChainInfo};
use super::{Key, TableMode, uapi};

/// An element that lives this long is a good witness that nobody emptied its set.
const WITNESS_LIFE_MIN: Duration = Duration::from_secs(10);

/// What our table consists of, elements aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    chains: Vec<ChainInfo>,
    sets: BTreeSet<SetId>,
    /// (chain, handle)
    rules: Vec<(String, u64)>,
}

impl Structure {
    pub fn read(link: &Link) -> Result<Structure, NftError> {
        let sets = read::sets(link)?.iter().filter_map(|set| set.ours()).collect();
        let rules = read::rules(link)?.into_iter().map(|rule| (rule.chain, rule.handle)).collect();
        Ok(Structure { chains: read::chains(link)?, sets, rules })
    }
}

/// For each set the last long-lived element written to it: while that is there, nobody has emptied the set. Sets are never read
/// back for this.
#[derive(Default)]
pub struct Witnesses(BTreeMap<SetId, Witness>);

struct Witness {
    net: IpNetwork,
    until: Option<Instant>,
}

impl Witnesses {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn written(&mut self, groups: &[Group]) {
        for group in groups {
            let lasting = group.elements.iter().rev().find(|timed| timed.timeout.is_none_or(|timeout| timeout > WITNESS_LIFE_MIN));
            let until = |timeout| Instant::now().checked_add(timeout);
            if let Some(timed) = lasting {
                self.0.insert(group.set, Witness { net: timed.net, until: timed.timeout.and_then(until) });
            } else if self.0.get(&group.set).is_some_and(|old| group.elements.iter().any(|timed| timed.net == old.net)) {
                // The witness itself has become short-lived.
                self.0.remove(&group.set);
            }
        }
    }

    pub fn removed(&mut self, keys: &[Key]) {
        for (net, scope) in keys {
            let set = SetId::of(*net, *scope);
            if self.0.get(&set).is_some_and(|witness| witness.net.network() == net.network()) {
                self.0.remove(&set);
            }
        }
    }

    /// A set whose witness is missing.
    fn contradicted(&self, link: &mut Link) -> Result<Option<SetId>, NftError> {
        let soon = Instant::now() + Duration::from_secs(1);
        for (set, witness) in self.0.iter().filter(|(_, witness)| witness.until.is_none_or(|until| until > soon)) {
            if read::element(link, *set, witness.net)?.is_none() {
                return Ok(Some(*set));
            }
        }
        Ok(None)
    }
}

impl NetlinkKernel {
    /// What is missing of our table, in words; `None` when all is well.
    pub(super) fn damage(&mut self) -> Result<Option<String>, NftError> {
        let Some(info) = read::table(&mut self.link)? else { return Ok(Some("the table was removed".into())) };
        if self.mode == TableMode::Owned {
            // Nobody else can change the rest of it.
            let ours = info.owner == Some(self.link.port());
            return Ok((!ours).then(|| "the table is not ours any more".into()));
        }
        if info.flags & uapi::table::F_DORMANT != 0 {
            return Ok(Some("the table was made dormant".into()));
        }
        if Structure::read(&self.link)? != self.structure {
            return Ok(Some("sets, chains or rules were changed".into()));
        }
        let emptied = self.witnesses.contradicted(&mut self.link)?;
        Ok(emptied.map(|set| format!("elements of set {set} were removed")))
    }
}
