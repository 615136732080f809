use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::clearml::testing;

fn line(timestamp: i64, msg: &str) -> Line {
    Line { timestamp, level: Level::Debug, msg: msg.to_owned() }
}

fn owner() -> Owner {
    Owner { task: "t1".to_owned(), worker: "w:0".to_owned() }
}

fn texts(batch: &Batch) -> Vec<&str> {
    batch.lines.iter().map(|it| it.msg.as_str()).collect()
}

#[test]
fn lines_come_back_in_order_once_and_across_openings() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
    for number in 0..4 {
        spool.append(&line(number, &format!("{number}\n"))).unwrap();
    }
    let first = spool.next(4).unwrap().unwrap();
    assert_eq!(texts(&first), ["0\n", "1\n"]);
    spool.sending(&first).unwrap();
    spool.sent(&first).unwrap();
    drop(spool);
    let mut spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
    spool.append(&line(4, "4\n")).unwrap();
    let rest = spool.next(1000).unwrap().unwrap();
    assert_eq!(texts(&rest), ["2\n", "3\n", "4\n"]);
    spool.sent(&rest).unwrap();
    assert!(spool.next(1000).unwrap().is_none());
    assert_eq!(segments(dir.path()).unwrap().len(), 1, "what the server has is deleted");
}

#[test]
fn events_of_one_moment_follow_one_another_across_batches_and_openings() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
    let mut times = Vec::new();
    for round in 0..6 {
        spool.append(&line(if round == 5 { 3 } else { 7 }, "same\n")).unwrap();
        let batch = spool.next(1000).unwrap().unwrap();
        times.extend(batch.events().iter().map(|it| it.timestamp));
        spool.sending(&batch).unwrap();
        if round % 2 == 1 {
            // Killed before the answer came; it is sent again as it was.
            drop(spool);
            spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
            assert_eq!(spool.next(1000).unwrap().unwrap().events(), batch.events());
        }
        spool.sent(&batch).unwrap();
    }
    assert_eq!(times, [7, 8, 9, 10, 11, 12]);
}

#[test]
fn a_batch_is_as_long_as_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
    for number in 0..4 {
        spool.append(&line(number, &"\u{1b}".repeat(10))).unwrap();
    }
    assert_eq!(spool.next(100).unwrap().unwrap().lines.len(), 2);
}

#[test]
fn a_torn_record_is_skipped_and_later_lines_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
    spool.append(&line(1, "whole\n")).unwrap();
    spool.append(&line(2, "torn\n")).unwrap();
    let path = segment_path(dir.path(), spool.segment);
    drop(spool);
    let size = fs::metadata(&path).unwrap().len();
    for cut in 1..30 {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size - cut).unwrap();
        let mut spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
        if cut == 1 {
            spool.append(&line(3, "after\n")).unwrap();
        }
        assert_eq!(texts(&spool.next(1000).unwrap().unwrap()), ["whole\n", "after\n"], "{cut}");
    }
}

#[test]
fn without_room_the_oldest_lines_go_and_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), owner(), 8 * 1024).unwrap();
    for number in 0..500 {
        spool.append(&line(number, &format!("line {number} {}\n", "x".repeat(40)))).unwrap();
    }
    let size: u64 = fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().metadata().unwrap().len()).sum();
    assert!(size < 12 * 1024, "{size}");
    assert!(spool.dropped() > 0);
    let batch = spool.next(usize::MAX).unwrap().unwrap();
    // The line that says so stands where they were, once, and all that follow are there.
    let kept = batch.lines.len() - 1;
    assert_eq!((batch.lines[0].level, &batch.lines[0].msg), (Level::Warning, &format!("{}{DROPPED}", 500 - kept)));
    for (line, number) in batch.lines[1..].iter().zip(500 - kept..) {
        assert!(line.msg.starts_with(&format!("line {number} ")), "{number}: {}", line.msg);
    }
    assert!(batch.lines.windows(2).all(|it| it[0].timestamp <= it[1].timestamp));
    drop(spool);
    let mut spool = Spool::adopt(dir.path()).unwrap().unwrap();
    assert_eq!(texts(&spool.next(usize::MAX).unwrap().unwrap()).len(), kept + 1);
}

#[test]
fn the_very_first_that_is_dropped_while_it_is_sent_is_said_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), owner(), 8 * 1024).unwrap();
    let long = |number: i64| line(number, &format!("line {number} {}\n", "x".repeat(40)));
    spool.append(&long(0)).unwrap();
    let batch = spool.next(10).unwrap().unwrap();
    spool.sending(&batch).unwrap();
    let mut number = 0;
    while spool.dropped() == 0 {
        number += 1;
        spool.append(&long(number)).unwrap();
    }
    spool.sent(&batch).unwrap();
    let next = spool.next(usize::MAX).unwrap().unwrap();
    assert_eq!(next.lines[0].msg, format!("{}{DROPPED}", spool.dropped()));
}

#[test]
fn of_what_was_opened_and_never_written_nothing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        drop(Spool::open(dir.path(), owner(), 8 * 1024).unwrap());
    }
    let mut spool = Spool::open(dir.path(), owner(), 8 * 1024).unwrap();
    let long = |number: i64| line(number, &format!("line {number} {}\n", "x".repeat(40)));
    for number in 0..500 {
        spool.append(&long(number)).unwrap();
    }
    let batch = spool.next(usize::MAX).unwrap().unwrap();
    let kept = batch.lines.len() - 1;
    assert_eq!(batch.lines[0].msg, format!("{}{DROPPED}", 500 - kept));
    assert!(batch.lines[0].timestamp > 0);
}

#[test]
fn what_is_dropped_while_it_is_sent_is_said_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), owner(), 8 * 1024).unwrap();
    let long = |number: i64| line(number, &format!("line {number} {}\n", "x".repeat(40)));
    for number in 0..50 {
        spool.append(&long(number)).unwrap();
    }
    let batch = spool.next(200).unwrap().unwrap();
    spool.sending(&batch).unwrap();
    for number in 50..500 {
        spool.append(&long(number)).unwrap();
    }
    spool.sent(&batch).unwrap();
    let next = spool.next(usize::MAX).unwrap().unwrap();
    assert!(next.lines[0].msg.ends_with(DROPPED), "{}", next.lines[0].msg);
    assert!(next.lines.last().unwrap().msg.starts_with("line 499 "));
}

#[test]
fn one_process_at_a_time_and_one_task() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Spool::adopt(dir.path()).unwrap().is_none());
    let spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
    assert!(matches!(Spool::adopt(dir.path()), Err(SpoolError::InUse(_))));
    drop(spool);
    let other = Owner { task: "t2".to_owned(), worker: "w:0".to_owned() };
    assert!(matches!(Spool::open(dir.path(), other, 1 << 20), Err(SpoolError::Format(_))));
    assert_eq!(Spool::adopt(dir.path()).unwrap().unwrap().owner(), &owner());
}

/// A server that remembers log events.
fn log_server() -> (url::Url, std::sync::Arc<Mutex<Vec<serde_json::Value>>>) {
    let stored = std::sync::Arc::new(Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&stored);
    let (url, _) = testing::serve(move |call| match call.path.as_str() {
        "/auth.login" => Ok(json!({ "token": "opaque" })),
        "/events.add_batch" => {
            let text = String::from_utf8_lossy(&call.body).into_owned();
            log.lock().unwrap().extend(text.lines().map(|it| serde_json::from_str(it).unwrap()));
            Ok(json!({ "added": 1 }))
        }
        "/events.get_task_log" => {
            let newest_first: Vec<serde_json::Value> = log.lock().unwrap().iter().rev().cloned().collect();
            Ok(json!({ "events": newest_first }))
        }
        other => panic!("{other}"),
    });
    (url, stored)
}

#[tokio::test]
async fn after_a_kill_lines_arrive_once_whether_or_not_the_last_batch_had() {
    for arrived in [false, true] {
        let (url, stored) = log_server();
        let client = testing::client(url);
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
        spool.append(&line(1, "same\n")).unwrap();
        spool.append(&line(2, "same\n")).unwrap();
        let batch = spool.next(1000).unwrap().unwrap();
        spool.sending(&batch).unwrap();
        if arrived {
            let source = crate::clearml::events::Source { task: "t1", worker: "w:0" };
            crate::clearml::events::send_lines(&client, source, &batch.events()).await.unwrap();
        }
        // Killed here, before the answer came back.
        drop(spool);
        let spool = Mutex::new(Spool::adopt(dir.path()).unwrap().unwrap());
        spool.lock().unwrap().append(&line(3, "last\n")).unwrap();
        drain(&spool, &client).await.unwrap();
        let text: String = stored.lock().unwrap().iter().map(|it| it["msg"].as_str().unwrap().to_owned()).collect();
        assert_eq!(text, "same\nsame\nlast\n", "arrived: {arrived}");
        assert_eq!(drain(&spool, &client).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_unreachable_server_changes_nothing() {
    let client = testing::client("http://127.0.0.1:9".parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), owner(), 1 << 20).unwrap();
    spool.append(&line(1, "kept\n")).unwrap();
    let spool = Mutex::new(spool);
    assert!(matches!(drain(&spool, &client).await, Err(DrainError::Server(_))));
    let batch = spool.lock().unwrap().next(1000).unwrap().unwrap();
    assert_eq!(texts(&batch), ["kept\n"]);
}

#[test]
fn links_that_a_run_put_in_place_of_files_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, elsewhere) = (dir.path().join("spool"), dir.path().join("owner.json"));
    Spool::prepare(&spool).unwrap();
    fs::write(&elsewhere, r#"{"format": 1, "task": "t1", "worker": "w:0"}"#).unwrap();
    std::os::unix::fs::symlink(&elsewhere, spool.join("owner.json")).unwrap();
    assert!(matches!(Spool::adopt(&spool), Err(SpoolError::Io { .. })));
    fs::remove_dir(spool.join(OUTPUT)).unwrap();
    std::os::unix::fs::symlink(dir.path(), spool.join(OUTPUT)).unwrap();
    assert!(matches!(Spool::prepare(&spool), Err(SpoolError::Io { .. })));
}
