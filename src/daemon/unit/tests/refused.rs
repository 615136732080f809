//! Tasks that cannot run here, which is known before anything is fetched or built.

use serde_json::json;

use super::super::*;
use super::world::World;
use crate::run::EngineKind;

#[tokio::test]
async fn what_the_engine_cannot_follow_is_told_before_the_build() {
    let mut world = World::queued().await;
    world.settings.engine = EngineKind::Podman;
    let container = json!({ "arguments": "--ipc=host --link db" });
    world.call("tasks.edit", json!({ "task": world.task, "container": container, "force": true })).await;
    world.builds("touch \"$here/built\"; exit 1");
    let mut unit = world.begin();
    let why = "the container argument `--link` is refused in Podman: Podman has no links; containers of one `--network` \
               find each other by name";
    let reason = format!("the task is not run here: {why}");
    let end = UnitEnd::Settled { status: "failed".to_owned(), reason: reason.clone(), exit_code: 65, machinery: false };
    assert_eq!(unit.ends().await, end);
    assert_eq!(world.told().await, ("failed".to_owned(), reason));
    let console = world.console().await;
    assert!(console.contains("hint: Remove it from the container arguments, or run the task in Docker"), "{console}");
    assert!(world.engine.calls().iter().all(|it| *it == "remove"), "{:?}", world.engine.calls());
    assert!(!world.dir.path().join("built").exists());
}
