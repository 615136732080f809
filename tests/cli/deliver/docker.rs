//! Into and out of Docker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent::base::{Around, Request, find, rootfs};
use agent::engine::{ContainerSpec, LogChunk};
use agent::image::deliver::{docker, push};
use agent::image::read::read;
use agent::oci::{Platform, Reference};
use agent::secret::Secret;
use futures_util::StreamExt as _;

use crate::support::images::{around, block, check, engine, layer, on_base, small_base, unique};
use crate::support::{Engine, Registry, TestContext, base, require};

#[test]
fn only_what_is_missing_is_loaded_and_nothing_when_nothing_changed() {
    require(Engine::Docker);
    let context = TestContext::new();
    let name: Reference = "agent-test-thin:1".parse().unwrap();
    let other: Reference = "agent-test-thin:2".parse().unwrap();
    block(async {
        let (around, engine) = (around(&context, "store"), engine());
        let base = small_base(&around, &context.path("base"), &unique("thin")).await;
        let first = on_base(&base, &[layer(&around.store, &[("opt/code/a.py", b"1")])]);
        check(&around, &first);
        let delivered = docker(&around, &first, &engine, &name).await.unwrap();
        assert!(!delivered.unchanged && delivered.layers >= 2, "{delivered:?}");
        let found = engine.image("agent-test-thin:1").await.unwrap().unwrap();
        assert!(found.id == first.config.digest() || found.id == first.manifest.digest());
        assert_eq!(found.diff_ids, first.diff_ids());
        assert!(docker(&around, &first, &engine, &name).await.unwrap().unchanged);

        let code = layer(&around.store, &[("opt/code/a.py", unique("2").as_bytes())]);
        let second = on_base(&base, std::slice::from_ref(&code));
        // What the engine has need not be anywhere else any more.
        for layer in &base.pin.layers {
            fs_err::remove_file(around.store.blob_path(&layer.blob.digest)).unwrap();
        }
        let delivered = docker(&around, &second, &engine, &name).await.unwrap();
        assert_eq!((delivered.layers, delivered.bytes), (1, code.descriptor.size));
        let delivered = docker(&around, &second, &engine, &other).await.unwrap();
        assert_eq!((delivered.unchanged, delivered.layers, delivered.bytes), (false, 0, 0));
        assert_eq!(engine.image("agent-test-thin:2").await.unwrap().unwrap().diff_ids, second.diff_ids());
        for name in ["agent-test-thin:1", "agent-test-thin:2", &first.config.digest().to_string()] {
            engine.remove_image(name).await.unwrap();
        }
    });
}

#[test]
fn a_base_that_docker_has_is_never_fetched_from_its_registry() {
    require(Engine::Docker);
    require(Engine::Skopeo);
    let context = TestContext::new();
    let registry = Registry::start(&context);
    block(async {
        let made = around(&context, "made");
        let local = small_base(&made, &context.path("base"), &unique("lazy")).await;
        let reference: Reference = registry.reference("library/lazy:1").parse().unwrap();
        push(&made, &on_base(&local, &[]), &reference).await.unwrap();
        let from = format!("docker://{reference}");
        let host = crate::support::docker_host();
        let copy = context.command("skopeo").args(["copy", "--quiet", "--src-tls-verify=false", "--dest-daemon-host"]);
        copy.args([&host, &from, "docker-daemon:agent-test-lazy:base"]).ok();

        let (around, engine) = (around(&context, "store"), engine());
        let base = find(&around, &Request::Image(reference), &Platform::host()).await.unwrap();
        let image = on_base(&base, &[layer(&around.store, &[("opt/x", b"x")])]);
        let name: Reference = "agent-test-lazy:ours".parse().unwrap();
        let delivered = docker(&around, &image, &engine, &name).await.unwrap();
        assert_eq!(delivered.layers, 1);
        for layer in &base.pin.layers {
            assert_eq!(around.store.has(&layer.blob.digest), None);
        }
        engine.remove_image("agent-test-lazy:ours").await.unwrap();
        engine.remove_image("agent-test-lazy:base").await.unwrap();
    });
}

#[test]
fn an_image_of_the_engine_is_a_base() {
    require(Engine::Docker);
    let context = TestContext::new();
    block(async {
        let made = around(&context, "made");
        let text = unique("engine base");
        let local = small_base(&made, &context.path("base"), &text).await;
        let image = on_base(&local, &[]);
        let name: Reference = "agent-test-engine-base:1".parse().unwrap();
        docker(&made, &image, &engine(), &name).await.unwrap();

        let around = Around { docker: Some(engine()), ..around(&context, "store") };
        let request: Request = "docker:agent-test-engine-base:1".parse().unwrap();
        let base = find(&around, &request, &Platform::host()).await.unwrap();
        assert_eq!(base.pin.config, image.config.digest());
        assert_eq!(base.diff_ids(), image.diff_ids());
        assert_eq!((base.pin.manifest, base.pin.source.clone()), (None, None));
        let tree = rootfs::open(&around, &base).await.unwrap();
        assert_eq!(tree.read("/opt/base.txt").unwrap().unwrap(), text.as_bytes());
        assert_eq!(tree.owner(base.user()).unwrap().uid, 1000);
        let owner = rootfs::owner(&around, &base).await.unwrap();
        assert_eq!((owner.gid, &owner), (1000, &rootfs::owner(&around, &base).await.unwrap()));
        assert_eq!(tree.os_release().unwrap()["VERSION_ID"], "1");
        // Asked again, it is known by its id, and the same.
        assert_eq!(find(&around, &request, &Platform::host()).await.unwrap(), base);
        let part = agent::lock::base::part(&base.pin);
        assert_eq!(agent::lock::base::open(&around, &part).await.unwrap(), base);
        let ours = on_base(&base, &[layer(&around.store, &[("opt/y", b"y")])]);
        check(&around, &ours);
        // A plain name that no registry answers for is looked for in the engine.
        let plain: Request = "127.0.0.1:1/agent-test-engine-base:1".parse().unwrap();
        assert!(find(&around, &plain, &Platform::host()).await.is_err());
        engine().remove_image("agent-test-engine-base:1").await.unwrap();
    });
}

#[test]
fn a_silent_registry_is_asked_once_where_docker_has_the_image() {
    require(Engine::Docker);
    let context = TestContext::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    // Takes every connection, and ends it without a word.
    std::thread::spawn(move || {
        silent.incoming().for_each(|_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
    });
    block(async {
        let made = around(&context, "made");
        let local = small_base(&made, &context.path("base"), &unique("silent")).await;
        let image = on_base(&local, &[]);
        let name: Reference = format!("{address}/agent-test-silent:1").parse().unwrap();
        docker(&made, &image, &engine(), &name).await.unwrap();

        let around = Around { docker: Some(engine()), ..around(&context, "store") };
        let request: Request = name.to_string().parse().unwrap();
        let base = find(&around, &request, &Platform::host()).await.unwrap();
        assert_eq!((base.pin.config, base.pin.source.clone()), (image.config.digest(), None));
        let times = asked.load(Ordering::SeqCst);
        assert!(times > 0, "the registry comes first");
        assert_eq!(find(&around, &request, &Platform::host()).await.unwrap(), base);
        assert_eq!(asked.load(Ordering::SeqCst), times, "it was silent a moment ago");
        engine().remove_image(&name.to_string()).await.unwrap();
    });
}

#[test]
fn what_an_image_is_made_of_is_read_back() {
    require(Engine::Docker);
    let context = TestContext::new();
    block(async {
        let around = Around { docker: Some(engine()), ..around(&context, "store") };
        let base = small_base(&around, &context.path("base"), &unique("read")).await;
        let files: [(&str, &[u8]); 3] = [
            ("opt/agent/agent.lock", b"version = 1\n"),
            ("opt/agent/code/agent.lock", b"not this one"),
            ("opt/agent/texts/abc", b"text"),
        ];
        let image = on_base(&base, &[layer(&around.store, &files)]);
        let name: Reference = "agent-test-read:1".parse().unwrap();
        docker(&around, &image, &engine(), &name).await.unwrap();
        let layout = context.path("layout");
        agent::image::deliver::layout(&around, &image, &layout, "x").await.unwrap();
        let oci = format!("oci:{}:x", layout.display());
        for origin in ["agent-test-read:1", "docker:agent-test-read:1", &oci] {
            let found = read(&around, &origin.parse().unwrap(), &Platform::host()).await.unwrap();
            assert_eq!(found.lock(), Some(&b"version = 1\n"[..]), "{origin}");
            assert_eq!(found.files.len(), 2, "{origin}");
            assert_eq!(found.layers.iter().map(|it| it.0).collect::<Vec<_>>(), image.diff_ids(), "{origin}");
            assert_eq!(found.config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3, "{origin}");
        }
        engine().remove_image("agent-test-read:1").await.unwrap();
        let gone: Request = "docker:agent-test-read:1".parse().unwrap();
        assert!(read(&around, &gone, &Platform::host()).await.is_err());
    });
}

#[test]
fn a_container_runs_and_says_how_it_ended() {
    require(Engine::Docker);
    let context = TestContext::new();
    block(async {
        let (around, engine) = (around(&context, "store"), engine());
        let request = Request::Layout { directory: base(), tag: Some("latest".to_owned()) };
        let base = find(&around, &request, &Platform::host()).await.unwrap();
        let image = on_base(&base, &[layer(&around.store, &[("opt/data", b"data")])]);
        // A name of its own: what a failed try leaves behind must not fail the next one.
        let name: Reference = format!("agent-test-run-{}:1", std::process::id()).parse().unwrap();
        docker(&around, &image, &engine, &name).await.unwrap();
        // Whole lines: Docker 20.10 may end a followed log before a last line without an end.
        let script = "cat /opt/data; echo; echo $KEY >&2; exit 7";
        let spec = ContainerSpec {
            image: name.familiar(),
            command: Some(vec![script.to_owned()]),
            env: BTreeMap::from([("KEY".to_owned(), Secret::new("value"))]),
            labels: BTreeMap::from([("agent.test.run".to_owned(), unique("run").trim().to_owned())]),
            network: Some("none".to_owned()),
            ..ContainerSpec::default()
        };
        let id = engine.create(&spec).await.unwrap();
        assert_eq!(engine.state(&id).await.unwrap().unwrap().exit_code, None);
        engine.start(&id).await.unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut logs = Box::pin(engine.logs(&id, true));
        while let Some(chunk) = logs.next().await {
            match chunk.unwrap() {
                LogChunk::Out(bytes) => out.extend(bytes),
                LogChunk::Err(bytes) => err.extend(bytes),
            }
        }
        assert_eq!(engine.wait(&id).await.unwrap(), 7);
        assert_eq!((out.as_slice(), err.as_slice()), (&b"data\n"[..], &b"value\n"[..]));
        let label = format!("agent.test.run={}", spec.labels["agent.test.run"]);
        let found = engine.labelled(&label).await.unwrap();
        assert_eq!((found.len(), found[0].exit_code, found[0].running), (1, Some(7), false));
        for _ in 0..2 {
            engine.stop(&id, 1).await.unwrap();
            engine.remove(&id).await.unwrap();
        }
        assert_eq!(engine.state(&id).await.unwrap(), None);
        engine.remove_image(&name.familiar()).await.unwrap();
    });
}

#[test]
fn a_run_is_heard_to_its_end_and_stopped_when_asked() {
    require(Engine::Docker);
    let context = TestContext::new();
    block(async {
        let (around, engine) = (around(&context, "store"), engine());
        let request = Request::Layout { directory: base(), tag: Some("latest".to_owned()) };
        let base = find(&around, &request, &Platform::host()).await.unwrap();
        let image = on_base(&base, &[layer(&around.store, &[("opt/data", b"run")])]);
        let name: Reference = "agent-test-attend:1".parse().unwrap();
        docker(&around, &image, &engine, &name).await.unwrap();
        let mut spec = ContainerSpec { image: name.familiar(), ..ContainerSpec::default() };
        agent::run::arguments::apply(&mut spec, "--network none --rm -it -v /etc/hostname:/opt/hostname:ro").unwrap();
        agent::run::docker::lend_host(&engine, &mut spec);
        let run = |command: &str| ContainerSpec { command: Some(vec![command.to_owned()]), ..spec.clone() };
        let id = unique("attend");
        let mut started =
            agent::run::docker::start(&engine, run("cat /opt/data; test -s $SSL_CERT_FILE"), id.trim()).await.unwrap();
        let mut heard = Vec::new();
        let keep = |chunk: &LogChunk| {
            let (LogChunk::Out(bytes) | LogChunk::Err(bytes)) = chunk;
            heard.extend_from_slice(bytes);
        };
        let ended = started.attend(keep, std::future::pending()).await.unwrap();
        assert_eq!((ended.code, ended.out_of_memory), (0, false));
        assert_eq!(heard, b"run");
        let found = agent::run::docker::find(&engine, id.trim()).await.unwrap().unwrap();
        assert_eq!(found.id(), started.id());
        found.remove().await.unwrap();
        assert!(agent::run::docker::find(&engine, id.trim()).await.unwrap().is_none());

        let script = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
        let mut started = agent::run::docker::start(&engine, run(script), id.trim()).await.unwrap();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let (mut ready, mut heard) = (Some(ready), Vec::new());
        let keep = |chunk: &LogChunk| {
            let (LogChunk::Out(bytes) | LogChunk::Err(bytes)) = chunk;
            heard.extend_from_slice(bytes);
            if let Some(ready) = ready.take() {
                ready.send(()).unwrap();
            }
        };
        let ended = started.attend(keep, async { is_ready.await.unwrap() }).await.unwrap();
        assert_eq!(ended.code, 5);
        assert_eq!(heard, b"ready\nasked\n");
        started.remove().await.unwrap();
        engine.remove_image("agent-test-attend:1").await.unwrap();
    });
}
