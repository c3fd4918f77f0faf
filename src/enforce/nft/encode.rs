//! Ops → the bytes of one batch. Chains and rules are built by nftnl; tables, sets and elements by our own writer, since nftnl knows
//! neither table flags nor timeouts.

use std::ffi::CString;
use std::net::IpAddr;

use nftnl::expr::{Bitwise, Cmp, CmpOp, Counter, IcmpCode, Lookup, RejectionType, Verdict as NftVerdict};
use nftnl::set::{Set, SetKey};
use nftnl::{ChainType, MsgType, Policy, ProtoFamily, Table, nft_expr};

use super::error::NftError;
use super::layout::{Chain, Family, Hook, Rule, SetId, Verdict};
use super::plan::{NftOp, TableFlags, Timed};
use super::uapi::{self, element, set, table};
use super::wire::{self, NLM_F_CREATE, Writer};
use crate::engine::jail::Scope;

const NAME_BYTES_MAX: usize = 32;
const TCP: u8 = 6;
/// `LOOPBACK_IFINDEX` (`include/net/flow.h`): `lo` has it in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// `NF_INET_*` hooks aside, nft's number for the type `inet_service`.
const INET_SERVICE: u32 = 13;
/// Ids of sets live within one batch; our named sets' and nftnl's anonymous ones' must differ.
const NAMED_SET_IDS: u32 = 1 << 16;

/// The name of a table that is safe in netlink, in nft syntax and on a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName(String);

impl TableName {
    pub fn new(name: &str) -> Result<TableName, NftError> {
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let good =
            name.len() <= NAME_BYTES_MAX && name.starts_with(|first: char| first.is_ascii_alphabetic()) && name.as_bytes().iter().all(word);
        if good { Ok(TableName(name.to_owned())) } else { Err(NftError::BadName(name.chars().take(2 * NAME_BYTES_MAX).collect())) }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which message of a batch is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    LastOp,
    End,
    Both,
}

/// A batch in one buffer, and which op each of its messages belongs to.
#[derive(Default)]
pub struct Batch {
    writer: Writer,
    /// (op, where its message begins); sequence numbers count from the one of the begin message, which has none here.
    messages: Vec<(usize, usize)>,
    first_seq: u32,
}

impl Batch {
    /// Messages that `ops` need at most, for taking sequence numbers.
    pub fn messages_max(ops: &[NftOp]) -> usize {
        ops.len() * 3 + 2
    }

    pub fn encode(&mut self, name: &TableName, ops: &[NftOp], first_seq: u32, ack: Ack, expiration: bool) {
        self.writer.clear();
        self.messages.clear();
        self.first_seq = first_seq;
        self.control(uapi::BATCH_BEGIN, 0);
        for (index, op) in ops.iter().enumerate() {
            self.op(name.as_str(), index, op, expiration);
        }
        if ack != Ack::End {
            self.writer.want_ack();
        }
        self.control(uapi::BATCH_END, if ack == Ack::LastOp { 0 } else { wire::NLM_F_ACK });
    }

    pub fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }
    pub fn last_op_seq(&self) -> u32 {
        self.first_seq + self.messages.len() as u32
    }
    pub fn end_seq(&self) -> u32 {
        self.last_op_seq() + 1
    }
    pub fn holds(&self, seq: u32) -> bool {
        (self.first_seq..=self.end_seq()).contains(&seq)
    }
    /// Which op, and which element of it, an error with that sequence number and offset is about.
    pub fn blame(&self, seq: u32, offset: Option<u32>) -> (Option<usize>, Option<usize>) {
        let index = seq.checked_sub(self.first_seq + 1).and_then(|index| usize::try_from(index).ok());
        let Some((op, start)) = index.and_then(|index| self.messages.get(index)) else { return (None, None) };
        let message = self.writer.bytes().get(*start..).unwrap_or_default();
        (Some(*op), offset.and_then(|offset| wire::element_at(message, element::LIST_ELEMENTS, offset)))
    }

    fn control(&mut self, kind: u16, flags: u16) {
        // The begin message has the first number; the end message the one after the last op's.
        let seq = if kind == uapi::BATCH_BEGIN { self.first_seq } else { self.end_seq() };
        self.writer.begin(kind, flags, seq);
        self.writer.nf_header(0, uapi::SUBSYSTEM_ID);
        self.writer.finish();
    }

    fn begin(&mut self, op: usize, kind: u16, flags: u16) {
        self.messages.push((op, self.writer.len()));
        self.writer.begin(kind, flags, self.last_op_seq());
        self.writer.nf_header(uapi::INET, 0);
    }

    fn op(&mut self, name: &str, index: usize, op: &NftOp, expiration: bool) {
        match op {
            NftOp::AddTable(flags) => {
                self.begin(index, uapi::NEW_TABLE, NLM_F_CREATE);
                self.writer.attr_str(table::NAME, name);
                self.writer.attr_u32(table::FLAGS, table_flags(*flags));
                self.writer.finish();
            }
            NftOp::DeleteTable => {
                self.begin(index, uapi::DEL_TABLE, 0);
                self.writer.attr_str(table::NAME, name);
                self.writer.finish();
            }
            NftOp::AddSet { set, size } => self.add_set(name, index, *set, *size),
            NftOp::DeleteSet(set) => {
                self.begin(index, uapi::DEL_SET, 0);
                self.writer.attr_str(set::TABLE, name);
                self.writer.attr_str(set::NAME, set);
                self.writer.finish();
            }
            NftOp::FlushSet(set) => {
                self.begin(index, uapi::DEL_ELEMENT, 0);
                self.writer.attr_str(element::LIST_TABLE, name);
                self.writer.attr_str(element::LIST_SET, &set.to_string());
                self.writer.finish();
            }
            NftOp::Add { set, elements } => self.elements(name, index, uapi::NEW_ELEMENT, *set, elements, Timing::of(expiration)),
            NftOp::Delete { set, elements } => self.elements(name, index, uapi::DEL_ELEMENT, *set, elements, Timing::None),
            NftOp::Destroy { set, elements } => self.elements(name, index, uapi::DESTROY_ELEMENT, *set, elements, Timing::None),
            NftOp::AddChain(_) | NftOp::FlushChain(_) | NftOp::DeleteChain(_) | NftOp::AddRule(..) => self.by_nftnl(name, index, op),
        }
    }

    fn add_set(&mut self, name: &str, index: usize, id: SetId, size: u32) {
        self.begin(index, uapi::NEW_SET, NLM_F_CREATE);
        self.writer.attr_str(set::TABLE, name);
        self.writer.attr_str(set::NAME, &id.to_string());
        self.writer.attr_u32(set::FLAGS, set::F_TIMEOUT);
        self.writer.attr_u32(set::KEY_TYPE, id.family.key_type());
        self.writer.attr_u32(set::KEY_LEN, id.family.key_bytes());
        self.writer.attr_u32(set::ID, NAMED_SET_IDS + index as u32);
        let desc = self.writer.nest(set::DESC);
        self.writer.attr_u32(set::DESC_SIZE, size);
        self.writer.end_nest(desc);
        self.writer.finish();
    }

    fn elements(&mut self, name: &str, index: usize, kind: u16, set: SetId, elements: &[Timed], timing: Timing) {
        let create = if kind == uapi::NEW_ELEMENT { NLM_F_CREATE } else { 0 };
        self.begin(index, kind, create);
        self.writer.attr_str(element::LIST_TABLE, name);
        self.writer.attr_str(element::LIST_SET, &set.to_string());
        let list = self.writer.nest(element::LIST_ELEMENTS);
        for timed in elements {
            write_element(&mut self.writer, timed, timing);
        }
        self.writer.end_nest(list);
        self.writer.finish();
    }

    /// Lets nftnl build the messages, and takes them over one by one.
    fn by_nftnl(&mut self, name: &str, index: usize, op: &NftOp) {
        let mut batch = nftnl::Batch::new();
        let owner = Table::new(c_string(name), ProtoFamily::Inet);
        match op {
            NftOp::AddChain(chain) => batch.add(&build_chain(&owner, *chain), MsgType::Add),
            NftOp::DeleteChain(chain) => batch.add(&nftnl::Chain::new(c_string(chain), &owner), MsgType::Del),
            // A rule without a handle stands for all rules of its chain.
            NftOp::FlushChain(chain) => batch.add(&nftnl::Rule::new(&nftnl::Chain::new(c_string(chain), &owner)), MsgType::Del),
            NftOp::AddRule(chain, rule) => add_rule(&mut batch, &owner, *chain, *rule, index as u32 + 1),
            _ => {}
        }
        let batch = batch.finalize();
        for message in batch.iter().flat_map(wire::messages) {
            if !matches!(message.kind, uapi::BATCH_BEGIN | uapi::BATCH_END) {
                self.messages.push((index, self.writer.len()));
                let seq = self.last_op_seq();
                self.writer.copy_message(message.whole, seq);
            }
        }
    }
}

/// How an element's timeout is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timing {
    None,
    Timeout,
    /// With the expiration too, which is what changes the timeout of an element that exists; and zero for "for ever".
    Both,
}

impl Timing {
    fn of(expiration: bool) -> Timing {
        if expiration { Timing::Both } else { Timing::Timeout }
    }
}

fn write_element(writer: &mut Writer, timed: &Timed, timing: Timing) {
    let nest = writer.nest(element::LIST_ELEMENT);
    let key = writer.nest(element::KEY);
    match timed.net.ip() {
        IpAddr::V4(ip) => writer.attr(element::DATA_VALUE, &ip.octets()),
        IpAddr::V6(ip) => writer.attr(element::DATA_VALUE, &ip.octets()),
    }
    writer.end_nest(key);
    let millis = timed.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    match (timing, millis) {
        (Timing::None, _) | (Timing::Timeout, None) => {}
        (Timing::Timeout, Some(millis)) => writer.attr_u64(element::TIMEOUT, millis),
        (Timing::Both, None) => writer.attr_u64(element::TIMEOUT, 0),
        (Timing::Both, Some(millis)) => {
            writer.attr_u64(element::TIMEOUT, millis);
            writer.attr_u64(element::EXPIRATION, millis);
        }
    }
    writer.end_nest(nest);
}

/// A request for one element of a set.
pub fn get_element(writer: &mut Writer, name: &TableName, set: SetId, net: ipnetwork::IpNetwork, seq: u32) {
    writer.clear();
    writer.begin(uapi::GET_ELEMENT, 0, seq);
    writer.nf_header(uapi::INET, 0);
    writer.attr_str(element::LIST_TABLE, name.as_str());
    writer.attr_str(element::LIST_SET, &set.to_string());
    let list = writer.nest(element::LIST_ELEMENTS);
    write_element(writer, &Timed { net, timeout: None }, Timing::None);
    writer.end_nest(list);
    writer.finish();
}

fn table_flags(flags: TableFlags) -> u32 {
    let owner = if flags.owner { table::F_OWNER } else { 0 };
    owner | if flags.persist { table::F_PERSIST } else { 0 }
}

fn build_chain<'a>(owner: &'a Table, chain: Chain) -> nftnl::Chain<'a> {
    let mut built = nftnl::Chain::new(c_string(&chain.to_string()), owner);
    if let Chain::Base(hook) = chain {
        let point = match hook {
            Hook::Prerouting => nftnl::Hook::PreRouting,
            Hook::Input => nftnl::Hook::In,
        };
        built.set_hook(point, hook.priority());
        built.set_type(ChainType::Filter);
        built.set_policy(Policy::Accept);
    }
    built
}

fn add_rule(batch: &mut nftnl::Batch, owner: &Table, chain: Chain, rule: Rule, set_id: u32) {
    let chain = nftnl::Chain::new(c_string(&chain.to_string()), owner);
    let mut built = nftnl::Rule::new(&chain);
    match rule {
        Rule::Loopback => {
            built.add_expr(&nft_expr!(meta iif));
            built.add_expr(&nft_expr!(cmp == LOOPBACK_INDEX));
            built.add_expr(&NftVerdict::Return);
        }
        Rule::OnlyTcp => {
            built.add_expr(&nft_expr!(meta l4proto));
            built.add_expr(&nft_expr!(cmp != TCP));
            built.add_expr(&NftVerdict::Return);
        }
        Rule::Jump(scope, family) => {
            match_family(&mut built, family);
            match_ports(batch, owner, &mut built, scope, set_id);
            built.add_expr(&NftVerdict::Jump { chain: c_string(&Chain::Scope(scope, family).to_string()) });
        }
        Rule::Match(set, verdict) => {
            if verdict == Verdict::Reset {
                match_tcp(&mut built);
            }
            match_set(owner, &mut built, set);
            built.add_expr(&Counter);
            built.add_expr(&match verdict {
                Verdict::Drop => NftVerdict::Drop,
                Verdict::Reset => NftVerdict::Reject(RejectionType::TcpRst),
                Verdict::Unreachable => NftVerdict::Reject(RejectionType::Icmp(IcmpCode::AdminProhibited)),
            });
        }
    }
    batch.add(&built, MsgType::Add);
}

/// In an inet table every look at an IP header begins with its version, which also lets nft print it by name.
fn match_family(rule: &mut nftnl::Rule<'_>, family: Family) {
    let number = if family == Family::V4 { uapi::IPV4 } else { uapi::IPV6 };
    rule.add_expr(&nft_expr!(meta nfproto));
    rule.add_expr(&nft_expr!(cmp == number));
}

fn match_tcp(rule: &mut nftnl::Rule<'_>) {
    rule.add_expr(&nft_expr!(meta l4proto));
    rule.add_expr(&nft_expr!(cmp == TCP));
}

fn match_ports(batch: &mut nftnl::Batch, owner: &Table, rule: &mut nftnl::Rule<'_>, scope: Scope, set_id: u32) {
    let ports = scope.ports();
    let Some(first) = ports.first() else { return };
    match_tcp(rule);
    rule.add_expr(&nft_expr!(payload tcp dport));
    if ports.len() == 1 {
        rule.add_expr(&Cmp::new(CmpOp::Eq, &first.to_be_bytes()[..]));
        return;
    }
    let mut set = Set::<Port>::new(c"__set%d", set_id, owner, ProtoFamily::Inet);
    for port in ports {
        set.add(&Port(*port));
    }
    batch.add(&set, MsgType::Add);
    batch.add_iter(set.elems_iter(), MsgType::Add);
    rule.add_expr(&Lookup::new(&set));
}

fn match_set(owner: &Table, rule: &mut nftnl::Rule<'_>, set: SetId) {
    match_family(rule, set.family);
    match set.family {
        Family::V4 => rule.add_expr(&nft_expr!(payload ipv4 saddr)),
        Family::V6 => rule.add_expr(&nft_expr!(payload ipv6 saddr)),
    }
    if !set.is_hosts() {
        match set.mask() {
            IpAddr::V4(mask) => rule.add_expr(&Bitwise::new(&mask.octets()[..], &[0u8; 4][..])),
            IpAddr::V6(mask) => rule.add_expr(&Bitwise::new(&mask.octets()[..], &[0u8; 16][..])),
        }
    }
    // Only for its name: the look-up finds the set by that, in the same batch or an earlier one.
    let name = c_string(&set.to_string());
    match set.family {
        Family::V4 => rule.add_expr(&Lookup::new(&Set::<std::net::Ipv4Addr>::new_named(&name, 0, owner, ProtoFamily::Inet))),
        Family::V6 => rule.add_expr(&Lookup::new(&Set::<std::net::Ipv6Addr>::new_named(&name, 0, owner, ProtoFamily::Inet))),
    }
}

struct Port(u16);

impl SetKey for Port {
    const TYPE: u32 = INET_SERVICE;
    const LEN: u32 = 2;
    fn data(&self) -> Box<[u8]> {
        Box::new(self.0.to_be_bytes())
    }
}

/// Our own names have no NUL; the kernel's end at one.
fn c_string(name: &str) -> CString {
    let bytes: Vec<u8> = name.bytes().take_while(|byte| *byte != 0).collect();
    CString::new(bytes).expect("cut before the first NUL")
}
