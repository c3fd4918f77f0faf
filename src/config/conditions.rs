//! `where`: what an event must be to count.

use super::accounts::cased;
use super::raw::RawWhere;
use super::read::{At, Many, Negatable};
use super::report::{Problem, Report};
use crate::engine::jail::{Condition, Test};

/// A list holds when one of its values does; of values with `!`, none may.
pub fn resolve(raw: Option<At<RawWhere>>, lowercase: bool, report: &mut Report) -> Vec<Condition> {
    let Some(At { value: raw, .. }) = raw else { return Vec::new() };
    let mut conditions = Vec::new();
    conditions.extend(split(raw.service, Test::Service, report));
    conditions.extend(split(raw.reason, Test::Reason, report));
    conditions.extend(split(raw.ip, Test::Ip, report));
    conditions.extend(split(raw.account, |list| Test::Account(list.iter().map(|account| cased(&account.0, lowercase)).collect()), report));
    let codes = raw.code.map(|At { value: Many(list), place }| {
        let negatable =
            |at: At<super::raw::CodeTest>| At { value: Negatable { negated: at.value.negated, value: at.value.code }, place: at.place };
        At { value: Many(list.into_iter().map(negatable).collect()), place }
    });
    conditions.extend(split(codes, Test::Code, report));
    conditions.extend(split(raw.place, Test::Place, report));
    conditions.extend(raw.besieged.map(|at| positive(Test::Besieged(at.value))));
    conditions.extend(raw.new_recipient_domain.map(|at| positive(Test::NewRecipientDomain(at.value))));
    conditions.extend(split(raw.submitter, Test::Submitter, report));
    conditions.extend(raw.has_account.map(|at| positive(Test::HasAccount(at.value))));
    conditions.extend(raw.null_sender.map(|at| positive(Test::NullSender(at.value))));
    conditions
}

/// A test that says by itself which answer is wanted.
const fn positive(test: Test) -> Condition {
    Condition { negated: false, test }
}

fn split<T>(raw: Option<At<Many<Negatable<T>>>>, test: impl Fn(Vec<T>) -> Test, report: &mut Report) -> Vec<Condition> {
    let Some(At { value: Many(list), place }) = raw else { return Vec::new() };
    if list.is_empty() {
        report.push(Problem::error(place, "an empty list in `where`").help("nothing would ever count; leave the key out"));
    }
    let (negated, plain): (Vec<_>, Vec<_>) = list.into_iter().map(|at| at.value).partition(|value| value.negated);
    let values = |list: Vec<Negatable<T>>| list.into_iter().map(|value| value.value).collect::<Vec<_>>();
    let mut conditions = Vec::new();
    for (negated, list) in [(false, values(plain)), (true, values(negated))] {
        if !list.is_empty() {
            conditions.push(Condition { negated, test: test(list) });
        }
    }
    conditions
}
