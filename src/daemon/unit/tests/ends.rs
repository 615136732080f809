//! Units that go to their end by themselves.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::json;

use super::super::*;
use super::world::{Act, World};
use crate::daemon::journal::Phase;
use crate::digest::Digest;
use crate::run::{Outcome, RunImage};
use crate::spool::{EndCause, LeftEnd, OutputWriter, Owner, ProgramEnd, Spool};

fn settled(status: &str, reason: &str, exit_code: u8) -> UnitEnd {
    UnitEnd::Settled { status: status.to_owned(), reason: reason.to_owned(), exit_code, machinery: false }
}

#[tokio::test]
async fn a_task_goes_through_every_phase_to_completed() {
    let world = World::queued().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.says("running (Changed by clearml-agent me:0)").await;
    let task = world.document().await;
    assert_eq!(task["last_worker"], "me:0");
    assert!(task["runtime"]["_exec_agent_hostname"].is_string());
    assert!(world.journal().all().unwrap().units[0].popped);
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    assert_eq!(unit.ends().await, settled("completed", "worker execution done", 0));
    let all = [
        Phase::Taken,
        Phase::Build,
        Phase::Prepare,
        Phase::Start,
        Phase::Run,
        Phase::Drain,
        Phase::Settle,
        Phase::Done,
    ];
    assert_eq!(unit.phases, all);
    assert_eq!(world.engine.calls(), ["prepare", "start", "remove"]);
    assert_eq!(world.told().await, ("completed".to_owned(), "worker execution done".to_owned()));
    let console = world.console().await;
    assert!(console.contains(&format!("task {} (a task) pulled from queue ", world.task)), "{console}");
    assert_eq!(console.matches("layer code: built\n").count(), 1, "{console}");
    assert_eq!(world.journal().all().unwrap().units[0].phase, Phase::Done);
}

#[tokio::test]
async fn what_is_lent_to_a_run_holds_the_secrets_and_the_container_does_not() {
    let mut world = World::new().await;
    world.tags = vec!["night shift".to_owned(), "b".to_owned()];
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    let spec = world.engine.specs.lock().unwrap()[0].clone();
    let read = |name: &str| fs_err::read_to_string(spec.directory.join(name)).unwrap();
    assert_eq!(spec.container.env["PLAIN"].reveal(), "seen");
    assert_eq!(spec.container.env["AGENT_EXECUTOR"].reveal(), "1");
    assert_eq!(spec.container.env["CLEARML_WORKER_TAGS"].reveal(), "'night shift' b");
    assert!(!spec.container.env.contains_key("API_TOKEN"));
    // The agent has this one, and tasks may not ask for what is the agent's.
    assert!(!spec.container.env.contains_key("HOME"));
    let (_, secret) =
        world.server.as_ref().map(|it| (&it.api_url, it.credentials.password.reveal().to_owned())).unwrap();
    assert!(spec.container.env.values().all(|it| !it.reveal().contains(&secret) && it.reveal() != "hush"));
    assert!(read("clearml.conf").contains(&secret) && read("environment.json").contains("hush"));
    let mode = |name: &str| fs_err::metadata(spec.directory.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        [mode("clearml.conf"), mode("environment.json"), mode("."), mode("spool")],
        [0o600, 0o600, 0o700, 0o777]
    );
    // The server is on this machine, and so must the run be.
    assert_eq!(spec.container.network.as_deref(), Some("host"));
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    let _ = unit.ends().await;
    assert!(!spec.directory.join("clearml.conf").exists() && !spec.directory.join("environment.json").exists());
    assert!(spec.directory.join("spool/output").is_dir());
}

#[tokio::test]
async fn each_bad_end_has_its_own_reason_and_the_task_is_not_tried_again() {
    let mut world = World::queued().await;
    world.settings.retries = 3;
    world.engine.ends_with(3);
    assert_eq!(world.begin().ends().await, settled("failed", "worker execution exit code 3", 3));
    // What failed is run again, by force.
    world.engine.ends_with(139);
    let reason = "worker execution exit code 139: ended by SIGSEGV";
    assert_eq!(world.begin().ends().await, settled("failed", reason, 139));
    world.engine.ends.lock().unwrap().push_back(Outcome::Exited { code: 137, out_of_memory: true });
    let reason = "out of memory: the kernel ended the program (exit code 137)";
    assert_eq!(world.begin().ends().await, settled("failed", reason, 137));
    assert_eq!(world.told().await, ("failed".to_owned(), reason.to_owned()));
    assert!(world.console().await.contains(&format!("Process failed: {reason}\n")));
}

#[tokio::test]
async fn a_program_may_exit_with_what_an_engine_gives_to_what_it_did_not_see() {
    let mut world = World::queued().await;
    world.settings.retries = 1;
    world.engine.ends_with(255);
    // Nothing was promised of its end.
    assert_eq!(world.begin().ends().await, settled("failed", "worker execution exit code 255", 255));
    let spool = || world.engine.specs.lock().unwrap().last().unwrap().directory.join("spool");
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    ProgramEnd::promise(&spool()).unwrap();
    world.engine.end(&Outcome::Exited { code: 255, out_of_memory: false });
    let UnitEnd::Requeued { reason } = unit.ends().await else { panic!("it was not put back") };
    assert_eq!(reason, "the run was lost: its container went down with the engine or the machine");
    world.call("queues.get_next_task", json!({ "queue": world.queue })).await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    ProgramEnd { code: 0, out_of_memory: false, cause: EndCause::Itself }.leave(&spool()).unwrap();
    world.engine.lose();
    assert_eq!(unit.ends().await, settled("completed", "worker execution done", 0));
}

#[tokio::test]
async fn what_the_in_image_program_knows_of_an_end_counts() {
    let limit = || Some(Wish::Limit { reason: "the run was not over within 9 s".to_owned() });
    for (cause, wish, (status, reason)) in [
        // It looks at the server too, and may be the first to see a stop there.
        (EndCause::Server, None, ("stopped", "task was stopped by tasks.stop")),
        // It ended itself in the moment in which its time was over.
        (EndCause::Itself, limit(), ("completed", "worker execution done")),
        (EndCause::Asked, limit(), ("failed", "the run was not over within 9 s")),
    ] {
        let world = World::queued().await;
        let mut unit = world.begin();
        unit.reaches(Phase::Run).await;
        unit.die().await;
        let mut left = world.journal().abandoned(|_| true).unwrap().units;
        left[0].entry.update(|it| it.wish = wish).unwrap();
        ProgramEnd { code: 0, out_of_memory: false, cause }.leave(&left[0].entry.spool()).unwrap();
        drop(left);
        world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
        assert_eq!(world.resume().ends().await, settled(status, reason, 0), "{cause:?}");
    }
}

#[tokio::test]
async fn a_program_that_its_user_broke_off_is_stopped_and_keeps_its_code() {
    for code in [130, 254] {
        let world = World::queued().await;
        let mut unit = world.begin();
        unit.reaches(Phase::Run).await;
        let spool = world.engine.specs.lock().unwrap().last().unwrap().directory.join("spool");
        ProgramEnd { code, out_of_memory: false, cause: EndCause::Aborted }.leave(&spool).unwrap();
        world.engine.end(&Outcome::Exited { code: i32::from(code), out_of_memory: false });
        assert_eq!(unit.ends().await, settled("stopped", "user abort", code));
        assert!(!world.console().await.contains("Process failed"));
    }
}

#[tokio::test]
async fn what_an_engine_has_forgotten_to_have_started_is_not_started_again() {
    let mut world = World::queued().await;
    world.settings.retries = 1;
    let forgets = |left| world.engine.starts.lock().unwrap().push_back(Act::Forget(left));
    let end = ProgramEnd { code: 0, out_of_memory: false, cause: EndCause::Itself };
    forgets(LeftEnd::End(end));
    assert_eq!(world.begin().ends().await, settled("completed", "worker execution done", 0));
    // It went down with its engine.
    forgets(LeftEnd::Promised);
    let UnitEnd::Requeued { reason } = world.begin().ends().await else { panic!("it was not put back") };
    assert!(reason.starts_with("the run was lost: "), "{reason}");
    assert!(!world.engine.calls().contains(&"start"), "{:?}", world.engine.calls());
}

#[tokio::test]
async fn a_program_that_goes_on_without_its_engine_is_waited_for() {
    let world = World::queued().await;
    world.engine.starts.lock().unwrap().push_back(Act::Orphan);
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.says("running").await;
    let spool = world.engine.orphan.lock().unwrap().take().unwrap();
    let run = world.journal().all().unwrap().units[0].run.clone();
    ProgramEnd { code: 0, out_of_memory: false, cause: EndCause::Itself }.leave(&world.journal().spool(&run)).unwrap();
    drop(spool);
    assert_eq!(unit.ends().await, settled("completed", "worker execution done", 0));
    assert!(!world.engine.calls().contains(&"start"), "{:?}", world.engine.calls());
}

#[tokio::test]
async fn a_port_that_another_run_was_given_in_the_same_moment_is_chosen_anew() {
    let world = World::queued().await;
    world.engine.starts.lock().unwrap().extend([Act::Taken, Act::Taken]);
    world.engine.ends_with(0);
    assert_eq!(world.begin().ends().await, settled("completed", "worker execution done", 0));
    assert_eq!(world.engine.specs.lock().unwrap().len(), 1);
    world.engine.starts.lock().unwrap().extend([Act::Taken; 4]);
    let UnitEnd::Settled { status, reason, .. } = world.begin().ends().await else { panic!("it does not end") };
    assert!(status == "failed" && reason.contains("port is already allocated"), "{reason}");
}

#[tokio::test]
async fn a_build_ahead_has_a_deadline_and_may_not_be_silent() {
    let second = Duration::from_secs(1);
    for (limited, reason) in [(true, "it was not built within 1 s"), (false, "it made no progress for 1 s (")] {
        let mut world = World::queued().await;
        world.builds("echo $$ >\"$here/pid\"; exec sleep 600");
        let limits = &mut world.settings.limits;
        if limited {
            limits.build = second;
        } else {
            limits.silence = second;
        }
        let said = building::prebuild(&world.executor(), &world.task).await.unwrap_err().to_string();
        assert!(said.starts_with(reason), "{said}");
        // What was begun is ended with it.
        let pid = fs_err::read_to_string(world.dir.path().join("pid")).unwrap();
        let gone = async {
            while std::path::Path::new("/proc").join(pid.trim()).exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("it goes on");
    }
}

#[tokio::test]
async fn a_run_may_take_no_longer_and_be_silent_no_longer_than_was_said() {
    let second = Some(Duration::from_secs(1));
    for (run, quiet, reason) in
        [(second, None, "the run was not over within 1 s"), (None, second, "the run printed nothing for 1 s")]
    {
        let mut world = World::queued().await;
        world.settings.retries = 3;
        (world.settings.limits.run, world.settings.limits.quiet) = (run, quiet);
        let mut unit = world.begin();
        unit.reaches(Phase::Run).await;
        // The in-image program begins it before it starts anything.
        let run = world.journal().all().unwrap().units[0].run.clone();
        let output = OutputWriter::open(&world.journal().spool(&run), 1 << 20).unwrap();
        let UnitEnd::Settled { status, reason: told, .. } = unit.ends().await else { panic!("{reason}") };
        assert_eq!((status.as_str(), told.as_str()), ("failed", reason));
        drop(output);
        assert!(!world.engine.is_running() && world.console().await.contains(&format!("Process failed: {reason}\n")));
    }
}

#[tokio::test]
async fn a_run_that_was_over_before_anybody_looked_was_not_too_long() {
    for _ in 0..6 {
        let mut world = World::queued().await;
        let mut unit = world.begin();
        unit.reaches(Phase::Run).await;
        unit.die().await;
        world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
        let long_ago = Some(Duration::from_millis(1));
        (world.settings.limits.run, world.settings.limits.quiet) = (long_ago, long_ago);
        assert_eq!(world.resume().ends().await, settled("completed", "worker execution done", 0));
    }
}

#[tokio::test]
async fn a_run_that_prints_now_and_then_is_not_silent() {
    let mut world = World::queued().await;
    world.settings.limits.quiet = Some(Duration::from_secs(2));
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    let run = world.journal().all().unwrap().units[0].run.clone();
    let mut output = OutputWriter::open(&world.journal().spool(&run), 1 << 20).unwrap();
    for _ in 0..16 {
        output.write(b".").unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    assert_eq!(unit.ends().await, settled("completed", "worker execution done", 0));
}

#[tokio::test]
async fn a_run_that_is_lost_is_tried_again_as_often_as_was_said() {
    let mut world = World::queued().await;
    world.settings.retries = 1;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.engine.lose();
    let UnitEnd::Requeued { reason } = unit.ends().await else { panic!("it was not put back") };
    assert!(reason.starts_with("the run was lost: "), "{reason}");
    assert_eq!(world.told().await, ("queued".to_owned(), reason));
    let popped = world.call("queues.get_next_task", json!({ "queue": world.queue })).await;
    assert_eq!(popped["entry"]["task"], world.task.as_str());
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.engine.lose();
    let UnitEnd::Settled { status, reason, exit_code, .. } = unit.ends().await else { panic!("it goes on for ever") };
    assert_eq!((status.as_str(), exit_code), ("failed", Kind::System.exit_code()));
    assert!(reason.starts_with("the run was lost: "), "{reason}");
}

#[tokio::test]
async fn a_task_whose_queue_is_gone_is_not_tried_for_ever() {
    let mut world = World::queued().await;
    world.settings.retries = 1;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.call("queues.delete", json!({ "queue": world.queue, "force": true })).await;
    world.engine.lose();
    let UnitEnd::Settled { status, reason, .. } = unit.ends().await else { panic!("it is to be tried again") };
    assert!(status == "failed" && reason.starts_with("the run was lost: "), "{status}: {reason}");
    assert!(
        reason.ends_with(&format!("; the queue {} it came from is gone", world.queue.as_ref().unwrap())),
        "{reason}"
    );
    assert_eq!(world.told().await, ("failed".to_owned(), reason));
}

#[tokio::test]
async fn without_a_queue_whoever_made_the_claim_makes_another() {
    let mut world = World::new().await;
    world.settings.retries = 1;
    world.engine.prepares.lock().unwrap().push_back(Act::Fail(Kind::Space));
    let end = world.begin().ends().await;
    assert!(matches!(end, UnitEnd::Again { attempt: 1, .. }), "{end:?}");
    assert_eq!(world.status().await, "in_progress");
    world.engine.ends_with(0);
    assert_eq!(world.begin().ends().await, settled("completed", "worker execution done", 0));
}

#[tokio::test]
async fn an_image_that_cannot_be_built_is_the_tasks_end() {
    let mut world = World::queued().await;
    world.settings.retries = 3;
    world.builds(
        r#"echo '{"event":"line","source":"uv","text":"no version of x"}' >&2
        echo '{"error":{"message":"cannot resolve","causes":["x is not there"],"hints":["Ask for y."],"exit_code":80}}' >&2
        exit 80"#,
    );
    let reason = "the image could not be built: cannot resolve: x is not there";
    assert_eq!(world.begin().ends().await, settled("failed", reason, 80));
    assert_eq!(world.told().await, ("failed".to_owned(), reason.to_owned()));
    let console = world.console().await;
    for line in ["uv: no version of x\n", &format!("{reason}\n"), "hint: Ask for y.\n"] {
        assert_eq!(console.matches(line).count(), if line.starts_with("the image") { 2 } else { 1 }, "{console}");
    }
    assert!(world.engine.calls().iter().all(|it| *it == "remove"), "{:?}", world.engine.calls());
}

#[tokio::test]
async fn a_build_has_a_deadline_and_must_show_progress() {
    let mut world = World::new().await;
    world.settings.limits.silence = Duration::from_millis(300);
    world.builds("echo '{\"event\":\"started\",\"id\":\"a\",\"title\":\"fetching\"}' >&2; exec sleep 600");
    let UnitEnd::Settled { reason, .. } = world.begin().ends().await else { panic!() };
    assert_eq!(reason, "the build made no progress for 0 s (building image: fetching)");
    world.settings.limits.silence = Duration::from_secs(60);
    world.settings.limits.build = Duration::from_millis(700);
    world.builds("while :; do echo '{\"event\":\"note\",\"text\":\"still here\"}' >&2; sleep 0.05; done");
    let UnitEnd::Settled { reason, .. } = world.begin().ends().await else { panic!() };
    assert_eq!(reason, "the image was not built within 0 s (building image: still here)");
}

#[tokio::test]
async fn an_engine_that_is_away_is_waited_for_and_one_that_is_broken_is_told_of() {
    let mut world = World::new().await;
    for acts in [&world.engine.prepares, &world.engine.starts, &world.engine.finds] {
        acts.lock().unwrap().extend([Act::Fail(Kind::Unreachable); 3]);
    }
    world.engine.ends_with(0);
    let mut unit = world.begin();
    assert_eq!(unit.ends().await, settled("completed", "worker execution done", 0));
    assert!(unit.notes.iter().any(|it| it == "waiting for fake: the engine is broken"), "{:?}", unit.notes);

    world.engine.starts.lock().unwrap().push_back(Act::Fail(Kind::Input));
    let reason = "fake cannot start the run: the engine is broken";
    assert_eq!(world.begin().ends().await, settled("failed", reason, Kind::Input.exit_code()));

    world.settings.limits.start = Duration::from_millis(200);
    world.engine.prepares.lock().unwrap().push_back(Act::Hang);
    let reason = "fake cannot prepare the image: it was not prepared within 0 s";
    let exit_code = Kind::System.exit_code();
    let failed =
        UnitEnd::Settled { status: "failed".to_owned(), reason: reason.to_owned(), exit_code, machinery: true };
    assert_eq!(world.begin().ends().await, failed);
}

#[tokio::test]
async fn a_server_that_is_away_gets_everything_once_when_it_is_back() {
    let mut world = World::new().await;
    let mut unit = world.begin();
    unit.reaches(Phase::Run).await;
    world.says("running").await;
    world.stop_server().await;
    let spool = world.journal().spool(&world.journal().all().unwrap().units[0].run);
    let owner = Owner { task: world.task.clone(), worker: "me:0".to_owned() };
    let mut lines = Spool::open(&spool, owner, 1 << 20).unwrap();
    for number in 0..500_i64 {
        let line = crate::clearml::events::Line {
            timestamp: crate::daemon::journal::now() + number,
            level: Level::Debug,
            msg: format!("line {number}\n"),
        };
        lines.append(&line).unwrap();
    }
    drop(lines);
    world.engine.end(&Outcome::Exited { code: 0, out_of_memory: false });
    unit.reaches(Phase::Drain).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!unit.end.is_finished());
    world.start_server().await;
    assert_eq!(unit.ends().await, settled("completed", "worker execution done", 0));
    let console = world.console().await;
    for number in 0..500 {
        assert_eq!(console.matches(&format!("line {number}\n")).count(), 1, "{number}");
    }
}

#[tokio::test]
async fn somebody_else_may_tell_the_servers_end() {
    let world = World::new().await;
    let executor = world.executor();
    let claim = world.claim();
    executor.journal.intend(&claim, "fake", "here").unwrap();
    executor.journal.quiet(&claim.run).unwrap();
    world.engine.ends_with(4);
    let (_asks, asked) = watch::channel(Ask::Nothing);
    let end = run(executor, claim, asked, mpsc::channel(1000).0).await.unwrap();
    assert_eq!(end, UnitEnd::Left { status: "in_progress".to_owned(), exit_code: 4 });
    assert_eq!(world.status().await, "in_progress");
}

#[tokio::test]
async fn a_task_of_another_worker_is_not_taken() {
    let world = World::new().await;
    world.call("tasks.started", json!({ "task": world.task })).await;
    world.call("workers.status_report", json!({ "worker": "you:1", "task": world.task, "timestamp": 1 })).await;
    let end = world.begin().ends().await;
    let expected = UnitEnd::Refused { status: "in_progress".to_owned(), worker: Some("you:1".to_owned()) };
    assert_eq!(end, expected);
    assert!(world.journal().all().unwrap().units.is_empty());
    world.call("tasks.delete", json!({ "task": world.task, "force": true })).await;
    let end = world.begin().ends().await;
    assert_eq!(end, UnitEnd::Refused { status: "deleted".to_owned(), worker: None });
}

#[tokio::test]
async fn a_run_is_over_before_images_are_removed_and_they_are_all_the_same() {
    let mut world = World::queued().await;
    world.settings.images.unused = Duration::ZERO;
    world.engine.discards.lock().unwrap().push_back(Act::Hang);
    world.engine.ends_with(0);
    let image = RunImage {
        name: format!("agent/task-{}:latest", "a".repeat(32)),
        manifest: Digest::of("old"),
        config: Digest::of("old"),
    };
    let executor = world.executor();
    executor.images().made(&"a".repeat(32), &image).unwrap();
    let record = world.dir.path().join("images/fake").join(format!("{}.json", "a".repeat(32)));
    let file = fs_err::OpenOptions::new().append(true).open(&record).unwrap();
    file.file().set_modified(std::time::SystemTime::now() - Duration::from_secs(48 * 3600)).unwrap();
    let mut unit = world.begin();
    let attend: crate::daemon::work::Attend = Box::new(move |_, _| {
        Box::pin(async move {
            assert_eq!(unit.ends().await, settled("completed", "worker execution done", 0));
            crate::daemon::work::End::Detached
        })
    });
    let (_asks, asked) = watch::channel(crate::daemon::work::Asks::Nothing);
    let attending = crate::daemon::crew::tidied_after(executor, attend)(asked, mpsc::channel(1).0);
    // The engine takes for ever over an image.
    let over = tokio::time::timeout(Duration::from_secs(30), attending).await;
    assert!(over.is_ok(), "its place is held while images are removed");
    let removing = async {
        while world.engine.discarded.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), removing).await.expect("it is not removed at all");
    assert_eq!(*world.engine.discarded.lock().unwrap(), [image.name]);
}
