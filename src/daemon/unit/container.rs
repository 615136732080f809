//! What a run is given: its container's settings, and the files that are lent to it.
//!
//! Secrets never stand where an engine tells them: the server's credentials are in a configuration file, and variables
//! whose names say that they are secrets in another, which the in-image program reads before it does anything else.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Halt, Unit, building, prebuilt, server};
use crate::clearml::events::Level;
use crate::clearml::tasks;
use crate::config::value::{Value as Setting, object_to_json};
use crate::config::{Api, Config, Environment};
use crate::engine::{Bind, ContainerSpec};
use crate::error::{During as _, Failure};
use crate::fs::create_private_dir;
use crate::launch;
use crate::lock::Lock;
use crate::process::command_line;
use crate::run::arguments::Gpus;
use crate::run::lends::{self, Account, Lending};
use crate::run::ports::{self, Ports};
use crate::run::settings::{Asked, Chosen, of_task};
use crate::run::templates::{self, Values};
use crate::run::{EngineKind, RunSpec, docker};
use crate::secret::{Secret, is_secret_variable};

/// Where the configuration is inside.
const CONFIG: &str = "/opt/agent/clearml.conf";
/// Where the variables are inside that an engine should not tell.
const ENVIRONMENT: &str = "/opt/agent/environment.json";
/// The files' names in the unit's directory.
pub(super) const LENT: [&str; 2] = ["clearml.conf", "environment.json"];
/// The directory of what is lent of a home, there.
pub(super) const HOME: &str = "home";
/// The label of the worker whose tasks run beside each other, as the original has it.
const PARENT: &str = "clearml-parent-worker-id";
/// The task's property that says which ports of this machine are its own, as the original has it.
const PORTS: &str = "_external_host_tcp_port_mapping";

impl Unit {
    /// What is run. The same each time it is asked for, save ports of this machine.
    pub(super) async fn spec(&self) -> Result<Result<RunSpec, Failure>, Halt> {
        let lock = match building::lock_of(self.entry.directory()) {
            Ok(lock) => lock,
            Err(error) => return Ok(Err(error.into())),
        };
        let (client, task) = (&self.executor.client, &self.record().task);
        let document = self.insist("for the task", || tasks::get(client, task)).await?;
        // Not what the lock says: what counts of the configuration is this machine's, now.
        let arguments = match prebuilt::counted(&self.executor, &document).await {
            Ok(counted) => counted.choice.arguments.unwrap_or_default(),
            Err(failure) => return Ok(Err(failure)),
        };
        let values = self.values(document, &lock, &arguments).await?;
        let machine = Environment::current();
        let chosen = self.chosen(&lock, &arguments, &values, &machine);
        let made = chosen.and_then(|chosen| self.made(chosen, &lock, &machine));
        match made {
            Ok((spec, mappings)) => {
                if let Some(property) = ports::property(&mappings) {
                    let mark = || server::note(client, task, PORTS, &property);
                    self.insist("to tell of ports", mark).await?;
                }
                Ok(Ok(spec))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// What templates in the task's container arguments are filled with; only what they need is asked for.
    async fn values(&self, task: Value, lock: &Lock, arguments: &str) -> Result<Values, Halt> {
        let text = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let own = self.executor.settings.agent.extra_docker_arguments.join(" ");
        let asked = lock.launch.env.values().map(String::as_str);
        let needs = templates::needs(asked.chain([arguments, own.as_str()]));
        let (queue_id, project_id) = (self.record().queue.clone(), text(&task, "/project"));
        let queue =
            self.ask(needs.queue && queue_id.is_some(), "queues.get_by_id", json!({ "queue": queue_id })).await?;
        let project = json!({ "project": project_id });
        let project = self.ask(needs.project && project_id.is_some(), "projects.get_by_id", project).await?;
        let user = self.ask(needs.user, "users.get_current_user", json!({})).await?;
        let config = Config::load(self.executor.settings.config_file.as_deref(), &Environment::current());
        Ok(Values {
            queue_id,
            queue_name: text(&queue, "/queue/name"),
            worker_id: Some(self.record().worker.clone()),
            project_id,
            project_name: text(&project, "/project/name"),
            task,
            user: user.get("user").cloned().unwrap_or_default(),
            config: config.map_or(Value::Null, |it| templates::configuration(&it)),
        })
    }

    /// Asks the server where that is needed. What cannot be had has no value, which is told.
    async fn ask(&self, needed: bool, call: &str, body: Value) -> Result<Value, Halt> {
        if !needed {
            return Ok(Value::Null);
        }
        let client = &self.executor.client;
        let answer = self.insist("for what the container is to know", || async {
            match client.call(call, &body).await {
                Err(error) if !error.is_passing() => Ok(Value::Null),
                answer => answer,
            }
        });
        answer.await
    }

    /// What the task and the configuration ask for.
    fn chosen(&self, lock: &Lock, arguments: &str, values: &Values, machine: &Environment) -> Result<Chosen, Failure> {
        let (settings, record) = (&self.executor.settings, self.record());
        // Ports are looked for from another place by each run.
        let seed = u64::from_str_radix(&record.run.as_str()[..16], 16).unwrap_or_default();
        let ports = Ports { busy: &ports::is_busy, address: ports::own_address(), seed };
        let chosen = of_task(&Asked {
            engine: settings.engine,
            arguments,
            variables: &lock.launch.env,
            agent: &settings.agent,
            machine,
            // A task's arguments, filtered by this machine's policy.
            trusted: true,
            values,
            gpus: Gpus::Assigned,
            // A server of this machine is nowhere else.
            network: is_loopback(&settings.api).then_some("host"),
            ports: Some(ports),
            run: Some(&record.run),
            read: &|path: &str| fs_err::read_to_string(path),
        })?;
        chosen.warnings.iter().for_each(|it| self.line(Level::Warning, it));
        Ok(chosen)
    }

    fn made(
        &self,
        chosen: Chosen,
        lock: &Lock,
        machine: &Environment,
    ) -> Result<(RunSpec, Vec<ports::Mapping>), Failure> {
        let record = self.record();
        let directory = self.entry.directory().to_owned();
        let image = record.image.clone().ok_or_else(|| std::io::Error::other("the image is not known"))?;
        let mut container = chosen.container;
        let parent = record.parent.as_ref().unwrap_or(&record.worker);
        container.labels.entry(PARENT.to_owned()).or_insert_with(|| parent.clone());
        let user = container.user.clone().or_else(|| record.user.clone()).unwrap_or_default();
        self.lend_home(&mut container, &user, machine)?;
        let hidden = self.variables(&mut container, lock, machine);
        self.lend(&mut container, &hidden, &user).during(|| "cannot lend files to the run".to_owned())?;
        let (id, gpus, only_told_gpus) = (record.run.clone(), record.gpus.clone(), chosen.no_gpu_switch);
        let spec = RunSpec { id, image, container, gpus, only_told_gpus, directory };
        Ok((spec, chosen.ports))
    }

    /// What the original lends of the home of whoever runs the agent.
    fn lend_home(&self, container: &mut ContainerSpec, user: &str, machine: &Environment) -> Result<(), Failure> {
        let settings = &self.executor.settings;
        let account = Account::of(user, settings.engine);
        let directory = self.entry.directory().join(HOME);
        create_private_dir(&directory)?;
        let lending = Lending { agent: &settings.agent, machine, account: account.as_ref(), directory: &directory };
        let lent = lends::lend(&lending)?;
        lent.warnings.iter().for_each(|it| self.line(Level::Warning, it));
        let taken: Vec<String> = container.binds.iter().map(|it| it.target.clone()).collect();
        container.binds.extend(lent.binds.into_iter().filter(|it| !taken.contains(&it.target)));
        for (name, value) in lent.env {
            container.env.entry(name).or_insert_with(|| Secret::new(value));
        }
        Ok(())
    }

    /// The run's variables; those that an engine must not tell come back.
    fn variables(&self, container: &mut ContainerSpec, lock: &Lock, machine: &Environment) -> BTreeMap<String, Secret> {
        let (settings, record) = (&self.executor.settings, self.record());
        let mut set = |name: &str, value: String| container.env.insert(name.to_owned(), Secret::new(value));
        set("AGENT_EXECUTOR", "1".to_owned());
        set("AGENT_SPOOL", launch::SPOOL.to_owned());
        set("AGENT_SPOOL_BYTES", settings.spool_bytes.to_string());
        set("AGENT_STOP_GRACE", settings.limits.grace.as_secs().to_string());
        set("AGENT_ENVIRONMENT", ENVIRONMENT.to_owned());
        set("CLEARML_CONFIG_FILE", CONFIG.to_owned());
        set("CLEARML_TASK_ID", record.task.clone());
        set("CLEARML_WORKER_ID", record.worker.clone());
        if !record.tags.is_empty() {
            set("CLEARML_WORKER_TAGS", command_line(&record.tags));
        }
        if let Some(level) = &settings.log_level {
            set("CLEARML_LOG_LEVEL", level.clone());
        }
        if settings.optimize > 0 {
            set("PYTHONOPTIMIZE", settings.optimize.to_string());
        }
        // What the task needs and no image may hold comes from here, where a task may have variables of this machine: it
        // could name any.
        let may = settings.agent.container.host_variables;
        for name in lock.launch.secrets.iter().filter(|_| may) {
            if let Some(value) = machine.raw(name) {
                container.env.entry(name.clone()).or_insert_with(|| Secret::new(value));
            }
        }
        // A native run is lent its proxies in no environment that anybody tells.
        if settings.engine != EngineKind::Native {
            for (name, value) in docker::secret_proxies() {
                container.env.entry(name).or_insert(value);
            }
        }
        let secret = container.env.iter().filter(|(name, value)| is_secret_variable(name, value.reveal()));
        let names: Vec<String> = secret.map(|(name, _)| name.clone()).collect();
        let mut hidden: BTreeMap<String, Secret> =
            names.into_iter().filter_map(|name| container.env.remove_entry(&name)).collect();
        if let Some(token) = &settings.api.token {
            hidden.insert("CLEARML_AUTH_TOKEN".to_owned(), token.clone());
        }
        hidden
    }

    /// Writes the files and mounts them, and the spool.
    fn lend(
        &self,
        container: &mut ContainerSpec,
        hidden: &BTreeMap<String, Secret>,
        user: &str,
    ) -> std::io::Result<()> {
        let directory = self.entry.directory();
        let (engine, userns) = (self.executor.settings.engine, container.userns.clone());
        let write = |name: &str, document: &Value| {
            let mut bytes = serde_json::to_vec_pretty(document)?;
            bytes.push(b'\n');
            lends::write(&directory.join(name), &bytes, user, (engine, userns.as_deref()))
        };
        let texts: Map<String, Value> =
            hidden.iter().map(|(name, value)| (name.clone(), json!(value.reveal()))).collect();
        write(LENT[0], &configuration(&self.executor.settings.api, self.executor.settings.config_file.as_deref()))?;
        write(LENT[1], &Value::Object(texts))?;
        let bind = |name: &str, target: &str, read_only| Bind {
            source: directory.join(name).display().to_string(),
            target: target.to_owned(),
            read_only,
        };
        container.binds.push(bind(LENT[0], CONFIG, true));
        container.binds.push(bind(LENT[1], ENVIRONMENT, true));
        container.binds.push(bind("spool", launch::SPOOL, false));
        Ok(())
    }
}

/// The configuration a run gets: the server, and what the SDK is configured with. The agent's own secrets stay here.
fn configuration(api: &Api, file: Option<&Path>) -> Value {
    let url = |url: &Option<url::Url>| url.as_ref().map(|it| it.as_str().trim_end_matches('/').to_owned());
    let mut section = json!({ "verify_certificate": api.verify_certificate });
    for (name, value) in
        [("api_server", url(&api.server)), ("web_server", url(&api.web)), ("files_server", url(&api.files))]
    {
        if let Some(value) = value {
            section[name] = json!(value);
        }
    }
    if let Some(keys) = &api.credentials {
        section["credentials"] = json!({ "access_key": keys.user, "secret_key": keys.password.reveal() });
    }
    let mut document = json!({ "api": section });
    // It was read before; a file that has become unreadable since must not keep a task from running.
    let Ok(config) = Config::load(file, &Environment::current()) else { return document };
    if let Some(Setting::Object(sdk)) = config.get("sdk") {
        document["sdk"] = object_to_json(sdk);
    }
    // The in-image program ends what takes longer itself.
    if let Ok(limit) = config.abort_callback() {
        document["agent"] = json!({ "abort_callback_max_timeout": limit });
    }
    document
}

/// Whether the server is on this machine.
fn is_loopback(api: &Api) -> bool {
    let host = api.server.as_ref().and_then(url::Url::host);
    match host {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_the_server_and_no_secret_of_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clearml.conf");
        let text = "agent { git_pass: hush, abort_callback_max_timeout: 60 }\nsdk { aws.s3.region: here }\napi { api_server: \"http://h:8008/\", \
                    credentials { access_key: K, secret_key: S } }\n";
        fs_err::write(&path, text).unwrap();
        let api = Config::from_text("test", text, &Environment::default()).unwrap().api().unwrap();
        let document = configuration(&api, Some(&path));
        assert_eq!(document["api"]["api_server"], "http://h:8008");
        assert_eq!(document["api"]["credentials"]["secret_key"], "S");
        assert_eq!(document["sdk"]["aws"]["s3"]["region"], "here");
        assert_eq!(document["agent"], json!({ "abort_callback_max_timeout": 60 }));
        assert!(!document.to_string().contains("hush"));
    }

    #[test]
    fn servers_of_this_machine_are_known() {
        let api = |url: &str| Api { server: Some(url.parse().unwrap()), ..Api::default() };
        assert!(is_loopback(&api("http://127.0.0.1:8008")) && is_loopback(&api("http://[::1]:8008")));
        assert!(is_loopback(&api("http://localhost:8008")) && !is_loopback(&api("https://api.example.com")));
    }
}
