//! Submitters: who sends, what is usual for them, how much speaks against them, and whose mail is stopped.
//!
//! **Invariant:** only an account vouched for by a login that worked, or a local user that handed in mail, is ever held or
//! locked by the engine, and none for failures. No score locks for geography alone, or for what other servers say alone; a jail that says `then = "lock"`
//! needs no second sign. What an operator says goes for every name.

mod domains;
mod history;
mod ladder;
pub mod report;
mod risk;
mod standing;
mod submitter;
mod tally;

pub(super) use history::network;
pub(super) use ladder::{Sign, Spent};
pub use risk::{Family, RiskRules, Rung};
pub(super) use standing::Standings;
pub use standing::{Freed, Hindrance, Stop, Stopped};
pub use submitter::Kind;
pub(super) use submitter::Submitters;
pub use tally::Lately;
pub(super) use tally::Tally;
