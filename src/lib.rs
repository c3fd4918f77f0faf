//! mailwarden guards a mail host: log lines in, nftables bans and account locks out.
//!
//! The modules stand in the order in which data flows: `source` → `parse` → `correlate` → `engine` → `enforce`.
//! `docs/ARCHITECTURE.md` has the bird's-eye view and the invariants.

pub mod address;
pub mod event;
pub mod geo;
pub mod limits;
pub mod shell;
pub mod time;

pub mod pipeline;

pub mod source;

pub mod parse;

pub mod correlate;

pub mod engine;

pub mod enforce;

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod hookd;
pub mod notify;
pub mod policy;
pub mod store;
