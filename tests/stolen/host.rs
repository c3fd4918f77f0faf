//! A mail host whose log is read as `replay` reads it: line → parse → correlate → engine, with the configuration that is shipped.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use mailwarden::config::{self, Config};
use mailwarden::correlate::Correlator;
use mailwarden::engine::account::report::AccountView;
use mailwarden::engine::account::{Family, Hindrance, Stopped};
use mailwarden::engine::decision::{Command, Decision, Reply, Subject, Verb};
use mailwarden::engine::{Engine, EngineConfig, Seed};
use mailwarden::parse::{Outcome, Parser, ParserOptions};
use mailwarden::time::Timestamp;

use crate::globe::Globe;
use crate::log::{Accepted, DAY, Line, Log, START};

/// The shipped files, and what an operator writes beside them.
pub fn configuration(own: &[(&str, &str)]) -> Config {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for directory in ["jail.d", "filters"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "toml") {
                let name = format!("{directory}/{}", path.file_name().unwrap().to_str().unwrap());
                files.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    files.insert("mailwarden.toml".to_owned(), fs::read_to_string(root.join("mailwarden.toml")).unwrap());
    files.extend(own.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
    let texts: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    config::load_texts(&texts).unwrap_or_else(|report| panic!("{}", report.render(false)))
}

pub fn shipped() -> &'static Config {
    static SHIPPED: OnceLock<Config> = OnceLock::new();
    SHIPPED.get_or_init(|| configuration(&[]))
}

pub fn engine(config: &Config) -> Engine {
    let settings = EngineConfig { enforced: false, persist: true, seed: Seed([3, 4]), ..EngineConfig::from(config) };
    let mut engine = Engine::new(settings, Timestamp::from_micros(START));
    engine.set_geo(Arc::new(Globe));
    engine
}

/// Parser and correlator, which know nothing of what is decided.
pub struct Reader {
    parser: Parser,
    correlator: Correlator,
    config: Config,
}

impl Reader {
    pub fn new(config: &Config) -> Reader {
        let options = ParserOptions::new(Timestamp::from_micros(START + 400 * DAY));
        Reader {
            parser: Parser::new(config.filters.set.clone(), options),
            correlator: Correlator::new(config.accounts.clone(), Vec::new()),
            config: config.clone(),
        }
    }

    /// Hands on what the line tells, where `engine` wants to hear it.
    pub fn read(&mut self, line: &Line, engine: Option<&mut Engine>) {
        let text = line.text.as_bytes();
        let Outcome::Line(parsed) = self.parser.parse(text, None) else {
            // Only the end of a mailbox session tells nothing.
            assert!(line.text.contains(" dovecot: imap("), "not recognised: {}", line.text);
            return;
        };
        assert_eq!(parsed.time.micros(), line.at, "{}", line.text);
        let filter = self.config.filters.set.filter_name(parsed.pattern);
        match engine {
            Some(engine) => {
                assert!(engine.now() <= parsed.time, "the log goes back in time: {}", line.text);
                if engine.poll_timeout().is_some_and(|due| due <= parsed.time) {
                    engine.handle_timeout(parsed.time);
                }
                self.correlator.handle(text, &parsed, filter, line.vouched, parsed.time, &mut |event| {
                    engine.handle_event(event, parsed.time);
                });
            }
            None => drop(self.correlator.handle(text, &parsed, filter, line.vouched, parsed.time, &mut |_| {})),
        }
    }
}

pub struct Host {
    reader: Reader,
    pub engine: Engine,
    pub decisions: Vec<Decision>,
    pub accepted: Vec<Accepted>,
}

impl Host {
    pub fn new(config: &Config) -> Host {
        Host { reader: Reader::new(config), engine: engine(config), decisions: Vec::new(), accepted: Vec::new() }
    }

    pub fn shipped() -> Host {
        Host::new(shipped())
    }

    /// Reads a line, if it is written: a locked submitter sends nothing, and what is held is not delivered. How many decisions there
    /// were before.
    pub fn feed(&mut self, line: &Line) -> usize {
        let before = self.decisions.len();
        if !self.is_written(line) {
            return before;
        }
        self.reader.read(line, Some(&mut self.engine));
        self.decisions.extend(std::iter::from_fn(|| self.engine.poll_decision()));
        before
    }

    pub fn is_written(&self, line: &Line) -> bool {
        let Some(by) = &line.by else { return true };
        let is_stopped = |stopped: Stopped| match stopped.hindrance {
            Hindrance::Locked => line.came_in.is_none_or(|at| at >= stopped.stop.since.micros()),
            Hindrance::Held => line.came_in.is_some_and(|at| at >= stopped.stop.since.micros()),
        };
        !self.engine.stopped().any(|stopped| stopped.name == **by && is_stopped(stopped))
    }

    pub fn play(&mut self, log: Log) -> &mut Host {
        let (lines, accepted) = log.sorted();
        self.accepted.extend(accepted);
        for line in &lines {
            self.feed(line);
        }
        self
    }

    /// The daemon ends after a snapshot, and another one goes on from it.
    pub fn restart(&mut self) {
        let mut rows = Vec::new();
        self.engine.begin_snapshot();
        while !self.engine.next_slice(1_000, &mut rows) {}
        let (bans, stopped) = (self.engine.bans().collect(), self.engine.stopped().collect());
        self.engine = engine(&self.reader.config);
        self.engine.restore(&rows);
        self.engine.restore_bans(bans);
        self.engine.restore_stopped(stopped);
    }

    /// Time passes, and nothing is logged.
    pub fn wait_until(&mut self, at: i64) {
        let at = Timestamp::from_micros(at);
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= at) {
            self.engine.handle_timeout(due.max(self.engine.now()));
            self.decisions.extend(std::iter::from_fn(|| self.engine.poll_decision()));
        }
        self.engine.handle_timeout(at);
        self.decisions.extend(std::iter::from_fn(|| self.engine.poll_decision()));
    }

    pub fn is(&self, name: &str, hindrance: Hindrance) -> bool {
        self.engine.stopped().any(|stopped| stopped.name == name && stopped.hindrance == hindrance)
    }

    pub fn command(&mut self, command: Command) -> Reply {
        let now = self.engine.now();
        let reply = self.engine.handle_command(command, now);
        self.decisions.extend(std::iter::from_fn(|| self.engine.poll_decision()));
        reply
    }

    pub fn view(&self, name: &str) -> AccountView {
        self.find(name).unwrap_or_else(|| panic!("nothing is known of {name}"))
    }

    pub fn find(&self, name: &str) -> Option<AccountView> {
        self.engine.why(&Subject::Account(name.to_owned())).account
    }

    pub fn points(&self, name: &str, family: Family) -> u32 {
        self.view(name).families.iter().find(|(of, _)| *of == family).map_or(0, |(_, points)| *points)
    }

    /// Decisions of that kind about that submitter that were carried out.
    pub fn told(&self, name: &str, verb: Verb) -> Vec<&Decision> {
        self.decisions.iter().filter(|decision| decision.verb == verb && !decision.observed && is_about(decision, name)).collect()
    }

    /// All holds and locks, as sentences.
    pub fn stops(&self) -> Vec<String> {
        self.decisions.iter().filter(|decision| is_stop(decision)).map(sentence).collect()
    }

    pub fn assert_free(&self, name: &str) {
        let stops: Vec<String> =
            self.decisions.iter().filter(|decision| is_stop(decision) && is_about(decision, name)).map(sentence).collect();
        assert!(stops.is_empty(), "{}", stops.join("\n"));
    }

    /// When its mail stopped for the first time.
    pub fn stopped_at(&self, name: &str) -> Option<i64> {
        self.decisions.iter().find(|decision| is_stop(decision) && is_about(decision, name)).map(|decision| decision.time.micros())
    }

    /// Recipients of a thief's mail that was accepted before that.
    pub fn leaked(&self, name: &str) -> u64 {
        let stopped = self.stopped_at(name).unwrap_or(i64::MAX);
        self.accepted.iter().filter(|accepted| &*accepted.by == name && accepted.at < stopped).map(|accepted| accepted.recipients).sum()
    }
}

pub fn is_stop(decision: &Decision) -> bool {
    matches!(decision.verb, Verb::Hold | Verb::Lock) && !decision.observed
}

pub fn is_about(decision: &Decision, name: &str) -> bool {
    matches!(&decision.subject, Subject::Account(account) if account == name)
}

pub fn sentence(decision: &Decision) -> String {
    let Decision { time, verb, subject, jail, reason, .. } = decision;
    let subject = match subject {
        Subject::Account(name) => name.clone(),
        Subject::Net(net) => net.to_string(),
    };
    format!("{time} {verb} {subject} ({jail}): {reason}")
}
