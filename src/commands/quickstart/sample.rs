//! The sample project: a git repository with an origin and one uncommitted change, the same commit each time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;

use super::QuickstartError;
use crate::process;

const FILES: [(&str, &str); 3] = [
    ("fit.py", include_str!("../../../templates/sample/fit.py")),
    ("line.py", include_str!("../../../templates/sample/line.py")),
    ("requirements.txt", include_str!("../../../templates/sample/requirements.txt")),
];
/// The change that is never committed.
const CHANGE: &str = include_str!("../../../templates/sample.diff");
/// What is started.
pub(super) const SCRIPT: &str = "fit.py";

/// Writes the project into a directory, replacing what is there; returns the work tree.
///
/// The origin is a bare repository beside it: the SDK records a repository without one as a lone script.
///
/// # Errors
/// [`QuickstartError`]
pub(super) fn write(directory: &Path) -> Result<PathBuf, QuickstartError> {
    let (tree, origin) = (directory.join("sample"), directory.join("sample.git"));
    for path in [&tree, &origin] {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::create_dir_all(path)?;
    }
    for (name, text) in FILES {
        fs::write(tree.join(name), text)?;
    }
    let change = directory.join("sample.diff");
    fs::write(&change, CHANGE)?;
    git(&origin, &["init", "--quiet", "--bare", "--initial-branch=main"])?;
    git(&tree, &["init", "--quiet", "--initial-branch=main"])?;
    git(&tree, &["add", "--all"])?;
    git(&tree, &["commit", "--quiet", "--message", "Fit a line"])?;
    git(&tree, &["remote", "add", "origin", &origin.to_string_lossy()])?;
    git(&tree, &["push", "--quiet", "--set-upstream", "origin", "main"])?;
    git(&tree, &["apply", &change.to_string_lossy()])?;
    Ok(tree)
}

/// Runs git without anybody's configuration, by an author and at a time that are always the same.
fn git(directory: &Path, arguments: &[&str]) -> Result<(), QuickstartError> {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os().filter(|it| it.0.to_string_lossy().starts_with("GIT_")) {
        command.env_remove(name);
    }
    command.current_dir(directory).args(arguments);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Quick Start").env(format!("GIT_{who}_EMAIL"), "quickstart@localhost");
        command.env(format!("GIT_{who}_DATE"), "2024-01-01T00:00:00Z");
    }
    let output = process::run(&mut command, Duration::from_secs(120))?;
    if !output.status.success() {
        let command = format!("git {}", arguments.join(" "));
        return Err(QuickstartError::Program { command, output: output.errors() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_has_one_commit_and_one_change() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let tree = write(directory.path()).unwrap();
            let ask = |arguments: &[&str]| {
                let mut command = Command::new("git");
                process::run(command.current_dir(&tree).args(arguments), Duration::from_secs(60)).unwrap().text()
            };
            let origin = directory.path().join("sample.git").display().to_string();
            assert_eq!(ask(&["remote", "get-url", "origin"]), origin);
            assert_eq!(ask(&["rev-parse", "HEAD"]), ask(&["rev-parse", "origin/main"]));
            assert_eq!(ask(&["log", "--format=%an %cI"]), "Quick Start 2024-01-01T00:00:00Z");
            assert_eq!(ask(&["status", "--porcelain"]), "M fit.py");
        }
    }
}
