//! When the host itself is wrong: its clock, its login database.

use super::*;

/// The clock was two hours ahead when it was saved, and is right now: nothing waits until it gets there.
#[test]
fn a_saved_future_blinds_no_window() {
    let mut world = World::new(vec![jail("auth")]);
    world.clock = 2 * HOUR;
    world.event(EventKind::AuthFailure, from("192.0.2.1", "anna@a.example"));
    let mut rows = Vec::new();
    world.engine.begin_snapshot();
    while !world.engine.next_slice(100, &mut rows) {}
    let mut other = World::new(vec![jail("auth")]);
    other.engine.restore(&rows);
    let mut told = Vec::new();
    for _ in 0..6 {
        told.extend(other.event(EventKind::AuthFailure, from("192.0.2.2", "anna@a.example")));
    }
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn customers_are_not_banned_while_nobody_gets_in() {
    let mut world = World::new(vec![jail("auth")]);
    let customers: Vec<String> = (1..=30).map(|n| format!("192.0.2.{n}")).collect();
    let fail = |world: &mut World, rounds: usize| {
        let mut told = Vec::new();
        for _ in 0..rounds {
            for ip in customers.iter().map(String::as_str).chain(["203.0.113.5"]) {
                told.extend(world.event(EventKind::AuthFailure, from(ip, "anna@a.example")));
            }
        }
        told
    };
    for ip in &customers {
        world.event(EventKind::AuthSuccess, from(ip, "anna@a.example"));
    }
    let mut told = fail(&mut world, 4);
    let mut by_ssh = from("192.0.2.200", "root");
    by_ssh.service = Service::Ssh;
    told.extend(world.event(EventKind::AuthSuccess, by_ssh));
    told.extend(fail(&mut world, 4));
    let told: Vec<_> = told.into_iter().filter(|told| !told.reason.contains("does not bite")).collect();
    let (bans, alerts): (Vec<_>, Vec<_>) = told.iter().partition(|told| told.verb == Verb::Ban);
    assert!(bans.len() == 1 && bans[0].subject == Subject::Net(net("203.0.113.5/32")), "a stranger is no customer: {bans:?}");
    assert!(alerts.len() == 1 && alerts[0].reason.contains("is the login database down?"), "{alerts:?}");
    world.event(EventKind::AuthSuccess, from(&customers[0], "anna@a.example"));
    let mut told = Vec::new();
    for _ in 0..6 {
        told.extend(world.event(EventKind::AuthFailure, from(&customers[1], "anna@a.example")));
    }
    assert_eq!(told.len(), 1, "who fails alone is banned: {told:?}");
}

#[test]
fn short_memory_lets_quiet_addresses_go_and_bans_the_hot_ones_all_the_same() {
    let day = Duration::from_secs(86_400);
    let mut world = World::new(vec![Jail { findtime: day, ..jail("auth") }]);
    let address = |n: u32| format!("2001:db8:{:x}:{:x}::1", n >> 16, n & 0xffff);
    let keys = |world: &World| world.engine.status().jails[0].keys;
    let flood = |world: &mut World, from: u32, count: u32| {
        for n in from..from + count {
            world
                .engine
                .handle_event(&Event { ip: address(n).parse().ok(), ..Event::new(EventKind::AuthFailure, world.now()) }, world.now());
        }
    };
    assert_eq!(world.fails(5, "192.0.2.7", "anna"), []);
    flood(&mut world, 0, 20_000);
    world.engine.set_tight(true);
    flood(&mut world, 20_000, 60_000);
    assert_eq!(keys(&world), 20_001);
    // A reload changes nothing of it.
    let config = EngineConfig { jails: vec![Jail { findtime: day, ..jail("auth") }], persist: true, ..EngineConfig::default() };
    world.engine.reconfigure(config, world.now());
    flood(&mut world, 80_000, 1_000);
    assert_eq!(keys(&world), 20_001);
    assert_eq!(world.fail("192.0.2.7", "anna").len(), 1, "who is near the limit was not forgotten");
    world.engine.set_tight(false);
    flood(&mut world, 90_000, 1_000);
    assert_eq!(keys(&world), 21_000);
}
