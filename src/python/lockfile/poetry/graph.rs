//! The packages of a `poetry.lock` from before format 2.1: those that `pyproject.toml` leads to.

use std::collections::{BTreeSet, VecDeque};
use std::str::FromStr as _;

use pep508_rs::ExtraName;

use super::constraint::Constraint;
use super::{Document, FILE, Package, optional_groups};
use crate::python::lockfile::{LockfileError, Place, at, tables, text};
use crate::python::name::normalise;

/// Something that is needed: the package, the releases of it, its extras.
struct Edge {
    name: String,
    version: Constraint,
    extras: Vec<String>,
}

/// The packages to install.
pub(super) fn reached(
    document: &Document,
    project: &toml::Table,
    place: &Place,
) -> Result<BTreeSet<usize>, LockfileError> {
    let mut edges = VecDeque::new();
    for (name, value) in declared(project)? {
        if normalise(name) != "python" {
            edges.extend(edge(name, value, &[], place)?);
        }
    }
    let mut found = BTreeSet::new();
    let mut seen: BTreeSet<(usize, Option<String>)> = BTreeSet::new();
    while let Some(it) = edges.pop_front() {
        let index = target(document, &it)?;
        let package = &document.packages[index];
        found.insert(index);
        let fresh: Vec<String> = it.extras.into_iter().filter(|it| seen.insert((index, Some(it.clone())))).collect();
        if seen.insert((index, None)) || !fresh.is_empty() {
            let brought = wanted_by(package, &fresh);
            let extras: Vec<ExtraName> = fresh.iter().filter_map(|it| ExtraName::from_str(it).ok()).collect();
            for (name, value) in &package.dependencies {
                let extras = if brought.contains(&normalise(name)) { &extras[..] } else { &[] };
                edges.extend(edge(name, value, extras, place)?);
            }
        }
    }
    Ok(found)
}

/// What the project itself needs, by the groups that are on.
fn declared(project: &toml::Table) -> Result<Vec<(&str, &toml::Value)>, LockfileError> {
    let off = optional_groups(project);
    let mut lists =
        vec![at(project, &["tool", "poetry", "dependencies"]), at(project, &["tool", "poetry", "dev-dependencies"])];
    let groups = tables(project, &["tool", "poetry", "group"]).into_iter().filter(|it| !off.contains(it.0));
    lists.extend(groups.map(|it| it.1.get("dependencies")));
    if lists[0].is_none() {
        let reason = "the pyproject.toml beside it has no [tool.poetry.dependencies]";
        return Err(LockfileError::NoRoot { file: FILE.file(), reason });
    }
    let tables = lists.into_iter().flatten().filter_map(toml::Value::as_table);
    Ok(tables.flatten().map(|(name, value)| (name.as_str(), value)).collect())
}

/// The names that extras of a package bring.
fn wanted_by(package: &Package, extras: &[String]) -> BTreeSet<String> {
    let lists = package.extras.iter().filter(|it| extras.contains(&normalise(it.0)));
    let names = lists.flat_map(|it| it.1).map(|it| {
        let end = it.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(it.len());
        normalise(&it[..end])
    });
    names.collect()
}

/// A dependency as Poetry writes it (a constraint, a table, or several of those), where it holds here; `extras` are those
/// that bring it.
fn edge(name: &str, value: &toml::Value, extras: &[ExtraName], place: &Place) -> Result<Vec<Edge>, LockfileError> {
    let name = normalise(name);
    match value {
        toml::Value::String(version) => {
            Ok(vec![Edge { name, version: Constraint::parse(version)?, extras: Vec::new() }])
        }
        toml::Value::Array(several) => {
            let mut edges = Vec::new();
            for it in several {
                edges.extend(edge(&name, it, extras, place)?);
            }
            Ok(edges)
        }
        toml::Value::Table(table) => {
            let flag = |key: &str| table.get(key).and_then(toml::Value::as_bool).unwrap_or(false);
            let python = text(table, "python").map(Constraint::parse).transpose()?;
            let is_here = python.is_none_or(|it| it.holds(place.python()))
                && text(table, "platform").is_none_or(|it| it == "linux")
                && (!flag("optional") || !extras.is_empty());
            if !is_here || !place.holds(FILE, text(table, "markers"), extras)? {
                return Ok(Vec::new());
            }
            let version = Constraint::parse(text(table, "version").unwrap_or("*"))?;
            let of_it = table.get("extras").and_then(toml::Value::as_array).into_iter().flatten();
            let extras = of_it.filter_map(toml::Value::as_str).map(normalise).collect();
            Ok(vec![Edge { name, version, extras }])
        }
        _ => Ok(Vec::new()),
    }
}

/// The package that fulfils a dependency; the newest where several do.
fn target(document: &Document, edge: &Edge) -> Result<usize, LockfileError> {
    let named = document.packages.iter().enumerate().filter(|it| normalise(&it.1.name) == edge.name);
    let mut candidates: Vec<(Option<pep440_rs::Version>, usize)> =
        named.map(|(index, it)| (it.version.parse().ok(), index)).collect();
    let absent = || LockfileError::Absent { file: FILE.file(), package: edge.name.clone() };
    if candidates.len() > 1 {
        candidates.retain(|it| it.0.as_ref().is_some_and(|version| edge.version.holds(version)));
    }
    candidates.into_iter().max().map(|it| it.1).ok_or_else(absent)
}
