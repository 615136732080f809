//! What exactly: everything an image is made of, pinned by hash.
//!
//! A [`Lock`] is a TOML document (version [`VERSION`]) that people can read and compare. It always exists, in memory if
//! no file was asked for; a build takes nothing else. Its parts are resolved by one module each; machine-local paths,
//! secrets and times never enter it, save `created`.
//!
//! ```text
//! agent.lock                    the document
//! agent.lock.d/<sha256>         texts of 64 KiB and more, named by their digest (in an image: /opt/agent/texts/)
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::launch::Mode;
use crate::oci::{Descriptor, Platform};
use crate::system::Package;
use crate::task::Task;

pub mod arguments;
pub mod asked;
pub mod base;
mod carried;
pub mod closure;
pub mod code;
mod document;
pub mod python;
pub mod recipe;
pub mod requirements;
pub mod launch;
pub mod system;
mod text;
mod wheels;

pub use crate::python::pinned::PinnedWheel;
pub use crate::python::source::BuiltFrom;
pub use asked::Asked;
pub use document::{DocumentError, Documents};

/// The version of the document this program writes. It reads those before it too, and writes them as they are.
pub const VERSION: u32 = 2;

/// Names layer layout and encoder; part of every layer key.
pub const FORMAT: u32 = 1;

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`VERSION`], or that of the program that made it.
    pub version: u32,
    /// [`FORMAT`].
    pub format: u32,
    /// Seconds since the epoch for `created` in config and history: `SOURCE_DATE_EPOCH`, else the commit's time, else 0.
    pub created: i64,
    /// Which uv resolved the Python part.
    pub uv: Option<Tool>,
    /// Digest of the in-image binary; not part of a remembered resolution.
    pub guest: Digest,
    /// Whether the image carries bytecode.
    pub bytecode: bool,
    /// The image at the bottom.
    pub base: BasePart,
    /// What the base's interpreter is.
    pub python: PythonPart,
    /// System packages, absent when none are asked for.
    pub system: Option<SystemPart>,
    /// The setup script, if any.
    pub setup: Option<SetupPart>,
    /// The code, absent in a pure environment.
    pub code: Option<CodePart>,
    /// How the task starts.
    pub launch: LaunchPart,
    /// What was asked for; locks of version 1 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

/// A program that took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its version.
    pub version: String,
    /// Its file's digest.
    pub sha256: Digest,
}

/// The base image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasePart {
    /// What was asked for, without anything local to this machine: `docker.io/library/python:3.11`,
    /// `recipe:debian-python`, or absent for a local archive or layout.
    pub name: Option<String>,
    /// Where its blobs can be had again: a registry reference pinned by digest. Absent when only local.
    pub source: Option<String>,
    /// The manifest's digest, where the base has one (not from a classic Docker store).
    pub manifest: Option<Digest>,
    /// The image configuration's digest.
    pub config: Digest,
    /// Platform.
    pub platform: Platform,
    /// Layers, bottom first: descriptor of the blob where known, always the diff_id.
    pub layers: Vec<BaseLayer>,
    /// For a recipe: what it resolved to, so that it can be built again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipePart>,
}

/// One layer of the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseLayer {
    /// The uncompressed tar's digest.
    pub diff_id: Digest,
    /// The stored blob; absent when the base came from a classic Docker store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Descriptor>,
}

/// A recipe base, resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipePart {
    /// The recipe's whole text (`images/<name>.toml`).
    pub text: String,
    /// The suite's sources as given to apt, without any machine's own address: suite and components.
    pub suite: String,
    /// Every package, by name order.
    pub packages: Vec<Package>,
    /// Every wheel, by name order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wheels: Vec<PinnedWheel>,
}

/// The interpreter and what the base already has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonPart {
    /// Full version, `3.11.2`.
    pub version: String,
    /// Absolute path in the image, `/usr/bin/python3.11`.
    pub executable: String,
    /// `glibc 2.36` or `musl 1.2`.
    pub libc: String,
    /// Digest of the interpreter's file; patch releases differ in bytecode. For an interpreter that the system part
    /// brings: the digest of its package's file.
    pub digest: Digest,
    /// Whether the venv sees the base's own distributions.
    pub site_packages: bool,
    /// Directories of an environment that the base has active; the venv sees their distributions too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_paths: Vec<String>,
    /// Indexes that the task's requirements name, without userinfo.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
    /// Distributions to install, by normalised name.
    pub distributions: Vec<Distribution>,
    /// Distributions of the base that satisfy what was asked for, by normalised name.
    #[serde(default)]
    pub base_distributions: Vec<BaseDistribution>,
    /// Projects of the repository that requirements name by path, built in the sandbox.
    #[serde(default)]
    pub projects: Vec<Project>,
}

/// A distribution of the environment, pinned by the wheel it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Normalised name (PEP 503).
    pub name: String,
    /// Version (PEP 440).
    pub version: String,
    /// Wheel file name.
    pub file: String,
    /// Digest of the wheel.
    pub sha256: Digest,
    /// Its size in bytes, where known.
    pub size: u64,
    /// Where it can be had: the index's file address with userinfo removed, and no address for a wheel from an index of
    /// this machine's own configuration: then `index` names it and the file name finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether it was asked for by that address, not by name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// Present for a wheel built in the sandbox: what it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_from: Option<BuiltFrom>,
    /// Present for a wheel that lies in the repository: its path from the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A distribution that the base already has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseDistribution {
    /// Normalised name.
    pub name: String,
    /// Version, local part included.
    pub version: String,
    /// Its directory in the base, absolute.
    pub location: String,
}

/// A project of the repository, named by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Path relative to the repository's root; empty for the root.
    pub path: String,
    /// Whether it is installed in place (`-e`).
    pub editable: bool,
    /// Extras asked for.
    #[serde(default)]
    pub extras: Vec<String>,
    /// Normalised name, as its metadata tells.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest of its subtree.
    pub tree: Digest,
    /// Digest of what its build gave: the wheel, and files left beside the sources of one in place.
    pub built: Digest,
    /// The wheels of its build backend and of what that needs.
    pub tools: Vec<PinnedWheel>,
}

/// System packages on top of the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemPart {
    /// What was asked for, in order, without duplicates.
    pub requested: Vec<String>,
    /// Everything to install, by name order; packages the base has are not listed.
    pub packages: Vec<Package>,
}

/// A setup script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetupPart {
    /// The script.
    pub script: Text,
}

impl SetupPart {
    /// What a task's setup script is pinned by.
    #[must_use]
    pub fn of(task: &Task) -> Option<Self> {
        let script = task.container.setup_script.as_deref().map(str::trim).filter(|it| !it.is_empty());
        script.map(|it| Self { script: Text::of(it) })
    }
}

/// The code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodePart {
    /// The repository, absent for a stored script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitPart>,
    /// The uncommitted changes on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<Text>,
    /// A stored script: its file name and text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<StoredScript>,
    /// Digest of the finished tree (paths, modes, contents): what the code layer's key is made of.
    pub tree: Digest,
}

/// A repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitPart {
    /// Address without userinfo. Absent for a directory of this machine: then `--repository` or the store has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Commit id.
    pub commit: String,
    /// Its tree id.
    pub tree: String,
    /// Submodules by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub submodules: Vec<Submodule>,
}

/// A submodule at its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submodule {
    /// Path from the outermost repository's root.
    pub path: String,
    /// Resolved address without userinfo.
    pub url: String,
    /// Commit id.
    pub commit: String,
}

/// A script stored in the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredScript {
    /// File name in the code directory.
    pub file: String,
    /// Its text.
    pub text: Text,
}

/// How the task starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPart {
    /// What the image does without a command.
    pub mode: Mode,
    /// The recorded task's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The recorded task's name.
    pub name: String,
    /// The shell that runs the entry point; absent: the environment's Python.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// What is started, interpreter excluded: `["train.py", "--x", "1"]`, `["-m", "package.module"]`.
    pub entry_point: Vec<String>,
    /// Directory it starts in, relative to the code's root; empty for the root.
    pub working_dir: String,
    /// Environment of the run: the task's own, without secrets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Names of variables whose values must come at run time.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Hyperparameters (`Section/name`) whose values must come at run time.
    #[serde(default)]
    pub secret_parameters: Vec<String>,
    /// `docker run` arguments of the task that are no secrets, one text, kept for the executor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_arguments: Option<String>,
    /// The task record (JSON), see [`crate::task::Task::record`].
    pub record: Text,
}

impl LaunchPart {
    /// Whether a path relative to the code's root is what is started.
    #[must_use]
    pub fn starts(&self, path: &str) -> bool {
        let parts = |text: &str| -> Vec<String> {
            text.split('/').filter(|it| !matches!(*it, "" | ".")).map(str::to_owned).collect()
        };
        self.entry_point.first().is_some_and(|it| parts(path) == parts(&format!("{}/{it}", self.working_dir)))
    }
}

/// A text carried by the lock: whole, base64 where it is not UTF-8, or beside it where it is large.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Digest of its bytes.
    pub sha256: Digest,
    /// The bytes as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}
