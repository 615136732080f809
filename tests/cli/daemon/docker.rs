//! The same in Docker: a container outlives the daemon that started it, and the next one attends it, whatever that one
//! runs its own tasks in.

use super::Place;
use crate::support::{Engine, TestContext, require, wait_until};

#[test]
fn docker_runs_go_on_without_their_daemon_and_leave_no_container() {
    require(Engine::Docker);
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.task("long", "queue", 4.0, 0);
    let next = place.task("next", "queue", 0.0, 3);
    let arguments = ["--queue", "queue", "--docker", "--cpu-only"];
    let daemon = place.daemon("daemon", &arguments);
    place.is_up(&task);
    daemon.kill();
    let daemon = place.daemon("daemon", &arguments);
    place.becomes(&task, "completed");
    place.becomes(&next, "failed");
    place.ran_once(&task);
    let containers = |task: &str| {
        let filter = format!("ancestor=agent/task-{task}:latest");
        context.command("docker").args(["ps", "-aq", "--filter", &filter]).ok()
    };
    wait_until("the containers are gone", || containers(&task).is_empty() && containers(&next).is_empty());
    daemon.stop();
    for task in [task, next] {
        context.command("docker").args(["rmi", "-f", &format!("agent/task-{task}:latest")]).ok();
    }
}

#[test]
fn a_daemon_with_another_engine_and_another_name_of_the_server_attends_what_is_left() {
    require(Engine::Docker);
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.task("long", "queue", 5.0, 0);
    let daemon = place.daemon("daemon", &["--queue", "queue", "--docker", "--cpu-only"]);
    place.is_up(&task);
    daemon.kill();
    let next = place.task("next", "queue", 0.0, 0);
    let log = context.path("other.log");
    let api = place.server.api().replace("127.0.0.1", "localhost");
    let call = place.agent().env("CLEARML_API_HOST", format!("{api}/"));
    let mut other =
        call.args(["--progress", "plain", "daemon", "--queue", "queue", "--native", "--cpu-only"]).spawn(&log);
    place.becomes(&task, "completed");
    place.becomes(&next, "completed");
    place.ran_once(&task);
    let said = fs_err::read_to_string(&log).unwrap();
    assert!(said.contains(&format!("task {task} of box:cpu:0 is attended again")), "{said}");
    let filter = format!("ancestor=agent/task-{task}:latest");
    wait_until("the container is gone", || {
        context.command("docker").args(["ps", "-aq", "--filter", &filter]).ok().is_empty()
    });
    other.signal(rustix::process::Signal::TERM);
    assert_eq!(other.wait(), Some(0), "{}", fs_err::read_to_string(&log).unwrap());
    context.command("docker").args(["rmi", "-f", &format!("agent/task-{task}:latest")]).ok();
}
