//! One connection: who asks, what, and the answer.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::socket::sockopt::{PeerCredentials, ReceiveTimeout};
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, setsockopt};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Uid, User, fchownat};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Options;
use super::done::Done;
use super::hooks::{Hook, Hooks};
use super::queue;
use super::request::{Answer, DESCRIBE, Request, Status};
use super::run::run;
use crate::limits::{HELPER_REQUEST_BYTES_MAX, HOOK_OUTPUT_BYTES_MAX};

/// A peer that connects and asks nothing is cut off.
const REQUEST_SECONDS: i64 = 10;
const BACKLOG: i32 = 16;

/// As systemd starts us: the connection is our standard input.
pub(super) fn serve_standard_input(options: &Options) -> Result<(), String> {
    converse(options, &io::stdin()).map_err(|error| format!("standard input is no connection of the daemon: {error}"))
}

/// Without systemd: one connection after the other.
pub(super) fn listen(options: &Options, path: &Path) -> Result<(), String> {
    let socket = bind(options, path).map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
    loop {
        match socket.accept() {
            Ok((connection, _)) => {
                if let Err(error) = converse(options, &connection) {
                    eprintln!("mailwarden-hookd: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot accept on {}: {error}", path.display())),
        }
    }
}

fn bind(options: &Options, path: &Path) -> io::Result<Socket> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    // The directory may be the daemon's own: what stands at `path` after this may be anything, also a link to another file. So
    // the mode comes with the file, and the group is given to whatever has the name itself.
    let group = User::from_name(&options.user).ok().flatten().map(|user| user.gid);
    let usual = umask(Mode::from_bits_truncate(if group.is_some() { 0o117 } else { 0o177 }));
    let bound = socket.bind(&SockAddr::unix(path)?);
    umask(usual);
    bound?;
    fchownat(AT_FDCWD, path, None, group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn converse(options: &Options, connection: &(impl AsFd + AsRawFd)) -> io::Result<()> {
    let peer = Uid::from_raw(getsockopt(connection, PeerCredentials)?.uid());
    setsockopt(connection, ReceiveTimeout, &TimeVal::seconds(REQUEST_SECONDS))?;
    // One byte more tells a packet that is too long. It is read whoever sent it: what is left unread resets the connection, and with
    // it the answer.
    let mut packet = vec![0; HELPER_REQUEST_BYTES_MAX + 1];
    let count = recv(connection.as_raw_fd(), &mut packet, MsgFlags::empty())?;
    if count == 0 {
        return Ok(());
    }
    let answer = if may_ask(peer, &options.user) {
        answer(options, packet.get(..count).unwrap_or_default())
    } else {
        Answer::new(Status::Refused, format!("uid {peer} may not ask; only root and {} may", options.user))
    };
    if answer.status != Status::Done {
        eprintln!("mailwarden-hookd: {:?}: {}", answer.status, answer.output.escape_debug());
    }
    let packet = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    send(connection.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

fn may_ask(peer: Uid, user: &str) -> bool {
    peer.is_root() || User::from_name(user).ok().flatten().is_some_and(|user| user.uid == peer)
}

fn answer(options: &Options, packet: &[u8]) -> Answer {
    if packet.len() > HELPER_REQUEST_BYTES_MAX {
        return Answer::new(Status::Refused, format!("a request has at most {HELPER_REQUEST_BYTES_MAX} bytes"));
    }
    let request: Request = match serde_json::from_slice(packet) {
        Ok(request) => request,
        Err(error) => return Answer::new(Status::Refused, format!("not a request: {error}")),
    };
    let hooks = match Hooks::load(&options.hooks) {
        Ok(hooks) => hooks,
        // Root may mend it.
        Err(problem) => return Answer::new(Status::Failed, problem),
    };
    if request.verb == DESCRIBE {
        return Answer { verbs: hooks.verbs(), ..Answer::new(Status::Done, "") };
    }
    if let Some(mistake) = request.mistake() {
        return Answer::new(Status::Refused, mistake);
    }
    perform_once(options, &hooks, &request)
}

/// An errand that is done is not run again. It is noted after it ran: a kill in between runs it once more, so hooks say what should be
/// so, not what to change.
fn perform_once(options: &Options, hooks: &Hooks, request: &Request) -> Answer {
    let mut done = match Done::open(&options.state) {
        Ok(done) => done,
        Err(error) => return Answer::new(Status::Failed, format!("cannot tell what is done: {error}")),
    };
    if done.has(&request.id) {
        return Answer::new(Status::Done, "done before");
    }
    let answer = perform(options, hooks, request);
    if answer.status == Status::Done
        && let Err(error) = done.add(&request.id)
    {
        eprintln!("mailwarden-hookd: cannot note that {} is done: {error}", request.id);
    }
    answer
}

fn perform(options: &Options, hooks: &Hooks, request: &Request) -> Answer {
    if request.is_queue_work() {
        return match queue::mail_of(&request.data) {
            Ok(mail) => {
                let ran = queue::change(&request.verb, &mail, &hooks.instances);
                Answer::new(if ran.is_good { Status::Done } else { Status::Failed }, ran.output)
            }
            Err(mistake) => Answer::new(Status::Refused, mistake),
        };
    }
    match hooks.of(&request.verb) {
        Some(hook) => run_hook(options, hook, request),
        None => Answer::new(Status::Refused, format!("there is no [hook.{}] in {}", request.verb.escape_debug(), options.hooks.display())),
    }
}

/// All commands, even after one that failed: a lock that takes hold in one place is better than none. All are run again then.
fn run_hook(options: &Options, hook: &Hook, request: &Request) -> Answer {
    let variables = variables(options, request);
    let input = request.data.to_string();
    let (mut is_good, mut output) = (true, String::new());
    for command in &hook.commands {
        let ran = run(command, &variables, input.as_bytes(), hook.timeout);
        is_good &= ran.is_good;
        if !ran.output.is_empty() {
            output.push_str(&ran.output);
            output.push('\n');
        }
    }
    let surplus = output.len().saturating_sub(HOOK_OUTPUT_BYTES_MAX);
    let start = (surplus..output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(output.len());
    Answer::new(if is_good { Status::Done } else { Status::Failed }, output.split_off(start))
}

/// The account, whole and in parts. What an attacker wrote, such as a reason, is in the JSON only.
fn variables(options: &Options, request: &Request) -> Vec<(&'static str, String)> {
    let account = &request.account;
    let (kind, name) = match account.split_once(':') {
        Some((kind @ ("local" | "client" | "forward"), name)) => (kind, name),
        _ => ("account", account.as_str()),
    };
    let (local, domain) = name.rsplit_once('@').unwrap_or((name, ""));
    let text = |key: &str| request.data.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    vec![
        ("MAILWARDEN_ID", request.id.clone()),
        ("MAILWARDEN_VERB", request.verb.clone()),
        ("MAILWARDEN_ACCOUNT", account.clone()),
        ("MAILWARDEN_KIND", kind.to_owned()),
        ("MAILWARDEN_NAME", name.to_owned()),
        ("MAILWARDEN_LOCALPART", local.to_owned()),
        ("MAILWARDEN_DOMAIN", domain.to_owned()),
        ("MAILWARDEN_SCOPE", word(text("scope"))),
        ("MAILWARDEN_UNTIL", word(text("until"))),
        ("MAILWARDEN_JAIL", word(text("jail"))),
        ("MAILWARDEN_STATE", options.state.display().to_string()),
    ]
}

/// A compromised daemon could put anything in there.
fn word(text: String) -> String {
    const WORD_BYTES_MAX: usize = 128;
    let is_word = text.len() <= WORD_BYTES_MAX && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:+".contains(c));
    if is_word { text } else { String::new() }
}
