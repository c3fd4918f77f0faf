//! Postfix policy delegation: Postfix asks at each command of a client whether the account may send.
//!
//! **Invariant:** the answer never waits for the core and is never an error: it comes from a published copy of who is stopped
//! ([`Board`]), and whatever is not understood is answered with `DUNNO`, which leaves the decision to Postfix. So a daemon that is
//! busy refuses nobody's mail, and one that is stopped or hung is passed over by Postfix itself (`default_action=DUNNO`).

mod board;
pub mod protocol;
pub mod server;

pub use board::{Board, Numbers};
