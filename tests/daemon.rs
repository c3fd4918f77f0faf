//! The daemon as a process: sockets, restarts, kills, reloads, the tool's answers. Nothing here touches the kernel's firewall.

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use support::{Host, sasl_failure, wait_for};

fn dry() -> Host {
    Host::new("").with(&["--dry-run"])
}

/// A daemon that follows `mail.log` in its directory, from its start.
fn follower() -> Host {
    let host = Host::bare("[state]\nsnapshot_interval = \"1s\"").with(&["--dry-run"]);
    let log = host.path("mail.log");
    fs::write(&log, "").unwrap();
    let main = host.path("mailwarden.toml");
    let text =
        format!("{}\n[[source]]\nkind = \"file\"\npath = {log:?}\nfrom = \"start\"\ntrusted = true\n", fs::read_to_string(&main).unwrap());
    fs::write(main, text).unwrap();
    host
}

fn append(path: &Path, line: &str) {
    let stamp = mailwarden::time::Timestamp::from(SystemTime::now()).rfc3339();
    let (_, rest) = line.split_once("02:31:15 ").unwrap();
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    writeln!(file, "{stamp} mx1 {rest}").unwrap();
}

#[test]
fn six_failures_ban_and_unban_lifts() {
    let mut host = dry();
    host.start();
    assert!(host.ok(["status"]).contains("socket: 0 lines, NOTHING YET"));
    for _ in 0..5 {
        host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    }
    assert!(!host.is_banned("203.0.113.9/32"));
    host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    host.wait_banned("203.0.113.9/32");
    let status = host.ok(["status"]);
    assert!(status.contains("socket: 6 lines, the last ") && status.contains(" s ago"), "{status}");
    assert!(host.ok(["why", "203.0.113.9"]).contains("6"), "why tells the count");
    host.ok(["unban", "203.0.113.9"]);
    assert!(host.bans().is_empty());
    assert_eq!(host.tool(["unban", "203.0.113.9"]).status.code(), Some(4));
}

/// A container writes in UTC, the host is three hours ahead.
#[test]
fn a_log_of_another_time_zone_is_told() {
    let mut host = follower().under(&["env", "TZ=XST-3"]);
    host.start();
    wait_for("the log to be read", || host.status()["sources"][0]["problem"].is_null());
    let mut file = OpenOptions::new().append(true).open(host.path("mail.log")).unwrap();
    let problem = |host: &Host| host.status()["sources"][0]["problem"].as_str().map(str::to_owned);
    wait_for("the zone to be noticed", || {
        let utc = Command::new("date").args(["-u", "+%b %e %H:%M:%S"]).output().unwrap();
        let stamp = String::from_utf8(utc.stdout).unwrap();
        let line = sasl_failure("203.0.113.9", "anna@example.org");
        let (_, rest) = line.split_once("02:31:15 ").unwrap();
        writeln!(file, "{} mx1 {rest}", stamp.trim_end()).unwrap();
        problem(&host).is_some()
    });
    assert!(problem(&host).unwrap().starts_with("its lines are 180 minutes behind"), "{:?}", problem(&host));
    assert!(host.log().contains("Environment=TZ="), "{}", host.log());
}

#[test]
fn json_has_one_form_for_a_single_host() {
    let mut host = dry();
    host.start();
    host.ok(["ban", "203.0.113.9", "2001:db8::1/128", "198.51.100.0/24"]);
    let mut listed: Vec<String> = host.bans().iter().map(|ban| ban["ip"].as_str().unwrap().to_owned()).collect();
    listed.sort();
    assert_eq!(listed, ["198.51.100.0/24", "2001:db8::1", "203.0.113.9"]);
    for ip in listed {
        let why: serde_json::Value = serde_json::from_str(&host.ok(["why", &ip, "--json"])).unwrap();
        assert_eq!(why["bans"][0]["net"], *ip, "{why}");
    }
}

#[test]
fn exit_codes_are_as_documented() {
    let mut host = dry();
    assert_eq!(host.tool(["status"]).status.code(), Some(3), "not running");
    host.start();
    assert_eq!(host.tool(["ban"]).status.code(), Some(2), "usage");
    assert_eq!(host.tool(["ban", "1.2.3.4.5"]).status.code(), Some(2), "usage");
    assert_eq!(host.tool(["ban", "0.0.0.0/0"]).status.code(), Some(1), "refused");
    assert_eq!(host.tool(["ban", "127.0.0.1"]).status.code(), Some(1), "own address");
    for wide in ["10.0.0.0/7", "64.0.0.0/3", "2000::/3", "2a00::/18", "::ffff:64.0.0.0/99"] {
        let output = host.tool(["ban", wide]);
        assert_eq!(output.status.code(), Some(1), "{wide}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("use --force"), "{wide}: {output:?}");
    }
    host.ok(["ban", "11.0.0.0/8", "2a00::/19"]);
    host.ok(["ban", "64.0.0.0/7", "--force"]);
    host.ok(["unban", "--all"]);
    assert_eq!(host.tool(["unban", "203.0.113.1"]).status.code(), Some(4), "not found");
    assert_eq!(host.tool(["ban", "203.0.113.1", "--for", "10m"]).status.code(), Some(0));
    assert_eq!(host.tool(["ban", "203.0.113.1", "--for", "10m"]).status.code(), Some(0), "idempotent");
    assert_eq!(host.bans().len(), 1);
}

#[test]
fn unban_names_what_it_lifts() {
    let mut host = dry();
    host.start();
    host.ok(["ban", "203.0.0.0/16", "198.51.100.7", "198.51.100.9"]);
    let said = host.ok(["unban", "203.0.113.9"]);
    assert_eq!(said, "would unban (dry run) 203.0.113.9\nwould lift for 203.0.113.9: 203.0.0.0/16\n");
    let said: serde_json::Value = serde_json::from_str(&host.ok(["unban", "198.51.100.0/24", "--json"])).unwrap();
    assert_eq!(said["data"]["lifted"], serde_json::json!(["198.51.100.7", "198.51.100.9"]));
    host.ok(["ban", "198.51.100.7"]);
    assert_eq!(host.ok(["unban", "198.51.100.7"]), "would unban (dry run) 198.51.100.7\n");
}

#[test]
fn undo_takes_back_a_night() {
    let mut host = dry();
    host.start();
    host.ok(["ban", "203.0.113.1", "203.0.113.2", "2001:db8::/64"]);
    assert_eq!(host.bans().len(), 3);
    let said = host.ok(["undo", "--since", "1h"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "would take back (dry run) 3 decisions");
    assert!(lines.len() == 4 && lines.contains(&"  unban 2001:db8::/64 (mail)"), "{said}");
    assert!(host.bans().is_empty());
}

#[test]
fn restart_between_the_fifth_and_the_sixth_failure_bans() {
    let mut host = dry();
    host.start();
    for _ in 0..5 {
        host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    }
    host.stop();
    host.start();
    assert!(!host.is_banned("203.0.113.9/32"));
    host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    host.wait_banned("203.0.113.9/32");
}

#[test]
fn sigkill_counts_no_line_of_a_file_twice_or_never() {
    // Killed before, around and after the first snapshot.
    for wait in [0, 300, 1_000, 1_700, 2_500] {
        let mut host = follower();
        let log = host.path("mail.log");
        host.start();
        for _ in 0..5 {
            append(&log, &sasl_failure("203.0.113.9", "anna@example.org"));
        }
        std::thread::sleep(Duration::from_millis(wait));
        host.kill();
        host.start();
        // A marker that is banned by its own lines proves that all before it was read.
        for _ in 0..6 {
            append(&log, &sasl_failure("203.0.113.200", "bert@example.org"));
        }
        host.wait_banned("203.0.113.200/32");
        assert!(!host.is_banned("203.0.113.9/32"), "counted twice after {wait} ms");
        append(&log, &sasl_failure("203.0.113.9", "anna@example.org"));
        host.wait_banned("203.0.113.9/32");
    }
}

#[test]
fn sigkill_undoes_no_unban() {
    // Killed when neither, only the ban, or both are in a snapshot.
    for (before, after) in [(0, 0), (1_500, 0), (0, 1_500)] {
        let mut host = follower();
        let log = host.path("mail.log");
        host.start();
        let fail = |times: u32| (0..times).for_each(|_| append(&log, &sasl_failure("203.0.113.9", "anna@example.org")));
        fail(6);
        host.wait_banned("203.0.113.9/32");
        std::thread::sleep(Duration::from_millis(before));
        // Counts no more than it would have.
        fail(3);
        wait_for("all lines are read", || host.status()["lines"]["lines"].as_u64() == Some(9));
        let begin = std::time::Instant::now();
        host.ok(["unban", "203.0.113.9"]);
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(after));
        host.kill();
        host.start();
        (0..6).for_each(|_| append(&log, &sasl_failure("203.0.113.200", "bert@example.org")));
        host.wait_banned("203.0.113.200/32");
        assert!(!host.is_banned("203.0.113.9/32"), "banned again {before}, {after}");
        fail(5);
        wait_for("all lines are read", || host.status()["lines"]["lines"].as_u64() >= Some(11));
        assert!(!host.is_banned("203.0.113.9/32"), "counted twice {before}, {after}");
        assert_eq!(host.log().matches("would ban 203.0.113.9 ").count(), 1, "{}", host.log());
        fail(1);
        host.wait_banned("203.0.113.9/32");
    }
}

#[test]
fn lines_written_while_down_are_read_later() {
    let mut host = follower();
    let log = host.path("mail.log");
    host.start();
    for _ in 0..3 {
        append(&log, &sasl_failure("203.0.113.9", "anna@example.org"));
    }
    host.stop();
    for _ in 0..3 {
        append(&log, &sasl_failure("203.0.113.9", "anna@example.org"));
    }
    host.start();
    host.wait_banned("203.0.113.9/32");
}

#[test]
fn sigkill_with_a_thousand_bans_forgets_none() {
    let mut host = dry();
    host.start();
    let nets: Vec<String> = (0..1_000).map(|n| format!("198.18.{}.{}", n / 250, n % 250 + 1)).collect();
    host.ok(["ban", "--for", "1h"].into_iter().map(str::to_owned).chain(nets));
    host.kill();
    host.start();
    let bans = host.bans();
    assert_eq!(bans.len(), 1_000);
    for ban in bans {
        let left = ban["remaining_seconds"].as_u64().unwrap();
        assert!((3_500..=3_600).contains(&left), "{ban}");
    }
}

#[test]
fn five_hundred_addresses_of_one_64_are_one_subject() {
    let mut host = dry();
    host.start();
    for n in 1..=500 {
        host.send(sasl_failure(&format!("2001:db8:1:2::{n:x}"), &format!("user{n}@example.org")));
    }
    host.wait_banned("2001:db8:1:2::/64");
}

#[test]
fn hostile_lines_harm_nobody() {
    let mut host = dry();
    host.start();
    let good = sasl_failure("203.0.113.9", "anna@example.org");
    let mut lines: Vec<Vec<u8>> = vec![
        vec![b'x'; 100_000],
        [good.as_bytes(), &[b'y'; 100_000]].concat(),
        b"<22>".to_vec(),
        b"<999999999>Nov 99 99:99:99 postfix/smtpd[1]: x".to_vec(),
        [b"\0\0\0", good.as_bytes(), b"\0"].concat(),
        b"<20>Nov 24 02:31:15 postfix/smtpd[4711]: warning: \xff\xfe[\xff]: SASL LOGIN authentication failed: x".to_vec(),
        vec![0; 5_000],
        (0..=255).collect(),
    ];
    lines.push(
        b"<20>1 1970-01-01T00:00:00Z mx1 postfix/smtpd 1 - - warning: unknown[203.0.113.9]: SASL LOGIN authentication failed: x".to_vec(),
    );
    lines.push(
        b"<20>1 2100-01-01T00:00:00Z mx1 postfix/smtpd 1 - - warning: unknown[203.0.113.9]: SASL LOGIN authentication failed: x".to_vec(),
    );
    for line in &lines {
        host.send(line);
    }
    for _ in 0..6 {
        host.send(sasl_failure("203.0.113.200", "bert@example.org"));
    }
    host.wait_banned("203.0.113.200/32");
    assert_eq!(host.bans().len(), 1);
}

#[test]
fn a_bad_reload_changes_nothing() {
    let mut host = dry();
    host.start();
    let main = host.path("mailwarden.toml");
    let good = fs::read_to_string(&main).unwrap();
    fs::write(&main, format!("{good}\n[bnas]\nfactor = 1\n")).unwrap();
    let output = host.tool(["reload"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("mailwarden.toml:") && text.contains("bans"), "{text}");
    for _ in 0..6 {
        host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    }
    host.wait_banned("203.0.113.9/32");
    fs::write(&main, good).unwrap();
    host.ok(["reload"]);
    assert!(host.is_banned("203.0.113.9/32"));
}

#[test]
fn a_reload_that_would_leave_nothing_to_do_is_refused_and_its_warnings_are_told() {
    let mut host = dry();
    host.start();
    for (directory, expected) in [("jail.d", "there is no jail"), ("filters", "there is no filter")] {
        fs::rename(host.path(directory), host.path("aside")).unwrap();
        let output = host.tool(["reload"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("nothing was changed") && text.contains(expected) && text.contains("*.toml"), "{text}");
        fs::rename(host.path("aside"), host.path(directory)).unwrap();
    }
    let jail = host.path("jail.d/logins.toml");
    let text = fs::read_to_string(&jail).unwrap();
    fs::write(&jail, format!("{text}where = {{ service = \"imap\" }}\n").replace("\"auth\"", "\"mx\"")).unwrap();
    let said = host.ok(["reload"]);
    assert!(said.starts_with("reloaded: 1 jails") && said.contains("leaves imap open") && said.contains("logins.toml:"), "{said}");
    fs::write(&jail, "[jail.logins]\nenabled = false\non = \"reject\"\nmaxretry = 1\n").unwrap();
    assert!(host.ok(["reload"]).contains("no jail is enabled"), "who disables all of them means it");
}

#[test]
fn a_reload_keeps_the_counts() {
    let mut host = dry();
    host.start();
    for _ in 0..5 {
        host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    }
    host.ok(["reload"]);
    host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    host.wait_banned("203.0.113.9/32");
}

#[test]
fn a_new_database_of_countries_is_taken_up_by_a_reload_and_a_broken_one_is_not() {
    let mut host = dry();
    let (database, main) = (host.path("geo.mmdb"), host.path("mailwarden.toml"));
    let text = format!("{}\n[geo]\ndatabase = {database:?}\nembedded = false\n", fs::read_to_string(&main).unwrap());
    fs::write(main, text).unwrap();
    let shape = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/geo").join(name);
    host.start();
    assert!(host.log().contains("going on without it"), "{}", host.log());
    for (name, expected) in [("flat.mmdb", "DBIP-Country"), ("city.mmdb", "GeoLite2-City"), ("make.py", "going on with its contents of 20")]
    {
        fs::copy(shape(name), &database).unwrap();
        host.ok(["reload"]);
        wait_for(expected, || host.log().contains(expected));
    }
    assert!(host.ok(["status", "--json"]).contains("GeoLite2-City"), "the old contents are used");
}

#[test]
fn corrupt_state_is_moved_aside_and_said() {
    let mut host = dry();
    host.start();
    host.ok(["ban", "203.0.113.9"]);
    host.stop();
    let state = host.path("state");
    for name in ["dry-run.db", "windows.db"] {
        fs::write(state.join(name), b"this is no database at all, and long enough to be looked at as one ................").unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(state.join(format!("{name}{suffix}")));
        }
    }
    host.start();
    assert!(host.bans().is_empty());
    let moved =
        fs::read_dir(&state).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("corrupt")).count();
    assert!(moved >= 2, "both databases are kept for a look");
    assert!(host.log().contains("corrupt"), "{}", host.log());
    host.ok(["ban", "203.0.113.9"]);
}

#[test]
fn forged_lines_ban_nobody() {
    if !nix::unistd::getuid().is_root() {
        println!("SKIPPED: needs root to send as somebody else");
        assert!(std::env::var_os("MAILWARDEN_REQUIRE_NETNS").is_none());
        return;
    }
    let mut host = dry();
    host.start();
    // Everybody may write, as to /dev/log.
    let socket = host.path("syslog.sock");
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    fs::set_permissions(host.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for _ in 0..20 {
        let message = "warning: unknown[203.0.113.9]: SASL LOGIN authentication failed: x";
        let status = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "logger", "-u"])
            .arg(&socket)
            .args(["-t", "postfix/smtpd", message])
            .status();
        assert!(status.unwrap().success());
    }
    wait_for("the forged lines are counted", || host.status()["lines"]["unvouched"].as_u64() == Some(20));
    assert!(host.bans().is_empty());
    let why = host.tool(["why", "203.0.113.9"]);
    assert_eq!(why.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&why.stderr).contains("20 lines whose writer nobody vouches for"));
    for _ in 0..6 {
        host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    }
    host.wait_banned("203.0.113.9/32");
}

#[test]
fn a_second_daemon_is_refused() {
    let mut host = dry();
    host.start();
    let output = Command::new(env!("CARGO_BIN_EXE_mailwardend"))
        .args(["--dry-run", "--config"])
        .arg(host.path(""))
        .arg("--state-dir")
        .arg(host.path("state2"))
        .arg("--runtime-dir")
        .arg(host.path(""))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("another"), "{text}");
    assert!(host.tool(["status"]).status.success(), "the first goes on");
}

#[test]
fn one_state_has_one_writer() {
    let mut host = dry();
    host.start();
    let other = tempfile::tempdir().unwrap();
    let start = || {
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_mailwardend"));
        daemon.arg("--dry-run").arg("--config").arg(host.path("")).arg("--state-dir").arg(host.path("state"));
        daemon.arg("--runtime-dir").arg(other.path()).output().unwrap()
    };
    let learn = || {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_mailwarden"));
        tool.arg("learn").arg("--socket").arg(other.path().join("no.sock")).arg("--config").arg(host.path(""));
        tool.arg("--state-dir").arg(host.path("state")).arg("/dev/null").output().unwrap()
    };
    for output in [start(), learn()] {
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!("is in use by mailwardend (pid {})", host.pid());
        assert!(text.contains(&expected) && text.contains("--state-dir"), "{text}");
    }
    assert!(host.tool(["status"]).status.success(), "the first goes on");
    host.kill();
    host.start();
}

#[test]
fn a_state_that_is_removed_under_the_daemon_is_written_anew_and_told() {
    let mut host = dry();
    host.start();
    host.ok(["ban", "203.0.113.1"]);
    fs::remove_dir_all(host.path("state")).unwrap();
    host.ok(["ban", "203.0.113.2"]);
    let status = host.status();
    assert!(status["state"]["problem"].as_str().is_some_and(|problem| problem.contains("removed")), "{status}");
    wait_for("the log says so", || host.log().contains("removed files of the state"));
    wait_for("all is written", || host.status()["state"]["pending"] == 0);
    host.kill();
    host.start();
    assert_eq!(host.bans().len(), 2);
}

#[test]
fn what_root_makes_in_the_daemons_directory_is_the_daemons() {
    if !nix::unistd::getuid().is_root() {
        println!("SKIPPED: needs root to be somebody else");
        assert!(std::env::var_os("MAILWARDEN_REQUIRE_NETNS").is_none());
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let host = dry();
    fs::set_permissions(host.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    fs::create_dir(host.path("state")).unwrap();
    std::os::unix::fs::chown(host.path("state"), Some(65_534), Some(65_534)).unwrap();
    let mut host = host;
    host.start();
    host.ok(["ban", "203.0.113.1"]);
    for entry in fs::read_dir(host.path("state")).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().uid(), 65_534, "{:?}", entry.file_name());
    }
    host.stop();
    for name in ["control.sock", "syslog.sock"] {
        let _ = fs::remove_file(host.path(name));
    }
    let mut host = host.under(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    host.start();
    assert_eq!(host.status()["state"]["problem"], serde_json::Value::Null);
    assert_eq!(host.bans().len(), 1);
    host.ok(["ban", "203.0.113.2"]);
}

#[test]
fn replay_decides_what_the_daemon_decided() {
    let mut host = follower();
    let log = host.path("mail.log");
    host.start();
    for n in 0..200u32 {
        let ip = format!("203.0.{}.9", n * 7 % 23);
        append(&log, &sasl_failure(&ip, &format!("user{}@example.org", n % 5)));
    }
    wait_for("all lines are read", || host.status()["lines"]["lines"].as_u64() == Some(200));
    let mut live: Vec<String> = host.bans().iter().map(|ban| format!("{} {} {}", ban["ip"], ban["scope"], ban["jail"])).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_mailwarden"))
        .args(["replay", "--json", "--config"])
        .arg(host.path(""))
        .arg(&log)
        .output()
        .unwrap();
    let mut replayed: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|decision| decision["action"] == "ban")
        .map(|ban| {
            let ip = ban["ip"].as_str().unwrap();
            format!("\"{ip}\" {} {}", ban["scope"], ban["jail"])
        })
        .collect();
    live.sort();
    replayed.sort();
    replayed.dedup();
    assert!(live.len() > 10, "{live:?}");
    assert_eq!(live, replayed);
}

/// Lines of a busy host: clients come and go, one line in four is a failed login by one of 3,500 addresses.
fn busy_line(number: u64, line: &mut String) {
    use std::fmt::Write;
    line.clear();
    let client = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    // Few in each network, so that no network is banned as a whole.
    let (a, b) = ((client >> 8) % 250, client % 7 + 1);
    let ip = format_args!("198.{}.{a}.{b}", 18 + (client >> 4) % 2);
    let done = match number % 4 {
        0 => write!(
            line,
            "<20>Nov 24 02:31:15 postfix/smtpd[{}]: warning: unknown[{ip}]: SASL LOGIN authentication failed: x, sasl_username=u{}@example.org",
            number % 9_000,
            client % 500
        ),
        1 => write!(line, "<22>Nov 24 02:31:15 postfix/smtpd[{}]: connect from unknown[{ip}]", number % 9_000),
        2 => write!(
            line,
            "<22>Nov 24 02:31:15 postfix/qmgr[77]: {:X}: from=<a@example.org>, size=900, nrcpt=1 (queue active)",
            0xA000_0000 + number
        ),
        _ => write!(line, "<22>Nov 24 02:31:15 postfix/qmgr[77]: {:X}: removed", 0xA000_0000 + number - 1),
    };
    done.unwrap();
}

/// Sends `lines`; says how many bytes the daemon had in memory when a third was through, and at the end.
fn flood(host: &Host, lines: u64) -> (u64, u64) {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(host.path("syslog.sock")).unwrap();
    let mut line = String::new();
    let mut warm = 0;
    for number in 0..lines {
        busy_line(number, &mut line);
        socket.send(line.as_bytes()).unwrap();
        if number == lines / 3 {
            warm = host.memory_bytes();
        }
    }
    wait_for("every line is read", || host.status()["lines"]["lines"].as_u64() == Some(lines));
    (warm, host.memory_bytes())
}

#[test]
fn a_flood_loses_no_line() {
    let mut host = dry();
    host.start();
    flood(&host, 200_000);
    assert!(host.bans().len() > 1_000);
}

/// Takes minutes: `cargo test --release --test daemon -- --ignored --nocapture ten_million`.
#[test]
#[ignore = "takes minutes"]
fn ten_million_lines_in_flat_memory() {
    let mut host = dry();
    host.start();
    let begin = std::time::Instant::now();
    let (warm, end) = flood(&host, 10_000_000);
    let seconds = begin.elapsed().as_secs_f64();
    let worst = host.status()["worst_turn_micros"].clone();
    println!(
        "10,000,000 lines in {seconds:.1} s ({:.0}/s), memory {} kB → {} kB, worst turn of the core {worst} µs",
        1e7 / seconds,
        warm / 1024,
        end / 1024
    );
    assert!(end < warm + warm / 10 + (4 << 20), "memory grew from {warm} to {end} bytes");
}

#[test]
fn a_reload_says_what_waits_for_the_next_restart_and_takes_up_the_rest() {
    let mut host = dry();
    let main = host.path("mailwarden.toml");
    let good = fs::read_to_string(&main).unwrap();
    fs::write(&main, format!("{good}\n[log]\nlevel = \"error\"\n")).unwrap();
    host.start();
    let reload = |host: &Host, more: &str| {
        fs::write(&main, format!("{good}\n{more}\n")).unwrap();
        host.ok(["reload"])
    };
    let said = reload(&host, "[log]\nlevel = \"info\"\n[enforcement]\ndestroy_sockets = true");
    assert!(!said.contains("restart"), "{said}");
    host.ok(["ban", "203.0.113.9"]);
    wait_for("the level is that of the new configuration", || host.log().contains("203.0.113.9"));
    let said = reload(&host, "[log]\nto = \"syslog\"\n[enforcement]\ndestroy_sockets = true\n[control]\ngroup = \"root\"");
    assert!(said.contains("changed in [control], [log] takes effect with the next restart"), "{said}");
}

#[test]
fn what_a_removed_jail_has_counted_is_forgotten_on_disk() {
    let mut host = dry();
    host.start();
    host.send(sasl_failure("203.0.113.9", "anna@example.org"));
    wait_for("the line is counted", || host.status()["lines"]["recognised"] == 1);
    host.stop();
    let tables = |host: &Host| -> Vec<i64> {
        let file = rusqlite::Connection::open(host.path("state/windows.db")).unwrap();
        let mut select = file.prepare("SELECT DISTINCT tab FROM windows").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let before = tables(&host);
    let jail = host.path("jail.d/logins.toml");
    let other = fs::read_to_string(&jail).unwrap().replace("jail.logins", "jail.others").replace("\"ip\"", "\"account\"");
    fs::write(&jail, other.replace("scope ", "then = \"alert\"\n#")).unwrap();
    host.start();
    host.stop();
    let after = tables(&host);
    assert!(after.len() < before.len() && after.iter().all(|table| before.contains(table)), "{before:?} → {after:?}");
}
