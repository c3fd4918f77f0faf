//! The firewall with a real kernel and real packets, each test in a network namespace of its own.

mod netns;

use std::time::{Duration, Instant};

use mailwarden::enforce::nft::{
    Applied, Change, Element, Feature, Kernel, NetlinkKernel, NftError, NftOptions, Remaining, TableMode, teardown,
};
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
        for disabled in combinations() {
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
