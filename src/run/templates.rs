//! `${CLEARML_…}` in container arguments: values of the task, its queue and project, of the agent's user, of the worker
//! and its configuration.
//!
//! `${CLEARML_QUEUE_NAME}`, `QUEUE_ID`, `WORKER_ID`, `PROJECT_NAME`, `PROJECT_ID`, or a dotted path below `TASK`, `CONFIG`
//! or `USER`: `${CLEARML_TASK.hyperparams.Args.lr.value}`. Behind `|` stand filters (`strip`, `capitalize`, `lower`,
//! `raw`), behind `:` what counts where there is no value: `${CLEARML_TASK.name|lower}`, `${CLEARML_QUEUE_NAME:none}`.
//! Lists are joined by commas; line breaks are removed unless the filter is `raw`. What is unknown stays as it is.
//! Secrets of the configuration are no values: a task could read them.

use serde_json::Value;

use crate::config::{Config, value};

/// What templates are filled with. Absent values are unknown.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// The queue's id.
    pub queue_id: Option<String>,
    /// The queue's name.
    pub queue_name: Option<String>,
    /// The worker's id.
    pub worker_id: Option<String>,
    /// The project's id.
    pub project_id: Option<String>,
    /// The project's full name.
    pub project_name: Option<String>,
    /// The task, as its server answers it.
    pub task: Value,
    /// The user whose credentials the agent has, as the server answers it.
    pub user: Value,
    /// The configuration; see [`configuration`].
    pub config: Value,
}

/// What must be asked of a server before texts can be filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The whole task.
    pub task: bool,
    /// The project's name.
    pub project: bool,
    /// The user.
    pub user: bool,
    /// The queue's name.
    pub queue: bool,
}

const START: &str = "${CLEARML_";
/// What a masked configuration has in place of a secret.
const MASK: &str = "****";

/// The configuration, as templates may read it.
#[must_use]
pub fn configuration(config: &Config) -> Value {
    value::object_to_json(&config.masked())
}

/// What texts ask for.
#[must_use]
pub fn needs<'a>(texts: impl IntoIterator<Item = &'a str>) -> Needs {
    let mut needs = Needs::default();
    for text in texts {
        for (_, body) in templates(text) {
            let (path, ..) = taken_apart(body);
            match path.split('.').next().unwrap_or_default() {
                "TASK" => needs.task = true,
                "USER" => needs.user = true,
                "PROJECT_NAME" => needs.project = true,
                "QUEUE_NAME" => needs.queue = true,
                _ => {}
            }
        }
    }
    needs
}

/// Whether a text has any.
#[must_use]
pub fn has_some(text: &str) -> bool {
    !templates(text).is_empty()
}

/// A text with its templates filled; those without a value are told.
#[must_use]
pub fn fill(text: &str, values: &Values, warnings: &mut Vec<String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut done = 0;
    for (at, body) in templates(text) {
        let whole = &text[at..at + START.len() + body.len() + 1];
        filled.push_str(&text[done..at]);
        done = at + whole.len();
        match one(body, values) {
            Some(value) => filled.push_str(&value),
            None => {
                warnings.push(format!("`{whole}` in the container arguments has no value here and stays as it is"));
                filled.push_str(whole);
            }
        }
    }
    filled.push_str(&text[done..]);
    filled
}

/// Where templates begin, and what stands between `${CLEARML_` and `}`.
fn templates(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find(START).map(|it| from + it) {
        let body = at + START.len();
        let Some(length) = text[body..].find('}') else { break };
        found.push((at, &text[body..body + length]));
        from = body + length + 1;
    }
    found
}

/// Path, filters and what counts otherwise. The original reads filters only where the path comes behind a `|`
/// (`${CLEARML_|TASK.name|lower}`), which is read here too.
fn taken_apart(body: &str) -> (&str, Vec<&str>, Option<&str>) {
    let (words, default) = body.split_once(':').map_or((body, None), |(words, default)| (words, Some(default)));
    let mut words = words.trim_start_matches('|').split('|').map(str::trim);
    (words.next().unwrap_or_default(), words.filter(|it| !it.is_empty()).collect(), default)
}

fn one(body: &str, values: &Values) -> Option<String> {
    let (path, filters, default) = taken_apart(body);
    let Some(mut text) = look_up(path, values).filter(|it| !it.is_empty()) else { return default.map(str::to_owned) };
    if !filters.contains(&"raw") {
        text.retain(|it| !matches!(it, '\n' | '\r'));
    }
    for filter in filters {
        text = match filter {
            "strip" => text.trim().to_owned(),
            "lower" => text.to_lowercase(),
            "capitalize" => {
                let mut letters = text.chars();
                letters.next().map(|it| it.to_uppercase().chain(letters.flat_map(char::to_lowercase)).collect())?
            }
            "raw" => text,
            _ => return None,
        };
    }
    Some(text)
}

fn look_up(path: &str, values: &Values) -> Option<String> {
    let (root, rest) = path.split_once('.').unwrap_or((path, ""));
    match (root, rest) {
        ("QUEUE_ID", "") => values.queue_id.clone(),
        ("QUEUE_NAME", "") => values.queue_name.clone(),
        ("WORKER_ID", "") => values.worker_id.clone(),
        ("PROJECT_ID", "") => values.project_id.clone(),
        ("PROJECT_NAME", "") => values.project_name.clone(),
        ("TASK", rest) => at(&values.task, rest),
        ("USER", rest) => at(&values.user, rest),
        ("CONFIG", rest) => at(&values.config, rest).filter(|it| !it.contains(MASK)),
        _ => None,
    }
}

/// The single value, or the list of single values, at a dotted path. Names may have dots in them.
fn at(value: &Value, path: &str) -> Option<String> {
    if path.is_empty() {
        return match value {
            Value::Array(items) => items.iter().map(|it| at(it, "")).collect::<Option<Vec<_>>>().map(|it| it.join(",")),
            Value::Null | Value::Object(_) => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
    }
    let ends = path.match_indices('.').map(|it| it.0).chain(std::iter::once(path.len()));
    let mut found = ends.filter_map(|end| {
        let inner = match value {
            Value::Object(fields) => fields.get(&path[..end])?,
            Value::Array(items) => items.get(path[..end].parse::<usize>().ok()?)?,
            _ => return None,
        };
        at(inner, path[end..].trim_start_matches('.'))
    });
    found.next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Environment;

    fn values() -> Values {
        let text = "agent { git_pass = hush, worker_name = rig }";
        let config = Config::from_text("test", text, &Environment::default()).unwrap();
        Values {
            queue_name: Some("GPU Queue".to_owned()),
            task: json!({
                "name": " My Task\n", "tags": ["a", "b"],
                "hyperparams": {"Args": {"optim.lr": {"value": "0.1"}}}, "n": 3, "none": null,
            }),
            config: configuration(&config),
            ..Values::default()
        }
    }

    #[track_caller]
    fn becomes(text: &str, expected: &str) {
        assert_eq!(fill(text, &values(), &mut Vec::new()), expected, "{text}");
    }

    #[test]
    fn values_filters_and_defaults() {
        becomes("--name=x-${CLEARML_QUEUE_NAME}-y", "--name=x-GPU Queue-y");
        becomes("${CLEARML_QUEUE_NAME|lower}${CLEARML_QUEUE_NAME|lower|capitalize}", "gpu queueGpu queue");
        becomes("${CLEARML_TASK.name|strip|lower}", "my task");
        becomes("${CLEARML_|TASK.name|lower}", " my task");
        becomes("${CLEARML_TASK.name}", " My Task");
        becomes("${CLEARML_TASK.name|raw}", " My Task\n");
        becomes("${CLEARML_TASK.tags}", "a,b");
        becomes("${CLEARML_TASK.tags.1}", "b");
        becomes("${CLEARML_TASK.hyperparams.Args.optim.lr.value}${CLEARML_TASK.n}", "0.13");
        becomes("${CLEARML_QUEUE_ID:none}${CLEARML_TASK.none:}", "none");
        becomes("${CLEARML_CONFIG.agent.worker_name}", "rig");
    }

    #[test]
    fn what_is_unknown_or_secret_stays_as_it_is() {
        for text in [
            "${CLEARML_QUEUE_ID}",
            "${CLEARML_TASK.nothing}",
            "${CLEARML_TASK.hyperparams}",
            "${CLEARML_CONFIG.agent.git_pass}",
            "${CLEARML_USER_VAULTS.x}",
            "${CLEARML_QUEUE_NAME|shout}",
            "${CLEARML_QUEUE_NAME",
            "${HOME} $CLEARML_QUEUE_NAME",
        ] {
            becomes(text, text);
        }
        let mut warnings = Vec::new();
        let _ = fill("${CLEARML_QUEUE_ID}", &values(), &mut warnings);
        assert_eq!(warnings, ["`${CLEARML_QUEUE_ID}` in the container arguments has no value here and stays as it is"]);
    }

    #[test]
    fn what_must_be_asked_for_is_told() {
        let all = needs(["-e A=${CLEARML_TASK.name}", "--name=${CLEARML_PROJECT_NAME}", "${CLEARML_|USER.name|lower}"]);
        assert_eq!(all, Needs { task: true, project: true, user: true, queue: false });
        assert_eq!(needs(["--ipc=host"]), Needs::default());
    }
}
