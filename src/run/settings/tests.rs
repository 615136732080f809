//! The original's own examples, and that nothing a policy forbids gets through.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Config;
use crate::switches::known;

struct Case<'a> {
    config: &'a str,
    machine: Environment,
    arguments: &'a str,
    variables: &'a [(&'a str, &'a str)],
    busy: &'a [u16],
    engine: EngineKind,
    trusted: bool,
    network: Option<&'a str>,
}

fn case<'a>(config: &'a str, arguments: &'a str) -> Case<'a> {
    Case {
        config,
        machine: Environment::of([("HOST_DATA", "/mnt/data")]),
        arguments,
        variables: &[],
        busy: &[],
        engine: EngineKind::Docker,
        trusted: true,
        network: None,
    }
}

impl Case<'_> {
    fn chosen(&self) -> Result<Chosen, String> {
        let agent = Config::from_text("test", self.config, &self.machine).unwrap().agent().unwrap();
        let task = json!({"id": "4b825dc6", "name": "My Task", "project": "p"});
        let values = Values {
            queue_name: Some("default".to_owned()),
            worker_id: Some("rig:gpu0".to_owned()),
            task,
            ..Values::default()
        };
        let own = |it: &(&str, &str)| (it.0.to_owned(), it.1.to_owned());
        let run: RunId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let busy = |port| self.busy.contains(&port);
        of_task(&Asked {
            engine: self.engine,
            arguments: self.arguments,
            variables: &self.variables.iter().map(own).collect(),
            agent: &agent,
            trusted: self.trusted,
            machine: &self.machine,
            values: &values,
            gpus: Gpus::Assigned,
            network: self.network,
            ports: Some(Ports { busy: &busy, address: "10.1.2.3".to_owned(), seed: 0 }),
            run: Some(&run),
            read: &|_| Err(io::ErrorKind::NotFound.into()),
        })
        .map_err(|it| it.to_string())
    }
}

fn env(chosen: &Chosen) -> Vec<String> {
    chosen.container.env.iter().map(|(name, value)| format!("{name}={}", value.reveal())).collect()
}

#[test]
fn the_agents_own_come_first_and_keep_what_is_protected() {
    let config =
        "agent.extra_docker_arguments = [\"--ipc=host\", \"--net\", \"host\", \"-v\", \"/mnt:/mnt\", \"-e A=1\"]";
    let chosen = case(config, "--ipc none --network=none --privileged -e A=2 -w /x").chosen().unwrap();
    let spec = &chosen.container;
    assert_eq!((spec.ipc.as_deref(), spec.network.as_deref()), (Some("host"), Some("host")));
    assert_eq!((spec.privileged, env(&chosen)), (true, vec!["A=2".to_owned()]));
    assert_eq!(
        chosen.warnings,
        [
            "container argument `--ipc` is left out: the agent's own counts",
            "container argument `--network` is left out: the agent's own counts",
        ]
    );
    let reversed = format!("{config}, agent.docker_args_extra_precedes_task = false");
    let chosen = case(&reversed, "--ipc none -e A=2").chosen().unwrap();
    assert_eq!((chosen.container.ipc.as_deref(), env(&chosen)), (Some("none"), vec!["A=1".to_owned()]));
    assert_eq!(chosen.warnings, ["container argument `--ipc` is left out: the task's counts"]);
}

#[test]
fn the_environment_takes_the_configurations_place() {
    let mut case = case("agent.extra_docker_arguments = [\"--ipc=host\"]", "--privileged -e A=1");
    case.machine = Environment::of([
        ("CLEARML_AGENT_EXTRA_DOCKER_ARGS", "--hostname 'my host'"),
        ("CLEARML_AGENT_DOCKER_ARGS_FILTERS", "^--env$ ^-e$"),
        ("CLEARML_AGENT_EXTRA_DOCKER_LABELS", "team=vision 'note=a b'"),
        ("CLEARML_DOCKER_SKIP_GPUS_FLAG", "1"),
    ]);
    let chosen = case.chosen().unwrap();
    assert_eq!((chosen.container.hostname.as_deref(), chosen.container.ipc.as_deref()), (Some("my host"), None));
    assert_eq!((chosen.container.privileged, chosen.no_gpu_switch), (false, true));
    let labels: Vec<_> = chosen.container.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(labels, ["clearml-worker-id=rig:gpu0", "note=a b", "team=vision"]);
}

#[test]
fn what_is_forbidden_is_forbidden_to_both_sides() {
    let config =
        "agent { forbidden_docker_args = [entrypoint, v], extra_docker_arguments = [\"-v/a:/b\", \"--init\"] }";
    let chosen = case(config, "-v/x:/y --entrypoint=sh --volume /c:/d --read-only").chosen().unwrap();
    assert!(chosen.container.binds.is_empty() && chosen.container.entrypoint.is_none());
    assert!(chosen.container.read_only && chosen.container.init == Some(true));
    assert_eq!(chosen.warnings.len(), 4, "{:?}", chosen.warnings);
    // Nobody strips it here, and nobody may have it.
    let error = case("agent.forbidden_docker_args = []", "--entrypoint=sh").chosen().unwrap_err();
    assert!(error.contains("`--entrypoint` is refused"), "{error}");
}

#[test]
fn templates_and_variables_are_filled() {
    let text = "-l queue=${CLEARML_QUEUE_NAME|capitalize} --hostname ${CLEARML_TASK.name|lower} -e D=$HOST_DATA";
    let chosen = case("", text).chosen().unwrap();
    assert_eq!(
        (chosen.container.labels["queue"].as_str(), chosen.container.hostname.as_deref()),
        ("Default", Some("my task"))
    );
    assert_eq!(env(&chosen), ["D=$HOST_DATA"]);
    let allowed = "agent.docker_allow_host_environ = true";
    assert_eq!(
        env(&case(allowed, "-e D=$HOST_DATA/x -e E=${HOST_DATA}$NONE -e HOST_DATA").chosen().unwrap()),
        ["D=/mnt/data/x", "E=/mnt/data$NONE", "HOST_DATA=/mnt/data",]
    );
    let own = "agent.extra_docker_arguments = [\"-e\", \"D=$HOST_DATA\", \"-e\", \"HOST_DATA\"]";
    assert_eq!(env(&case(own, "").chosen().unwrap()), ["D=/mnt/data", "HOST_DATA=/mnt/data"]);
    // A name with a switch in it stays one word.
    let chosen = case("", "--hostname=${CLEARML_TASK.name}").chosen().unwrap();
    assert_eq!(chosen.container.hostname.as_deref(), Some("My Task"));
}

#[test]
fn variables_of_the_lock_are_set_anew_where_only_a_run_knows_them() {
    let mut case = case("", "--ipc=host -e HF_TOKEN=hush -e QUEUE=${CLEARML_QUEUE_NAME}");
    case.variables = &[("PLAIN", "x"), ("QUEUE", "${CLEARML_QUEUE_NAME}")];
    let chosen = case.chosen().unwrap();
    assert_eq!(env(&chosen), ["HF_TOKEN=hush", "QUEUE=default"]);
    assert!(!format!("{chosen:?}").contains("hush"));
    case.config = "agent.docker_args_filters = [\"^--ipc\"]";
    assert_eq!(env(&case.chosen().unwrap()), ["QUEUE=default"]);
}

#[test]
fn what_is_the_hosts_is_given_to_those_alone_who_are_trusted() {
    let arguments = "--privileged --ipc=private -v /:/host --shm-size 1g";
    let untrusted = |config, engine| Case { trusted: false, engine, ..case(config, arguments) }.chosen();
    let error = untrusted("", EngineKind::Docker).unwrap_err();
    assert_eq!(
        error,
        "the container arguments in the image ask for what is this machine's: `--privileged`, `-v /:/host`"
    );
    let error = untrusted("", EngineKind::Native).unwrap_err();
    assert!(error.ends_with("machine's: `-v /:/host`"), "{error}");
    // What the configuration leaves out is not asked for, and what it adds is the agent's own.
    let config = "agent { forbidden_docker_args = [privileged, volume] }";
    let chosen = untrusted(config, EngineKind::Docker).unwrap();
    assert_eq!((chosen.container.privileged, chosen.container.shm_size), (false, Some(1 << 30)));
    let config = "agent { docker_args_filters = [\"^--shm\"], extra_docker_arguments = [\"-v\", \"/data:/data\"] }";
    assert_eq!(untrusted(config, EngineKind::Docker).unwrap().container.binds.len(), 1);
}

#[test]
fn nothing_lies_where_the_console_is_kept() {
    for arguments in ["-v /x:/opt/agent/spool", "--tmpfs /opt/agent/spool/output", "-v /opt/agent/spool"] {
        let error = case("", arguments).chosen().unwrap_err();
        assert!(error.contains("under a worker the run's console is kept there"), "{arguments}: {error}");
    }
    assert!(case("", "-v /x:/opt/agent/spools").chosen().is_err(), "ours altogether");
    assert!(case("", "-v /x:/opt/agent/code/spool").chosen().is_ok());
}

#[test]
fn busy_ports_move_and_the_task_is_told() {
    let mut case = case("agent.docker_args_allowed_port_range = 9000-9100", "-p 8080:80/tcp -p 9000:22");
    case.busy = &[9000];
    let chosen = case.chosen().unwrap();
    assert_eq!(ports::property(&chosen.ports).as_deref(), Some("9001:80,9002:22"));
    assert_eq!(chosen.container.ports["80/tcp"], [(String::new(), "9001".to_owned())]);
    assert_eq!(env(&chosen), ["CLEARML_AGENT_HOST_IP=10.1.2.3"]);
    assert_eq!(chosen.warnings.len(), 2);
    case.arguments = "-p 8080:80 --network host";
    let chosen = case.chosen().unwrap();
    assert!(chosen.ports.is_empty() && chosen.container.env.is_empty() && chosen.container.ports.is_empty());
    let left_out = "container argument `--publish` is left out: the container has this machine's network, and its ports are \
                    the machine's";
    assert_eq!(chosen.warnings, [left_out]);
    // The network that whoever runs it gives where none is asked for counts before ports are looked for.
    (case.arguments, case.network) = ("-p 8080:80", Some("host"));
    let chosen = case.chosen().unwrap();
    assert!(chosen.ports.is_empty() && chosen.container.env.is_empty() && chosen.container.ports.is_empty());
    assert_eq!((chosen.warnings, chosen.container.network.as_deref()), (vec![left_out.to_owned()], Some("host")));
    case.arguments = "-p 8080:80 --network bridge";
    assert_eq!(case.chosen().unwrap().ports.len(), 1);
    case.engine = EngineKind::Native;
    assert!(case.chosen().unwrap().container.ports.is_empty());
}

#[test]
fn containers_are_named_as_the_configuration_says() {
    let config = "agent.docker_container_name_format = \"clearml-{task_id}-{rand_string:.4}\"";
    assert_eq!(case(config, "").chosen().unwrap().container.name.as_deref(), Some("clearml-4b825dc6-abcd"));
    assert_eq!(case(config, "--name mine").chosen().unwrap().container.name.as_deref(), Some("mine"));
    assert_eq!(case("", "").chosen().unwrap().container.name, None);
    let error = case("agent.docker_container_name_format = \"{moon}\"", "").chosen().unwrap_err();
    assert!(error.contains("no field `moon`"), "{error}");
}

proptest! {
    /// Whatever a task writes, and however: the container is what it is without the switches that may not stand.
    #[test]
    fn no_text_of_a_task_gets_a_forbidden_switch_through(
        words in proptest::collection::vec(
            prop_oneof![
                "-[vitPqeu]{1,3}(=|/x:/y|A=1)?",
                "--(volume|privileged|rm|env|net|network|user)(=(/x:/y|host|true|A=1))?",
                Just("/x:/y".to_owned()), Just("host".to_owned()), Just("A=1".to_owned()),
            ],
            0..6,
        ),
    ) {
        let text = process::command_line(&words);
        let config = "agent.forbidden_docker_args = [v, privileged, network, P]";
        if let Ok(chosen) = case(config, &text).chosen() {
            let spec = chosen.container;
            prop_assert!(spec.binds.is_empty() && spec.volumes.is_empty());
            prop_assert!(!spec.privileged && !spec.publish_all && spec.network.is_none());
        }
    }

    /// With every switch forbidden nothing is left of any text.
    #[test]
    fn a_policy_of_everything_leaves_nothing(text in "[-a-z=/: ]{0,40}") {
        let all: Vec<&str> = known::KNOWN.iter().map(|it| it.name).collect();
        let config = format!("agent.forbidden_docker_args = [{}]", all.join(", "));
        if let Ok(chosen) = case(&config, &text).chosen() {
            let mut untouched = case(&config, "").chosen().unwrap();
            untouched.warnings.clone_from(&chosen.warnings);
            prop_assert_eq!(format!("{chosen:?}"), format!("{untouched:?}"));
        }
    }
}

#[test]
fn what_an_engine_cannot_follow_is_known_before_there_is_an_image() {
    let early = |engine, config: &str, arguments: &str| {
        let machine = Environment::of([("HOST_DATA", "/mnt/data")]);
        let agent = Config::from_text("test", config, &machine).unwrap().agent().unwrap();
        let read = |_: &str| Err(io::ErrorKind::NotFound.into());
        check(&Early { engine, arguments, agent: &agent, machine: &machine, read: &read })
    };
    let podman = |arguments: &str| early(EngineKind::Podman, "", arguments);
    for text in [
        "--link db",
        "--domainname lab",
        "--volume-driver local",
        "--device-cgroup-rule 'c 1:3 r'",
        "--link-local-ip 169.254.0.7",
        "--health-start-interval 5s",
    ] {
        assert!(early(EngineKind::Docker, "", text).is_ok(), "{text}");
        let error = podman(text).unwrap_err();
        let switch = text.split(' ').next().unwrap();
        let told = format!("the container argument `{switch}` is refused in Podman: ");
        assert!(error.to_string().starts_with(&told), "{error}");
        let hint = "Remove it from the container arguments, or run the task in Docker, which follows it.";
        assert_eq!(error.hints(), [hint]);
        // The agent's own too, and those that the policy leaves out not.
        let own = format!("agent.extra_docker_arguments = [{}]", json!(text));
        assert!(early(EngineKind::Podman, &own, "").is_err(), "{text}");
        let without = format!("agent.forbidden_docker_args = [{}]", json!(switch));
        assert!(early(EngineKind::Podman, &without, text).is_ok(), "{text}");
    }
    assert!(podman("--network name=lab,link-local-ip=169.254.0.7").is_err());
    assert!(podman("-m lots").unwrap_err().to_string().contains("`lots` is no value"));
    // What a template will say is not known yet.
    assert!(podman("-m ${CLEARML_TASK.memory} ${CLEARML_TASK.name} -w ${CLEARML_CONFIG.x}").is_ok());
    assert!(podman("--ipc=host -e A -e B=$HOST_DATA -v /a:/b --gpus all -p 80:80").is_ok());
}
