//! Accounts held and locked by the tool: what it says, its exit status, and that a kill forgets nothing.

#[expect(dead_code, reason = "not all of it is needed here")]
mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Host, wait_for};

fn locks(host: &Host) -> Vec<Value> {
    host.ok(["list", "locks", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_lock_that_nothing_carries_out_is_not_called_one() {
    let mut host = Host::new("[accounts]\ndefault_domain = \"example.org\"").with(&["--dry-run"]);
    host.start();
    assert_eq!(host.ok(["list", "locks"]).trim(), "no account is held or locked");
    assert!(host.ok(["status"]).contains("NO LOCK PATH"));
    let said = host.ok(["lock", "Anna", "--for", "1h", "--reason", "stolen"]);
    assert!(said.contains("anna@example.org would be locked") && said.contains("docs/accounts.md"), "{said}");
    assert!(host.log().contains("would lock anna@example.org") && host.log().contains("no lock path"), "{}", host.log());
    let list = host.ok(["list", "locks"]);
    assert!(list.contains("would lock: no lock path") && !list.contains("LOCKED"), "{list}");
    assert!(host.ok(["status"]).contains("anna@example.org: would lock"));
    let lock = &locks(&host)[0];
    assert_eq!((&lock["in_force"], &lock["jail"], &lock["cause"]), (&false.into(), &"manual".into(), &"operator".into()));
    assert!(lock["remaining_seconds"].as_u64().is_some_and(|seconds| (3_500..=3_600).contains(&seconds)), "{lock}");
}

#[test]
fn verbs_are_idempotent_and_tell_what_is_not_there() {
    let mut host = Host::new("").with(&["--dry-run"]);
    assert_eq!(host.tool(["lock", "anna"]).status.code(), Some(3), "not running");
    host.start();
    for (arguments, expected) in [
        (&["unlock", "anna"][..], 4),
        (&["lock", "anna"], 0),
        (&["lock", "anna"], 0),
        (&["lock", "anna", "--full"], 0),
        (&["unlock", "ANNA"], 0),
        (&["unlock", "anna"], 4),
        (&["release", "anna"], 4),
        (&["hold", "anna"], 0),
        (&["hold", "anna"], 0),
        (&["release", "anna", "--some", "3"], 4),
        (&["release", "anna"], 0),
        (&["release", "anna"], 4),
        (&["lock", ""], 2),
        (&["unlock", ""], 2),
        (&["lock", "a b"], 2),
        (&["hold", "a\nb"], 2),
        (&["lock", "\"a\\nb\""], 2),
        (&["lock", "\"open"], 2),
        (&["release", "a b"], 4),
        (&["lock", "anna", "--reason", &"x".repeat(201)], 2),
        (&["hold", "anna", "--reason", &"x".repeat(201)], 2),
        (&["ban", "203.0.113.9", "--reason", &"ü".repeat(101)], 2),
        (&["ban", "203.0.113.9", "--reason", &"x".repeat(200)], 0),
        (&["lock", "-rf"], 2),
        (&["lock", "@b.example"], 2),
        (&["lock", "192.0.2.1"], 2),
        (&["lock", "client:192.0.2.1"], 2),
        (&["hold", "192.0.2.0/24"], 2),
        (&["lock"], 2),
        (&["lock", "anna", "--for", "0s"], 2),
        (&["release", "anna", "--some", "0"], 2),
    ] {
        assert_eq!(host.tool(arguments).status.code(), Some(expected), "{arguments:?}");
    }
    assert!(locks(&host).is_empty());
    host.ok(["lock", "local:33"]);
    host.ok(["undo", "--since", "1h"]);
    assert!(locks(&host).is_empty());
}

/// What the log can bring onto the books, an operator can name: blanks, control characters, more than 255 bytes, quotes.
#[test]
fn an_account_with_an_odd_name_can_be_freed() {
    let mut host = Host::new("").with(&["--dry-run"]);
    host.start();
    let long = format!("{}@b.example", "x".repeat(260));
    for name in ["Anna Smith@b.example", "a\tb\u{1b}[2J@b.example", &long, "x;id>/tmp/PWNED;@b.example", "\"anna\"@b.example"] {
        host.send(format!(
            "<20>Nov 24 02:31:15 postfix/submission/smtpd[8]: 4F1C1B9A3: client=x[192.0.2.7], sasl_method=PLAIN, sasl_username={name}"
        ));
        host.send("<20>Nov 24 02:31:15 postfix/qmgr[3]: 4F1C1B9A3: from=<a@b.example>, size=400, nrcpt=1 (queue active)");
        host.send("<20>Nov 24 02:31:16 postfix/qmgr[3]: 4F1C1B9A3: removed");
        let typed = mailwarden::shell::shown(name);
        wait_for(&format!("{name:?} is known"), || host.tool(["why", &typed]).status.success());
        host.ok(["hold", &typed]);
        host.ok(["lock", &typed]);
        let held = locks(&host).pop().unwrap()["account"].as_str().unwrap().to_owned();
        assert!(!name.contains(' ') || held == name.to_lowercase(), "{held}");
        let story = host.ok(["why", &mailwarden::shell::shown(&held)]);
        let command = format!("mailwarden release {}\n", mailwarden::shell::word(&held));
        assert!(story.contains(&command), "no {command} in\n{story}");
        let list = host.ok(["list", "locks"]);
        assert!(list.contains(&mailwarden::shell::shown(&held)) && !list.contains('\u{1b}'), "{list}");
        let said = host.ok(["unlock", &mailwarden::shell::shown(&held)]);
        assert!(!said.contains('\u{1b}'), "{said}");
        host.ok(["release", &mailwarden::shell::shown(&held)]);
        assert!(locks(&host).is_empty());
    }
    // What nobody has heard of is no reason to take every name.
    assert_eq!(host.tool(["hold", "Bert Smith@b.example"]).status.code(), Some(2));
}

#[test]
fn stops_outlive_a_kill_and_end_in_time() {
    let mut host = Host::new("").with(&["--dry-run"]);
    host.start();
    host.ok(["hold", "anna@example.org", "--reason", "odd"]);
    host.ok(["lock", "anna@example.org", "--full"]);
    host.ok(["lock", "bob@example.org", "--for", "1s"]);
    host.ok(["lock", "carl@example.org", "--for", "4s"]);
    let before: Vec<Value> = locks(&host).into_iter().filter(|lock| lock["account"] == "anna@example.org").collect();
    assert_eq!(before.len(), 2);
    host.kill();
    std::thread::sleep(Duration::from_millis(1_200));
    host.start();
    let after = locks(&host);
    assert_eq!(after.iter().filter(|lock| lock["account"] == "anna@example.org").collect::<Vec<_>>(), before.iter().collect::<Vec<_>>());
    // Bob's ended while nobody was here, and whoever carried it out is told now.
    wait_for("the lock of bob is over", || host.log().contains("unlock bob@example.org"));
    wait_for("the lock of carl is over", || host.log().contains("unlock carl@example.org"));
    assert_eq!(locks(&host).len(), 2);
    host.kill();
    host.start();
    assert_eq!(locks(&host).len(), 2);
    assert_eq!(host.log().matches("unlock bob@example.org").count(), 1);
}

/// Ten days of one login and one message a day, the last of them yesterday.
fn old_log(host: &Host) -> std::path::PathBuf {
    let path = host.path("old.log");
    let now = jiff::Timestamp::now();
    let mut text = String::new();
    for day in (1..=10).rev() {
        let at = now - jiff::SignedDuration::from_hours(24 * day);
        let mut put = |tag: &str, message: &str| text.push_str(&format!("{at} mail {tag}: {message}\n"));
        put(
            "dovecot",
            "imap-login: Login: user=<anna@example.org>, method=PLAIN, rip=192.0.2.7, lip=198.51.100.1, mpid=1, TLS, session=<x>",
        );
        let id = format!("4F{day:02}C1B9A3");
        put("postfix/submission/smtpd[1]", &format!("{id}: client=x[192.0.2.7], sasl_method=PLAIN, sasl_username=anna@example.org"));
        put("postfix/qmgr[1]", &format!("{id}: from=<anna@example.org>, size=900, nrcpt=1 (queue active)"));
        put(
            "postfix/smtp[1]",
            &format!(
                "{id}: to=<b@example.net>, relay=mx.example.net[203.0.113.9]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)"
            ),
        );
        put("postfix/qmgr[1]", &format!("{id}: removed"));
    }
    std::fs::write(&path, text).unwrap();
    path
}

/// Whoever took over the daemon may have laid a link for root to write through.
#[test]
fn root_learns_as_the_owner_of_the_state() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let host = Host::new("");
    let (log, state, precious) = (old_log(&host), host.path("state"), host.path("precious"));
    std::fs::set_permissions(host.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    // For root alone, as logs may be.
    std::fs::set_permissions(&log, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&precious, "precious").unwrap();
    std::fs::create_dir(&state).unwrap();
    chown(&state, Some(65_534), Some(65_534)).unwrap();
    symlink(&precious, state.join("secret.new")).unwrap();
    let learn = || {
        host.tool([
            "learn".as_ref(),
            "--config".as_ref(),
            host.path("").as_os_str(),
            "--state-dir".as_ref(),
            state.as_os_str(),
            log.as_os_str(),
        ])
    };
    let output = learn();
    assert!(output.status.success(), "{output:?}");
    for entry in std::fs::read_dir(&state).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().uid(), 65_534, "{:?}", entry.file_name());
    }
    // A file that only root could write.
    std::fs::rename(state.join("windows.db"), host.path("windows.db")).unwrap();
    chown(host.path("windows.db"), Some(0), Some(0)).unwrap();
    symlink(host.path("windows.db"), state.join("windows.db")).unwrap();
    assert_eq!(learn().status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
}

#[test]
fn old_logs_teach_what_is_usual() {
    let host = Host::new("");
    let (log, state, config) = (old_log(&host), host.path("state"), host.path(""));
    let [log, state, config] = [&log, &state, &config].map(|path| path.to_str().unwrap());
    let learn = ["learn", "--config", config, "--state-dir", state, log];
    let output = host.tool(learn);
    assert!(output.status.code() == Some(1) && !std::path::Path::new(state).exists(), "a slip of the pen makes no directory");
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no directory"), "{output:?}");
    std::fs::create_dir(state).unwrap();
    assert_eq!(host.tool(["learn", "--config", config, "--state-dir", state, "/no/such/log"]).status.code(), Some(1));
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0, "what cannot be read teaches nothing");
    let said = host.ok(learn);
    assert!(said.contains("learned from 50 lines") && said.contains("1 submitters"), "{said}");
    // The same lines again change nothing that matters, and no line at all is a mistake.
    assert!(host.ok(learn).contains("1 submitters"));
    assert_eq!(host.tool(["learn", "--config", config, "--state-dir", state, "/dev/null"]).status.code(), Some(1));
    let future = host.path("future.log");
    std::fs::write(&future, "2131-11-10T10:00:00+00:00 mx1 postfix/smtpd[1]: connect from x[192.0.2.1]\n").unwrap();
    let output = host.tool(["learn", "--config", config, "--state-dir", state, future.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("yet to come") && !output.status.success(), "{output:?}");
    let mut host = host.with(&["--dry-run"]);
    host.start();
    let why: Value = serde_json::from_str(&host.ok(["why", "anna@example.org", "--json"])).unwrap();
    assert_eq!((&why["account"]["networks"], &why["account"]["usual_recipients_an_hour"]), (&1.into(), &1.into()), "{why}");
    let status = host.status();
    assert!(status["engine"]["accounts_since"].as_str().is_some(), "{status}");
    // While the daemon owns the state nobody else writes it.
    let refused = host.tool(learn);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("systemctl stop mailwardend"));
}

#[test]
fn an_account_has_a_story_and_a_place_in_the_list() {
    let mut host = Host::new("[risk]\nlearning = \"0s\"").with(&["--dry-run"]);
    let jails = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("jail.d/40-accounts.toml");
    std::fs::copy(jails, host.path("jail.d/40-accounts.toml")).unwrap();
    let (log, state, config) = (old_log(&host), host.path("state"), host.path(""));
    let [log, state, config] = [&log, &state, &config].map(|path| path.to_str().unwrap());
    std::fs::create_dir(state).unwrap();
    host.ok(["learn", "--config", config, "--state-dir", state, log]);
    host.start();
    assert_eq!(host.ok(["accounts"]).trim(), "nothing speaks against any account");
    for number in 0..4 {
        host.send(format!("<22>Nov 24 02:31:15 postfix/submission/smtpd[1]: 5A{number}1C2D3E: client=x[203.0.113.66], sasl_method=LOGIN, sasl_username=anna@example.org"));
        host.send(format!(
            "<22>Nov 24 02:31:15 postfix/qmgr[1]: 5A{number}1C2D3E: from=<anna@example.org>, size=900, nrcpt=40 (queue active)"
        ));
    }
    wait_for("anna is in the list", || host.ok(["accounts"]).contains("anna@example.org"));
    let line: Value = serde_json::from_str(host.ok(["accounts", "--json"]).lines().next().unwrap()).unwrap();
    assert_eq!((&line["account"], &line["strangers"][0]), (&"anna@example.org".into(), &"203.0.113.66".into()), "{line}");
    assert!(host.ok(["accounts", "--exposed", "203.0.113.66"]).contains("anna@example.org"));
    assert!(host.ok(["accounts", "--exposed", "203.0.113.67"]).contains("no account is known"));
    let why = host.ok(["why", "anna@example.org"]);
    assert!(
        why.contains("from a network new to the account") && why.contains("Used from addresses that are strange to it: 203.0.113.66"),
        "{why}"
    );
}
