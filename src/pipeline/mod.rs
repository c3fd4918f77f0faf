//! Lines of a file in order, parsed in parallel: for `replay`, `parse` and the daemon's catch-up.
//!
//! Threads take turns to read a chunk, parse it on their own, and hand it over; the calling thread gets the chunks in the
//! order of the input. Memory is bounded by the number of chunks, which are used again. With one core everything
//! happens on the calling thread.
//!
//! **Invariant:** the result does not depend on the number of threads: a line is parsed by itself, whatever chunk it is in.

mod chunk;
mod clock;

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::parse::{FilterSet, Parser, ParserOptions};

pub use chunk::{Chunk, Counts, Record};
pub use clock::LogClock;

use chunk::Feeder;

/// Chunks beyond one a thread: being consumed, and waiting.
const SPARE_CHUNKS: usize = 2;

/// How to read an input.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that parse; 1: the calling thread alone.
    pub threads: usize,
    /// Hand lines over as they come (a terminal, a pipe that is being written to) instead of waiting for a full chunk.
    pub prompt: bool,
    pub parser: ParserOptions,
}

/// As many threads as this process may use cores.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Reads `input` to its end, or until `consume` breaks.
///
/// # Errors
/// The first error of `input`; what was read before it has been consumed.
pub fn run<R: Read + Send>(
    input: R,
    filters: &Arc<FilterSet>,
    options: &Options,
    mut consume: impl FnMut(&mut Chunk) -> ControlFlow<()>,
) -> io::Result<()> {
    let feeder = Feeder::new(input, options.prompt);
    let parser = || Parser::new(Arc::clone(filters), options.parser.clone());
    if options.threads <= 1 { inline(feeder, parser(), &mut consume) } else { parallel(feeder, &parser, options.threads, &mut consume) }
}

fn inline<R: Read>(mut feeder: Feeder<R>, mut parser: Parser, consume: &mut dyn FnMut(&mut Chunk) -> ControlFlow<()>) -> io::Result<()> {
    let mut chunk = Chunk::default();
    while feeder.fill(&mut chunk)? {
        chunk.parse(&mut parser);
        if consume(&mut chunk).is_break() {
            break;
        }
    }
    Ok(())
}

fn parallel<R: Read + Send>(
    feeder: Feeder<R>,
    parser: &(dyn Fn() -> Parser + Sync),
    threads: usize,
    consume: &mut dyn FnMut(&mut Chunk) -> ControlFlow<()>,
) -> io::Result<()> {
    let (recycle, recycled) = channel();
    for _ in 0..threads + SPARE_CHUNKS {
        recycle.send(Chunk::default()).expect("the receiver is held below");
    }
    let turn = Mutex::new(Turn { feeder, recycled, next: 0, failed: None });
    thread::scope(|scope| {
        let (filled, incoming) = channel();
        for _ in 0..threads {
            let (turn, filled) = (&turn, filled.clone());
            scope.spawn(move || work(turn, parser(), &filled));
        }
        drop(filled);
        in_order(&incoming, &recycle, consume);
        // Whoever waits for a chunk, or has one to hand over, ends now.
        drop((recycle, incoming));
    });
    match turn.into_inner() {
        Ok(Turn { failed: Some(error), .. }) => Err(error),
        Ok(_) => Ok(()),
        Err(_) => Err(io::Error::other("a parsing thread panicked")),
    }
}

/// What the threads share: whoever holds it reads the next chunk.
struct Turn<R> {
    feeder: Feeder<R>,
    recycled: Receiver<Chunk>,
    next: u64,
    failed: Option<io::Error>,
}

impl<R: Read> Turn<R> {
    /// The next chunk and its place. Waiting for an empty one holds the turn, and so keeps the order.
    fn take(&mut self) -> Option<(u64, Chunk)> {
        let mut chunk = self.recycled.recv().ok()?;
        match self.feeder.fill(&mut chunk) {
            Ok(true) => {
                self.next += 1;
                Some((self.next - 1, chunk))
            }
            Ok(false) => None,
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }
}

fn work<R: Read>(turn: &Mutex<Turn<R>>, mut parser: Parser, filled: &Sender<(u64, Chunk)>) {
    loop {
        let Ok(taken) = turn.lock().map(|mut turn| turn.take()) else { return };
        let Some((place, mut chunk)) = taken else { return };
        chunk.parse(&mut parser);
        if filled.send((place, chunk)).is_err() {
            return;
        }
    }
}

/// Consumes chunks by their places; early ones wait.
fn in_order(incoming: &Receiver<(u64, Chunk)>, recycle: &Sender<Chunk>, consume: &mut dyn FnMut(&mut Chunk) -> ControlFlow<()>) {
    let mut waiting: VecDeque<Option<Chunk>> = VecDeque::new();
    let mut next = 0;
    for (place, chunk) in incoming {
        let ahead = (place - next) as usize;
        if waiting.len() <= ahead {
            waiting.resize_with(ahead + 1, || None);
        }
        waiting[ahead] = Some(chunk);
        while let Some(mut chunk) = waiting.front_mut().and_then(Option::take) {
            waiting.pop_front();
            next += 1;
            if consume(&mut chunk).is_break() {
                return;
            }
            // The threads may have ended already.
            let _ = recycle.send(chunk);
        }
    }
}
