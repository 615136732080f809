//! Where a line stands, and what it names in the repository from there.

use std::path::Path;

use super::lines::{is_address, is_name};
use super::{ProjectRequest, RequirementsError, Sources, WheelRequest};
use crate::python::name::{WheelName, normalise};

/// Where a text stands: for messages, and for what it names relative to itself.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) dir: String,
}

/// The directories from the root down to the script's.
pub(super) fn directories(sources: &Sources<'_>) -> Vec<String> {
    let script = Path::new(sources.working_dir).join(sources.entry_point);
    let script = script.parent().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
    let mut dirs = vec![String::new()];
    for part in script.split('/').filter(|it| !it.is_empty() && *it != ".") {
        dirs.extend(dirs.last().map(|it| beside(it, part)));
    }
    dirs
}

/// A file of a directory of the repository.
pub(super) fn beside(dir: &str, file: &str) -> String {
    if dir.is_empty() { file.to_owned() } else { format!("{dir}/{file}") }
}

/// A text in which every `${NAME}` is replaced, as pip does it.
pub(super) fn expanded(sources: &Sources<'_>, place: &Place, text: &str) -> Result<String, RequirementsError> {
    let mut whole = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (head, tail) = (&rest[..at], &rest[at + 2..]);
        let name = tail.split('}').next().filter(|it| it.len() < tail.len()).unwrap_or_default();
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        whole.push_str(head);
        if name.is_empty() || !name.chars().all(is_name) {
            whole.push_str("${");
            rest = tail;
            continue;
        }
        let missing = || RequirementsError::Variable { name: name.to_owned(), place: place.name.clone() };
        whole.push_str(&(sources.variable)(name).ok_or_else(missing)?);
        rest = &tail[name.len() + 1..];
    }
    whole.push_str(rest);
    Ok(whole)
}

/// A wheel of the repository that a line names: `wheels/x-1.0-py3-none-any.whl`, `x[fast] @ file:wheels/…`.
pub(super) fn wheel(sources: &Sources<'_>, place: &Place, line: &str) -> Option<WheelRequest> {
    let (line, marker) = line.split_once(';').map_or((line, ""), |(line, marker)| (line.trim(), marker.trim()));
    let (head, path) = match line.split_once('@') {
        Some((head, path)) if is_name(head.trim()) => (head.trim(), path.trim()),
        _ => ("", line),
    };
    let path = path.strip_prefix("file:").map_or(path, |it| it.trim_start_matches("//"));
    let (path, behind) = match path.strip_suffix(']').and_then(|it| it.rsplit_once('[')) {
        Some((path, names)) => (path, format!("[{names}]")),
        None => (path, String::new()),
    };
    if is_address(path) || WheelName::parse(path.rsplit('/').next()?).is_none() {
        return None;
    }
    let candidates = [join(&place.dir, path), join("", path), join(sources.working_dir, path)];
    let path = candidates.into_iter().flatten().find(|it| (sources.has)(it))?;
    let extras = head.find('[').map_or(behind, |at| head[at..].to_owned());
    Some(WheelRequest { path, extras, marker: marker.to_owned(), digest: None })
}

/// A directory of the repository that a line names, with its extras.
pub(super) fn project(sources: &Sources<'_>, place: &Place, line: &str) -> Option<ProjectRequest> {
    let line = line.split(" ;").next()?.trim();
    let line = line.strip_prefix("file:").map_or(line, |it| it.trim_start_matches("//"));
    let line = line.split('#').next()?;
    let (path, extras) = match line.strip_suffix(']').and_then(|it| it.rsplit_once('[')) {
        Some((path, extras)) => (path, extras.split(',').map(|it| normalise(it.trim())).collect()),
        None => (line, Vec::new()),
    };
    let candidates = [join(&place.dir, path), join("", path), join(sources.working_dir, path)];
    let is_project = |dir: &String| {
        let has = |file: &str| {
            (sources.file)(&if dir.is_empty() { file.to_owned() } else { format!("{dir}/{file}") }).is_some()
        };
        (dir.is_empty() || (sources.is_dir)(dir)) && (has("pyproject.toml") || has("setup.py") || has("setup.cfg"))
    };
    let path = candidates.into_iter().flatten().find(is_project)?;
    Some(ProjectRequest { path, editable: false, extras })
}

/// A relative path in the repository, `None` when it leaves it.
pub(super) fn join(dir: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.starts_with('~') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
