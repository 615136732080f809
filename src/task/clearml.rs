//! A task as a ClearML server answers it (`tasks.get_by_id`), old servers' answers included. Wire names end here.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Container, LOCK, Parameter, Requirements, Script, Task, TaskError, record};

type Fields = Map<String, Value>;

/// Reads a task object.
///
/// # Errors
/// [`TaskError::NotOne`] for what is no object, [`TaskError::Field`] for a field of the wrong sort.
pub fn parse(task: &Value) -> Result<Task, TaskError> {
    let Value::Object(fields) = task else {
        return Err(TaskError::NotOne { origin: "the server's answer".to_owned(), found: noun(task).to_owned() });
    };
    let script = object(fields, "", "script")?;
    let parameters = parameters(fields)?;
    let mut configuration = configuration(fields)?;
    let lock = configuration.remove(LOCK);
    let lock = lock.as_ref().and_then(|it| it.get("value").unwrap_or(it).as_str());
    Ok(Task {
        id: filled(fields, "", "id")?,
        name: text(fields, "", "name")?.unwrap_or_default(),
        script: script.map(self::script).transpose()?.unwrap_or_default(),
        container: container(fields)?,
        configuration,
        lock: lock.filter(|it| !it.trim().is_empty()).map(str::to_owned),
        record: record::record(fields),
        parameters,
    })
}

fn script(fields: &Fields) -> Result<Script, TaskError> {
    let filled = |name| filled(fields, "script.", name);
    let text = |name| text(fields, "script.", name).map(Option::unwrap_or_default);
    Ok(Script {
        repository: filled("repository")?,
        commit: filled("version_num")?,
        branch: filled("branch")?,
        tag: filled("tag")?,
        entry_point: text("entry_point")?.trim().to_owned(),
        working_dir: text("working_dir")?.trim().to_owned(),
        diff: text("diff")?,
        requirements: requirements(fields)?,
        interpreter: filled("binary")?,
    })
}

fn requirements(script: &Fields) -> Result<Requirements, TaskError> {
    let Some(fields) = object(script, "script.", "requirements")? else { return Ok(Requirements::default()) };
    let lines = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|it| !it.trim().is_empty())),
        Some(Value::Array(items)) => {
            let mut text = String::new();
            for item in items {
                let Value::String(line) = item else {
                    return Err(wrong("script.requirements.", name, "a text or a list of texts", item));
                };
                text.push_str(line);
                text.push('\n');
            }
            Ok(Some(text).filter(|it| !it.trim().is_empty()))
        }
        Some(other) => Err(wrong("script.requirements.", name, "a text or a list of texts", other)),
    };
    Ok(Requirements { pip: lines("pip")?, org_pip: lines("org_pip")?, conda: lines("conda")? })
}

fn container(task: &Fields) -> Result<Container, TaskError> {
    let mut container = Container::default();
    if let Some(fields) = object(task, "", "container")? {
        let filled = |name| filled(fields, "container.", name);
        container = Container {
            image: filled("image")?,
            arguments: filled("arguments")?,
            setup_script: text(fields, "container.", "setup_shell_script")?.filter(|it| !it.trim().is_empty()),
        };
    }
    if container.image.is_none()
        && let Some(execution) = object(task, "", "execution")?
        && let Some(command) = filled(execution, "execution.", "docker_cmd")?
    {
        // Servers before API 2.13: image and arguments in one text.
        let (image, arguments) = command.split_once(char::is_whitespace).unwrap_or((&command, ""));
        container.image = Some(image.to_owned());
        container.arguments =
            container.arguments.or_else(|| Some(arguments.trim().to_owned()).filter(|it| !it.is_empty()));
    }
    Ok(container)
}

fn parameters(task: &Fields) -> Result<BTreeMap<String, BTreeMap<String, Parameter>>, TaskError> {
    let mut parameters: BTreeMap<String, BTreeMap<String, Parameter>> = BTreeMap::new();
    for (section, entries) in object(task, "", "hyperparams")?.into_iter().flatten() {
        let Value::Object(entries) = entries else { return Err(wrong("hyperparams.", section, "an object", entries)) };
        for (name, entry) in entries {
            let path = format!("hyperparams.{section}.");
            let parameter = match entry {
                Value::Object(entry) => Parameter {
                    value: single(entry.get("value").unwrap_or(&Value::Null))
                        .ok_or_else(|| wrong(&path, name, "an object with a single value", &entry["value"]))?,
                    kind: entry.get("type").and_then(Value::as_str).filter(|it| !it.is_empty()).map(str::to_owned),
                },
                other => Parameter {
                    value: single(other).ok_or_else(|| wrong(&path, name, "an object", other))?,
                    kind: None,
                },
            };
            parameters.entry(section.clone()).or_default().insert(name.clone(), parameter);
        }
    }
    if parameters.is_empty()
        && let Some(execution) = object(task, "", "execution")?
    {
        // Servers before API 2.9: `Section/name` in one map.
        for (path, value) in object(execution, "execution.", "parameters")?.into_iter().flatten() {
            let (section, name) = path.split_once('/').unwrap_or(("Args", path));
            let value = single(value).ok_or_else(|| wrong("execution.parameters.", path, "a single value", value))?;
            parameters.entry(section.to_owned()).or_default().insert(name.to_owned(), Parameter { value, kind: None });
        }
    }
    Ok(parameters)
}

fn configuration(task: &Fields) -> Result<BTreeMap<String, Value>, TaskError> {
    let fields = object(task, "", "configuration")?;
    Ok(fields.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A single value as the text it is on the wire.
fn single(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => Some(String::new()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn object<'a>(fields: &'a Fields, path: &str, name: &str) -> Result<Option<&'a Fields>, TaskError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(inner)) => Ok(Some(inner)),
        Some(other) => Err(wrong(path, name, "an object", other)),
    }
}

fn text(fields: &Fields, path: &str, name: &str) -> Result<Option<String>, TaskError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(path, name, "a text", other)),
    }
}

/// A text that is more than white space, without it around.
fn filled(fields: &Fields, path: &str, name: &str) -> Result<Option<String>, TaskError> {
    Ok(text(fields, path, name)?.map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()))
}

fn wrong(path: &str, name: &str, expected: &'static str, found: &Value) -> TaskError {
    TaskError::Field { field: format!("{path}{name}"), expected, found: noun(found) }
}

pub(super) const fn noun(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_as_the_sdk_records_it() {
        let task = parse(&json!({
            "id": "c71dcb2cbee6455fbe4d5001caf676a6", "name": "train one", "type": "training", "status": "completed",
            "script": {
                "binary": "python3.11", "repository": "https://tok@host/proj.git", "branch": "main",
                "version_num": "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "entry_point": "src/train.py",
                "working_dir": ".", "diff": "diff --git a/x b/x\n",
                "requirements": {"pip": ["six==1.16.0", "numpy"], "org_pip": "six\nnumpy\n", "conda": ""},
            },
            "container": {"image": "python:3.11", "arguments": "--ipc=host", "setup_shell_script": " "},
            "hyperparams": {"Args": {"lr": {"section": "Args", "name": "lr", "value": "0.1", "type": "float"}}},
            "configuration": {
                "OmegaConf": {"name": "OmegaConf", "value": "a: 1"},
                "agent-lock": {"name": "agent-lock", "type": "text", "value": "version = 1"},
            },
        }))
        .unwrap();
        assert_eq!(task.script.requirements.pip.as_deref(), Some("six==1.16.0\nnumpy\n"));
        assert_eq!(task.script.requirements.conda, None);
        assert_eq!(task.script.commit.as_deref(), Some("4b825dc642cb6eb9a060e54bf8d69288fbee4904"));
        assert_eq!(task.container.image.as_deref(), Some("python:3.11"));
        assert_eq!(task.container.setup_script, None);
        assert_eq!(task.parameters["Args"]["lr"].kind.as_deref(), Some("float"));
        assert_eq!(task.configuration["OmegaConf"]["value"], "a: 1");
        assert_eq!((task.configuration.len(), task.lock.as_deref()), (1, Some("version = 1")));
        assert_eq!(task.record["configuration"].as_object().unwrap().len(), 1, "a lock has no lock inside");
    }

    #[test]
    fn what_old_servers_answer() {
        let task = parse(&json!({
            "name": "old", "container": {},
            "execution": {"docker_cmd": "nvidia/cuda:11 --ipc=host -e A=1", "parameters": {"Args/x": "1", "y": "2"}},
        }))
        .unwrap();
        assert_eq!(task.container.image.as_deref(), Some("nvidia/cuda:11"));
        assert_eq!(task.container.arguments.as_deref(), Some("--ipc=host -e A=1"));
        assert_eq!(task.parameters["Args"].len(), 2);
        assert_eq!(task.script, Script::default());
    }

    #[test]
    fn a_field_of_the_wrong_sort_is_named() {
        let message = |task: Value| parse(&task).unwrap_err().to_string();
        let bad = json!({"script": {"requirements": {"pip": {"a": 1}}}});
        let expected = "field `script.requirements.pip` of the task is an object instead of a text or a list of texts";
        assert_eq!(message(bad), expected);
        assert_eq!(message(json!({"name": 1})), "field `name` of the task is a number instead of a text");
        assert_eq!(message(json!([])), "`the server's answer` holds a list instead of one task");
        assert!(message(json!({"hyperparams": {"a": {"b": {"value": {}}}}})).contains("hyperparams.a.b"));
    }
}
