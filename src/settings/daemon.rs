//! What `agent daemon` is to do.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Session, UsageError, execution};
use crate::cli::daemon::DaemonArgs;
use crate::config::{Environment, Executor};
use crate::daemon::instances::Identity;
use crate::daemon::schedule::Schedule;
use crate::daemon::settings::{QueueChoice, Slots, StopSettings, Which};
use crate::daemon::{DaemonAsk, DaemonSettings};
use crate::error::Failure;
use crate::gpu::Ask;
use crate::process;

/// Seconds between looks at the queues, and the least that the flag may ask for.
const INTERVAL: f64 = 5.0;

/// Merges flags, environment and configuration.
///
/// # Errors
/// [`UsageError`], [`crate::config::ConfigError`]
pub fn merge(args: &DaemonArgs, session: &Session) -> Result<DaemonAsk, Failure> {
    if args.status {
        return Ok(DaemonAsk::Status(execution::state_directory(&session.environment)));
    }
    let settings = settings(args, session)?;
    if let Some(named) = &args.stop {
        let which = if named.is_empty() {
            let queues = settings.queues.iter().map(|it| it.name.clone()).collect();
            Which::Like { identity: identity(&settings), queues }
        } else {
            Which::Named(named.clone())
        };
        return Ok(DaemonAsk::Stop(StopSettings { state: settings.execution.state, which, drain: args.drain }));
    }
    let settings = Box::new(settings);
    Ok(if args.detached { DaemonAsk::Detach(settings) } else { DaemonAsk::Serve(settings) })
}

/// What the worker's id is made of.
#[must_use]
pub fn identity(settings: &DaemonSettings) -> Identity {
    Identity {
        name: settings.worker_name.clone(),
        explicit: settings.worker_id.clone(),
        gpus: match &settings.execution.gpus {
            Ask::Unsaid => None,
            Ask::None => Some("none".to_owned()),
            Ask::All => Some("all".to_owned()),
            Ask::These(names) => Some(names.join(",")),
        },
        dynamic: settings.slots == Slots::Dynamic,
    }
}

fn settings(args: &DaemonArgs, session: &Session) -> Result<DaemonSettings, Failure> {
    let config = session.config()?;
    let executor = config.executor()?;
    let mut execution = execution::merge(&args.execution, session, &config, &executor)?;
    let (interval, note) = interval(args.polling_interval, &session.environment)?;
    execution.notes.extend(note);
    let slots = slots(args)?;
    match slots {
        Slots::Services(_) => {
            if args.execution.gpus.is_some() {
                execution.notes.push("--gpus has no effect: in services mode tasks get no GPUs".to_owned());
            }
            execution.gpus = Ask::None;
        }
        Slots::Dynamic if execution.gpus == Ask::None => {
            let hint = "Name GPUs with --gpus 0-3, or leave out --dynamic-gpus.";
            return Err(UsageError::new("--dynamic-gpus has no GPUs to share", hint).into());
        }
        Slots::Dynamic if execution.gpus == Ask::Unsaid => execution.gpus = Ask::All,
        _ => {}
    }
    let queues = args.queues.iter().map(|it| queue(it, slots)).collect::<Result<Vec<_>, _>>()?;
    if slots == Slots::Dynamic && queues.is_empty() {
        let hint = "Name queues with the GPUs of each task: --queue dual=2 opportunistic=1-4.";
        return Err(UsageError::new("--dynamic-gpus needs queues", hint).into());
    }
    if let Some(twice) = queues.iter().enumerate().find(|(at, it)| queues[..*at].iter().any(|its| its.name == it.name))
    {
        return Err(UsageError::new(format!("queue `{}` is named twice", twice.1.name), "Name it once.").into());
    }
    Ok(DaemonSettings {
        queues,
        create_queues: args.create_queue,
        fair: args.order_fairness,
        interval,
        slots,
        worker_id: execution.agent.worker_id.clone(),
        worker_name: execution.agent.worker_name.clone().unwrap_or_else(host_name),
        tags: tags(args, &session.environment)?,
        schedule: schedule(args, &executor)?,
        metrics: args.metrics_listen.as_deref().map(address).transpose()?,
        ahead: args.build_ahead.unwrap_or(executor.build_ahead),
        show_console: args.foreground,
        background_log: args.background_log.clone(),
        execution,
    })
}

fn slots(args: &DaemonArgs) -> Result<Slots, UsageError> {
    match args.services_mode {
        Some(Some(0)) => Err(UsageError::new(
            "--services-mode 0 would run nothing",
            "Give the most tasks at once (--services-mode 20), or no number for any number of them.",
        )),
        Some(most) => Ok(Slots::Services(most)),
        None if args.dynamic_gpus => Ok(Slots::Dynamic),
        None => Ok(Slots::One),
    }
}

fn queue(text: &str, slots: Slots) -> Result<QueueChoice, UsageError> {
    let hint = "Write the queue's name or id; with --dynamic-gpus also its GPUs: name=2 or name=1-4.";
    if text.trim().is_empty() {
        return Err(UsageError::new("a queue's name is empty", hint));
    }
    if slots != Slots::Dynamic {
        return Ok(QueueChoice { name: text.to_owned(), gpus: None });
    }
    let Some((name, gpus)) = text.rsplit_once('=').filter(|it| !it.0.is_empty()) else {
        return Err(UsageError::new(format!("queue `{text}` does not say how many GPUs its tasks get"), hint));
    };
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|it| it.is_ascii_digit()));
    let range = match gpus.split_once('-') {
        Some((least, most)) => number(least).zip(number(most)),
        None => number(gpus).map(|it| (it, it)),
    };
    match range {
        Some((least, most)) if least <= most && most > 0 => {
            Ok(QueueChoice { name: name.to_owned(), gpus: Some((least, most)) })
        }
        _ => Err(UsageError::new(format!("`{gpus}` of queue `{name}` is no number of GPUs"), hint)),
    }
}

fn interval(flag: Option<f64>, environment: &Environment) -> Result<(Duration, Option<String>), UsageError> {
    let seconds = |value: f64| Duration::try_from_secs_f64(value).ok().filter(|it| !it.is_zero());
    if let Some(text) = environment.get("CLEARML_AGENT_QUEUE_POLL_FREQ_SEC") {
        let interval = text.parse().ok().and_then(seconds).ok_or_else(|| {
            let message = format!("CLEARML_AGENT_QUEUE_POLL_FREQ_SEC is `{text}`, not a number of seconds");
            UsageError::new(message, "Set it to a number above zero, or unset it.")
        })?;
        return Ok((interval, None));
    }
    let asked = flag.unwrap_or(INTERVAL);
    let interval = seconds(asked).ok_or_else(|| {
        UsageError::new(format!("--polling-interval {asked} is no number of seconds"), "Give a number from 5 on.")
    })?;
    if asked < INTERVAL {
        let note =
            format!("--polling-interval {asked} is below the least; queues are looked at every {INTERVAL} seconds");
        return Ok((Duration::from_secs_f64(INTERVAL), Some(note)));
    }
    Ok((interval, None))
}

fn schedule(args: &DaemonArgs, executor: &Executor) -> Result<Option<Schedule>, Failure> {
    let of = |up: &[String], down: &[String]| -> Result<Option<Schedule>, Failure> {
        match (up, down) {
            ([], []) => Ok(None),
            (up, []) => Ok(Some(Schedule::uptime(up)?)),
            ([], down) => Ok(Some(Schedule::downtime(down)?)),
            _ => Err(UsageError::new(
                "both uptime and downtime are set",
                "Keep one of agent.uptime and agent.downtime in the configuration, or give --uptime or --downtime.",
            )
            .into()),
        }
    };
    match of(&args.uptime, &args.downtime)? {
        Some(schedule) => Ok(Some(schedule)),
        None => of(&executor.uptime, &executor.downtime),
    }
}

fn tags(args: &DaemonArgs, environment: &Environment) -> Result<Vec<String>, UsageError> {
    let Some(text) = environment.get("CLEARML_WORKER_TAGS").filter(|_| args.child_report_tags.is_empty()) else {
        return Ok(args.child_report_tags.clone());
    };
    process::words(text).ok_or_else(|| {
        UsageError::new(format!("CLEARML_WORKER_TAGS `{text}` has a quote that is not closed"), "Close it.")
    })
}

/// `127.0.0.1:9095`; a port alone, with or without a colon, listens on the loopback.
fn address(text: &str) -> Result<SocketAddr, UsageError> {
    let port = text.strip_prefix(':').unwrap_or(text);
    let port = port.parse::<u16>().ok().map(|it| SocketAddr::from(([127, 0, 0, 1], it)));
    text.parse().ok().or(port).ok_or_else(|| {
        let hint = "Write an address and a port: 127.0.0.1:9095, or 0.0.0.0:9095 for other machines.";
        UsageError::new(format!("--metrics-listen `{text}` is no address"), hint)
    })
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
