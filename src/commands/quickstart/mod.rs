//! `agent quickstart`: the whole road once, on a sample task, with nothing prepared.
//!
//! The embedded server runs in this process, on data that stay; the task is recorded by the public SDK; every step that
//! is a command of this program is run as one and shown, so that all of it can be repeated by hand. Nothing is decided
//! here that the commands do not decide for anyone.

mod record;
mod sample;
mod show;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;
use serde_json::json;

use super::{Context, blocking};
use crate::clearml::{Client, Login, Server};
use crate::digest::Digest;
use crate::error::{During, Explain, Failure, Kind};
use crate::process::{self, RunError};
use crate::python::uv::Uv;
use crate::server::{self, ServerSettings};
use crate::store::Store;
use crate::system::sources::Release;
use crate::ui::Ui;

/// The image's name in an engine.
const IMAGE: &str = "quickstart:latest";

/// Why the quick start stops.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// A file of its own cannot be written or read.
    #[error("cannot prepare the quick start")]
    Io(#[from] std::io::Error),
    /// A program is missing or hangs.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A program failed.
    #[error("`{command}` failed:\n{output}")]
    Program {
        /// What was run.
        command: String,
        /// What it said.
        output: String,
    },
    /// A command of this program failed; it has said why.
    #[error("`{command}` ended with exit code {code}")]
    Step {
        /// What was run.
        command: String,
        /// How it ended.
        code: i32,
    },
    /// The build's own report cannot be read.
    #[error("`{path}` does not name the image's digest")]
    Metadata {
        /// The report.
        path: PathBuf,
    },
    /// Two builds of one lock differ.
    #[error("the image built again is {again}, the first was {first}")]
    Differs {
        /// The first build.
        first: Digest,
        /// The second.
        again: Digest,
    },
}

impl Explain for QuickstartError {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            Self::Run(error) => error.kind(),
            Self::Program { .. } | Self::Step { .. } => Kind::System,
            Self::Metadata { .. } | Self::Differs { .. } => Kind::Internal,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Run(RunError::Start { program, .. }) => vec![format!("Install `{program}` and put it on PATH.")],
            Self::Program { command, .. } if command.starts_with("uv ") => {
                vec!["The SDK needs a Python: on Debian, apt-get install python3.".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Records, builds, runs, shows and builds again.
///
/// # Errors
/// Whatever a step gives, with the step's name.
pub(super) async fn run(context: &Context) -> Result<u8, Failure> {
    let ui = &context.ui;
    let directory = directory(context);
    fs::create_dir_all(&directory).map_err(QuickstartError::Io)?;
    let title = |number: u8, text: &str| ui.print(&format!("\n[{number}/6] {text}\n"));

    title(1, "An embedded ClearML server")?;
    let server = server::serve(&ServerSettings::local(&directory.join("server"))).await?;
    ui.print(&format!("{}, its data in {}", server.api_url, directory.join("server").display()))?;

    title(2, "A task, recorded by the public clearml SDK")?;
    let (id, printed) = {
        let (directory, config, reporter) = (directory.clone(), server.config_path.clone(), ui.reporter());
        let work = move || -> Result<(String, String), Failure> {
            let store = Store::open(&Store::default_path())?;
            let uv = Uv::find(&store, &reporter)?;
            let tree = sample::write(&directory)?;
            reporter.note("installing the SDK, once");
            let python = record::environment(&uv, &directory, &tree.join("requirements.txt"))?;
            reporter.note(format!("running {} in {}", sample::SCRIPT, tree.display()));
            Ok(record::record(&python, &tree, &config)?)
        };
        blocking(work).await.during(|| "cannot record the sample task".to_owned())?
    };
    ui.print(&printed)?;

    title(3, "Its image")?;
    let docker = docker_runs().await;
    let steps = Steps { ui, config: &server.config_path };
    let (lock, metadata) = (directory.join("agent.lock"), directory.join("metadata.json"));
    let layout = directory.join("image");
    let (lock_path, metadata_path) = (text(&lock), text(&metadata));
    let mut build = vec!["build", "--id", &id, "--docker", base(), "--force-docker", "--entry-point", "reuse_task"];
    build.extend(["--target", IMAGE, "--lock-file", &lock_path, "--metadata-file", &metadata_path]);
    let output = format!("type=oci,dest={}", layout.display());
    if !docker {
        build.extend(["-o", &output]);
    }
    steps.agent(&build).await?;
    let first = digest_in(&metadata)?;

    title(4, if docker { "The task runs again, in Docker" } else { "The task runs again, natively" })?;
    let image = if docker { IMAGE.to_owned() } else { format!("oci:{}", layout.display()) };
    let client = client(&server)?;
    // What the recording left on the server would stand among the results of this run.
    client.call("tasks.reset", &json!({ "task": id, "force": true })).await?;
    if docker {
        steps.docker(&image).await?;
    } else {
        steps.agent(&["run", &image]).await?;
    }

    title(5, "The task as the server has it now")?;
    ui.print(&show::task(&client, &id).await?)?;

    title(6, "The image once more, every layer of ours made anew")?;
    let (again, twin) = (directory.join("metadata-again.json"), directory.join("image-again"));
    let (output, again_path) = (format!("type=oci,dest={}", twin.display()), text(&again));
    let rebuild = ["build", "--no-cache", "--target", IMAGE, "--lock", &lock_path, "--metadata-file", &again_path];
    steps.agent(&[&rebuild[..], &["-o", &output]].concat()).await?;
    let second = digest_in(&again)?;
    if first != second {
        return Err(QuickstartError::Differs { first, again: second }.into());
    }
    ui.print(&format!("\nthe same image, bit for bit: {first}"))?;
    ui.print(&go_on(&directory, &server.config_path, &id, &image, docker))?;
    server.stop().await;
    Ok(0)
}

/// Where the quick start keeps its server's data, the sample and what was built.
fn directory(context: &Context) -> PathBuf {
    let set = context.session.environment.get("XDG_DATA_HOME").map(PathBuf::from);
    set.unwrap_or_else(|| crate::fs::expand_home("~/.local/share")).join("agent/quickstart")
}

/// The base: made from this machine's own packages where that can be, else one that a registry has.
fn base() -> &'static str {
    if ["debian", "ubuntu"].contains(&&*Release::host().id) { "recipe:debian-python" } else { "python:3.12-slim" }
}

fn client(server: &server::Running) -> Result<Client, Failure> {
    let address = |text: &str| text.parse().map_err(|_| QuickstartError::Io(std::io::Error::other(text.to_owned())));
    let server = Server {
        api: address(&server.api_url)?,
        web: None,
        files: Some(address(&server.files_url)?),
        login: Login::Keys(server.credentials.clone()),
        verify: true,
    };
    Ok(Client::new(server, "quickstart", crate::http::Retry::default())?)
}

/// The manifest's digest in what `--metadata-file` wrote.
fn digest_in(path: &Path) -> Result<Digest, QuickstartError> {
    let missing = || QuickstartError::Metadata { path: path.to_owned() };
    let value: serde_json::Value = serde_json::from_slice(&fs::read(path)?).map_err(|_| missing())?;
    value["containerimage.digest"].as_str().and_then(|it| it.parse().ok()).ok_or_else(missing)
}

/// Whether the docker program is there and its engine answers.
async fn docker_runs() -> bool {
    let ask = || {
        let mut command = Command::new("docker");
        process::run(command.args(["version", "--format", "{{.Server.Version}}"]), Duration::from_secs(20))
    };
    matches!(tokio::task::spawn_blocking(ask).await, Ok(Ok(output)) if output.status.success())
}

/// Nothing but this server's configuration may decide whom a program speaks to.
fn alone(command: &mut Command, config: &Path) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CLEARML_") || text.starts_with("TRAINS_") {
            command.env_remove(&name);
        }
    }
    command.env("CLEARML_CONFIG_FILE", config);
    // A proxy must not be asked for what listens on this machine.
    for name in ["no_proxy", "NO_PROXY"] {
        let own = std::env::var(name).unwrap_or_default();
        command.env(name, [own.as_str(), "127.0.0.1,localhost"].join(",").trim_start_matches(','));
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs commands where people see them.
struct Steps<'a> {
    ui: &'a Ui,
    config: &'a Path,
}

impl Steps<'_> {
    /// A command of this program.
    async fn agent(&self, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = Command::new(std::env::current_exe().map_err(QuickstartError::Io)?);
        alone(&mut command, self.config);
        self.watch("agent", arguments, command).await
    }

    /// `docker run` with the server's configuration lent to it: credentials are in no command line.
    async fn docker(&self, image: &str) -> Result<(), Failure> {
        let volume = format!("{}:/clearml.conf:ro", self.config.display());
        let mut command = Command::new("docker");
        alone(&mut command, self.config);
        self.watch("docker", &["run", "--rm", "--network", "host", "-v", &volume, image], command).await
    }

    /// Says what is run and runs it, its output where ours goes.
    async fn watch(&self, name: &str, arguments: &[&str], mut command: Command) -> Result<(), Failure> {
        let shown = process::command_line(&[&[name], arguments].concat());
        self.ui.print(&format!("$ {shown}\n"))?;
        command.args(arguments);
        let mut command = tokio::process::Command::from(command);
        let status = command.stdin(std::process::Stdio::null()).kill_on_drop(true).status().await;
        let status = status.map_err(|source| RunError::Start { program: name.to_owned(), source })?;
        if status.success() {
            return Ok(());
        }
        Err(QuickstartError::Step { command: shown, code: process::exit_code(status) }.into())
    }
}

/// The commands to go on with.
fn go_on(directory: &Path, config: &Path, id: &str, image: &str, docker: bool) -> String {
    let data = process::command_line(&[text(&directory.join("server"))]);
    let config = process::command_line(&[text(config)]);
    let offline = if docker {
        format!("docker run --rm {image} --set General/steps=5")
    } else {
        format!("agent run --offline --set General/steps=5 {image}")
    };
    let output = if docker { "" } else { " -o type=oci,dest=mine" };
    format!(
        "\nGo on with:\n\
         \x20 agent inspect {image}\n\
         \x20 agent verify {image}\n\
         \x20 {offline}\n\
         \x20 agent server --data {data}\n\
         \x20 CLEARML_CONFIG_FILE={config} agent build --id {id} --docker {} --target mine{output}",
        base()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_to_go_on_with_name_what_was_made() {
        let text = go_on(Path::new("/d"), Path::new("/d/server/clearml.conf"), "0f", "oci:/d/image", false);
        assert!(text.contains("agent run --offline --set General/steps=5 oci:/d/image"));
        assert!(text.contains("CLEARML_CONFIG_FILE=/d/server/clearml.conf agent build --id 0f"));
    }
}
