//! Which task, and what decides how it is pinned.

use std::io::Read as _;
use std::path::PathBuf;

use super::{Session, UsageError};
use crate::cli::task::{EntryPoint, TaskArgs};
use crate::config::{Agent, Api, Config, Environment};
use crate::error::Failure;
use crate::gpu::Ask;
use crate::launch::Mode;
use crate::oci::Platform;
use crate::process;
pub use crate::run::choice::{BaseChoice, ImageChoice};

/// The original's `agent.default_docker.image`, used when neither task, flags, environment nor configuration name one.
const DEFAULT_IMAGE: &str = "nvidia/cuda:12.6.3-cudnn-runtime-ubuntu20.04";

/// Where the task comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskSource {
    /// The server, by id or name.
    Server(String),
    /// A task file.
    File(PathBuf),
    /// A lock: nothing is asked and nothing resolved.
    Lock(PathBuf),
}

/// Which task, and what decides how it is pinned.
#[derive(Debug, Clone)]
pub struct TaskSettings {
    /// Where the task comes from.
    pub source: TaskSource,
    /// A local checkout that has the task's commit.
    pub repository: Option<PathBuf>,
    /// What the image does without a command.
    pub mode: Mode,
    /// Which base image.
    pub base: BaseChoice,
    /// `X.Y` or `X.Y.Z`, whatever the task records.
    pub python: Option<String>,
    /// System packages: the configuration's and the command line's, in this order.
    pub apt: Vec<String>,
    /// The image's platform; absent: this machine's.
    pub platform: Option<Platform>,
    /// The GPUs it is to run with on this machine; absent: it is for any machine.
    pub gpus: Option<Ask>,
    /// Whether the image carries bytecode.
    pub bytecode: bool,
    /// Whether the base's own distributions stay out of the environment.
    pub isolated: bool,
    /// Whether everything is resolved anew.
    pub refresh: bool,
    /// Whether nothing that moves may be asked for.
    pub locked: bool,
    /// Registries spoken to without TLS or with any certificate.
    pub insecure_registries: Vec<String>,
    /// `SOURCE_DATE_EPOCH`.
    pub created: Option<i64>,
    /// The server.
    pub api: Api,
    /// The configuration's `agent` section.
    pub agent: Agent,
    /// Flags without effect, for people.
    pub notes: Vec<String>,
}

impl TaskSettings {
    /// Merges flags, environment and configuration. `lock` is the lock file that takes the task's place.
    ///
    /// # Errors
    /// [`UsageError`], [`crate::config::ConfigError`]
    pub fn merge(args: &TaskArgs, lock: Option<PathBuf>, session: &Session) -> Result<Self, Failure> {
        let config = session.config()?;
        let mut agent = config.agent()?;
        super::git::credentials(args.git.user.as_deref(), args.git.password.as_deref(), &config, &mut agent)?;
        let source = source(args, lock)?;
        let mut notes = notes(args);
        if matches!(source, TaskSource::Lock(_)) {
            notes.extend(decided_by_the_lock(args));
        }
        let mut apt = agent.apt_packages.clone();
        apt.extend(args.apt.iter().cloned());
        Ok(Self {
            source,
            repository: args.repository.clone(),
            mode: match args.entry_point {
                Some(EntryPoint::ReuseTask) => Mode::ReuseTask,
                Some(EntryPoint::CloneTask) => Mode::CloneTask,
                None => Mode::Environment,
            },
            base: base(args, &agent, session)?,
            python: args.python_version.as_deref().map(python).transpose()?,
            apt: apt.into_iter().map(package).collect::<Result<_, _>>()?,
            platform: args.platform.as_deref().map(platform).transpose()?,
            gpus: match &args.gpus {
                // Of another platform it is for another machine.
                _ if args.cpu_only => args.platform.is_none().then_some(Ask::None),
                Some(list) => Some(list.parse()?),
                None => None,
            },
            bytecode: !args.no_bytecode,
            isolated: args.isolated,
            refresh: args.refresh,
            locked: args.locked,
            insecure_registries: args.insecure_registries.clone(),
            created: created(session)?,
            api: Config::api(&config)?,
            agent,
            notes,
        })
    }
}

impl TaskSettings {
    /// Settings to build again what an image's own lock pins: nothing of a task is asked.
    ///
    /// # Errors
    /// [`crate::config::ConfigError`]
    pub fn of_image(
        repository: Option<PathBuf>,
        insecure_registries: Vec<String>,
        session: &Session,
    ) -> Result<Self, Failure> {
        let config = session.config()?;
        let agent = config.agent()?;
        let image = ImageChoice { image: DEFAULT_IMAGE.to_owned(), arguments: None, of_task: false };
        Ok(Self {
            source: TaskSource::Lock(PathBuf::new()),
            repository,
            mode: Mode::Environment,
            base: BaseChoice { fallback: image, force: false, given: false, meant: false },
            python: None,
            apt: Vec::new(),
            platform: None,
            gpus: None,
            bytecode: true,
            isolated: false,
            refresh: false,
            locked: true,
            insecure_registries,
            created: None,
            api: Config::api(&config)?,
            agent,
            notes: Vec::new(),
        })
    }
}

fn source(args: &TaskArgs, lock: Option<PathBuf>) -> Result<TaskSource, UsageError> {
    match (&args.id, &args.task_file, lock) {
        (Some(id), ..) if id.trim().is_empty() => Err(UsageError::new("--id is empty", "Give the task's id or name.")),
        (Some(id), ..) => Ok(TaskSource::Server(id.clone())),
        (None, Some(file), _) => Ok(TaskSource::File(file.clone())),
        (None, None, Some(lock)) => Ok(TaskSource::Lock(lock)),
        (None, None, None) => Err(UsageError::new(
            "no task is named",
            "Name it with --id (on the server), --task (a JSON file) or --lock (a lock).",
        )),
    }
}

/// The base image of tasks that name none, by `--docker` and what counts after it. `-` stands for standard input,
/// where a worker writes what it was given itself: no argument of it is for the image, or for others to see.
fn base(args: &TaskArgs, agent: &Agent, session: &Session) -> Result<BaseChoice, Failure> {
    let force = args.force_docker || agent.ignore_task_container;
    if args.docker.as_deref() != Some("-") {
        return Ok(choice(args.docker.as_deref(), "--docker", force, (agent, &session.environment))?);
    }
    let mut told = String::new();
    std::io::stdin().read_to_string(&mut told)?;
    let chosen = choice(Some(&told), "--docker", force, (agent, &session.environment))?;
    Ok(BaseChoice { meant: false, ..chosen })
}

/// The same for a flag's value `image args`.
pub(super) fn choice(
    value: Option<&str>,
    flag: &str,
    force: bool,
    (agent, environment): (&Agent, &Environment),
) -> Result<BaseChoice, UsageError> {
    let words = match value {
        Some(text) => process::words(text).ok_or_else(|| {
            UsageError::new(
                format!("{flag} `{text}` has a quote that is not closed"),
                format!("Write {flag} \"image args\"."),
            )
        })?,
        None => Vec::new(),
    };
    let mut words = words.into_iter().peekable();
    let image = words.next_if(|it| !it.starts_with('-'));
    let (named, given): (bool, Vec<String>) = (image.is_some(), words.collect());
    let meant = !given.is_empty();
    let text = |words: &[String]| (!words.is_empty()).then(|| process::command_line(words));
    let fallback = match (image, environment.get("CLEARML_DOCKER_IMAGE")) {
        (Some(image), _) => ImageChoice { image, arguments: text(&given), of_task: false },
        (None, Some(variable)) => {
            let mut parts = variable.splitn(2, char::is_whitespace);
            let image = parts.next().unwrap_or(variable).to_owned();
            let rest = parts.next().map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
            ImageChoice { image, arguments: text(&given).or(rest), of_task: false }
        }
        (None, None) => ImageChoice {
            image: agent.default_image.clone().unwrap_or_else(|| DEFAULT_IMAGE.to_owned()),
            arguments: text(&given).or_else(|| text(&agent.default_arguments)),
            of_task: false,
        },
    };
    Ok(BaseChoice { fallback, force, given: named, meant })
}

fn python(text: &str) -> Result<String, UsageError> {
    let version = text.trim().trim_start_matches("python");
    let parts: Vec<&str> = version.split('.').collect();
    let numbers = parts.iter().all(|it| !it.is_empty() && it.len() <= 3 && it.bytes().all(|it| it.is_ascii_digit()));
    if !numbers || !(2..=3).contains(&parts.len()) || parts[0] != "3" {
        return Err(UsageError::new(
            format!("--python-version `{text}` is no Python version"),
            "Write 3.11 or 3.11.4.",
        ));
    }
    Ok(version.to_owned())
}

/// A package name goes to apt as a word of its own; anything that is no name must not reach it.
fn package(name: String) -> Result<String, UsageError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.:=~*".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) {
        return Ok(name);
    }
    Err(UsageError::new(
        format!("`{name}` is no system package"),
        "Write names as apt knows them, each a word of its own: --apt libgomp1 git.",
    ))
}

fn platform(text: &str) -> Result<Platform, UsageError> {
    let mut parts = text.split('/');
    let (Some(os), Some(architecture), variant, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(UsageError::new(format!("`{text}` is no platform"), "Write linux/amd64 or linux/arm64."));
    };
    if os != "linux" || architecture.is_empty() || variant == Some("") {
        return Err(UsageError::new(format!("platform `{text}` cannot be built"), "Write linux/amd64 or linux/arm64."));
    }
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Ok(Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) })
}

fn created(session: &Session) -> Result<Option<i64>, UsageError> {
    let Some(text) = session.environment.get("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let error = || {
        UsageError::new(
            format!("SOURCE_DATE_EPOCH is `{text}`, not a number of seconds"),
            "Set it to seconds since 1970, or unset it.",
        )
    };
    let seconds: i64 = text.parse().map_err(|_| error())?;
    // The last second of the year 9999, the last that RFC 3339 can write.
    if (0..=253_402_300_799).contains(&seconds) { Ok(Some(seconds)) } else { Err(error()) }
}

fn notes(args: &TaskArgs) -> Vec<String> {
    let flags = [
        (args.install_globally, "--install-globally", "an image has one environment"),
        (args.log_level.is_some(), "--log-level", "use --debug"),
        (args.optimize > 0, "-O", "put it into the task's entry point"),
    ];
    flags.iter().filter(|it| it.0).map(|(_, flag, why)| format!("{flag} has no effect: {why}")).collect()
}

/// Flags that a lock has the answer to: told, so that nobody thinks that they count.
fn decided_by_the_lock(args: &TaskArgs) -> impl Iterator<Item = String> {
    let flags = [
        (args.entry_point.is_some(), "--entry-point"),
        (args.python_version.is_some(), "--python-version"),
        (!args.apt.is_empty(), "--apt"),
        (args.no_bytecode, "--no-bytecode"),
        (args.isolated, "--isolated"),
        (args.refresh, "--refresh"),
        (args.force_docker, "--force-docker"),
    ];
    let given = flags.into_iter().filter(|it| it.0);
    given.map(|(_, flag)| format!("{flag} has no effect beside --lock: the lock decides; give it to `agent lock`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Container;

    fn settings(args: &[&str], environment: Environment) -> Result<TaskSettings, String> {
        let args = crate::cli::build::parsed(args)?;
        let session = Session { environment, config_file: None };
        TaskSettings::merge(&args.task, args.lock, &session).map_err(|it| it.to_string())
    }

    fn base_of(
        args: &[&str],
        environment: Environment,
        task: (Option<&str>, Option<&str>),
    ) -> (String, Option<String>) {
        let args: Vec<&str> = ["--id", "x"].iter().chain(args).copied().collect();
        let own = |it: Option<&str>| it.map(str::to_owned);
        let container = Container { image: own(task.0), arguments: own(task.1), setup_script: None };
        let choice = settings(&args, environment).unwrap().base.choose(&container);
        (choice.image, choice.arguments)
    }

    #[test]
    fn which_image_counts() {
        let none = Environment::default;
        let variable = || Environment::of([("CLEARML_DOCKER_IMAGE", "var:1 --ipc=host")]);
        let configured = || Environment::of([("CLEARML_AGENT__AGENT__DEFAULT_DOCKER__IMAGE", "conf:1")]);
        let own = (Some("task:1"), Some("-e A=1"));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(base_of(&["--docker", "cli:1"], variable(), own), ("task:1".into(), some("-e A=1")));
        assert_eq!(base_of(&["--docker", "cli:1", "--force-docker"], variable(), own), ("cli:1".into(), None));
        assert_eq!(
            base_of(&["--docker", "cli:1", "--ipc=host -e B=2"], none(), (None, None)),
            ("cli:1".into(), some("--ipc=host -e B=2"))
        );
        assert_eq!(
            base_of(&["--docker", "cli:1 --ipc=host", "--locked"], none(), (None, None)),
            ("cli:1".into(), some("--ipc=host"))
        );
        assert_eq!(base_of(&["--docker"], variable(), (None, None)), ("var:1".into(), some("--ipc=host")));
        assert_eq!(base_of(&[], configured(), (None, Some("-e C=3"))), ("conf:1".into(), some("-e C=3")));
        assert_eq!(base_of(&[], none(), (None, None)), (DEFAULT_IMAGE.into(), None));
        assert_eq!(base_of(&["--force-docker"], configured(), own), ("conf:1".into(), None));
    }

    #[test]
    fn what_means_nothing_is_told() {
        let message = |args: &[&str]| settings(args, Environment::default()).unwrap_err();
        assert_eq!(message(&[]), "no task is named");
        assert_eq!(message(&["--id", " "]), "--id is empty");
        assert_eq!(message(&["--id", "x", "--python-version", "2.7"]), "--python-version `2.7` is no Python version");
        assert_eq!(message(&["--id", "x", "--apt", "a/b"]), "`a/b` is no system package");
        assert_eq!(message(&["--id", "x", "--apt", "a;b"]), "`a;b` is no system package");
        assert_eq!(message(&["--id", "x", "--platform", "windows/amd64"]), "platform `windows/amd64` cannot be built");
        let bad = settings(&["--id", "x"], Environment::of([("SOURCE_DATE_EPOCH", "now")])).unwrap_err();
        assert_eq!(bad, "SOURCE_DATE_EPOCH is `now`, not a number of seconds");
    }

    #[test]
    fn what_a_lock_decides_is_noted() {
        let given = ["--lock", "agent.lock", "--no-bytecode", "--apt", "git"];
        let notes = settings(&given, Environment::default()).unwrap().notes;
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].starts_with("--apt has no effect beside --lock"), "{notes:?}");
        assert!(settings(&["--id", "x", "--no-bytecode"], Environment::default()).unwrap().notes.is_empty());
    }

    #[test]
    fn spellings_without_meaning_are_noted() {
        let notes = settings(&["--id", "x", "--install-globally", "-O"], Environment::default()).unwrap().notes;
        assert_eq!(notes.len(), 2, "{notes:?}");
        let gpus = |args: &[&str]| settings(args, Environment::default()).map(|it| it.gpus);
        assert_eq!(gpus(&["--id", "x"]), Ok(None));
        assert_eq!(gpus(&["--id", "x", "--cpu-only"]), Ok(Some(Ask::None)));
        assert_eq!(gpus(&["--id", "x", "--gpus", "all"]), Ok(Some(Ask::All)));
        assert!(gpus(&["--id", "x", "--gpus", "0", "--cpu-only"]).unwrap_err().contains("cannot be used with"));
    }
}
