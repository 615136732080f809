//! `--set Section/name=value`: hyperparameters changed on a task as a server holds it.

use serde_json::{Value, json};

/// Puts parameters into a task's `hyperparams`; type and description of one that is there are kept.
pub(super) fn apply(task: &mut Value, set: &[(String, String, String)]) {
    for (section, name, value) in set {
        let entry = child(child(child(task, "hyperparams"), section), name);
        for (field, value) in [("section", section), ("name", name), ("value", value)] {
            *child(entry, field) = json!(value);
        }
    }
}

/// The value under a name; what is no object on the way becomes one.
fn child<'a>(parent: &'a mut Value, name: &str) -> &'a mut Value {
    if !parent.is_object() {
        *parent = json!({});
    }
    &mut parent[name]
}

/// Every parameter as `Section/name` and value, for people.
pub(super) fn list(task: &Value) -> Vec<(String, String)> {
    let sections = task.get("hyperparams").and_then(Value::as_object).into_iter().flatten();
    sections
        .flat_map(|(section, names)| names.as_object().into_iter().flatten().map(move |it| (section, it)))
        .map(|(section, (name, entry))| {
            let value = entry.get("value").and_then(Value::as_str).unwrap_or_default();
            (format!("{section}/{name}"), value.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_changes_and_its_type_stays() {
        let mut task = json!({ "hyperparams": { "Args": { "lr": { "section": "Args", "name": "lr", "value": "1", "type": "float" } } } });
        let set = [("Args", "lr", "0.5"), ("new", "a/b", "x")];
        let set: Vec<_> = set.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect();
        apply(&mut task, &set);
        assert_eq!(task["hyperparams"]["Args"]["lr"]["value"], "0.5");
        assert_eq!(task["hyperparams"]["Args"]["lr"]["type"], "float");
        assert_eq!(list(&task), [("Args/lr".into(), "0.5".into()), ("new/a/b".into(), "x".into())]);
        let mut bare = json!(null);
        apply(&mut bare, &set);
        assert_eq!(list(&bare).len(), 2);
    }
}
