//! A test in namespaces of its own: the process runs itself again as pid 1 of a world with private mounts, network and
//! processes. When it ends, for whatever reason, the kernel takes all of it away; nothing is left to clean up.

use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

const INSIDE: &str = "MAILWARDEN_REAL_HOST_INSIDE";
const NEVER_SKIP: &str = "MAILWARDEN_REQUIRE_NETNS";
const TIME_LIMIT: Duration = Duration::from_secs(100);
const NAMESPACES: [&str; 6] = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation=private"];
const NEEDED: [&str; 9] = [
    "/usr/sbin/postfix",
    "/usr/sbin/dovecot",
    "/usr/lib/dovecot/imap-login",
    "/usr/lib/dovecot/pop3-login",
    "/usr/sbin/rsyslogd",
    "/usr/sbin/nft",
    "/usr/sbin/ip",
    "/usr/bin/unshare",
    "/usr/bin/python3",
];

/// Private `/run` and `/dev` (so that `/dev/log` and `/run/netns` are ours), and names from files only.
const PRIVATE_MOUNTS: &str = "
mount -t tmpfs -o mode=755 private /run
mkdir -p /run/dev /run/site
for node in null zero full random urandom tty; do
    : >/run/dev/$node
    mount --bind /dev/$node /run/dev/$node
done
mount --rbind /run/dev /dev
echo 'hosts: files' >/run/nsswitch.conf
mount --bind /run/nsswitch.conf /etc/nsswitch.conf
ip link set lo up
";

/// Runs `scenario` in its own world. `test` is the name of the calling test, by which it is started again.
pub fn isolated(test: &str, scenario: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        end_with_parent();
        run("sh", &["-euc", PRIVATE_MOUNTS]);
        scenario();
    } else if let Some(obstacle) = obstacle() {
        skip(test, &obstacle);
    } else {
        run_inside(test);
    }
}

/// Runs a program to its end, which must be a good one. What it prints goes to the transcript and not through a pipe: a
/// daemon that it leaves behind would keep that open.
pub fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    if let Some(missing) = NEEDED.iter().find(|path| !fs::exists(path).unwrap_or(false)) {
        return Some(format!("{missing} is not installed; scripts/install-test-deps installs it"));
    }
    let probe = Command::new("unshare").args(NAMESPACES).args(["--mount-proc", "nft", "list", "ruleset"]).output();
    match probe {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no namespaces or no nftables here: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("no namespaces here: {error}")),
    }
}

fn skip(test: &str, obstacle: &str) {
    assert!(env::var_os(NEVER_SKIP).is_none_or(|value| value == "0"), "{test} cannot run here: {obstacle}");
    // Not eprintln!: the test harness swallows that of a test that passes.
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {obstacle}");
}

fn run_inside(test: &str) {
    let mut transcript = tempfile::tempfile().unwrap();
    let mut world = Command::new("unshare")
        .args(NAMESPACES)
        .arg("--mount-proc")
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .stdout(transcript.try_clone().unwrap())
        .stderr(transcript.try_clone().unwrap())
        .spawn()
        .unwrap();
    let good = ended_well(&mut world);
    let mut text = String::new();
    transcript.rewind().unwrap();
    transcript.read_to_string(&mut text).unwrap();
    assert!(good && text.contains("1 passed"), "inside the namespaces:\n{text}");
    println!("{text}");
}

fn ended_well(world: &mut Child) -> bool {
    let started = Instant::now();
    while started.elapsed() < TIME_LIMIT {
        if let Some(status) = world.try_wait().unwrap() {
            return status.success();
        }
        thread::sleep(Duration::from_millis(20));
    }
    // --kill-child takes pid 1 along, and that takes the rest.
    world.kill().unwrap();
    world.wait().unwrap();
    false
}

/// The parent holds the other end of our standard input and never writes: its end is the parent's end.
fn end_with_parent() {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0; 1]);
        process::exit(1);
    });
}
