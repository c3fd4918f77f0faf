//! What an earlier run left in the kernel, looked at by somebody who enforces nothing.

use ipnetwork::IpNetwork;

use super::encode::TableName;
use super::error::NftError;
use super::layout::{Family, SetId};
use super::link::Link;
use super::read::{self, TableInfo};
use super::{Key, uapi};
use crate::address;

/// A table of ours that no process owns, and that goes on dropping packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub table: String,
    /// Elements in it.
    pub bans: usize,
    /// There are more than that: not all of a large set is read.
    pub is_more: bool,
}

/// Looks for a table; sets of up to `limit` elements are read. `None`: there is none, or a living process looks after it.
pub fn leftover(table: &str, limit: usize) -> Result<Option<Leftover>, NftError> {
    let mut link = Link::open(TableName::new(table)?)?;
    if !is_left(read::table(&mut link)?) {
        return Ok(None);
    }
    let mut found = Leftover { table: table.to_owned(), bans: 0, is_more: false };
    for set in our_sets(&link)? {
        match read::elements(&link, set, limit)? {
            Some(elements) => found.bans += elements.len(),
            None => {
                found.bans += limit;
                found.is_more = true;
            }
        }
    }
    Ok(Some(found))
}

/// The bans in such a table that keep out the whole of `net`. Asks for single elements only.
pub fn left_holding(table: &str, net: IpNetwork) -> Result<Vec<Key>, NftError> {
    let mut link = Link::open(TableName::new(table)?)?;
    if !is_left(read::table(&mut link)?) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for set in our_sets(&link)?.into_iter().filter(|set| set.family == Family::of(net.ip()) && set.prefix <= net.prefix()) {
        let wide = address::network(net.ip(), set.prefix);
        if read::element(&mut link, set, wide)?.is_some() {
            found.push((wide, set.scope));
        }
    }
    Ok(found)
}

fn is_left(table: Option<TableInfo>) -> bool {
    table.is_some_and(|info| info.owner.is_none() && info.flags & uapi::table::F_DORMANT == 0)
}

fn our_sets(link: &Link) -> Result<Vec<SetId>, NftError> {
    Ok(read::sets(link)?.iter().filter_map(|set| set.ours()).collect())
}
