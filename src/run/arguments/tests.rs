//! What switches of each form become, and that every switch of the table becomes something.

use super::*;
use crate::switches::known;

fn parsed(text: &str) -> Result<ContainerSpec, ArgumentError> {
    let mut spec = ContainerSpec::default();
    apply(&mut spec, text).map(|()| spec)
}

fn followed(text: &str, engine: EngineKind, side: Side, gpus: Gpus) -> Result<Followed, ArgumentError> {
    let read = |path: &str| match path {
        "/env" => Ok("# comment\nA=1\n\nB\n".to_owned()),
        "/profile" => Ok("{ \"defaultAction\" : \"SCMP_ACT_ALLOW\" }".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let variable = |side, name: &str| (side == Side::Agent && name == "B").then(|| "here".to_owned());
    let rules = Rules { engine, gpus, variable: &variable, read: &read };
    let mut made = Followed::default();
    for switch in crate::switches::parse(text)? {
        follow(&mut made, &switch, side, &rules)?;
    }
    Ok(made)
}

#[test]
fn switches_of_every_form_are_understood() {
    let spec = parsed(
        "-it --rm --network=host --ipc host -v /data:/data:ro,z --volume cache:/c -p 127.0.0.1:8080:80 -p 53/udp \
         --shm-size 8g -m512m --cpus 1.5 --ulimit memlock=-1 --gpus '\"device=0,GPU-1\"' -l a=b -u 1000:1000 \
         --mount type=bind,source=/x,target=/y,readonly --add-host db=10.0.0.1 -eKEY=value --privileged=false",
    )
    .unwrap();
    assert_eq!((spec.network.as_deref(), spec.ipc.as_deref()), (Some("host"), Some("host")));
    let binds: Vec<_> = spec.binds.iter().map(|it| (it.source.as_str(), it.target.as_str(), it.read_only)).collect();
    assert_eq!(binds, [("/data", "/data", true), ("cache", "/c", false), ("/x", "/y", true)]);
    assert_eq!(spec.bind_options["/data"], ["z"]);
    assert_eq!(spec.ports["80/tcp"], [("127.0.0.1".to_owned(), "8080".to_owned())]);
    assert!(spec.ports.contains_key("53/udp"));
    assert_eq!((spec.shm_size, spec.memory, spec.nano_cpus), (Some(8 << 30), Some(512 << 20), Some(1_500_000_000)));
    assert_eq!(spec.ulimits, [("memlock".to_owned(), -1, -1)]);
    assert_eq!(spec.device_requests[0].ids, ["0", "GPU-1"]);
    assert_eq!((spec.labels["a"].as_str(), spec.env["KEY"].reveal()), ("b", "value"));
    assert_eq!(spec.extra_hosts, ["db:10.0.0.1"]);
    assert!(!spec.privileged);
}

#[test]
fn the_rarer_switches_too() {
    let spec = parsed(
        "--memory-swap -1 --pids-limit=100 --device-read-bps /dev/sda:1mb --blkio-weight-device /dev/sda:200 \
         --sysctl net.core.somaxconn=1024 --network name=lab,alias=db,ip=10.0.0.7 --tmpfs /t:size=1g \
         --mount type=tmpfs,dst=/u,tmpfs-size=64m -v /scratch --health-cmd 'curl x' --health-interval 1m30s \
         --log-driver json-file --log-opt max-size=1m --dns 1.1.1.1 --expose 80-81 -P --device /dev/fuse \
         --device /dev/a:/dev/b:r --device vendor.com/net=eth0 --security-opt systempaths=unconfined --net-alias web",
    )
    .unwrap();
    let limits = &spec.limits;
    assert_eq!((limits.memory_swap, limits.pids), (Some(-1), Some(100)));
    assert_eq!(limits.read_bytes, [("/dev/sda".to_owned(), 1 << 20)]);
    assert_eq!(limits.io_weights, [("/dev/sda".to_owned(), 200)]);
    assert_eq!((spec.network.as_deref(), spec.attachment.ipv4.as_deref()), (Some("lab"), Some("10.0.0.7")));
    assert_eq!(spec.attachment.aliases, ["db", "web"]);
    assert_eq!((spec.tmpfs["/t"].as_str(), spec.tmpfs["/u"].as_str()), ("size=1g", "size=64m"));
    assert_eq!(spec.volumes, ["/scratch"]);
    let health = spec.health.unwrap();
    assert_eq!((health.test[1].as_str(), health.interval), ("curl x", Some(90_000_000_000)));
    assert_eq!((spec.log_driver.as_deref(), spec.log_options["max-size"].as_str()), (Some("json-file"), "1m"));
    assert_eq!(spec.exposed, ["80/tcp", "81/tcp"]);
    let device = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(spec.devices, [device("/dev/fuse", "/dev/fuse", "rwm"), device("/dev/a", "/dev/b", "r")]);
    assert_eq!(spec.device_requests[0].driver, "cdi");
    assert!(spec.unmasked && spec.publish_all && spec.security.is_empty());
}

#[test]
fn gpus_in_all_their_forms() {
    let ids = |text: &str| parsed(&format!("--gpus {text}")).map(|it| it.device_requests[0].ids.clone());
    let own = |list: &[&str]| Ok(list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    assert_eq!(ids("all"), own(&[]));
    assert_eq!(ids("2"), own(&["0", "1"]));
    assert_eq!(ids("device=0,1"), own(&["0", "1"]));
    assert_eq!(ids("'\"device=GPU-1,GPU-2\",capabilities=utility'"), own(&["GPU-1", "GPU-2"]));
    for wrong in ["some", "0", "device=", "moon=1"] {
        assert!(ids(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_cannot_be_followed_is_named() {
    for (text, part) in [
        ("--cgroup-parents x", "`--cgroup-parents` is no switch"),
        ("image", "`image` among"),
        ("--network", "`--network` has no value"),
        ("-v a b", "`b` among"),
        ("-v /a:b", "`-v`"),
        ("-v /a:/b:moon", "its options are"),
        ("-v ./a:/b", "absolute path or a volume's name"),
        ("-v /a:/b/../c", "without `..`"),
        ("-m lots", "`lots` is no value of the container argument `-m`: a size"),
        ("-p 80-90:80-85", "same length"),
        ("-v 'x", "quote"),
        ("--entrypoint sh", "`--entrypoint` is refused: the image's entrypoint"),
        ("--use-api-socket", "refused"),
        ("--isolation hyperv", "for Windows containers"),
        ("--privileged=perhaps", "true or false"),
        ("-w here", "an absolute path"),
        ("--security-opt seccomp=/profile", "file of one machine"),
        ("--dns home", "an IP address"),
        ("-e =x", "NAME=value"),
    ] {
        let error = parsed(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn what_the_image_runs_from_cannot_be_hidden() {
    for target in ["/", "/opt", "/opt/agent", "/opt//agent/./bin", "/opt/agent/bin/agent", "/opt/agent/venv/lib"] {
        for text in
            [format!("-v /x:{target}"), format!("--mount type=bind,src=/x,dst={target}"), format!("--tmpfs {target}")]
        {
            assert!(parsed(&text).is_err(), "{text}");
        }
    }
    for target in ["/opt/agent/journal", "/opt/agent/code/data", "/opt/other", "/optional"] {
        assert!(parsed(&format!("-v /x:{target}")).is_ok(), "{target}");
    }
}

#[test]
fn files_are_read_for_the_agent_alone() {
    let agent = followed("--env-file /env --label-file /env", EngineKind::Docker, Side::Agent, Gpus::Asked).unwrap();
    assert_eq!((agent.container.env["A"].reveal(), agent.container.env["B"].reveal()), ("1", "here"));
    assert_eq!(agent.container.labels["A"], "1");
    let task = followed("--env-file /env -e B", EngineKind::Docker, Side::Task, Gpus::Asked).unwrap();
    assert!(task.container.env.is_empty());
    assert_eq!(task.warnings, ["container argument `--env-file` is left out: it names a file of one machine"]);
    let profile = followed("--security-opt seccomp=/profile", EngineKind::Docker, Side::Agent, Gpus::Asked).unwrap();
    assert_eq!(profile.container.security, ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]);
    let profile = followed("--security-opt seccomp=/profile", EngineKind::Podman, Side::Agent, Gpus::Asked).unwrap();
    assert_eq!(profile.container.security, ["seccomp=/profile"], "Podman reads it itself");
    let missing = followed("--env-file /none", EngineKind::Docker, Side::Agent, Gpus::Asked).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read `/none`"), "{missing}");
}

#[test]
fn gpus_that_are_assigned_are_not_for_arguments_to_say() {
    let text = "--gpus all --device nvidia.com/gpu=all --device /dev/nvidia0 --device /dev/fuse";
    let made = followed(text, EngineKind::Docker, Side::Task, Gpus::Assigned).unwrap();
    assert_eq!((made.container.device_requests.len(), made.container.devices.len()), (0, 1));
    assert_eq!(made.warnings.len(), 3);
}

#[test]
fn a_native_run_follows_what_it_can_and_names_the_rest() {
    let text = "--ipc=host --network host -it --shm-size=8g -v /data:/data:ro -v cache:/c -u 7:8 --read-only -e A=1 \
                --mount type=tmpfs,target=/t --gpus all --memory 8g --net none --restart no -p 80:80";
    let made = followed(text, EngineKind::Native, Side::Task, Gpus::Asked).unwrap();
    let left_out: Vec<_> = made.warnings.iter().map(|it| it.split('`').nth(1).unwrap_or_default()).collect();
    assert_eq!(left_out, ["-v", "--gpus"]);
    let spec = made.container;
    assert_eq!((spec.tmpfs["/t"].as_str(), spec.shm_size, spec.network.as_deref()), ("", Some(8 << 30), Some("none")));
    assert_eq!((spec.binds.len(), spec.user.as_deref(), spec.read_only), (1, Some("7:8"), true));
    assert_eq!((spec.env["A"].reveal(), spec.memory), ("1", Some(8 << 30)));
    let last = followed("--net none --network host", EngineKind::Native, Side::Task, Gpus::Asked).unwrap();
    assert_eq!(last.container.network, None);
    assert!(made.published.is_empty());
    assert!(followed("--odd 1", EngineKind::Native, Side::Task, Gpus::Asked).is_err());
}

/// A value that a switch takes.
fn sample(name: &str) -> &'static str {
    match name {
        "add-host" => "db:10.0.0.1",
        "annotation" | "label" | "log-opt" | "storage-opt" | "sysctl" | "env" => "a=b",
        "blkio-weight-device" | "device-read-bps" | "device-read-iops" | "device-write-bps" | "device-write-iops" => {
            "/dev/sda:1"
        }
        "cgroupns" => "host",
        "device" | "tmpfs" | "workdir" => "/dev/x",
        "dns" | "ip" | "link-local-ip" => "10.0.0.1",
        "env-file" | "label-file" => "/env",
        "gpus" => "all",
        "health-interval" | "health-start-interval" | "health-start-period" | "health-timeout" => "5s",
        "ip6" => "fe80::1",
        "mount" => "type=bind,src=/a,dst=/b",
        "network" => "host",
        "security-opt" => "no-new-privileges",
        "ulimit" => "nofile=10:20",
        "volume" => "/a:/b",
        _ => "1",
    }
}

#[test]
fn every_switch_of_the_table_is_what_the_table_says() {
    for engine in [EngineKind::Docker, EngineKind::Podman, EngineKind::Native] {
        for known in known::KNOWN {
            let text = if known.flag {
                format!("--{}", known.name)
            } else {
                format!("--{}={}", known.name, sample(known.name))
            };
            let before = format!("{:?}", Followed::default());
            let made = followed(&text, engine, Side::Agent, Gpus::Asked);
            match engine.fate(known) {
                Fate::Followed | Fate::Partly(_) => {
                    let made = made.unwrap();
                    assert!(made.warnings.is_empty(), "{text}: {:?}", made.warnings);
                    // The host's network is what a native run has.
                    let same = format!("{made:?}") == before;
                    assert_eq!(same, engine == EngineKind::Native && known.name == "network", "{text}");
                }
                Fate::LeftOut(why) => {
                    let made = made.unwrap();
                    assert_eq!(made.warnings, [format!("container argument `--{}` is left out: {why}", known.name)]);
                }
                Fate::Needless(_) => assert_eq!(format!("{:?}", made.unwrap()), before, "{text}"),
                Fate::Refused(why) => {
                    let place = if engine.fate(known) == known.docker { "" } else { " in Podman" };
                    let told = format!("the container argument `--{}` is refused{place}: {why}", known.name);
                    assert_eq!(made.unwrap_err().to_string(), told);
                }
            }
        }
    }
}
