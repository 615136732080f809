//! Tasks whose container names an image that was made from a task: whether it is what the task asks for now.
//!
//! Compared is what decides the image: code, requirements, interpreter, system packages, setup script, variables.
//! Parameters come from the server when the image runs. An image that differs is built again on its own base, by
//! `agent build`, which finds that base and whatever stands in the same lock.

use crate::base::{Around, Request};
use crate::config::{Agent, Environment};
use crate::error::{Explain, Failure, Kind};
use crate::image::read::{self, ReadError};
use crate::launch::Mode;
use crate::lock::asked::{Asked, Choices};
use crate::lock::launch::LaunchChoices;
use crate::lock::{CodePart, LaunchPart, Lock, SetupPart};
use crate::oci::Platform;
use crate::run::policy::of_configuration;
use crate::task::Task;

/// What an image is to a task.
#[derive(Debug)]
#[must_use]
pub enum Prebuilt {
    /// What the task asks for: it runs as it is. The lock is the image's own, with the container arguments that the task
    /// has now.
    Same(Box<Lock>),
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
    /// The lock of an image that runs as it is; what `--prebuilt-only` says of any other.
    ///
    /// # Errors
    /// [`PrebuiltError`]
    pub fn only(self, image: Option<&str>) -> Result<Box<Lock>, PrebuiltError> {
        match self {
            Self::Same(lock) => Ok(lock),
            Self::Differs { what, .. } => {
                Err(PrebuiltError::Differs { image: image.unwrap_or_default().to_owned(), what: what.join(", ") })
            }
            Self::NotOurs => Err(PrebuiltError::NotOurs {
                named: image.map_or_else(|| "none at all".to_owned(), |it| format!("`{it}`")),
            }),
        }
    }
}

/// Looks at the image that a task names. `force_task_init` is `CLEARML_AGENT_FORCE_TASK_INIT`.
///
/// # Errors
/// What reading the image gives; an image of others is no error.
pub async fn check(
    around: &Around,
    task: &Task,
    image: &str,
    (agent, force_task_init): (&Agent, bool),
) -> Result<Prebuilt, Failure> {
    let request: Request = image.parse()?;
    if matches!(request, Request::Recipe(_)) {
        return Ok(Prebuilt::NotOurs);
    }
    let platform = Platform::host();
    let here = if agent.force_pull { None } else { read::ours_here(around, &request, &platform).await? };
    let found = match here {
        Some(found) => found,
        None => {
            let base = crate::base::find(around, &request, &platform).await?;
            if !read::is_ours(&base.config) {
                return Ok(Prebuilt::NotOurs);
            }
            match read::of_base(around, base, request.to_string()).await {
                Ok(found) => found,
                Err(ReadError::NotOurs { .. }) => return Ok(Prebuilt::NotOurs),
                Err(error) => return Err(error.into()),
            }
        }
    };
    compare(task, found.parsed_lock()?, &request, (agent, force_task_init))
}

/// Compares what a task asks for with what an image was made of.
fn compare(
    task: &Task,
    mut lock: Lock,
    request: &Request,
    (agent, force_task_init): (&Agent, bool),
) -> Result<Prebuilt, Failure> {
    let carried = Lock::of_task(task).ok().flatten();
    let of_artifact = crate::lock::code::is_elsewhere(&task.script.diff);
    let diff = lock.code.as_ref().and_then(|it| it.diff.as_ref()).filter(|_| of_artifact).map(crate::lock::Text::bytes);
    let choices = Choices {
        base: request,
        platform: &Platform::host(),
        packages: &agent.apt_packages,
        // A convenience of builds here; the image has what was wanted where it was built.
        opencv: false,
        python: None,
        isolated: false,
        repository_first: agent.repository_requirements,
        original: agent.original_requirements,
        force_task_init,
        diff: diff.as_deref(),
    };
    let (asked, setup) = (Asked::of(task, &choices), SetupPart::of(task));
    let mut standing = asked.standing(&choices, setup.as_ref(), &lock);
    // A run of the image wrote back what it pins: that lock knows both ways of asking.
    if let Some(carried) = carried.filter(|it| it.python == lock.python) {
        standing.requirements |= asked.standing(&choices, setup.as_ref(), &carried).requirements;
    }
    standing.base = true;
    let mut what = standing.differences();
    // Only this mode runs the task itself: a clone would be another task than the one that was taken.
    if lock.launch.mode != Mode::ReuseTask {
        what.push("what it starts");
    }
    if standing.code {
        let launch = launch(task, &lock, agent)?;
        if (&launch.env, &launch.secrets) != (&lock.launch.env, &lock.launch.secrets) {
            what.push("environment variables");
        }
        lock.launch.container_arguments = launch.container_arguments;
    }
    let lock = Box::new(lock);
    Ok(if what.is_empty() { Prebuilt::Same(lock) } else { Prebuilt::Differs { what, lock } })
}

/// How the task starts now; the code has not changed, so what was a file then is one now.
fn launch(task: &Task, lock: &Lock, agent: &Agent) -> Result<LaunchPart, Failure> {
    // As the build reads it: else its variables would never be those of the image.
    let policy = of_configuration(agent, &Environment::current())?;
    let code: Option<&CodePart> = lock.code.as_ref();
    let is_file = |path: &str| lock.launch.starts(path);
    let choices = LaunchChoices {
        mode: lock.launch.mode,
        arguments: task.container.arguments.as_deref(),
        policy: &policy,
        task_environment: agent.task_environment,
        is_file: code.is_some().then_some(&is_file),
    };
    Ok(crate::lock::launch::lock(task, code, &choices)?.part)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;
    use crate::digest::Digest;
    use crate::task::clearml;

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

    fn compared(mode: &str, change: impl FnOnce(&mut Value)) -> Prebuilt {
        compare(&task(change), lock(mode), &"team/train:1".parse().unwrap(), (&agent(), false)).unwrap()
    }

    #[test]
    fn parameters_and_arguments_of_the_run_need_no_other_image() {
        let changed = compared("reuse_task", |it| {
            it["id"] = json!("cd");
            it["name"] = json!("a clone");
            it["hyperparams"]["Args"]["x"]["value"] = json!("2");
            it["container"]["arguments"] = json!("--ipc private -e A=1");
        });
        let Prebuilt::Same(lock) = changed else { panic!("{changed:?}") };
        assert_eq!(lock.launch.container_arguments.as_deref(), Some("--ipc private"));
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
