//! Accounts in other hands, from log lines to decisions, with the shipped filters and jails and on a virtual clock.
//!
//! A small mail host for two weeks: people of all habits, thieves of all kinds, attackers at the door. Whatever the seed: nobody
//! innocent is held or locked, every thief is stopped after few recipients, no lock comes from one kind of sign alone, and the same
//! lines give the same decisions, restart or not. Then the cases in which an attacker wants somebody locked, or a thief spared.

#[path = "stolen/budget.rs"]
mod budget;
#[path = "support/dice.rs"]
mod dice;
#[path = "stolen/edges.rs"]
mod edges;
#[path = "stolen/globe.rs"]
mod globe;
#[path = "stolen/history.rs"]
mod history;
#[path = "stolen/host.rs"]
mod host;
#[path = "stolen/innocent.rs"]
mod innocent;
#[path = "stolen/log.rs"]
mod log;
#[path = "stolen/people.rs"]
mod people;
#[path = "stolen/simulation.rs"]
mod simulation;
#[path = "stolen/thieves.rs"]
mod thieves;
