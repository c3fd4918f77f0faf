//! Finding pieces in a message: literals, queue ids, quoted addresses. Bytes in, lengths out.

use memchr::{memchr, memchr2, memrchr};

use super::ip;

/// Longest queue id (`MAIL_QUEUE_NAME` in Postfix is shorter).
const QUEUE_ID_MAX: usize = 32;

/// The length of the queue id at the start of `text`, of `NOQUEUE`, or 0. Short ids are six or more upper-case hex digits, long
/// ones (`enable_long_queue_ids`) digits and consonants with a `z` after ten or more.
pub(super) fn queue_id_length(text: &[u8]) -> usize {
    let mut length = 0;
    let mut kinds = SHORT_ID | LONG_ID;
    for &byte in text {
        let kind = ID_BYTES[usize::from(byte)];
        if kind == 0 {
            break;
        }
        kinds &= kind;
        length += 1;
        if length > QUEUE_ID_MAX {
            return 0;
        }
    }
    let good = match kinds & (SHORT_ID | LONG_ID) {
        _ if length < 6 => false,
        0 => &text[..length] == NOQUEUE,
        LONG_ID => length > 11 && text[10..length].contains(&b'z') || &text[..length] == NOQUEUE,
        _ => true,
    };
    if good { length } else { 0 }
}

pub(super) const NOQUEUE: &[u8] = b"NOQUEUE";
const ID_BYTE: u8 = 1;
const SHORT_ID: u8 = 2;
const LONG_ID: u8 = 4;

/// Which kinds of queue id a byte can stand in.
const ID_BYTES: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            let short = byte.is_ascii_digit() || matches!(byte, b'A'..=b'F');
            let vowel = matches!(byte, b'A' | b'E' | b'I' | b'O' | b'U' | b'a' | b'e' | b'i' | b'o' | b'u');
            kinds[byte as usize] = ID_BYTE | if short { SHORT_ID } else { 0 } | if vowel { 0 } else { LONG_ID };
        }
        byte += 1;
    }
    kinds
};

/// The queue id, or NOQUEUE, that a message starts with and a colon ends.
pub(super) fn leading_queue_id(message: &[u8]) -> usize {
    let length = queue_id_length(message);
    if length > 0 && message[length..].starts_with(b": ") { length } else { 0 }
}

/// `text.starts_with(literal)` for the short literals of templates: two loads that overlap, without a call.
#[inline]
pub(super) fn starts_with(text: &[u8], literal: &[u8]) -> bool {
    let Some(text) = text.get(..literal.len()) else {
        return false;
    };
    if let (Some(a), Some(b)) = (text.first_chunk::<8>(), literal.first_chunk::<8>()) {
        if u64::from_ne_bytes(*a) != u64::from_ne_bytes(*b) {
            return false;
        }
        if literal.len() > 16 {
            return text[8..] == literal[8..];
        }
        matches!((text.last_chunk::<8>(), literal.last_chunk::<8>()), (Some(a), Some(b)) if u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b))
    } else if let (Some(a), Some(b), Some(c), Some(d)) =
        (text.first_chunk::<4>(), literal.first_chunk::<4>(), text.last_chunk::<4>(), literal.last_chunk::<4>())
    {
        u32::from_ne_bytes(*a) == u32::from_ne_bytes(*b) && u32::from_ne_bytes(*c) == u32::from_ne_bytes(*d)
    } else {
        text.iter().zip(literal).all(|(a, b)| a == b)
    }
}

#[inline]
pub(super) fn is_host_byte(byte: u8) -> bool {
    HOST_BYTES[usize::from(byte)]
}

const HOST_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        allowed[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        byte += 1;
    }
    allowed
};

/// `fe80::1%eth0`: a neighbour on the link, which is no subject.
pub(super) fn is_scoped(address: &[u8]) -> bool {
    memchr(b'%', address)
        .is_some_and(|place| ip::parse(&address[..place]).is_some() && address[place + 1..].iter().all(|byte| is_host_byte(*byte)))
}

/// The first place of `literal`.
pub(super) fn find(text: &[u8], literal: &[u8]) -> Option<usize> {
    let (&first, tail) = literal.split_first()?;
    let mut at = 0;
    loop {
        at += memchr(first, text.get(at..)?)?;
        if starts_with(&text[at + 1..], tail) {
            return Some(at);
        }
        at += 1;
    }
}

/// The last place of `literal`.
pub(super) fn rfind(text: &[u8], literal: &[u8]) -> Option<usize> {
    let (&first, tail) = literal.split_first()?;
    let mut limit = text.len();
    loop {
        let at = memrchr(first, &text[..limit])?;
        if starts_with(&text[at + 1..], tail) {
            return Some(at);
        }
        limit = at;
    }
}

pub(super) fn end_of(text: &[u8], literal: &[u8]) -> Option<usize> {
    text.ends_with(literal).then(|| text.len() - literal.len())
}

/// The first place of `literal`, if something but no space stands before it.
pub(super) fn word(text: &[u8], literal: &[u8]) -> Option<usize> {
    let first = *literal.first()?;
    let mut at = 0;
    loop {
        at += text.get(at..)?.iter().position(|byte| *byte == first || *byte == b' ')?;
        if starts_with(&text[at..], literal) {
            return (at > 0).then_some(at);
        }
        if text[at] == b' ' {
            return None;
        }
        at += 1;
    }
}

/// The last place of `literal` that starts before the first space.
pub(super) fn longest(text: &[u8], literal: &[u8]) -> Option<usize> {
    let run = memchr(b' ', text).unwrap_or(text.len());
    rfind(&text[..(run + literal.len() - 1).min(text.len())], literal)
}

/// The end of a mail address in Postfix's external form: `user@domain` or `"any bytes, \" escaped"@domain`, or nothing.
pub(super) fn address(text: &[u8], literal: &[u8]) -> Option<usize> {
    let mut quoted = 0;
    if text.first() == Some(&b'"') {
        let mut at = 1;
        loop {
            at += memchr2(b'"', b'\\', text.get(at..)?)?;
            if text[at] == b'"' {
                break;
            }
            at += 2;
        }
        quoted = at + 1;
    }
    let end = quoted + text.get(quoted..)?.iter().position(|byte| matches!(byte, b' ' | b'"' | b'<' | b'>'))?;
    starts_with(&text[end..], literal).then_some(end)
}
