//! A mail host to measure on: network namespaces of our own, the real daemon, and a client whose packets arrive or do not.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 25);
/// The clients: 198.18.0.0/15 is set aside for measurements (RFC 2544).
const CLIENTS: u32 = 0xc612_0000;
const INSIDE: &str = "MAILWARDEN_BUDGET_INSIDE";
/// No packet for so long: the ban is in force.
const SILENCE: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(60);

/// Goes on in namespaces of our own, where that is possible; returns where we are in the end.
pub fn enter() -> Option<Host> {
    if std::env::var_os(INSIDE).is_some() {
        return Host::build().inspect_err(|error| eprintln!("budget: no namespaces: {error}")).ok();
    }
    let root: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let possible = Command::new("unshare").args(root).args(["--net", "true"]).stderr(Stdio::null()).status();
    if possible.is_ok_and(|status| status.success()) {
        let error = Command::new("unshare")
            .args(root)
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(std::env::current_exe().ok()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        eprintln!("budget: unshare: {error}");
    }
    None
}

/// This network namespace is the mail host; the one called `client` is at the other end of a cable.
pub struct Host {}

impl Host {
    fn build() -> io::Result<Host> {
        let script = "
            mount -t tmpfs -o mode=755 budget /run
            ip link set lo up
            ip address add 192.0.2.25/32 dev lo
            ip netns add client
            ip link add cable type veth peer name eth0 netns client
            ip link set cable up
            ip route add 198.18.0.0/15 dev cable src 192.0.2.25
            ip -n client link set lo up
            ip -n client link set eth0 up
            ip -n client route add local 198.18.0.0/15 dev lo
            ip -n client route add 192.0.2.25/32 dev eth0 src 198.18.0.1";
        let output = Command::new("sh").args(["-euc", script]).output()?;
        if output.status.success() { Ok(Host {}) } else { Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())) }
    }

    /// Starts the daemon with `jails`, and waits until it says that it is ready.
    pub fn start(&self, directory: &Path, jails: &str) -> io::Result<Daemon> {
        write_configuration(directory, jails)?;
        let notify = directory.join("notify");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(PATIENCE))?;

        let program = std::env::var_os("MAILWARDEND").unwrap_or_else(|| env!("CARGO_BIN_EXE_mailwardend").into());
        let log = File::create(directory.join("daemon.log"))?;
        let started = Instant::now();
        let child = Command::new(program)
            .arg("--config")
            .arg(directory.join("config"))
            .arg("--state-dir")
            .arg(directory.join("state"))
            .arg("--runtime-dir")
            .arg(directory.join("run"))
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut daemon = Daemon { child, directory: directory.to_owned(), startup: Duration::ZERO };
        let mut message = [0; 4096];
        loop {
            let length = ready.recv(&mut message).map_err(|_| daemon.gone("did not become ready"))?;
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                daemon.startup = started.elapsed();
                return Ok(daemon);
            }
        }
    }
}

fn write_configuration(directory: &Path, jails: &str) -> io::Result<()> {
    let config = directory.join("config");
    for path in [&config.join("jail.d"), &directory.join("state"), &directory.join("run")] {
        fs::create_dir_all(path)?;
    }
    if fs::symlink_metadata(config.join("filters")).is_err() {
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("filters"), config.join("filters"))?;
    }
    let socket = directory.join("run/syslog.sock");
    // Neighbours are banned by the thousand here: no network may be banned in their stead.
    let policy = directory.join("run/policy");
    let main = format!(
        "[[source]]\nkind = \"socket\"\npath = {socket:?}\n\n[bans.widen]\nenabled = false\n\n[policy]\nsocket = {policy:?}\nusers = []\n"
    );
    fs::write(config.join("mailwarden.toml"), main)?;
    fs::write(config.join("jail.d/budget.toml"), jails)
}

pub struct Daemon {
    child: Child,
    directory: PathBuf,
    /// From `exec` to READY=1.
    pub startup: Duration,
}

impl Daemon {
    pub fn syslog(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(self.directory.join("run/syslog.sock"))?;
        Ok(socket)
    }

    /// A connection such as one smtpd process has.
    pub fn policy(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.directory.join("run/policy"))
    }

    pub fn resident_bytes(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>();
        kilobytes.map(|kilobytes| kilobytes * 1024).map_err(|_| self.gone("has no memory"))
    }

    pub fn stop(mut self) -> io::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }

    fn gone(&self, what: &str) -> io::Error {
        let log = fs::read_to_string(self.directory.join("daemon.log")).unwrap_or_default();
        io::Error::other(format!("mailwardend {what}: {}", log.lines().last().unwrap_or("it said nothing")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn client(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(CLIENTS + 256 + number)
}

/// One failed login as Postfix logs it to the relay.
pub fn failed_login(line: &mut Vec<u8>, address: Ipv4Addr) {
    line.clear();
    write!(
        line,
        "<22>2026-11-24T02:31:15.477488+00:00 mail postfix/submission/smtpd[4711]: warning: unknown[{address}]: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username=info@shop.example"
    )
    .expect("a Vec takes everything");
}

/// Sends packets from any of the client's addresses to the host, and sees whether they arrive.
pub struct Probe {
    receiver: UdpSocket,
    epoch: Instant,
}

impl Probe {
    pub fn new(_host: &Host) -> io::Result<Probe> {
        let receiver = UdpSocket::bind(SocketAddrV4::new(HOST, 0))?;
        receiver.set_nonblocking(true)?;
        Ok(Probe { receiver, epoch: Instant::now() })
    }

    /// Runs `body` on a thread that lives in the client's namespace. Sockets stay in the namespace that they were made in.
    pub fn at_client<T: Send>(&self, body: impl FnOnce(&Probe) -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = File::open("/run/netns/client")?;
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                body(self)
            });
            client.join().unwrap_or_else(|_| Err(io::Error::other("the client panicked")))
        })
    }

    /// To be called at the client.
    pub fn sender(&self, address: Ipv4Addr) -> io::Result<UdpSocket> {
        let sender = UdpSocket::bind(SocketAddrV4::new(address, 0))?;
        sender.connect(self.receiver.local_addr()?)?;
        Ok(sender)
    }

    /// Sends until nothing arrives any more. Returns when the first packet was sent that did not arrive.
    pub fn until_dropped(&self, sender: &UdpSocket) -> io::Result<Instant> {
        let started = Instant::now();
        let mut missing = None;
        loop {
            let sent = self.send(sender)?;
            let arrived = self.arrived()?;
            missing = missing.filter(|missing| arrived.is_none_or(|arrived| arrived < *missing));
            if arrived != Some(sent) {
                missing.get_or_insert(sent);
            }
            if let Some(missing) = missing.filter(|missing| sent - *missing > SILENCE) {
                return Ok(self.epoch + missing);
            }
            if started.elapsed() > PATIENCE {
                return Err(io::Error::new(ErrorKind::TimedOut, "the client was not banned"));
            }
        }
    }

    /// How many of the packets arrive that are sent, one each 200 µs, until `done`.
    pub fn arrivals_until(&self, sender: &UdpSocket, done: &AtomicBool) -> io::Result<u64> {
        let mut count = 0;
        while !done.load(Ordering::Relaxed) {
            self.send(sender)?;
            thread::sleep(Duration::from_micros(200));
            count += u64::from(self.arrived()?.is_some());
        }
        Ok(count)
    }

    /// When the packet was sent, counted from the probe's beginning; the packet carries it.
    fn send(&self, sender: &UdpSocket) -> io::Result<Duration> {
        let now = self.epoch.elapsed();
        sender.send(&now.as_nanos().to_be_bytes())?;
        Ok(now)
    }

    /// When the newest of the packets was sent that have arrived and were not looked at.
    fn arrived(&self) -> io::Result<Option<Duration>> {
        let (mut stamp, mut newest) = ([0; 16], None);
        loop {
            match self.receiver.recv(&mut stamp) {
                Ok(_) => newest = Some(Duration::from_nanos(u128::from_be_bytes(stamp) as u64)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(newest),
                Err(error) => return Err(error),
            }
        }
    }
}
