//! mailwarden itself: the daemon on the mail host, with the shipped jails and filters, and the tool.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ipnetwork::IpNetwork;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::isolation::run;
use crate::network::Namespace;
use crate::poll;
use crate::site::{ROOT, SYSLOG_SOCKET};

const ANNOTATED: &str = include_str!("etc/mailwarden.toml");
const CONTROL_SOCKET: &str = "/run/mailwarden/control.sock";

pub struct Warden {
    daemon: Child,
}

impl Warden {
    /// Starts the daemon with the configuration that is shipped.
    pub fn start(host: &Namespace) -> Self {
        Self::start_with(host, Path::new(env!("CARGO_MANIFEST_DIR")))
    }

    /// Starts it with the shipped jails and filters, and a socket whose relay is known to tell the sender of every line.
    pub fn start_annotated(host: &Namespace) -> Self {
        Self::start_configured(host, "")
    }

    /// The same, with more in the configuration.
    pub fn start_configured(host: &Namespace, more: &str) -> Self {
        Self::configure(more);
        Self::start_again(host)
    }

    /// Writes the configuration; nothing runs yet.
    pub fn configure(more: &str) {
        let configuration = Path::new(ROOT).join("warden");
        fs::create_dir(&configuration).unwrap();
        fs::write(configuration.join("mailwarden.toml"), format!("{ANNOTATED}\n{more}")).unwrap();
        for shipped in ["jail.d", "filters"] {
            symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join(shipped), configuration.join(shipped)).unwrap();
        }
    }

    /// Reads old logs, as before the first start.
    pub fn learn(log: &Path) {
        let configuration = format!("{ROOT}/warden");
        let log = log.to_str().unwrap();
        run(env!("CARGO_BIN_EXE_mailwarden"), &["--socket", CONTROL_SOCKET, "--config", &configuration, "learn", log]);
    }

    /// Starts it where it ended, with the configuration that is there.
    pub fn start_again(host: &Namespace) -> Self {
        Self::start_with(host, &Path::new(ROOT).join("warden"))
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// The daemon runs where the packets arrive. Returns when it takes lines and requests.
    fn start_with(host: &Namespace, configuration: &Path) -> Self {
        let daemon = host.within(|| {
            Command::new(env!("CARGO_BIN_EXE_mailwardend"))
                .arg("--config")
                .arg(configuration)
                .args(["--state-dir", "/run/site/state"])
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        });
        let mut warden = Self { daemon };
        let ready = poll(Duration::from_secs(10), || {
            if let Some(status) = warden.daemon.try_wait().unwrap() {
                panic!("mailwardend ended: {status}");
            }
            fs::exists(SYSLOG_SOCKET).unwrap() && warden.tool(&["status"]).status.success()
        });
        assert!(ready, "mailwardend does not get ready");
        warden
    }

    pub fn tool(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_mailwarden"))
            .args(["--socket", CONTROL_SOCKET, "--json"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// One JSON value a line of a good answer.
    pub fn ask(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.tool(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn banned(&self) -> Vec<IpNetwork> {
        self.ask(&["list", "bans"]).iter().map(|ban| ban["ip"].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Waits until `address` is banned; the scope of the ban.
    pub fn scope_of_ban(&self, address: std::net::IpAddr) -> String {
        let mut scope = None;
        let is_banned = || {
            let bans = self.ask(&["list", "bans"]);
            let of_address = bans.iter().find(|ban| ban["ip"].as_str().unwrap().parse::<IpNetwork>().unwrap().contains(address));
            scope = of_address.map(|ban| ban["scope"].as_str().unwrap().to_owned());
            scope.is_some()
        };
        poll(Duration::from_secs(5), is_banned);
        scope.unwrap_or_else(|| panic!("{address} is not banned: {:?}", self.ask(&["status"])))
    }

    /// Holds the daemon as a hang would.
    pub fn hang(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.daemon.id().try_into().unwrap()), signal).unwrap();
    }
}
