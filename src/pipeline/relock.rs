//! What stands of an earlier lock of the same task, and what is found anew.
//!
//! Two places have an earlier lock: the task itself, with which a run leaves it, and the image that the task names, if
//! that is one of ours. The task's own counts where it was made for the image that the task names now.

use std::cell::OnceCell;

use super::{Glance, Wishes, Workshop, base, early, look, moving};
use crate::base::{Base, Request};
use crate::digest::Digest;
use crate::error::{During, Explain, Failure, Kind};
use crate::git::{Address, Checkout, Wanted};
use crate::image::read;
use crate::lock::asked::{Asked, Choices, Standing, is_local};
use crate::lock::code::{self, Resolved, Sources};
use crate::lock::requirements::recorded;
use crate::lock::{BasePart, CodePart, Lock, SetupPart, Text};
use crate::oci::Platform;
use crate::python::inspect::Inspection;
use crate::system::recipe;
use crate::task::Task;

/// What was asked for now, and what an earlier lock has of it.
pub(super) struct Earlier {
    pub(super) asked: Asked,
    pub(super) lock: Option<Lock>,
    pub(super) standing: Standing,
}

/// Whether a base that a recipe makes is here; of any other, it is. Packages are unpacked by programs of this machine, so
/// which ones is nothing that a task may say: only who names a lock himself has a base made of what that lock pins.
fn is_made(shop: &Workshop, part: &BasePart) -> bool {
    let name = part.name.as_deref().unwrap_or_default().trim_start_matches("recipe:");
    let resolved = part.recipe.as_ref().map(|it| crate::lock::system::recipe(name, it));
    resolved.is_none_or(|it| recipe::is_made(&shop.around.store, &it))
}

/// An image stands on a base that another machine made.
#[derive(Debug, thiserror::Error)]
#[error("image `{image}` stands on a base that another machine made of packages, which is not here")]
struct MadeElsewhere {
    image: String,
}

impl Explain for MadeElsewhere {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn hints(&self) -> Vec<String> {
        vec![format!(
            "Where the image is trusted, build from its lock once: `agent inspect --lock-file agent.lock {}`, then `agent build --lock agent.lock`.",
            self.image
        )]
    }
}

/// A base that was found on the way.
pub(super) type Met = Option<(BasePart, Base)>;

/// What is asked of a base.
#[derive(Clone, Copy)]
pub(super) struct BaseWish<'a> {
    pub(super) request: &'a Request,
    pub(super) platform: &'a Platform,
    /// Whether system packages are to be solved on it.
    pub(super) solves: bool,
    /// Whether it can be used at all.
    pub(super) glance: Option<Glance<'a>>,
}

impl Earlier {
    /// Looks for an earlier lock. `artifact` holds the changes of a task that records them elsewhere.
    pub(super) fn find(
        shop: &Workshop,
        task: &Task,
        wishes: &Wishes<'_>,
        artifact: Option<&[u8]>,
    ) -> Result<(Self, Met), Failure> {
        let carried = if wishes.anew { None } else { carried(shop, task, wishes) };
        let mut earlier = Self::of(shop, task, wishes, (carried, artifact));
        let mut met = None;
        if wishes.base_of_task && !earlier.standing.base {
            match ours(shop, wishes)? {
                Named::Ours(lock) if !is_made(shop, &lock.base) => {
                    return Err(MadeElsewhere { image: wishes.base.to_string() }.into());
                }
                Named::Ours(mut lock) => {
                    lock.asks_for_its_commit();
                    shop.around.reporter.note(format!(
                        "`{}` was made from a task: its own base image counts, `{}`",
                        wishes.base,
                        lock.base.name.as_deref().unwrap_or("a local image")
                    ));
                    earlier = Self::of(shop, task, wishes, (Some(*lock), artifact));
                    // An image of ours is never the base of another, whatever is resolved anew.
                    let standing = if wishes.anew { Standing::default() } else { earlier.standing };
                    earlier.standing = Standing { base: true, ..standing };
                }
                Named::Other(it) => met = Some(*it),
                Named::Unknown => {}
            }
        }
        Ok((earlier, met))
    }

    fn of(shop: &Workshop, task: &Task, wishes: &Wishes<'_>, (lock, artifact): (Option<Lock>, Option<&[u8]>)) -> Self {
        // A clone has no artifacts: the changes that were fetched once are in the lock.
        let elsewhere = code::is_elsewhere(&task.script.diff);
        let kept = lock.as_ref().and_then(|it| it.code.as_ref()?.diff.as_ref()).filter(|_| elsewhere);
        let kept = kept.map(Text::bytes);
        let choices = wishes.choices(artifact.or(kept.as_deref()));
        let (asked, setup) = (Asked::of(task, &choices), SetupPart::of(task));
        let mut standing =
            lock.as_ref().map_or_else(Standing::default, |it| asked.standing(&choices, setup.as_ref(), it));
        // What a variable stands for may have changed.
        let requirements = &wishes.requirements;
        let text = recorded(&task.script.requirements, requirements.repository_first, requirements.original);
        standing.requirements &= !text.is_some_and(|it| it.contains("${"));
        let has = lock.as_ref().is_some_and(|it| {
            let here = it.base.source.is_some() || shop.around.store.has(&it.base.config).is_some();
            if it.base.recipe.is_some() { is_made(shop, &it.base) } else { here }
        });
        standing.base &= has && !is_local(&wishes.base) && !wishes.force_pull && !wishes.forced;
        Self { asked, lock, standing }
    }

    /// The base; what stands on another one than before does not stand.
    pub(super) fn floor(&self, shop: &Workshop, wish: BaseWish<'_>, met: Met) -> Result<Floor, Failure> {
        let mut standing = self.standing;
        if wish.solves && !standing.system {
            early::before_lock(shop)?;
        }
        let earlier = self.lock.as_ref().map(|it| &it.base);
        let (part, base) = match (earlier.filter(|_| standing.base), met) {
            (Some(part), _) => (part.clone(), OnceCell::new()),
            (None, Some((part, base))) => (part, OnceCell::from(base)),
            (None, None) => {
                if let Some(glance) = wish.glance
                    && let Some(config) = base::foretold(wish.request)?
                {
                    glance(&config, &[])?;
                }
                let (part, base) = base::lock(shop, wish.request, wish.platform)?;
                (part, OnceCell::from(base))
            }
        };
        let same = earlier.is_some_and(|it| {
            let diff_ids = |part: &BasePart| part.layers.iter().map(|it| it.diff_id).collect::<Vec<_>>();
            it.config == part.config && diff_ids(it) == diff_ids(&part)
        });
        standing.system &= same;
        standing.interpreter &= same;
        let floor = Floor { part, base, looked: OnceCell::new(), standing, same };
        if !(standing.system && standing.interpreter && standing.requirements) {
            let base = floor.base(shop)?;
            if let Some(glance) = wish.glance {
                let layers = base.pin.layers.iter().map(|it| (it.blob.digest, it.blob.size));
                let layers: Vec<_> = layers.filter(|_| look::remembered(shop, base).is_none()).collect();
                glance(&base.config, &layers)?;
            }
            if wish.solves && !standing.system {
                early::before_look(shop, base)?;
            }
            floor.looked(shop)?;
        }
        Ok(floor)
    }

    /// The code: that of the earlier lock, or resolved.
    pub(super) fn code(&self, shop: &Workshop, task: &Task, choices: &code::Choices<'_>) -> Result<Code, Failure> {
        let sources = &shop.sources();
        if let Some(lock) = self.lock.as_ref().filter(|_| self.standing.code) {
            keep(task, lock.code.as_ref(), sources);
            return Ok(Code {
                part: lock.code.clone(),
                created: Some(lock.created),
                stands: true,
                checkout: OnceCell::new(),
            });
        }
        let known = moving::known_revision(shop, &task.script);
        let Resolved { part, checkout, created } =
            code::resolve(known.as_ref().unwrap_or(&task.script), sources, choices)
                .during(|| "cannot have the task's code".to_owned())?;
        moving::keep_revision(shop, &task.script, part.as_ref())?;
        // Another commit may have the same files.
        let stands = self.lock.as_ref().is_some_and(|it| tree(it.code.as_ref()) == tree(part.as_ref()));
        Ok(Code { part, created, stands, checkout: OnceCell::from(checkout) })
    }
}

/// Has a commit in the cache that the lock has no address of: that of a directory, which other machines may see too.
/// Where they do not, the build says so, if it needs the files at all.
fn keep(task: &Task, part: Option<&CodePart>, sources: &Sources<'_>) {
    let git = part.and_then(|it| it.git.as_ref()).filter(|it| it.url.is_none() && sources.directory.is_none());
    let recorded = task.script.repository.as_deref().map(str::trim).map(Address::parse);
    if let (Some(git), Some(Ok(address))) = (git, recorded)
        && !matches!(sources.repositories.find(&git.commit), Ok(Some(_)))
    {
        drop(sources.repositories.fetch(&address, &Wanted::Commit(git.commit.clone())));
    }
}

fn tree(part: Option<&CodePart>) -> Option<Digest> {
    part.map(|it| it.tree)
}

/// The lock that the task carries, if it is of use here.
fn carried(shop: &Workshop, task: &Task, wishes: &Wishes<'_>) -> Option<Lock> {
    match Lock::of_task(task) {
        Ok(lock) => lock.filter(|it| {
            let (then, now) = (&it.base.platform, &wishes.platform);
            (&then.os, &then.architecture) == (&now.os, &now.architecture)
        }),
        Err(error) => {
            let failure = Failure::from(error);
            shop.around
                .reporter
                .warning(format!("the task's lock cannot be used, everything is resolved anew: {failure}"));
            None
        }
    }
}

/// What the image is that a task names.
enum Named {
    Ours(Box<Lock>),
    Other(Box<(BasePart, Base)>),
    /// Not looked for here.
    Unknown,
}

/// Tells an image of ours from a base, with the one request that a base takes anyway.
fn ours(shop: &Workshop, wishes: &Wishes<'_>) -> Result<Named, Failure> {
    let (around, request, platform) = (&shop.around, &wishes.base, &wishes.platform);
    let step = || format!("cannot read image `{request}`");
    if matches!(request, Request::Recipe(_)) {
        return Ok(Named::Unknown);
    }
    if !wishes.force_pull
        && let Some(found) = shop.wait(read::ours_here(around, request, platform)).during(step)?
    {
        return Ok(Named::Ours(Box::new(found.parsed_lock().during(step)?)));
    }
    let (part, base) = base::lock(shop, request, platform)?;
    if !read::is_ours(&base.config) {
        return Ok(Named::Other(Box::new((part, base))));
    }
    match shop.wait(read::of_base(around, base.clone(), request.to_string())) {
        Ok(found) => Ok(Named::Ours(Box::new(found.parsed_lock().during(step)?))),
        // Somebody else's image with an entry point of the same path.
        Err(read::ReadError::NotOurs { .. }) => Ok(Named::Other(Box::new((part, base)))),
        Err(error) => Err(error).during(step),
    }
}

/// The base, opened and looked into when somebody asks.
pub(super) struct Floor {
    pub(super) part: BasePart,
    base: OnceCell<Base>,
    looked: OnceCell<Inspection>,
    /// What stands on it.
    pub(super) standing: Standing,
    /// Whether it is the earlier lock's.
    pub(super) same: bool,
}

impl Floor {
    pub(super) fn base(&self, shop: &Workshop) -> Result<&Base, Failure> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let base = base::open(shop, &self.part)?;
        Ok(self.base.get_or_init(|| base))
    }

    pub(super) fn looked(&self, shop: &Workshop) -> Result<&Inspection, Failure> {
        if let Some(looked) = self.looked.get() {
            return Ok(looked);
        }
        let looked = look::look(shop, self.base(shop)?)?;
        Ok(self.looked.get_or_init(|| looked))
    }
}

/// The code, its files there when somebody asks.
pub(super) struct Code {
    pub(super) part: Option<CodePart>,
    /// When it was committed.
    pub(super) created: Option<i64>,
    /// Whether it is that of the earlier lock.
    pub(super) stands: bool,
    checkout: OnceCell<Checkout>,
}

impl Code {
    pub(super) fn checkout(&self, sources: &Sources<'_>) -> Result<&Checkout, Failure> {
        if let Some(checkout) = self.checkout.get() {
            return Ok(checkout);
        }
        let checkout = match &self.part {
            Some(part) => code::checkout(part, sources).during(|| "cannot have the task's code".to_owned())?,
            None => Checkout::default(),
        };
        Ok(self.checkout.get_or_init(|| checkout))
    }

    /// Whether a file is there. Of code that stands, and whose files nobody needed, only what was started then is known.
    pub(super) fn has(&self, path: &str, earlier: Option<&Lock>) -> bool {
        if let Some(checkout) = self.checkout.get() {
            return checkout.get(path).is_some();
        }
        earlier.is_some_and(|it| it.launch.starts(path))
    }
}

impl Wishes<'_> {
    /// What is asked of the base.
    pub(super) fn base_wish(&self) -> BaseWish<'_> {
        let solves = self.opencv || !self.apt.is_empty();
        BaseWish { request: &self.base, platform: &self.platform, solves, glance: self.glance }
    }

    fn choices<'a>(&'a self, diff: Option<&'a [u8]>) -> Choices<'a> {
        Choices {
            base: &self.base,
            platform: &self.platform,
            packages: &self.apt,
            opencv: self.opencv,
            python: self.python.as_deref(),
            isolated: self.isolated,
            repository_first: self.requirements.repository_first,
            original: self.requirements.original,
            force_task_init: self.force_task_init,
            diff,
        }
    }
}
