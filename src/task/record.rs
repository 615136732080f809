//! The task record: the part of a task object that defines the task, fit to be published.
//!
//! Kept by name, so that what later servers add about a task's life (status, times, workers, metrics) stays out. Values
//! of secrets are removed: hyperparameters and `-e` values by [`crate::secret`]'s rules, passwords in addresses everywhere
//! but in the diff and the configuration objects, which are the task's own texts.

use serde_json::{Map, Value, json};

use crate::process;
use crate::secret::{is_secret_name, is_secret_parameter, strip_userinfo};
use crate::switches::{self, Part};

/// Fields that define a task.
const FIELDS: &[&str] = &[
    "id",
    "name",
    "type",
    "comment",
    "company",
    "user",
    "project",
    "parent",
    "tags",
    "system_tags",
    "script",
    "container",
    "hyperparams",
    "configuration",
];

pub(super) fn record(task: &Map<String, Value>) -> Value {
    let mut record: Map<String, Value> = FIELDS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), task.get(*name).filter(|it| !it.is_null())?.clone())))
        .collect();
    if let Some(execution) = task.get("execution").and_then(Value::as_object) {
        let mut execution = execution.clone();
        for volatile in ["queue", "artifacts"] {
            execution.remove(volatile);
        }
        if let Some(Value::Object(parameters)) = execution.get_mut("parameters") {
            for (name, value) in parameters {
                hide(name, value);
            }
        }
        if let Some(Value::String(command)) = execution.get_mut("docker_cmd") {
            *command = without_secrets(command);
        }
        record.insert("execution".to_owned(), Value::Object(execution));
    }
    if let Some(inputs) = task.get("models").and_then(|it| it.get("input")) {
        record.insert("models".to_owned(), json!({"input": inputs, "output": []}));
    }
    if let Some(destination) = task.get("output").and_then(|it| it.get("destination")).and_then(Value::as_str) {
        record.insert("output".to_owned(), json!({"destination": strip_userinfo(destination)}));
    }
    if let Some(Value::Object(sections)) = record.get_mut("hyperparams") {
        for (section, entries) in sections {
            parameters(section, entries);
        }
    }
    clean_container(&mut record);
    clean_script(&mut record);
    if let Some(Value::String(comment)) = record.get_mut("comment") {
        *comment = strip_userinfo(comment);
    }
    Value::Object(record)
}

fn parameters(section: &str, entries: &mut Value) {
    for (name, entry) in entries.as_object_mut().into_iter().flatten() {
        let path = format!("{section}/{name}");
        match entry {
            Value::Object(fields) => {
                if let Some(value) = fields.get_mut("value") {
                    hide(&path, value);
                }
            }
            value => hide(&path, value),
        }
    }
}

fn hide(path: &str, value: &mut Value) {
    let secret = value.as_str().is_some_and(|it| is_secret_parameter(path, it));
    if secret {
        *value = Value::String(String::new());
    }
}

fn clean_container(record: &mut Map<String, Value>) {
    let Some(Value::Object(container)) = record.get_mut("container") else { return };
    if let Some(Value::String(arguments)) = container.get_mut("arguments") {
        *arguments = without_secrets(arguments);
    }
    if let Some(Value::String(script)) = container.get_mut("setup_shell_script") {
        *script = strip_userinfo(script);
    }
}

fn clean_script(record: &mut Map<String, Value>) {
    let Some(Value::Object(script)) = record.get_mut("script") else { return };
    if let Some(Value::String(repository)) = script.get_mut("repository") {
        *repository = strip_userinfo(repository);
    }
    if let Some(requirements) = script.get_mut("requirements") {
        strip(requirements);
    }
}

/// Strips every text in a value.
fn strip(value: &mut Value) {
    match value {
        Value::String(text) => *text = strip_userinfo(text),
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(fields) => fields.values_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Container arguments with the values of secret variables removed: `-e NAME=value` becomes `-e NAME`, which takes the
/// value from the environment of whoever runs it. What is no switch is no error here, and loses its secrets too.
fn without_secrets(arguments: &str) -> String {
    // A quote that is not closed: where a value ends cannot be told, and nobody can run this.
    let Some(words) = process::words(arguments) else { return String::new() };
    let mut changed = false;
    let mut cleaned = Vec::new();
    for part in switches::scan(&words) {
        match part {
            Part::Switch(switch) => cleaned.extend(match switch.assignment() {
                Some((name, Some(value))) if is_secret(name, value) => {
                    changed = true;
                    let name = name.to_owned();
                    switch.with_value(name).words()
                }
                _ => switch.words(),
            }),
            Part::Unknown(word) | Part::Word(word) => match word.split_once('=') {
                Some((name, value)) if is_secret_name(name.trim_start_matches('-')) && !value.is_empty() => {
                    changed = true;
                    cleaned.push(name.to_owned());
                }
                _ => cleaned.push(word),
            },
            lacking @ Part::Lacking(_) => cleaned.extend(lacking.words()),
        }
    }
    strip_userinfo(&if changed { process::command_line(&cleaned) } else { arguments.to_owned() })
}

fn is_secret(name: &str, value: &str) -> bool {
    is_secret_name(name) || strip_userinfo(value) != value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_defines_the_task_stays_and_no_secret() {
        let task = json!({
            "id": "1", "name": "n", "type": "training", "status": "completed", "status_message": "m", "started": "2026",
            "last_worker": "vm:0", "runtime": {"_exec_agent_hostname": "vm"}, "created": "2026", "tags": ["a"],
            "metric_stats": {}, "project": "p",
            "execution": {"queue": "q", "docker_cmd": "img -e HF_TOKEN=S1", "parameters": {"Args/api_key": "S2"}},
            "output": {"destination": "s3://bucket", "result": "x"},
            "models": {"input": [{"name": "m", "model": "1"}], "output": [{"name": "o"}]},
            "script": {
                "repository": "https://u:S3@h/x.git", "diff": "https://a:b@keep",
                "requirements": {"pip": ["git+https://S4@h/y.git"], "org_pip": "-i https://u:S5@i/simple"},
            },
            "container": {"image": "i", "arguments": "--env=DB_PASSWORD=S6 -eMY_TOKEN=S7 -e A=1 --env AWS_SECRET_ACCESS_KEY=S8 \
                -e URL=http://u:S9@h --ipc=host"},
            "hyperparams": {
                "Environment": {"OPENAI_API_KEY": {"value": "S10", "type": ""}, "A": {"value": "1"}},
                "General": {"tokenizer": {"value": "bert"}, "db/password": {"value": "S11"}},
            },
        });
        let record = record(task.as_object().unwrap());
        let text = record.to_string();
        assert!((1..=11).all(|it| !text.contains(&format!("S{it}"))), "{text}");
        for gone in ["status", "started", "last_worker", "runtime", "created", "metric_stats"] {
            assert!(record.get(gone).is_none(), "{gone}");
        }
        assert_eq!(record["script"]["diff"], "https://a:b@keep");
        assert_eq!(record["hyperparams"]["General"]["tokenizer"]["value"], "bert");
        let arguments = "--env=DB_PASSWORD -eMY_TOKEN -e A=1 --env AWS_SECRET_ACCESS_KEY -e URL --ipc=host";
        assert_eq!(record["container"]["arguments"], arguments);
        assert_eq!(without_secrets("--ipc=host -e TOKEN='a b"), "");
        assert_eq!(
            without_secrets("-ite MY_TOKEN=S -xe DB_PASSWORD=S --odd"),
            "-i -t -e MY_TOKEN -xe DB_PASSWORD --odd"
        );
        assert_eq!(record["models"], json!({"input": [{"name": "m", "model": "1"}], "output": []}));
        assert_eq!(record["output"], json!({"destination": "s3://bucket"}));
        assert_eq!(record["execution"], json!({"docker_cmd": "img -e HF_TOKEN", "parameters": {"Args/api_key": ""}}));
    }
}
