//! Lock files of other programs (`uv.lock`, `poetry.lock`, `pylock.toml`): what they say is to be installed, read and
//! never solved again.
//!
//! What the programs themselves would install by default is what counts: without optional extras, with the groups that
//! are on by default. Markers are decided for the base's Python. Digests are kept: nothing else is taken for a package.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use pep508_rs::{ExtraName, MarkerEnvironment, MarkerEnvironmentBuilder, MarkerTree};
use url::Url;

use super::name::normalise;
use super::resolve::Hashes;
use super::tags::machine;
use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::secret::{Secret, mask_userinfo};

mod poetry;
mod pylock;
mod uv;

/// A program's lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockfile {
    /// `uv.lock`.
    Uv,
    /// `poetry.lock`.
    Poetry,
    /// `pylock.toml` (PEP 751).
    Pylock,
}

impl Lockfile {
    /// All of them, the one that counts first where a directory has several.
    pub const ALL: [Self; 3] = [Self::Uv, Self::Poetry, Self::Pylock];

    /// Its file's name.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::Uv => "uv.lock",
            Self::Poetry => "poetry.lock",
            Self::Pylock => "pylock.toml",
        }
    }

    /// What it says is to be installed. `project` is the text of the `pyproject.toml` beside it.
    ///
    /// # Errors
    /// [`LockfileError`]
    pub fn read(self, text: &str, project: Option<&str>, place: &Place) -> Result<Contents, LockfileError> {
        let project = project.map(|it| self.document(it, "pyproject.toml")).transpose()?.unwrap_or_default();
        match self {
            Self::Uv => uv::read(text, &project, place),
            Self::Poetry => poetry::read(text, &project, place),
            Self::Pylock => pylock::read(text, &project, place),
        }
    }

    fn document(self, text: &str, name: &'static str) -> Result<toml::Table, LockfileError> {
        text.parse().map_err(|source| LockfileError::Syntax { file: name, source: Box::new(source) })
    }

    fn parse<T: serde::de::DeserializeOwned>(self, text: &str) -> Result<T, LockfileError> {
        toml::from_str(text).map_err(|source| LockfileError::Syntax { file: self.file(), source: Box::new(source) })
    }

    /// A version of the format that nobody here knows.
    fn version(self, version: &str) -> LockfileError {
        LockfileError::Version { file: self.file(), version: version.to_owned() }
    }

    /// A package that cannot be had as the file says.
    fn package(self, package: &str, reason: &'static str) -> LockfileError {
        LockfileError::Package { file: self.file(), package: package.to_owned(), reason }
    }
}

/// What a lock file says is to be installed; paths are relative to its directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Exact requirements, one each.
    pub requirements: BTreeSet<String>,
    /// What is built: repositories at a commit, archives at an address.
    pub builds: Vec<Secret>,
    /// Wheels that lie in the repository.
    pub wheels: Vec<String>,
    /// Projects of the repository: the directory, and whether it is installed in place.
    pub projects: Vec<(String, bool)>,
    /// Indexes besides the usual one.
    pub indexes: Vec<Secret>,
    /// The digests that packages may have, by normalised name.
    pub hashes: Hashes,
}

impl Contents {
    /// A release of an index.
    fn release(&mut self, name: &str, version: &str) {
        self.requirements.insert(format!("{name}=={version}"));
    }

    /// An index, asked besides the usual one.
    fn index(&mut self, address: &str) {
        if !self.indexes.iter().any(|it| it.reveal() == address) {
            self.indexes.push(Secret::new(address));
        }
    }

    /// A repository at a commit.
    fn git(&mut self, name: &str, (address, commit): (&str, &str), directory: Option<&str>) {
        let directory = directory.filter(|it| !it.is_empty() && *it != ".");
        let fragment = directory.map(|it| format!("#subdirectory={it}")).unwrap_or_default();
        let address = address.trim_start_matches("git+");
        self.builds.push(Secret::new(format!("{name} @ git+{address}@{commit}{fragment}")));
    }

    /// A file at an address.
    fn address(&mut self, name: &str, address: &str) {
        let path = Url::parse(address).map(|it| it.path().to_owned()).unwrap_or_default();
        if path.ends_with(".whl") {
            self.requirements.insert(format!("{name} @ {address}"));
        } else {
            self.builds.push(Secret::new(format!("{name} @ {address}")));
        }
    }

    /// Digests as lock files write them: `sha256:…`. Others are not compared.
    fn hashes<'a>(&mut self, name: &str, hashes: impl Iterator<Item = &'a str>) {
        let digests: BTreeSet<Digest> =
            hashes.filter_map(|it| Digest::from_hex(it.strip_prefix("sha256:")?).ok()).collect();
        if !digests.is_empty() {
            self.hashes.entry(normalise(name)).or_default().extend(digests);
        }
    }
}

/// What markers are decided for.
#[derive(Debug, Clone)]
pub struct Place(MarkerEnvironment);

impl Place {
    /// `CPython` of that full version on Linux of an OCI architecture; `None` for what is no version.
    #[must_use]
    pub fn new(python: &str, architecture: &str) -> Option<Self> {
        let minor = python.split('.').take(2).collect::<Vec<_>>().join(".");
        let builder = MarkerEnvironmentBuilder {
            implementation_name: "cpython",
            implementation_version: python,
            os_name: "posix",
            platform_machine: machine(architecture),
            platform_python_implementation: "CPython",
            platform_release: "",
            platform_system: "Linux",
            platform_version: "",
            python_full_version: python,
            python_version: &minor,
            sys_platform: "linux",
        };
        MarkerEnvironment::try_from(builder).ok().map(Self)
    }

    /// The interpreter's version.
    fn python(&self) -> &pep440_rs::Version {
        &self.0.python_full_version().version
    }

    /// Whether a marker holds; none always does.
    fn holds(&self, file: Lockfile, marker: Option<&str>, extras: &[ExtraName]) -> Result<bool, LockfileError> {
        let Some(marker) = marker.map(str::trim).filter(|it| !it.is_empty()) else { return Ok(true) };
        let tree = MarkerTree::from_str(marker)
            .map_err(|_| LockfileError::Marker { file: file.file(), marker: marker.to_owned() })?;
        Ok(tree.evaluate(&self.0, extras))
    }
}

/// Why a lock file cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockfileError {
    /// It is no such document.
    #[error("`{file}` cannot be read")]
    Syntax {
        /// Its name.
        file: &'static str,
        /// What does not fit, with line and column.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It has another format.
    #[error("`{file}` has format {version}, which this program does not know")]
    Version {
        /// Its name.
        file: &'static str,
        /// The version of its format.
        version: String,
    },
    /// A marker that is none.
    #[error("`{marker}` in `{file}` is no marker")]
    Marker {
        /// Its name.
        file: &'static str,
        /// The text.
        marker: String,
    },
    /// A package that something needs is not in it.
    #[error("`{file}` has no package `{package}`, which it says is needed")]
    Absent {
        /// Its name.
        file: &'static str,
        /// The package.
        package: String,
    },
    /// It does not say what is to be installed.
    #[error("`{file}` does not say what is to be installed: {reason}")]
    NoRoot {
        /// Its name.
        file: &'static str,
        /// What is missing.
        reason: &'static str,
    },
    /// A package that cannot be had.
    #[error("package `{package}` of `{file}` cannot be had: {reason}")]
    Package {
        /// Its name.
        file: &'static str,
        /// The package.
        package: String,
        /// Why.
        reason: &'static str,
    },
    /// A version or a constraint that is none.
    #[error("`{text}` in `{file}` is no version constraint")]
    Constraint {
        /// Its name.
        file: &'static str,
        /// The text.
        text: String,
    },
}

impl Explain for LockfileError {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        let file = match self {
            Self::Syntax { file, .. }
            | Self::Version { file, .. }
            | Self::Marker { file, .. }
            | Self::Absent { file, .. }
            | Self::NoRoot { file, .. }
            | Self::Package { file, .. }
            | Self::Constraint { file, .. } => file,
        };
        vec![format!(
            "Write `{file}` anew with its own program; with agent.package_manager.type: pip a requirements.txt counts \
             before it."
        )]
    }
}

/// The indexes that a project names for uv. Any other that a lock file names is the usual one of the machine that wrote
/// it, and which that is here this machine's configuration says.
fn own_indexes(project: &toml::Table) -> BTreeSet<String> {
    fn collect(value: &toml::Value, found: &mut BTreeSet<String>) {
        match value {
            toml::Value::String(it) => drop(found.insert(bare(it).to_owned())),
            toml::Value::Array(items) => items.iter().for_each(|it| collect(it, found)),
            toml::Value::Table(table) => found.extend(text(table, "url").map(|it| bare(it).to_owned())),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for key in ["index", "index-url", "extra-index-url"] {
        at(project, &["tool", "uv", key]).into_iter().for_each(|it| collect(it, &mut found));
    }
    found
}

/// An index's address as it is compared.
fn bare(address: &str) -> &str {
    address.trim_end_matches('/')
}

/// An address for messages.
fn shown(address: &str) -> String {
    mask_userinfo(address)
}

/// A table's text.
fn text<'a>(table: &'a toml::Table, key: &str) -> Option<&'a str> {
    table.get(key).and_then(toml::Value::as_str)
}

/// The value that a path of keys leads to.
fn at<'a>(table: &'a toml::Table, path: &[&str]) -> Option<&'a toml::Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() { Some(value) } else { at(value.as_table()?, rest) }
}

/// The tables under a path of keys, by name.
fn tables<'a>(table: &'a toml::Table, path: &[&str]) -> BTreeMap<&'a str, &'a toml::Table> {
    let found = at(table, path).and_then(toml::Value::as_table);
    found.into_iter().flatten().filter_map(|(name, it)| Some((name.as_str(), it.as_table()?))).collect()
}

#[cfg(test)]
mod tests;
