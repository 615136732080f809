//! What `agent daemon` does about other daemons: `--status`, `--stop`, `--detached`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Context, blocking};
use crate::daemon::DaemonSettings;
use crate::daemon::detach::{self, Detached};
use crate::daemon::instances::{self, Instances, Record, Stopped};
use crate::daemon::settings::{StopSettings, Which};
use crate::error::Failure;
use crate::ui::text;

/// Goes to the background: starts the daemon as another process and says where it is.
///
/// # Errors
/// [`detach::DetachError`], or the records' of this machine's daemons.
pub async fn detach(settings: &DaemonSettings, context: &Context) -> Result<u8, Failure> {
    let (state, secrets) = (settings.execution.state.clone(), settings.execution.build_environment.clone());
    let arguments = crate::cli::daemon::detached(std::env::args_os().collect());
    let Detached { pid, log, record } = blocking(move || detach::detach(&state, &arguments, &secrets)).await?;
    let worker = record.map(|it| it.worker);
    if context.ui.is_json() {
        context.ui.print_json(&json!({"worker": worker, "process": pid, "log": log}))?;
        return Ok(0);
    }
    let log = log.display();
    context.ui.print(&match worker {
        Some(worker) => format!("worker {worker} in the background (process {pid})\nlog    {log}"),
        None => format!("process {pid} in the background; it does not serve yet\nlog    {log}"),
    })?;
    Ok(0)
}

/// Stops daemons; 1 when one that was named does not run.
///
/// # Errors
/// [`instances::InstanceError`]
pub async fn stop(settings: StopSettings, context: &Context) -> Result<u8, Failure> {
    let instances = Instances::open(&settings.state)?;
    let running = {
        let instances = instances.clone();
        blocking(move || Ok(instances.running()?)).await?
    };
    let (chosen, missing) = choose(&settings.which, &running);
    let mut told = Vec::new();
    for daemon in chosen {
        let drain = settings.drain;
        let (instances, record) = (instances.clone(), daemon.clone());
        if !drain {
            context.ui.say(&format!("stopping {} (process {})", daemon.worker, daemon.process.pid));
        }
        let outcome = blocking(move || {
            if drain {
                return Ok(instances::drain(&instances, &record).map(|()| "draining")?);
            }
            Ok(match instances::stop(&instances, &record)? {
                Stopped::Clean => "stopped",
                Stopped::Forced => "forced",
            })
        })
        .await?;
        told.push((daemon, outcome));
    }
    if context.ui.is_json() {
        let daemons: Vec<_> = told.iter().map(|(it, how)| json!({"worker": it.worker, "outcome": how})).collect();
        context.ui.print_json(&json!({"daemons": daemons, "missing": missing}))?;
    } else {
        let mut lines: Vec<String> = told.iter().map(|(it, how)| sentence(it, how)).collect();
        lines.extend(missing.iter().map(|it| format!("{it} does not run on this machine")));
        context.ui.print(&lines.join("\n"))?;
    }
    Ok(u8::from(!missing.is_empty()))
}

fn sentence(daemon: &Record, how: &str) -> String {
    let worker = &daemon.worker;
    match how {
        "draining" => match daemon.now.running.len() {
            0 => format!("{worker} takes no more tasks and ends"),
            1 => format!("{worker} takes no more tasks and ends once the one that runs has ended"),
            many => format!("{worker} takes no more tasks and ends once the {many} that run have ended"),
        },
        "stopped" => format!("{worker} is stopped"),
        _ => {
            format!("{worker} did not stop in time and was ended; what it ran goes on until the next daemon attends it")
        }
    }
}

/// The daemons that are meant, and what was named and is none.
fn choose(which: &Which, running: &[Record]) -> (Vec<Record>, Vec<String>) {
    match which {
        Which::Named(names) => {
            let (mut chosen, mut missing) = (Vec::new(), Vec::new());
            for name in names {
                match running.iter().find(|it| it.worker == *name) {
                    Some(found) => chosen.push(found.clone()),
                    None => missing.push(name.clone()),
                }
            }
            (chosen, missing)
        }
        Which::Like { identity, queues } => {
            let name = |it: &String| it.split('=').next().unwrap_or_default().to_owned();
            let serves = |it: &Record| queues.is_empty() || it.about.queues.iter().map(name).eq(queues.iter().cloned());
            match running.iter().find(|it| identity.describes(&it.identity) && serves(it)) {
                Some(found) => (vec![found.clone()], Vec::new()),
                None => (Vec::new(), vec!["a daemon with such flags".to_owned()]),
            }
        }
    }
}

/// Shows the daemons of this machine.
///
/// # Errors
/// [`instances::InstanceError`]
pub async fn status(state: &Path, context: &Context) -> Result<u8, Failure> {
    let state: PathBuf = state.to_owned();
    let running = blocking(move || Ok(Instances::open(&state)?.running()?)).await?;
    if context.ui.is_json() {
        context.ui.print_json(&json!({"daemons": running}))?;
        return Ok(0);
    }
    let shown: Vec<String> = running.iter().map(describe).collect();
    context.ui.print(&if shown.is_empty() {
        "no daemon runs on this machine".to_owned()
    } else {
        shown.join("\n\n")
    })?;
    Ok(0)
}

fn describe(daemon: &Record) -> String {
    let (about, now) = (&daemon.about, &daemon.now);
    let engine = match about.engine {
        crate::run::EngineKind::Docker => "docker",
        crate::run::EngineKind::Podman => "podman",
        crate::run::EngineKind::Native => "native",
    };
    let gpus = daemon.identity.gpus.as_deref().unwrap_or("whatever there is");
    let queues = if about.queues.is_empty() { "the server's default".to_owned() } else { about.queues.join(", ") };
    let mut lines = vec![
        format!("{} (process {}, since {})", daemon.worker, daemon.process.pid, daemon.since),
        format!("  runs in   {engine}, GPUs: {gpus}"),
        format!("  queues    {queues}"),
        format!("  schedule  {}", about.schedule.as_deref().unwrap_or("always")),
    ];
    for forced in &now.forced {
        let what = if forced.on { "on" } else { "off" };
        let whose = if forced.by == "worker" {
            "the worker's property `force`".to_owned()
        } else {
            format!("queue {}", forced.by)
        };
        lines.push(format!("  forced    {what} by {whose}"));
    }
    if now.draining {
        lines.push("  draining  takes no more tasks".to_owned());
    }
    for (field, value) in
        [("metrics", about.metrics.clone()), ("log", about.log.as_ref().map(|it| it.display().to_string()))]
    {
        lines.extend(value.map(|it| format!("  {field:<9} {it}")));
    }
    if now.running.is_empty() {
        lines.push("  tasks     none".to_owned());
    }
    for (at, task) in now.running.iter().enumerate() {
        let title = if at == 0 { "tasks" } else { "" };
        let queue = task.queue.as_deref().map_or_else(String::new, |it| format!(", from {it}"));
        lines.push(format!("  {title:<9} {} ({}{queue})", task.task, task.phase));
    }
    text::harmless(&lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::instances::{About, Forced, Identity, Now, Running};
    use crate::run::EngineKind;

    fn running(state: &Path) -> (Vec<crate::daemon::instances::Instance>, Vec<Record>) {
        let instances = Instances::open(state).unwrap();
        let identity = |gpus: Option<&str>| Identity {
            name: "box".into(),
            explicit: None,
            gpus: gpus.map(str::to_owned),
            dynamic: false,
        };
        let about = |queues: &[&str]| About {
            engine: EngineKind::Docker,
            queues: queues.iter().map(|it| (*it).to_owned()).collect(),
            schedule: None,
            many: false,
            log: None,
            metrics: None,
        };
        let held = vec![
            instances.claim(&identity(None), about(&["a"])).unwrap(),
            instances.claim(&identity(None), about(&["b", "c"])).unwrap(),
            instances.claim(&identity(Some("0")), about(&["a"])).unwrap(),
        ];
        (held, instances.running().unwrap())
    }

    #[test]
    fn daemons_are_chosen_by_id_or_by_the_flags_they_were_started_with() {
        let state = tempfile::tempdir().unwrap();
        let (_held, running) = running(state.path());
        let workers =
            |which: &Which| -> Vec<String> { choose(which, &running).0.into_iter().map(|it| it.worker).collect() };
        let named = Which::Named(vec!["box:gpu0".into(), "box:9".into()]);
        assert_eq!(workers(&named), ["box:gpu0"]);
        assert_eq!(choose(&named, &running).1, ["box:9"]);
        let like = |gpus: Option<&str>, queues: &[&str]| Which::Like {
            identity: Identity { name: "box".into(), explicit: None, gpus: gpus.map(str::to_owned), dynamic: false },
            queues: queues.iter().map(|it| (*it).to_owned()).collect(),
        };
        assert_eq!(workers(&like(None, &[])), ["box:0"]);
        assert_eq!(workers(&like(None, &["b", "c"])), ["box:1"]);
        assert_eq!(workers(&like(Some("0"), &["a"])), ["box:gpu0"]);
        assert_eq!(choose(&like(Some("1"), &[]), &running).1, ["a daemon with such flags"]);
    }

    #[test]
    fn a_daemon_is_described() {
        let state = tempfile::tempdir().unwrap();
        let (held, _) = running(state.path());
        let task = |task: &str, queue: Option<&str>| Running {
            task: task.into(),
            queue: queue.map(str::to_owned),
            phase: "build".into(),
        };
        let forced = vec![Forced { by: "worker".into(), on: true }, Forced { by: "c".into(), on: false }];
        let now = Now { forced, draining: true, running: vec![task("t1", Some("b")), task("t2", None)] };
        held[1].tell(now).unwrap();
        let record = Instances::open(state.path()).unwrap().running().unwrap().remove(1);
        let shown =
            describe(&record).replace(&record.process.pid.to_string(), "[PID]").replace(&record.since, "[TIME]");
        insta::assert_snapshot!(shown, @"
        box:1 (process [PID], since [TIME])
          runs in   docker, GPUs: whatever there is
          queues    b, c
          schedule  always
          forced    on by the worker's property `force`
          forced    off by queue c
          draining  takes no more tasks
          tasks     t1 (build, from b)
                    t2 (build)
        ");
    }
}
