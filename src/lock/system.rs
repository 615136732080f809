//! The system part: what is asked for, solved on the base and pinned; and the interpreter, where the base has none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digest::{Digest, Hasher};
use crate::error::{Explain, Failure, Kind};
use crate::lock::{BasePart, RecipePart, SystemPart};
use crate::oci::chain_id;
use crate::report::Reporter;
use crate::sandbox::{LayerBlob, Sandbox};
use crate::store::{Store, Table};
use crate::system::apt::Apt;
use crate::system::recipe::Resolved;
use crate::system::{Package, SystemError};

/// What the original agent installs so that `cv2` imports, unless `agent.docker_install_opencv_libs` is off.
pub const OPENCV: [&str; 4] = ["libsm6", "libxext6", "libxrender-dev", "libglib2.0-0"];

/// What is asked of the base's apt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemRequest {
    /// Packages of the task, the agent's configuration and the command line, in order.
    pub packages: Vec<String>,
    /// Whether [`OPENCV`]'s libraries are wanted where the base can install them.
    pub opencv: bool,
    /// The interpreter to add, for a base that has none of use.
    pub interpreter: Option<InterpreterNeed>,
}

/// Which interpreter a base lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InterpreterNeed {
    /// `3`, `3.11`, `3.11.4`; the distribution's own where nothing is asked.
    pub version: Option<String>,
}

/// The interpreter that the system part brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemInterpreter {
    /// Full version: `3.11.2`.
    pub version: String,
    /// Absolute path in the image.
    pub executable: String,
    /// Digest of its package's file.
    pub digest: Digest,
}

/// The part, and the interpreter it brings where one was needed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SystemResolution {
    /// Absent when nothing is asked for.
    pub part: Option<SystemPart>,
    /// See [`SystemRequest::interpreter`].
    pub interpreter: Option<SystemInterpreter>,
}

/// No interpreter of the version asked for.
#[derive(Debug, thiserror::Error)]
#[error("the base has no Python {wanted}, and its apt sources have {offered}")]
pub struct NoInterpreter {
    wanted: String,
    offered: String,
}

impl Explain for NoInterpreter {
    fn kind(&self) -> Kind {
        Kind::Unsatisfiable
    }

    fn hints(&self) -> Vec<String> {
        vec![format!("Take a base that has it, such as `--docker python:{}`, or ask for another version.", self.wanted)]
    }
}

/// Solves a request on a base. What was solved less than `max_age` ago is not asked again. `layers` is called only
/// when apt must be asked, and gives the base's layers with their blobs in the store.
///
/// # Errors
/// A [`Failure`] that names the packages.
pub fn resolve(
    store: &Store,
    base: &BasePart,
    request: &SystemRequest,
    max_age: Duration,
    ask: &mut Ask<'_>,
) -> Result<SystemResolution, Failure> {
    let wanted = wanted(request);
    if wanted.is_empty() && request.interpreter.is_none() {
        return Ok(SystemResolution::default());
    }
    let key = key(base, request, &wanted);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    if let Some((at, part)) = store.record::<(u64, SystemPart)>(Table::Resolutions, &key)
        && now.saturating_sub(at) < max_age.as_secs()
    {
        return finish(part, request);
    }
    // Whether there can be a sandbox at all is known before anything is downloaded.
    crate::sandbox::choose(store)?;
    let layers = (ask.layers)()?;
    let sandbox = Sandbox::open(store, &layers, ask.reporter)?;
    let apt = match Apt::open(store, &sandbox, ask.reporter) {
        // The libraries are a convenience: a base without apt goes without them, as it always did.
        Err(SystemError::NoApt | SystemError::NoSources { .. })
            if request.packages.is_empty() && request.interpreter.is_none() =>
        {
            return Ok(SystemResolution::default());
        }
        other => other?,
    };
    apt.update(max_age)?;
    let mut names = wanted.clone();
    if let Some(need) = &request.interpreter {
        names.push(interpreter_package(&apt, need)?);
    }
    let packages = apt.solve(&names)?;
    let part = SystemPart { requested: wanted, packages };
    store.remember(Table::Resolutions, &key, &(now, &part))?;
    finish(part, request)
}

/// The resolution of a part that stands; none where it lacks the interpreter that is needed.
#[must_use]
pub fn known(part: Option<&SystemPart>, need: Option<&InterpreterNeed>) -> Option<SystemResolution> {
    let as_asked = |it: &SystemInterpreter| {
        let version = need.and_then(|it| it.version.as_deref());
        version.is_none_or(|asked| super::asked::is_version(&it.version, asked))
    };
    let interpreter = part.filter(|_| need.is_some()).and_then(interpreter).filter(as_asked);
    (need.is_some() == interpreter.is_some()).then(|| SystemResolution { part: part.cloned(), interpreter })
}

/// How to get at the base when it must be asked.
pub struct Ask<'a> {
    /// The base's layers, bottom first, their blobs in the store.
    pub layers: &'a mut dyn FnMut() -> Result<Vec<LayerBlob>, Failure>,
    /// Where events go.
    pub reporter: &'a dyn Reporter,
}

fn finish(part: SystemPart, request: &SystemRequest) -> Result<SystemResolution, Failure> {
    let interpreter = request.interpreter.as_ref().and_then(|_| interpreter(&part));
    if let Some(need) = &request.interpreter
        && interpreter.is_none()
    {
        return Err(missing(need, "none that is new").into());
    }
    Ok(SystemResolution { part: Some(part), interpreter })
}

fn missing(need: &InterpreterNeed, offered: &str) -> NoInterpreter {
    NoInterpreter { wanted: need.version.clone().unwrap_or_else(|| "3".to_owned()), offered: offered.to_owned() }
}

/// The names asked for, each once, the libraries last.
fn wanted(request: &SystemRequest) -> Vec<String> {
    let libraries = OPENCV.iter().filter(|_| request.opencv).map(|&it| it.to_owned());
    let mut wanted: Vec<String> = Vec::new();
    for name in request.packages.iter().map(|it| it.trim().to_owned()).chain(libraries) {
        if !name.is_empty() && !wanted.contains(&name) {
            wanted.push(name);
        }
    }
    wanted
}

fn key(base: &BasePart, request: &SystemRequest, wanted: &[String]) -> Digest {
    let mut key = Hasher::new();
    key.field("system").field(chain(base).map_or_else(String::new, |it| it.to_string()));
    for name in wanted {
        key.field(name);
    }
    if let Some(need) = &request.interpreter {
        key.field("interpreter").field(need.version.as_deref().unwrap_or_default());
    }
    key.finish()
}

/// The distribution's interpreter if it is of the version asked for, else a package of that version.
fn interpreter_package(apt: &Apt<'_>, need: &InterpreterNeed) -> Result<String, Failure> {
    let own = apt.solve(&["python3".to_owned()])?;
    let offered = version_of(&own).map(|it| it.0);
    let Some(wanted) = need.version.as_deref().filter(|it| *it != "3") else { return Ok("python3".to_owned()) };
    let minor = wanted.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    if offered.as_deref().is_some_and(|it| it == wanted || it.starts_with(&format!("{minor}."))) {
        return Ok("python3".to_owned());
    }
    let name = format!("python{minor}");
    match apt.solve(std::slice::from_ref(&name)) {
        Ok(packages) if !packages.is_empty() => Ok(name),
        Ok(_) | Err(SystemError::Unknown { .. } | SystemError::Unsatisfiable { .. }) => {
            Err(missing(need, &offered.map_or_else(|| "none".to_owned(), |it| format!("only {it}"))).into())
        }
        Err(other) => Err(other.into()),
    }
}

/// The interpreter among packages: version without the distribution's own part, `3.11`, and the package's file.
fn version_of(packages: &[Package]) -> Option<(String, String, Digest)> {
    // A base may have the first of these already, and lack the library.
    let parts = [("python", "-minimal"), ("python", ""), ("libpython", "-stdlib")];
    parts.iter().find_map(|(prefix, suffix)| {
        packages.iter().find_map(|it| {
            let minor = it.name.strip_prefix(prefix)?.strip_suffix(suffix)?;
            let numbers = minor.strip_prefix("3.")?;
            if numbers.is_empty() || !numbers.bytes().all(|it| it.is_ascii_digit()) {
                return None;
            }
            let version = it.version.rsplit_once(':').map_or(it.version.as_str(), |it| it.1);
            let upstream = version.split(['-', '+', '~']).next()?;
            Some((upstream.to_owned(), minor.to_owned(), it.sha256))
        })
    })
}

/// The interpreter that a part brings.
#[must_use]
pub fn interpreter(part: &SystemPart) -> Option<SystemInterpreter> {
    let (version, minor, digest) = version_of(&part.packages)?;
    Some(SystemInterpreter { version, executable: format!("/usr/bin/python{minor}"), digest })
}

/// The chain id of a base's layers.
#[must_use]
pub fn chain(base: &BasePart) -> Option<Digest> {
    chain_id(&base.layers.iter().map(|it| it.diff_id).collect::<Vec<_>>())
}

/// A base's layers for a sandbox. A layer without a blob of its own (from a classic Docker store) is expected in the
/// store as its uncompressed tar.
#[must_use]
pub fn layer_blobs(base: &BasePart) -> Vec<LayerBlob> {
    let blob = |it: &crate::lock::BaseLayer| it.blob.as_ref().map_or(it.diff_id, |blob| blob.digest);
    base.layers.iter().map(|it| LayerBlob { diff_id: it.diff_id, blob: blob(it) }).collect()
}

impl From<Resolved> for RecipePart {
    fn from(it: Resolved) -> Self {
        Self { text: it.text, suite: it.suite, packages: it.packages, wheels: it.wheels }
    }
}

/// A locked recipe as [`crate::system::recipe::build`] takes it.
#[must_use]
pub fn recipe(name: &str, part: &RecipePart) -> Resolved {
    Resolved {
        name: name.to_owned(),
        text: part.text.clone(),
        suite: part.suite.clone(),
        packages: part.packages.clone(),
        wheels: part.wheels.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: "amd64".to_owned(),
            file: format!("pool/{name}.deb"),
            sha256: Digest::of(name),
            size: 1,
            origin: "bookworm/main".to_owned(),
        }
    }

    #[test]
    fn names_are_asked_once_in_order_and_the_libraries_last() {
        let packages = ["git", " libsm6 ", "git", ""].map(str::to_owned).to_vec();
        let request = SystemRequest { packages, opencv: true, interpreter: None };
        assert_eq!(wanted(&request), ["git", "libsm6", "libxext6", "libxrender-dev", "libglib2.0-0"]);
    }

    #[test]
    fn the_interpreter_is_known_by_its_own_package() {
        let packages = vec![
            package("python3", "3.11.2-1+b1"),
            package("python3-minimal", "3.11.2-1+b1"),
            package("python3.11-minimal", "1:3.11.2-6+deb12u6"),
        ];
        let found = interpreter(&SystemPart { requested: Vec::new(), packages }).unwrap();
        assert_eq!((found.version.as_str(), found.executable.as_str()), ("3.11.2", "/usr/bin/python3.11"));
        assert_eq!(found.digest, Digest::of("python3.11-minimal"));
    }
}
