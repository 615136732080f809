//! Units that an earlier process began in another engine.

use std::sync::Mutex;

use super::super::*;
use super::world::{Act, BUILDS, Fake, World};
use crate::daemon::journal::{Phase, boot};
use crate::error::Explain;
use crate::run::{Engine, EngineKind, Outcome};

const DONE: Outcome = Outcome::Exited { code: 0, out_of_memory: false };

#[derive(Debug, thiserror::Error)]
#[error("nobody listens there")]
struct Closed;

impl Explain for Closed {
    fn kind(&self) -> Kind {
        Kind::System
    }
}

/// What opens an engine, once it can be.
type Opened = Arc<Mutex<Option<Arc<Fake>>>>;

/// An executor of another engine, which finds the world's under the name of Podman as soon as that can be opened.
fn elsewhere(world: &World, own: &Arc<Fake>, podman: &Opened) -> Arc<Executor> {
    let podman = Arc::clone(podman);
    let executor = world.executor_of(Arc::clone(own) as Arc<dyn Engine>);
    let open: engines::Open = Arc::new(move |kind| {
        assert_eq!(kind, EngineKind::Podman);
        let found = locked(&podman).clone().map(|it| it as Arc<dyn Engine>);
        Box::pin(async move { found.ok_or_else(|| Closed.into()) })
    });
    Arc::new(Executor { open, ..Executor::clone(&executor) })
}

/// A world with a run in Podman that nobody attends.
async fn left() -> (World, Arc<Fake>, Opened) {
    let world = World::queued().await;
    let mut unit = world.begin_in("podman");
    unit.reaches(Phase::Run).await;
    unit.die().await;
    (world, Arc::default(), Arc::default())
}

#[tokio::test]
async fn a_run_is_attended_in_the_engine_it_is_in() {
    let (world, own, podman) = left().await;
    *locked(&podman) = Some(Arc::clone(&world.engine));
    let mut unit = world.resume_with(&elsewhere(&world, &own, &podman));
    unit.reaches(Phase::Run).await;
    world.engine.end(&DONE);
    assert!(matches!(unit.ends().await, UnitEnd::Settled { .. }));
    assert_eq!(world.status().await, "completed");
    assert!(own.calls().is_empty() && world.engine.calls().ends_with(&["remove"]));
}

#[tokio::test]
async fn a_run_whose_engine_cannot_be_opened_waits_for_it_and_says_so() {
    let (world, own, podman) = left().await;
    let mut unit = world.resume_with(&elsewhere(&world, &own, &podman));
    world.says("waiting for podman, which does not answer").await;
    *locked(&podman) = Some(Arc::clone(&world.engine));
    world.says("running").await;
    world.engine.end(&DONE);
    let _ = unit.ends().await;
    assert_eq!(world.status().await, "completed");
    let why = "waiting for podman: podman cannot be used: nobody listens there";
    assert!(unit.notes.iter().any(|it| it == why), "{:?}", unit.notes);
}

#[tokio::test]
async fn a_run_that_a_restart_of_the_machine_ended_is_told_of_without_its_engine() {
    let (world, own, podman) = left().await;
    let mut found = world.journal().abandoned(|_| true).unwrap().units;
    assert_eq!(found[0].record().boot, Some(boot()));
    found[0].entry.update(|it| it.boot = Some("before".to_owned())).unwrap();
    drop(found);
    let _ = world.resume_with(&elsewhere(&world, &own, &podman)).ends().await;
    let reason = "the run was lost: it is gone, and nobody knows how it ended";
    assert_eq!(world.told().await, ("failed".to_owned(), reason.to_owned()));
}

#[tokio::test]
async fn what_was_not_started_anywhere_runs_where_new_tasks_do() {
    for phase in [Phase::Build, Phase::Prepare] {
        let (world, own, podman) = (World::queued().await, Arc::<Fake>::default(), Opened::default());
        match phase {
            Phase::Build => world.builds("exec sleep 600"),
            _ => world.engine.prepares.lock().unwrap().push_back(Act::Hang),
        }
        let mut unit = world.begin_in("podman");
        unit.reaches(phase).await;
        unit.die().await;
        world.builds(BUILDS);
        own.ends_with(0);
        // Nobody even opens the other one.
        let mut unit = world.resume_with(&elsewhere(&world, &own, &podman));
        let _ = unit.ends().await;
        assert_eq!(world.status().await, "completed", "{phase:?}");
        assert_eq!(own.calls(), ["prepare", "start", "remove"], "{phase:?}");
        assert_eq!(world.journal().all().unwrap().units[0].engine, "fake");
    }
}
