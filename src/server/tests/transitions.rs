//! Every probed status change (`transitions.tsv`): from each status each call, with and without force.

use fs_err as fs;
use serde_json::{Value, json};

use super::{TestServer, fixture};

/// Brings a draft to a status, by force.
async fn bring_to(server: &TestServer, task: &str, status: &str) {
    let call = match status {
        "created" => return,
        "queued" => "tasks.enqueue",
        "in_progress" => "tasks.started",
        "stopped" => "tasks.stopped",
        "completed" => "tasks.completed",
        "failed" => "tasks.failed",
        "closed" => "tasks.close",
        "published" => "tasks.publish",
        other => panic!("no way to {other}"),
    };
    server.data(call, json!({"task": task, "force": true})).await;
    assert_eq!(server.status(task).await, status);
}

fn body(call: &str, task: &str, force: bool) -> Value {
    let mut body = json!({"task": task, "force": force});
    match call {
        "tasks.edit" | "tasks.update" => body["comment"] = json!("edited"),
        "tasks.set_requirements" => body["requirements"] = json!({"pip": "six"}),
        "tasks.edit_runtime" => body["runtime"] = json!({"a": "b"}),
        "tasks.edit_hyper_params" => body["hyperparams"] = json!([{"section": "Args", "name": "n", "value": "1"}]),
        "tasks.add_or_update_artifacts" => body["artifacts"] = json!([{"key": "k", "type": "t", "uri": "file:///x"}]),
        "tasks.archive" => body["tasks"] = json!([task]),
        _ => {}
    }
    body
}

/// A message without the ids in it.
fn without_ids(message: &str) -> String {
    let is_id = |word: &str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    message
        .split_inclusive(['=', ',', ' '])
        .map(|it| if is_id(it.trim_end_matches([',', ' '])) { "ID" } else { it })
        .collect()
}

#[tokio::test]
async fn every_probed_status_change_ends_as_recorded() {
    let server = TestServer::new();
    let table = fs::read_to_string(fixture("transitions.tsv")).unwrap();
    let mut rows = 0;
    for line in table.lines() {
        let mut cells = line.split('\t');
        let mut cell = || cells.next().unwrap_or_default();
        let (from, call, force) = (cell(), cell(), cell() == "True");
        let (code, subcode, after, message) = (cell(), cell(), cell(), cell());
        let task = server.task("probe task").await;
        bring_to(&server, &task, from).await;
        let answer = server.call(call, body(call, &task, force)).await;
        let meta = &answer.body["meta"];
        let got = (meta["result_code"].to_string(), meta["result_subcode"].to_string(), server.status(&task).await);
        let what = format!("{from} {call} force={force}: {}", answer.body);
        assert_eq!((got.0.as_str(), got.1.as_str(), got.2.as_str()), (code, subcode, after), "{what}");
        if !message.is_empty() {
            assert_eq!(without_ids(meta["result_msg"].as_str().unwrap()), without_ids(message), "{what}");
        }
        rows += 1;
    }
    assert_eq!(rows, 296);
}
