//! Talks to nf_tables: commits batches, asks questions. Knows nothing about bans.

use std::io;
use std::ops::ControlFlow;

use nix::errno::Errno;

use super::encode::{Ack, Batch, TableName};
use super::error::NftError;
use super::plan::NftOp;
use super::sys::Socket;
use super::uapi;
use super::wire::{self, Meaning, Message, NLM_F_DUMP, NLM_F_DUMP_INTR, Writer};

/// A dump that others disturb is begun again this often.
const DUMP_TRIES_MAX: usize = 8;

pub struct Link {
    socket: Socket,
    batch: Batch,
    request: Writer,
    table: TableName,
    /// Elements are written so that existing ones get the new timeout.
    pub expiration: bool,
    /// What the kernel says about the place of an error is believed.
    pub offsets: bool,
}

/// What in a batch the kernel did not like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// `None`: the batch as a whole.
    pub op: Option<usize>,
    /// Which element of the op, where the kernel says it.
    pub element: Option<usize>,
    pub errno: Errno,
    pub text: Option<String>,
}

#[derive(Debug)]
pub enum CommitError {
    /// Nothing was changed.
    Failed(Vec<Blame>),
    /// More than the socket takes at once. Nothing was changed.
    TooBig,
    Nft(NftError),
}

impl From<NftError> for CommitError {
    fn from(error: NftError) -> Self {
        CommitError::Nft(error)
    }
}

/// What was acknowledged of a successful batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub end_acknowledged: bool,
}

impl Link {
    pub fn open(table: TableName) -> Result<Link, NftError> {
        let socket = Socket::open(mnl::Bus::Netfilter)?;
        Ok(Link { socket, batch: Batch::default(), request: Writer::default(), table, expiration: true, offsets: true })
    }
    pub fn table(&self) -> &TableName {
        &self.table
    }
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// All of `ops` or none. Returns when the kernel has done it: the next packet meets the new state.
    pub fn commit(&mut self, ops: &[NftOp], ack: Ack) -> Result<Committed, CommitError> {
        if ops.is_empty() {
            return Ok(Committed::default());
        }
        let seq = self.socket.sequence(Batch::messages_max(ops));
        self.batch.encode(&self.table, ops, seq, ack, self.expiration);
        match self.socket.send(self.batch.bytes()) {
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => return Err(CommitError::TooBig),
            result => result.map_err(NftError::Socket)?,
        }
        self.outcome()
    }

    /// The answers are queued before `send` returns. An ACK alone proves nothing, since good messages of a failed batch have one too.
    fn outcome(&mut self) -> Result<Committed, CommitError> {
        let (mut blames, mut acknowledged, mut committed) = (Vec::new(), false, Committed::default());
        loop {
            let bytes = match self.socket.receive() {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                // Some answers are lost; whether one of them was an error is not known.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    acknowledged = false;
                    committed.end_acknowledged = false;
                    continue;
                }
                Err(error) => return Err(NftError::Socket(error).into()),
            };
            for message in wire::messages(bytes).filter(|message| self.batch.holds(message.seq)) {
                match message.meaning() {
                    Meaning::Ack if message.seq == self.batch.end_seq() => committed.end_acknowledged = true,
                    Meaning::Ack => acknowledged |= message.seq == self.batch.last_op_seq(),
                    Meaning::Failed(failure) => {
                        let (op, element) = self.batch.blame(failure.seq, failure.offset.filter(|_| self.offsets));
                        blames.push(Blame { op, element, errno: Errno::from_raw(failure.errno), text: failure.text });
                    }
                    Meaning::Data(_) | Meaning::Done => {}
                }
            }
        }
        match (blames.is_empty(), acknowledged || committed.end_acknowledged) {
            (false, _) => Err(CommitError::Failed(blames)),
            (true, true) => Ok(committed),
            (true, false) => Err(NftError::Uncertain.into()),
        }
    }

    /// One question with one answer; `None` when what is asked about does not exist.
    pub fn get<T>(
        &mut self,
        build: impl FnOnce(&mut Writer, &TableName, u32),
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, NftError> {
        let seq = self.socket.sequence(1);
        build(&mut self.request, &self.table, seq);
        self.socket.send(self.request.bytes())?;
        let mut answer = Err(NftError::Uncertain);
        while let Some(bytes) = self.socket.receive()? {
            for message in wire::messages(bytes).filter(|message| message.seq == seq) {
                answer = match message.meaning() {
                    Meaning::Data(payload) => Ok(parse(payload)),
                    Meaning::Failed(failure) => refusal(failure.errno, failure.text),
                    Meaning::Ack | Meaning::Done => continue,
                };
            }
        }
        answer
    }

    /// A question with many answers. `None` when there are more than `limit`; on a socket of its own, so that the rest can be left
    /// unread.
    pub fn dump<T>(
        &self,
        kind: u16,
        attributes: impl Fn(&mut Writer, &TableName),
        parse: impl Fn(&[u8], &mut Vec<T>),
        limit: usize,
    ) -> Result<Option<Vec<T>>, NftError> {
        for _ in 0..DUMP_TRIES_MAX {
            let mut socket = Socket::open(mnl::Bus::Netfilter)?;
            let mut request = Writer::default();
            request.begin(kind, NLM_F_DUMP, 1);
            request.nf_header(uapi::INET, 0);
            attributes(&mut request, &self.table);
            request.finish();
            socket.send(request.bytes())?;
            if let ControlFlow::Break(answer) = read_dump(&mut socket, &parse, limit)? {
                return Ok(answer);
            }
        }
        Err(NftError::Uncertain)
    }
}

/// `Continue`: others changed the rules meanwhile, ask again.
fn read_dump<T>(socket: &mut Socket, parse: &impl Fn(&[u8], &mut Vec<T>), limit: usize) -> Result<ControlFlow<Option<Vec<T>>>, NftError> {
    let mut found = Vec::new();
    let mut disturbed = false;
    loop {
        let Some(bytes) = socket.receive()? else { return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) };
        for message in wire::messages(bytes) {
            disturbed |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.meaning() {
                Meaning::Data(payload) => parse(payload, &mut found),
                Meaning::Failed(failure) if failure.errno == Errno::EINTR as i32 => disturbed = true,
                Meaning::Failed(failure) => {
                    return refusal::<()>(failure.errno, failure.text).map(|_| ControlFlow::Break(Some(Vec::new())));
                }
                Meaning::Done if disturbed || done_with_eintr(&message) => return Ok(ControlFlow::Continue(())),
                Meaning::Done => return Ok(ControlFlow::Break(Some(found))),
                Meaning::Ack => {}
            }
            if found.len() > limit {
                return Ok(ControlFlow::Break(None));
            }
        }
    }
}

fn done_with_eintr(message: &Message<'_>) -> bool {
    wire::read_u32(message.payload, 0).is_some_and(|code| code.cast_signed() == -(Errno::EINTR as i32))
}

/// What an error to a question means.
fn refusal<T>(errno: i32, text: Option<String>) -> Result<Option<T>, NftError> {
    match Errno::from_raw(errno) {
        Errno::ENOENT => Ok(None),
        Errno::EPERM => Err(NftError::NotPermitted),
        // No such netfilter subsystem.
        Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT => Err(NftError::NoNfTables),
        errno => Err(NftError::Refused { what: "asking for the state".into(), errno, text }),
    }
}
