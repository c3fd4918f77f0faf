//! Stage 5, decision → world.
//!
//! **Invariant:** every enforcer is idempotent, and [`reconcile`] brings the kernel in line with the ledger from any state. What an
//! enforcer cannot do is told to the caller and never stops the daemon.

pub mod dry_run;
pub mod errand;
pub mod helper;
pub mod nft;
pub mod reconcile;
pub mod sockets;
