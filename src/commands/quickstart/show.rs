//! A finished task as its server has it.

use serde_json::{Value, json};

use crate::clearml::{ApiError, Client, tasks};

/// What people read about a task: status, parameters, scalars, plots, artifacts, console.
///
/// # Errors
/// The server's.
pub(super) async fn task(client: &Client, id: &str) -> Result<String, ApiError> {
    let task = tasks::get(client, id).await?;
    let scalars = client.call("events.scalar_metrics_iter_histogram", &json!({ "task": id })).await?;
    let plots = client.call("events.get_task_plots", &json!({ "task": id })).await?;
    let log = client.call("events.get_task_log", &json!({ "task": id, "batch_size": 1000, "order": "asc" })).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![
        format!("task        {id}, {}", text(&task["name"])),
        format!("status      {}", text(&task["status"])),
        format!("parameters  {}", parameters(&task["hyperparams"])),
    ];
    lines.extend(series(&scalars).into_iter().map(|it| format!("scalar      {it}")));
    let names = plots["plots"].as_array().into_iter().flatten();
    let mut names: Vec<String> = names.map(|it| format!("{}/{}", text(&it["metric"]), text(&it["variant"]))).collect();
    names.sort();
    names.dedup();
    lines.extend(names.into_iter().map(|it| format!("plot        {it}")));
    for artifact in task["execution"]["artifacts"].as_array().into_iter().flatten() {
        let kind = text(&artifact["type"]);
        lines.push(format!("artifact    {} ({kind}, {} bytes)", text(&artifact["key"]), artifact["content_size"]));
    }
    for event in log["events"].as_array().into_iter().flatten() {
        let message = text(&event["msg"]);
        lines.extend(message.lines().filter(|it| !it.trim().is_empty()).map(|it| format!("console     {it}")));
    }
    Ok(lines.join("\n"))
}

/// `Section/name=value`, in order.
fn parameters(sections: &Value) -> String {
    let sections = sections.as_object().into_iter().flatten();
    let all = sections.flat_map(|(section, names)| {
        let names = names.as_object().into_iter().flatten();
        names.map(move |(name, it)| format!("{section}/{name}={}", it["value"].as_str().unwrap_or_default()))
    });
    all.collect::<Vec<_>>().join(" ")
}

/// Each scalar's first and last value.
fn series(metrics: &Value) -> Vec<String> {
    let metrics = metrics.as_object().into_iter().flatten().filter(|it| !it.0.starts_with(':'));
    let all = metrics.flat_map(|(metric, variants)| {
        let variants = variants.as_object().into_iter().flatten();
        variants.filter_map(move |(variant, points)| {
            let values = points["y"].as_array().filter(|it| !it.is_empty())?;
            let value = |it: Option<&Value>| it.and_then(Value::as_f64).unwrap_or(f64::NAN);
            let (first, last) = (value(values.first()), value(values.last()));
            Some(format!("{metric}/{variant}: {} values, {first:.4} → {last:.4}", values.len()))
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_scalars_are_lines_of_text() {
        let sections = json!({ "General": { "rate": { "value": "0.5" }, "steps": { "value": "40" } } });
        assert_eq!(parameters(&sections), "General/rate=0.5 General/steps=40");
        let metrics = json!({
            "loss": { "train": { "x": [0, 1], "y": [2.0, 0.25] }, "empty": { "y": [] } },
            ":monitor:machine": { "cpu_usage": { "y": [1.0] } },
        });
        assert_eq!(series(&metrics), ["loss/train: 2 values, 2.0000 → 0.2500"]);
    }
}
