//! Installing package files in a sandbox: by the base's own apt, from files, without network.

use std::path::Path;

use fs_err as fs;

use super::{Package, SystemError};
use crate::oci::layer::EPOCH;
use crate::report::Reporter;
use crate::sandbox::{Sandbox, Step, Way};
use crate::store::Store;

/// Where the files are seen inside.
pub(super) const FILES: &str = "/run/agent/packages";

/// What apt is told: nothing of the outside, no questions, no waiting for disks.
const CONFIGURATION: &str = "APT::Sandbox::User \"root\";\nAPT::Install-Recommends \"false\";\n\
    Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"/dev/null\";\n\
    Dir::State::lists \"/run/agent/apt/lists\";\nDir::Cache \"/run/agent/apt/cache\";\n\
    Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n\
    DPkg::Use-Pty \"false\";\nDPkg::Options { \"--force-unsafe-io\"; \"--force-confdef\"; \"--force-confold\"; };\n";

/// Services are not started while an image is built.
const POLICY: &str = "#!/bin/sh\nexit 101\n";

/// Installs packages whose files are in the store. What they change stays in the sandbox.
///
/// # Errors
/// [`SystemError::Install`] with the last words of dpkg.
pub fn install(
    store: &Store,
    sandbox: &Sandbox,
    packages: &[Package],
    reporter: &dyn Reporter,
) -> Result<(), SystemError> {
    if packages.is_empty() {
        return Ok(());
    }
    let work = store.scratch()?;
    let file_error = |source| SystemError::File { path: work.path().to_owned(), source };
    for dir in [
        "packages",
        "apt",
        "apt/lists",
        "apt/lists/partial",
        "apt/cache",
        "apt/cache/archives",
        "apt/cache/archives/partial",
    ] {
        fs::create_dir(work.path().join(dir)).map_err(file_error)?;
    }
    lay_out(store, packages, &work.path().join("packages"))?;
    fs::write(work.path().join("apt/apt.conf"), CONFIGURATION).map_err(file_error)?;
    let policy = work.path().join("policy-rc.d");
    crate::fs::write_whole(&policy, POLICY.as_bytes(), 0o755).map_err(file_error)?;
    let files: Vec<String> = packages.iter().map(|it| format!("{FILES}/{}", it.file_name())).collect();
    let mut argv = vec![
        "apt-get",
        "-c",
        "/run/agent/apt/apt.conf",
        "install",
        "-q",
        "-y",
        "--no-install-recommends",
        "--no-remove",
        "--allow-downgrades",
        "--",
    ];
    argv.extend(files.iter().map(String::as_str));
    let step = quiet(Step::new("apt-get install", &argv))
        .bind(&work.path().join("packages"), FILES, false)
        .bind(&work.path().join("apt"), "/run/agent/apt", true)
        .bind(&policy, "/usr/sbin/policy-rc.d", false);
    let output = sandbox.run(&step, reporter)?;
    if output.code == 0 { Ok(()) } else { Err(failed(sandbox, output.code, &output.last_words())) }
}

/// A step in which packages configure themselves: nobody answers, and what they derive from time or chance is fixed.
pub(super) fn quiet(step: Step) -> Step {
    step.env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .env("PYTHONHASHSEED", "0")
        .env("TZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
}

pub(super) fn failed(sandbox: &Sandbox, code: i32, words: &str) -> SystemError {
    SystemError::Install { code, words: words.to_owned(), single: matches!(sandbox.way(), Way::Single { .. }) }
}

/// Gives package files the names apt and dpkg expect, without copying them.
pub(super) fn lay_out(store: &Store, packages: &[Package], dir: &Path) -> Result<(), SystemError> {
    for package in packages {
        let name = package.file_name();
        // A lock may come from anywhere: what it calls a package must not lead out of the directory, nor be an option.
        let usual = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '+' | '~' | '-' | '_' | '%');
        if !name.starts_with(|it: char| it.is_ascii_alphanumeric()) || !name.chars().all(usual) {
            return Err(SystemError::Name { name });
        }
        drop(store.open_blob(&package.sha256)?);
        let to = dir.join(name);
        fs::hard_link(store.blob_path(&package.sha256), &to)
            .map_err(|source| SystemError::File { path: to, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_lies_in_its_directory_whatever_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let (sha256, size) = store.put_bytes(b"deb").unwrap();
        let files = store.root().join("tmp/files");
        fs::create_dir(&files).unwrap();
        let package = |name: &str| Package {
            name: name.to_owned(),
            version: "1:1".to_owned(),
            arch: "all".to_owned(),
            file: "pool/x.deb".to_owned(),
            sha256,
            size,
            origin: "stable/main".to_owned(),
        };
        lay_out(&store, &[package("x")], &files).unwrap();
        assert!(files.join("x_1%3a1_all.deb").exists());
        for name in ["../x", "-x", "", "x y", "x\n"] {
            let error = lay_out(&store, &[package(name)], &files).unwrap_err();
            assert!(matches!(error, SystemError::Name { .. }), "{error}");
        }
    }
}
