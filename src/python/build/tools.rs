//! What a build is done with: an environment of the backend's wheels, lent to the sandbox.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fs_err as fs;

use super::{Build, BuildError, LARGEST, LENT, Needs};
use crate::error::Failure;
use crate::python::install::{Content, Target, install};
use crate::python::pinned::PinnedWheel;
use crate::python::venv::{Item, Venv, skeleton};
use crate::python::wheel::{Wheel, WheelError};

impl Build<'_> {
    /// The environment that tools are lent in.
    pub(super) fn tools(&self) -> Target {
        let minor: Vec<&str> = self.bench.version.split('.').take(2).collect();
        Target { root: format!("{LENT}/tools"), python: minor.join(".") }
    }

    /// Makes an environment of the wheels of the backend and of what it needs.
    pub(super) fn lend(&self, needs: Needs<'_>) -> Result<Vec<PinnedWheel>, Failure> {
        let wheels = (self.bench.tools)(needs)?;
        let root = self.lent.join("tools");
        if root.exists() {
            fs::remove_dir_all(&root).map_err(BuildError::Files)?;
        }
        fs::create_dir(&root).map_err(BuildError::Files)?;
        let target = self.tools();
        for it in &wheels {
            self.unpack(it, &target, &root)?;
        }
        // Last, so that no file of a wheel is written through a link of ours.
        let venv = Venv {
            target,
            executable: self.bench.executable.to_owned(),
            site_packages: false,
            extra_paths: Vec::new(),
        };
        for (path, item) in skeleton(&venv) {
            let path = root.join(path);
            fs::create_dir_all(crate::fs::parent_of(&path)).map_err(BuildError::Files)?;
            if path.symlink_metadata().is_ok() {
                fs::remove_file(&path).map_err(BuildError::Files)?;
            }
            match item {
                Item::File(bytes) => fs::write(&path, bytes),
                Item::Link(to) => fs::os::unix::fs::symlink(to, &path),
            }
            .map_err(BuildError::Files)?;
        }
        Ok(wheels)
    }

    fn unpack(&self, tool: &PinnedWheel, target: &Target, root: &Path) -> Result<(), BuildError> {
        let wheel = Wheel::open(&self.bench.store.blob_path(&tool.sha256), &tool.file)?;
        for (path, file) in install(&wheel, target)? {
            let path = root.join(path);
            let bytes = match file.content {
                Content::Bytes(bytes) => bytes,
                Content::Entry(index) => {
                    let archive = wheel.archive();
                    archive.read(&archive.entries()[index], LARGEST).map_err(WheelError::from)?
                }
            };
            fs::create_dir_all(crate::fs::parent_of(&path)).map_err(BuildError::Files)?;
            fs::write(&path, bytes).map_err(BuildError::Files)?;
            let mode = if file.executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(BuildError::Files)?;
        }
        Ok(())
    }
}
