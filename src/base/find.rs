//! From a request or a pin to a base, and to its bytes.

use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::sync::mpsc;

use super::archive::{Importer, Wanted};
use super::{Around, Base, BaseError, Imported, Pin, PinnedLayer, Request};
use crate::digest::{Digest, Hasher};
use crate::engine::Docker;
use crate::http::HttpError;
use crate::oci::{Descriptor, Platform, Reference};
use crate::registry::{self, Pulled, RegistryError};
use crate::store::{Store, Table};

/// Blobs fetched at a time.
const STREAMS: usize = 4;
/// How long an engine may take to say whether it has an image, and a registry to answer where it has.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a registry that did not answer is not asked again where the engine has the image.
const SILENCE: Duration = Duration::from_secs(60);

/// Finds what is asked for.
///
/// # Errors
/// [`BaseError`]; a recipe is none that this module can make.
pub async fn find(around: &Around, request: &Request, platform: &Platform) -> Result<Base, BaseError> {
    match request {
        Request::Image(reference) => find_image(around, reference, platform).await,
        Request::Docker(name) => {
            let docker = around.docker.as_ref().ok_or_else(|| BaseError::NoEngine { name: request.to_string() })?;
            let found = in_engine(around, docker, name, platform).await?;
            found.ok_or_else(|| BaseError::NotInEngine { endpoint: docker.endpoint().to_owned(), name: name.clone() })
        }
        Request::Layout { directory, tag } => {
            let wanted = Wanted { tag: tag.clone(), platform: platform.clone(), origin: request.to_string() };
            let (store, directory) = (around.store.clone(), directory.clone());
            local(request, platform, move || super::import_layout(&store, &directory, &wanted)).await
        }
        Request::Archive { file, tag } => {
            let wanted = Wanted { tag: tag.clone(), platform: platform.clone(), origin: request.to_string() };
            let (store, file) = (around.store.clone(), file.clone());
            local(request, platform, move || super::import_archive(&store, &file, &wanted)).await
        }
        Request::Recipe(name) => {
            Err(BaseError::Request { text: format!("recipe:{name}"), reason: "a recipe is made, not found".to_owned() })
        }
    }
}

async fn local(
    request: &Request,
    platform: &Platform,
    import: impl FnOnce() -> Result<Imported, BaseError> + Send + 'static,
) -> Result<Base, BaseError> {
    let imported = blocking(import).await??;
    base_of(None, None, imported, &request.to_string(), platform)
}

/// The registry first; where it knows no such image, or does not answer, the local engine may.
async fn find_image(around: &Around, reference: &Reference, platform: &Platform) -> Result<Base, BaseError> {
    let name = reference.familiar();
    let engine = around.docker.as_ref().filter(|_| reference.digest.is_none());
    let holder = match engine {
        Some(docker) => {
            let asked = tokio::time::timeout(PATIENCE, docker.image(&name)).await;
            asked.is_ok_and(|it| it.is_ok_and(|it| it.is_some())).then_some(docker)
        }
        None => None,
    };
    let Some(docker) = holder else {
        let found = in_registry(around, &around.registry, reference, platform).await;
        return found.map_err(|error| match error {
            BaseError::Registry(source) if engine.is_some() && is_elsewhere(&source) => {
                BaseError::NotFound { name, source: Box::new(source) }
            }
            other => other,
        });
    };
    let why = match hurried(around, reference, platform).await? {
        Ok(base) => return Ok(base),
        Err(why) => why,
    };
    around.reporter.warning(format!("base image `{name}` was taken from the local engine: {why}"));
    let found = in_engine(around, docker, &name, platform).await?;
    found.ok_or_else(|| BaseError::NotInEngine { endpoint: docker.endpoint().to_owned(), name })
}

/// Whether an image may be had elsewhere after an answer like this.
const fn is_elsewhere(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::NotFound { .. }
            | RegistryError::Denied { .. }
            | RegistryError::Http(_)
            | RegistryError::Offline { .. }
            | RegistryError::TooMany { .. }
    )
}

/// Asks the registry once and does not wait for it long, since the image is here as well; one that was silent is not
/// asked again at once. The inner error says why the image is to be taken from here.
async fn hurried(
    around: &Around,
    reference: &Reference,
    platform: &Platform,
) -> Result<Result<Base, String>, BaseError> {
    let mut key = Hasher::new();
    key.field("silent registry 1").field(&reference.registry);
    let key = key.finish();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let silent = around.store.record::<u64>(Table::Bases, &key).and_then(|it| now.checked_sub(it));
    if let Some(seconds) = silent.filter(|it| *it < SILENCE.as_secs()) {
        return Ok(Err(format!("`{}` did not answer {seconds} s ago", reference.registry)));
    }
    let registry = around.registry.once();
    let asked = in_registry(around, &registry, reference, platform);
    let (why, silent) = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Err(BaseError::Registry(error))) if is_elsewhere(&error) => {
            (error.to_string(), matches!(error, RegistryError::Http(HttpError::Unreachable { .. })))
        }
        Ok(other) => return other.map(Ok),
        // It may only be slow.
        Err(_) => (format!("`{}` does not answer within {} s", reference.registry, PATIENCE.as_secs()), false),
    };
    if silent {
        around.store.remember(Table::Bases, &key, &now)?;
    }
    Ok(Err(why))
}

async fn in_registry(
    around: &Around,
    registry: &registry::Client,
    reference: &Reference,
    platform: &Platform,
) -> Result<Base, BaseError> {
    let pulled = registry.resolve(reference, platform, &around.store).await?;
    let config = config_of(around, &pulled).await?;
    let imported = Imported { manifest: Some(pulled.manifest.digest), config, layers: pulled.layers };
    base_of(Some(reference.to_string()), Some(pulled.reference), imported, &reference.familiar(), platform)
}

async fn config_of(around: &Around, pulled: &Pulled) -> Result<Vec<u8>, BaseError> {
    around.registry.fetch_blob(&pulled.reference, &pulled.config, &around.store, &around.reporter).await?;
    Ok(around.store.read_blob(&pulled.config.digest)?)
}

/// What the engine has under a name, exported once and then remembered by its id.
async fn in_engine(
    around: &Around,
    docker: &Docker,
    name: &str,
    platform: &Platform,
) -> Result<Option<Base>, BaseError> {
    let Some(image) = docker.image(name).await? else { return Ok(None) };
    let mut key = Hasher::new();
    key.field("engine export 1").field(image.id.to_string());
    let key = key.finish();
    let store = &around.store;
    let known = store.record::<Export>(Table::Bases, &key).filter(|it| it.is_whole(store));
    let imported = match known.and_then(|it| it.open(store)) {
        Some(imported) => imported,
        None => {
            let imported = export(around, docker, &image.id.to_string(), platform).await?;
            let (config, _) = store.put_bytes(&imported.config)?;
            store.remember(Table::Bases, &key, &Export { config, layers: imported.layers.clone() })?;
            imported
        }
    };
    let imported = Imported { manifest: None, ..imported };
    let named = (!name.starts_with("sha256:")).then(|| name.to_owned());
    let named = named.and_then(|it| it.parse::<Reference>().ok()).map(|it| it.to_string());
    base_of(named, None, imported, name, platform).map(Some)
}

/// What an engine's image was exported to.
#[derive(serde::Serialize, serde::Deserialize)]
struct Export {
    config: Digest,
    layers: Vec<Descriptor>,
}

impl Export {
    fn is_whole(&self, store: &Store) -> bool {
        self.layers.iter().all(|it| store.has(&it.digest) == Some(it.size))
    }

    fn open(self, store: &Store) -> Option<Imported> {
        let config = store.read_blob(&self.config).ok()?;
        Some(Imported { manifest: None, config, layers: self.layers })
    }
}

/// Streams `docker save` into the store: the archive itself is never kept.
async fn export(around: &Around, docker: &Docker, name: &str, platform: &Platform) -> Result<Imported, BaseError> {
    let id = format!("export {name}");
    around.reporter.started(&id, format!("{name} from the engine"));
    let (sender, receiver) = mpsc::channel(4);
    let wanted = Wanted { tag: None, platform: platform.clone(), origin: format!("docker:{name}") };
    let store = around.store.clone();
    let reader = Chunks { receiver, rest: Bytes::new() };
    let importing = tokio::task::spawn_blocking(move || Importer::new(&store).read(reader, &wanted));
    let mut chunks = Box::pin(docker.export(name));
    let mut done = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        done += chunk.len() as u64;
        around.reporter.progress(&id, done, None);
        // The other side ends early only with an error of its own, which says more.
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    drop(sender);
    let imported = importing.await.map_err(|error| internal(&error))??;
    around.reporter.finished(&id, "exported");
    Ok(imported)
}

/// What an engine sends, read as a file.
struct Chunks {
    receiver: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            let Some(chunk) = self.receiver.blocking_recv() else { return Ok(0) };
            self.rest = chunk;
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

/// The base a lock names: from the store where it was seen before, else from where it came.
///
/// # Errors
/// [`BaseError::Gone`] for one that was local to another machine or time.
pub async fn reopen(around: &Around, pin: &Pin) -> Result<Base, BaseError> {
    if around.store.has(&pin.config).is_none() {
        if let Some(source) = &pin.source {
            let pulled = around.registry.resolve(source, &pin.platform, &around.store).await?;
            config_of(around, &pulled).await?;
        } else if let Some(docker) = &around.docker {
            in_engine(around, docker, &pin.config.to_string(), &pin.platform).await?;
        }
    }
    let bytes = match around.store.read_blob(&pin.config) {
        Err(crate::store::StoreError::Missing(config)) => return Err(BaseError::Gone { config }),
        other => other?,
    };
    let config = parse_config(&bytes, &pin.config.to_string())?;
    Ok(Base { pin: pin.clone(), config })
}

/// Has all of a base's blobs in the store.
///
/// # Errors
/// As [`fetch_layer`].
pub async fn fetch(around: &Around, pin: &Pin) -> Result<(), BaseError> {
    stream::iter(&pin.layers)
        .map(|layer| fetch_layer(around, pin.source.as_ref(), &layer.blob))
        .buffer_unordered(STREAMS)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// Has one blob of a base in the store.
///
/// # Errors
/// [`BaseError::Registry`], or [`BaseError::Gone`] for one that was only local.
pub async fn fetch_layer(around: &Around, source: Option<&Reference>, blob: &Descriptor) -> Result<(), BaseError> {
    if around.store.has(&blob.digest).is_some() {
        return Ok(());
    }
    let Some(source) = source else { return Err(BaseError::Gone { config: blob.digest }) };
    Ok(around.registry.fetch_blob(source, blob, &around.store, &around.reporter).await?)
}

/// Puts together what was found, and checks that it fits.
fn base_of(
    name: Option<String>,
    source: Option<Reference>,
    imported: Imported,
    shown: &str,
    wanted: &Platform,
) -> Result<Base, BaseError> {
    let config = parse_config(&imported.config, shown)?;
    let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_owned);
    let platform = Platform {
        os: text("os").unwrap_or_else(|| wanted.os.clone()),
        architecture: text("architecture").unwrap_or_else(|| wanted.architecture.clone()),
        variant: text("variant").filter(|it| !it.is_empty()),
    };
    if (&platform.os, &platform.architecture) != (&wanted.os, &wanted.architecture) {
        return Err(BaseError::Platform {
            name: shown.to_owned(),
            wanted: wanted.to_string(),
            found: platform.to_string(),
        });
    }
    let odd = |detail: String| BaseError::Document { origin: shown.to_owned(), detail };
    let diff_ids = diff_ids(&config).map_err(odd)?;
    if diff_ids.len() != imported.layers.len() {
        return Err(odd(format!("{} layers, {} of them in its configuration", imported.layers.len(), diff_ids.len())));
    }
    let layers = diff_ids.into_iter().zip(imported.layers);
    let pin = Pin {
        name,
        source,
        manifest: imported.manifest,
        config: Digest::of(&imported.config),
        platform,
        layers: layers.map(|(diff_id, blob)| PinnedLayer { diff_id, blob }).collect(),
    };
    Ok(Base { pin, config })
}

fn parse_config(bytes: &[u8], shown: &str) -> Result<Value, BaseError> {
    serde_json::from_slice::<Value>(bytes).ok().filter(Value::is_object).ok_or_else(|| BaseError::Document {
        origin: shown.to_owned(),
        detail: "its configuration is no JSON object".to_owned(),
    })
}

/// The diff_ids of an image configuration.
pub(super) fn diff_ids(config: &Value) -> Result<Vec<Digest>, String> {
    let list = config.pointer("/rootfs/diff_ids").and_then(Value::as_array);
    let list = list.ok_or_else(|| "its configuration lists no layers".to_owned())?;
    let parse = |it: &Value| it.as_str().unwrap_or_default().parse::<Digest>().map_err(|error| error.to_string());
    list.iter().map(parse).collect()
}

/// Runs blocking work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BaseError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error))
}

fn internal(error: &tokio::task::JoinError) -> BaseError {
    BaseError::Document { origin: "this program".to_owned(), detail: error.to_string() }
}
