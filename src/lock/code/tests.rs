use std::process::Command;

use super::*;
use crate::git::Access;
use crate::report::Silent;

struct Bench {
    dir: tempfile::TempDir,
    repositories: Repositories,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repositories =
            Repositories::open(&dir.path().join("cache"), Access { helpers: false, ..Access::default() }).unwrap();
        Self { dir, repositories }
    }

    fn git(&self, args: &[&str]) -> String {
        let path = self.dir.path().join("origin");
        fs_err::create_dir_all(&path).unwrap();
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgSign=false"]).args(args);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
        let output = command.current_dir(&path).output().unwrap();
        assert!(output.status.success(), "{args:?} {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn commit(&self, files: &[(&str, &str)]) -> String {
        self.git(&["init", "-q", "-b", "main"]);
        for (name, text) in files {
            let path = self.dir.path().join("origin").join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "x"]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    fn script(&self, entry_point: &str, diff: &str) -> Script {
        let repository = Some(self.dir.path().join("origin").to_string_lossy().into_owned());
        Script { repository, entry_point: entry_point.into(), diff: diff.into(), ..Script::default() }
    }

    fn sources(&self) -> Sources<'_> {
        Sources { repositories: &self.repositories, directory: None }
    }

    /// Resolves, and makes the files again from the part alone.
    fn resolve(&self, script: &Script) -> Result<Resolved, CodeError> {
        self.resolve_with(script, &|_| Ok(None), false)
    }

    fn resolve_with(
        &self,
        script: &Script,
        artifact: &Artifact<'_>,
        force_task_init: bool,
    ) -> Result<Resolved, CodeError> {
        let choices = Choices { artifact, force_task_init, reporter: &Silent };
        let resolved = resolve(script, &self.sources(), &choices)?;
        if let Some(part) = &resolved.part {
            assert_eq!(checkout(part, &self.sources()).unwrap().digest(), resolved.checkout.digest());
        }
        Ok(resolved)
    }
}

fn text(resolved: &Resolved, path: &str) -> String {
    resolved.checkout.text(path).unwrap().unwrap()
}

const TOO_LARGE: &str = "# WARNING! git diff too large to store, clear this section to execute without it.\n\
                         # full git diff available in Artifacts/auxiliary_git_diff\n\
                         # Clear the section before enqueueing Task!\n";

#[test]
fn a_repository_with_changes_is_locked_and_made_again() {
    let bench = Bench::new();
    let id = bench.commit(&[("a.py", "one\n"), ("b/c.py", "x\n")]);
    let diff = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-one\n+two\n";
    let resolved = bench.resolve(&bench.script("a.py", diff)).unwrap();
    assert_eq!(text(&resolved, "a.py"), "two\n");
    let part = resolved.part.unwrap();
    let git = part.git.unwrap();
    assert_eq!((git.commit, git.url), (id, None));
    assert_eq!(part.diff.unwrap().bytes(), diff.as_bytes());
    assert!(part.script.is_none() && resolved.created.is_some());
}

#[test]
fn branches_and_tags_are_followed_and_a_lock_outlives_its_directory() {
    let bench = Bench::new();
    let first = bench.commit(&[("a.py", "1\n")]);
    bench.git(&["tag", "v1"]);
    let second = bench.commit(&[("a.py", "2\n")]);
    let commit = |script: &Script| bench.resolve(script).unwrap().part.unwrap().git.unwrap().commit;
    let plain = bench.script("a.py", "");
    assert_eq!(commit(&plain), second);
    assert_eq!(commit(&Script { tag: Some("v1".into()), branch: Some("main".into()), ..plain.clone() }), first);
    assert_eq!(commit(&Script { commit: Some(first[..10].into()), tag: Some("no".into()), ..plain.clone() }), first);
    let moved = bench.commit(&[("a.py", "3\n")]);
    let branch = Script { branch: Some("main".into()), commit: Some(String::new()), ..plain };
    let part = bench.resolve(&branch).unwrap().part.unwrap();
    assert_eq!(part.git.as_ref().unwrap().commit, moved);

    fs_err::remove_dir_all(bench.dir.path().join("origin")).unwrap();
    assert!(checkout(&part, &bench.sources()).unwrap().text("a.py").unwrap().unwrap() == "3\n");
    let other = Bench::new();
    assert!(matches!(checkout(&part, &other.sources()), Err(CodeError::Elsewhere { .. })));
}

#[test]
fn a_stored_script_is_the_code() {
    let bench = Bench::new();
    let script = Script { entry_point: "t.py --x".into(), diff: "print('hi')\n".into(), ..Script::default() };
    let resolved = bench.resolve(&script).unwrap();
    assert_eq!(text(&resolved, "t.py"), "print('hi')\n");
    assert_eq!(resolved.part.unwrap().script.unwrap().file, "t.py");
    assert!(bench.resolve(&Script::default()).unwrap().part.is_none());
}

#[test]
fn a_stored_script_beside_a_repository_does_not_replace_its_files() {
    let bench = Bench::new();
    bench.commit(&[("a.py", "repo\n"), ("lib.py", "lib\n")]);
    let kept = bench.resolve(&bench.script("a.py", "stored = 1\n")).unwrap();
    assert_eq!(text(&kept, "a.py"), "repo\n");
    assert!(kept.part.unwrap().script.is_none());
    let beside = bench.resolve(&bench.script("new.py", "stored = 1\n")).unwrap();
    assert_eq!(text(&beside, "new.py"), "stored = 1\n");
    assert_eq!(text(&beside, "lib.py"), "lib\n");
}

#[test]
fn a_diff_too_large_to_record_is_fetched_or_an_error_and_never_run() {
    let bench = Bench::new();
    bench.commit(&[("a.py", "one\n")]);
    for script in [bench.script("a.py", TOO_LARGE), bench.script("new.py", TOO_LARGE)] {
        assert!(matches!(bench.resolve(&script), Err(CodeError::TooLarge)));
    }
    let diff = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-one\n+two\n";
    let artifact = |name: &str| {
        assert_eq!(name, DIFF_ARTIFACT);
        Ok(Some(diff.as_bytes().to_vec()))
    };
    let resolved = bench.resolve_with(&bench.script("a.py", TOO_LARGE), &artifact, false).unwrap();
    assert_eq!(text(&resolved, "a.py"), "two\n");
    assert_eq!(resolved.part.unwrap().diff.unwrap().bytes(), diff.as_bytes());
}

#[test]
fn a_notebook_is_run_as_its_script() {
    let bench = Bench::new();
    let notebook = r#"{"cells": [{"cell_type": "code", "execution_count": 1, "source": ["x = 1"]}], "metadata": {}}"#;
    bench.commit(&[("n/a.ipynb", notebook)]);
    let script = Script { working_dir: "n".into(), ..bench.script("a.ipynb", "") };
    let resolved = bench.resolve(&script).unwrap();
    assert!(text(&resolved, "n/a.py").contains("# In[1]:\n\n\nx = 1\n"));
    assert_eq!(resolved.part.unwrap().script.unwrap().file, "n/a.py");
    bench.commit(&[("n/a.ipynb", "{}")]);
    assert!(matches!(bench.resolve(&script), Err(CodeError::Notebook { .. })));
}

#[test]
fn injected_lines_are_moved_or_put_in_as_the_original_does() {
    let bench = Bench::new();
    let injected = "from clearml import Task\n(__name__ != \"__main__\") or Task.init()\n";
    bench.commit(&[("a.py", &format!("{injected}from __future__ import x\nimport os\n")), ("b.py", "import os\n")]);
    let moved = bench.resolve(&bench.script("a.py --v", "")).unwrap();
    assert_eq!(text(&moved, "a.py"), format!("from __future__ import x\n{injected}import os\n"));
    let forced = bench.resolve_with(&bench.script("b.py", ""), &|_| Ok(None), true).unwrap();
    assert_eq!(text(&forced, "b.py"), format!("{injected}import os\n"));
}

#[test]
fn sources_that_give_something_else_are_refused() {
    let bench = Bench::new();
    bench.commit(&[("a.py", "1\n")]);
    let mut part = bench.resolve(&bench.script("a.py", "")).unwrap().part.unwrap();
    part.tree = crate::digest::Digest::of("else");
    assert!(matches!(checkout(&part, &bench.sources()), Err(CodeError::Changed { .. })));
}
