//! Images that were made for tasks and stand in an engine: which, and when each was last used. The engine keeps what it is
//! given for ever; here it is kept within bounds.
//!
//! ```text
//! <state>/images/<engine>
//! ├── tidy                   flock: held by whoever tidies up; mtime: when somebody last did
//! └── <task id>.json         the image that was made for a task here (format 1); mtime: when it was last used
//! ```
//!
//! What has no record was not made here and is never touched; nor is a name that means another image by now, an image
//! that a container uses, one of a unit that is not over, or one of the last hour: its task may be next. What the engine
//! does not remove now stays on record for the next time. Native runs have their images in the store, which has bounds
//! of its own.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::journal::{Journal, Phase};
use crate::clearml::tasks::is_id;
use crate::fs::{FileLock, Sharing, create_private_dir, write_whole};
use crate::run::{Engine, RunImage};

/// The version of a record.
const FORMAT: u32 = 1;
/// What was used so lately stays, however many there are.
const LATELY: Duration = Duration::from_secs(3600);
/// How often is tidied up.
const EVERY: Duration = Duration::from_secs(1800);

/// How many images an engine keeps, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// At most so many (`agent.task_images_max`).
    pub most: usize,
    /// None that was not used for so long (`agent.task_images_days`).
    pub unused: Duration,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    image: RunImage,
}

/// The images of one engine that were made here.
#[derive(Debug, Clone)]
pub struct Images {
    directory: PathBuf,
    bounds: Bounds,
}

/// What tidying up did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Names of images that were removed.
    pub removed: Vec<String>,
    /// What went wrong, for people.
    pub troubles: Vec<String>,
}

impl Images {
    /// Those of an engine, below a state directory.
    #[must_use]
    pub fn of(state: &Path, engine: &str, bounds: Bounds) -> Self {
        Self { directory: state.join("images").join(engine), bounds }
    }

    /// Notes that an image was used, if it is one that was made here, for whichever task.
    pub fn used(&self, image: &RunImage) {
        let task = image.name.strip_prefix("agent/task-").and_then(|it| it.strip_suffix(":latest"));
        if let Some(path) = task.filter(|it| is_id(it)).map(|it| self.path(it)) {
            // What cannot be marked is removed earlier, no more.
            let _ =
                fs::OpenOptions::new().append(true).open(path).and_then(|it| it.file().set_modified(SystemTime::now()));
        }
    }

    /// Notes that the image of a task was made.
    ///
    /// # Errors
    /// Whatever writing gives.
    pub fn made(&self, task: &str, image: &RunImage) -> io::Result<()> {
        create_private_dir(&self.directory)?;
        let record = Record { format: FORMAT, image: image.clone() };
        write_whole(&self.path(task), &serde_json::to_vec(&record)?, 0o600)
    }

    /// Removes what is too much, if it is time to and nobody else does.
    ///
    /// # Errors
    /// Whatever reading the records gives; a record that cannot be read is left alone.
    pub async fn tidy(&self, engine: &dyn Engine, journal: &Journal, now: SystemTime) -> io::Result<Tidied> {
        let mut tidied = Tidied::default();
        let stamp = self.directory.join("tidy");
        let done = fs::metadata(&stamp).and_then(|it| it.modified()).ok();
        let lately = done.and_then(|it| now.duration_since(it).ok()).is_some_and(|it| it < EVERY);
        if lately || !self.directory.exists() {
            return Ok(tidied);
        }
        let Some(lock) = FileLock::try_acquire(&stamp, Sharing::Exclusive)? else { return Ok(tidied) };
        lock.file().file().set_modified(now)?;
        let units = journal.all().map_err(io::Error::other)?.units.into_iter().filter(|it| it.phase != Phase::Done);
        let (tasks, images): (BTreeSet<String>, Vec<_>) = units.map(|it| (it.task, it.image.map(|it| it.name))).unzip();
        for (task, path) in self.superfluous(now)? {
            let Some(record) = read(&path)? else { continue };
            if tasks.contains(&task) || images.iter().flatten().any(|it| *it == record.image.name) {
                continue;
            }
            // Removing takes a while, and it may have been made or used again since.
            if is_fresh(&path, now) {
                continue;
            }
            match engine.discard(&record.image).await {
                Ok(true) => {
                    if !is_fresh(&path, now) {
                        fs::remove_file(&path)?;
                    }
                    tidied.removed.push(record.image.name);
                }
                Ok(false) => {}
                Err(failure) => tidied.troubles.push(format!("the image `{}` stays: {failure}", record.image.name)),
            }
        }
        Ok(tidied)
    }

    /// What is too old or too much, oldest first.
    fn superfluous(&self, now: SystemTime) -> io::Result<Vec<(String, PathBuf)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(task) = name.strip_suffix(".json").filter(|it| is_id(it)) else { continue };
            let used = match fs::metadata(&path).and_then(|it| it.modified()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                used => used?,
            };
            all.push((now.duration_since(used).unwrap_or_default(), task.to_owned(), path));
        }
        all.sort();
        let (most, unused) = (self.bounds.most, self.bounds.unused);
        let too_much = |(number, (age, ..)): &(usize, (Duration, String, PathBuf))| {
            *age >= LATELY && (*age >= unused || *number >= most)
        };
        let mut found: Vec<_> = all.into_iter().enumerate().filter(too_much).map(|(_, it)| (it.1, it.2)).collect();
        found.reverse();
        Ok(found)
    }

    fn path(&self, task: &str) -> PathBuf {
        self.directory.join(format!("{task}.json"))
    }
}

/// A record; nothing where it is gone, of another version or none at all.
fn read(path: &Path) -> io::Result<Option<Record>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice::<Record>(&bytes).ok().filter(|it| it.format == FORMAT)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a record was written or marked a moment ago, or since.
fn is_fresh(path: &Path, now: SystemTime) -> bool {
    let modified = fs::metadata(path).and_then(|it| it.modified());
    modified.is_ok_and(|it| now.duration_since(it).map_or(true, |age| age < LATELY))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::daemon::unit::Claim;
    use crate::digest::Digest;
    use crate::error::Failure;
    use crate::gpu::GpuSet;
    use crate::run::{Found, Outcome, RunId, RunSpec};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// An engine that only removes images, save those in use.
    #[derive(Default)]
    struct Shelf {
        used: Vec<String>,
        removed: Mutex<Vec<String>>,
    }

    impl Engine for Shelf {
        fn name(&self) -> &'static str {
            "docker"
        }

        fn prepare<'a>(&'a self, _: &'a RunImage) -> BoxFuture<'a, Result<(), Failure>> {
            unreachable!()
        }

        fn start<'a>(&'a self, _: &'a RunSpec) -> BoxFuture<'a, Result<(), Failure>> {
            unreachable!()
        }

        fn find<'a>(&'a self, _: &'a RunId) -> BoxFuture<'a, Result<Found, Failure>> {
            unreachable!()
        }

        fn wait<'a>(&'a self, _: &'a RunId) -> BoxFuture<'a, Result<Outcome, Failure>> {
            unreachable!()
        }

        fn stop<'a>(&'a self, _: &'a RunId, _: Duration) -> BoxFuture<'a, Result<(), Failure>> {
            unreachable!()
        }

        fn remove<'a>(&'a self, _: &'a RunId) -> BoxFuture<'a, Result<(), Failure>> {
            unreachable!()
        }

        fn runs(&self) -> BoxFuture<'_, Result<Vec<RunId>, Failure>> {
            unreachable!()
        }

        fn discard<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<bool, Failure>> {
            Box::pin(async {
                let free = !self.used.contains(&image.name);
                if free {
                    self.removed.lock().unwrap().push(image.name.clone());
                }
                Ok(free)
            })
        }
    }

    fn task(number: usize) -> String {
        format!("{number:032x}")
    }

    fn image(number: usize) -> RunImage {
        let digest = Digest::of(number.to_string());
        RunImage { name: format!("agent/task-{}:latest", task(number)), manifest: digest, config: digest }
    }

    fn names(numbers: &[usize]) -> Vec<String> {
        numbers.iter().map(|it| image(*it).name).collect()
    }

    #[tokio::test]
    async fn the_oldest_go_and_what_is_used_or_of_a_unit_stays() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let images = Images::of(dir.path(), "docker", Bounds { most: 3, unused: 30 * DAY });
        let now = SystemTime::now();
        // The number says how many days ago it was used.
        for number in [0, 1, 2, 3, 4, 5, 40] {
            images.made(&task(number), &image(number)).unwrap();
            let file = fs::File::options().append(true).open(images.path(&task(number))).unwrap();
            file.file().set_modified(now - DAY * u32::try_from(number).unwrap()).unwrap();
        }
        let claim = Claim {
            task: task(4),
            queue: None,
            worker: "w".to_owned(),
            parent: None,
            gpus: GpuSet::default(),
            tags: Vec::new(),
            attempt: 0,
            run: RunId::new().unwrap(),
        };
        journal.intend(&claim, "docker", "here").unwrap();
        let engine = Shelf { used: names(&[5]), ..Shelf::default() };
        let tidied = images.tidy(&engine, &journal, now).await.unwrap();
        assert_eq!((tidied.removed, tidied.troubles.len()), (names(&[40, 3]), 0));
        // Used again, by whoever: it is the newest.
        images.used(&image(2));
        images.used(&RunImage { name: "mine:1".to_owned(), ..image(2) });
        // Not again so soon, and then what could not be removed before.
        let engine = Shelf::default();
        assert_eq!(images.tidy(&engine, &journal, now + EVERY / 2).await.unwrap(), Tidied::default());
        assert_eq!(images.tidy(&engine, &journal, now + EVERY).await.unwrap().removed, names(&[5]));
        assert!(images.path(&task(2)).exists());
    }

    #[tokio::test]
    async fn what_was_made_lately_stays_however_much_it_is_and_what_is_no_record_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let images = Images::of(dir.path(), "docker", Bounds { most: 0, unused: Duration::ZERO });
        let now = SystemTime::now();
        assert_eq!(images.tidy(&Shelf::default(), &journal, now).await.unwrap(), Tidied::default());
        for number in 0..4 {
            images.made(&task(number), &image(number)).unwrap();
        }
        fs::write(images.path(&task(9)), "{}").unwrap();
        assert_eq!(images.tidy(&Shelf::default(), &journal, now).await.unwrap().removed, names(&[]));
        let later = images.tidy(&Shelf::default(), &journal, now + 2 * LATELY).await.unwrap();
        assert_eq!(later.removed.len(), 4);
        assert!(images.path(&task(9)).exists());
    }
}
