//! Lock files of a repository: which one counts, and what it brings.

use super::places::{beside, directories, join};
use super::{Gathered, ProjectRequest, RequirementsError, Sources, WheelRequest};
use crate::python::lockfile::{Contents, Lockfile};

/// The program that `agent.package_manager.type` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// Lists of requirements; lock files only where there are none.
    Pip,
    /// `uv.lock`, also before the task's own list.
    Uv,
    /// `poetry.lock`, also before the task's own list.
    Poetry,
}

impl Manager {
    fn allows(self, lockfile: Lockfile) -> bool {
        match self {
            Self::Pip => true,
            Self::Uv => lockfile == Lockfile::Uv,
            Self::Poetry => lockfile == Lockfile::Poetry,
        }
    }
}

impl Gathered {
    /// Takes what the lock file nearest to the script says; whether there is one.
    pub(super) fn lockfile(&mut self, sources: &Sources<'_>) -> Result<bool, RequirementsError> {
        let Some(target) = sources.target else { return Ok(false) };
        let kinds: Vec<Lockfile> =
            Lockfile::ALL.into_iter().filter(|it| sources.manager.is_none_or(|manager| manager.allows(*it))).collect();
        let dirs = directories(sources).into_iter().rev();
        let mut candidates = dirs.flat_map(|dir| kinds.iter().map(move |it| (dir.clone(), *it)));
        let found = candidates.find_map(|(dir, it)| Some(((sources.file)(&beside(&dir, it.file()))?, dir, it)));
        let Some((text, dir, lockfile)) = found else { return Ok(false) };
        let path = beside(&dir, lockfile.file());
        let place = format!("`{path}`");
        let project = (sources.file)(&beside(&dir, "pyproject.toml"));
        let contents = lockfile
            .read(&text, project.as_deref(), target)
            .map_err(|source| RequirementsError::Lockfile { place: place.clone(), source })?;
        self.take(sources, contents, (&dir, &place))?;
        let task = &sources.task;
        let passed_over = task.pip.as_deref().is_some_and(|it| !it.trim().is_empty());
        let instead = if passed_over { ", not the task's requirements" } else { "" };
        self.notes.push(format!("{place} says what is installed{instead}"));
        Ok(true)
    }

    fn take(
        &mut self,
        sources: &Sources<'_>,
        contents: Contents,
        (dir, place): (&str, &str),
    ) -> Result<(), RequirementsError> {
        let outside = |path: &str| RequirementsError::Outside { place: place.to_owned(), path: path.to_owned() };
        for wheel in contents.wheels {
            let path = join(dir, &wheel).filter(|it| (sources.has)(it)).ok_or_else(|| outside(&wheel))?;
            self.wheels.push(WheelRequest { path, extras: String::new(), marker: String::new(), digest: None });
        }
        for (project, editable) in contents.projects {
            let path = join(dir, &project).filter(|it| it.is_empty() || (sources.is_dir)(it));
            let path = path.ok_or_else(|| outside(&project))?;
            self.projects.push(ProjectRequest { path, editable, extras: Vec::new() });
        }
        self.requirements.extend(contents.requirements);
        self.builds.extend(contents.builds);
        self.indexes.extend(contents.indexes);
        self.hashes.extend(contents.hashes);
        self.exact = true;
        Ok(())
    }
}
