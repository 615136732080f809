//! What an environment comes to, as requirement lines: what a run writes back to its task.

use std::collections::BTreeMap;

use url::Url;

use super::{Distribution, Project, PythonPart};
use crate::python::source::Git;
use crate::secret::split_userinfo;

/// The lines, by name: `name==version`, an address where a distribution was asked for by one, directories and
/// wheels of the repository as they were asked for; the indexes that the task named come first. No line has credentials.
#[must_use]
pub fn closure(part: &PythonPart) -> Vec<String> {
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    for it in &part.base_distributions {
        lines.insert(it.name.clone(), format!("{}=={}", it.name, it.version));
    }
    for it in &part.distributions {
        lines.insert(it.name.clone(), distribution(it));
    }
    for it in &part.projects {
        lines.insert(it.name.clone(), project(it));
    }
    let indexes = part.indexes.iter().map(|it| format!("--extra-index-url {it}"));
    indexes.chain(lines.into_values()).collect()
}

fn distribution(it: &Distribution) -> String {
    let plain = || format!("{}=={}", it.name, it.version);
    if let Some(path) = &it.path {
        return format!("./{path}");
    }
    let Some(from) = &it.built_from else {
        return match &it.url {
            Some(url) if it.direct => format!("{} @ {url}", it.name),
            _ => plain(),
        };
    };
    match (Git::parse(&from.requirement), &from.url) {
        (Some(git), _) if !git.is_local() => {
            let below =
                if git.directory.is_empty() { String::new() } else { format!("#subdirectory={}", git.directory) };
            format!("{} @ git+{}@{}{below}", it.name, git.address.reveal(), from.source)
        }
        (None, Some(url)) if it.direct => format!("{} @ {url}", it.name),
        _ => plain(),
    }
}

fn project(it: &Project) -> String {
    let path = if it.path.is_empty() { ".".to_owned() } else { format!("./{}", it.path) };
    let extras = if it.extras.is_empty() { String::new() } else { format!("[{}]", it.extras.join(",")) };
    format!("{}{path}{extras}", if it.editable { "-e " } else { "" })
}

/// The lines with the credentials that another text of the same task has for the same hosts: it has them already.
#[must_use]
pub fn with_credentials(lines: Vec<String>, text: &str) -> Vec<String> {
    let mut known: Vec<(String, String)> = Vec::new();
    for (at, _) in text.match_indices("://") {
        let begin = text[..at].rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '+')).map_or(0, |it| it + 1);
        let word = text[begin..].split(|c: char| c.is_whitespace() || c == '"' || c == '\'').next().unwrap_or_default();
        // Where an address ends does not matter here, only its authority does.
        let Some(authority) = word.split_once("://").map(|it| it.1.split(['/', '#', '?']).next().unwrap_or_default())
        else {
            continue;
        };
        let Ok(url) = Url::parse(&format!("https://{authority}")) else { continue };
        if let ((bare, Some(_)), Some((_, host))) = (split_userinfo(&url), authority.rsplit_once('@'))
            && bare.host_str().is_some()
        {
            known.push((format!("://{host}"), format!("://{authority}")));
        }
    }
    let complete = |line: String| {
        let ends = |rest: &str| rest.is_empty() || rest.starts_with(['/', '#', '?', '@', ' ']);
        known.iter().fold(line, |line, (bare, whole)| match line.find(bare.as_str()) {
            Some(at) if ends(&line[at + bare.len()..]) => line.replacen(bare.as_str(), whole, 1),
            _ => line,
        })
    };
    lines.into_iter().map(complete).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::lock::document::tests::lock;
    use crate::lock::{BaseDistribution, BuiltFrom};

    fn one(name: &str, url: Option<&str>, direct: bool, from: Option<(&str, &str, Option<&str>)>) -> Distribution {
        Distribution {
            name: name.to_owned(),
            version: "1.0".to_owned(),
            file: format!("{name}-1.0-py3-none-any.whl"),
            sha256: Digest::of(name),
            size: 1,
            url: url.map(str::to_owned),
            direct,
            built_from: from.map(|(requirement, source, url)| BuiltFrom {
                requirement: requirement.to_owned(),
                source: source.to_owned(),
                sha256: None,
                url: url.map(str::to_owned),
                tools: Vec::new(),
            }),
            path: None,
        }
    }

    #[test]
    fn every_distribution_has_a_line_that_would_find_it_again() {
        let mut part = lock().python;
        part.indexes = vec!["https://h/simple".to_owned()];
        part.distributions = vec![
            one("plain", Some("https://index/plain.whl"), false, None),
            one("wheel", Some("https://h/wheel.whl"), true, None),
            one("repo", None, false, Some(("git+https://h/repo@main#subdirectory=a", "c0ffee", None))),
            one("near", None, false, Some(("git+file:near@main", "c0ffee", None))),
            one("sdist", None, false, Some(("sdist==1.0", "sdist-1.0.tar.gz", Some("https://index/s.tar.gz")))),
        ];
        let base =
            |name: &str| BaseDistribution { name: name.to_owned(), version: "2".to_owned(), location: String::new() };
        part.base_distributions = vec![base("torch")];
        part.projects = vec![Project {
            path: "lib".to_owned(),
            editable: true,
            extras: vec!["x".to_owned()],
            name: "mine".to_owned(),
            version: "0".to_owned(),
            tree: Digest::of(""),
            built: Digest::of(""),
            tools: Vec::new(),
        }];
        assert_eq!(
            closure(&part),
            [
                "--extra-index-url https://h/simple",
                "-e ./lib[x]",
                "near==1.0",
                "plain==1.0",
                "repo @ git+https://h/repo@c0ffee#subdirectory=a",
                "sdist==1.0",
                "torch==2",
                "wheel @ https://h/wheel.whl",
            ]
        );
    }

    #[test]
    fn credentials_of_the_users_text_are_kept_for_their_own_hosts() {
        let text = "--extra-index-url https://u:p@h/simple\nrepo @ git+https://tok@g.example/repo\n";
        let lines =
            ["--extra-index-url https://h/simple", "x @ https://hh/x.whl", "repo @ git+https://g.example/repo@c"];
        let found = with_credentials(lines.map(str::to_owned).to_vec(), text);
        assert_eq!(
            found,
            [
                "--extra-index-url https://u:p@h/simple",
                "x @ https://hh/x.whl",
                "repo @ git+https://tok@g.example/repo@c"
            ]
        );
    }
}
