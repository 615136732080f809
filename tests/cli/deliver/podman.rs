//! Into Podman.

use agent::base::{Request, find};
use agent::engine::Podman;
use agent::image::deliver::podman;
use agent::oci::{Platform, Reference};

use crate::support::images::{around, block, layer, on_base, unique};
use crate::support::{Engine, TestContext, base, require, setting};

fn program() -> Podman {
    ["CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"].into_iter().fold(Podman::default(), |podman, name| {
        setting(name).into_iter().fold(podman, |podman, value| podman.with_env(name, &value))
    })
}

#[test]
fn an_image_is_pulled_once_named_and_runs() {
    require(Engine::Podman);
    let context = TestContext::new();
    block(async {
        let (around, engine) = (around(&context, "store"), program());
        let request = Request::Layout { directory: base(), tag: None };
        let base = find(&around, &request, &Platform::host()).await.unwrap();
        let text = unique("podman");
        let image = on_base(&base, &[layer(&around.store, &[("opt/data", text.as_bytes())])]);
        let name: Reference = "agent-test-podman:1".parse().unwrap();
        let delivered = podman(&around, &image, &engine, &name).await.unwrap();
        assert!(!delivered.unchanged);
        assert!(podman(&around, &image, &engine, &name).await.unwrap().unchanged);
        let found = engine.image("localhost/agent-test-podman:1").unwrap().unwrap();
        assert_eq!((found.id, found.diff_ids), (image.config.digest(), image.diff_ids()));
        assert_eq!(found.tags, ["localhost/agent-test-podman:1"]);
        let other: Reference = "agent-test-podman:2".parse().unwrap();
        assert_eq!(podman(&around, &image, &engine, &other).await.unwrap().layers, 0);
        let run = context.command("podman").args(["run", "--rm", "--network", "none", "agent-test-podman:2"]);
        assert_eq!(run.arg("cat /opt/data").ok(), text.trim());
        context.command("podman").args(["rmi", "--force", &image.config.digest().hex()]).ok();
        assert_eq!(engine.image("localhost/agent-test-podman:1").unwrap(), None);
    });
}
