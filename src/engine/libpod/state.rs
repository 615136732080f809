//! How a container is, as Podman writes it.

use serde::Deserialize;

use crate::engine::ContainerState;
use crate::engine::container::moment;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    pub(super) id: String,
    #[serde(default)]
    pub(super) config: Config,
    pub(super) state: State,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    pub(super) labels: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) running: bool,
    #[serde(default)]
    pub(super) paused: bool,
    #[serde(default, rename = "OOMKilled")]
    pub(super) oom_killed: bool,
    #[serde(default)]
    pub(super) exit_code: i64,
    #[serde(default)]
    pub(super) conmon_pid: i64,
    #[serde(default)]
    pub(super) started_at: Option<String>,
    #[serde(default)]
    pub(super) finished_at: Option<String>,
    #[serde(default)]
    pub(super) error: Option<String>,
}

/// The same in the words that all engines share.
pub(super) fn state(found: Inspected) -> ContainerState {
    let it = found.state;
    let (started, finished) = (moment(it.started_at.as_deref()), moment(it.finished_at.as_deref()));
    // Between the end of its program and its clearing up it is `stopped`.
    let running = it.running || it.paused || matches!(it.status.as_str(), "running" | "paused" | "stopping");
    ContainerState {
        id: found.id,
        labels: found.config.labels.unwrap_or_default(),
        created: started.is_none() && matches!(it.status.as_str(), "created" | "configured" | "initialized"),
        running,
        started,
        finished,
        exit_code: (finished.is_some() && !running).then_some(it.exit_code),
        oom_killed: it.oom_killed,
        error: it.error.filter(|it| !it.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn parsed(state_json: &Value) -> ContainerState {
        let found = serde_json::json!({ "Id": "x", "Config": {"Labels": {"a": "b"}}, "State": state_json });
        state(serde_json::from_value(found).unwrap())
    }

    #[test]
    fn states_are_read_as_podman_writes_them() {
        let never = "0001-01-01T00:00:00Z";
        let new = parsed(&serde_json::json!({"Status": "created", "StartedAt": never, "FinishedAt": never}));
        assert!(new.created && !new.running && new.exit_code.is_none());
        let then = "2026-11-29T18:00:00.123456789Z";
        let runs = parsed(&serde_json::json!({
            "Status": "running", "Running": true, "StartedAt": then, "FinishedAt": never,
        }));
        assert!(runs.running && !runs.created && runs.exit_code.is_none());
        let ended = parsed(&serde_json::json!({
            "Status": "exited", "ExitCode": 137, "OOMKilled": true, "StartedAt": then,
            "FinishedAt": "2026-11-29T19:00:00.5+01:00",
        }));
        assert_eq!((ended.exit_code, ended.oom_killed, ended.labels["a"].as_str()), (Some(137), true, "b"));
    }
}
