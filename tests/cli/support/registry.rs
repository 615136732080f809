//! A registry of a test's own: the reference implementation, as Debian has it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::call::Running;
use super::{Engine, TestContext, require, wait_for};

/// A running registry; gone with the test.
pub(crate) struct Registry {
    _server: Running,
    address: String,
    storage: PathBuf,
}

impl Registry {
    /// One that anyone may read and write.
    #[track_caller]
    pub(crate) fn start(context: &TestContext) -> Self {
        Self::launch(context, None)
    }

    /// One that asks for a name and a password.
    #[track_caller]
    pub(crate) fn start_protected(context: &TestContext, user: &str, password: &str) -> Self {
        Self::launch(context, Some((user, password)))
    }

    #[track_caller]
    fn launch(context: &TestContext, login: Option<(&str, &str)>) -> Self {
        require(Engine::Registry);
        let root = tempfile::Builder::new().prefix("registry-").tempdir_in(context.path("")).unwrap().keep();
        let storage = root.join("data");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        if let Some((user, password)) = login {
            let file = root.join("htpasswd");
            fs_err::write(&file, format!("{user}:{}\n", bcrypt(password))).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: registry, path: {}}}\n", file.display());
        }
        let file = root.join("config.yml");
        fs_err::write(&file, config).unwrap();
        let log = root.join("log");
        let call = context.command("docker-registry").arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
        let mut server = call.spawn(&log);
        let address = wait_for("docker-registry listens", || {
            let text = fs_err::read_to_string(&log).unwrap();
            assert!(!server.ended(), "docker-registry ended:\n{text}");
            let (_, rest) = text.split_once("listening on ")?;
            let end = rest.find(|it: char| it == '"' || it.is_whitespace())?;
            Some(rest[..end].to_owned())
        });
        Self { _server: server, address, storage }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A reference in this registry.
    pub(crate) fn reference(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// The directory of what it stores.
    pub(crate) fn storage(&self) -> PathBuf {
        self.storage.clone()
    }
}

/// The only kind of password hash that the registry takes, by the C library.
fn bcrypt(password: &str) -> String {
    let salt = "$2b$05$abcdefghijklmnopqrstuu";
    let mut command = Command::new("perl");
    command.args(["-e", "print crypt($ARGV[0], $ARGV[1])", password, salt]).stdin(Stdio::null());
    let hash = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(hash.starts_with("$2b$"), "the C library makes no bcrypt hashes: {hash:?}");
    hash
}
