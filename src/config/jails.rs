//! Raw jails → [`Jail`]: a file's word on a jail is laid over the words of earlier files, then the whole is checked.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::accounts::cased;
use super::conditions;
use super::files::{self, Texts};
use super::raw::{Exception, Forgive, Key, Limit, RawJail, RawJailFile, RawOverride, RawStep};
use super::read::{At, Bantime, FromToml, Many, Named, Node, Reader, Wrong};
use super::report::{Place, Problem, Report, Severity};
use super::settings::{unplaced, value_or};
use super::suggest::nearest;
use crate::engine::account::Family;
use crate::engine::jail::{Action, BanSpec, Condition, Distinct, Jail, KeyPart, Measure, Override, Scope, Step, Test, Unless};
use crate::event::{EventKind, Reason, Service};
use crate::limits::{DISTINCT_PER_KEY_MAX, JAILS_MAX, WINDOW_UNITS_PER_KEY_MAX};

/// A count needs a time for each event of the window.
const COUNT_LIMIT_MAX: u64 = WINDOW_UNITS_PER_KEY_MAX as u64;
/// Sums share a word with a stamp's parts.
const SUM_LIMIT_MAX: u64 = (1 << 47) - 1;
const FINDTIME_MAX: Duration = Duration::from_secs(400 * 86_400);
const NAME_BYTES_MAX: usize = 64;
/// The engine keeps a bit for each.
const STEPS_MAX: usize = 16;
/// Known words that nothing does yet: taking them in silence would promise what does not happen.
const ACTIONS_TO_COME: [Action; 1] = [Action::Slow];

const SORTS_AFTER: &str = "give your own file a name that sorts after it, such as 90-local.toml";

/// Decisions that come from no jail stand under names of their own.
const NAMES_TAKEN: [(&str, &str); 6] = [
    ("manual", "bans by hand are listed"),
    ("risk", "accounts are held and locked for their signs, see [risk]"),
    ("widening", "bans of networks are listed, see [bans.widen]"),
    ("forged", "forged lines are told"),
    ("outage", "logins that fail for everybody are told"),
    ("recovered", "bans that only the kernel still had are listed"),
];

/// What the jails are checked against.
pub struct Known<'a> {
    /// `None`: they could not be read.
    pub filters: Option<Vec<&'a str>>,
    /// Some file could not be read: what is missing may stand there.
    pub is_partial: bool,
    pub lowercase: bool,
}

/// What the files say of one jail.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    raw: RawJail,
    /// Something in it was mistaken and is told already: nothing is "missing".
    is_damaged: bool,
}

impl FromToml for Draft {
    const EXPECTED: &'static str = "a table: a jail";
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let before = reader.report.count(Severity::Error);
        let raw = RawJail::read(node, reader)?;
        Some(Draft { raw, is_damaged: reader.report.count(Severity::Error) > before })
    }
}

/// What the files come to.
pub struct Resolved {
    /// All that are enabled, in the order in which the files name them first.
    pub jails: Vec<Jail>,
    /// Some jail is named, be it enabled or not.
    pub has_any: bool,
}

pub fn resolve(texts: &Texts, known: &Known<'_>, report: &mut Report) -> Resolved {
    let (drafts, is_whole) = collect(texts, report);
    let has_any = !drafts.is_empty();
    let known = &Known { is_partial: known.is_partial || !is_whole, filters: known.filters.clone(), ..*known };
    if let Some(beyond) = drafts.get(JAILS_MAX) {
        report.push(Problem::error(beyond.name.place, format!("more than {JAILS_MAX} jails")));
    }
    let complete = |one: &&Collected| one.draft.raw.on.is_some();
    let others: Vec<String> = drafts.iter().filter(complete).map(|one| one.name.value.clone()).collect();
    let resolve = |one: Collected| Resolver { name: &one.name, known, others: &others, report }.resolve(one.draft);
    let jails = drafts.into_iter().filter_map(resolve).collect();
    Resolved { jails, has_any }
}

/// What was read of one jail.
struct Collected {
    /// Where it stands first.
    name: At<String>,
    draft: Draft,
    /// The highest of the files that say something of it.
    rank: usize,
    /// What single files *change* in it: they do not say `on`, so they are not what brings the jail.
    changes: Vec<RawJail>,
}

/// The jails, and whether all files could be parsed.
fn collect(texts: &Texts, report: &mut Report) -> (Vec<Collected>, bool) {
    let mut drafts: Vec<Collected> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut is_whole = true;
    for text in &texts.jails {
        let Some(file) = files::parse::<RawJailFile>(text, report) else {
            is_whole = false;
            continue;
        };
        for (name, draft) in file.jails.map_or_else(Vec::new, |at| at.value.0) {
            let Some(earlier) = index.get(&name.value).and_then(|at| drafts.get_mut(*at)) else {
                index.insert(name.value.clone(), drafts.len());
                let changes = change(&draft.value.raw).into_iter().collect();
                drafts.push(Collected { name, draft: draft.value, rank: text.rank, changes });
                continue;
            };
            let later = report.file_name(name.place.file).to_owned();
            if text.rank < earlier.rank {
                let problem = Problem::warning(earlier.name.place, format!("{later} comes later and overrides jail {:?}", name.value));
                report.push(problem.help(SORTS_AFTER));
            } else {
                earlier.tell_overruled(&draft.value.raw, &later, report);
            }
            earlier.rank = text.rank.max(earlier.rank);
            earlier.changes.extend(change(&draft.value.raw));
            earlier.draft.is_damaged |= draft.value.is_damaged;
            earlier.draft.raw.amend(draft.value.raw);
        }
    }
    (drafts, is_whole)
}

impl Collected {
    /// A change that a later file says again has no effect. That a change overrules what brought the jail is what it is for.
    fn tell_overruled(&self, later: &RawJail, file: &str, report: &mut Report) {
        let later = RawJail { overrides: None, ..later.clone() }; // entries of it are added
        for place in self.changes.iter().flat_map(|change| change.said_again(&later)) {
            let problem = Problem::warning(place, format!("this has no effect: {file} comes later and says it again"));
            report.push(problem.help(SORTS_AFTER));
        }
    }
}

fn change(raw: &RawJail) -> Option<RawJail> {
    raw.on.is_none().then(|| raw.clone())
}

struct Resolver<'a> {
    name: &'a At<String>,
    known: &'a Known<'a>,
    /// Jails that say what they are about: the one that was meant, where a change has a name of its own.
    others: &'a [String],
    report: &'a mut Report,
}

impl Resolver<'_> {
    fn resolve(mut self, draft: Draft) -> Option<Jail> {
        let before = self.report.count(Severity::Error);
        let raw = draft.raw;
        self.check_name();
        let is_whole = !draft.is_damaged && !self.known.is_partial;
        if is_whole {
            self.refuse_gaps(&raw);
        }
        self.check_filters(raw.filter.as_ref());
        let is_enabled = raw.enabled.as_ref().is_none_or(|enabled| enabled.value);
        let jail = self.build(raw);
        let is_sound = self.report.count(Severity::Error) == before && !draft.is_damaged;
        (is_enabled && is_sound && !jail.steps.is_empty()).then_some(jail)
    }

    /// The jail as far as it can be told; without errors it is complete.
    fn build(&mut self, raw: RawJail) -> Jail {
        let silent = Jail::default();
        let on = list(&raw.on);
        self.check_kinds(raw.on.as_ref());
        let key = raw.key.clone().map_or(silent.key, |At { value: Key(parts), .. }| parts);
        let measure = raw.measure.as_ref().map_or(silent.measure, |measure| measure.value);
        let steps = self.steps(&raw, measure);
        self.check_actions(&raw, &on, &key, &steps);
        self.check_score(&raw, &on, &key, measure, &steps);
        self.check_measure(&raw, &key, measure);
        if let Some(findtime) = raw.findtime.as_ref().filter(|findtime| findtime.value > FINDTIME_MAX) {
            self.error(findtime.place, Wrong::new("a findtime above 400 days"));
        }
        let conditions = conditions::resolve(raw.conditions, self.known.lowercase, self.report);
        let scope = raw.scope.as_ref().map_or_else(|| default_scope(&on, &conditions), |scope| scope.value);
        self.check_scope(raw.scope.as_ref().map_or(self.name.place, |scope| scope.place), scope, &conditions, &steps);
        let on_family = on.first().map_or(silent.family, |kind| Family::of(*kind));
        let has_name = key.iter().any(|part| matches!(part, KeyPart::Account | KeyPart::Submitter | KeyPart::Domain));
        Jail {
            name: self.name.value.clone(),
            mode: value_or(raw.mode, silent.mode),
            on,
            filters: raw.filter.map_or_else(Vec::new, |filters| unplaced(filters.value.0)),
            conditions,
            weak: value_or(raw.weak, silent.weak),
            unless: unless(raw.unless.as_ref()),
            shared: value_or(raw.shared, silent.shared),
            key,
            measure,
            window: value_or(raw.window, silent.window),
            findtime: value_or(raw.findtime, silent.findtime),
            weight: self.weights(raw.weight),
            steps,
            min: value_or(raw.min, silent.min),
            operators: value_or(raw.operators, silent.operators),
            max: value_or(raw.max, silent.max),
            family: raw.family.map_or_else(|| on_family, |family| family.value),
            ban: BanSpec { bantime: raw.bantime.map_or(silent.ban.bantime, |At { value: Bantime(span), .. }| span), scope },
            forgive: raw.forgive.is_some_and(|forgive| forgive.value == Forgive::AuthSuccess),
            overrides: self.overrides(raw.overrides, has_name),
        }
    }

    fn error(&mut self, place: Place, wrong: Wrong) {
        self.report.push(wrong.at(place));
    }

    fn check_name(&mut self) {
        let name = &self.name.value;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
            let help = format!("letters, digits, - _ and . only, at most {NAME_BYTES_MAX}");
            self.error(self.name.place, Wrong::new(format!("{name:?} cannot be the name of a jail")).help(help));
        } else if let Some((_, what)) = NAMES_TAKEN.iter().find(|(taken, _)| taken == name) {
            let wrong = Wrong::new(format!("{name:?} is the name under which {what}"));
            self.error(self.name.place, wrong.help("give the jail another one"));
        }
    }

    fn refuse_gaps(&mut self, raw: &RawJail) {
        let name = &self.name.value;
        let others = || self.others.iter().map(String::as_str).collect::<Vec<_>>();
        if raw.on.is_none()
            && let Some(meant) = nearest(name, &others())
        {
            let wrong = Wrong { label: format!("did you mean {meant:?}?"), ..Wrong::new(format!("there is no jail {name:?} to change")) };
            self.error(self.name.place, wrong.help("a new jail says `on` which events it is"));
            return;
        }
        if raw.on.as_ref().is_none_or(|on| on.value.0.is_empty()) {
            let kinds: Vec<&str> = EventKind::ALL.iter().filter(|kind| is_counted(**kind)).map(|kind| kind.as_str()).collect();
            let wrong =
                Wrong::new(format!("jail {name:?} does not say `on` which events")).help(format!("there are: {}", kinds.join(", ")));
            self.error(self.name.place, wrong);
        }
        if raw.limit.is_none() && raw.steps.is_none() {
            let wrong = Wrong::new(format!("jail {name:?} has no limit")).help("maxretry = 6, or limit = 6, or steps");
            self.error(self.name.place, wrong);
        }
    }

    fn check_kinds(&mut self, on: Option<&At<Many<EventKind>>>) {
        for At { value, place } in on.map_or(&[][..], |list| &list.value.0) {
            if !is_counted(*value) {
                let wrong = Wrong::new(format!("\"{value}\" is never counted: no jail would hear of it"));
                self.error(*place, wrong.help("who is told of holds and locks stands in [notify]"));
            }
        }
    }

    fn check_filters(&mut self, filters: Option<&At<Many<String>>>) {
        let Some(known) = &self.known.filters else { return };
        for At { value, place } in filters.map_or(&[][..], |list| &list.value.0) {
            if !known.contains(&value.as_str()) {
                self.report.push(Wrong::unknown("filter", value, known).at(*place));
            }
        }
    }

    fn steps(&mut self, raw: &RawJail, measure: Measure) -> Vec<Step> {
        let Some(ladder) = &raw.steps else {
            let Some(limit) = &raw.limit else { return Vec::new() };
            self.check_limit(limit, measure);
            let then = list(&raw.then);
            let then = if then.is_empty() && raw.score.is_none() { vec![Action::Ban] } else { then };
            return vec![Step { limit: limit.value.0, score: score(raw.score.as_ref()), then }];
        };
        for (key, place) in [
            ("limit", raw.limit.as_ref().map(|at| at.place)),
            ("score", raw.score.as_ref().map(|at| at.place)),
            ("then", raw.then.as_ref().map(|at| at.place)),
        ] {
            if let Some(place) = place {
                self.error(place, Wrong::new(format!("`{key}` beside `steps`")).help("each step has its own limit, score and then"));
            }
        }
        if ladder.value.0.is_empty() {
            self.error(ladder.place, Wrong::new("`steps` without a step"));
        } else if ladder.value.0.len() > STEPS_MAX {
            self.error(ladder.place, Wrong::new(format!("more than {STEPS_MAX} steps")));
        }
        let mut steps: Vec<Step> = Vec::new();
        for At { value, place } in &ladder.value.0 {
            let Some(step) = self.step(value, *place, measure) else { continue };
            if let Some(last) = steps.last().filter(|last| last.limit >= step.limit) {
                let place = value.limit.as_ref().map_or(*place, |limit| limit.place);
                let wrong = Wrong::new(format!("the limits of the steps do not rise: {} after {}", step.limit, last.limit));
                self.error(place, wrong);
            }
            steps.push(step);
        }
        steps
    }

    fn step(&mut self, raw: &RawStep, place: Place, measure: Measure) -> Option<Step> {
        let Some(limit) = &raw.limit else {
            self.error(place, Wrong::new("a step without `limit`"));
            return None;
        };
        self.check_limit(limit, measure);
        let then = list(&raw.then);
        if then.is_empty() && raw.score.is_none() {
            self.error(
                place,
                Wrong::new("a step that does nothing").help("say what happens with `then`, or how much it weighs with `score`"),
            );
        }
        Some(Step { limit: limit.value.0, score: score(raw.score.as_ref()), then })
    }

    fn check_limit(&mut self, limit: &At<Limit>, measure: Measure) {
        let &At { value: Limit(limit), place } = limit;
        let (most, why) = match measure {
            Measure::Count => (COUNT_LIMIT_MAX, "events are remembered one by one"),
            Measure::Distinct(_) => (DISTINCT_PER_KEY_MAX as u64, "that many different values are remembered"),
            Measure::SumRecipients | Measure::SumBytes => (SUM_LIMIT_MAX, "no sum grows larger"),
            Measure::RatioBounced | Measure::RatioSpam => (100, "a ratio is in percent"),
            Measure::BurstRecipients | Measure::BurstMessages => (1_000, "a burst is in times of what is usual"),
            Measure::New(_) => (1, "something is new or it is not"),
            Measure::Speed => (100_000, "a speed is in kilometres per hour"),
        };
        if limit == 0 {
            self.error(place, Wrong::new("a limit of 0 is reached before anything happens").help("1 trips at the first event"));
        } else if limit > most {
            self.error(place, Wrong::new(format!("a limit above {most}")).help(why));
        }
    }

    fn check_actions(&mut self, raw: &RawJail, on: &[EventKind], key: &[KeyPart], steps: &[Step]) {
        let place = actions_place(raw).unwrap_or(self.name.place);
        let has_address = key.iter().any(|part| matches!(part, KeyPart::Ip | KeyPart::Network));
        let has_account = key.iter().any(|part| matches!(part, KeyPart::Account | KeyPart::Submitter));
        let joined: Vec<&str> = key.iter().map(|part| part.as_str()).collect();
        let joined = joined.join("+");
        for action in steps.iter().flat_map(|step| &step.then).collect::<HashSet<_>>() {
            let (is_possible, needed, help) = match action {
                Action::Ban => (has_address, "an address", "then = [\"ban-contributors\"] bans the strangers that added to the count"),
                Action::Hold | Action::Lock | Action::Slow => (has_account, "an account", "key = \"account\" or \"submitter\""),
                Action::BanContributors | Action::Alert => (true, "", ""),
            };
            if !is_possible {
                let wrong = Wrong::new(format!("\"{action}\" needs {needed}, and the key {joined:?} has none"));
                self.error(place, wrong.help(help));
            }
            if ACTIONS_TO_COME.contains(action) {
                self.error(
                    place,
                    Wrong::new(format!("\"{action}\" is not available yet")).help("there are: ban, ban-contributors, alert, hold, lock"),
                );
            }
            if *action == Action::Lock && on.iter().any(|kind| matches!(kind, EventKind::AuthFailure | EventKind::Reject)) {
                let wrong = Wrong::new("failures never lock an account: an attacker could lock anybody out");
                self.error(place, wrong.help("then = [\"ban-contributors\"], or [\"alert\"]"));
            }
        }
    }

    /// Only who sends can be suspected, and never for what others tried.
    fn check_score(&mut self, raw: &RawJail, on: &[EventKind], key: &[KeyPart], measure: Measure, steps: &[Step]) {
        let is_scored = steps.iter().any(|step| step.score > 0);
        let place = raw.score.as_ref().map(|at| at.place).or_else(|| raw.steps.as_ref().map(|at| at.place)).unwrap_or(self.name.place);
        let has_account = key.iter().any(|part| matches!(part, KeyPart::Account | KeyPart::Submitter));
        if is_scored && !has_account && measure != Measure::Distinct(Distinct::Account) {
            let wrong = Wrong::new("`score` needs an account, and the key has none");
            self.error(
                place,
                wrong.help("key = \"account\" or \"submitter\"; or measure = \"distinct account\", which suspects all of them"),
            );
        }
        if is_scored && on.iter().any(|kind| matches!(kind, EventKind::AuthFailure | EventKind::ProtocolAbuse)) {
            let wrong = Wrong::new("a failed login never counts against an account: an attacker could lock anybody out");
            self.error(place, wrong.help("then = [\"ban-contributors\"], or [\"alert\"]"));
        }
        let needs_account = measure.is_momentary() || measure.is_relative();
        if needs_account && !has_account {
            let place = raw.measure.as_ref().map_or(self.name.place, |measure| measure.place);
            let wrong = Wrong::new("what is new or usual is so for an account, and the key has no account");
            self.error(place, wrong.help("key = \"account\" or \"submitter\""));
        }
    }

    fn check_measure(&mut self, raw: &RawJail, key: &[KeyPart], measure: Measure) {
        let place = raw.measure.as_ref().map_or(self.name.place, |measure| measure.place);
        let same = match measure {
            Measure::Distinct(Distinct::Ip) => Some(KeyPart::Ip),
            Measure::Distinct(Distinct::Network) => Some(KeyPart::Network),
            Measure::Distinct(Distinct::Account) => Some(KeyPart::Account),
            _ => None,
        };
        if let Some(part) = same.filter(|part| key.contains(part)) {
            self.error(place, Wrong::new(format!("there is one {part} for each key, so the measure is never above 1")));
        }
        if let Some(weight) = raw.weight.as_ref().filter(|_| measure != Measure::Count) {
            self.error(weight.place, Wrong::new("`weight` is for measure = \"count\""));
        }
    }

    /// A ban that does not close the door that the client came by is no ban.
    fn check_scope(&mut self, place: Place, scope: Scope, conditions: &[Condition], steps: &[Step]) {
        let bans = steps.iter().any(|step| step.then.contains(&Action::Ban) || step.then.contains(&Action::BanContributors));
        let services = positive_services(conditions);
        let open: Vec<&str> = services.iter().filter(|service| !scope.covers(**service)).map(|service| service.as_str()).collect();
        if bans && !open.is_empty() {
            let message = format!("a ban of scope \"{scope}\" leaves {} open", open.join(", "));
            self.report.push(Problem::warning(place, message).help("take a wider scope, or fewer services"));
        }
    }

    fn weights(&mut self, raw: Option<At<Named<u32>>>) -> Vec<(Reason, u32)> {
        let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        let mut weights = Vec::new();
        for (name, weight) in raw.map_or_else(Vec::new, |at| at.value.0) {
            match name.value.parse() {
                Ok(reason) => weights.push((reason, weight.value)),
                Err(()) => self.error(name.place, Wrong::unknown("reason", &name.value, &known)),
            }
            if weight.value > 1_000 {
                self.error(weight.place, Wrong::new("a weight above 1000"));
            }
        }
        weights
    }

    fn overrides(&mut self, raw: Option<At<Named<RawOverride>>>, has_name: bool) -> HashMap<String, Override> {
        let mut overrides = HashMap::new();
        if let Some(At { place, .. }) = raw.as_ref().filter(|raw| !has_name && !raw.value.0.is_empty()) {
            let wrong =
                Wrong::new("`override` needs an account, and the key has none").help("`ignoreip` in mailwarden.toml spares addresses");
            self.error(*place, wrong);
        }
        let entries = raw.map_or_else(Vec::new, |at| at.value.0);
        let classes: Vec<String> = entries.iter().map(|(who, _)| who.value.clone()).filter(|who| !who.contains('@')).collect();
        for (who, entry) in entries {
            self.check_override(&who, &entry.value, &classes);
            let raw = entry.value;
            let name = if who.value.contains('@') { cased(&who.value, self.known.lowercase) } else { who.value };
            let resolved = Override {
                factor: raw.factor.map(|factor| factor.value),
                limit: raw.limit.map(|limit| limit.value),
                exempt: value_or(raw.exempt, false),
                class: raw.class.map(|class| class.value),
            };
            overrides.insert(name, resolved);
        }
        overrides
    }

    fn check_override(&mut self, who: &At<String>, raw: &RawOverride, classes: &[String]) {
        if let Some(factor) = raw.factor.as_ref().filter(|factor| !(0.001..=1e6).contains(&factor.value)) {
            self.error(factor.place, Wrong::new(format!("factor {} is not between 0.001 and 1000000", factor.value)));
        }
        if let Some(limit) = raw.limit.as_ref().filter(|limit| limit.value == 0) {
            self.error(limit.place, Wrong::new("a limit of 0 is reached before anything happens").help("`exempt = true` leaves it alone"));
        }
        if let (Some(limit), Some(_)) = (&raw.limit, &raw.factor) {
            self.error(limit.place, Wrong::new("`limit` beside `factor`").help("keep one of them"));
        }
        if raw.factor.is_none() && raw.limit.is_none() && raw.exempt.is_none() && raw.class.is_none() {
            self.error(who.place, Wrong::new("an override that changes nothing").help("factor, limit, exempt or class"));
        }
        let Some(class) = &raw.class else { return };
        if !who.value.contains('@') {
            self.error(class.place, Wrong::new("a class in a class"));
        } else if !classes.contains(&class.value) {
            let known: Vec<&str> = classes.iter().map(String::as_str).collect();
            let wrong = Wrong::unknown("class", &class.value, &known);
            let help = format!("[jail.{}.override.{}] says what holds for the class", self.name.value, class.value);
            self.error(class.place, wrong.help(help));
        }
    }
}

/// What mailwarden itself does to accounts is not fed back to the jails; its bans are.
fn is_counted(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Held | EventKind::Locked)
}

/// For people who log in: what people use; for what servers do: port 25.
fn default_scope(on: &[EventKind], conditions: &[Condition]) -> Scope {
    let services = positive_services(conditions);
    if !services.is_empty() {
        let tightest = [Scope::Mx, Scope::Submission, Scope::Mailbox, Scope::Auth, Scope::Ssh, Scope::Web, Scope::Mail];
        let fits = |scope: &Scope| services.iter().all(|service| scope.covers(*service));
        return tightest.into_iter().find(fits).unwrap_or(Scope::All);
    }
    match on {
        [] => Scope::Mail,
        on if on.iter().all(|kind| matches!(kind, EventKind::AuthFailure | EventKind::AuthSuccess)) => Scope::Auth,
        on if on.iter().all(|kind| matches!(kind, EventKind::Reject | EventKind::ProtocolAbuse)) => Scope::Mx,
        _ => Scope::Mail,
    }
}

/// The services that the jail names; empty: any.
fn positive_services(conditions: &[Condition]) -> Vec<Service> {
    let positive = conditions.iter().filter(|condition| !condition.negated);
    positive.filter_map(|condition| if let Test::Service(list) = &condition.test { Some(list) } else { None }).flatten().copied().collect()
}

fn actions_place(raw: &RawJail) -> Option<Place> {
    let then = raw.then.as_ref().map(|then| then.place);
    let steps = || raw.steps.as_ref().map(|steps| steps.place);
    then.or_else(steps).or_else(|| raw.key.as_ref().map(|key| key.place))
}

fn unless(raw: Option<&At<Many<Exception>>>) -> Unless {
    let has = |word| raw.is_some_and(|list| list.value.0.iter().any(|at| at.value == word));
    Unless { known_good: has(Exception::KnownGood), accepted: has(Exception::Accepted) }
}

fn list<T: Clone>(raw: &Option<At<Many<T>>>) -> Vec<T> {
    raw.as_ref().map_or_else(Vec::new, |list| unplaced(list.value.0.clone()))
}

fn score(raw: Option<&At<u32>>) -> u32 {
    raw.map_or(0, |score| score.value)
}
