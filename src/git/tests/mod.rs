//! Against the real git: what it records is applied as it applies it, what it checks out is what we check out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;

mod applying;
mod checkouts;
mod fetching;
mod server;

/// A directory with repositories of a test, and a cache.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn cache(&self) -> Repositories {
        self.cache_with(Access { helpers: false, ..Access::default() })
    }

    fn cache_with(&self, access: Access) -> Repositories {
        Repositories::open(&self.path("cache"), access).unwrap()
    }

    /// A new repository with a worktree.
    fn repository(&self, name: &str) -> Worktree {
        let path = self.path(name);
        fs_err::create_dir_all(&path).unwrap();
        let it = Worktree { path };
        it.git(&["init", "-q", "-b", "main"]);
        it
    }
}

struct Worktree {
    path: PathBuf,
}

/// The real git, without anybody's configuration.
fn git_in(path: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(path).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", "/nonexistent");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "n").env(format!("GIT_{who}_EMAIL"), "e@x");
        command.env(format!("GIT_{who}_DATE"), "1700000000 +0100");
    }
    command.args(["-c", "protocol.file.allow=always", "-c", "core.autocrlf=false", "-c", "commit.gpgSign=false"]);
    command
}

impl Worktree {
    fn url(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn try_git(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
        use std::io::Write as _;
        let mut command = git_in(&self.path);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A program that fails may leave its input unread.
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn git(&self, args: &[&str]) -> String {
        let output = self.try_git(args, b"").unwrap_or_else(|error| panic!("git {args:?}: {error}"));
        String::from_utf8(output).unwrap().trim_end().to_owned()
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.path.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs_err::remove_file(&path);
        fs_err::write(path, bytes).unwrap();
        self
    }

    /// Commits everything and tells the commit's id.
    fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// The files below a directory but for git's own, as a checkout has them.
fn files_of(root: &Path) -> Vec<(String, Mode, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs_err::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == ".git" {
                continue;
            }
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if metadata.is_dir() {
                left.push(path);
            } else if metadata.is_symlink() {
                found.push((name, Mode::Symlink, fs_err::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()));
            } else {
                let mode = if metadata.permissions().mode() & 0o111 == 0 { Mode::File } else { Mode::Executable };
                found.push((name, mode, fs_err::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

impl PartialOrd for Mode {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Mode {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

fn files_in(checkout: &Checkout) -> Vec<(String, Mode, Vec<u8>)> {
    checkout.entries().map(|(path, file)| (path.to_owned(), file.mode, checkout.bytes(file).unwrap())).collect()
}
