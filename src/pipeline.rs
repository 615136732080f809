//! Task → Lock → layers → Image: the calls in their order. Read this first.
//!
//! [`lock`] pins everything a task asks for; [`build`] makes an image of a lock and reads nothing else. Both are plain
//! functions that may block; network and engines are asynchronous underneath and waited for here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::runtime::Handle;

use crate::base::{Around, Request};
use crate::digest::Digest;
use crate::error::{During, Failure};
use crate::git::Repositories;
use crate::image::{Assembly, Image, assemble};
use crate::launch::{self, Mode};
use crate::layer::BuiltLayer;
use crate::lock::code::{self, Sources};
use crate::lock::launch::{ArgumentPolicy, LaunchChoices};
use crate::lock::{FORMAT, Lock, SetupPart, VERSION};
use crate::oci::Platform;
use crate::python::indexes::Indexes;
use crate::task::Task;

mod base;
mod builds;
mod early;
mod ground;
mod layers;
mod look;
mod moving;
mod packages;
mod projects;
mod relock;

pub use packages::Choices as RequirementChoices;

/// What all work here is done with.
pub struct Workshop {
    /// The store, registries, the engine, the reporter.
    pub around: Around,
    /// Runs what is asynchronous.
    pub runtime: Handle,
    /// The git cache.
    pub repositories: Repositories,
    /// A directory of this machine to take the repository from.
    pub directory: Option<PathBuf>,
    /// Where the base of a lock lies, if it came from another machine's engine, layout or archive.
    pub base: Option<Request>,
    /// Package indexes.
    pub indexes: Indexes,
    /// How long an answer that may change is believed; zero asks anew.
    pub max_age: Duration,
    /// Whether what moves stands for what it stood for when it was asked last.
    pub locked: bool,
    /// The in-image binary that a lock names: this program's own, or that of an image to be verified.
    pub guest: Cow<'static, [u8]>,
}

impl Workshop {
    /// Waits for something asynchronous.
    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    fn sources(&self) -> Sources<'_> {
        Sources { repositories: &self.repositories, directory: self.directory.as_deref() }
    }
}

/// Looks at a base of which only its configuration is fetched; with it the layers that will be, with their sizes.
pub type Glance<'a> = &'a (dyn Fn(&Value, &[(Digest, u64)]) -> Result<(), Failure> + Sync);

/// What decides how a task is pinned, besides the task.
pub struct Wishes<'a> {
    /// The base image.
    pub base: Request,
    /// Whether the task itself names it: then it may be one that was made from a task.
    pub base_of_task: bool,
    /// Whether the configuration names it, whatever the task says: what a task carries says nothing of it then.
    pub forced: bool,
    /// Whether no earlier lock counts.
    pub anew: bool,
    /// Whether what the base's tag stands for is asked anew even so (`agent.docker_force_pull`).
    pub force_pull: bool,
    /// Whether it can be used at all; an error ends it before a layer is fetched.
    pub glance: Option<Glance<'a>>,
    /// Its platform.
    pub platform: Platform,
    /// The container arguments that count.
    pub arguments: Option<String>,
    /// What may stand in them.
    pub policy: ArgumentPolicy,
    /// What the image does without a command.
    pub mode: Mode,
    /// The interpreter's version, whatever the task records.
    pub python: Option<String>,
    /// System packages.
    pub apt: Vec<String>,
    /// Whether the original's libraries for opencv are wanted.
    pub opencv: bool,
    /// Whether the image carries bytecode.
    pub bytecode: bool,
    /// Whether the base's own distributions stay out of the environment.
    pub isolated: bool,
    /// Which requirements count, and where PyTorch comes from.
    pub requirements: RequirementChoices,
    /// Whether the section `Environment` becomes environment variables.
    pub task_environment: bool,
    /// Whether a script without `Task.init` gets one.
    pub force_task_init: bool,
    /// `created` in seconds since the epoch; absent: the commit's time.
    pub created: Option<i64>,
    /// Fetches artifacts of the task.
    pub artifact: &'a code::Artifact<'a>,
}

/// Pins everything a task asks for. What an earlier lock of the task has, and the task asks for as then, stands.
///
/// # Errors
/// Any stage's, naming it.
pub fn lock(shop: &Workshop, task: &Task, wishes: &Wishes<'_>) -> Result<Lock, Failure> {
    let reporter = &*shop.around.reporter;
    let elsewhere = code::is_elsewhere(&task.script.diff);
    let artifact = if elsewhere { (wishes.artifact)(code::DIFF_ARTIFACT).ok().flatten() } else { None };
    let again = |name: &str| artifact.clone().map_or_else(|| (wishes.artifact)(name), |it| Ok(Some(it)));
    let (earlier, met) = relock::Earlier::find(shop, task, wishes, artifact.as_deref())?;
    let choices = code::Choices { artifact: &again, force_task_init: wishes.force_task_init, reporter };
    // The repository and the base know nothing of each other.
    let (wish, kept) = (wishes.base_wish(), &earlier);
    let (floor, code) = thread::scope(|scope| {
        let floor = scope.spawn(move || kept.floor(shop, wish, met));
        let code = kept.code(shop, task, &choices);
        (floor.join(), code)
    });
    let (floor, code) = (floor.unwrap_or_else(|it| std::panic::resume_unwind(it))?, code?);
    let packages =
        packages::lock(shop, task, wishes, &packages::Below { floor: &floor, code: &code, earlier: &earlier })?;
    let is_file = |path: &str| code.has(path, earlier.lock.as_ref());
    let launch = crate::lock::launch::lock(
        task,
        code.part.as_ref(),
        &LaunchChoices {
            mode: wishes.mode,
            arguments: wishes.arguments.as_deref(),
            policy: &wishes.policy,
            task_environment: wishes.task_environment,
            is_file: code.part.is_some().then_some(&is_file),
        },
    )
    .during(|| "cannot tell how the task starts".to_owned())?;
    launch.warnings.iter().for_each(|it| reporter.warning(it));
    Ok(Lock {
        version: VERSION,
        format: FORMAT,
        created: wishes.created.or(code.created).unwrap_or(0),
        uv: packages.uv,
        guest: Digest::of(launch::guest_binary()),
        bytecode: wishes.bytecode,
        base: floor.part,
        python: packages.python,
        system: packages.system,
        setup: SetupPart::of(task),
        code: code.part,
        launch: launch.part,
        asked: Some(packages.asked),
    })
}

/// An image and how it came about.
#[derive(Debug)]
pub struct Built {
    /// The image.
    pub image: Image,
    /// Our layers, bottom first.
    pub layers: Vec<BuiltLayer>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Makes the image of a lock.
///
/// # Errors
/// Any layer's, naming it.
pub fn build(shop: &Workshop, lock: &Lock, labels: &BTreeMap<String, String>) -> Result<Built, Failure> {
    let start = Instant::now();
    let base = base::open(shop, &lock.base)?;
    early::before_build(shop, lock, &base)?;
    let layers = layers::build(shop, lock, &base)?;
    let image = assemble(&Assembly {
        base: &lock.base,
        base_config: &base.config,
        layers: &layers,
        start: &layers::start(lock, &base),
        labels,
        created: lock.created,
    });
    Ok(Built { image, layers, seconds: start.elapsed().as_secs_f64() })
}
