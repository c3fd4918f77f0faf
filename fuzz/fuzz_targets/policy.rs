//! Any bytes are policy requests or none; a stream gives the same ones however it is cut, and each answer is one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailwarden::policy::protocol::{Requests, Standing, Taken};

fuzz_target!(|bytes: &[u8]| {
    let whole = answers(&[bytes]);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    assert_eq!(answers(&[first, second]), whole);
});

fn answers(pieces: &[&[u8]]) -> Vec<u8> {
    let mut requests = Requests::default();
    let mut out = Vec::new();
    for piece in pieces {
        requests.push(piece);
        while let Some(taken) = requests.take() {
            if let Taken::Request(request) = taken {
                let begin = out.len();
                request.answer(Some(Standing::Locked), &["example.org".to_owned()]).write("no", &mut out);
                assert_eq!(out[begin..].iter().filter(|byte| **byte == b'\n').count(), 2);
            }
        }
    }
    out
}
