//! Which patterns a line meets, by its syslog tag: the tag itself, Postfix's `SYSLOG_NAME[/SERVICE]/DAEMON`, or Dovecot's
//! process at the start of the message. Answers are remembered by tag, since a log has few.

use memchr::memrchr;

use super::dispatch::FilterSet;
use super::filter::TagForm;
use crate::event::Service;

/// Where a line's message is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub table: u16,
    pub service: Service,
    /// How many bytes of the message the process name takes (Dovecot).
    pub skipped: usize,
}

/// What a tag means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Foreign,
    Table(u16, Service),
    /// A process of Dovecot that writes under its own name: to a file with the level in front, `imap-login: Info: Login: …`.
    Own(u16, Service),
    /// The message names the process.
    Process,
}

/// Looks tags up in one filter set.
pub(super) struct Programs {
    tags: TagCache,
    processes: TagCache,
}

impl Programs {
    pub fn new() -> Self {
        Programs { tags: TagCache::new(), processes: TagCache::new() }
    }

    /// `None`: no filter is for this program.
    pub fn place(&mut self, set: &FilterSet, tag: &[u8], message: &[u8]) -> Option<Place> {
        match self.tags.get(tag, |tag| route(set, tag)) {
            Route::Foreign => None,
            Route::Table(table, service) => Some(Place { table, service, skipped: 0 }),
            Route::Own(table, service) => Some(Place { table, service, skipped: info_length(message) }),
            Route::Process => {
                let length = message.iter().position(|byte| !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-'))?;
                let process = &message[..length];
                let Route::Own(table, service) = self.processes.get(process, |process| process_route(set, process)) else {
                    return None;
                };
                let skipped = match message[length..].strip_prefix(b": ") {
                    Some(said) => length + 2 + info_length(said),
                    None => length,
                };
                Some(Place { table, service, skipped })
            }
        }
    }
}

fn route(set: &FilterSet, tag: &[u8]) -> Route {
    if let Some(table) = set.table_of(TagForm::Plain, tag) {
        return Route::Table(table, Service::Other);
    }
    if let Some(slash) = memrchr(b'/', tag) {
        let (name, daemon) = (&tag[..slash], &tag[slash + 1..]);
        return set.table_of(TagForm::Postfix, daemon).map_or(Route::Foreign, |table| Route::Table(table, postfix_service(name)));
    }
    if tag == b"dovecot" && set.has(TagForm::Dovecot) { Route::Process } else { process_route(set, tag) }
}

/// Dovecot's own log file has the process for a tag; so has pam_unix when Dovecot's `auth` asks it.
fn process_route(set: &FilterSet, process: &[u8]) -> Route {
    set.table_of(TagForm::Dovecot, process).map_or(Route::Foreign, |table| Route::Own(table, dovecot_service(process)))
}

/// `postfix/submission/smtpd`, `postfix/smtps/smtpd`, `mx/587/smtpd`: mail from people. Everything else is port 25.
fn postfix_service(name: &[u8]) -> Service {
    let for_people =
        name.split(|byte| *byte == b'/').any(|part| matches!(part, b"smtps" | b"587" | b"465") || part.starts_with(b"submission"));
    if for_people { Service::Submission } else { Service::Smtp }
}

fn dovecot_service(process: &[u8]) -> Service {
    match process {
        b"imap-login" | b"imap" => Service::Imap,
        b"pop3-login" | b"pop3" => Service::Pop3,
        b"managesieve-login" | b"managesieve" => Service::ManageSieve,
        b"submission-login" | b"submission" => Service::Submission,
        _ => Service::Other,
    }
}

fn info_length(message: &[u8]) -> usize {
    const INFO: &[u8] = b"Info: ";
    if message.starts_with(INFO) { INFO.len() } else { 0 }
}

const SLOTS: usize = 128;
const TEXT_MAX: usize = 46;

/// The routes of the tags last seen; one slot for each of a few hash values, so it never grows.
struct TagCache {
    slots: Box<[(u8, [u8; TEXT_MAX], Route); SLOTS]>,
}

impl TagCache {
    fn new() -> Self {
        TagCache { slots: Box::new([(u8::MAX, [0; TEXT_MAX], Route::Foreign); SLOTS]) }
    }

    fn get(&mut self, tag: &[u8], look_up: impl FnOnce(&[u8]) -> Route) -> Route {
        let length = tag.len();
        if length == 0 || length > TEXT_MAX {
            return look_up(tag);
        }
        let slot = &mut self.slots[slot_of(tag)];
        if usize::from(slot.0) != length || &slot.1[..length] != tag {
            slot.0 = length as u8;
            slot.1[..length].copy_from_slice(tag);
            slot.2 = look_up(tag);
        }
        slot.2
    }
}

/// By the last eight bytes, in which programs differ, and the length.
fn slot_of(tag: &[u8]) -> usize {
    let end = match tag.last_chunk::<8>() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => tag.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    ((end ^ (tag.len() as u64) << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_postfix_tags() {
        let cases = [
            ("postfix", Service::Smtp),
            ("postfix/submission", Service::Submission),
            ("postfix/submissions", Service::Submission),
            ("postfix/submission-tls", Service::Submission),
            ("postfix/smtps", Service::Submission),
            ("postfix-out/465", Service::Submission),
            ("submission", Service::Submission),
            ("postfix/no-submission", Service::Smtp),
            ("postfix/tlsonly/smtpd", Service::Smtp),
        ];
        for (name, service) in cases {
            assert_eq!(postfix_service(name.as_bytes()), service, "{name}");
        }
    }
}
