//! What the daemon shows: `status`, `list`, `why`; and what an operator's command comes to.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::json;

use super::core::Core;
use super::timing::Timing;
use crate::address;
use crate::control::{BanPage, BanView, Code, Request, Response};
use crate::engine::Engine;
use crate::engine::account::Hindrance;
use crate::engine::decision::{Ban, Command, Decision, Reply, Subject};
use crate::engine::jail::Scope;
use crate::geo::Look;
use crate::limits::REASON_BYTES_MAX;
use crate::shell;
use crate::source::{Source, SourceStats};
use crate::time::Timestamp;

/// The widest networks that are banned without `--force`: the largest blocks that a registry has given to anybody.
const BAN_PREFIX_MIN_IPV4: u8 = 8;
const BAN_PREFIX_MIN_IPV6: u8 = 19;
/// Networks that the answer to an `unban` names for each that was asked for.
const LIFTED_SHOWN: usize = 100;
/// Decisions that the answer to an `undo` names.
const UNDONE_SHOWN: usize = 20;
/// Bans on one page of `list`.
const PAGE_BANS: usize = 1_000;

pub(super) fn status(core: &mut Core, jail: Option<&str>, now: Timestamp) -> Response {
    let mut engine = core.engine.status();
    if let Some(name) = jail {
        engine.jails.retain(|known| known.jail == name);
        if engine.jails.is_empty() {
            let names: Vec<&str> = core.config.jails.iter().map(|jail| jail.name.as_str()).collect();
            return Response::error(Code::NotFound, format!("there is no jail \"{name}\"; there are: {}", names.join(", ")));
        }
    }
    let health = core.effects.store.health();
    let firewall = &mut core.effects.firewall;
    let kernel = firewall.status();
    Response::data(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "since": core.started.rfc3339(),
        "uptime_seconds": now.since(core.started).as_secs(),
        "firewall": {
            "enforcing": kernel.is_some(),
            "dry_run": firewall.is_dry_run(),
            "problem": firewall.problem(),
            "leftover": firewall.leftover(),
            "table": kernel.as_ref().map(|status| status.table.clone()),
            "mode": kernel.as_ref().map(|status| format!("{:?}", status.mode).to_lowercase()),
            "features": kernel.as_ref().map(|status| status.features.names()),
            "repairing": firewall.is_busy(),
            "refused": firewall.refused,
            "dropped_packets": firewall.dropped_packets(),
        },
        "state": {
            "problem": health.problem().map(str::to_owned).or_else(|| health.loss()).or_else(|| firewall.adopted().map(str::to_owned)),
            "saved": health.problem().is_none(),
            "pending": health.state.pending + health.windows.pending, "lost": health.state.lost,
        },
        "memory": { "resident": core.memory.resident, "limit": core.memory.limit(), "tight": core.memory.is_tight },
        "lines": core.counts,
        "followed": core.correlator.stats(),
        "sources": core.sources.iter().enumerate().map(|(index, source)| source_view(core, index, source, now)).collect::<Vec<_>>(),
        "messages": core.correlator.stats().messages,
        "worst_turn_micros": u64::try_from(core.worst_turn.as_micros()).unwrap_or(u64::MAX),
        "has_lock_path": core.effects.has_lock_path(),
        "stopping": core.effects.stopping.view(),
        "stopped": super::stops::views(core, now),
        "notify": core.effects.notifier.views(),
        "geo": core.geo.shared.describe(),
        "engine": engine,
    }))
}

#[derive(Serialize)]
struct SourceView {
    name: String,
    lines: u64,
    /// Since the last line; none: there was none yet.
    silent_seconds: Option<u64>,
    truncated: u64,
    errors: u64,
    gaps: u64,
    /// Lines that a logger in front of us says it dropped.
    blind_lines: u64,
    problem: Option<String>,
}

fn source_view(core: &Core, index: usize, source: &Source, now: Timestamp) -> SourceView {
    let SourceStats { name, lines, truncated, errors, blind_lines, gaps, problem, .. } = source.stats();
    let timing = core.timings.get(index);
    let silent_seconds = timing.and_then(|timing| timing.heard).map(|heard| now.since(heard).as_secs());
    let off = timing.and_then(Timing::off);
    let problem = problem.or_else(|| off.map(|off| off.to_string()));
    SourceView { name, lines, silent_seconds, truncated, errors, gaps, blind_lines, problem }
}

/// One page, by the time of the end.
pub(super) fn bans(core: &Core, after: Option<(i64, IpNetwork, Scope)>, now: Timestamp) -> Response {
    let after = after.map(|(until, net, scope)| (Timestamp::from_micros(until), net, scope));
    let (bans, more) = core.engine.bans_after(after, PAGE_BANS);
    let next = bans.last().filter(|_| more).map(|ban| (ban.until.micros(), ban.net, ban.scope));
    let bans = bans.into_iter().map(|ban| view(ban, now)).collect();
    Response::data(&BanPage { bans, next, dry_run: core.effects.firewall.is_dry_run() })
}

fn view(ban: Ban, now: Timestamp) -> BanView {
    let ends = ban.until != Timestamp::NEVER;
    BanView {
        ip: ban.net,
        scope: ban.scope,
        since: ban.since.rfc3339(),
        until: ends.then(|| ban.until.rfc3339()),
        remaining_seconds: ends.then(|| ban.until.since(now).as_secs()),
        jail: ban.jail,
        reason: ban.reason,
        cause: ban.cause.to_string(),
        earlier_bans: ban.earlier,
    }
}

/// `account` is the canonical name, should `subject` be no address.
pub(super) fn why(core: &Core, subject: &str, account: String) -> Response {
    let (shown, subject) = (subject, parse_subject(subject, account));
    let why = core.engine.why(&subject);
    if why.is_empty() {
        let unvouched = match core.counts.unvouched {
            0 => String::new(),
            lines => format!("; {lines} lines whose writer nobody vouches for were not counted: `mailwarden status` shows the last"),
        };
        return Response::error(Code::NotFound, format!("nothing is known about {}{unvouched}", shell::shown(shown)));
    }
    let mut response = Response::data(&why);
    if let Subject::Account(name) = &subject {
        let stops = response.data["account"]["stops"].as_array_mut();
        for stop in stops.into_iter().flatten() {
            let (stopping, is_lock) = (&core.effects.stopping, stop["state"] == "locked");
            let hindrance = if is_lock { Hindrance::Locked } else { Hindrance::Held };
            stop["in_force"] = stopping.carries_out(hindrance, name).into();
            stop["failure"] = stopping.failure(name).into();
            if is_lock && stop["scope"] == json!(Scope::Auth) {
                stop["scope"] = json!(stopping.scope_of_lock(Scope::Auth));
            }
        }
    }
    if let Some(fields) = response.data.as_object_mut().filter(|_| core.effects.firewall.is_dry_run()) {
        fields.insert("dry_run".to_owned(), true.into());
    }
    response
}

pub(super) fn accounts(engine: &Engine, entered_by: Option<IpAddr>) -> Response {
    Response::data(&engine.accounts(entered_by))
}

fn parse_subject(text: &str, account: String) -> Subject {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Subject::Net(address::single(address::canonical(ip)));
    }
    match text.parse::<IpNetwork>() {
        Ok(net) => Subject::Net(address::network(net.ip(), net.prefix())),
        Err(_) => Subject::Account(account),
    }
}

pub(super) fn command(core: &mut Core, request: Request, now: Timestamp) -> Response {
    let is_dry_run = core.effects.firewall.is_dry_run();
    let word = |real, dry| if is_dry_run { dry } else { real };
    let engine = &mut core.engine;
    match request {
        Request::Ban { reason, .. } if reason.len() > REASON_BYTES_MAX => reason_too_long(),
        Request::Ban { nets, seconds, scope, reason, force } => {
            let duration = seconds.map(Duration::from_secs);
            let reason = if reason.is_empty() { "by hand".to_owned() } else { reason };
            let each = nets.into_iter().map(|net| {
                let net = address::network(address::canonical(net.ip()), prefix(net));
                let too_wide = too_wide(net).filter(|_| !force).map(Reply::Refused);
                let ban = || Command::Ban { net, duration, scope, reason: reason.clone(), force };
                (net, too_wide.unwrap_or_else(|| engine.handle_command(ban(), now)))
            });
            let until = duration.map_or(Timestamp::NEVER, |duration| now + duration);
            let lasting = if until == Timestamp::NEVER { "for ever".to_owned() } else { format!("until {until}") };
            let mut response = sum_up(each.collect(), word("banned", "would ban (dry run)"), &format!(" ({scope}) {lasting}"));
            response.data["scope"] = json!(scope);
            response.data["until"] = json!((until != Timestamp::NEVER).then(|| until.rfc3339()));
            response
        }
        Request::Unban { nets } => unban(core, nets, now),
        Request::UnbanAll => {
            let mut response = total(engine.handle_command(Command::UnbanAll, now), word("lifted", "would lift (dry run)"), "bans");
            if let Some(leftover) = core.effects.firewall.leftover() {
                response.code = Code::Refused;
                response.message.push_str(&format!("; {leftover}"));
            }
            response
        }
        Request::Undo { since } => {
            let before = engine.pending().len();
            let reply = engine.handle_command(Command::Undo { since: Timestamp::from_micros(since) }, now);
            let undone: Vec<String> = engine.pending().skip(before).map(in_short).collect();
            let mut response = total(reply, word("took back", "would take back (dry run)"), "decisions");
            shortened(&undone, UNDONE_SHOWN).iter().for_each(|text| response.message.push_str(&format!("\n  {text}")));
            response.data["undone"] = json!(undone);
            response
        }
        _ => Response::error(Code::BadRequest, "no command"),
    }
}

/// An address may be shut out by the ban of a network, and a network be full of banned addresses: what was lifted is named.
fn unban(core: &mut Core, nets: Vec<IpNetwork>, now: Timestamp) -> Response {
    let (engine, firewall) = (&mut core.engine, &core.effects.firewall);
    let (mut each, mut lifted, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    let (done, lifting) = if firewall.is_dry_run() { ("would unban (dry run)", "would lift") } else { ("unbanned", "lifted") };
    for net in nets {
        let net = address::network(address::canonical(net.ip()), prefix(net));
        let found = engine.unban(net, now);
        let reply = if found.is_empty() { Reply::NotFound } else { Reply::Done { changed: found.len() } };
        if !found.is_empty() && found != [net] {
            lines.push(format!("{lifting} for {}: {}", address::display(net), names(&found)));
        }
        lifted.extend(found.into_iter().map(address::display));
        each.push((net, firewall.still_enforced(net).map_or(reply, Reply::Refused)));
    }
    let mut response = sum_up(each, done, "");
    lines.insert(0, response.message);
    response.message = lines.join("\n");
    response.data["lifted"] = json!(lifted);
    response
}

fn names(nets: &[IpNetwork]) -> String {
    let names: Vec<String> = nets.iter().map(|net| address::display(*net)).collect();
    shortened(&names, LIFTED_SHOWN).join(", ")
}

/// The first of them, and how many more there are.
fn shortened(texts: &[String], max: usize) -> Vec<String> {
    let mut shown: Vec<String> = texts.iter().take(max).cloned().collect();
    if texts.len() > max {
        shown.push(format!("and {} more (--json names them)", texts.len() - max));
    }
    shown
}

pub(super) fn reason_too_long() -> Response {
    Response::error(Code::Usage, format!("a reason has at most {REASON_BYTES_MAX} bytes"))
}

/// A slip of the finger must not shut out a continent.
fn too_wide(net: IpNetwork) -> Option<String> {
    let shortest = if net.is_ipv4() { BAN_PREFIX_MIN_IPV4 } else { BAN_PREFIX_MIN_IPV6 };
    (net.prefix() < shortest).then(|| format!("wider than /{shortest}; use --force if you mean it"))
}

/// An IPv4-mapped network is the IPv4 network.
fn prefix(net: IpNetwork) -> u8 {
    let is_mapped = net.is_ipv6() && address::canonical(net.ip()).is_ipv4();
    if is_mapped { net.prefix().saturating_sub(96) } else { net.prefix() }
}

/// `unban 192.0.2.1 (auth)`
fn in_short(decision: &Decision) -> String {
    match &decision.subject {
        Subject::Net(net) => format!("{} {} ({})", decision.verb, address::display(*net), decision.scope),
        Subject::Account(name) => format!("{} {}", decision.verb, shell::shown(name)),
    }
}

/// `lasting` follows the names.
fn sum_up(each: Vec<(IpNetwork, Reply)>, done: &str, lasting: &str) -> Response {
    let mut changed = Vec::new();
    let mut lines = Vec::new();
    let mut code = Code::Ok;
    for (net, reply) in &each {
        let net = address::display(*net);
        match reply {
            Reply::Done { changed: 0 } => lines.push(format!("{net} is banned already, and for longer; unban it first to shorten that")),
            Reply::Done { .. } => changed.push(net),
            Reply::Refused(why) => {
                code = Code::Refused;
                lines.push(format!("{net}: {why}"));
            }
            Reply::NotFound => {
                code = if code == Code::Ok { Code::NotFound } else { code };
                lines.push(format!("{net} is not banned"));
            }
        }
    }
    match changed.as_slice() {
        [] => {}
        nets if nets.len() <= 3 => lines.insert(0, format!("{done} {}{lasting}", nets.join(", "))),
        nets => lines.insert(0, format!("{done} {} networks{lasting}", nets.len())),
    }
    Response { data: json!({ "changed": changed.len() }), ..Response::error(code, lines.join("\n")) }
}

fn total(reply: Reply, done: &str, what: &str) -> Response {
    match reply {
        Reply::Done { changed } => Response { data: json!({ "changed": changed }), ..Response::ok(format!("{done} {changed} {what}")) },
        Reply::Refused(why) => Response::error(Code::Refused, why),
        Reply::NotFound => Response::error(Code::NotFound, format!("there were no {what}")),
    }
}
