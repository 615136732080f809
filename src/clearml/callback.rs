//! What a task wants done before it is stopped (the SDK's `register_abort_callback`): the SDK says in the task's runtime
//! properties that there is something and how long it may take, hears of the stop itself, and says there when it is done.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ApiError, Client};

/// Waits until the SDK is done with what a task wants done before it is stopped, or has taken longer than it asked for, or
/// than `most`; asks every `pause`. Comes at once where there is nothing of the kind.
pub async fn done(client: &Client, task: &str, pause: Duration, most: Duration) {
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    loop {
        // A server that is away does not say that it is done: then what it said last counts.
        if let Ok(runtime) = runtime(client, task).await {
            let Some(asked) = limit(&runtime, most) else { return };
            longest = asked;
        }
        if began.elapsed() > longest {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// The properties that tell of it; none of a task that is gone.
async fn runtime(client: &Client, task: &str) -> Result<Value, ApiError> {
    let fields = ["_abort_callback_timeout", "_abort_poll_freq", "_abort_callback_completed"];
    let fields = fields.map(|it| format!("runtime.{it}"));
    let query = json!({ "id": [task], "search_hidden": true, "only_fields": fields });
    let data = client.call("tasks.get_all", &query).await?;
    Ok(data.pointer("/tasks/0/runtime").cloned().unwrap_or_default())
}

/// How long a task's runtime properties ask to wait, while what it wants done is not done.
fn limit(runtime: &Value, most: Duration) -> Option<Duration> {
    // The SDK writes numbers with a fraction, older ones text.
    let number = |name: &str| {
        let value = runtime.get(name)?;
        value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|it| it.is_finite())
    };
    let done = runtime.get("_abort_callback_completed");
    if done.is_some_and(|it| !it.is_null() && it != "" && it != "0" && it != 0) {
        return None;
    }
    // One that was taken back is written as less than none.
    let asked = number("_abort_callback_timeout").filter(|it| *it >= 0.0)?;
    let all = asked + number("_abort_poll_freq").unwrap_or(0.0).max(0.0);
    Some(Duration::try_from_secs_f64(all).unwrap_or(most).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_may_ask_for_time_before_it_is_stopped() {
        let most = Duration::from_secs(1800);
        let callback = |runtime: Value| limit(&runtime, most).map(|it| it.as_secs());
        assert_eq!(callback(json!({})), None);
        assert_eq!(callback(Value::Null), None);
        // As SDK 2.1.12 registers one, says that it is done, and takes it back.
        let asked =
            json!({ "_abort_callback_timeout": 30.0, "_abort_poll_freq": 15.0, "_abort_callback_completed": "" });
        assert_eq!(callback(asked), Some(45));
        let done = json!({ "_abort_callback_timeout": 30.0, "_abort_poll_freq": 15.0, "_abort_callback_completed": 1 });
        assert_eq!(callback(done), None);
        let back =
            json!({ "_abort_callback_timeout": -1.0, "_abort_poll_freq": 15.0, "_abort_callback_completed": "" });
        assert_eq!(callback(back), None);
        assert_eq!(callback(json!({ "_abort_callback_timeout": "180.0", "_abort_poll_freq": 10 })), Some(190));
        assert_eq!(callback(json!({ "_abort_callback_timeout": 1e300 })), Some(1800));
        assert_eq!(callback(json!({ "_abort_callback_timeout": "soon" })), None);
        let long = json!({ "_abort_callback_timeout": 3600 });
        assert_eq!(limit(&long, Duration::from_secs(7200)), Some(Duration::from_secs(3600)));
        assert_eq!(limit(&long, Duration::ZERO), Some(Duration::ZERO));
    }
}
