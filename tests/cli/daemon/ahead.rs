//! Images that are built ahead of their tasks' turns.

use serde_json::{Value, json};

use super::Place;
use super::gpus::Scene;
use crate::support::{TestContext, runs, wait_for, wait_until};

#[test]
fn an_image_is_ready_before_its_task_has_its_turn() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let first = place.task("first", "work", 900.0, 0);
    // No two builds of it are the same.
    let made = json!({ "setup_shell_script": "cat /proc/sys/kernel/random/uuid > /made" });
    let next = place.script("next", "print('made', open('/made').read(), flush=True)\n", &made);
    let daemon = place.daemon("daemon", &["--queue", "work", "--cpu-only"]);
    place.is_up(&first);
    place.enqueue(&next, "work");
    wait_until("the image is ready", || daemon.said().contains(&format!("task {next}: its image is ready ahead")));
    assert_eq!((place.status(&first).as_str(), place.status(&next).as_str()), ("in_progress", "queued"));
    let image = context.agent().args(["--json", "inspect", &format!("agent/task-{next}:latest")]).ok();
    let image: Value = serde_json::from_str(&image).unwrap();
    place.server.call("tasks.stop", &json!({ "task": first }));
    place.becomes(&next, "completed");
    let unit = wait_for("the run is written down", || place.unit(&next).filter(|it| it["image"].is_object()));
    assert_eq!(unit["image"]["config"], image["config"], "{image}");
    assert_eq!(place.console(&next, "made "), 1);
    daemon.stop();
}

#[test]
fn what_is_built_ahead_is_given_up_once_its_task_has_left_the_queue() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let first = place.task("first", "work", 900.0, 0);
    // A number that no other program has among its arguments.
    let sleep = format!("sleep {}", 1_200_000_000 + u64::from(std::process::id()));
    let next = place.script("next", "print('up')\n", &json!({ "setup_shell_script": sleep }));
    let daemon = place.daemon("daemon", &["--queue", "work", "--cpu-only"]);
    place.is_up(&first);
    place.enqueue(&next, "work");
    wait_until("it is built ahead", || runs(&sleep));
    place.server.call("tasks.dequeue", &json!({ "task": next }));
    wait_until("it is built no more", || !runs(&sleep));
    assert_eq!((place.status(&first).as_str(), place.status(&next).as_str()), ("in_progress", "created"));
    daemon.stop();
}

#[test]
fn what_is_built_ahead_is_for_the_gpus_of_the_worker() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let base = |cuda: &str| scene.place.base_with(&["--config.env", &format!("NVIDIA_REQUIRE_CUDA=cuda>={cuda}")]);
    let rules = format!("[{{ image: \"oci:{}\", match {{ tags: newer }} }}]", base("99.0").display());
    let first = scene.waits("first", "queue");
    let [newer, fits] = ["newer", "fits"].map(|tag| {
        let task = scene.place.script(tag, "print('up')\n", &json!({}));
        scene.place.server.call("tasks.edit", &json!({ "task": task, "tags": [tag] }));
        scene.place.enqueue(&task, "queue");
        task
    });
    let more =
        [("CLEARML_AGENT__AGENT__BUILD_AHEAD", "2"), ("CLEARML_AGENT__AGENT__DEFAULT_DOCKER__MATCH_RULES", &rules)];
    let arguments = ["--queue", "queue", "--gpus", "2"];
    let daemon = scene.daemon_with(&more, scene.place.server.api(), &base("12.0"), &arguments);
    scene.has(&first, &[2]);
    let refused = format!(
        "task {newer} cannot be built ahead: the image cannot run here: the image requires `cuda>=99.0` \
         (NVIDIA_REQUIRE_CUDA), and GPU 2 has driver 550.54.14"
    );
    for said in [refused, format!("task {fits}: its image is ready ahead")] {
        wait_until(&said, || daemon.said().contains(&said));
    }
    assert_eq!(scene.place.queue("queue"), [newer, fits]);
    daemon.stop();
}
