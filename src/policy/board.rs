//! Who is stopped, published: the core writes a new copy at each change, the policy server reads it without waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Serialize;

use super::protocol::{Answer, Request, Standing, Submitter, Taken};
use crate::config::AccountRules;
use crate::correlate::Canonical;
use crate::engine::account::{Hindrance, Stopped};

/// By canonical name.
type Standings = HashMap<Box<[u8]>, Standing>;

/// Shared by the core and the policy server. No lock in it is ever held for longer than a look-up.
pub struct Board {
    standings: RwLock<Arc<Standings>>,
    names: Mutex<Names>,
    requests: AtomicU64,
    held: AtomicU64,
    refused: AtomicU64,
}

struct Names {
    canonical: Canonical,
    /// Whose postmaster the stopped may write to: the domains that the configuration knows as the host's.
    domains: Vec<String>,
}

/// What the policy server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Numbers {
    pub requests: u64,
    pub held: u64,
    pub refused: u64,
}

impl Board {
    pub fn new(accounts: &AccountRules) -> Board {
        Board {
            standings: RwLock::default(),
            names: Mutex::new(Names::new(accounts)),
            requests: AtomicU64::new(0),
            held: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub fn reconfigure(&self, accounts: &AccountRules) {
        let names = Names::new(accounts);
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// From now on these are stopped and nobody else.
    pub fn publish(&self, stopped: impl Iterator<Item = Stopped>) {
        let mut standings = Standings::new();
        for Stopped { name, hindrance, .. } in stopped {
            let standing = if hindrance == Hindrance::Locked { Standing::Locked } else { Standing::Held };
            let known = standings.entry(name.into_bytes().into()).or_insert(standing);
            *known = standing.max(*known);
        }
        *self.standings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(standings);
    }

    pub fn answer(&self, taken: &Taken<'_>) -> Answer {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Taken::Request(request) = taken else { return Answer::Dunno };
        let answer = self.judge(request);
        match answer {
            Answer::Dunno => {}
            Answer::Hold => drop(self.held.fetch_add(1, Ordering::Relaxed)),
            Answer::HangUp => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
        }
        answer
    }

    pub fn numbers(&self) -> Numbers {
        let [requests, held, refused] = [&self.requests, &self.held, &self.refused].map(|number| number.load(Ordering::Relaxed));
        Numbers { requests, held, refused }
    }

    fn judge(&self, request: &Request<'_>) -> Answer {
        let standings = self.standings.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(submitter) = request.submitter().filter(|_| !standings.is_empty()) else { return Answer::Dunno };
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let Names { canonical, domains } = &mut *names;
        let standing = match submitter {
            Submitter::Account(shown) => standings.get(canonical.name(shown)),
            Submitter::Client(address) => standings.get([b"client:", address].concat().as_slice()),
        };
        request.answer(standing.copied(), domains)
    }
}

impl Names {
    fn new(accounts: &AccountRules) -> Names {
        let aliases = accounts.domain_aliases.iter().flat_map(|(alias, domain)| [alias, domain]);
        let domains = accounts.local_domains.iter().chain(&accounts.default_domain).chain(aliases).cloned().collect();
        Names { canonical: Canonical::new(accounts.clone()), domains }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::account::Stop;
    use crate::engine::decision::Cause;
    use crate::engine::jail::Scope;
    use crate::time::Timestamp;

    fn stopped(name: &str, hindrance: Hindrance) -> Stopped {
        let stop = Stop {
            id: 1,
            scope: Scope::Submission,
            since: Timestamp::ZERO,
            until: Timestamp::NEVER,
            jail: "manual".into(),
            reason: String::new(),
            cause: Cause::Operator,
            evidence: Vec::new(),
        };
        Stopped { name: name.into(), hindrance, stop }
    }

    #[test]
    fn every_spelling_of_a_stopped_account_is_stopped() {
        let board = Board::new(&AccountRules { default_domain: Some("example.org".into()), ..AccountRules::default() });
        let ask = |account: &str, client: &str| {
            board.answer(&Taken::Request(Request { account: account.as_bytes(), client: client.as_bytes(), recipient: b"x@example.net" }))
        };
        assert_eq!(ask("anna", ""), Answer::Dunno);
        board.publish(
            [
                stopped("anna@example.org", Hindrance::Held),
                stopped("anna@example.org", Hindrance::Locked),
                stopped("bob@example.org", Hindrance::Held),
                stopped("client:192.0.2.7", Hindrance::Locked),
            ]
            .into_iter(),
        );
        for spelling in ["anna", "ANNA", "anna@example.org", "Anna@Example.ORG", "anna+x@example.org"] {
            assert_eq!(ask(spelling, "192.0.2.9"), Answer::HangUp, "{spelling}");
        }
        assert_eq!((ask("bob", ""), ask("carl", ""), ask("", "")), (Answer::Hold, Answer::Dunno, Answer::Dunno));
        assert_eq!((ask("", "192.0.2.7"), ask("carl", "192.0.2.7")), (Answer::HangUp, Answer::Dunno));
        assert_eq!(board.answer(&Taken::Cut), Answer::Dunno);
        assert_eq!(board.numbers(), Numbers { requests: 12, held: 1, refused: 6 });
        board.publish(std::iter::empty());
        assert_eq!(ask("anna", ""), Answer::Dunno);
    }

    #[test]
    fn the_stopped_can_write_to_the_postmaster_of_the_host_alone() {
        let rules = AccountRules {
            default_domain: Some("example.org".into()),
            domain_aliases: [("example.net".to_owned(), "example.org".to_owned())].into(),
            local_domains: vec!["example.com".into()],
            ..AccountRules::default()
        };
        for (rules, host) in [(AccountRules::default(), &[][..]), (rules, &["example.org", "example.net", "example.com"])] {
            let board = Board::new(&rules);
            board.publish([stopped("eve@evil.example", Hindrance::Locked)].into_iter());
            for domain in ["example.org", "example.net", "example.com", "evil.example"] {
                let recipient = format!("abuse@{domain}");
                let request = Request { account: b"eve@evil.example", client: b"", recipient: recipient.as_bytes() };
                let expected = if host.contains(&domain) { Answer::Dunno } else { Answer::HangUp };
                assert_eq!(board.answer(&Taken::Request(request)), expected, "{recipient}, host {host:?}");
            }
        }
    }
}
