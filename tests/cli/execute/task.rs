//! A task without packages on a server, executed.

use serde_json::{Value, json};

use crate::support::{Call, Engine, Server, TestContext, require};

/// What runs a task.
pub(super) struct Where {
    pub(super) flag: &'static str,
    needs: Option<Engine>,
}

pub(super) const IN_DOCKER: Where = Where { flag: "--docker", needs: Some(Engine::Docker) };
pub(super) const IN_PODMAN: Where = Where { flag: "--podman", needs: Some(Engine::Podman) };
pub(super) const NATIVELY: Where = Where { flag: "--native", needs: None };

/// A task of a script on a server.
pub(super) struct Task<'a> {
    pub(super) context: &'a TestContext,
    pub(super) server: Server,
    pub(super) id: String,
    flag: &'static str,
}

impl<'a> Task<'a> {
    pub(super) fn new(context: &'a TestContext, place: &Where, script: &str) -> Self {
        if let Some(engine) = place.needs {
            require(engine);
        }
        let mut task = Self { context, server: Server::start(context), id: String::new(), flag: place.flag };
        task.id = task.another(script);
        task
    }

    /// Another task on the same server.
    pub(super) fn another(&self, script: &str) -> String {
        let task = json!({
            "name": "a task", "type": "training",
            "script": {"entry_point": "task.py", "binary": "python3", "diff": script, "requirements": {"pip": ""}},
        });
        self.server.call("tasks.create", &task)["id"].as_str().unwrap().to_owned()
    }

    /// `agent execute` of it.
    pub(super) fn execute(&self) -> Call {
        self.execute_other(&self.id)
    }

    /// `agent execute` of another task.
    pub(super) fn execute_other(&self, id: &str) -> Call {
        let base = format!("oci:{}", crate::support::base().display());
        let call = self.context.agent().args(["execute", "--id", id, self.flag]);
        let socket = format!("unix://{}", crate::support::podman_socket().display());
        call.env("CLEARML_CONFIG_FILE", self.server.config())
            .env("CLEARML_DOCKER_IMAGE", base)
            .env("CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS", "false")
            .env("AGENT_STATE_DIR", self.context.path("state"))
            .env("CONTAINER_HOST", socket)
    }

    pub(super) fn document(&self, id: &str) -> Value {
        self.server.call("tasks.get_by_id", &json!({ "task": id }))["task"].take()
    }

    /// Status and reason.
    pub(super) fn told(&self) -> (String, String) {
        let task = self.document(&self.id);
        let text = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("status_reason"))
    }

    /// Whether its console has this in it.
    pub(super) fn said(&self, text: &str) -> bool {
        self.server.console(&self.id).contains(text)
    }

    /// How often its console has this in it.
    pub(super) fn count(&self, text: &str) -> usize {
        self.server.console(&self.id).matches(text).count()
    }

    /// The runs that are written down.
    pub(super) fn units(&self) -> Vec<Value> {
        let runs = self.context.path("state/runs");
        let entries = fs_err::read_dir(runs).into_iter().flatten().flatten();
        entries.filter_map(|it| serde_json::from_slice(&fs_err::read(it.path().join("unit.json")).ok()?).ok()).collect()
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        let name = format!("agent/task-{}:latest", self.id);
        let program = match self.flag {
            "--docker" => "docker",
            "--podman" => "podman",
            _ => return,
        };
        let _ = self.context.command(program).args(["rmi", "-f", &name]).run();
    }
}
