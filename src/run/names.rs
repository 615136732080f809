//! Names of containers: `agent.docker_container_name_format` with its fields.
//!
//! The format is Python's: `clearml-{task_id}-{rand_string:.8}`. Known are `task_id`, `worker_id`, `rand_string` (32
//! letters) and what `docker_container_name_format_fields` names by a dotted path in the task.

use std::collections::BTreeMap;

use serde_json::Value;

use super::RunId;
use super::templates::Values;
use crate::error::{Explain, Kind};

/// A format that makes no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`agent.docker_container_name_format` is `{format}`: {reason}")]
pub struct NameError {
    /// The format.
    format: String,
    /// What is wrong.
    reason: String,
}

impl Explain for NameError {
    fn kind(&self) -> Kind {
        Kind::Config
    }

    fn hints(&self) -> Vec<String> {
        vec!["Write it as in \"clearml-{task_id}-{rand_string:.8}\".".to_owned()]
    }
}

/// The name that a format makes, fit for Docker: what may not stand in a name becomes `-`.
///
/// # Errors
/// [`NameError`]
pub fn name(
    format: &str,
    fields: &BTreeMap<String, String>,
    run: &RunId,
    values: &Values,
) -> Result<String, NameError> {
    let wrong = |reason: String| NameError { format: format.to_owned(), reason };
    let mut name = String::new();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '{' | '}' if letters.peek() == Some(&letter) => {
                letters.next();
                name.push(letter);
            }
            '}' => return Err(wrong("a `}` stands alone".to_owned())),
            '{' => {
                let field: String = letters.by_ref().take_while(|it| *it != '}').collect();
                let (field, spec) = field.split_once(':').unwrap_or((&field, ""));
                let value =
                    value(field, fields, run, values).ok_or_else(|| wrong(format!("no field `{field}` is known")))?;
                let length = match spec {
                    "" | "s" => usize::MAX,
                    spec => {
                        let digits = spec.strip_prefix('.').map(|it| it.trim_end_matches('s'));
                        let length = digits.and_then(|it| it.parse().ok());
                        length.ok_or_else(|| wrong(format!("`{spec}` is no length such as `.8`")))?
                    }
                };
                name.extend(value.chars().take(length));
            }
            other => name.push(other),
        }
    }
    let plain = |it: char| if it.is_ascii_alphanumeric() || "_.-".contains(it) { it } else { '-' };
    let name: String = name.chars().map(plain).collect();
    let name = name.trim_start_matches(['_', '.', '-']);
    if name.len() < 2 {
        return Err(wrong("it makes a name of fewer than two letters".to_owned()));
    }
    Ok(name.to_owned())
}

fn value(field: &str, fields: &BTreeMap<String, String>, run: &RunId, values: &Values) -> Option<String> {
    match field {
        "task_id" => values.task.get("id").and_then(Value::as_str).map(str::to_owned),
        "worker_id" => values.worker_id.clone(),
        // Of the run's id: a start that is tried again has the same name.
        "rand_string" => {
            let letter = |it: u8| char::from(if it.is_ascii_digit() { b'a' + (it - b'0') } else { b'k' + (it - b'a') });
            Some(run.as_str().bytes().map(letter).collect())
        }
        field => {
            let path = fields.get(field)?;
            let text = format!("${{CLEARML_TASK.{path}:}}");
            Some(super::templates::fill(&text, values, &mut Vec::new()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(format: &str) -> Result<String, String> {
        let task = json!({"id": "4b825dc6", "script": {"repository": "https://h/team/code.git"}});
        let values = Values { worker_id: Some("rig:gpu0,1".to_owned()), task, ..Values::default() };
        let fields = BTreeMap::from([("repo".to_owned(), "script.repository".to_owned())]);
        let run: RunId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        name(format, &fields, &run, &values).map_err(|it| it.to_string())
    }

    #[test]
    fn formats_make_names_that_docker_takes() {
        for (format, expected) in [
            ("clearml-id-{task_id}-{rand_string:.8}", "clearml-id-4b825dc6-abcdefgh"),
            ("{worker_id}", "rig-gpu0-1"),
            ("{repo:.12}.{{x}}", "https---h-te.-x-"),
            ("_{task_id:s}", "4b825dc6"),
        ] {
            assert_eq!(named(format).as_deref(), Ok(expected), "{format}");
        }
        assert_eq!(named("{rand_string}").unwrap().len(), 32);
        assert!(named("{rand_string}").unwrap().bytes().all(|it| it.is_ascii_lowercase()));
    }

    #[test]
    fn what_makes_none_is_told() {
        for (format, part) in [
            ("{moon}", "no field `moon` is known"),
            ("{task_id:>9}", "`>9` is no length"),
            ("a}", "a `}` stands alone"),
            ("{repo:.0}", "fewer than two letters"),
        ] {
            let error = named(format).unwrap_err();
            assert!(error.contains(part) && error.contains(format), "{error}");
        }
    }
}
