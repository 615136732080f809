//! What of a resolution is built: what requirements name by address, and what only has sources.

use std::path::Path;

use url::Url;

use super::{PythonError, name_of};
use crate::digest::Digest;
use crate::error::Failure;
use crate::lock::requirements::WheelRequest;
use crate::lock::{BuiltFrom, PythonPart};
use crate::python::build::Bench;
use crate::python::name::{WheelName, normalise};
use crate::python::resolve::{Hashes, ResolveError};
use crate::python::source::{self, Built, Git, Source, Supplies};
use crate::secret::Secret;
use crate::store::Store;

/// What builds are done with.
pub type Building<'a> = (&'a Bench<'a>, &'a Supplies<'a>);

/// What was built for a resolution.
pub(super) struct Builds<'a> {
    pub(super) store: &'a Store,
    pub(super) building: Option<Building<'a>>,
    /// Where the resolver finds it.
    pub(super) links: &'a Path,
    pub(super) built: Vec<Built>,
    /// Which files of a distribution may be taken; what was built may.
    pub(super) hashes: Hashes,
}

impl Builds<'_> {
    /// Builds what a requirement names by address: the requirement that this wheel and no other fulfils.
    pub(super) fn named(&mut self, asked: &Secret) -> Result<String, Failure> {
        let text = asked.reveal();
        let (head, address) = match text.split_once('@').filter(|it| !it.0.contains([':', '/'])) {
            Some((head, address)) if !text.starts_with("git@") => (head.trim(), address.trim()),
            _ => ("", text),
        };
        let (address, marker) = address.split_once(" ;").map_or((address, None), |it| (it.0.trim(), Some(it.1)));
        let source = match Git::parse(address) {
            Some(git) => Source::Git(git),
            None => Source::Archive(Secret::new(address)),
        };
        let name = head.split('[').next().unwrap_or_default();
        let built = self.build(&source, &normalise(name))?;
        if let (Source::Git(git), Some((bench, _))) = (&source, self.building)
            && git.is_local()
        {
            bench.reporter.warning(format!(
                "`{}` is a repository of this machine: the lock has its commit and its wheel, not where it lies, and can be built where the store has one of them",
                built.from.requirement
            ));
        }
        let extras = head.find('[').map_or("", |it| &head[it..]);
        let marker = marker.map(|it| format!(" ;{it}")).unwrap_or_default();
        let path = self.links.join(&built.wheel.file);
        let address = Url::from_file_path(&path).map_err(|()| PythonError::Unbuilt(built.from.requirement.clone()))?;
        Ok(format!("{}{extras} @ {address}{marker}", built.wheel.name))
    }

    /// The requirement that a wheel of the repository fulfils.
    pub(super) fn here(&self, wheel: &WheelRequest) -> Result<String, Failure> {
        let file = wheel.path.rsplit('/').next().unwrap_or_default();
        let unread = || PythonError::Unread(wheel.path.clone());
        let name = WheelName::parse(file).ok_or_else(unread)?.name;
        let path = self.links.join(file);
        fs_err::copy(self.store.blob_path(&wheel.digest.ok_or_else(unread)?), &path).map_err(PythonError::Runtime)?;
        let address = Url::from_file_path(&path).map_err(|()| unread())?;
        let marker = if wheel.marker.is_empty() { String::new() } else { format!(" ; {}", wheel.marker) };
        Ok(format!("{name}{} @ {address}{marker}", wheel.extras))
    }

    /// Builds what a resolution lacked; its error where there is nothing to build.
    pub(super) fn supply(&mut self, error: PythonError, requirements: &[String]) -> Result<(), Failure> {
        let unbuilt = match &error {
            PythonError::Resolve(ResolveError::Unsatisfiable { unbuilt, .. }) if self.building.is_some() => {
                unbuilt.clone()
            }
            _ => return Err(error.into()),
        };
        let known = |name: &str| self.built.iter().any(|it| it.wheel.name == name);
        let fresh: Vec<String> = unbuilt.into_iter().map(|it| normalise(&it)).filter(|it| !known(it)).collect();
        if fresh.is_empty() {
            return Err(error.into());
        }
        for name in fresh {
            let asked = requirements.iter().find(|it| normalise(name_of(it)) == name);
            let asked = asked.map_or(name.as_str(), |it| it.split(';').next().unwrap_or(it).trim());
            self.build(&Source::Requirement(asked.to_owned()), &name)?;
        }
        Ok(())
    }

    fn build(&mut self, source: &Source, name: &str) -> Result<Built, Failure> {
        let Some((bench, supplies)) = self.building else {
            return Err(PythonError::Unbuilt(source::label(source)).into());
        };
        let built = source::build(bench, supplies, source, self.hashes.get(name))?;
        if let Some(allowed) = self.hashes.get_mut(&built.wheel.name) {
            allowed.insert(built.wheel.wheel);
        }
        fs_err::copy(self.store.blob_path(&built.wheel.wheel), self.links.join(&built.wheel.file))
            .map_err(PythonError::Runtime)?;
        self.built.push(built.clone());
        Ok(built)
    }

    /// What a wheel was built from, if it was.
    pub(super) fn origin(&self, wheel: &Digest) -> Option<BuiltFrom> {
        self.built.iter().find(|it| it.wheel.wheel == *wheel).map(|it| it.from.clone())
    }
}

/// Whether a part has wheels that only a build can bring into the store.
#[must_use]
pub fn must_rebuild(store: &Store, part: &PythonPart) -> bool {
    part.distributions.iter().any(|it| it.built_from.is_some() && store.has(&it.sha256).is_none())
}

/// Builds again what a part pins by the wheel that came out of a build, where the store has not got that wheel.
///
/// # Errors
/// [`crate::python::build::BuildError::Differs`] when another wheel comes out; otherwise whatever building gives.
pub fn rebuild((bench, supplies): Building<'_>, part: &PythonPart) -> Result<(), Failure> {
    for it in part.distributions.iter().filter(|it| bench.store.has(&it.sha256).is_none()) {
        if let Some(from) = &it.built_from {
            source::rebuild(bench, supplies, (&it.name, &it.version, it.sha256), from)?;
        }
    }
    Ok(())
}
