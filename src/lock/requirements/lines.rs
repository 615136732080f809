//! Requirements files line by line: what kind of line it is, and what its words say.

use super::RequirementsError;
use super::places::Place;
use crate::digest::Digest;

/// The lines of a requirements file as pip reads them: continued lines joined, comments and blanks dropped.
pub(in crate::lock) fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = String::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let is_comment = line.trim_start().starts_with('#');
        if let Some(head) = line.strip_suffix('\\').filter(|_| !is_comment) {
            pending.push_str(head);
            continue;
        }
        pending.push_str(if is_comment { "" } else { line });
        let line = std::mem::take(&mut pending);
        let end = line.match_indices('#').map(|it| it.0).find(|at| *at == 0 || line[..*at].ends_with([' ', '\t']));
        let line = line[..end.unwrap_or(line.len())].trim();
        if !line.is_empty() {
            lines.push(line.to_owned());
        }
    }
    let rest = pending.trim();
    if !rest.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

/// An option line: the option and its value.
pub(super) fn option(line: &str) -> Option<(String, String)> {
    if !line.starts_with('-') {
        return None;
    }
    for short in ["-r", "-c", "-e", "-i", "-f"] {
        if let Some(value) = line.strip_prefix(short)
            && !value.starts_with('-')
        {
            return Some((short.to_owned(), value.trim().trim_start_matches('=').trim().to_owned()));
        }
    }
    let end = line.find([' ', '=', '\t']).unwrap_or(line.len());
    let value = line[end..].trim_start_matches([' ', '=', '\t']).trim();
    Some((line[..end].to_owned(), value.to_owned()))
}

/// A requirement and its digests (`--hash=sha256:…`); other options of its own do not count.
pub(super) fn apart(line: &str, place: &Place) -> Result<(String, Vec<Digest>), RequirementsError> {
    let Some(at) = line.find(" --") else { return Ok((line.trim().to_owned(), Vec::new())) };
    let mut digests = Vec::new();
    let mut words = line[at..].split([' ', '\t', '=']).filter(|it| !it.is_empty());
    while let Some(word) = words.next() {
        if word != "--hash" {
            continue;
        }
        let hash = words.next().unwrap_or_default();
        let wrong = || RequirementsError::Hash { hash: hash.to_owned(), place: place.name.clone() };
        let digest = hash.strip_prefix("sha256:").and_then(|it| Digest::from_hex(it).ok());
        digests.push(digest.ok_or_else(wrong)?);
    }
    Ok((line[..at].trim().to_owned(), digests))
}

/// The name that a requirement begins with; of a wheel's path or address, the wheel's.
pub(super) fn name_of(line: &str) -> &str {
    let first = line.split([' ', ';', '#', '?']).next().unwrap_or_default();
    let line = if first.ends_with(".whl") { first.rsplit('/').next().unwrap_or(first) } else { line };
    let end = if line.ends_with(".whl") {
        line.find('-')
    } else {
        line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
    };
    &line[..end.unwrap_or(line.len())]
}

/// `numpy == 1.0` as the SDK records it, `numpy==1.0`.
pub(super) fn with_normal_spaces(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn is_vcs(text: &str) -> bool {
    ["git+", "hg+", "svn+", "bzr+"].iter().any(|it| text.starts_with(it)) || text.starts_with("git@")
}

pub(super) fn is_address(text: &str) -> bool {
    ["http://", "https://", "ftp://"].iter().any(|it| text.starts_with(it))
}

pub(super) fn is_wheel(address: &str) -> bool {
    address.split(['#', '?', ';', ' ']).next().is_some_and(|it| it.ends_with(".whl"))
}

pub(super) fn is_name(text: &str) -> bool {
    let name = text.split('[').next().unwrap_or_default().trim();
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}
