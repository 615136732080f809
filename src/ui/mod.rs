//! What people and programs read: results on standard output, progress and errors on standard error.
//!
//! The only module that writes to either. Colours follow `NO_COLOR`, `CLICOLOR_FORCE` and the terminal. A reader that
//! goes away ends output quietly ([`Ui::broken`]); it is no error.

mod error;
mod progress;
mod style;
pub mod table;
pub mod text;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::cli::{Global, ProgressFormat};
use crate::config::Environment;
use crate::error::{Explain, Failure, Kind};
use crate::report::SharedReporter;
pub use style::{Paint, Style};
pub use table::{Align, Table};

/// The two streams and how to write to them.
#[derive(Clone)]
pub struct Ui {
    json: bool,
    quiet: bool,
    debug: bool,
    out: Paint,
    err: Paint,
    reporter: SharedReporter,
    bars: Option<Arc<progress::Bars>>,
    broken: Arc<AtomicBool>,
}

/// Standard output does not take what is written to it.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct OutputError(#[from] io::Error);

impl Explain for OutputError {
    fn kind(&self) -> Kind {
        Kind::of_io(&self.0)
    }
}

impl Ui {
    /// Decides how to write from the options and the environment.
    #[must_use]
    pub fn new(options: &Global, environment: &Environment) -> Self {
        let out = Paint::of(environment, io::stdout().is_terminal());
        let err = Paint::of(environment, io::stderr().is_terminal());
        let dumb = environment.get("TERM") == Some("dumb") || environment.get("CI").is_some();
        let format = match options.progress {
            ProgressFormat::Auto if options.json => ProgressFormat::Json,
            ProgressFormat::Auto if io::stderr().is_terminal() && !dumb => ProgressFormat::Tty,
            ProgressFormat::Auto => ProgressFormat::Plain,
            other => other,
        };
        let bars = (format == ProgressFormat::Tty && !options.quiet)
            .then(|| Arc::new(progress::Bars::new(err, options.debug)));
        let reporter: SharedReporter = match &bars {
            Some(bars) => Arc::clone(bars) as SharedReporter,
            None if format == ProgressFormat::Json => Arc::new(progress::Json { quiet: options.quiet }),
            None => Arc::new(progress::Plain::new(err, options.quiet, options.debug)),
        };
        let broken = Arc::new(AtomicBool::new(false));
        Self { json: options.json, quiet: options.quiet, debug: options.debug, out, err, reporter, bars, broken }
    }

    /// Whether results are JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether only what was made is told.
    #[must_use]
    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether everything is told.
    #[must_use]
    pub const fn is_debug(&self) -> bool {
        self.debug
    }

    /// Where work reports how it goes on.
    #[must_use]
    pub fn reporter(&self) -> SharedReporter {
        Arc::clone(&self.reporter)
    }

    /// Colours of standard output.
    #[must_use]
    pub const fn paint(&self) -> Paint {
        self.out
    }

    /// Whether the reader of standard output is gone.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Writes a text to standard output and ends its line.
    ///
    /// # Errors
    /// [`OutputError`]
    pub fn print(&self, text: &str) -> Result<(), OutputError> {
        let mut bytes = text.trim_end_matches('\n').as_bytes().to_vec();
        if !bytes.is_empty() {
            bytes.push(b'\n');
        }
        self.write(&bytes)
    }

    /// Writes bytes to standard output as they are.
    ///
    /// # Errors
    /// [`OutputError`]
    pub fn write(&self, bytes: &[u8]) -> Result<(), OutputError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.broken.store(true, Ordering::Relaxed);
            }
            OutputError(error)
        })
    }

    /// Writes bytes to standard error as they are: what a program that we run said there.
    pub fn write_error(&self, bytes: &[u8]) {
        // A reader that is gone is no matter.
        let _ = io::stderr().lock().write_all(bytes);
    }

    /// Writes a value as JSON to standard output.
    ///
    /// # Errors
    /// [`OutputError`]
    pub fn print_json(&self, value: &impl Serialize) -> Result<(), OutputError> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.print(&text)
    }

    /// Writes a line to standard error, for people; nothing where results are JSON or quiet was asked for.
    pub fn say(&self, text: &str) {
        if !self.json && !self.quiet {
            self.bars.as_ref().map_or_else(|| progress::line(text), |it| it.print(text));
        }
    }

    /// Shows an error with its causes and what to do about it; work that goes on is shown no more.
    pub fn fail(&self, failure: &Failure) {
        if let Some(bars) = &self.bars {
            bars.end();
        }
        progress::line(&if self.json { error::json(failure) } else { error::text(failure, self.err) });
    }
}
