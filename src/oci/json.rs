//! Canonical JSON: keys sorted bytewise at every depth, no white space, numbers as serde writes them.

use serde::Serialize;
use serde_json::Value;

/// The canonical bytes of a value.
///
/// # Panics
/// When `value` cannot be JSON (a map with keys that are no texts): a defect of the caller.
#[must_use]
pub fn canonical(value: &impl Serialize) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "documented")]
    let value = serde_json::to_value(value).expect("the value is JSON");
    let mut out = Vec::new();
    write(&value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            out.push(b'{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({"b": [{"z": 1, "a": "é\n"}], "a": null});
        assert_eq!(super::canonical(&value), r#"{"a":null,"b":[{"a":"é\n","z":1}]}"#.as_bytes());
    }
}
