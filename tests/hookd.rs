//! The root helper as a process: who may ask, what it runs, and that a kill neither loses an errand nor does it twice.

#[expect(dead_code, reason = "not all of it is needed here")]
mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mailwarden::enforce::helper::exchange;
use mailwarden::hookd::{Answer, Request, Status};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Says that a test cannot run here; where everything must run (CI) that is a failure.
macro_rules! needs_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("MAILWARDEN_REQUIRE_NETNS").is_none_or(|value| value != "1"), "must not be skipped here: needs root");
            // Not eprintln!: the test harness swallows that of a test that passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED: needs root");
            return;
        }
    };
}

struct Helper {
    dir: TempDir,
    child: Running,
}

impl Helper {
    /// `hooks` may name DIR, where the helper's files are.
    fn start(hooks: &str) -> Helper {
        let dir = tempfile::tempdir().unwrap();
        // For others to reach the socket at all.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        write(&dir.path().join("hooks.toml"), &hooks.replace("DIR", dir.path().to_str().unwrap()), 0o644);
        let child = listen(dir.path(), &dir.path().join("socket"));
        let helper = Helper { dir, child };
        helper.wait_for_socket();
        helper
    }

    /// SIGKILL, and a new one in its place.
    fn restart_after_kill(&mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
        fs::remove_file(self.path("socket")).unwrap();
        self.child = listen(self.dir.path(), &self.path("socket"));
        self.wait_for_socket();
    }

    fn wait_for_socket(&self) {
        assert!(
            poll(|| fs::metadata(self.path("socket")).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == 0o660)),
            "no socket"
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ask(&self, id: &str, verb: &str, account: &str, data: Value) -> Answer {
        exchange(&self.path("socket"), &Request { id: id.into(), verb: verb.into(), account: account.into(), data }).unwrap()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// A helper that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hookd(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailwarden-hookd"));
    command.arg("--hooks").arg(dir.join("hooks.toml")).arg("--state").arg(dir.join("state")).args(["--user", "root"]);
    command
}

fn listen(dir: &Path, socket: &Path) -> Running {
    let mut command = hookd(dir);
    Running(command.arg("--listen").arg(socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn poll(mut is_so: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Writes what it was told.
const TELLING: &str = "[hook.lock]\nrun = [[\"DIR/tell\", \"one\"], [\"DIR/tell\", \"two\"]]\n";
const TELL: &str = "#!/bin/sh\nread -r json\nprintf '%s|%s|%s|%s|%s\\n' \"$1\" \"$MAILWARDEN_ACCOUNT\" \"$MAILWARDEN_KIND\" \"$MAILWARDEN_SCOPE\" \"$json\" >>${0%/*}/told\necho told\n";

#[test]
fn a_hook_is_told_what_was_decided_and_runs_once() {
    needs_root!();
    let helper = Helper::start(TELLING);
    write(&helper.path("tell"), TELL, 0o755);
    let data = json!({ "scope": "auth", "reason": "$(touch DIR/owned) `id`" });
    let answer = helper.ask("a-1", "lock", "o'hara;id@example.org", data.clone());
    assert_eq!((answer.status, answer.output.as_str()), (Status::Done, "told\ntold\n"));
    let told = ["one", "two"].map(|argument| format!("{argument}|o'hara;id@example.org|account|auth|{data}"));
    assert_eq!(helper.lines("told"), told);
    assert_eq!(helper.ask("a-1", "lock", "o'hara;id@example.org", data.clone()).status, Status::Done);
    assert_eq!(helper.lines("told").len(), 2);
    assert_eq!(helper.ask("a-2", "lock", "local:33", json!({ "scope": "x\ny" })).status, Status::Done);
    assert!(helper.lines("told")[2].starts_with("one|local:33|local||"), "{:?}", helper.lines("told"));
    assert_eq!(helper.ask("", "describe", "", Value::Null).verbs, ["lock"]);
}

#[test]
fn only_the_configured_verbs_and_decent_names_pass() {
    needs_root!();
    let helper = Helper::start(TELLING);
    write(&helper.path("tell"), TELL, 0o755);
    for (id, verb, account, data) in [
        ("b-1", "unlock", "anna", Value::Null),
        ("b-2", "/bin/sh", "anna", Value::Null),
        ("b-3", "lock", "-rf", Value::Null),
        ("b-4", "lock", "anna\nroot", Value::Null),
        ("b-5", "lock", "", Value::Null),
        ("../b", "lock", "anna", Value::Null),
        ("b-6", "queue-hold", "anna", json!({ "mail": [["ALL", 0]] })),
        ("b-7", "queue-hold", "anna", json!({ "mail": [["-rALL deferred", 0]] })),
    ] {
        let answer = helper.ask(id, verb, account, data);
        assert_eq!(answer.status, Status::Refused, "{id}: {answer:?}");
    }
    assert!(helper.lines("told").is_empty());
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    needs_root!();
    let helper = Helper::start(TELLING);
    write(&helper.path("tell"), TELL, 0o755);
    let refuse = |id: &str, place: &str, mode: u32, good: u32| {
        let path = helper.path(place);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let answer = helper.ask(id, "lock", "anna", Value::Null);
        assert!(answer.status == Status::Failed && answer.output.contains("writable by root alone"), "{place}: {answer:?}");
        fs::set_permissions(&path, fs::Permissions::from_mode(good)).unwrap();
    };
    refuse("c-1", "hooks.toml", 0o666, 0o644);
    refuse("c-2", "hooks.toml", 0o664, 0o644);
    refuse("c-3", "tell", 0o775, 0o755);
    refuse("c-4", ".", 0o777, 0o755);
    for place in ["hooks.toml", "tell"] {
        std::os::unix::fs::chown(helper.path(place), Some(65_534), None).unwrap();
        let answer = helper.ask("c-5", "lock", "anna", Value::Null);
        assert!(answer.status == Status::Failed && answer.output.contains("must belong to root"), "{answer:?}");
        std::os::unix::fs::chown(helper.path(place), Some(0), None).unwrap();
    }
    assert!(helper.lines("told").is_empty());
    assert_eq!(helper.ask("c-1", "lock", "anna", Value::Null).status, Status::Done, "mended, it is done");
}

#[test]
fn another_user_is_refused() {
    needs_root!();
    const ASK: &str = "
import socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
peer.connect(sys.argv[1])
peer.send(b'{\"id\":\"d-1\",\"verb\":\"lock\",\"account\":\"anna\"}')
print(peer.recv(65536).decode())
";
    let helper = Helper::start(TELLING);
    write(&helper.path("tell"), TELL, 0o755);
    // The socket's own mode would keep him out; the second line of defence is asked here.
    fs::set_permissions(helper.path("socket"), fs::Permissions::from_mode(0o666)).unwrap();
    let ask = |uid: u32| {
        let output = Command::new("/usr/bin/python3").args(["-c", ASK]).arg(helper.path("socket")).uid(uid).gid(uid).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let answer = ask(65_534);
    assert!(answer.contains("refused") && answer.contains("uid 65534 may not ask"), "{answer}");
    assert!(helper.lines("told").is_empty());
    assert!(ask(0).contains("done"));
}

#[test]
fn an_errand_survives_a_kill_and_its_effect_is_there_once() {
    needs_root!();
    let mut helper = Helper::start("[hook.lock]\nrun = [[\"DIR/slow\"]]\n");
    // As a hook should be: it says what should be so.
    let slow = "#!/bin/sh\ndir=${0%/*}\necho run >>$dir/runs\n[ -e $dir/quick ] || sleep 0.7\ngrep -qsx anna $dir/denied || echo anna >>$dir/denied\n";
    write(&helper.path("slow"), slow, 0o755);
    let socket = helper.path("socket");
    let asking = std::thread::spawn(move || {
        exchange(&socket, &Request { id: "e-1".into(), verb: "lock".into(), account: "anna".into(), data: Value::Null })
    });
    assert!(poll(|| helper.lines("runs").len() == 1));
    helper.restart_after_kill();
    assert!(asking.join().unwrap().is_err(), "the kill is noticed");
    write(&helper.path("quick"), "", 0o644);
    for _ in 0..3 {
        assert_eq!(helper.ask("e-1", "lock", "anna", Value::Null).status, Status::Done);
        helper.restart_after_kill();
    }
    assert_eq!((helper.lines("runs").len(), helper.lines("denied")), (2, vec!["anna".to_owned()]));
}

/// The helper was away when somebody was locked, and its socket was gone when that was taken back.
#[test]
fn what_was_taken_back_while_the_helper_was_away_is_not_done() {
    needs_root!();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let told = dir.path().join("told");
    write(&dir.path().join("tell"), "#!/bin/sh\necho $MAILWARDEN_VERB >>${0%/*}/told\n", 0o755);
    let hooks = "[hook.lock]\nrun = [[\"DIR/tell\"]]\n[hook.unlock]\nrun = [[\"DIR/tell\"]]\n".replace("DIR", dir.path().to_str().unwrap());
    write(&dir.path().join("hooks.toml"), &hooks, 0o644);
    let mut host = support::Host::new("").under(&["unshare", "-n"]);
    // Its socket, and nobody behind it.
    let socket = host.path("hookd.sock");
    drop(std::os::unix::net::UnixDatagram::bind(&socket).unwrap());
    host.start();
    host.ok(["lock", "anna@example.org"]);
    support::wait_for("the errand to wait", || host.status()["stopping"]["errands_waiting"] == 1);
    for command in [["list", "locks"], ["why", "anna@example.org"]] {
        support::wait_for("it to be told", || host.ok(command).contains("NOT ALL OF IT IS DONE"));
    }
    fs::remove_file(&socket).unwrap();
    host.ok(["unlock", "anna@example.org"]);
    let _helper = listen(dir.path(), &socket);
    support::wait_for("all errands to be over", || host.status()["stopping"]["errands_waiting"] == 0);
    assert_eq!(fs::read_to_string(told).unwrap_or_default(), "unlock\n");
}

#[test]
fn a_hook_that_comes_after_a_lock_is_for_it_too() {
    needs_root!();
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("tell"), TELL, 0o755);
    write(&dir.path().join("hooks.toml"), "[hook.release]\nrun = [[\"/bin/true\"]]\n", 0o644);
    let mut host = support::Host::new("").under(&["unshare", "-n"]);
    let _helper = listen(dir.path(), &host.path("hookd.sock"));
    host.start();
    let knows_hooks = || host.status()["stopping"]["helper"].as_str().is_some_and(|told| told.contains("release"));
    support::wait_for("the helper has told its hooks", knows_hooks);
    host.ok(["lock", "anna@example.org"]);
    write(&dir.path().join("hooks.toml"), &TELLING.replace("DIR", dir.path().to_str().unwrap()), 0o644);
    host.ok(["reload"]);
    let told = || fs::read_to_string(dir.path().join("told")).unwrap_or_default();
    support::wait_for("the hook has run", || told().lines().count() == 2);
    let said = host.ok(["lock", "bob@example.org"]);
    assert!(said.starts_with("locked bob@example.org (sending) until `mailwarden unlock bob@example.org`"), "{said}");
    assert!(told().starts_with("one|anna@example.org|account|"), "{}", told());
}

/// A helper that does everything at once, and the queue work that it was asked for.
fn willing_helper(path: &Path) -> Arc<Mutex<Vec<Request>>> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(8).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let list = asked.clone();
    std::thread::spawn(move || {
        while let Ok((mut peer, _)) = socket.accept() {
            let mut packet = vec![0; 64 * 1024];
            let count = std::io::Read::read(&mut peer, &mut packet).unwrap();
            let request: Request = serde_json::from_slice(&packet[..count]).unwrap();
            if request.verb.starts_with("queue-") {
                list.lock().unwrap().push(request);
            }
            peer.send(&serde_json::to_vec(&Answer::new(Status::Done, "")).unwrap()).unwrap();
        }
    });
    asked
}

#[test]
fn mail_that_was_let_go_is_parked_by_the_next_lock_and_let_go_again() {
    needs_root!();
    let mut host = support::Host::new("").under(&["unshare", "-n"]);
    let asked = willing_helper(&host.path("hookd.sock"));
    host.start();
    host.send("<20>Nov 24 02:31:15 postfix/submission/smtpd[8]: 4F1C1B9A3: client=x[192.0.2.7], sasl_method=PLAIN, sasl_username=anna");
    host.send("<20>Nov 24 02:31:15 postfix/qmgr[3]: 4F1C1B9A3: from=<anna>, size=400, nrcpt=1 (queue active)");
    support::wait_for("anna is known", || host.tool(["why", "anna"]).status.success());
    for round in 1..=2 {
        for (command, count) in [("lock", 2 * round - 1), ("unlock", 2 * round - 1), ("release", 2 * round)] {
            host.ok([command, "anna"]);
            support::wait_for(&format!("{command} number {round} is done"), || asked.lock().unwrap().len() == count);
        }
    }
    let asked = asked.lock().unwrap();
    let verbs: Vec<&str> = asked.iter().map(|request| request.verb.as_str()).collect();
    assert_eq!(verbs, ["queue-hold", "queue-release", "queue-hold", "queue-release"]);
    // An id that was there before is taken for done.
    let ids: std::collections::HashSet<&str> = asked.iter().map(|request| request.id.as_str()).collect();
    assert_eq!(ids.len(), 4, "{asked:?}");
}

#[test]
fn a_hook_that_hangs_is_killed_and_tried_again() {
    needs_root!();
    let helper = Helper::start("[hook.lock]\nrun = [[\"DIR/hang\"]]\ntimeout = \"1s\"\n");
    write(&helper.path("hang"), "#!/bin/sh\nset -eu\ndir=${0%/*}\n[ -e $dir/mended ] || { echo before; sleep 100; }\n", 0o755);
    let started = Instant::now();
    let answer = helper.ask("f-1", "lock", "anna", Value::Null);
    assert!(
        answer.status == Status::Failed && answer.output.contains("killed after 1 s") && answer.output.contains("before"),
        "{answer:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    write(&helper.path("mended"), "", 0o644);
    assert_eq!(helper.ask("f-1", "lock", "anna", Value::Null).status, Status::Done);
}

#[test]
fn one_connection_is_served_on_standard_input() {
    needs_root!();
    let helper = Helper::start(TELLING);
    write(&helper.path("tell"), TELL, 0o755);
    let serve = |packet: &[u8]| {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let mut child = hookd(helper.dir.path()).stdin(Stdio::from(theirs)).stderr(Stdio::null()).spawn().unwrap();
        use std::os::fd::AsRawFd;
        send(ours.as_raw_fd(), packet, MsgFlags::empty()).unwrap();
        let mut buffer = vec![0; 1 << 17];
        let count = recv(ours.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        child.wait().unwrap();
        serde_json::from_slice::<Answer>(&buffer[..count]).unwrap()
    };
    assert_eq!(serve(br#"{"id":"g-1","verb":"lock","account":"anna"}"#).status, Status::Done);
    assert_eq!(helper.lines("told").len(), 2);
    for packet in [&b"{}"[..], b"\0\xff", br#"{"id":"g-2","verb":"lock","account":"anna","argv":["/bin/sh"]}"#, &vec![b' '; 64 * 1024 + 1]]
    {
        assert_eq!(serve(packet).status, Status::Refused);
    }
    assert_eq!(helper.lines("told").len(), 2);
}

#[test]
fn check_warns_of_a_lock_that_nothing_takes_back() {
    needs_root!();
    let dir = tempfile::tempdir().unwrap();
    let hooks = dir.path().join("hooks.toml");
    for (text, is_warned) in [("[hook.lock]\nrun = [[\"/bin/true\"]]\n", true), ("[hook.hold]\nrun = [[\"/bin/true\"]]\n", false)] {
        write(&hooks, text, 0o644);
        let output = Command::new(env!("CARGO_BIN_EXE_mailwarden-hookd")).arg("--check").arg("--hooks").arg(&hooks).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.contains("no [hook.unlock]") == is_warned, "{told}");
    }
}
