//! The hermetic harness: a directory, a home, a store and an environment of a test's own.
//!
//! Nothing of the caller's environment reaches a program started here but what says how to reach the network and the
//! engines. Servers listen where the kernel says, never on a fixed port. Whatever waits has a generous limit and says
//! what it waited for.

pub(crate) mod apart;
mod call;
mod dockerd;
mod files;
pub(crate) mod gpus;
pub(crate) mod images;
mod index;
mod registry;
mod repository;
mod require;
pub(crate) mod sample;
mod server;
mod tap;
mod wait;

use std::path::{Path, PathBuf};

pub(crate) use call::{Call, Outcome, Running};
pub(crate) use dockerd::Dockerd;
pub(crate) use files::{dump, write};
pub(crate) use index::PackageIndex;
pub(crate) use registry::Registry;
pub(crate) use repository::Repository;
pub(crate) use require::{Engine, base, docker_cdi, docker_host, podman_socket, require, scaled, setting, user, venv};
pub(crate) use server::Server;
pub(crate) use tap::Tap;
pub(crate) use wait::{runs, wait_for, wait_until};

/// The time at which everything in the tests happens (2023-11-14).
pub(crate) const EPOCH: &str = "1700000000";

/// Variables of the caller that say how the network and the engines are reached.
const PASSED: &[&str] = &[
    "CARGO_LLVM_COV",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CURL_CA_BUNDLE",
    "DOCKER_HOST",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LLVM_PROFILE_FILE",
    "NO_PROXY",
    "PIP_CERT",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "REQUESTS_CA_BUNDLE",
    "RUST_BACKTRACE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// A directory of a test's own, gone when dropped: where `ci/setup` made room for such trees, else in `/tmp`. Its path is
/// short, for that of a socket has 107 bytes at most.
pub(crate) fn directory() -> tempfile::TempDir {
    let made = setting("AGENT_TEST_TMP").map(PathBuf::from).filter(|it| it.is_dir());
    let directory = match made {
        Some(place) => tempfile::Builder::new().prefix("").tempdir_in(place),
        None => tempfile::Builder::new().prefix("agent-test-").tempdir(),
    };
    directory.unwrap()
}

/// One test's world; gone with the test.
pub(crate) struct TestContext {
    root: tempfile::TempDir,
    store: PathBuf,
}

impl TestContext {
    /// An empty world with an empty store.
    pub(crate) fn new() -> Self {
        let root = directory();
        let context = Self { store: root.path().join("cache"), root };
        for directory in ["home", "work", "tmp", "cache"] {
            fs_err::create_dir(context.path(directory)).unwrap();
        }
        context
    }

    /// An empty world on the store that all such tests share: for what is not about the store.
    pub(crate) fn warm() -> Self {
        let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("store");
        fs_err::create_dir_all(&store).unwrap();
        Self { store, ..Self::new() }
    }

    /// A path in this world.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(relative)
    }

    /// The home directory of every program started here.
    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// The directory every program starts in.
    pub(crate) fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// The store's directory.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// The program under test: the one built with the tests, or the one that `AGENT_TEST_PROGRAM` names.
    pub(crate) fn agent(&self) -> Call {
        let built = env!("CARGO_BIN_EXE_agent");
        self.command(std::env::var_os("AGENT_TEST_PROGRAM").unwrap_or_else(|| built.into()))
    }

    /// The caller's variables that say how the network and the engines are reached.
    pub(crate) fn passed() -> impl Iterator<Item = (&'static str, String)> {
        PASSED.iter().filter_map(|&name| Some((name, require::setting(name)?)))
    }

    /// Any other program, in the same environment.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Call {
        let mut call = Call::new(program, self.root.path());
        for (name, value) in Self::passed() {
            call = call.env(name, value);
        }
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin".into());
        let path = require::setting("AGENT_TEST_BIN").map(|bin| format!("{bin}:{path}")).unwrap_or(path);
        call.current_dir(self.work())
            .env("PATH", path)
            .env("HOME", self.home())
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_CACHE_HOME", &self.store)
            .env("AGENT_CACHE_DIR", &self.store)
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("COLUMNS", "120")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "A U Thor")
            .env("GIT_AUTHOR_EMAIL", "author@example.com")
            .env("GIT_COMMITTER_NAME", "C O Mitter")
            .env("GIT_COMMITTER_EMAIL", "committer@example.com")
            .env("GIT_AUTHOR_DATE", format!("{EPOCH} +0000"))
            .env("GIT_COMMITTER_DATE", format!("{EPOCH} +0000"))
    }
}
