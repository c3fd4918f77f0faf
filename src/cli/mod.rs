//! The tool: one file a verb.

mod json;
mod logs;
mod parse;

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
    Parse(parse::Args),
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.verb {
        Verb::Parse(args) => parse::run(cli.config.as_deref(), &args),
    }
}
