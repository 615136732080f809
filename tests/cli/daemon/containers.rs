//! The same in Docker and Podman: a container outlives the daemon that started it, and the next one attends it, whatever
//! that one runs its own tasks in.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::keeper::{DOCKER, Keeper, PODMAN, in_both_engines};
use super::{Place, a_while, by_start};
use crate::support::{TestContext, wait_until};

fn runs_go_on_without_their_daemon_and_leave_no_container(keeper: Keeper) {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.stays("long", "");
    let next = place.task("next", "queue", 0.0, 3);
    let arguments = ["--queue", "queue", keeper.flag, "--cpu-only"];
    let daemon = place.daemon("daemon", &arguments);
    place.is_up(&task);
    let container = keeper.running(&place, &task);
    assert_eq!(container.len(), 1, "{container:?}");
    daemon.kill();
    assert_eq!((keeper.running(&place, &task), place.status(&task).as_str()), (container, "in_progress"));
    let daemon = place.daemon("daemon", &arguments);
    place.let_go(&task);
    place.becomes(&task, "completed");
    place.becomes(&next, "failed");
    place.ran_once(&task);
    assert!(daemon.said().contains(&format!("task {task} of box:cpu:0 is attended again")), "{}", daemon.said());
    assert_eq!(place.field(&next, "status_reason"), json!("worker execution exit code 3"));
    keeper.is_rid_of(&place, &task);
    keeper.is_rid_of(&place, &next);
    daemon.stop();
    keeper.forget(&place, &[&task, &next]);
}
in_both_engines!(runs_go_on_without_their_daemon_and_leave_no_container);

#[test]
fn a_daemon_with_another_engine_and_another_name_of_the_server_attends_what_docker_has() {
    let keeper = DOCKER.required();
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.stays("long", "");
    let daemon = place.daemon("daemon", &["--queue", "queue", keeper.flag, "--cpu-only"]);
    place.is_up(&task);
    daemon.kill();
    let next = place.task("next", "queue", 0.0, 0);
    let log = context.path("other.log");
    let api = place.server.api().replace("127.0.0.1", "localhost");
    let call = place.agent().env("CLEARML_API_HOST", format!("{api}/"));
    let mut other =
        call.args(["--progress", "plain", "daemon", "--queue", "queue", "--native", "--cpu-only"]).spawn(&log);
    let attended = format!("task {task} of box:cpu:0 is attended again");
    wait_until("the other daemon attends it", || fs_err::read_to_string(&log).is_ok_and(|it| it.contains(&attended)));
    place.let_go(&task);
    place.becomes(&task, "completed");
    place.becomes(&next, "completed");
    place.ran_once(&task);
    keeper.is_rid_of(&place, &task);
    other.signal(Signal::TERM);
    assert_eq!(other.wait(), Some(0), "{}", fs_err::read_to_string(&log).unwrap());
    keeper.forget(&place, &[&task]);
}

fn queues_take_turns_have_priorities_and_services_a_limit(keeper: Keeper) {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let [low, high] = ["low", "high"].map(|queue| ["one", "two"].map(|it| place.task(it, queue, 0.0, 0)));
    let daemon = place.daemon("fair", &["--queue", "high", "low", "--order-fairness", keeper.flag, "--cpu-only"]);
    let turns = [&high[0], &low[0], &high[1], &low[1]].map(Clone::clone);
    turns.iter().for_each(|it| place.becomes(it, "completed"));
    assert_eq!(by_start(&place, &[low, high].concat()), turns);
    daemon.stop();

    let [low, high] = ["low", "high"].map(|queue| place.task("three", queue, 0.0, 0));
    let daemon = place.daemon("prior", &["--queue", "high", "low", keeper.flag, "--cpu-only"]);
    place.becomes(&low, "completed");
    assert_eq!(by_start(&place, &[low.clone(), high.clone()]), [high.clone(), low.clone()]);
    daemon.stop();

    let services = ["a", "b", "c"].map(|it| place.task(it, "services", 600.0, 0));
    let daemon = place.daemon("services", &["--services-mode", "2", "--queue", "services", keeper.flag]);
    services[..2].iter().for_each(|it| place.is_up(it));
    a_while();
    assert_eq!(place.queue("services"), [services[2].clone()]);
    assert_eq!([0, 1, 2].map(|it| keeper.running(&place, &services[it]).len()), [1, 1, 0]);
    place.server.call("tasks.stop", &json!({ "task": services[0] }));
    place.is_up(&services[2]);
    assert_eq!([0, 1, 2].map(|it| keeper.running(&place, &services[it]).len()), [0, 1, 1]);
    daemon.stop();
    assert_eq!([0, 1, 2].map(|it| place.status(&services[it])), ["stopped", "stopped", "stopped"]);
    for task in turns.iter().chain([&low, &high]).chain(&services) {
        assert!(keeper.containers(&place, task).is_empty(), "{task}");
        keeper.forget(&place, &[task]);
    }
}
in_both_engines!(queues_take_turns_have_priorities_and_services_a_limit);

#[test]
fn a_service_of_podman_that_is_killed_is_started_again_and_loses_nothing() {
    let keeper = PODMAN.required();
    let context = TestContext::warm();
    let place = Place::new(&context);
    let (task, next) = (place.stays("long", ""), place.task("next", "queue", 0.0, 0));
    let daemon = place.daemon("daemon", &["--queue", "queue", keeper.flag, "--cpu-only"]);
    place.is_up(&task);
    let parent = daemon.program.pid().to_string();
    let is_child =
        |stat: &str| stat.rsplit(") ").next().is_some_and(|it| it.split(' ').nth(1) == Some(parent.as_str()));
    let services: Vec<i32> = fs_err::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|it| fs_err::read_to_string(it.path().join("stat")).is_ok_and(|it| is_child(&it)))
        .filter(|it| fs_err::read(it.path().join("cmdline")).is_ok_and(|it| it.starts_with(b"podman\0")))
        .filter_map(|it| it.file_name().to_str()?.parse().ok())
        .collect();
    assert!(!services.is_empty(), "the daemon has no service of Podman");
    for service in services {
        kill_process(Pid::from_raw(service).unwrap(), Signal::KILL).unwrap();
    }
    place.let_go(&task);
    for task in [&task, &next] {
        place.becomes(task, "completed");
        place.ran_once(task);
        keeper.is_rid_of(&place, task);
    }
    daemon.stop();
    keeper.forget(&place, &[&task, &next]);
}
