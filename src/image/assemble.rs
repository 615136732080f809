//! Base, layers and start values become configuration and manifest (image-spec, "Image Configuration", "Image Manifest").

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Document, Image, ImageLayer};
use crate::layer::entrypoint::Start;
use crate::layer::{BuiltLayer, LayerKind};
use crate::lock::BasePart;
use crate::oci::{Descriptor, json::canonical, media};

/// What an image is assembled from.
#[derive(Debug, Clone, Copy)]
pub struct Assembly<'a> {
    /// The base, as locked; every layer with its blob.
    pub base: &'a BasePart,
    /// The base's configuration, whole.
    pub base_config: &'a Value,
    /// Our layers, bottom first.
    pub layers: &'a [BuiltLayer],
    /// How it starts.
    pub start: &'a Start,
    /// Labels to add.
    pub labels: &'a BTreeMap<String, String>,
    /// Seconds since the epoch.
    pub created: i64,
}

/// Makes the image. Every field of the base's configuration stays, unknown ones too, save those that say how it starts,
/// when it was made and what is in it.
#[must_use]
pub fn assemble(parts: &Assembly<'_>) -> Image {
    let created = Timestamp::from_second(parts.created).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    let layers = image_layers(parts);
    let config = Document::new(media::CONFIG, canonical(&config(parts, &layers, &created)));
    let manifest = manifest(parts, &layers, &config, &created);
    Image {
        manifest: Document::new(media::MANIFEST, canonical(&manifest)),
        config,
        platform: parts.base.platform.clone(),
        layers,
        base_source: parts.base.source.clone(),
    }
}

fn image_layers(parts: &Assembly<'_>) -> Vec<ImageLayer> {
    let base = parts.base.layers.iter().map(|it| {
        let blob = it.blob.clone().unwrap_or_else(|| Descriptor {
            media_type: media::LAYER.to_owned(),
            digest: it.diff_id,
            size: 0,
        });
        let media_type = media::to_oci(&blob.media_type).to_owned();
        let title = parts.base.name.clone().unwrap_or_else(|| "base".to_owned());
        let descriptor = Descriptor { media_type, ..blob };
        ImageLayer { kind: LayerKind::Base, title, descriptor, diff_id: it.diff_id, uncompressed: None }
    });
    let ours = parts.layers.iter().map(|it| ImageLayer {
        kind: it.kind,
        title: it.title.clone(),
        descriptor: it.layer.descriptor.clone(),
        diff_id: it.layer.diff_id,
        uncompressed: Some(it.layer.uncompressed),
    });
    base.chain(ours).collect()
}

fn config(parts: &Assembly<'_>, layers: &[ImageLayer], created: &str) -> Value {
    let mut config = object(parts.base_config);
    let mut run = object(config.get("config").unwrap_or(&Value::Null));
    run.insert("Entrypoint".to_owned(), json!(parts.start.entrypoint));
    run.insert("Cmd".to_owned(), if parts.start.cmd.is_empty() { Value::Null } else { json!(parts.start.cmd) });
    run.insert("WorkingDir".to_owned(), json!(parts.start.working_dir));
    run.insert("Env".to_owned(), json!(merged_env(run.get("Env"), &parts.start.env)));
    run.retain(|key, value| key != "Cmd" || !value.is_null());
    if !parts.labels.is_empty() {
        let mut labels = object(run.get("Labels").unwrap_or(&Value::Null));
        labels.extend(parts.labels.iter().map(|(key, value)| (key.clone(), json!(value))));
        run.insert("Labels".to_owned(), Value::Object(labels));
    }
    config.insert("config".to_owned(), Value::Object(run));
    config.insert("created".to_owned(), json!(created));
    config.insert("os".to_owned(), json!(parts.base.platform.os));
    config.insert("architecture".to_owned(), json!(parts.base.platform.architecture));
    // What Docker notes of the container an image was committed from says nothing about ours.
    for stale in ["container", "container_config", "docker_version", "id", "parent"] {
        config.remove(stale);
    }
    let diff_ids: Vec<_> = layers.iter().map(|it| it.diff_id).collect();
    config.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
    let mut history = config.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
    let told = history.iter().filter(|it| it.get("empty_layer") != Some(&Value::Bool(true))).count();
    // A base whose history tells of fewer layers than it has would shift ours to the wrong ones.
    for _ in told..parts.base.layers.len() {
        history.push(json!({"created": created, "created_by": "base image"}));
    }
    history.extend(parts.layers.iter().map(|it| {
        json!({"created": created, "created_by": format!("agent build: {} {}", it.kind.as_str(), it.title).trim_end()})
    }));
    config.insert("history".to_owned(), Value::Array(history));
    Value::Object(config)
}

fn manifest(parts: &Assembly<'_>, layers: &[ImageLayer], config: &Document, created: &str) -> Value {
    let mut annotations = BTreeMap::from([("org.opencontainers.image.created", created.to_owned())]);
    if let Some(name) = &parts.base.name {
        annotations.insert("org.opencontainers.image.base.name", name.clone());
    }
    if let Some(digest) = &parts.base.manifest {
        annotations.insert("org.opencontainers.image.base.digest", digest.to_string());
    }
    json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": config.descriptor,
        "layers": layers.iter().map(|it| &it.descriptor).collect::<Vec<_>>(),
        "annotations": annotations,
    })
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// The base's variables in their order, ours in place of those of the same name, the rest of ours after them.
fn merged_env(base: Option<&Value>, ours: &BTreeMap<String, String>) -> Vec<String> {
    let mut left = ours.clone();
    let mut env: Vec<String> = base
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|entry| {
            let name = entry.split('=').next().unwrap_or(entry);
            left.remove(name).map_or_else(|| entry.to_owned(), |value| format!("{name}={value}"))
        })
        .collect();
    env.extend(left.into_iter().map(|(name, value)| format!("{name}={value}")));
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::lock::BaseLayer;
    use crate::oci::{Layer, Platform};

    #[test]
    fn the_bases_fields_stay_and_ours_are_set() {
        let base_layer =
            Descriptor { media_type: media::DOCKER_LAYER_GZIP.to_owned(), digest: Digest::of("b"), size: 9 };
        let base = BasePart {
            name: Some("docker.io/library/x:1".to_owned()),
            source: None,
            manifest: Some(Digest::of("m")),
            config: Digest::of("c"),
            platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
            layers: vec![BaseLayer { diff_id: Digest::of("bd"), blob: Some(base_layer) }],
            recipe: None,
        };
        let base_config = json!({
            "unknown": [1], "container": "abc", "history": [{"created_by": "FROM", "empty_layer": true}],
            "config": {"User": "jo", "Cmd": ["sh"], "Env": ["A=1", "PATH=/bin"], "X-Vendor": {"k": 1}},
        });
        let layer = Layer {
            descriptor: Descriptor { media_type: media::LAYER_GZIP.to_owned(), digest: Digest::of("l"), size: 3 },
            diff_id: Digest::of("ld"),
            uncompressed: 10,
        };
        let layers = [BuiltLayer {
            kind: LayerKind::Code,
            title: "code".to_owned(),
            key: Digest::of("k"),
            layer,
            cached: false,
            seconds: 0.0,
        }];
        let start = Start {
            entrypoint: vec!["/x".to_owned()],
            env: BTreeMap::from([("PATH".to_owned(), "/venv:/bin".to_owned()), ("B".to_owned(), "2".to_owned())]),
            ..Start::default()
        };
        let labels = BTreeMap::from([("l".to_owned(), "v".to_owned())]);
        let image = assemble(&Assembly {
            base: &base,
            base_config: &base_config,
            layers: &layers,
            start: &start,
            labels: &labels,
            created: 86_400,
        });
        let config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
        assert_eq!(config["unknown"], json!([1]));
        assert_eq!(config.get("container"), None);
        assert_eq!(config["created"], "1970-01-02T00:00:00Z");
        assert_eq!(
            config["config"],
            json!({"User": "jo", "Entrypoint": ["/x"], "Env": ["A=1", "PATH=/venv:/bin", "B=2"], "WorkingDir": "", "X-Vendor": {"k": 1}, "Labels": {"l": "v"}})
        );
        assert_eq!(config["rootfs"]["diff_ids"], json!([Digest::of("bd"), Digest::of("ld")]));
        let told = config["history"].as_array().unwrap().iter().filter(|it| it.get("empty_layer").is_none()).count();
        assert_eq!(told, 2);
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        assert_eq!(manifest["layers"][0]["mediaType"], media::LAYER_GZIP);
        assert_eq!(manifest["config"]["digest"], json!(image.config.digest()));
    }
}
