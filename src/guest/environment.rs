//! The environment a program gets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use fs_err as fs;

use super::settings::Settings;
use crate::launch;

/// A program's environment.
pub(super) type Variables = BTreeMap<OsString, OsString>;

/// Ours alone; of no use to a program, and misleading to another of us that it may start.
const REMOVED: &[&str] = &[
    "AGENT_ENVIRONMENT",
    "AGENT_EXECUTOR",
    "AGENT_FORCE",
    "AGENT_JOURNAL",
    "AGENT_JOURNAL_SHOWN",
    "AGENT_OFFLINE",
    "AGENT_REPORT_TIMEOUT",
    "AGENT_ROOT",
    "AGENT_SPOOL",
    "AGENT_SPOOL_BYTES",
    "AGENT_STOP_GRACE",
    "CLEARML_APT_INSTALL",
];

/// What any program gets: the container's variables, those the task asks for, the Python environment in front.
pub(super) fn common(settings: &Settings) -> Variables {
    let mut variables: Variables = std::env::vars_os().collect();
    variables.extend(settings.lent.iter().map(|(name, value)| (name.into(), value.reveal().into())));
    for name in REMOVED {
        variables.remove(&OsString::from(name));
    }
    for (name, value) in &settings.launch.env {
        variables.entry(name.into()).or_insert_with(|| value.into());
    }
    let bin = Path::new(launch::VENV).join("bin");
    if bin.is_dir() {
        let path = text(&variables, "PATH")
            .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let others = path.split(':').filter(|it| Path::new(it) != bin);
        let path = std::iter::once(bin.to_str().unwrap_or_default()).chain(others).collect::<Vec<_>>().join(":");
        variables.insert("PATH".into(), path.into());
        variables.insert("VIRTUAL_ENV".into(), launch::VENV.into());
    }
    comfort(&mut variables);
    variables
}

/// What the recorded task gets on top: the hand-over to the SDK, as the original agent makes it.
pub(super) fn task(settings: &Settings, id: &str) -> Variables {
    let mut variables = common(settings);
    for (name, value) in [("TASK_ID", id), ("LOG_TASK_TO_BACKEND", "0")] {
        for prefix in ["CLEARML", "TRAINS"] {
            variables.insert(format!("{prefix}_{name}").into(), value.into());
        }
    }
    for (name, value) in [
        ("CLEARML_LOG_LEVEL", "INFO"),
        ("TRAINS_LOG_LEVEL", "INFO"),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        ("PYTHONUNBUFFERED", "1"),
    ] {
        variables.entry(name.into()).or_insert_with(|| value.into());
    }
    variables.insert("CLEARML_WORKER_ID".into(), settings.worker.clone().into());
    if let Some(path) = &settings.config_file {
        variables.insert("CLEARML_CONFIG_FILE".into(), path.into());
    }
    for (section, name, value) in &settings.set {
        let asked = settings.launch.env.contains_key(name) || settings.launch.secrets.contains(name);
        if section == "Environment" && asked {
            variables.insert(name.into(), value.into());
        }
    }
    variables.insert("PYTHONPATH".into(), python_path(settings, &variables).into());
    variables
}

/// Variables that point the SDK at the offline answers, and no proxy in between.
pub(super) fn offline(variables: &mut Variables, api: &str, files: &str) {
    for (name, value) in [
        ("CLEARML_API_HOST", api),
        ("CLEARML_WEB_HOST", api),
        ("CLEARML_FILES_HOST", files),
        ("CLEARML_API_ACCESS_KEY", "offline"),
        ("CLEARML_API_SECRET_KEY", "offline"),
    ] {
        variables.insert(name.into(), value.into());
        variables.remove(&OsString::from(name.replace("CLEARML_", "TRAINS_")));
    }
    variables.remove(&OsString::from("CLEARML_AUTH_TOKEN"));
    for name in ["no_proxy", "NO_PROXY"] {
        let there = text(variables, name).map(|it| format!("{it},")).unwrap_or_default();
        variables.insert(name.into(), format!("{there}127.0.0.1,localhost").into());
    }
}

/// As the original: what is there, the working directory, the script's directory.
fn python_path(settings: &Settings, variables: &Variables) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut add = |part: String| {
        if !part.is_empty() && !parts.contains(&part) {
            parts.push(part);
        }
    };
    for name in ["PYTHONPATH", "CLEARML_AGENT_EXTRA_PYTHON_PATH"] {
        text(variables, name).unwrap_or_default().split(':').for_each(|it| add(it.to_owned()));
    }
    let variable = |name: &str| text(variables, name);
    let directory = launch::expand(&settings.launch.directory, variable);
    add(directory.clone());
    // The program's first word is the interpreter; the script is the first that is no option of it.
    let mut words = settings.launch.program.iter().skip(1);
    let script = words.find(|it| !it.starts_with('-') || matches!(it.as_str(), "-m" | "-c"));
    if let Some(script) = script.filter(|it| !it.starts_with('-')) {
        let folder = Path::new(&directory).join(launch::expand(script, variable));
        add(folder.parent().map(|it| it.display().to_string()).unwrap_or_default());
    }
    parts.join(":")
}

/// What programs expect and a container started with `--user` or a read-only root does not have.
fn comfort(variables: &mut Variables) {
    let ascii = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|it| text(variables, it).filter(|it| !it.is_empty()))
        .is_none_or(|it| it == "C" || it == "POSIX");
    if ascii {
        variables.entry("PYTHONIOENCODING".into()).or_insert_with(|| "utf-8".into());
    }
    // Python's getpass and what builds on it (torch) fail for a user without an entry unless a variable names them.
    let named = ["LOGNAME", "USER", "LNAME", "USERNAME"].iter().any(|it| text(variables, it).is_some());
    if !named && !has_entry(rustix::process::getuid().as_raw()) {
        variables.insert("USER".into(), "agent".into());
    }
    let home = text(variables, "HOME").filter(|it| !it.is_empty());
    if home.is_none() {
        variables.insert("HOME".into(), "/".into());
    }
    let home = home.unwrap_or_else(|| "/".to_owned());
    if !is_writable(Path::new(&home)) && is_writable(Path::new("/tmp")) {
        variables.entry("CLEARML_CACHE_DIR".into()).or_insert_with(|| "/tmp/.clearml/cache".into());
    }
}

fn has_entry(uid: u32) -> bool {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    users.lines().any(|it| it.split(':').nth(2).and_then(|it| it.parse().ok()) == Some(uid))
}

fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

fn text(variables: &Variables, name: &str) -> Option<String> {
    variables.get(&OsString::from(name)).map(|it| it.to_string_lossy().into_owned())
}
