//! Ends the open connections of a banned client at once, so that a server process does not wait for a peer that cannot answer any
//! more. By sock_diag(7), `SOCK_DESTROY` (Linux 4.9, `CONFIG_INET_DIAG_DESTROY`, CAP_NET_ADMIN). Only sockets of this network
//! namespace: those of a container are its own.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::nft::sys::Socket;
use super::nft::wire::{self, Meaning, NLM_F_ACK, NLM_F_DUMP, Writer};
use crate::address;
use crate::engine::jail::Scope;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_D_COND: u8 = 8;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// Every state with a peer that the kernel lets us end: established, SYN received, FIN wait, close wait, last ACK, closing.
const STATES: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// `struct inet_diag_sockid` inside `struct inet_diag_msg`, after family, state, timer and retransmits.
const MESSAGE_ID: usize = 4;
const ID_BYTES: usize = 48;

#[derive(Debug)]
pub enum SocketError {
    Netlink(io::Error),
    NotPermitted,
    /// The kernel cannot end sockets.
    Unsupported,
    Refused(Errno),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::Netlink(error) => write!(f, "sock_diag: {error}"),
            SocketError::NotPermitted => f.write_str("ending open sockets: permission denied (needs CAP_NET_ADMIN)"),
            SocketError::Unsupported => f.write_str("this kernel cannot end open sockets (CONFIG_INET_DIAG_DESTROY is off)"),
            SocketError::Refused(errno) => write!(f, "ending open sockets: {}", errno.desc()),
        }
    }
}

impl std::error::Error for SocketError {}

impl From<io::Error> for SocketError {
    fn from(error: io::Error) -> Self {
        SocketError::Netlink(error)
    }
}

/// Ends every TCP connection between `net` and our ports of `scope`. Returns how many there were.
pub fn destroy(net: IpNetwork, scope: Scope) -> Result<usize, SocketError> {
    let mut socket = Socket::open(mnl::Bus::SockDiag)?;
    let mut found = Vec::new();
    // A server that listens on :: has its IPv4 clients in IPv6 sockets.
    let families: &[u8] = if net.is_ipv4() { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
    for family in families {
        found.extend(connections(&mut socket, *family, net)?.into_iter().filter(|open| open.belongs_to(net, scope)));
    }
    let (mut ended, mut problem) = (0, None);
    for open in found {
        match end(&mut socket, &open) {
            Ok(there) => ended += usize::from(there),
            // One socket may be in a state that cannot be ended; the others are not to survive for that.
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(error) if ended == 0 => Err(error),
        _ => Ok(ended),
    }
}

/// A connection as sock_diag names it.
struct Connection {
    family: u8,
    id: [u8; ID_BYTES],
}

impl Connection {
    fn parse(payload: &[u8]) -> Option<Connection> {
        Some(Connection { family: *payload.first()?, id: payload.get(MESSAGE_ID..MESSAGE_ID + ID_BYTES)?.try_into().ok()? })
    }
    fn local_port(&self) -> u16 {
        u16::from_be_bytes([self.id[0], self.id[1]])
    }
    fn peer(&self) -> IpAddr {
        let bytes: [u8; 16] = self.id[20..36].try_into().expect("16 bytes");
        let [a, b, c, d, ..] = bytes;
        if self.family == AF_INET { IpAddr::from([a, b, c, d]) } else { address::canonical(IpAddr::from(bytes)) }
    }
    /// The kernel has chosen by address already; but a kernel that ignores the filter must not cost anybody a connection.
    fn belongs_to(&self, net: IpNetwork, scope: Scope) -> bool {
        let ports = scope.ports();
        net.contains(self.peer()) && (ports.is_empty() || ports.contains(&self.local_port()))
    }
}

fn connections(socket: &mut Socket, family: u8, net: IpNetwork) -> Result<Vec<Connection>, SocketError> {
    let seq = socket.sequence(1);
    let mut request = Writer::default();
    request.begin(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, seq);
    request.raw(&diag_request(family, STATES, &[0; ID_BYTES]));
    request.attr(INET_DIAG_REQ_BYTECODE, &peer_filter(net));
    request.finish();
    socket.send(request.bytes())?;
    let mut found = Vec::new();
    loop {
        let Some(bytes) = socket.receive()? else { return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
        for message in wire::messages(bytes).filter(|message| message.seq == seq) {
            match message.meaning() {
                Meaning::Data(payload) => found.extend(Connection::parse(payload)),
                Meaning::Done => return Ok(found),
                // No such family (IPv6 is off).
                Meaning::Failed(failure) if failure.errno == Errno::ENOENT as i32 => return Ok(found),
                Meaning::Failed(failure) => return Err(refusal(failure.errno)),
                Meaning::Ack => {}
            }
        }
    }
}

/// `false`: it was gone already.
fn end(socket: &mut Socket, open: &Connection) -> Result<bool, SocketError> {
    let seq = socket.sequence(1);
    let mut request = Writer::default();
    request.begin(SOCK_DESTROY, NLM_F_ACK, seq);
    request.raw(&diag_request(open.family, u32::MAX, &open.id));
    request.finish();
    socket.send(request.bytes())?;
    let mut ended = false;
    while let Some(bytes) = socket.receive()? {
        for message in wire::messages(bytes).filter(|message| message.seq == seq) {
            match message.meaning() {
                Meaning::Ack => ended = true,
                Meaning::Failed(failure) if failure.errno == Errno::ENOENT as i32 => {}
                Meaning::Failed(failure) => return Err(refusal(failure.errno)),
                Meaning::Data(_) | Meaning::Done => {}
            }
        }
    }
    Ok(ended)
}

fn refusal(errno: i32) -> SocketError {
    match Errno::from_raw(errno) {
        Errno::EPERM => SocketError::NotPermitted,
        Errno::EOPNOTSUPP => SocketError::Unsupported,
        errno => SocketError::Refused(errno),
    }
}

/// `struct inet_diag_req_v2`.
fn diag_request(family: u8, states: u32, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut request = vec![family, TCP, 0, 0];
    request.extend_from_slice(&states.to_ne_bytes());
    request.extend_from_slice(id);
    request
}

/// A filter of one instruction: the peer is in `net`. `struct inet_diag_bc_op`, then `struct inet_diag_hostcond`.
fn peer_filter(net: IpNetwork) -> Vec<u8> {
    let (family, address) = match net.ip() {
        IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
    };
    let length = 4 + 8 + address.len();
    let mut filter = vec![INET_DIAG_BC_D_COND, length as u8];
    // Jumping behind the end is "no".
    filter.extend_from_slice(&(length as u16 + 4).to_ne_bytes());
    filter.extend_from_slice(&[family, net.prefix(), 0, 0]);
    filter.extend_from_slice(&(-1i32).to_ne_bytes());
    filter.extend_from_slice(&address);
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_peer_is_ipv4_and_ports_belong_to_scopes() {
        let mut id = [0; ID_BYTES];
        id[..2].copy_from_slice(&587u16.to_be_bytes());
        id[30..36].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
        let open = Connection { family: AF_INET6, id };
        let net: IpNetwork = "192.0.2.0/24".parse().unwrap();
        for (scope, expected) in [(Scope::Auth, true), (Scope::All, true), (Scope::Mx, false)] {
            assert_eq!(open.belongs_to(net, scope), expected);
        }
        assert!(!open.belongs_to("192.0.3.0/24".parse().unwrap(), Scope::All));
        assert!(Connection::parse(&[0; 20]).is_none());
    }
}
