//! Units whose process was killed.

use std::time::Duration;

use serde_json::json;

use super::super::*;
use super::world::{Act, BUILDS, PACE, World};
use crate::daemon::journal::Phase;
use crate::run::Outcome;

#[tokio::test]
async fn after_a_kill_in_any_phase_the_task_runs_once_and_completes() {
    let phases = [
        Phase::Taken,
        Phase::Build,
        Phase::Prepare,
        Phase::Start,
        Phase::Run,
        Phase::Drain,
        Phase::Settle,
        Phase::Done,
    ];
    for phase in phases {
        let mut world = World::queued().await;
        match phase {
            Phase::Build => world.builds("exec sleep 600"),
            Phase::Prepare => world.engine.prepares.lock().unwrap().push_back(Act::Hang),
            Phase::Start => world.engine.starts.lock().unwrap().push_back(Act::Hang),
            _ => {}
        }
        let mut unit = world.begin();
        if phase > Phase::Run {
            unit.reaches(Phase::Run).await;
            if phase != Phase::Done {
                world.stop_server().await;
            }
            world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
        }
        // The console of a drained run is empty: only the status waits for the server.
        let waits = if phase == Phase::Settle { Phase::Drain } else { phase };
        unit.reaches(waits).await;
        unit.die().await;
        world.builds(BUILDS);
        // It may have died before it asked the engine.
        world.engine.prepares.lock().unwrap().clear();
        world.engine.starts.lock().unwrap().clear();
        if world.server.is_none() {
            world.start_server().await;
        }
        if phase == Phase::Done {
            // It may have been over before the kill.
            assert_eq!(world.status().await, "completed");
            continue;
        }
        let mut unit = world.resume();
        if phase <= Phase::Run {
            unit.reaches(Phase::Run).await;
            world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
        }
        let end = unit.ends().await;
        assert!(matches!(&end, UnitEnd::Settled { status, .. } if status == "completed"), "{phase:?}: {end:?}");
        assert_eq!(world.status().await, "completed", "{phase:?}");
        assert_eq!(world.engine.calls().iter().filter(|it| **it == "start").count(), 1, "{phase:?}");
        assert!(world.journal().abandoned(|_| true).unwrap().units.is_empty());
    }
}

#[tokio::test]
async fn a_run_that_started_and_nobody_wrote_down_is_attended_while_the_server_is_away() {
    let mut world = World::queued().await;
    world.engine.starts.lock().unwrap().push_back(Act::Hang);
    let mut unit = world.begin();
    unit.reaches(Phase::Start).await;
    unit.die().await;
    let run = world.journal().all().unwrap().units[0].run.clone();
    world.engine.goes_on(&run);
    world.stop_server().await;
    let mut unit = world.resume();
    unit.reaches(Phase::Run).await;
    world.start_server().await;
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    let _ = unit.ends().await;
    assert_eq!(world.status().await, "completed");
}

#[tokio::test]
async fn a_run_that_ended_or_was_lost_meanwhile_is_told_as_it_was() {
    for (outcome, status, reason) in [
        (Some(3), "failed", "worker execution exit code 3"),
        (Some(0), "completed", "worker execution done"),
        (None, "failed", "the run was lost: it is gone, and nobody knows how it ended"),
    ] {
        let world = World::queued().await;
        let mut unit = world.begin();
        unit.reaches(Phase::Run).await;
        unit.die().await;
        match outcome {
            Some(code) => world.engine.end(&Outcome::Exited { code, out_of_memory: false }),
            None => world.engine.lose(),
        }
        let _ = world.resume().ends().await;
        assert_eq!(world.told().await, (status.to_owned(), reason.to_owned()));
    }
}

#[tokio::test]
async fn the_end_is_told_once_what_the_killed_process_was_sending_must_have_arrived() {
    let world = World::queued().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    unit.die().await;
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    let mut unit = world.resume_at(&world.executor(), Pace { late: Duration::from_secs(600), ..PACE });
    unit.reaches(Phase::Settle).await;
    let told = async {
        while world.status().await == "in_progress" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_millis(500), told).await;
    assert!(told.is_err(), "the end is told while a message may be on its way that takes it back");
    let message = json!({ "task": world.task, "status_message": "running (Changed by clearml-agent me:0)" });
    world.call("tasks.started", message).await;
    unit.asks.send(Ask::Detach).unwrap();
    assert_eq!(unit.ends().await, UnitEnd::Detached);
    let _ = world.resume().ends().await;
    assert_eq!(world.told().await, ("completed".to_owned(), "worker execution done".to_owned()));
}

#[tokio::test]
async fn an_end_that_a_message_takes_back_which_comes_later_still_is_told_again() {
    let world = World::queued().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    unit.die().await;
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    let _ = world.resume().ends().await;
    let again = || async { tell_again(&world.client, &world.journal().all().unwrap().units).await.unwrap() };
    assert!(again().await.is_empty(), "its end stands");
    let late = json!({ "task": world.task, "status_message": "running (Changed by clearml-agent me:0)" });
    world.call("tasks.started", late.clone()).await;
    assert_eq!(world.status().await, "in_progress");
    assert_eq!(again().await, std::slice::from_ref(&world.task));
    assert_eq!(world.told().await, ("completed".to_owned(), "worker execution done".to_owned()));
    // Whoever runs it anew is left alone: before the new run's mark, and after it.
    let taken = json!({ "task": world.task, "status_message": "Changed by clearml-agent me:0" });
    world.call("tasks.started", taken).await;
    assert!(again().await.is_empty());
    let marked = json!({ "task": world.task, "force": true, "runtime": { "_agent_run": "another" } });
    world.call("tasks.edit", marked).await;
    world.call("tasks.started", late).await;
    assert!(again().await.is_empty());
    assert_eq!(world.status().await, "in_progress");
}

#[tokio::test]
async fn a_stop_that_was_asked_for_before_the_kill_is_carried_out_after_it() {
    let world = World::queued().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.says("running").await;
    let mut runtime = world.document().await["runtime"].clone();
    runtime["_abort_callback_timeout"] = json!(600);
    world.call("tasks.edit", json!({ "task": world.task, "force": true, "runtime": runtime })).await;
    world.call("tasks.stop", json!({ "task": world.task })).await;
    let stopping = async {
        while world.journal().all().unwrap().units[0].wish.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), stopping).await.unwrap();
    unit.die().await;
    assert!(world.engine.is_running());
    runtime["_abort_callback_completed"] = json!(1);
    world.call("tasks.edit", json!({ "task": world.task, "force": true, "runtime": runtime })).await;
    let _ = world.resume().ends().await;
    assert_eq!(world.told().await, ("stopped".to_owned(), "task was stopped by tasks.stop".to_owned()));
    assert!(!world.engine.is_running());
}

#[tokio::test]
async fn detached_units_leave_everything_as_it_is() {
    let world = World::queued().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    unit.asks.send(Ask::Detach).unwrap();
    assert_eq!(unit.ends().await, UnitEnd::Detached);
    assert!(world.engine.is_running());
    assert_eq!(world.status().await, "in_progress");
    let mut unit = world.resume();
    unit.reaches(Phase::Run).await;
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    let _ = unit.ends().await;
    assert_eq!(world.status().await, "completed");
}

#[tokio::test]
async fn a_task_that_left_a_queue_which_is_gone_is_told_so() {
    let world = World::queued().await;
    let (journal, claim) = (world.journal(), world.claim());
    journal.intend(&claim, "fake", "here").unwrap();
    drop(journal);
    world.call("queues.delete", json!({ "queue": world.queue, "force": true })).await;
    let end = world.resume().ends().await;
    assert!(matches!(end, UnitEnd::Requeued { .. } | UnitEnd::Returned), "{end:?}");
    let reason = format!("the queue {} that it waited in is gone", world.queue.as_ref().unwrap());
    assert_eq!(world.told().await, ("stopped".to_owned(), reason));
    assert!(world.journal().all().unwrap().units.is_empty());
}

/// A unit whose process was killed around the moment in which its task left the queue.
async fn killed_while_taking(in_queue: bool, popped: bool) -> (World, UnitEnd) {
    let world = World::queued().await;
    if in_queue {
        world.call("tasks.enqueue", json!({ "task": world.task, "queue": world.queue })).await;
    }
    let (journal, claim) = (world.journal(), world.claim());
    journal.intend(&claim, "fake", "here").unwrap();
    if popped {
        journal.taken(&claim.run).unwrap();
    }
    drop(journal);
    world.engine.ends_with(0);
    let end = world.resume().ends().await;
    (world, end)
}

#[tokio::test]
async fn a_task_is_never_lost_on_its_way_out_of_the_queue() {
    // Not taken yet: it waits for whoever comes.
    let (world, end) = killed_while_taking(true, false).await;
    assert_eq!((end, world.status().await.as_str()), (UnitEnd::Returned, "queued"));
    // Taken, and written down: it is run.
    let (world, end) = killed_while_taking(false, true).await;
    assert!(matches!(end, UnitEnd::Settled { .. }), "{end:?}");
    assert_eq!(world.status().await, "completed");
    // Taken, and not written down: nobody else says that it is theirs, and it goes back.
    let (world, end) = killed_while_taking(false, false).await;
    assert!(matches!(end, UnitEnd::Requeued { .. }), "{end:?}");
    let popped = world.call("queues.get_next_task", json!({ "queue": world.queue })).await;
    assert_eq!(popped["entry"]["task"], world.task.as_str());
    // Put back by somebody meanwhile: it is taken again from there.
    let (world, end) = killed_while_taking(true, true).await;
    assert_eq!((end, world.status().await.as_str()), (UnitEnd::Returned, "queued"));
}
