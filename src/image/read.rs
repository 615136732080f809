//! An image read back from wherever it is: its configuration, its layers, and what its entrypoint layer says of it.
//!
//! From a registry, a layout or an archive only the layers with our files are fetched; from a Docker engine the files are
//! copied out of a container that is made for it and never started.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::ControlFlow;

use serde_json::Value;

use super::named;
use crate::base::{Around, Base, BaseError, Pin, PinnedLayer, Request, fetch, fetch_layer, find, reopen};
use crate::digest::Digest;
use crate::engine::{ContainerSpec, Docker, EngineError};
use crate::error::{Explain, Kind};
use crate::launch;
use crate::layer::entrypoint;
use crate::lock::{DocumentError, Lock};
use crate::oci::{Descriptor, Platform, tar};
use crate::store::StoreError;

/// Our files that are read, below [`launch::ROOT`].
const FILES: [&str; 4] = [launch::LOCK, launch::LAUNCH, launch::TASK, launch::BINARY];
/// How the history of a layer of ours begins.
const OURS: &str = "agent build: ";
/// Bytes of all of them; more are damaged or no longer ours.
const LARGEST: u64 = 512 << 20;

/// An image, as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Where, for people.
    pub origin: String,
    /// Manifest digest, where the place keeps manifests.
    pub manifest: Option<Digest>,
    /// Configuration digest; in a containerd store the engine tells the manifest's only.
    pub config_digest: Digest,
    /// Configuration; from an engine only what it tells of it.
    pub config: Value,
    /// Platform.
    pub platform: Platform,
    /// Layers, bottom first: diff_id, and the blob where the place keeps blobs.
    pub layers: Vec<(Digest, Option<Descriptor>)>,
    /// Our files by absolute path: lock, launch document, task record, in-image binary, texts.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Found {
    /// The same, read; its large texts from beside it.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn parsed_lock(&self) -> Result<Lock, DocumentError> {
        let toml = String::from_utf8_lossy(self.lock().unwrap_or_default()).into_owned();
        Lock::parse(&format!("{} of {}", launch::LOCK, self.origin), &toml, |digest| {
            let path = format!("{}/{}", launch::TEXTS, digest.hex());
            self.files.get(&path).cloned().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
        })
    }

    /// The lock the image was built from.
    #[must_use]
    pub fn lock(&self) -> Option<&[u8]> {
        self.files.get(launch::LOCK).map(Vec::as_slice)
    }
}

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It could not be found.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer or a copied file is damaged.
    #[error("`{origin}` has a layer that cannot be read")]
    Damaged {
        /// The image.
        origin: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not an image of ours.
    #[error("`{origin}` was not built by this program: it has no lock")]
    NotOurs {
        /// The image.
        origin: String,
    },
}

impl Explain for ReadError {
    fn kind(&self) -> Kind {
        match self {
            Self::Base(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Damaged { .. } | Self::NotOurs { .. } => Kind::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Base(error) => error.hints(),
            Self::Engine(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::NotOurs { .. } => vec!["Name an image that `agent build` made.".to_owned()],
            Self::Damaged { .. } => Vec::new(),
        }
    }
}

/// Reads an image of ours. A plain name is looked for among those built here, then in the local engine, then in its
/// registry; what the engine has under it counts where the two differ.
///
/// # Errors
/// [`ReadError`]; [`ReadError::NotOurs`] for an image without a lock.
pub async fn read(around: &Around, request: &Request, platform: &Platform) -> Result<Found, ReadError> {
    if let Some(pin) = built_here(around, request).await? {
        let base = reopen(around, &pin).await?;
        return from_blobs(around, base, request.to_string()).await;
    }
    let name = match request {
        Request::Image(reference) => Some(reference.familiar()),
        Request::Docker(name) => Some(name.clone()),
        _ => None,
    };
    if let (Some(name), Some(docker)) = (name, &around.docker) {
        match of_engine(docker, &name, platform).await {
            Ok(Some(found)) => return Ok(found),
            // Without an engine the registry is still there.
            Ok(None) | Err(ReadError::Engine(EngineError::Unreachable { .. }))
                if matches!(request, Request::Image(_)) => {}
            Ok(None) => {
                return Err(BaseError::NotInEngine { endpoint: docker.endpoint().to_owned(), name }.into());
            }
            Err(error) => return Err(error),
        }
    }
    let base = find(around, request, platform).await?;
    from_blobs(around, base, request.to_string()).await
}

/// An image of ours that this machine has, in its store or its engine; none where it has another one of that name, or
/// none at all. No registry is asked, and no container made of an image of others.
///
/// # Errors
/// [`ReadError`]
pub async fn ours_here(around: &Around, request: &Request, platform: &Platform) -> Result<Option<Found>, ReadError> {
    if let Some(pin) = built_here(around, request).await? {
        // What was collected meanwhile may still be in the engine or a registry.
        if let Ok(base) = reopen(around, &pin).await
            && let Ok(found) = from_blobs(around, base, request.to_string()).await
        {
            return Ok(Some(found));
        }
    }
    let name = match request {
        Request::Image(reference) => reference.familiar(),
        Request::Docker(name) => name.clone(),
        _ => return Ok(None),
    };
    let Some(docker) = &around.docker else { return Ok(None) };
    match docker.image(&name).await {
        Ok(Some(_)) => {}
        Ok(None) | Err(EngineError::Unreachable { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let config = docker.image_config(&name).await?;
    if is_ours(&config) { of_engine(docker, &name, platform).await } else { Ok(None) }
}

/// Reads an image that was found already.
///
/// # Errors
/// [`ReadError`]; [`ReadError::NotOurs`] for an image without a lock.
pub async fn of_base(around: &Around, base: Base, origin: String) -> Result<Found, ReadError> {
    from_blobs(around, base, origin).await
}

/// Whether a configuration starts an image as we do: by it an image of ours is told from a base.
#[must_use]
pub fn is_ours(config: &Value) -> bool {
    config.pointer("/config/Entrypoint") == Some(&serde_json::json!([launch::BINARY]))
}

/// Any image with all its blobs in the store, to be run; looked for as [`read`] does.
///
/// # Errors
/// [`ReadError`]
pub async fn fetch_whole(around: &Around, request: &Request, platform: &Platform) -> Result<Base, ReadError> {
    let base = match built_here(around, request).await? {
        Some(pin) => reopen(around, &pin).await?,
        None => match in_engine(around, request).await? {
            Some(local) => find(around, &local, platform).await?,
            None => find(around, request, platform).await?,
        },
    };
    fetch(around, &base.pin).await?;
    Ok(base)
}

/// The image in the store that a plain name means, unless the engine has another one under that name.
///
/// # Errors
/// [`ReadError`]
pub async fn built_here(around: &Around, request: &Request) -> Result<Option<Pin>, ReadError> {
    let Request::Image(reference) = request else { return Ok(None) };
    let Some(pin) = named::recall(&around.store, reference) else { return Ok(None) };
    let Some(docker) = &around.docker else { return Ok(Some(pin)) };
    match docker.image(&reference.familiar()).await {
        Ok(Some(other)) if other.id != pin.config && Some(other.id) != pin.manifest => Ok(None),
        Ok(_) | Err(EngineError::Unreachable { .. }) => Ok(Some(pin)),
        Err(error) => Err(error.into()),
    }
}

/// The same request to the engine, if that has an image of the name.
async fn in_engine(around: &Around, request: &Request) -> Result<Option<Request>, ReadError> {
    let (Request::Image(reference), Some(docker)) = (request, &around.docker) else { return Ok(None) };
    let name = reference.familiar();
    match docker.image(&name).await {
        Ok(found) => Ok(found.map(|_| Request::Docker(name))),
        Err(EngineError::Unreachable { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads our files out of the layers that have them: the documents' is the topmost, the history tells the binary's.
async fn from_blobs(around: &Around, base: Base, origin: String) -> Result<Found, ReadError> {
    if !may_be_ours(&base.config) {
        return Err(ReadError::NotOurs { origin });
    }
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for layer in base.pin.layers.iter().rev() {
        files = with_layer(around, &base, (layer, &origin), files).await?;
        if files.contains_key(launch::LOCK) {
            break;
        }
    }
    let binary = created_by(&base.config).position(|it| it == format!("{OURS}entrypoint {}", entrypoint::BINARY));
    if let Some(layer) = binary.and_then(|it| base.pin.layers.get(it)).filter(|_| !files.contains_key(launch::BINARY)) {
        files = with_layer(around, &base, (layer, &origin), files).await?;
    }
    if !files.contains_key(launch::LOCK) {
        return Err(ReadError::NotOurs { origin });
    }
    Ok(Found {
        origin,
        manifest: base.pin.manifest,
        config_digest: base.pin.config,
        config: base.config,
        platform: base.pin.platform,
        layers: base.pin.layers.into_iter().map(|it| (it.diff_id, Some(it.blob))).collect(),
        files,
    })
}

/// The files and those of one more layer; what is there already counts.
async fn with_layer(
    around: &Around,
    base: &Base,
    (layer, origin): (&PinnedLayer, &str),
    mut files: BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<String, Vec<u8>>, ReadError> {
    fetch_layer(around, base.pin.source.as_ref(), &layer.blob).await?;
    let (store, digest) = (around.store.clone(), layer.blob.digest);
    let work = tokio::task::spawn_blocking(move || {
        let blob = store.open_blob(&digest).map_err(std::io::Error::other)?;
        let mut files = BTreeMap::new();
        take_files(tar::uncompressed(blob)?, "", &mut files)?;
        Ok(files)
    });
    let found = work
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|source| ReadError::Damaged { origin: origin.to_owned(), source })?;
    for (path, bytes) in found {
        files.entry(path).or_insert(bytes);
    }
    Ok(files)
}

/// What the history says of each layer, bottom first.
fn created_by(config: &Value) -> impl Iterator<Item = &str> {
    let history = config.get("history").and_then(Value::as_array).into_iter().flatten();
    let layers = history.filter(|it| it.get("empty_layer") != Some(&Value::Bool(true)));
    layers.map(|it| it.get("created_by").and_then(Value::as_str).unwrap_or_default())
}

/// Whether the history tells of layers of ours, or of none at all: other images need not be fetched to say so.
fn may_be_ours(config: &Value) -> bool {
    created_by(config).next().is_none() || created_by(config).any(|it| it.starts_with(OURS))
}

/// Reads the image that an engine has under a name; none where it has none.
///
/// # Errors
/// [`ReadError`]; [`ReadError::NotOurs`] for an image without a lock.
pub async fn of_engine(docker: &Docker, name: &str, platform: &Platform) -> Result<Option<Found>, ReadError> {
    let Some(image) = docker.image(name).await? else { return Ok(None) };
    let config = docker.image_config(name).await?;
    let spec =
        ContainerSpec { image: image.id.to_string(), network: Some("none".to_owned()), ..ContainerSpec::default() };
    let container = docker.create(&spec).await?;
    let copied = copy_files(docker, &container, name).await;
    docker.remove(&container).await?;
    let files = copied?;
    if !files.contains_key(launch::LOCK) {
        return Err(ReadError::NotOurs { origin: format!("docker:{name}") });
    }
    Ok(Some(Found {
        origin: format!("docker:{name}"),
        manifest: None,
        config_digest: image.id,
        config,
        platform: platform.clone(),
        layers: image.diff_ids.into_iter().map(|it| (it, None)).collect(),
        files,
    }))
}

async fn copy_files(docker: &Docker, container: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, ReadError> {
    let mut files = BTreeMap::new();
    for path in FILES.iter().chain([&launch::TEXTS]) {
        let Some(archive) = docker.copy_out(container, path).await? else { continue };
        // An archive of a path begins at its last part.
        let parent = path.rsplit_once('/').map_or("", |it| it.0);
        take_files(archive.as_slice(), parent, &mut files)
            .map_err(|source| ReadError::Damaged { origin: format!("docker:{name}"), source })?;
    }
    Ok(files)
}

/// Takes our files out of a tar whose paths begin below `parent`.
fn take_files(reader: impl std::io::Read, parent: &str, files: &mut BTreeMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut left = LARGEST;
    tar::each(
        reader,
        |error| error,
        |entry| {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let path = format!("{parent}/{}", name.trim_start_matches("./").trim_matches('/'));
            let is_text = path.strip_prefix(launch::TEXTS).is_some_and(|it| it.starts_with('/'));
            let is_file = entry.header().entry_type() == tar::EntryType::Regular;
            if is_file && (is_text || FILES.contains(&path.as_str())) {
                let size = entry.size();
                left = left.checked_sub(size).ok_or_else(|| {
                    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("`{path}` and others are too large"))
                })?;
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                files.insert(path, bytes);
            }
            Ok(ControlFlow::Continue(()))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{LayerWriter, Meta};
    use crate::store::Store;

    fn layer(store: &Store, fill: impl FnOnce(&mut LayerWriter<'_>)) -> PinnedLayer {
        let mut writer = store.layer_writer().unwrap();
        fill(&mut writer);
        let layer = writer.finish().unwrap();
        PinnedLayer { diff_id: layer.diff_id, blob: layer.descriptor }
    }

    fn base(layers: Vec<(PinnedLayer, &str)>) -> Base {
        let (layers, titles): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let pin = Pin {
            name: None,
            source: None,
            manifest: None,
            config: Digest::of(""),
            platform: Platform::host(),
            layers,
        };
        let mut history = vec![serde_json::json!({"created_by": "ENV A=1", "empty_layer": true})];
        history.extend(titles.iter().map(|it| serde_json::json!({"created_by": it})));
        Base { pin, config: serde_json::json!({"history": history}) }
    }

    #[tokio::test]
    async fn documents_and_binary_come_from_layers_of_their_own_and_other_images_are_not_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let around = Around {
            store: store.clone(),
            registry: crate::registry::Client::new(crate::registry::Settings::default()).unwrap(),
            docker: None,
            reporter: crate::report::silent(),
        };
        let file = |path: &'static str, bytes: &'static [u8]| {
            layer(&store, |it| it.file(path.trim_start_matches('/'), &Meta::file(), bytes).unwrap())
        };
        let missing = PinnedLayer {
            diff_id: Digest::of("x"),
            blob: Descriptor { media_type: String::new(), digest: Digest::of("x"), size: 1 },
        };
        let layers = vec![
            (missing.clone(), "RUN make"),
            (file(launch::BINARY, b"binary"), "agent build: entrypoint in-image binary"),
            (missing.clone(), "agent build: python environment"),
            (file(launch::LOCK, b"lock"), "agent build: entrypoint task and lock"),
            (file("/other", b""), "RUN more"),
        ];
        let found = from_blobs(&around, base(layers), "x".to_owned()).await.unwrap();
        assert_eq!(found.lock(), Some(&b"lock"[..]));
        assert_eq!(found.files.get(launch::BINARY).map(Vec::as_slice), Some(&b"binary"[..]));
        let foreign = from_blobs(&around, base(vec![(missing, "RUN make")]), "x".to_owned()).await.unwrap_err();
        assert!(matches!(foreign, ReadError::NotOurs { .. }), "{foreign}");
    }
}
