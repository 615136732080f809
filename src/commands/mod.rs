//! The verbs, a file each: settings in, work of the modules below, results to the [`Ui`].

pub mod build;
pub mod cache;
pub mod completion;
pub mod config;
pub mod daemon;
pub mod daemons;
pub mod execute;
pub mod gpus;
pub mod quickstart;
pub mod inspect;
pub mod list;
pub mod lock;
pub mod logs;
pub mod run;
pub mod server;
pub mod verify;

mod around;
mod built;
mod preflight;
mod workshop;

use crate::cli::Command;
use crate::error::Failure;
use crate::settings::Session;
use crate::ui::Ui;

/// What every verb works with.
#[derive(Clone)]
pub struct Context {
    /// Environment and configuration.
    pub session: Session,
    /// Where results and progress go.
    pub ui: Ui,
}

/// Does what was asked; the exit code.
///
/// # Errors
/// Any module's, as a [`Failure`].
pub async fn run(command: Command, context: &Context) -> Result<u8, Failure> {
    crate::http::standalone()?;
    match command {
        Command::Cache(args) => cache::run(args, context).await,
        Command::Quickstart(_) => quickstart::run(context).await,
        Command::Build(args) => build::run(*args, context).await,
        Command::Lock(args) => lock::run(*args, context).await,
        Command::Run(args) => run::run(*args, context).await,
        Command::Daemon(args) => daemon::run(*args, context).await,
        Command::Execute(args) => execute::run(*args, context).await,
        Command::Inspect(args) => inspect::run(args, context).await,
        Command::Verify(args) => verify::run(args, context).await,
        Command::Server(args) => server::run(args, context).await,
        Command::List(args) => list::run(&args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
        Command::Gpus(args) => gpus::run(&args, context),
        Command::Config(args) => config::run(&args, context),
        Command::Completion(args) => completion::run(&args, context),
    }
}

/// Whether a verb obeys SIGINT and SIGTERM itself; the others are dropped where they stand.
#[must_use]
pub const fn obeys_signals(command: &Command) -> bool {
    matches!(command, Command::Server(_) | Command::Run(_) | Command::Execute(_) | Command::Daemon(_))
}

/// Runs sync work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Interrupted.into()),
        },
    }
}

/// Stopped by a signal.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl crate::error::Explain for Interrupted {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::Interrupted
    }
}
