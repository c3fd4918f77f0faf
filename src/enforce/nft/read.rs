//! Questions about what is in the kernel now, and their answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::encode::{self, TableName};
use super::error::NftError;
use super::layout::{Chain, SetId};
use super::link::Link;
use super::uapi::{self, chain, element, generation, rule, set, table};
use super::wire::{self, Writer, be_u32, be_u64, nf_attributes, text};
use super::{Element, Remaining};

/// Chains, sets or rules of one table; more than we ever make is not ours.
const OBJECTS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableInfo {
    pub flags: u32,
    /// Netlink port of the socket that owns it.
    pub owner: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetInfo {
    pub name: String,
    flags: u32,
    key_type: u32,
    key_len: u32,
}

impl SetInfo {
    pub fn is_anonymous(&self) -> bool {
        self.flags & set::F_ANONYMOUS != 0
    }
    /// The set it is, when it is exactly as we make it.
    pub fn ours(&self) -> Option<SetId> {
        let id: SetId = self.name.parse().ok()?;
        let same = self.flags == set::F_TIMEOUT && self.key_type == id.family.key_type() && self.key_len == id.family.key_bytes();
        same.then_some(id)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainInfo {
    pub name: String,
    /// Hook number and priority of a base chain.
    hook: Option<(u32, i32)>,
    policy: Option<u32>,
    kind: Option<String>,
}

impl ChainInfo {
    /// Whether it can go on living as that chain.
    pub fn is(&self, wanted: Chain) -> bool {
        let same_hook = match wanted {
            Chain::Scope(..) => self.hook.is_none(),
            Chain::Base(hook) => {
                self.hook == Some((hook.number(), hook.priority())) && self.kind.as_deref() == Some("filter") && self.policy == Some(1)
            }
        };
        self.name == wanted.to_string() && same_hook
    }
}

/// A rule, as far as it identifies itself and counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleInfo {
    pub chain: String,
    pub handle: u64,
    pub sets: Vec<String>,
    pub packets: u64,
    pub bytes: u64,
}

/// The number of the last change to the rule set of this network namespace.
pub fn generation(link: &mut Link) -> Result<u32, NftError> {
    let build = |writer: &mut Writer, _: &TableName, seq| {
        writer.clear();
        writer.begin(uapi::GET_GENERATION, 0, seq);
        writer.nf_header(0, 0);
        writer.finish();
    };
    let parse = |payload: &[u8]| nf_attributes(payload).find(|(kind, _)| *kind == generation::ID).and_then(|(_, value)| be_u32(value));
    link.get(build, parse)?.ok_or(NftError::NoNfTables)
}

pub fn table(link: &mut Link) -> Result<Option<TableInfo>, NftError> {
    let build = |writer: &mut Writer, name: &TableName, seq| {
        writer.clear();
        writer.begin(uapi::GET_TABLE, 0, seq);
        writer.nf_header(uapi::INET, 0);
        writer.attr_str(table::NAME, name.as_str());
        writer.finish();
    };
    link.get(build, |payload| {
        let mut info = TableInfo::default();
        for (kind, value) in nf_attributes(payload) {
            match kind {
                table::FLAGS => info.flags = be_u32(value)?,
                table::OWNER => info.owner = be_u32(value),
                _ => {}
            }
        }
        Some(info)
    })
}

pub fn sets(link: &Link) -> Result<Vec<SetInfo>, NftError> {
    let parse = |payload: &[u8], found: &mut Vec<SetInfo>| {
        let mut info = SetInfo::default();
        for (kind, value) in nf_attributes(payload) {
            match kind {
                set::NAME => info.name = text(value).unwrap_or_default().to_owned(),
                set::FLAGS => info.flags = be_u32(value).unwrap_or_default(),
                set::KEY_TYPE => info.key_type = be_u32(value).unwrap_or_default(),
                set::KEY_LEN => info.key_len = be_u32(value).unwrap_or_default(),
                _ => {}
            }
        }
        found.push(info);
    };
    objects(link.dump(uapi::GET_SET, |writer, name| writer.attr_str(set::TABLE, name.as_str()), parse, OBJECTS_MAX)?)
}

pub fn chains(link: &Link) -> Result<Vec<ChainInfo>, NftError> {
    let ours = link.table().as_str().to_owned();
    // Kernels do not filter chains by table.
    let parse = |payload: &[u8], found: &mut Vec<ChainInfo>| {
        let (mut info, mut table) = (ChainInfo::default(), None);
        for (kind, value) in nf_attributes(payload) {
            match kind {
                chain::TABLE => table = text(value),
                chain::NAME => info.name = text(value).unwrap_or_default().to_owned(),
                chain::TYPE => info.kind = text(value).map(str::to_owned),
                chain::POLICY => info.policy = be_u32(value),
                chain::HOOK => info.hook = hook(value),
                _ => {}
            }
        }
        if table == Some(ours.as_str()) {
            found.push(info);
        }
    };
    objects(link.dump(uapi::GET_CHAIN, |_, _| {}, parse, OBJECTS_MAX)?)
}

fn hook(nest: &[u8]) -> Option<(u32, i32)> {
    let number = be_u32(wire::find(nest, chain::HOOK_NUMBER)?)?;
    let priority = be_u32(wire::find(nest, chain::HOOK_PRIORITY)?)?;
    Some((number, priority.cast_signed()))
}

pub fn rules(link: &Link) -> Result<Vec<RuleInfo>, NftError> {
    let ours = link.table().as_str().to_owned();
    let parse = |payload: &[u8], found: &mut Vec<RuleInfo>| {
        let (mut info, mut table) = (RuleInfo::default(), None);
        for (kind, value) in nf_attributes(payload) {
            match kind {
                rule::TABLE => table = text(value),
                rule::CHAIN => info.chain = text(value).unwrap_or_default().to_owned(),
                rule::HANDLE => info.handle = be_u64(value).unwrap_or_default(),
                rule::EXPRESSIONS => expressions(value, &mut info),
                _ => {}
            }
        }
        if table == Some(ours.as_str()) {
            found.push(info);
        }
    };
    objects(link.dump(uapi::GET_RULE, |writer, name| writer.attr_str(rule::TABLE, name.as_str()), parse, OBJECTS_MAX)?)
}

fn expressions(list: &[u8], info: &mut RuleInfo) {
    for (_, expression) in wire::attributes(list).filter(|(kind, _)| *kind == rule::LIST_ELEMENT) {
        let name = wire::find(expression, rule::EXPRESSION_NAME).and_then(text);
        let data = wire::find(expression, rule::EXPRESSION_DATA).unwrap_or_default();
        let number = |kind| wire::find(data, kind).and_then(be_u64).unwrap_or_default();
        match name {
            Some("lookup") => info.sets.extend(wire::find(data, rule::LOOKUP_SET).and_then(text).map(str::to_owned)),
            Some("counter") => (info.packets, info.bytes) = (number(rule::COUNTER_PACKETS), number(rule::COUNTER_BYTES)),
            _ => {}
        }
    }
}

/// The element of exactly that network, when it has not run out.
pub fn element(link: &mut Link, set: SetId, net: IpNetwork) -> Result<Option<Remaining>, NftError> {
    let build = |writer: &mut Writer, name: &TableName, seq| encode::get_element(writer, name, set, net, seq);
    link.get(build, |payload| {
        let (_, list) = nf_attributes(payload).find(|(kind, _)| *kind == element::LIST_ELEMENTS)?;
        let (_, nest) = wire::attributes(list).next()?;
        Some(parse_element(nest, set)?.timeout.map_or(Remaining::Forever, Remaining::For))
    })
}

/// All elements of a set with the time they have left; `None` when there are more than `limit`. The kernel's work for this grows with
/// the square of the number.
pub fn elements(link: &Link, id: SetId, limit: usize) -> Result<Option<Vec<Element>>, NftError> {
    let attributes = |writer: &mut Writer, name: &TableName| {
        writer.attr_str(element::LIST_TABLE, name.as_str());
        writer.attr_str(element::LIST_SET, &id.to_string());
    };
    let parse = |payload: &[u8], found: &mut Vec<Element>| {
        let lists = nf_attributes(payload).filter(|(kind, _)| *kind == element::LIST_ELEMENTS);
        found.extend(lists.flat_map(|(_, list)| wire::attributes(list)).filter_map(|(_, nest)| parse_element(nest, id)));
    };
    link.dump(uapi::GET_ELEMENT, attributes, parse, limit)
}

fn parse_element(nest: &[u8], set: SetId) -> Option<Element> {
    let value = wire::find(wire::find(nest, element::KEY)?, element::DATA_VALUE)?;
    let ip = match value.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => return None,
    };
    let millis = |kind| wire::find(nest, kind).and_then(be_u64);
    let (timeout, left) = (millis(element::TIMEOUT), millis(element::EXPIRATION));
    // A permanent element has neither, or zeroes.
    let timed = timeout.max(left).is_some_and(|millis| millis > 0);
    let timeout = left.or(timeout).filter(|_| timed).map(Duration::from_millis);
    Some(Element { net: IpNetwork::new(ip, set.prefix).ok()?, scope: set.scope, timeout })
}

fn objects<T>(found: Option<Vec<T>>) -> Result<Vec<T>, NftError> {
    found.ok_or(NftError::Uncertain)
}
