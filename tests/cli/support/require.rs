//! What tests need of the machine; `ci/setup` provides it and writes where it is into `target/ci/env`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// A program or service that tests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Docker,
    /// One that reads CDI specifications, to be started by a test: [`docker_cdi`].
    DockerCdi,
    Podman,
    /// What starts containers that belong together in Docker.
    Compose,
    Skopeo,
    Umoci,
    Registry,
    Git,
    /// Python with the public SDK and the public agent.
    Python,
    /// A base image as an OCI layout, made by other people's programs.
    Base,
    /// An account without rights but with subordinate ids.
    User,
}

/// Fails, with the command that helps, if something is not there.
///
/// # Panics
/// If it is not there: a test without what it needs has proved nothing.
#[track_caller]
pub(crate) fn require(engine: Engine) {
    let (there, install) = match engine {
        Engine::Docker => (answers(&docker_socket(), "/_ping"), "apt-get install docker.io"),
        Engine::DockerCdi => (docker_cdi().join("usr/sbin/dockerd").exists(), "ci/docker"),
        Engine::Podman => (answers(&podman_socket(), "/libpod/_ping"), "apt-get install podman"),
        Engine::Compose => (runs("docker-compose", "--version"), "apt-get install docker-compose"),
        Engine::Skopeo => (runs("skopeo", "--version"), "apt-get install skopeo"),
        Engine::Umoci => (runs("umoci", "--version"), "apt-get install umoci"),
        Engine::Registry => (runs("docker-registry", "--version"), "apt-get install docker-registry"),
        Engine::Git => (runs("git", "--version"), "apt-get install git"),
        Engine::Python => (
            setting("AGENT_TEST_VENV").is_some_and(|it| Path::new(&it).join("bin/clearml-agent").exists()),
            "python3 -m venv VENV && VENV/bin/pip install clearml clearml-agent; AGENT_TEST_VENV=VENV",
        ),
        Engine::Base => (
            setting("AGENT_TEST_BASE").is_some_and(|it| Path::new(&it).join("index.json").exists()),
            "ci/base; AGENT_TEST_BASE=target/ci/base",
        ),
        Engine::User => (
            setting("AGENT_TEST_USER").is_some_and(|it| runs("id", &it)),
            "useradd --create-home agent-test; AGENT_TEST_USER=agent-test",
        ),
    };
    assert!(there, "{engine:?} is not there: run ci/setup, or by hand: {install}");
}

/// The virtual environment with the public SDK and the public agent.
#[track_caller]
pub(crate) fn venv() -> PathBuf {
    require(Engine::Python);
    setting("AGENT_TEST_VENV").unwrap().into()
}

/// The base image as an OCI layout; tag `latest`.
#[track_caller]
pub(crate) fn base() -> PathBuf {
    require(Engine::Base);
    setting("AGENT_TEST_BASE").unwrap().into()
}

/// The account without rights.
#[track_caller]
pub(crate) fn user() -> String {
    require(Engine::User);
    setting("AGENT_TEST_USER").unwrap()
}

/// Where Docker answers, as `DOCKER_HOST` has it.
pub(crate) fn docker_host() -> String {
    format!("unix://{}", docker_socket().display())
}

/// The root below which a Docker engine lies that reads CDI specifications; `/` where this machine's own does.
pub(crate) fn docker_cdi() -> PathBuf {
    setting("AGENT_TEST_DOCKER_CDI").unwrap_or_else(|| "target/ci/docker-cdi".into()).into()
}

/// Where Podman's own API answers.
pub(crate) fn podman_socket() -> PathBuf {
    setting("AGENT_TEST_PODMAN_SOCKET").unwrap_or_else(|| "/run/podman/podman.sock".into()).into()
}

fn docker_socket() -> PathBuf {
    let host = setting("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into()
}

/// A variable of the environment, or else of what `ci/setup` wrote down.
pub(crate) fn setting(name: &str) -> Option<String> {
    static WRITTEN: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    let written = WRITTEN.get_or_init(|| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ci/env");
        let text = fs_err::read_to_string(file).unwrap_or_default();
        let lines = text.lines().filter_map(|it| it.strip_prefix("export ")?.split_once('='));
        lines.map(|(name, value)| (name.to_owned(), value.replace('\\', ""))).collect()
    });
    std::env::var(name).ok().or_else(|| written.get(name).cloned()).filter(|it| !it.is_empty())
}

/// A number that says how long a proof is: a few seconds as a rule; `ci/soak` sets greater ones.
pub(crate) fn scaled(name: &str, usual: u64) -> u64 {
    setting(name).map_or(usual, |it| it.parse().unwrap_or_else(|_| panic!("{name}={it} is no number")))
}

fn runs(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|it| it.success())
}

fn answers(socket: &Path, path: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|it| it.starts_with("HTTP/1.1 200"))
}
