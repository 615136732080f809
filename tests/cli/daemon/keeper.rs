//! Engines that keep containers, looked at with their own programs.

use serde_json::Value;

use super::Place;
use crate::support::{Engine, require, wait_until};

/// An engine, and the program that comes with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keeper {
    engine: Engine,
    program: &'static str,
    /// What has `agent daemon` run tasks there.
    pub(super) flag: &'static str,
}

pub(super) const DOCKER: Keeper = Keeper { engine: Engine::Docker, program: "docker", flag: "--docker" };
pub(super) const PODMAN: Keeper = Keeper { engine: Engine::Podman, program: "podman", flag: "--podman" };

/// What has `agent daemon` and `agent execute` run tasks in an engine, or natively.
pub(super) fn flag(keeper: Option<Keeper>) -> &'static str {
    keeper.map_or("--native", |it| it.flag)
}

impl Keeper {
    /// Fails if it is not there.
    #[track_caller]
    pub(super) fn required(self) -> Self {
        require(self.engine);
        self
    }

    /// What its program says.
    #[track_caller]
    pub(super) fn says(self, place: &Place<'_>, arguments: &[&str]) -> String {
        place.context.command(self.program).args(arguments).ok()
    }

    /// The containers of a task's last run.
    #[track_caller]
    pub(super) fn containers(self, place: &Place<'_>, task: &str) -> Vec<String> {
        self.listed(place, task, &["ps", "--all", "--quiet"])
    }

    /// Those of them that run.
    #[track_caller]
    pub(super) fn running(self, place: &Place<'_>, task: &str) -> Vec<String> {
        self.listed(place, task, &["ps", "--quiet"])
    }

    #[track_caller]
    fn listed(self, place: &Place<'_>, task: &str, list: &[&str]) -> Vec<String> {
        let Some(unit) = place.unit(task) else { return Vec::new() };
        let filter = format!("label={}={}", agent::run::docker::RUN_LABEL, unit["run"].as_str().unwrap());
        let said = self.says(place, &[list, &["--filter", &filter]].concat());
        said.lines().map(str::to_owned).collect()
    }

    /// All that it tells of the one container of a task's last run.
    #[track_caller]
    pub(super) fn inspected(self, place: &Place<'_>, task: &str) -> Value {
        let containers = self.containers(place, task);
        assert_eq!(containers.len(), 1, "{containers:?}");
        serde_json::from_str::<Value>(&self.says(place, &["inspect", &containers[0]])).unwrap()[0].take()
    }

    /// Waits until no container of a task's last run is there, running or not.
    #[track_caller]
    pub(super) fn is_rid_of(self, place: &Place<'_>, task: &str) {
        wait_until("the container is removed", || self.containers(place, task).is_empty());
    }

    /// Removes the images of tasks.
    pub(super) fn forget(self, place: &Place<'_>, tasks: &[&str]) {
        for task in tasks {
            let name = format!("agent/task-{task}:latest");
            place.context.command(self.program).args(["rmi", "--force", &name]).run();
        }
    }
}

/// Runs a test's body in each engine that keeps containers.
macro_rules! in_both_engines {
    ($name:ident) => {
        mod $name {
            #[test]
            fn docker() {
                super::$name(crate::daemon::keeper::DOCKER.required());
            }

            #[test]
            fn podman() {
                super::$name(crate::daemon::keeper::PODMAN.required());
            }
        }
    };
}

/// The same, and natively.
macro_rules! in_each_engine {
    ($name:ident) => {
        mod $name {
            #[test]
            fn docker() {
                super::$name(Some(crate::daemon::keeper::DOCKER.required()));
            }

            #[test]
            fn podman() {
                super::$name(Some(crate::daemon::keeper::PODMAN.required()));
            }

            #[test]
            fn natively() {
                super::$name(None);
            }
        }
    };
}

pub(super) use in_both_engines;
pub(super) use in_each_engine;
