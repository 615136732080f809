//! Docker.

use agent::image::deliver::docker;
use agent::run::{EngineKind, Found};

use super::{engine, ground, lives, obeys, outlives_its_starter, run_image, runs_out, script, shell, stops};
use crate::run::name;
use crate::support::images::{block, engine as tests_docker};
use crate::support::{Engine, TestContext, require};

#[test]
fn a_run_is_started_found_stopped_and_removed() {
    require(Engine::Docker);
    let context = TestContext::new();
    let (name, runs, store) = (name("engine"), context.path("runs"), context.path("store"));
    let image = block(async {
        let (around, image) = shell(&context).await;
        docker(&around, &image, &tests_docker(), &name.parse().unwrap()).await.unwrap();
        let image = run_image(&name, &image);
        let ground = ground(&runs, &store);
        let (one, other) = (engine(EngineKind::Docker, &ground).await, engine(EngineKind::Docker, &ground).await);
        lives(&*one, &runs, &image).await;
        stops(&*one, &*other, &runs, &image).await;
        obeys(&*one, &runs, &image).await;
        assert_eq!(runs_out(&*one, &runs, &image).await, super::OUT_OF_MEMORY);
        image
    });
    outlives_its_starter(EngineKind::Docker, &runs, &store, &image);
    block(async { tests_docker().remove_image(&name).await.unwrap() });
}

#[test]
fn a_container_that_was_created_only_is_started_and_a_name_that_moved_does_no_harm() {
    require(Engine::Docker);
    let context = TestContext::new();
    let (name, runs) = (name("created"), context.path("runs"));
    block(async {
        let (around, image) = shell(&context).await;
        let docker_of_tests = tests_docker();
        docker(&around, &image, &docker_of_tests, &name.parse().unwrap()).await.unwrap();
        let known = run_image(&name, &image);
        let engine = engine(EngineKind::Docker, &ground(&runs, &context.path("store"))).await;
        let spec = script(&runs, &known, "exit 4");
        // As by an executor that was killed between the two steps.
        let mut half = spec.container.clone();
        half.image.clone_from(&name);
        half.labels.insert(agent::run::docker::RUN_LABEL.to_owned(), spec.id.to_string());
        docker_of_tests.create(&half).await.unwrap();
        assert_eq!(engine.find(&spec.id).await.unwrap(), Found::Absent);
        engine.start(&spec).await.unwrap();
        assert_eq!(engine.wait(&spec.id).await.unwrap(), super::exited(4));
        engine.remove(&spec.id).await.unwrap();

        // The name means another image by now; this one is still there.
        let (around, other) = shell(&context).await;
        let keep = format!("{name}-kept");
        docker(&around, &image, &docker_of_tests, &keep.parse().unwrap()).await.unwrap();
        docker(&around, &other, &docker_of_tests, &name.parse().unwrap()).await.unwrap();
        engine.prepare(&known).await.unwrap();
        let spec = script(&runs, &known, "cp /opt/data $AGENT_SPOOL/data");
        engine.start(&spec).await.unwrap();
        assert_eq!(engine.wait(&spec.id).await.unwrap(), super::exited(0));
        engine.remove(&spec.id).await.unwrap();
        docker_of_tests.remove_image(&keep).await.unwrap();
        let error = engine.prepare(&known).await.unwrap_err();
        assert!(error.to_string().contains("another image under the name"), "{error}");
        docker_of_tests.remove_image(&name).await.unwrap();
    });
}
