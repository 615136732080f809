//! What Python a base image has, read from its files: nothing of the base is run.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::name::normalise;
use super::tags::Libc;
use crate::digest::Digest;

/// The search path of an image that names none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A node of a file tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link and its target.
    Link(String),
    /// Anything else.
    Other,
}

/// A file tree that can be looked into: a base image's merged layers, or a directory.
pub trait Tree {
    /// The node at an absolute path whose parents are no links; `None` when there is none.
    fn node(&self, path: &str) -> Option<Node>;
    /// The names in a directory, sorted.
    fn names(&self, dir: &str) -> Vec<String>;
    /// The bytes of regular files, in the order asked. Layers are streams: many files cost about as much as one.
    ///
    /// # Errors
    /// Whatever reading gives.
    fn read_all(&self, paths: &[&str]) -> io::Result<Vec<Vec<u8>>>;
}

/// An interpreter of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// Full version, `3.11.2`.
    pub version: String,
    /// Absolute path with links followed, `/usr/bin/python3.11`.
    pub executable: String,
    /// Digest of its file, and of its shared library where it has one.
    pub digest: Digest,
    /// Whether the whole standard library is there (Debian's `python3-minimal` has half of it).
    pub complete: bool,
    /// Directories its distributions lie in, in the order it looks.
    pub paths: Vec<String>,
    /// Of these, the ones that only an active environment of the base has; ours must name them to see them.
    pub extra_paths: Vec<String>,
}

impl Interpreter {
    /// Major and minor version.
    #[must_use]
    pub fn minor(&self) -> (u16, u16) {
        let mut numbers = self.version.split('.').map(|it| it.parse().unwrap_or(0));
        (numbers.next().unwrap_or(3), numbers.next().unwrap_or(0))
    }
}

/// A distribution that is installed in a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Normalised name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Directory that holds it.
    pub location: String,
    /// `Requires-Dist` fields that can be read.
    pub requires: Vec<String>,
    /// `Provides-Extra` fields.
    pub extras: Vec<String>,
}

/// What a base has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// C library, `glibc 2.36`; absent in an image without one.
    pub libc: Option<String>,
    /// Interpreters, in the order the image's `PATH` has them.
    pub interpreters: Vec<Interpreter>,
    /// Distributions by interpreter, in the same order, by name.
    pub distributions: Vec<Vec<Installed>>,
}

impl Inspection {
    /// The first complete interpreter whose version begins with `wanted` (`3.11`), and its distributions.
    #[must_use]
    pub fn choose(&self, wanted: Option<&str>) -> Option<(&Interpreter, &[Installed])> {
        let fits = |it: &Interpreter| {
            wanted.is_none_or(|wanted| it.version == wanted || it.version.starts_with(&format!("{wanted}.")))
        };
        let index = self.interpreters.iter().position(|it| it.complete && fits(it))?;
        Some((&self.interpreters[index], &self.distributions[index]))
    }
}

/// Looks at a base; `environment` is its image configuration's.
///
/// # Errors
/// Whatever reading gives.
pub fn inspect(tree: &dyn Tree, environment: &BTreeMap<String, String>) -> io::Result<Inspection> {
    let programs = programs(tree, environment.get("PATH").map_or(PATH, |it| it));
    let libc = libc_file(tree);
    let first: Vec<&str> =
        programs.iter().map(|it| it.path.as_str()).chain(libc.as_ref().map(|it| it.1.as_str())).collect();
    let bytes = tree.read_all(&first)?;
    let libc = match (&libc, bytes.get(programs.len())) {
        (Some((true, _)), Some(bytes)) => glibc_in(bytes),
        (Some((false, _)), Some(bytes)) => Some(musl_in(bytes).unwrap_or(Libc::Musl(1, 2))),
        _ => None,
    };
    let mut interpreters = Vec::new();
    for (program, bytes) in programs.iter().zip(&bytes) {
        interpreters.extend(interpreter(tree, program, bytes)?);
    }
    let distributions = distributions(tree, &interpreters)?;
    Ok(Inspection { libc: libc.map(|it| it.to_string()), interpreters, distributions })
}

/// A program that may be an interpreter.
struct Program {
    path: String,
    venv: Option<String>,
}

/// The programs named like an interpreter, in the order the image finds them.
fn programs(tree: &dyn Tree, path: &str) -> Vec<Program> {
    let mut programs: Vec<Program> = Vec::new();
    let conda = ["/opt/conda/bin"];
    for dir in path.split(':').chain(conda).filter(|it| it.starts_with('/')) {
        let Some(dir) = resolve(tree, dir) else { continue };
        let mut names: Vec<String> = tree.names(&dir).into_iter().filter(|it| is_python(it)).collect();
        // `python3` is what the base means by Python; the rest from the newest.
        names.sort_by_key(|it| (it != "python3", it != "python", std::cmp::Reverse(minor_of(it))));
        for name in names {
            let Some(path) = resolve(tree, &format!("{}/{name}", dir.trim_end_matches('/'))) else { continue };
            if tree.node(&path) == Some(Node::File) && programs.iter().all(|it| it.path != path) {
                programs.push(Program { path, venv: venv_of(tree, &dir) });
            }
        }
    }
    programs
}

/// Follows every link of a path inside the tree; `None` when it leads nowhere.
#[must_use]
pub fn resolve(tree: &dyn Tree, path: &str) -> Option<String> {
    let mut rest: Vec<String> = path.split('/').rev().filter(|it| !it.is_empty()).map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match part.as_str() {
            "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => done.push(part),
        }
        let here = format!("/{}", done.join("/"));
        match tree.node(&here)? {
            Node::Link(target) => {
                links += 1;
                if links > 40 {
                    return None;
                }
                if target.starts_with('/') {
                    done.clear();
                } else {
                    done.pop();
                }
                rest.extend(target.split('/').rev().filter(|it| !it.is_empty()).map(str::to_owned));
            }
            Node::Dir => {}
            _ if rest.is_empty() => {}
            _ => return None,
        }
    }
    Some(format!("/{}", done.join("/")))
}

/// `python`, `python3`, `python3.11`; not `python3-config`.
fn is_python(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("python") else { return false };
    rest.is_empty() || rest == "3" || minor_of(name).is_some()
}

fn minor_of(name: &str) -> Option<u16> {
    name.strip_prefix("python3.")?.parse().ok()
}

/// The environment whose `bin` a directory is.
fn venv_of(tree: &dyn Tree, bin: &str) -> Option<String> {
    let root = bin.rsplit_once('/')?.0;
    (tree.node(&format!("{root}/pyvenv.cfg")) == Some(Node::File)).then(|| root.to_owned())
}

fn interpreter(tree: &dyn Tree, program: &Program, bytes: &[u8]) -> io::Result<Option<Interpreter>> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let executable = program.path.as_str();
    let prefix = executable.rsplit_once("/bin/").map_or("/usr", |it| it.0);
    let mut digest = Digest::of(bytes);
    let mut version = version_in(bytes);
    if version.is_none()
        && let Some(library) = shared_library(tree, executable, prefix)
    {
        // A small program with all of Python in a shared library.
        let bytes = tree.read_all(&[&library])?.pop().unwrap_or_default();
        version = version_in(&bytes);
        digest = Digest::of(format!("{digest} {}", Digest::of(&bytes)));
    }
    let Some(version) = version else { return Ok(None) };
    let Some((minor, _)) = version.rsplit_once('.') else { return Ok(None) };
    let library = format!("{prefix}/lib/python{minor}");
    let has = |it: &str| {
        resolve(tree, &format!("{library}/{it}")).is_some() || resolve(tree, &format!("{library}/{it}c")).is_some()
    };
    let complete = has("contextvars.py") && has("os.py") && has("ctypes/__init__.py");
    let mut extra_paths: Vec<String> =
        program.venv.iter().map(|it| format!("{it}/lib/python{minor}/site-packages")).collect();
    let own: Vec<String> = if prefix == "/usr" {
        let major = minor.split('.').next().unwrap_or("3");
        vec![
            format!("/usr/local/lib/python{minor}/dist-packages"),
            format!("/usr/lib/python{major}/dist-packages"),
            format!("/usr/lib/python{minor}/dist-packages"),
            format!("/usr/lib/python{minor}/site-packages"),
        ]
    } else {
        vec![format!("{library}/site-packages")]
    };
    let mut paths: Vec<String> = extra_paths.iter().cloned().chain(own).collect();
    paths.retain(|it| resolve(tree, it).is_some());
    extra_paths.retain(|it| paths.contains(it));
    let executable = executable.to_owned();
    Ok(Some(Interpreter { version, executable, digest, complete, paths, extra_paths }))
}

/// The shared library that holds the interpreter of a program without a version of its own.
fn shared_library(tree: &dyn Tree, executable: &str, prefix: &str) -> Option<String> {
    let wanted = minor_of(executable.rsplit('/').next().unwrap_or_default());
    let dirs =
        [format!("{prefix}/lib"), "/usr/lib/x86_64-linux-gnu".to_owned(), "/usr/lib/aarch64-linux-gnu".to_owned()];
    dirs.iter().find_map(|dir| {
        let dir = resolve(tree, dir)?;
        let fits = |name: &String| {
            let minor = name.strip_prefix("libpython3.").and_then(|it| it.strip_suffix(".so.1.0"));
            minor.and_then(|it| it.parse().ok()).is_some_and(|it: u16| wanted.is_none_or(|wanted| wanted == it))
        };
        let name = tree.names(&dir).into_iter().find(fits)?;
        resolve(tree, &format!("{dir}/{name}"))
    })
}

/// The version that stands by itself in an interpreter's binary: `\0` `3.11.2` `\0`.
fn version_in(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes;
    while let Some(at) = find(rest, b"\x003.") {
        rest = &rest[at + 1..];
        let end = rest.iter().take(16).position(|it| *it == 0).unwrap_or(0);
        let text = std::str::from_utf8(&rest[..end]).unwrap_or_default();
        let bare = text.trim_end_matches('+');
        if bare.split('.').count() == 3 && bare.parse::<pep440_rs::Version>().is_ok() {
            return Some(bare.to_owned());
        }
    }
    None
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|it| *it == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The C library's file, and whether it is GNU's.
fn libc_file(tree: &dyn Tree) -> Option<(bool, String)> {
    let dirs = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib", "/lib"];
    let gnu = dirs.iter().find_map(|dir| resolve(tree, &format!("{dir}/libc.so.6")));
    let musl = || {
        let files = ["x86_64", "aarch64"].map(|it| format!("/lib/ld-musl-{it}.so.1"));
        files.iter().find_map(|it| resolve(tree, it))
    };
    gnu.map(|it| (true, it)).or_else(|| Some((false, musl()?)))
}

fn glibc_in(bytes: &[u8]) -> Option<Libc> {
    let at = find(bytes, b"GNU C Library (")?;
    let line = bytes[at..].split(|it| *it == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    let version = text.rsplit_once("version ")?.1;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some(Libc::Glibc(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn musl_in(bytes: &[u8]) -> Option<Libc> {
    let mut rest = bytes;
    while let Some(at) = find(rest, b"\x001.") {
        rest = &rest[at + 1..];
        let end = rest.iter().take(12).position(|it| *it == 0).unwrap_or(0);
        let text = std::str::from_utf8(&rest[..end]).unwrap_or_default();
        let parts: Vec<u16> = text.split('.').filter_map(|it| it.parse().ok()).collect();
        if parts.len() == 3 && text.split('.').count() == 3 {
            return Some(Libc::Musl(parts[0], parts[1]));
        }
    }
    None
}

/// The distributions of interpreters; the first of a name is the one that is imported.
fn distributions(tree: &dyn Tree, interpreters: &[Interpreter]) -> io::Result<Vec<Vec<Installed>>> {
    let mut files: Vec<(usize, &str, String)> = Vec::new();
    for (index, path) in
        interpreters.iter().enumerate().flat_map(|(index, it)| it.paths.iter().map(move |it| (index, it)))
    {
        let Some(real) = resolve(tree, path) else { continue };
        for name in tree.names(&real) {
            let file = if name.ends_with(".dist-info") {
                format!("{real}/{name}/METADATA")
            } else if name.ends_with(".egg-info") && tree.node(&format!("{real}/{name}")) == Some(Node::Dir) {
                format!("{real}/{name}/PKG-INFO")
            } else if name.ends_with(".egg-info") {
                format!("{real}/{name}")
            } else {
                continue;
            };
            let file = resolve(tree, &file).filter(|it| tree.node(it) == Some(Node::File));
            files.extend(file.map(|it| (index, path.as_str(), it)));
        }
    }
    let texts = tree.read_all(&files.iter().map(|it| it.2.as_str()).collect::<Vec<_>>())?;
    let mut found = vec![BTreeMap::new(); interpreters.len()];
    for ((index, path, _), text) in files.iter().zip(texts) {
        if let Some(it) = read_metadata(&String::from_utf8_lossy(&text), path) {
            found[*index].entry(it.name.clone()).or_insert(it);
        }
    }
    Ok(found.into_iter().map(|it| it.into_values().collect()).collect())
}

/// Reads the header of a METADATA or PKG-INFO; what the resolver could not read is left out.
fn read_metadata(text: &str, location: &str) -> Option<Installed> {
    let (mut name, mut version) = (None, None);
    let (mut requires, mut extras) = (Vec::new(), Vec::new());
    for line in text.lines().take_while(|it| !it.trim().is_empty()) {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key.to_ascii_lowercase().as_str() {
            "name" => name = Some(value.to_owned()),
            "version" => version = value.parse::<pep440_rs::Version>().ok(),
            "requires-dist" if value.parse::<pep508_rs::Requirement>().is_ok() => requires.push(value.to_owned()),
            "provides-extra" => extras.push(value.to_owned()),
            _ => {}
        }
    }
    Some(Installed {
        name: normalise(&name?),
        version: version?.to_string(),
        location: location.to_owned(),
        requires,
        extras,
    })
}

/// A directory of this machine as a tree.
#[derive(Debug, Clone)]
pub struct Directory(pub std::path::PathBuf);

impl Tree for Directory {
    fn node(&self, path: &str) -> Option<Node> {
        let path = self.0.join(path.trim_start_matches('/'));
        let metadata = std::fs::symlink_metadata(&path).ok()?;
        Some(if metadata.is_dir() {
            Node::Dir
        } else if metadata.is_file() {
            Node::File
        } else if metadata.is_symlink() {
            Node::Link(std::fs::read_link(&path).ok()?.to_str()?.to_owned())
        } else {
            Node::Other
        })
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let items = std::fs::read_dir(self.0.join(dir.trim_start_matches('/'))).into_iter().flatten().flatten();
        let mut names: Vec<String> = items.filter_map(|it| it.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    fn read_all(&self, paths: &[&str]) -> io::Result<Vec<Vec<u8>>> {
        paths.iter().map(|it| fs_err::read(self.0.join(it.trim_start_matches('/')))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    fn put(root: &std::path::Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn base() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "usr/bin/python3.11", b"\x7fELF..\x003.x\x003.11.2\0more");
        put(root, "usr/bin/python3-config", b"#!/bin/sh\n");
        fs::os::unix::fs::symlink("python3.11", root.join("usr/bin/python3")).unwrap();
        fs::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        put(
            root,
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            b"..GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\nx",
        );
        fs::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        for file in ["os.py", "contextvars.py", "ctypes/__init__.py"] {
            put(root, &format!("usr/lib/python3.11/{file}"), b"");
        }
        let metadata = "Name: Torch_Like\nVersion: 2.6.0a0+nv25.1\nRequires-Dist: numpy>=1\nRequires-Dist: not (valid\n\nText: no\n";
        put(root, "usr/local/lib/python3.11/dist-packages/torch_like-2.6.dist-info/METADATA", metadata.as_bytes());
        put(root, "usr/lib/python3/dist-packages/six-1.egg-info/PKG-INFO", b"Name: six\nVersion: 1.16.0\n");
        dir
    }

    #[test]
    fn interpreters_libc_and_distributions_are_found_without_running_anything() {
        let dir = base();
        let found = inspect(&Directory(dir.path().to_owned()), &BTreeMap::new()).unwrap();
        assert_eq!(found.libc.as_deref(), Some("glibc 2.36"));
        let (interpreter, distributions) = found.choose(Some("3.11")).unwrap();
        assert_eq!((interpreter.version.as_str(), interpreter.executable.as_str()), ("3.11.2", "/usr/bin/python3.11"));
        let names: Vec<String> = distributions.iter().map(|it| format!("{} {}", it.name, it.version)).collect();
        assert_eq!(names, ["six 1.16.0", "torch-like 2.6.0a0+nv25.1"]);
        assert_eq!(distributions[1].requires, ["numpy>=1"]);
        assert_eq!(distributions[1].location, "/usr/local/lib/python3.11/dist-packages");
        assert!(found.choose(Some("3.1")).is_none());
    }

    #[test]
    fn half_a_standard_library_is_no_python() {
        let dir = base();
        fs::remove_file(dir.path().join("usr/lib/python3.11/contextvars.py")).unwrap();
        let found = inspect(&Directory(dir.path().to_owned()), &BTreeMap::new()).unwrap();
        assert!(!found.interpreters[0].complete);
        assert!(found.choose(None).is_none());
    }

    #[test]
    fn an_active_environment_of_the_base_is_seen() {
        let dir = base();
        let root = dir.path();
        put(root, "opt/venv/pyvenv.cfg", b"home = /usr/bin\n");
        fs::create_dir_all(root.join("opt/venv/bin")).unwrap();
        fs::os::unix::fs::symlink("/usr/bin/python3", root.join("opt/venv/bin/python3")).unwrap();
        put(root, "opt/venv/lib/python3.11/site-packages/in_venv-1.dist-info/METADATA", b"Name: in-venv\nVersion: 1\n");
        let environment = BTreeMap::from([("PATH".to_owned(), "/opt/venv/bin:/usr/bin".to_owned())]);
        let found = inspect(&Directory(root.to_owned()), &environment).unwrap();
        let (interpreter, distributions) = found.choose(None).unwrap();
        assert_eq!(interpreter.executable, "/usr/bin/python3.11");
        assert_eq!(interpreter.extra_paths, ["/opt/venv/lib/python3.11/site-packages"]);
        assert!(distributions.iter().any(|it| it.name == "in-venv"));
    }

    #[test]
    fn a_link_that_leads_nowhere_or_round_ends() {
        let dir = tempfile::tempdir().unwrap();
        fs::os::unix::fs::symlink("b", dir.path().join("a")).unwrap();
        fs::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
        fs::os::unix::fs::symlink("../../../x", dir.path().join("c")).unwrap();
        let tree = Directory(dir.path().to_owned());
        assert_eq!(resolve(&tree, "/a"), None);
        assert_eq!(resolve(&tree, "/c"), None);
    }
}
