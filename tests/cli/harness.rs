//! The harness proves itself first: whatever the other areas build on is there and does what it says.

use std::time::Duration;

use crate::support::{
    Engine, PackageIndex, Registry, Repository, TestContext, base, docker_host, dump, podman_socket, require, venv,
    wait_until, write,
};

#[test]
fn a_program_sees_nothing_of_the_callers_environment() {
    let context = TestContext::new();
    let text = context.command("env").env("LEFT", "1").env("GONE", "1").env_remove("GONE").ok();
    assert!(text.lines().any(|it| it == "LEFT=1") && !text.contains("GONE") && !text.contains("CARGO_MANIFEST_DIR"));
    assert!(text.contains(&format!("HOME={}", context.home().display())));
    assert!(text.contains(&format!("AGENT_CACHE_DIR={}", context.store().display())));
    assert!(TestContext::warm().store().starts_with(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn the_program_says_its_version() {
    TestContext::new().agent().arg("--version").run().success();
}

#[test]
fn what_differs_from_run_to_run_has_a_name() {
    let context = TestContext::new();
    let path = context.path("x").display().to_string();
    let text = format!("{path} sha256:{} 127.0.0.1:40123 1.25 s {}\n", "ab".repeat(32), "0f".repeat(16));
    let outcome = context.command("sh").args(["-c", "cat; cat no-such-file >&2; exit 3"]).input(text).run().exits(3);
    assert_eq!(outcome.shown_stdout(), "[ROOT]/x [DIGEST] 127.0.0.1:[PORT] [TIME] [ID]\n");
    assert!(outcome.shown_stderr().contains("no-such-file"));
}

#[test]
#[should_panic(expected = "did not end within")]
fn a_program_that_hangs_is_ended() {
    TestContext::new().command("sleep").arg("1000").limit(Duration::from_millis(50)).run();
}

#[test]
fn a_repository_has_the_same_commits_each_time() {
    let (one, two) = (TestContext::new(), TestContext::new());
    let make = |context| {
        let repository = Repository::new(context, "project");
        let commit = repository.commit(&[("train.py", "print(1)\n"), ("lib/model.py", "")]);
        write(&repository.path().join("train.py"), "print(2)\n");
        assert!(repository.diff().ends_with("-print(1)\n+print(2)\n"), "{}", repository.diff());
        assert!(repository.url().starts_with("file:///"));
        commit
    };
    assert_eq!(make(&one), make(&two));
    let tree = dump(&one.path("project").join("lib"));
    assert!(tree.starts_with("100644 ") && tree.ends_with(" model.py 0\n"), "{tree}");
}

#[test]
fn a_registry_serves_and_asks_for_a_password() {
    require(Engine::Skopeo);
    require(Engine::Umoci);
    let context = TestContext::new();
    let base = format!("oci:{}:latest", base().display());
    let open = Registry::start(&context);
    let copy = |to: &str, login: &[&str]| {
        let call = context.command("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false"]).args(login);
        call.args([&base, &format!("docker://{to}")]).run()
    };
    copy(&open.reference("library/base:1"), &[]).success();
    assert!(open.storage().join("docker/registry/v2/repositories/library/base").is_dir());
    let closed = Registry::start_protected(&context, "ada", "secret");
    let denied = copy(&closed.reference("base:1"), &["--dest-creds", "ada:wrong"]);
    assert!(denied.code != Some(0) && denied.stderr.contains("authentication"), "{}", denied.stderr);
    copy(&closed.reference("base:1"), &["--dest-creds", "ada:secret"]).success();
    assert!(closed.address().starts_with("127.0.0.1:"));
}

#[test]
fn an_index_serves_wheels() {
    let context = TestContext::new();
    let index = PackageIndex::start(&context, "wheels");
    fs_err::write(index.directory().join("Some_Thing-1.0-py3-none-any.whl"), "not a wheel").unwrap();
    let python = venv().join("bin/python");
    let fetch = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())";
    let page = context.command(&python).args(["-c", fetch, &format!("{}some-thing/", index.url())]).ok();
    let (_, link) = page.split_once("<a href=\"").unwrap();
    let path = link.split('"').next().unwrap();
    let file = index.url().replace("/simple/", path);
    assert_eq!(context.command(&python).args(["-c", fetch, &file]).ok(), "not a wheel");
    assert_eq!(index.asked().len(), 2);
}

#[test]
fn docker_and_podman_run_the_base() {
    require(Engine::Docker);
    require(Engine::Podman);
    let context = TestContext::new();
    let host = docker_host();
    let from = format!("oci:{}:latest", base().display());
    let name = "agent-test-base:harness";
    let load = context.command("skopeo").args(["copy", "--quiet", "--dest-daemon-host", &host]);
    load.args([&from, &format!("docker-daemon:{name}")]).ok();
    let program = ["python3", "-c", "print(6 * 7)"];
    let docker = context.command("docker").env("DOCKER_HOST", &host).args(["run", "--rm", "--network", "host", name]);
    assert_eq!(docker.args(program).ok(), "42");
    context.command("docker").env("DOCKER_HOST", &host).args(["image", "rm", name]).ok();
    assert!(podman_socket().exists());
    let id = context.command("podman").args(["pull", "--quiet", &from]).ok();
    let podman = context.command("podman").args(["run", "--rm", "--network", "host", id.lines().last().unwrap()]);
    assert_eq!(podman.args(program).ok(), "42");
}

#[test]
fn there_is_an_account_without_rights() {
    require(Engine::User);
}

#[test]
fn a_program_left_running_ends_with_its_guard() {
    let context = TestContext::new();
    let log = context.path("log");
    let mut program = context.command("sh").args(["-c", "echo started; exec sleep 1000"]).spawn(&log);
    wait_until("the program speaks", || fs_err::read_to_string(&log).unwrap() == "started\n");
    assert!(!program.ended());
    let process = format!("/proc/{}", program.pid());
    drop(program);
    assert!(!std::path::Path::new(&process).exists());
}
