//! The command line: clap structures, a file per verb, no logic. What a flag means is decided in `settings`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

pub mod build;
pub mod cache;
pub mod completion;
pub mod config;
pub mod daemon;
pub mod execute;
pub mod execution;
pub mod git;
pub mod gpus;
pub mod inspect;
pub mod list;
pub mod lock;
pub mod logs;
pub mod quickstart;
pub mod run;
pub mod server;
pub mod task;
pub mod verify;

const EXAMPLES: &str = "\
Examples:
  agent quickstart                                              see it all work on this machine
  agent build --id <task> --target team/train:1 --entry-point reuse_task
  agent run team/train:1                                        run the image without a container engine
  agent inspect team/train:1                                    what is in it and where it came from

Server and credentials come from ~/clearml.conf and the CLEARML_* environment, as the ClearML agent finds them.";

/// Recorded ML tasks as layered, reproducible OCI images
#[derive(Debug, Parser)]
#[command(name = "agent", version, after_help = EXAMPLES, max_term_width = 110, subcommand_required = true)]
#[command(arg_required_else_help = true, infer_long_args = false, disable_help_subcommand = false)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every verb.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file to read instead of ~/clearml.conf
    #[arg(long, global = true, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Tell more: programs that are started, requests that are made, errors in full
    #[arg(long, short = 'd', global = true)]
    pub debug: bool,
    /// Print results as JSON on standard output, and progress as JSON lines on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// How progress is shown on standard error
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    pub progress: ProgressFormat,
    /// Print only what was made, and errors
    #[arg(long, short = 'q', global = true)]
    pub quiet: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressFormat {
    /// Bars on a terminal, lines elsewhere.
    Auto,
    /// A line for each step.
    Plain,
    /// A JSON object for each event.
    Json,
    /// Bars.
    Tty,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Record, build and run a sample task on this machine
    Quickstart(quickstart::QuickstartArgs),
    /// Build a task's image
    Build(Box<build::BuildArgs>),
    /// Pin a task: write down everything its image is made of, by hash
    Lock(Box<lock::LockArgs>),
    /// Run an image without a container engine
    Run(Box<run::RunArgs>),
    /// Serve queues: run their tasks from images
    Daemon(Box<daemon::DaemonArgs>),
    /// Run one task of the server, from its image to its end
    Execute(Box<execute::ExecuteArgs>),
    /// Show an image's layers, lock and origin
    Inspect(inspect::InspectArgs),
    /// Rebuild an image from the lock inside it and compare
    Verify(verify::VerifyArgs),
    /// Serve the ClearML API for this machine or network
    Server(server::ServerArgs),
    /// Look after the store of layers, bases and packages
    Cache(cache::CacheArgs),
    /// List the server's workers and what they do
    List(list::ListArgs),
    /// Show the console of a task that ran on this machine
    Logs(logs::LogsArgs),
    /// List this machine's GPUs
    Gpus(gpus::GpusArgs),
    /// Print the merged configuration, secrets masked
    Config(config::ConfigArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
}

/// Reads a command line, the program's name first.
///
/// # Errors
/// What clap has to say: a mistake, or the help or version asked for.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let words = understood(arguments.into_iter().collect());
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(&words).map_err(|it| task::with_tip(it, &words))?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|it| it.format(&mut command))
}

/// The command line with the original's spellings put so that clap reads them.
fn understood(arguments: Vec<OsString>) -> Vec<OsString> {
    daemon::detached(task::gather_docker(arguments))
}

/// The command, for completion scripts too.
#[must_use]
pub fn command() -> clap::Command {
    // Behind `daemon` the short form is another's.
    let command = Cli::command();
    let debug = command.get_arguments().find(|it| it.get_id() == "debug").cloned();
    match debug {
        Some(debug) => command.mut_subcommand("daemon", |it| it.arg(debug.short(None))),
        None => command,
    }
}
