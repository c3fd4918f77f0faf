//! What every firewall promises, the imagined one and the real one: the same calls leave the same elements.

#[expect(dead_code, reason = "only the namespace is needed here, no hosts")]
mod netns;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mailwarden::enforce::dry_run::DryRun;
use mailwarden::enforce::nft::{Change, Element, FakeKernel, Feature, Kernel, Key, NetlinkKernel, NftOptions, Remaining, teardown};
use mailwarden::enforce::reconcile::Reconcile;
use mailwarden::engine::jail::Scope;
use mailwarden::time::Timestamp;

/// Deterministic numbers: a failure names its seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
    fn element(&mut self) -> Element {
        let number = self.below(12);
        let net = match self.below(5) {
            0 => format!("192.0.2.{number}"),
            1 => format!("192.0.{number}.7/24"),
            2 => format!("2001:db8::{number}"),
            3 => format!("2001:db8:0:{number}::9/64"),
            _ => format!("10.{number}.0.0/15"),
        };
        let scope = [Scope::Mail, Scope::All, Scope::Web][self.below(3) as usize];
        let timeout = [None, Some(1_000), Some(2_000), Some(100_000)][self.below(4) as usize].map(Duration::from_secs);
        Element { net: net.parse().unwrap(), scope, timeout }
    }
    fn elements(&mut self) -> Vec<Element> {
        (0..self.below(15)).map(|_| self.element()).collect()
    }
}

/// Whole kiloseconds that are left of each element; what is over has been waited.
fn state(kernel: &mut dyn Kernel) -> BTreeMap<Key, Option<u64>> {
    let listing = kernel.list(1_000).unwrap();
    assert!(listing.unread.is_empty());
    listing.elements.iter().map(|element| (element.key(), element.timeout.map(|left| (left.as_secs() + 500) / 1_000))).collect()
}

fn keys(elements: &[Element]) -> Vec<Key> {
    elements.iter().map(Element::key).collect()
}

/// Does the same to `kernel` and to the fake, and compares after each call.
fn compare(kernel: &mut dyn Kernel, options: NftOptions, seed: u64, steps: usize, flush: &dyn Fn()) {
    let mut fake = FakeKernel::new(options, Timestamp::ZERO);
    let mut random = Random(seed);
    for step in 0..steps {
        let elements = random.elements();
        let context = format!("seed {seed} step {step}");
        match random.below(20) {
            0 => {
                flush();
                fake.foreign_flush();
            }
            1 => {
                kernel.flush().unwrap();
                fake.flush().unwrap();
            }
            2 => {
                let wanted: BTreeMap<Key, Element> = elements.iter().map(|element| (element.key(), *element)).collect();
                let run = |kernel: &mut dyn Kernel| {
                    Reconcile::new(wanted.keys().copied().collect(), 1_000).run(kernel, |key| wanted.get(key).copied()).unwrap()
                };
                let (real, imagined) = (run(kernel), run(&mut fake));
                assert_eq!((real.restored, real.refused), (imagined.restored, imagined.refused), "{context}");
            }
            3..8 => {
                kernel.remove(&keys(&elements)).unwrap();
                fake.remove(&keys(&elements)).unwrap();
            }
            _ => {
                let refused = |kernel: &mut dyn Kernel| {
                    keys(&kernel.add(&elements).unwrap().refused.into_iter().map(|(element, _)| element).collect::<Vec<_>>())
                };
                assert_eq!(refused(kernel), refused(&mut fake), "{context}");
            }
        }
        let lost = |kernel: &mut dyn Kernel| {
            let lost = matches!(kernel.changed_behind_us().unwrap(), Change::Lost(_));
            if lost {
                kernel.rebuild().unwrap();
            }
            lost
        };
        assert_eq!(lost(kernel), lost(&mut fake), "{context}");
        assert_eq!(state(kernel), state(&mut fake), "{context}");
        assert_eq!(kernel.changed_behind_us().unwrap(), Change::None, "{context}");
        for element in &elements {
            let (real, imagined) =
                (kernel.contains(element.net, element.scope).unwrap(), fake.contains(element.net, element.scope).unwrap());
            assert_eq!(real.is_some(), imagined.is_some(), "{context}");
            assert_eq!(real == Some(Remaining::Forever), imagined == Some(Remaining::Forever), "{context}");
        }
    }
    kernel.flush().unwrap();
}

#[test]
fn the_fake_is_like_itself() {
    for seed in 0..20 {
        let options = NftOptions { set_size: 5, ..NftOptions::default() };
        let mut fake = FakeKernel::new(options.clone(), Timestamp::ZERO);
        // What is flushed by others is another matter for two fakes: leave it out by flushing neither.
        let mut random = Random(seed);
        for _ in 0..50 {
            let elements = random.elements();
            let applied = fake.add(&elements).unwrap();
            let before = state(&mut fake);
            let again = fake.add(&elements).unwrap();
            assert_eq!(state(&mut fake), before);
            assert_eq!(applied.refused.len(), again.refused.len());
            fake.remove(&keys(&elements)).unwrap();
            fake.remove(&keys(&elements)).unwrap();
            assert!(elements.iter().all(|element| fake.contains(element.net, element.scope).unwrap().is_none()));
        }
    }
}

#[test]
fn the_fake_tells_the_truth_about_the_kernel() {
    netns::inside("the_fake_tells_the_truth_about_the_kernel", || {
        for bits in 0..1usize << Feature::ALL.len() {
            let off = Feature::ALL.iter().enumerate().filter(|(index, _)| bits & 1 << index != 0).map(|(_, feature)| *feature);
            let mut options = NftOptions { disabled: off.collect(), set_size: 8, ..NftOptions::default() };
            // An owned table cannot be flushed by others, so the whole story is told only by plain ones.
            let plain = options.disabled.contains(&Feature::OwnerPersist);
            if bits % 3 == 0 {
                options.scopes.clear();
            }
            let mut kernel = NetlinkKernel::start(options.clone()).unwrap();
            if plain {
                compare(&mut kernel, options, 1_000 + bits as u64, 30, &|| {
                    netns::run("nft flush ruleset");
                });
            } else {
                let mut fake = FakeKernel::new(options, Timestamp::ZERO);
                let mut random = Random(bits as u64);
                for step in 0..30 {
                    let (add, remove) = (random.elements(), random.elements());
                    let refused: Vec<String> = [&mut kernel as &mut dyn Kernel, &mut fake]
                        .map(|kernel| {
                            let refused = kernel.add(&add).unwrap().refused;
                            kernel.remove(&keys(&remove)).unwrap();
                            refused.iter().map(|(element, error)| format!("{} {}: {error}\n", element.net, element.scope)).collect()
                        })
                        .into();
                    assert_eq!(refused[0], refused[1], "combination {bits} step {step}");
                    assert_eq!(state(&mut kernel), state(&mut fake), "combination {bits} step {step}");
                    assert_eq!(kernel.changed_behind_us().unwrap(), Change::None);
                }
            }
            drop(kernel);
            teardown("mailwarden").unwrap();
        }
    });
}

#[test]
fn bans_end_in_the_fake_as_in_the_kernel() {
    netns::inside("bans_end_in_the_fake_as_in_the_kernel", || {
        let mut real = NetlinkKernel::start(NftOptions::default()).unwrap();
        let mut fake = FakeKernel::new(NftOptions::default(), Timestamp::ZERO);
        let element = |number: u8, millis| Element {
            net: format!("192.0.2.{number}").parse().unwrap(),
            scope: Scope::Mail,
            timeout: Some(Duration::from_millis(millis)),
        };
        let elements = [element(1, 0), element(2, 300), element(3, 900), element(4, 60_000)];
        let started = Instant::now();
        real.add(&elements).unwrap();
        fake.add(&elements).unwrap();
        for millis in [150, 600, 1_200] {
            std::thread::sleep(Duration::from_millis(millis).saturating_sub(started.elapsed()));
            fake.set_now(Timestamp::ZERO + started.elapsed());
            assert_eq!(state(&mut real).keys().collect::<Vec<_>>(), state(&mut fake).keys().collect::<Vec<_>>(), "{millis}");
        }
        assert_eq!(state(&mut real).len(), 1);
    });
}

#[test]
fn the_dry_run_refuses_nothing() {
    let mut dry_run = DryRun::start(NftOptions::default(), Vec::new()).unwrap();
    let mut random = Random(7);
    for _ in 0..50 {
        let elements = random.elements();
        assert!(dry_run.add(&elements).unwrap().refused.is_empty());
        dry_run.remove(&keys(&elements)).unwrap();
        assert_eq!(dry_run.changed_behind_us().unwrap(), Change::None);
    }
    dry_run.flush().unwrap();
    let text = String::from_utf8(dry_run.into_inner()).unwrap();
    assert!(text.lines().all(|line| ["add ", "flush ", "destroy "].iter().any(|verb| line.starts_with(verb))), "{text}");
}
