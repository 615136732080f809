//! A task without packages on a server, and images of it.

use serde_json::json;

use crate::support::{Call, Server, TestContext};

/// Says that it is up, then does as its environment says.
const SCRIPT: &str = "\
import os, sys, time
print('up', os.environ.get('CLEARML_TASK_ID'), os.getcwd(), *sys.argv[1:], flush=True)
if os.environ.get('WAIT'):
    time.sleep(900)
sys.exit(int(os.environ.get('CODE', '0')))
";

/// The task.
pub(super) struct Job<'a> {
    pub(super) context: &'a TestContext,
    pub(super) server: Server,
    pub(super) task: String,
}

impl<'a> Job<'a> {
    pub(super) fn new(context: &'a TestContext) -> Self {
        Self::starting(context, "job.py")
    }

    /// The same with arguments, or whatever stands in an entry point.
    pub(super) fn starting(context: &'a TestContext, entry_point: &str) -> Self {
        let server = Server::start(context);
        let task = json!({
            "name": "a job", "type": "training",
            "script": {"entry_point": entry_point, "binary": "python3", "diff": SCRIPT, "requirements": {"pip": ""}},
            "hyperparams": {"Args": {"rate": {"section": "Args", "name": "rate", "value": "0.5"}}},
        });
        let task = server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned();
        Self { context, server, task }
    }

    /// The program under test, which knows the server.
    pub(super) fn agent(&self) -> Call {
        self.context.agent().env("CLEARML_CONFIG_FILE", self.server.config())
    }

    /// Builds an image of it; into the layout `image` of the world unless the arguments say more.
    pub(super) fn build(&self, arguments: &[&str]) -> String {
        let output = format!("type=oci,dest={}", self.context.path("image").display());
        let base = format!("oci:{}", crate::support::base().display());
        let call = self.agent().args(["build", "--id", &self.task, "--docker", &base, "--target", "job:1"]);
        call.args(["-o", &output]).args(arguments).ok();
        format!("oci:{}", self.context.path("image").display())
    }

    /// What the server says of a task's beginning: the line the script prints.
    pub(super) fn is_up(&self, task: &str) -> bool {
        self.server.console(task).contains("up ")
    }
}
