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
        (&["lock", ""], 1),
        (&["lock", "a b"], 1),
        (&["lock", "a\nb"], 1),
        (&["lock", "-rf"], 2),
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
