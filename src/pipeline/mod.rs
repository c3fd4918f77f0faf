//! Lines of a file in order, parsed in parallel: for `replay`, `learn` and `parse`.
//!
//! Threads take turns to read a chunk, parse it on their own, and hand it over; the calling thread gets the chunks in the
//! order of the input. Memory is bounded by the number of chunks, which are used again. With one core everything
//! happens on the calling thread.
//!
//! **Invariant:** the result does not depend on the number of threads: a line is parsed by itself, whatever chunk it is in.

mod chunk;
mod clock;
mod join;

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::parse::{FilterSet, Parser, ParserOptions};

pub use chunk::{Chunk, Counts, Record};
pub use clock::LogClock;
pub use join::{Consumer, Joined, Joiner};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{FilterSource, Outcome};
    use crate::time::Timestamp;

    const FILTER: &str = "[filter]\nname = 'x'\nprograms = ['x']\n[[pattern]]\nname = 'p'\nkind = 'noise'\nline = 'n <number><any>'\n";

    fn filters() -> Arc<FilterSet> {
        let source = FilterSource { file: "x.toml".to_owned(), text: FILTER.to_owned() };
        Arc::new(FilterSet::compile(&[source]).unwrap())
    }

    fn options(threads: usize) -> Options {
        Options { threads, prompt: false, parser: ParserOptions::new(Timestamp::from_seconds(1_795_000_000)) }
    }

    /// Some megabytes, with lines of all kinds, and one that is longer than a chunk.
    fn log() -> Vec<u8> {
        let mut log = Vec::new();
        for n in 0..60_000 {
            let month = ["Jan", "Jun", "Nov"][n % 3];
            log.extend_from_slice(format!("{month} 24 02:31:55 mx1 x[{n}]: n {n} {}\n", "y".repeat(n % 90)).as_bytes());
            match n % 1_000 {
                7 => log.extend_from_slice(b"nothing\n"),
                8 => log.extend_from_slice(b"Nov 24 02:31:55 mx1 other: n 1\n"),
                9 => log.extend_from_slice(b"Nov 24 02:31:55 mx1 x: else\xff\xe2\x80\xa8\r\n"),
                _ => {}
            }
        }
        log.extend_from_slice(&vec![b'z'; 3 << 20]);
        log.extend_from_slice(b"\nNov 24 02:31:55 mx1 x[1]: n 1");
        log
    }

    type Line = (u64, Timestamp, Vec<u8>);

    fn collect(log: &[u8], threads: usize) -> (Vec<Line>, Counts) {
        let (mut all, mut counts) = (Vec::new(), Counts::default());
        run(log, &filters(), &options(threads), |chunk| {
            all.extend(chunk.records.iter().map(|r| (counts.lines + u64::from(r.number), r.parsed.time, chunk.line(r).to_vec())));
            counts.add(&chunk.counts);
            ControlFlow::Continue(())
        })
        .unwrap();
        (all, counts)
    }

    #[test]
    fn any_number_of_threads_gives_what_single_lines_give() {
        let log = log();
        let mut parser = Parser::new(filters(), options(1).parser);
        let mut expected = Vec::new();
        for (number, line) in log.split(|byte| *byte == b'\n').enumerate() {
            if let Outcome::Line(parsed) = parser.parse(line, None) {
                expected.push((number as u64, parsed.time, line.to_vec()));
            }
        }
        let counts = Counts { lines: 60_182, recognised: 60_001, unmatched: 60, foreign: 60, malformed: 61, cut: 1 };
        for threads in [1, 2, 5] {
            let (lines, counted) = collect(&log, threads);
            assert_eq!(counted, counts, "{threads} threads");
            assert!(lines == expected, "{threads} threads");
        }
    }

    #[test]
    fn a_consumer_may_stop() {
        for threads in [1, 3] {
            let mut chunks = 0;
            let stop = |_: &mut Chunk| {
                chunks += 1;
                ControlFlow::Break(())
            };
            run(&log()[..], &filters(), &options(threads), stop).unwrap();
            assert_eq!(chunks, 1);
        }
    }

    #[test]
    fn an_error_comes_after_what_was_read() {
        struct Broken(u32);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 2 {
                    return Err(io::Error::other("broken"));
                }
                let line = b"Nov 24 02:31:55 mx1 x[1]: n 1\n";
                buffer[..line.len()].copy_from_slice(line);
                Ok(line.len())
            }
        }
        for threads in [1, 3] {
            let mut lines = 0;
            let prompt = Options { prompt: true, ..options(threads) };
            let result = run(Broken(0), &filters(), &prompt, |chunk| {
                lines += chunk.counts.lines;
                ControlFlow::Continue(())
            });
            assert_eq!((lines, result.unwrap_err().to_string().as_str()), (2, "broken"));
        }
    }
}
