//! What can go wrong between us and the kernel's firewall, in words for the operator.

use std::fmt;
use std::io;

use nix::errno::Errno;

use super::layout::SetId;

#[derive(Debug)]
pub enum NftError {
    /// No netlink socket, or it broke.
    Socket(io::Error),
    /// The kernel has no nf_tables.
    NoNfTables,
    NotPermitted,
    /// Another live process owns the table.
    Owned {
        table: String,
        owner: Owner,
    },
    /// The set's `size` is reached.
    SetFull {
        set: SetId,
        size: u32,
    },
    /// The table or one of its parts has been removed by somebody else; [`super::Kernel::rebuild`] puts it back.
    Gone {
        table: String,
    },
    /// The kernel did not say whether the change was made.
    Uncertain,
    /// The kernel refused.
    Refused {
        what: String,
        errno: Errno,
        text: Option<String>,
    },
    /// The table's name cannot be used.
    BadName(String),
}

/// The netlink port that owns a table; usually the process id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub port: u32,
    /// Name of the process with that id, when there is one.
    pub process: Option<String>,
}

impl Owner {
    pub fn of_port(port: u32) -> Owner {
        let process = std::fs::read_to_string(format!("/proc/{port}/comm")).ok();
        Owner { port, process: process.map(|name| name.trim_end().escape_default().to_string()) }
    }
}

impl fmt::Display for NftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NftError::Socket(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => NftError::NoNfTables.fmt(f),
                _ => write!(f, "netlink socket: {error}"),
            },
            NftError::NoNfTables => {
                f.write_str("this kernel has no nf_tables (load the module nf_tables, or CONFIG_NF_TABLES_INET is off)")
            }
            NftError::NotPermitted => f.write_str("changing nftables: permission denied (needs CAP_NET_ADMIN in this network namespace)"),
            NftError::Owned { table, owner } => match &owner.process {
                Some(process) => write!(f, "table inet {table} is owned by another process: {process} (pid {})", owner.port),
                None => write!(f, "table inet {table} is owned by another process (netlink port {})", owner.port),
            }
            .and_then(|()| f.write_str("; stop it, or give this instance another table name")),
            NftError::SetFull { set, size } => {
                write!(f, "nftables set {set} is full ({size} elements): raise its size, ban networks instead of hosts, or shorten bans")
            }
            NftError::Gone { table } => write!(f, "table inet {table} or a part of it was removed by somebody else"),
            NftError::Uncertain => f.write_str("the kernel did not say whether the change was made (its answers overflowed the socket)"),
            NftError::Refused { what, errno, text } => {
                write!(f, "nftables: {what}: {}", errno.desc())?;
                text.as_deref().map_or(Ok(()), |text| write!(f, " ({text})"))
            }
            NftError::BadName(name) => {
                write!(f, "{:?} cannot be a table's name: letters, digits, - and _, at most 32, beginning with a letter", name)
            }
        }
    }
}

impl std::error::Error for NftError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            NftError::Socket(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for NftError {
    fn from(error: io::Error) -> Self {
        NftError::Socket(error)
    }
}
