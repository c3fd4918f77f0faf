//! The tool: one file a verb. Tables for people, `--json` for programs.
//!
//! Exit status: 0 ok · 1 failed · 2 usage · 3 daemon not running · 4 not found.

mod accounts;
mod ban;
mod check;
mod json;
mod learn;
mod list;
mod lock;
mod logs;
mod monitor;
mod out;
mod parse;
mod replay;
mod status;
mod story;
mod table;
mod teardown;
mod test_filter;
mod when;
mod why;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;

use crate::config::{self, Paths};
use crate::control::client::{Client, ClientError};
use crate::control::{Code, Request, Response};
use crate::engine::jail::Scope;
use crate::limits::REASON_BYTES_MAX;
use out::complain;

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const NOT_RUNNING: u8 = 3;
pub const NOT_FOUND: u8 = 4;

/// How the name of an account is typed that is not like others.
const NAMES: &str = "\
An account that is known by an odd name is named as `list locks` shows it, in single quotes:
  mailwarden release 'Anna Smith@example.org'
A name that begins with \" is a JSON string, so that every character can be typed:
  mailwarden release '\"a\\u001bb@example.org\"'";

/// Guards a mail host: bans abusive clients, stops stolen accounts.
#[derive(Parser)]
#[command(name = "mailwarden", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Clone, Debug)]
struct Global {
    /// Answer in JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    /// The daemon's control socket [env: MAILWARDEN_SOCKET] [default: the configuration's, /run/mailwarden/control.sock].
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Directory with mailwarden.toml, jail.d and filters [default: /etc/mailwarden over /usr/share/mailwarden].
    #[arg(long, global = true, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Where the socket is, once it was asked for.
    #[arg(skip)]
    found: OnceCell<PathBuf>,
}

impl Global {
    /// Where the daemon listens: as the command line, the environment, or else the configuration says.
    fn socket(&self) -> &Path {
        self.found.get_or_init(|| {
            let named = std::env::var_os("MAILWARDEN_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
            self.socket.clone().or(named).unwrap_or_else(|| configured_socket(self.config.as_deref()))
        })
    }
}

/// A configuration with mistakes keeps nobody from the daemon.
fn configured_socket(config: Option<&Path>) -> PathBuf {
    let paths = Paths::choose(config);
    let config::Glance { socket, problem, .. } = config::glance(&paths);
    let socket = socket.unwrap_or_else(|| paths.runtime_dir.join("control.sock"));
    if let Some(problem) = problem {
        complain!("mailwarden: {problem}; the daemon is looked for on {} (--socket PATH: elsewhere)", socket.display());
    }
    socket
}

#[derive(Subcommand)]
enum Verb {
    /// Ban addresses or networks at once.
    Ban {
        #[arg(required = true, value_name = "ADDR|NET")]
        nets: Vec<IpNetwork>,
        /// How long: 10m, 1h30m, 2d, forever.
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = when::ban_time)]
        duration: when::BanTime,
        /// Which ports to close.
        #[arg(long, default_value = "mail", value_parser = scope)]
        scope: Scope,
        /// Kept with the ban and shown by `why`; at most 200 bytes.
        #[arg(long, default_value = "", value_parser = reason)]
        reason: String,
        /// Even own addresses, ignored ones, and networks wider than an IPv4 /8 or an IPv6 /19.
        #[arg(long)]
        force: bool,
    },
    /// Lift bans: of an address also that of a network around it, of a network also those within. It says which.
    Unban {
        #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ADDR|NET")]
        nets: Vec<IpNetwork>,
        /// Lift every ban.
        #[arg(long)]
        all: bool,
    },
    /// Refuse an account: it can send no more, in open sessions too.
    #[command(after_help = NAMES)]
    Lock {
        #[arg(value_parser = account)]
        account: String,
        /// How long: 1h, 2d, forever.
        #[arg(long = "for", value_name = "TIME", default_value = "forever", value_parser = when::ban_time)]
        duration: when::BanTime,
        /// Not only sending: no login at all, where a hook of the helper sees to that.
        #[arg(long)]
        full: bool,
        /// Kept with the lock and shown by `list locks`; at most 200 bytes.
        #[arg(long, default_value = "", value_parser = reason)]
        reason: String,
    },
    /// Take an account's lock back. Messages on hold stay there until `release`.
    #[command(after_help = NAMES)]
    Unlock {
        #[arg(value_parser = account)]
        account: String,
        /// It was the owner: where the account was used in the last seven days is its own place from now on.
        #[arg(long)]
        false_alarm: bool,
    },
    /// Accept an account's mail, and park it in the queue until somebody has looked.
    #[command(after_help = NAMES)]
    Hold {
        #[arg(value_parser = account)]
        account: String,
        /// Kept with the hold and shown by `list locks`; at most 200 bytes.
        #[arg(long, default_value = "", value_parser = reason)]
        reason: String,
    },
    /// End a hold, and let the parked mail go.
    #[command(after_help = NAMES)]
    Release {
        #[arg(value_parser = account)]
        account: String,
        /// Let only so many of the messages go, the oldest; the account stays held.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        some: Option<u32>,
        /// It was the owner: where the account was used in the last seven days is its own place from now on.
        #[arg(long, conflicts_with = "some")]
        false_alarm: bool,
    },
    /// Take back every decision since a time: `02:00`, `2h` (ago), `2026-11-24T02:00:00Z`.
    Undo {
        #[arg(long, value_name = "TIME", value_parser = when::since)]
        since: crate::time::Timestamp,
    },
    /// What the daemon does: jails, sources, firewall.
    Status { jail: Option<String> },
    /// What is in force.
    List {
        #[arg(value_enum, default_value = "bans")]
        what: Listed,
    },
    /// Accounts that somebody should look at: held, locked, or with a sign against them within a week.
    Accounts {
        /// Only those that this address entered as a stranger.
        #[arg(long, value_name = "ADDR")]
        exposed: Option<std::net::IpAddr>,
    },
    /// Why an address is banned, or how near it is to a ban; the story of an account.
    #[command(after_help = NAMES)]
    Why {
        #[arg(value_name = "ADDR|ACCOUNT", value_parser = account)]
        subject: String,
    },
    /// Print decisions as they fall.
    Monitor,
    /// Read the configuration again; a bad one changes nothing.
    Reload,
    /// Check the configuration; needs no daemon.
    Check,
    /// Print the events in a log, one JSON object a recognised line.
    Parse(parse::Args),
    /// Run old logs through the whole engine on their own clock; enforces nothing.
    Replay(replay::Args),
    /// Learn from old logs what is usual for whom; the daemon must not run meanwhile.
    Learn(learn::Args),
    /// Show which pattern of a filter hits or misses which line, and why.
    TestFilter {
        filter: String,
        #[arg(value_name = "FILE|-")]
        file: Option<PathBuf>,
    },
    /// Remove everything from the kernel; needs no daemon.
    Teardown {
        /// The table's name [default: the configuration's].
        #[arg(long)]
        table: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Listed {
    Bans,
    Locks,
}

/// As `mailwarden check`, for `mailwardend --check`.
pub(crate) fn check(config: Option<&Path>) -> ExitCode {
    check::run(config, false)
}

/// Runs the tool and says how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // `--help` and `--version` come here too; clap knows which of them is an error.
        Err(error) if error.use_stderr() && wants_json() => {
            let text = error.render().to_string();
            return out::fail(true, USAGE, text.strip_prefix("error: ").unwrap_or(&text).trim_end());
        }
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    run(cli)
}

/// As far as a command line tells that cannot be read.
fn wants_json() -> bool {
    std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json")
}

fn run(Cli { global, verb }: Cli) -> ExitCode {
    match verb {
        Verb::Ban { nets, duration, scope, reason, force } => ban::ban(&global, nets, duration, scope, reason, force),
        Verb::Unban { nets, all } => ban::unban(&global, nets, all),
        Verb::Lock { account, duration, full, reason } => {
            simple(&global, &Request::Lock { account, seconds: duration.seconds(), full, reason })
        }
        Verb::Unlock { account, false_alarm } => simple(&global, &Request::Unlock { account, false_alarm }),
        Verb::Hold { account, reason } => simple(&global, &Request::Hold { account, reason }),
        Verb::Release { account, some, false_alarm } => simple(&global, &Request::Release { account, some, false_alarm }),
        Verb::Undo { since } => ban::undo(&global, since),
        Verb::Status { jail } => status::run(&global, jail),
        Verb::List { what: Listed::Bans } => list::bans(&global),
        Verb::List { what: Listed::Locks } => lock::list(&global),
        Verb::Accounts { exposed } => accounts::run(&global, exposed),
        Verb::Why { subject } => why::run(&global, subject),
        Verb::Monitor => monitor::run(&global),
        Verb::Reload => simple(&global, &Request::Reload),
        Verb::Check => check::run(global.config.as_deref(), global.json),
        Verb::Parse(args) => parse::run(global.config.as_deref(), global.json, &args),
        Verb::Replay(args) => replay::run(global.config.as_deref(), global.json, &args),
        Verb::Learn(args) => learn::run(&global, &args),
        Verb::TestFilter { filter, file } => test_filter::run(global.config.as_deref(), &filter, file.as_deref(), global.json),
        Verb::Teardown { table } => teardown::run(&global, table),
    }
}

/// One request, its message printed.
fn simple(global: &Global, request: &Request) -> ExitCode {
    match call(global, request) {
        Ok(response) => out::done(print_message(global, &response)),
        Err(code) => code,
    }
}

/// One request; an answer that is no success is printed and turned into the exit status.
fn call(global: &Global, request: &Request) -> Result<Response, ExitCode> {
    match exchange(global, request) {
        Ok(response) if response.code == Code::Ok => Ok(response),
        Ok(response) => Err(refuse(global, &response)),
        Err(error) => Err(report(global, &error)),
    }
}

fn exchange(global: &Global, request: &Request) -> Result<Response, ClientError> {
    Client::connect(global.socket()).and_then(|mut client| client.call(request))
}

fn refuse(global: &Global, response: &Response) -> ExitCode {
    let code = match response.code {
        Code::NotFound => NOT_FOUND,
        Code::Usage => USAGE,
        _ => FAILED,
    };
    if !global.json {
        return out::fail(false, code, &response.message);
    }
    let mut object = serde_json::to_value(response).unwrap_or_default();
    if let Some(object) = object.as_object_mut() {
        object.insert("error".to_owned(), response.message.clone().into());
    }
    let _ = out::say(&object.to_string());
    ExitCode::from(code)
}

fn report(global: &Global, error: &ClientError) -> ExitCode {
    match error {
        ClientError::NotRunning(text) => out::fail(global.json, NOT_RUNNING, text),
        ClientError::Failed(text) => out::fail(global.json, FAILED, text),
    }
}

/// The daemon's answer is not what this tool knows.
fn unreadable(global: &Global) -> ExitCode {
    out::fail(global.json, FAILED, "the daemon's list cannot be read; are tool and daemon of one version?")
}

fn print_message(global: &Global, response: &Response) -> std::io::Result<()> {
    if global.json { out::say(&serde_json::to_string(response)?) } else { out::say(&out::lines(&response.message)) }
}

fn reason(text: &str) -> Result<String, String> {
    if text.len() <= REASON_BYTES_MAX { Ok(text.to_owned()) } else { Err(format!("a reason has at most {REASON_BYTES_MAX} bytes")) }
}

fn account(text: &str) -> Result<String, String> {
    let name = crate::shell::typed(text)?;
    if name.is_empty() { Err("an account has a name".to_owned()) } else { Ok(name) }
}

fn scope(text: &str) -> Result<Scope, String> {
    text.parse()
        .map_err(|()| format!("no such scope; there are: {}", Scope::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")))
}
