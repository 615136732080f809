//! What the program of a task prints: on our standard output, and in the log file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::ExecuteError;
use crate::report::SharedReporter;
use crate::spool::Piece;
use crate::ui::Ui;

/// Where it goes.
pub(super) struct Output {
    ui: Ui,
    reporter: SharedReporter,
    log: Option<(PathBuf, fs::File)>,
    /// Whether people know that it cannot be read.
    troubled: bool,
}

impl Output {
    /// To standard output, and to a log file where one was named.
    pub(super) fn open(log: Option<&Path>, reporter: &SharedReporter, ui: &Ui) -> Result<Self, ExecuteError> {
        let open = |path: &Path| {
            let file = fs::OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|source| ExecuteError::Log { path: path.to_owned(), source })
        };
        let log = log.map(|path| Ok::<_, ExecuteError>((path.to_owned(), open(path)?))).transpose()?;
        Ok(Self { ui: ui.clone(), reporter: SharedReporter::clone(reporter), log, troubled: false })
    }

    /// Hands on some of it; may wait for whoever reads it.
    pub(super) fn pass_on(&mut self, piece: std::io::Result<Piece>) {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                // The program may have put anything there; the run is not left for that.
                if !std::mem::replace(&mut self.troubled, true) {
                    self.reporter.warning(format!("the output cannot be read: {error}"));
                }
                return;
            }
        };
        if piece.missing > 0 {
            self.reporter.warning(format!("{} bytes of the output were not kept", piece.missing));
        }
        if let Some((path, file)) = &mut self.log
            && let Err(error) = file.write_all(&piece.bytes)
        {
            self.reporter.warning(format!("the log file `{}` is not written any more: {error}", path.display()));
            self.log = None;
        }
        // A reader that is gone must not end the run.
        let _ = self.ui.write(&piece.bytes);
    }
}
