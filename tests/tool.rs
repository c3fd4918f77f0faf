//! The tool as a program: where it looks for the daemon, what it says when something is not there or cannot be written.

#[expect(dead_code, reason = "not all of it is needed here")]
mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use support::{Host, wait_for};

/// The tool with the host's configuration and nothing else.
fn configured(host: &Host, arguments: &[&str]) -> Output {
    tool(&[arguments, &["--config", host.path("").to_str().unwrap()]].concat())
}

fn tool(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailwarden"));
    command.args(arguments).env("MAILWARDEN_SOCKET", "").stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn append(host: &Host, name: &str, text: &str) {
    let path = host.path(name);
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(path, format!("{before}\n{text}\n")).unwrap();
}

fn dry() -> Host {
    Host::new("").with(&["--dry-run"])
}

#[test]
fn the_socket_is_where_the_configuration_says() {
    let mut host = dry();
    append(&host, "mailwarden.toml", &format!("[control]\nsocket = {:?}", host.path("control.sock")));
    host.start();
    let output = configured(&host, &["status"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    // Another mistake keeps nobody from the daemon, but is told.
    append(&host, "mailwarden.toml", "[state\ndir = \"/x\"");
    let output = configured(&host, &["status"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("mailwarden.toml:"), "{}", stderr(&output));
    // The state is the running daemon's.
    let log = host.path("old.log");
    fs::write(&log, "").unwrap();
    let output = configured(&host, &["learn", log.to_str().unwrap()]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("is running"), "{}", stderr(&output));
    // What cannot be read of it is told, and the usual place is tried.
    fs::write(host.path("mailwarden.toml"), "[control]\nsocket = 7\n").unwrap();
    let output = configured(&host, &["status", "--socket", host.path("control.sock").to_str().unwrap()]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    let output = configured(&host, &["status"]);
    assert!(stderr(&output).contains("mailwarden.toml:2: `socket`") && stderr(&output).contains("--socket PATH"), "{}", stderr(&output));
}

/// In a network of its own; `None` where that is not allowed.
fn alone(arguments: &[&str]) -> Option<Output> {
    let words = ["--user", "--map-root-user", "--net"];
    if !Command::new("unshare").args(words).arg("true").status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: no namespaces here");
        assert!(std::env::var_os("MAILWARDEN_REQUIRE_NETNS").is_none());
        return None;
    }
    let mut command = Command::new("unshare");
    Some(command.args(words).arg(env!("CARGO_BIN_EXE_mailwarden")).args(arguments).env("MAILWARDEN_SOCKET", "").output().unwrap())
}

#[test]
fn teardown_says_which_table_it_took_from_a_broken_configuration() {
    let host = dry();
    let config = host.path("");
    let arguments = ["teardown", "--config", config.to_str().unwrap()];
    append(&host, "mailwarden.toml", "[enforcement]\ntable = \"mine\"");
    let Some(output) = alone(&arguments) else { return };
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    fs::write(host.path("mailwarden.toml"), "[enforcement\ntable = \"mine\"").unwrap();
    let Some(output) = alone(&arguments) else { return };
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("mailwarden.toml:1: ") && text.contains("inet mailwarden") && text.contains("--table NAME"), "{text}");
    let Some(output) = alone(&[&arguments[..], &["--table", "mine"]].concat()) else { return };
    assert!(output.status.success() && !stderr(&output).contains("--table"), "{}", stderr(&output));
}

#[test]
fn nothing_to_do_is_a_mistake_of_the_configuration() {
    let host = dry();
    assert!(configured(&host, &["check"]).status.success());
    fs::remove_file(host.path("jail.d/logins.toml")).unwrap();
    let output = configured(&host, &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("there is no jail") && stderr(&output).contains("1 error"), "{}", stderr(&output));
    fs::remove_file(host.path("filters")).unwrap();
    let output = configured(&host, &["check"]);
    assert!(stderr(&output).contains("there is no filter") && stderr(&output).contains("2 errors"), "{}", stderr(&output));
    let output = configured(&host, &["check", "--json"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"ok\":false"), "{output:?}");
    let output = Command::new(env!("CARGO_BIN_EXE_mailwardend")).args(["--dry-run", "--config"]).arg(host.path("")).output().unwrap();
    assert!(output.status.code() == Some(1) && stderr(&output).contains("nothing was started"), "{}", stderr(&output));
}

#[test]
fn users_and_groups_that_are_not_here_are_told() {
    let host = dry();
    let group = |name: &str| format!("group = {name:?}");
    append(&host, "mailwarden.toml", &group("siocket"));
    append(
        &host,
        "mailwarden.toml",
        &format!("[control]\n{}\n[policy]\n{}\nusers = [\"root\", \"postfixx\"]", group("helpdesc"), group("root")),
    );
    let output = configured(&host, &["check"]);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    for part in
        ["[control] names the group \"helpdesc\"", "[policy] names the user \"postfixx\"", "source \"socket\" names the group \"siocket\""]
    {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(!text.contains("\"root\""), "{text}");
}

#[test]
fn a_file_whose_lines_anybody_can_forge_is_told() {
    for (more, is_told) in [("", true), ("trusted = true", true), ("annotated = true", false), ("trusted = false", false)] {
        let host = Host::bare("");
        let log = host.path("mail.log");
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).unwrap();
        append(&host, "mailwarden.toml", &format!("[[source]]\nkind = \"file\"\npath = {log:?}\n{more}"));
        // Whoever else than root runs this owns a file that is not believed.
        let is_told = is_told && (more.starts_with("trusted") || nix::unistd::geteuid().is_root());
        for json in [false, true] {
            let output = configured(&host, if json { &["check", "--json"] } else { &["check"] });
            let text = if json { String::from_utf8_lossy(&output.stdout).into_owned() } else { stderr(&output) };
            assert!(output.status.success(), "{text}");
            assert_eq!(text.contains("can forge") && text.contains("docs/syslog.md"), is_told, "{more}: {text}");
        }
    }
}

#[test]
fn a_file_whose_lines_ban_nobody_is_told_with_the_reason_and_the_remedy() {
    let mut host = Host::bare("").with(&["--dry-run"]);
    let log = host.path("mail.log");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o664)).unwrap();
    append(&host, "mailwarden.toml", &format!("[[source]]\nkind = \"file\"\npath = {log:?}"));
    let expected = ["mail.log has mode 0664", "chmod go-w", "trusted = true"];
    let checked = configured(&host, &["check"]);
    host.start();
    let is_told = |text: &str| expected.iter().all(|part| text.contains(part));
    for text in [stderr(&checked), host.ok(["status"])] {
        assert!(is_told(&text), "{text}");
    }
    // It has a thread of its own.
    wait_for("the log to tell it", || is_told(&host.log()));
    if nix::unistd::getuid().is_root() {
        fs::set_permissions(&log, fs::Permissions::from_mode(0o640)).unwrap();
        wait_for("the file is believed", || !host.ok(["status"]).contains("PROBLEM"));
        std::os::unix::fs::chown(&log, Some(65_534), None).unwrap();
        wait_for("its owner is told", || host.ok(["status"]).contains("chown root"));
        assert!(stderr(&configured(&host, &["check"])).contains("who is no logger"));
    }
    append(&host, "mailwarden.toml", "trusted = false");
    assert!(!stderr(&configured(&host, &["check"])).contains("nobody"), "who says so knows it");
}

/// The tool with its standard output on a disk that is full, or in a pipe that nobody reads.
fn into(host: &Host, arguments: &[&str], stdout: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailwarden"));
    command.args(arguments).arg("--socket").arg(host.path("control.sock"));
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn what_cannot_be_written_is_told_and_what_was_done_is_done() {
    let mut host = dry();
    host.start();
    host.ok(["ban", "198.51.100.1"]);
    host.ok(["lock", "carl@example.org"]);
    for (arguments, acts) in [
        (&["ban", "203.0.113.1"][..], true),
        (&["lock", "anna@example.org"], true),
        (&["hold", "bert@example.org"], true),
        (&["reload"], true),
        (&["status"], false),
        (&["status", "--json"], false),
        (&["list"], false),
        (&["list", "--json"], false),
        (&["list", "locks"], false),
        (&["accounts"], false),
        (&["why", "198.51.100.1"], false),
        (&["undo", "--since", "1h"], true),
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = into(&host, arguments, full.into());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains("cannot write") && text.contains("done, but") == acts, "{arguments:?}: {text}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = into(&host, arguments, writer.into());
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {}", stderr(&output));
        assert!(arguments[0] != "ban" || host.is_banned("203.0.113.1"), "it was done");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailwarden"));
    let status = command.args(["status", "--socket", "/nowhere"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(3), "a full disk behind standard error is no panic");
}

#[test]
fn json_is_json_when_nothing_is_there_too() {
    let host = dry();
    let (config, socket) = (host.path(""), host.path("control.sock"));
    let common = ["--json", "--config", config.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
    let ask = |arguments: &[&str]| {
        let output = tool(&[arguments, &common].concat());
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let object: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?} {}", stderr(&output)));
        (output.status.code().unwrap(), object)
    };
    for arguments in [&["status"][..], &["list"], &["list", "locks"], &["why", "a"], &["monitor"], &["ban", "203.0.113.1"], &["reload"]] {
        let (code, object) = ask(arguments);
        assert!(code == 3 && object["error"].as_str().unwrap().contains("not running"), "{arguments:?}: {object}");
    }
    let (code, object) = ask(&["test-filter", "sshd"]);
    assert_eq!((code, &object["filter"], &object["ok"]), (0, &"sshd".into(), &true.into()));
    let (code, object) = ask(&["test-filter", "sshdd"]);
    assert!(code == 4 && object["error"].as_str().unwrap().contains("there is no filter"), "{object}");
    let log = host.path("old.log");
    fs::write(&log, "2026-11-20T08:00:00Z mx1 sshd[1]: Failed password for root from 203.0.113.9 port 22 ssh2\n").unwrap();
    fs::create_dir(host.path("state")).unwrap();
    let learn = ["learn", "--state-dir", &host.path("state").display().to_string(), log.to_str().unwrap()].map(str::to_owned);
    let (code, object) = ask(&learn.each_ref().map(String::as_str));
    assert_eq!((code, &object["lines"]), (0, &1.into()), "{object}");
    let (code, object) = ask(&["learn", "/no/such/file", "--state-dir", host.path("state").to_str().unwrap()]);
    assert!(code == 1 && object["error"].as_str().unwrap().contains("/no/such/file"), "{object}");
    let (code, object) = ask(&["parse", "/no/such/file"]);
    assert!(code == 1 && object["error"].as_str().unwrap().contains("/no/such/file"), "{object}");
    for arguments in [&["ban", "203.0.113.300"][..], &["bna", "203.0.113.3"], &["lock"], &[]] {
        let (code, object) = ask(arguments);
        let error = object["error"].as_str().unwrap();
        assert!(code == 2 && !error.is_empty() && !error.starts_with("error"), "{arguments:?}: {object}");
    }
    append(&host, "mailwarden.toml", "[bnas]\n[stat]");
    let (code, object) = ask(&["check"]);
    let error = object["error"].as_str().unwrap();
    assert!(code == 1 && error.starts_with("2 errors: ") && error.contains("bnas"), "{object}");
    if let Some(output) = alone(&[&["teardown"], &common[..]].concat()) {
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&object["table"], &object["removed"]), (&"mailwarden".into(), &false.into()));
    }
}

#[test]
fn a_long_list_of_addresses_is_banned_in_parts() {
    let mut host = dry();
    host.start();
    let nets: Vec<String> = (0..90_000u32).map(|n| format!("198.{}.{}.{}", 18 + n / 65_536, n / 256 % 256, n % 256)).collect();
    let words = |verb: &str| [verb.to_owned()].into_iter().chain(nets.clone());
    let said = host.ok(words("ban").chain(["--for".to_owned(), "1h".to_owned()]));
    assert!(said.starts_with("would ban (dry run) 90000 networks (mail) until 2"), "{said}");
    let output = host.tool(words("ban").chain(["127.0.0.1".to_owned()]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("127.0.0.1") && stderr(&output).contains("never banned"),
        "{}",
        stderr(&output).lines().last().unwrap()
    );
    assert_eq!(host.status()["engine"]["bans"], 90_000);
    let said: serde_json::Value = serde_json::from_str(&host.ok(words("unban").chain(["--json".to_owned()]))).unwrap();
    assert_eq!((&said["data"]["changed"], said["data"]["lifted"].as_array().unwrap().len()), (&90_000.into(), 90_000));
}

#[test]
fn why_the_daemon_hangs_up_is_told() {
    let mut host = dry();
    host.start();
    // More than a request may have.
    let output = host.tool(["why".to_owned(), "x".repeat(120_000)]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let mut client = mailwarden::control::client::Client::connect(&host.path("control.sock")).unwrap();
    let answer = client.call(&mailwarden::control::Request::Why { subject: "x".repeat(3 << 20) }).unwrap();
    assert!(answer.message.contains("at most 1048576 bytes"), "{answer:?}");
    // More connections than are served.
    let idle: Vec<UnixStream> = (0..64).map(|_| UnixStream::connect(host.path("control.sock")).unwrap()).collect();
    wait_for("all are taken", || !host.tool(["status"]).status.success());
    let output = host.tool(["status"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("64 connections are open"), "{}", stderr(&output));
    drop(idle);
    wait_for("there is room again", || host.tool(["status"]).status.success());
}

#[test]
fn test_filter_reads_packed_logs_and_says_who_takes_a_line() {
    let host = dry();
    let log = host.path("mail.log.1.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"Nov 24 02:31:55 mx1 postfix/smtpd[1]: connect from unknown[192.0.2.1]\n").unwrap();
    fs::write(&log, packed.finish().unwrap()).unwrap();
    let output = configured(&host, &["test-filter", "sshd", log.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && text.contains("miss: filter postfix takes it: connect"), "{text}{}", stderr(&output));
    let output = configured(&host, &["test-filter", "postfix", log.to_str().unwrap()]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("    hit: connect"));
}
