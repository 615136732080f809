//! GPUs that a daemon shares among its tasks in Docker and in Podman, and those that `execute` gives; each an engine of
//! the test's own, on an image whose base says that it sees all.

use std::path::Path;

use super::a_while;
use super::gpus::{NODES, Scene, uuid};
use crate::support::apart::{self, Hooked};
use crate::support::{Engine, TestContext, require};

/// An engine, and what tasks say in it of their devices.
struct Within<'a> {
    flag: &'a str,
    host: (&'a str, &'a str),
    says: fn(&[usize]) -> String,
}

/// Three tasks on three devices, one or two each, and then tasks that are executed without a queue.
fn shared(scene: &Scene<'_>, image: &Path, within: &Within<'_>, asked: impl Fn(&[&[usize]])) {
    let [a, b, c] = ["a", "b", "c"].map(|it| scene.waits(it, "some"));
    let arguments = [within.flag, "--dynamic-gpus", "--gpus", "0,1,2", "--queue", "some=1-2"];
    let daemon = scene.daemon_with(&[within.host], scene.place.server.api(), image, &arguments);
    assert_eq!(scene.said(&a), (within.says)(&[0, 1]));
    assert_eq!(scene.said(&b), (within.says)(&[2]));
    scene.free("box:dgpu0,1,2", &[]);
    let workers = scene.place.workers();
    for name in ["box:dgpu0,1,2", "box:gpu0,1", "box:gpu2"] {
        assert!(workers.iter().any(|it| it == name), "{name} in {workers:?}");
    }
    a_while();
    assert_eq!(scene.place.queue("some"), [c.as_str()], "nothing is free");
    scene.ends(&b);
    assert_eq!(scene.said(&c), (within.says)(&[2]));
    asked(&[&[0, 1], &[2], &[2]]);
    scene.ends(&a);
    scene.free("box:dgpu0,1,2", &[0, 1]);
    scene.ends(&c);
    scene.free("box:dgpu0,1,2", &[0, 1, 2]);
    daemon.stop();

    for (flags, devices) in [(&["--gpus", "2,0"][..], &[2, 0][..]), (&["--cpu-only"], &[])] {
        let task = scene.draft("by hand");
        scene.let_go(&task);
        let call = scene.agent(&[within.host], image).args(["execute", "--id", &task, within.flag]).args(flags);
        call.run().success();
        assert_eq!(scene.said(&task), (within.says)(devices));
        assert_eq!(scene.place.status(&task), "completed");
        asked(if devices.is_empty() { &[] } else { std::slice::from_ref(&devices) });
    }
}

fn ids(devices: &[usize]) -> String {
    devices.iter().map(|it| uuid(*it)).collect::<Vec<_>>().join(",")
}

/// What a task says where the engine has its devices from a specification.
fn as_described(devices: &[usize]) -> String {
    let mut nodes: Vec<&str> = devices.iter().map(|it| NODES[*it]).collect();
    if nodes.is_empty() {
        return "has void nodes\nno driver library".to_owned();
    }
    nodes.extend(["nvidia-uvm", "nvidiactl"]);
    nodes.sort_unstable();
    let mut minors: Vec<&str> = devices.iter().map(|it| &NODES[*it]["nvidia".len()..]).collect();
    minors.sort_unstable();
    let computed: String =
        minors.iter().map(|it| format!("computed on 00000000-0000-0000-0000-00000000000{it} Stand-in\n")).collect();
    format!("has void nodes {}\n{computed}devices {}", nodes.join(" "), devices.len())
}

#[test]
fn docker_is_asked_for_the_devices_that_each_task_has() {
    require(Engine::Docker);
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let image = scene.sees_all();
    let hooked = Hooked::start(&context);
    let within = Within {
        flag: "--docker",
        host: ("DOCKER_HOST", &hooked.docker.host),
        // The nodes and libraries are the hook's to bring.
        says: |devices| match devices {
            [] => "has void nodes\nno driver library".to_owned(),
            devices => format!("has {} nodes\nno driver library", ids(devices)),
        },
    };
    shared(&scene, &image, &within, |expected| {
        let asked = hooked.asked();
        let mut found: Vec<&str> = asked.lines().collect();
        let mut expected: Vec<String> =
            expected.iter().map(|it| format!("NVIDIA_VISIBLE_DEVICES={}", ids(it))).collect();
        expected.sort();
        found.sort_unstable();
        let right = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(line, it)| {
                line.starts_with("prestart ") && line.ends_with(it.as_str()) && line.matches("VISIBLE").count() == 1
            });
        assert!(right, "expected {expected:?}, the hook was asked:\n{asked}");
    });
    hooked.docker.end();
}

#[test]
fn docker_without_a_hook_gives_each_task_the_devices_it_has() {
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let image = scene.sees_all();
    let specification = apart::specification(&scene.driver, &[("0", NODES[0]), ("1", NODES[1]), ("2", NODES[2])]);
    let docker = apart::docker(&context, &specification);
    let within = Within { flag: "--docker", host: ("DOCKER_HOST", &docker.host), says: as_described };
    shared(&scene, &image, &within, |_| {});
    docker.end();
}

#[test]
fn podman_gives_each_task_the_devices_it_has() {
    require(Engine::Podman);
    let context = TestContext::warm();
    let scene = Scene::new(&context);
    let image = scene.sees_all();
    let specification = apart::specification(&scene.driver, &[("0", NODES[0]), ("1", NODES[1]), ("2", NODES[2])]);
    let service = apart::podman(&context, &specification, "");
    let within = Within { flag: "--podman", host: ("CONTAINER_HOST", &service.host), says: as_described };
    shared(&scene, &image, &within, |_| {});
    service.end();
}
