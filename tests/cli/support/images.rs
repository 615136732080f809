//! Small images made by the library, for tests of where they go.

use std::collections::BTreeMap;
use std::path::Path;

use agent::base::{Around, Base, Request, find};
use agent::digest::Digest;
use agent::engine::{Docker, Endpoint};
use agent::image::{Assembly, Image, Start, assemble};
use agent::layer::{BuiltLayer, LayerKind};
use agent::oci::{Layer, LayerWriter, Meta, Platform};
use agent::registry::{Client, Settings};
use agent::report::silent;
use agent::store::Store;

use super::TestContext;

/// Runs a future to its end.
pub(crate) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

/// A store of the world's own, registries without credentials, no engine.
pub(crate) fn around(context: &TestContext, store: &str) -> Around {
    around_with(context, store, Settings::default())
}

/// The same with other ways to reach registries.
pub(crate) fn around_with(context: &TestContext, store: &str, settings: Settings) -> Around {
    Around {
        store: Store::open(&context.path(store)).unwrap(),
        registry: Client::new(settings).unwrap(),
        docker: None,
        reporter: silent(),
    }
}

/// The tests' Docker.
pub(crate) fn engine() -> Docker {
    Docker::connect(&Endpoint::plain(super::docker_host())).unwrap()
}

/// Bytes that no other test, and no other run of this one, has.
pub(crate) fn unique(name: &str) -> String {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{name} {} {time}\n", std::process::id())
}

/// A layer with these files; directories above them are made.
pub(crate) fn layer(store: &Store, files: &[(&str, &[u8])]) -> Layer {
    let mut entries: BTreeMap<String, Option<&[u8]>> = BTreeMap::new();
    for (path, bytes) in files {
        for (end, _) in path.match_indices('/') {
            entries.insert(path[..end].to_owned(), None);
        }
        entries.insert((*path).to_owned(), Some(bytes));
    }
    let mut writer: LayerWriter<'_> = store.layer_writer().unwrap();
    for (path, bytes) in entries {
        match bytes {
            Some(bytes) => writer.file(&path, &Meta::file(), bytes).unwrap(),
            None => writer.dir(&path, &Meta::dir()).unwrap(),
        }
    }
    writer.finish().unwrap()
}

/// An image of these layers of ours on a base.
pub(crate) fn on_base(base: &Base, layers: &[Layer]) -> Image {
    let layers: Vec<BuiltLayer> = layers
        .iter()
        .map(|layer| BuiltLayer {
            kind: LayerKind::Code,
            title: "code".to_owned(),
            key: Digest::of("key"),
            layer: layer.clone(),
            cached: false,
            seconds: 0.0,
        })
        .collect();
    let start = Start { entrypoint: vec!["/bin/sh".to_owned(), "-c".to_owned()], ..Start::default() };
    assemble(&Assembly {
        base: &agent::lock::base::part(&base.pin),
        base_config: &base.config,
        layers: &layers,
        start: &start,
        labels: &BTreeMap::new(),
        created: 1_700_000_000,
    })
}

/// A base of a few files, as an OCI layout made by the library; its own layers count as a base's from then on.
pub(crate) async fn small_base(around: &Around, directory: &Path, text: &str) -> Base {
    let nothing = Base {
        pin: agent::base::Pin {
            name: None,
            source: None,
            manifest: None,
            config: Digest::of("{}"),
            platform: Platform::host(),
            layers: Vec::new(),
        },
        config: serde_json::json!({"config": {"Env": ["PATH=/bin"], "User": "jo"}}),
    };
    let passwd = b"root:x:0:0::/root:/bin/sh\njo:x:1000:1000::/home/jo:/bin/sh\n";
    let layers = [
        layer(&around.store, &[("etc/passwd", passwd), ("etc/os-release", b"ID=small\nVERSION_ID=\"1\"\n")]),
        layer(&around.store, &[("opt/base.txt", text.as_bytes())]),
    ];
    let image = on_base(&nothing, &layers);
    agent::image::deliver::layout(around, &image, directory, "base").await.unwrap();
    let request = Request::Layout { directory: directory.to_owned(), tag: Some("base".to_owned()) };
    find(around, &request, &Platform::host()).await.unwrap()
}

/// Fails unless the image is right by the image-spec, blobs and all.
#[track_caller]
pub(crate) fn check(around: &Around, image: &Image) {
    use agent::image::validate::{Depth, validate};
    assert_eq!(validate(&around.store, image, Depth::Blobs), Vec::<String>::new());
}
