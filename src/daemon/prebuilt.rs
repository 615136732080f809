//! Tasks whose container names an image that was made from a task: whether it is what the task asks for now.
//!
//! Compared is what decides the image: code, requirements, interpreter, system packages, setup script, variables.
//! Parameters come from the server when the image runs. An image that differs is built again on its own base, by
//! `agent build`, which finds that base and whatever stands in the same lock.

use std::time::Duration;

use serde_json::Value;

use crate::base::{Around, Pin, Request};
use crate::config::{Agent, Environment};
use crate::digest::Digest;
use crate::engine::EngineError;
use crate::error::{Explain, Failure, Kind};
use crate::image::read::{self, Found, ReadError};
use crate::launch::Mode;
use crate::lock::asked::{Asked, Choices};
use crate::lock::launch::LaunchChoices;
use crate::lock::{CodePart, LaunchPart, Lock, SetupPart};
use crate::oci::{Platform, Reference};
use crate::run::EngineKind;
use crate::run::choice::Counted;
use crate::run::policy::of_configuration;

/// How long an engine may take to say whether it has an image.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is looked at, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The task, its container as it counts here.
    pub counted: &'a Counted,
    /// The `agent` section.
    pub agent: &'a Agent,
    /// `CLEARML_AGENT_FORCE_TASK_INIT`.
    pub force_task_init: bool,
    /// What is to run the image.
    pub engine: EngineKind,
    /// Whether no registry may be asked (`--standalone-mode`).
    pub offline: bool,
}

/// An image of ours, and where a run can have it from.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// Its configuration, as far as the place tells it.
    pub config: Value,
    /// Where it is.
    pub place: Place,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the engine, under a name, as this.
    Engine {
        /// The name.
        name: String,
        /// The engine's id of it.
        id: Digest,
    },
    /// In the store, built here under this name.
    Store(Reference, Pin),
    /// In a registry, at a digest.
    Registry(Pin),
}

/// What an image is to a task.
#[derive(Debug)]
#[must_use]
pub enum Prebuilt {
    /// What the task asks for: it runs as it is.
    Same {
        /// The image's own lock, with the container arguments that the task has now.
        lock: Box<Lock>,
        /// Where it is.
        ready: Box<Ready>,
    },
    /// Made from a task that asked for something else.
    Differs {
        /// What differs, for people: `code`, `requirements`.
        what: Vec<&'static str>,
        /// The image's lock.
        lock: Box<Lock>,
    },
    /// A base like any other.
    NotOurs,
}

/// A task that is not to be built here.
#[derive(Debug, thiserror::Error)]
pub enum PrebuiltError {
    /// Its image was made from something else.
    #[error("image `{image}` is not what the task asks for now ({what}), and only images as they are may run here")]
    Differs {
        /// The image.
        image: String,
        /// What differs.
        what: String,
    },
    /// Its image is a base, or it names none.
    #[error("the task names no image that was made from a task ({named}), and only such images may run here")]
    NotOurs {
        /// What it names, for people.
        named: String,
    },
}

impl Explain for PrebuiltError {
    fn kind(&self) -> Kind {
        Kind::Unsatisfiable
    }

    fn hints(&self) -> Vec<String> {
        vec![
            "Build it and name it in the task: agent build --id <task> --entry-point reuse_task --target <image> --push \
             --update-task"
                .to_owned(),
            "Or let the daemon build: leave out --prebuilt-only.".to_owned(),
        ]
    }
}

impl Prebuilt {
    /// An image that runs as it is, with its lock; what `--prebuilt-only` says of any other.
    ///
    /// # Errors
    /// [`PrebuiltError`]
    pub fn only(self, image: Option<&str>) -> Result<(Box<Lock>, Box<Ready>), PrebuiltError> {
        match self {
            Self::Same { lock, ready } => Ok((lock, ready)),
            Self::Differs { what, .. } => {
                Err(PrebuiltError::Differs { image: image.unwrap_or_default().to_owned(), what: what.join(", ") })
            }
            Self::NotOurs => Err(PrebuiltError::NotOurs {
                named: image.map_or_else(|| "none at all".to_owned(), |it| format!("`{it}`")),
            }),
        }
    }
}

/// Looks at the image that a task names.
///
/// # Errors
/// What reading the image gives; an image of others is no error.
pub async fn check(around: &Around, question: Question<'_>) -> Result<Prebuilt, Failure> {
    let choice = &question.counted.choice;
    if !choice.of_task {
        return Ok(Prebuilt::NotOurs);
    }
    let request: Request = choice.image.parse()?;
    if is_known_base(&question, &request) {
        return Ok(Prebuilt::NotOurs);
    }
    match find(around, &request, &question).await? {
        Some((found, place)) => {
            let lock = found.parsed_lock()?;
            compare(lock, Ready { config: found.config, place }, &request, &question)
        }
        None => Ok(Prebuilt::NotOurs),
    }
}

/// Whether the task carries the lock of an earlier run, for which this very image was a base: then nobody is asked.
fn is_known_base(question: &Question<'_>, request: &Request) -> bool {
    let (Request::Image(reference), task) = (request, &question.counted.task) else { return false };
    let carried = Lock::of_task(task).ok().flatten().filter(|_| !question.counted.forced);
    let asked = |it: &Asked| with_choices(question, request, None, |choices| it.base == Asked::of(task, choices).base);
    carried.is_some_and(|it| it.base.name == Some(reference.to_string()) && it.asked.as_ref().is_some_and(asked))
}

/// An image of ours of that name, and where it is: in the engine that is to run it, in the store, in its registry. None
/// where the name means another one.
async fn find(around: &Around, request: &Request, question: &Question<'_>) -> Result<Option<(Found, Place)>, Failure> {
    let native = question.engine == EngineKind::Native;
    let name = match request {
        Request::Image(reference) => reference.familiar(),
        Request::Docker(name) => name.clone(),
        // What lies in files or is made by a recipe is a base.
        _ => return Ok(None),
    };
    let asked_anew = question.agent.force_pull && !question.offline && matches!(request, Request::Image(_));
    if !asked_anew {
        if native && let Some(found) = in_store(around, request).await? {
            return Ok(Some(found));
        }
        match in_engine(around, &name, question.engine).await? {
            Here::Ours(found) => return Ok(Some(*found)),
            Here::Other => return Ok(None),
            Here::Absent => {}
        }
        if !native && let Some(found) = in_store(around, request).await? {
            return Ok(Some(found));
        }
    }
    if !matches!(request, Request::Image(_)) || question.offline {
        return Ok(None);
    }
    let base = crate::base::find(around, request, &Platform::host()).await?;
    if !read::is_ours(&base.config) || base.pin.source.is_none() {
        return Ok(None);
    }
    let place = Place::Registry(base.pin.clone());
    match read::of_base(around, base, request.to_string()).await {
        Ok(found) => Ok(Some((found, place))),
        Err(ReadError::NotOurs { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn in_store(around: &Around, request: &Request) -> Result<Option<(Found, Place)>, Failure> {
    let Request::Image(reference) = request else { return Ok(None) };
    let Some(pin) = read::built_here(around, request).await? else { return Ok(None) };
    // What was collected meanwhile may still be in a registry.
    let Ok(base) = crate::base::reopen(around, &pin).await else { return Ok(None) };
    let Ok(found) = read::of_base(around, base, request.to_string()).await else { return Ok(None) };
    Ok(Some((found, Place::Store(reference.clone(), pin))))
}

/// What an engine has under a name.
enum Here {
    Ours(Box<(Found, Place)>),
    Other,
    Absent,
}

async fn in_engine(around: &Around, name: &str, engine: EngineKind) -> Result<Here, Failure> {
    let Some(docker) = &around.docker else { return Ok(Here::Absent) };
    // A short name means Docker's own registry to Podman, whose own images are named `localhost/…`.
    let own = (engine == EngineKind::Podman && !name.contains('/')).then(|| format!("localhost/{name}"));
    for name in own.into_iter().chain([name.to_owned()]) {
        // One that takes questions and says nothing has no image for us.
        let asked = tokio::time::timeout(PATIENCE, docker.image(&name)).await;
        let Ok(asked) = asked else { return Ok(Here::Absent) };
        let image = match asked {
            Ok(Some(image)) => image,
            Ok(None) => continue,
            // Without an engine there is still a registry.
            Err(EngineError::Unreachable { .. }) if engine == EngineKind::Native => return Ok(Here::Absent),
            Err(error) => return Err(error.into()),
        };
        if !read::is_ours(&docker.image_config(&name).await?) {
            return Ok(Here::Other);
        }
        return match read::of_engine(docker, &name, &Platform::host()).await {
            Ok(Some(found)) => Ok(Here::Ours(Box::new((found, Place::Engine { name, id: image.id })))),
            Ok(None) | Err(ReadError::NotOurs { .. }) => Ok(Here::Other),
            Err(error) => Err(error.into()),
        };
    }
    Ok(Here::Absent)
}

fn with_choices<T>(
    question: &Question<'_>,
    request: &Request,
    diff: Option<&[u8]>,
    work: impl FnOnce(&Choices<'_>) -> T,
) -> T {
    let agent = question.agent;
    work(&Choices {
        base: request,
        platform: &Platform::host(),
        packages: &agent.apt_packages,
        // A convenience of builds here; the image has what was wanted where it was built.
        opencv: false,
        python: None,
        isolated: false,
        repository_first: agent.repository_requirements,
        original: agent.original_requirements,
        force_task_init: question.force_task_init,
        diff,
    })
}

/// Compares what a task asks for with what an image was made of.
fn compare(mut lock: Lock, ready: Ready, request: &Request, question: &Question<'_>) -> Result<Prebuilt, Failure> {
    let task = &question.counted.task;
    lock.asks_for_its_commit();
    let carried = Lock::of_task(task).ok().flatten();
    let of_artifact = crate::lock::code::is_elsewhere(&task.script.diff);
    let diff = lock.code.as_ref().and_then(|it| it.diff.as_ref()).filter(|_| of_artifact).map(crate::lock::Text::bytes);
    let setup = SetupPart::of(task);
    let mut standing = with_choices(question, request, diff.as_deref(), |choices| {
        let asked = Asked::of(task, choices);
        let mut standing = asked.standing(choices, setup.as_ref(), &lock);
        // A run of the image wrote back what it pins: that lock knows both ways of asking.
        if let Some(carried) = carried.filter(|it| it.python == lock.python) {
            standing.requirements |= asked.standing(choices, setup.as_ref(), &carried).requirements;
        }
        standing
    });
    standing.base = true;
    let mut what = standing.differences();
    // Only this mode runs the task itself: a clone would be another task than the one that was taken.
    if lock.launch.mode != Mode::ReuseTask {
        what.push("what it starts");
    }
    if standing.code {
        let launch = launch(question, &lock)?;
        if (&launch.env, &launch.secrets) != (&lock.launch.env, &lock.launch.secrets) {
            what.push("environment variables");
        }
        lock.launch.container_arguments = launch.container_arguments;
    }
    let (lock, ready) = (Box::new(lock), Box::new(ready));
    Ok(if what.is_empty() { Prebuilt::Same { lock, ready } } else { Prebuilt::Differs { what, lock } })
}

/// How the task starts now; the code has not changed, so what was a file then is one now.
fn launch(question: &Question<'_>, lock: &Lock) -> Result<LaunchPart, Failure> {
    let (counted, agent) = (question.counted, question.agent);
    // As the build reads it: else its variables would never be those of the image.
    let policy = of_configuration(agent, &Environment::current())?;
    let code: Option<&CodePart> = lock.code.as_ref();
    let is_file = |path: &str| lock.launch.starts(path);
    let choices = LaunchChoices {
        mode: lock.launch.mode,
        arguments: counted.carried.as_deref(),
        policy: &policy,
        task_environment: agent.task_environment,
        is_file: code.is_some().then_some(&is_file),
    };
    Ok(crate::lock::launch::lock(&counted.task, code, &choices)?.part)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;
    use crate::run::choice::ImageChoice;
    use crate::task::{Task, clearml};

    fn agent() -> Agent {
        Config::from_text("test", "agent { docker_install_opencv_libs: false }", &Environment::default())
            .unwrap()
            .agent()
            .unwrap()
    }

    fn recorded() -> Value {
        json!({
            "id": "ab", "name": "n",
            "script": {"entry_point": "train.py", "diff": "print(1)", "requirements": {"pip": "six\n"}},
            "container": {"image": "team/train:1", "arguments": "--ipc host -e A=1"},
            "hyperparams": {"Args": {"x": {"value": "1"}}},
        })
    }

    fn task(change: impl FnOnce(&mut Value)) -> Task {
        let mut task = recorded();
        change(&mut task);
        clearml::parse(&task).unwrap()
    }

    /// The lock of an image made of the recorded task.
    fn lock(mode: &str) -> Lock {
        let digest = Digest::of("x");
        let text = format!(
            "version = 2\nformat = {format}\ncreated = 1\nguest = \"{digest}\"\nbytecode = true\n\
             [base]\nconfig = \"{digest}\"\nplatform = {{ os = \"linux\", architecture = \"amd64\" }}\nlayers = []\n\
             [python]\nversion = \"3.11.2\"\nexecutable = \"/usr/bin/python3.11\"\nlibc = \"glibc 2.36\"\n\
             digest = \"{digest}\"\nsite_packages = true\ndistributions = []\n\
             [code]\ntree = \"{digest}\"\n[code.script]\nfile = \"train.py\"\n\
             text = {{ sha256 = \"{script}\", text = \"print(1)\" }}\n\
             [launch]\nmode = \"{mode}\"\nname = \"n\"\nentry_point = [\"train.py\"]\nworking_dir = \"\"\n\
             env = {{ A = \"1\" }}\nrecord = {{ sha256 = \"{digest}\", text = \"x\" }}\n",
            format = crate::lock::FORMAT,
            script = Digest::of("print(1)"),
        );
        let mut lock = Lock::parse("test", &text, |_| unreachable!()).unwrap();
        let (task, base) = (task(|_| {}), "python:3.11".parse().unwrap());
        lock.asked = Some(Asked::of(
            &task,
            &Choices {
                base: &base,
                platform: &Platform::host(),
                packages: &[],
                opencv: false,
                python: None,
                isolated: false,
                repository_first: false,
                original: false,
                force_task_init: false,
                diff: None,
            },
        ));
        lock
    }

    fn counted(task: Task) -> Counted {
        let (image, arguments) = (task.container.image.clone().unwrap(), task.container.arguments.clone());
        let choice = ImageChoice { image, arguments: arguments.clone(), of_task: true };
        Counted { task, choice, carried: arguments, forced: false, own: true }
    }

    fn of(lock: Lock, change: impl FnOnce(&mut Value)) -> Prebuilt {
        let (counted, agent, request) = (counted(task(change)), agent(), "team/train:1".parse().unwrap());
        let question = Question {
            counted: &counted,
            agent: &agent,
            force_task_init: false,
            engine: EngineKind::Docker,
            offline: false,
        };
        let place = Place::Engine { name: "team/train:1".to_owned(), id: Digest::of("image") };
        compare(lock, Ready { config: Value::Null, place }, &request, &question).unwrap()
    }

    fn compared(mode: &str, change: impl FnOnce(&mut Value)) -> Prebuilt {
        of(lock(mode), change)
    }

    #[test]
    fn parameters_and_arguments_of_the_run_need_no_other_image() {
        let changed = compared("reuse_task", |it| {
            it["id"] = json!("cd");
            it["name"] = json!("a clone");
            it["hyperparams"]["Args"]["x"]["value"] = json!("2");
            it["container"]["arguments"] = json!("--ipc private -e A=1");
        });
        let Prebuilt::Same { lock, .. } = changed else { panic!("{changed:?}") };
        assert_eq!(lock.launch.container_arguments.as_deref(), Some("--ipc private"));
    }

    #[test]
    fn arguments_of_an_image_are_nothing_to_a_task() {
        let mut lock = lock("reuse_task");
        lock.launch.container_arguments = Some("--privileged -v /:/host".to_owned());
        let found = of(lock, |it| it["container"]["arguments"] = json!("-e A=1"));
        let Prebuilt::Same { lock, .. } = found else { panic!("{found:?}") };
        assert_eq!(lock.launch.container_arguments, None);
    }

    #[test]
    fn a_base_that_an_earlier_run_stood_on_is_known_as_one() {
        let (agent, request) = (agent(), "team/train:1".parse().unwrap());
        let known = |base: &str| {
            let mut task = task(|_| {});
            let is_known = |task: &Task, lock: Option<Lock>| {
                let counted = counted(Task { lock: lock.and_then(|it| it.carried()), ..task.clone() });
                let question = Question {
                    counted: &counted,
                    agent: &agent,
                    force_task_init: false,
                    engine: EngineKind::Native,
                    offline: false,
                };
                let asked = with_choices(&question, &request, None, |it| Asked::of(task, it));
                (is_known_base(&question, &request), asked)
            };
            let mut lock = lock("reuse_task");
            lock.base.name = Some(base.to_owned());
            lock.asked = Some(is_known(&task, None).1);
            task.name = "the same again".to_owned();
            is_known(&task, Some(lock)).0
        };
        assert!(known("docker.io/team/train:1"));
        // Built again on the base of an image of ours: that image may be what is asked for once more.
        assert!(!known("docker.io/library/python:3.11"));
    }

    #[track_caller]
    fn differs(change: impl FnOnce(&mut Value), expected: &[&str]) {
        let Prebuilt::Differs { what, .. } = compared("reuse_task", change) else { panic!("the same") };
        assert_eq!(what, expected);
    }

    #[test]
    fn what_the_image_was_made_of_is_compared() {
        differs(|it| it["script"]["diff"] = json!("print(2)"), &["code"]);
        differs(|it| it["script"]["requirements"]["pip"] = json!("numpy"), &["requirements"]);
        differs(|it| it["container"]["setup_shell_script"] = json!("true"), &["setup script"]);
        differs(|it| it["container"]["arguments"] = json!("-e A=2"), &["environment variables"]);
        let environment = compared("environment", |_| {});
        let error = environment.only(Some("team/train:1")).unwrap_err();
        assert!(
            error.to_string().contains("`team/train:1` is not what the task asks for now (what it starts)"),
            "{error}"
        );
        assert!(Prebuilt::NotOurs.only(None).unwrap_err().to_string().contains("none at all"));
    }
}
