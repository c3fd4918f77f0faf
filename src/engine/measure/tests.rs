//! Each representation of a window against a plain list of everything that happened.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::engine::jail::Window as Kind;

const FINDTIME: i64 = 1_000;

/// One thing that happens to one key.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// An event that is `late` behind a clock that moves on by `pause`.
    Event {
        pause: i64,
        late: i64,
        amount: u64,
        account: u16,
    },
    Forgive {
        account: u16,
    },
}

fn steps(late_max: i64, amount_max: u64) -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![Just(0i64), 0..40i64, 0..400i64, Just(FINDTIME), Just(FINDTIME - 1)];
    let event = (pause, 0..=late_max, 1..=amount_max, 1..5u16).prop_map(|(pause, late, amount, account)| Step::Event {
        pause,
        late,
        amount,
        account,
    });
    let step = prop_oneof![12 => event, 1 => (1..5u16).prop_map(|account| Step::Forgive { account })];
    proptest::collection::vec(step, 1..120)
}

/// A moment, an amount and an account.
type Happened = (i64, u64, u16);
type Cutoff = fn(i64) -> i64;
type Total = fn(&[Happened]) -> u64;

/// The naive model: all that ever happened and was not cleared.
struct Naive {
    events: Vec<Happened>,
    level: usize,
    cutoff: Cutoff,
    total: Total,
    limits: Vec<u64>,
    clears: u16,
}

impl Naive {
    fn window(&self, now: i64) -> u64 {
        let live: Vec<_> = self.events.iter().copied().filter(|(stamp, ..)| *stamp > (self.cutoff)(now)).collect();
        (self.total)(&live)
    }

    fn event(&mut self, now: i64, stamp: i64, amount: u64, account: u16) -> Option<(usize, usize, u64)> {
        if stamp <= (self.cutoff)(now) {
            return None;
        }
        let before = self.window(now);
        self.level = self.level.min(self.limits.iter().filter(|limit| **limit <= before).count());
        self.events.push((stamp, amount, account));
        let total = self.window(now);
        let reached = self.limits.iter().filter(|limit| **limit <= total).count();
        if reached <= self.level {
            return None;
        }
        let from = std::mem::replace(&mut self.level, reached);
        if (from..reached).any(|step| self.clears >> step & 1 == 1) {
            self.events.clear();
            self.level = 0;
        }
        Some((from, reached, total))
    }
}

struct Case {
    measure: Measure,
    units: Option<usize>,
    kind: Kind,
    limits: Vec<u64>,
    clears: u16,
}

fn sliding(now: i64) -> i64 {
    now - FINDTIME
}
fn fixed(now: i64) -> i64 {
    now / FINDTIME * FINDTIME - 1
}
fn sum(live: &[Happened]) -> u64 {
    live.iter().map(|(_, amount, _)| amount).sum()
}
fn distinct(live: &[Happened]) -> u64 {
    live.iter().map(|(.., account)| account).collect::<BTreeSet<_>>().len() as u64
}

fn check(case: &Case, steps: &[Step]) -> Result<(), TestCaseError> {
    let (cutoff, total): (Cutoff, Total) = (
        if case.kind == Kind::Sliding { sliding } else { fixed },
        if matches!(case.measure, Measure::Distinct(_)) { distinct } else { sum },
    );
    let mut naive = Naive { events: Vec::new(), level: 0, cutoff, total, limits: case.limits.clone(), clears: case.clears };
    let mut windows = Windows::new(case.measure, case.units, 7, 1_000, true);
    let mut now = 1_700_000_000_000_000;
    for step in steps {
        match *step {
            Step::Event { pause, late, amount, account } => {
                now += pause;
                let terms = terms(case, now, cutoff);
                let stamp = now - late;
                let addition = Addition { stamp, amount, tag: account, value: u128::from(account) << 100 | 9 };
                let rule = RuleTerms { rule: 0, slot: 0, cutoff: cutoff(now), limits: &case.limits, clears: case.clears };
                let mut fired = Vec::new();
                if stamp > terms.horizon {
                    windows.count(1, &addition, &terms, &[rule], &mut fired);
                }
                let got = fired.first().map(|firing| (firing.from, firing.to, firing.total));
                prop_assert_eq!(got, naive.event(now, stamp, amount, account), "at {} after {:?}", now, naive.events);
            }
            Step::Forgive { account } => {
                windows.forgive(1, account, Some(u128::from(account) << 100 | 9), &terms(case, now, cutoff));
                naive.events.retain(|(.., other)| *other != account);
            }
        }
        windows = reload(case, windows, now, cutoff);
    }
    Ok(())
}

fn terms(case: &Case, now: i64, cutoff: Cutoff) -> Terms {
    let group = if let Measure::Distinct(of) = case.measure { of.group() } else { Group::Name };
    Terms { now, horizon: cutoff(now), need: u64::MAX, sharers: 1, group, min: 0, operators: 0, max: 100, least: 0 }
}

/// Through what a snapshot stores, and back.
fn reload(case: &Case, mut windows: Windows, now: i64, cutoff: Cutoff) -> Windows {
    let mut fresh = Windows::new(case.measure, case.units, 7, 1_000, true);
    windows.freeze();
    let terms = terms(case, now, cutoff);
    let mut rows = Vec::new();
    windows.write_frozen(100, now, |key, value| rows.push((key, value)));
    // What did not change since the last snapshot is not written again.
    let Some((key, value)) = rows.last() else { return windows };
    if !value.is_empty() {
        assert!(fresh.restore(*key, value, &SAME_SLOTS, &terms));
    }
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_small_count_that_bans_is_exact(steps in steps(300, 3), limit in 1..=6u64) {
        check(&Case { measure: Measure::Count, units: Some(5), kind: Kind::Sliding, limits: vec![limit], clears: 1 }, &steps)?;
    }

    #[test]
    fn a_small_count_that_alerts_first_is_exact(steps in steps(300, 3)) {
        check(&Case { measure: Measure::Count, units: Some(5), kind: Kind::Sliding, limits: vec![2, 4, 6], clears: 0b100 }, &steps)?;
    }

    #[test]
    fn a_large_count_is_exact(steps in steps(300, 5), limit in 1..=30u64, clears in 0..=1u16) {
        check(&Case { measure: Measure::Count, units: None, kind: Kind::Sliding, limits: vec![limit, limit * 2], clears }, &steps)?;
    }

    #[test]
    fn a_sum_is_exact(steps in steps(300, 1_000_000), limit in 1..=5_000_000u64) {
        check(&Case { measure: Measure::SumBytes, units: None, kind: Kind::Sliding, limits: vec![limit], clears: 0 }, &steps)?;
    }

    #[test]
    fn a_distinct_is_exact(steps in steps(300, 1), limit in 1..=4u64, clears in 0..=1u16) {
        check(&Case { measure: Measure::Distinct(Of::Account), units: None, kind: Kind::Sliding, limits: vec![limit], clears }, &steps)?;
    }

    #[test]
    fn a_fixed_window_is_exact(steps in steps(900, 2), limit in 1..=6u64) {
        check(&Case { measure: Measure::Count, units: Some(5), kind: Kind::Fixed, limits: vec![limit], clears: 1 }, &steps)?;
        check(&Case { measure: Measure::Count, units: None, kind: Kind::Fixed, limits: vec![limit], clears: 0 }, &steps)?;
    }

    #[test]
    fn trimming_to_what_is_needed_changes_nothing(pauses in proptest::collection::vec((0..300i64, 1..4u64), 1..200), limit in 1..=12u64) {
        for measure in [Measure::Count, Measure::Distinct(Of::Account)] {
            let mut exact = Windows::new(measure, None, 7, 10, false);
            let mut trimmed = Windows::new(measure, None, 7, 10, false);
            let mut now = 1_700_000_000_000_000;
            for (pause, amount) in &pauses {
                now += pause;
                let addition = Addition { stamp: now, amount: *amount, tag: 0, value: (now % 17) as u128 };
                let limits = [limit];
                let rule = RuleTerms { rule: 0, slot: 0, cutoff: sliding(now), limits: &limits, clears: 0 };
                let terms = Terms { now, horizon: sliding(now), need: u64::MAX, sharers: 1, group: Group::Name, min: 0, operators: 0, max: 100, least: 0 };
                let (mut one, mut other) = (Vec::new(), Vec::new());
                exact.count(1, &addition, &terms, &[rule], &mut one);
                trimmed.count(1, &addition, &Terms { need: limit, ..terms }, &[rule], &mut other);
                prop_assert_eq!(one.len(), other.len());
            }
        }
    }

    /// Two jails with one table are as two jails with two.
    #[test]
    fn sharers_do_not_disturb_each_other(steps in steps(0, 2), limits in (1..=9u64, 1..=9u64), clears in (0..=1u16, 0..=1u16), factor in 1..4i64) {
        for measure in [Measure::Count, Measure::Distinct(Of::Account)] {
            let mut shared = Windows::new(measure, None, 7, 10, false);
            let mut own = [Windows::new(measure, None, 7, 10, false), Windows::new(measure, None, 7, 10, false)];
            let mut now = 1_700_000_000_000_000;
            for step in &steps {
                let Step::Event { pause, amount, account, .. } = *step else { continue };
                now += pause;
                let addition = Addition { stamp: now, amount, tag: account, value: u128::from(account) };
                let cutoffs = [now - FINDTIME, now - FINDTIME * factor];
                let limits = [[limits.0], [limits.1]];
                let rule = |slot: u8, as_slot: u8| RuleTerms { rule: 0, slot: as_slot, cutoff: cutoffs[usize::from(slot)], limits: &limits[usize::from(slot)], clears: [clears.0, clears.1][usize::from(slot)] };
                let terms = Terms { now, horizon: cutoffs[1], need: u64::MAX, sharers: 0b11, group: Group::Name, min: 0, operators: 0, max: 100, least: 0 };
                let mut got = Vec::new();
                shared.count(1, &addition, &terms, &[rule(0, 0), rule(1, 1)], &mut got);
                let mut expected = Vec::new();
                for slot in [0, 1u8] {
                    let terms = Terms { horizon: cutoffs[usize::from(slot)], sharers: 1, ..terms };
                    own[usize::from(slot)].count(1, &addition, &terms, &[rule(slot, 0)], &mut expected);
                }
                prop_assert_eq!(got.iter().map(|firing| firing.total).collect::<Vec<_>>(), expected.iter().map(|firing| firing.total).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn networks_are_told_apart_and_their_addresses_remembered() {
    let mut windows = Windows::new(Measure::Distinct(Of::Network), None, 7, 10, false);
    let limits = [3];
    let terms = Terms { now: 100, horizon: 0, need: 3, sharers: 1, group: Group::Network, min: 0, operators: 0, max: 100, least: 0 };
    let rule = RuleTerms { rule: 0, slot: 0, cutoff: 0, limits: &limits, clears: 1 };
    let mut fired = Vec::new();
    for ip in ["192.0.2.1", "192.0.2.2", "198.51.100.1", "192.0.2.1", "2001:db8:1:2::3"] {
        assert!(fired.is_empty(), "{ip}");
        let host = Host::new(ip.parse().unwrap());
        windows.count(1, &Addition { stamp: 100, amount: 1, tag: 0, value: host.key() }, &terms, &[rule], &mut fired);
    }
    assert_eq!(fired[0].total, 3);
    let contributors: Vec<String> = fired[0].summary.contributors.iter().map(|host| host.subnet().to_network().to_string()).collect();
    assert_eq!(contributors, ["192.0.2.1/32", "192.0.2.2/32", "198.51.100.1/32", "2001:db8:1:2::/64"]);
    assert!(windows.is_empty());
}

#[test]
fn a_hot_key_outlives_any_number_of_quiet_ones() {
    let mut windows = Windows::new(Measure::Count, Some(5), 7, 1_000, false);
    let limits = [6];
    let mut now = 1_000_000;
    let mut count = |windows: &mut Windows, key: u128| {
        now += 1;
        let terms = Terms { now, horizon: 0, need: 6, sharers: 1, group: Group::Name, min: 0, operators: 0, max: 100, least: 0 };
        let rule = RuleTerms { rule: 0, slot: 0, cutoff: 0, limits: &limits, clears: 1 };
        let mut fired = Vec::new();
        windows.count(key, &Addition { stamp: now, amount: 1, tag: 0, value: 0 }, &terms, &[rule], &mut fired);
        !fired.is_empty()
    };
    for key in 0..300 {
        (0..3).for_each(|_| assert!(!count(&mut windows, key)));
    }
    for key in 1_000..20_000 {
        count(&mut windows, key);
    }
    assert_eq!(windows.len(), 1_000);
    assert_eq!(windows.evictions(), 19_000 - 700);
    for key in 0..300 {
        (0..2).for_each(|_| assert!(!count(&mut windows, key), "{key} lost its count"));
        assert!(count(&mut windows, key), "{key} lost its count");
    }
}

#[test]
fn dead_keys_are_swept_while_new_ones_come() {
    let mut windows = Windows::new(Measure::Count, Some(5), 7, 1_000_000, false);
    let limits = [6];
    for key in 0..200_000u32 {
        let now = i64::from(key) + 10_000;
        let terms = Terms { now, horizon: now - 5_000, need: 6, sharers: 1, group: Group::Name, min: 0, operators: 0, max: 100, least: 0 };
        let rule = RuleTerms { rule: 0, slot: 0, cutoff: now - 5_000, limits: &limits, clears: 1 };
        windows.count(u128::from(key), &Addition { stamp: now, amount: 1, tag: 0, value: 0 }, &terms, &[rule], &mut Vec::new());
    }
    assert!(windows.len() < 12_000, "{} keys, 5,000 of them alive", windows.len());
}

#[test]
fn a_month_is_not_too_long() {
    let jail_span = Span { kind: Kind::Sliding, micros: Duration::from_secs(30 * 86_400).as_micros() as i64 };
    assert_eq!(jail_span.cutoff(2_600_000_000_000), 2_600_000_000_000 - 2_592_000_000_000);
}
