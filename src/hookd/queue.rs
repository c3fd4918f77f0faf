//! Messages put on hold and let go: one `postsuper` for all of them, and none for a queue id that is another message's by now.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::run::{Ran, run, run_keeping};
use crate::limits::ERRAND_MESSAGES_MAX;

pub(super) const HOLD: &str = "queue-hold";
pub(super) const RELEASE: &str = "queue-release";
const TIMEOUT: Duration = Duration::from_secs(120);
/// How far the arrival of a message may lie from the first line about it.
const ARRIVAL_SECONDS: i64 = 60;
/// Released messages whose delivery is asked for one by one, and for how long.
const AT_ONCE_MAX: usize = 100;
const AT_ONCE: Duration = Duration::from_secs(60);
/// A listing of the queue; one message takes some 300 bytes and 100 a recipient.
const LISTING_BYTES_MAX: usize = 256 << 20;
const PLACES: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    mail: Vec<(String, i64)>,
}

/// `postqueue -j`, as far as it matters.
#[derive(Deserialize)]
struct Queued {
    queue_id: String,
    arrival_time: i64,
}

/// Whether ids and arrivals are what they should be; `Err`: the request is never done.
pub(super) fn mail_of(data: &serde_json::Value) -> Result<Vec<(String, i64)>, String> {
    let data: Data = serde_json::from_value(data.clone()).map_err(|error| format!("no list of messages: {error}"))?;
    if data.mail.len() > ERRAND_MESSAGES_MAX {
        return Err(format!("more than {ERRAND_MESSAGES_MAX} messages"));
    }
    match data.mail.iter().find(|(id, _)| !is_queue_id(id)) {
        Some((id, _)) => Err(format!("{id:?} is no queue id")),
        None => Ok(data.mail),
    }
}

/// Of each instance's queue, the messages that are in it.
pub(super) fn change(verb: &str, mail: &[(String, i64)], instances: &[PathBuf]) -> Ran {
    let mut ran = Ran { is_good: true, output: String::new() };
    let usual = [PathBuf::new()];
    for instance in if instances.is_empty() { &usual[..] } else { instances } {
        let of_instance = change_one(verb, mail, instance);
        ran.is_good &= of_instance.is_good;
        ran.output.push_str(&of_instance.output);
    }
    ran
}

fn change_one(verb: &str, mail: &[(String, i64)], instance: &Path) -> Ran {
    let (ids, doubtful) = match same_messages(mail, instance) {
        Ok(found) => found,
        Err(problem) => return Ran { is_good: false, output: problem },
    };
    let doubt = doubts(&doubtful, verb);
    if ids.is_empty() {
        return Ran { is_good: true, output: doubt.unwrap_or_else(|| "none of the messages is in the queue any more".into()) };
    }
    let option = if verb == HOLD { "-h" } else { "-H" };
    let Some(command) = command("postsuper", instance, &[option, "-"]) else {
        return Ran { is_good: false, output: "there is no postsuper on this host".into() };
    };
    let list: String = ids.iter().map(|id| format!("{id}\n")).collect();
    let mut ran = run(&command, &[], list.as_bytes(), TIMEOUT);
    if verb == RELEASE && ran.is_good {
        deliver_soon(&ids, instance);
    }
    if let Some(doubt) = doubt {
        ran.output = format!("{doubt}\n{}", ran.output);
    }
    ran
}

/// What to say of messages that have an id which was meant and came at another time.
fn doubts(doubtful: &[&str], verb: &str) -> Option<String> {
    let first = doubtful.first()?;
    let by_hand = if verb == HOLD { "postsuper -h" } else { "postsuper -H" };
    let count = doubtful.len();
    Some(format!(
        "{count} messages left alone: their queue ids were meant, but they arrived at another time, so perhaps they are other messages; if not, {by_hand} {first} …"
    ))
}

/// The ids that still are the messages which were meant, and those that are in the queue but may be others by now. A long id is never
/// used again; a short one is within minutes.
fn same_messages<'m>(mail: &'m [(String, i64)], instance: &Path) -> Result<(Vec<&'m str>, Vec<&'m str>), String> {
    let short: HashSet<&str> = mail.iter().map(|(id, _)| id.as_str()).filter(|id| !is_long(id)).collect();
    let arrivals = if short.is_empty() { HashMap::new() } else { arrivals(&short, instance)? };
    let (mut same, mut doubtful) = (Vec::new(), Vec::new());
    for (id, told) in mail {
        let id = id.as_str();
        match arrivals.get(id) {
            _ if is_long(id) => same.push(id),
            Some(arrival) if arrival.abs_diff(*told) <= ARRIVAL_SECONDS.unsigned_abs() => same.push(id),
            Some(_) => doubtful.push(id),
            None => {}
        }
    }
    Ok((same, doubtful))
}

fn arrivals(wanted: &HashSet<&str>, instance: &Path) -> Result<HashMap<String, i64>, String> {
    let command = command("postqueue", instance, &["-j"]).ok_or("there is no postqueue on this host")?;
    let listing = run_keeping(LISTING_BYTES_MAX, &command, &[], b"", TIMEOUT);
    if !listing.is_good {
        // The first line says why; what follows is a part of the queue, and no reason.
        return Err(listing.output.lines().next().unwrap_or("postqueue failed").to_owned());
    }
    let each = listing.output.lines().filter_map(|line| serde_json::from_str::<Queued>(line).ok());
    Ok(each.filter(|queued| wanted.contains(queued.queue_id.as_str())).map(|queued| (queued.queue_id, queued.arrival_time)).collect())
}

/// Released messages wait in the deferred queue until its next turn, which comes every five minutes. The first ones go at once: a
/// person waits for them. A flush of the whole queue would also try all that other servers have put off.
fn deliver_soon(ids: &[&str], instance: &Path) {
    let end = Instant::now() + AT_ONCE;
    for id in ids.iter().take(AT_ONCE_MAX).take_while(|_| Instant::now() < end) {
        if let Some(command) = command("postqueue", instance, &["-i", id]) {
            let _ran = run(&command, &[], b"", TIMEOUT);
        }
    }
}

fn command(program: &str, instance: &Path, arguments: &[&str]) -> Option<Vec<OsString>> {
    let program = PLACES.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file())?;
    let mut command = vec![program.into_os_string()];
    if instance != Path::new("") {
        command.extend([OsString::from("-c"), instance.into()]);
    }
    command.extend(arguments.iter().map(OsString::from));
    Some(command)
}

fn is_queue_id(id: &str) -> bool {
    (6..=23).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Postfix, mail_queue.h: six digits of seconds and four of microseconds to base 52, `z`, and the inode number.
fn is_long(id: &str) -> bool {
    id.len() > 11 && id.as_bytes().get(10) == Some(&b'z')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_queue_ids_pass() {
        for good in ["4fYbKz0Nk1z3Q", "0123ABCDEF", "A1B2C3"] {
            assert!(mail_of(&json!({ "mail": [[good, 1]] })).is_ok(), "{good}");
        }
        for bad in ["ALL", "", "-", "../x", "A1B2C3\n", "A1B2C3 deferred", "-rALL", "A1B2C3D4E5F6A7B8C9D0E1F2"] {
            assert!(mail_of(&json!({ "mail": [[bad, 1]] })).is_err(), "{bad:?}");
        }
        assert!(mail_of(&json!({ "mail": "ALL" })).is_err());
        assert!(mail_of(&json!({ "mail": vec![("A1B2C3", 1); ERRAND_MESSAGES_MAX + 1] })).is_err());
    }

    #[test]
    fn long_ids_are_told_from_short_ones() {
        assert!(is_long("4fYbKz0Nk1z3Q") && is_long("3Pt2mN2VXxznjll"));
        assert!(!is_long("0123ABCDEF") && !is_long("1234567890A") && !is_long("A1B2C3D4E5F6"));
    }
}
