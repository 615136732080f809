//! What is built from sources in a sandbox on a task's ground: with what, and where it is fetched from.

use std::cell::RefCell;
use std::path::Path;

use super::ground::Ground;
use super::{Workshop, packages};
use crate::error::{During, Explain, Failure, Kind};
use crate::git::{Address, Wanted};
use crate::lock::PythonPart;
use crate::lock::python::{self, Building, Memory, Torch};
use crate::lock::requirements::Gathered;
use crate::python::build::{Bench, Needs};
use crate::python::indexes::Indexes;
use crate::python::inspect::Interpreter;
use crate::python::pinned::PinnedWheel;
use crate::python::source::{Git, Supplies};
use crate::python::tags::Libc;
use crate::sandbox::{Output, Sandbox, Step};

/// A repository of another machine.
#[derive(Debug, thiserror::Error)]
#[error("commit `{commit}` was built from a repository of another machine, and is not in the git cache")]
struct Elsewhere {
    commit: String,
}

impl Explain for Elsewhere {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn hints(&self) -> Vec<String> {
        vec!["Push that repository to a server, name its address in the requirements and lock anew.".to_owned()]
    }
}

/// Where builds are done.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) ground: Ground<'a>,
    pub(super) interpreter: &'a Interpreter,
    pub(super) libc: &'a str,
    pub(super) indexes: &'a Indexes,
    pub(super) constraints: &'a [String],
}

impl Site<'_> {
    fn architecture(&self) -> &str {
        &self.ground.part.platform.architecture
    }

    /// Works with what builds are done with, or with nothing where wheels of this C library are unknown. The ground is
    /// built and a sandbox opened when the first step runs, and not otherwise.
    pub(super) fn with<T>(
        &self,
        shop: &Workshop,
        work: impl FnOnce(Option<Building<'_>>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (store, reporter) = (&shop.around.store, &shop.around.reporter);
        let Some(libc) = Libc::parse(self.libc) else { return work(None) };
        let opened = RefCell::new(None);
        let run = |step: &Step| -> Result<Output, Failure> {
            let mut opened = opened.borrow_mut();
            let sandbox = match opened.take() {
                Some(sandbox) => sandbox,
                None => self.open(shop)?,
            };
            let mut step = step.clone();
            // As on the base itself, but for what would bring other modules into a build.
            for (name, value) in self.ground.base.env().into_iter().filter(|it| !it.0.starts_with("PYTHON")) {
                step.env.entry(name).or_insert(value);
            }
            let output = sandbox.run(&step, &**reporter);
            *opened = Some(sandbox);
            Ok(output?)
        };
        let tools = |needs: Needs<'_>| self.tools(shop, needs);
        let check_out = |git: &Git, commit: Option<&str>, to: &Path| check_out(shop, git, commit, to);
        let bench = Bench {
            store,
            executable: &self.interpreter.executable,
            version: &self.interpreter.version,
            interpreter: self.interpreter.digest,
            below: self.ground.key(),
            tools: &tools,
            run: &run,
            reporter: &**reporter,
        };
        let supplies = Supplies {
            indexes: self.indexes,
            platform: (libc, self.architecture()),
            constraints: self.constraints,
            check_out: &check_out,
            reporter,
        };
        work(Some((&bench, &supplies)))
    }

    fn open(&self, shop: &Workshop) -> Result<Sandbox, Failure> {
        let store = &shop.around.store;
        crate::sandbox::choose(store)?;
        Ok(Sandbox::open(store, &self.ground.blobs(shop)?, &*shop.around.reporter)?)
    }

    /// The wheels of a build backend and of what it needs, in the store.
    fn tools(&self, shop: &Workshop, needs: Needs<'_>) -> Result<Vec<PinnedWheel>, Failure> {
        let step = || "cannot have what a build requires".to_owned();
        let part = match needs {
            Needs::Requirements(requires) => {
                let place = python::Ground {
                    interpreter: self.interpreter,
                    libc: self.libc,
                    architecture: self.architecture(),
                    installed: &[],
                    isolated: true,
                };
                let gathered = Gathered { requirements: requires.to_vec(), ..Gathered::default() };
                let memory = Memory { now: packages::now(), max_age: shop.max_age.as_secs() };
                let places = (self.indexes, Torch::Plain);
                python::resolve(&shop.around.store, (&place, &gathered), places, memory, &shop.around.reporter)
                    .during(step)?
                    .0
            }
            Needs::Pinned(tools) => PythonPart::of_wheels(self.interpreter, self.libc, tools),
        };
        packages::fetch_with(shop, &part, (self.indexes, self.architecture())).during(step)?;
        Ok(part.distributions.into_iter().map(PinnedWheel::from).collect())
    }
}

/// The interpreter that a part pins.
pub(super) fn interpreter(part: &PythonPart) -> Interpreter {
    Interpreter {
        version: part.version.clone(),
        executable: part.executable.clone(),
        digest: part.digest,
        complete: true,
        paths: Vec::new(),
        extra_paths: Vec::new(),
    }
}

/// Builds what a part pins by a wheel that came out of a build, and that the store has not.
pub(super) fn rebuild(shop: &Workshop, ground: Ground<'_>, part: &PythonPart) -> Result<(), Failure> {
    if !python::must_rebuild(&shop.around.store, part) {
        return Ok(());
    }
    let interpreter = interpreter(part);
    let indexes = &shop.indexes;
    let site = Site { ground, interpreter: &interpreter, libc: &part.libc, indexes, constraints: &[] };
    site.with(shop, |building| building.map_or(Ok(()), |it| python::rebuild(it, part)))
        .during(|| "cannot build Python distributions again".to_owned())
}

/// Writes a repository's files into a directory, at a commit or else at its revision: its commit.
fn check_out(shop: &Workshop, git: &Git, commit: Option<&str>, to: &Path) -> Result<String, Failure> {
    let cached = |id: &str| shop.repositories.find(id);
    let commit = match commit {
        Some(id) if git.is_local() => cached(id)?.ok_or_else(|| Elsewhere { commit: id.to_owned() })?,
        Some(id) => {
            let address = Address::parse(git.address.reveal())?;
            match shop.repositories.fetch(&address, &Wanted::Commit(id.to_owned())) {
                Ok(commit) => commit,
                Err(error) => cached(id)?.ok_or(error)?,
            }
        }
        None => {
            let address = Address::parse(git.address.reveal())?;
            let fetch = |wanted: Wanted| shop.repositories.fetch(&address, &wanted);
            // A revision is a commit, a tag or a branch; only the repository knows which.
            match &git.revision {
                Some(it) => fetch(Wanted::Tag(it.clone()))
                    .or_else(|_| fetch(Wanted::Branch(it.clone())))
                    .or_else(|_| fetch(Wanted::Commit(it.clone())))?,
                None => fetch(Wanted::Default)?,
            }
        }
    };
    let tree = shop.repositories.tree(&commit, None)?;
    shop.repositories.checkout(tree)?.write_to("", to)?;
    Ok(commit.id)
}
