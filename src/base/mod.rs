//! Base images: found where they are asked for, pinned, their blobs fetched only when somebody needs the bytes.
//!
//! ```text
//! Request ──find──▶ Base { Pin, config } ──rootfs::open──▶ Rootfs (list, stat, read, without any privilege)
//! Pin (of a lock) ──reopen──▶ Base
//! ```
//!
//! A tag is asked for anew at each [`find`], in one request; what it stands for is then read from the store if it was
//! ever seen. Bases from an engine, a layout or an archive are copied into the store at once, since they may be gone
//! later; those from a registry are not. Blobs are never changed: layers of a classic Docker store, which has none, are
//! the uncompressed tars it exports, so their digest is their diff_id. Recipes are made elsewhere.

use std::path::PathBuf;

use serde_json::Value;

use crate::digest::Digest;
use crate::engine::{Docker, EngineError};
use crate::error::{Explain, Kind};
use crate::oci::{Descriptor, Platform, Reference};
use crate::registry::{self, RegistryError};
use crate::report::SharedReporter;
use crate::store::{Store, StoreError};

mod archive;
mod find;
mod index;
mod request;
pub mod rootfs;

pub use archive::{Imported, import_archive, import_layout};
pub use find::{fetch, fetch_layer, find, reopen};
pub use request::Request;
pub use rootfs::{Owner, Rootfs};

/// What finding a base takes.
#[derive(Clone)]
pub struct Around {
    /// Where blobs and what is known of bases are kept.
    pub store: Store,
    /// Registries.
    pub registry: registry::Client,
    /// The local Docker engine, if there is one to ask.
    pub docker: Option<Docker>,
    /// Hears what is fetched.
    pub reporter: SharedReporter,
}

/// A base image, pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What was asked for, without anything local to this machine.
    pub name: Option<String>,
    /// Registry reference pinned by digest; absent when it is only local.
    pub source: Option<Reference>,
    /// The manifest's digest, where it has one that can be had again.
    pub manifest: Option<Digest>,
    /// The image configuration's digest.
    pub config: Digest,
    /// Platform.
    pub platform: Platform,
    /// Layers, bottom first.
    pub layers: Vec<PinnedLayer>,
}

/// One layer of a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedLayer {
    /// The uncompressed tar's digest.
    pub diff_id: Digest,
    /// The blob; media type as OCI says it.
    pub blob: Descriptor,
}

/// A base image whose configuration is at hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// What it is.
    pub pin: Pin,
    /// Its configuration, whole.
    pub config: Value,
}

impl Base {
    /// Uncompressed digests, bottom first.
    #[must_use]
    pub fn diff_ids(&self) -> Vec<Digest> {
        self.pin.layers.iter().map(|it| it.diff_id).collect()
    }

    /// The chain id of its layers; that of no layers is the digest of nothing.
    #[must_use]
    pub fn chain_id(&self) -> Digest {
        crate::oci::chain_id(&self.diff_ids()).unwrap_or_else(|| Digest::of(""))
    }

    /// The configured user (`User`), empty for root.
    #[must_use]
    pub fn user(&self) -> &str {
        self.config.pointer("/config/User").and_then(Value::as_str).unwrap_or_default()
    }

    /// The configured variables, in order.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        let list = self.config.pointer("/config/Env").and_then(Value::as_array);
        let pair = |it: &Value| it.as_str()?.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        list.into_iter().flatten().filter_map(pair).collect()
    }
}

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// Not the name of an image of any kind.
    #[error("`{text}` does not name a base image: {reason}")]
    Request {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Neither the registry nor the engine has it.
    #[error("base image `{name}` was found neither in its registry nor in the local engine")]
    NotFound {
        /// What was asked for.
        name: String,
        /// The registry's answer.
        #[source]
        source: Box<RegistryError>,
    },
    /// An engine is asked for and there is none.
    #[error("base image `{name}` is to come from the local engine, and there is none")]
    NoEngine {
        /// What was asked for.
        name: String,
    },
    /// The engine has no such image.
    #[error("the engine at `{endpoint}` has no image `{name}`")]
    NotInEngine {
        /// The engine.
        endpoint: String,
        /// What was asked for.
        name: String,
    },
    /// A file or directory cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What was read is not an image.
    #[error("`{origin}` holds no image we can read: {detail}")]
    Document {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        detail: String,
    },
    /// An image for another platform.
    #[error("base image `{name}` is for {found}, not for {wanted}")]
    Platform {
        /// What was asked for.
        name: String,
        /// The platform asked for.
        wanted: String,
        /// Its own.
        found: String,
    },
    /// A layer whose bytes are damaged or are not what the configuration says.
    #[error("layer {blob} of base image `{name}` is damaged: {detail}")]
    Layer {
        /// What was asked for.
        name: String,
        /// The blob.
        blob: Digest,
        /// What is wrong.
        detail: String,
    },
    /// A pinned base that was only ever local, and is gone.
    #[error("base image {config} cannot be had any more: it came from this machine and is not in the store")]
    Gone {
        /// Its config digest.
        config: Digest,
    },
    /// A user the base does not know.
    #[error("the base image's user `{user}` is not in its /etc/passwd")]
    User {
        /// The user.
        user: String,
    },
}

impl Explain for BaseError {
    fn kind(&self) -> Kind {
        match self {
            Self::Request { .. } => Kind::Usage,
            Self::Registry(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::NotFound { source, .. } => source.kind(),
            Self::NoEngine { .. } => Kind::Unreachable,
            Self::NotInEngine { .. } | Self::Gone { .. } => Kind::NotFound,
            Self::Read { source, .. } => Kind::of_io(source),
            Self::Document { .. } | Self::Layer { .. } | Self::User { .. } => Kind::Input,
            Self::Platform { .. } => Kind::Unsatisfiable,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Registry(error) => error.hints(),
            Self::NotFound { source, .. } => source.hints(),
            Self::Engine(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Request { .. } => vec![
                "Name an image of a registry, docker:NAME, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE or \
                 recipe:NAME."
                    .to_owned(),
            ],
            Self::NoEngine { .. } => vec!["Start Docker, or set DOCKER_HOST.".to_owned()],
            Self::NotInEngine { .. } => {
                vec!["Pull or load it there first (`agent build -o type=docker` or `type=podman`).".to_owned()]
            }
            Self::Gone { .. } => {
                vec!["Load that image into Docker again, or lock with a base from a registry.".to_owned()]
            }
            Self::Platform { .. } => vec!["Name an image for that platform, or change `--platform`.".to_owned()],
            _ => Vec::new(),
        }
    }
}
