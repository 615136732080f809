//! Runs that go on though their engine knows nothing of them.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Instant;

use super::super::*;
use super::world::{Act, LONG, World};
use crate::daemon::journal::Phase;

#[tokio::test]
async fn a_program_that_its_engine_has_forgotten_is_ended_by_its_process() {
    let world = World::queued().await;
    world.engine.starts.lock().unwrap().push_back(Act::OrphanProcess);
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.says("running").await;
    let mut program = world.engine.process.lock().unwrap().take().unwrap();
    assert!(program.try_wait().unwrap().is_none());
    unit.asks.send(Ask::Stop).unwrap();
    let end = unit.ends().await;
    assert!(matches!(&end, UnitEnd::Settled { status, .. } if status == "stopped"), "{end:?}");
    assert_eq!(program.wait().unwrap().signal(), Some(15));
    assert_eq!(world.told().await, ("stopped".to_owned(), "user abort".to_owned()));
}

#[tokio::test]
async fn one_that_cannot_be_ended_is_told_to_go_on() {
    let world = World::queued().await;
    world.engine.starts.lock().unwrap().push_back(Act::Orphan);
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.says("running").await;
    let began = Instant::now();
    unit.asks.send(Ask::Stop).unwrap();
    let _ = unit.ends().await;
    // Nothing is to be hoped for: neither a deadline nor the console is waited for.
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    let own = std::process::id();
    let why = format!(
        "its program goes on as process {own} of this machine, fake knows nothing of it, and it cannot be ended here: it \
         is this process"
    );
    assert_eq!(world.told().await, ("stopped".to_owned(), format!("user abort; {why}")));
    assert!(unit.notes.iter().any(|it| it.contains(&why)), "{:?}", unit.notes);
    drop(world.engine.orphan.lock().unwrap().take());
}
