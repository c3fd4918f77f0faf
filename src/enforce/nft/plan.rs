//! From what should change to what the kernel is told. Pure; prints as nft syntax, which the tests compare.

use std::fmt;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::features::Features;
use super::layout::{Chain, Family, Layout, Rule, SetId, Verdict};
use super::{Element, Key};
use crate::address;
use crate::engine::jail::Scope;

/// The kernel counts timeouts in nanoseconds below 2^64; nobody means more than a century.
const TIMEOUT_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);
/// A timeout of zero would be for ever.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Of the element that is added only so that it can be deleted.
const PLACEHOLDER: Duration = Duration::from_secs(3600);

/// One thing the kernel is told. The ops of one commit take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftOp {
    /// Creates the table, or takes it over as it is.
    AddTable(TableFlags),
    DeleteTable,
    AddSet {
        set: SetId,
        size: u32,
    },
    DeleteSet(String),
    FlushSet(SetId),
    AddChain(Chain),
    FlushChain(String),
    DeleteChain(String),
    AddRule(Chain, Rule),
    /// Adds elements; one that is there already gets the new timeout only where the kernel can do that.
    Add {
        set: SetId,
        elements: Vec<Timed>,
    },
    /// Fails where one is absent.
    Delete {
        set: SetId,
        elements: Vec<Timed>,
    },
    /// Never fails for an absent one.
    Destroy {
        set: SetId,
        elements: Vec<Timed>,
    },
}

/// One key of a set; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    pub net: IpNetwork,
    pub timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFlags {
    pub owner: bool,
    pub persist: bool,
}

/// What should change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub remove: Vec<Key>,
    /// What is both removed and added is in force afterwards.
    pub add: Vec<Element>,
}

/// The ops that make `diff` true. The layout grows by the sets that are missing.
pub fn plan(diff: &Diff, layout: &mut Layout, features: &Features) -> Vec<NftOp> {
    let added = by_set(&diff.add);
    let mut ops: Vec<NftOp> = removals(&diff.remove, layout, features);
    ops.extend(added.iter().flat_map(|group| layout.extend(group.set)));
    ops.extend(upserts(&added, features));
    ops
}

/// Elements of one set, sorted, each key once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub set: SetId,
    pub elements: Vec<Timed>,
}

/// Sorts elements into their sets; the last one of a key wins. Host bits are cleared.
pub fn by_set(elements: &[Element]) -> Vec<Group> {
    let mut sorted: Vec<(SetId, Timed)> = elements
        .iter()
        .map(|element| {
            let net = address::network(element.net.ip(), element.net.prefix());
            (SetId::of(net, element.scope), Timed { net, timeout: element.timeout.map(|timeout| timeout.clamp(TIMEOUT_MIN, TIMEOUT_MAX)) })
        })
        .collect();
    // Stable, and last wins: the earlier of two equal keys takes the later one's value when they meet.
    sorted.sort_by_key(|(set, timed)| (*set, address::to_bits(timed.net.ip())));
    sorted.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0 && later.1.net == earlier.1.net;
        if same {
            earlier.1 = later.1;
        }
        same
    });
    let mut groups: Vec<Group> = Vec::new();
    for (set, timed) in sorted {
        match groups.last_mut() {
            Some(group) if group.set == set => group.elements.push(timed),
            _ => groups.push(Group { set, elements: vec![timed] }),
        }
    }
    groups
}

/// Ops after which each element is there with its timeout, whether or not it was before, and none of which fails for that.
pub fn upserts(groups: &[Group], features: &Features) -> Vec<NftOp> {
    let mut ops = Vec::with_capacity(groups.len());
    for Group { set, elements } in groups {
        let (set, elements) = (*set, elements.clone());
        if features.timeout_update {
            ops.push(NftOp::Add { set, elements });
        } else if features.destroy {
            ops.push(NftOp::Destroy { set, elements: elements.clone() });
            ops.push(NftOp::Add { set, elements });
        } else {
            ops.push(NftOp::Add { set, elements: elements.clone() });
            ops.push(NftOp::Delete { set, elements: elements.clone() });
            ops.push(NftOp::Add { set, elements });
        }
    }
    ops
}

/// Ops after which none of the keys is there. Sets that do not exist are passed over.
pub fn removals(keys: &[Key], layout: &Layout, features: &Features) -> Vec<NftOp> {
    let elements: Vec<Element> = keys.iter().map(|(net, scope)| Element { net: *net, scope: *scope, timeout: Some(PLACEHOLDER) }).collect();
    let groups = by_set(&elements).into_iter().filter(|group| layout.has(group.set));
    let ops = groups.flat_map(|Group { set, elements }| {
        if features.destroy {
            vec![NftOp::Destroy { set, elements }]
        } else {
            vec![NftOp::Add { set, elements: elements.clone() }, NftOp::Delete { set, elements }]
        }
    });
    ops.collect()
}

/// Ops of one commit in nft syntax, one a line, for the table of that name.
pub struct Script<'a> {
    pub table: &'a str,
    pub ops: &'a [NftOp],
}

impl fmt::Display for Script<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in self.ops {
            write_op(f, self.table, op)?;
        }
        Ok(())
    }
}

fn write_op(f: &mut fmt::Formatter<'_>, table: &str, op: &NftOp) -> fmt::Result {
    let at = format_args!("inet {table}");
    match op {
        NftOp::AddTable(flags) => match (flags.owner, flags.persist) {
            (true, true) => writeln!(f, "add table {at} {{ flags owner, persist; }}"),
            (true, false) => writeln!(f, "add table {at} {{ flags owner; }}"),
            (false, true) => writeln!(f, "add table {at} {{ flags persist; }}"),
            (false, false) => writeln!(f, "add table {at}"),
        },
        NftOp::DeleteTable => writeln!(f, "delete table {at}"),
        NftOp::AddSet { set, size } => {
            let kind = if set.family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
            writeln!(f, "add set {at} {set} {{ type {kind}; flags timeout; size {size}; }}")
        }
        NftOp::DeleteSet(name) => writeln!(f, "delete set {at} {name}"),
        NftOp::FlushSet(set) => writeln!(f, "flush set {at} {set}"),
        NftOp::AddChain(chain @ Chain::Scope(..)) => writeln!(f, "add chain {at} {chain}"),
        NftOp::AddChain(chain @ Chain::Base(hook)) => {
            writeln!(f, "add chain {at} {chain} {{ type filter hook {} priority {}; policy accept; }}", hook.as_str(), hook.priority())
        }
        NftOp::FlushChain(name) => writeln!(f, "flush chain {at} {name}"),
        NftOp::DeleteChain(name) => writeln!(f, "delete chain {at} {name}"),
        NftOp::AddRule(chain, rule) => {
            write!(f, "add rule {at} {chain} ")?;
            write_rule(f, *rule)
        }
        NftOp::Add { set, elements } => write_elements(f, "add", at, *set, elements, true),
        NftOp::Delete { set, elements } => write_elements(f, "delete", at, *set, elements, false),
        NftOp::Destroy { set, elements } => write_elements(f, "destroy", at, *set, elements, false),
    }
}

fn write_elements(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    at: fmt::Arguments<'_>,
    set: SetId,
    elements: &[Timed],
    timed: bool,
) -> fmt::Result {
    write!(f, "{verb} element {at} {set} {{ ")?;
    for (index, element) in elements.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{}", element.net.ip())?;
        if let Some(timeout) = element.timeout.filter(|_| timed) {
            let (seconds, millis) = (timeout.as_secs(), timeout.subsec_millis());
            let fraction = if millis == 0 { String::new() } else { format!("{millis}ms") };
            write!(f, " timeout {seconds}s{fraction}")?;
        }
    }
    writeln!(f, " }}")
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: Rule) -> fmt::Result {
    match rule {
        Rule::Loopback => writeln!(f, "iif \"lo\" return"),
        Rule::OnlyTcp => writeln!(f, "meta l4proto != tcp return"),
        Rule::Jump(scope, family) => {
            let number = if family == Family::V4 { 4 } else { 6 };
            writeln!(f, "meta nfproto ipv{number} {}jump {}", Ports(scope), Chain::Scope(scope, family))
        }
        Rule::Match(set, verdict) => {
            let tcp = if verdict == Verdict::Reset { "meta l4proto tcp " } else { "" };
            let address = if set.family == Family::V4 { "ip saddr" } else { "ip6 saddr" };
            write!(f, "{tcp}{address} ")?;
            if !set.is_hosts() {
                write!(f, "& {} ", set.mask())?;
            }
            let action = match verdict {
                Verdict::Drop => "drop",
                Verdict::Reset => "reject with tcp reset",
                Verdict::Unreachable => "reject with icmpx admin-prohibited",
            };
            writeln!(f, "@{set} counter {action}")
        }
    }
}

/// `tcp dport { 465, 587 } `; nothing for a scope that closes everything.
struct Ports(Scope);

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.ports() {
            [] => Ok(()),
            [port] => write!(f, "tcp dport {port} "),
            ports => {
                let list: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(f, "tcp dport {{ {} }} ", list.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODERN: Features = Features { owner_persist: true, timeout_update: true, destroy: true, batch_end_ack: true, error_offset: true };
    const OLD: Features =
        Features { owner_persist: false, timeout_update: false, destroy: false, batch_end_ack: false, error_offset: false };
    const MIDDLE: Features = Features { destroy: true, ..OLD };

    fn element(net: &str, scope: Scope, seconds: u64) -> Element {
        let timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
        Element { net: net.parse().unwrap(), scope, timeout }
    }

    fn check(diff: &Diff, layout: &mut Layout, features: &Features, expected: &str) {
        let ops = plan(diff, layout, features);
        let script = Script { table: "mailwarden", ops: &ops }.to_string().replace(" inet mailwarden", "");
        assert_eq!(script.trim(), expected.trim());
    }

    #[test]
    fn an_upsert_never_fails_on_any_kernel() {
        let mut layout = Layout::new(&[Scope::Mail], &[], 10);
        let diff = Diff { add: vec![element("192.0.2.1/32", Scope::Mail, 60)], remove: vec![] };
        check(&diff, &mut layout, &MODERN, "add element mail_v4_32 { 192.0.2.1 timeout 60s }");
        check(&diff, &mut layout, &MIDDLE, "destroy element mail_v4_32 { 192.0.2.1 }\nadd element mail_v4_32 { 192.0.2.1 timeout 60s }");
        check(
            &diff,
            &mut layout,
            &OLD,
            "add element mail_v4_32 { 192.0.2.1 timeout 60s }\ndelete element mail_v4_32 { 192.0.2.1 }\nadd element mail_v4_32 { 192.0.2.1 timeout 60s }",
        );
    }

    #[test]
    fn a_removal_never_fails_on_any_kernel() {
        let mut layout = Layout::new(&[Scope::Mail], &[], 10);
        let key = |net: &str, scope| (net.parse().unwrap(), scope);
        let diff = Diff { add: vec![], remove: vec![key("2001:db8::/64", Scope::Mail), key("192.0.2.1/32", Scope::Web)] };
        check(&diff, &mut layout, &MODERN, "destroy element mail_v6_64 { 2001:db8:: }");
        check(&diff, &mut layout, &OLD, "add element mail_v6_64 { 2001:db8:: timeout 3600s }\ndelete element mail_v6_64 { 2001:db8:: }");
    }

    #[test]
    fn elements_are_grouped_and_the_last_of_a_key_wins() {
        let mut layout = Layout::new(&[Scope::Mail, Scope::All], &[], 10);
        let diff = Diff {
            add: vec![
                element("192.0.2.9/32", Scope::Mail, 60),
                element("192.0.2.77/24", Scope::All, 0),
                element("192.0.2.1/32", Scope::Mail, 60),
                element("192.0.2.9/32", Scope::Mail, 5),
            ],
            remove: vec![],
        };
        check(
            &diff,
            &mut layout,
            &MODERN,
            "add element mail_v4_32 { 192.0.2.1 timeout 60s, 192.0.2.9 timeout 5s }\nadd element all_v4_24 { 192.0.2.0 }",
        );
    }

    #[test]
    fn a_timeout_is_never_zero_nor_out_of_the_kernels_range() {
        let odd = |timeout| Element { net: "192.0.2.1/32".parse().unwrap(), scope: Scope::All, timeout: Some(timeout) };
        assert_eq!(by_set(&[odd(Duration::ZERO)])[0].elements[0].timeout, Some(TIMEOUT_MIN));
        assert_eq!(by_set(&[odd(Duration::MAX)])[0].elements[0].timeout, Some(TIMEOUT_MAX));
    }

    #[test]
    fn a_new_prefix_length_brings_its_set_and_rule() {
        let mut layout = Layout::new(&[Scope::Mail], &[], 10);
        let diff = Diff { add: vec![element("10.0.0.0/9", Scope::Mail, 0)], remove: vec![] };
        let expected = "
add set mail_v4_9 { type ipv4_addr; flags timeout; size 10; }
add rule mail_v4 ip saddr & 255.128.0.0 @mail_v4_9 counter drop
add element mail_v4_9 { 10.0.0.0 }";
        check(&diff, &mut layout, &MODERN, expected);
        check(&diff, &mut layout, &MODERN, "add element mail_v4_9 { 10.0.0.0 }");
    }

    #[test]
    fn a_new_scope_brings_its_chain_and_the_base_chain_is_written_anew() {
        let mut layout = Layout::new(&[], &[], 10);
        let diff = Diff { add: vec![element("2001:db8::/48", Scope::Submission, 9)], remove: vec![] };
        let expected = "
add set submission_v6_48 { type ipv6_addr; flags timeout; size 10; }
add chain submission_v6
add rule submission_v6 ip6 saddr & ffff:ffff:ffff:: @submission_v6_48 counter drop
flush chain prerouting
add rule prerouting iif \"lo\" return
add rule prerouting meta l4proto != tcp return
add rule prerouting meta nfproto ipv6 tcp dport { 465, 587 } jump submission_v6
add element submission_v6_48 { 2001:db8:: timeout 9s }";
        check(&diff, &mut layout, &MODERN, expected);
    }

    #[test]
    fn the_whole_layout() {
        let mut layout = Layout::new(&[], &[Scope::All], 10);
        for (net, scope) in [("192.0.2.1/32", Scope::Mx), ("192.0.2.1/32", Scope::All)] {
            layout.adopt(SetId::of(net.parse().unwrap(), scope));
        }
        let ops = layout.install();
        let expected = "
add set t mx_v4_32 { type ipv4_addr; flags timeout; size 10; }
add set t all_v4_32 { type ipv4_addr; flags timeout; size 10; }
add chain t mx_v4
add chain t all_v4
add chain t prerouting { type filter hook prerouting priority -300; policy accept; }
add chain t input { type filter hook input priority -10; policy accept; }
add rule t mx_v4 ip saddr @mx_v4_32 counter drop
add rule t all_v4 meta l4proto tcp ip saddr @all_v4_32 counter reject with tcp reset
add rule t all_v4 ip saddr @all_v4_32 counter reject with icmpx admin-prohibited
add rule t prerouting iif \"lo\" return
add rule t prerouting meta l4proto != tcp return
add rule t prerouting meta nfproto ipv4 tcp dport 25 jump mx_v4
add rule t input iif \"lo\" return
add rule t input meta nfproto ipv4 jump all_v4";
        assert_eq!(Script { table: "t", ops: &ops }.to_string().replace(" inet t", " t").trim(), expected.trim());
    }
}
