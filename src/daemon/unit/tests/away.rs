//! Units that are to end while a server or an engine is away, and engines that say nothing.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use super::super::*;
use super::world::{Act, BUILDS, Going, PACE, PATIENT, World};
use crate::daemon::journal::Phase;
use crate::engine::{Docker, Endpoint};
use crate::run::ContainerEngine;
use crate::run::Outcome;

/// Longer than a unit waits that is to end, shorter than anything else here.
const SOON: Duration = Duration::from_secs(10);

const DONE: Outcome = Outcome::Exited { code: 0, out_of_memory: false };

/// A unit that has come so far, and then the server went away.
async fn without_a_server(phase: Phase, pace: Pace) -> (World, Going) {
    let mut world = World::queued().await;
    if phase == Phase::Taken {
        world.stop_server().await;
    }
    let mut unit = world.begin_at(pace);
    if phase > Phase::Taken {
        unit.reaches(Phase::Run).await;
        world.says("running").await;
        world.stop_server().await;
    }
    if phase > Phase::Run {
        world.engine.end(&DONE);
        // With an empty console the status alone waits.
        unit.reaches(Phase::Drain).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (world, unit)
}

#[tokio::test]
async fn a_stop_without_a_server_leaves_the_unit_for_the_next_start() {
    for phase in [Phase::Taken, Phase::Run, Phase::Drain] {
        let (mut world, mut unit) = without_a_server(phase, PACE).await;
        let asked = Instant::now();
        unit.asks.send(Ask::Stop).unwrap();
        assert_eq!(unit.ends().await, UnitEnd::Detached, "{phase:?}");
        assert!(asked.elapsed() < SOON, "{phase:?}: {:?}", asked.elapsed());
        assert!(!world.engine.is_running(), "{phase:?}");
        world.start_server().await;
        let end = world.resume().ends().await;
        match phase {
            Phase::Taken => {
                assert_eq!(end, UnitEnd::Returned);
                let popped = world.call("queues.get_next_task", serde_json::json!({ "queue": world.queue })).await;
                assert_eq!(popped["entry"]["task"], world.task.as_str());
                assert!(world.engine.calls().is_empty());
            }
            Phase::Run => assert_eq!(world.told().await, ("stopped".to_owned(), "user abort".to_owned())),
            _ => assert_eq!(world.told().await.0, "completed"),
        }
    }
}

#[tokio::test]
async fn a_second_wish_to_end_is_obeyed_at_once() {
    for phase in [Phase::Taken, Phase::Drain] {
        let (_world, mut unit) = without_a_server(phase, PATIENT).await;
        unit.asks.send(Ask::Stop).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        let asked = Instant::now();
        unit.asks.send(Ask::Detach).unwrap();
        assert_eq!(unit.ends().await, UnitEnd::Detached);
        assert!(asked.elapsed() < SOON, "{phase:?}: {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn whoever_asks_for_the_task_again_takes_back_a_stop_that_came_before_it_was_taken() {
    let (mut world, mut unit) = without_a_server(Phase::Taken, PACE).await;
    unit.asks.send(Ask::Stop).unwrap();
    assert_eq!(unit.ends().await, UnitEnd::Detached);
    world.start_server().await;
    let mut left = world.journal().abandoned(|it| it.wish.is_some()).unwrap().units;
    left[0].withdraw().unwrap();
    drop(left);
    world.engine.ends_with(0);
    let end = world.resume().ends().await;
    assert!(matches!(end, UnitEnd::Settled { ref status, .. } if status == "completed"), "{end:?}");
}

#[tokio::test]
async fn a_stop_without_an_engine_leaves_the_run_for_the_next_start() {
    let world = World::queued().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.engine.stops.lock().unwrap().push_back(Act::Hang);
    world.engine.finds.lock().unwrap().extend([Act::Hang; 10]);
    let asked = Instant::now();
    unit.asks.send(Ask::Stop).unwrap();
    assert_eq!(unit.ends().await, UnitEnd::Detached);
    assert!(asked.elapsed() < SOON && world.engine.is_running());
    world.engine.finds.lock().unwrap().clear();
    let _ = world.resume().ends().await;
    assert_eq!(world.told().await, ("stopped".to_owned(), "user abort".to_owned()));
    assert!(!world.engine.is_running());
}

#[tokio::test]
async fn an_engine_that_says_nothing_while_a_task_runs_is_told_of_until_it_answers() {
    let world = World::queued().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.says("running").await;
    world.engine.finds.lock().unwrap().extend([Act::Hang; 4]);
    world.says("waiting for fake, which does not answer").await;
    world.says("running").await;
    world.engine.end(&DONE);
    let _ = unit.ends().await;
    assert_eq!(world.status().await, "completed");
    assert!(unit.notes.iter().any(|it| it == "waiting for fake: it does not answer"), "{:?}", unit.notes);
}

#[tokio::test]
async fn a_docker_that_takes_connections_and_says_nothing_is_told_of_and_keeps_nobody() {
    let world = World::queued().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    unit.die().await;
    let path = world.dir.path().join("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            held.push(stream);
        }
    });
    let docker = Docker::connect(&Endpoint::plain(format!("unix://{}", path.display()))).unwrap();
    let mut unit = world.resume_with(&world.executor_of(Arc::new(ContainerEngine::docker(docker, false))));
    world.says("waiting for docker, which does not answer").await;
    let asked = Instant::now();
    unit.asks.send(Ask::Stop).unwrap();
    assert_eq!(unit.ends().await, UnitEnd::Detached);
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert!(world.engine.is_running());
}

#[tokio::test]
async fn nothing_is_built_for_an_engine_that_is_away() {
    let world = World::queued().await;
    world.builds(&format!("[ -e \"$here/there\" ] || exit 69{BUILDS}"));
    world.engine.finds.lock().unwrap().extend([Act::Fail(Kind::Unreachable); 4]);
    let mut unit = world.begin();
    world.says("waiting for fake: ").await;
    fs_err::write(world.dir.path().join("there"), "").unwrap();
    unit.reaches(Phase::Run).await;
    world.engine.end(&DONE);
    let _ = unit.ends().await;
    assert_eq!(world.status().await, "completed");
}

#[tokio::test]
async fn a_build_that_somebody_did_not_answer_is_done_again_and_fails_in_the_end() {
    let unanswered = |times: u32| {
        format!(
            "echo x >> \"$here/tries\"; if [ $(wc -l < \"$here/tries\") -le {times} ]; then \
             echo '{{\"error\":{{\"message\":\"the index does not answer\",\"exit_code\":69}}}}' >&2; exit 69; fi{BUILDS}"
        )
    };
    let world = World::queued().await;
    world.builds(&unanswered(2));
    let mut unit = world.begin();
    world.says("building again soon: the index does not answer").await;
    unit.reaches(Phase::Run).await;
    world.engine.end(&DONE);
    let _ = unit.ends().await;
    assert_eq!(world.status().await, "completed");
    assert!(world.console().await.contains("the image is built again soon"));

    let world = World::queued().await;
    world.builds(&unanswered(9));
    let UnitEnd::Settled { status, machinery, exit_code, .. } = world.begin().ends().await else {
        panic!("it goes on")
    };
    assert_eq!((status.as_str(), machinery, exit_code), ("failed", true, 69));
    assert_eq!(fs_err::read_to_string(world.dir.path().join("tries")).unwrap().lines().count(), 3);
}
