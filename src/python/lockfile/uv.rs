//! `uv.lock`: a graph of packages. What is reached from the project, over edges whose markers hold, is installed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::str::FromStr as _;

use pep508_rs::ExtraName;
use serde::Deserialize;

use super::{Contents, Lockfile, LockfileError, Place, at, bare, own_indexes, shown};
use crate::python::name::normalise;

const FILE: Lockfile = Lockfile::Uv;

#[derive(Debug, Deserialize)]
struct Document {
    version: i64,
    #[serde(default, rename = "package")]
    packages: Vec<Package>,
    #[serde(default)]
    manifest: Manifest,
}

#[derive(Debug, Default, Deserialize)]
struct Manifest {
    #[serde(default)]
    members: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: Option<String>,
    source: Source,
    #[serde(default)]
    dependencies: Vec<Edge>,
    #[serde(default, rename = "optional-dependencies")]
    extras: BTreeMap<String, Vec<Edge>>,
    #[serde(default, rename = "dev-dependencies")]
    groups: BTreeMap<String, Vec<Edge>>,
    sdist: Option<File>,
    #[serde(default)]
    wheels: Vec<File>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Source {
    registry: Option<String>,
    git: Option<String>,
    url: Option<String>,
    path: Option<String>,
    directory: Option<String>,
    editable: Option<String>,
    #[serde(rename = "virtual")]
    without_build: Option<String>,
    subdirectory: Option<String>,
}

impl Source {
    /// The project's directory, where it is one of the repository's.
    fn project(&self) -> Option<&str> {
        self.editable.as_deref().or(self.directory.as_deref()).or(self.without_build.as_deref())
    }
}

#[derive(Debug, Deserialize)]
struct Edge {
    name: String,
    version: Option<String>,
    source: Option<Source>,
    marker: Option<String>,
    #[serde(default)]
    extra: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct File {
    hash: Option<String>,
}

/// Reads it.
pub(super) fn read(text: &str, project: &toml::Table, place: &Place) -> Result<Contents, LockfileError> {
    let document: Document = FILE.parse(text)?;
    if document.version != 1 {
        return Err(FILE.version(&document.version.to_string()));
    }
    let own = own_indexes(project);
    let mut contents = Contents::default();
    for index in reached(&document, project, place)? {
        let package = &document.packages[index];
        add(&mut contents, package)?;
        if let Some(registry) = package.source.registry.as_deref().filter(|it| own.contains(bare(it))) {
            contents.index(registry);
        }
    }
    Ok(contents)
}

/// The packages to install.
fn reached(document: &Document, project: &toml::Table, place: &Place) -> Result<BTreeSet<usize>, LockfileError> {
    let roots = roots(document)?;
    let groups = groups(project);
    let mut active = Vec::new();
    let mut edges: VecDeque<&Edge> = VecDeque::new();
    for root in &roots {
        let package = &document.packages[*root];
        edges.extend(&package.dependencies);
        for (name, needs) in package.groups.iter().filter(|it| groups.as_ref().is_none_or(|on| on.contains(it.0))) {
            edges.extend(needs);
            // How uv writes, in a marker, that a group is on.
            active.push(format!("group-{}-{}-{name}", package.name.len(), package.name));
        }
    }
    let active: Vec<ExtraName> = active.iter().filter_map(|it| ExtraName::from_str(it).ok()).collect();
    let mut found: BTreeSet<usize> = roots.into_iter().collect();
    let mut seen: BTreeSet<(usize, Option<&str>)> = BTreeSet::new();
    while let Some(edge) = edges.pop_front() {
        if !place.holds(FILE, edge.marker.as_deref(), &active)? {
            continue;
        }
        let index = target(document, edge)?;
        let package = &document.packages[index];
        found.insert(index);
        if seen.insert((index, None)) {
            edges.extend(&package.dependencies);
        }
        for extra in &edge.extra {
            if seen.insert((index, Some(extra.as_str()))) {
                edges.extend(package.extras.get(extra).into_iter().flatten());
            }
        }
    }
    Ok(found)
}

/// The project whose lock it is, or all members of a workspace that has none at its root.
fn roots(document: &Document) -> Result<Vec<usize>, LockfileError> {
    let packages = || document.packages.iter().enumerate();
    if let Some((index, _)) = packages().find(|it| it.1.source.project() == Some(".")) {
        return Ok(vec![index]);
    }
    let members = packages().filter(|it| it.1.source.project().is_some());
    let members: Vec<usize> =
        members.filter(|it| document.manifest.members.contains(&it.1.name)).map(|it| it.0).collect();
    if members.is_empty() {
        return Err(LockfileError::NoRoot { file: FILE.file(), reason: "no project of the repository is in it" });
    }
    Ok(members)
}

/// The groups that are installed unless somebody says otherwise; `None` is all of them.
fn groups(project: &toml::Table) -> Option<BTreeSet<String>> {
    match at(project, &["tool", "uv", "default-groups"]) {
        Some(toml::Value::String(all)) if all == "all" => None,
        Some(toml::Value::Array(names)) => Some(names.iter().filter_map(|it| it.as_str()).map(str::to_owned).collect()),
        _ => Some(BTreeSet::from(["dev".to_owned()])),
    }
}

/// The package that an edge leads to.
fn target(document: &Document, edge: &Edge) -> Result<usize, LockfileError> {
    let is_it = |it: &Package| {
        it.name == edge.name
            && (edge.version.is_none() || edge.version == it.version)
            && edge.source.as_ref().is_none_or(|source| *source == it.source)
    };
    let absent = || LockfileError::Absent { file: FILE.file(), package: edge.name.clone() };
    document.packages.iter().position(is_it).ok_or_else(absent)
}

fn add(contents: &mut Contents, package: &Package) -> Result<(), LockfileError> {
    let (name, source) = (normalise(&package.name), &package.source);
    let files = package.wheels.iter().chain(&package.sdist).filter_map(|it| it.hash.as_deref());
    if let Some(registry) = &source.registry {
        if !registry.starts_with("http") {
            return Err(FILE.package(&name, "it comes from a directory of packages, not from an index"));
        }
        let version = package.version.as_deref();
        contents.release(&name, version.ok_or_else(|| FILE.package(&name, "it has no version"))?);
        contents.hashes(&name, files);
    } else if let Some(git) = &source.git {
        let address = url::Url::parse(git).map_err(|_| FILE.package(&shown(git), "its address is none"))?;
        let commit = address.fragment().unwrap_or_default().to_owned();
        let directory = address.query_pairs().find(|it| it.0 == "subdirectory").map(|it| it.1.into_owned());
        let mut bare = address;
        bare.set_fragment(None);
        bare.set_query(None);
        contents.git(&name, (bare.as_str(), &commit), directory.as_deref());
    } else if let Some(address) = &source.url {
        if source.subdirectory.is_some() {
            return Err(FILE.package(&name, "it lies in a directory of an archive"));
        }
        contents.address(&name, address);
        contents.hashes(&name, files);
    } else if let Some(path) = &source.path {
        if !path.ends_with(".whl") {
            return Err(FILE.package(&name, "it is an sdist in the repository"));
        }
        contents.wheels.push(path.clone());
        contents.hashes(&name, files);
    } else if let Some(directory) = source.editable.as_ref().or(source.directory.as_ref()) {
        contents.projects.push((directory.clone(), source.editable.is_some()));
    }
    Ok(())
}
