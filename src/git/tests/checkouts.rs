//! Checkouts compared with those of the real git.

use std::os::unix::fs::PermissionsExt as _;

use super::{Bench, files_in, files_of, git_in};
use crate::git::{Address, Checkout, GitError, Patch, Repositories, Wanted};

fn checkout(cache: &Repositories, url: &str, wanted: &Wanted, diff: &str) -> Result<Checkout, GitError> {
    let commit = cache.fetch(&Address::parse(url).unwrap(), wanted)?;
    let patch = (!diff.is_empty()).then(|| Patch::parse(diff.as_bytes())).transpose()?;
    let mut tree = cache.tree(&commit, patch.as_ref())?;
    if let Some(patch) = &patch {
        tree.apply(patch)?;
    }
    cache.checkout(tree)
}

#[test]
fn attributes_modes_and_links_are_as_git_checks_them_out() {
    let bench = Bench::new();
    let origin = bench.repository("origin");
    origin
        .write(".gitattributes", "* text=auto\n*.bat eol=crlf\n*.sh text eol=lf\nversion ident\nu16 working-tree-encoding=UTF-16 text\nl1 working-tree-encoding=ISO-8859-1\n*.dat binary\n")
        .write("a.bat", "one\r\ntwo\r\n")
        .write("sub/.gitattributes", "*.txt eol=crlf\n!x\nkeep.txt -text\nauto.txt text=auto eol=crlf\n")
        .write("sub/x.txt", "1\n2\n")
        .write("sub/keep.txt", "1\n2\n")
        .write("sub/auto.txt", "1\n\u{0}2\n")
        .write("run.sh", "#!/bin/sh\r\n")
        .write("version", "$Id$ and $Id: old$ and $Id: old $ $Id: x y $ $Id: open\n$ $Identity$ $Id:$ $Id")
        .write("u16", [0xff_u8, 0xfe, b'h', 0, b'\n', 0])
        .write("l1", [b'h', 0xe4, b'\n'])
        .write("b.dat", "a\r\nb\n")
        .write("mixed", "a\r\nb\n")
        .write("empty", "");
    fs_err::set_permissions(origin.path.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    fs_err::os::unix::fs::symlink("sub/x.txt", origin.path.join("link")).unwrap();
    origin.commit("all");
    let clone = bench.path("clone");
    assert!(git_in(&bench.path("")).args(["clone", "-q"]).args([&origin.path, &clone]).status().unwrap().success());
    let ours = checkout(&bench.cache(), &origin.url(), &Wanted::Default, "").unwrap();
    for (ours, theirs) in files_in(&ours).iter().zip(&files_of(&clone)) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(files_in(&ours), files_of(&clone));

    let written = bench.path("written");
    ours.write_to("", &written).unwrap();
    assert_eq!(files_of(&written), files_of(&clone));
    assert_ne!(ours.digest(), ours.digest_below("sub"));
    let mut moved = Checkout::default();
    for (path, file) in ours.below("sub") {
        moved.insert(path, file.mode, ours.bytes(file).unwrap()).unwrap();
    }
    assert_eq!(moved.digest(), ours.digest_below("sub"));
}

#[test]
fn a_diff_of_a_converted_file_applies_to_what_git_stores() {
    let bench = Bench::new();
    let origin = bench.repository("origin");
    origin.write(".gitattributes", "*.bat eol=crlf\n").write("a.bat", "one\r\ntwo\r\n").commit("all");
    origin.write("a.bat", "one\r\nthree\r\n");
    let diff = origin.git(&["diff", "HEAD"]);
    let ours = checkout(&bench.cache(), &origin.url(), &Wanted::Default, &diff).unwrap();
    assert_eq!(ours.text("a.bat").unwrap().unwrap(), "one\r\nthree\r\n");
}

#[test]
fn submodules_come_along_at_their_commits_with_what_changed_in_them() {
    let bench = Bench::new();
    let inner = bench.repository("inner");
    inner.write("deep", "deep\n").commit("inner");
    let lib = bench.repository("lib");
    lib.write(".gitattributes", "*.txt eol=crlf\n").write("x.txt", "x\r\n").write("code.py", "1\n");
    lib.git(&["submodule", "add", "-q", "../inner", "in ner"]);
    let first = lib.commit("lib");
    let origin = bench.repository("origin");
    origin.write("main.py", "m\n");
    origin.git(&["submodule", "add", "-q", &lib.url(), "libs/lib"]);
    origin.commit("origin");
    lib.write("code.py", "2\n").commit("later");

    let clone = bench.path("clone");
    let mut command = git_in(&bench.path(""));
    assert!(command.args(["clone", "-q", "--recursive"]).args([&origin.path, &clone]).status().unwrap().success());
    let ours = checkout(&bench.cache(), &origin.url(), &Wanted::Default, "").unwrap();
    assert_eq!(files_in(&ours), files_of(&clone));
    assert_eq!(ours.text("libs/lib/code.py").unwrap().unwrap(), "1\n");

    // Uncommitted changes in a submodule and in the repository around it.
    let clone = super::Worktree { path: clone };
    clone.write("libs/lib/code.py", "3\n").write("main.py", "n\n");
    let diff = clone.git(&["diff", "--submodule=diff", "HEAD"]);
    assert!(Patch::is_diff(&diff), "{diff}");
    let ours = checkout(&bench.cache(), &origin.url(), &Wanted::Default, &diff).unwrap();
    assert_eq!(files_in(&ours), files_of(&clone.path));

    // A submodule at another commit, told as a diff and as a commit.
    clone.git(&["-C", "libs/lib", "checkout", "-q", "-f", "origin/main"]);
    for command in [&["diff", "--submodule=diff", "HEAD"][..], &["diff", "HEAD"]] {
        let diff = clone.git(command);
        let ours = checkout(&bench.cache(), &origin.url(), &Wanted::Default, &diff).unwrap();
        assert_eq!(files_in(&ours), files_of(&clone.path), "{diff}");
    }
    let commit = bench.cache().fetch(&Address::parse(&origin.url()).unwrap(), &Wanted::Default).unwrap();
    let tree = bench.cache().tree(&commit, None).unwrap();
    let paths: Vec<_> = tree.submodules().iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["libs/lib", "libs/lib/in ner"]);
    assert_eq!(tree.submodules()[0].commit, first);
}

#[test]
fn a_gitlink_without_an_address_stays_empty_and_is_told() {
    let bench = Bench::new();
    let inner = bench.repository("origin/inner");
    inner.write("x", "").commit("inner");
    let origin = bench.repository("origin");
    origin.write("y", "").commit("origin");
    let cache = bench.cache();
    let commit = cache.fetch(&Address::parse(&origin.url()).unwrap(), &Wanted::Default).unwrap();
    let tree = cache.tree(&commit, None).unwrap();
    assert_eq!(tree.entries().map(|it| it.0).collect::<Vec<_>>(), ["y"]);
    assert_eq!(tree.notes(), ["`inner` is a submodule without an address, and stays empty"]);
}

#[test]
fn trees_with_paths_that_lead_out_are_refused() {
    let bench = Bench::new();
    let origin = bench.repository("origin");
    let blob = String::from_utf8(origin.try_git(&["hash-object", "-w", "--stdin"], b"x").unwrap()).unwrap();
    for name in ["..", ".git", ".GIT"] {
        // `git mktree` refuses such names; written as git stores trees.
        let id: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&blob.trim()[at * 2..at * 2 + 2], 16).unwrap()).collect();
        let raw = [format!("100644 {name}\0").as_bytes(), &id].concat();
        let tree = origin.try_git(&["hash-object", "-w", "-t", "tree", "--literally", "--stdin"], &raw).unwrap();
        let tree = String::from_utf8(tree).unwrap();
        let commit = origin.git(&["commit-tree", "-m", "x", tree.trim()]);
        let cache = bench.cache();
        let outcome = (cache.fetch(&Address::parse(&origin.url()).unwrap(), &Wanted::Commit(commit)))
            .and_then(|commit| cache.tree(&commit, None));
        assert!(matches!(outcome, Err(GitError::Forbidden { .. })), "{name}: {outcome:?}");
    }
}
