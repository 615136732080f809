//! What people write for a base image.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::BaseError;
use crate::oci::Reference;

/// A base image, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `python:3.11`: in a registry; where that has none, in the local engine.
    Image(Reference),
    /// `docker:NAME`: in the local engine, by name or id.
    Docker(String),
    /// `oci:DIR[:TAG]`: in an OCI layout.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// The tag; without one the layout must hold one image only.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`: in an archive of either kind.
    Archive {
        /// The file.
        file: PathBuf,
        /// The tag or name; without one the archive must hold one image only.
        tag: Option<String>,
    },
    /// `recipe:NAME`: made from a recipe.
    Recipe(String),
}

impl FromStr for Request {
    type Err = BaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason: &str| BaseError::Request { text: text.to_owned(), reason: reason.to_owned() };
        let text = text.trim();
        let image = || {
            let parsed = text.parse().map(Self::Image);
            parsed.map_err(|error: crate::oci::reference::InvalidReference| invalid(error.reason))
        };
        let Some((kind, rest)) = text.split_once(':') else { return image() };
        let known = ["docker", "docker-daemon", "oci", "oci-archive", "docker-archive", "recipe"];
        if known.contains(&kind) && rest.is_empty() {
            return Err(invalid("nothing follows the colon"));
        }
        match kind {
            // `docker:27-cli` is an image of that name in the default registry: tags begin with a digit or are words of
            // it, local images are named with the longer prefix then.
            "docker-daemon" => Ok(Self::Docker(rest.to_owned())),
            "docker" if !looks_like_tag(rest) => Ok(Self::Docker(rest.trim_start_matches("//").to_owned())),
            "oci" => {
                let (directory, tag) = path_and_tag(rest);
                Ok(Self::Layout { directory, tag })
            }
            "oci-archive" | "docker-archive" => {
                let (file, tag) = path_and_tag(rest);
                Ok(Self::Archive { file, tag })
            }
            "recipe" => Ok(Self::Recipe(rest.to_owned())),
            _ => image(),
        }
    }
}

/// Tags of the image `docker` itself.
fn looks_like_tag(text: &str) -> bool {
    let known = ["latest", "cli", "dind", "git", "rc", "stable", "edge", "test"];
    text.starts_with(|it: char| it.is_ascii_digit()) && !text.contains([':', '/']) || known.contains(&text)
}

/// A tag is what follows the last colon, unless that is part of a path.
fn path_and_tag(text: &str) -> (PathBuf, Option<String>) {
    // A docker-archive's tag is a whole reference: `file.tar:repository:tag`.
    if let Some(at) = text.find(".tar:") {
        return (PathBuf::from(&text[..at + 4]), Some(text[at + 5..].to_owned()));
    }
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => (path.into(), Some(tag.to_owned())),
        _ => (text.trim_end_matches(':').into(), None),
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tagged = |f: &mut fmt::Formatter<'_>, kind: &str, path: &PathBuf, tag: &Option<String>| {
            write!(f, "{kind}{}", path.display())?;
            tag.as_ref().map_or(Ok(()), |it| write!(f, ":{it}"))
        };
        match self {
            Self::Image(reference) => f.write_str(&reference.familiar()),
            Self::Docker(name) => write!(f, "docker:{name}"),
            Self::Layout { directory, tag } => tagged(f, "oci:", directory, tag),
            // Of either kind: what is in it decides, not what it was called.
            Self::Archive { file, tag } => tagged(f, "", file, tag),
            Self::Recipe(name) => write!(f, "recipe:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_apart() {
        let layout = |directory: &str, tag: Option<&str>| Request::Layout {
            directory: directory.into(),
            tag: tag.map(str::to_owned),
        };
        let archive =
            |file: &str, tag: Option<&str>| Request::Archive { file: file.into(), tag: tag.map(str::to_owned) };
        for (text, expected) in [
            ("python:3.11", Request::Image("python:3.11".parse().unwrap())),
            ("docker", Request::Image("docker".parse().unwrap())),
            ("docker:27-cli", Request::Image("docker:27-cli".parse().unwrap())),
            ("docker:mine:latest", Request::Docker("mine:latest".to_owned())),
            ("docker-daemon:3", Request::Docker("3".to_owned())),
            ("oci:/x/y", layout("/x/y", None)),
            ("oci:/x/y:1.2", layout("/x/y", Some("1.2"))),
            ("oci-archive:a.tar", archive("a.tar", None)),
            ("docker-archive:a.tar:mine:1", archive("a.tar", Some("mine:1"))),
            ("recipe:debian-python", Request::Recipe("debian-python".to_owned())),
        ] {
            assert_eq!(text.parse::<Request>().unwrap(), expected, "{text}");
        }
        for text in ["", "oci:", "recipe:", "Not An Image"] {
            assert!(text.parse::<Request>().is_err(), "{text}");
        }
    }
}
