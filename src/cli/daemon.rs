//! `agent daemon`.

use std::ffi::OsString;

use clap::Args;

use super::execution::ExecutionArgs;

const EXAMPLES: &str = "\
Examples:
  agent daemon --queue default                                  tasks of one queue, one at a time
  agent daemon --queue high low --docker --gpus 0 --detached    two queues by priority, in Docker, in the background
  agent daemon --services-mode --queue services --create-queue --docker --cpu-only
  agent daemon --dynamic-gpus --gpus 0-7 --queue dual=2 opportunistic=1-4
  agent daemon --queue default --uptime \"20-00 SUN\" \"00-08 MON\"
  agent daemon --status
  agent daemon --gpus 0 --stop                                  the one that was started with --gpus 0
  agent daemon --stop host:gpu0 --drain                         once its running tasks have ended

`-d` means --detached behind `daemon`, as in the original; --debug has no short form there.";

/// Options of `agent daemon`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DaemonArgs {
    /// Queues to serve, by name or id, the most important first; without any the server's default queue
    #[arg(long = "queue", visible_alias = "queues", value_name = "QUEUE", num_args = 0.., help_heading = "Queues")]
    pub queues: Vec<String>,
    /// Let queues take turns instead of emptying the first one first
    #[arg(long, help_heading = "Queues")]
    pub order_fairness: bool,
    /// Make queues that do not exist
    #[arg(long, help_heading = "Queues")]
    pub create_queue: bool,
    /// Seconds between looks at the queues, at least 5
    #[arg(long, value_name = "SECONDS", help_heading = "Queues")]
    pub polling_interval: Option<f64>,
    /// When to take tasks: "20-23 SUN,TUE", "20 FRI" (until midnight), "22-06 MON-FRI" (over midnight)
    #[arg(long, value_name = "HOURS DAYS", num_args = 1.., help_heading = "Queues")]
    pub uptime: Vec<String>,
    /// When to take none; written as --uptime is
    #[arg(long, value_name = "HOURS DAYS", num_args = 1.., help_heading = "Queues")]
    pub downtime: Vec<String>,
    /// Run many tasks at once, at most N where it is given; they get no GPUs
    #[arg(long, value_name = "N", num_args = 0..=1, conflicts_with = "dynamic_gpus", help_heading = "How many at once")]
    pub services_mode: Option<Option<usize>>,
    /// Share the GPUs among tasks: every queue says how many each of its tasks gets (queue=2, queue=1-4)
    #[arg(long, help_heading = "How many at once")]
    pub dynamic_gpus: bool,
    /// How many images are built ahead while nothing can be started (0: none)
    #[arg(long, value_name = "N", help_heading = "How many at once")]
    pub build_ahead: Option<usize>,
    /// How tasks are executed.
    #[command(flatten)]
    pub execution: ExecutionArgs,
    /// Tags that the worker reports
    #[arg(long, value_name = "TAG", num_args = 1.., help_heading = "The daemon")]
    pub child_report_tags: Vec<String>,
    /// Show the tasks' console lines, too
    #[arg(long, conflicts_with = "detached", help_heading = "The daemon")]
    pub foreground: bool,
    /// Go to the background; what is told goes to a file, whose name is printed
    #[arg(long, short = 'd', help_heading = "The daemon")]
    pub detached: bool,
    /// Answer Prometheus at this address (127.0.0.1:9095) under /metrics
    #[arg(long, value_name = "ADDRESS", help_heading = "The daemon")]
    pub metrics_listen: Option<String>,
    /// Stop daemons of this machine: those named by worker id, else the one that the other flags describe
    #[arg(long, value_name = "WORKER", num_args = 0.., help_heading = "Running daemons")]
    pub stop: Option<Vec<String>>,
    /// With --stop: take no more tasks, and end when those that run have ended
    #[arg(long, requires = "stop", help_heading = "Running daemons")]
    pub drain: bool,
    /// Show this machine's daemons: schedule, queues, running tasks
    #[arg(long, conflicts_with = "stop", help_heading = "Running daemons")]
    pub status: bool,
    /// The log of a daemon in the background: this process is it.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) background_log: Option<std::path::PathBuf>,
}

/// Short flags without a value, which may stand in one word with `-d`.
const SHORT: &str = "dOq";

/// Reads `-d` behind `daemon` as the original does: detached, in `-dO` too. Everywhere else it is `--debug`.
pub(crate) fn detached(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if super::task::verb(&arguments).is_none_or(|it| it != "daemon") {
        return arguments;
    }
    let verb = arguments.iter().position(|it| it == "daemon").unwrap_or_default();
    let behind = arguments.split_off(verb);
    for word in behind {
        let flags =
            word.to_str().and_then(|it| it.strip_prefix('-')).filter(|it| it.chars().all(|it| SHORT.contains(it)));
        match flags.filter(|it| it.contains('d')).map(|it| it.replace('d', "")) {
            Some(others) => {
                arguments.push(OsString::from("--detached"));
                arguments.extend((!others.is_empty()).then(|| OsString::from(format!("-{others}"))));
            }
            None => arguments.push(word),
        }
    }
    arguments
}

#[cfg(test)]
pub(crate) fn parsed(arguments: &[&str]) -> Result<DaemonArgs, String> {
    let words = ["agent", "daemon"].iter().chain(arguments).map(OsString::from);
    match super::parse(words).map_err(|it| it.to_string())?.command {
        super::Command::Daemon(args) => Ok(*args),
        other => Err(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_d_is_detached_behind_the_verb_only() {
        let words = |line: &str| -> String {
            let words = detached(line.split(' ').map(OsString::from).collect());
            words.iter().map(|it| it.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words("agent -d daemon -d"), "agent -d daemon --detached");
        assert_eq!(words("agent daemon -dO --queue d"), "agent daemon --detached -O --queue d");
        assert_eq!(words("agent daemon -Od - -O"), "agent daemon --detached -O - -O");
        assert_eq!(words("agent execute --id daemon -d"), "agent execute --id daemon -d");
    }

    #[test]
    fn the_help_says_what_the_short_d_is() {
        let help = super::super::parse(["agent", "daemon", "--help"].map(OsString::from)).unwrap_err().to_string();
        assert!(help.contains("-d, --detached") && help.contains("--debug") && !help.contains("-d, --debug"), "{help}");
        let line = |words: &[&str]| super::super::parse(words.iter().map(OsString::from)).unwrap();
        for words in [&["agent", "-d", "daemon"][..], &["agent", "daemon", "--debug"], &["agent", "list", "-d"]] {
            assert!(line(words).global.debug, "{words:?}");
        }
        assert!(!line(&["agent", "daemon", "-d"]).global.debug && parsed(&["-d"]).unwrap().detached);
    }
}
