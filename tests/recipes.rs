//! The recipes of contrib/hooks against the real thing: what a lock changes, an unlock brings back exactly.
//! The ones for Postfix and Dovecot are tried in `real_host`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Says that a test cannot run here; where everything must run (CI) that is a failure.
macro_rules! skip {
    ($reason:expr) => {{
        assert!(std::env::var_os("MAILWARDEN_REQUIRE_NETNS").is_none_or(|value| value != "1"), "must not be skipped here: {}", $reason);
        // Not eprintln!: the test harness swallows that of a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}", $reason);
        return;
    }};
}

// Behind the macro, which it uses.
#[path = "recipes/database.rs"]
mod database;

fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/hooks").join(name)
}

fn is_there(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).is_file())
}

/// As the helper runs it.
fn hook(name: &str, arguments: &[&str], state: &Path, verb: &str, scope: &str, account: &str) -> Command {
    let local = account.rsplit_once('@').map_or(account, |(local, _)| local);
    let mut command = Command::new(recipe(name));
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C");
    for (variable, value) in [
        ("VERB", verb),
        ("SCOPE", scope),
        ("ACCOUNT", account),
        ("NAME", account),
        ("LOCALPART", local),
        ("KIND", "account"),
        ("ID", "a-1"),
    ] {
        command.env(format!("MAILWARDEN_{variable}"), value);
    }
    command.env("MAILWARDEN_STATE", state).stdin(Stdio::null());
    command
}

fn good(output: Output) -> String {
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// In a private copy of /etc.
#[test]
fn a_password_of_the_host_is_locked_and_back_to_what_it_was() {
    const SCRIPT: &str = r#"
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
useradd --no-create-home --uid 61001 mwanna
useradd --no-create-home --uid 61002 mwbob
useradd --no-create-home --uid 991 mwsystem
for user in mwanna mwbob mwsystem; do printf '%s:secret %s\n' $user $user | chpasswd; done
usermod -L mwbob
hash() { getent shadow "$1" | cut -d: -f2; }
export MAILWARDEN_KIND=account MAILWARDEN_STATE="$1" MAILWARDEN_VERB MAILWARDEN_SCOPE MAILWARDEN_LOCALPART
run() { MAILWARDEN_VERB=$1 MAILWARDEN_SCOPE=$2 MAILWARDEN_LOCALPART=$3; "$recipe" || exit 9; }
recipe=$2
anna=$(hash mwanna) bob=$(hash mwbob) system=$(hash mwsystem)
run lock submission mwanna
[ "$(hash mwanna)" = "$anna" ]
# The first try fails.
mkdir "$1/bin"
ln -s /bin/false "$1/bin/usermod"
! (PATH="$1/bin:$PATH" run lock auth mwanna)
[ "$(hash mwanna)" = "$anna" ]
for user in mwanna mwbob mwsystem root; do run lock auth $user; run lock auth $user; done
[ "$(hash mwanna)" = "!$anna" ]
[ "$(hash mwbob)" = "$bob" ] && [ "$(hash mwsystem)" = "$system" ]
for user in mwanna mwbob mwsystem root; do run unlock auth $user; run unlock auth $user; done
[ "$(hash mwanna)" = "$anna" ] && [ "$(hash mwbob)" = "$bob" ] && [ "$(hash mwsystem)" = "$system" ]
echo all as it was
"#;
    if !nix::unistd::geteuid().is_root() || !is_there("useradd") || !is_there("chpasswd") {
        skip!("needs root and useradd");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation=private", "sh", "-euc", SCRIPT, "sh"])
        .arg(dir.path())
        .arg(recipe("unix-password"))
        .output()
        .unwrap();
    assert!(good(output).contains("all as it was"));
}

/// Dovecot itself is in `real_host`; this is about what never reaches it.
#[test]
fn what_doveadm_takes_for_many_users_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [deny, asked, doveadm] = ["deny", "asked", "doveadm"].map(|name| dir.path().join(name));
    fs::write(&doveadm, "#!/bin/sh\necho \"$@\" >>${0%/*}/asked\n").unwrap();
    fs::set_permissions(&doveadm, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |account: &str| {
        let mut command = hook("dovecot-deny", &[deny.to_str().unwrap(), "dovecot.conf"], dir.path(), "lock", "auth", account);
        command.env("PATH", format!("{}:/usr/bin:/bin", dir.path().display())).output().unwrap()
    };
    for account in ["*", "*@example.org", "ann?", "203.0.113.0/24"] {
        assert!(!run(account).status.success() && !deny.exists() && !asked.exists(), "{account}");
    }
    good(run("o'hara@example.org"));
    assert_eq!(fs::read_to_string(&deny).unwrap(), "o'hara@example.org:\n");
    let expected = "-c dovecot.conf auth cache flush o'hara@example.org\n-c dovecot.conf kick o'hara@example.org\n";
    assert_eq!(fs::read_to_string(&asked).unwrap(), expected);
}

#[test]
fn a_decision_is_posted_as_json() {
    if !is_there("curl") {
        skip!("no curl");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/mailwarden", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut reader, &mut body).unwrap();
        reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        (head, String::from_utf8(body).unwrap())
    });
    let dir = tempfile::tempdir().unwrap();
    let mut child =
        hook("webhook", &[&address], dir.path(), "lock", "auth", "anna").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"account":"anna"}"#).unwrap();
    good(child.wait_with_output().unwrap());
    let (head, body) = server.join().unwrap();
    assert_eq!((head[0].as_str(), body.as_str()), ("POST /mailwarden HTTP/1.1", r#"{"account":"anna"}"#));
    assert!(head.contains(&"X-Mailwarden-Id: a-1".to_owned()), "{head:?}");
    let refused = hook("webhook", &["http://127.0.0.1:1/"], dir.path(), "lock", "auth", "anna").output().unwrap();
    assert!(!refused.status.success(), "nobody there: it is tried again");
}
