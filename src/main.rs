//! The program on the host: parse, run, exit code.

use std::process::ExitCode;
use std::time::Duration;

use agent::cli;
use agent::commands::{self, Context, Interrupted};
use agent::config::Environment;
use agent::error::{Failure, Kind};
use agent::settings::Session;
use agent::ui::Ui;
use tokio::signal::unix::{SignalKind, signal};

/// How long work that a signal stopped gets to remove what it left half-done.
const FAREWELL: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    // Before anything else, while there is one thread: this process may be a stage of a sandbox, or the monitor of a run.
    agent::sandbox::dispatch();
    agent::run::monitor::dispatch();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a reader that is gone is no matter.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Kind::Usage.exit_code()));
        }
    };
    agent::http::init_tls();
    let environment = Environment::current();
    let ui = Ui::new(&cli.global, &environment);
    let context = Context { session: Session { environment, config_file: cli.global.config_file.clone() }, ui };
    let result =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::from).and_then(|runtime| {
            let result = runtime.block_on(until_stopped(cli.command, &context));
            if result.as_ref().is_err_and(|it| it.kind() == Kind::Interrupted) {
                agent::process::end_all();
                agent::sandbox::end_all();
            }
            runtime.shutdown_timeout(FAREWELL);
            result
        });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(_) if context.ui.broken() => ExitCode::SUCCESS,
        Err(failure) => {
            context.ui.fail(&failure);
            ExitCode::from(failure.kind().exit_code())
        }
    }
}

/// Runs the command until it ends or the first SIGINT or SIGTERM comes; some verbs obey signals themselves.
async fn until_stopped(command: cli::Command, context: &Context) -> Result<u8, Failure> {
    if commands::obeys_signals(&command) {
        return commands::run(command, context).await;
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        result = commands::run(command, context) => result,
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = terminate.recv() => Err(Interrupted.into()),
    }
}
