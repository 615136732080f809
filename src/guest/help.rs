//! `docker run IMAGE --help`.

use serde_json::Value;

use super::parameters;
use crate::launch::{Launch, Mode};

/// How to use this image.
pub(super) fn text(launch: &Launch, record: &Value) -> String {
    let mut text = what(launch);
    text.push_str("\nUSAGE\n  docker run [DOCKER OPTIONS] IMAGE");
    if launch.mode == Mode::Environment {
        text.push_str(" COMMAND…       runs the command with the Python environment active\n");
        return text;
    }
    text.push_str(
        " [OPTIONS]      runs the task\n  \
         docker run [DOCKER OPTIONS] IMAGE COMMAND…       runs a command with the Python environment active\n\n\
         OPTIONS\n  \
         --set SECTION/NAME=VALUE   changes a hyperparameter; may be given several times\n  \
         --task ID                  runs this task of the server with the image's code and packages\n  \
         --force                    runs the task although another worker does\n  \
         --offline                  runs without a server, whatever credentials there are\n  \
         --journal DIR              offline: where to keep what the SDK writes\n  \
         --help, --version\n\n\
         SERVER\n  \
         Credentials come when the image is run, never with it: -e CLEARML_API_HOST=… -e CLEARML_API_ACCESS_KEY=…\n  \
         -e CLEARML_API_SECRET_KEY=…, or -e CLEARML_AUTH_TOKEN=…, or a file: -v ~/clearml.conf:/clearml.conf:ro\n  \
         (-e CLEARML_CONFIG_FILE names another place). With none of these the task runs offline: recorded parameters\n  \
         count as with a server, and what the SDK writes is kept in a directory that is mounted at /opt/agent/journal\n  \
         (-v \"$PWD/results\":/opt/agent/journal); in another with --journal or -e AGENT_JOURNAL. `agent run IMAGE` keeps it\n  \
         in ~/.local/share/agent/offline.\n",
    );
    section(&mut text, "SECRETS that the task needs (-e NAME=VALUE)", &launch.secrets);
    let secret: Vec<String> = launch.secret_parameters.iter().map(|it| format!("--set {it}=VALUE")).collect();
    section(&mut text, "SECRET PARAMETERS, not in this image", &secret);
    let parameters: Vec<String> =
        parameters::list(record).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    section(&mut text, "RECORDED PARAMETERS", &parameters);
    text
}

fn what(launch: &Launch) -> String {
    let task = match &launch.task {
        Some(id) => format!("`{}` ({id})", launch.name),
        None => format!("`{}`", launch.name),
    };
    match launch.mode {
        Mode::Environment => format!("The environment of the ClearML task {task}.\n"),
        Mode::ReuseTask => format!("The ClearML task {task}: running this image runs the task itself.\n"),
        Mode::CloneTask => format!("The ClearML task {task}: running this image runs a clone of it.\n"),
    }
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        text.push_str(&format!("\n{title}\n"));
        for line in lines {
            text.push_str(&format!("  {line}\n"));
        }
    }
}
