//! Git repositories made by the real git.

use std::path::{Path, PathBuf};

use super::{Engine, TestContext, require, write};

/// A work tree with commits, whose author, dates and so ids are always the same.
pub(crate) struct Repository<'a> {
    context: &'a TestContext,
    path: PathBuf,
}

impl<'a> Repository<'a> {
    /// An empty one in a directory of the world; branch `main`.
    #[track_caller]
    pub(crate) fn new(context: &'a TestContext, name: &str) -> Self {
        require(Engine::Git);
        let path = context.path(name);
        fs_err::create_dir_all(&path).unwrap();
        let repository = Self { context, path };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its address for those who fetch.
    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// Runs git in it; what it says.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let call = self.context.command("git").current_dir(&self.path);
        call.args(["-c", "protocol.file.allow=always", "-c", "core.autocrlf=false"]).args(args).ok()
    }

    /// Writes files and commits all there is; the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            write(&self.path.join(name), text);
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// What has changed since the last commit, as the SDK records it.
    pub(crate) fn diff(&self) -> String {
        let mut text = self.git(&["diff", "--submodule=diff", "HEAD"]);
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }
}
