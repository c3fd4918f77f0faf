//! Postfix asks at each command of a client. How long it waits, while the syslog socket is flooded and a million counts are saved.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::flood;
use crate::host::Host;
use crate::table::{Row, milliseconds, percentile};

/// Requests a second, of all askers together.
const RATE: u32 = 10_000;
/// smtpd processes that ask.
const ASKERS: u32 = 4;
/// Longer than from one snapshot to the next.
const LASTING: Duration = Duration::from_secs(8);

pub fn measure(host: &Host, directory: &Path) -> io::Result<Vec<Row>> {
    let daemon = host.start(directory, &flood::jail(6))?;
    let syslog = daemon.syslog()?;
    let done = AtomicBool::new(false);
    let (answers, lines) = thread::scope(|scope| {
        let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(|| ask(daemon.policy()?))).collect();
        let flood = scope.spawn(|| flood::pour(&syslog, &done));
        let answers: io::Result<Vec<Vec<Duration>>> = askers.into_iter().map(|asker| asker.join().unwrap_or_else(panicked)).collect();
        done.store(true, Ordering::Relaxed);
        answers.and_then(|answers| Ok((answers, flood.join().unwrap_or_else(panicked)?)))
    })?;
    let mut waits = answers.concat();
    waits.sort_unstable();
    let [middle, most] = [50, 99].map(|percent| milliseconds(percentile(&waits, percent)));
    let how = format!(
        "(p50 {middle:.2}, longest {:.2}; {:.0} answers/s beside {:.0} datagrams/s)",
        milliseconds(percentile(&waits, 100)),
        waits.len() as f64 / LASTING.as_secs_f64(),
        lines as f64 / LASTING.as_secs_f64()
    );
    Ok(vec![Row::at_most(format!("policy answer at {RATE} requests/s in a flood, p99"), 1.0, "ms", most, how)])
}

/// Asks at an even pace, and says how long each answer took.
fn ask(mut stream: UnixStream) -> io::Result<Vec<Duration>> {
    let mut answers = BufReader::new(stream.try_clone()?);
    let (begun, pause) = (Instant::now(), Duration::from_secs(1) * ASKERS / RATE);
    let (mut waits, mut line) = (Vec::new(), String::new());
    while begun.elapsed() < LASTING {
        let number = waits.len() as u32;
        thread::sleep((pause * number).saturating_sub(begun.elapsed()));
        let request = format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.7\nsasl_username=user{number}@shop.example\n\n"
        );
        let asked = Instant::now();
        stream.write_all(request.as_bytes())?;
        line.clear();
        // The answer and the empty line behind it.
        while answers.read_line(&mut line)? > 1 {}
        waits.push(asked.elapsed());
        if line != "action=DUNNO\n\n" {
            return Err(io::Error::other(format!("the policy service answered {line:?}")));
        }
    }
    Ok(waits)
}

fn panicked<T>(_: Box<dyn std::any::Any + Send>) -> io::Result<T> {
    Err(io::Error::other("a thread panicked"))
}
