//! Old logs, for `replay`, `learn` and `parse`: plain, gzip, zstd, xz or standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Cursor, ErrorKind, PipeReader, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread::JoinHandle;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::SourceError;

/// Opens `path` (`-`: standard input) and unpacks it by what its first bytes say, whatever its name.
pub fn open(path: &Path) -> Result<Box<dyn Read + Send>, SourceError> {
    let cannot_read = |error| SourceError::CannotRead { path: path.to_owned(), error, advice: String::new() };
    let is_stdin = path == Path::new("-");
    let file = if is_stdin { io::stdin().as_fd().try_clone_to_owned().map(File::from) } else { File::open(path) };
    let file = file.map_err(cannot_read)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    unpack(file).map_err(cannot_read)
}

fn unpack(mut file: File) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = [0; 6];
    let count = read_full(&mut file, &mut magic)?;
    let magic = magic.get(..count).unwrap_or_default();
    let format = format_of(magic);
    if let Some((packing, command)) = foreign_packing(magic) {
        let text = format!("it is packed by {packing}; read are plain text, .gz, .xz and .zst: unpack it first (`{command}`)");
        return Err(io::Error::new(ErrorKind::Unsupported, text));
    }
    // A pipe cannot be wound back: what was read of it comes first.
    let is_rewound = file.rewind().is_ok();
    if is_rewound {
        // Read ahead further; without it reading is merely slower.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
    }
    if format == Format::Plain && is_rewound {
        return Ok(Box::new(file));
    }
    let start = if is_rewound { Vec::new() } else { magic.to_vec() };
    let input = BufReader::with_capacity(128 * 1024, Cursor::new(start).chain(file));
    Ok(match format {
        Format::Plain => Box::new(input),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Format::Zstd => Box::new(Zstd { input, decoder: FrameDecoder::new(), is_in_frame: false }),
        Format::Xz => Box::new(Xz::start(input)?),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
    Xz,
}

fn format_of(magic: &[u8]) -> Format {
    match magic {
        [0x1f, 0x8b, ..] => Format::Gzip,
        // A frame, or a skippable one (RFC 8878).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Format::Xz,
        _ => Format::Plain,
    }
}

/// What else logs come packed by, and what unpacks it. Read as text it would be a log without a single line.
fn foreign_packing(magic: &[u8]) -> Option<(&'static str, &'static str)> {
    Some(match magic {
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, 0x41 | 0x72] => ("bzip2", "bzip2 -d"),
        [0x1f, 0x9d, ..] => ("compress", "gzip -d"),
        [0x04, 0x22, 0x4d, 0x18, ..] => ("lz4", "lz4 -d"),
        [0x89, b'L', b'Z', b'O', ..] => ("lzop", "lzop -d"),
        [b'L', b'Z', b'I', b'P', ..] => ("lzip", "lzip -d"),
        [b'P', b'K', 3, 4, ..] => ("zip", "unzip"),
        [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c] => ("7-Zip", "7z x"),
        _ => return None,
    })
}

const NOT_COMPLETE: &str = "the packed data ends too early: the file is not complete";

/// In words: the decoder's own show the parts of its program.
fn zstd_problem(error: &FrameDecoderError) -> io::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == ErrorKind::UnexpectedEof => io::Error::new(ErrorKind::UnexpectedEof, NOT_COMPLETE),
        _ => io::Error::new(ErrorKind::InvalidData, format!("damaged zstd data: {cause}")),
    }
}

/// As [`zstd_problem`].
fn xz_problem(error: lzma_rs::error::Error) -> io::Error {
    use lzma_rs::error::Error::{HeaderTooShort, IoError, LzmaError, XzError};
    match error {
        IoError(error) | HeaderTooShort(error) if error.kind() != ErrorKind::UnexpectedEof => error,
        IoError(_) | HeaderTooShort(_) => io::Error::new(ErrorKind::UnexpectedEof, NOT_COMPLETE),
        LzmaError(text) | XzError(text) => io::Error::new(ErrorKind::InvalidData, format!("damaged xz data: {text}")),
    }
}

/// Reads until `buffer` is full or the input ends.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(room) = buffer.get_mut(count..).filter(|room| !room.is_empty()) {
        match input.read(room) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Any number of frames, one after the other.
struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder.decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1)).map_err(|error| zstd_problem(&error))?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.is_in_frame = false;
        }
    }
}

impl<R: BufRead> Zstd<R> {
    /// False at the end of the input.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.input) {
                Ok(()) => {
                    self.is_in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.input.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(error) => return Err(zstd_problem(&error)),
            }
        }
        Ok(false)
    }
}

/// lzma-rs only writes, so it writes to a pipe, from a thread of its own.
struct Xz {
    output: PipeReader,
    worker: Option<JoinHandle<io::Result<()>>>,
}

impl Xz {
    fn start(mut input: impl BufRead + Send + 'static) -> io::Result<Xz> {
        let (output, pipe) = io::pipe()?;
        let worker = std::thread::Builder::new().name("unxz".to_owned()).spawn(move || {
            let mut pipe = BufWriter::with_capacity(64 * 1024, pipe);
            while !input.fill_buf()?.is_empty() {
                match lzma_rs::xz_decompress(&mut input, &mut pipe) {
                    Ok(()) => {}
                    // Another stream follows (`cat a.xz b.xz`): this is the decoder's last check, all is read up to there.
                    Err(lzma_rs::error::Error::XzError(text)) if text.starts_with("Unexpected data after last XZ block") => {
                        skip_padding(&mut input)?;
                    }
                    Err(error) => return Err(xz_problem(error)),
                }
            }
            io::Write::flush(&mut pipe)
        })?;
        Ok(Xz { output, worker: Some(worker) })
    }
}

impl Read for Xz {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.output.read(buffer)?;
        if count == 0
            && !buffer.is_empty()
            && let Some(worker) = self.worker.take()
        {
            worker.join().map_err(|_| io::Error::new(ErrorKind::InvalidData, "damaged xz file"))??;
        }
        Ok(count)
    }
}

fn skip_padding(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let zeros = input.fill_buf()?.iter().take_while(|byte| **byte == 0).count();
        if zeros == 0 {
            return Ok(());
        }
        input.consume(zeros);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn sample(bytes: usize) -> Vec<u8> {
        let mut text = Vec::new();
        for number in 0.. {
            if text.len() >= bytes {
                break;
            }
            writeln!(text, "Nov 24 03:00:00 mx postfix/smtpd[{number}]: connect from unknown[192.0.2.{}]", number % 256).unwrap();
        }
        text
    }

    /// `tool -c`, if it is installed.
    fn packed(tool: &str, text: &[u8]) -> Option<Vec<u8>> {
        let mut child = Command::new(tool).args(["-c", "-q"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut input = child.stdin.take().unwrap();
        let text = text.to_owned();
        let writer = std::thread::spawn(move || input.write_all(&text));
        let output = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap().unwrap();
        Some(output)
    }

    #[test]
    fn every_packing_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let text = sample(3 << 20);
        for tool in ["cat", "gzip", "zstd", "xz"] {
            let Some(bytes) = (if tool == "cat" { Some(text.clone()) } else { packed(tool, &text) }) else {
                eprintln!("skipped: no {tool} here");
                continue;
            };
            let path = dir.path().join("log");
            // Twice: archives are often appended to each other.
            std::fs::write(&path, [bytes.clone(), bytes.clone()].concat()).unwrap();
            let mut found = Vec::new();
            open(&path).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == [text.clone(), text.clone()].concat(), "{tool}: {} bytes", found.len());
            if tool == "cat" {
                continue;
            }
            std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            let error = open(&path).unwrap().read_to_end(&mut found).unwrap_err().to_string();
            assert!(!error.contains(['{', '"']), "half a {tool} file is told in words: {error}");
        }
    }

    #[test]
    fn what_is_packed_otherwise_is_not_taken_for_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let heads: [(&[u8], &str); 7] = [
            (b"BZh91AY&SY\0", "bzip2"),
            (b"\x1f\x9d\x90abc", "compress"),
            (b"\x04\x22\x4d\x18abc", "lz4"),
            (b"\x89LZO\0\x0d", "lzop"),
            (b"LZIP\x01abc", "lzip"),
            (b"PK\x03\x04abc", "zip"),
            (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        ];
        for (head, packing) in heads {
            std::fs::write(&path, head).unwrap();
            let error = open(&path).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(&format!("packed by {packing}")) && error.contains(".gz, .xz and .zst"), "{packing}: {error}");
        }
        std::fs::write(&path, "BZh9: no archive").unwrap();
        assert!(open(&path).is_ok());
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let error = |path: &str| open(Path::new(path)).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(error("/no/such/file"), "cannot read /no/such/file: not found");
        assert!(error("/").contains("no regular file"));
    }
}
