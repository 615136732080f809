//! A server that goes away while a task runs.

use std::time::Duration;

use super::in_each_engine;
use super::task::{IN_DOCKER, IN_PODMAN, NATIVELY, Task, Where};
use crate::support::{Server, TestContext, scaled, wait_until};

/// Prints ten lines in a second.
const TALKS: &str = "\
import time
print('up', flush=True)
for number in range(LINES):
    print('line', number, 'of', LINES, flush=True)
    time.sleep(0.1)
";

fn talks(lines: u64) -> String {
    TALKS.replace("LINES", &lines.to_string())
}

/// Fails unless the server has every line once and in order.
#[track_caller]
fn has_every_line(task: &Task<'_>, lines: u64) {
    let console = task.server.console(&task.id);
    let found: Vec<&str> = console.lines().filter(|it| it.starts_with("line ")).collect();
    let expected: Vec<String> = (0..lines).map(|it| format!("line {it} of {lines}")).collect();
    assert_eq!(found, expected);
}

/// Kills a task's server; nothing listens in its place.
fn away(task: &mut Task<'_>) {
    let placeholder = Server::start_in(task.context, "another");
    std::mem::replace(&mut task.server, placeholder).kill();
}

/// It is back, with what it knew, where it was.
fn back(task: &mut Task<'_>, api: &str) {
    task.server = Server::start(task.context);
    assert_eq!(task.server.api(), api);
}

fn every_line_arrives_once_when_it_is_back(place: &Where) {
    let context = TestContext::new();
    // The program ends before the server is back, and the server stays away for half as long again.
    let seconds = scaled("AGENT_TEST_OUTAGE", 9);
    let lines = seconds * 10 * 2 / 3;
    let mut task = Task::new(&context, place, &talks(lines));
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("line 2 "));
    let api = task.server.api().to_owned();
    away(&mut task);
    let last = format!("line {} of {lines}\n", lines - 1);
    std::thread::sleep(Duration::from_secs(lines / 10));
    wait_until("the program is over", || fs_err::read_to_string(&output).unwrap().contains(&last));
    std::thread::sleep(Duration::from_secs(seconds / 3));
    assert!(!running.ended(), "{}", fs_err::read_to_string(&output).unwrap());
    back(&mut task, &api);
    assert_eq!(running.wait(), Some(0), "{}", fs_err::read_to_string(&output).unwrap());
    assert_eq!(task.told(), ("completed".to_owned(), "worker execution done".to_owned()));
    has_every_line(&task, lines);
}
in_each_engine!(every_line_arrives_once_when_it_is_back);

/// Killed in the middle of whatever it was writing: some of what it did not answer it has, some it does not.
#[test]
fn a_server_that_comes_and_goes_has_every_line_once_natively() {
    let context = TestContext::new();
    let rounds = scaled("AGENT_TEST_OUTAGES", 4);
    // A round takes about two seconds.
    let lines = rounds * 25;
    let mut task = Task::new(&context, &NATIVELY, &talks(lines));
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("up\n"));
    let api = task.server.api().to_owned();
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(900 + 170 * (round % 7)));
        away(&mut task);
        std::thread::sleep(Duration::from_millis(300));
        back(&mut task, &api);
    }
    assert_eq!(running.wait(), Some(0), "{}", fs_err::read_to_string(&output).unwrap());
    assert_eq!(task.told(), ("completed".to_owned(), "worker execution done".to_owned()));
    has_every_line(&task, lines);
    assert_eq!(task.count("up\n"), 1);
}
