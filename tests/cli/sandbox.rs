//! The sandbox on a real base, and in the hands of a user without rights.
//!
//! What another user does is a test of its own, left out by name (`ignored`), which [`as_user`] starts as that user.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use agent::oci::Meta;
use agent::report::Silent;
use agent::sandbox::{Guest, LayerBlob, Sandbox, Step, Temporary};
use agent::store::Store;

use crate::support::{Engine, TestContext, directory, docker_host, require, user};

/// This test binary is the sandbox's program too: stages begin before the harness does.
#[expect(unsafe_code, reason = "runs before main, when there is one thread, as `dispatch` asks for")]
#[used]
#[unsafe(link_section = ".init_array")]
static STAGE: extern "C" fn() = {
    extern "C" fn stage() {
        agent::sandbox::dispatch();
        agent::run::monitor::dispatch();
    }
    stage
};

/// Runs one ignored test as a user without rights, with a store of its own, and gives what it [`answer`]s.
pub(crate) fn as_user(test: &str) -> String {
    elsewhere(test, Some(&user()), &[])
}

/// Runs one ignored test in a process of its own, as a user or as this one.
pub(crate) fn elsewhere(test: &str, user: Option<&str>, env: &[(&str, &str)]) -> String {
    let dir = directory();
    // Neither the build directory nor a temporary one need be open to others.
    let program = dir.path().join("tests");
    fs_err::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let home = dir.path().join("home");
    fs_err::create_dir(&home).unwrap();
    let run = |command: &mut Command| agent::process::run(command, Duration::from_secs(1800)).unwrap();
    assert!(run(Command::new("chmod").arg("0755").arg(dir.path()).arg(&program)).status.success());
    let mut command = Command::new("setpriv");
    if let Some(user) = user {
        assert!(run(Command::new("chown").arg(format!("{user}:")).arg(&home)).status.success());
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups"]).env("USER", user);
    }
    command
        .arg("--")
        .arg(&program)
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .env("TZ", "Pacific/Auckland")
        .env("AGENT_TEST_STORE", home.join("store"))
        .env("AGENT_TEST_ANSWER", home.join("answer"))
        .envs(env.iter().copied())
        .current_dir("/");
    let output = run(&mut command);
    assert!(output.status.success(), "{}\n{}", output.text(), output.errors());
    let answer = fs_err::read_to_string(home.join("answer")).unwrap();
    // What lies in the store may belong to others still.
    assert!(run(Command::new("rm").arg("-rf").arg(&home)).status.success());
    answer
}

/// The other side of [`as_user`].
pub(crate) fn answer(make: impl FnOnce(&Store) -> String) {
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let store = Store::open(&path("AGENT_TEST_STORE")).unwrap();
    fs_err::write(path("AGENT_TEST_ANSWER"), make(&store)).unwrap();
}

/// Starts a program as an image's entry point and asks it to end.
fn signalled(store: &Store) -> String {
    let sandbox = Sandbox::open(store, &[], &Silent).unwrap();
    let bind = |dir: &str| agent::sandbox::Bind { source: dir.into(), target: dir.to_owned(), writable: false };
    let binds = ["/bin", "/lib", "/lib64", "/usr"].iter().filter(|it| PathBuf::from(it).exists()).map(|it| bind(it));
    let script = "trap 'exit 42' TERM; echo $$ $SECRET; while :; do sleep 0.05; done";
    let guest = Guest {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: [("SECRET".to_owned(), "hidden".to_owned()), ("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        directory: "/".to_owned(),
        binds: binds.collect(),
        network: true,
        ..Guest::default()
    };
    let (mut reader, writer) = std::io::pipe().unwrap();
    let streams = (std::process::Stdio::null(), writer.into(), std::process::Stdio::inherit());
    // The thread that starts it may go; the run stays.
    let process = std::thread::scope(|it| it.spawn(|| sandbox.start(&guest, streams).unwrap()).join().unwrap());
    let mut said = [0; 9];
    std::io::Read::read_exact(&mut reader, &mut said).unwrap();
    process.signal(rustix::process::Signal::TERM);
    let code = process.wait(Some(Duration::from_secs(60))).unwrap();
    format!("{} {code:?}", String::from_utf8_lossy(&said).trim())
}

#[test]
fn a_first_process_gets_its_environment_and_signals_as_root_and_as_another_user() {
    let context = TestContext::new();
    let expected = "1 hidden Some(42)";
    assert_eq!(signalled(&Store::open(context.store()).unwrap()), expected);
    assert_eq!(as_user("sandbox::a_first_process_as_another_user"), expected);
}

#[test]
#[ignore = "started as another user by the test above"]
fn a_first_process_as_another_user() {
    answer(signalled);
}

/// What a few steps leave on a small base.
fn steps(store: &Store) -> String {
    let mut writer = store.layer_writer().unwrap();
    writer.dir("old", &Meta::dir().owned_by(7, 8)).unwrap();
    writer.file("old/a", &Meta::with_mode(0o2755).owned_by(7, 8), b"1").unwrap();
    writer.file("old/b", &Meta::file(), b"1").unwrap();
    let base = writer.finish().unwrap();
    let base = LayerBlob { diff_id: base.diff_id, blob: base.descriptor.digest };
    let sandbox = Sandbox::open(store, &[base], &Silent).unwrap();
    let mut step = Step::new(
        "sh",
        &[
            "/bin/sh",
            "-c",
            "cat > /new; rm /old/b; touch -d @7 /old/a; mkdir /d; ln /new /d/new; echo $TOLD >&2; exit 3",
        ],
    );
    for dir in ["/bin", "/lib", "/lib64", "/usr"] {
        if PathBuf::from(dir).exists() {
            step = step.bind(dir.as_ref(), dir, false);
        }
    }
    step.stdin = b"input".to_vec();
    let output = sandbox.run(&step.env("TOLD", "hidden"), &Silent).unwrap();
    let layer = sandbox.layer(Temporary::LeftOut).unwrap();
    format!("{} {} {}", output.code, output.last_words(), layer.diff_id)
}

#[test]
fn the_layer_is_the_same_with_all_ids_with_some_and_with_one() {
    let context = TestContext::new();
    let expected = steps(&Store::open(context.store()).unwrap());
    assert!(expected.starts_with("3 hidden sha256:"), "{expected}");
    assert_eq!(as_user("sandbox::steps_elsewhere"), expected);
    assert_eq!(elsewhere("sandbox::steps_elsewhere", Some(&user()), &[("AGENT_SANDBOX", "single")]), expected);
}

#[test]
fn the_layer_is_the_same_through_docker() {
    require(Engine::Docker);
    let context = TestContext::new();
    let expected = steps(&Store::open(context.store()).unwrap());
    let env = [("AGENT_SANDBOX", "docker"), ("DOCKER_HOST", &docker_host())];
    assert_eq!(elsewhere("sandbox::steps_elsewhere", None, &env), expected);
}

#[test]
#[ignore = "started by the tests above"]
fn steps_elsewhere() {
    answer(steps);
}
