//! The lock as files: a TOML document and its large texts beside it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{FORMAT, Lock, Text, VERSION};
use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::fs::{parent_of, write_named, write_whole};

/// Why a lock cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A file cannot be read.
    #[error("cannot read the lock")]
    Read(#[source] io::Error),
    /// A file cannot be written.
    #[error("cannot write the lock")]
    Write(#[source] io::Error),
    /// The document is no lock.
    #[error("`{name}` is not a lock")]
    Parse {
        /// Where it came from.
        name: String,
        /// What does not fit, with line and column.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The document is of another version.
    #[error(
        "`{name}` is a lock of version {version}, format {format}; this program knows versions up to {VERSION}, format {FORMAT}"
    )]
    Version {
        /// Where it came from.
        name: String,
        /// Its version.
        version: i64,
        /// Its format.
        format: i64,
    },
    /// A text is missing or was changed.
    #[error("the text {digest} of `{name}` is missing or was changed")]
    Text {
        /// Where the lock came from.
        name: String,
        /// The text's digest.
        digest: Digest,
    },
}

impl Explain for DocumentError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(source) | Self::Write(source) => Kind::of_io(source),
            _ => Kind::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Version { .. } => {
                vec!["Lock the task again, or build with the program that wrote this lock.".to_owned()]
            }
            Self::Text { name, .. } => {
                vec![format!("Large texts lie in `{name}.d` beside the lock: copy that directory too.")]
            }
            _ => Vec::new(),
        }
    }
}

/// A lock ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The document.
    pub toml: String,
    /// Its large texts.
    pub texts: BTreeMap<Digest, Vec<u8>>,
}

impl Lock {
    /// The document and its large texts.
    ///
    /// # Panics
    /// Never: a lock has no value that TOML lacks.
    #[must_use]
    pub fn documents(&self) -> Documents {
        let mut lock = self.clone();
        let mut texts = BTreeMap::new();
        for text in lock.texts_mut().into_iter().filter(|it| it.is_large()) {
            texts.insert(text.sha256, text.bytes());
            text.text = None;
            text.base64 = None;
        }
        #[expect(clippy::expect_used, reason = "every field is a text, a number, a list or a table")]
        let toml = toml::to_string_pretty(&lock).expect("a lock is TOML");
        Documents { toml, texts }
    }

    /// Digest of the document: what an image is remembered by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.documents().toml)
    }

    /// Reads a document; `load` gives its large texts. `name` is for messages.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn parse(name: &str, toml: &str, load: impl Fn(&Digest) -> io::Result<Vec<u8>>) -> Result<Self, DocumentError> {
        let (lock, missing) = Self::parse_partly(name, toml, load)?;
        match missing.first() {
            None => Ok(lock),
            Some(&digest) => Err(DocumentError::Text { name: name.to_owned(), digest }),
        }
    }

    /// Reads a document, and says which of its texts are missing or were changed.
    pub(super) fn parse_partly(
        name: &str,
        toml: &str,
        load: impl Fn(&Digest) -> io::Result<Vec<u8>>,
    ) -> Result<(Self, Vec<Digest>), DocumentError> {
        let parsing = |source| DocumentError::Parse { name: name.to_owned(), source: Box::new(source) };
        // The numbers first: a lock of the future has fields that this program would call unknown.
        let table: toml::Table = toml.parse().map_err(parsing)?;
        let number = |key: &str| table.get(key).and_then(toml::Value::as_integer);
        if let (Some(version), Some(format)) = (number("version"), number("format"))
            && (!(1..=i64::from(VERSION)).contains(&version) || format != i64::from(FORMAT))
        {
            return Err(DocumentError::Version { name: name.to_owned(), version, format });
        }
        let mut lock: Self = toml::from_str(toml).map_err(parsing)?;
        let mut missing = Vec::new();
        for text in lock.texts_mut() {
            if text.is_elsewhere() {
                match load(&text.sha256).map(Text::of) {
                    Ok(loaded) if loaded.sha256 == text.sha256 => *text = loaded,
                    _ => missing.push(text.sha256),
                }
            } else if text.is_damaged() {
                missing.push(text.sha256);
            }
        }
        Ok((lock, missing))
    }

    /// Reads a lock file.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn read(path: &Path) -> Result<Self, DocumentError> {
        let toml = fs::read_to_string(path).map_err(DocumentError::Read)?;
        let beside = texts_of(path);
        Self::parse(&path.display().to_string(), &toml, |digest| fs::read(beside.join(digest.hex())))
    }

    /// Writes a lock file, its large texts first.
    ///
    /// # Errors
    /// [`DocumentError::Write`]
    pub fn write(&self, path: &Path) -> Result<(), DocumentError> {
        let documents = self.documents();
        let write = || -> io::Result<()> {
            fs::create_dir_all(parent_of(path))?;
            if !documents.texts.is_empty() {
                let beside = texts_of(path);
                fs::create_dir_all(&beside)?;
                for (digest, bytes) in &documents.texts {
                    write_whole(&beside.join(digest.hex()), bytes, 0o644)?;
                }
            }
            write_named(path, 0o644, |file| file.write_all(documents.toml.as_bytes()))
        };
        write().map_err(DocumentError::Write)
    }

    fn texts_mut(&mut self) -> Vec<&mut Text> {
        let mut texts = vec![&mut self.launch.record];
        texts.extend(self.setup.as_mut().map(|it| &mut it.script));
        if let Some(code) = &mut self.code {
            texts.extend(code.diff.as_mut());
            texts.extend(code.script.as_mut().map(|it| &mut it.text));
        }
        texts
    }
}

fn texts_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".d");
    name.into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::launch::Mode;
    use crate::lock::{BasePart, CodePart, LaunchPart, PythonPart, StoredScript};
    use crate::oci::Platform;

    pub(crate) fn lock() -> Lock {
        Lock {
            version: VERSION,
            format: FORMAT,
            created: 1,
            uv: None,
            guest: Digest::of("guest"),
            bytecode: true,
            base: BasePart {
                name: Some("recipe:debian-python".to_owned()),
                source: None,
                manifest: Some(Digest::of("manifest")),
                config: Digest::of("config"),
                platform: Platform::host(),
                layers: Vec::new(),
                recipe: None,
            },
            python: PythonPart {
                version: "3.11.2".to_owned(),
                executable: "/usr/bin/python3.11".to_owned(),
                libc: "glibc 2.36".to_owned(),
                digest: Digest::of("python"),
                site_packages: true,
                indexes: Vec::new(),
                distributions: Vec::new(),
                extra_paths: Vec::new(),
                base_distributions: Vec::new(),
                projects: Vec::new(),
            },
            system: None,
            setup: None,
            code: Some(CodePart {
                git: None,
                diff: Some(Text::of([0xff, b'\n'])),
                script: Some(StoredScript {
                    file: "train.py".to_owned(),
                    text: Text::of("x = '''\n'''\n".repeat(20_000)),
                }),
                tree: Digest::of("tree"),
            }),
            launch: LaunchPart {
                mode: Mode::CloneTask,
                task: Some("ab".to_owned()),
                name: "a \"task\"".to_owned(),
                shell: None,
                entry_point: vec!["train.py".to_owned()],
                working_dir: String::new(),
                env: BTreeMap::from([("A".to_owned(), "b\nc".to_owned())]),
                secrets: Vec::new(),
                secret_parameters: Vec::new(),
                container_arguments: None,
                record: Text::of("{}"),
            },
            asked: None,
        }
    }

    #[test]
    fn a_lock_reads_what_it_wrote_large_and_binary_texts_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let lock = lock();
        lock.write(&path).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), lock);
        assert_eq!(fs::read_dir(dir.path().join("agent.lock.d")).unwrap().count(), 1);
        let text = fs::read_dir(dir.path().join("agent.lock.d")).unwrap().next().unwrap().unwrap().path();
        fs::write(text, "changed").unwrap();
        assert!(matches!(Lock::read(&path).unwrap_err(), DocumentError::Text { .. }));
    }

    #[test]
    fn a_lock_of_version_1_is_written_as_it_was() {
        let toml = include_str!("version-1.toml");
        let lock = Lock::parse("old", toml, |_| unreachable!()).unwrap();
        assert_eq!((lock.version, lock.asked.as_ref()), (1, None));
        // The image has this document inside: another byte would be another image.
        assert_eq!(lock.documents().toml, toml);
    }

    #[test]
    fn a_lock_of_the_future_says_so() {
        let toml = lock().documents().toml.replacen("version = 2", "version = 9\nnew = 1", 1);
        let error = Lock::parse("x", &toml, |_| Ok(Vec::new())).unwrap_err();
        assert!(matches!(error, DocumentError::Version { version: 9, .. }), "{error}");
        let error = Lock::parse("x", "version = 1\nformat = 1\n", |_| Ok(Vec::new())).unwrap_err();
        assert!(matches!(error, DocumentError::Parse { .. }));
    }

    proptest::proptest! {
        /// Locks travel in images of whoever built them.
        #[test]
        fn what_is_read_is_written_so_that_it_is_read_again(toml in crate::testing::mangled_text(
            &[include_str!("version-1.toml"), &lock().documents().toml], "[]{}=\"\\/:.\n-a1")) {
            if let Ok(lock) = Lock::parse("x", &toml, |_| Err(io::ErrorKind::NotFound.into())) {
                let again = Lock::parse("y", &lock.documents().toml, |_| Err(io::ErrorKind::NotFound.into()));
                assert_eq!(again.ok(), Some(lock), "{toml}");
            }
        }
    }
}
