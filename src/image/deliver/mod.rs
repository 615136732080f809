//! Where images go. Every destination is a function over an immutable [`Image`] and moves only what is missing there.
//!
//! Each asks first what it has; the blobs of the base are fetched only for a destination that has them neither itself
//! nor where it can mount them from. An image that is there already under its name costs one question.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::Image;
use crate::base::{Around, BaseError, fetch_layer};
use crate::digest::Digest;
use crate::engine::{EngineError, Podman};
use crate::error::{Explain, Kind};
use crate::oci::reference::InvalidReference;
use crate::oci::{Descriptor, Reference};
use crate::registry::RegistryError;
use crate::store::StoreError;

mod archive;
mod docker;
mod layout;
mod podman;
mod registry;

pub use archive::{docker_archive, oci_archive};
pub use docker::docker;
pub use layout::layout;
pub use podman::podman;
pub use registry::push;

/// What can be done where there is no engine.
const WITHOUT: &str = "No engine is needed to build: `--push`, `oci:DIR` and `oci-archive:FILE` work without one.";

/// Where an image is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The local Docker engine, under a name.
    Docker(Reference),
    /// Podman, under a name.
    Podman(Reference),
    /// A registry.
    Registry(Reference),
    /// An OCI layout directory, under a tag.
    Layout {
        /// The directory; made where it is not there.
        directory: PathBuf,
        /// The tag.
        tag: String,
    },
    /// A tar of an OCI layout.
    OciArchive {
        /// The file; replaced.
        file: PathBuf,
        /// The tag.
        tag: String,
    },
    /// What `docker load` and `docker-archive:` read.
    DockerArchive {
        /// The file; replaced.
        file: PathBuf,
        /// The name it gets when loaded.
        name: Reference,
    },
}

/// What a delivery did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Where it went, for people.
    pub destination: String,
    /// Whether it was there already, under that name.
    pub unchanged: bool,
    /// Bytes moved.
    pub bytes: u64,
    /// Layers moved.
    pub layers: usize,
    /// Layers that the destination had elsewhere and mounted.
    pub mounted: usize,
}

impl Delivered {
    fn unchanged(destination: &Destination) -> Self {
        Self { destination: destination.to_string(), unchanged: true, bytes: 0, layers: 0, mounted: 0 }
    }

    fn moved(destination: impl fmt::Display, bytes: u64, layers: usize) -> Self {
        Self { destination: destination.to_string(), unchanged: false, bytes, layers, mounted: 0 }
    }
}

/// Why an image did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// Not a destination of any kind.
    #[error("`{text}` is not a place an image can go to: {reason}")]
    Destination {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The base's blobs could not be had.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or directory could not be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is there is no OCI layout that we can add to.
    #[error("`{path}` is not an OCI image layout: {detail}")]
    Layout {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The destination made something else of it.
    #[error("{destination} has {found} where {expected} was delivered")]
    Changed {
        /// The destination.
        destination: String,
        /// The digest delivered.
        expected: Digest,
        /// What is there.
        found: String,
    },
    /// No Docker engine to deliver to.
    #[error("there is no docker engine to deliver `{name}` to")]
    NoEngine {
        /// The image's name.
        name: String,
    },
}

impl Explain for DeliverError {
    fn kind(&self) -> Kind {
        match self {
            Self::Destination { .. } => Kind::Usage,
            Self::Base(error) => error.kind(),
            Self::Registry(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Write { source, .. } => match Kind::of_io(source) {
                Kind::NotFound => Kind::Input,
                other => other,
            },
            Self::Layout { .. } => Kind::Input,
            Self::Changed { .. } => Kind::Internal,
            Self::NoEngine { .. } => Kind::Unreachable,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Destination { .. } => vec![
                "Write docker:NAME, podman:NAME, registry:NAME, oci:DIR[:TAG], oci-archive:FILE or docker-archive:FILE."
                    .to_owned(),
            ],
            Self::Base(error) => error.hints(),
            Self::Registry(error) => error.hints(),
            Self::Engine(error @ EngineError::Unreachable { .. }) => {
                let mut hints = error.hints();
                hints.push(WITHOUT.to_owned());
                hints
            }
            Self::Engine(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Layout { .. } => vec!["Name a directory that is empty, not there, or an OCI layout.".to_owned()],
            Self::NoEngine { .. } => vec!["Start Docker, or set DOCKER_HOST.".to_owned(), WITHOUT.to_owned()],
            Self::Write { .. } | Self::Changed { .. } => Vec::new(),
        }
    }
}

/// Delivers an image.
///
/// # Errors
/// [`DeliverError`]
pub async fn deliver(around: &Around, image: &Image, to: &Destination) -> Result<Delivered, DeliverError> {
    match to {
        Destination::Docker(name) => {
            let engine = around.docker.as_ref().ok_or_else(|| DeliverError::NoEngine { name: name.familiar() })?;
            docker(around, image, engine, name).await
        }
        Destination::Podman(name) => podman(around, image, &Podman::default(), name).await,
        Destination::Registry(target) => push(around, image, target).await,
        Destination::Layout { directory, tag } => layout(around, image, directory, tag).await,
        Destination::OciArchive { file, tag } => oci_archive(around, image, file, tag).await,
        Destination::DockerArchive { file, name } => docker_archive(around, image, file, name).await,
    }
}

/// Has a blob of the image in the store: ours is there, the base's is fetched.
async fn ensure(around: &Around, image: &Image, blob: &Descriptor) -> Result<(), DeliverError> {
    let source = image.base_source.as_deref().and_then(|it| it.parse::<Reference>().ok());
    Ok(fetch_layer(around, source.as_ref(), blob).await?)
}

/// Has all of these blobs in the store.
async fn ensure_all(around: &Around, image: &Image, blobs: &[Descriptor]) -> Result<(), DeliverError> {
    use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
    let fetched = stream::iter(blobs).map(|it| ensure(around, image, it)).buffer_unordered(4);
    fetched.try_collect::<Vec<()>>().await.map(|_| ())
}

/// Every blob once, in the layers' order.
fn distinct_layers(image: &Image) -> Vec<Descriptor> {
    let mut seen = std::collections::BTreeSet::new();
    image.layers.iter().map(|it| &it.descriptor).filter(|it| seen.insert(it.digest)).cloned().collect()
}

impl FromStr for Destination {
    type Err = DeliverError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason: &str| DeliverError::Destination { text: text.to_owned(), reason: reason.to_owned() };
        let name = |rest: &str| {
            let parsed = rest.parse::<Reference>();
            let parsed = parsed.map_err(|error: InvalidReference| invalid(error.reason))?;
            if parsed.digest.is_some() { Err(invalid("a name with a digest cannot be given")) } else { Ok(parsed) }
        };
        let (kind, rest) = text.split_once(':').ok_or_else(|| invalid("it begins with none of the known words"))?;
        if rest.is_empty() {
            return Err(invalid("nothing follows the colon"));
        }
        let path_and_tag = || match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') && !tag.is_empty() && !path.is_empty() => {
                (PathBuf::from(path), tag.to_owned())
            }
            _ => (PathBuf::from(rest.trim_end_matches(':')), "latest".to_owned()),
        };
        match kind {
            "docker" => name(rest.trim_start_matches("//")).map(Self::Docker),
            "podman" => name(rest).map(Self::Podman),
            "registry" => name(rest.trim_start_matches("//")).map(Self::Registry),
            "oci" => {
                let (directory, tag) = path_and_tag();
                Ok(Self::Layout { directory, tag })
            }
            "oci-archive" => {
                let (file, tag) = path_and_tag();
                Ok(Self::OciArchive { file, tag })
            }
            "docker-archive" => {
                // The file's name may hold no colon; what follows the first one is the image's name.
                let (file, image) = rest.split_once(':').unwrap_or((rest, ""));
                let stem = PathBuf::from(file).file_stem().map(|it| it.to_string_lossy().to_lowercase());
                let image = if image.is_empty() { stem.unwrap_or_default() } else { image.to_owned() };
                Ok(Self::DockerArchive { file: file.into(), name: name(&image)? })
            }
            _ => Err(invalid("it begins with none of the known words")),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(name) => write!(f, "docker:{}", name.familiar()),
            Self::Podman(name) => write!(f, "podman:{}", name.familiar()),
            Self::Registry(name) => write!(f, "{name}"),
            Self::Layout { directory, tag } => write!(f, "oci:{}:{tag}", directory.display()),
            Self::OciArchive { file, tag } => write!(f, "oci-archive:{}:{tag}", file.display()),
            Self::DockerArchive { file, name } => write!(f, "docker-archive:{}:{}", file.display(), name.familiar()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_and_written_alike() {
        for (text, shown) in [
            ("docker:x", "docker:x:latest"),
            ("podman:localhost:5000/a/b:1", "podman:localhost:5000/a/b:1"),
            ("registry:ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("oci:out", "oci:out:latest"),
            ("oci:/a/b:v1", "oci:/a/b:v1"),
            ("oci-archive:x.tar:v1", "oci-archive:x.tar:v1"),
            ("docker-archive:/t/My.tar", "docker-archive:/t/My.tar:my:latest"),
            ("docker-archive:x.tar:me/it:2", "docker-archive:x.tar:me/it:2"),
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), shown);
        }
        for text in ["x", "oci:", "ftp:x", "docker:UPPER"] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }
}
