//! From the datagram with the last offence to the first packet that the kernel drops, with nothing else going on.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{Host, Probe, client, failed_login};
use crate::table::{Row, milliseconds, percentile};

const JAILS: &str = r#"
[jail.budget]
on       = ["auth-failure"]
key      = "ip"
maxretry = 1
findtime = "10m"
bantime  = "1h"
scope    = "all"
"#;
const ROUNDS: u32 = 1_000;
const IDLE: Duration = Duration::from_millis(3);

pub fn measure(host: &Host, directory: &Path) -> io::Result<Vec<Row>> {
    let daemon = host.start(directory, JAILS)?;
    thread::sleep(Duration::from_millis(500));
    let idle = daemon.resident_bytes()? as f64 / 1e6;
    let mut rows = vec![Row::at_most("memory of the idle daemon", 12.0, "MB", idle, "resident")];

    let syslog = daemon.syslog()?;
    let probe = Probe::new(host)?;
    let mut taken = probe.at_client(|probe| {
        let (mut line, mut taken) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let sender = probe.sender(client(round))?;
            failed_login(&mut line, client(round));
            thread::sleep(IDLE);
            let begun = Instant::now();
            syslog.send(&line)?;
            taken.push(probe.until_dropped(&sender)?.saturating_duration_since(begun));
        }
        Ok(taken)
    })?;
    taken.sort();
    let how = format!("({ROUNDS} rounds, worst {:.2} ms)", milliseconds(percentile(&taken, 100)));
    rows.push(Row::at_most("datagram → dropped packet, p50", 0.2, "ms", milliseconds(percentile(&taken, 50)), ""));
    rows.push(Row::at_most("datagram → dropped packet, p99", 1.0, "ms", milliseconds(percentile(&taken, 99)), how));
    Ok(rows)
}
