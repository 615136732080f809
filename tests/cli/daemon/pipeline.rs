//! The public SDK's pipeline controller, unchanged: it waits in the services' queue, is run from its image by one daemon, and
//! has its steps run by another.

use std::time::Duration;

use serde_json::{Value, json};

use super::Place;
use crate::support::{TestContext, venv, write};

/// A pipeline of three steps: a function, a task that is cloned and given a parameter, a function of both.
const PIPELINE: &str = r#"
from clearml import PipelineController


def begin(start):
    print("begins with", start, flush=True)
    return {"number": int(start) + 1}


def tell(value, doubled):
    from clearml import Task
    twice = Task.get_task(task_id=doubled).artifacts["twice"].get()
    print("told", value["number"], twice, flush=True)
    return {"sum": value["number"] + twice}


pipe = PipelineController(
    name="three steps", project="team", version="1.0.0", repo="", packages=["clearml"], pool_frequency=0.02
)
pipe.set_default_execution_queue("work")
pipe.add_parameter(name="start", default=20)
pipe.add_function_step(
    name="begin", function=begin, function_kwargs={"start": "${pipeline.start}"}, function_return=["value"],
    packages=["clearml"],
)
pipe.add_step(
    name="double", parents=["begin"], base_task_project="team/steps", base_task_name="doubles",
    parameter_override={"General/of": "${begin.id}"},
)
pipe.add_function_step(
    name="tell", parents=["double"], function=tell,
    function_kwargs={"value": "${begin.value}", "doubled": "${double.id}"}, function_return=["sum"],
    packages=["clearml"],
)
pipe.start(queue="services")
print("the pipeline is over", *sorted(pipe.get_processed_nodes()), flush=True)
"#;

/// The second step's code: reads what the first one made, and makes something of it.
const DOUBLES: &str = r#"
from clearml import Task

task = Task.init(auto_connect_frameworks=False)
given = {"of": ""}
task.connect(given)
before = Task.get_task(task_id=given["of"])
value = before.artifacts["value"].get()["number"]
print("doubles", value, flush=True)
task.upload_artifact("twice", 2 * value, wait_on_upload=True)
"#;

/// Tasks of a project and those below it that ran, by name: status, parent, worker, and times of start and end.
fn ran(place: &Place<'_>, name: &str) -> Value {
    let query = json!({ "name": format!("^{name}"), "status": ["completed", "failed", "stopped", "in_progress", "queued"],
        "search_hidden": true });
    let data = place.server.call("tasks.get_all", &query);
    let tasks = data["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 1, "{name}: {data}");
    tasks[0].clone()
}

/// What the steps that ran have said, for one who wants to know why.
fn consoles(place: &Place<'_>) -> String {
    let query =
        json!({ "status": ["completed", "failed", "stopped"], "search_hidden": true, "only_fields": ["id", "name"] });
    let data = place.server.call("tasks.get_all", &query);
    let tasks = data["tasks"].as_array().unwrap().iter();
    tasks.map(|it| format!("--- {}\n{}\n", it["name"], place.server.console(it["id"].as_str().unwrap()))).collect()
}

#[test]
fn three_steps_run_through_a_services_daemon_and_a_worker_natively() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let project = place.server.call("projects.create", &json!({ "name": "team/steps" }))["id"].clone();
    let base = json!({
        "name": "doubles", "type": "training", "project": project,
        "script": { "entry_point": "doubles.py", "binary": "python3", "diff": DOUBLES, "requirements": { "pip": "clearml" } },
    });
    place.server.call("tasks.create", &base);
    write(&context.work().join("pipeline.py"), PIPELINE);
    let services =
        place.daemon("services", &["--services-mode", "--queue", "services", "--create-queue", "--cpu-only"]);
    let worker = place.daemon("worker", &["--queue", "work", "--create-queue", "--cpu-only"]);

    let python = context.command(venv().join("bin/python")).arg("pipeline.py");
    let sent = python.env("CLEARML_CONFIG_FILE", place.server.config()).limit(Duration::from_secs(300)).run().success();
    assert!(!sent.stdout.contains("the pipeline is over"), "{}", sent.stdout);
    let controller = ran(&place, "three steps");
    let id = controller["id"].as_str().unwrap();
    assert_eq!(controller["type"], "controller");

    let (status, console) = place.server.ended(id);
    assert_eq!(status, "completed", "{console}\n{}", consoles(&place));
    assert!(console.contains("the pipeline is over begin double tell\n"), "{console}");
    let controller = ran(&place, "three steps");
    let by = controller["last_worker"].as_str().unwrap().to_owned();
    assert!(by.ends_with(&format!(":service:{id}")), "{by}");
    let steps = ["begin", "double", "tell"].map(|it| ran(&place, it));
    for step in &steps {
        assert_eq!((&step["status"], &step["parent"]), (&json!("completed"), &json!(id)), "{step}");
        let at = step["last_worker"].as_str().unwrap();
        assert!(at.starts_with("box:cpu:") && !at.contains("service") && !by.starts_with(at), "{at}, {by}");
    }
    assert!(steps.windows(2).all(|it| it[0]["completed"].as_str() < it[1]["started"].as_str()), "{steps:?}");
    for (step, text) in steps.iter().zip(["begins with 20\n", "doubles 21\n", "told 21 42\n"]) {
        let console = place.server.console(step["id"].as_str().unwrap());
        assert_eq!(console.matches(text).count(), 1, "{text}: {console}");
    }
    // What the last step returned stands with its task.
    let artifacts = steps[2]["execution"]["artifacts"].as_array().unwrap();
    let sum = artifacts.iter().find(|it| it["key"] == "sum").unwrap();
    assert!(sum["uri"].as_str().unwrap().starts_with(place.server.files()), "{sum}");
    assert!(place.queue("services").is_empty() && place.queue("work").is_empty());
    services.stop();
    worker.stop();
}
