//! What no recording has.

use serde_json::{Value, json};

use super::TestServer;

#[tokio::test]
async fn listings_are_filtered_ordered_paged_and_cut() {
    let server = TestServer::new();
    let project = server.data("projects.create", json!({"name": "team/vision"})).await["id"].clone();
    for (name, tags) in [("alpha one", json!(["x"])), ("beta two", json!(["x", "y"])), ("gamma three", json!([]))] {
        server.data("tasks.create", json!({"name": name, "type": "training", "project": project, "tags": tags})).await;
    }
    let names = async |body: Value| -> Vec<String> {
        let data = server.data("tasks.get_all", body).await;
        data["tasks"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(json!({"name": "a t", "only_fields": ["name"]})).await, ["beta two", "gamma three"]);
    assert_eq!(names(json!({"tags": ["x", "-y"]})).await, ["alpha one"]);
    assert_eq!(
        names(json!({"project": [project], "order_by": ["-name"], "page": 0, "page_size": 2})).await,
        ["gamma three", "beta two"]
    );
    assert_eq!(
        names(json!({"project": [project], "order_by": ["-name"], "page": 1, "page_size": 2})).await,
        ["alpha one"]
    );
    assert_eq!(names(json!({"_any_": {"fields": ["name", "comment"], "pattern": "^gamma"}})).await, ["gamma three"]);
    assert_eq!(names(json!({"status": ["queued"]})).await, Vec::<String>::new());
    assert_eq!(names(json!({"created": [">=2020-01-01", "<2100-01-01"], "type": ["training"]})).await.len(), 3);
    let first = server.data("tasks.get_all", json!({"size": 2, "scroll_id": null})).await;
    let rest = server.data("tasks.get_all", json!({"size": 2, "scroll_id": first["scroll_id"]})).await;
    assert_eq!((first["tasks"].as_array().unwrap().len(), rest["tasks"].as_array().unwrap().len()), (2, 1));
    let parent = server.data("projects.get_all", json!({"name": "^team$"})).await;
    let child = server.data("projects.get_by_id", json!({"project": project})).await;
    assert_eq!(child["project"]["parent"], parent["projects"][0]["id"]);
    assert_eq!(child["project"]["basename"], "vision");
}

#[tokio::test]
async fn listings_ask_for_what_lies_deep() {
    let server = TestServer::new();
    let model = server.data(
        "models.create",
        json!({"name": "net", "uri": "file:///m", "ready": false,
        "metadata": [{"key": "kind", "type": "str", "value": "small"}]}),
    );
    let model = model.await["id"].clone();
    server.data("models.create", json!({"name": "other", "uri": "file:///o", "metadata": []})).await;
    for (name, version, value) in [("task one", "1.0", 0.25), ("Task two", "2.0", 0.75)] {
        let task = server.task(name).await;
        let params = json!({"Args": {"lr": {"value": version}}});
        let edit = json!({"task": task, "runtime": {"version": version}, "hyperparams": params});
        server.data("tasks.edit", edit).await;
        server
            .data(
                "events.add",
                json!({"type": "training_stats_scalar", "task": task, "metric": "loss",
            "variant": "train", "iter": 3, "value": value}),
            )
            .await;
    }
    let one = json!({"name": "^task one$", "only_fields": ["id"]});
    let one = server.data("tasks.get_all", one).await["tasks"][0]["id"].clone();
    let used = json!({"task": one, "name": "in", "type": "input", "model": model});
    server.data("tasks.add_or_update_model", used).await;
    let names = async |endpoint: &str, body: Value| -> Vec<String> {
        let data = server.data(endpoint, body).await;
        let list = data.as_object().unwrap().values().next().unwrap().as_array().unwrap();
        list.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    let loss = {
        let task = server.data("tasks.get_by_id", json!({"task": one})).await;
        let metrics = task["task"]["last_metrics"].as_object().unwrap();
        let (metric, variants) = metrics.iter().next().unwrap();
        format!("last_metrics.{metric}.{}.max_value", variants.as_object().unwrap().keys().next().unwrap())
    };
    for (body, expected) in [
        (json!({"runtime.version": "2.0"}), &["Task two"][..]),
        (json!({"hyperparams.Args.lr.value": ["1.0"]}), &["task one"]),
        (json!({(loss.as_str()): [0.5, null]}), &["Task two"]),
        (json!({(loss.as_str()): [null, 0.5]}), &["task one"]),
        (json!({"last_iteration": [4, null]}), &[]),
        (json!({"models.input.model": model}), &["task one"]),
        (json!({"_any_": {"fields": ["name", "comment"], "pattern": "^task"}}), &["task one", "Task two"]),
        (json!({"name": "^task"}), &["task one"]),
    ] {
        assert_eq!(names("tasks.get_all", body.clone()).await, expected, "{body}");
    }
    assert_eq!(names("models.get_all", json!({"metadata.kind.value": "small"})).await, ["net"]);
    assert_eq!(names("models.get_all", json!({"metadata.kind.value": "large"})).await, [""; 0]);
    assert_eq!(server.refusal("tasks.get_all", json!({"last_iteration": 4})).await.1, 12);

    // What a task reads is not deleted under it.
    assert_eq!(server.refusal("models.delete", json!({"model": model})).await.1, 205);
    server.data("models.delete", json!({"model": model, "force": true})).await;
}

#[tokio::test]
async fn an_answer_has_an_end() {
    let server = TestServer::new();
    let task = server.task("long list").await;
    {
        let db = server.shared.db.lock().unwrap();
        for index in 0..600 {
            let task = json!({"id": format!("{index:032}"), "name": "one of many", "status": "created"});
            crate::server::storage::insert(&db, crate::server::storage::Kind::Task, task.as_object().unwrap()).unwrap();
        }
        let log = "INSERT INTO events (task, type, metric, variant, timestamp, body)
            WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10100)
            SELECT ?, 'log', '', '', i, '{}' FROM n";
        db.execute(log, [&task]).unwrap();
    }
    let count = async |body: Value| server.data("tasks.get_all", body).await["tasks"].as_array().unwrap().len();
    assert_eq!(count(json!({})).await, 500);
    assert_eq!(count(json!({"page_size": 10_000})).await, 500);
    assert_eq!(count(json!({"page": 1, "page_size": 10_000})).await, 101);
    assert_eq!(server.refusal("tasks.get_all", json!({"page_size": 0})).await.1, 12);
    assert_eq!(server.refusal("tasks.get_all", json!({"page": -1})).await.1, 12);
    let log = server.data("events.get_task_log", json!({"task": task, "batch_size": i64::MAX})).await;
    assert_eq!((&log["returned"], &log["total"]), (&json!(10_000), &json!(10_100)));
}

#[tokio::test]
async fn what_is_archived_holds_no_project_back() {
    let server = TestServer::new();
    let project = server.data("projects.create", json!({"name": "done with"})).await["id"].clone();
    let task = json!({"name": "old one", "type": "training", "project": project});
    let task = server.data("tasks.create", task).await["id"].clone();
    server.data("models.create", json!({"name": "old model", "uri": "file:///m", "project": project})).await;
    assert_eq!(server.refusal("projects.delete", json!({"project": project})).await.1, 402);
    server.data("tasks.archive", json!({"tasks": [task]})).await;
    assert_eq!(server.refusal("projects.delete", json!({"project": project})).await.1, 405);
    let models = server.data("models.get_all", json!({"only_fields": ["id"]})).await["models"][0]["id"].clone();
    server.data("models.archive_many", json!({"ids": [models]})).await;
    let contents = server.data("projects.validate_delete", json!({"project": project})).await;
    assert_eq!((&contents["tasks"], &contents["non_archived_tasks"]), (&json!(1), &json!(0)));
    assert_eq!(server.data("projects.delete", json!({"project": project})).await["deleted"], 1);
    assert_eq!(server.refusal("users.get_by_id", json!({"user": "nobody"})).await.1, 301);
}

#[tokio::test]
async fn numbers_beyond_all_bounds_do_no_harm() {
    let server = TestServer::new();
    let task = server.task("far away").await;
    server.data("workers.register", json!({"worker": "w:0", "timeout": i64::MAX})).await;
    assert_eq!(server.data("workers.get_count", json!({"last_seen": i64::MAX})).await["count"], 1);
    let forever = json!([{"key": "k", "value": "v", "expiry": i64::MAX}]);
    server.data("workers.set_runtime_properties", json!({"worker": "w:0", "runtime_properties": forever})).await;
    server.data("events.clear_task_log", json!({"task": task, "threshold_sec": i64::MAX})).await;
    let scroll = json!({"task": task, "scroll_id": i64::MAX.to_string()});
    server.data("events.get_task_events", scroll).await;
    let scroll = json!({"metrics": [{"task": task}], "scroll_id": usize::MAX.to_string()});
    server.data("events.plots", scroll).await;
}

#[tokio::test]
async fn a_clone_of_a_task_without_models_has_empty_lists() {
    let server = TestServer::new();
    let task = server.task("no models").await;
    server.data("tasks.edit", json!({"task": task, "models": {}})).await;
    let clone = server.data("tasks.clone", json!({"task": task})).await["id"].clone();
    let data = server.data("tasks.get_by_id", json!({"task": clone})).await;
    assert_eq!(data["task"]["models"], json!({"input": [], "output": []}));
}

#[tokio::test]
async fn a_draft_is_edited_and_its_parameters_too() {
    let server = TestServer::new();
    let task = server.task("params task").await;
    let params =
        json!([{"section": "Args", "name": "lr", "value": "0.1"}, {"section": "Net", "name": "w", "value": "8"}]);
    server.data("tasks.edit_hyper_params", json!({"task": task, "hyperparams": params})).await;
    server
        .data("tasks.edit_configuration", json!({"task": task, "configuration": [{"name": "net", "value": "a = 1"}]}))
        .await;
    server.data("tasks.delete_hyper_params", json!({"task": task, "hyperparams": [{"section": "Net"}]})).await;
    server.data("tasks.edit", json!({"task": task, "script": {"diff": " x ", "branch": " main "}})).await;
    let data = server.data("tasks.get_by_id", json!({"task": task})).await;
    let task = &data["task"];
    assert_eq!(task["hyperparams"], json!({"Args": {"lr": {"section": "Args", "name": "lr", "value": "0.1"}}}));
    assert_eq!(task["configuration"]["net"]["value"], "a = 1");
    assert_eq!((&task["script"]["diff"], &task["script"]["branch"]), (&json!(" x "), &json!("main")));
    assert_eq!(task["script"]["repository"], "r");
}

#[tokio::test]
async fn a_users_notes_are_changed_whatever_the_status() {
    let server = TestServer::new();
    let task = server.task("noted task").await;
    server.data("tasks.started", json!({"task": task})).await;
    server.data("tasks.completed", json!({"task": task})).await;
    let note = json!([{"section": "properties", "name": "owner", "value": "me"}]);
    server.data("tasks.edit_hyper_params", json!({"task": task, "hyperparams": note})).await;
    let mixed =
        json!([{"section": "properties", "name": "a", "value": "b"}, {"section": "Args", "name": "a", "value": "b"}]);
    let refused = server.refusal("tasks.edit_hyper_params", json!({"task": task, "hyperparams": mixed})).await;
    assert_eq!((refused.0, refused.1), (400, 110));
}

#[tokio::test]
async fn scalars_plots_and_single_values_come_back() {
    let server = TestServer::new();
    let task = server.task("events task").await;
    let mut batch = Vec::new();
    for iter in 0..10 {
        batch.push(json!({"type": "training_stats_scalar", "task": task, "metric": "loss", "variant": "train",
            "iter": iter, "value": 1.0 / f64::from(iter + 1)}));
    }
    // The same point again replaces the first report.
    batch.push(json!({"type": "training_stats_scalar", "task": task, "metric": "loss", "variant": "train", "iter": 9,
        "value": 5.0}));
    batch.push(json!({"type": "training_stats_scalar", "task": task, "metric": "Summary", "variant": "final",
        "iter": -2_147_483_648_i64, "value": 0.25}));
    batch.push(json!({"type": "plot", "task": task, "metric": "p", "variant": "v", "iter": 1, "plot_str": "{}"}));
    batch.push(
        json!({"type": "plot", "task": task, "metric": "p", "variant": "v", "iter": 2, "plot_str": "{\"a\": 1}"}),
    );
    for event in batch {
        server.data("events.add", event).await;
    }
    let curves = server.data("events.scalar_metrics_iter_histogram", json!({"task": task})).await;
    assert_eq!(curves["loss"]["train"]["x"].as_array().unwrap().len(), 10);
    assert_eq!(curves["loss"]["train"]["y"][9], 5.0);
    assert!(curves.get("Summary").is_none());
    let few = server.data("events.scalar_metrics_iter_histogram", json!({"task": task, "samples": 5})).await;
    assert_eq!(few["loss"]["train"]["x"], json!([0, 2, 4, 6, 8]));
    let single = server.data("events.get_task_single_value_metrics", json!({"tasks": [task]})).await;
    assert_eq!(single["tasks"][0]["values"][0]["value"], 0.25);
    let plots = server.data("events.get_task_plots", json!({"task": task, "iters": 1})).await;
    assert_eq!((&plots["plots"][0]["iter"], plots["plots"].as_array().unwrap().len()), (&json!(2), 1));
    let events = server.data("events.get_task_events", json!({"task": task, "batch_size": 7})).await;
    assert_eq!((&events["returned"], &events["total"]), (&json!(7), &json!(13)));
    let rest = json!({"task": task, "batch_size": 7, "scroll_id": events["scroll_id"]});
    assert_eq!(server.data("events.get_task_events", rest).await["returned"], 6);
    let reset = server.data("tasks.reset", json!({"task": task})).await;
    assert_eq!(reset["fields"]["status"], "created");
    assert_eq!(server.data("events.get_task_events", json!({"task": task})).await["total"], 0);
}

#[tokio::test]
async fn properties_of_a_worker_end() {
    let server = TestServer::new();
    let worker = "w:0";
    server.data("workers.register", json!({"worker": worker, "queues": []})).await;
    for (pattern, count) in [(worker, 1), ("*", 1), ("zz*", 0), (&worker[..1], 0), ("w*0", 1)] {
        let found = server.data("workers.get_all", json!({"worker_pattern": pattern})).await;
        assert_eq!(found["workers"].as_array().unwrap().len(), count, "{pattern}");
    }
    let set = json!({"worker": worker, "runtime_properties": [{"key": "force", "value": "on", "expiry": 3600},
        {"key": "gone", "value": "x", "expiry": 3600}, {"key": "kept", "value": 2}]});
    server.data("workers.set_runtime_properties", set).await;
    server.shared.db.lock().unwrap().execute("UPDATE properties SET expires = 5 WHERE key = 'gone'", []).unwrap();
    let data = server.data("workers.get_runtime_properties", json!({"worker": worker})).await;
    let properties = data["runtime_properties"].as_array().unwrap();
    let names: Vec<_> = properties.iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(names, ["force", "kept"]);
    assert!(properties[0]["expiry"].as_i64().unwrap() > 3000);
    assert_eq!(properties[1]["expiry"], Value::Null);
    server.shared.db.lock().unwrap().execute("UPDATE workers SET expires = 5", []).unwrap();
    assert_eq!(server.data("workers.get_all", json!({})).await["workers"], json!([]));
}

#[tokio::test]
async fn credentials_made_through_the_api_work_until_revoked() {
    use base64::Engine as _;
    let server = TestServer::new();
    let made = server.data("auth.create_credentials", json!({"label": "ci"})).await["credentials"].clone();
    let text = format!("{}:{}", made["access_key"].as_str().unwrap(), made["secret_key"].as_str().unwrap());
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    let login = || {
        axum::http::Request::get("/auth.login").header("Authorization", &basic).body(axum::body::Body::empty()).unwrap()
    };
    let answer = server.send(login()).await;
    assert!(answer.body["data"]["token"].is_string(), "{}", answer.body);
    let cookie = answer.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("clearml_token_basic=ey") && cookie.contains("HttpOnly"), "{cookie}");
    server.data("auth.revoke_credentials", json!({"access_key": made["access_key"]})).await;
    assert_eq!(server.send(login()).await.body["meta"]["result_subcode"], 22);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_when_the_directory_is_opened_again() {
    let server = TestServer::new();
    let task = server.task("lasting task").await;
    server.data("tasks.enqueue", json!({"task": task})).await;
    let TestServer { shared, dir, api } = server;
    drop((shared, api));
    let server = TestServer::open(dir);
    assert_eq!(server.status(&task).await, "queued");
    let queue = server.data("queues.get_default", json!({})).await["id"].clone();
    assert_eq!(server.data("queues.peek_task", json!({"queue": queue})).await["task"], task.as_str());
}

#[tokio::test]
async fn an_entry_is_handed_out_once() {
    let server = TestServer::new();
    let queue = server.data("queues.create", json!({"name": "shared"})).await["id"].clone();
    for index in 0..20 {
        let task = server.task(&format!("task {index}")).await;
        server.data("tasks.enqueue", json!({"task": task, "queue": queue})).await;
    }
    let pops = (0..30).map(|_| server.data("queues.get_next_task", json!({"queue": queue})));
    let popped = futures_util::future::join_all(pops).await;
    let mut tasks: Vec<_> = popped.iter().filter_map(|it| it["entry"]["task"].as_str()).collect();
    assert_eq!(tasks.len(), 20);
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), 20);
    let gone = server.refusal("queues.get_next_task", json!({"queue": "nope"})).await;
    assert_eq!((gone.0, gone.1), (400, 701));
}

#[tokio::test]
async fn models_are_put_out_read_and_deleted() {
    let server = TestServer::new();
    let task = server.task("model task").await;
    let model = json!({"name": "net weights", "uri": "file:///w.pt", "task": task, "ready": false});
    let model = server.data("models.create", model).await["id"].clone();
    let link = json!({"task": task, "name": "net weights", "model": model, "type": "output"});
    server.data("tasks.add_or_update_model", link).await;
    server
        .data("models.add_or_update_metadata", json!({"model": model, "metadata": [{"key": "k", "value": "v"}]}))
        .await;
    let data = server.data("models.get_by_task_id", json!({"task": task})).await;
    assert_eq!(data["model"]["metadata"]["k"]["value"], "v");
    server.data("models.set_ready", json!({"model": model})).await;
    assert_eq!(server.data("models.get_all", json!({"ready": true})).await["models"][0]["id"], model);
    server.data("models.delete", json!({"model": model})).await;
    let task = server.data("tasks.get_by_id", json!({"task": task})).await;
    assert_eq!(task["task"]["models"]["output"], json!([]));
    assert_eq!(server.refusal("models.get_by_id", json!({"model": model})).await.1, 201);
}

#[tokio::test]
async fn strangers_do_not_fill_the_memory() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::{Body, Bytes};
    let server = TestServer::new();
    let read = Arc::new(AtomicUsize::new(0));
    let endless = || {
        let read = read.clone();
        let chunk = move |_| {
            read.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 1 << 16]))
        };
        Body::from_stream(futures_util::StreamExt::map(futures_util::stream::iter(0..5000), chunk))
    };
    let stranger = axum::http::Request::post("/tasks.get_all").body(endless()).unwrap();
    assert_eq!(server.send(stranger).await.body["meta"]["result_subcode"], 20);
    assert_eq!(read.load(Ordering::Relaxed), 0);
    let known = axum::http::Request::post("/tasks.get_all").header("Authorization", server.basic());
    let answer = server.send(known.body(endless()).unwrap()).await;
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn queues_tell_how_long_they_were() {
    let server = TestServer::new();
    let task = |name: &'static str| json!({"name": name, "type": "training"});
    let queue = server.data("queues.create", json!({"name": "measured"})).await["id"].clone();
    for name in ["one", "two"] {
        let id = server.data("tasks.create", task(name)).await["id"].clone();
        server.data("tasks.enqueue", json!({"task": id, "queue": queue})).await;
    }
    server.data("queues.get_next_task", json!({"queue": queue})).await;
    let ask = |more: Value| {
        let mut body = json!({"from_date": 0, "to_date": 4_000_000_000_i64, "interval": 1_000_000_000});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let data = server.data("queues.get_queue_metrics", ask(json!({"queue_ids": [queue, "none"]}))).await;
    assert_eq!((&data["queues"][0]["queue"], &data["queues"][0]["queue_lengths"]), (&queue, &json!([2.0])));
    assert_eq!(data["queues"][0]["dates"], json!([1_000_000_000_i64]));
    assert_eq!(data["queues"][1]["dates"], json!([]));
    let data = server.data("queues.get_queue_metrics", ask(json!({"refresh": true}))).await;
    assert_eq!(data["queues"][0]["queue"], "all");
    assert_eq!(data["queues"][0]["avg_waiting_times"].as_array().unwrap().len(), 1);
    for wrong in [json!({"from_date": 5_000_000_000_i64}), json!({"interval": 1})] {
        let answer = server.call("queues.get_queue_metrics", ask(wrong)).await;
        assert_eq!(answer.body["meta"]["result_code"], 400, "{}", answer.body);
    }
}

#[tokio::test]
async fn what_is_deleted_tells_where_its_files_lie() {
    let server = TestServer::new();
    let id = server.data("tasks.create", json!({"name": "leaves files", "type": "training"})).await["id"].clone();
    let artifacts = json!([{"key": "out", "type": "x", "uri": "http://files/out"},
        {"key": "in", "type": "x", "uri": "http://files/in", "mode": "input"}]);
    server.data("tasks.add_or_update_artifacts", json!({"task": id, "artifacts": artifacts})).await;
    let image = json!({"task": id, "type": "training_debug_image", "metric": "m", "variant": "v", "iter": 0,
        "url": "http://files/image"});
    server.data("events.add", image).await;
    let model = json!({"name": "model", "uri": "http://files/model", "task": id, "labels": {}, "framework": "x",
        "ready": false});
    server.data("models.create", model).await;
    let all = json!({"artifact_urls": ["http://files/out"], "event_urls": ["http://files/image"],
        "model_urls": ["http://files/model"]});
    let ask = json!({"task": id, "force": true, "return_file_urls": true});
    assert_eq!(server.data("tasks.delete", ask).await["urls"], all);
}
