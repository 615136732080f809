//! Bytecode of wheels: made once per wheel by the base's own interpreter, kept, and grouped like the wheels.
//!
//! Patch releases of Python write different bytecode, so nobody but the base's interpreter may make it. It runs where
//! the caller lets it run (the sandbox), once for all wheels that have none yet, on all cores. What comes out does not
//! depend on what else was compiled (`templates/compile.py`), so a wheel's bytecode is kept as a fragment under the
//! wheel's digest and the ground's: all the layers that the interpreter runs on. Its own file would not do: whoever
//! makes a base can change its libraries, and bytecode that a hostile base made must not reach another one's images.
//! Honest bases with the same interpreter give the same blobs, so only time is lost.
//!
//! Distributions' own test suites have none: programs do not import them, and in environments of numpy's kin they are
//! half of all modules. They can be imported all the same.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::python::{self, Plan, PythonLayerError, dirs, in_image, interpreter_key};
use super::{BuiltLayer, LayerKind, find, find_or_write, key, parallel};
use crate::digest::{Digest, Hasher};
use crate::error::{Failure, Kind};
use crate::fs::open_below;
use crate::launch::VENV;
use crate::lock::{FORMAT, PythonPart};
use crate::oci::Meta;
use crate::python::install::{Content, Files, install};
use crate::report::SharedReporter;
use crate::sandbox::{self, Changes, Output, Sandbox};
use crate::store::{Store, StoreError, Table};

/// Names what the compiling program does; part of what fragments are remembered under.
const COMPILER: u32 = 3;
/// The program.
const PROGRAM: &str = include_str!("../../templates/compile.py");
/// Where the shared directory lies for the interpreter.
pub const MOUNT: &str = "/run/agent-compile";
/// Most bytes of a module that is compiled.
const MAX_MODULE: u64 = 64 << 20;

/// Something the base's interpreter is to do.
#[derive(Debug)]
pub struct Step<'a> {
    /// A directory of this machine that it reads from and writes to, seen by it as [`MOUNT`].
    pub directory: &'a Path,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
}

/// Runs a step on the ground, without network, and waits for its end.
pub type Run<'a> = dyn Fn(&Step<'_>) -> Result<Output, Failure> + Sync + 'a;

/// Who makes bytecode.
#[derive(Clone, Copy)]
pub struct Compiler<'a> {
    /// Names all the layers that the interpreter runs on.
    pub ground: Digest,
    /// Runs the interpreter there.
    pub run: &'a Run<'a>,
}

impl std::fmt::Debug for Compiler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").field("ground", &self.ground).finish_non_exhaustive()
    }
}

/// Runs a step in a sandbox on the base.
///
/// # Errors
/// [`sandbox::SandboxError`]; a program that fails is no error here.
pub fn run_in(sandbox: &Sandbox, step: &Step<'_>, reporter: &SharedReporter) -> Result<Output, Failure> {
    let arguments: Vec<&str> = step.arguments.iter().map(String::as_str).collect();
    let mut inner = sandbox::Step::new("python bytecode", &arguments).bind(step.directory, MOUNT, true);
    inner.env = step.environment.iter().cloned().collect();
    inner.changes = Changes::Dropped;
    Ok(sandbox.run(&inner, &**reporter)?)
}

/// A wheel's bytecode: the files one behind the other in a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fragment {
    blob: Digest,
    files: Vec<Piece>,
}

/// A bytecode file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    /// The module it comes from, relative to the environment's root.
    source: String,
    /// Where it goes.
    path: String,
    /// Bytes.
    size: u64,
}

/// Whether bytecode must be made, and so a sandbox be had, as far as that is known before the wheels are there.
#[must_use]
pub fn is_missing(store: &Store, part: &PythonPart, ground: &Digest) -> bool {
    let origin = origin(part, ground);
    match python::remembered_plan(store, part) {
        Some(plan) => !unmade(store, part, &plan, &origin).is_empty(),
        None => part.distributions.iter().any(|it| known(store, &origin, &it.sha256).is_none()),
    }
}

/// Names what bytecode comes from besides the module: who compiled it, and where.
fn origin(part: &PythonPart, ground: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(FORMAT.to_le_bytes()).field(COMPILER.to_le_bytes());
    hasher.field(interpreter_key(part).bytes()).field(ground.bytes());
    hasher.finish()
}

/// The distributions whose bytecode is in no layer and is not kept.
fn unmade(store: &Store, part: &PythonPart, plan: &Plan, origin: &Digest) -> Vec<usize> {
    let groups = plan.groups().into_iter();
    let unwritten = groups.filter(|group| find(store, &layer_key(part, plan, (group, origin))).is_none());
    unwritten.flatten().filter(|it| known(store, origin, &part.distributions[*it].sha256).is_none()).collect()
}

/// The bytecode layers, one for each of the plan's groups; `None` for a group without modules.
pub(super) fn layers(
    store: &Store,
    part: &PythonPart,
    plan: &Plan,
    compiler: Compiler<'_>,
) -> Result<Vec<Option<BuiltLayer>>, PythonLayerError> {
    let groups = plan.groups();
    let origin = origin(part, &compiler.ground);
    if !unmade(store, part, plan, &origin).is_empty() {
        let _alone = store.lock("bytecode")?;
        // Another process may have made it meanwhile.
        compile(store, part, &unmade(store, part, plan, &origin), (compiler, &origin))?;
    }
    parallel(groups.len(), |index| write_group(store, part, plan, (&groups[index], &origin)))
}

fn layer_key(part: &PythonPart, plan: &Plan, (group, origin): (&[usize], &Digest)) -> Digest {
    let mut inputs: Vec<Vec<u8>> = vec![origin.bytes().to_vec()];
    inputs.extend(group.iter().map(|it| plan.field(part, *it)));
    key(LayerKind::Bytecode, &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn fragment_key(origin: &Digest, wheel: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(origin.bytes()).field(wheel.bytes());
    hasher.finish()
}

fn known(store: &Store, origin: &Digest, wheel: &Digest) -> Option<Fragment> {
    let fragment: Fragment = store.record(Table::Bytecode, &fragment_key(origin, wheel))?;
    store.has(&fragment.blob)?;
    Some(fragment)
}

fn write_group(
    store: &Store,
    part: &PythonPart,
    plan: &Plan,
    (group, origin): (&[usize], &Digest),
) -> Result<Option<BuiltLayer>, PythonLayerError> {
    let is_shared = *group == plan.shared;
    let title = python::title(part, group, is_shared);
    let key = layer_key(part, plan, (group, origin));
    let found = find(store, &key).is_some();
    let mut pieces: BTreeMap<String, (usize, u64, u64)> = BTreeMap::new();
    let mut blobs = Vec::new();
    for index in group.iter().filter(|_| !found) {
        let sha256 = &part.distributions[*index].sha256;
        let fragment = known(store, origin, sha256).ok_or(StoreError::Missing(*sha256))?;
        let mut offset = 0;
        for piece in fragment.files {
            if !plan.lost[*index].contains(&piece.source) {
                pieces.insert(piece.path, (blobs.len(), offset, piece.size));
            }
            offset += piece.size;
        }
        blobs.push(store.open_blob(&fragment.blob)?);
    }
    if pieces.is_empty() && !found {
        return Ok(None);
    }
    find_or_write(store, (LayerKind::Bytecode, key), title, |writer| {
        dirs(writer, pieces.keys())?;
        let mut bytes = Vec::new();
        for (path, (blob, offset, size)) in &pieces {
            bytes.resize(usize::try_from(*size).unwrap_or(usize::MAX), 0);
            blobs[*blob].file().read_exact_at(&mut bytes, *offset).map_err(|it| failed(store, it))?;
            writer.file(&in_image(path), &Meta::file(), &bytes)?;
        }
        Ok(())
    })
    .map(Some)
}

fn failed(store: &Store, source: std::io::Error) -> PythonLayerError {
    StoreError::Io { store: store.root().to_owned(), source }.into()
}

/// Whether a file of a distribution, relative to the directory of them all, is a module that programs import.
fn is_compiled(path: &str) -> bool {
    path.ends_with(".py") && !path.split('/').rev().skip(1).any(|it| it == "tests")
}

/// A module to compile.
struct Module {
    distribution: usize,
    source: String,
}

/// Has the bytecode of some distributions made, and keeps it.
fn compile(
    store: &Store,
    part: &PythonPart,
    wanted: &[usize],
    (compiler, origin): (Compiler<'_>, &Digest),
) -> Result<(), PythonLayerError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let scratch = store.scratch()?;
    let dir = scratch.path();
    let modules = write_sources(store, part, wanted, dir)?;
    fs::write(dir.join("compile.py"), PROGRAM).map_err(|it| failed(store, it))?;
    let step = Step {
        directory: dir,
        // -I would switch PYTHONHASHSEED off; -s -S keep out what it keeps out.
        arguments: [part.executable.as_str(), "-s", "-S", "-B", &format!("{MOUNT}/compile.py"), MOUNT]
            .map(str::to_owned)
            .to_vec(),
        environment: vec![("PYTHONHASHSEED".to_owned(), "0".to_owned()), ("LC_ALL".to_owned(), "C.UTF-8".to_owned())],
    };
    let output = (compiler.run)(&step).map_err(|failure| PythonLayerError::Bytecode {
        reason: failure.to_string(),
        kind: failure.kind(),
        hints: failure.hints(),
    })?;
    if output.code != 0 {
        return Err(broken(format!("`{}` ended with {}: {}", part.executable, output.code, output.last_words())));
    }
    keep_fragments(store, part, wanted, (&modules, dir, origin))
}

fn broken(reason: String) -> PythonLayerError {
    let hints = vec!["Lock with --no-bytecode to do without.".to_owned()];
    PythonLayerError::Bytecode { reason, kind: Kind::Sandbox, hints }
}

/// Writes the modules of some distributions one behind the other, with an index.
fn write_sources(
    store: &Store,
    part: &PythonPart,
    wanted: &[usize],
    dir: &Path,
) -> Result<Vec<Module>, PythonLayerError> {
    let io = |it| failed(store, it);
    let mut sources = BufWriter::new(fs::File::create(dir.join("sources")).map_err(io)?);
    let mut index = BufWriter::new(fs::File::create(dir.join("index")).map_err(io)?);
    let target = python::target(part);
    let site = format!("{}/", target.site_packages());
    let mut modules = Vec::new();
    let mut offset = 0;
    for distribution in wanted {
        let wheel = python::open(store, &part.distributions[*distribution])?;
        let files: Files = install(&wheel, &target)?;
        for (path, file) in &files {
            let Content::Entry(entry) = &file.content else { continue };
            let entry = &wheel.archive().entries()[*entry];
            if entry.size > MAX_MODULE || !path.strip_prefix(&site).is_some_and(is_compiled) {
                continue;
            }
            let bytes = wheel.archive().read(entry, MAX_MODULE)?;
            sources.write_all(&bytes).map_err(io)?;
            writeln!(index, "{offset} {} {VENV}/{path}", bytes.len()).map_err(io)?;
            offset += bytes.len();
            modules.push(Module { distribution: *distribution, source: path.clone() });
        }
    }
    sources.flush().map_err(io)?;
    index.flush().map_err(io)?;
    Ok(modules)
}

/// Where a module's bytecode lies in the workers' output.
struct Compiled {
    worker: usize,
    offset: u64,
    size: u64,
}

/// Takes the workers' output apart, distribution by distribution.
fn keep_fragments(
    store: &Store,
    part: &PythonPart,
    wanted: &[usize],
    (modules, dir, origin): (&[Module], &Path, &Digest),
) -> Result<(), PythonLayerError> {
    let io = |it| failed(store, it);
    // Whoever could write here runs on a base that may be hostile: no link of theirs is followed.
    let text = |name: &str| open_below(dir, name).and_then(std::io::read_to_string);
    let tag = text("tag").map_err(io)?;
    if tag.is_empty() || !tag.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-') {
        return Err(broken(format!("`{}` has no cache tag", part.executable)));
    }
    let mut outputs = Vec::new();
    let mut compiled: BTreeMap<usize, Compiled> = BTreeMap::new();
    while let Ok(done) = text(&format!("done-{}", outputs.len())) {
        let code = open_below(dir, &format!("code-{}", outputs.len())).map_err(io)?;
        for line in done.lines() {
            let numbers: Vec<u64> = line.split(' ').filter_map(|it| it.parse().ok()).collect();
            let [module, offset, size] = numbers[..] else {
                return Err(broken("its answer cannot be read".to_owned()));
            };
            let module = usize::try_from(module).unwrap_or(usize::MAX);
            compiled.insert(module, Compiled { worker: outputs.len(), offset, size });
        }
        outputs.push(code);
    }
    for distribution in wanted {
        let mut writer = store.writer()?;
        let mut files = Vec::new();
        let mut bytes = Vec::new();
        let own = modules.iter().enumerate().filter(|(_, it)| it.distribution == *distribution);
        for (index, module) in own {
            let Some(it) = compiled.get(&index) else { continue };
            if it.size > 4 * MAX_MODULE {
                return Err(broken("its answer cannot be read".to_owned()));
            }
            bytes.resize(usize::try_from(it.size).unwrap_or(0), 0);
            outputs[it.worker].file().read_exact_at(&mut bytes, it.offset).map_err(io)?;
            writer.write_all(&bytes).map_err(io)?;
            let path = cached_path(&module.source, &tag);
            files.push(Piece { source: module.source.clone(), path, size: it.size });
        }
        let (blob, _) = writer.commit()?;
        let key = fragment_key(origin, &part.distributions[*distribution].sha256);
        store.remember(Table::Bytecode, &key, &Fragment { blob, files })?;
    }
    Ok(())
}

/// Where the bytecode of a module goes (PEP 3147).
fn cached_path(source: &str, tag: &str) -> String {
    let (dir, file) = source.rsplit_once('/').unwrap_or(("", source));
    let stem = file.strip_suffix(".py").unwrap_or(file);
    format!("{dir}/__pycache__/{stem}.{tag}.pyc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_test_suites_are_not_compiled() {
        for (path, compiled) in [
            ("six.py", true),
            ("numpy/testing/utils.py", true),
            ("numpy/tests.py", true),
            ("numpy/core/tests/test_x.py", false),
            ("tests/__init__.py", false),
            ("numpy/core.so", false),
        ] {
            assert_eq!(is_compiled(path), compiled, "{path}");
        }
    }
}
