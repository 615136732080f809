use super::*;
use crate::run::EngineKind;

fn ask_in(words: &[&str], environment: Environment) -> Result<DaemonAsk, String> {
    let args = crate::cli::daemon::parsed(words)?;
    merge(&args, &Session { environment, config_file: None }).map_err(|it| it.to_string())
}

fn served(words: &[&str]) -> DaemonSettings {
    match ask_in(words, Environment::default()).unwrap() {
        DaemonAsk::Serve(settings) => *settings,
        other => panic!("{words:?} is {other:?}"),
    }
}

fn refused(words: &[&str]) -> String {
    ask_in(words, Environment::default()).unwrap_err()
}

fn names(settings: &DaemonSettings) -> Vec<&str> {
    settings.queues.iter().map(|it| it.name.as_str()).collect()
}

fn these(list: &[&str]) -> Ask {
    Ask::These(list.iter().map(|it| (*it).to_owned()).collect())
}

/// Every `daemon` line of the original's own documentation, placeholders filled in.
#[test]
fn lines_of_the_original_mean_what_they_meant() {
    let line = |text: &str| -> (DaemonSettings, bool) {
        let words: Vec<&str> = text.split_whitespace().collect();
        match ask_in(&words, Environment::default()).unwrap() {
            DaemonAsk::Serve(settings) => (*settings, false),
            DaemonAsk::Detach(settings) => (*settings, true),
            other => panic!("{text} is {other:?}"),
        }
    };
    for (text, queues, gpus, engine, detached) in [
        ("--queue default", &["default"][..], None, EngineKind::Native, false),
        ("--queue my_queue --detached", &["my_queue"], None, EngineKind::Native, true),
        ("--queue my_queue -d", &["my_queue"], None, EngineKind::Native, true),
        ("--detached --queue default --gpus 0", &["default"], Some(&["0"][..]), EngineKind::Native, true),
        ("--detached --queue default --gpus 1", &["default"], Some(&["1"]), EngineKind::Native, true),
        ("--gpus 0,1 --queue dual_gpu", &["dual_gpu"], Some(&["0", "1"]), EngineKind::Native, false),
        ("--detached --queue high_q low_q --gpus 0", &["high_q", "low_q"], Some(&["0"]), EngineKind::Native, true),
        ("--queue default --foreground", &["default"], None, EngineKind::Native, false),
        ("--queue my_queue --docker", &["my_queue"], None, EngineKind::Docker, false),
        ("--queue my_queue --docker ubuntu:22.04", &["my_queue"], None, EngineKind::Docker, false),
        ("--queue default --docker --force-current-version", &["default"], None, EngineKind::Docker, false),
        // As one page prints it, its placeholder lost: the default queue.
        ("--queue --docker ubuntu:22.04", &[], None, EngineKind::Docker, false),
    ] {
        let (settings, background) = line(text);
        assert_eq!(names(&settings), queues, "{text}");
        assert_eq!(settings.execution.gpus, gpus.map_or(Ask::Unsaid, these), "{text}");
        assert_eq!((settings.execution.engine, background), (engine, detached), "{text}");
        assert_eq!(settings.slots, Slots::One, "{text}");
        assert_eq!(settings.show_console, text.contains("--foreground"), "{text}");
    }
    assert_eq!(line("--queue q --docker ubuntu:22.04").0.execution.docker.as_deref(), Some("ubuntu:22.04"));
    let notes = line("--queue default --docker --force-current-version").0.execution.notes;
    assert_eq!(notes.len(), 1, "{notes:?}");

    let (fair, _) = line("--detached --queue group_a group_b --order-fairness --gpus 0");
    assert!(fair.fair && names(&fair) == ["group_a", "group_b"] && fair.execution.gpus == these(&["0"]));

    let (services, _) = line("--services-mode --queue services --create-queue --docker debian:12 --cpu-only");
    assert_eq!((services.slots, names(&services)), (Slots::Services(None), vec!["services"]));
    assert!(services.create_queues && services.execution.gpus == Ask::None);
    assert_eq!(services.execution.docker.as_deref(), Some("debian:12"));

    let of = |settings: &DaemonSettings| -> Vec<(String, Option<(u32, u32)>)> {
        settings.queues.iter().map(|it| (it.name.clone(), it.gpus)).collect()
    };
    for (text, expected) in [
        ("--dynamic-gpus --queue dual_gpus=2 single_gpu=1", [("dual_gpus", (2, 2)), ("single_gpu", (1, 1))]),
        ("--dynamic-gpus --queues quad_gpu=4 dual_gpu=2", [("quad_gpu", (4, 4)), ("dual_gpu", (2, 2))]),
        ("--dynamic-gpus --queue dual=2 opportunistic=1-4", [("dual", (2, 2)), ("opportunistic", (1, 4))]),
    ] {
        let (dynamic, _) = line(text);
        assert_eq!((dynamic.slots, &dynamic.execution.gpus), (Slots::Dynamic, &Ask::All), "{text}");
        assert_eq!(of(&dynamic), expected.map(|(name, gpus)| (name.to_owned(), Some(gpus))), "{text}");
    }
}

#[test]
fn stopping_names_workers_or_describes_one() {
    let stop = |words: &[&str]| match ask_in(words, Environment::of([("CLEARML_WORKER_NAME", "box")])).unwrap() {
        DaemonAsk::Stop(stop) => stop,
        other => panic!("{other:?}"),
    };
    let named = stop(&["--stop", "box:gpu0", "box:1", "--drain"]);
    assert_eq!(named.which, Which::Named(vec!["box:gpu0".into(), "box:1".into()]));
    assert!(named.drain);
    let like = stop(&["--detached", "--queue", "default", "--gpus", "0-1", "--stop"]);
    let Which::Like { identity, queues } = like.which else { panic!("{:?}", like.which) };
    assert_eq!((identity.worker_id(3), queues), ("box:gpu0,1".to_owned(), vec!["default".to_owned()]));
    assert!(refused(&["--drain"]).contains("--stop"));
    let environment = Environment::of([("AGENT_STATE_DIR", "/srv/state")]);
    let DaemonAsk::Status(state) = ask_in(&["--status"], environment).unwrap() else { panic!("no status") };
    assert_eq!(state.to_str(), Some("/srv/state"));
}

#[test]
fn how_many_at_once() {
    assert_eq!(served(&["--services-mode", "3"]).slots, Slots::Services(Some(3)));
    assert_eq!(refused(&["--services-mode", "0"]), "--services-mode 0 would run nothing");
    assert!(refused(&["--services-mode", "many"]).contains("invalid value"));
    assert!(refused(&["--services-mode", "--dynamic-gpus"]).contains("cannot be used with"));
    let services = served(&["--services-mode", "--gpus", "0"]);
    assert_eq!(services.execution.gpus, Ask::None);
    assert!(services.execution.notes[0].contains("--gpus has no effect"), "{:?}", services.execution.notes);
    for (queue, error) in [
        ("q", "queue `q` does not say how many GPUs its tasks get"),
        ("q=", "`` of queue `q` is no number of GPUs"),
        ("q=0", "`0` of queue `q` is no number of GPUs"),
        ("q=0.5", "`0.5` of queue `q` is no number of GPUs"),
        ("q=4-2", "`4-2` of queue `q` is no number of GPUs"),
        ("=2", "queue `=2` does not say how many GPUs its tasks get"),
    ] {
        assert_eq!(refused(&["--dynamic-gpus", "--gpus", "0-3", "--queue", queue]), error);
    }
    assert_eq!(refused(&["--dynamic-gpus"]), "--dynamic-gpus needs queues");
    assert_eq!(refused(&["--dynamic-gpus", "--cpu-only", "--queue", "q=1"]), "--dynamic-gpus has no GPUs to share");
    // Without dynamic GPUs a name is a name.
    assert_eq!(names(&served(&["--queue", "q=1"])), ["q=1"]);
    assert_eq!(refused(&["--queue", "a", "a"]), "queue `a` is named twice");
    assert_eq!(refused(&["--queue", ""]), "a queue's name is empty");
}

#[test]
fn what_the_environment_and_the_configuration_say() {
    let settings = |words: &[&str], environment: Environment| match ask_in(words, environment).unwrap() {
        DaemonAsk::Serve(settings) => *settings,
        other => panic!("{other:?}"),
    };
    let seconds = |words: &[&str], environment| settings(words, environment).interval.as_secs_f64();
    assert!((seconds(&[], Environment::default()) - 5.0).abs() < 0.01);
    assert!((seconds(&["--polling-interval", "30"], Environment::default()) - 30.0).abs() < 0.01);
    assert!((seconds(&["--polling-interval", "1"], Environment::default()) - 5.0).abs() < 0.01);
    let variable = || Environment::of([("CLEARML_AGENT_QUEUE_POLL_FREQ_SEC", "0.2")]);
    assert!((seconds(&["--polling-interval", "30"], variable()) - 0.2).abs() < 0.01);
    for wrong in ["0", "-1", "soon", "NaN"] {
        let error = ask_in(&[], Environment::of([("CLEARML_AGENT_QUEUE_POLL_FREQ_SEC", wrong)])).unwrap_err();
        assert!(error.contains("CLEARML_AGENT_QUEUE_POLL_FREQ_SEC"), "{error}");
    }
    let environment = Environment::of([
        ("CLEARML_WORKER_ID", "box:explicit"),
        ("CLEARML_WORKER_TAGS", "a 'b c'"),
        ("CUDA_VISIBLE_DEVICES", "2"),
        ("CLEARML_AGENT__AGENT__UPTIME", "[\"17-20 SUN-TUE\", \"13-22 WED\"]"),
    ]);
    let found = settings(&[], environment.clone());
    assert_eq!(identity(&found).worker_id(0), "box:explicit");
    assert_eq!((&found.tags[..], &found.execution.gpus), (&["a".to_owned(), "b c".to_owned()][..], &these(&["2"])));
    assert_eq!(found.schedule.unwrap().to_string(), "17-20 MON-TUE; 13-22 WED; 17-20 SUN");
    let flags = ["--child-report-tags", "x", "y", "--cpu-only", "--downtime", "0 SAT", "0 SUN"];
    let given = settings(&flags, environment);
    assert_eq!((&given.tags[..], &given.execution.gpus), (&["x".to_owned(), "y".to_owned()][..], &Ask::None));
    assert_eq!(given.schedule.unwrap().to_string(), "0-24 MON-FRI");
}

#[test]
fn contradictions_and_nonsense_are_told() {
    assert!(refused(&["--uptime", "8-17 MON", "--downtime", "0 SUN"]).contains("both uptime and downtime are set"));
    let both = Environment::of([
        ("CLEARML_AGENT__AGENT__UPTIME", "[\"0 SUN\"]"),
        ("CLEARML_AGENT__AGENT__DOWNTIME", "[\"0 MON\"]"),
    ]);
    assert_eq!(ask_in(&[], both).unwrap_err(), "both uptime and downtime are set");
    assert!(refused(&["--uptime", "8-17"]).contains("`8-17` is no time to work"));
    assert!(refused(&["--metrics-listen", "here"]).contains("`here` is no address"));
    assert!(refused(&["--gpus", "0,,1"]).contains("an item is empty"));
    assert!(refused(&["--gpus", "3-1"]).contains("`3-1` ends before it begins"));
    let odd = Environment::of([("NVIDIA_VISIBLE_DEVICES", "/var/run/devices")]);
    assert!(ask_in(&[], odd).unwrap_err().starts_with("cannot tell GPUs by NVIDIA_VISIBLE_DEVICES"));
    assert!(refused(&["--foreground", "--detached"]).contains("cannot be used with"));
    assert_eq!(served(&["--metrics-listen", ":9095"]).metrics.unwrap().to_string(), "127.0.0.1:9095");
    assert_eq!(served(&["--metrics-listen", "0.0.0.0:80"]).metrics.unwrap().to_string(), "0.0.0.0:80");
    assert_eq!(served(&["--gpus", "GPU-1-2,0:1"]).execution.gpus, these(&["GPU-1-2", "0:1"]));
}

#[test]
fn git_credentials_reach_builds_and_no_command_line() {
    let settings = served(&["--git-user", "ada", "--git-pass", "pw"]);
    let lent: Vec<(&str, &str)> =
        settings.execution.build_environment.iter().map(|(name, value)| (*name, value.reveal())).collect();
    assert_eq!(lent, [("CLEARML_AGENT_GIT_USER", "ada"), ("CLEARML_AGENT_GIT_PASS", "pw")]);
    assert_eq!(settings.execution.agent.git_credentials[0].credentials.user, "ada");
    assert!(settings.execution.notes[0].contains("--git-pass"), "{:?}", settings.execution.notes);
    assert!(!format!("{settings:?}").contains("\"pw\""));
}

/// The command lines of a text: `agent <verb> …`, without what stands behind it for people.
fn lines_of(text: &str, verb: &str) -> Vec<Vec<String>> {
    let begin = format!("agent {verb} ");
    let command = |line: &str| {
        let line = line.trim().trim_start_matches("command: ").trim_start_matches("ExecStart=");
        let line = line.trim_start_matches("/usr/local/bin/");
        let rest = line.strip_prefix(&begin)?;
        let rest = rest.split_once("  ").map_or(rest, |it| it.0);
        process::words(rest)
    };
    text.lines().filter_map(command).collect()
}

#[test]
fn lines_of_the_documentation_help_and_templates_mean_something() {
    let page = include_str!("../../../docs/daemon.md");
    let unit = include_str!("../../../templates/systemd/agent.service");
    let compose = include_str!("../../../templates/compose/compose.yaml");
    let help = |args: fn(clap::Command) -> clap::Command| {
        let mut command = args(clap::Command::new("agent"));
        command.render_long_help().to_string()
    };
    let of_daemon = help(<DaemonArgs as clap::Args>::augment_args);
    let of_execute = help(<crate::cli::execute::ExecuteArgs as clap::Args>::augment_args);
    for (source, text, least) in
        [("page", page, 15), ("unit", unit, 1), ("compose", compose, 2), ("help", of_daemon.as_str(), 7)]
    {
        let lines = lines_of(text, "daemon");
        assert!(lines.len() >= least, "{source}: {lines:?}");
        for line in lines {
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            let asked = ask_in(&words, Environment::default());
            assert!(asked.is_ok(), "{source}: {line:?}: {asked:?}");
        }
    }
    // What runs outlives the service, whose processes are told to leave it, and has control groups of its own.
    for setting in ["Type=notify", "KillMode=process", "KillSignal=SIGUSR2", "Delegate=yes"] {
        assert!(unit.lines().any(|it| it == setting), "{setting}");
    }
    let session = || Session { environment: Environment::default(), config_file: None };
    for (text, least) in [(page, 3), (of_execute.as_str(), 4)] {
        let lines = lines_of(text, "execute");
        assert!(lines.len() >= least, "{lines:?}");
        for line in lines {
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            let args = crate::cli::execute::parsed(&words).unwrap();
            crate::settings::execute::merge(&args, &session()).unwrap();
        }
    }
}
