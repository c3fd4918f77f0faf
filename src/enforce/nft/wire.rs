//! Netlink on the byte level: writes messages and attributes, reads them back. Safe code; every read is bounds-checked.
//!
//! Numbers inside nf_tables attributes are big-endian, netlink's own headers are in host order
//! (`include/uapi/linux/netlink.h`, `netfilter/nfnetlink.h`, `netfilter/nf_tables.h`).

/// `struct nlmsghdr`.
pub const HEADER_BYTES: usize = 16;
/// `struct nlmsghdr` and `struct nfgenmsg`: where the attributes of an nf_tables message begin.
pub const NF_HEADER_BYTES: usize = 20;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH` of a get.
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_CREATE: u16 = 0x400;
/// Of an error: only the header of the failed message is repeated.
const NLM_F_CAPPED: u16 = 0x100;
/// Of an error: extended ACK attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

const fn align4(length: usize) -> usize {
    (length + 3) & !3
}

/// Messages one after the other in one contiguous buffer, as one `send` wants them.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    message: usize,
}

/// An open nest: where its header stands.
pub struct Nest(usize);

impl Writer {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.message = 0;
    }
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Begins a message of type `kind`; ends with [`Writer::finish`].
    pub fn begin(&mut self, kind: u16, flags: u16, seq: u32) {
        self.message = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
    }

    /// `struct nfgenmsg` after the header.
    pub fn nf_header(&mut self, family: u8, resource: u16) {
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
    }

    /// A fixed structure of another subsystem after the header.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    pub fn finish(&mut self) {
        let length = (self.bytes.len() - self.message) as u32;
        self.patch(self.message, &length.to_ne_bytes());
    }

    /// Appends a message that somebody else encoded, under another sequence number and without a wish for an ACK.
    pub fn copy_message(&mut self, message: &[u8], seq: u32) {
        self.message = self.bytes.len();
        self.bytes.extend_from_slice(message);
        self.pad();
        let flags = read_u16(message, 6).unwrap_or_default() & !NLM_F_ACK;
        self.patch(self.message + 6, &flags.to_ne_bytes());
        self.patch(self.message + 8, &seq.to_ne_bytes());
    }

    /// Asks for an ACK of the message written last.
    pub fn want_ack(&mut self) {
        let flags = read_u16(&self.bytes, self.message + 6).unwrap_or_default() | NLM_F_ACK;
        self.patch(self.message + 6, &flags.to_ne_bytes());
    }

    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("an attribute is a name or a number, far below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }
    /// NUL-terminated.
    pub fn attr_str(&mut self, kind: u16, text: &str) {
        let length = u16::try_from(text.len() + 5).expect("names are checked to be short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.pad();
    }
    pub fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }
    pub fn attr_u64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub fn nest(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        Nest(at)
    }
    pub fn end_nest(&mut self, nest: Nest) {
        let length = u16::try_from(self.bytes.len() - nest.0).expect("a slice of BULK_ELEMENTS_MAX elements fits into one nest");
        self.patch(nest.0, &length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(align4(self.bytes.len()), 0);
    }
    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

/// One message: header fields and what comes after the header.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub payload: &'a [u8],
    /// Header included.
    pub whole: &'a [u8],
}

/// What a message says.
#[derive(Debug)]
pub enum Meaning<'a> {
    /// The answer to a get.
    Data(&'a [u8]),
    /// End of a dump.
    Done,
    /// An ACK.
    Ack,
    Failed(Failure),
}

/// An error message with what the extended ACK adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub seq: u32,
    pub errno: i32,
    /// Where the offending attribute stands, counted from the failed message's header.
    pub offset: Option<u32>,
    pub text: Option<String>,
}

impl<'a> Message<'a> {
    pub fn meaning(&self) -> Meaning<'a> {
        match self.kind {
            NLMSG_DONE => Meaning::Done,
            NLMSG_ERROR => match read_u32(self.payload, 0).unwrap_or_default().cast_signed() {
                0 => Meaning::Ack,
                error => Meaning::Failed(self.failure(error.saturating_neg())),
            },
            _ => Meaning::Data(self.payload),
        }
    }

    fn failure(&self, errno: i32) -> Failure {
        let mut failure = Failure { seq: self.seq, errno, offset: None, text: None };
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return failure;
        }
        let original = if self.flags & NLM_F_CAPPED != 0 { HEADER_BYTES } else { read_u32(self.payload, 4).unwrap_or_default() as usize };
        for (kind, value) in attributes(self.payload.get(4 + align4(original)..).unwrap_or_default()) {
            match kind {
                NLMSGERR_ATTR_MSG => failure.text = text(value).map(str::to_owned),
                NLMSGERR_ATTR_OFFS => failure.offset = read_u32(value, 0),
                _ => {}
            }
        }
        failure
    }
}

/// The messages in what one `recv` gave; stops at the first that is cut off.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = read_u32(bytes, 0)? as usize;
        let whole = bytes.get(..length)?;
        let message = Message {
            kind: read_u16(whole, 4)?,
            flags: read_u16(whole, 6)?,
            seq: read_u32(whole, 8)?,
            payload: whole.get(HEADER_BYTES..)?,
            whole,
        };
        bytes = bytes.get(align4(length)..).unwrap_or_default();
        Some(message)
    })
}

/// (type, value) of each attribute; stops at the first that is cut off.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(bytes, 0)?);
        let kind = read_u16(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align4(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The attributes of an nf_tables message, after `struct nfgenmsg`.
pub fn nf_attributes(payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(payload.get(NF_HEADER_BYTES - HEADER_BYTES..).unwrap_or_default())
}

/// The first attribute of that type.
pub fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The text of a NUL-terminated attribute.
pub fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.split(|byte| *byte == 0).next()?).ok()
}

pub fn be_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}
pub fn be_u64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
}
pub fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Which element of an element message (`whole`, header included) holds the byte at `offset`: `list` is the type of the list's
/// attribute. `None` when the byte is not inside the list.
pub fn element_at(whole: &[u8], list: u16, offset: u32) -> Option<usize> {
    let offset = offset as usize;
    let mut at = NF_HEADER_BYTES;
    loop {
        let length = usize::from(read_u16(whole, at)?);
        if length < 4 {
            return None;
        }
        if read_u16(whole, at + 2)? & NLA_TYPE_MASK == list {
            break;
        }
        at += align4(length);
    }
    let end = at + usize::from(read_u16(whole, at)?);
    let mut element = at + 4;
    for index in 0.. {
        let length = usize::from(read_u16(whole, element)?);
        if element >= end || length < 4 || offset < element {
            return None;
        }
        if offset < element + length {
            return Some(index);
        }
        element += align4(length);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Writer {
        let mut writer = Writer::default();
        writer.begin(0x0a0c, NLM_F_CREATE, 7);
        writer.nf_header(1, 0);
        writer.attr_str(1, "table");
        let list = writer.nest(3);
        for key in [1u32, 2, 3] {
            let element = writer.nest(1);
            writer.attr_u32(1, key);
            writer.end_nest(element);
        }
        writer.end_nest(list);
        writer.finish();
        writer
    }

    #[test]
    fn reads_what_it_wrote() {
        let writer = sample();
        let message = messages(writer.bytes()).next().unwrap();
        assert_eq!((message.kind, message.flags, message.seq), (0x0a0c, NLM_F_CREATE | NLM_F_REQUEST, 7));
        let mut attrs = nf_attributes(message.payload);
        assert_eq!(attrs.next().and_then(|(_, value)| text(value)), Some("table"));
        let (_, list) = attrs.next().unwrap();
        let keys: Vec<u32> = attributes(list).filter_map(|(_, element)| be_u32(find(element, 1)?)).collect();
        assert_eq!(keys, [1, 2, 3]);
    }

    #[test]
    fn an_offset_names_its_element() {
        let writer = sample();
        let list = NF_HEADER_BYTES + 12;
        for (offset, expected) in [
            (list + 4, Some(0)),
            (list + 8, Some(0)),
            (list + 16, Some(1)),
            (list + 28, Some(2)),
            (list + 40, None),
            (20, None),
            (9999, None),
        ] {
            assert_eq!(element_at(writer.bytes(), 3, offset as u32), expected, "{offset}");
        }
        assert_eq!(element_at(writer.bytes(), 9, 30), None);
    }

    #[test]
    fn an_error_is_read_with_its_extended_ack() {
        let mut writer = Writer::default();
        writer.begin(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 9);
        writer.raw(&(-23i32).to_ne_bytes());
        writer.raw(&[0; HEADER_BYTES]);
        writer.attr_str(NLMSGERR_ATTR_MSG, "set is full");
        writer.attr(NLMSGERR_ATTR_OFFS, &44u32.to_ne_bytes());
        writer.finish();
        let message = messages(writer.bytes()).next().unwrap();
        let Meaning::Failed(failure) = message.meaning() else { panic!("no failure") };
        assert_eq!(failure, Failure { seq: 9, errno: 23, offset: Some(44), text: Some("set is full".into()) });
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(0u8.., 0..200), offset in 0u32..300) {
            for message in messages(&bytes) {
                let _ = message.meaning();
                for (_, value) in nf_attributes(message.payload) { let _ = (be_u64(value), text(value)); }
            }
            let _ = element_at(&bytes, 3, offset);
        }
    }
}
