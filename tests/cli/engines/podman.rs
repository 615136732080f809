//! Podman, over its own API: on the tests' service, and on one that is started for the purpose.

use agent::engine::{Libpod, Podman};
use agent::image::deliver::podman;
use agent::run::ContainerEngine;
use agent::run::{Engine as _, EngineKind, Outcome};

use super::{engine, exited, ground, lives, obeys, outlives_its_starter, run_image, runs_out, script, shell, stops};
use crate::run::name;
use crate::support::images::block;
use crate::support::{Engine, TestContext, require, setting};

fn program() -> Podman {
    ["CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"].into_iter().fold(Podman::default(), |podman, name| {
        setting(name).into_iter().fold(podman, |podman, value| podman.with_env(name, &value))
    })
}

#[test]
fn a_run_is_started_found_stopped_and_removed() {
    require(Engine::Podman);
    let context = TestContext::new();
    let (name, runs, store) = (name("podman-engine"), context.path("runs"), context.path("store"));
    let image = block(async {
        let (around, image) = shell(&context).await;
        podman(&around, &image, &program(), &name.parse().unwrap()).await.unwrap();
        let image = run_image(&name, &image);
        let ground = ground(&runs, &store);
        let one = engine(EngineKind::Podman, &ground).await;
        let ours = ContainerEngine::podman(Libpod::of_ours(program()).unwrap(), false);
        lives(&*one, &runs, &image).await;
        // Started by one service, attended by another.
        stops(&ours, &*one, &runs, &image).await;
        obeys(&*one, &runs, &image).await;
        // Podman hears of the reason where its conmon does, which is not everywhere.
        assert!(matches!(runs_out(&*one, &runs, &image).await, Outcome::Exited { code: 137, .. }));
        // The service goes and its containers stay.
        let spec = script(&runs, &image, super::OBEDIENT);
        ours.start(&spec).await.unwrap();
        drop(ours);
        assert_eq!(super::written(&spec, "up"), "up\n");
        let ours = ContainerEngine::podman(Libpod::of_ours(program()).unwrap(), false);
        ours.stop(&spec.id, std::time::Duration::from_secs(60)).await.unwrap();
        assert_eq!(ours.wait(&spec.id).await.unwrap(), exited(5));
        ours.remove(&spec.id).await.unwrap();
        image
    });
    outlives_its_starter(EngineKind::Podman, &runs, &store, &image);
    context.command("podman").args(["rmi", "--force", &name]).ok();
}

/// What this machine may not have the means for (a bridge) is noted at least as it was asked for.
#[test]
fn ports_are_what_podman_takes_them_for() {
    require(Engine::Podman);
    let context = TestContext::new();
    let name = name("podman-noted");
    let mut spec = agent::engine::ContainerSpec { image: name.clone(), ..Default::default() };
    let text = "-p 127.0.0.1:18080:8080 -p 5353:53/udp --network bridge --pids-limit 77 --group-add 44";
    agent::run::arguments::apply(&mut spec, text).unwrap();
    let id = block(async {
        let (around, image) = shell(&context).await;
        podman(&around, &image, &program(), &name.parse().unwrap()).await.unwrap();
        Libpod::of_ours(program()).unwrap().create(&spec).await.unwrap()
    });
    let inspected = context.command("podman").args(["inspect", &id]).ok();
    let host = &serde_json::from_str::<serde_json::Value>(&inspected).unwrap()[0]["HostConfig"];
    let at = |address: &str, port: &str| serde_json::json!([{ "HostIp": address, "HostPort": port }]);
    let ports = serde_json::json!({ "8080/tcp": at("127.0.0.1", "18080"), "53/udp": at("", "5353") });
    assert_eq!(host["PortBindings"], ports, "{inspected}");
    assert_eq!((&host["PidsLimit"], &host["GroupAdd"]), (&serde_json::json!(77), &serde_json::json!(["44"])));
    context.command("podman").args(["rm", "--force", &id]).ok();
    context.command("podman").args(["rmi", "--force", &name]).ok();
}
