//! Keys of the original's configuration that mean nothing here, so that nobody relies on one in silence.
//!
//! Not listed is what an image makes needless whatever its value is: caches and directories of environments that are made
//! when a task starts, the order in which packages are installed, masks of what is not printed.

use super::Config;
use super::value::Value;

/// A key that is not followed.
#[derive(Debug, Clone, Copy)]
pub struct Ignored {
    /// The dotted path.
    pub key: &'static str,
    /// Values that ask for nothing: the original's own default, which its `init` writes into files.
    harmless: &'static [&'static str],
    /// What there is instead.
    pub instead: &'static str,
}

const fn key(key: &'static str, harmless: &'static [&'static str], instead: &'static str) -> Ignored {
    Ignored { key, harmless, instead }
}

const OFF: &[&str] = &["false", "0"];
const ON: &[&str] = &["true", "1"];
const SCRIPT: &str =
    "a setup script of the task or of `default_docker.match_rules`, which is run when the image is built";
const PACKAGES: &str =
    "packages are resolved and laid out by this program; no pip, Poetry, uv or conda of a version is run";
const CLUSTERS: &str = "nothing is reported of clusters";

/// The keys; `docs/daemon.md` names each.
pub const IGNORED: &[Ignored] = &[
    key("agent.suppress_carriage_return", ON, "the server has a line's last state; `agent logs` has every byte"),
    key("agent.truncate_task_output_files", OFF, "`console_spool_mb` bounds what a run keeps of its console"),
    key("agent.task_ping_interval_sec", &["60"], "the server hears every 60 s that a task is alive"),
    key("agent.dynamic_gpus_reservation_timeout_sec", &["600"], "a device is taken and free when its run says so"),
    key("agent.resource_monitoring.default_gpu_utilization", &["100"], "a device that tells nothing counts as busy"),
    key("agent.resource_monitoring.disk_use_path", &[], "the disk of the home directory is reported"),
    key("agent.resource_monitoring.cluster_report_interval_sec", &["60"], CLUSTERS),
    key("agent.resource_dashboard.default_cluster_name", &["onprem"], CLUSTERS),
    key("agent.crash_on_exception", OFF, "a daemon that cannot go on ends, and leaves what runs to the next one"),
    key("agent.debug", OFF, "`--debug`"),
    key(
        "agent.reload_config",
        OFF,
        "the configuration is read once: start the daemon again, USR2 leaves what runs alone",
    ),
    key("agent.extra_docker_shell_script", &[], SCRIPT),
    key("agent.docker_init_bash_script", &[], SCRIPT),
    key("agent.docker_preprocess_bash_script", &[], SCRIPT),
    key("agent.custom_build_script", &[], SCRIPT),
    key("agent.git_fetch_args", &["--all --tags --recurse-submodules"], "a commit is fetched, with its submodules"),
    key("agent.enable_git_ask_pass", ON, "passwords for git stand in no address and no command line"),
    key("agent.python_binary", &[], "`default_python`, or the interpreter of the image"),
    key("environment", &[], "variables of the agent's own, and `-e` in `extra_docker_arguments`"),
    key("files", &[], "files that are mounted (`-v` in `extra_docker_arguments`)"),
    key("agent.package_manager.extra_pip_install_flags", &[], PACKAGES),
    key("agent.package_manager.poetry_install_extra_args", &[], PACKAGES),
    key("agent.package_manager.uv_sync_extra_args", &[], PACKAGES),
    key("agent.package_manager.uv_run_extra_args", &[], PACKAGES),
    key("agent.package_manager.torch_nightly", OFF, "name the version and its index in the requirements"),
    key("agent.package_manager.conda_env_as_base_docker", OFF, PACKAGES),
    key("agent.package_manager.use_conda_base_env", OFF, PACKAGES),
];

impl Config {
    /// What is set here of keys that are not followed, in other values than ask for nothing.
    pub fn ignored(&self) -> impl Iterator<Item = &'static Ignored> {
        IGNORED.iter().filter(|it| self.get(it.key).is_some_and(|value| it.is_asked(value)))
    }
}

impl Ignored {
    fn is_asked(&self, value: &Value) -> bool {
        let text = match value {
            Value::List(items) => items.iter().filter_map(Value::text).collect::<Vec<_>>().join(" "),
            Value::Object(fields) => return !fields.is_empty(),
            value => value.text().unwrap_or_default().trim().to_owned(),
        };
        !text.is_empty() && !self.harmless.iter().any(|it| it.eq_ignore_ascii_case(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn ignored(text: &str) -> Vec<&'static str> {
        Config::from_text("test", text, &Environment::default()).unwrap().ignored().map(|it| it.key).collect()
    }

    #[test]
    fn what_somebody_relies_on_is_named_and_the_originals_defaults_are_not() {
        let defaults = "agent { suppress_carriage_return: true, task_ping_interval_sec: 60, reload_config: false, \
                        custom_build_script: \"\", extra_docker_shell_script: [], debug: null, uptime: [\"1-2 MON\"], \
                        git_fetch_args: [\"--all\", \"--tags\", \"--recurse-submodules\"], venvs_dir: /x }\nenvironment {}";
        assert!(ignored(defaults).is_empty());
        let text = "agent { suppress_carriage_return: false, extra_docker_shell_script: [\"apt-get update\"], \
                    resource_monitoring { disk_use_path: /data }, package_manager.extra_pip_install_flags: [--pre] }\n\
                    environment { A: 1 }";
        let keys = [
            "agent.suppress_carriage_return",
            "agent.resource_monitoring.disk_use_path",
            "agent.extra_docker_shell_script",
            "environment",
            "agent.package_manager.extra_pip_install_flags",
        ];
        assert_eq!(ignored(text), keys);
    }

    #[test]
    fn each_is_explained_to_people() {
        let page = include_str!("../../docs/daemon.md");
        for it in IGNORED {
            let name = it.key.strip_prefix("agent.").unwrap_or(it.key);
            assert!(page.contains(&format!("`{name}`")) && page.contains(it.instead), "{}: {}", it.key, it.instead);
        }
    }
}
