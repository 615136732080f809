//! uv, the resolver: the one on `PATH`, or a pinned wheel fetched through the machine's own pip.
//!
//! uv runs with a cleared environment: it gets the variables that say where indexes are and how the network is reached,
//! and nothing else of ours. Builds are always disabled, so no code of a package runs on this machine.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::archive::Archive;
use super::wheel::WheelError;
use crate::digest::{Digest, digest_reader};
use crate::error::{Explain, Kind};
use crate::http;
use crate::process::{self, RunError};
use crate::report::SharedReporter;
use crate::store::{Store, StoreError, Table};

/// The version that is fetched.
const PINNED: &str = "0.13.9";
/// The wheels it may be, by SHA-256.
const WHEELS: [&str; 4] = [
    "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
];
/// The oldest version on `PATH` that is used.
const OLDEST: (u32, u32) = (0, 8);
/// How long a fetch or a resolution may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(900);
/// Variables that uv gets from ours.
const KEPT: [&str; 42] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "NETRC",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSL_CLIENT_CERT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_KEYRING_PROVIDER",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_INSECURE_HOST",
    "UV_CACHE_DIR",
    "UV_CONFIG_FILE",
    "UV_NO_CONFIG",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_OFFLINE",
    "UV_EXCLUDE_NEWER",
    "UV_CONCURRENT_DOWNLOADS",
    "UV_PRERELEASE",
    "UV_LINK_MODE",
    "UV_PYTHON_INSTALL_DIR",
    "PYENV_ROOT",
    "PYENV_VERSION",
];

/// Why there is no uv.
#[derive(Debug, thiserror::Error)]
pub enum UvError {
    /// Neither uv nor pip.
    #[error("there is no uv on PATH, and no pip to fetch it with: {reason}")]
    NoPip {
        /// What pip or Python said.
        reason: String,
    },
    /// Nothing may be fetched.
    #[error("there is no uv on PATH nor in the store, and nothing is fetched here")]
    Offline,
    /// A program cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Its files cannot be handled.
    #[error("cannot install uv")]
    Install(#[source] std::io::Error),
    /// The fetched wheel is refused.
    #[error(transparent)]
    Wheel(#[from] WheelError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for UvError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoPip { .. } | Self::Offline => Kind::NotFound,
            Self::Run(error) => error.kind(),
            Self::Install(error) => Kind::of_io(error),
            Self::Wheel(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoPip { .. } => vec![
                "Put uv on PATH (https://docs.astral.sh/uv), or install Python with pip; on Debian: apt-get install python3-pip."
                    .to_owned(),
            ],
            Self::Store(error) => error.hints(),
            Self::Offline => vec![http::OFFLINE_HINT.to_owned()],
            _ => Vec::new(),
        }
    }
}

/// A uv that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uv {
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
    /// Digest of its file.
    pub sha256: Digest,
}

impl Uv {
    /// Finds uv: on `PATH` if it is recent enough, else the pinned one in the store, fetched if need be.
    ///
    /// # Errors
    /// [`UvError`]
    pub fn find(store: &Store, reporter: &SharedReporter) -> Result<Self, UvError> {
        for path in on_path("uv") {
            if let Some(uv) = identify(store, &path)? {
                return Ok(uv);
            }
        }
        let path = store.directory("programs").join(format!("uv-{PINNED}-{}", std::env::consts::ARCH));
        if let Some(uv) = identify(store, &path)? {
            return Ok(uv);
        }
        let _lock = store.lock("uv")?;
        if !path.exists() {
            if http::is_offline() {
                return Err(UvError::Offline);
            }
            reporter.started("uv", format!("uv {PINNED}"));
            fetch(store, &path)?;
            reporter.finished("uv", "fetched");
        }
        let reason = || UvError::NoPip { reason: format!("the fetched uv {PINNED} does not run here") };
        identify(store, &path)?.ok_or_else(reason)
    }

    /// uv with nothing of our environment but what it needs.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env_clear().envs(kept_environment());
        if http::is_offline() {
            command.env("UV_OFFLINE", "1");
        }
        command
    }
}

fn kept_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        let Some(name) = name.to_str() else { return false };
        // Credentials of named indexes: UV_INDEX_<NAME>_USERNAME and _PASSWORD.
        let is_credential =
            name.starts_with("UV_INDEX_") && (name.ends_with("_USERNAME") || name.ends_with("_PASSWORD"));
        KEPT.contains(&name) || is_credential
    })
}

/// Every program of that name on `PATH`, in order.
fn on_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_program =
        |it: &PathBuf| std::fs::metadata(it).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&path).map(|it| it.join(name)).filter(is_program).collect()
}

/// What is known of a program: asked once per file.
fn identify(store: &Store, path: &Path) -> Result<Option<Uv>, UvError> {
    let Ok(path) = fs::canonicalize(path) else { return Ok(None) };
    let metadata = fs::metadata(&path).map_err(UvError::Install)?;
    let stamp = format!(
        "uv {} {} {} {}.{}",
        path.display(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    let key = Digest::of(stamp);
    if let Some(known) = store.record::<Uv>(Table::Programs, &key) {
        return Ok(Some(known));
    }
    let output = process::run(Command::new(&path).arg("--version").env_clear(), Duration::from_secs(60))?;
    let text = output.text();
    let Some(version) = text.strip_prefix("uv ").and_then(|it| it.split(' ').next()) else { return Ok(None) };
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return Ok(None) };
    if (major, minor) < OLDEST {
        return Ok(None);
    }
    let file = fs::File::open(&path).map_err(UvError::Install)?;
    let (sha256, _) = digest_reader(file).map_err(UvError::Install)?;
    let uv = Uv { path, version: version.to_owned(), sha256 };
    store.remember(Table::Programs, &key, &uv)?;
    Ok(Some(uv))
}

/// Fetches the pinned wheel through pip, which knows this machine's indexes, and takes the program out of it.
fn fetch(store: &Store, to: &Path) -> Result<(), UvError> {
    let scratch = store.scratch()?;
    let hashes: String = WHEELS.iter().map(|it| format!(" --hash=sha256:{it}")).collect();
    let list = scratch.path().join("requirements.txt");
    fs::write(&list, format!("uv=={PINNED}{hashes}\n")).map_err(UvError::Install)?;
    let mut reasons = Vec::new();
    for python in ["python3", "python"] {
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"])
            .args(["--only-binary", ":all:", "--require-hashes", "--dest"])
            .arg(scratch.path())
            .arg("--requirement")
            .arg(&list);
        match process::run(&mut pip, PATIENCE) {
            Ok(output) if output.status.success() => return unpack(scratch.path(), to),
            Ok(output) => {
                let errors = output.errors();
                let last = errors.lines().rev().find(|it| !it.trim().is_empty()).unwrap_or_default().to_owned();
                reasons.push(crate::secret::mask_userinfo(&last));
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(UvError::NoPip { reason: reasons.join("; ") })
}

fn unpack(dir: &Path, to: &Path) -> Result<(), UvError> {
    let missing = || UvError::NoPip { reason: "pip left no wheel of uv".to_owned() };
    for item in fs::read_dir(dir).map_err(UvError::Install)? {
        let path = item.map_err(UvError::Install)?.path();
        if path.extension().is_none_or(|it| it != "whl") {
            continue;
        }
        let archive = Archive::open(&path, "uv").map_err(WheelError::from)?;
        let program = archive.entries().iter().find(|it| it.name.ends_with(".data/scripts/uv")).ok_or_else(missing)?;
        let bytes = archive.read(program, 512 << 20).map_err(WheelError::from)?;
        return crate::fs::write_whole(to, &bytes, 0o700).map_err(UvError::Install);
    }
    Err(missing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::silent;

    #[test]
    fn uv_is_found_or_fetched_and_known_by_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let uv = Uv::find(&store, &silent()).unwrap();
        let (digest, _) = digest_reader(fs::File::open(&uv.path).unwrap()).unwrap();
        assert_eq!(uv.sha256, digest);
        assert_eq!(Uv::find(&store, &silent()).unwrap(), uv);
        let output = process::run(uv.command().arg("--version"), Duration::from_secs(60)).unwrap();
        assert!(output.text().contains(&uv.version), "{}", output.text());
    }
}
