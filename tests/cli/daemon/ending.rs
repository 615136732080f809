//! Drain, stop, detach, abort.

use rustix::process::Signal;
use serde_json::json;

use super::Place;
use crate::support::{TestContext, wait_until};

#[test]
fn a_daemon_that_drains_finishes_what_runs_and_takes_no_more() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let (task, next) = (place.stays("stays", ""), place.task("next", "queue", 0.0, 0));
    let mut daemon = place.daemon("daemon", &["--queue", "queue", "--cpu-only"]);
    place.is_up(&task);
    daemon.signal(Signal::HUP);
    let status = || place.agent().args(["daemon", "--status"]).ok();
    wait_until("it shows what it runs", || status().contains(&task));
    let told = place.agent().args(["daemon", "--stop", "box:cpu:0", "--drain"]).ok();
    assert_eq!(told, "box:cpu:0 takes no more tasks and ends once the one that runs has ended");
    wait_until("it shows that it drains", || status().contains("draining  takes no more tasks"));
    let later = place.task("later", "queue", 0.0, 0);
    place.let_go(&task);
    daemon.ends();
    place.ran_once(&task);
    assert_eq!(place.queue("queue"), [next, later]);
    assert_eq!(place.workers(), [""; 0]);
}

#[test]
fn stop_ends_a_daemon_and_reports_what_it_ran_as_stopped() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.task("long", "queue", 600.0, 0);
    let mut daemon = place.daemon("daemon", &["--queue", "queue", "--cpu-only"]);
    place.is_up(&task);
    let status = place.agent().args(["daemon", "--status"]).ok();
    assert!(status.contains("box:cpu:0") && status.contains(&task), "{status}");
    place.agent().args(["daemon", "--stop", "box:cpu:0"]).ok();
    daemon.ends();
    assert_eq!(place.status(&task), "stopped");
    assert_eq!(place.console(&task, "done "), 0);
    assert_eq!(place.workers(), [""; 0]);
}

#[test]
fn a_daemon_that_detaches_leaves_the_run_to_the_next_one() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let task = place.task("long", "queue", 4.0, 0);
    let arguments = ["--queue", "queue", "--cpu-only"];
    let mut daemon = place.daemon("daemon", &arguments);
    place.is_up(&task);
    daemon.signal(Signal::USR2);
    daemon.ends();
    assert_eq!(place.status(&task), "in_progress");
    let next = place.daemon("daemon", &arguments);
    place.becomes(&task, "completed");
    place.ran_once(&task);
    next.stop();
}

#[test]
fn a_daemon_ends_soon_while_the_server_says_nothing() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    place.server.call("queues.create", &json!({ "name": "queue" }));
    let mut daemon = place.daemon("daemon", &["--queue", "queue", "--cpu-only"]);
    wait_until("it serves", || daemon.said().contains("serves"));
    // Connections are taken, and nothing is said.
    let server = rustix::process::Pid::from_raw(i32::try_from(place.server.pid()).unwrap()).unwrap();
    rustix::process::kill_process(server, Signal::STOP).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let asked = std::time::Instant::now();
    daemon.signal(Signal::TERM);
    daemon.ends();
    assert!(asked.elapsed() < std::time::Duration::from_secs(20), "{:?}", asked.elapsed());
}

#[test]
fn an_abort_on_the_server_stops_the_run_and_the_next_task_follows() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    let (task, next) = (place.task("long", "queue", 600.0, 0), place.task("next", "queue", 0.0, 0));
    let daemon = place.daemon("daemon", &["--queue", "queue", "--cpu-only"]);
    place.is_up(&task);
    place.server.call("tasks.stop", &json!({ "task": task }));
    place.becomes(&task, "stopped");
    place.becomes(&next, "completed");
    daemon.stop();
}

#[test]
fn a_service_manager_is_told_that_the_daemon_serves_and_that_it_stops() {
    let context = TestContext::warm();
    let place = Place::new(&context);
    place.server.call("queues.create", &json!({ "name": "queue" }));
    let path = context.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let said = std::cell::RefCell::new(Vec::new());
    let hears = |text: &str| {
        let mut buffer = [0; 256];
        while let Ok(length) = socket.recv(&mut buffer) {
            said.borrow_mut().push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        said.borrow().iter().any(|it| it == text)
    };
    let log = context.path("daemon.log");
    let call = place.agent().args(["daemon", "--queue", "queue", "--cpu-only"]);
    let mut daemon = call.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").spawn(&log);
    wait_until("it says that it serves", || hears("READY=1"));
    wait_until("it says that it lives", || hears("WATCHDOG=1"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0), "{}", fs_err::read_to_string(&log).unwrap());
    wait_until("it says that it stops", || hears("STOPPING=1"));
}
