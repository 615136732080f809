//! From settings to what the pipeline works with: the task, the workshop, the wishes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;

use super::around::around;
use super::preflight::Here;
use super::{Context, blocking};
use crate::clearml::{self, Client, Login, Server, artifacts, tasks};
use crate::config::{Agent, Api, Environment};
use crate::daemon::preflight::is_off;
use crate::digest::Digest;
use crate::error::{During, Explain, Failure, Kind};
use crate::git::{Access, HostCredentials, Repositories, Scheme, SshRules};
use crate::http::Retry;
use crate::launch;
use crate::lock::Lock;
use crate::lock::requirements::Manager;
use crate::oci::Platform;
use crate::pipeline::{self, Wishes, Workshop};
use crate::python::indexes::Indexes;
use crate::run::choice::Counted;
use crate::run::{policy, variables};
use crate::sandbox::lend;
use crate::secret::{Credentials, Secret, is_secret_name, is_secret_parameter, split_userinfo};
use crate::settings::{TaskSettings, TaskSource};
use crate::task::{Task, clearml as wire, file};

/// The largest diff that is fetched from an artifact, in bytes.
const LARGEST_DIFF: u64 = 256 << 20;

/// Shorter user names without a password are names and no tokens.
const TOKEN: usize = 20;

/// Stops what cannot be dropped (a fetch by git) when the command is.
pub(super) struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The task, where one was asked for, and what to ask its server with.
pub(super) struct Asked {
    pub(super) task: Task,
    answer: Option<(Client, Value)>,
}

impl Asked {
    /// The server's task, to be changed; none of a task from elsewhere.
    pub(super) fn on_server(&self) -> Option<(Client, Value)> {
        self.answer.clone()
    }
}

/// Makes what the pipeline works with. The guard stops it.
pub(super) async fn workshop(settings: &TaskSettings, context: &Context) -> Result<(Workshop, StopOnDrop), Failure> {
    let around = around(context, &settings.insecure_registries).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let access = Access {
        credentials: git_credentials(&settings.agent),
        ssh: SshRules {
            force: settings.agent.force_git_ssh,
            host: settings.agent.git_host.clone(),
            port: settings.agent.git_ssh_port,
            user: settings.agent.git_ssh_user.clone(),
            translate: settings.agent.translate_ssh,
            plain_http: settings.agent.translate_ssh_to_http,
        },
        interrupt: Arc::clone(&stop),
        reporter: context.ui.reporter(),
        ..Access::default()
    };
    let root = around.store.directory("git");
    let repositories = blocking(move || Ok(Repositories::open(&root, access)?)).await?;
    let environment = context.session.environment.clone();
    let mut indexes = Indexes::of_machine(&|name| environment.raw(name).map(str::to_owned));
    indexes.add_settings(&settings.agent.extra_index_urls);
    let max_age = match (settings.refresh, settings.locked) {
        (true, _) => Duration::ZERO,
        (_, true) => Duration::MAX,
        _ => Duration::from_secs(settings.agent.lock_max_age),
    };
    let shop = Workshop {
        around,
        runtime: Handle::current(),
        repositories,
        directory: settings.repository.clone(),
        base: settings.base.given.then(|| settings.base.fallback.image.parse()).transpose()?,
        indexes,
        max_age,
        locked: settings.locked,
        guest: Cow::Borrowed(launch::guest_binary()),
    };
    Ok((shop, StopOnDrop(stop)))
}

fn git_credentials(agent: &Agent) -> Vec<HostCredentials> {
    let scheme = match (agent.git_bearer, agent.git_azure_pat) {
        (true, _) => Scheme::Bearer,
        (_, true) => Scheme::BasicAtOnce,
        _ => Scheme::Basic,
    };
    let known = agent.git_credentials.iter().map(|it| HostCredentials {
        host: it.host.clone(),
        prefix: agent.git_host_prefix,
        credentials: it.credentials.clone(),
        scheme,
    });
    known.collect()
}

/// Reads the task from wherever it is.
pub(super) async fn task(settings: &TaskSettings, context: &Context) -> Result<Asked, Failure> {
    match &settings.source {
        TaskSource::Server(name) => {
            let Some(_) = &settings.api.server else { return Err(NoServer { file: true }.into()) };
            let client = client(&settings.api, context)?;
            let answer = tasks::find(&client, name).await?;
            let task = wire::parse(&answer).during(|| format!("cannot read task `{name}`"))?;
            Ok(Asked { task, answer: Some((client, answer)) })
        }
        TaskSource::File(path) | TaskSource::Lock(path) => {
            let path = path.clone();
            Ok(Asked { task: blocking(move || Ok(file::read(&path)?)).await?, answer: None })
        }
    }
}

/// A client for the configured server.
pub(super) fn client(api: &Api, context: &Context) -> Result<Client, Failure> {
    let Some(server) = &api.server else { return Err(NoServer { file: false }.into()) };
    let login = match (&api.token, &api.credentials) {
        (Some(token), _) => Login::Token(token.clone()),
        (None, Some(keys)) => Login::Keys(keys.clone()),
        (None, None) => return Err(NoCredentials { server: server.to_string() }.into()),
    };
    let server = Server {
        api: server.clone(),
        web: api.web.clone(),
        files: api.files.clone(),
        login,
        verify: api.verify_certificate,
    };
    let worker = context.session.environment.get("CLEARML_WORKER_NAME").unwrap_or("agent").to_owned();
    Ok(Client::new(server, worker, Retry::default())?)
}

/// A task that is pinned.
pub(super) struct Pinned {
    pub(super) lock: Lock,
    /// The container arguments that its image carries.
    pub(super) arguments: Option<String>,
    /// Whether the container's variables switch the check of the driver off.
    pub(super) unchecked: bool,
}

/// Pins the task.
pub(super) async fn lock(
    shop: Arc<Workshop>,
    asked: Asked,
    settings: &TaskSettings,
    context: &Context,
) -> Result<Pinned, Failure> {
    let agent = &settings.agent;
    let Asked { task, answer } = asked;
    let client = answer.as_ref().map(|it| &it.0);
    let counted = settings.base.count(&agent.container.match_rules, task, client).await?;
    // Who hands a file to this program may name any in it.
    if answer.is_some() {
        counted.names_nothing_local()?;
    }
    let Counted { task, choice, carried, forced, .. } = counted;
    let base = choice.image.parse()?;
    let policy = policy::of_configuration(agent, &context.session.environment)?;
    let force_task_init = context.session.environment.get("CLEARML_AGENT_FORCE_TASK_INIT").is_some_and(|it| it != "0");
    let (settings, opencv) = (settings.clone(), agent.install_opencv_libraries);
    let manager = manager(agent, &context.session.environment);
    // What `${NAME}` in requirements stands for too: the variables of the container that the original would install in.
    let variables = variables(choice.arguments.as_deref(), agent, &context.session.environment);
    let (unchecked, for_task) = (is_off(&variables), carried.clone());
    let here = Here::of(&settings).await?;
    blocking(move || {
        let (store, told) = (shop.around.store.clone(), variables.clone());
        let looking = |config: &Value, layers: &[(Digest, u64)]| match &here {
            Some(here) => here.glance(&store, &told, (config, layers)),
            None => Ok(()),
        };
        let artifact = |name: &str| match &answer {
            None => Ok(None),
            Some((client, answer)) => {
                match shop.runtime.block_on(artifacts::fetch(client, answer, name, LARGEST_DIFF)) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(clearml::ApiError::NoArtifact { .. }) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
        };
        let wishes = Wishes {
            base,
            base_of_task: choice.of_task,
            forced,
            glance: Some(&looking),
            anew: settings.refresh,
            force_pull: settings.agent.force_pull,
            platform: settings.platform.clone().unwrap_or_else(Platform::host),
            arguments: carried,
            policy,
            mode: settings.mode,
            python: settings.python.clone(),
            apt: settings.apt.clone(),
            opencv,
            bytecode: settings.bytecode,
            isolated: settings.isolated,
            requirements: pipeline::RequirementChoices {
                repository_first: settings.agent.repository_requirements,
                original: settings.agent.original_requirements,
                manager,
                variables,
            },
            task_environment: settings.agent.task_environment,
            force_task_init,
            created: settings.created,
            artifact: &artifact,
        };
        let lock = pipeline::lock(&shop, &task, &wishes)?;
        Ok(Pinned { lock, arguments: for_task, unchecked })
    })
    .await
}

/// The program that the repository's packages are managed with, where somebody says.
fn manager(agent: &Agent, environment: &Environment) -> Option<Manager> {
    let forced = |name: &str| environment.raw(name).is_some_and(|it| !it.is_empty() && it != "0");
    match agent.package_manager.as_deref() {
        _ if forced("CLEARML_AGENT_FORCE_UV") => Some(Manager::Uv),
        _ if forced("CLEARML_AGENT_FORCE_POETRY") => Some(Manager::Poetry),
        Some("uv") => Some(Manager::Uv),
        Some("poetry") => Some(Manager::Poetry),
        Some("pip") => Some(Manager::Pip),
        _ => None,
    }
}

/// Every secret this run has seen, by what it is: none may be in the image.
pub(super) fn secrets(
    settings: &TaskSettings,
    task: Option<&Task>,
    (indexes, environment): (&Indexes, &Environment),
) -> BTreeMap<String, Secret> {
    let mut secrets = BTreeMap::new();
    let mut add = |name: String, value: &str| secrets.insert(name, Secret::new(value));
    // A token may stand where the user's name does, without any password; a name is no secret.
    let secret_of = |it: &Credentials| match it.password.reveal() {
        "" if it.user.len() < TOKEN => String::new(),
        "" => it.user.clone(),
        password => password.to_owned(),
    };
    let in_address = |text: &str| Some(secret_of(&split_userinfo(&url::Url::parse(text).ok()?).1?));
    if let Some(credentials) = &settings.api.credentials {
        add("api.credentials.secret_key".to_owned(), credentials.password.reveal());
    }
    if let Some(token) = &settings.api.token {
        add("CLEARML_AUTH_TOKEN".to_owned(), token.reveal());
    }
    for (index, it) in settings.agent.git_credentials.iter().enumerate() {
        add(format!("git password {}", index + 1), &secret_of(&it.credentials));
    }
    for (index, address) in settings.agent.extra_index_urls.iter().enumerate() {
        if let Some(secret) = in_address(address.reveal()) {
            add(format!("index password {}", index + 1), &secret);
        }
    }
    for (name, value) in variables(None, &settings.agent, environment).iter().filter(|it| is_secret_name(it.0)) {
        add(format!("-e {name}"), value.reveal());
    }
    for (host, credentials) in indexes.logins() {
        add(format!("password of the index {host}"), &secret_of(credentials));
    }
    for (variable, address) in lend::proxies() {
        if let Some(secret) = in_address(&address) {
            add(format!("password in {variable}"), &secret);
        }
    }
    let Some(task) = task else { return secrets };
    if let Some(secret) = task.script.repository.as_deref().and_then(in_address) {
        add("repository password".to_owned(), &secret);
    }
    for (section, entries) in &task.parameters {
        for (name, parameter) in entries {
            let path = format!("{section}/{name}");
            if is_secret_parameter(&path, &parameter.value) {
                add(path, &parameter.value);
            }
        }
    }
    let words = crate::process::words(task.container.arguments.as_deref().unwrap_or_default()).unwrap_or_default();
    for word in &words {
        // Whatever looks like an assignment: what stands in a value is no reason to trust the switch before it.
        let assignment = word.strip_prefix("--env=").or_else(|| word.strip_prefix("-e")).unwrap_or(word);
        if let Some((name, value)) = assignment.split_once('=')
            && is_secret_name(name)
        {
            add(format!("-e {name}"), value);
        }
    }
    secrets
}

/// Files of a build that a user names are written as a whole or not at all.
pub(super) fn write_file(path: PathBuf, bytes: Vec<u8>) -> impl FnOnce() -> Result<(), Failure> {
    move || Ok(crate::fs::write_named(&path, 0o644, |file| file.write_all(&bytes))?)
}

/// No server is configured.
#[derive(Debug, thiserror::Error)]
#[error("no ClearML server is configured")]
struct NoServer {
    /// Whether the task may come from a file instead.
    file: bool,
}

impl Explain for NoServer {
    fn kind(&self) -> Kind {
        Kind::Config
    }

    fn hints(&self) -> Vec<String> {
        let file = if self.file { ", or read the task from a file with --task" } else { "" };
        vec![
            format!("Set api.api_server in ~/clearml.conf or CLEARML_API_HOST{file}."),
            "`agent server --data DIR` runs a server here and writes a clearml.conf for it.".to_owned(),
        ]
    }
}

/// The server is known, who we are is not.
#[derive(Debug, thiserror::Error)]
#[error("there are no credentials for the ClearML server `{server}`")]
struct NoCredentials {
    server: String,
}

impl Explain for NoCredentials {
    fn kind(&self) -> Kind {
        Kind::Denied
    }

    fn hints(&self) -> Vec<String> {
        vec!["Set api.credentials in ~/clearml.conf, or CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY.".to_owned()]
    }
}
