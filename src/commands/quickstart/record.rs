//! Recording the sample task: the public SDK, as anyone installs it, running the project as anyone does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{QuickstartError, sample};
use crate::process;
use crate::python::indexes::Indexes;
use crate::python::uv::Uv;

/// How long the installation or the recording may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// A Python with the project's requirements, made once.
///
/// # Errors
/// [`QuickstartError`]
pub(super) fn environment(uv: &Uv, directory: &Path, requirements: &Path) -> Result<PathBuf, QuickstartError> {
    let venv = directory.join("venv");
    let python = venv.join("bin/python");
    let check = process::run(Command::new(&python).args(["-c", "import clearml, numpy"]), PATIENCE);
    if check.is_ok_and(|it| it.status.success()) {
        return Ok(python);
    }
    let indexes = Indexes::of_machine(&|name| std::env::var(name).ok());
    let run = |command: &mut Command, shown: &str| {
        command.envs(indexes.environment(&[]).iter().map(|(name, value)| (name, value.reveal())));
        let output = process::run(command, PATIENCE)?;
        if output.status.success() {
            return Ok(());
        }
        Err(QuickstartError::Program { command: shown.to_owned(), output: output.errors() })
    };
    run(uv.command().args(["venv", "--quiet", "--clear"]).arg(&venv), "uv venv")?;
    let mut install = uv.command();
    install.args(["pip", "install", "--quiet", "--python"]).arg(&python).arg("--requirements").arg(requirements);
    run(&mut install, "uv pip install")?;
    Ok(python)
}

/// Runs the project with the SDK; returns the task's id and what it printed.
///
/// # Errors
/// [`QuickstartError`]
pub(super) fn record(python: &Path, tree: &Path, config: &Path) -> Result<(String, String), QuickstartError> {
    let mut command = Command::new(python);
    super::alone(&mut command, config);
    // The interpreter by its own path: activation is what its directory on PATH amounts to.
    command.arg(sample::SCRIPT).current_dir(tree).env_remove("PYTHONPATH").env_remove("PYTHONHOME");
    let output = process::run(&mut command, PATIENCE)?;
    let text = output.text();
    let id = text.split_once("task id=").map(|(_, rest)| rest.chars().take_while(char::is_ascii_hexdigit).collect());
    match id {
        Some(id) if output.status.success() => Ok((id, text)),
        _ => Err(QuickstartError::Program {
            command: format!("python {}", sample::SCRIPT),
            output: format!("{text}\n{}", output.errors()).trim().to_owned(),
        }),
    }
}
