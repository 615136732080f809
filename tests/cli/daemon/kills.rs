//! `ci/soak daemon`, shortened: tasks while daemon, server, engine and their programs are killed at random.

use std::path::Path;
use std::time::Duration;

use crate::support::{Engine, TestContext, base, podman_socket, require, scaled};

fn nothing_is_lost_doubled_or_stuck(engine: &str) {
    let context = TestContext::warm();
    let tasks = scaled("AGENT_TEST_KILLED_TASKS", 6).to_string();
    let program = std::env::var_os("AGENT_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_agent").into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/soak_daemon.py");
    let call = context.command("python3").arg(script).args([&tasks, engine]).limit(Duration::from_secs(540));
    let call = call.env("AGENT_TEST_PROGRAM", program).env("AGENT_TEST_BASE", base());
    let call = if engine == "podman" { call.env("AGENT_TEST_PODMAN_SOCKET", podman_socket()) } else { call };
    let outcome = call.run().success();
    assert!(outcome.stderr.trim_end().ends_with(": 0 things wrong"), "{}", outcome.stderr);
}

#[test]
fn natively() {
    nothing_is_lost_doubled_or_stuck("native");
}

#[test]
fn docker() {
    require(Engine::Docker);
    nothing_is_lost_doubled_or_stuck("docker");
}

#[test]
fn podman() {
    require(Engine::Podman);
    nothing_is_lost_doubled_or_stuck("podman");
}
