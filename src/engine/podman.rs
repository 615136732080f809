//! Podman through its own program: pulls from an OCI layout, names and inspects images, serves its API on a socket.
//!
//! Its API pulls from registries only, so images go in by `podman pull oci:`. Containers are run over
//! [`Docker`]'s API on a [`Service`] started for the purpose: environment values then never stand on a command line.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use serde::Deserialize;

use super::{Docker, Endpoint, EngineError, EngineImage};
use crate::digest::Digest;
use crate::process::{self, Group};

/// Time for a question.
const QUICK: Duration = Duration::from_secs(60);
/// Seconds without a request after which a service ends by itself.
const IDLE: &str = "60";
/// Time to take in an image.
const LONG: Duration = Duration::from_secs(3600);

/// The program.
#[derive(Debug, Clone)]
pub struct Podman {
    program: String,
    env: Vec<(String, String)>,
}

impl Default for Podman {
    fn default() -> Self {
        Self { program: "podman".to_owned(), env: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
    #[serde(default, rename = "RootFS")]
    root_fs: RootFs,
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RootFs {
    layers: Vec<Digest>,
}

impl Podman {
    /// The service that `CONTAINER_HOST` names: with it the program is a client, which can only pull from registries.
    #[must_use]
    pub fn service() -> Option<String> {
        std::env::var("CONTAINER_HOST").ok().filter(|it| !it.is_empty())
    }

    /// A podman under another name or path.
    #[must_use]
    pub fn at(program: impl Into<String>) -> Self {
        Self { program: program.into(), env: Vec::new() }
    }

    /// The same with a variable in its environment (`CONTAINERS_STORAGE_CONF`).
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its version.
    ///
    /// # Errors
    /// [`EngineError::Program`] when it is not installed.
    pub fn version(&self) -> Result<String, EngineError> {
        self.run(["version", "--format", "{{.Client.Version}}"], QUICK)
    }

    /// The image of that name or id, `None` when there is none.
    ///
    /// # Errors
    /// [`EngineError`] when podman fails otherwise.
    pub fn image(&self, name: &str) -> Result<Option<EngineImage>, EngineError> {
        let output = process::run(self.command().args(["image", "inspect", name]), QUICK)?;
        if !output.status.success() {
            let absent = ["no such image", "image not known", "failed to find image"];
            let errors = output.errors();
            if absent.iter().any(|it| errors.contains(it)) {
                return Ok(None);
            }
            return Err(failed("podman image inspect", &errors));
        }
        let odd = |detail: String| EngineError::Answer {
            endpoint: self.program.clone(),
            what: format!("image inspect {name}"),
            detail,
        };
        let found: Vec<Inspected> = serde_json::from_slice(&output.stdout).map_err(|error| odd(error.to_string()))?;
        let Some(found) = found.into_iter().next() else { return Ok(None) };
        Ok(Some(EngineImage {
            id: Digest::from_hex(&found.id).map_err(|error| odd(error.to_string()))?,
            tags: found.repo_tags.unwrap_or_default(),
            repo_digests: found.repo_digests.unwrap_or_default(),
            diff_ids: found.root_fs.layers,
            size: found.size,
        }))
    }

    /// Takes the only image out of the OCI layout `name` in the directory `parent`; tells its id (the config digest).
    /// Some versions name the image after the layout's path as they are given it, hence the two parts: `name` must be
    /// fit for an image's name.
    ///
    /// # Errors
    /// [`EngineError::Failed`] with podman's own words, among them those for a blob the layout lacks.
    pub fn pull_layout(&self, parent: &Path, name: &str) -> Result<Digest, EngineError> {
        let mut command = self.command();
        command.current_dir(parent).args(["pull", "--quiet", &format!("oci:{name}")]);
        let id = self.finish(&mut command, LONG)?;
        let id = id.lines().last().unwrap_or_default().trim();
        Digest::from_hex(id).map_err(|error| EngineError::Answer {
            endpoint: self.program.clone(),
            what: "pull".to_owned(),
            detail: error.to_string(),
        })
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when there is no such image.
    pub fn tag(&self, image: &str, name: &str) -> Result<(), EngineError> {
        self.run(["tag", image, name], QUICK).map(|_| ())
    }

    /// Takes a name away from an image.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when it has no such name.
    pub fn untag(&self, image: &str, name: &str) -> Result<(), EngineError> {
        self.run(["untag", image, name], QUICK).map(|_| ())
    }

    /// Saves an image as an OCI layout directory.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when there is no such image.
    pub fn save_layout(&self, image: &str, directory: &Path) -> Result<(), EngineError> {
        let directory = directory.display().to_string();
        self.run(["save", "--quiet", "--format", "oci-dir", "--output", &directory, image], LONG).map(|_| ())
    }

    /// Serves its Docker-compatible API on a socket until the service is dropped, or nobody asks for [`IDLE`] seconds:
    /// it must not outlive us for long if we are killed.
    ///
    /// # Errors
    /// [`EngineError::Failed`] with podman's own words, [`EngineError::Unreachable`] when nothing listens after half a
    /// minute.
    pub fn serve(&self, socket: &Path) -> Result<Service, EngineError> {
        let address = format!("unix://{}", socket.display());
        let said = socket.with_extension("log");
        let unheard = |source| EngineError::Transfer { action: "listen to podman".to_owned(), source };
        let errors = fs::File::create(&said).map_err(unheard)?;
        let mut command = self.command();
        command.args(["system", "service", "--time", IDLE, &address]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.into_file());
        let mut group = Group::start(&mut command)
            .map_err(|source| process::RunError::Start { program: self.program.clone(), source })?;
        let began = Instant::now();
        loop {
            let Err(error) = std::os::unix::net::UnixStream::connect(socket) else {
                return Ok(Service { group, address });
            };
            if group.try_wait().is_ok_and(|it| it.is_some()) {
                let said = fs::read_to_string(&said).unwrap_or_default();
                return Err(failed(&format!("{} system service", self.program), said.trim()));
            }
            if began.elapsed() > Duration::from_secs(30) {
                return Err(EngineError::Unreachable { endpoint: address, source: Box::new(error) });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run<I, S>(&self, arguments: I, limit: Duration) -> Result<String, EngineError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = self.command();
        command.args(arguments);
        self.finish(&mut command, limit)
    }

    fn finish(&self, command: &mut Command, limit: Duration) -> Result<String, EngineError> {
        let verb = command.get_args().next().unwrap_or_default().to_string_lossy().into_owned();
        let output = process::run(command, limit)?;
        if output.status.success() {
            return Ok(output.text());
        }
        Err(failed(&format!("{} {verb}", self.program), &output.errors()))
    }
}

fn failed(command: &str, message: &str) -> EngineError {
    EngineError::Failed { command: command.to_owned(), message: crate::secret::mask_userinfo(message) }
}

/// Podman's API on a socket of ours; ends when dropped.
#[derive(Debug)]
pub struct Service {
    group: Group,
    address: String,
}

impl Service {
    /// Whether it has not ended, as it does by itself when nobody asks.
    pub fn is_up(&mut self) -> bool {
        self.group.try_wait().is_ok_and(|it| it.is_none())
    }

    /// A connection to it.
    ///
    /// # Errors
    /// As [`Docker::connect`].
    pub fn connect(&self) -> Result<Docker, EngineError> {
        Docker::connect(&Endpoint::plain(self.address.clone()))
    }
}
