//! What Python a base image has, read from its files: nothing of the base is run.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use super::name::normalise;
use super::tags::Libc;
use crate::digest::Digest;

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
    /// The bytes of a regular file.
    ///
    /// # Errors
    /// Whatever reading gives.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
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
    let path = environment.get("PATH").map_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", |it| it);
    let mut found =
        Inspection { libc: find_libc(tree)?.map(|it| it.to_string()), interpreters: vec![], distributions: vec![] };
    let mut seen = BTreeSet::new();
    let conda = ["/opt/conda/bin"];
    for dir in path.split(':').chain(conda).filter(|it| it.starts_with('/')) {
        let Some(real_dir) = resolve(tree, dir) else { continue };
        let mut names: Vec<String> = tree.names(&real_dir).into_iter().filter(|it| is_python(it)).collect();
        // `python3` is what the base means by Python; the rest from the newest.
        names.sort_by_key(|it| (it != "python3", it != "python", std::cmp::Reverse(minor_of(it))));
        for name in names {
            let named = format!("{}/{name}", real_dir.trim_end_matches('/'));
            let Some(real) = resolve(tree, &named) else { continue };
            if tree.node(&real) == Some(Node::File) && seen.insert(real.clone()) {
                let venv = venv_of(tree, &real_dir);
                if let Some(interpreter) = interpreter(tree, &real, venv.as_deref())? {
                    found.distributions.push(distributions(tree, &interpreter.paths)?);
                    found.interpreters.push(interpreter);
                }
            }
        }
    }
    Ok(found)
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

fn interpreter(tree: &dyn Tree, executable: &str, venv: Option<&str>) -> io::Result<Option<Interpreter>> {
    let bytes = tree.read(executable)?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let prefix = executable.rsplit_once("/bin/").map_or("/usr", |it| it.0);
    let mut digest = Digest::of(&bytes);
    let mut version = version_in(&bytes);
    // A small program with all of Python in a shared library.
    for dir in
        [format!("{prefix}/lib"), "/usr/lib/x86_64-linux-gnu".to_owned(), "/usr/lib/aarch64-linux-gnu".to_owned()]
    {
        for name in tree.names(&dir) {
            let wanted = minor_of(executable.rsplit('/').next().unwrap_or_default());
            let Some(found) = name.strip_prefix("libpython3.").and_then(|it| it.strip_suffix(".so.1.0")) else {
                continue;
            };
            let found: Option<u16> = found.parse().ok();
            if version.is_none() && (wanted.is_none() || wanted == found) {
                let library = tree.read(&resolve(tree, &format!("{dir}/{name}")).unwrap_or_default())?;
                version = version_in(&library);
                digest = Digest::of(format!("{digest} {}", Digest::of(&library)));
            }
        }
    }
    let Some(version) = version else { return Ok(None) };
    let Some((major_minor, _)) = version.rsplit_once('.') else { return Ok(None) };
    let library = format!("{prefix}/lib/python{major_minor}");
    let has = |it: &str| {
        resolve(tree, &format!("{library}/{it}")).is_some() || resolve(tree, &format!("{library}/{it}c")).is_some()
    };
    let mut extra_paths = Vec::new();
    if let Some(venv) = venv {
        extra_paths.push(format!("{venv}/lib/python{major_minor}/site-packages"));
    }
    let mut paths = extra_paths.clone();
    paths.push(format!("{prefix}/lib/python{major_minor}/site-packages"));
    if prefix == "/usr" {
        paths = extra_paths.clone();
        paths.push(format!("/usr/local/lib/python{major_minor}/dist-packages"));
        paths.push(format!("/usr/lib/python{}/dist-packages", major_minor.split('.').next().unwrap_or("3")));
        paths.push(format!("/usr/lib/python{major_minor}/dist-packages"));
        paths.push(format!("/usr/lib/python{major_minor}/site-packages"));
    }
    paths.retain(|it| resolve(tree, it).is_some());
    extra_paths.retain(|it| paths.contains(it));
    let complete = has("contextvars.py") && has("os.py") && has("ctypes/__init__.py");
    Ok(Some(Interpreter {
        version: version.clone(),
        executable: executable.to_owned(),
        digest,
        complete,
        paths,
        extra_paths,
    }))
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

/// The C library: by its loader, then by the version its file says.
fn find_libc(tree: &dyn Tree) -> io::Result<Option<Libc>> {
    let dirs = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib", "/lib"];
    for dir in dirs {
        if let Some(path) = resolve(tree, &format!("{dir}/libc.so.6"))
            && let Some(libc) = glibc_in(&tree.read(&path)?)
        {
            return Ok(Some(libc));
        }
    }
    for machine in ["x86_64", "aarch64"] {
        if let Some(path) = resolve(tree, &format!("/lib/ld-musl-{machine}.so.1")) {
            return Ok(Some(musl_in(&tree.read(&path)?).unwrap_or(Libc::Musl(1, 2))));
        }
    }
    Ok(None)
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

/// The distributions in some directories; the first of a name is the one that is imported.
fn distributions(tree: &dyn Tree, paths: &[String]) -> io::Result<Vec<Installed>> {
    let mut found: BTreeMap<String, Installed> = BTreeMap::new();
    for path in paths {
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
            let Some(file) = resolve(tree, &file).filter(|it| tree.node(it) == Some(Node::File)) else { continue };
            let text = tree.read(&file)?;
            if let Some(it) = read_metadata(&String::from_utf8_lossy(&text), path) {
                found.entry(it.name.clone()).or_insert(it);
            }
        }
    }
    Ok(found.into_values().collect())
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

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        fs_err::read(self.0.join(path.trim_start_matches('/')))
    }
}
