//! What an operator asks about accounts, and what is shown of them.

use std::time::Duration;

use ipnetwork::IpNetwork;
use serde_json::json;

use super::core::Core;
use crate::control::{Code, Request, Response, StopView};
use crate::engine::account::{Hindrance, Kind, Stopped};
use crate::engine::decision::{Command, Reply, Subject};
use crate::engine::jail::Scope;
use crate::limits::{ACCOUNT_BYTES_MAX, REASON_BYTES_MAX};
use crate::shell;
use crate::time::Timestamp;

pub(super) fn list(core: &Core, now: Timestamp) -> Response {
    Response::data(&views(core, now))
}

pub(super) fn views(core: &Core, now: Timestamp) -> Vec<StopView> {
    let mut views: Vec<StopView> = core.engine.stopped().map(|stopped| view(core, stopped, now)).collect();
    let left = core.effects.stopping.all_parked().filter(|(account, _, _)| views.iter().all(|view| view.account != *account));
    let left: Vec<StopView> = left.map(|(account, count, oldest)| parked_view(account, count, oldest)).collect();
    views.extend(left);
    views
}

/// An account that is free again, and whose mail is still on hold.
fn parked_view(account: &str, count: usize, oldest: Timestamp) -> StopView {
    StopView {
        account: account.to_owned(),
        verb: "parked".to_owned(),
        scope: None,
        in_force: true,
        failure: None,
        jail: String::new(),
        since: oldest.rfc3339(),
        until: None,
        remaining_seconds: None,
        reason: format!("{count} messages are on hold until `mailwarden release {}`", shell::word(account)),
        cause: String::new(),
        parked: count,
    }
}

fn view(core: &Core, Stopped { name, hindrance, stop }: Stopped, now: Timestamp) -> StopView {
    let ends = stop.until != Timestamp::NEVER;
    StopView {
        verb: hindrance.verb().as_str().to_owned(),
        scope: (hindrance == Hindrance::Locked).then(|| core.effects.stopping.scope_of_lock(stop.scope)),
        in_force: core.effects.stopping.carries_out(hindrance, &name),
        failure: core.effects.stopping.failure(&name),
        jail: stop.jail,
        since: stop.since.rfc3339(),
        until: ends.then(|| stop.until.rfc3339()),
        remaining_seconds: ends.then(|| stop.until.since(now).as_secs()),
        reason: stop.reason,
        cause: stop.cause.to_string(),
        parked: core.effects.stopping.parked(&name),
        account: name,
    }
}

pub(super) fn is_about_account(request: &Request) -> bool {
    matches!(request, Request::Lock { .. } | Request::Unlock { .. } | Request::Hold { .. } | Request::Release { .. })
}

pub(super) fn command(core: &mut Core, request: Request, now: Timestamp) -> Response {
    let (Request::Lock { account: written, .. }
    | Request::Unlock { account: written, .. }
    | Request::Hold { account: written, .. }
    | Request::Release { account: written, .. }) = &request
    else {
        return Response::error(Code::BadRequest, "no command about an account");
    };
    if let Request::Lock { reason, .. } | Request::Hold { reason, .. } = &request
        && reason.len() > REASON_BYTES_MAX
    {
        return super::views::reason_too_long();
    }
    let account = name(core, written);
    let is_stopped_anew = matches!(request, Request::Lock { .. } | Request::Hold { .. });
    if let Some(mistake) = mistake(written).filter(|_| is_stopped_anew && !is_known(core, &account)) {
        return Response::error(Code::Usage, mistake);
    }
    if is_stopped_anew && let Some(mistake) = no_submitter(&account) {
        return Response::error(Code::Usage, mistake);
    }
    let shown = shell::shown(&account);
    if matches!(request, Request::Lock { .. }) && matches!(Kind::of(account.as_bytes()), Kind::Client | Kind::Forward) {
        let hold = format!("mailwarden hold {}", shell::word(&account));
        return Response::error(Code::Usage, format!("{shown} has no login to lock; its mail can be held: {hold}"));
    }
    match request {
        Request::Lock { seconds, full, reason, .. } => {
            let command = Command::Lock { account: account.clone(), duration: seconds.map(Duration::from_secs), full, reason };
            let reply = core.engine.handle_command(command, now);
            let mut response = stopped(core, reply, &account, Hindrance::Locked);
            if full && response.code == Code::Ok && !core.effects.stopping.lock_path().hooks {
                response.message.push_str("; only sending is closed, for the mailbox a hook is needed (docs/accounts.md)");
            }
            response
        }
        Request::Hold { reason, .. } => {
            let reply = core.engine.handle_command(Command::Hold { account: account.clone(), reason }, now);
            stopped(core, reply, &account, Hindrance::Held)
        }
        Request::Unlock { false_alarm, .. } => {
            let reply = core.engine.handle_command(Command::Unlock { account: account.clone(), false_alarm }, now);
            let parked = core.effects.stopping.parked(&account);
            let release = format!("mailwarden release {}", shell::word(&account));
            let rest = if parked == 0 { String::new() } else { format!("; {parked} messages stay on hold until `{release}`") };
            freed(reply, format!("unlocked {shown}{rest}"), format!("{shown} is not locked"))
        }
        Request::Release { some: Some(count), .. } => release_some(core, &account, count, now),
        Request::Release { some: None, false_alarm, .. } => {
            let parked = core.effects.stopping.parked(&account);
            let reply = core.engine.handle_command(Command::Release { account: account.clone(), false_alarm }, now);
            // A lock parks mail too, and its end lets none of it go.
            if reply == Reply::NotFound && parked > 0 {
                return release_some(core, &account, u32::MAX, now);
            }
            freed(reply, format!("released {shown}, {parked} messages go on"), format!("{shown} is not held, and none of its messages is"))
        }
        _ => Response::error(Code::BadRequest, "no command about an account"),
    }
}

/// The name of an account on the books that an operator means: what the log brought there has every name, however odd, as it is
/// written; else the canonical one.
pub(super) fn name(core: &mut Core, written: &str) -> String {
    if is_known(core, written) { written.to_owned() } else { core.correlator.canonical_name(written) }
}

fn is_known(core: &Core, name: &str) -> bool {
    let has_history = || core.engine.why(&Subject::Account(name.to_owned())).account.is_some();
    core.effects.stopping.parked(name) > 0 || has_history()
}

/// A new name goes to Postfix, to hooks and to terminals.
fn mistake(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > ACCOUNT_BYTES_MAX {
        return Some(format!("an account's name has 1 to {ACCOUNT_BYTES_MAX} bytes"));
    }
    let is_odd = name.starts_with('-') || name.chars().any(|c| c.is_control() || c.is_whitespace());
    is_odd.then(|| format!("{name:?} is no account: it begins with \"-\", or has blanks or control characters in it"))
}

fn stopped(core: &Core, reply: Reply, account: &str, hindrance: Hindrance) -> Response {
    let (done, would) = match hindrance {
        Hindrance::Locked => ("locked", "would be locked"),
        Hindrance::Held => ("held", "would be held"),
    };
    let shown = shell::shown(account);
    let changed = match reply {
        Reply::Done { changed } => changed,
        Reply::Refused(why) => return Response::error(Code::Refused, why),
        Reply::NotFound => return Response::error(Code::NotFound, format!("there is no account {shown}")),
    };
    let mut text = match (core.effects.stopping.carries_out(hindrance, account), changed) {
        (true, 0) => format!("{shown} is {done} already, and for as long"),
        (true, _) => format!("{done} {shown}{}", lasting(core, account)),
        (false, _) => format!("{shown} {would}, but there is no way to carry that out: {} (docs/accounts.md)", missing(hindrance, account)),
    };
    if changed > 0 && !core.engine.knows(account) {
        text.push_str("; nothing has ever been seen of it here, so check the name");
    }
    Response { data: json!({ "changed": changed, "account": account }), ..Response::ok(text) }
}

/// ` (sending) until 2026-11-24 04:05:06`, or until somebody ends it.
fn lasting(core: &Core, account: &str) -> String {
    let Some(Stopped { hindrance, stop, .. }) = core.engine.stopped().find(|stopped| stopped.name == account) else { return String::new() };
    let (what, end) = match (hindrance, core.effects.stopping.scope_of_lock(stop.scope)) {
        (Hindrance::Held, _) => ("", "release"),
        (Hindrance::Locked, Scope::Auth) => (" (all logins)", "unlock"),
        (Hindrance::Locked, _) => (" (sending)", "unlock"),
    };
    match stop.until {
        Timestamp::NEVER => format!("{what} until `mailwarden {end} {}`", shell::word(account)),
        until => format!("{what} until {until}"),
    }
}

/// What such a hold or lock would need.
fn missing(hindrance: Hindrance, account: &str) -> &'static str {
    match (hindrance, Kind::of(account.as_bytes())) {
        (Hindrance::Locked, Kind::Local(_)) => "Postfix asks nobody about mail that is handed in by a command, so the helper needs a hook",
        (Hindrance::Locked, _) => "Postfix does not ask the policy socket, and the helper has no hook for it",
        (Hindrance::Held, Kind::Account | Kind::Client) => "Postfix does not ask the policy socket, and there is no helper",
        (Hindrance::Held, _) => "there is no helper",
    }
}

/// One submitter is stopped at a time.
fn no_submitter(name: &str) -> Option<String> {
    if name.parse::<IpNetwork>().is_ok() {
        return Some(format!(
            "{name} is an address, which can be banned (mailwarden ban {name}); a client without a login is client:{name}"
        ));
    }
    name.starts_with('@').then(|| format!("{name} is a domain; an account is {{name}}{name}").replace("{name}", "NAME"))
}

fn freed(reply: Reply, done: String, not_found: String) -> Response {
    match reply {
        Reply::Done { changed } => Response { data: json!({ "changed": changed }), ..Response::ok(done) },
        Reply::Refused(why) => Response::error(Code::Refused, why),
        Reply::NotFound => Response::error(Code::NotFound, not_found),
    }
}

/// Lets messages go before anything is decided: the answers to them tell whether the rest is spam.
fn release_some(core: &mut Core, account: &str, count: u32, now: Timestamp) -> Response {
    let is_stopped = core.engine.stopped().any(|stopped| stopped.name == account);
    let gone = core.effects.let_go(account, count as usize, is_stopped, now);
    let shown = shell::shown(account);
    match gone {
        0 => Response::error(Code::NotFound, format!("no message of {shown} is on hold that mailwarden knows of")),
        gone => Response { data: json!({ "changed": gone }), ..Response::ok(format!("{gone} messages of {shown} go on")) },
    }
}
