//! The public SDK, unchanged.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Call, Repository, Server, TestContext, venv};

/// A script that records a task.
const TRAIN: &str = r#"
import argparse
from clearml import Task

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
task = Task.init(project_name="team/demo", task_name="train one", auto_connect_frameworks=False)
args = parser.parse_args()
params = {"batch": 8, "net": {"depth": 2}}
task.connect(params, name="model")
task.connect_configuration({"layers": [1, 2]}, name="net")
for i in range(args.epochs):
    task.logger.report_scalar("loss", "train", iteration=i, value=1.0 / (i + 1))
task.logger.report_single_value("final", 0.25)
figure = {"data": [{"type": "scatter", "x": [1, 2], "y": [3, 4]}], "layout": {}}
task.logger.report_plotly("curve", "c", iteration=0, figure=figure)
task.upload_artifact("result", {"epochs": args.epochs, "ok": True})
task.add_tags(["seen"])
print("A LINE OF THE CONSOLE", args.epochs, params["batch"])
print("TASK", task.id, flush=True)
task.close()
"#;

/// Reads back what was recorded, and goes on with it.
const READ: &str = r#"
import json, sys
from clearml import Task

task = Task.get_task(project_name="team/demo", task_name="train one")
created = Task.create(project_name="team/demo", task_name="created one", repo="https://example.invalid/x.git",
                      branch="main", script="train.py", packages=["six"], docker="debian:12", add_task_init_call=False)
clone = Task.clone(source_task=task, name="cloned one")
clone.set_parameters({"Args/epochs": 2})
Task.enqueue(clone, queue_name="default")
print("READ " + json.dumps({
    "id": task.id, "status": task.get_status(), "parameters": task.get_parameters(), "tags": task.get_tags(),
    "scalars": task.get_reported_scalars()["loss"]["train"], "single": task.get_reported_single_values(),
    "plots": [it["metric"] for it in task.get_reported_plots()],
    "console": "".join(task.get_reported_console_output(100)), "artifact": task.artifacts["result"].get(),
    "configuration": task.get_configuration_object("net"), "last": task.get_last_scalar_metrics()["loss"]["train"],
    "container": created.data.container["image"], "clone": {"status": clone.get_status(), "parent": clone.parent,
    "parameters": clone.get_parameters()},
    "tasks": sorted(it.name for it in Task.get_tasks(project_name="team/demo")),
}))
"#;

/// Stops here and goes on elsewhere.
const REMOTE: &str = r#"
from clearml import Task

task = Task.init(project_name="team/demo", task_name="remote one", auto_connect_frameworks=False)
task.execute_remotely(queue_name="default", exit_process=True)
print("NOT HERE")
"#;

/// Python with the SDK, talking to a server.
fn python(context: &TestContext, server: &Server, script: &str) -> Call {
    let python = context.command(venv().join("bin/python"));
    python.env("CLEARML_CONFIG_FILE", server.config()).arg(script).limit(Duration::from_secs(900))
}

/// The rest of the line that begins with a word.
fn after<'a>(text: &'a str, word: &str) -> &'a str {
    text.lines().find_map(|it| it.strip_prefix(word)).unwrap_or_else(|| panic!("no line begins with {word}: {text}"))
}

#[test]
fn the_sdk_records_reads_clones_and_sends_away_a_task() {
    let context = TestContext::new();
    let server = Server::start(&context);
    let repository = Repository::new(&context, "work/project");
    repository.commit(&[("train.py", TRAIN), ("read.py", READ), ("remote.py", REMOTE)]);
    let run = |script: &str| python(&context, &server, script).current_dir(repository.path());

    let trained = run("train.py").args(["--epochs", "4"]).run().success();
    let id = after(&trained.stdout, "TASK ").trim();
    let read = run("read.py").run().success();
    let read: Value = serde_json::from_str(after(&read.stdout, "READ ")).unwrap();
    assert_eq!((read["id"].as_str(), read["status"].as_str()), (Some(id), Some("completed")));
    let parameters = json!({"Args/epochs": "4", "model/batch": "8", "model/net/depth": "2"});
    assert_eq!(read["parameters"], parameters);
    assert_eq!(read["scalars"]["y"], json!([1.0, 0.5, 1.0 / 3.0, 0.25]));
    assert_eq!((&read["single"], &read["plots"]), (&json!({"final": 0.25}), &json!(["curve"])));
    assert_eq!(read["last"], json!({"last": 0.25, "min": 0.25, "max": 1.0}));
    assert_eq!(read["artifact"], json!({"epochs": 4, "ok": true}));
    assert_eq!((&read["tags"], &read["configuration"]), (&json!(["seen"]), &json!("layers = [1, 2]")));
    assert!(read["console"].as_str().unwrap().contains("A LINE OF THE CONSOLE 4 8"), "{}", read["console"]);
    assert_eq!(read["container"], "debian:12");
    assert_eq!(read["clone"]["parameters"]["Args/epochs"], "2");
    assert_eq!((&read["clone"]["status"], &read["clone"]["parent"]), (&json!("queued"), &json!(id)));
    assert_eq!(read["tasks"], json!(["cloned one", "created one", "train one"]));

    let sent = run("remote.py").run().success();
    assert!(!sent.stdout.contains("NOT HERE"), "{}", sent.stdout);
    let tasks = server.call("tasks.get_all", &json!({"name": "^remote one$"}));
    let task = &tasks["tasks"][0];
    assert_eq!((&task["status"], &task["script"]["entry_point"]), (&json!("queued"), &json!("remote.py")));
    let recorded = server.call("tasks.get_by_id", &json!({"task": id}));
    let recorded = &recorded["task"]["script"];
    assert_eq!(recorded["version_num"].as_str().map(str::len), Some(40), "{recorded}");
    assert!(recorded["requirements"]["pip"].as_str().unwrap().contains("clearml =="), "{recorded}");
}
