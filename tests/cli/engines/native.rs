//! Without an engine.

use std::path::Path;

use agent::image::named;
use agent::run::{EngineKind, Found, Outcome, RunImage};
use rustix::process::{Pid, Signal, kill_process};

use super::{engine, ground, lives, obeys, outlives_its_starter, run_image, runs_out, script, shell, stops, written};
use crate::support::images::block;
use crate::support::{TestContext, wait_until};

async fn image(context: &TestContext) -> RunImage {
    let (around, image) = shell(context).await;
    let name = "agent/native:1";
    named::remember(&around.store, &name.parse().unwrap(), &image).unwrap();
    run_image(name, &image)
}

fn number(file: &Path, field: &str) -> i32 {
    let value: serde_json::Value = serde_json::from_slice(&fs_err::read(file).unwrap()).unwrap();
    i32::try_from(value.pointer(field).unwrap().as_i64().unwrap()).unwrap()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_run_is_started_found_stopped_and_removed() {
    let context = TestContext::new();
    let (runs, store) = (context.path("runs"), context.path("store"));
    let image = block(async {
        let image = image(&context).await;
        let ground = ground(&runs, &store);
        let (one, other) = (engine(EngineKind::Native, &ground).await, engine(EngineKind::Native, &ground).await);
        lives(&*one, &runs, &image).await;
        stops(&*one, &*other, &runs, &image).await;
        obeys(&*one, &runs, &image).await;
        image
    });
    outlives_its_starter(EngineKind::Native, &runs, &store, &image);
}

#[test]
fn a_run_that_uses_too_much_memory_is_told_of() {
    let context = TestContext::new();
    let runs = context.path("runs");
    block(async {
        let image = image(&context).await;
        let engine = engine(EngineKind::Native, &ground(&runs, &context.path("store"))).await;
        assert_eq!(runs_out(&*engine, &runs, &image).await, super::OUT_OF_MEMORY);
    });
}

#[test]
fn a_run_has_the_room_and_the_places_that_it_is_given() {
    let context = TestContext::new();
    let runs = context.path("runs");
    block(async {
        let image = image(&context).await;
        let engine = engine(EngineKind::Native, &ground(&runs, &context.path("store"))).await;
        let text = "{ cat /proc/self/cgroup; df -k /t /dev/shm | awk 'NR>1{print $6, $2}'; ulimit -n; hostname; pwd; \
                    cut -d: -f1 /proc/net/dev | tr -d ' '; } > $AGENT_SPOOL/said; touch $AGENT_SPOOL/over; sleep 60";
        let mut spec = script(&runs, &image, text);
        let arguments = "--memory 256m --cpus 0.5 --pids-limit 50 --tmpfs /t:size=1m --shm-size 2m --ulimit nofile=99 \
                         --hostname box -w /tmp --network none";
        agent::run::arguments::apply(&mut spec.container, arguments).unwrap();
        engine.start(&spec).await.unwrap();
        written(&spec, "over");
        let said = written(&spec, "said");
        for line in ["/t 1024", "/dev/shm 2048", "99", "box", "/tmp", "lo"] {
            assert!(said.lines().any(|it| it == line), "{line} in {said}");
        }
        assert!(!said.lines().any(|it| it.starts_with("eth")), "{said}");
        let started = fs_err::read_to_string(spec.directory.join("monitor.json")).unwrap();
        let started: serde_json::Value = serde_json::from_str(&started).unwrap();
        let groups: Vec<&str> = started["groups"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let value = |file: &str| {
            let found = groups.iter().find_map(|it| fs_err::read_to_string(format!("{it}/{file}")).ok());
            found.map(|it| it.trim().to_owned())
        };
        // One group of version 2, or one of each controller of version 1.
        assert_eq!(value("pids.max").as_deref(), Some("50"), "{groups:?}");
        let quota = value("cpu.max").or_else(|| value("cpu.cfs_quota_us"));
        assert!(quota.is_some_and(|it| it.split(' ').next() == Some("50000")), "{groups:?}");
        let memory = value("memory.max").or_else(|| value("memory.limit_in_bytes"));
        assert_eq!(memory.as_deref(), Some("268435456"), "{groups:?}");
        engine.stop(&spec.id, std::time::Duration::ZERO).await.unwrap();
        engine.remove(&spec.id).await.unwrap();
        assert!(groups.iter().all(|it| !std::path::Path::new(it).exists()), "{groups:?}");
    });
}

#[test]
fn a_run_whose_monitor_is_killed_is_lost_and_nothing_of_it_goes_on() {
    let context = TestContext::new();
    let runs = context.path("runs");
    block(async {
        let image = image(&context).await;
        let engine = engine(EngineKind::Native, &ground(&runs, &context.path("store"))).await;
        for user in [None, Some("1234")] {
            let mut spec = script(&runs, &image, super::STUBBORN);
            spec.container.user = user.map(str::to_owned);
            engine.start(&spec).await.unwrap();
            written(&spec, "up");
            let program = number(&spec.directory.join("monitor.json"), "/program/pid");
            // Whoever is to bury it may take its time.
            let stat = format!("/proc/{program}/stat");
            let gone = || fs_err::read_to_string(&stat).map_or(true, |it| it.contains(") Z "));
            assert!(!gone());
            kill(number(&spec.directory.join("monitor.lock"), "/pid"));
            let Outcome::Lost { reason } = engine.wait(&spec.id).await.unwrap() else { panic!("not lost") };
            assert!(reason.contains("monitor was killed"), "{reason}");
            wait_until("the program is gone", gone);
            // It is not started anew under the same id.
            engine.start(&spec).await.unwrap();
            assert!(matches!(engine.find(&spec.id).await.unwrap(), Found::Ended(Outcome::Lost { .. })));
            engine.remove(&spec.id).await.unwrap();
            assert_eq!(engine.find(&spec.id).await.unwrap(), Found::Absent);
        }
    });
}

#[test]
fn what_the_first_process_prints_is_kept_and_nothing_of_the_order_is_on_disk_or_in_an_argument() {
    let context = TestContext::new();
    let runs = context.path("runs");
    block(async {
        let image = image(&context).await;
        let engine = engine(EngineKind::Native, &ground(&runs, &context.path("store"))).await;
        let mut spec = script(&runs, &image, "echo out; echo err >&2; echo up > $AGENT_SPOOL/up; sleep 600");
        spec.container.env.insert("TOKEN".to_owned(), agent::secret::Secret::new("unspeakable"));
        engine.start(&spec).await.unwrap();
        written(&spec, "up");
        let monitor = number(&spec.directory.join("monitor.lock"), "/pid");
        let said = fs_err::read(format!("/proc/{monitor}/cmdline")).unwrap();
        assert!(String::from_utf8_lossy(&said).contains("__monitor"));
        for descriptor in fs_err::read_dir(format!("/proc/{monitor}/fd")).unwrap() {
            let target = fs_err::read_link(descriptor.unwrap().path()).unwrap_or_default();
            let target = target.display().to_string();
            assert!(!target.contains("/home/") && !target.contains("nextest"), "{target} is left open");
        }
        for file in fs_err::read_dir(&spec.directory).unwrap().map(|it| it.unwrap().path()).filter(|it| it.is_file()) {
            assert!(!fs_err::read_to_string(&file).unwrap().contains("unspeakable"), "{}", file.display());
        }
        engine.stop(&spec.id, std::time::Duration::from_millis(1)).await.unwrap();
        assert_eq!(engine.wait(&spec.id).await.unwrap(), super::exited(137));
        let read = |name: &str| fs_err::read_to_string(spec.directory.join(name)).unwrap();
        assert_eq!((read("stdout.log"), read("stderr.log")), ("out\n".to_owned(), "err\n".to_owned()));
        engine.remove(&spec.id).await.unwrap();
    });
}

#[test]
fn devices_empty_directories_and_no_network_are_had_without_an_engine() {
    let context = TestContext::new();
    let runs = context.path("runs");
    block(async {
        let image = image(&context).await;
        let engine = engine(EngineKind::Native, &ground(&runs, &context.path("store"))).await;
        let text = "{ df -k --output=size /scratch | tail -1 | tr -d ' '; test -c /dev/mine && echo device; \
                    tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; } > $AGENT_SPOOL/said";
        let mut spec = script(&runs, &image, text);
        spec.container.tmpfs.insert("/scratch".to_owned(), "size=1m,mode=1777,noexec".to_owned());
        spec.container.devices = vec![("/dev/null".to_owned(), "/dev/mine".to_owned(), "rw".to_owned())];
        engine.start(&spec).await.unwrap();
        assert_eq!(engine.wait(&spec.id).await.unwrap(), super::exited(0));
        assert_eq!(written(&spec, "said"), "1024\ndevice\nlo\n");
        engine.remove(&spec.id).await.unwrap();
    });
}
