//! From the datagram with the last offence to the first packet that the kernel drops, with nothing else going on.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

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
    let apart = Apart::look()?;
    let daemon = apart.start(|| host.start(directory, JAILS))?;
    thread::sleep(Duration::from_millis(500));
    let idle = daemon.resident_bytes()? as f64 / 1e6;
    let mut rows = vec![Row::at_most("memory of the idle daemon", 12.0, "MB", idle, "resident")];

    let syslog = daemon.syslog()?;
    let probe = Probe::new(host)?;
    let mut taken = probe.at_client(|probe| {
        let (mut line, mut taken) = (Vec::new(), Vec::new());
        apart.enter()?;
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
    let how = format!("({ROUNDS} rounds, worst {:.2} ms{})", milliseconds(percentile(&taken, 100)), apart.note());
    rows.push(Row::at_most("datagram → dropped packet, p50", 0.2, "ms", milliseconds(percentile(&taken, 50)), ""));
    rows.push(Row::at_most("datagram → dropped packet, p99", 1.0, "ms", milliseconds(percentile(&taken, 99)), how));
    Ok(rows)
}

/// The probe sends packets without a pause, which is not what "idle" means: it gets a processor of its own, and the daemon the
/// others. Where there is only one they share it.
struct Apart {
    all: CpuSet,
    /// The probe's, and those of the daemon.
    parts: Option<(CpuSet, CpuSet)>,
}

impl Apart {
    fn look() -> io::Result<Apart> {
        let all = sched_getaffinity(Pid::from_raw(0))?;
        let mut processors = (0..CpuSet::count()).filter(|number| all.is_set(*number).unwrap_or(false));
        let (Some(last), Some(_)) = (processors.next_back(), processors.next()) else { return Ok(Apart { all, parts: None }) };
        let (mut own, mut others) = (CpuSet::new(), all);
        own.set(last)?;
        others.unset(last)?;
        Ok(Apart { all, parts: Some((own, others)) })
    }

    /// A process inherits where it may run.
    fn start<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let Some((_, others)) = &self.parts else { return start() };
        sched_setaffinity(Pid::from_raw(0), others)?;
        let started = start();
        sched_setaffinity(Pid::from_raw(0), &self.all)?;
        started
    }

    fn enter(&self) -> io::Result<()> {
        self.parts.as_ref().map_or(Ok(()), |(own, _)| Ok(sched_setaffinity(Pid::from_raw(0), own)?))
    }

    const fn note(&self) -> &'static str {
        if self.parts.is_some() { "; the probe has a processor of its own" } else { "" }
    }
}
