//! A base's own apt, in a sandbox: which sources it has, and what it would install.
//!
//! The base's sources and keys count. A base without sources (one made by a recipe has none, so that no machine's
//! mirror stands in it) is lent the host's own for the same release, with the host's keys. Package lists are kept in
//! the store beside all layers:
//!
//! ```text
//! <store>/apt/<digest of release and sources>
//! ├── updated       last refreshed = mtime
//! ├── lists/        apt's, signatures checked by apt
//! ├── cache/        apt's binary caches
//! └── etc/          what apt is told; only this and the two above are seen inside, this one read-only
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;

use super::solve::{self, Answer};
use super::sources::{self, Release, Source};
use super::{Package, SystemError};
use crate::digest::Hasher;
use crate::fs::FileLock;
use crate::http;
use crate::report::Reporter;
use crate::sandbox::{Changes, Sandbox, Step, lend};
use crate::store::Store;

/// Where what apt needs is seen inside: in memory, so that nothing of it can stay.
const PLACE: &str = "/run/agent/apt";

/// Tells whether there is apt, which release it is and what its sources say.
const ASK: &str = "command -v apt-get >/dev/null 2>&1 || exit 100\n\
    echo '@@@ os-release'; cat /etc/os-release /usr/lib/os-release 2>/dev/null\n\
    for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do\n\
    if [ -f \"$f\" ]; then echo \"@@@ $f\"; cat \"$f\"; echo; fi; done";

/// A base's apt.
pub struct Apt<'a> {
    store: &'a Store,
    sandbox: &'a Sandbox,
    reporter: &'a dyn Reporter,
    sources: Vec<Source>,
    /// Whether the sources are the host's.
    lent: bool,
    dir: PathBuf,
}

impl<'a> Apt<'a> {
    /// Looks at the base of a sandbox.
    ///
    /// # Errors
    /// [`SystemError::NoApt`], [`SystemError::NoSources`]
    pub fn open(store: &'a Store, sandbox: &'a Sandbox, reporter: &'a dyn Reporter) -> Result<Self, SystemError> {
        let step = Step { changes: Changes::Dropped, ..Step::new("apt sources", &["/bin/sh", "-c", ASK]) };
        let output = match sandbox.run(&step, reporter_of_nothing()) {
            Ok(output) if output.code == 100 => return Err(SystemError::NoApt),
            Ok(output) => output,
            // A base without a shell has no apt either.
            Err(error) if error.is_not_found() => return Err(SystemError::NoApt),
            Err(error) => return Err(error.into()),
        };
        let text = output.text();
        let mut release = Release::default();
        let mut own = Vec::new();
        for part in text.split("@@@ ").skip(1) {
            let (name, body) = part.split_once('\n').unwrap_or((part, ""));
            if name == "os-release" {
                release = Release::parse(body);
            } else {
                own.extend(sources::parse(name, body));
            }
        }
        let lent = own.is_empty();
        let sources = if lent { host_sources(&release)? } else { own };
        let mut key = Hasher::new();
        key.field(&release.id).field(&release.codename).field(sources::write(&sources)).field([u8::from(lent)]);
        let dir = store.directory("apt").join(key.finish().hex());
        for name in ["lists/partial", "cache/archives/partial", "etc/sources.list.d", "etc/keys"] {
            crate::fs::create_private_dir(&dir.join(name)).map_err(|source| file_error(&dir, source))?;
        }
        let apt = Self { store, sandbox, reporter, sources, lent, dir };
        apt.write_configuration()?;
        Ok(apt)
    }

    /// The sources in force.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Refreshes the package lists unless they are younger than `max_age`.
    ///
    /// # Errors
    /// [`SystemError::Apt`]
    pub fn update(&self, max_age: Duration) -> Result<(), SystemError> {
        let _alone = self.alone()?;
        let marker = self.dir.join("updated");
        let age = fs::metadata(&marker).and_then(|it| it.modified()).ok().and_then(|it| it.elapsed().ok());
        if age.is_some_and(|it| it < max_age) {
            return Ok(());
        }
        if http::is_offline() {
            return Err(SystemError::Offline { what: "apt's package lists".to_owned() });
        }
        self.reporter.started("apt lists", "refreshing the package lists");
        let answer = self.run(&["apt-get", "update", "-q"], true)?;
        if !answer.success {
            return Err(SystemError::Apt { what: "refresh its package lists".to_owned(), reason: errors(&answer) });
        }
        crate::fs::write_whole(&marker, b"", 0o600).map_err(|source| file_error(&marker, source))?;
        self.reporter.finished("apt lists", "refreshed");
        Ok(())
    }

    /// What apt would install for these names: without what the base has, without recommendations.
    ///
    /// # Errors
    /// [`SystemError::Unknown`], [`SystemError::Unsatisfiable`]
    pub fn solve(&self, names: &[String]) -> Result<Vec<Package>, SystemError> {
        // Lists that another process refreshes meanwhile would be read half.
        let _alone = self.alone()?;
        solve::solve(names, &|argv| self.run(argv, false))
    }

    fn alone(&self) -> Result<FileLock, SystemError> {
        Ok(self.store.lock(&format!("apt-{}", name_of(&self.dir)))?)
    }

    fn run(&self, argv: &[&str], network: bool) -> Result<Answer, SystemError> {
        let (program, rest) = argv.split_first().unwrap_or((&"", &[]));
        let configuration = format!("{PLACE}/etc/apt.conf");
        let mut all = vec![*program, "-c", &configuration];
        all.extend(rest);
        // Of our own files the base's apt sees only copies it cannot change: a link put in place of one would lead us.
        let mut step = Step::new(*program, &all);
        for (name, writable) in [("etc", false), ("lists", true), ("cache", true)] {
            step = step.bind(&self.dir.join(name), &format!("{PLACE}/{name}"), writable);
        }
        step.network = network;
        step.changes = Changes::Dropped;
        let output = self.sandbox.run(&step, if network { self.reporter } else { reporter_of_nothing() })?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Answer { success: output.code == 0, stdout: output.text(), stderr })
    }

    fn write_configuration(&self) -> Result<(), SystemError> {
        let mut text = String::from(
            "APT::Sandbox::User \"root\";\nAPT::Update::Error-Mode \"any\";\nAcquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n",
        );
        text.push_str(&format!("Dir::State::lists \"{PLACE}/lists\";\nDir::Cache \"{PLACE}/cache\";\n"));
        text.push_str("Dir::Cache::pkgcache \"pkgcache.bin\";\nDir::Cache::srcpkgcache \"srcpkgcache.bin\";\n");
        if lend::trust_store().is_some() {
            text.push_str(&format!("Acquire::https::CAInfo \"{}\";\n", lend::TRUST));
        }
        if self.lent {
            text.push_str(&format!(
                "Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{PLACE}/etc/sources.list.d\";\n\
                 Dir::Etc::trusted \"/dev/null\";\nDir::Etc::trustedparts \"{PLACE}/etc/keys\";\n"
            ));
            text.push_str(&host_options());
            let lent = lend_keys(&self.sources, &self.dir.join("etc/keys"))?;
            self.write("etc/sources.list.d/host.sources", &sources::write(&lent))?;
        }
        self.write("etc/apt.conf", &text)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), SystemError> {
        let path = self.dir.join(name);
        crate::fs::write_whole(&path, text.as_bytes(), 0o644).map_err(|source| file_error(&path, source))
    }
}

fn name_of(dir: &Path) -> String {
    dir.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default()
}

fn errors(answer: &Answer) -> String {
    let lines: Vec<&str> = answer.stderr.lines().filter(|it| it.starts_with("E:") || it.starts_with("W:")).collect();
    if lines.is_empty() { answer.stderr.trim().to_owned() } else { lines.join("\n") }
}

fn file_error(path: &Path, source: std::io::Error) -> SystemError {
    SystemError::File { path: path.to_owned(), source }
}

/// What apt prints while it is only asked is no news.
fn reporter_of_nothing() -> &'static dyn Reporter {
    &crate::report::Silent
}

/// The host's own sources for a release.
///
/// # Errors
/// [`SystemError::NoSources`] when the host is another release.
pub(super) fn host_sources(release: &Release) -> Result<Vec<Source>, SystemError> {
    let none = || SystemError::NoSources { release: format!("{} {}", release.id, release.codename) };
    if Release::host() != *release {
        return Err(none());
    }
    let components: Vec<String> =
        ["main", "contrib", "non-free", "non-free-firmware", "universe", "restricted", "multiverse"]
            .map(str::to_owned)
            .to_vec();
    let own: Vec<Source> = sources::of_host().into_iter().filter(|it| release.owns(it, &components)).collect();
    if own.is_empty() { Err(none()) } else { Ok(own) }
}

/// What the host's apt is told about reaching archives.
pub(super) fn host_options() -> String {
    let mut command = std::process::Command::new("apt-config");
    let Ok(output) = crate::process::run(command.arg("dump"), Duration::from_secs(30)) else { return String::new() };
    let reaching = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        name.starts_with("acquire::")
            && (name.contains("proxy") || name.ends_with("check-valid-until") || name.ends_with("check-date"))
            // An empty value, or a program that only the host has.
            && !line.ends_with("\"\";")
            && !name.contains("auto-detect")
            && !name.contains("proxyautodetect")
    };
    output.text().lines().filter(reaching).map(|it| format!("{it}\n")).collect()
}

/// Copies the keys that sources name, so that they can be seen inside; keys of all sources where one names none.
fn lend_keys(sources: &[Source], keys: &Path) -> Result<Vec<Source>, SystemError> {
    let copy = |from: &Path, name: &str| {
        let to = keys.join(name);
        let bytes = fs::read(from).map_err(|source| file_error(from, source))?;
        crate::fs::write_whole(&to, &bytes, 0o644).map_err(|source| file_error(&to, source))
    };
    let mut lent = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let mut source = source.clone();
        match source.signed_by.as_deref() {
            // A key in the text itself goes along as it is.
            Some(text) if text.trim_start().starts_with('/') => {
                let mut names = Vec::new();
                for (part, path) in text.split([' ', ',', '\n']).filter(|it| it.starts_with('/')).enumerate() {
                    let path = Path::new(path);
                    let kind = path.extension().map_or("gpg".into(), |it| it.to_string_lossy());
                    let name = format!("source-{number}-{part}.{kind}");
                    copy(path, &name)?;
                    names.push(format!("{PLACE}/etc/keys/{name}"));
                }
                source.signed_by = Some(names.join(" "));
            }
            Some(_) => {}
            None => {
                let parts = fs::read_dir("/etc/apt/trusted.gpg.d").into_iter().flatten().flatten();
                for path in parts.map(|it| it.path()).filter(|it| it.is_file()) {
                    copy(&path, &format!("host-{}", name_of(&path)))?;
                }
            }
        }
        lent.push(source);
    }
    Ok(lent)
}
