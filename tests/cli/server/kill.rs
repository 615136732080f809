//! State survives `kill -9` at any moment: what was acknowledged is there, what was not is whole or absent.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Server, TestContext};

/// What a writer was told, and what it asked for last.
#[derive(Clone, Default)]
struct Told {
    acknowledged: String,
    asked: String,
    lines: usize,
    lines_asked: usize,
}

type Notes = Mutex<BTreeMap<String, Told>>;

/// The calls a task goes through and the status after each.
const LIFE: &[(&str, &str)] = &[
    ("tasks.enqueue", "queued"),
    ("tasks.started", "in_progress"),
    ("tasks.completed", "completed"),
    ("tasks.reset", "created"),
];

/// Leads tasks through their lives until the server goes.
fn write(server: &Server, notes: &Notes, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let Ok(made) = server.try_call("tasks.create", &json!({"name": "life", "type": "testing"})) else { return };
        let id = made["data"]["id"].as_str().unwrap().to_owned();
        let note = |change: &dyn Fn(&mut Told)| change(notes.lock().unwrap().entry(id.clone()).or_default());
        note(&|it| it.acknowledged = "created".into());
        for (call, status) in LIFE.iter().take(3) {
            note(&|it| it.asked = (*status).to_owned());
            if server.try_call(call, &json!({"task": id})).is_err() {
                return;
            }
            note(&|it| it.acknowledged = (*status).to_owned());
            let line = json!({"type": "log", "task": id, "msg": "line"});
            note(&|it| it.lines_asked += 1);
            if server.try_call("events.add", &line).is_err() {
                return;
            }
            note(&|it| it.lines += 1);
        }
    }
}

/// Uploads files whose content their name tells.
fn upload(server: &Server, stored: &Mutex<Vec<String>>, round: usize, over: &AtomicBool) {
    for index in 0.. {
        let name = format!("round-{round}/file-{index}");
        if over.load(Ordering::Relaxed) || server.try_upload(&name, &name.repeat(5000)).is_err() {
            return;
        }
        stored.lock().unwrap().push(name);
    }
}

fn check(server: &Server, notes: &BTreeMap<String, Told>, stored: &[String]) {
    let queue = server.call("queues.get_default", &json!({}))["id"].clone();
    let queue = server.call("queues.get_by_id", &json!({"queue": queue}));
    let entries: Vec<&str> =
        queue["queue"]["entries"].as_array().unwrap().iter().map(|it| it["task"].as_str().unwrap()).collect();
    let ids: Vec<&String> = notes.keys().collect();
    let mut statuses: BTreeMap<String, String> = BTreeMap::new();
    // A listing ends after five hundred.
    for ids in ids.chunks(500) {
        let tasks = server.call("tasks.get_all", &json!({"id": ids, "only_fields": ["id", "status"]}));
        let text = |it: &Value, field: &str| it[field].as_str().unwrap().to_owned();
        statuses.extend(tasks["tasks"].as_array().unwrap().iter().map(|it| (text(it, "id"), text(it, "status"))));
    }
    for (id, told) in notes {
        let status = statuses.get(id.as_str()).map_or("(gone)", String::as_str);
        assert!(status == told.acknowledged || status == told.asked, "{id}: {status}, was told {}", told.acknowledged);
        if status == "queued" {
            assert_eq!(entries.iter().filter(|it| *it == id).count(), 1, "{id} is queued and not in its queue once");
        }
        let lines = server.call("events.get_task_log", &json!({"task": id}))["total"].as_u64().unwrap();
        let lines = usize::try_from(lines).unwrap();
        assert!((told.lines..=told.lines_asked).contains(&lines), "{id}: {lines} lines of {}", told.lines);
    }
    for name in stored {
        assert_eq!(server.download(name).as_deref(), Some(name.repeat(5000).as_str()), "{name}");
    }
}

/// Every file that is there is whole, acknowledged or not.
fn files_are_whole(server: &Server) {
    for round in fs_err::read_dir(server.data().join("files")).unwrap() {
        let round = round.unwrap();
        for file in fs_err::read_dir(round.path()).unwrap() {
            let file = file.unwrap();
            let name = format!("{}/{}", round.file_name().to_str().unwrap(), file.file_name().to_str().unwrap());
            assert_eq!(fs_err::read_to_string(file.path()).unwrap(), name.repeat(5000), "{name}");
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_to_a_kill() {
    let context = TestContext::new();
    let mut server = Server::start(&context);
    for (round, pause) in [20, 150, 60, 400, 90, 250].into_iter().enumerate() {
        let (notes, stored, over) = (Notes::default(), Mutex::new(Vec::new()), AtomicBool::new(false));
        let pid = server.pid();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| write(&server, &notes, &over));
            }
            scope.spawn(|| upload(&server, &stored, round, &over));
            std::thread::sleep(Duration::from_millis(pause));
            // By its own id, so that writers keep their borrow of the server while it dies.
            kill(pid);
            over.store(true, Ordering::Relaxed);
        });
        server.kill();
        server = Server::start(&context);
        check(&server, &notes.into_inner().unwrap(), &stored.into_inner().unwrap());
        files_are_whole(&server);
    }
    let tasks = server.call("tasks.get_all", &json!({"only_fields": ["id"]}));
    assert!(tasks["tasks"].as_array().is_some_and(|it| !it.is_empty()), "no task was made in any round");
    assert_eq!(server.call("debug.ping", &Value::Null)["msg"], "ClearML server");
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
