//! What the process tests share: a daemon of one's own in a directory of one's own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// The numbers of the shipped jails are tuned now and then; these tests are about the daemon.
const JAIL: &str = r#"
[jail.logins]
on       = ["auth-failure"]
key      = "ip"
maxretry = 6
findtime = "10m"
bantime  = "1h"
scope    = "auth"
"#;

/// A mailwardend with its own configuration, state and sockets. Killed when dropped.
pub struct Host {
    dir: TempDir,
    child: Option<Child>,
    arguments: Vec<String>,
    wrapper: Vec<String>,
}

impl Host {
    /// The shipped filters, and one jail for failed logins; `toml` is the configuration beside one socket source.
    pub fn new(toml: &str) -> Host {
        let host = Host::bare(toml);
        let socket = host.path("syslog.sock");
        let text =
            format!("{}\n[[source]]\nkind = \"socket\"\npath = {socket:?}\n", fs::read_to_string(host.path("mailwarden.toml")).unwrap());
        fs::write(host.path("mailwarden.toml"), text).unwrap();
        host
    }

    /// As [`Host::new`], without a source.
    pub fn bare(toml: &str) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::os::unix::fs::symlink(root.join("filters"), dir.path().join("filters")).unwrap();
        fs::create_dir(dir.path().join("jail.d")).unwrap();
        fs::write(dir.path().join("jail.d/logins.toml"), JAIL).unwrap();
        // Whoever runs the test may speak for the mail programs.
        let uid = nix::unistd::getuid();
        let trust = if uid.is_root() {
            String::new()
        } else {
            format!("[trust]\n\"postfix*\" = [{uid}]\n\"dovecot*\" = [{uid}]\n\"sshd*\" = [{uid}]\n")
        };
        fs::write(dir.path().join("mailwarden.toml"), format!("{toml}\n{trust}")).unwrap();
        Host { dir, child: None, arguments: Vec::new(), wrapper: Vec::new() }
    }

    /// Arguments for each start, such as `--dry-run`.
    pub fn with(mut self, arguments: &[&str]) -> Host {
        self.arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    /// A command that becomes the daemon, such as `setpriv`.
    pub fn under(mut self, wrapper: &[&str]) -> Host {
        self.wrapper = wrapper.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the daemon and waits until it answers; says how long that took.
    pub fn start(&mut self) -> Duration {
        let begin = Instant::now();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut words = self.wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_mailwardend")]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg("--config").arg(self.dir.path());
        command.arg("--state-dir").arg(self.path("state")).arg("--runtime-dir").arg(self.dir.path());
        command.args(&self.arguments).env_remove("JOURNAL_STREAM").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        wait_for("the daemon answers", || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            self.tool(["status", "--json"]).status.success()
        });
        begin.elapsed()
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.as_ref().expect("the daemon runs").id() as i32)
    }

    /// Resident memory.
    pub fn memory_bytes(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    /// SIGTERM, and waits for a clean end.
    pub fn stop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let mut child = self.child.take().unwrap();
        wait_for("the daemon ends", || child.try_wait().unwrap().is_some());
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Sends one datagram to the syslog socket.
    pub fn send(&self, line: impl AsRef<[u8]>) {
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(line.as_ref(), self.path("syslog.sock")).unwrap();
    }

    pub fn tool<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailwarden"));
        command.args(arguments).arg("--socket").arg(self.path("control.sock"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The tool's standard output; panics when it fails.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.tool(arguments);
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn bans(&self) -> Vec<Value> {
        self.ok(["list", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `203.0.113.1/32` is the address as well.
    pub fn is_banned(&self, net: &str) -> bool {
        let net = mailwarden::address::display(net.parse().unwrap());
        self.bans().iter().any(|ban| ban["ip"] == *net)
    }

    pub fn wait_banned(&self, net: &str) {
        wait_for(&format!("{net} is banned"), || self.is_banned(net));
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(["status", "--json"])).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of the daemon's log\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Waits until `done`; panics after a while.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A failed login as Postfix writes it to /dev/log.
pub fn sasl_failure(ip: &str, account: &str) -> String {
    format!(
        "<20>Nov 24 02:31:15 postfix/submission/smtpd[4711]: warning: unknown[{ip}]: SASL LOGIN authentication failed: (reason unavailable), sasl_username={account}"
    )
}
