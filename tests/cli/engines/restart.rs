//! A Docker engine that goes away and comes back while a run is waited for. In Docker's path, with an engine of its own.

mod docker {
    use std::time::Duration;

    use agent::image::deliver;
    use agent::run::ContainerEngine;
    use agent::run::Engine as _;

    use super::super::{exited, run_image, script, shell, written};
    use crate::support::{Dockerd, Engine, TestContext, require};

    #[test]
    fn a_run_is_waited_for_while_its_engine_is_killed_and_comes_back() {
        require(Engine::Docker);
        let context = TestContext::new();
        let runs = context.path("runs");
        let daemon = Dockerd::start(&context.path("docker"));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (name, image) = runtime.block_on(async {
            let (around, image) = shell(&context).await;
            let name = "agent-test-restart:1";
            deliver::docker(&around, &image, &daemon.docker(), &name.parse().unwrap()).await.unwrap();
            (name, run_image(name, &image))
        });
        let engine = std::sync::Arc::new(ContainerEngine::docker(daemon.docker(), false));
        let text = "echo up > $AGENT_SPOOL/up; while [ ! -e $AGENT_SPOOL/go ]; do sleep 0.05; done; exit 9";
        let spec = script(&runs, &image, text);
        runtime.block_on(engine.start(&spec)).unwrap();
        written(&spec, "up");
        let waiting = {
            let (engine, run) = (std::sync::Arc::clone(&engine), spec.id.clone());
            runtime.spawn(async move { engine.wait(&run).await })
        };
        std::thread::sleep(Duration::from_millis(300));
        let root = daemon.kill();
        // It ends while nobody is there to see it.
        fs_err::write(spec.directory.join("spool/go"), "").unwrap();
        std::thread::sleep(Duration::from_secs(1));
        assert!(!waiting.is_finished());
        let daemon = Dockerd::start(&root);
        assert_eq!(runtime.block_on(waiting).unwrap().unwrap(), exited(9));
        runtime.block_on(engine.remove(&spec.id)).unwrap();
        runtime.block_on(daemon.docker().remove_image(name)).unwrap();
        drop(daemon);
    }
}
