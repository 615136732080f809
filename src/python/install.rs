//! A wheel's files as they lie when installed (binary distribution format, "Installing a wheel").
//!
//! Nothing is unpacked: a file is an entry of the archive, to be copied as it is compressed, or bytes of ours (programs,
//! rewritten first lines, RECORD, INSTALLER).

use std::collections::{BTreeMap, HashMap};

use super::entry_points;
use super::record::{self, Row};
use super::wheel::{Wheel, WheelError};

/// Most bytes of a script whose first line is rewritten.
const MAX_SCRIPT: u64 = 16 << 20;
/// What INSTALLER says.
const INSTALLER: &str = "agent\n";

/// Where an environment lies and for which Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Absolute directory of the environment, `/opt/agent/venv`.
    pub root: String,
    /// Major and minor version, `3.11`.
    pub python: String,
}

impl Target {
    /// Where modules go, relative to the root.
    #[must_use]
    pub fn site_packages(&self) -> String {
        format!("lib/python{}/site-packages", self.python)
    }

    /// The environment's interpreter, absolute.
    #[must_use]
    pub fn interpreter(&self) -> String {
        format!("{}/bin/python", self.root)
    }
}

/// What an installed file is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An entry of the wheel, by its place in the archive's list.
    Entry(usize),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A file of an installed wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Whether it may be executed.
    pub executable: bool,
    /// What it is made of.
    pub content: Content,
}

/// The files of an installed wheel, by path relative to the environment's root.
pub type Files = BTreeMap<String, File>;

/// Says where every file of a wheel goes.
///
/// # Errors
/// [`WheelError::Unsound`] for two files in one place, an unknown scheme, a program that is none.
pub fn install(wheel: &Wheel, target: &Target) -> Result<Files, WheelError> {
    let mut plan = Plan { wheel, target, site: target.site_packages(), files: Files::new(), hashes: HashMap::new() };
    for index in 0..wheel.archive().entries().len() {
        plan.place(index)?;
    }
    plan.programs()?;
    plan.finish()
}

struct Plan<'a> {
    wheel: &'a Wheel,
    target: &'a Target,
    site: String,
    files: Files,
    /// Hash and size by installed path, for RECORD.
    hashes: HashMap<String, (String, u64)>,
}

impl Plan<'_> {
    fn place(&mut self, index: usize) -> Result<(), WheelError> {
        let wheel = self.wheel;
        let entry = &wheel.archive().entries()[index];
        if wheel.is_signature(&entry.name) || entry.name == format!("{}/INSTALLER", wheel.dist_info()) {
            return Ok(());
        }
        let (path, is_script) = self.path_of(&entry.name)?;
        if is_script && let Some(bytes) = self.rewritten(index)? {
            return self.add(path, true, bytes);
        }
        let hash = wheel.row(&entry.name).map(|row| row.hash.clone()).unwrap_or_default();
        self.hashes.insert(path.clone(), (hash, entry.size));
        let file = File { executable: entry.executable || is_script, content: Content::Entry(index) };
        self.insert(path, file)
    }

    /// Where an entry goes, and whether it is a script.
    fn path_of(&self, name: &str) -> Result<(String, bool), WheelError> {
        let refuse = |reason: &str| self.wheel.unsound(format!("`{name}` {reason}"));
        let Some((data, rest)) = name.split_once('/').filter(|(top, _)| top.ends_with(".data")) else {
            return Ok((format!("{}/{name}", self.site), false));
        };
        let (scheme, path) = rest.split_once('/').ok_or_else(|| refuse("lies outside every scheme"))?;
        match scheme {
            "purelib" | "platlib" => Ok((format!("{}/{path}", self.site), false)),
            "scripts" => Ok((format!("bin/{path}"), true)),
            "data" => Ok((path.to_owned(), false)),
            "headers" => {
                let project = data.trim_end_matches(".data").rsplit_once('-').map_or(data, |it| it.0);
                Ok((format!("include/site/python{}/{project}/{path}", self.target.python), false))
            }
            _ => Err(refuse("has a scheme that nobody knows")),
        }
    }

    /// A script with `#!python` in front, with the environment's interpreter instead.
    fn rewritten(&self, index: usize) -> Result<Option<Vec<u8>>, WheelError> {
        let archive = self.wheel.archive();
        let entry = &archive.entries()[index];
        if !archive.start(entry, 8)?.starts_with(b"#!python") {
            return Ok(None);
        }
        let bytes = archive.read(entry, MAX_SCRIPT)?;
        let end = bytes.iter().position(|it| *it == b'\n').unwrap_or(bytes.len());
        let first = String::from_utf8_lossy(&bytes[8..end]);
        // `#!pythonw` is for Windows; arguments behind the name stay.
        let arguments = first.strip_prefix('w').unwrap_or(&first);
        let mut script = format!("#!{}{}", self.target.interpreter(), arguments.trim_end()).into_bytes();
        script.extend_from_slice(&bytes[end..]);
        Ok(Some(script))
    }

    fn programs(&mut self) -> Result<(), WheelError> {
        let Some(text) = self.wheel.find_metadata("entry_points.txt")? else { return Ok(()) };
        let programs = entry_points::programs(&text)
            .map_err(|reason| self.wheel.unsound(format!("entry_points.txt: {reason}")))?;
        for program in programs {
            let path = format!("bin/{}", program.name);
            // A wheel that also carries the script itself means the generated one.
            self.files.remove(&path);
            let script = entry_points::script(&program, &self.target.interpreter());
            self.add(path, true, script.into_bytes())?;
        }
        Ok(())
    }

    fn add(&mut self, path: String, executable: bool, bytes: Vec<u8>) -> Result<(), WheelError> {
        self.hashes.insert(path.clone(), (record::hash(&bytes), bytes.len() as u64));
        self.insert(path, File { executable, content: Content::Bytes(bytes) })
    }

    fn insert(&mut self, path: String, file: File) -> Result<(), WheelError> {
        if self.files.contains_key(&path) {
            return Err(self.wheel.unsound(format!("two of its files go to `{path}`")));
        }
        self.files.insert(path, file);
        Ok(())
    }

    fn finish(mut self) -> Result<Files, WheelError> {
        let dist_info = format!("{}/{}", self.site, self.wheel.dist_info());
        self.add(format!("{dist_info}/INSTALLER"), false, INSTALLER.as_bytes().to_vec())?;
        let mut rows: Vec<Row> = self
            .hashes
            .iter()
            .filter(|(path, _)| self.files.contains_key(*path))
            .map(|(path, (hash, size))| Row { path: self.relative(path), hash: hash.clone(), size: size.to_string() })
            .collect();
        let record = format!("{dist_info}/RECORD");
        rows.push(Row { path: self.relative(&record), hash: String::new(), size: String::new() });
        let bytes = record::write(rows).into_bytes();
        self.insert(record, File { executable: false, content: Content::Bytes(bytes) })?;
        check_tree(&self.files).map_err(|path| self.wheel.unsound(format!("`{path}` is a file and a directory")))?;
        Ok(self.files)
    }

    /// A path relative to the directory that holds the metadata.
    fn relative(&self, path: &str) -> String {
        let inside = path.strip_prefix(self.site.as_str()).and_then(|it| it.strip_prefix('/'));
        inside.map_or_else(|| format!("../../../{path}"), str::to_owned)
    }
}

/// Whether no file is a directory of another; the offender otherwise.
fn check_tree(files: &Files) -> Result<(), String> {
    for path in files.keys() {
        let inside = format!("{path}/");
        if files.range(inside.clone()..).next().is_some_and(|(next, _)| next.starts_with(&inside)) {
            return Err(path.clone());
        }
    }
    Ok(())
}
