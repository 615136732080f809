//! The process environment as the program reads it, and the list of every variable that has a meaning.

use std::collections::BTreeMap;

/// A snapshot of environment variables. Variables that are not UTF-8 are left out.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process; `HOME`, which services often lack, as `/etc/passwd` says it.
    #[must_use]
    pub fn current() -> Self {
        let pairs = std::env::vars_os();
        let mut all: BTreeMap<String, String> =
            pairs.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        if all.get("HOME").is_none_or(String::is_empty)
            && let Some(home) = crate::fs::home().and_then(|it| it.into_os_string().into_string().ok())
        {
            all.insert("HOME".to_owned(), home);
        }
        Self(all)
    }

    /// A made-up environment.
    #[must_use]
    pub fn of<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A variable as it is, empty or not.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A variable that is set to something; for `CLEARML_X` the older `TRAINS_X` counts where only that is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let filled = |name: &str| self.raw(name).map(str::trim).filter(|it| !it.is_empty());
        filled(name).or_else(|| filled(&format!("TRAINS_{}", name.strip_prefix("CLEARML_")?)))
    }

    /// The same with more variables, which count instead of those that are there.
    #[must_use]
    pub fn with(mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        self.0.extend(pairs);
        self
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// An environment variable that has a meaning for the program.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The configuration key it overrides, if it is one of those.
    pub key: Option<&'static str>,
    /// What it does, one sentence.
    pub effect: &'static str,
}

const fn sets(name: &'static str, key: &'static str, effect: &'static str) -> Variable {
    Variable { name, key: Some(key), effect }
}

const fn read(name: &'static str, effect: &'static str) -> Variable {
    Variable { name, key: None, effect }
}

/// Every variable; `docs/environment.md` is made from this list.
pub const VARIABLES: &[Variable] = &[
    sets("CLEARML_API_HOST", "api.api_server", "Address of the API server."),
    sets("CLEARML_WEB_HOST", "api.web_server", "Address of the web application, for links."),
    sets("CLEARML_FILES_HOST", "api.files_server", "Address of the file server."),
    sets("CLEARML_API_ACCESS_KEY", "api.credentials.access_key", "Access key of the API credentials."),
    sets("CLEARML_API_SECRET_KEY", "api.credentials.secret_key", "Secret key of the API credentials."),
    sets(
        "CLEARML_API_HOST_VERIFY_CERT",
        "api.verify_certificate",
        "Whether the server's certificate is verified (`0` switches it off).",
    ),
    read("CLEARML_AUTH_TOKEN", "Bearer token used instead of access and secret key."),
    sets("CLEARML_WORKER_ID", "agent.worker_id", "Identity of this worker."),
    sets("CLEARML_WORKER_NAME", "agent.worker_name", "First part of a worker's identity; the host's name by default."),
    read("CLEARML_WORKER_TAGS", "Tags that the worker reports, where `--child-report-tags` gives none."),
    read(
        "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC",
        "Seconds between looks at the queues, before `--polling-interval`; may be below 5.",
    ),
    read(
        "NVIDIA_VISIBLE_DEVICES",
        "The GPUs tasks may use, where neither `--gpus` nor `--cpu-only` is given; likewise `CUDA_VISIBLE_DEVICES`.",
    ),
    read("CUDA_VISIBLE_DEVICES", "As `NVIDIA_VISIBLE_DEVICES`, which is asked first."),
    sets("CLEARML_AGENT_GIT_USER", "agent.git_user", "User name for git over HTTPS."),
    sets("CLEARML_AGENT_GIT_PASS", "agent.git_pass", "Password or token for git over HTTPS."),
    sets("CLEARML_AGENT_GIT_HOST", "agent.git_host", "The only host that git credentials are sent to."),
    sets("CLEARML_AGENT_GIT_USE_MS_ENTRA_TOKEN", "agent.git_use_ms_entra_token", "Git passwords are bearer tokens."),
    sets("CLEARML_AGENT_GIT_USE_AZURE_PAT", "agent.git_use_azure_pat", "Git passwords go with the first request."),
    sets(
        "CLEARML_AGENT_SSH_URL_REPLACEMENT_SCHEME",
        "agent.translate_ssl_replacement_scheme",
        "What ssh addresses of repositories become where credentials are known: `https` or `http`.",
    ),
    sets("CLEARML_CUDA_VERSION", "agent.cuda_version", "CUDA version, overriding detection."),
    sets("CLEARML_CUDNN_VERSION", "agent.cudnn_version", "cuDNN version, overriding detection."),
    read("CLEARML_CONFIG_FILE", "The configuration file; `~/clearml.conf` is not read then."),
    read("CLEARML_CONFIG_PATH", "A directory of configuration files, one per section, below all others."),
    read(
        "CLEARML_AGENT__…",
        "Overrides any key: the rest of the name in lower case with `__` for dots, the value in HOCON \
         (`CLEARML_AGENT__AGENT__GIT_USER=ada`).",
    ),
    read("CLEARML_DOCKER_IMAGE", "Base image of tasks that name none; before `agent.default_docker.image`."),
    read(
        "CLEARML_AGENT_EXTRA_DOCKER_ARGS",
        "The agent's own container arguments, in place of `agent.extra_docker_arguments`; words as a shell has them.",
    ),
    read("CLEARML_AGENT_EXTRA_DOCKER_LABELS", "Labels of every container, words `name=value`."),
    read(
        "CLEARML_AGENT_DOCKER_ARGS_FILTERS",
        "What a task's container arguments may be, in place of `agent.docker_args_filters`: regular expressions, as words.",
    ),
    read(
        "CLEARML_DOCKER_SKIP_GPUS_FLAG",
        "Set: an engine is not asked for GPUs, and `NVIDIA_VISIBLE_DEVICES` alone says which a run sees.",
    ),
    read(
        "CLEARML_AGENT_K8S_HOST_MOUNT",
        "`node path:own path` of the directory that an agent in a container shares with its engine's machine; also \
         `CLEARML_AGENT_DOCKER_HOST_MOUNT`.",
    ),
    read("CLEARML_AGENT_DISABLE_SSH_MOUNT", "Set: runs are not lent `~/.ssh`, as with `agent.disable_ssh_mount`."),
    read("SSH_AUTH_SOCK", "An ssh agent's socket, which runs are lent in place of `~/.ssh`."),
    read(
        "CLEARML_AGENT_FORCE_HOST_MACHINE_IP",
        "The address that tasks with published ports are told (`CLEARML_AGENT_HOST_IP`); found out by default.",
    ),
    read("CLEARML_AGENT_FORCE_TASK_INIT", "A script that does not call `Task.init` is made to."),
    read("CLEARML_AGENT_FORCE_UV", "`uv.lock` of the repository counts, as with `agent.package_manager.type: uv`."),
    read(
        "CLEARML_AGENT_FORCE_POETRY",
        "`poetry.lock` of the repository counts, as with `agent.package_manager.type: poetry`.",
    ),
    read("CLEARML_TASK_ID", "In an image: the task that runs instead of the recorded one."),
    read("AGENT_EXECUTOR", "In an image: `1` says that an executor sets the task's final status."),
    read(
        "AGENT_SPOOL",
        "In an image: the directory where console lines wait for the server; below `/opt/agent/spool` by default.",
    ),
    read(
        "AGENT_SPOOL_BYTES",
        "In an image: room for console lines that wait, and for the copy of the output beside them.",
    ),
    read(
        "AGENT_ENVIRONMENT",
        "In an image: a file with more variables, as a JSON object; for values that an engine should not tell.",
    ),
    read(
        "AGENT_STOP_GRACE",
        "In an image: seconds between TERM and KILL of the container (10); the program gets four less.",
    ),
    read(
        "AGENT_JOURNAL",
        "In an image: where an offline run keeps what the SDK writes; by default what is mounted at \
         `/opt/agent/journal`, else `/opt/agent/spool/offline`.",
    ),
    read("AGENT_JOURNAL_SHOWN", "In an image: what `/opt/agent/journal` is called outside, for messages."),
    read("AGENT_OFFLINE", "In an image: `1` runs without a server, whatever credentials there are."),
    read("AGENT_FORCE", "In an image: `1` runs the task although another worker does."),
    read(
        "AGENT_REPORT_TIMEOUT",
        "In an image: for how many seconds the last lines and the status wait for a server that is away (120).",
    ),
    read("SOURCE_DATE_EPOCH", "Seconds since 1970 for an image's `created`; the commit's time by default."),
    read("SSL_CERT_FILE", "Certificates (PEM) trusted besides the system's."),
    read("HTTPS_PROXY", "Proxy for HTTPS; likewise `HTTP_PROXY`, and `NO_PROXY` for hosts reached directly."),
    read("DOCKER_HOST", "Address of the Docker engine."),
    read("CONTAINER_HOST", "Address of the Podman service."),
    read("DOCKER_CONFIG", "Directory of Docker's `config.json` with registry credentials; `~/.docker` by default."),
    read("REGISTRY_AUTH_FILE", "File with registry credentials, as Podman and skopeo use it."),
    read("PIP_INDEX_URL", "The Python index; likewise pip's `PIP_EXTRA_INDEX_URL`, `PIP_FIND_LINKS` and `PIP_CERT`."),
    read("UV_INDEX", "Further Python indexes, as uv reads them; likewise uv's other `UV_INDEX…` variables."),
    read("UV_FIND_LINKS", "Directories and pages with wheels, as uv reads it."),
    read(
        "AGENT_STANDALONE",
        "Yes or no; `1`: builds fetch nothing, neither packages nor code nor images; the server is asked. For builds of \
         executors, `--standalone-mode` sets it.",
    ),
    read("AGENT_CACHE_DIR", "Where the store lies; `agent` in `XDG_CACHE_HOME` or in `~/.cache` by default."),
    read(
        "AGENT_STATE_DIR",
        "Where runs and daemons are recorded; `agent` in `XDG_STATE_HOME` or in `~/.local/state` by default.",
    ),
    read("XDG_STATE_HOME", "Below it, in `agent`, are the records of runs and daemons; `~/.local/state` by default."),
    read(
        "XDG_DATA_HOME",
        "Below it, in `agent`, are the quick start's server and sample, and what offline runs keep; `~/.local/share` by default.",
    ),
    read(
        "AGENT_SANDBOX",
        "The only way steps of a build may run: `root`, `mapped`, `single` or `docker`; the best that works by default.",
    ),
    read(
        "AGENT_CDI_DIRS",
        "Directories with CDI specifications of devices, the most important last, separated by colons; `/etc/cdi` and \
         `/var/run/cdi` by default.",
    ),
    read(
        "AGENT_DRIVER_ROOT",
        "Where the NVIDIA driver is installed when not in `/`: a driver container's root, `/run/nvidia/driver`.",
    ),
    read("XDG_RUNTIME_DIR", "Where a rootless Podman service and its credentials are looked for."),
    read("NOTIFY_SOCKET", "Where a service manager hears that a daemon serves, stops and lives (`sd_notify`)."),
    read("WATCHDOG_USEC", "How often a service manager wants to hear that a daemon lives, in microseconds."),
    read("WATCHDOG_PID", "The process that the service manager means by that, where it says so."),
    read("NO_COLOR", "Switches colours off when set to anything."),
    read("CLICOLOR_FORCE", "Switches colours on, terminal or not, when set to anything but `0`."),
];

/// The page that explains every variable.
#[must_use]
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Environment variables\n\n\
         Made from the list in `src/config/environment.rs`; `ci/check` tells when it is not current.\n\n\
         Every `CLEARML_…` variable has an older twin `TRAINS_…` that counts where only that is set.\n\
         A variable beats the configuration file; a flag of the command line beats both.\n\n\
         | Variable | Configuration key | Meaning |\n|---|---|---|\n",
    );
    for variable in VARIABLES {
        let key = variable.key.map(|it| format!("`{it}`")).unwrap_or_default();
        page.push_str(&format!("| `{}` | {key} | {} |\n", variable.name, variable.effect));
    }
    page
}
