//! What units share, and the images that their engine keeps for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clearml::Client;
use crate::daemon::engines;
use crate::daemon::images::Images;
use crate::daemon::journal::Journal;
use crate::daemon::settings::ExecutionSettings;
use crate::report::SharedReporter;
use crate::run::{Engine, RunImage};

/// What units share.
#[derive(Clone)]
pub struct Executor {
    /// How tasks are executed.
    pub settings: ExecutionSettings,
    /// The server.
    pub client: Client,
    /// What runs images.
    pub engine: Arc<dyn Engine>,
    /// Opens the engines of units that an earlier process began in another.
    pub open: engines::Open,
    /// Where units are written down.
    pub journal: Journal,
    /// This program, which builds images as a process of its own.
    pub program: PathBuf,
    /// Who hears how builds go on.
    pub reporter: SharedReporter,
}

impl Executor {
    /// Notes that an image was made; its engine keeps it for a while then.
    pub(super) fn keep(&self, task: &str, image: &RunImage) {
        if let Err(error) = self.images().made(task, image) {
            self.reporter.warning(format!("the image `{}` is not noted and will stay: {error}", image.name));
        }
    }

    /// Removes images from the engine that nobody uses any more, within a while. Done beside what else goes on, and cut
    /// short without harm: what is not removed now is another time.
    pub async fn tidy(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.tidy_up()).await;
    }

    async fn tidy_up(&self) {
        let now = std::time::SystemTime::now();
        match self.images().tidy(&*self.engine, &self.journal, now).await {
            Ok(tidied) => {
                let removed = |it: &String| self.reporter.note(format!("the image `{it}` was not used any more"));
                tidied.removed.iter().for_each(removed);
                tidied.troubles.into_iter().for_each(|it| self.reporter.note(it));
            }
            Err(error) => self.reporter.warning(format!("cannot look for images that nobody uses: {error}")),
        }
    }

    pub(super) fn images(&self) -> Images {
        Images::of(&self.settings.state, self.engine.name(), self.settings.images)
    }
}
