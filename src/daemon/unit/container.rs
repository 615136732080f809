//! What a run is given: its container's settings, and the files that are lent to it.
//!
//! Secrets never stand where an engine tells them: the server's credentials are in a configuration file, and variables
//! whose names say that they are secrets in another, which the in-image program reads before it does anything else.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Unit, building};
use crate::config::value::{Value as Setting, object_to_json};
use crate::config::{Api, Config, Environment};
use crate::engine::{Bind, ContainerSpec};
use crate::error::{During as _, Failure};
use crate::fs::write_whole;
use crate::launch;
use crate::lock::Lock;
use crate::run::{RunSpec, arguments};
use crate::secret::{Secret, is_secret_name};

/// Where the configuration is inside.
const CONFIG: &str = "/opt/agent/clearml.conf";
/// Where the variables are inside that an engine should not tell.
const ENVIRONMENT: &str = "/opt/agent/environment.json";
/// The files' names in the unit's directory.
pub(super) const LENT: [&str; 2] = ["clearml.conf", "environment.json"];

impl Unit {
    /// What is run. The same each time it is asked for.
    pub(super) fn spec(&self) -> Result<RunSpec, Failure> {
        let record = self.record();
        let directory = self.entry.directory();
        let lock = building::lock_of(directory)?;
        let image = record.image.clone().ok_or_else(|| std::io::Error::other("the image is not known"))?;
        let mut container = self.asked(&lock)?;
        let hidden = self.variables(&mut container, &lock);
        let user = container.user.clone().or_else(|| record.user.clone());
        self.lend(&mut container, &hidden, user.as_deref()).during(|| "cannot lend files to the run".to_owned())?;
        let directory = directory.to_owned();
        Ok(RunSpec { id: record.run.clone(), image, container, gpus: record.gpus.clone(), directory })
    }

    /// What the task asks for.
    fn asked(&self, lock: &Lock) -> Result<ContainerSpec, Failure> {
        let mut container = ContainerSpec::default();
        let text = lock.launch.container_arguments.as_deref().unwrap_or_default();
        if self.record().engine == "native" {
            let left_out = arguments::apply_natively(&mut container, text)?;
            if !left_out.is_empty() {
                let list = left_out.join(", ");
                self.note(format!("these container arguments of the task do not count natively: {list}"));
            }
        } else {
            arguments::apply(&mut container, text)?;
        }
        // A server of this machine is nowhere else.
        if container.network.is_none() && is_loopback(&self.executor.settings.api) {
            container.network = Some("host".to_owned());
        }
        Ok(container)
    }

    /// The run's variables; those that an engine must not tell come back.
    fn variables(&self, container: &mut ContainerSpec, lock: &Lock) -> BTreeMap<String, Secret> {
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
            set("CLEARML_WORKER_TAGS", record.tags.join(" "));
        }
        if let Some(level) = &settings.log_level {
            set("CLEARML_LOG_LEVEL", level.clone());
        }
        if settings.optimize > 0 {
            set("PYTHONOPTIMIZE", settings.optimize.to_string());
        }
        // What the task needs and no image may hold comes from here, where it is set here.
        let environment = Environment::current();
        for name in &lock.launch.secrets {
            if let Some(value) = environment.raw(name) {
                container.env.entry(name.clone()).or_insert_with(|| Secret::new(value));
            }
        }
        let names: Vec<String> = container.env.keys().filter(|it| is_secret_name(it)).cloned().collect();
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
        user: Option<&str>,
    ) -> std::io::Result<()> {
        let directory = self.entry.directory();
        // The directory is for its owner alone; a run of another user must be able to read what is lent to it.
        let mode = if is_root(user) { 0o600 } else { 0o644 };
        let write = |name: &str, document: &Value| {
            let mut bytes = serde_json::to_vec_pretty(document)?;
            bytes.push(b'\n');
            write_whole(&directory.join(name), &bytes, mode)
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
    if let Ok(config) = Config::load(file, &Environment::current())
        && let Some(Setting::Object(sdk)) = config.get("sdk")
    {
        document["sdk"] = object_to_json(sdk);
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

/// Whether a container's user is root, who may read what is its own or anybody's.
fn is_root(user: Option<&str>) -> bool {
    let name = user.unwrap_or_default().split(':').next().unwrap_or_default();
    matches!(name, "" | "0" | "root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_the_server_and_no_secret_of_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clearml.conf");
        let text = "agent { git_pass: hush } sdk { aws.s3.region: here } api { api_server: http://h:8008/, \
                    credentials { access_key: K, secret_key: S } }";
        fs_err::write(&path, text).unwrap();
        let api = Config::from_text("test", text, &Environment::default()).unwrap().api().unwrap();
        let document = configuration(&api, Some(&path));
        assert_eq!(document["api"]["api_server"], "http://h:8008");
        assert_eq!(document["api"]["credentials"]["secret_key"], "S");
        assert_eq!(document["sdk"]["aws"]["s3"]["region"], "here");
        assert!(!document.to_string().contains("hush"));
    }

    #[test]
    fn roots_and_servers_of_this_machine_are_known() {
        assert!(is_root(None) && is_root(Some("root")) && is_root(Some("0:0")));
        assert!(!is_root(Some("1000")) && !is_root(Some("ml:video")));
        let api = |url: &str| Api { server: Some(url.parse().unwrap()), ..Api::default() };
        assert!(is_loopback(&api("http://127.0.0.1:8008")) && is_loopback(&api("http://[::1]:8008")));
        assert!(is_loopback(&api("http://localhost:8008")) && !is_loopback(&api("https://api.example.com")));
    }
}
