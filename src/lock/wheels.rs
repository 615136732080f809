//! Pinned wheels as distributions of an environment, and back.

use super::{Distribution, PinnedWheel, PythonPart};
use crate::python::inspect::Interpreter;

impl From<Distribution> for PinnedWheel {
    fn from(it: Distribution) -> Self {
        Self { name: it.name, version: it.version, file: it.file, sha256: it.sha256, size: it.size, url: it.url }
    }
}

impl From<PinnedWheel> for Distribution {
    fn from(it: PinnedWheel) -> Self {
        Self {
            name: it.name,
            version: it.version,
            file: it.file,
            sha256: it.sha256,
            size: it.size,
            url: it.url,
            direct: false,
            built_from: None,
            path: None,
        }
    }
}

impl PythonPart {
    /// An environment of these wheels and of nothing else.
    #[must_use]
    pub fn of_wheels(interpreter: &Interpreter, libc: &str, wheels: &[PinnedWheel]) -> Self {
        Self {
            version: interpreter.version.clone(),
            executable: interpreter.executable.clone(),
            libc: libc.to_owned(),
            digest: interpreter.digest,
            site_packages: false,
            extra_paths: Vec::new(),
            indexes: Vec::new(),
            distributions: wheels.iter().cloned().map(Distribution::from).collect(),
            base_distributions: Vec::new(),
            projects: Vec::new(),
        }
    }
}
