//! Into Podman: its program pulls from an OCI layout whose blobs are the store's own; a service that `CONTAINER_HOST` names
//! gets an archive, for it may keep its images elsewhere.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::archive::{OCI_LAYOUT, entry, index};
use super::{DeliverError, Delivered, Destination, distinct_layers, ensure_all};
use crate::base::Around;
use crate::digest::Digest;
use crate::engine::{Docker, Endpoint, EngineError, Podman};
use crate::image::Image;
use crate::oci::Reference;
use crate::oci::json::canonical;
use crate::store::Store;

/// Takes the image into Podman under a name.
///
/// # Errors
/// [`DeliverError`]
pub async fn podman(
    around: &Around,
    image: &Image,
    engine: &Podman,
    name: &Reference,
) -> Result<Delivered, DeliverError> {
    let to = Destination::Podman(name.clone());
    let full = local_name(name);
    if let Some(host) = Podman::service() {
        return into_service(around, image, &host, (&full, to)).await;
    }
    let id = image.config.digest();
    if blocking(engine, {
        let full = full.clone();
        move |it| it.image(&full)
    })
    .await?
    .is_some_and(|it| it.id == id)
    {
        return Ok(Delivered::unchanged(&to));
    }
    if blocking(engine, move |it| it.image(&id.hex())).await?.is_some() {
        blocking(engine, move |it| it.tag(&id.hex(), &full)).await?;
        return Ok(Delivered::moved(&to, 0, 0));
    }
    let blobs = distinct_layers(image);
    let own: Vec<_> = image.own_layers().map(|it| it.descriptor.clone()).collect();
    ensure_all(around, image, &own).await?;
    // Podman knows the blobs of layers that it pulled before: the base's are only fetched if it does not.
    let whole = blobs.iter().all(|it| around.store.has(&it.digest).is_some());
    let found = match pull(around, image, engine).await {
        Err(DeliverError::Engine(EngineError::Failed { .. })) if !whole => {
            ensure_all(around, image, &blobs).await?;
            pull(around, image, engine).await?
        }
        other => other?,
    };
    if found != id {
        return Err(DeliverError::Changed { destination: to.to_string(), expected: id, found: found.to_string() });
    }
    blocking(engine, move |it| it.tag(&id.hex(), &full)).await?;
    let bytes = blobs.iter().map(|it| it.size).sum();
    Ok(Delivered::moved(&to, bytes, blobs.len()))
}

/// Loads it as into Docker: the service answers the same API.
async fn into_service(
    around: &Around,
    image: &Image,
    host: &str,
    (full, to): (&str, Destination),
) -> Result<Delivered, DeliverError> {
    let engine = Docker::connect(&Endpoint::plain(host))?;
    let name: Reference = full.parse().map_err(|error| EngineError::Answer {
        endpoint: host.to_owned(),
        what: "images".to_owned(),
        detail: format!("`{full}`: {error}"),
    })?;
    let delivered = super::docker::docker(around, image, &engine, &name).await?;
    Ok(Delivered { destination: to.to_string(), ..delivered })
}

/// Podman's own images are named `localhost/…`; a name without a registry means that there.
fn local_name(name: &Reference) -> String {
    let familiar = name.familiar();
    if name.registry == "docker.io" && !familiar.contains('/') {
        format!("localhost/{familiar}")
    } else {
        name.to_string()
    }
}

async fn pull(around: &Around, image: &Image, engine: &Podman) -> Result<Digest, DeliverError> {
    let scratch = around.store.scratch()?;
    let name = format!("agent-{}", image.config.digest().short());
    write_layout(&around.store, image, &scratch.path().join(&name))?;
    let (parent, layout) = (scratch.path().to_owned(), name.clone());
    let id = blocking(engine, move |it| it.pull_layout(&parent, &layout)).await?;
    // The passing layout's name may have become the image's.
    let _ = blocking(engine, move |it| it.untag(&id.hex(), &format!("localhost/{name}:latest"))).await;
    Ok(id)
}

fn write_layout(store: &Store, image: &Image, directory: &Path) -> Result<(), DeliverError> {
    for document in [&image.manifest, &image.config] {
        store.put_bytes(&document.bytes)?;
    }
    let written = fs_err::create_dir(directory)
        .and_then(|()| fs_err::write(directory.join("oci-layout"), OCI_LAYOUT))
        .and_then(|()| {
            let index = canonical(&index(&[entry(image, &BTreeMap::new())]));
            fs_err::write(directory.join("index.json"), index)
        })
        .and_then(|()| symlink(store.root().join("blobs"), directory.join("blobs")));
    written.map_err(|source| DeliverError::Write { path: directory.to_owned(), source })?;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    engine: &Podman,
    work: impl FnOnce(&Podman) -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let engine = engine.clone();
    tokio::task::spawn_blocking(move || work(&engine)).await.unwrap_or_else(|error| {
        Err(EngineError::Transfer { action: "run podman".to_owned(), source: std::io::Error::other(error) })
    })
}
