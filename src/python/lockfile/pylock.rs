//! `pylock.toml` (PEP 751) of a repository: packages whose markers hold, exactly as pinned.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Contents, Lockfile, LockfileError, Place, bare, own_indexes};
use crate::python::name::normalise;

const FILE: Lockfile = Lockfile::Pylock;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    lock_version: String,
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    index: Option<String>,
    #[serde(default)]
    wheels: Vec<File>,
    sdist: Option<File>,
    archive: Option<File>,
    vcs: Option<Vcs>,
    directory: Option<Directory>,
}

#[derive(Debug, Deserialize)]
struct File {
    url: Option<String>,
    path: Option<String>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Vcs {
    r#type: String,
    url: Option<String>,
    commit_id: String,
    subdirectory: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Directory {
    path: String,
    #[serde(default)]
    editable: bool,
}

/// Reads it.
pub(super) fn read(text: &str, project: &toml::Table, place: &Place) -> Result<Contents, LockfileError> {
    let document: Document = FILE.parse(text)?;
    if !document.lock_version.starts_with("1.") {
        return Err(FILE.version(&document.lock_version));
    }
    let own = own_indexes(project);
    let mut contents = Contents::default();
    for package in document.packages {
        if place.holds(FILE, package.marker.as_deref(), &[])? {
            add(&mut contents, &package)?;
            if let Some(index) = package.index.as_deref().filter(|it| own.contains(bare(it))) {
                contents.index(index);
            }
        }
    }
    Ok(contents)
}

fn add(contents: &mut Contents, package: &Package) -> Result<(), LockfileError> {
    let name = normalise(&package.name);
    if let Some(directory) = &package.directory {
        contents.projects.push((directory.path.clone(), directory.editable));
        return Ok(());
    }
    if let Some(vcs) = &package.vcs {
        let address = vcs.url.as_deref().filter(|_| vcs.r#type == "git");
        let address = address.ok_or_else(|| FILE.package(&name, "its repository is not one of git at an address"))?;
        contents.git(&name, (address, &vcs.commit_id), vcs.subdirectory.as_deref());
        return Ok(());
    }
    let files = package.wheels.iter().chain(&package.sdist).chain(&package.archive);
    let hashes: Vec<String> = files.filter_map(|it| Some(format!("sha256:{}", it.hashes.get("sha256")?))).collect();
    if let Some(archive) = &package.archive {
        match (&archive.url, &archive.path) {
            (Some(address), _) => contents.address(&name, address),
            (None, Some(path)) if path.ends_with(".whl") => contents.wheels.push(path.clone()),
            _ => return Err(FILE.package(&name, "its archive is neither at an address nor a wheel in the repository")),
        }
    } else {
        let version = package.version.as_deref();
        contents.release(&name, version.ok_or_else(|| FILE.package(&name, "it has no version"))?);
    }
    contents.hashes(&name, hashes.iter().map(String::as_str));
    Ok(())
}
