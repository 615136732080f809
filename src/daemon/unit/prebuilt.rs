//! `--prebuilt-only`: only tasks whose own image is what they ask for now may run here.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{Executor, Interruption, Unit};
use crate::base::Around;
use crate::clearml::tasks;
use crate::config::Environment;
use crate::daemon::prebuilt::{self, Prebuilt};
use crate::engine::Docker;
use crate::error::Failure;
use crate::registry;
use crate::store::Store;
use crate::task::clearml;

/// What came of looking at a task's image.
pub(super) enum Looked {
    Allowed,
    Refused(Failure),
    Interrupted(Interruption),
}

impl Unit {
    /// Whether the task may run here, by the image it names.
    pub(super) async fn is_allowed(&self) -> Looked {
        if !self.executor.settings.prebuilt_only {
            return Looked::Allowed;
        }
        self.say("looking at the task's image");
        let (executor, task) = (Arc::clone(&self.executor), self.record().task.clone());
        let runtime = Handle::current();
        let compared = tokio::task::spawn_blocking(move || runtime.block_on(compare(&executor, &task)));
        tokio::select! {
            compared = compared => match compared.unwrap_or_else(|error| Err(std::io::Error::other(error).into())) {
                Ok(()) => Looked::Allowed,
                Err(failure) => Looked::Refused(failure),
            },
            interruption = self.interrupted() => Looked::Interrupted(interruption),
        }
    }
}

async fn compare(executor: &Executor, task: &str) -> Result<(), Failure> {
    let answer = tasks::get(&executor.client, task).await?;
    let task = clearml::parse(&answer)?;
    let image = task.container.image.clone();
    let found = match &image {
        Some(image) => {
            let force = Environment::current().get("CLEARML_AGENT_FORCE_TASK_INIT").is_some_and(|it| it != "0");
            prebuilt::check(&around(executor)?, &task, image, (&executor.settings.agent, force)).await?
        }
        None => Prebuilt::NotOurs,
    };
    found.only(image.as_deref())?;
    Ok(())
}

fn around(executor: &Executor) -> Result<Around, Failure> {
    let settings =
        registry::Settings { credentials: registry::auth::Sources::of_process(), ..registry::Settings::default() };
    Ok(Around {
        store: Store::open(&Store::default_path())?,
        registry: registry::Client::new(settings)?,
        docker: Docker::connect_default().ok(),
        reporter: Arc::clone(&executor.reporter),
    })
}
