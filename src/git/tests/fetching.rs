//! Commits on their way into the cache: over HTTP, through ssh, from directories.

use std::os::unix::fs::PermissionsExt as _;

use super::server::{Manners, Server};
use super::{Bench, Worktree};
use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::git::{Access, Address, Checkout, Commit, GitError, HostCredentials, Repositories, Wanted};

fn fetch(cache: &Repositories, url: &str, wanted: &Wanted) -> Result<Commit, GitError> {
    cache.fetch(&Address::parse(url).unwrap(), wanted)
}

fn text(cache: &Repositories, commit: &Commit, path: &str) -> String {
    let tree = cache.tree(commit, None).unwrap();
    cache.checkout(tree).unwrap().text(path).unwrap().unwrap()
}

/// Three commits: `first` (tagged), `second` (main), `third` (side).
fn history(bench: &Bench) -> (Worktree, [String; 3]) {
    let origin = bench.repository("served/repo.git");
    let first = origin.write("x", "1\n").commit("first");
    origin.git(&["tag", "-a", "v1", "-m", "one"]);
    let second = origin.write("x", "2\n").commit("second");
    origin.git(&["checkout", "-q", "-b", "side"]);
    let third = origin.write("x", "3\n").commit("third");
    origin.git(&["checkout", "-q", "main"]);
    (origin, [first, second, third])
}

fn commit(id: &str) -> Wanted {
    Wanted::Commit(id.to_owned())
}

#[test]
fn where_nothing_is_fetched_only_what_is_there_is_had_and_no_server_is_asked() {
    let bench = Bench::new();
    let (_, [first, second, _]) = history(&bench);
    let server = Server::start(bench.path("served"), Manners::default());
    let url = server.url("repo.git");
    fetch(&bench.cache(), &url, &commit(&first)).unwrap();
    let before = server.times();
    let cache = bench.cache_with(Access { offline: true, ..Access::default() });
    assert_eq!(fetch(&cache, &url, &commit(&first)).unwrap().id, first);
    for wanted in [commit(&second), Wanted::Branch("main".to_owned()), Wanted::Default] {
        let error = fetch(&cache, &url, &wanted).unwrap_err();
        assert!(matches!(error, GitError::Offline { .. }) && error.kind() == Kind::NotFound, "{error}");
        assert!(error.to_string().contains(&format!("{wanted} of the git repository")), "{error}");
    }
    assert_eq!(server.times(), before);
}

#[test]
fn commits_branches_and_tags_come_over_http() {
    let bench = Bench::new();
    let (origin, [first, second, third]) = history(&bench);
    let server = Server::start(bench.path("served"), Manners::default());
    let (cache, url) = (bench.cache(), server.url("repo.git"));
    let got = fetch(&cache, &url, &Wanted::Branch("main".into())).unwrap();
    assert_eq!((got.id.as_str(), got.time), (second.as_str(), 1_700_000_000));
    assert_eq!(fetch(&cache, &url, &Wanted::Tag("v1".into())).unwrap().id, first);
    assert_eq!(fetch(&cache, &url, &Wanted::Default).unwrap().id, second);
    let side = fetch(&cache, &url, &commit(&third)).unwrap();
    assert_eq!(text(&cache, &side, "x"), "3\n");
    assert_eq!(side.tree, origin.git(&["rev-parse", "side^{tree}"]));

    // What is there is not asked for again; what moves is.
    let before = server.times();
    assert_eq!(fetch(&bench.cache(), &url, &commit(&first)).unwrap().id, first);
    assert_eq!(server.times(), before);
    let fourth = origin.write("x", "4\n").commit("fourth");
    let moved = fetch(&cache, &url, &Wanted::Branch("main".into())).unwrap();
    assert_eq!((moved.id.as_str(), text(&cache, &moved, "x")), (fourth.as_str(), "4\n".to_owned()));
    assert_eq!(cache.find(&third).unwrap().unwrap().id, third);
    assert!(cache.find(&"0".repeat(40)).unwrap().is_none());
}

#[test]
fn what_is_not_there_is_named() {
    let bench = Bench::new();
    history(&bench);
    let server = Server::start(bench.path("served"), Manners::default());
    let (cache, url) = (bench.cache(), server.url("repo.git"));
    let target = "main:refs/agent/commits/1".to_owned();
    for wanted in [
        Wanted::Branch("nope".into()),
        Wanted::Tag("nope".into()),
        Wanted::Branch(target.clone()),
        Wanted::Tag("*".into()),
        commit(&target),
        commit(&"1".repeat(40)),
        commit("abcdef1"),
    ] {
        let error = fetch(&cache, &url, &wanted).unwrap_err();
        assert_eq!(error.to_string(), format!("the git repository `{url}` has no {wanted}"));
        assert_eq!(error.kind(), Kind::NotFound);
    }
    let error = fetch(&cache, &server.url("other.git"), &Wanted::Default).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
}

#[test]
fn servers_that_hand_out_only_what_they_advertise_are_asked_for_everything() {
    let bench = Bench::new();
    let (_, [first, second, _]) = history(&bench);
    let server = Server::start(bench.path("served"), Manners { old: true, ..Manners::default() });
    let (cache, url) = (bench.cache(), server.url("repo.git"));
    // Shallow first, so that what follows has to undo that.
    assert_eq!(fetch(&cache, &url, &Wanted::Branch("main".into())).unwrap().id, second);
    let got = fetch(&cache, &url, &commit(&first)).unwrap();
    assert_eq!(text(&cache, &got, "x"), "1\n");
}

#[test]
fn shortened_ids_and_names_in_place_of_commits_are_found() {
    let bench = Bench::new();
    let (_, [first, _, third]) = history(&bench);
    let server = Server::start(bench.path("served"), Manners::default());
    let (cache, url) = (bench.cache(), server.url("repo.git"));
    assert_eq!(fetch(&cache, &url, &commit(&first[..9])).unwrap().id, first);
    assert_eq!(fetch(&cache, &url, &commit("side")).unwrap().id, third);
    assert_eq!(fetch(&cache, &url, &commit("v1")).unwrap().id, first);
}

#[test]
fn credentials_are_tried_in_order_and_shown_nowhere() {
    let bench = Bench::new();
    let (_, [_, second, _]) = history(&bench);
    let login = Some(("jo", "s3cr3t"));
    let server = Server::start(bench.path("served"), Manners { login, ..Manners::default() });
    let url = server.url("repo.git");
    let with = |credentials| bench.cache_with(Access { credentials, helpers: false, ..Access::default() });

    let denied = fetch(&with(vec![]), &url, &Wanted::Default).unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied, "{denied}");
    let wrong = HostCredentials::basic(Some("127.0.0.1"), "jo", "wr0ng");
    let denied = fetch(&with(vec![wrong.clone()]), &url, &Wanted::Default).unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied);
    assert!(!denied.to_string().contains("wr0ng"), "{denied}");

    let elsewhere = HostCredentials::basic(Some("elsewhere"), "jo", "s3cr3t");
    assert!(fetch(&with(vec![elsewhere]), &url, &Wanted::Default).is_err());
    let right = HostCredentials::basic(Some("127.0.0.1"), "jo", "s3cr3t");
    assert_eq!(fetch(&with(vec![wrong, right]), &url, &Wanted::Default).unwrap().id, second);

    let in_url = url.replace("http://", "http://jo:s3cr3t@");
    let got = fetch(&with(vec![]), &in_url, &Wanted::Branch("side".into())).unwrap();
    assert_eq!(got.address.to_string(), url);
    let kept =
        std::process::Command::new("grep").args(["-rlE", "s3cr3t|wr0ng"]).arg(bench.path("cache")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
}

#[test]
fn many_at_once_fetch_one_mirror() {
    let bench = Bench::new();
    let (_, ids) = history(&bench);
    let server = Server::start(bench.path("served"), Manners::default());
    let url = server.url("repo.git");
    std::thread::scope(|scope| {
        for turn in 0..9 {
            let (cache, url, id) = (bench.cache(), &url, &ids[turn % 3]);
            scope.spawn(move || assert_eq!(&fetch(&cache, url, &commit(id)).unwrap().id, id));
        }
    });
}

#[test]
fn directories_are_read_where_they_are_and_kept_for_later() {
    let bench = Bench::new();
    let (origin, [first, second, third]) = history(&bench);
    let cache = bench.cache();
    assert_eq!(fetch(&cache, &origin.url(), &Wanted::Default).unwrap().id, second);
    assert_eq!(fetch(&cache, &format!("file://{}", origin.url()), &Wanted::Tag("v1".into())).unwrap().id, first);
    assert_eq!(fetch(&cache, &origin.url(), &Wanted::Branch("side".into())).unwrap().id, third);
    assert_eq!(fetch(&cache, &origin.url(), &commit(&first[..8])).unwrap().id, first);
    fs_err::remove_dir_all(&origin.path).unwrap();
    let kept = cache.find(&third).unwrap().unwrap();
    assert_eq!(text(&cache, &kept, "x"), "3\n");
}

#[test]
fn ssh_is_the_systems_own() {
    let bench = Bench::new();
    let (_, [_, second, _]) = history(&bench);
    // Stands in for ssh: notes its arguments, runs what the far side would run.
    let program = bench.path("ssh");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> '{0}/arguments'\n\
         while [ \"${{1#-}}\" != \"$1\" ]; do [ \"$1\" = -o ] && shift; shift; done\n\
         shift; cd '{0}/served' && eval \"$*\"\n",
        bench.path("").display()
    );
    fs_err::write(&program, script).unwrap();
    fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let cache = bench.cache();
    let address = Address::parse("me@host.invalid:repo.git").unwrap();
    cache.configure(&address, &format!("[core]\n\tsshCommand = {}\n[ssh]\n\tvariant = ssh\n", program.display()));
    assert_eq!(cache.fetch(&address, &Wanted::Default).unwrap().id, second);
    let arguments = fs_err::read_to_string(bench.path("arguments")).unwrap();
    assert!(arguments.contains("me@host.invalid git-upload-pack 'repo.git'"), "{arguments}");
}

fn lfs(bench: &Bench, contents: &[&str]) -> Worktree {
    let origin = bench.repository("served/repo.git");
    origin.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n").write("y.txt", "plain\n");
    // Written as pointers, since git-lfs is not there to make them.
    for (at, content) in contents.iter().enumerate() {
        let oid = Digest::of(content).hex();
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {}\n", content.len());
        origin.write(&format!("{at}.bin"), pointer);
    }
    origin.commit("lfs");
    origin
}

#[test]
fn credentials_stay_with_the_git_server_whatever_lfs_server_its_repository_names() {
    let bench = Bench::new();
    let origin = lfs(&bench, &["zero\n"]);
    let elsewhere = Server::start(bench.path("served"), Manners { login: Some(("x", "y")), ..Manners::default() });
    origin.write(".lfsconfig", format!("[lfs]\n\turl = http://localhost:{}/lfs\n", elsewhere.port)).commit("config");
    let server = Server::start(bench.path("served"), Manners { login: Some(("jo", "s3cr3t")), ..Manners::default() });
    let url = server.url("repo.git");
    for (url, credentials) in [
        (url.clone(), vec![HostCredentials::basic(None, "jo", "s3cr3t")]),
        (url.replace("http://", "http://jo:s3cr3t@"), vec![]),
    ] {
        let cache = bench.cache_with(Access { credentials, helpers: false, ..Access::default() });
        let commit = fetch(&cache, &url, &Wanted::Default).unwrap();
        let error = cache.checkout(cache.tree(&commit, None).unwrap()).unwrap_err();
        assert!(matches!(error, GitError::Lfs { .. }), "{error}");
    }
    let asked = elsewhere.asked.lock().unwrap();
    assert!(asked.len() >= 2 && asked.iter().all(|it| it.1.is_none()), "{asked:?}");
}

#[test]
fn lfs_objects_are_fetched_checked_and_kept() {
    let bench = Bench::new();
    lfs(&bench, &["zero\n", "one\n", "one\n"]);
    let objects = ["zero\n", "one\n"].map(|it| (Digest::of(it), it.as_bytes().to_vec())).into();
    let login = Some(("jo", "s3cr3t"));
    let server = Server::start(bench.path("served"), Manners { login, objects, ..Manners::default() });
    let credentials = vec![HostCredentials::basic(Some("127.0.0.1"), "jo", "s3cr3t")];
    let cache = bench.cache_with(Access { credentials, helpers: false, ..Access::default() });
    let commit = fetch(&cache, &server.url("repo.git"), &Wanted::Default).unwrap();
    let checkout = |cache: &Repositories| -> Checkout { cache.checkout(cache.tree(&commit, None).unwrap()).unwrap() };
    let ours = checkout(&cache);
    assert_eq!(ours.text("0.bin").unwrap().unwrap(), "zero\n");
    assert_eq!(ours.text("2.bin").unwrap().unwrap(), "one\n");
    assert_eq!(ours.text("y.txt").unwrap().unwrap(), "plain\n");
    assert_eq!(ours.get("1.bin").unwrap().digest, Digest::of("one\n"));
    // The storage that links lead to has not seen the login.
    let asked = server.asked.lock().unwrap().clone();
    let downloads: Vec<_> = asked.iter().filter(|it| it.0.starts_with("/objects/")).collect();
    assert_eq!(downloads.len(), 2);
    let times = server.times();
    checkout(&cache);
    assert_eq!(server.times(), times);
}

#[test]
fn lfs_objects_that_are_wrong_or_gone_are_refused() {
    let bench = Bench::new();
    lfs(&bench, &["zero\n", "one\n"]);
    let objects = [(Digest::of("zero\n"), b"ZERO\n".to_vec())].into();
    let server = Server::start(bench.path("served"), Manners { objects, ..Manners::default() });
    let cache = bench.cache();
    let commit = fetch(&cache, &server.url("repo.git"), &Wanted::Default).unwrap();
    let error = cache.checkout(cache.tree(&commit, None).unwrap()).unwrap_err().to_string();
    assert!(error.contains("`0.bin`") && error.contains("it is 5 bytes") || error.contains("`1.bin`"), "{error}");
    assert_eq!(fs_err::read_dir(bench.path("cache/lfs")).unwrap().count(), 0);
}
