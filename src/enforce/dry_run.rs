//! The firewall that is only talked about: prints in nft syntax what would be done.

use std::io::Write;

use ipnetwork::IpNetwork;

use super::nft::layout::Layout;
use super::nft::plan::{self, Diff, NftOp, Script, TableFlags};
use super::nft::{
    Applied, Change, Counter, Element, Features, Kernel, KernelStatus, Key, Listing, NftError, NftOptions, Remaining, TableMode,
};
use crate::engine::jail::Scope;

pub struct DryRun<W> {
    out: W,
    options: NftOptions,
    features: Features,
    layout: Layout,
}

impl<W: Write> DryRun<W> {
    /// Prints the table's creation at once.
    pub fn start(options: NftOptions, out: W) -> Result<DryRun<W>, NftError> {
        let features = Features { owner_persist: false, timeout_update: true, destroy: true, batch_end_ack: true, error_offset: true }
            .without(&options.disabled);
        let layout = Layout::new(&options.scopes, &options.reject, options.set_size);
        let mut dry_run = DryRun { out, options, features, layout };
        dry_run.rebuild()?;
        Ok(dry_run)
    }
    pub fn into_inner(self) -> W {
        self.out
    }

    fn print(&mut self, ops: &[NftOp]) -> Result<(), NftError> {
        write!(self.out, "{}", Script { table: &self.options.table, ops })?;
        Ok(())
    }
}

impl<W: Write> Kernel for DryRun<W> {
    fn add(&mut self, elements: &[Element]) -> Result<Applied, NftError> {
        let ops = plan::plan(&Diff { add: elements.to_vec(), remove: Vec::new() }, &mut self.layout, &self.features);
        self.print(&ops)?;
        Ok(Applied::default())
    }
    fn remove(&mut self, keys: &[Key]) -> Result<(), NftError> {
        let ops = plan::removals(keys, &self.layout, &self.features);
        self.print(&ops)
    }
    fn contains(&mut self, _: IpNetwork, _: Scope) -> Result<Option<Remaining>, NftError> {
        Ok(None)
    }
    fn changed_behind_us(&mut self) -> Result<Change, NftError> {
        Ok(Change::None)
    }
    fn rebuild(&mut self) -> Result<(), NftError> {
        let ops: Vec<NftOp> = [NftOp::AddTable(TableFlags::default())].into_iter().chain(self.layout.install()).collect();
        self.print(&ops)
    }
    fn flush(&mut self) -> Result<(), NftError> {
        let ops: Vec<NftOp> = self.layout.sets().iter().map(|set| NftOp::FlushSet(*set)).collect();
        self.print(&ops)
    }
    fn list(&mut self, _: usize) -> Result<Listing, NftError> {
        Ok(Listing::default())
    }
    fn counters(&mut self) -> Result<Vec<Counter>, NftError> {
        Ok(Vec::new())
    }
    fn status(&self) -> KernelStatus {
        KernelStatus {
            table: self.options.table.clone(),
            mode: TableMode::Imagined,
            features: self.features,
            sets: self.layout.sets().iter().copied().collect(),
            set_size: self.layout.size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_would_be_done() {
        let options = NftOptions { scopes: vec![], ..NftOptions::default() };
        let mut dry_run = DryRun::start(options, Vec::new()).unwrap();
        let net = "192.0.2.1".parse().unwrap();
        dry_run.add(&[Element { net, scope: Scope::All, timeout: Some(std::time::Duration::from_millis(1500)) }]).unwrap();
        dry_run.remove(&[(net, Scope::All)]).unwrap();
        let expected = "\
add table inet mailwarden
add chain inet mailwarden prerouting { type filter hook prerouting priority -300; policy accept; }
add set inet mailwarden all_v4_32 { type ipv4_addr; flags timeout; size 2097152; }
add chain inet mailwarden all_v4
add rule inet mailwarden all_v4 ip saddr @all_v4_32 counter drop
flush chain inet mailwarden prerouting
add rule inet mailwarden prerouting iif \"lo\" return
add rule inet mailwarden prerouting meta nfproto ipv4 jump all_v4
add element inet mailwarden all_v4_32 { 192.0.2.1 timeout 1s500ms }
destroy element inet mailwarden all_v4_32 { 192.0.2.1 }
";
        assert_eq!(String::from_utf8(dry_run.into_inner()).unwrap(), expected);
    }
}
