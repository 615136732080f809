//! `agent execute` that is to end while its server is away or says nothing.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::task::{NATIVELY, Task};
use crate::support::{Running, Server, TestContext, wait_until};

/// Is up until somebody ends it.
const WAITS: &str = "import time\nprint('up', flush=True)\ntime.sleep(600)\n";

/// Has the server's process stop where it is, or go on: connections to it are taken meanwhile, and nothing is said.
fn server_hears(task: &Task<'_>, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(task.server.pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Waits for a program's end, which must come soon; its exit code.
#[track_caller]
fn ends_within(running: &mut Running, limit: Duration) -> Option<i32> {
    let asked = Instant::now();
    let code = running.wait();
    assert!(asked.elapsed() < limit, "{:?}", asked.elapsed());
    code
}

#[test]
fn one_signal_ends_it_while_the_server_says_nothing_at_its_start() {
    let context = TestContext::new();
    let task = Task::new(&context, &NATIVELY, WAITS);
    server_hears(&task, Signal::STOP);
    let mut running = task.execute().spawn(&context.path("output"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(!running.ended());
    running.signal(Signal::TERM);
    assert_eq!(ends_within(&mut running, Duration::from_secs(8)), Some(130));
    server_hears(&task, Signal::CONT);
    assert_eq!(task.server.status(&task.id), "created");
}

#[test]
fn one_signal_ends_it_while_the_server_is_away_and_the_next_start_tells_the_end() {
    let context = TestContext::new();
    let mut task = Task::new(&context, &NATIVELY, WAITS);
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    wait_until("the task is up", || task.said("up\n"));
    let away = std::mem::replace(&mut task.server, Server::start_in(&context, "another"));
    away.kill();
    running.signal(Signal::TERM);
    // The program's own end comes first.
    let code = ends_within(&mut running, Duration::from_secs(30));
    let said = fs_err::read_to_string(&output).unwrap();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("is left as it is"), "{said}");
    let phase = task.units()[0]["phase"].clone();
    assert!(phase == "drain" || phase == "settle", "{phase}");
    task.server = Server::start(&context);
    assert_eq!(task.server.status(&task.id), "in_progress");
    task.execute().run();
    assert_eq!(task.told(), ("stopped".to_owned(), "user abort".to_owned()));
    assert_eq!(task.count("up\n"), 1);
}
