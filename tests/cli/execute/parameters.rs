//! The public SDK inside a run: it reads the task's parameters and writes what it measures.

use serde_json::json;

use super::task::{IN_DOCKER, Task};
use crate::support::TestContext;

const MEASURES: &str = "\
import argparse
from clearml import Task
parser = argparse.ArgumentParser()
parser.add_argument('--epochs', type=int, default=2)
task = Task.init(project_name='demo', task_name='measures', auto_connect_frameworks=False)
args = parser.parse_args()
print('VALUES', args.epochs, task.id, flush=True)
for i in range(args.epochs):
    task.get_logger().report_scalar('loss', 'train', iteration=i, value=1.0 / (i + 1))
";

#[test]
fn recorded_parameters_take_effect_in_docker() {
    let context = TestContext::warm();
    let task = Task::new(&context, &IN_DOCKER, MEASURES);
    let edit = json!({
        "task": task.id,
        "script": { "requirements": { "pip": "clearml\n" } },
        "hyperparams": { "Args": { "epochs": { "section": "Args", "name": "epochs", "value": "5" } } },
    });
    task.server.call("tasks.edit", &edit);
    let outcome = task.execute().run().success();
    assert!(outcome.stdout.contains(&format!("VALUES 5 {}\n", task.id)), "{}", outcome.stdout);
    assert_eq!(task.server.status(&task.id), "completed");
    let scalars = task.server.call("events.get_task_latest_scalar_values", &json!({ "task": task.id }));
    assert!(scalars.to_string().contains("loss"), "{scalars}");
}
