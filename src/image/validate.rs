//! Checks an image against the image-spec, with another reader of it (`oci-spec`) than the one that wrote it.
//!
//! Every image test ends here. What it looks at: media types, digests and sizes of every blob that is in the store,
//! diff_ids against the uncompressed bytes, history against layers, and entries of our own layers (each path once,
//! nothing absolute, nothing that leads out).

use std::collections::BTreeSet;

use oci_spec::image::{ImageConfiguration, ImageManifest};

use super::Image;
use crate::digest::{Digest, HashingWriter, digest_reader};
use crate::layer::LayerKind;
use crate::oci::{media, tar};
use crate::store::Store;

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Documents only.
    Documents,
    /// Documents, and every blob that the store has, uncompressed too.
    Blobs,
}

/// What is wrong with an image; empty for one that is right.
#[must_use]
pub fn validate(store: &Store, image: &Image, depth: Depth) -> Vec<String> {
    let mut faults = Vec::new();
    documents(image, &mut faults);
    if depth == Depth::Blobs {
        let mut seen = BTreeSet::new();
        for layer in image.layers.iter().filter(|it| seen.insert(it.descriptor.digest)) {
            if let Err(fault) = blob(store, layer) {
                faults.push(format!("layer {}: {fault}", layer.descriptor.digest));
            }
        }
    }
    faults
}

fn documents(image: &Image, faults: &mut Vec<String>) {
    let mut check = |holds: bool, fault: &str| {
        if !holds {
            faults.push(fault.to_owned());
        }
    };
    for document in [&image.manifest, &image.config] {
        let described = &document.descriptor;
        check(Digest::of(&document.bytes) == described.digest, "a document's digest is not that of its bytes");
        check(document.bytes.len() as u64 == described.size, "a document's size is not that of its bytes");
    }
    let manifest = match serde_json::from_slice::<ImageManifest>(&image.manifest.bytes) {
        Ok(manifest) => manifest,
        Err(error) => return check(false, &format!("the manifest: {error}")),
    };
    let config = match serde_json::from_slice::<ImageConfiguration>(&image.config.bytes) {
        Ok(config) => config,
        Err(error) => return check(false, &format!("the configuration: {error}")),
    };
    let media_type = manifest.media_type().as_ref().map(ToString::to_string);
    check(manifest.schema_version() == 2, "the manifest's schema is not 2");
    check(media_type.as_deref() == Some(media::MANIFEST), "the manifest does not say what it is");
    check(manifest.config().media_type().to_string() == media::CONFIG, "the configuration's media type is not OCI's");
    check(
        manifest.config().digest().to_string() == image.config.digest().to_string(),
        "the manifest names another configuration",
    );
    check(
        manifest.config().size() == image.config.descriptor.size,
        "the manifest has another size of the configuration",
    );
    let known = [media::LAYER, media::LAYER_GZIP, media::LAYER_ZSTD];
    for layer in manifest.layers() {
        let media_type = layer.media_type().to_string();
        check(known.contains(&media_type.as_str()), &format!("a layer of media type `{media_type}`"));
    }
    let listed: Vec<String> = manifest.layers().iter().map(|it| it.digest().to_string()).collect();
    let ours: Vec<String> = image.layers.iter().map(|it| it.descriptor.digest.to_string()).collect();
    check(listed == ours, "the manifest lists other layers");
    let diff_ids: Vec<String> = image.diff_ids().iter().map(ToString::to_string).collect();
    check(*config.rootfs().diff_ids() == diff_ids, "the configuration lists other layers");
    check(config.rootfs().typ() == "layers", "the configuration's rootfs is not of layers");
    let told = config.history().iter().flatten().filter(|it| it.empty_layer() != Some(true)).count();
    check(config.history().is_none() || told == image.layers.len(), "the history tells of another number of layers");
    check(
        config.architecture().to_string() == image.platform.architecture,
        "the configuration is for another architecture",
    );
    check(config.os().to_string() == image.platform.os, "the configuration is for another system");
}

fn blob(store: &Store, layer: &super::ImageLayer) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let Some(size) = store.has(&layer.descriptor.digest) else {
        return if layer.kind == LayerKind::Base { Ok(()) } else { Err("its blob is not in the store".to_owned()) };
    };
    if size != layer.descriptor.size {
        return Err(format!("its blob has {size} bytes, not {}", layer.descriptor.size));
    }
    let open = || store.open_blob(&layer.descriptor.digest).map_err(|it| said(&it));
    let (digest, _) = digest_reader(open()?).map_err(|it| said(&it))?;
    if digest != layer.descriptor.digest {
        return Err("its blob is damaged".to_owned());
    }
    let mut reader = tar::uncompressed(open()?).map_err(|it| said(&it))?;
    let mut hashed = HashingWriter::new(std::io::sink());
    std::io::copy(&mut reader, &mut hashed).map_err(|it| said(&it))?;
    let (_, diff_id, _) = hashed.finish();
    if diff_id != layer.diff_id {
        return Err(format!("its content is {diff_id}, not {}", layer.diff_id));
    }
    if layer.kind == LayerKind::Base { Ok(()) } else { entries(&mut open()?) }
}

fn entries(blob: &mut (impl std::io::Read + Send)) -> Result<(), String> {
    let mut archive = tar::open(blob).map_err(|it| it.to_string())?;
    let mut seen = BTreeSet::new();
    for entry in archive.entries().map_err(|it| it.to_string())? {
        let entry = entry.map_err(|it| it.to_string())?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let plain = path.trim_end_matches('/');
        if plain.is_empty() || plain.split('/').any(|it| matches!(it, "" | "." | "..")) {
            return Err(format!("the path `{path}`"));
        }
        if !seen.insert(plain.to_owned()) {
            return Err(format!("the path `{path}` twice"));
        }
    }
    Ok(())
}
