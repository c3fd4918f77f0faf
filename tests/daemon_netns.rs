//! The whole daemon with a real kernel and real packets, each test in a network namespace of its own: what is said to be banned
//! is cut off, and stays so when the daemon is killed, started again, or somebody flushes the rules.

#[expect(dead_code, reason = "not all of it is needed here")]
mod netns;
#[expect(dead_code, reason = "not all of it is needed here")]
mod support;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime};

use mailwarden::enforce::nft::Feature;
use mailwarden::time::Timestamp;
use netns::{alive, dead, inside, run, serve};
use support::{Host, sasl_failure, wait_for};

/// The mail host as the world knows it.
const SERVER: [&str; 2] = ["192.0.2.25", "2001:db8:25::25"];
const SUBMISSION: u16 = 587;
/// What a busy machine may add to a time.
const SLACK: Duration = Duration::from_millis(400);

/// A client out there: none of our addresses is in its networks, so that they can be banned as a whole.
struct Client(netns::Host);

impl Client {
    fn new(number: u8) -> Client {
        let client = Client(netns::Host::new(number));
        let (n, v4, v6) = (number, client.v4(), client.v6());
        run(&format!("ip route add 198.51.{n}.0/24 dev c{n} && ip -6 route add 2001:db8:{n}::/64 dev c{n}"));
        client.sh(&format!(
            "ip addr add {v4}/32 dev eth0 && ip addr add {v6}/128 dev eth0 nodad && ip route add {} via 10.{n}.0.1 src {v4} && \
             ip -6 route add {} via fd00:{n}::1 src {v6}",
            SERVER[0], SERVER[1]
        ));
        client
    }
    fn v4(&self) -> IpAddr {
        format!("198.51.{}.7", self.number).parse().unwrap()
    }
    fn v6(&self) -> IpAddr {
        format!("2001:db8:{}::7", self.number).parse().unwrap()
    }
}

impl Deref for Client {
    type Target = netns::Host;
    fn deref(&self) -> &netns::Host {
        &self.0
    }
}

fn server(family: usize, port: u16) -> SocketAddr {
    SocketAddr::new(SERVER[family].parse().unwrap(), port)
}

/// Two clients, and the mail host's ports.
fn network() -> (Client, Client) {
    run(&format!("ip addr add {}/32 dev lo && ip addr add {}/128 dev lo nodad", SERVER[0], SERVER[1]));
    serve(&[25, SUBMISSION, 143, 443]);
    (Client::new(1), Client::new(2))
}

/// Nobody is exempt because a Postfix on the machine says so.
fn daemon(toml: &str) -> Host {
    Host::new(&format!("[allow]\nmynetworks = []\n{toml}"))
}

fn cut_off(client: &Client, port: u16) {
    (0..2).for_each(|family| client.is_cut_off(server(family, port)));
}

fn reaches(client: &Client, port: u16) {
    (0..2).for_each(|family| client.reaches(server(family, port)));
}

/// A datagram every 200 µs, and when the last one arrived.
struct Probe {
    stop: Arc<AtomicBool>,
    last: Arc<Mutex<Option<Instant>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    fn start(client: &Client) -> Probe {
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let receiver = UdpSocket::bind(server(0, 9)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let sender = client.does(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let until = stop.clone();
        let sends = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let _ = sender.send_to(b"x", server(0, 9));
                sleep(Duration::from_micros(200));
            }
        });
        let (until, arrived) = (stop.clone(), last.clone());
        let receives = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                if receiver.recv(&mut [0; 8]).is_ok() {
                    *arrived.lock().unwrap() = Some(Instant::now());
                }
            }
        });
        Probe { stop, last, threads: vec![sends, receives] }
    }

    /// How long after `moment` the last datagram arrived; `None`: there was none since.
    fn passed(&self, moment: Instant) -> Option<Duration> {
        // What was on its way has arrived after this.
        sleep(Duration::from_millis(20));
        self.last.lock().unwrap().and_then(|last| last.checked_duration_since(moment)).filter(|late| *late > Duration::from_millis(5))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[test]
fn an_attacker_is_cut_off_and_others_are_not() {
    inside("an_attacker_is_cut_off_and_others_are_not", || {
        let (bad, good) = network();
        let mut daemon = daemon("");
        daemon.start();
        let open = [0, 1].map(|family| bad.connect(server(family, SUBMISSION)));
        let other = good.connect(server(0, SUBMISSION));
        open.iter().for_each(alive);
        for ip in [bad.v4(), bad.v6()] {
            (0..6).for_each(|n| daemon.send(sasl_failure(&ip.to_string(), &format!("user{n}@example.org"))));
        }
        let nets = [format!("{}/32", bad.v4()), format!("2001:db8:{}::/64", bad.number)];
        nets.iter().for_each(|net| daemon.wait_banned(net));
        open.iter().for_each(dead);
        cut_off(&bad, SUBMISSION);
        cut_off(&bad, 143);
        // Guessing passwords closes no port that has none.
        reaches(&bad, 25);
        alive(&other);
        reaches(&good, SUBMISSION);
        assert!(daemon.status()["firewall"]["dropped_packets"].as_u64().unwrap() >= 4);
        daemon.ok(["unban", &nets[0], &nets[1]]);
        reaches(&bad, SUBMISSION);
    });
}

#[test]
fn networks_are_banned_by_hand_and_bans_end_on_time() {
    inside("networks_are_banned_by_hand_and_bans_end_on_time", || {
        let (bad, good) = network();
        let mut daemon = daemon("");
        daemon.start();
        let nets = ["198.51.1.0/24", "2001:db8:1::/64"];
        daemon.ok(["ban", "--for", "1h", nets[0], nets[1]]);
        cut_off(&bad, 25);
        reaches(&bad, 443);
        reaches(&good, 25);
        daemon.ok(["unban", nets[0], nets[1]]);
        reaches(&bad, 25);
        // One that is there already is prolonged, and ends on time.
        let begin = Instant::now();
        daemon.ok(["ban", "--for", "1s", nets[0], nets[1]]);
        daemon.ok(["ban", "--for", "2s", nets[0], nets[1]]);
        ends_after(begin, Duration::from_secs(2), &bad);
        wait_for("the daemon knows", || daemon.bans().is_empty());
        // So it does while nobody looks after it.
        for stop in [Host::stop, Host::kill] {
            let begin = Instant::now();
            daemon.ok(["ban", "--for", "2s", nets[0], nets[1]]);
            daemon.ok(["ban", "--for", "forever", "203.0.113.1"]);
            stop(&mut daemon);
            ends_after(begin, Duration::from_secs(2), &bad);
            daemon.start();
            reaches(&bad, 25);
            assert_eq!(daemon.bans().len(), 1);
        }
    });
}

fn ends_after(begin: Instant, time: Duration, client: &Client) {
    while begin.elapsed() + SLACK < time {
        client.is_cut_off(server(0, 25));
        client.is_cut_off(server(1, 25));
    }
    sleep(time.saturating_sub(begin.elapsed()) + SLACK);
    let begin = Instant::now();
    reaches(client, 25);
    // No packet had to be sent again.
    assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
}

/// Every feature on, then each of them off.
#[test]
fn a_thousand_bans_outlive_sigkill_and_flushes() {
    inside("a_thousand_bans_outlive_sigkill_and_flushes", || {
        let clients = network();
        for off in [None].into_iter().chain(Feature::ALL.iter().copied().map(Some)) {
            let begin = Instant::now();
            outlive(&clients, off);
            println!("without {off:?}: {:?}", begin.elapsed());
        }
    });
}

fn outlive((bad, brief): &(Client, Client), off: Option<Feature>) {
    let off = off.map_or(String::new(), |feature| format!("{:?}", feature.as_str()));
    let mut daemon = daemon(&format!("[enforcement]\nfeatures_off = [{off}]\n"));
    daemon.start();
    // Counts are on disk that know nothing of the bans to come.
    daemon.stop();
    daemon.start();
    let open = bad.connect(server(0, 25));
    let probe = Probe::start(bad);
    wait_for("datagrams arrive", || probe.last.lock().unwrap().is_some());

    let others = (0..998).map(|n| format!("198.18.{}.{}", n / 250, n % 250 + 1));
    let flags = ["ban", "--scope", "all", "--for", "1h"].map(str::to_owned);
    daemon.ok(flags.into_iter().chain([bad.v4().to_string(), bad.v6().to_string()]).chain(others));
    let banned = Instant::now();
    let bans = until(&daemon);
    assert_eq!(bans.len(), 1_000);
    let brief_begins = Instant::now();
    daemon.ok(["ban", "--for", "2s", &brief.v4().to_string(), &brief.v6().to_string()]);

    daemon.kill();
    dead(&open);
    cut_off(bad, 25);
    ends_after(brief_begins, Duration::from_secs(2), brief);
    daemon.start();
    same(&until(&daemon), &bans);
    assert_eq!(probe.passed(banned), None, "while the daemon was down or started");
    cut_off(bad, 25);

    run("nft flush ruleset");
    let flushed = Instant::now();
    sleep(Duration::from_millis(1_200));
    let late = probe.passed(flushed);
    assert!(late.is_none_or(|late| late < Duration::from_secs(1)), "{late:?}");
    assert!(late.is_none() || daemon.status()["firewall"]["mode"] == "plain", "an owned table was flushed");
    all_are_in_the_kernel();
    cut_off(bad, 25);

    daemon.kill();
    run("nft flush ruleset");
    assert_eq!(run("nft list tables"), "");
    bad.reaches(server(0, 25));
    daemon.start();
    let up = Instant::now();
    same(&until(&daemon), &bans);
    all_are_in_the_kernel();
    cut_off(bad, 25);
    assert_eq!(probe.passed(up), None, "after the daemon was up");
    println!("  packets passed for {late:?} after a flush");

    daemon.stop();
    cut_off(bad, 25);
    daemon.ok(["teardown"]);
    assert_eq!(run("nft list tables"), "");
    reaches(bad, 25);
}

/// Which bans there are, and when each of them ends.
fn until(daemon: &Host) -> Vec<String> {
    let mut bans: Vec<String> = daemon.bans().iter().map(|ban| format!("{} {}", ban["ip"], ban["until"])).collect();
    bans.sort();
    bans
}

#[track_caller]
fn same(now: &[String], before: &[String]) {
    assert!(now == before, "{} bans of {}: {:?}", now.len(), before.len(), now.iter().find(|ban| !before.contains(ban)));
}

fn all_are_in_the_kernel() {
    let text = run("nft list table inet mailwarden");
    assert_eq!(text.matches("198.18.").count(), 998);
}

#[test]
fn bans_stay_in_the_kernel_when_the_state_is_lost() {
    inside("bans_stay_in_the_kernel_when_the_state_is_lost", || {
        let (bad, good) = network();
        let mut daemon = daemon("");
        daemon.start();
        daemon.ok(["ban", "--for", "1h", &bad.v4().to_string(), &format!("2001:db8:{}::/64", bad.number)]);
        daemon.ok(["ban", "--for", "forever", "--scope", "all", "203.0.113.1"]);
        let state = daemon.path("state");
        let damage = |daemon: &mut Host| {
            daemon.stop();
            let mut bytes = std::fs::read(state.join("state.db")).unwrap();
            bytes[..3_000].fill(0x55);
            std::fs::write(state.join("state.db"), bytes).unwrap();
        };
        let remove = |daemon: &mut Host| {
            daemon.kill();
            std::fs::remove_dir_all(&state).unwrap();
        };
        for lose in [&damage as &dyn Fn(&mut Host), &remove] {
            lose(&mut daemon);
            cut_off(&bad, 25);
            daemon.start();
            cut_off(&bad, 25);
            reaches(&good, 25);
            let found = daemon.bans();
            assert_eq!(found.len(), 3, "{found:?}");
            assert!(found.iter().all(|ban| ban["jail"] == "recovered"), "{found:?}");
            // They end when they would have ended.
            let hours = found.iter().filter(|ban| ban["remaining_seconds"].as_u64().is_some_and(|left| (3_400..=3_600).contains(&left)));
            assert!(hours.count() == 2 && found.iter().any(|ban| ban["until"].is_null()), "{found:?}");
            assert!(daemon.log().contains("stay in force") && !daemon.status()["state"]["problem"].is_null());
            // They are remembered from here on, and are lifted as any other.
            daemon.stop();
            daemon.start();
            assert_eq!(daemon.bans().len(), 3);
            cut_off(&bad, 25);
        }
        daemon.ok(["unban", &bad.v4().to_string(), &bad.v6().to_string()]);
        reaches(&bad, 25);
    });
}

#[test]
fn what_a_dry_run_decided_never_comes_into_force() {
    inside("what_a_dry_run_decided_never_comes_into_force", || {
        let (bad, good) = network();
        let mut daemon = daemon("").with(&["--dry-run"]);
        daemon.start();
        let text = daemon.ok(["ban", "--for", "1h", &good.v4().to_string(), &good.v6().to_string()]);
        assert!(text.contains("would ban (dry run)"), "{text}");
        assert!(daemon.ok(["lock", "anna@example.org"]).contains("would be locked"));
        for ip in [bad.v4(), bad.v6()] {
            (0..6).for_each(|n| daemon.send(sasl_failure(&ip.to_string(), &format!("user{n}@example.org"))));
        }
        daemon.wait_banned(&format!("{}/32", bad.v4()));
        assert!(daemon.ok(["why", &bad.v4().to_string()]).contains("would be banned (dry run)"));
        wait_for("it is in the log", || daemon.log().contains(&format!("dry run: would ban {}", bad.v4())));
        daemon.kill();
        let mut daemon = daemon.with(&[]);
        daemon.start();
        assert!(daemon.bans().is_empty(), "{:?}", daemon.bans());
        assert!(daemon.ok(["list", "locks"]).contains("no account"));
        reaches(&bad, SUBMISSION);
        reaches(&good, 25);
        let log = daemon.log();
        assert_eq!(log.matches("what a dry run decided does not come into force").count(), 1, "{log}");
        // A dry run changes nothing of what was in force, either.
        daemon.ok(["ban", &bad.v4().to_string()]);
        daemon.stop();
        let mut daemon = daemon.with(&["--dry-run"]);
        daemon.start();
        assert!(daemon.bans().is_empty());
        daemon.stop();
        let mut daemon = daemon.with(&[]);
        daemon.start();
        assert!(daemon.is_banned(&format!("{}/32", bad.v4())));
    });
}

#[test]
fn a_dry_run_says_what_the_kernel_still_enforces() {
    inside("a_dry_run_says_what_the_kernel_still_enforces", || {
        let (bad, good) = network();
        let mut daemon = daemon("");
        daemon.start();
        daemon.ok(["ban", "--for", "1h", &bad.v4().to_string(), "198.51.7.0/24"]);
        daemon.stop();
        let mut daemon = daemon.with(&["--dry-run"]);
        daemon.start();
        bad.is_cut_off(server(0, 25));
        let status = daemon.ok(["status"]);
        let expected = "the kernel STILL ENFORCES 2 bans of an earlier run (table inet mailwarden; `mailwarden teardown --table mailwarden` removes them)";
        assert!(status.contains(expected), "{status}");
        assert!(daemon.log().contains(expected), "{}", daemon.log());
        for arguments in [&["unban", &bad.v4().to_string()][..], &["unban", "198.51.7.9"], &["unban", "--all"]] {
            let output = daemon.tool(arguments);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && text.contains("teardown --table mailwarden"), "{arguments:?}: {text}");
        }
        assert_eq!(daemon.tool(["unban", &good.v4().to_string()]).status.code(), Some(4));
        // Which works while a dry run goes on.
        daemon.ok(["teardown", "--table", "mailwarden"]);
        reaches(&bad, 25);
        assert!(!daemon.ok(["status"]).contains("STILL ENFORCES"));
        daemon.stop();
        let mut daemon = daemon.with(&[]);
        daemon.start();
        bad.is_cut_off(server(0, 25));
    });
}

#[test]
fn the_table_of_another_name_goes_when_the_new_one_is_in_force() {
    inside("the_table_of_another_name_goes_when_the_new_one_is_in_force", || {
        let (bad, good) = network();
        let mut daemon = daemon("[enforcement]\ntable = \"old\"\n");
        daemon.start();
        daemon.ok(["ban", "--for", "1h", &bad.v4().to_string(), &good.v4().to_string()]);
        daemon.stop();
        let main = daemon.path("mailwarden.toml");
        let text = std::fs::read_to_string(&main).unwrap();
        std::fs::write(&main, text.replace("\"old\"", "\"new\"")).unwrap();
        run("nft add table inet other");
        daemon.start();
        let mut tables: Vec<String> = run("nft list tables").lines().map(str::to_owned).collect();
        tables.sort();
        assert_eq!(tables, ["table inet new", "table inet other"]);
        bad.is_cut_off(server(0, 25));
        assert!(daemon.log().contains("removed the table inet old"), "{}", daemon.log());
        daemon.ok(["unban", &good.v4().to_string()]);
        good.reaches(server(0, 25));
    });
}

#[test]
fn bans_of_what_is_never_banned_are_lifted_at_start_and_when_the_host_gets_an_address() {
    inside("bans_of_what_is_never_banned_are_lifted_at_start_and_when_the_host_gets_an_address", || {
        let (bad, good) = network();
        let mut daemon = daemon("");
        daemon.start();
        let fail = |daemon: &Host, ip: &str| {
            (0..6).for_each(|_| daemon.send(sasl_failure(ip, "anna@example.org")));
            daemon.wait_banned(&format!("{ip}/32"));
        };
        let (auto, forced) = (bad.v4().to_string(), good.v4().to_string());
        fail(&daemon, &auto);
        daemon.ok(["ban", &forced]);
        bad.is_cut_off(server(0, SUBMISSION));
        daemon.stop();
        let main = daemon.path("mailwarden.toml");
        let text = std::fs::read_to_string(&main).unwrap();
        let allowing = format!("mynetworks = []\nignoreip = [\"{auto}\", \"{forced}\"]\n");
        std::fs::write(&main, text.replace("mynetworks = []\n", &allowing)).unwrap();
        daemon.start();
        assert!(!daemon.is_banned(&format!("{auto}/32")) && daemon.is_banned(&format!("{forced}/32")));
        bad.reaches(server(0, SUBMISSION));
        good.is_cut_off(server(0, 25));
        let log = daemon.log();
        assert!(log.contains("1 bans of an earlier run are lifted") && log.contains(&format!("unban {auto}")), "{log}");
        daemon.stop();
        daemon.start();
        assert_eq!(daemon.bans().len(), 1, "lifted on disk as well");
        std::fs::write(&main, text).unwrap();
        daemon.ok(["reload"]);
        // The host gets an address that is banned: an automatic ban of it ends, and none is made.
        fail(&daemon, "198.51.100.7");
        run("ip addr add 198.51.100.7/32 dev lo");
        wait_for("it is lifted", || !daemon.is_banned("198.51.100.7/32"));
        assert!(daemon.log().contains("this host has new addresses, which are never banned: 198.51.100.7;"), "{}", daemon.log());
        daemon.ok(["reload"]);
        (0..6).for_each(|_| daemon.send(sasl_failure("198.51.100.7", "anna@example.org")));
        fail(&daemon, "198.51.100.9");
        assert!(!daemon.is_banned("198.51.100.7/32"));
        run("ip addr del 198.51.100.7/32 dev lo");
        wait_for("it may be banned again", || daemon.tool(["ban", "198.51.100.7"]).status.success());
    });
}

/// A daemon that follows a file from its start, and can stop accounts.
fn follower(toml: &str) -> (Host, PathBuf) {
    let host = Host::bare("");
    let log = host.path("mail.log");
    std::fs::write(&log, "").unwrap();
    let policy = host.path("policy");
    let text = format!(
        "[allow]\nmynetworks = []\n[policy]\nsocket = {policy:?}\nusers = []\n{toml}\n[[source]]\nkind = \"file\"\npath = {log:?}\n\
         from = \"start\"\ntrusted = true\n"
    );
    std::fs::write(host.path("mailwarden.toml"), text).unwrap();
    (host, log)
}

/// Writes a line that is so old.
fn append(log: &Path, age: Duration, line: &str) {
    let stamp = (Timestamp::from(SystemTime::now()) - age).rfc3339();
    writeln!(OpenOptions::new().append(true).open(log).unwrap(), "{stamp} mx1 {line}").unwrap();
}

#[test]
fn a_backlog_is_no_sign_that_a_ban_does_not_bite() {
    inside("a_backlog_is_no_sign_that_a_ban_does_not_bite", || {
        let (mut daemon, log) = follower("");
        daemon.start();
        daemon.stop();
        let fail = |age| {
            let message = "warning: unknown[203.0.113.9]: SASL LOGIN authentication failed: x, sasl_username=anna@example.org";
            append(&log, Duration::from_secs(age), &format!("postfix/submission/smtpd[77]: {message}"));
        };
        [90, 85, 80, 75, 70, 65, 40, 30, 20, 10].into_iter().for_each(fail);
        daemon.start();
        daemon.wait_banned("203.0.113.9/32");
        wait_for("all lines are read", || daemon.status()["lines"]["lines"] == 10);
        let why = daemon.ok(["why", "203.0.113.9"]);
        assert!(why.contains("is banned") && !why.contains("DOES NOT BITE"), "{why}");
        daemon.stop();
        assert!(!daemon.log().contains("does not bite"), "{}", daemon.log());
    });
}

#[test]
fn sigkill_undoes_no_release() {
    inside("sigkill_undoes_no_release", || {
        let (host, log) = follower("[risk]\nlearning = \"0s\"\n");
        let jail = "[jail.often]\non = [\"auth-success\"]\nkey = \"account\"\nmaxretry = 3\nfindtime = \"10m\"\nthen = [\"hold\"]\n";
        std::fs::write(host.path("jail.d/often.toml"), jail).unwrap();
        let log_in = |account: &str, times: u32| {
            for _ in 0..times {
                let message = format!("4F07C1B9A3: client=x[203.0.113.9], sasl_method=PLAIN, sasl_username={account}");
                append(&log, Duration::ZERO, &format!("postfix/submission/smtpd[77]: {message}"));
            }
        };
        let mut daemon = host;
        daemon.start();
        let held = |daemon: &Host, account: &str| daemon.ok(["list", "locks"]).contains(account);
        log_in("anna@example.org", 3);
        wait_for("anna is held", || held(&daemon, "anna@example.org"));
        daemon.ok(["release", "anna@example.org"]);
        daemon.kill();
        daemon.start();
        log_in("bert@example.org", 3);
        wait_for("bert is held", || held(&daemon, "bert@example.org"));
        assert!(!held(&daemon, "anna@example.org"), "{}", daemon.log());
        assert_eq!(daemon.log().matches("hold anna@example.org").count(), 1, "{}", daemon.log());
    });
}

#[test]
fn a_loss_of_state_is_told_until_it_is_seen_to() {
    inside("a_loss_of_state_is_told_until_it_is_seen_to", || {
        let mut daemon = daemon("");
        daemon.start();
        daemon.stop();
        let path = daemon.path("state/state.db");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..3_000].fill(0x55);
        std::fs::write(path, bytes).unwrap();
        for _ in 0..2 {
            daemon.start();
            let status = daemon.status();
            let problem = status["state"]["problem"].as_str().unwrap();
            assert!(problem.contains("was damaged") && problem.contains("state.db.corrupt-"), "{problem}");
            assert!(daemon.ok(["status"]).contains("state     PROBLEM: bans"), "{}", daemon.ok(["status"]));
            daemon.stop();
        }
        daemon.start();
        for entry in std::fs::read_dir(daemon.path("state"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("corrupt"))
        {
            std::fs::remove_file(entry.path()).unwrap();
        }
        wait_for("it is seen to", || daemon.status()["state"]["problem"].is_null());
    });
}

#[test]
fn teardown_waits_for_the_daemon_to_stop() {
    inside("teardown_waits_for_the_daemon_to_stop", || {
        let (bad, _) = network();
        let mut daemon = daemon("");
        daemon.start();
        daemon.ok(["ban", &bad.v4().to_string()]);
        let output = daemon.tool(["teardown"]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("daemon is running"), "{text}");
        bad.is_cut_off(server(0, 25));
        daemon.stop();
        bad.is_cut_off(server(0, 25));
        daemon.ok(["teardown"]);
        assert_eq!(run("nft list tables"), "");
        bad.reaches(server(0, 25));
        assert!(daemon.ok(["teardown"]).contains("nothing to remove"));
    });
}

#[test]
fn without_the_capability_it_says_so_and_goes_on() {
    inside("without_the_capability_it_says_so_and_goes_on", || {
        let (bad, _) = network();
        let mut daemon = daemon("").under(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        daemon.start();
        let says_so = |text: &str| text.contains("NOT ENFORCING") && text.contains("CAP_NET_ADMIN");
        assert!(says_so(&daemon.ok(["status"])), "{}", daemon.ok(["status"]));
        wait_for("it is in the log", || says_so(&daemon.log()));
        (0..6).for_each(|_| daemon.send(sasl_failure(&bad.v4().to_string(), "anna@example.org")));
        daemon.wait_banned(&format!("{}/32", bad.v4()));
        daemon.ok(["ban", "203.0.113.1"]);
        bad.reaches(server(0, SUBMISSION));
        assert_eq!(run("nft list tables"), "");
        daemon.kill();
        // With the capability the bans that it remembered come into force.
        let mut daemon = daemon.under(&[]);
        daemon.start();
        bad.is_cut_off(server(0, SUBMISSION));
        assert_eq!(daemon.bans().len(), 2);
    });
}

#[test]
fn a_table_of_another_daemon_is_waited_for() {
    inside("a_table_of_another_daemon_is_waited_for", || {
        let (bad, good) = network();
        let (mut first, mut second) = (daemon(""), daemon(""));
        first.start();
        if first.status()["firewall"]["mode"] != "owned" {
            return println!("no owned tables on this kernel");
        }
        first.ok(["ban", &good.v4().to_string()]);
        second.start();
        let status = second.ok(["status"]);
        let owner = format!("owned by another process: mailwardend (pid {})", first.pid());
        assert!(status.contains("NOT ENFORCING") && status.contains(&owner), "{status}");
        wait_for("it is in the log", || second.log().contains(&owner));
        second.ok(["ban", &bad.v4().to_string()]);
        // Not banned any more when it can write.
        second.ok(["ban", "203.0.113.1"]);
        second.ok(["unban", "203.0.113.1"]);
        bad.reaches(server(0, 25));
        good.is_cut_off(server(0, 25));
        first.kill();
        let gone = Instant::now();
        wait_for("the second enforces", || {
            second.status()["firewall"]["enforcing"] == true && second.status()["firewall"]["repairing"] == false
        });
        assert!(gone.elapsed() < Duration::from_secs(11), "{:?}", gone.elapsed());
        println!("enforcing {:?} after the owner's end", gone.elapsed());
        bad.is_cut_off(server(0, 25));
        // That ban was the other one's.
        good.reaches(server(0, 25));
    });
}

#[test]
fn the_servers_ends_of_a_banned_clients_connections_are_closed() {
    inside("the_servers_ends_of_a_banned_clients_connections_are_closed", || {
        let (bad, good) = network();
        let mut daemon = daemon("[enforcement]\ndestroy_sockets = true\n");
        daemon.start();
        let open = [0, 1].map(|family| bad.connect(server(family, SUBMISSION)));
        let others = [bad.connect(server(0, 443)), good.connect(server(1, SUBMISSION))];
        open.iter().chain(&others).for_each(alive);
        let sockets = || run("ss -Htn state established '( sport = :587 or sport = :443 )'").lines().count();
        assert_eq!(sockets(), 4);
        daemon.ok(["ban", &bad.v4().to_string(), &bad.v6().to_string()]);
        wait_for("the connections are closed", || sockets() == 2);
        open.iter().for_each(dead);
        others.iter().for_each(alive);
    });
}
