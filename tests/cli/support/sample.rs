//! A task that the public SDK recorded, and a clone of it with other parameters.

use serde_json::json;

use super::{Server, TestContext, venv, write};

/// Says what its parameters are and writes what tasks write.
const SAMPLE: &str = r#"
import argparse
from clearml import Task

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--rate", type=float, default=0.1)
task = Task.init(project_name="demo", task_name="sample", auto_connect_frameworks=False)
args = parser.parse_args()
model = task.connect({"batch": 16, "nested": {"depth": 1}}, name="model")
layers = task.connect_configuration({"layers": [1]}, name="layers")
print("VALUES", args.epochs, args.rate, model["batch"], model["nested"]["depth"], layers["layers"], flush=True)
for i in range(args.epochs):
    task.get_logger().report_scalar("loss", "train", iteration=i, value=1.0 / (i + 1))
task.upload_artifact("result", {"epochs": args.epochs}, wait_on_upload=True)
"#;

/// What the clone says of its parameters when `Args/rate` is set to 0.5.
pub(crate) const CHANGED: &str = "VALUES 3 0.5 16 9 [4, 5]";

/// What the sample said of its parameters.
#[track_caller]
pub(crate) fn values(said: &str) -> String {
    said.lines().find(|it| it.starts_with("VALUES")).unwrap_or_else(|| panic!("no values in {said}")).to_owned()
}

/// Runs `train.py` of the working directory, as a user at a desk, and changes parameters of a clone; the clone's id.
#[track_caller]
pub(crate) fn changed_clone(context: &TestContext, server: &Server) -> String {
    let script = context.work().join("train.py");
    write(&script, SAMPLE);
    let recording = context.command(venv().join("bin/python")).arg(&script);
    assert_eq!(values(&recording.env("CLEARML_CONFIG_FILE", server.config()).ok()), "VALUES 2 0.1 16 1 [1]");
    let found = server.call("tasks.get_all", &json!({ "name": "sample", "only_fields": ["id"] }));
    let clone = server.call("tasks.clone", &json!({ "task": found["tasks"][0]["id"], "new_task_name": "changed" }));
    let clone = clone["id"].as_str().unwrap().to_owned();
    let changes = json!([
        { "section": "Args", "name": "epochs", "value": "3" },
        { "section": "model", "name": "nested/depth", "value": "9" },
    ]);
    server.call("tasks.edit_hyper_params", &json!({ "task": clone, "hyperparams": changes }));
    let configuration = json!([{ "name": "layers", "value": "layers = [4, 5]", "type": "dictionary" }]);
    server.call("tasks.edit_configuration", &json!({ "task": clone, "configuration": configuration }));
    clone
}
