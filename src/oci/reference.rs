//! Image references (distribution-spec, "Pulling manifests"; short names as Docker reads them).

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// Where short names live.
const DEFAULT_REGISTRY: &str = "docker.io";

/// A registry, a repository in it, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host, with a port where given: `docker.io`, `localhost:5000`.
    pub registry: String,
    /// Repository: `library/python`.
    pub repository: String,
    /// Tag; `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest.
    pub digest: Option<Digest>,
}

/// A text that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct InvalidReference {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl crate::error::Explain for InvalidReference {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::Usage
    }

    fn hints(&self) -> Vec<String> {
        vec!["Write [registry[:port]/]name[:tag] or name@sha256:…; names are lower case.".to_owned()]
    }
}

impl Reference {
    /// Short as people write it: without the default registry and its `library/`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let name = if self.registry == DEFAULT_REGISTRY {
            self.repository.strip_prefix("library/").unwrap_or(&self.repository).to_owned()
        } else {
            format!("{}/{}", self.registry, self.repository)
        };
        self.suffixed(&name)
    }

    /// The same repository at a digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The digest, else the tag: what a registry is asked for.
    #[must_use]
    pub fn identifier(&self) -> String {
        self.digest.map_or_else(|| self.tag.clone().unwrap_or_else(|| "latest".to_owned()), |it| it.to_string())
    }

    /// Whether the registry is this machine itself, where plain http is the rule.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback())
    }

    fn suffixed(&self, name: &str) -> String {
        let mut text = name.to_owned();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(&format!("{}/{}", self.registry, self.repository)))
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| InvalidReference { text: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| invalid("the part after @ is not sha256:<64 hex digits>"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if let Some(tag) = &tag
            && !is_tag(tag)
        {
            return Err(invalid("the tag may hold letters, digits, `_`, `.` and `-`, 128 at most"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
                (host.to_ascii_lowercase(), path.to_owned())
            }
            _ => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY.to_owned() } else { registry };
        let repository =
            if registry == DEFAULT_REGISTRY && !path.contains('/') { format!("library/{path}") } else { path };
        if repository.is_empty() || !repository.split('/').all(is_component) {
            return Err(invalid("a repository is lower-case words, parted by `/`, `.`, `_` or `-`"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { registry, repository, tag, digest })
    }
}

fn is_component(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
}

fn is_tag(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(['.', '-'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_and_shortened_again() {
        for (text, full, familiar) in [
            ("python", "docker.io/library/python:latest", "python:latest"),
            ("nvidia/cuda:12.6", "docker.io/nvidia/cuda:12.6", "nvidia/cuda:12.6"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b:1", "localhost:5000/a/b:1"),
            ("GHCR.io/a/b", "ghcr.io/a/b:latest", "ghcr.io/a/b:latest"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar));
        }
        let pinned: Reference = format!("python@{}", Digest::of(b"")).parse().unwrap();
        assert_eq!(pinned.tag, None);
        assert!(pinned.identifier().starts_with("sha256:"));
        assert!("127.0.0.1:5000/x".parse::<Reference>().unwrap().is_loopback());
        assert!("[::1]:5000/x".parse::<Reference>().unwrap().is_loopback());
        assert!(!"example.com/x".parse::<Reference>().unwrap().is_loopback());
    }

    #[test]
    fn what_is_no_reference_says_why() {
        for text in ["", "Python", "a//b", "a:b c", "a@sha256:12", "a/-b", "x:", "localhost:5000/"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_taken_is_written_so_that_it_means_the_same(text in crate::testing::mangled_text(&[
            "localhost:5000/team/train:1",
            "nvidia/cuda@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "[::1]:5000/x",
            "python",
        ], "/:@._-[]aZ0 ")) {
            if let Ok(reference) = text.parse::<Reference>() {
                assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference), "{text}");
                assert_eq!(reference.familiar().parse::<Reference>().as_ref(), Ok(&reference), "{text}");
            }
        }
    }
}
