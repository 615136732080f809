//! What a task itself remembers of its events: the last values, the highest iteration, when each metric was heard of.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use super::{SCALAR, SINGLE_VALUE};
use crate::server::clock::Moment;
use crate::server::document::{Document, object, text};
use crate::server::services::tasks::refresh_duration;

/// The field, not shown to clients, with the iteration of each last value.
const LATEST: &str = "_latest";

/// Gathered from a batch's events of one task, written once.
#[derive(Default)]
pub(super) struct Summary {
    scalars: Vec<Scalar>,
    last_iteration: Option<i64>,
    /// When each metric's events of each type were last heard of.
    heard: BTreeMap<(String, String), i64>,
}

struct Scalar {
    metric: String,
    variant: String,
    iteration: i64,
    value: f64,
}

impl Summary {
    /// Adds a stored event.
    pub(super) fn note(&mut self, event: &Document) {
        let (metric, kind) = (text(event, "metric"), text(event, "type"));
        let timestamp = event.get("timestamp").and_then(Value::as_i64).unwrap_or_default();
        let heard = self.heard.entry((metric.to_owned(), kind.to_owned())).or_default();
        *heard = timestamp.max(*heard);
        let Some(iteration) = event.get("iter").and_then(Value::as_i64) else { return };
        if iteration != SINGLE_VALUE {
            self.last_iteration = self.last_iteration.max(Some(iteration));
        }
        if let (SCALAR, Some(value)) = (kind, event.get("value").and_then(Value::as_f64)) {
            let variant = text(event, "variant").to_owned();
            self.scalars.push(Scalar { metric: metric.to_owned(), variant, iteration, value });
        }
    }

    /// Writes it into the task.
    pub(super) fn write(self, task: &mut Document, now: Moment) {
        for scalar in &self.scalars {
            let (metric, variant) = (hash(&scalar.metric), hash(&scalar.variant));
            let latest = object(object(task, LATEST), &metric).get(&variant).and_then(Value::as_i64);
            let is_latest = latest.is_none_or(|it| scalar.iteration >= it);
            if is_latest {
                object(object(task, LATEST), &metric).insert(variant.clone(), json!(scalar.iteration));
            }
            scalar.write(object(object(object(task, "last_metrics"), &metric), &variant), is_latest);
        }
        for ((metric, kind), timestamp) in self.heard {
            let stats = object(object(task, "metric_stats"), &hash(&metric));
            stats.insert("metric".into(), json!(metric));
            object(stats, "event_stats_by_type").insert(kind, json!({"last_update": timestamp}));
        }
        if let Some(iteration) = self.last_iteration {
            let last = task.get("last_iteration").and_then(Value::as_i64).unwrap_or_default();
            task.insert("last_iteration".into(), json!(last.max(iteration)));
        }
        task.insert("last_update".into(), json!(now.stored()));
        refresh_duration(task, now);
    }
}

impl Scalar {
    fn write(&self, last: &mut Document, is_latest: bool) {
        let (value, iteration) = (self.value, self.iteration);
        if last.is_empty() {
            *last = crate::server::document::document(json!({
                "metric": self.metric, "variant": self.variant, "value": value,
                "min_value": value, "min_value_iteration": iteration,
                "max_value": value, "max_value_iteration": iteration,
                "first_value": value, "first_value_iteration": iteration, "count": 1, "mean_value": value,
            }));
            return;
        }
        let number = |field: &str| last.get(field).and_then(Value::as_f64).unwrap_or_default();
        let (count, mean) = (number("count"), number("mean_value"));
        let (is_min, is_max) = (value < number("min_value"), value > number("max_value"));
        if is_latest {
            last.insert("value".into(), json!(value));
        }
        for (named, applies) in [("min_value", is_min), ("max_value", is_max)] {
            if applies {
                last.insert(named.into(), json!(value));
                last.insert(format!("{named}_iteration"), json!(iteration));
            }
        }
        last.insert("count".into(), json!(count as i64 + 1));
        last.insert("mean_value".into(), json!(mean + (value - mean) / (count + 1.0)));
    }
}

/// Metrics and variants are told apart by the MD5 of their names, which may have dots.
pub(super) fn hash(name: &str) -> String {
    Md5::digest(name.as_bytes()).iter().map(|it| format!("{it:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::document::document;

    #[test]
    fn a_task_remembers_last_least_greatest_first_and_mean() {
        let mut task = document(json!({"last_iteration": 0}));
        let mut summary = Summary::default();
        for (iteration, value) in [(0, 1.0), (1, 0.5), (3, 0.25), (2, 0.25)] {
            summary.note(&document(json!({"type": SCALAR, "metric": "loss", "variant": "train", "iter": iteration,
                "value": value, "timestamp": 5})));
        }
        summary.write(&mut task, Moment::now());
        let last = &task["last_metrics"][hash("loss")][hash("train")];
        assert_eq!(hash("loss"), "81513effdf5790b79549208838404407");
        assert_eq!(
            (&last["value"], &last["min_value_iteration"], &last["max_value"]),
            (&json!(0.25), &json!(3), &json!(1.0))
        );
        assert_eq!((&last["count"], &last["mean_value"]), (&json!(4), &json!(0.5)));
        assert_eq!(task["last_iteration"], 3);
        assert_eq!(task["metric_stats"][hash("loss")]["event_stats_by_type"][SCALAR]["last_update"], 5);
    }
}
