//! The kernel's firewall as the daemon sees it: there, not there (and tried again), or left alone in a dry run.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use log::{error, info, warn};

use crate::address::display;
use crate::enforce::nft::{self, Change, Element, Kernel, KernelStatus, Key, Leftover, NetlinkKernel, NftError, NftOptions};
use crate::enforce::reconcile::{Keeper, LIST_AT_START_MAX, Reconcile, Report};
use crate::engine::jail::Scope;
use crate::engine::{Engine, RECOVERED};
use crate::limits::BULK_ELEMENTS_MAX;
use crate::time::Timestamp;

/// Sets up to this size are read when their bans have to be taken over (1.6 s); those of larger ones end by their own time.
const ADOPTED_MAX: usize = 250_000;
/// Larger ones are not counted anew for each `status` of a dry run.
const LEFTOVERS_COUNTED_MAX: usize = 4_096;
/// How often a firewall that cannot be used is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often the same trouble is told again.
const REMINDER: Duration = Duration::from_secs(600);
/// So many failures without a repair in between, and the firewall cannot be used.
const FAILURES_MAX: u32 = 3;
/// Unbans that wait for a firewall that can be used. More than this, and the bans end by their own time.
const OWED_MAX: usize = 65_536;

pub(super) struct Firewall {
    state: State,
    open: Open,
    keeper: Keeper,
    told: Option<(String, Instant)>,
    /// What went wrong since everything in the kernel was known to be right.
    doubt: Option<String>,
    failures: u32,
    /// Unbans that the kernel did not get: sets too large to be searched would keep them.
    owed: HashSet<Key>,
    /// Bans that the kernel did not take.
    pub(super) refused: u64,
    /// The state knows nothing of what is in the kernel: that stays, and becomes known.
    adopts: bool,
    /// That this was done.
    adopted: Option<String>,
    /// Tables of earlier runs under other names, which have to go when the bans are in force here.
    old_tables: Vec<String>,
    /// In a dry run: tables of earlier runs that go on dropping packets.
    leftovers: Vec<Leftover>,
}

type Open = Box<dyn FnMut() -> Result<Box<dyn Kernel>, NftError>>;

enum State {
    Up(Box<dyn Kernel>),
    Down { error: String, retry: Instant },
    DryRun,
}

impl Firewall {
    /// Opens the kernel's firewall and brings it in line with the ledger. When it cannot be used the daemon runs all the
    /// same, says so, and tries again.
    ///
    /// `tables` are those that bans of this state were written to; none, and what is in the kernel is taken over.
    pub(super) fn open(options: NftOptions, dry_run: bool, tables: &[String], engine: &mut Engine, now: Timestamp) -> Firewall {
        let table = options.table.clone();
        let mut firewall = Firewall::new(Box::new(move || Ok(Box::new(NetlinkKernel::start(options.clone())?))));
        firewall.adopts = tables.is_empty();
        firewall.old_tables = tables.iter().filter(|old| **old != table).cloned().collect();
        if dry_run {
            firewall.state = State::DryRun;
            info!("dry run: nothing is enforced");
            firewall.look_for_leftovers(&table, tables);
        } else if firewall.connect() && firewall.adopt(engine, now) {
            firewall.catch_up(engine, now);
        }
        firewall
    }

    fn new(open: Open) -> Firewall {
        Firewall {
            state: State::Down { error: "not tried yet".into(), retry: Instant::now() },
            open,
            keeper: Keeper::default(),
            told: None,
            doubt: None,
            failures: 0,
            owed: HashSet::new(),
            refused: 0,
            adopts: false,
            adopted: None,
            old_tables: Vec::new(),
            leftovers: Vec::new(),
        }
    }

    /// In a dry run: what earlier runs left in the kernel.
    fn look_for_leftovers(&mut self, table: &str, tables: &[String]) {
        let others = tables.iter().map(String::as_str).filter(|other| *other != table);
        for name in [table].into_iter().chain(others) {
            match nft::leftover(name, LIST_AT_START_MAX) {
                Ok(found) => self.leftovers.extend(found),
                // Whoever is not root cannot have left anything there.
                Err(NftError::NotPermitted | NftError::NoNfTables) => {}
                Err(error) => warn!("whether table inet {name} still enforces bans of an earlier run cannot be seen: {error}"),
            }
        }
        if let Some(text) = self.leftover() {
            warn!("{text}");
        }
    }

    /// In a dry run: that an earlier run's bans are still enforced, and what to do about it.
    pub(super) fn leftover(&mut self) -> Option<String> {
        for index in (0..self.leftovers.len()).rev() {
            let Some(known) = self.leftovers.get_mut(index) else { continue };
            // They end, and somebody may tear them down. A large set is counted once.
            let limit = if known.is_more || known.bans > LEFTOVERS_COUNTED_MAX { 0 } else { LEFTOVERS_COUNTED_MAX };
            match nft::leftover(&known.table, limit) {
                Ok(Some(now)) if limit > 0 => *known = now,
                Ok(None) => drop(self.leftovers.remove(index)),
                Ok(Some(_)) | Err(_) => {}
            }
        }
        let tell = |left: &Leftover| {
            let count = if left.is_more { format!("more than {}", left.bans) } else { left.bans.to_string() };
            format!("{count} bans of an earlier run (table inet {}; `mailwarden teardown --table {}` removes them)", left.table, left.table)
        };
        let each: Vec<String> = self.leftovers.iter().filter(|left| left.bans > 0 || left.is_more).map(tell).collect();
        (!each.is_empty()).then(|| format!("the kernel STILL ENFORCES {}", each.join(" and ")))
    }

    /// In a dry run: by which bans of an earlier run the kernel still keeps `net` out, in words.
    pub(super) fn still_enforced(&self, net: IpNetwork) -> Option<String> {
        let holds = |left: &&Leftover| nft::left_holding(&left.table, net).is_ok_and(|keys| !keys.is_empty());
        let left = self.leftovers.iter().find(holds)?;
        Some(format!(
            "the kernel still enforces a ban of it from an earlier run, which a dry run does not touch: `mailwarden teardown --table {}` \
             removes all of those; to lift this one for good, unban it when the daemon runs without --dry-run",
            left.table
        ))
    }

    /// Everything is in force here: tables under other names are not needed any more.
    fn remove_old_tables(&mut self) {
        let State::Up(kernel) = &self.state else { return };
        let current = kernel.status().table;
        self.old_tables.retain(|old| match nft::teardown(old) {
            Ok(was_there) => {
                if was_there {
                    info!("removed the table inet {old} of an earlier configuration: its bans are in table inet {current} now");
                }
                false
            }
            Err(error) => {
                warn!("table inet {old} of an earlier configuration cannot be removed: {error}; it is tried again at the next start");
                true
            }
        });
    }

    pub(super) fn is_busy(&self) -> bool {
        self.keeper.is_working() && matches!(self.state, State::Up(_))
    }

    /// `None` when nothing is wrong.
    pub(super) fn problem(&self) -> Option<&str> {
        match &self.state {
            State::Down { error, .. } => Some(error),
            State::Up(_) => self.doubt.as_deref(),
            State::DryRun => None,
        }
    }

    /// Whether all bans are in the kernel.
    pub(super) fn is_enforcing(&self) -> bool {
        matches!(self.state, State::Up(_)) && !self.keeper.is_working() && self.doubt.is_none()
    }

    pub(super) fn is_dry_run(&self) -> bool {
        matches!(self.state, State::DryRun)
    }

    pub(super) fn status(&self) -> Option<KernelStatus> {
        match &self.state {
            State::Up(kernel) => Some(kernel.status()),
            State::Down { .. } | State::DryRun => None,
        }
    }

    /// Packets dropped since the rules were written.
    pub(super) fn dropped_packets(&mut self) -> Option<u64> {
        let State::Up(kernel) = &mut self.state else { return None };
        kernel.counters().ok().map(|counters| counters.iter().map(|counter| counter.packets).sum())
    }

    /// Writes new bans; in force when it returns.
    pub(super) fn add(&mut self, elements: &[Element]) {
        for slice in elements.chunks(BULK_ELEMENTS_MAX) {
            let State::Up(kernel) = &mut self.state else { return };
            match kernel.add(slice) {
                Ok(applied) => self.note_refused(&applied.refused, applied.refused.len()),
                // All of them are written again.
                Err(error) => return self.fail(&error),
            }
        }
    }

    pub(super) fn remove(&mut self, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        let result = match &mut self.state {
            State::Up(kernel) => kernel.remove(keys),
            State::Down { .. } => return self.owe(keys),
            State::DryRun => return,
        };
        if let Err(error) = result {
            self.owe(keys);
            self.fail(&error);
        }
    }

    fn owe(&mut self, keys: &[Key]) {
        let room = OWED_MAX.saturating_sub(self.owed.len());
        self.owed.extend(keys.iter().take(room));
    }

    /// One slice of a repair.
    pub(super) fn work(&mut self, engine: &Engine, now: Timestamp) {
        let State::Up(kernel) = &mut self.state else { return };
        match self.keeper.step(&mut **kernel, |key| element(engine, *key, now)) {
            Ok(Some(report)) => self.note_repair(&report),
            Ok(None) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// Every tick: a firewall that was down is tried again, one that somebody damaged is put back.
    pub(super) fn tick(&mut self, engine: &mut Engine, now: Timestamp) {
        if let State::Down { retry, .. } = &self.state
            && *retry <= Instant::now()
            && self.connect()
        {
            self.keeper.request();
        }
        if !self.adopt(engine, now) {
            return;
        }
        self.pay(engine);
        let State::Up(kernel) = &mut self.state else { return };
        match self.keeper.look(&mut **kernel, || keys(engine)) {
            Ok(Change::Lost(what)) => warn!("somebody changed our nftables table ({what}); putting it back with every ban"),
            Ok(Change::None | Change::Elsewhere) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// Unbans that could not be carried out when they were decided, unless there is a ban again.
    fn pay(&mut self, engine: &Engine) {
        if matches!(self.state, State::Up(_)) && !self.owed.is_empty() {
            let unwanted = std::mem::take(&mut self.owed).into_iter().filter(|(net, scope)| engine.ban_end(*net, *scope).is_none());
            self.remove(&unwanted.collect::<Vec<Key>>());
        }
    }

    fn connect(&mut self) -> bool {
        match (self.open)() {
            Ok(kernel) => {
                let status = kernel.status();
                info!(
                    "enforcing in nftables: table inet {} ({:?}), features: {}",
                    status.table,
                    status.mode,
                    status.features.names().join(" ")
                );
                self.state = State::Up(kernel);
                self.told = None;
                true
            }
            Err(error) => {
                // Bans of another daemon are not ours.
                self.adopts &= !matches!(error, NftError::Owned { .. });
                self.fail(&error);
                false
            }
        }
    }

    /// Takes over the kernel's bans, where the state knows nothing of them. False: that is still to be done, and until then
    /// none of them may be taken for one that nobody wants.
    fn adopt(&mut self, engine: &mut Engine, now: Timestamp) -> bool {
        if !self.adopts {
            return true;
        }
        let State::Up(kernel) = &mut self.state else { return false };
        match kernel.list(ADOPTED_MAX) {
            Ok(listing) => {
                self.adopts = false;
                let until = |element: &Element| element.timeout.map_or(Timestamp::NEVER, |left| now + left);
                let found = listing.elements.iter().map(|element| (element.net, element.scope, until(element)));
                let adopted = engine.adopt_bans(found);
                if adopted > 0 {
                    let text = format!("{adopted} bans in the kernel that the state knew nothing of stay in force (jail {RECOVERED})");
                    warn!("{text}");
                    self.adopted = Some(format!("the state was missing or incomplete at {now}: {text}; a restart ends this message"));
                }
                true
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// What of the state had to be taken from the kernel.
    pub(super) fn adopted(&self) -> Option<&str> {
        self.adopted.as_deref()
    }

    /// Which tables hold bans of ours; `None`: nothing is in force.
    pub(super) fn tables(&self) -> Option<Vec<String>> {
        match &self.state {
            State::Up(kernel) if !self.adopts => Some([kernel.status().table].into_iter().chain(self.old_tables.iter().cloned()).collect()),
            State::Up(_) | State::Down { .. } | State::DryRun => None,
        }
    }

    /// At start, when nothing else is to be done yet, all at once.
    fn catch_up(&mut self, engine: &Engine, now: Timestamp) {
        let State::Up(kernel) = &mut self.state else { return };
        match Reconcile::new(keys(engine), LIST_AT_START_MAX).run(&mut **kernel, |key| element(engine, *key, now)) {
            Ok(report) => self.note_repair(&report),
            Err(error) => self.fail(&error),
        }
    }

    fn note_repair(&mut self, report: &Report) {
        if report.restored > 0 || report.removed > 0 {
            info!("{} bans are in the kernel, {} that nobody wants any more were removed", report.restored, report.removed);
        }
        self.failures = 0;
        self.doubt = None;
        self.remove_old_tables();
        self.note_refused(&report.refusals, report.refused);
    }

    fn note_refused(&mut self, first: &[(Element, NftError)], count: usize) {
        self.refused += count as u64;
        if let Some((element, error)) = first.first() {
            self.tell(format!("{count} bans are NOT ENFORCED, the first {}: {error}", display(element.net)));
        }
    }

    /// What happens to the kernel's firewall stops nothing else. An answer that was lost, or a table that was taken away under
    /// our hands, is made good at the next tick; what will not be otherwise in a second is tried again later.
    fn fail(&mut self, error: &NftError) {
        let text = error.to_string();
        self.failures += 1;
        let lasts = match error {
            NftError::Owned { .. } | NftError::NotPermitted | NftError::NoNfTables | NftError::BadName(_) => true,
            NftError::Socket(_) | NftError::SetFull { .. } | NftError::Gone { .. } | NftError::Uncertain | NftError::Refused { .. } => {
                self.failures >= FAILURES_MAX
            }
        };
        if lasts {
            self.keeper = Keeper::default();
            self.state = State::Down { error: text.clone(), retry: Instant::now() + RETRY };
            return self.tell(format!("NOT ENFORCING: {text}; trying again every {} s", RETRY.as_secs()));
        }
        self.doubt = Some(text.clone());
        if matches!((error, &self.state), (NftError::Socket(_), _) | (_, State::Down { .. })) {
            self.keeper = Keeper::default();
            self.state = State::Down { error: text.clone(), retry: Instant::now() };
        } else {
            self.keeper.distrust();
        }
        self.tell(format!("a change of the firewall failed: {text}; writing every ban again"));
    }

    fn tell(&mut self, text: String) {
        let known = self.told.as_ref().is_some_and(|(told, at)| *told == text && at.elapsed() < REMINDER);
        if !known {
            error!("{text}");
            self.told = Some((text, Instant::now()));
        }
    }
}

fn keys(engine: &Engine) -> Vec<Key> {
    engine.ban_keys().collect()
}

/// What should be in the kernel for `key`; `None` for a ban that is not, or has run out.
fn element(engine: &Engine, (net, scope): (IpNetwork, Scope), now: Timestamp) -> Option<Element> {
    lasting(net, scope, engine.ban_end(net, scope)?, now)
}

/// `None` for a ban that has run out.
pub(super) fn lasting(net: IpNetwork, scope: Scope, until: Timestamp, now: Timestamp) -> Option<Element> {
    let timeout = (until != Timestamp::NEVER).then(|| until.since(now));
    let is_over = timeout.is_some_and(|left| left.is_zero());
    (!is_over).then_some(Element { net, scope, timeout })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::rc::Rc;

    use nix::errno::Errno;

    use super::*;
    use crate::enforce::nft::{Applied, Counter, FakeKernel, Listing, Owner, Remaining};
    use crate::engine::EngineConfig;
    use crate::engine::decision::{Command, Reply};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    /// The kernel stays when a socket to it is dropped.
    struct Session(Rc<RefCell<FakeKernel>>);

    impl Kernel for Session {
        fn add(&mut self, elements: &[Element]) -> Result<Applied, NftError> {
            self.0.borrow_mut().add(elements)
        }
        fn remove(&mut self, keys: &[Key]) -> Result<(), NftError> {
            self.0.borrow_mut().remove(keys)
        }
        fn contains(&mut self, net: IpNetwork, scope: Scope) -> Result<Option<Remaining>, NftError> {
            self.0.borrow_mut().contains(net, scope)
        }
        fn changed_behind_us(&mut self) -> Result<Change, NftError> {
            self.0.borrow_mut().changed_behind_us()
        }
        fn rebuild(&mut self) -> Result<(), NftError> {
            self.0.borrow_mut().rebuild()
        }
        fn flush(&mut self) -> Result<(), NftError> {
            self.0.borrow_mut().flush()
        }
        fn list(&mut self, limit: usize) -> Result<Listing, NftError> {
            self.0.borrow_mut().list(limit)
        }
        fn counters(&mut self) -> Result<Vec<Counter>, NftError> {
            self.0.borrow_mut().counters()
        }
        fn status(&self) -> KernelStatus {
            self.0.borrow().status()
        }
    }

    struct World {
        kernel: Rc<RefCell<FakeKernel>>,
        sessions: Rc<Cell<usize>>,
        engine: Engine,
        firewall: Firewall,
    }

    impl World {
        fn new() -> World {
            let kernel = Rc::new(RefCell::new(FakeKernel::new(NftOptions::default(), NOW)));
            let sessions = Rc::new(Cell::new(0));
            let (theirs, count) = (kernel.clone(), sessions.clone());
            let open: Open = Box::new(move || {
                count.set(count.get() + 1);
                Ok(Box::new(Session(theirs.clone())))
            });
            let mut firewall = Firewall::new(open);
            assert!(firewall.connect());
            World { kernel, sessions, engine: Engine::new(EngineConfig::default(), NOW), firewall }
        }

        fn command(&mut self, command: Command) {
            assert!(matches!(self.engine.handle_command(command, NOW), Reply::Done { .. }));
            while self.engine.poll_decision().is_some() {}
        }

        fn ban(&mut self, net: IpNetwork) {
            let command = Command::Ban { net, duration: None, scope: Scope::Mail, reason: String::new(), force: false };
            self.command(command);
            self.firewall.add(&[Element { net, scope: Scope::Mail, timeout: None }]);
        }

        fn unban(&mut self, net: IpNetwork) {
            self.command(Command::Unban { net });
            self.firewall.remove(&[(net, Scope::Mail)]);
        }

        fn tick(&mut self) {
            self.firewall.tick(&mut self.engine, NOW);
            while self.firewall.is_busy() {
                self.firewall.work(&self.engine, NOW);
            }
        }

        fn ten_seconds_pass(&mut self) {
            if let State::Down { retry, .. } = &mut self.firewall.state {
                *retry = Instant::now();
            }
        }

        #[track_caller]
        fn is_in_line(&self) {
            assert_eq!(self.firewall.problem(), None);
            let mut wanted = keys(&self.engine);
            wanted.sort();
            let kernel: Vec<Key> = self.kernel.borrow().elements().iter().map(Element::key).collect();
            assert!(kernel == wanted, "{} in the kernel, {} wanted", kernel.len(), wanted.len());
        }
    }

    fn net(number: u32) -> IpNetwork {
        crate::address::single(std::net::Ipv4Addr::from(0xcb00_0000 + number).into())
    }

    fn refusal() -> NftError {
        NftError::Refused { what: "the batch".into(), errno: Errno::ENOMEM, text: None }
    }

    #[test]
    fn bans_that_nobody_remembers_are_taken_over_before_anything_is_removed() {
        let mut world = World::new();
        world.kernel.borrow_mut().add(&[Element { net: net(7), scope: Scope::All, timeout: Some(Duration::from_secs(60)) }]).unwrap();
        // Not until the firewall can be used.
        world.firewall.adopts = true;
        world.firewall.state = State::Down { error: "not yet".into(), retry: Instant::now() + RETRY };
        world.tick();
        assert_eq!((world.engine.ban_count(), world.firewall.tables()), (0, None));
        world.ten_seconds_pass();
        world.tick();
        world.is_in_line();
        assert_eq!(world.engine.ban_end(net(7), Scope::All), Some(NOW + Duration::from_secs(60)));
        assert_eq!(world.firewall.tables(), Some(vec!["mailwarden".to_owned()]));
        assert!(world.firewall.adopted().unwrap().contains("1 bans"));
        assert_eq!(world.engine.poll_decision().unwrap().jail, RECOVERED);
    }

    #[test]
    fn what_passes_is_made_good_at_the_next_tick() {
        let broken = || NftError::Socket(io::Error::from(io::ErrorKind::BrokenPipe));
        let gone = || NftError::Gone { table: "mailwarden".into() };
        let errors: [(fn() -> NftError, usize); 4] = [(|| NftError::Uncertain, 1), (gone, 1), (refusal, 1), (broken, 2)];
        for (error, sessions) in errors {
            let mut world = World::new();
            world.ban(net(1));
            world.kernel.borrow_mut().fail_next(error());
            world.ban(net(2));
            assert!(world.firewall.problem().is_some(), "{}", error());
            world.tick();
            world.is_in_line();
            world.kernel.borrow_mut().fail_next(error());
            world.unban(net(1));
            world.tick();
            world.is_in_line();
            assert_eq!(world.sessions.get(), sessions * 2 - 1, "{}", error());
        }
    }

    #[test]
    fn what_lasts_is_tried_again_later() {
        let owned = || NftError::Owned { table: "mailwarden".into(), owner: Owner { port: 7, process: None } };
        let errors: [(fn() -> NftError, usize); 3] = [(owned, 1), (|| NftError::NotPermitted, 1), (refusal, 3)];
        for (error, times) in errors {
            let mut world = World::new();
            (0..times).for_each(|_| world.kernel.borrow_mut().fail_next(error()));
            world.ban(net(1));
            (1..times).for_each(|_| world.tick());
            assert!(matches!(world.firewall.state, State::Down { .. }), "{}", error());
            world.tick();
            assert_eq!(world.sessions.get(), 1, "not before its time");
            world.ban(net(2));
            world.ten_seconds_pass();
            world.tick();
            world.is_in_line();
            assert_eq!(world.sessions.get(), 2);
        }
    }

    /// Sets of this size are not searched for what is in excess.
    #[test]
    fn an_unban_that_the_kernel_did_not_get_is_not_forgotten() {
        let mut world = World::new();
        (0..5_000).for_each(|number| world.ban(net(number)));
        world.kernel.borrow_mut().fail_next(NftError::NotPermitted);
        world.unban(net(1));
        world.unban(net(2));
        world.unban(net(3));
        world.ban(net(3));
        world.ten_seconds_pass();
        world.tick();
        world.is_in_line();
    }
}
