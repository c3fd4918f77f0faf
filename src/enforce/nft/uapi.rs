//! Numbers of `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h` that the libc crate does not have.

/// `NFNL_SUBSYS_NFTABLES << 8`: the high byte of every message type.
const SUBSYSTEM: u16 = 10 << 8;
/// `res_id` of the batch messages.
pub const SUBSYSTEM_ID: u16 = 10;
pub const BATCH_BEGIN: u16 = 0x10;
pub const BATCH_END: u16 = 0x11;
/// `NFPROTO_INET`
pub const INET: u8 = 1;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`
pub const IPV4: u8 = 2;
pub const IPV6: u8 = 10;

pub const NEW_TABLE: u16 = SUBSYSTEM;
pub const GET_TABLE: u16 = SUBSYSTEM | 1;
pub const DEL_TABLE: u16 = SUBSYSTEM | 2;
pub const GET_CHAIN: u16 = SUBSYSTEM | 4;
pub const GET_RULE: u16 = SUBSYSTEM | 7;
pub const NEW_SET: u16 = SUBSYSTEM | 9;
pub const GET_SET: u16 = SUBSYSTEM | 10;
pub const DEL_SET: u16 = SUBSYSTEM | 11;
pub const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
pub const GET_ELEMENT: u16 = SUBSYSTEM | 13;
pub const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
pub const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// Linux 6.3.
pub const DESTROY_ELEMENT: u16 = SUBSYSTEM | 30;

pub mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const OWNER: u16 = 7;
    pub const F_DORMANT: u32 = 1;
    pub const F_OWNER: u32 = 2;
    pub const F_PERSIST: u32 = 4;
}
pub mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
    pub const HOOK_NUMBER: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
}
pub mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const HANDLE: u16 = 3;
    pub const EXPRESSIONS: u16 = 4;
    pub const LIST_ELEMENT: u16 = 1;
    pub const EXPRESSION_NAME: u16 = 1;
    pub const EXPRESSION_DATA: u16 = 2;
    pub const LOOKUP_SET: u16 = 1;
    pub const COUNTER_BYTES: u16 = 1;
    pub const COUNTER_PACKETS: u16 = 2;
}
pub mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LEN: u16 = 5;
    pub const DESC: u16 = 9;
    pub const ID: u16 = 10;
    pub const DESC_SIZE: u16 = 1;
    pub const F_ANONYMOUS: u32 = 0x1;
    pub const F_TIMEOUT: u32 = 0x10;
}
pub mod element {
    pub const LIST_TABLE: u16 = 1;
    pub const LIST_SET: u16 = 2;
    pub const LIST_ELEMENTS: u16 = 3;
    pub const LIST_ELEMENT: u16 = 1;
    pub const KEY: u16 = 1;
    pub const TIMEOUT: u16 = 4;
    pub const EXPIRATION: u16 = 5;
    pub const DATA_VALUE: u16 = 1;
}
pub mod generation {
    pub const ID: u16 = 1;
}
