//! `mailwarden check`: is the configuration right? Needs no daemon.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{Group, User};
use serde::Serialize;

use crate::config::allow::{self, Mynetworks};
use crate::config::report::{Located, Problem, Severity, colours_wanted};
use crate::config::sources::{self, Host};
use crate::config::{self, Config, Paths, Policy, Report};
use crate::source::{Doubt, Input, SourceSpec};

/// Prints what is wrong, or `ok: …`. Mistakes give 1, warnings alone 0.
pub fn run(config_dir: Option<&Path>, json: bool) -> ExitCode {
    let checked = config::load_complete(&Paths::choose(config_dir)).map(|config| {
        let mut warnings = config.warnings.clone();
        config.filters.check_samples(&mut warnings);
        look_at_host(&config, &mut warnings);
        (Summary::of(&config), warnings)
    });
    let written = if json { print_json(&checked) } else { print_text(&checked) };
    let code = super::out::finish(written);
    if checked.is_ok() { code } else { ExitCode::FAILURE }
}

type Checked = Result<(Summary, Report), Report>;

#[derive(Clone, Copy, Debug, Serialize)]
struct Summary {
    jails: usize,
    filters: usize,
    patterns: usize,
    sources: usize,
}

#[derive(Serialize)]
struct Output<'a> {
    ok: bool,
    /// As every failure has it: how many mistakes, and the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    summary: Option<Summary>,
    errors: Vec<Located<'a>>,
    warnings: Vec<Located<'a>>,
}

impl Summary {
    fn of(config: &Config) -> Summary {
        Summary {
            jails: config.jails.len(),
            filters: config.filters.names().len(),
            patterns: config.filters.pattern_count(),
            sources: config.sources.on(Host::look(false)).len(),
        }
    }
}

fn print_json(checked: &Checked) -> io::Result<()> {
    let (summary, report) = match checked {
        Ok((summary, report)) => (Some(*summary), report),
        Err(report) => (None, report),
    };
    let errors = report.located(Severity::Error);
    let first = || errors.first().map_or_else(String::new, |first| format!(": {}", first.message));
    let error = checked.is_err().then(|| format!("{}{}", counted(errors.len(), "error"), first()));
    let output = Output { ok: checked.is_ok(), error, summary, warnings: report.located(Severity::Warning), errors };
    writeln!(io::stdout(), "{}", serde_json::to_string(&output)?)
}

fn print_text(checked: &Checked) -> io::Result<()> {
    let report = match checked {
        Ok((_, report)) | Err(report) => report,
    };
    let shown = report.render(colours_wanted());
    if !shown.is_empty() {
        writeln!(io::stderr(), "{shown}")?;
    }
    match checked {
        Ok((summary, report)) => {
            let Summary { jails, filters, patterns, sources } = summary;
            let warnings = match report.count(Severity::Warning) {
                0 => String::new(),
                many => format!("; {}", counted(many, "warning")),
            };
            let (jails, filters, patterns) = (counted(*jails, "jail"), counted(*filters, "filter"), counted(*patterns, "pattern"));
            writeln!(io::stdout(), "ok: {jails}, {filters} ({patterns}), {}{warnings}", counted(*sources, "source"))
        }
        Err(report) => writeln!(io::stderr(), "{}", counted(report.count(Severity::Error), "error")),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Groups and users that are named and that this host does not have. Those that nobody wrote down are nobody's mistake.
fn unknown_names(config: &Config, specs: &[SourceSpec]) -> Vec<String> {
    let socket_group = |source: &SourceSpec| match &source.input {
        Input::Socket { group, .. } => Some((format!("source {:?}", source.name), group.clone()?)),
        _ => None,
    };
    let mut groups: Vec<(String, String)> = specs.iter().filter_map(socket_group).collect();
    groups.extend(config.control.group.clone().map(|group| ("[control]".to_owned(), group)));
    groups.extend(config.policy.group.clone().map(|group| ("[policy]".to_owned(), group)));
    let unknown_groups = groups.into_iter().filter(|(_, name)| matches!(Group::from_name(name), Ok(None)));
    let mut unknown: Vec<String> =
        unknown_groups.map(|(table, name)| format!("{table} names the group {name:?}, and there is no such group")).collect();
    let is_default = config.policy.users == Policy::default().users;
    let users = config.policy.users.iter().filter(|name| !is_default && matches!(User::from_name(name), Ok(None)));
    unknown.extend(users.map(|name| format!("[policy] names the user {name:?}, and there is no such user")));
    unknown
}

/// What only the host can tell.
fn look_at_host(config: &Config, report: &mut Report) {
    let specs = config.sources.on(Host::look(false));
    for user in sources::trust(&config.trust, &specs).1 {
        report.push(Problem::notice(format!("[trust] names {user:?}, and there is no such user")));
    }
    for unknown in unknown_names(config, &specs) {
        report.push(Problem::notice(unknown).help("a slip of the pen? If the file is for another host, check it there"));
    }
    for source in &specs {
        let Input::File { path, trusted, .. } = &source.input else { continue };
        let doubt = Doubt::of(path, *trusted);
        if doubt.is_none() && *trusted != Some(false) && !source.annotate {
            let text = "the file does not tell who wrote a line: whoever may log on this host can forge one that bans or locks anybody";
            let problem = Problem::notice(format!("source {:?}: {text}", source.name));
            report.push(problem.help("the journal or an annotating relay's socket tells it: docs/syslog.md"));
        }
        if let Err(error) = File::open(path) {
            let message = format!("source {:?}: cannot read {}: {error}", source.name, path.display());
            report.push(Problem::notice(message).help("the daemon's user needs to read it: group adm, or the journal as source"));
        } else if let Some(doubt) = doubt {
            report.push(Problem::notice(format!("source {:?}: {}", source.name, doubt.reason)).help(doubt.remedy));
        }
    }
    if config.allow.mynetworks == Mynetworks::Auto {
        for network in allow::too_wide(&allow::ask_postfix().unwrap_or_default()) {
            let problem = Problem::notice(format!("mynetworks of Postfix holds {network}, which is wide and public"));
            report.push(problem.help("everybody in it may send through this host; mailwarden exempts it from nothing"));
        }
    }
}
