//! Accounts stopped on the real mail host: by Postfix, which asks the policy server, and by the root helper and its hooks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
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

pub const BOSS: (&str, &str) = ("boss@example.test", "battery staple");
const POLICY: &str = "[policy]\nsocket = \"/run/site/spool/mailwarden/policy\"\n";
/// As docs/accounts.md has it, for main.cf and for Dovecot.
const MAIN: &str = "
mailwarden = check_policy_service { unix:mailwarden/policy, timeout=1s, default_action=DUNNO }
smtpd_data_restrictions = $mailwarden
smtpd_end_of_data_restrictions = $mailwarden
authorized_submit_users = !texthash:/run/site/etc/local-deny, static:all
";
const DENY: &str = "passdb {
  driver = passwd-file
  args = username_format=%u /run/site/etc/dovecot-deny
  deny = yes
}
";
pub const RECIPES: &str = "
[hook.lock]
run = [[\"/run/site/hooks/dovecot-deny\", \"/run/site/etc/dovecot-deny\", \"/run/site/etc/dovecot.conf\"],
       [\"/run/site/hooks/postfix-local-deny\", \"/run/site/etc/local-deny\"]]
[hook.unlock]
run = [[\"/run/site/hooks/dovecot-deny\", \"/run/site/etc/dovecot-deny\", \"/run/site/etc/dovecot.conf\"],
       [\"/run/site/hooks/postfix-local-deny\", \"/run/site/etc/local-deny\"]]
";

/// The mail host, with everything that stops accounts in place.
pub struct Host {
    pub site: Site,
    warden: Option<Warden>,
    helper: Option<Helper>,
}

/// `mailwarden-hookd`, as it runs without systemd.
struct Helper {
    child: Child,
}

impl Host {
    fn start(hooks: Option<&str>) -> Host {
        Host::start_with(hooks, true)
    }

    fn start_with(hooks: Option<&str>, long_ids: bool) -> Host {
        let long_ids = if long_ids { "enable_long_queue_ids = yes\n" } else { "" };
        Host::start_prepared(hooks, "", || add("main.cf", long_ids))
    }

    /// `more` in mailwarden's configuration, and what is to be done before anything runs.
    pub fn start_prepared(hooks: Option<&str>, more: &str, prepare: impl FnOnce()) -> Host {
        let mut helper = None;
        let (site, warden) = Site::start(Layout::Host, |host| {
            add("main.cf", MAIN);
            change("dovecot.conf", |text| text.replacen("passdb {", &format!("{DENY}passdb {{"), 1));
            add("local-deny", "");
            add("dovecot-deny", "");
            add("mailboxes", "postmaster@example.test example.test/postmaster/\nslow@example.test slow/\n");
            let directory = format!("{ROOT}/spool/mailwarden");
            fs::create_dir_all(&directory).unwrap();
            run("chgrp", &["postfix", &directory]);
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o2750)).unwrap();
            helper = hooks.map(Helper::start);
            Warden::configure(&format!("{POLICY}{more}"));
            prepare();
            Warden::start_again(host)
        });
        let host = Host { site, warden: Some(warden), helper };
        if host.helper.is_some() {
            let is_known =
                || host.warden().ask(&["status"])[0]["stopping"]["helper"].as_str().is_some_and(|text| !text.contains("not answered"));
            assert!(poll(Duration::from_secs(5), is_known), "{:?}", host.warden().ask(&["status"]));
        }
        host
    }

    pub fn warden(&self) -> &Warden {
        self.warden.as_ref().unwrap()
    }

    pub fn client(&self, number: u8) -> Client {
        self.site.client(&format!("client{number}"), number)
    }
}

impl Helper {
    fn start(hooks: &str) -> Helper {
        let directory = format!("{ROOT}/hooks");
        fs::create_dir_all(&directory).unwrap();
        let file = format!("{directory}/hooks.toml");
        fs::write(&file, format!("postfix_instances = [\"/run/site/etc\"]\n{hooks}")).unwrap();
        for recipe in ["dovecot-deny", "postfix-local-deny"] {
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/hooks").join(recipe);
            fs::copy(shipped, format!("{directory}/{recipe}")).unwrap();
        }
        let socket = "/run/mailwarden-hookd/hookd.sock";
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

pub fn add(file: &str, text: &str) {
    change(file, |before| before + text);
}

pub fn change(file: &str, edit: impl FnOnce(String) -> String) {
    let path = format!("{ROOT}/etc/{file}");
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(path, edit(before)).unwrap();
}

/// A session on the submission port.
pub fn submit(client: &Client, (account, password): (&str, &str)) -> Dialog {
    let mut dialog = Dialog::smtp(client, MAIL_HOST[0], 587).unwrap();
    assert!(dialog.smtp_login(account, password).unwrap());
    dialog
}

/// Sends one mail, as far as it is let; the last answer.
pub fn attempt(dialog: &mut Dialog, from: &str, to: &str) -> u16 {
    let mut last = 0;
    for command in [&format!("MAIL FROM:<{from}>"), &format!("RCPT TO:<{to}>"), "DATA", "Subject: test\r\n\r\nHello.\r\n."] {
        last = dialog.command(command).unwrap();
        if last >= 400 {
            break;
        }
    }
    last
}

/// Messages in one of the queues.
pub fn queued(queue: &str) -> usize {
    let output = Command::new("/usr/sbin/postqueue").args(["-c", "/run/site/etc", "-j"]).output().unwrap();
    let name = format!("\"queue_name\": \"{queue}\"");
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.contains(&name)).count()
}

fn on_hold() -> usize {
    queued("hold")
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
        let mut begun = submit(&client, ANNA);
        for (command, answer) in [(format!("MAIL FROM:<{}>", ANNA.0), 250), (format!("RCPT TO:<{}>", BOSS.0), 250), ("DATA".into(), 354)] {
            assert_eq!(begun.command(&command).unwrap(), answer);
        }
        // A name as a person types it.
        host.warden().ask(&["lock", "Anna", "--reason", "stolen"]);
        assert_eq!(attempt(&mut live, ANNA.0, BOSS.0), 421);
        assert!(live.is_dead());
        // The message that was begun gets no further either.
        assert_eq!(begun.command("Subject: spam\r\n\r\nBuy.\r\n.").unwrap(), 421);
        assert!(begun.is_dead());
        let mut again = submit(&client, ANNA);
        assert_eq!(attempt(&mut again, ANNA.0, BOSS.0), 421);
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
        let started = Instant::now();
        submit(&client, ANNA).mail(ANNA.0, BOSS.0).unwrap();
        println!("a second mail with the daemon hung: {:?}", started.elapsed());
        host.warden().go_on();
        host.warden().ask(&["lock", "anna"]);
        host.warden.take().unwrap().kill();
        let started = Instant::now();
        submit(&client, ANNA).mail(ANNA.0, BOSS.0).unwrap();
        println!("a mail with the daemon gone: {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(delivered_within(5, "boss", 4));
        // The lock outlives the kill.
        host.warden = Some(Warden::start_again(&host.site.host));
        assert_eq!(attempt(&mut submit(&client, ANNA), ANNA.0, BOSS.0), 421);
        assert_eq!(host.warden().ask(&["list", "locks"]).len(), 1);
    });
}

#[test]
fn mail_of_a_held_account_waits_and_is_released() {
    isolated("accounts::mail_of_a_held_account_waits_and_is_released", || hold_and_release(true));
}

#[test]
fn mail_with_short_queue_ids_waits_and_is_released() {
    isolated("accounts::mail_with_short_queue_ids_waits_and_is_released", || hold_and_release(false));
}

fn hold_and_release(long_ids: bool) {
    let host = Host::start_with(Some(""), long_ids);
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
}

#[test]
fn a_thief_is_stopped_everywhere_and_let_in_again() {
    isolated("accounts::a_thief_is_stopped_everywhere_and_let_in_again", || {
        let host = Host::start(Some(RECIPES));
        let client = host.client(66);
        let mut live = submit(&client, ANNA);
        let mut reading = Dialog::imap(&client, MAIL_HOST[0]).unwrap();
        assert!(reading.imap_login(ANNA.0, ANNA.1).unwrap());
        let reads = || Dialog::imap(&client, MAIL_HOST[0]).unwrap().imap_login(ANNA.0, ANNA.1).unwrap();
        let submits = || Dialog::smtp(&client, MAIL_HOST[0], 587).unwrap().smtp_login(ANNA.0, ANNA.1).unwrap();
        // A mailbox that cannot be written now: its mail lies in the queue.
        fs::write(format!("{ROOT}/mail/slow"), "").unwrap();
        submit(&client, ANNA).mail(ANNA.0, "slow@example.test").unwrap();
        assert!(poll(Duration::from_secs(10), || queued("deferred") == 1));

        host.warden().ask(&["lock", "--full", "anna"]);
        assert_eq!(attempt(&mut live, ANNA.0, BOSS.0), 421);
        assert!(poll(Duration::from_secs(10), || !reads() && !submits()), "Dovecot lets the locked account in");
        // The first line may be the farewell.
        assert!(reading.is_dead() || reading.is_dead(), "an open session lives");
        assert!(poll(Duration::from_secs(10), || queued("hold") == 1));
        let status = &host.warden().ask(&["status"])[0];
        assert_eq!((&status["stopping"]["lock_path"]["hooks"], &status["has_lock_path"]), (&true.into(), &true.into()));

        host.warden().ask(&["unlock", "anna"]);
        assert!(poll(Duration::from_secs(10), || reads() && submits()), "the unlock did not reach Dovecot");
        assert_eq!(fs::read_to_string(format!("{ROOT}/etc/dovecot-deny")).unwrap(), "");
        assert_eq!(queued("hold"), 1, "an unlock lets no mail go");
        let left = host.warden().ask(&["list", "locks"]);
        // The message that was refused had a queue id by then, and may be counted as well.
        assert_eq!((left.len(), &left[0]["verb"]), (1, &"parked".into()));
        assert!(left[0]["parked"].as_u64().is_some_and(|parked| (1..=2).contains(&parked)), "{left:?}");
        fs::remove_file(format!("{ROOT}/mail/slow")).unwrap();
        host.warden().ask(&["release", "anna"]);
        let arrived = || fs::read_dir(format!("{ROOT}/mail/slow/new")).is_ok_and(|mut mails| mails.next().is_some());
        assert!(poll(Duration::from_secs(20), arrived), "{} on hold", queued("hold"));
        submit(&client, ANNA).mail(ANNA.0, BOSS.0).unwrap();
    });
}

#[test]
fn a_web_site_is_stopped_and_let_go_again() {
    isolated("accounts::a_web_site_is_stopped_and_let_go_again", || {
        let host = Host::start(Some(RECIPES));
        // What hands mail in for an ordinary user asks the usual place which others there may be.
        run("mount", &["--bind", "/run/site/etc", "/etc/postfix"]);
        let mail = || {
            let command = "printf 'Subject: from the site\\n\\nHello.\\n' | /usr/sbin/sendmail boss@example.test";
            Command::new("/bin/sh").args(["-c", command]).uid(33).gid(33).status().unwrap().success()
        };
        assert!(mail() && delivered_within(10, "boss", 1));
        host.warden().ask(&["lock", "local:33"]);
        assert!(poll(Duration::from_secs(10), || !mail()), "the web site still sends");
        // Others go on.
        let nobody = Command::new("/usr/sbin/sendmail").arg("boss@example.test").stdin(Stdio::null()).uid(65_534).gid(65_534).status();
        assert!(nobody.unwrap().success());
        host.warden().ask(&["unlock", "local:33"]);
        assert!(poll(Duration::from_secs(10), mail), "the unlock did not reach Postfix");
    });
}

#[test]
fn a_hook_runs_although_the_daemon_is_killed_after_the_decision() {
    isolated("accounts::a_hook_runs_although_the_daemon_is_killed_after_the_decision", || {
        let mut host = Host::start(Some(RECIPES));
        let denied = || fs::read_to_string(format!("{ROOT}/etc/dovecot-deny")).unwrap();
        // The helper is hung, so that the errand cannot be over when the daemon dies.
        let pid = nix::unistd::Pid::from_raw(host.helper.as_ref().unwrap().child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        host.warden().ask(&["lock", "--full", "anna"]);
        host.warden.take().unwrap().kill();
        // And the helper with it.
        host.helper = None;
        assert_eq!(denied(), "");
        host.helper = Some(Helper::start(RECIPES));
        host.warden = Some(Warden::start_again(&host.site.host));
        assert!(poll(Duration::from_secs(10), || denied() == format!("{}:\n", ANNA.0)), "{}", denied());
        // Once it is done, it is not done again.
        let done = || fs::read_to_string(format!("{ROOT}/hookd/done")).unwrap_or_default().lines().count();
        assert!(poll(Duration::from_secs(5), || done() >= 1));
        let before = done();
        host.warden.take().unwrap().kill();
        host.warden = Some(Warden::start_again(&host.site.host));
        thread::sleep(Duration::from_secs(2));
        assert_eq!((done(), denied()), (before, format!("{}:\n", ANNA.0)));
    });
}

/// A session that was passed over while the daemon hung or was away is asked about again as soon as it is back.
#[test]
fn a_session_is_asked_about_again_when_the_daemon_is_back() {
    isolated("accounts::a_session_is_asked_about_again_when_the_daemon_is_back", || {
        let mut host = Host::start(None);
        let client = host.client(20);
        let mut session = submit(&client, ANNA);
        session.mail(ANNA.0, BOSS.0).unwrap();
        host.warden().hang();
        session.mail(ANNA.0, BOSS.0).unwrap();
        host.warden().go_on();
        host.warden().ask(&["lock", "anna"]);
        assert_eq!(attempt(&mut session, ANNA.0, BOSS.0), 421);
        host.warden().ask(&["unlock", "anna"]);

        let mut session = submit(&client, ANNA);
        session.mail(ANNA.0, BOSS.0).unwrap();
        host.warden().ask(&["lock", "anna"]);
        host.warden.take().unwrap().kill();
        session.mail(ANNA.0, BOSS.0).unwrap();
        host.warden = Some(Warden::start_again(&host.site.host));
        assert_eq!(attempt(&mut session, ANNA.0, BOSS.0), 421);
    });
}
