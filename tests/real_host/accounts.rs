//! Accounts stopped on the real mail host: by Postfix, which asks the policy server, and by the root helper and its hooks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::dialog::Dialog;
use crate::isolation::{isolated, run};
use crate::network::{Client, MAIL_HOST};
use crate::site::{self, Layout, ROOT, Site};
use crate::warden::Warden;
use crate::{ANNA, poll};

const BOSS: (&str, &str) = ("boss@example.test", "battery staple");
const POLICY: &str = "[policy]\nsocket = \"/run/site/spool/mailwarden/policy\"\n";
/// As docs/accounts.md has it.
const RESTRICTIONS: &str = "
smtpd_recipient_restrictions = check_policy_service { unix:mailwarden/policy, timeout=2s, try_limit=1, default_action=DUNNO }
smtpd_end_of_data_restrictions = check_policy_service { unix:mailwarden/policy, timeout=2s, try_limit=1, default_action=DUNNO }
enable_long_queue_ids = yes
";

/// The mail host, with everything that stops accounts in place.
struct Host {
    site: Site,
    warden: Option<Warden>,
    helper: Option<Helper>,
}

/// `mailwarden-hookd`, as it runs without systemd.
struct Helper {
    child: Child,
}

impl Host {
    fn start(hooks: Option<&str>) -> Host {
        let mut helper = None;
        let (site, warden) = Site::start(Layout::Host, |host| {
            add("main.cf", RESTRICTIONS);
            add("mailboxes", "postmaster@example.test example.test/postmaster/\n");
            let directory = format!("{ROOT}/spool/mailwarden");
            fs::create_dir_all(&directory).unwrap();
            run("chgrp", &["postfix", &directory]);
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o2750)).unwrap();
            helper = hooks.map(Helper::start);
            Warden::start_configured(host, POLICY)
        });
        let host = Host { site, warden: Some(warden), helper };
        if host.helper.is_some() {
            let is_known =
                || host.warden().ask(&["status"])[0]["stopping"]["helper"].as_str().is_some_and(|text| !text.contains("not answered"));
            assert!(poll(Duration::from_secs(5), is_known), "{:?}", host.warden().ask(&["status"]));
        }
        host
    }

    fn warden(&self) -> &Warden {
        self.warden.as_ref().unwrap()
    }

    fn client(&self, number: u8) -> Client {
        self.site.client(&format!("client{number}"), number)
    }
}

impl Helper {
    fn start(hooks: &str) -> Helper {
        let directory = format!("{ROOT}/hooks");
        fs::create_dir_all(&directory).unwrap();
        let file = format!("{directory}/hooks.toml");
        fs::write(&file, format!("postfix_instances = [\"/run/site/etc\"]\n{hooks}")).unwrap();
        let socket = "/run/mailwarden/hookd.sock";
        let child = Command::new(env!("CARGO_BIN_EXE_mailwarden-hookd"))
            .args(["--hooks", &file, "--user", "root", "--state", "/run/site/hookd", "--listen", socket])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        assert!(poll(Duration::from_secs(5), || Path::new(socket).exists()));
        Helper { child }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn add(file: &str, text: &str) {
    let path = format!("{ROOT}/etc/{file}");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{before}{text}")).unwrap();
}

/// A session on the submission port.
fn submit(client: &Client, (account, password): (&str, &str)) -> Dialog {
    let mut dialog = Dialog::smtp(client, MAIL_HOST[0], 587).unwrap();
    assert!(dialog.smtp_login(account, password).unwrap());
    dialog
}

/// The answer to one recipient.
fn offer(dialog: &mut Dialog, from: &str, to: &str) -> u16 {
    assert_eq!(dialog.command(&format!("MAIL FROM:<{from}>")).unwrap(), 250);
    dialog.command(&format!("RCPT TO:<{to}>")).unwrap()
}

/// Queue ids on hold.
fn on_hold() -> usize {
    let output = Command::new("/usr/sbin/postqueue").args(["-c", "/run/site/etc", "-j"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.contains("\"queue_name\": \"hold\"")).count()
}

fn delivered_within(seconds: u64, account: &str, count: usize) -> bool {
    poll(Duration::from_secs(seconds), || site::delivered(account) >= count)
}

#[test]
fn a_live_session_of_a_locked_account_gets_no_further() {
    isolated("accounts::a_live_session_of_a_locked_account_gets_no_further", || {
        let host = Host::start(None);
        let client = host.client(20);
        let mut live = submit(&client, ANNA);
        live.mail(ANNA.0, BOSS.0).unwrap();
        assert_eq!(offer(&mut live, ANNA.0, BOSS.0), 250);
        // A name as a person types it.
        host.warden().ask(&["lock", "Anna", "--reason", "stolen"]);
        // The message that was begun gets no further either.
        let answer = live.command("DATA").unwrap();
        let answer = if answer == 354 { live.command("Subject: spam\r\n\r\nBuy.\r\n.").unwrap() } else { answer };
        assert_eq!(answer, 421);
        assert!(live.is_dead());
        let mut again = submit(&client, ANNA);
        assert_eq!(offer(&mut again, ANNA.0, BOSS.0), 421);
        assert!(again.is_dead());

        let locks = host.warden().ask(&["list", "locks"]);
        assert_eq!(
            (locks.len(), &locks[0]["account"], &locks[0]["verb"], &locks[0]["in_force"]),
            (1, &ANNA.0.into(), &"lock".into(), &true.into())
        );
        // Mail can still be read, help can be asked for, and others go on.
        assert!(Dialog::imap(&client, MAIL_HOST[0]).unwrap().imap_login(ANNA.0, ANNA.1).unwrap());
        submit(&client, ANNA).mail(ANNA.0, "postmaster@example.test").unwrap();
        submit(&client, BOSS).mail(BOSS.0, ANNA.0).unwrap();
        assert!(delivered_within(5, "postmaster", 1) && delivered_within(5, "anna", 1) && delivered_within(5, "boss", 1));
        assert_eq!(site::delivered("boss"), 1);

        host.warden().ask(&["unlock", "anna"]);
        submit(&client, ANNA).mail(ANNA.0, BOSS.0).unwrap();
        assert!(delivered_within(5, "boss", 2));
        assert_eq!(host.warden().tool(&["unlock", "anna"]).status.code(), Some(4));
    });
}

#[test]
fn mail_flows_when_the_daemon_hangs_or_is_gone() {
    isolated("accounts::mail_flows_when_the_daemon_hangs_or_is_gone", || {
        let mut host = Host::start(None);
        let client = host.client(20);
        submit(&client, ANNA).mail(ANNA.0, BOSS.0).unwrap();
        host.warden().hang();
        let started = Instant::now();
        submit(&client, ANNA).mail(ANNA.0, BOSS.0).unwrap();
        println!("a mail with the daemon hung: {:?}", started.elapsed());
        host.warden().go_on();
        host.warden().ask(&["lock", "anna"]);
        host.warden.take().unwrap().kill();
        let started = Instant::now();
        submit(&client, ANNA).mail(ANNA.0, BOSS.0).unwrap();
        println!("a mail with the daemon gone: {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(delivered_within(5, "boss", 3));
        // The lock outlives the kill.
        host.warden = Some(Warden::start_again(&host.site.host));
        let refused = || offer(&mut submit(&client, ANNA), ANNA.0, BOSS.0) == 421;
        assert!(refused() || refused(), "after the restart");
        assert_eq!(host.warden().ask(&["list", "locks"]).len(), 1);
    });
}

#[test]
fn mail_of_a_held_account_waits_and_is_released() {
    isolated("accounts::mail_of_a_held_account_waits_and_is_released", || {
        let host = Host::start(Some(""));
        let client = host.client(20);
        let mut live = submit(&client, ANNA);
        host.warden().ask(&["hold", "anna"]);
        for _ in 0..3 {
            live.mail(ANNA.0, BOSS.0).unwrap();
        }
        submit(&client, BOSS).mail(BOSS.0, ANNA.0).unwrap();
        assert!(delivered_within(5, "anna", 1));
        assert_eq!((on_hold(), site::delivered("boss")), (3, 0));
        let all_parked = || host.warden().ask(&["list", "locks"])[0]["parked"] == 3;
        assert!(poll(Duration::from_secs(10), all_parked), "{:?}", host.warden().ask(&["list", "locks"]));
        let released = Instant::now();
        host.warden().ask(&["release", "anna", "--some", "1"]);
        assert!(delivered_within(20, "boss", 1), "{}", on_hold());
        println!("released mail was delivered after {:?}", released.elapsed());
        thread::sleep(Duration::from_secs(3));
        assert_eq!((on_hold(), site::delivered("boss")), (2, 1));
        host.warden().ask(&["release", "anna"]);
        assert!(delivered_within(20, "boss", 3), "{}", on_hold());
        live.mail(ANNA.0, BOSS.0).unwrap();
        assert!(delivered_within(5, "boss", 4));
        assert_eq!((on_hold(), host.warden().ask(&["list", "locks"]).len()), (0, 0));
    });
}
