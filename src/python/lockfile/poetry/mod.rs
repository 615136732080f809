//! `poetry.lock`: packages, with their groups and markers since format 2.1; before that a graph, which starts in
//! `pyproject.toml`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Contents, Lockfile, LockfileError, Place, at, tables, text};
use crate::python::name::normalise;

mod constraint;
mod graph;

const FILE: Lockfile = Lockfile::Poetry;

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default, rename = "package")]
    packages: Vec<Package>,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    lock_version: String,
    /// Of the formats before 2.0: the files of all packages.
    #[serde(default)]
    files: BTreeMap<String, Vec<File>>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    files: Vec<File>,
    /// Since 2.1.
    #[serde(default)]
    groups: Vec<String>,
    /// Since 2.1: for all groups, or for each one.
    markers: Option<toml::Value>,
    #[serde(default)]
    dependencies: BTreeMap<String, toml::Value>,
    #[serde(default)]
    extras: BTreeMap<String, Vec<String>>,
    source: Option<Source>,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    hash: String,
}

#[derive(Debug, Deserialize)]
struct Source {
    r#type: String,
    url: String,
    reference: Option<String>,
    resolved_reference: Option<String>,
    subdirectory: Option<String>,
}

/// Reads it.
pub(super) fn read(text: &str, project: &toml::Table, place: &Place) -> Result<Contents, LockfileError> {
    let document: Document = FILE.parse(text)?;
    let format: Vec<u32> = document.metadata.lock_version.split('.').filter_map(|it| it.parse().ok()).collect();
    let wanted: Vec<usize> = match format[..] {
        [2, minor] if minor >= 1 => listed(&document, project, place)?,
        [1 | 2, _] => graph::reached(&document, project, place)?.into_iter().collect(),
        _ => return Err(FILE.version(&document.metadata.lock_version)),
    };
    let mut contents = Contents::default();
    for index in wanted {
        add(&mut contents, &document, &document.packages[index])?;
    }
    contents.projects.extend(own_project(project));
    Ok(contents)
}

/// The packages of the groups that are on.
fn listed(document: &Document, project: &toml::Table, place: &Place) -> Result<Vec<usize>, LockfileError> {
    let off = optional_groups(project);
    let mut found = Vec::new();
    for (index, package) in document.packages.iter().enumerate().filter(|it| !it.1.optional) {
        for group in package.groups.iter().filter(|it| !off.contains(it.as_str())) {
            let marker = match &package.markers {
                Some(toml::Value::Table(by_group)) => text(by_group, group),
                other => other.as_ref().and_then(toml::Value::as_str),
            };
            if place.holds(FILE, marker, &[])? {
                found.push(index);
                break;
            }
        }
    }
    Ok(found)
}

/// The groups that are installed only where somebody asks for them.
fn optional_groups(project: &toml::Table) -> BTreeSet<&str> {
    let groups = tables(project, &["tool", "poetry", "group"]).into_iter();
    let is_optional = |it: &toml::Table| it.get("optional").and_then(toml::Value::as_bool) == Some(true);
    groups.filter(|it| is_optional(it.1)).map(|it| it.0).collect()
}

/// The project itself, which is installed in place unless it is none (`package-mode = false`).
fn own_project(project: &toml::Table) -> Option<(String, bool)> {
    let package_mode = at(project, &["tool", "poetry", "package-mode"]).and_then(toml::Value::as_bool);
    let is_built = project.contains_key("build-system") && package_mode != Some(false);
    is_built.then(|| (".".to_owned(), true))
}

fn add(contents: &mut Contents, document: &Document, package: &Package) -> Result<(), LockfileError> {
    let name = normalise(&package.name);
    let of_all = document.metadata.files.get(&package.name).into_iter().flatten();
    let hashes = || package.files.iter().chain(of_all).map(|it| it.hash.as_str());
    let Some(source) = &package.source else {
        contents.release(&name, &package.version);
        contents.hashes(&name, hashes());
        return Ok(());
    };
    match source.r#type.as_str() {
        "legacy" => {
            contents.release(&name, &package.version);
            contents.index(&source.url);
            contents.hashes(&name, hashes());
        }
        "git" => {
            let commit = source.resolved_reference.as_ref().or(source.reference.as_ref());
            let commit = commit.ok_or_else(|| FILE.package(&name, "its repository has no commit"))?;
            contents.git(&name, (&source.url, commit), source.subdirectory.as_deref());
        }
        "url" => {
            contents.address(&name, &source.url);
            contents.hashes(&name, hashes());
        }
        "file" if source.url.ends_with(".whl") => {
            contents.wheels.push(source.url.clone());
            contents.hashes(&name, hashes());
        }
        "directory" => contents.projects.push((source.url.clone(), true)),
        _ => return Err(FILE.package(&name, "it comes from where nobody here can have it")),
    }
    Ok(())
}
