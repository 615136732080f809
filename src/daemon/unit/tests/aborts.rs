//! Units that somebody wants to end.

use std::time::Duration;

use serde_json::json;

use super::super::*;
use super::world::{Act, Going, PATIENT, World};
use crate::daemon::journal::Phase;
use crate::run::Outcome;

/// Builds for ever, and says so in a file.
const SLEEPS: &str = "echo $$ > \"$here/pid\"; exec sleep 600";

/// A world in which a unit stays in a phase, and the unit.
async fn staying_in(phase: Phase) -> (World, Going) {
    let world = World::queued().await;
    match phase {
        Phase::Build => world.builds(SLEEPS),
        Phase::Prepare => world.engine.prepares.lock().unwrap().push_back(Act::Hang),
        Phase::Start => world.engine.starts.lock().unwrap().push_back(Act::Hang),
        _ => {}
    }
    let mut unit = world.begin_at(PATIENT);
    unit.reaches(phase).await;
    // What comes in the moment of a message is overwritten by it.
    let message = match phase {
        Phase::Build => "building image",
        Phase::Prepare => "preparing image in fake",
        Phase::Start => "starting in fake",
        _ => "running",
    };
    world.says(message).await;
    if phase == Phase::Build {
        wait_until(|| world.dir.path().join("pid").exists()).await;
    }
    (world, unit)
}

async fn wait_until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
}

const PHASES: [Phase; 4] = [Phase::Build, Phase::Prepare, Phase::Start, Phase::Run];

#[tokio::test]
async fn the_server_stops_a_unit_in_every_phase() {
    for phase in PHASES {
        let (world, mut unit) = staying_in(phase).await;
        world.call("tasks.stop", json!({ "task": world.task })).await;
        // The status is told only after the end.
        while !unit.end.is_finished() {
            if world.engine.is_running() {
                assert_eq!(world.status().await, "in_progress", "{phase:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let UnitEnd::Settled { status, reason, .. } = unit.ends().await else { panic!("{phase:?}") };
        assert_eq!((status.as_str(), reason.as_str()), ("stopped", "task was stopped by tasks.stop"), "{phase:?}");
        assert_eq!(world.status().await, "stopped", "{phase:?}");
        let ended = if phase == Phase::Run { &["stop", "stopped", "remove"][..] } else { &["remove"] };
        assert!(world.engine.calls().ends_with(ended), "{phase:?}: {:?}", world.engine.calls());
        assert!(!builds(&world), "{phase:?}");
    }
}

#[tokio::test]
async fn whoever_started_it_stops_it_in_every_phase() {
    for phase in PHASES {
        let (world, mut unit) = staying_in(phase).await;
        unit.asks.send(Ask::Stop).unwrap();
        let end = unit.ends().await;
        let UnitEnd::Settled { status, reason, .. } = end else { panic!("{phase:?}: {end:?} {:?}", unit.notes) };
        assert_eq!((status.as_str(), reason.as_str()), ("stopped", "user abort"), "{phase:?}");
        assert_eq!(world.status().await, "stopped", "{phase:?}");
        assert!(!world.engine.is_running() && !builds(&world), "{phase:?}");
    }
}

/// Whether the build of this world goes on.
fn builds(world: &World) -> bool {
    let pid = fs_err::read_to_string(world.dir.path().join("pid")).unwrap_or_default();
    !pid.is_empty() && std::path::Path::new("/proc").join(pid.trim()).exists()
}

#[tokio::test]
async fn what_somebody_else_does_with_the_task_ends_the_unit_and_stands() {
    for phase in [Phase::Build, Phase::Run] {
        for (call, status) in [
            ("tasks.stopped", "stopped"),
            ("tasks.failed", "failed"),
            ("tasks.close", "closed"),
            ("tasks.publish", "published"),
            ("tasks.reset", "created"),
            ("tasks.dequeue", "created"),
            ("tasks.enqueue", "queued"),
            ("tasks.delete", "deleted"),
        ] {
            let (world, mut unit) = staying_in(phase).await;
            world.call(call, json!({ "task": world.task, "force": true })).await;
            let UnitEnd::Left { status: left, .. } = unit.ends().await else { panic!("{phase:?} {call}") };
            assert_eq!(left, status, "{phase:?} {call}");
            if status != "deleted" {
                assert_eq!(world.status().await, status, "{phase:?} {call}");
            }
            assert!(!world.engine.is_running() && !builds(&world), "{phase:?} {call}");
        }
    }
}

#[tokio::test]
async fn a_task_that_another_run_has_taken_is_left_to_it() {
    let (world, mut unit) = staying_in(Phase::Run).await;
    let other = RunId::new().unwrap();
    server::mark(&world.client, &world.task, Some(&other), 0).await.unwrap();
    let end = unit.ends().await;
    assert_eq!(end, UnitEnd::Left { status: "run by another worker".to_owned(), exit_code: 143 });
    assert_eq!(world.status().await, "in_progress");
}

#[tokio::test]
async fn a_program_that_completes_its_task_itself_runs_on() {
    let (world, mut unit) = staying_in(Phase::Run).await;
    world.call("tasks.completed", json!({ "task": world.task })).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.engine.is_running());
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    assert_eq!(unit.ends().await, UnitEnd::Left { status: "completed".to_owned(), exit_code: 0 });
}

#[tokio::test]
async fn the_sdk_gets_the_time_it_asked_for() {
    let (world, mut unit) = staying_in(Phase::Run).await;
    let mut runtime = world.document().await["runtime"].clone();
    runtime["_abort_callback_timeout"] = json!(180.0);
    world.call("tasks.edit", json!({ "task": world.task, "force": true, "runtime": runtime })).await;
    world.call("tasks.stop", json!({ "task": world.task })).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(world.engine.is_running());
    runtime["_abort_callback_completed"] = json!(1);
    world.call("tasks.edit", json!({ "task": world.task, "force": true, "runtime": runtime })).await;
    assert!(matches!(unit.ends().await, UnitEnd::Settled { .. }));
    assert_eq!(world.status().await, "stopped");
}

#[tokio::test]
async fn messages_never_look_like_a_request_to_stop() {
    let world = World::new().await;
    world.builds("echo '{\"event\":\"started\",\"id\":\"a\",\"title\":\"early-stopping 1.0\"}' >&2; exec sleep 600");
    let unit = world.begin();
    world.says("building image: early-ending 1.0").await;
    unit.asks.send(Ask::Stop).unwrap();
}
