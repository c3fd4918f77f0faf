//! The units, the relay snippets and `make install`: what a host gets is what systemd, rsyslog and the daemon accept.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Says that a test cannot run here; where everything must run (CI) that is a failure.
macro_rules! skip {
    ($reason:expr) => {{
        assert!(std::env::var_os("MAILWARDEN_REQUIRE_NETNS").is_none_or(|value| value != "1"), "must not be skipped here: {}", $reason);
        // Not eprintln!: the test harness swallows that of a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}", $reason);
        return;
    }};
}

/// Tenths of a point, as `systemd-analyze security` counts: 2.0 is the most that the design allows, Debian's fail2ban has 9.6.
const EXPOSURE_MAX: u32 = 20;

#[test]
fn units_verify() {
    let Some(analyze) = find("systemd-analyze") else { skip!("no systemd-analyze") };
    let dir = tempfile::tempdir().unwrap();
    // systemd looks whether the program exists; before installation it is the one just built.
    let service = read("systemd/mailwardend.service").replace("/usr/sbin/mailwardend", env!("CARGO_BIN_EXE_mailwardend"));
    fs::write(dir.path().join("mailwardend.service"), service).unwrap();
    fs::write(dir.path().join("mailwarden.socket"), read("systemd/mailwarden.socket")).unwrap();
    let helper = read("systemd/mailwarden-hookd@.service").replace("/usr/sbin/mailwarden-hookd", env!("CARGO_BIN_EXE_mailwarden-hookd"));
    fs::write(dir.path().join("mailwarden-hookd@.service"), helper).unwrap();
    fs::write(dir.path().join("mailwarden-hookd.socket"), read("systemd/mailwarden-hookd.socket")).unwrap();

    let output = Command::new(analyze)
        .args([
            "verify",
            "--man=no",
            "./mailwardend.service",
            "./mailwarden.socket",
            "./mailwarden-hookd.socket",
            "./mailwarden-hookd@.service",
        ])
        .current_dir(dir.path())
        .output()
        .unwrap();
    // It also tells about other units of the host, and some versions exit with 1 for those.
    let text = text(&output);
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("mailwarden")).collect();
    assert!(ours.is_empty(), "systemd-analyze verify:\n{}", ours.join("\n"));
}

#[test]
fn exposure_is_low() {
    let Some(analyze) = find("systemd-analyze") else { skip!("no systemd-analyze") };
    let output = Command::new(analyze)
        .args(["security", "--offline=true", "--no-pager"])
        .arg(root().join("systemd/mailwardend.service"))
        .output()
        .unwrap();
    let text = text(&output);
    if text.contains("unrecognized option") {
        skip!("systemd-analyze is older than 250: no --offline");
    }
    let exposure = exposure(&text).unwrap_or_else(|| panic!("no exposure level in:\n{text}"));
    assert!(exposure <= EXPOSURE_MAX, "exposure {}.{} > 2.0:\n{text}", exposure / 10, exposure % 10);
}

#[test]
fn service_asks_for_one_capability_and_no_more() {
    let service = read("systemd/mailwardend.service");
    for wanted in [
        "Type=notify",
        "User=mailwarden",
        "AmbientCapabilities=CAP_NET_ADMIN",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
        "RuntimeDirectoryPreserve=yes",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ] {
        assert!(service.lines().any(|line| line == wanted), "mailwardend.service lacks {wanted}");
    }
    // Each would break enforcement, or stop the guard or the mail in the middle of an attack.
    for unwanted in ["PrivateUsers=", "PrivateNetwork=", "MemoryMax=", "Before="] {
        assert!(!service.lines().any(|line| line.starts_with(unwanted)), "mailwardend.service has {unwanted}");
    }
}

#[test]
fn socket_path_is_one_everywhere() {
    let syslog = listens("mailwarden.socket");
    for file in
        ["contrib/rsyslog/60-mailwarden.conf", "contrib/syslog-ng/mailwarden.conf", "contrib/apparmor/usr.sbin.rsyslogd", "docs/syslog.md"]
    {
        assert!(read(file).contains(&syslog), "{file} does not name {syslog}");
    }
    let helper = listens("mailwarden-hookd.socket");
    let paths = mailwarden::config::Paths::installed();
    assert_eq!(["syslog", "hookd"].map(|service| paths.systemd_socket(service)), [&syslog, &helper].map(PathBuf::from));
    for file in ["mailwarden.toml", "docs/configuration.md"] {
        assert!(read(file).contains(&syslog) && read(file).contains(&helper), "{file} does not name {syslog} and {helper}");
    }
}

/// systemd binds a socket and changes its owner as root, by its path, and follows links: whoever may write to the directory could have
/// it change the owner of any file.
#[test]
fn no_socket_of_systemd_lies_in_a_directory_of_the_daemon() {
    let made_for_others = ["mailwardend.service", "mailwarden-hookd@.service"].map(|unit| read(&format!("systemd/{unit}")));
    let runtime = made_for_others.iter().flat_map(|unit| unit.lines()).filter_map(|line| line.strip_prefix("RuntimeDirectory="));
    let runtime = runtime.flat_map(str::split_whitespace).map(|name| format!("/run/{name}"));
    let tmpfiles = read("systemd/mailwarden.tmpfiles");
    let listed = tmpfiles.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_whitespace().nth(1));
    let theirs: Vec<PathBuf> = runtime.chain(listed.map(str::to_owned)).map(PathBuf::from).collect();
    assert!(theirs.contains(&PathBuf::from("/run/mailwarden")), "{theirs:?}");
    for unit in ["mailwarden.socket", "mailwarden-hookd.socket"] {
        let path = listens(unit);
        assert!(!theirs.iter().any(|directory| Path::new(&path).starts_with(directory)), "{unit}: {path}");
    }
}

fn listens(unit: &str) -> String {
    let text = read(&format!("systemd/{unit}"));
    text.lines().find_map(|line| line.strip_prefix("Listen")?.split_once('=')).unwrap().1.to_owned()
}

#[test]
fn sysusers_and_tmpfiles_are_accepted() {
    let (Some(sysusers), Some(tmpfiles)) = (find("systemd-sysusers"), find("systemd-tmpfiles")) else { skip!("no systemd-sysusers") };
    let root = tempfile::tempdir().unwrap();
    let image = format!("--root={}", root.path().display());
    fs::create_dir(root.path().join("etc")).unwrap();

    let output = Command::new(sysusers).arg(&image).arg(self::root().join("systemd/mailwarden.sysusers")).output().unwrap();
    let text = text(&output);
    // --root= locks and chowns; outside of root that is refused, which says nothing about the file.
    if text.contains("Permission denied") || text.contains("not permitted") {
        skip!("systemd-sysusers needs root");
    }
    assert!(output.status.success(), "{text}");
    let users = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
    assert!(users.lines().any(|line| line.starts_with("mailwarden:") && line.contains("/var/lib/mailwarden")), "{users}");
    for group in ["adm", "systemd-journal"] {
        let members = groups.lines().find(|line| line.starts_with(&format!("{group}:"))).unwrap_or_default();
        assert!(members.ends_with(":mailwarden"), "{group}: {groups}");
    }

    let output = Command::new(tmpfiles).args(["--create", &image]).arg(self::root().join("systemd/mailwarden.tmpfiles")).output().unwrap();
    assert!(output.status.success(), "{}", self::text(&output));
    assert!(root.path().join("run/mailwarden").is_dir() && root.path().join("var/lib/mailwarden").is_dir());
}

#[test]
fn rsyslog_accepts_the_snippet() {
    let Some(rsyslogd) = find("rsyslogd") else { skip!("no rsyslogd") };
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("rsyslog.conf");
    // The module line is the one that docs/syslog.md asks for.
    let annotated = r#"module(load="imuxsock" SysSock.Annotate="on" SysSock.ParseTrusted="on")"#;
    assert!(read("docs/syslog.md").contains(annotated), "docs/syslog.md does not show: {annotated}");
    let snippet = root().join("contrib/rsyslog/60-mailwarden.conf");
    fs::write(&main, format!("{annotated}\n$IncludeConfig {}\n*.* -/dev/null\n", snippet.display())).unwrap();

    let output = Command::new(rsyslogd).args(["-N1", "-f"]).arg(&main).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("error") && !text.contains("warning"), "{text}");
}

#[test]
fn install_lays_out_a_host_and_keeps_its_configuration() {
    let Some(make) = find("make") else { skip!("no make") };
    let dir = tempfile::tempdir().unwrap();
    let install = || {
        let output = Command::new(&make)
            .args(["--no-print-directory", "install"])
            .arg(format!("DESTDIR={}", dir.path().display()))
            .arg(format!("BINARIES={}", Path::new(env!("CARGO_BIN_EXE_mailwarden")).parent().unwrap().display()))
            .env_remove("MAKEFLAGS")
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "make install:\n{}", text(&output));
    };

    install();
    for file in [
        "usr/sbin/mailwardend",
        "usr/bin/mailwarden",
        "usr/sbin/mailwarden-hookd",
        "usr/lib/systemd/system/mailwarden-hookd.socket",
        "usr/lib/systemd/system/mailwarden-hookd@.service",
        "usr/lib/systemd/system/mailwardend.service",
        "usr/lib/systemd/system/mailwarden.socket",
        "usr/lib/sysusers.d/mailwarden.conf",
        "usr/lib/tmpfiles.d/mailwarden.conf",
        "usr/share/doc/mailwarden/README.md",
        "usr/share/doc/mailwarden/accounts.md",
        "usr/share/doc/mailwarden/contrib/hooks/dovecot-deny",
        "usr/share/doc/mailwarden/contrib/rsyslog/60-mailwarden.conf",
    ] {
        assert!(dir.path().join(file).is_file(), "not installed: {file}");
    }
    for (from, to) in [("filters", "usr/share/mailwarden/filters"), ("jail.d", "usr/share/mailwarden/jail.d")] {
        assert_eq!(toml_files(&root().join(from)), toml_files(&dir.path().join(to)), "{to} differs from {from}");
    }

    let etc = dir.path().join("etc/mailwarden");
    assert!(etc.join("jail.d").is_dir() && etc.join("filters").is_dir());
    fs::write(etc.join("mailwarden.toml"), "# the administrator's\n").unwrap();
    fs::write(etc.join("jail.d/50-own.toml"), "# own\n").unwrap();
    install();
    assert_eq!(fs::read_to_string(etc.join("mailwarden.toml")).unwrap(), "# the administrator's\n");
    assert_eq!(fs::read_to_string(etc.join("jail.d/50-own.toml")).unwrap(), "# own\n");
}

#[test]
fn exposure_is_read_right() {
    for (text, expected) in [
        ("→ Overall exposure level for mailwardend.service: 1.6 OK 🙂", Some(16)),
        ("→ Overall exposure level for fail2ban.service: 9.6 UNSAFE 😨", Some(96)),
        ("Overall exposure level for x.service: 10.0 DANGEROUS", Some(100)),
        ("Failed to load unit", None),
    ] {
        assert_eq!(exposure(text), expected, "{text}");
    }
}

fn exposure(text: &str) -> Option<u32> {
    let (_, level) = text.split_once("Overall exposure level for ")?.1.split_once(": ")?;
    let (points, tenths) = level.split_whitespace().next()?.split_once('.')?;
    Some(points.parse::<u32>().ok()? * 10 + tenths.parse::<u32>().ok()?)
}

fn toml_files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".toml"));
    names.sort();
    names
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
