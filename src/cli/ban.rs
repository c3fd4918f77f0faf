//! `ban`, `unban`, `undo`.

use std::process::ExitCode;

use ipnetwork::IpNetwork;

use super::when::BanTime;
use super::{Global, simple};
use crate::control::Request;
use crate::engine::jail::Scope;
use crate::time::Timestamp;

pub(super) fn ban(global: &Global, nets: Vec<IpNetwork>, time: BanTime, scope: Scope, reason: String, force: bool) -> ExitCode {
    simple(global, &Request::Ban { nets, seconds: time.seconds(), scope, reason, force })
}

pub(super) fn unban(global: &Global, nets: Vec<IpNetwork>, all: bool) -> ExitCode {
    simple(global, &if all { Request::UnbanAll } else { Request::Unban { nets } })
}

pub(super) fn undo(global: &Global, since: Timestamp) -> ExitCode {
    simple(global, &Request::Undo { since: since.micros() })
}
