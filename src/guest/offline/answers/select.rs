//! Which documents a query means, and which part of them.

use serde_json::{Value, json};

/// Fields whose value must be the one, or one of those, that are asked for.
const EXACT: [&str; 9] = ["id", "project", "task", "parent", "status", "type", "uri", "user", "framework"];

/// Whether a document is meant by a query. What the query has no word for does not count.
pub(super) fn is_asked_for(document: &Value, query: &Value) -> bool {
    let beyond = query.get("page").and_then(Value::as_u64).is_some_and(|it| it > 0);
    !beyond
        && query.as_object().into_iter().flatten().filter(|(_, wanted)| !wanted.is_null()).all(|(field, wanted)| {
            match field.as_str() {
                field if EXACT.contains(&field) => among(&document[field], wanted),
                "name" => wanted.as_str().is_none_or(|it| is_like(&document["name"], it)),
                "tags" | "system_tags" => has(&document[field], wanted),
                "_any_" | "_all_" => {
                    let pattern = wanted["pattern"].as_str().unwrap_or_default();
                    let fields = wanted["fields"].as_array().into_iter().flatten().filter_map(Value::as_str);
                    fields.map(|it| &document[it]).any(|it| is_like(it, pattern))
                }
                _ => true,
            }
        })
}

/// The document, or the part of it that `only_fields` asks for.
pub(super) fn part(document: &Value, query: &Value) -> Value {
    let Some(fields) = query.get("only_fields").and_then(Value::as_array) else { return document.clone() };
    let mut part = json!({ "id": document["id"] });
    for field in fields.iter().filter_map(Value::as_str) {
        let (mut from, mut place) = (document, &mut part);
        let (parents, last) = field.rsplit_once('.').unwrap_or(("", field));
        // What a field is asked of is there, too, when it lacks the field.
        for name in parents.split('.').filter(|it| !it.is_empty()) {
            from = &from[name];
            place = &mut place[name];
            if !place.is_object() {
                *place = json!({});
            }
        }
        if let Some(value) = from.get(last) {
            place[last] = value.clone();
        }
    }
    part
}

fn among(value: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Array(list) => list.is_empty() || list.contains(value),
        one => one == value,
    }
}

/// Names are asked for by regular expressions, which the SDK makes of plain names: ends may be marked, signs escaped.
fn is_like(value: &Value, pattern: &str) -> bool {
    let plain = pattern.trim_start_matches('^').trim_end_matches('$').replace('\\', "");
    let text = value.as_str().unwrap_or_default();
    if pattern.starts_with('^') && pattern.ends_with('$') { text == plain } else { text.contains(&plain) }
}

/// One of the tags that are asked for, and none of those behind a minus; words that begin with `__` say how to count.
fn has(tags: &Value, wanted: &Value) -> bool {
    let there = |tag: &str| tags.as_array().is_some_and(|it| it.iter().any(|it| it == tag));
    let wanted: Vec<&str> = wanted.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (refused, wanted): (Vec<&str>, Vec<&str>) =
        wanted.into_iter().filter(|it| !it.starts_with("__")).partition(|it| it.starts_with('-'));
    !refused.iter().any(|it| there(&it[1..])) && (wanted.is_empty() || wanted.iter().any(|it| there(it)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_the_fields_that_are_asked_for_and_what_they_are_asked_of() {
        let document = json!({ "id": "1", "runtime": {}, "script": { "branch": "b", "diff": "d" }, "name": "n" });
        let query = json!({ "only_fields": ["runtime.version", "script.branch", "name", "absent"] });
        let expected = json!({ "id": "1", "runtime": {}, "script": { "branch": "b" }, "name": "n" });
        assert_eq!(part(&document, &query), expected);
        assert_eq!(part(&document, &json!({})), document);
    }

    #[test]
    fn queries_mean_what_they_name() {
        let document = json!({ "id": "1", "name": "a (b)", "status": "created", "tags": ["x"], "parent": null });
        for (query, expected) in [
            (json!({}), true),
            (json!({ "id": ["1", "2"], "order_by": ["-created"], "page": 0, "page_size": 10 }), true),
            (json!({ "page": 1 }), false),
            (json!({ "id": "2" }), false),
            (json!({ "name": "^a \\(b\\)$" }), true),
            (json!({ "name": "^a$" }), false),
            (json!({ "name": "b" }), true),
            (json!({ "parent": "7" }), false),
            (json!({ "status": null, "project": [] }), true),
            (json!({ "tags": ["y", "x"] }), true),
            (json!({ "tags": ["__$all", "y"] }), false),
            (json!({ "tags": ["-x"] }), false),
            (json!({ "_any_": { "pattern": "a", "fields": ["name", "comment"] } }), true),
            (json!({ "_any_": { "pattern": "z", "fields": ["name"] } }), false),
        ] {
            assert_eq!(is_asked_for(&document, &query), expected, "{query}");
        }
    }
}
