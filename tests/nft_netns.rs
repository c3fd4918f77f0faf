//! The firewall with a real kernel and real packets, each test in a network namespace of its own.

mod netns;

use std::time::{Duration, Instant};

use mailwarden::enforce::dry_run::DryRun;
use mailwarden::enforce::nft::{
    Applied, Change, Element, Feature, Kernel, NetlinkKernel, NftError, NftOptions, Remaining, TableMode, teardown,
};
use mailwarden::enforce::reconcile::Keeper;
use mailwarden::engine::jail::Scope;
use netns::{Host, alive, dead, inside, run, serve};

fn options(disabled: &[Feature]) -> NftOptions {
    NftOptions { disabled: disabled.to_vec(), ..NftOptions::default() }
}

fn start(disabled: &[Feature]) -> NetlinkKernel {
    NetlinkKernel::start(options(disabled)).unwrap_or_else(|error| panic!("{error}"))
}

fn element(net: impl ToString, scope: Scope, timeout: Option<Duration>) -> Element {
    Element { net: net.to_string().parse().unwrap(), scope, timeout }
}

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

#[track_caller]
fn all_taken(applied: Result<Applied, NftError>) {
    let applied = applied.unwrap_or_else(|error| panic!("{error}"));
    assert!(applied.refused.is_empty(), "{:?}", applied.refused);
}

/// Every set of features that can be forced off.
fn combinations() -> impl Iterator<Item = Vec<Feature>> {
    (0..1 << Feature::ALL.len()).map(|bits: usize| {
        let off = Feature::ALL.iter().enumerate().filter(|(index, _)| bits & 1 << index != 0);
        off.map(|(_, feature)| *feature).collect()
    })
}

#[track_caller]
fn remaining_is(kernel: &mut NetlinkKernel, element: &Element) {
    match (kernel.contains(element.net, element.scope).unwrap(), element.timeout) {
        (Some(Remaining::Forever), None) => {}
        (Some(Remaining::For(left)), Some(timeout)) => {
            assert!(left <= timeout && left + Duration::from_secs(3) > timeout, "{left:?} of {timeout:?}");
        }
        other => panic!("{element:?}: {other:?}"),
    }
}

#[test]
fn bans_shorten_lengthen_and_end_with_every_set_of_features() {
    inside("bans_shorten_lengthen_and_end_with_every_set_of_features", || {
        for disabled in combinations() {
            let mut kernel = start(&disabled);
            let seconds = |seconds| Some(Duration::from_secs(seconds));
            for net in ["192.0.2.1", "198.51.100.0/24", "2001:db8::1", "2001:db8::/64", "10.0.0.0/9"] {
                for timeout in [seconds(100), seconds(1000), seconds(10), seconds(10), None, None, seconds(50)] {
                    let element = element(net, Scope::Mail, timeout);
                    all_taken(kernel.add(&[element]));
                    remaining_is(&mut kernel, &element);
                    assert_eq!(kernel.changed_behind_us().unwrap(), Change::None, "{disabled:?}");
                }
                let key = element(net, Scope::Mail, None).key();
                kernel.remove(&[key]).unwrap();
                kernel.remove(&[key, (key.0, Scope::Web), (key.0, Scope::All)]).unwrap();
                assert_eq!(kernel.contains(key.0, key.1).unwrap(), None);
                assert_eq!(kernel.changed_behind_us().unwrap(), Change::None, "{disabled:?}");
            }
            drop(kernel);
            assert!(teardown("mailwarden").unwrap());
            assert!(!teardown("mailwarden").unwrap());
            assert_eq!(run("nft list tables"), "");
        }
    });
}

#[test]
fn packets_of_the_banned_stop_with_every_set_of_features() {
    inside("packets_of_the_banned_stop_with_every_set_of_features", || {
        let (bad, good) = (Host::new(1), Host::new(2));
        serve(&[25]);
        // Which element an error is about plays no part here.
        for disabled in combinations().filter(|disabled| !disabled.contains(&Feature::ErrorOffset)) {
            let mut kernel = start(&disabled);
            let (to_v4, to_v6) = (bad.server(false, 25), bad.server(true, 25));
            let (open_v4, open_v6, other) = (bad.connect(to_v4), bad.connect(to_v6), good.connect(good.server(false, 25)));
            alive(&open_v4);
            let bans = [element(bad.v4(), Scope::Mail, HOUR), element(bad.v6(), Scope::Mail, HOUR)];
            all_taken(kernel.add(&bans));
            dead(&open_v4);
            dead(&open_v6);
            bad.is_cut_off(to_v4);
            bad.is_cut_off(to_v6);
            alive(&other);
            good.reaches(good.server(true, 25));
            // One is taken back, the other ends by itself.
            kernel.remove(&[bans[0].key()]).unwrap();
            bad.reaches(to_v4);
            let ends = Instant::now() + Duration::from_millis(400);
            all_taken(kernel.add(&[element(bad.v6(), Scope::Mail, Some(Duration::from_millis(400)))]));
            bad.is_cut_off(to_v6);
            std::thread::sleep(ends.saturating_duration_since(Instant::now()));
            bad.reaches(to_v6);
            drop(kernel);
            teardown("mailwarden").unwrap();
        }
    });
}

#[test]
fn a_scope_closes_its_ports_and_no_others() {
    inside("a_scope_closes_its_ports_and_no_others", || {
        let bad = Host::new(1);
        let ports = [22, 25, 143, 443, 465, 587];
        serve(&ports);
        let reject = vec![Scope::Web];
        let mut kernel = NetlinkKernel::start(NftOptions { scopes: vec![], reject, ..NftOptions::default() }).unwrap();
        for scope in Scope::ALL {
            let bans = [element(bad.v4(), *scope, HOUR), element(bad.v6(), *scope, HOUR)];
            all_taken(kernel.add(&bans));
            for (port, ipv6) in ports.iter().flat_map(|port| [(*port, false), (*port, true)]) {
                let to = bad.server(ipv6, port);
                match scope.ports().contains(&port) || scope.ports().is_empty() {
                    true if *scope == Scope::Web => bad.is_refused(to),
                    true => bad.is_cut_off(to),
                    false => bad.reaches(to),
                }
            }
            // A ban of ports leaves everything else alone.
            let ping = bad.does(|| std::process::Command::new("ping").args(["-c1", "-W1", "10.1.0.1"]).output());
            if let Ok(ping) = ping {
                assert_eq!(ping.status.success(), *scope != Scope::All, "{scope}");
            }
            kernel.remove(&bans.map(|ban| ban.key())).unwrap();
        }
        let counters = kernel.counters().unwrap();
        assert_eq!(counters.len(), 2 * Scope::ALL.len());
        assert!(counters.iter().all(|counter| counter.packets > 0 && counter.bytes >= 40 * counter.packets), "{counters:?}");
    });
}

#[test]
fn what_the_host_says_to_itself_is_never_dropped() {
    inside("what_the_host_says_to_itself_is_never_dropped", || {
        let client = Host::new(1);
        serve(&[25]);
        let own = [client.server(false, 25), client.server(true, 25)];
        for disabled in [vec![], vec![Feature::OwnerPersist]] {
            for reject in [vec![], vec![Scope::All, Scope::Mail]] {
                let mut kernel = NetlinkKernel::start(NftOptions { reject, ..options(&disabled) }).unwrap();
                for scope in [Scope::All, Scope::Mail] {
                    let bans = own.map(|to| element(to.ip(), scope, HOUR)).into_iter().chain([element(client.v4(), scope, HOUR)]);
                    let bans: Vec<Element> = bans.chain([element("127.0.0.0/8", scope, HOUR)]).collect();
                    all_taken(kernel.add(&bans));
                    // From one of our addresses to the same one: by way of lo.
                    for to in own.into_iter().chain(["127.0.0.1:25".parse().unwrap()]) {
                        let stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(2))
                            .unwrap_or_else(|error| panic!("{to}: {error}"));
                        alive(&stream);
                    }
                    assert!(client.does(move || std::net::TcpStream::connect_timeout(&own[0], Duration::from_millis(120))).is_err());
                    kernel.remove(&bans.iter().map(Element::key).collect::<Vec<_>>()).unwrap();
                }
                drop(kernel);
                teardown("mailwarden").unwrap();
            }
        }
    });
}

#[test]
fn networks_are_banned_at_any_prefix_length() {
    inside("networks_are_banned_at_any_prefix_length", || {
        let bad = Host::new(1);
        serve(&[25]);
        let mut kernel = start(&[]);
        let nets = [
            "10.1.0.0/24",
            "10.1.0.0/31",
            "10.1.0.2/31",
            "0.0.0.0/0",
            "10.1.0.9/27",
            "fd00:1::/64",
            "fd00:1::/56",
            "fd00:1::/48",
            "fd00:1::2/127",
            "::/0",
        ];
        for net in nets {
            let ban = element(net, Scope::Mail, None);
            let to = bad.server(ban.net.is_ipv6(), 25);
            all_taken(kernel.add(&[ban]));
            if net == "10.1.0.0/31" {
                bad.reaches(to)
            } else {
                bad.is_cut_off(to)
            }
            bad.reaches(bad.server(ban.net.is_ipv4(), 25));
            assert_eq!(kernel.contains(ban.net, ban.scope).unwrap(), Some(Remaining::Forever));
            assert_eq!(kernel.changed_behind_us().unwrap(), Change::None);
            kernel.remove(&[ban.key()]).unwrap();
            bad.reaches(to);
        }
        // Overlapping bans end independently.
        let (wide, narrow) = (element("10.1.0.0/24", Scope::Mail, None), element("10.1.0.2", Scope::Mail, None));
        all_taken(kernel.add(&[wide, narrow]));
        kernel.remove(&[wide.key()]).unwrap();
        bad.is_cut_off(bad.server(false, 25));
        kernel.remove(&[narrow.key()]).unwrap();
        bad.reaches(bad.server(false, 25));
        // Sets that were made for a ban long over do not outlive the next start, unless they are in use.
        all_taken(kernel.add(&[element("192.0.2.0/27", Scope::Mail, HOUR)]));
        let prefixes =
            |kernel: &NetlinkKernel| kernel.status().sets.iter().map(|set| set.prefix).collect::<std::collections::BTreeSet<_>>();
        assert!(prefixes(&kernel).contains(&31));
        drop(kernel);
        assert_eq!(prefixes(&start(&[])).into_iter().collect::<Vec<_>>(), [24, 27, 32, 48, 56, 64, 128]);
    });
}

/// Docker's way: the port is forwarded to a container by DNAT, so the packets never come to input.
#[test]
fn a_container_behind_dnat_is_guarded_too() {
    inside("a_container_behind_dnat_is_guarded_too", || {
        let (bad, container) = (Host::new(1), Host::new(2));
        container.does(|| serve(&[2525]));
        run("echo 1 > /proc/sys/net/ipv4/ip_forward");
        run(
            "nft 'add table ip nat; add chain ip nat pre { type nat hook prerouting priority dstnat; }; add rule ip nat pre tcp dport 25 dnat to 10.2.0.2:2525'",
        );
        let to = bad.server(false, 25);
        let mut kernel = start(&[]);
        let open = bad.connect(to);
        alive(&open);
        let ban = element(bad.v4(), Scope::Mx, HOUR);
        all_taken(kernel.add(&[ban]));
        dead(&open);
        bad.is_cut_off(to);
        kernel.remove(&[ban.key()]).unwrap();
        bad.reaches(to);
    });
}

const PLAIN: &[Feature] = &[Feature::OwnerPersist];

#[test]
fn a_foreign_flush_is_survived_or_repaired() {
    inside("a_foreign_flush_is_survived_or_repaired", || {
        let bad = Host::new(1);
        serve(&[25]);
        let (to, ban) = (bad.server(false, 25), element(bad.v4(), Scope::Mail, HOUR));
        if run("uname -r").split('.').take(2).filter_map(|part| part.parse::<u32>().ok()).collect::<Vec<_>>() >= vec![6, 9] {
            let mut kernel = start(&[]);
            assert_eq!(kernel.status().mode, TableMode::Owned);
            all_taken(kernel.add(&[ban]));
            run("nft flush ruleset");
            run("nft delete table inet mailwarden 2>/dev/null || true");
            assert_eq!(kernel.changed_behind_us().unwrap(), Change::None);
            bad.is_cut_off(to);
            run("nft add table inet other");
            assert_eq!(kernel.changed_behind_us().unwrap(), Change::Elsewhere);
            drop(kernel);
            teardown("mailwarden").unwrap();
        }

        let mut kernel = start(PLAIN);
        assert_eq!(kernel.status().mode, TableMode::Plain);
        let mut keeper = Keeper::default();
        let far = element("198.51.100.0/24", Scope::Web, None);
        let ledger = [(ban.key(), ban), (far.key(), far)].into_iter().collect::<std::collections::HashMap<_, _>>();
        all_taken(kernel.add(&[ban, far]));
        run("nft add table inet other2");
        assert_eq!(kernel.changed_behind_us().unwrap(), Change::Elsewhere);
        let damages = [
            "flush ruleset",
            "delete table inet mailwarden",
            "flush table inet mailwarden",
            "flush set inet mailwarden mail_v4_32",
            "delete element inet mailwarden web_v4_24 { 198.51.100.0 }",
            "flush chain inet mailwarden mail_v4",
            "insert rule inet mailwarden prerouting accept",
            "add chain inet mailwarden prerouting '{ policy drop; }'",
            "add table inet mailwarden '{ flags dormant; }'",
            "flush ruleset; add table inet mailwarden; add set inet mailwarden mail_v4_32 '{ type ipv4_addr; }'",
            "flush ruleset; add table inet mailwarden; add chain inet mailwarden prerouting '{ type filter hook prerouting priority 0; }'",
        ];
        for damage in damages {
            for command in
                damage.split("; add ").enumerate().map(|(index, part)| if index == 0 { part.to_owned() } else { format!("add {part}") })
            {
                run(&format!("nft {command}"));
            }
            let change = keeper.look(&mut kernel, || ledger.keys().copied().collect()).unwrap();
            assert!(matches!(change, Change::Lost(_)), "{damage}: {change:?}");
            while keeper.step(&mut kernel, |key| ledger.get(key).copied()).unwrap().is_none() {}
            bad.is_cut_off(to);
            assert!(kernel.contains(far.net, far.scope).unwrap().is_some());
            assert_eq!(keeper.look(&mut kernel, Vec::new).unwrap(), Change::None, "{damage}");
            assert_eq!(kernel.status().mode, TableMode::Plain);
        }

        // A ban that meets the damage first repairs it at once, and says so later.
        run("nft flush ruleset");
        all_taken(kernel.add(&[ban]));
        bad.is_cut_off(to);
        assert!(matches!(kernel.changed_behind_us().unwrap(), Change::Lost(_)));
        run("nft flush ruleset");
        kernel.remove(&[ban.key()]).unwrap();
        run("nft flush ruleset");
        kernel.flush().unwrap();
        run("nft flush ruleset");
        let new_set = element("192.0.2.0/25", Scope::Mail, None);
        all_taken(kernel.add(&[new_set]));
        assert!(kernel.contains(new_set.net, new_set.scope).unwrap().is_some());
    });
}

#[test]
fn the_next_start_takes_over_without_a_gap() {
    inside("the_next_start_takes_over_without_a_gap", || {
        let bad = Host::new(1);
        let receiver = std::net::UdpSocket::bind("0.0.0.0:9").unwrap();
        receiver.set_nonblocking(true).unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flood = |stop: std::sync::Arc<std::sync::atomic::AtomicBool>| {
            bad.does(move || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                std::thread::spawn(move || {
                    let mut sent = 0u32;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        sent += u32::from(socket.send_to(b"x", "10.1.0.1:9").is_ok());
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    sent
                })
            })
        };
        let received = || std::iter::from_fn(|| receiver.recv(&mut [0; 8]).ok()).count();
        let bans =
            [element(bad.v4(), Scope::All, HOUR), element("10.1.0.0/27", Scope::All, None), element("fd00:1::/64", Scope::Web, HOUR)];
        // How the table was made and how it is taken over: owned → owned, plain → plain, owned → plain, plain → owned.
        for (first, then) in [(&[][..], &[][..]), (PLAIN, PLAIN), (&[], PLAIN), (PLAIN, &[])] {
            let mut kernel = start(first);
            all_taken(kernel.add(&bans));
            let sender = flood(stop.clone());
            for round in 0..10 {
                drop(kernel);
                kernel = start(if round % 2 == 0 { then } else { first });
                for ban in &bans {
                    remaining_is(&mut kernel, ban);
                }
                assert_eq!(kernel.changed_behind_us().unwrap(), Change::None);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(sender.join().unwrap() > 100);
            assert_eq!(received(), 0);
            stop.store(false, std::sync::atomic::Ordering::Relaxed);
            kernel.remove(&[bans[0].key(), bans[1].key()]).unwrap();
            let sender = flood(stop.clone());
            std::thread::sleep(Duration::from_millis(20));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            sender.join().unwrap();
            assert!(received() > 0);
            stop.store(false, std::sync::atomic::Ordering::Relaxed);
            drop(kernel);
            assert!(teardown("mailwarden").unwrap());
        }
    });
}

#[test]
fn a_table_of_another_layout_is_made_ours() {
    inside("a_table_of_another_layout_is_made_ours", || {
        let bad = Host::new(1);
        serve(&[25]);
        run("nft 'add table inet mailwarden; \
             add set inet mailwarden mail_v4_32 { type ipv4_addr; flags interval; }; \
             add set inet mailwarden mail_v6_128 { type ipv6_addr; flags timeout; size 5; }; \
             add element inet mailwarden mail_v6_128 { fd00:1::2 timeout 1h }; \
             add set inet mailwarden old { type ipv4_addr; }; \
             add chain inet mailwarden prerouting { type filter hook prerouting priority -5; policy drop; }; \
             add chain inet mailwarden gone { type filter hook input priority 0; policy drop; }; \
             add chain inet mailwarden helper; \
             add rule inet mailwarden prerouting ip saddr @old counter drop; \
             add rule inet mailwarden prerouting tcp dport { 1, 2 } jump helper'");
        let mut kernel = start(PLAIN);
        bad.reaches(bad.server(false, 25));
        bad.is_cut_off(bad.server(true, 25));
        all_taken(kernel.add(&[element(bad.v4(), Scope::Mail, HOUR)]));
        bad.is_cut_off(bad.server(false, 25));
        let text = run("nft list table inet mailwarden");
        assert!(!text.contains("old") && !text.contains("gone") && !text.contains("helper"), "{text}");
        assert!(text.contains("@mail_v4_24 counter packets 0 bytes 0 drop"), "{text}");
        assert!(text.contains("meta nfproto ipv4 tcp dport { 110, 143, 465, 587, 993, 995, 4190 } jump auth_v4"), "{text}");
    });
}

#[test]
fn an_owned_table_belongs_to_one_process() {
    inside("an_owned_table_belongs_to_one_process", || {
        let kernel = start(&[]);
        if kernel.status().mode != TableMode::Owned {
            return println!("no owned tables on this kernel");
        }
        for error in [NetlinkKernel::start(options(&[])).err(), NetlinkKernel::start(options(PLAIN)).err(), teardown("mailwarden").err()] {
            let text = error.expect("the table is owned").to_string();
            assert!(text.contains("owned by another process"), "{text}");
            assert!(text.contains(&format!("pid {}", std::process::id())) || text.contains("netlink port"), "{text}");
        }
        // Another name is another table.
        let second = NetlinkKernel::start(NftOptions { table: "second".into(), ..NftOptions::default() }).unwrap();
        drop((kernel, second));
        assert!(teardown("mailwarden").unwrap() && teardown("second").unwrap());
        assert!(matches!(teardown("no such; name"), Err(NftError::BadName(_))));
    });
}

#[test]
fn a_child_process_does_not_inherit_the_table() {
    inside("a_child_process_does_not_inherit_the_table", || {
        let kernel = start(&[]);
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        drop(kernel);
        drop(start(&[]));
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn ten_thousand_bans_and_a_full_set() {
    inside("ten_thousand_bans_and_a_full_set", || {
        let host = |number: u32, timeout| element(std::net::Ipv4Addr::from(0x0b00_0000 + number), Scope::Mail, timeout);
        for disabled in combinations() {
            let mut kernel = NetlinkKernel::start(NftOptions { set_size: 2_000, ..options(&disabled) }).unwrap();
            let many: Vec<Element> =
                (0..10_000).map(|number| element(format!("2001:db8:{:x}:{:x}::/64", number / 100, number), Scope::Mail, HOUR)).collect();
            let applied = kernel.add(&many[..1990]).unwrap();
            assert!(applied.refused.is_empty());
            // Ten places are left: three elements exist, of the new ones ten fit.
            let mut last: Vec<Element> = many[1988..2005].to_vec();
            last.push(element("2001:db8::/64", Scope::Mail, Some(Duration::from_secs(50))));
            let applied = kernel.add(&last).unwrap();
            assert_eq!(applied.refused.len(), 5, "{disabled:?}");
            let text = applied.refused[0].1.to_string();
            assert!(text.contains("set mail_v6_64 is full (2000 elements)"), "{text}");
            remaining_is(&mut kernel, &last[17]);
            // Removing what is not there works in a full set too.
            let absent = element("2001:db8:ffff::/64", Scope::Mail, None);
            kernel.remove(&[absent.key(), many[0].key()]).unwrap();
            assert_eq!(kernel.contains(many[0].net, Scope::Mail).unwrap(), None);
            assert_eq!(kernel.list(100).unwrap().unread.len(), 1);
            kernel.flush().unwrap();
            assert_eq!(kernel.list(100).unwrap(), Default::default());
            drop(kernel);
            teardown("mailwarden").unwrap();
        }
        let mut kernel = start(&[]);
        let hosts: Vec<Element> = (0..10_000).map(|number| host(number, HOUR)).collect();
        all_taken(kernel.add(&hosts));
        let listing = kernel.list(10_000).unwrap();
        assert_eq!((listing.elements.len(), listing.unread.len()), (10_000, 0));
        kernel.remove(&hosts.iter().map(Element::key).collect::<Vec<_>>()).unwrap();
        assert_eq!(kernel.list(10_000).unwrap().elements.len(), 0);
    });
}

#[test]
fn open_sockets_of_the_banned_are_ended() {
    inside("open_sockets_of_the_banned_are_ended", || {
        let (bad, good) = (Host::new(1), Host::new(2));
        serve(&[25, 443]);
        let open: Vec<_> = [false, true].iter().map(|ipv6| bad.connect(bad.server(*ipv6, 25))).collect();
        let others = [bad.connect(bad.server(false, 443)), good.connect(good.server(false, 25))];
        open.iter().chain(&others).for_each(alive);
        let sockets = || run("ss -Htn state established '( sport = :25 )'").lines().count();
        assert_eq!(sockets(), 3);
        for ip in [bad.v4(), bad.v6()] {
            assert_eq!(mailwarden::enforce::sockets::destroy(ip.into(), Scope::Mail).unwrap(), 1);
            assert_eq!(mailwarden::enforce::sockets::destroy(ip.into(), Scope::Mail).unwrap(), 0);
        }
        assert_eq!(sockets(), 1);
        open.iter().for_each(dead);
        others.iter().for_each(alive);
        assert_eq!(mailwarden::enforce::sockets::destroy("10.0.0.0/8".parse().unwrap(), Scope::All).unwrap(), 2);
        assert_eq!(mailwarden::enforce::sockets::destroy("198.51.100.0/24".parse().unwrap(), Scope::All).unwrap(), 0);
    });
}

#[test]
fn without_the_capability_the_error_says_so() {
    const NAME: &str = "without_the_capability_the_error_says_so";
    if std::env::var_os("MAILWARDEN_POWERLESS").is_some() {
        for error in [NetlinkKernel::start(options(&[])).err(), teardown("mailwarden").err()] {
            let text = error.expect("no power here").to_string();
            assert!(text.contains("CAP_NET_ADMIN"), "{text}");
        }
        return;
    }
    inside(NAME, || {
        // The same test once more in a user namespace of its own, which has no power over this network namespace.
        let exe = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new("unshare");
        command.arg("-U").arg(exe).args([NAME, "--exact", "--nocapture"]).env("MAILWARDEN_POWERLESS", "1");
        assert!(command.status().unwrap().success());
    });
}

/// What the dry run prints is what nft understands, and means the same.
#[test]
fn the_dry_run_prints_what_the_kernel_gets() {
    inside("the_dry_run_prints_what_the_kernel_gets", || {
        let options = |table: &str| NftOptions {
            table: table.into(),
            reject: vec![Scope::Web, Scope::All],
            ..options(&[Feature::OwnerPersist, Feature::Destroy])
        };
        let bans = [
            element("192.0.2.1", Scope::Web, HOUR),
            element("2001:db8::/47", Scope::Mail, None),
            element("10.0.0.0/8", Scope::Mx, Some(Duration::from_millis(99_500))),
        ];
        let mut dry_run = DryRun::start(options("printed"), Vec::new()).unwrap();
        dry_run.add(&bans).unwrap();
        dry_run.remove(&[bans[0].key()]).unwrap();
        let script = String::from_utf8(dry_run.into_inner()).unwrap();
        let path = std::env::temp_dir().join(format!("mailwarden-dry-{}.nft", std::process::id()));
        std::fs::write(&path, &script).unwrap();
        run(&format!("nft -f {}", path.display()));
        std::fs::remove_file(&path).unwrap();
        let mut kernel = NetlinkKernel::start(options("written")).unwrap();
        all_taken(kernel.add(&bans));
        kernel.remove(&[bans[0].key()]).unwrap();
        let listed = |table: &str| {
            let text = run(&format!("nft list table inet {table}")).replace(table, "T");
            let no_time = |line: &str| line.split(" expires ").next().unwrap_or_default().trim().to_owned();
            let mut lines: Vec<String> = text.lines().map(no_time).collect();
            // Objects are listed in the order in which they were made.
            lines.sort();
            lines
        };
        assert_eq!(listed("printed"), listed("written"));
    });
}

/// Figures, in a release build: `cargo test --release --test nft_netns figures -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn figures() {
    inside("figures", || {
        let host = |number: u32| element(std::net::Ipv4Addr::from(0x0b00_0000 + number), Scope::Mail, HOUR);
        for disabled in [&[][..], &[Feature::TimeoutUpdate], &[Feature::TimeoutUpdate, Feature::Destroy]] {
            let began = Instant::now();
            let mut kernel = start(disabled);
            println!("without {disabled:?}: start {:?}", began.elapsed());
            measure("one ban, back to back", 20_000, |number| all_taken(kernel.add(&[host(number)])));
            measure("the same again", 20_000, |number| all_taken(kernel.add(&[host(number)])));
            measure("one unban", 20_000, |number| kernel.remove(&[host(number).key()]).unwrap());
            measure("one ban after 2 ms of rest", 500, |number| {
                let began = Instant::now();
                all_taken(kernel.add(&[host(number)]));
                let took = began.elapsed();
                std::thread::sleep(Duration::from_millis(2));
                took
            });
            measure("look for changes", 20_000, |_| assert_eq!(kernel.changed_behind_us().unwrap(), Change::None));
            measure("is it banned", 20_000, |number| assert!(kernel.contains(host(number % 500).net, Scope::Mail).unwrap().is_some()));
            let all: Vec<Element> = (0..100_000).map(host).collect();
            for what in ["new", "again"] {
                let began = Instant::now();
                let worst = all.chunks(500).map(|slice| {
                    let began = Instant::now();
                    all_taken(kernel.add(slice));
                    began.elapsed()
                });
                let worst = worst.max().unwrap();
                println!("  100,000 bans {what}: {:.0} bans/s, worst slice {worst:?}", 100_000.0 / began.elapsed().as_secs_f64());
            }
            drop(kernel);
            let began = Instant::now();
            let mut kernel = start(disabled);
            println!("  start over 100,000 bans {:?}", began.elapsed());
            measure("one ban beside 100,000", 20_000, |number| all_taken(kernel.add(&[host(200_000 + number)])));
            let began = Instant::now();
            let keys: Vec<_> = all.iter().map(Element::key).collect();
            keys.chunks(500).for_each(|slice| kernel.remove(slice).unwrap());
            println!("  100,000 unbans {:?}", began.elapsed());
            drop(kernel);
            teardown("mailwarden").unwrap();
        }
    });
}

/// What a call can say about its own time.
trait Took {
    fn or(self, measured: Duration) -> Duration;
}
impl Took for () {
    fn or(self, measured: Duration) -> Duration {
        measured
    }
}
impl Took for Duration {
    fn or(self, _: Duration) -> Duration {
        self
    }
}

fn measure<T: Took>(what: &str, times: u32, mut call: impl FnMut(u32) -> T) {
    let mut taken: Vec<Duration> = (0..times)
        .map(|number| {
            let began = Instant::now();
            let result = call(number);
            result.or(began.elapsed())
        })
        .collect();
    taken.sort();
    let at = |percent: usize| taken[taken.len() * percent / 100];
    println!("  {what}: p50 {:?} p99 {:?} max {:?}", at(50), at(99), taken.last().unwrap());
}
