//! The configuration: what is refused and in which words, what is taken, and that the shipped files and the documentation hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailwarden::config::{self, Config, Paths, Report};
use mailwarden::engine::jail::{Action, Measure, Mode, Scope, Window};

const FILTER: &str =
    "[filter]\nname = 'postfix'\nprograms = ['postfix']\n[[pattern]]\nname = 'connect'\nkind = 'connect'\nline = 'connect from <client>'\n";
const FILTERS: [(&str, &str); 1] = [("filters/postfix.toml", FILTER)];

fn load(files: &[(&str, &str)]) -> Result<Config, Report> {
    let all: Vec<(&str, &str)> = FILTERS.iter().chain(files).copied().collect();
    config::load_texts(&all)
}

/// The messages for `files` begin lines with each of `expected`.
fn check_files(files: &[(&str, &str)], expected: &[&str]) {
    let report = match load(files) {
        Ok(config) => config.warnings.to_string(),
        Err(report) => report.to_string(),
    };
    for text in expected {
        assert!(report.contains(text), "no {text:?} in:\n{report}\nfor:\n{files:#?}");
    }
}

/// One jail: its keys, what is told.
fn check(jail: &str, expected: &[&str]) {
    check_files(&[("jail.d/a.toml", &format!("[jail.x]\n{jail}"))], expected);
}

fn check_main(main: &str, expected: &[&str]) {
    check_files(&[("mailwarden.toml", main)], expected);
}

fn load_main(main: &str) -> Config {
    load(&[("mailwarden.toml", main)]).unwrap_or_else(|report| panic!("{report}\n{main}"))
}

const SOUND: &str = "on = \"auth-failure\"\nmaxretry = 6\n";

fn sound_and(rest: &str) -> String {
    format!("{SOUND}{rest}")
}

#[test]
fn a_mistake_is_told_with_its_place_its_line_and_a_caret() {
    let expected =
        "jail.d/a.toml:4:10: unknown filter \"postfx\"\n  |\n4 | filter = \"postfx\"\n  |          ^^^^^^^^ did you mean \"postfix\"?\n";
    check(&sound_and("filter = \"postfx\""), &[expected]);
}

#[test]
fn unknown_words_get_a_suggestion() {
    let cases = [
        ("max_retry = 5", &["jail.d/a.toml:4:1: unknown key \"max_retry\" in a jail", "did you mean \"maxretry\"?"][..]),
        ("findTime = 5", &["unknown key \"findTime\"", "did you mean \"findtime\"?"]),
        ("where = { service = \"impa\" }", &["jail.d/a.toml:4:21: unknown service \"impa\"", "did you mean \"imap\"?"]),
        ("where = { service = \"!impa\" }", &["unknown service \"impa\"", "did you mean \"imap\"?"]),
        ("where = { services = \"imap\" }", &["unknown key \"services\" in `where`", "did you mean \"service\"?"]),
        (
            "where = { reason = [\"relay\", \"bad_password\"] }",
            &["4:30: unknown reason \"bad_password\"", "did you mean \"bad-password\"?"],
        ),
        ("where = { has_account = true }", &["unknown key \"has_account\"", "did you mean \"has-account\"?"]),
        ("scope = \"submissions\"", &["unknown scope \"submissions\"", "did you mean \"submission\"?"]),
        ("scope = \"zebra\"", &["unknown scope \"zebra\"", "there are: mx, submission, mailbox, auth, mail, web, ssh, all"]),
        ("then = \"bann\"", &["unknown action \"bann\"", "did you mean \"ban\"?"]),
        ("then = [\"ban_contributors\"]", &["unknown action", "did you mean \"ban-contributors\"?"]),
        ("mode = \"observed\"", &["unknown mode", "did you mean \"observe\"?"]),
        ("key = \"ip+acount\"", &["unknown key to count by \"acount\"", "did you mean \"account\"?"]),
        ("measure = \"distinct acount\"", &["unknown thing to tell apart \"acount\"", "did you mean \"account\"?"]),
        ("measure = \"distinkt account\"", &["unknown measure \"distinkt account\"", "did you mean \"distinct account\"?"]),
        ("unless = [\"knowngood\"]", &["unknown exception \"knowngood\"", "did you mean \"known-good\"?"]),
        ("forgive = \"auth_success\"", &["did you mean \"auth-success\"?"]),
        ("window = \"slide\"", &["unknown window", "did you mean \"sliding\"?"]),
        ("weight = { unknown-usr = 2 }", &["unknown reason \"unknown-usr\"", "did you mean \"unknown-user\"?"]),
        ("[jail.x.override.\"a@b\"]\nfaktor = 2", &["unknown key \"faktor\" in an override", "did you mean \"factor\"?"]),
        ("port = \"smtp\"", &["unknown key \"port\"", "are named by `scope`"]),
        ("logpath = \"/var/log/mail.log\"", &["said by [[source]] in mailwarden.toml"]),
        ("failregex = \"x\"", &["patterns stand in filters/*.toml"]),
        ("ignoreip = \"127.0.0.1\"", &["stands in [allow]"]),
    ];
    for (jail, expected) in cases {
        check(&sound_and(jail), expected);
    }
    check("on = \"auth_failure\"\nlimit = 1", &["unknown kind of event \"auth_failure\"", "did you mean \"auth-failure\"?"]);
    check_files(&[("jail.d/a.toml", "[jails.x]\n")], &["jail.d/a.toml:1:2: unknown key \"jails\"", "did you mean \"jail\"?"]);
    check_files(&[("jail.d/a.toml", "[allow]\n")], &["unknown key \"allow\"", "this stands in mailwarden.toml"]);
    check_main("[jail.x]\n", &["mailwarden.toml:1:2: unknown key \"jail\"", "jails stand in jail.d/*.toml"]);
}

#[test]
fn look_ups_are_configured() {
    use mailwarden::geo::{Entry, Listed, Nature};
    let here = root().join("tests/geo");
    let text = format!(
        "[geo]\ndatabase = [\"{0}/city.mmdb\", \"{0}/asn.mmdb\"]\nembedded = false\nrelays = [\"192.0.2.7/24\", \"!AS13335\"]\nmobile = \"AS64500\"\n",
        here.display()
    );
    let geo = load_main(&text).geo;
    assert_eq!(geo.databases, Some(vec![here.join("city.mmdb"), here.join("asn.mmdb")]));
    assert!(!geo.embedded);
    let listed = |text, nature| Listed { entry: Entry::parse(text).unwrap(), nature };
    let expected = [listed("AS64500", Nature::Mobile), listed("192.0.2.0/24", Nature::Relay), listed("AS13335", Nature::Ordinary)];
    assert_eq!(geo.listed, expected);
    assert_eq!(load_main("").geo, mailwarden::geo::Settings::default());

    check_main(
        "[geo]\nrelays = \"example.org\"\n",
        &["mailwarden.toml:2:10: \"example.org\" is neither a network nor an AS number", "AS64500"],
    );
    check_main("[geo]\nmobile = \"!AS64500\"\n", &["2:10: the list that is shipped has no such entry to take out"]);
    check_main("[geo]\ndatabase = \"GeoLite2.mmdb\"\n", &["is not an absolute path"]);
    check_main("[geo]\ndatabase = [\"/a\", \"/a\"]\n", &["/a stands here twice"]);
    check_main("[geo]\ndatabases = []\n", &["unknown key \"databases\" in [geo]", "did you mean \"database\"?"]);
    let absent = load_main("[geo]\ndatabase = \"/nowhere/a.mmdb\"\n");
    assert!(absent.warnings.to_string().contains("mailwarden.toml:2:12: warning: /nowhere/a.mmdb: No such file"), "{}", absent.warnings);
}

#[test]
fn wrong_types_and_values_are_refused() {
    let cases = [
        ("findtime = true", "4:12: expected a duration such as \"10m\", found true or false"),
        ("findtime = 0", "4:12: a duration of zero"),
        ("findtime = \"0m\"", "a duration of zero"),
        ("findtime = \"10 minits\"", "unknown unit of time \"minits\""),
        ("findtime = \"ten\"", "a duration needs a number, not \"ten\""),
        ("findtime = \"10m5\"", "a duration needs a unit behind each number"),
        ("findtime = \"forever\"", "only a ban can last for ever"),
        ("findtime = -1", "only a ban can last for ever"),
        ("findtime = 10.5", "found a number with a fraction"),
        ("bantime = -5", "a duration needs a number, not \"-5\""),
        ("bantime = \"2000w\"", "longer than ten years"),
        ("bantime = \"\"", "an empty duration"),
        ("findtime = \"60w\"", "a findtime above 400 days"),
        ("filter = 5", "expected a string, found a number"),
        ("filter = [\"postfix\", 5]", "4:22: expected a string, found a number"),
        ("enabled = \"yes\"", "expected true or false, found a string"),
        ("where = \"smtp\"", "expected the table `where`, found a string"),
        ("where = { ip = \"192.0.2.0/33\" }", "\"192.0.2.0/33\" is neither an address nor a network"),
        ("where = { ip = \"mail.example.org\" }", "host names are not looked up"),
        ("where = { code = 99 }", "\"99\" is no reply code"),
        ("where = { code = \"5x\" }", "\"5x\" is no reply code"),
        ("where = { account = \"\" }", "an empty account name"),
        ("where = { service = [] }", "an empty list in `where`"),
        ("limit = 5", "`limit` says again what another key of this table says"),
        ("key = \"ip+ip\"", "\"ip\" stands twice in the key"),
        ("key = \"global+ip\"", "nothing can be joined to it"),
        ("key = \"account\"", "\"ban\" needs an address, and the key \"account\" has none"),
        ("key = \"account\"", "then = [\"ban-contributors\"] bans the strangers"),
        ("key = \"domain\"\nthen = \"hold\"", "\"hold\" needs an account, and the key \"domain\" has none"),
        ("key = \"account\"\nthen = \"lock\"", "failures never lock an account"),
        ("measure = \"distinct ip\"", "there is one ip for each key"),
        ("measure = \"distinct\"", "\"distinct\" of what?"),
        ("measure = \"burst\"", "unknown measure \"burst\""),
        ("measure = \"new moon\"", "unknown thing that can be new \"moon\""),
        ("limit = \"4 apples\"", "\"4 apples\" is no limit"),
        ("measure = \"ratio bounced\"\nlimit = \"120%\"", "a limit above 100"),
        ("key = \"ip\"\nscore = 40", "`score` needs an account"),
        ("measure = \"new country\"", "has no account"),
        ("measure = \"distinct account\"\nweight = { relay = 2 }", "`weight` is for measure = \"count\""),
        ("key = \"account\"\nscore = 40", "a failed login never counts against an account"),
        ("key = \"account\"\nthen = \"slow\"", "\"slow\" is not available yet"),
        ("[jail.x.override.\"a@b\"]\nfactor = 2", "`override` needs an account"),
        ("steps = [{ limit = 5, then = \"alert\" }]", "`limit` beside `steps`"),
        ("[jail.x.override.\"a@b\"]", "an override that changes nothing"),
        ("[jail.x.override.\"a@b\"]\nclass = \"bulk\"", "unknown class \"bulk\""),
        ("[jail.x.override.\"a@b\"]\nfactor = 0", "factor 0 is not between"),
        ("[jail.x.override.\"a@b\"]\nlimit = 0", "`exempt = true` leaves it alone"),
        ("[jail.x.override.bulk]\nclass = \"x\"", "a class in a class"),
    ];
    for (jail, expected) in cases {
        check(&sound_and(jail), &[expected]);
    }
}

#[test]
fn limits_and_steps_are_checked() {
    let cases = [
        ("", "jail.d/a.toml:1:7: jail \"x\" has no limit"),
        ("maxretry = 0", "3:12: a limit of 0 is reached before anything happens"),
        ("maxretry = -1", "-1 is below zero"),
        ("maxretry = 5.5", "expected a number, found a number with a fraction"),
        ("maxretry = \"5\"", "expected a number, found a string"),
        ("maxretry = 99999999999", "a limit above 65536"),
        ("limit = 5000\nmeasure = \"distinct account\"", "a limit above 4096"),
        ("steps = []", "`steps` without a step"),
        ("steps = [{ then = \"ban\" }]", "a step without `limit`"),
        ("steps = [{ limit = 5 }]", "a step that does nothing"),
        ("steps = [{ limit = 5, then = \"ban\" }, { limit = 5, then = \"ban\" }]", "3:49: the limits of the steps do not rise: 5 after 5"),
    ];
    for (jail, expected) in cases {
        check(&format!("on = \"auth-failure\"\n{jail}"), &[expected]);
    }
    check("maxretry = 3", &["jail \"x\" does not say `on` which events", "there are: auth-failure, "]);
    check("on = []\nmaxretry = 3", &["does not say `on`"]);
    check("on = [\"banned\", \"held\"]\nmaxretry = 3", &["jail.d/a.toml:2:17: \"held\" is never counted"]);
    check("on = \"locked\"\nmaxretry = 3", &["jail.d/a.toml:2:6: \"locked\" is never counted"]);
}

#[test]
fn a_mistaken_value_is_not_also_missing() {
    let sshd = include_str!("../filters/sshd.toml").replace("programs = [\"sshd\"", "programs = \"sshd\" # [");
    for (file, text, problems) in [
        ("jail.d/a.toml", "[jail.x]\non = \"auth-failure\"\nmaxretry = \"six\"\n", 1),
        ("mailwarden.toml", "[[source]]\nkind = \"jurnal\"\n", 1),
        ("mailwarden.toml", "[[source]]\nkind = \"file\"\npath = \"mail.log\"\n", 1),
        ("mailwarden.toml", "[[source]]\n[[source]]\nkind = \"file\"\n", 2),
        ("filters/sshd.toml", &sshd, 1),
    ] {
        let report = load(&[(file, text)]).unwrap_err();
        assert_eq!(report.problems().len(), problems, "{report}");
    }
}

#[test]
fn a_change_of_a_misspelt_jail_names_the_one_that_is_meant() {
    let files =
        [("jail.d/a.toml", "[jail.auth]\non = \"auth-failure\"\nmaxretry = 6\n"), ("jail.d/b.toml", "[jail.atuh]\nenabled = false\n")];
    let report = load(&files).unwrap_err();
    assert_eq!(report.problems().len(), 1, "{report}");
    assert!(report.to_string().contains("there is no jail \"atuh\" to change") && report.to_string().contains("did you mean \"auth\"?"));
}

#[test]
fn names_of_jails() {
    for (name, expected) in [
        ("\"a b\"", "cannot be the name of a jail"),
        ("\"\"", "cannot be the name"),
        ("manual", "by hand"),
        ("risk", "\"risk\" is the name"),
        ("widening", "\"widening\" is the name"),
        ("forged", "\"forged\" is the name"),
    ] {
        check_files(&[("jail.d/a.toml", &format!("[jail.{name}]\n{SOUND}"))], &[expected]);
    }
}

#[test]
fn all_mistakes_of_all_files_are_told_at_once() {
    let files = [
        ("mailwarden.toml", "[log]\nlevel = \"loud\"\n[allow]\nignoreip = [\"nonsense\"]\n"),
        ("jail.d/10-a.toml", "[jail.a]\non = \"auth-failure\"\nmaxretry = 0\nfindtime = 0\nfilter = \"nope\"\n"),
        ("jail.d/20-b.toml", "[jail.b\n"),
        ("jail.d/30-c.toml", "[jail.c]\non = \"rejects\"\nmaxretry = 3\n[jail.c2]\nmaxretry = 3\nmaxretry = 4\n"),
    ];
    let report = load(&files).unwrap_err().to_string();
    let places = [
        "mailwarden.toml:2:9: unknown log level",
        "mailwarden.toml:4:13: \"nonsense\" is neither",
        "jail.d/10-a.toml:3:12: a limit of 0",
        "jail.d/10-a.toml:4:12: a duration of zero",
        "jail.d/10-a.toml:5:10: unknown filter \"nope\"",
        "jail.d/20-b.toml:1:",
        "jail.d/30-c.toml:2:6: unknown kind of event \"rejects\"",
        "jail.d/30-c.toml:6:1: duplicate key",
    ];
    let mut rest = report.as_str();
    for place in places {
        let at = rest.find(place).unwrap_or_else(|| panic!("no {place:?}, in this order, in:\n{report}"));
        rest = &rest[at..];
    }
    assert_eq!(report.lines().filter(|line| line.contains(".toml:")).count(), places.len(), "{report}");
}

#[test]
fn mistakes_of_filters_are_told_with_the_others() {
    let files = [
        ("filters/x.toml", "[filter]\nname = 'x'\nprograms = ['x']\n[[pattern]]\nname = 'p'\nkind = 'rejct'\nline = 'y <cliant>'\n"),
        ("jail.d/a.toml", "[jail.x]\non = \"reject\"\nmaxretry = 0\nfilter = \"x\"\n"),
    ];
    let report = load(&files).unwrap_err().to_string();
    for expected in [
        "filters/x.toml:6:8: unknown kind \"rejct\"",
        "did you mean \"reject\"?",
        "filters/x.toml:7:11: unknown field",
        "jail.d/a.toml:3:12: a limit of 0",
    ] {
        assert!(report.contains(expected), "no {expected:?} in:\n{report}");
    }
    assert!(!report.contains("unknown filter"), "{report}");
}

#[test]
fn the_same_jail_twice_in_a_file_is_a_mistake() {
    check_files(&[("jail.d/a.toml", &format!("[jail.x]\n{SOUND}[jail.x]\n{SOUND}"))], &["jail.d/a.toml:4:7: duplicate key"]);
}

#[test]
fn a_later_file_overrides_single_keys() {
    let first = "[jail.x]\non = \"auth-failure\"\nkey = \"ip+account\"\nmaxretry = 6\nfindtime = \"10m\"\nbantime = \"1h\"\n[jail.x.override.\"a@b\"]\nfactor = 2\n";
    let second = "[jail.x]\nlimit = 3\nbantime = -1\nmode = \"observe\"\n[jail.x.override.\"c@d\"]\nexempt = true\n";
    let config = load(&[("jail.d/10.toml", first), ("jail.d/20.toml", second)]).unwrap();
    let jail = &config.jails[0];
    assert_eq!(config.jails.len(), 1);
    assert_eq!(jail.steps[0].limit, 3);
    assert_eq!(jail.findtime, Duration::from_secs(600));
    assert_eq!(jail.ban.bantime, None);
    assert_eq!(jail.mode, Mode::Observe);
    assert_eq!(jail.overrides.len(), 2);

    let off = load(&[("jail.d/10.toml", first), ("jail.d/20.toml", "[jail.x]\nenabled = false\n")]).unwrap();
    assert!(off.jails.is_empty());
    assert!(off.warnings.to_string().contains("no jail is enabled"));

    let ladder = "[jail.x]\nsteps = [{ limit = 2, then = \"alert\" }, { limit = 9, then = \"ban\" }]\n";
    let stepped = load(&[("jail.d/10.toml", first), ("jail.d/20.toml", ladder)]).unwrap();
    assert_eq!(stepped.jails[0].steps.len(), 2);
}

#[test]
fn a_mistake_in_a_merged_jail_is_told_where_it_stands() {
    let first = "[jail.x]\non = \"auth-failure\"\nmaxretry = 6\n";
    check_files(
        &[("jail.d/10.toml", first), ("jail.d/20.toml", "[jail.x]\nfilter = \"nope\"\n")],
        &["jail.d/20.toml:2:10: unknown filter"],
    );
    check_files(&[("jail.d/10.toml", first), ("jail.d/20.toml", "[jail.x]\nkey = \"account\"\n")], &["jail.d/20.toml:2:7: \"ban\" needs"]);
}

#[test]
fn what_is_left_out_has_a_sensible_value() {
    let jail = |text: &str| load(&[("jail.d/a.toml", &format!("[jail.x]\n{text}"))]).unwrap().jails.remove(0);
    let plain = jail(SOUND);
    assert_eq!(plain.measure, Measure::Count);
    assert_eq!(plain.window, Window::Sliding);
    assert_eq!(plain.mode, Mode::Enforce);
    assert_eq!(plain.findtime, Duration::from_secs(600));
    assert_eq!(plain.ban.bantime, Some(Duration::from_secs(3_600)));
    assert_eq!(plain.steps[0].then, [Action::Ban]);
    let scopes = [
        ("on = \"auth-failure\"", Scope::Auth),
        ("on = [\"reject\", \"protocol-abuse\"]", Scope::Mx),
        ("on = [\"reject\", \"auth-failure\"]", Scope::Mail),
        ("on = \"banned\"", Scope::Mail),
        ("on = \"auth-failure\"\nwhere = { service = \"ssh\" }", Scope::Ssh),
        ("on = \"auth-failure\"\nwhere = { service = [\"smtp\", \"submission\"] }", Scope::Mail),
        ("on = \"reject\"\nwhere = { service = [\"submission\"] }", Scope::Submission),
    ];
    for (text, scope) in scopes {
        assert_eq!(jail(&format!("maxretry = 1\n{text}")).ban.scope, scope, "{text}");
    }
}

#[test]
fn warnings_do_not_refuse() {
    let cases = [
        (sound_and("where = { service = \"smtp\" }\nscope = \"auth\""), "a ban of scope \"auth\" leaves smtp open"),
        (sound_and("where = { service = [\"ssh\", \"imap\"] }\nscope = \"mailbox\""), "leaves ssh open"),
    ];
    for (jail, expected) in cases {
        let config = load(&[("jail.d/a.toml", &format!("[jail.x]\n{jail}"))]).unwrap();
        assert!(config.warnings.to_string().contains(expected), "{}", config.warnings);
    }
    for (main, expected) in [
        ("[allow]\nmynetworks = [\"127.0.0.0/8\", \"203.0.113.0/24\"]", "2:30: warning: 203.0.113.0/24 is wide and public"),
        ("[allow]\nignoreip = \"0.0.0.0/0\"", "nobody in it is ever banned"),
    ] {
        let config = load(&[("mailwarden.toml", main)]).unwrap();
        assert!(config.warnings.to_string().contains(expected), "{}", config.warnings);
    }
}

#[test]
fn the_main_file_is_checked() {
    let cases = [
        ("nonsense", "mailwarden.toml:1:"),
        ("[accounts]\nextension = \"++\"", "\"++\" is no delimiter"),
        ("[accounts]\ndefault_domain = \"a@b\"", "\"a@b\" is not a domain"),
        ("[accounts]\ndomain_aliases = { \"a.example\" = \"A.example\" }", "is an alias of itself"),
        ("[accounts]\naliases = \"relative\"", "is not an absolute path"),
        ("[accounts]\naliases = \"/nonexistent/aliases\"", "/nonexistent/aliases: cannot read: No such file"),
        ("[allow]\nignoreip = \"file:/nonexistent/list\"", "2:12: cannot use /nonexistent/list"),
        ("[allow]\nmynetworks = [\"auto\", \"10.0.0.0/8\"]", "\"auto\" cannot stand beside networks"),
        ("[bans]\nfactor = 0.5", "factor 0.5 is not between 1 and 1000"),
        ("[bans]\nmemory = -1", "only a ban can last for ever"),
        ("[bans.widen]\nenabled = 1", "expected true or false, found a number"),
        ("[[source]]\nname = \"x\"", "a source without `kind`"),
        ("[[source]]\nkind = \"files\"", "unknown kind of source \"files\""),
        ("[[source]]\nkind = \"file\"", "a file source without `path`"),
        ("[[source]]\nkind = \"journal\"\npath = \"/x\"", "`path` means nothing for a source of kind \"journal\""),
        ("[[source]]\nkind = \"socket\"\n[[source]]\nkind = \"socket\"", "two sources are called \"socket\""),
        ("[[source]]\nkind = \"socket\"\n[[source]]\nkind = \"socket\"\nname = \"b\"", "read the same input"),
        ("[[source]]\nkind = \"journal\"\n[[source]]\nkind = \"file\"\npath = \"/var/log/mail.log\"", "mailwarden.toml:3:1: sources"),
        ("[[source]]\nkind = \"journal\"\n[[source]]\nkind = \"file\"\npath = \"/var/log/mail.log\"", "both carry mail"),
        ("[[source]]\nkind = \"socket\"\nfacilities = \"mial\"", "unknown facility \"mial\""),
        ("[[source]]\nkind = \"journal\"\ntrusted = true", "`trusted` means nothing for a source of kind \"journal\""),
        ("[trust]\n\"*\" = [0]", "\"*\" is not the name of a program"),
        ("[trust]\nroundcube = [-1]", "-1 is below zero"),
        ("[trust]\nroundcube = [true]", "expected a user name or a uid"),
        ("[enforcement]\ntable = \"a-b\"", "\"a-b\" cannot be the name of a table"),
        ("[enforcement]\nfeatures_off = [\"owner_persist\"]", "did you mean \"owner-persist\"?"),
        ("[enforcement]\nreject = [\"smtp\"]", "unknown scope \"smtp\""),
        ("[state]\ndir = \"state\"", "is not an absolute path"),
        ("[control]\nsockets = \"/x\"", "did you mean \"socket\"?"),
        ("[log]\nto = \"jornal\"", "did you mean \"journal\"?"),
    ];
    for (main, expected) in cases {
        check_main(main, &[expected]);
    }
    assert!(load(&[("mailwarden.toml", "[[source]]\nkind = \"journal\"\nforce = true\n[[source]]\nkind = \"socket\"")]).is_ok());
}

#[test]
fn files_that_cannot_be_read_are_told_with_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let jails = dir.path().join("jail.d");
    fs::create_dir(&jails).unwrap();
    fs::write(jails.join("10-latin.toml"), b"# ok\n# caf\xe9\n").unwrap();
    fs::write(jails.join("20-bad.toml"), "[jail.x]\non = \"nothing\"\nmaxretry = 1\n").unwrap();
    fs::create_dir(jails.join("30-dir.toml")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", jails.join("40-gone.toml")).unwrap();
    fs::write(jails.join(".hidden.toml"), "junk").unwrap();
    fs::write(jails.join("old.toml.bak"), "junk").unwrap();
    let report = config::load(&Paths::in_dir(dir.path())).unwrap_err().to_string();
    let expected =
        ["10-latin.toml:2:6: not UTF-8", "20-bad.toml:2:6: unknown kind", "30-dir.toml: not a regular file", "40-gone.toml: cannot read"];
    for text in expected {
        assert!(report.contains(text), "no {text:?} in:\n{report}");
    }
    assert_eq!(report.lines().filter(|line| line.contains(".toml")).count(), expected.len(), "{report}");
    let missing = config::load(&Paths::in_dir(Path::new("/nonexistent"))).unwrap_err().to_string();
    assert_eq!(missing.trim(), "/nonexistent: no such directory");
}

#[test]
fn the_administrators_file_replaces_the_shipped_one_of_the_same_name() {
    let dir = tempfile::tempdir().unwrap();
    let (shipped, own) = (dir.path().join("share"), dir.path().join("etc"));
    for base in [&shipped, &own] {
        fs::create_dir_all(base).unwrap();
    }
    fs::write(shipped.join("10-a.toml"), format!("[jail.a]\n{SOUND}")).unwrap();
    fs::write(shipped.join("20-b.toml"), format!("[jail.b]\n{SOUND}")).unwrap();
    fs::write(own.join("10-a.toml"), "").unwrap();
    fs::write(own.join("15-b.toml"), "[jail.b]\nmaxretry = 1\n").unwrap();
    let mut paths = Paths::in_dir(dir.path());
    paths.jail_dirs = vec![shipped, own];
    let config = config::load(&paths).unwrap();
    let names: Vec<&str> = config.jails.iter().map(|jail| jail.name.as_str()).collect();
    assert_eq!(names, ["b"]);
    assert!(config.warnings.to_string().contains("comes later and overrides jail \"b\""), "{}", config.warnings);
}

#[test]
fn a_change_that_a_later_file_overrules_is_told() {
    let change = "[jail.x]\nmaxretry = 10\noverride.\"a@b\".factor = 2\n";
    let jail = format!("[jail.x]\n{SOUND}key = \"account\"\nthen = \"alert\"\noverride.\"c@d\".factor = 2\n");
    let expected = "jail.d/05-local.toml:2:12: warning: this has no effect: jail.d/10-logins.toml comes later and says it again";
    let warnings = |files: &[(&str, &str)]| load(files).unwrap_or_else(|report| panic!("{report}")).warnings.to_string();
    let told = warnings(&[("jail.d/05-local.toml", change), ("jail.d/10-logins.toml", &jail)]);
    assert!(told.contains(expected) && told.matches("no effect").count() == 1, "{told}");
    // Two changes of one thing: the earlier has no effect.
    let told = warnings(&[("jail.d/10-logins.toml", &jail), ("jail.d/90-a.toml", change), ("jail.d/95-b.toml", change)]);
    assert!(told.contains("jail.d/90-a.toml:2:12: warning: this has no effect: jail.d/95-b.toml"), "{told}");
    // What a change is for.
    assert_eq!(warnings(&[("jail.d/10-logins.toml", &jail), ("jail.d/90-local.toml", change)]), "");
    assert_eq!(warnings(&[("jail.d/05-local.toml", "[jail.x]\nbantime = \"2h\"\n"), ("jail.d/10-logins.toml", &jail)]), "");
}

#[test]
fn files_that_are_not_read_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["jail.d", "filters"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        for file in ["local.conf", "a.toml.off", "b.toml~", ".c.swp", "README", "d"] {
            fs::write(dir.path().join(name).join(file), "maxretry = 1").unwrap();
        }
        fs::create_dir(dir.path().join(name).join("old")).unwrap();
    }
    fs::write(dir.path().join("jail.d/x.toml"), format!("[jail.x]\n{SOUND}")).unwrap();
    let warnings = config::load(&Paths::in_dir(dir.path())).unwrap().warnings.to_string();
    for part in ["jail.d/local.conf is not read", "jail.d/d is not read", "filters/local.conf is not read", "filters/d is not read"] {
        assert!(warnings.contains(part), "no {part} in\n{warnings}");
    }
    assert_eq!(warnings.matches("is not read").count(), 4, "{warnings}");
}

#[test]
fn an_empty_filter_file_removes_the_shipped_one() {
    let dir = tempfile::tempdir().unwrap();
    let (shipped, own) = (dir.path().join("share"), dir.path().join("etc"));
    for base in [&shipped, &own] {
        fs::create_dir_all(base).unwrap();
    }
    fs::write(shipped.join("postfix.toml"), FILTER).unwrap();
    fs::write(shipped.join("sshd.toml"), FILTER.replace("postfix", "sshd")).unwrap();
    let mut paths = Paths::in_dir(dir.path());
    paths.filter_dirs = vec![shipped, own.clone()];
    assert_eq!(config::load(&paths).unwrap().filters.names(), ["postfix", "sshd"]);
    for text in ["", "\n", "# not here\n  # at all\n"] {
        fs::write(own.join("sshd.toml"), text).unwrap();
        let config = config::load(&paths).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(config.filters.names(), ["postfix"], "{text:?}");
    }
}

#[test]
fn lists_are_read_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let (ignore, aliases) = (dir.path().join("ignore"), dir.path().join("aliases"));
    fs::write(&ignore, "# office\n192.0.2.7/24 # with host bits\n\n::ffff:198.51.100.1\n").unwrap();
    fs::write(&aliases, "Info@Example.org anna@example.org\n").unwrap();
    let main = format!("[allow]\nignoreip = \"file:{}\"\n[accounts]\naliases = \"{}\"\n", ignore.display(), aliases.display());
    let config = load(&[("mailwarden.toml", &main)]).unwrap();
    let shown: Vec<String> = config.allow.ignoreip.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["192.0.2.0/24", "198.51.100.1/32"]);
    assert_eq!(config.accounts.aliases["info@example.org"], "anna@example.org");

    fs::write(&ignore, "192.0.2.7\nexample.org\n").unwrap();
    fs::write(&aliases, "one two three\n").unwrap();
    check_main(&main, &["ignore:2:1: \"example.org\" is neither", "aliases:1:1: not an alias and an account"]);
}

#[test]
fn no_text_makes_it_panic() {
    let shipped: Vec<String> = shipped_files().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below.max(1) as u64) as usize
    };
    for _ in 0..2_000 {
        let mut text: Vec<char> = shipped[random(shipped.len())].chars().collect();
        for _ in 0..random(6) {
            let at = random(text.len());
            match random(3) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, ['"', '[', ']', '{', '\n', '=', 'é', '-', '\u{0}', '9'][random(10)]),
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        for name in ["mailwarden.toml", "jail.d/a.toml"] {
            if let Err(report) = load(&[(name, &text)]) {
                let _ = report.render(true);
            }
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shipped_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("jail.d")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(root().join("mailwarden.toml"));
    files.sort();
    files
}

fn shipped() -> Vec<(String, String)> {
    let shown = |path: &PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    shipped_files().iter().map(|path| (shown(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn what_is_shipped_is_clean() {
    let config = config::load(&Paths::in_dir(&root())).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    assert!(config.jails.len() >= 9);
    for jail in &config.jails {
        assert_eq!(jail.mode, Mode::Enforce, "{}", jail.name);
        assert!(jail.ban.bantime.is_some(), "{}: no shipped ban lasts for ever", jail.name);
        assert!(!matches!(jail.ban.scope, Scope::All | Scope::Web), "{}: closes more than its own doors", jail.name);
        assert!(jail.steps.iter().all(|step| !step.then.contains(&Action::Lock)), "{}: locks", jail.name);
    }
}

#[test]
fn who_is_told_is_checked() {
    let cases = [
        ("mail_to = \"root\"", "2:11: \"root\" is no mail address"),
        ("mail_to = [\"a@example.org\", \"A <b@example.org>\"]", "2:29: \"A <b@example.org>\" is no mail address"),
        ("mail_from = \"x\\r\\nBcc: y@example.org\"", "is no mail address"),
        ("smtp = \"127.0.0.1:smtp\"", "2:8: \"127.0.0.1:smtp\" is no mail server"),
        ("webhook = \"chat.example.com\"", "2:11: this is no URL"),
        ("digest = 0", "a duration of zero"),
        ("on = \"ban\"", "2:6: \"ban\": there are thousands of them a day"),
        ("on = \"locks\"", "did you mean \"lock\"?"),
        ("owner = true", "no `owners` says where"),
        ("mailto = \"x\"", "unknown key \"mailto\" in [notify]"),
    ];
    for (line, expected) in cases {
        check_main(&format!("[notify]\n{line}\n"), &[expected]);
    }
    let config = load(&[("mailwarden.toml", "[notify]\nmail_to = \"root@localhost\"\nsmtp = \"[::1]:2525\"\n")]).unwrap();
    assert_eq!((config.notify.mail_to.len(), config.notify.smtp.to_string().as_str()), (1, "[::1]:2525"));
}

#[test]
fn accounts_can_be_acted_on_without_a_time_of_learning() {
    let learning = |main: &str| load_main(main).risk.learning;
    assert_eq!(learning("[risk]\nlearning = \"0s\"\n"), Duration::ZERO);
    assert_eq!(learning("[risk]\nlearning = \"2d\"\n"), Duration::from_secs(172_800));
    assert_eq!(learning(""), Duration::from_secs(604_800));
    check_main("[risk]\nlearning = -1\n", &["2:12: only a ban can last for ever"]);
    check_main("[risk]\nlock_time = 0\n", &["2:13: a duration of zero"]);
}

#[test]
fn owners_are_told_elsewhere_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("owners");
    let main = format!("[accounts]\ndefault_domain = \"example.org\"\n[notify]\nowner = true\nowners = {path:?}\n");
    let load_with = |text: &str| {
        fs::write(&path, text).unwrap();
        load(&[("mailwarden.toml", &main)])
    };
    let config = load_with("# account, address\nAnna anna@example.net\n\nbob@example.org  bob@example.com # new\n").unwrap();
    assert_eq!(config.notify.contact("anna@example.org"), Some("anna@example.net"));
    assert_eq!(config.notify.contact("bob@example.org"), Some("bob@example.com"));
    assert_eq!(config.notify.contact("carl@example.org"), None);
    for itself in ["anna@example.org", "Anna@Example.ORG", "anna+private@example.org"] {
        let report = load_with(&format!("anna {itself}\n")).unwrap_err().to_string();
        assert!(report.contains(&format!("{itself} is the mailbox itself")) && report.contains("owners:1:1"), "{report}");
    }
    for (text, expected) in
        [("anna\n", "not an account and an address"), ("anna a b\n", "not an account"), ("anna x\n", "is no mail address")]
    {
        let report = load_with(text).unwrap_err().to_string();
        assert!(report.contains(expected), "{report}");
    }
}

/// What stands behind `#` in the shipped main file is what holds without it; but for these, which are examples.
const EXAMPLES: [&str; 10] =
    ["ignoreip", "relays", "default_domain", "domain_aliases", "aliases", "local_domains", "\"roundcube\"", "mail_to", "webhook", "owners"];

#[test]
fn the_comments_of_the_main_file_tell_the_defaults() {
    let text = fs::read_to_string(root().join("mailwarden.toml")).unwrap();
    let (mut defaults, mut sources) = (String::new(), String::new());
    let mut in_sources = false;
    for line in text.lines() {
        let setting = line.trim_start_matches('#').trim_start();
        let key = setting.split(" = ").next().unwrap_or_default();
        in_sources = (in_sources || line == "# [[source]]") && line != "[trust]";
        let is_setting = setting.starts_with('[') || (setting.contains(" = ") && !key.contains([' ', '`']));
        if is_setting && !EXAMPLES.contains(&key) {
            let into = if in_sources { &mut sources } else { &mut defaults };
            into.push_str(&format!("{setting}\n"));
        }
    }
    assert!(defaults.lines().count() > 25 && sources.lines().count() > 7, "{defaults}\n{sources}");
    let written = load(&[("mailwarden.toml", &defaults)]).unwrap_or_else(|report| panic!("{report}"));
    let default = load(&[]).unwrap();
    assert_eq!(written.accounts, default.accounts);
    assert_eq!(written.allow, default.allow);
    assert_eq!(written.bans, default.bans);
    assert_eq!(default.bans.sanction(), mailwarden::engine::EngineConfig::default().sanction);
    assert_eq!(written.enforcement, default.enforcement);
    assert_eq!(written.state, default.state);
    assert_eq!(written.control, default.control);
    assert_eq!(written.policy, default.policy);
    assert_eq!(written.helper, default.helper);
    assert_eq!(written.notify, default.notify);
    assert_eq!(written.log, default.log);
    let forced = sources.replace("kind =", "force = true\nkind =");
    load(&[("mailwarden.toml", &forced)]).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn the_documentation_lists_every_key_and_no_other() {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    for (table, keys) in mailwarden::config::raw::TABLES {
        let heading = format!("### `{table}`\n");
        let (_, section) = text.split_once(&heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
        let section = section.split("\n##").next().unwrap_or_default();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let mut documented: Vec<&str> = rows
            .filter_map(|row| row.split('|').nth(1))
            .flat_map(|cell| cell.split(", "))
            .map(|key| key.trim().trim_matches('`'))
            .collect();
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        documented.sort_unstable();
        assert_eq!(documented, keys, "{table}");
    }
}

#[test]
fn the_documentation_lists_every_word() {
    use mailwarden::engine::jail::{Distinct, KeyPart};
    use mailwarden::event::{EventKind, Reason, Service};
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let words = EventKind::ALL.iter().map(|word| word.as_str()).chain(Service::ALL.iter().map(|word| word.as_str()));
    let words = words.chain(Reason::ALL.iter().map(|word| word.as_str())).chain(KeyPart::ALL.iter().map(|word| word.as_str()));
    for word in words.chain(Action::ALL.iter().map(|word| word.as_str())).chain(Scope::ALL.iter().map(|word| word.as_str())) {
        assert!(text.contains(&format!("`{word}`")), "{word} is not documented");
    }
    for word in mailwarden::enforce::nft::Feature::ALL {
        assert!(text.contains(&format!("`{word}`")), "{word} is not documented");
    }
    for word in Distinct::ALL {
        assert!(text.contains(&format!("`distinct {word}`")), "distinct {word} is not documented");
    }
}

#[test]
fn the_examples_of_the_documentation_are_right() {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let examples: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() > 12);
    let shipped = shipped();
    for example in examples {
        let name = example.lines().next().unwrap_or_default().trim_start_matches("# ");
        let mut files: Vec<(&str, &str)> =
            shipped.iter().map(|(name, text)| (name.as_str(), text.as_str())).filter(|(other, _)| *other != name).collect();
        files.push((name, example));
        let config = load(&files).unwrap_or_else(|report| panic!("{report}\n{example}"));
        let warnings = config.warnings.to_string();
        assert!(warnings.is_empty(), "{warnings}");
    }
}
