//! The same in Docker: a container outlives the daemon that started it.

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
