//! `agent list`: the server's workers and what they do.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Context, workshop};
use crate::cli::list::ListArgs;
use crate::error::{During, Failure};
use crate::ui::{Align, Table, text};

/// Lists the workers.
pub(super) async fn run(args: &ListArgs, context: &Context) -> Result<u8, Failure> {
    let api = context.session.config()?.api()?;
    let client = workshop::client(&api, context)?;
    let answer = client.call("workers.get_all", &json!({"last_seen": args.last_seen})).await;
    let answer = answer.during(|| "cannot list the workers".to_owned())?;
    let ui = &context.ui;
    if ui.is_json() {
        ui.print_json(&answer)?;
        return Ok(0);
    }
    let workers = answer["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if workers.is_empty() {
        ui.print("no workers")?;
    } else {
        ui.print(&table(workers, jiff::Timestamp::now()).render(ui.paint()))?;
    }
    Ok(0)
}

fn table(workers: &[Value], now: jiff::Timestamp) -> Table {
    let mut table = Table::new([
        ("worker", Align::Left),
        ("queues", Align::Left),
        ("task", Align::Left),
        ("name", Align::Left),
        ("for", Align::Right),
        ("reported", Align::Right),
        ("tags", Align::Left),
    ]);
    let mut rows: Vec<&Value> = workers.iter().collect();
    rows.sort_by_key(|it| it["id"].as_str().unwrap_or_default().to_owned());
    for worker in rows {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let task = &worker["task"];
        let running = task["running_time"].as_u64().filter(|_| task["id"].is_string());
        table.row([
            word(&worker["id"]),
            list(&worker["queues"], |it| it["name"].as_str().or_else(|| it["id"].as_str())),
            word(&task["id"]),
            text::short(&word(&task["name"]), 40),
            running.map_or_else(String::new, |it| text::duration(Duration::from_millis(it))),
            age(&worker["last_report_time"], now),
            list(&worker["tags"], Value::as_str),
        ]);
    }
    table
}

fn list<'a>(values: &'a Value, name: impl Fn(&'a Value) -> Option<&'a str>) -> String {
    let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
    values.iter().filter_map(name).collect::<Vec<_>>().join(", ")
}

/// How long ago a moment was.
fn age(moment: &Value, now: jiff::Timestamp) -> String {
    let parsed = moment.as_str().and_then(|it| it.parse::<jiff::Timestamp>().ok());
    let Some(moment) = parsed else { return String::new() };
    let ago = now.duration_since(moment).unsigned_abs();
    format!("{} ago", text::duration(Duration::from_secs(ago.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::ui::Paint;

    #[test]
    fn what_a_real_server_answers_is_shown() {
        let workers = json!([
            {"id": "vm:1", "queues": [{"id": "q2"}], "last_report_time": "2026-11-21T21:29:02+00:00", "tags": ["a", "b"]},
            {"id": "vm:0", "queues": [{"id": "q1", "name": "high"}, {"id": "q2", "name": "low"}],
             "last_report_time": "2026-11-21T21:29:22.443956+00:00", "tags": [],
             "task": {"id": "7b4f", "name": "made src/slow.py", "running_time": 10000}},
        ]);
        let now = "2026-11-21T21:29:32.5Z".parse().unwrap();
        let shown = table(workers.as_array().unwrap(), now).render(Paint::of(&Environment::default(), false));
        insta::assert_snapshot!(shown, @r"
        worker  queues     task  name                 for    reported  tags
        vm:0    high, low  7b4f  made src/slow.py  10.0 s  10.0 s ago
        vm:1    q2                                         30.0 s ago  a, b
        ");
    }
}
