//! `sql-active` against SQLite, PostgreSQL and MariaDB, each with a server of its own in a directory of its own.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User, geteuid};

use crate::{good, hook, is_there};

const STARTS_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn in_sqlite() {
    if !is_there("sqlite3") {
        skip!("no sqlite3");
    }
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("mail.db");
    let sql = |text: &str| good(Command::new("sqlite3").arg(&database).arg(text).output().unwrap());
    sql("CREATE TABLE mailbox (username TEXT PRIMARY KEY, active INTEGER NOT NULL)");
    switches_off_and_back(&["sqlite", database.to_str().unwrap()], ["1", "0"], &sql);
}

#[test]
fn in_postgresql() {
    let Some(programs) = postgresql() else { skip!("no PostgreSQL") };
    let server = Server::new();
    let data = server.directory("data");
    let mut initdb = server.command(&programs.join("initdb"));
    good(initdb.arg("--no-sync").args(["--auth=trust", "--encoding=UTF8", "--username=mail", "--pgdata"]).arg(&data).output().unwrap());
    let run = server.path.join("run");
    let mut postgres = server.command(&programs.join("postgres"));
    postgres.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(&run);
    let place = format!("host={} user=mail dbname=postgres", run.display());
    let client = || {
        let mut client = Command::new("psql");
        client.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]).arg(&place).arg("--command");
        client
    };
    let _running = server.start(postgres, client);
    let sql = |text: &str| good(client().arg(text).output().unwrap());
    sql("CREATE TABLE mailbox (username VARCHAR(255) PRIMARY KEY, active BOOLEAN NOT NULL)");
    switches_off_and_back(&["psql", &place], ["true", "false"], &sql);
}

#[test]
fn in_mariadb() {
    if !is_there("mariadbd") || !is_there("mysql") {
        skip!("no MariaDB");
    }
    let server = Server::new();
    let data = server.directory("data");
    let mut install = server.command(Path::new("mariadb-install-db"));
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]).arg(option("--datadir", &data));
    good(install.output().unwrap());
    let socket = server.path.join("run/mariadb.sock");
    let mut mariadbd = server.command(Path::new("mariadbd"));
    mariadbd.args(["--no-defaults", "--skip-networking"]).arg(option("--datadir", &data)).arg(option("--socket", &socket));
    let options = server.path.join("sql.cnf");
    fs::write(&options, format!("[client]\nuser = root\nsocket = {}\ndatabase = mail\n", socket.display())).unwrap();
    let client = |database: &str| {
        let mut client = Command::new("mysql");
        client.arg("--no-defaults").arg(option("--socket", &socket)).args(["--user=root", "--batch", "--skip-column-names"]);
        client.args((!database.is_empty()).then(|| format!("--database={database}"))).arg("--execute");
        client
    };
    let _running = server.start(mariadbd, || client(""));
    good(client("").arg("CREATE DATABASE mail").output().unwrap());
    let sql = |text: &str| good(client("mail").arg(text).output().unwrap());
    // As PostfixAdmin makes it.
    sql("CREATE TABLE mailbox (username VARCHAR(255) NOT NULL PRIMARY KEY, active TINYINT(1) NOT NULL) CHARSET latin1");
    switches_off_and_back(&["mysql", options.to_str().unwrap()], ["1", "0"], &sql);
}

/// What a lock changes, an unlock brings back exactly, and only it.
fn switches_off_and_back(arguments: &[&str], [on, off]: [&str; 2], sql: &dyn Fn(&str) -> String) {
    let state = tempfile::tempdir().unwrap();
    let odd = "o'hara\"; DROP TABLE mailbox; --@example.org";
    let mut add = format!("INSERT INTO mailbox VALUES ('anna@example.org', {on}), ('bob@example.org', {off}), ('carl@example.org', {on})");
    add.push_str(&format!(", ('{}', {on})", odd.replace('\'', "''")));
    let long = &format!("{}@example.org", "x".repeat(240));
    add.push_str(&format!(", ('{long}', {on})"));
    sql(&add);
    let all = || sql("SELECT * FROM mailbox ORDER BY username");
    let before = all();
    let run = |verb: &str, scope: &str, account: &str| {
        good(hook("sql-active", arguments, state.path(), verb, scope, account).output().unwrap());
    };
    // A lock of sending leaves the mailbox alone.
    run("lock", "submission", "anna@example.org");
    assert_eq!(all(), before);
    for account in ["anna@example.org", "bob@example.org", odd, long, "nobody@example.org"] {
        // Twice, as after a kill.
        run("lock", "auth", account);
        run("lock", "auth", account);
    }
    assert_eq!(sql(&format!("SELECT username FROM mailbox WHERE active = {on}")).trim(), "carl@example.org");
    for account in ["anna@example.org", "bob@example.org", odd, long, "nobody@example.org"] {
        run("unlock", "auth", account);
        run("unlock", "auth", account);
    }
    assert_eq!(all(), before);
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0, "no note is left");
}

/// A database server needs a directory, and a user who is not root.
struct Server {
    _dir: tempfile::TempDir,
    path: PathBuf,
    user: Option<User>,
}

/// Ends with the test.
struct Running(Child);

impl Server {
    fn new() -> Server {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = geteuid().is_root().then(|| User::from_name("nobody").unwrap().expect("every host has nobody"));
        let server = Server { path: dir.path().to_path_buf(), _dir: dir, user };
        server.directory("run");
        server
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let owner: Option<(Uid, Gid)> = self.user.as_ref().map(|user| (user.uid, user.gid));
        chown(&path, owner.map(|owner| owner.0.as_raw()), owner.map(|owner| owner.1.as_raw())).unwrap();
        path
    }

    /// To be run as the server's user.
    fn command(&self, program: &Path) -> Command {
        let mut command = match &self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--clear-groups", &format!("--reuid={}", user.uid), &format!("--regid={}", user.gid)]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir(&self.path).stdin(Stdio::null());
        command
    }

    /// Returns when it answers a client.
    fn start(&self, mut command: Command, client: impl Fn() -> Command) -> Running {
        let log = self.path.join("log");
        let out = File::create(&log).unwrap();
        let mut running = Running(command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap());
        let begun = Instant::now();
        while !client().arg("SELECT 1").output().unwrap().status.success() {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(running.0.try_wait().unwrap().is_none(), "the server ended: {}", said());
            assert!(begun.elapsed() < STARTS_WITHIN, "the server does not answer: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both take it for an order to end at once and in order.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGQUIT);
        let _ = self.0.wait();
    }
}

fn option(name: &str, value: &Path) -> String {
    format!("{name}={}", value.display())
}

/// Where the server's programs are: Debian keeps them apart by version.
fn postgresql() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).find(|bin| bin.join("initdb").is_file() && is_there("psql"))
}
