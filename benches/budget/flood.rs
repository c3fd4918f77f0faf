//! A flood on the syslog socket: how fast it is taken in, what each address costs, how fast bans are made, and what a
//! restart with many bans costs.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{Host, Probe, client, failed_login};
use crate::table::Row;

const COUNTED: u32 = 1_000_000;
const BANNED: u32 = 100_000;
/// An address that only ends the flood: when it is banned, all lines before it have been worked on.
const MARKER: u32 = 0;

pub fn jail(maxretry: u32) -> String {
    format!(
        "[jail.budget]\non = [\"auth-failure\"]\nkey = \"ip\"\nmaxretry = {maxretry}\nfindtime = \"1h\"\nbantime = \"1h\"\nscope = \"all\"\n"
    )
}

pub fn measure(host: &Host, directory: &Path) -> io::Result<Vec<Row>> {
    let bare = bare_socket()?;
    let mut rows = vec![Row::compare("a bare unix datagram socket", format!("{bare:.0} datagrams/s"))];
    rows.extend(counted(host, &directory.join("counted"))?);
    rows.extend(banned(host, &directory.join("banned"))?);
    Ok(rows)
}

/// Nobody reaches the limit: lines are counted, one for each address.
fn counted(host: &Host, directory: &Path) -> io::Result<Vec<Row>> {
    let maxretry = 6;
    let daemon = host.start(directory, &jail(maxretry))?;
    let probe = Probe::new(host)?;
    let before = daemon.resident_bytes()?;
    let taken = flood(&probe, &daemon.syslog()?, COUNTED, maxretry)?;
    let bytes = daemon.resident_bytes()?.saturating_sub(before) as f64 / f64::from(COUNTED);
    let rate = f64::from(COUNTED) / taken.as_secs_f64();
    Ok(vec![
        Row::at_least(
            "syslog socket, sustained",
            300_000.0,
            "datagrams/s",
            rate,
            format_args!("({COUNTED} in {:.2} s)", taken.as_secs_f64()),
        ),
        Row::at_most(format!("memory a key, {COUNTED} keys, maxretry {maxretry}"), 150.0, "bytes", bytes, "of the whole process"),
    ])
}

/// Each line bans: from the socket through ledger and kernel, then through a restart.
fn banned(host: &Host, directory: &Path) -> io::Result<Vec<Row>> {
    let daemon = host.start(directory, &jail(1))?;
    let probe = Probe::new(host)?;
    let taken = flood(&probe, &daemon.syslog()?, BANNED, 1)?;
    let rate = f64::from(BANNED) / taken.as_secs_f64();
    let first = Row::at_least("bans in one burst, from the socket to the kernel", 200_000.0, "bans/s", rate, format_args!("({BANNED})"));

    let done = AtomicBool::new(false);
    let (startup, arrived) = thread::scope(|scope| {
        let watch = scope.spawn(|| probe.at_client(|probe| probe.arrivals_until(&probe.sender(client(MARKER))?, &done)));
        let startup = daemon.stop().and_then(|()| host.start(directory, &jail(1))).map(|daemon| daemon.startup);
        thread::sleep(Duration::from_millis(500));
        done.store(true, Ordering::Relaxed);
        let arrived = watch.join().unwrap_or_else(|_| Err(io::Error::other("the client panicked")));
        (startup, arrived)
    });
    Ok(vec![
        first,
        Row::at_most(format!("ready again with {BANNED} bans"), 0.5, "s", startup?.as_secs_f64(), ""),
        Row::at_most("packets of a banned client let through meanwhile", 0.0, "packets", arrived? as f64, ""),
    ])
}

/// A line for each of `count` addresses, then the marker, `maxretry` times. Returns how long it took until that was banned.
fn flood(probe: &Probe, syslog: &UnixDatagram, count: u32, maxretry: u32) -> io::Result<Duration> {
    probe.at_client(|probe| {
        let sender = probe.sender(client(MARKER))?;
        let mut line = Vec::new();
        let begun = Instant::now();
        for number in 0..count {
            failed_login(&mut line, stranger(number));
            syslog.send(&line)?;
        }
        failed_login(&mut line, client(MARKER));
        for _ in 0..maxretry {
            syslog.send(&line)?;
        }
        Ok(probe.until_dropped(&sender)? - begun)
    })
}

/// One line after the other, of a million addresses in turn. Returns how many were taken.
pub fn pour(syslog: &UnixDatagram, done: &AtomicBool) -> io::Result<u64> {
    let (mut line, mut sent) = (Vec::new(), 0);
    while !done.load(Ordering::Relaxed) {
        failed_login(&mut line, stranger((sent % u64::from(COUNTED)) as u32));
        syslog.send(&line)?;
        sent += 1;
    }
    Ok(sent)
}

/// Somebody in 20.0.0.0/8, which never sees a packet of it.
fn stranger(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x1400_0000 + number)
}

/// What the kernel alone can do here: the same lines into a socket that is only read.
fn bare_socket() -> io::Result<f64> {
    let (sender, receiver) = UnixDatagram::pair()?;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let begun = Instant::now();
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut buffer = [0; 8192];
            for _ in 0..COUNTED {
                receiver.recv(&mut buffer)?;
            }
            Ok::<_, io::Error>(())
        });
        let mut line = Vec::new();
        for number in 0..COUNTED {
            failed_login(&mut line, stranger(number));
            sender.send(&line)?;
        }
        reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))
    })?;
    Ok(f64::from(COUNTED) / begun.elapsed().as_secs_f64())
}
