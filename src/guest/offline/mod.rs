//! A run without a server: the SDK is answered on loopback from the task record, and what it writes is kept.
//!
//! ```text
//! <journal>
//! ├── task.json        the task as the program left it
//! ├── calls.jsonl      every call that writes, in order: {"endpoint", "body"}
//! ├── events.jsonl     every event: scalars, plots, console lines of the SDK
//! ├── console.log      what the program printed
//! └── files/…          uploaded artifacts and models, by their path
//! ```
//!
//! The directory is the one that was asked for, else what is mounted at `/opt/agent/journal`, else one that ends with the
//! container, which is told.
//!
//! The answers are a server's, as far as one task alone in the world needs them; what is asked of other tasks, queues
//! or models finds nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fs_err as fs;
use serde_json::Value;

use super::child::Program;
use super::console::{Console, Keep, Recorder};
use super::environment::Variables;
use super::settings::Settings;
use super::supervise::{Ended, Signals, supervise};
use super::{GuestError, environment, parameters};
use crate::clearml::events::Level;
use crate::digest::Digest;
use crate::launch::JOURNAL;

mod answers;
mod journal;
mod serve;

use answers::Answers;
use journal::Journal;

/// How long a program's pipes may stay open after its end.
const LEFT_OPEN: Duration = Duration::from_secs(1);

/// Runs the task to its end.
pub(super) async fn run(settings: &Settings) -> Result<Ended, GuestError> {
    let mut task = settings.record.clone();
    if !task.is_object() {
        task = serde_json::json!({});
    }
    let id = settings.task.clone().unwrap_or_else(|| made_up_id(&settings.record));
    parameters::apply(&mut task, &settings.set);
    let journal = open_journal(settings, &id);
    let recorder = recorder(journal.as_deref());
    tell_what_is_missing(settings, &recorder);
    let answers = Answers::new(id.clone(), &settings.launch.name, task);
    let place = Rc::new(serve::Place {
        answers: Mutex::new(answers),
        journal: Journal::new(journal.clone()),
        files: journal.as_ref().map(|it| it.join("files")),
    });
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let ports = serve::listen(&place).await.map_err(GuestError::Loopback)?;
            let mut variables = environment::task(settings, &id);
            environment::offline(&mut variables, &ports.api, &ports.files);
            report_without_process(settings, &mut variables);
            let mut signals = Signals::listen()?;
            let mut child = Program::of_task(&settings.launch, variables).start()?;
            let console = child.pipes.take().map(|it| Console::start(it, &recorder, None));
            let (_sender, mut stop) = tokio::sync::mpsc::channel(1);
            let ended = supervise(&child, &mut signals, &mut stop, settings.grace).await;
            if let Some(console) = console {
                console.finish(LEFT_OPEN).await;
            }
            place.keep_task();
            if let Some(journal) = &journal {
                let place = shown(settings, journal);
                super::tell(&format!("agent: ran without a server; what the SDK wrote is in {place}\n"));
            }
            Ok(ended)
        })
        .await
}

/// A task without an id of a server gets the same one each time.
fn made_up_id(record: &Value) -> String {
    Digest::of(record.to_string()).hex()[..32].to_owned()
}

/// Reports come from a thread of the program, not from a process beside it, for which the SDK waits ten seconds at the
/// end, whoever answers. A clearml.conf that says otherwise counts more.
fn report_without_process(settings: &Settings, variables: &mut Variables) {
    const PATH: &str = "CLEARML_CONFIG_PATH";
    if variables.contains_key(OsStr::new(PATH)) || variables.contains_key(OsStr::new("TRAINS_CONFIG_PATH")) {
        return;
    }
    let written = |directory: &PathBuf| {
        fs::create_dir_all(directory.join("default"))?;
        fs::write(directory.join("default/sdk.conf"), "development { report_use_subprocess: false }\n")
    };
    let mut places = settings.passing_journals.iter().map(|it| it.with_file_name("agent-sdk"));
    if let Some(directory) = places.find(|it| written(it).is_ok()) {
        variables.insert(PATH.into(), directory.into());
    }
}

/// The journal's directory, made; what is wrong with it, told.
fn open_journal(settings: &Settings, id: &str) -> Option<PathBuf> {
    for directory in &settings.journals {
        match begin(directory, id) {
            Ok(()) => return Some(directory.clone()),
            Err(error) => {
                let user = rustix::process::getuid().as_raw();
                let place = shown(settings, directory);
                super::tell(&format!(
                    "agent: warning: user {user} cannot keep what the SDK writes in {place}: {error}\n"
                ));
            }
        }
    }
    let found = settings.passing_journals.iter().find(|it| begin(it, id).is_ok());
    super::tell(&match found {
        Some(_) => format!(
            "agent: without a server; what the SDK writes ends with the container, unless a directory is mounted: \
             -v DIR:{JOURNAL}\n"
        ),
        None => {
            "agent: warning: no directory is writable: what the SDK writes is not kept (see --journal)\n".to_owned()
        }
    });
    found.cloned()
}

fn begin(directory: &Path, id: &str) -> std::io::Result<()> {
    fs::create_dir_all(directory.join("files"))?;
    fs::write(directory.join("task.json"), format!("{{\"id\":\"{id}\"}}\n"))
}

/// What a journal's directory is called where the one who started the run is.
fn shown(settings: &Settings, directory: &Path) -> String {
    let outside = settings.environment.get("AGENT_JOURNAL_SHOWN").filter(|_| directory == Path::new(JOURNAL));
    outside.map_or_else(|| directory.display().to_string(), str::to_owned)
}

fn recorder(journal: Option<&Path>) -> Arc<Recorder> {
    let file = journal.and_then(|it| Recorder::to_file(&it.join("console.log")).ok());
    file.unwrap_or_else(|| Recorder::new(Keep::Nowhere))
}

fn tell_what_is_missing(settings: &Settings, recorder: &Recorder) {
    let secrets = settings.missing_secrets();
    if !secrets.is_empty() {
        let text = format!("these secrets of the task were not given (-e NAME=VALUE): {}", secrets.join(", "));
        recorder.note(Level::Warning, &text);
    }
    let secret = settings.missing_parameters();
    if !secret.is_empty() {
        let text = format!("these secret parameters were not given (--set NAME=VALUE): {}", secret.join(", "));
        recorder.note(Level::Warning, &text);
    }
}
