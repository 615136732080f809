//! PID 1 of our images: starts the recorded task (or any command) in its environment and stands between it and the
//! outside.
//!
//! ```text
//!            signals ─▶ supervise ─▶ program ─▶ pipes ─▶ console ─▶ own output
//!  server ◀── watch ─────┘                                └─▶ spool ─▶ server
//!  (online: clone, start, ping, statistics, abort, final status; offline: the SDK is answered on loopback instead)
//! ```
//!
//! It is fully static and needs nothing of the image: no shell, no C library, no user database; it works with `--user`
//! and a read-only root. It reaps what loses its parent and ends with the program's own exit code. Under an executor
//! (`AGENT_EXECUTOR=1`) it sends console lines and statistics, but the executor alone changes the task's status.

use std::io::Write as _;
use std::process::ExitCode;

use crate::error::{Explain as _, Failure};

mod arguments;
mod child;
mod console;
mod environment;
mod error;
mod help;
mod offline;
mod online;
mod parameters;
mod passing;
mod settings;
mod supervise;

pub use error::GuestError;

use arguments::Action;
use settings::Settings;
use supervise::Ended;

/// Runs PID 1 with this process's arguments and environment.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(GuestError::Runtime);
    match outcome.and_then(|runtime| runtime.block_on(run())) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error.exit_code();
            tell(&render(error));
            ExitCode::from(code)
        }
    }
}

async fn run() -> Result<u8, GuestError> {
    let arguments = arguments::parse(std::env::args().skip(1))?;
    match arguments.action {
        Action::Version => {
            say(&format!("agent {}\n", env!("CARGO_PKG_VERSION")));
            return Ok(0);
        }
        Action::Help => {
            say(&help::text(&settings::read_launch()?, &settings::read_record()));
            return Ok(0);
        }
        Action::Command(ref command) => {
            let settings = Settings::for_command()?;
            let ended = supervise::command(&settings, command).await?;
            return Ok(ended.code);
        }
        Action::Task => {}
    }
    let settings = Settings::for_task(arguments)?;
    let ended: Ended =
        if settings.server.is_some() { online::run(&settings).await? } else { offline::run(&settings).await? };
    Ok(ended.code)
}

fn render(error: GuestError) -> String {
    let hints = error.hints();
    let mut text = format!("agent: error: {}\n", Failure::from(error));
    for hint in hints {
        text.push_str(&format!("agent: hint: {hint}\n"));
    }
    text
}

/// Writes to standard output; a reader that is gone is no error.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes to standard error; a reader that is gone is no error.
fn tell(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
