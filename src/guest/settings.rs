//! What the image, the command line and the environment say, merged once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use serde_json::Value;

use super::GuestError;
use super::arguments::Arguments;
use crate::clearml::{Login, Server};
use crate::config::Config;
use crate::config::environment::Environment;
use crate::launch::{self, Launch, Mode};
use crate::secret::Secret;

/// Where a clearml.conf may be mounted, besides the user's home and what `CLEARML_CONFIG_FILE` names.
const CONFIGURATIONS: &[&str] =
    &["/clearml.conf", "/opt/agent/clearml.conf", "/root/clearml.conf", "/etc/clearml.conf", "/tmp/clearml.conf"];
/// How long a finished program's last lines and status wait for a server that is away.
const PATIENCE: Duration = Duration::from_secs(120);
/// Docker kills us this long after it asked us to end.
const GRACE: Duration = Duration::from_secs(10);
/// Room for lines that wait, in bytes.
const SPOOL: u64 = 64 << 20;

/// Everything a run needs to know.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) launch: Launch,
    /// The task record of the image.
    pub(super) record: Value,
    /// What the image does, after the command line and the environment had their say.
    pub(super) mode: Mode,
    /// The task's id, where there is one.
    pub(super) task: Option<String>,
    /// Where the server is; none: offline.
    pub(super) server: Option<Server>,
    /// The configuration file that was found where the SDK would not look.
    pub(super) config_file: Option<PathBuf>,
    /// Worker id.
    pub(super) worker: String,
    /// Whether an executor sets the final status.
    pub(super) executor: bool,
    pub(super) force: bool,
    pub(super) set: Vec<(String, String, String)>,
    /// Directories for the spool, best first.
    pub(super) spools: Vec<PathBuf>,
    /// Directories for the offline journal that somebody gave, best first.
    pub(super) journals: Vec<PathBuf>,
    /// Where it goes otherwise, best first: with the container it ends.
    pub(super) passing_journals: Vec<PathBuf>,
    /// How long to wait for the server at the end.
    pub(super) patience: Duration,
    /// How long what the task does before it is stopped may take.
    pub(super) abort_callback: Duration,
    /// How long we have between being asked to end and being killed.
    pub(super) grace: Duration,
    /// Room for lines that wait, and for the copy of the output, in bytes.
    pub(super) spool_bytes: u64,
    /// Variables that came in a file, which count before the container's own.
    pub(super) lent: BTreeMap<String, Secret>,
    pub(super) environment: Environment,
}

impl Settings {
    /// For a command in the environment: no task, no server.
    pub(super) fn for_command() -> Result<Self, GuestError> {
        Self::new(read_launch()?, Value::Null, Environment::current())
    }

    /// For the recorded task, or another one.
    pub(super) fn for_task(arguments: Arguments) -> Result<Self, GuestError> {
        let environment = Environment::current();
        let mut settings = Self::new(read_launch()?, read_record(), environment)?;
        if settings.launch.mode == Mode::Environment {
            return Err(GuestError::Usage("this image is an environment: name a command to run in it".to_owned()));
        }
        let another = arguments.task.or_else(|| settings.environment.get("CLEARML_TASK_ID").map(str::to_owned));
        if another.is_some() {
            // Whoever names a task means that task, not a clone of it.
            settings.mode = Mode::ReuseTask;
            settings.task = another;
        }
        settings.force |= arguments.force;
        settings.set = arguments.set;
        settings.journals.splice(0..0, arguments.journal.map(PathBuf::from));
        if !(arguments.offline || flag(&settings.environment, "AGENT_OFFLINE")) {
            settings.find_server()?;
        }
        Ok(settings)
    }

    fn new(launch: Launch, record: Value, environment: Environment) -> Result<Self, GuestError> {
        let lent = lent(&environment)?;
        let pairs = lent.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned()));
        let environment = environment.with(pairs);
        let named = |variable: &str| environment.get(variable).map(PathBuf::from);
        let passing =
            |below: &str| [launch::SPOOL, "/dev/shm", "/tmp", "/run", "/var/tmp"].map(|it| Path::new(it).join(below));
        let mounted = Some(PathBuf::from(launch::JOURNAL)).filter(|it| it.is_dir());
        let number = |variable: &str| environment.get(variable).and_then(|it| it.parse::<u64>().ok());
        let patience = number("AGENT_REPORT_TIMEOUT");
        Ok(Self {
            mode: launch.mode,
            task: launch.task.clone(),
            server: None,
            config_file: None,
            worker: worker(&environment),
            executor: flag(&environment, "AGENT_EXECUTOR"),
            force: flag(&environment, "AGENT_FORCE"),
            set: Vec::new(),
            spools: named("AGENT_SPOOL").into_iter().chain(passing("agent-spool")).collect(),
            journals: named("AGENT_JOURNAL").into_iter().chain(mounted).collect(),
            passing_journals: passing("offline").to_vec(),
            patience: patience.map_or(PATIENCE, Duration::from_secs),
            abort_callback: Duration::ZERO,
            grace: number("AGENT_STOP_GRACE").map_or(GRACE, Duration::from_secs),
            spool_bytes: number("AGENT_SPOOL_BYTES").unwrap_or(SPOOL),
            lent,
            launch,
            record,
            environment,
        })
    }

    fn find_server(&mut self) -> Result<(), GuestError> {
        let elsewhere = || CONFIGURATIONS.iter().map(PathBuf::from).find(|it| fs::File::open(it).is_ok());
        let mut config = Config::load(None, &self.environment)?;
        let named = self.environment.get("CLEARML_CONFIG_FILE").is_some();
        if !named
            && config.files.is_empty()
            && let Some(path) = elsewhere()
        {
            config = Config::load(Some(&path), &self.environment)?;
            self.config_file = Some(path);
        }
        self.abort_callback = Duration::from_secs(config.abort_callback()?);
        let api = config.api()?;
        let login = match (api.token, api.credentials) {
            (Some(token), _) => Login::Token(token),
            (None, Some(keys)) => Login::Keys(keys),
            (None, None) => return Ok(()),
        };
        let url = api.server.ok_or(GuestError::NoServer)?;
        self.server = Some(Server { api: url, web: api.web, files: api.files, login, verify: api.verify_certificate });
        Ok(())
    }

    /// Secrets of the environment that nobody gave.
    pub(super) fn missing_secrets(&self) -> Vec<&str> {
        let there = |name: &str| self.environment.raw(name).is_some_and(|it| !it.is_empty());
        self.launch.secrets.iter().map(String::as_str).filter(|it| !there(it)).collect()
    }

    /// Secret hyperparameters that no `--set` gave.
    pub(super) fn missing_parameters(&self) -> Vec<&str> {
        let set = |wanted: &str| self.set.iter().any(|(section, name, _)| format!("{section}/{name}") == wanted);
        self.launch.secret_parameters.iter().map(String::as_str).filter(|it| !set(it)).collect()
    }
}

/// The variables in the file that `AGENT_ENVIRONMENT` names.
fn lent(environment: &Environment) -> Result<BTreeMap<String, Secret>, GuestError> {
    let Some(path) = environment.get("AGENT_ENVIRONMENT") else { return Ok(BTreeMap::new()) };
    let bytes = fs::read(path).map_err(|source| GuestError::Image { path: path.to_owned(), source })?;
    let document = |why: serde_json::Error| GuestError::Document { path: path.to_owned(), why: why.to_string() };
    let texts: BTreeMap<String, String> = serde_json::from_slice(&bytes).map_err(document)?;
    Ok(texts.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
}

/// The launch document of this image.
pub(super) fn read_launch() -> Result<Launch, GuestError> {
    let path = path_of(launch::LAUNCH);
    let bytes = fs::read(&path).map_err(|source| GuestError::Image { path: path.display().to_string(), source })?;
    let document = |why: String| GuestError::Document { path: path.display().to_string(), why };
    let launch: Launch = serde_json::from_slice(&bytes).map_err(|it| document(it.to_string()))?;
    if launch.version != launch::VERSION {
        return Err(document(format!("version {} instead of {}", launch.version, launch::VERSION)));
    }
    Ok(launch)
}

/// The task record of this image; null where there is none.
pub(super) fn read_record() -> Value {
    fs::read(path_of(launch::TASK)).ok().and_then(|it| serde_json::from_slice(&it).ok()).unwrap_or_default()
}

/// Where one of our files is: `AGENT_ROOT` stands for `/opt/agent` where the image is not the root (tests, a directory
/// made from an image).
fn path_of(file: &str) -> PathBuf {
    let below = file.strip_prefix(launch::ROOT).unwrap_or(file).trim_start_matches('/');
    std::env::var_os("AGENT_ROOT").map_or_else(|| PathBuf::from(file), |root| Path::new(&root).join(below))
}

fn flag(environment: &Environment, name: &str) -> bool {
    environment.get(name).is_some_and(|it| !matches!(it.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off"))
}

fn worker(environment: &Environment) -> String {
    if let Some(id) = environment.get("CLEARML_WORKER_ID") {
        return id.to_owned();
    }
    let name = environment.get("CLEARML_WORKER_NAME").map_or_else(hostname, str::to_owned);
    format!("{name}:0")
}

/// The machine's name: a container's id, where nobody gave it another.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
