//! Everybody's login fails: then it is the host that is wrong, and not its customers.
//!
//! Some versions of Dovecot and Postfix log the same for a wrong password and for a login database that is down. Addresses
//! that are known to log in are not banned for what happens to all of them.

use std::collections::BTreeMap;

use super::Engine;
use super::decision::{Subject, Verb};
use super::jail::Scope;
use super::key::Host;
use crate::event::Event;

/// Under which name it is told.
const NAME: &str = "outage";
/// So many known addresses in a row, none of which gets in …
const HOSTS: usize = 10;
/// … within so long.
const WITHIN_MICROS: i64 = 600_000_000;

#[derive(Debug, Default)]
pub struct Outage {
    /// Known addresses whose logins failed since the last one that worked, and when.
    failing: BTreeMap<Host, i64>,
    is_told: bool,
}

impl Outage {
    /// Whether there is one.
    fn failed(&mut self, host: Host, at: i64) -> bool {
        self.failing.retain(|_, last| at.saturating_sub(*last) < WITHIN_MICROS);
        if self.failing.len() < HOSTS || self.failing.contains_key(&host) {
            self.failing.insert(host, at);
        }
        self.failing.len() >= HOSTS
    }

    pub fn succeeded(&mut self) {
        self.failing.clear();
        self.is_told = false;
    }
}

impl Engine {
    /// A login of a known address failed, as all of them do.
    pub(super) fn is_outage(&mut self, event: &Event<'_>, host: Host) -> bool {
        if !self.outage.failed(host, self.at) {
            return false;
        }
        if !std::mem::replace(&mut self.outage.is_told, true) {
            let reason = format!(
                "{HOSTS} addresses that logged in before fail to, and nobody gets in: is the login database down? \
                 Failures of known addresses do not count until somebody logs in"
            );
            let mut decision = self.decision(Verb::Alert, Subject::Account("*".to_owned()), Scope::All, self.now, NAME, reason);
            decision.evidence = super::verdict::own_line(event);
            self.push(decision);
        }
        true
    }
}
