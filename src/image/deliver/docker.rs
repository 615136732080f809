//! Into a Docker engine: a thin archive with the layers it lacks, all of them if it does not take that.
//!
//! A classic store looks layers up by chain id before it opens their files, a containerd store by blob; both find what
//! they have and check what they get, so a thin archive is either right or refused.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::mpsc;

use super::archive::{Contents, Naming};
use super::{DeliverError, Delivered, Destination, ensure_all};
use crate::base::Around;
use crate::digest::Digest;
use crate::engine::{Docker, EngineError, EngineImage};
use crate::image::Image;
use crate::oci::{Descriptor, Reference};
use crate::report::SharedReporter;
use crate::store::{Store, Table};

/// Bytes sent at a time.
const PIECE: usize = 256 << 10;
/// With less than this left to send, other images of the engine are not searched for more to leave out, and compressed
/// layers are as good as others.
const LITTLE: u64 = 4 << 20;

/// Loads the image under a name.
///
/// # Errors
/// [`DeliverError`]; [`DeliverError::Changed`] if the engine has something else under the name afterwards.
pub async fn docker(
    around: &Around,
    image: &Image,
    engine: &Docker,
    name: &Reference,
) -> Result<Delivered, DeliverError> {
    let to = Destination::Docker(name.clone());
    let named = engine.image(&name.familiar()).await?;
    if named.as_ref().is_some_and(|it| is_same(image, it)) {
        return Ok(Delivered::unchanged(&to));
    }
    for id in [image.config.digest(), image.manifest.digest()] {
        if engine.image(&id.to_string()).await?.is_some_and(|it| is_same(image, &it)) {
            let tag = name.tag.as_deref().unwrap_or("latest");
            engine.tag(&id.to_string(), &repository(name), tag).await?;
            return Ok(Delivered::moved(&to, 0, 0));
        }
    }
    let present = layers_present(&around.store, engine, image, named.as_ref()).await?;
    let delivered = match load(around, image, engine, (name, present)).await {
        Err(DeliverError::Engine(EngineError::Refused { .. })) if present > 0 => {
            load(around, image, engine, (name, 0)).await
        }
        other => other,
    }?;
    let found = engine.image(&name.familiar()).await?;
    match found {
        Some(found) if is_same(image, &found) => {
            around.store.remember(Table::Images, &bulk(engine, image), &found.id.to_string())?;
            Ok(delivered)
        }
        found => Err(DeliverError::Changed {
            destination: to.to_string(),
            expected: image.config.digest(),
            found: found.map_or_else(|| "nothing".to_owned(), |it| it.id.to_string()),
        }),
    }
}

/// A classic store names images by config, a containerd store by manifest.
fn is_same(image: &Image, found: &EngineImage) -> bool {
    found.id == image.config.digest() || found.id == image.manifest.digest()
}

fn repository(name: &Reference) -> String {
    Reference { tag: None, digest: None, ..name.clone() }.familiar()
}

/// How many of the image's lowest layers the engine has.
async fn layers_present(
    store: &Store,
    engine: &Docker,
    image: &Image,
    named: Option<&EngineImage>,
) -> Result<usize, EngineError> {
    let wanted = image.diff_ids();
    let shared = |it: &EngineImage| it.diff_ids.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
    let lacks =
        |best: usize| best == 0 || image.layers[best..].iter().map(|it| it.descriptor.size).sum::<u64>() > LITTLE;
    let mut best = named.map_or(0, shared);
    // The last one with the same layers below its own: Podman takes seconds to list some hundred images.
    if lacks(best)
        && let Some(id) = store.record::<String>(Table::Images, &bulk(engine, image))
        && let Some(other) = engine.image(&id).await?
    {
        best = best.max(shared(&other));
    }
    if lacks(best) {
        for other in engine.images().await? {
            best = best.max(shared(&other));
        }
    }
    Ok(best)
}

/// The key of what is remembered of an engine's image: all of its layers but those on top that are little together.
fn bulk(engine: &Docker, image: &Image) -> Digest {
    let mut little = 0;
    let on_top = image.layers.iter().rev().take_while(|it| {
        little += it.descriptor.size;
        little <= LITTLE
    });
    let below = image.layers.len() - on_top.count();
    let layers: Vec<String> = image.diff_ids()[..below].iter().map(ToString::to_string).collect();
    Digest::of(format!("layers in {}: {}", engine.endpoint(), layers.join(" ")))
}

async fn load(
    around: &Around,
    image: &Image,
    engine: &Docker,
    (name, present): (&Reference, usize),
) -> Result<Delivered, DeliverError> {
    let had: Vec<Digest> = image.layers[..present].iter().map(|it| it.descriptor.digest).collect();
    let mut blobs: Vec<Descriptor> = super::distinct_layers(image);
    blobs.retain(|it| !had.contains(&it.digest));
    ensure_all(around, image, &blobs).await?;
    let much = blobs.iter().map(|it| it.size).sum::<u64>() > LITTLE;
    let contents = if much && engine.is_local() && engine.has_classic_store().await? {
        Contents::plain(image, name, blobs)
    } else {
        Contents::new(image, &Naming::Name(name), blobs)
    };
    let (bytes, layers) = (contents.bytes(), contents.layers());
    let id = format!("load {}", name.familiar());
    around.reporter.started(&id, format!("{} into docker", name.familiar()));
    let archive = stream_of(around.store.clone(), contents, around.reporter.clone(), id.clone());
    engine.load(archive).await?;
    around.reporter.finished(&id, "loaded");
    Ok(Delivered::moved(Destination::Docker(name.clone()), bytes, layers))
}

/// The archive, written by a thread of its own as fast as it is read.
fn stream_of(
    store: Store,
    contents: Contents,
    reporter: SharedReporter,
    id: String,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let total = Some(contents.bytes());
        let mut pipe = Pipe { sender: sender.clone(), buffer: Vec::with_capacity(PIECE), done: 0, reporter, id, total };
        if let Err(error) = contents.write(&store, &mut pipe).and_then(|()| pipe.flush())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            let _ = sender.blocking_send(Err(error));
        }
    });
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|it| (it, receiver)) })
}

struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    done: u64,
    reporter: SharedReporter,
    id: String,
    total: Option<u64>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE));
        self.done += piece.len() as u64;
        self.reporter.progress(self.id.as_str(), self.done, self.total);
        self.sender.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
