//! A server that goes away while a task runs.

use super::in_each_engine;
use super::task::{IN_DOCKER, IN_PODMAN, NATIVELY, Task, Where};
use crate::support::{Server, TestContext, wait_until};

/// Prints while the server is away, and ends before it is back.
const TALKS: &str = "\
import time
print('up', flush=True)
for number in range(60):
    print('line', number, 'of', 60, flush=True)
    time.sleep(0.1)
";

fn every_line_arrives_once_when_it_is_back(place: &Where) {
    let context = TestContext::new();
    let mut task = Task::new(&context, place, TALKS);
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("line 2 "));
    let api = task.server.api().to_owned();
    let away = std::mem::replace(&mut task.server, Server::start_in(&context, "another"));
    away.kill();
    wait_until("the program is over", || fs_err::read_to_string(&output).unwrap().contains("line 59 of 60\n"));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(!running.ended(), "{}", fs_err::read_to_string(&output).unwrap());
    task.server = Server::start(&context);
    assert_eq!(task.server.api(), api);
    assert_eq!(running.wait(), Some(0), "{}", fs_err::read_to_string(&output).unwrap());
    assert_eq!(task.told(), ("completed".to_owned(), "worker execution done".to_owned()));
    let console = task.server.console(&task.id);
    let lines: Vec<&str> = console.lines().filter(|it| it.starts_with("line ")).collect();
    let expected: Vec<String> = (0..60).map(|it| format!("line {it} of 60")).collect();
    assert_eq!(lines, expected);
}
in_each_engine!(every_line_arrives_once_when_it_is_back);
