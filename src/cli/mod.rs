//! The tool: one file a verb.

pub mod check;
mod json;
mod logs;
mod parse;
mod replay;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "mailwarden", version)]
struct Cli {
    /// Directory of the configuration: mailwarden.toml, jail.d, filters
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// What is understood of a log: one JSON object a recognised line
    Parse(parse::Args),
    /// What would have been done: the whole engine over old logs, on their own clock
    Replay(replay::Args),
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.verb {
        Verb::Parse(args) => parse::run(cli.config.as_deref(), &args),
        Verb::Replay(args) => replay::run(cli.config.as_deref(), cli.json, &args),
    }
}
