//! Submitters: who sends, what is usual for them, how much speaks against them, and whose mail is stopped.
//!
//! **Invariant:** only an account vouched for by a login that worked, or a local user that handed in mail, is ever held or
//! locked by the engine; what an operator says goes for every name.

mod standing;

pub(super) use standing::Standings;
pub use standing::{Hindrance, Stop, Stopped};
