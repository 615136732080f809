//! Where an image goes: `-o type=…`, `--push`, `--load`, in buildx's spelling.

use std::path::PathBuf;

use super::UsageError;
use crate::oci::Reference;

/// One place an image goes to. Names left out are the image's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The Docker engine.
    Docker {
        /// Its name there.
        name: Option<Reference>,
    },
    /// Podman's store.
    Podman {
        /// Its name there.
        name: Option<Reference>,
    },
    /// A registry.
    Registry {
        /// Its name there.
        name: Option<Reference>,
    },
    /// A directory in OCI layout.
    Oci {
        /// The directory.
        path: PathBuf,
    },
    /// An OCI layout in a tar file.
    OciArchive {
        /// The file.
        path: PathBuf,
    },
    /// What `docker load` reads.
    DockerArchive {
        /// The file.
        path: PathBuf,
    },
    /// Nowhere but the store, where native runs take it from.
    Store,
}

const TYPES: &str = "docker, podman, registry, oci, oci-archive, docker-archive, store";

impl Output {
    /// Reads `type=oci,dest=./image`. `type=docker` and `type=oci` with a `dest` that ends with `.tar` are archives, as
    /// buildx has it.
    ///
    /// # Errors
    /// [`UsageError`] that says what is missing or unknown.
    pub fn parse(text: &str) -> Result<Self, UsageError> {
        let example = "Write -o type=oci,dest=./image or -o type=registry.";
        let (mut kind, mut dest, mut name) = (None, None, None);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => kind = Some(value.trim()),
                Some(("dest", value)) if !value.is_empty() => dest = Some(crate::fs::expand_home(value)),
                Some(("name", value)) => name = Some(reference(value)?),
                _ => return Err(UsageError::new(format!("`{field}` in -o `{text}` means nothing"), example)),
            }
        }
        let Some(kind) = kind else {
            return Err(UsageError::new(
                format!("-o `{text}` has no type"),
                format!("The types are {TYPES}. {example}"),
            ));
        };
        let archive = dest.as_ref().is_some_and(|it: &PathBuf| it.extension().is_some_and(|it| it == "tar"));
        let nowhere =
            || UsageError::new(format!("-o `{text}` has no dest"), format!("Write -o type={kind},dest=PATH."));
        let needs_no_dest = |output| match dest {
            None => Ok(output),
            Some(_) => {
                Err(UsageError::new(format!("-o type={kind} takes no dest"), "Name the image there with name=."))
            }
        };
        match kind {
            "docker" if dest.is_some() => Ok(Self::DockerArchive { path: dest.ok_or_else(nowhere)? }),
            "docker" => Ok(Self::Docker { name }),
            "podman" => needs_no_dest(Self::Podman { name }),
            "store" => match name {
                None => needs_no_dest(Self::Store),
                Some(_) => Err(UsageError::new(
                    "-o type=store takes no name",
                    "The image is in the store under the name that --target gives it.",
                )),
            },
            "registry" | "image" => needs_no_dest(Self::Registry { name }),
            "oci" if archive => Ok(Self::OciArchive { path: dest.ok_or_else(nowhere)? }),
            "oci" => Ok(Self::Oci { path: dest.ok_or_else(nowhere)? }),
            "oci-archive" => Ok(Self::OciArchive { path: dest.ok_or_else(nowhere)? }),
            "docker-archive" => Ok(Self::DockerArchive { path: dest.ok_or_else(nowhere)? }),
            other => Err(UsageError::new(format!("-o has no type `{other}`"), format!("The types are {TYPES}."))),
        }
    }
}

/// An image reference from the command line.
///
/// # Errors
/// [`UsageError`] that says what is wrong with it.
pub(super) fn reference(text: &str) -> Result<Reference, UsageError> {
    text.parse().map_err(|error: crate::oci::reference::InvalidReference| {
        UsageError::new(error.to_string(), "Write [registry[:port]/]name[:tag]; names are lower case.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_as_buildx_spells_them() {
        let parse = |text| Output::parse(text).unwrap();
        assert_eq!(parse("type=oci,dest=./x"), Output::Oci { path: "./x".into() });
        assert_eq!(parse("type=oci,dest=x.tar"), Output::OciArchive { path: "x.tar".into() });
        assert_eq!(parse("type=docker"), Output::Docker { name: None });
        assert_eq!(parse("type=docker,dest=x.tar"), Output::DockerArchive { path: "x.tar".into() });
        let name = Some("host/x:1".parse().unwrap());
        assert_eq!(parse("type=registry,name=host/x:1"), Output::Registry { name });
        assert_eq!(parse("type=store"), Output::Store);
        let message = |text| Output::parse(text).unwrap_err().to_string();
        assert_eq!(message("type=oci"), "-o `type=oci` has no dest");
        assert_eq!(message("./x"), "`./x` in -o `./x` means nothing");
        assert_eq!(message("dest=x"), "-o `dest=x` has no type");
        assert_eq!(message("type=local,dest=x"), "-o has no type `local`");
        assert_eq!(message("type=store,dest=x"), "-o type=store takes no dest");
        assert_eq!(message("type=store,name=x"), "-o type=store takes no name");
        assert_eq!(message("type=registry,dest=x"), "-o type=registry takes no dest");
    }
}
