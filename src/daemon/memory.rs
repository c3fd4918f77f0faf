//! How much memory the daemon may take: a quarter of what the host, or its control group, has. Each table has a cap of its own, but an
//! attacker with a large IPv6 network can fill many of them at once, and a guard killed in the middle of an attack guards nobody.

use std::fmt;
use std::fs;
use std::path::Path;

use nix::sys::sysinfo::sysinfo;
use nix::unistd::{SysconfVar, sysconf};

/// Of the host's memory.
const SHARE: u64 = 4;
/// However small the host is.
const LIMIT_MIN: u64 = 128 << 20;
/// Where control groups are, and what one may take.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
const GROUP_LIMIT: &str = "memory.max";

pub(super) struct Memory {
    limit: u64,
    page: u64,
    pub(super) resident: u64,
    pub(super) is_tight: bool,
}

impl Memory {
    pub(super) fn new() -> Memory {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096);
        Memory { limit: limit(host_bytes(), group_bytes()), page, resident: 0, is_tight: false }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Says when it has become short, and when there is enough again.
    pub(super) fn look(&mut self) -> Option<bool> {
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        self.note(pages.saturating_mul(self.page))
    }

    fn note(&mut self, resident: u64) -> Option<bool> {
        self.resident = resident;
        // Not back and forth: the allocator gives back late.
        let tight = if self.is_tight { resident > self.limit / 5 * 4 } else { resident > self.limit };
        (std::mem::replace(&mut self.is_tight, tight) != tight).then_some(tight)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB of memory taken, {} MB are for this daemon", self.resident >> 20, self.limit >> 20)
    }
}

fn limit(host: Option<u64>, group: Option<u64>) -> u64 {
    let has = host.into_iter().chain(group).min();
    has.map_or(u64::MAX, |bytes| (bytes / SHARE).max(LIMIT_MIN))
}

fn host_bytes() -> Option<u64> {
    sysinfo().ok().map(|info| info.ram_total())
}

/// The smallest limit of the control groups that this process is in.
fn group_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new(CONTROL_GROUPS);
    let above = Path::new(own).ancestors();
    above.filter_map(|group| fs::read_to_string(root.join(group).join(GROUP_LIMIT)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    #[test]
    fn a_quarter_of_what_there_is() {
        assert_eq!(limit(Some(8 * GB), None), 2 * GB);
        assert_eq!(limit(Some(8 * GB), Some(GB)), GB / 4);
        assert_eq!(limit(Some(GB / 4), None), LIMIT_MIN);
        assert_eq!(limit(None, None), u64::MAX);
    }

    #[test]
    fn it_is_told_once_and_not_back_and_forth() {
        let mut memory = Memory { limit: 1_000, page: 1, resident: 0, is_tight: false };
        let told: Vec<_> = [900, 1_001, 1_100, 900, 801, 800, 900].map(|bytes| memory.note(bytes)).into();
        assert_eq!(told, [None, Some(true), None, None, None, Some(false), None]);
    }

    #[test]
    fn this_process_takes_some() {
        let mut memory = Memory::new();
        memory.look();
        assert!(memory.resident > 1 << 20 && memory.limit() > LIMIT_MIN / 2);
    }
}
