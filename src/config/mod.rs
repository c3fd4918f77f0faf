//! The configuration: files → raw (as written, with places) → resolved (no illegal state has a value).

pub mod accounts;

pub use accounts::AccountRules;
