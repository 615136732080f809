//! The command line itself: help, mistakes, streams, signals.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::support::TestContext;

#[test]
fn help_and_version() {
    let context = TestContext::new();
    let help = context.agent().arg("--help").ok();
    for verb in [
        "build",
        "lock",
        "run",
        "daemon",
        "execute",
        "inspect",
        "verify",
        "server",
        "cache",
        "list",
        "logs",
        "gpus",
        "config",
        "completion",
    ] {
        assert!(help.lines().any(|it| it.trim_start().starts_with(verb)), "{verb} in {help}");
        let text = context.agent().args([verb, "--help"]).ok();
        assert!(text.contains("Usage: agent"), "{text}");
    }
    assert!(help.contains("Examples:"));
    assert_eq!(context.agent().arg("--version").ok(), format!("agent {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_misspelt_word_is_told_and_ends_with_2() {
    let context = TestContext::new();
    let outcome = context.agent().arg("gpu").run().exits(2);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: unrecognized subcommand 'gpu'

      tip: a similar subcommand exists: 'gpus'

    Usage: agent [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    let outcome = context.agent().args(["gpus", "--jsn"]).run().exits(2);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: unexpected argument '--jsn' found

      tip: a similar argument exists: '--json'

    Usage: agent gpus --json

    For more information, try '--help'.
    ");
    let outcome = context.agent().args(["cache", "gc", "--max-size", "much"]).run().exits(2);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: `much` is no size
    hint: Write a number of bytes, or one with K, M, G or T: 20G.
    ");
}

#[test]
fn a_word_that_is_no_text_is_a_mistake_and_no_crash() {
    use std::os::unix::ffi::OsStrExt as _;
    let context = TestContext::new();
    context.agent().arg(std::ffi::OsStr::from_bytes(b"\xff")).run().exits(2);
}

#[test]
fn colours_follow_the_environment() {
    let context = TestContext::new();
    let call = || context.agent().args(["config", "--config-file", "none"]);
    assert!(!call().run().exits(78).stderr.contains('\u{1b}'));
    assert!(call().env("CLICOLOR_FORCE", "1").run().exits(78).stderr.starts_with("\u{1b}[1;31merror:"));
    let both = call().env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").run().exits(78);
    assert!(!both.stderr.contains('\u{1b}'));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(child.wait().unwrap().success(), "{errors}");
    assert_eq!(errors, "");
}

#[test]
fn the_store_is_shown_collected_and_checked() {
    let context = TestContext::new();
    let info = context.agent().args(["cache", "info"]).ok();
    assert!(info.starts_with(context.store().to_str().unwrap()) && info.contains("unpacked bases"), "{info}");
    let json = context.agent().args(["cache", "gc", "--max-size", "0", "--json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["busy"], false);
    assert_eq!(context.agent().args(["cache", "check"]).ok(), "every blob is what its name says");
    let blob = context.store().join("blobs/sha256").join("ab".repeat(32));
    fs_err::write(&blob, "not that").unwrap();
    let outcome = context.agent().args(["cache", "check"]).run().exits(1);
    insta::assert_snapshot!(outcome.shown_stdout(), @"
    [DIGEST]
    removed 1 damaged blobs; builds make them anew
    ");
    assert!(!blob.exists());
}

#[test]
fn completion_scripts_are_made() {
    let context = TestContext::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(context.agent().args(["completion", shell]).ok().contains("agent"), "{shell}");
    }
}

/// The build lines of ClearML's own documentation, placeholders filled in and `clearml-agent` read as `agent`.
const BUILD_LINES: &[&str] = &[
    "build --id 0123456789abcdef0123456789abcdef --docker --target new-docker-name --entry-point reuse_task",
    "build --id 0123456789abcdef0123456789abcdef --docker --target new-docker-name --entry-point clone_task",
    "build --id 0123456789abcdef0123456789abcdef --docker --target new-docker-name",
    "build --id 0123456789abcdef0123456789abcdef --docker debpy:1 --target myimg --entry-point reuse_task --cpu-only",
    "build --id 0123456789abcdef0123456789abcdef --install-globally",
    "build --id 0123456789abcdef0123456789abcdef --docker nvidia/cuda:12.6.3 '--ipc=host -e A=1' --force-docker --target x",
    "build --id name --python-version 3.11 --docker 'python:3.11 --ipc=host' --gpus 0,1 --log-level DEBUG -O",
];

/// The lines of ClearML's own documentation that serve queues and execute tasks, in the same way; what each means is
/// tested where settings are merged.
const DAEMON_LINES: &[&str] = &[
    "daemon --queue default",
    "daemon --queue default --detached",
    "daemon --detached --queue default --gpus 0",
    "daemon --gpus 0,1 --queue dual_gpu",
    "daemon --detached --queue high_q low_q --gpus 0",
    "daemon --detached --queue group_a group_b --order-fairness  --gpus 0",
    "daemon --queue default --foreground",
    "daemon --queue default --docker ubuntu:22.04",
    "daemon --queue --docker ubuntu:22.04",
    "daemon --queue default --docker --force-current-version",
    "daemon --dynamic-gpus --queue dual_gpus=2 single_gpu=1",
    "daemon --dynamic-gpus --queues quad_gpu=4 dual_gpu=2",
    "daemon --dynamic-gpus --queue dual=2 opportunistic=1-4",
    "daemon --services-mode --queue services --create-queue --docker debian:12 --cpu-only",
    "execute --id 0123456789abcdef0123456789abcdef",
    "execute --id 0123456789abcdef0123456789abcdef --clone",
    "execute --id 0123456789abcdef0123456789abcdef --docker",
];

#[test]
fn daemon_and_execute_lines_of_the_original_are_understood() {
    let context = TestContext::new();
    for line in DAEMON_LINES {
        let words: Vec<&str> = line.split_whitespace().collect();
        let outcome = context.agent().args(&words).env("AGENT_STATE_DIR", context.path("state")).run().exits(78);
        assert!(outcome.stderr.contains("no ClearML server is configured"), "{line}: {}", outcome.stderr);
        // A worker reads no task from a file.
        assert!(!outcome.stderr.contains("--task"), "{line}: {}", outcome.stderr);
    }
    let stop = |words: &[&str]| context.agent().args(words).env("AGENT_STATE_DIR", context.path("state")).run();
    let outcome = stop(&["daemon", "--queue", "default", "--gpus", "0", "--stop"]).exits(1);
    assert_eq!(outcome.stdout.trim(), "a daemon with such flags does not run on this machine");
    assert_eq!(stop(&["daemon", "--status"]).exits(0).stdout.trim(), "no daemon runs on this machine");
    let outcome = stop(&["daemon", "--services-mode", "0"]).exits(2);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: --services-mode 0 would run nothing
    hint: Give the most tasks at once (--services-mode 20), or no number for any number of them.
    ");
}

#[test]
fn build_lines_of_the_original_are_understood() {
    let context = TestContext::new();
    for line in BUILD_LINES {
        // Without a server this is as far as a line gets: it was understood.
        let shell = format!("exec \"$0\" {line}");
        let outcome = context.command("sh").args(["-c", &shell, env!("CARGO_BIN_EXE_agent")]).run().exits(78);
        assert!(outcome.stderr.contains("error: no ClearML server is configured"), "{line}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("or read the task from a file with --task."), "{line}: {}", outcome.stderr);
    }
    let venv = "build --id x --target ./venv";
    let outcome = context.agent().args(venv.split(' ')).run().exits(2);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: --target `./venv` asks for a virtual environment, which this release does not make
    hint: Give an image name (--target team/train:1), or -o type=oci,dest=DIR for an image in a directory.
    ");
    let outcome = context.agent().args(["build", "--target", "x"]).run().exits(2);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: no task is named
    hint: Name it with --id (on the server), --task (a JSON file) or --lock (a lock).
    ");
    let outcome = context.agent().args(["build", "--id", "x", "--entry-point", "reuse"]).run().exits(2);
    assert!(outcome.stderr.contains("reuse_task, clone_task"), "{}", outcome.stderr);
}

#[test]
fn without_docker_a_run_says_how_to_run_all_the_same() {
    let context = TestContext::new();
    let run = |host: &str| context.agent().args(["run", "--engine", "docker", "a:1"]).env("DOCKER_HOST", host).run();
    let outcome = run("unix:///no/such/socket").exits(69);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: there is no Docker to run `a:1` in
      caused by: no container engine answers at `unix:///no/such/socket`
      caused by: Socket not found: /no/such/socket
    hint: Start the engine, or name another with DOCKER_HOST or a docker context.
    hint: Or run it without: `--engine native`, the default, needs no engine.
    ");
    let outcome = run("ssh://host");
    assert!(outcome.stderr.contains("hint: Forward its socket"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("deliver"), "{}", outcome.stderr);
}
