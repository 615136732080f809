//! After the end: a message that a killed process, or a connection given up, had on its way may arrive at any time, and
//! sets a task that has ended back to `in_progress` ([`super::watching`]). So those that ended lately are looked at, and
//! where such a message took the end back, it is told again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Seen;
use crate::clearml::tasks::{self, Change};
use crate::clearml::{ApiError, Client};
use crate::daemon::journal::{Phase, Record, Verdict, now};

/// How long a message may be on its way: longer than the kernel resends what a dead process wrote, and than a server
/// that hangs is left hanging.
const LATEST: Duration = Duration::from_secs(600);

/// Tells the ends again that messages of their own runs took back; which tasks these are. Of these units those count that
/// are over since a while ago at the most.
pub(in crate::daemon) async fn tell_again(client: &Client, units: &[Record]) -> Result<Vec<String>, ApiError> {
    let lately = now() - i64::try_from(LATEST.as_millis()).unwrap_or(i64::MAX);
    let over = units.iter().filter(|it| it.phase == Phase::Done && it.since >= lately);
    // What went back into its queue is taken anew, whatever its status.
    let told = |it: &&Record| !matches!(it.verdict, None | Some(Verdict::Leave { .. } | Verdict::Again { .. }));
    // Of a task that was run again only the last run has it.
    let mut over: Vec<&Record> = over.filter(told).collect();
    over.sort_by_key(|it| it.since);
    let over: BTreeMap<&str, &Record> = over.into_iter().map(|it| (it.task.as_str(), it)).collect();
    if over.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = over.keys().copied().collect();
    let fields = ["id", "status", "status_message", "runtime"];
    let query = json!({ "id": ids, "status": ["in_progress"], "search_hidden": true, "only_fields": fields });
    let data = client.call("tasks.get_all", &query).await?;
    let mut again = Vec::new();
    for task in data.get("tasks").and_then(Value::as_array).into_iter().flatten() {
        let id = task.get("id").and_then(Value::as_str).unwrap_or_default();
        if let Some(record) = over.get(id)
            && is_taken_back(&Seen::of(task), record)
        {
            tell(client, record).await?;
            again.push(id.to_owned());
        }
    }
    Ok(again)
}

/// Whether it was a message of the run itself that set the task back: whoever takes it anew says so in other words, and
/// marks it before saying more.
fn is_taken_back(seen: &Seen, record: &Record) -> bool {
    let ours = format!(" ({})", tasks::changed_by(&record.worker));
    seen.state.status == "in_progress" && seen.is_marked(&record.run) && seen.state.message.ends_with(&ours)
}

async fn tell(client: &Client, record: &Record) -> Result<(), ApiError> {
    let message = tasks::changed_by(&record.worker);
    let change = |reason| Change { task: &record.task, reason, message: &message, force: false };
    match &record.verdict {
        Some(Verdict::Completed) => tasks::completed(client, change("worker execution done")).await,
        Some(Verdict::Stopped { reason }) => tasks::stopped(client, change(reason)).await,
        Some(Verdict::Failed { reason }) => tasks::failed(client, change(reason)).await,
        Some(Verdict::Again { .. } | Verdict::Leave { .. }) | None => return Ok(()),
    }
    .map(drop)
}
