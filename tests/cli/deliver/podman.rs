//! Into Podman.

use agent::base::{Request, find};
use agent::engine::{Docker, Endpoint, Podman};
use agent::image::deliver::{docker, podman};
use agent::oci::{Platform, Reference};

use crate::support::images::{around, block, layer, on_base, unique};
use crate::support::{Engine, TestContext, base, podman_socket, require, setting};

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

#[test]
fn its_service_takes_an_image_as_an_engine_does() {
    require(Engine::Podman);
    let context = TestContext::new();
    block(async {
        let around = around(&context, "store");
        let base = crate::support::images::small_base(&around, &context.path("base"), &unique("service")).await;
        let image = on_base(&base, &[layer(&around.store, &[("opt/data", b"x")])]);
        let engine = Docker::connect(&Endpoint::plain(format!("unix://{}", podman_socket().display()))).unwrap();
        let name: Reference = "localhost/agent-test-podman-service:1".parse().unwrap();
        let delivered = docker(&around, &image, &engine, &name).await.unwrap();
        assert_eq!((delivered.unchanged, delivered.layers), (false, 3));
        assert!(docker(&around, &image, &engine, &name).await.unwrap().unchanged);
        assert_eq!(engine.image(&name.to_string()).await.unwrap().unwrap().diff_ids, image.diff_ids());
        engine.remove_image(&name.to_string()).await.unwrap();
    });
}
