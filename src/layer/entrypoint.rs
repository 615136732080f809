//! What starts the image: the in-image binary, and the documents it reads.
//!
//! Two layers: the binary alone, which is the same in every image of a program version, and the launch document, the
//! task record, the lock and its large texts, which change with every task: one lies low, the other on top. Both are owned by root and readable by
//! everyone; only the spool directory is writable, by everyone (1777), for runs with `--user`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{BuiltLayer, LayerKind, find_or_write, key};
use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::launch::{self, Launch, Mode};
use crate::lock::Lock;
use crate::oci::{LayerError, Meta};
use crate::store::{Store, StoreError};

/// The title of the binary's layer: it is found by it in an image's history.
pub const BINARY: &str = "in-image binary";

/// `PATH` where a base has none (the default of container engines).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why the layers cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EntrypointError {
    /// The in-image binary is not the one the lock names.
    #[error("the lock was made with the in-image binary {locked}, this one is {given}")]
    Guest {
        /// The lock's.
        locked: Digest,
        /// The one at hand.
        given: Digest,
    },
    /// The layer cannot be written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for EntrypointError {
    fn kind(&self) -> Kind {
        match self {
            Self::Guest { .. } => Kind::Input,
            Self::Layer(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Guest { .. } => {
                vec!["Lock the task again, or build with the program version that made the lock.".to_owned()]
            }
            Self::Layer(error) => error.hints(),
            Self::Store(error) => error.hints(),
        }
    }
}

/// How the image starts: what replaces the base's own values in the image configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// Variables; they replace the base's of the same name and follow the others.
    pub env: BTreeMap<String, String>,
    /// `WorkingDir`.
    pub working_dir: String,
}

/// The launch document of a lock.
#[must_use]
pub fn launch(lock: &Lock) -> Launch {
    let part = &lock.launch;
    let interpreter = match &part.shell {
        Some(shell) => vec![shell.clone()],
        None => vec![format!("{}/bin/python", launch::VENV), "-u".to_owned()],
    };
    let program = if part.entry_point.is_empty() {
        Vec::new()
    } else {
        interpreter.into_iter().chain(part.entry_point.iter().cloned()).collect()
    };
    let directory = match (&lock.code, part.working_dir.as_str()) {
        (None, _) => "/".to_owned(),
        (Some(_), "" | ".") => launch::CODE.to_owned(),
        (Some(_), below) => format!("{}/{below}", launch::CODE),
    };
    Launch {
        version: launch::VERSION,
        mode: part.mode,
        task: part.task.clone(),
        name: part.name.clone(),
        program,
        directory,
        env: part.env.clone(),
        secrets: part.secrets.clone(),
        secret_parameters: part.secret_parameters.clone(),
    }
}

/// What the image configuration says of the start. The Python environment comes first in `PATH`, also for those who
/// replace the entry point; what a container is given with `-e` beats the task's variables.
#[must_use]
pub fn start(launch: &Launch, base_config: &Value) -> Start {
    let base = |name: &str| {
        let env = base_config.pointer("/config/Env").and_then(Value::as_array).into_iter().flatten();
        let mut values = env.filter_map(|it| it.as_str()?.split_once('=')).filter(|it| it.0 == name);
        values.next_back().map(|it| it.1.to_owned())
    };
    let mut env = launch.env.clone();
    let path = env.remove("PATH").or_else(|| base("PATH")).unwrap_or_else(|| PATH.to_owned());
    env.insert("PATH".to_owned(), format!("{}/bin:{path}", launch::VENV));
    env.insert("VIRTUAL_ENV".to_owned(), launch::VENV.to_owned());
    let cmd = match launch.mode {
        Mode::Environment => vec!["python".to_owned()],
        Mode::ReuseTask | Mode::CloneTask => Vec::new(),
    };
    // Whose place only the run knows: the in-image binary goes there.
    let known = !launch::has_variables(&launch.directory);
    let working_dir = if known { launch.directory.clone() } else { launch::CODE.to_owned() };
    Start { entrypoint: vec![launch::BINARY.to_owned()], cmd, env, working_dir }
}

/// Both layers.
#[derive(Debug)]
pub struct Entrypoint {
    /// The in-image binary.
    pub binary: BuiltLayer,
    /// Launch document, task record, lock and its large texts.
    pub documents: BuiltLayer,
}

/// Writes or finds both layers. `guest` is the in-image binary the lock names.
///
/// # Errors
/// [`EntrypointError`]
pub fn write(store: &Store, lock: &Lock, guest: &[u8]) -> Result<Entrypoint, EntrypointError> {
    let given = Digest::of(guest);
    if given != lock.guest {
        return Err(EntrypointError::Guest { locked: lock.guest, given });
    }
    Ok(Entrypoint { binary: write_binary(store, guest, &given)?, documents: write_documents(store, lock)? })
}

fn write_binary(store: &Store, guest: &[u8], digest: &Digest) -> Result<BuiltLayer, EntrypointError> {
    let key = key(LayerKind::Entrypoint, &[b"binary", digest.bytes()]);
    find_or_write(store, (LayerKind::Entrypoint, key), BINARY, |writer| {
        for dir in parents(below(launch::BINARY)) {
            writer.dir(&dir, &Meta::dir())?;
        }
        Ok(writer.file(below(launch::BINARY), &Meta::executable(), guest)?)
    })
}

fn write_documents(store: &Store, lock: &Lock) -> Result<BuiltLayer, EntrypointError> {
    let documents = lock.documents();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    files.insert(below(launch::LAUNCH).to_owned(), pretty(&launch(lock)));
    files.insert(below(launch::TASK).to_owned(), lock.launch.record.bytes());
    files.insert(below(launch::LOCK).to_owned(), documents.toml.into_bytes());
    for (digest, bytes) in documents.texts {
        files.insert(format!("{}/{}", below(launch::TEXTS), digest.hex()), bytes);
    }
    let inputs: Vec<&[u8]> = files
        .iter()
        .flat_map(|(path, bytes)| [path.as_bytes(), bytes.as_slice()])
        .chain([b"documents".as_slice()])
        .collect();
    let key = key(LayerKind::Entrypoint, &inputs);
    let title = format!("task and lock ({})", lock.launch.mode.as_str());
    find_or_write(store, (LayerKind::Entrypoint, key), title, |writer| {
        let mut dirs: BTreeMap<String, Meta> = BTreeMap::new();
        for path in files.keys() {
            dirs.extend(parents(path).into_iter().map(|it| (it, Meta::dir())));
        }
        dirs.insert(below(launch::SPOOL).to_owned(), Meta::with_mode(0o1777));
        for (path, meta) in &dirs {
            writer.dir(path, meta)?;
        }
        for (path, bytes) in &files {
            writer.file(path, &Meta::file(), bytes)?;
        }
        Ok(())
    })
}

/// The document for people and programs, the same bytes each time.
fn pretty(launch: &Launch) -> Vec<u8> {
    let mut text = serde_json::to_value(launch).map(|it| format!("{it:#}")).unwrap_or_default();
    text.push('\n');
    text.into_bytes()
}

/// A path of the image as a layer has it.
fn below(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// The directories above a path, outermost first.
fn parents(path: &str) -> Vec<String> {
    path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::json;

    use super::*;

    fn lock(mode: &str, script: bool) -> Lock {
        let digest = |it: &str| Digest::of(it).to_string();
        let code = if script {
            format!(
                "[code]\ntree = \"{0}\"\n[code.script]\nfile = \"train.py\"\ntext = {{ sha256 = \"{1}\", text = \"x\" }}\n",
                digest("t"),
                digest("x")
            )
        } else {
            String::new()
        };
        let text = format!(
            "version = 1\nformat = {}\ncreated = 1\nguest = \"{guest}\"\nbytecode = true\n\
             [base]\nconfig = \"{guest}\"\nplatform = {{ os = \"linux\", architecture = \"amd64\" }}\nlayers = []\n\
             [python]\nversion = \"3.11.2\"\nexecutable = \"/usr/bin/python3.11\"\nlibc = \"glibc 2.36\"\n\
             digest = \"{guest}\"\nsite_packages = true\ndistributions = []\n{code}\
             [launch]\nmode = \"{mode}\"\ntask = \"ab\"\nname = \"n\"\nentry_point = [\"train.py\", \"--x\"]\n\
             working_dir = \"src\"\nenv = {{ A = \"1\" }}\nrecord = {{ sha256 = \"{record}\", text = \"{big}\" }}\n",
            crate::lock::FORMAT,
            guest = digest("guest"),
            record = digest(&"r".repeat(70_000)),
            big = "r".repeat(70_000),
        );
        Lock::parse("test", &text, |_| unreachable!()).unwrap()
    }

    #[test]
    fn the_task_starts_in_its_directory_with_its_environment_first() {
        let launch = launch(&lock("reuse_task", true));
        assert_eq!(launch.program, ["/opt/agent/venv/bin/python", "-u", "train.py", "--x"]);
        assert_eq!(launch.directory, "/opt/agent/code/src");
        let base = json!({ "config": { "Env": ["PATH=/old", "PATH=/bin:/usr/bin", "LANG=C"] } });
        let start = super::start(&launch, &base);
        assert_eq!(start.env["PATH"], "/opt/agent/venv/bin:/bin:/usr/bin");
        assert_eq!((start.env["A"].as_str(), start.cmd.len()), ("1", 0));
        assert_eq!(start.entrypoint, ["/opt/agent/bin/agent"]);
        let environment = super::launch(&lock("environment", false));
        assert_eq!(environment.directory, "/");
        assert_eq!(super::start(&environment, &json!({})).cmd, ["python"]);
        let moving = Launch { directory: "/opt/agent/code/$WHERE".to_owned(), ..launch };
        assert_eq!(super::start(&moving, &json!({})).working_dir, "/opt/agent/code");
    }

    #[test]
    fn a_change_of_the_task_leaves_the_binarys_layer_and_texts_lie_beside_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let both = |it: Entrypoint| [it.binary, it.documents];
        let first = both(write(&store, &lock("reuse_task", true), b"guest").unwrap());
        let second = both(write(&store, &lock("clone_task", true), b"guest").unwrap());
        assert_eq!(first[0].layer, second[0].layer);
        assert!(second[0].cached && !second[1].cached);
        assert_ne!(first[1].layer, second[1].layer);
        let blob = store.open_blob(&first[1].layer.descriptor.digest).unwrap();
        let mut found = BTreeMap::new();
        for entry in crate::oci::tar::open(blob).unwrap().entries().unwrap() {
            let mut entry = entry.unwrap();
            let (path, mode) = (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap());
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            found.insert(path.trim_end_matches('/').to_owned(), (mode & 0o7777, bytes));
        }
        assert_eq!(found["opt/agent/spool"].0, 0o1777);
        let text = format!("opt/agent/texts/{}", Digest::of("r".repeat(70_000)).hex());
        assert_eq!(found[&text].1.len(), 70_000);
        assert_eq!(found["opt/agent/task.json"].1.len(), 70_000);
        let read: Launch = serde_json::from_slice(&found["opt/agent/launch.json"].1).unwrap();
        assert_eq!(read, launch(&lock("reuse_task", true)));
    }

    #[test]
    fn another_binary_than_the_locks_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let error = write(&store, &lock("reuse_task", false), b"other").unwrap_err();
        assert!(matches!(error, EntrypointError::Guest { .. }));
    }
}
