use super::*;

fn identity(gpus: Option<&str>) -> Identity {
    Identity { name: "box".into(), explicit: None, gpus: gpus.map(str::to_owned), dynamic: false }
}

fn about() -> About {
    About {
        engine: EngineKind::Native,
        queues: vec!["default".into()],
        schedule: None,
        many: false,
        log: None,
        metrics: None,
    }
}

#[test]
fn ids_are_made_as_the_original_makes_them() {
    let id = |identity: &Identity| identity.worker_id(2);
    assert_eq!(id(&identity(None)), "box:2");
    assert_eq!(id(&identity(Some("none"))), "box:cpu:2");
    assert_eq!(id(&identity(Some("0,1"))), "box:gpu0,1");
    assert_eq!(id(&identity(Some("0:1,0:2"))), "box:gpu0.1,0.2");
    assert_eq!(id(&Identity { dynamic: true, ..identity(Some("0,1")) }), "box:dgpu0,1");
    assert_eq!(id(&Identity { explicit: Some("me".into()), ..identity(Some("0")) }), "me");
    assert!(
        identity(Some("0")).describes(&identity(Some("0"))) && !identity(Some("0")).describes(&identity(Some("1")))
    );
    assert!(identity(None).describes(&identity(None)) && identity(None).describes(&identity(Some("none"))));
    assert!(!identity(None).describes(&identity(Some("0"))) && !identity(Some("none")).describes(&identity(None)));
}

#[test]
fn the_smallest_free_slot_is_taken_and_an_id_has_one_holder() {
    let state = tempfile::tempdir().unwrap();
    let instances = Instances::open(state.path()).unwrap();
    let first = instances.claim(&identity(None), about()).unwrap();
    let second = instances.claim(&identity(Some("0")), about()).unwrap();
    let third = instances.claim(&identity(Some("none")), about()).unwrap();
    assert_eq!((first.worker(), second.worker(), third.worker()), ("box:0", "box:gpu0", "box:cpu:2"));
    let error = instances.claim(&identity(Some("0")), about()).unwrap_err();
    let expected = format!("the worker `box:gpu0` runs on this machine already (process {})", std::process::id());
    assert_eq!((error.to_string(), error.kind().exit_code()), (expected, 75));
    drop(first);
    assert_eq!(instances.running().unwrap().iter().map(|it| it.slot).collect::<Vec<_>>(), [1, 2]);
    let again = instances.claim(&identity(None), about()).unwrap();
    assert_eq!((again.worker(), again.slot()), ("box:0", 0));
    drop((second, third, again));
    assert!(instances.running().unwrap().is_empty());
    let left: Vec<_> = fs::read_dir(state.path().join("workers")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn what_a_daemon_tells_is_read_and_what_a_killed_one_left_is_not() {
    let state = tempfile::tempdir().unwrap();
    let instances = Instances::open(state.path()).unwrap();
    let odd = Identity { explicit: Some(".é/../x".into()), ..identity(None) };
    let instance = instances.claim(&odd, about()).unwrap();
    let running = Running { task: "t".into(), queue: Some("default".into()), phase: "build".into() };
    let now = Now { forced: vec![Forced { by: "worker".into(), on: false }], draining: true, running: vec![running] };
    instance.tell(now.clone()).unwrap();
    let read = instances.running().unwrap();
    assert_eq!((read.len(), &read[0].now, read[0].worker.as_str()), (1, &now, ".é/../x"));
    // As a kill leaves it: the record is there, nobody holds the lock.
    fs::copy(path(&instances.directory, ".é/../x", "json"), path(&instances.directory, "dead", "json")).unwrap();
    fs::write(path(&instances.directory, "dead", "lock"), "").unwrap();
    assert_eq!(instances.running().unwrap().len(), 1);
    assert!(!path(&instances.directory, "dead", "json").exists());
    assert!(path(&instances.directory, &"x".repeat(500), "json").file_name().unwrap().len() < 255);
}

/// Another process that holds a worker's lock, as a daemon does, and obeys or ignores TERM.
fn another(instances: &Instances, script: &str) -> (std::process::Child, Record) {
    let held = instances.claim(&identity(None), about()).unwrap();
    let mut record = instances.running().unwrap().remove(0);
    drop(held);
    let lock = path(&instances.directory, &record.worker, "lock");
    let script =
        format!("exec 9>\"$0\"; flock -n 9 || exit 3; {script}; echo ready; while :; do sleep 0.05 9>&-; done");
    let mut child = std::process::Command::new("bash")
        .args(["-c", &script])
        .arg(&lock)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    record.process = ProcessId::of(child.id()).unwrap();
    instances.write(&record).unwrap();
    (child, record)
}

#[test]
fn one_that_obeys_is_stopped_cleanly_and_one_that_does_not_is_killed() {
    let second = Duration::from_secs(20);
    let moment = Duration::from_millis(300);
    for (script, patience, expected, signal) in [
        ("trap 'exit 0' TERM", [second, second, second], Stopped::Clean, None),
        ("trap 'trap \"exit 0\" TERM' TERM", [moment, second, second], Stopped::Forced, None),
        ("trap '' TERM", [moment, moment, second], Stopped::Forced, Some(9)),
    ] {
        let state = tempfile::tempdir().unwrap();
        let instances = Instances::open(state.path()).unwrap();
        let (mut child, record) = another(&instances, script);
        assert_eq!(instances.running().unwrap(), std::slice::from_ref(&record), "{script}");
        assert_eq!(stop::stop_within(&instances, &record, patience).unwrap(), expected, "{script}");
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), signal, "{script}");
        assert!(instances.running().unwrap().is_empty(), "{script}");
        // What has ended already is no error.
        assert_eq!(stop::stop_within(&instances, &record, patience).unwrap(), Stopped::Clean);
    }
}

#[test]
fn draining_is_asked_for_with_a_signal_of_its_own() {
    let state = tempfile::tempdir().unwrap();
    let instances = Instances::open(state.path()).unwrap();
    let (mut child, record) = another(&instances, "trap 'exit 7' USR1");
    drain(&instances, &record).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}
