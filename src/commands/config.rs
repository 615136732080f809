//! `agent config`: the merged configuration, secrets masked, as HOCON that can be read again.

use serde_json::json;

use super::Context;
use crate::cli::config::ConfigArgs;
use crate::config::value::{Object, Value, object_to_json};
use crate::error::Failure;

/// Prints the merged configuration.
pub(super) fn run(_: &ConfigArgs, context: &Context) -> Result<u8, Failure> {
    let config = context.session.config()?;
    // A value of the wrong sort is told here already.
    config.api()?;
    config.agent()?;
    let masked = config.masked();
    if context.ui.is_json() {
        let files: Vec<String> = config.files.iter().map(|it| it.display().to_string()).collect();
        context.ui.print_json(&json!({"files": files, "config": object_to_json(&masked)}))?;
        return Ok(0);
    }
    let mut text = String::new();
    for file in &config.files {
        text.push_str(&format!("# from {}\n", file.display()));
    }
    if config.files.is_empty() {
        text.push_str("# no configuration file was found; see https://clear.ml/docs for clearml.conf\n");
    }
    fields(&masked, 0, &mut text);
    context.ui.print(&text)?;
    Ok(0)
}

fn fields(object: &Object, depth: usize, text: &mut String) {
    let indent = "    ".repeat(depth);
    for (name, value) in object {
        let name = key(name);
        match value {
            Value::Object(inner) => {
                text.push_str(&format!("{indent}{name} {{\n"));
                fields(inner, depth + 1, text);
                text.push_str(&format!("{indent}}}\n"));
            }
            single => text.push_str(&format!("{indent}{name} = {}\n", plain(single))),
        }
    }
}

fn key(name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if plain { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Number(text) => text.clone(),
        Value::List(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(object) => {
            let fields: Vec<String> =
                object.iter().map(|(name, value)| format!("{}: {}", key(name), plain(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        other => other.to_json().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn what_is_printed_can_be_read_again() {
        let text = "a.b { c = 3.10, d = \"x#y\\n\" }, \"e.f\" = [1, {g: null}, true], h = {}";
        let read = |text: &str| Config::from_text("test", text, &Environment::default()).unwrap();
        let config = read(text);
        let mut printed = String::new();
        fields(config.tree(), 0, &mut printed);
        assert_eq!(read(&printed).tree(), config.tree(), "{printed}");
    }
}
