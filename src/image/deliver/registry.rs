//! Into a registry: blobs it lacks, several at a time, mounted where it has them in another repository.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{DeliverError, Delivered, Destination, distinct_layers, ensure};
use crate::base::Around;
use crate::digest::{Digest, Hasher};
use crate::image::Image;
use crate::oci::{Descriptor, Reference};
use crate::registry::Begun;
use crate::store::Table;

/// Blobs asked about and sent at a time.
const STREAMS: usize = 6;

/// What became of one blob.
enum Fate {
    Existed,
    Mounted,
    Sent(u64),
}

/// Pushes the image under a tag.
///
/// # Errors
/// [`DeliverError`]; blobs that were pushed stay, the tag is set last.
pub async fn push(around: &Around, image: &Image, target: &Reference) -> Result<Delivered, DeliverError> {
    let to = Destination::Registry(target.clone());
    if around.registry.has_tag(target, &image.manifest.digest()).await? {
        return Ok(Delivered::unchanged(&to));
    }
    let layers = distinct_layers(image);
    around.store.put_bytes(&image.config.bytes)?;
    let base = image.base_source.as_deref().and_then(|it| it.parse::<Reference>().ok());
    let base = base.filter(|it| it.registry == target.registry).map(|it| it.repository);
    let blobs: Vec<&Descriptor> = layers.iter().chain([&image.config.descriptor]).collect();
    let fates: Vec<(Fate, bool)> = stream::iter(blobs)
        .map(|blob| {
            let base = base.as_ref();
            async move {
                let fate = push_blob(around, image, target, (blob, base)).await?;
                Ok::<_, DeliverError>((fate, blob.digest != image.config.digest()))
            }
        })
        .buffer_unordered(STREAMS)
        .try_collect()
        .await?;
    let manifest = &image.manifest;
    around.registry.put_manifest(target, &manifest.descriptor.media_type, &manifest.bytes).await?;
    let mut delivered = Delivered::moved(&to, 0, 0);
    for (fate, is_layer) in fates {
        match fate {
            Fate::Existed => {}
            Fate::Mounted => delivered.mounted += usize::from(is_layer),
            Fate::Sent(bytes) => {
                delivered.bytes += bytes;
                delivered.layers += usize::from(is_layer);
            }
        }
    }
    Ok(delivered)
}

async fn push_blob(
    around: &Around,
    image: &Image,
    target: &Reference,
    (blob, base): (&Descriptor, Option<&String>),
) -> Result<Fate, DeliverError> {
    let key = pushed_key(&target.registry, &blob.digest);
    let is_base =
        image.layers.iter().any(|it| it.descriptor.digest == blob.digest && it.kind == crate::layer::LayerKind::Base);
    let seen: Option<String> = around.store.record(Table::Images, &key);
    let from: Vec<String> = base.filter(|_| is_base).cloned().into_iter().chain(seen).collect();
    let fate = match around.registry.begin(target, &blob.digest, &from).await? {
        Begun::Existed => Fate::Existed,
        Begun::Mounted => Fate::Mounted,
        Begun::Upload(session) => {
            ensure(around, image, blob).await?;
            let path = around.store.blob_path(&blob.digest);
            around.registry.upload(*session, blob, &path, &around.reporter).await?;
            Fate::Sent(blob.size)
        }
    };
    // Another repository of the registry can mount it from here next time.
    around.store.remember(Table::Images, &key, &target.repository)?;
    Ok(fate)
}

fn pushed_key(registry: &str, blob: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("pushed 1").field(registry).field(blob.to_string());
    hasher.finish()
}
