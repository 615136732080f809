//! A wheel: an archive with a `.dist-info` (binary distribution format, "The WHEEL file" and "Recording").

use std::collections::HashMap;
use std::path::Path;

use super::archive::{Archive, ArchiveError, Entry};
use super::name::{WheelName, normalise};
use super::record::{self, Check, Row};
use crate::error::{Explain, Kind};

/// Most bytes of a metadata file that are read.
const MAX_METADATA: u64 = 64 << 20;

/// Why a wheel is refused.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// Its archive is.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It is no wheel, or none that can be installed.
    #[error("`{wheel}` is not a sound wheel: {reason}")]
    Unsound {
        /// File name.
        wheel: String,
        /// What is wrong.
        reason: String,
    },
}

impl Explain for WheelError {
    fn kind(&self) -> Kind {
        match self {
            Self::Archive(error) => error.kind(),
            Self::Unsound { .. } => Kind::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        if self.kind() != Kind::Input {
            return Vec::new();
        }
        vec![
            "Ask for another version of that distribution, and tell its authors: such a wheel is damaged or hostile."
                .to_owned(),
        ]
    }
}

/// An open wheel whose metadata was read and found to fit its file name.
#[derive(Debug)]
pub struct Wheel {
    archive: Archive,
    file: String,
    name: WheelName,
    dist_info: String,
    purelib: bool,
    rows: HashMap<String, Row>,
}

impl Wheel {
    /// Opens a wheel; `file` is its file name, wherever it lies.
    ///
    /// # Errors
    /// [`WheelError`]
    pub fn open(path: &Path, file: &str) -> Result<Self, WheelError> {
        let unsound = |reason: String| WheelError::Unsound { wheel: file.to_owned(), reason };
        let name = WheelName::parse(file).ok_or_else(|| unsound("its file name is not a wheel's".to_owned()))?;
        let archive = Archive::open(path, file)?;
        let dist_info = find_dist_info(&archive, &name).map_err(unsound)?;
        let mut wheel = Self { archive, file: file.to_owned(), name, dist_info, purelib: false, rows: HashMap::new() };
        wheel.purelib = wheel.read_wheel_file()?;
        for row in record::parse(&wheel.metadata("RECORD")?).map_err(|it| wheel.unsound(format!("RECORD: {it}")))? {
            if wheel.rows.insert(row.path.clone(), row).is_some() {
                return Err(wheel.unsound("RECORD names a file twice".to_owned()));
            }
        }
        Ok(wheel)
    }

    /// Its file name.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its file name, taken apart.
    #[must_use]
    pub fn name(&self) -> &WheelName {
        &self.name
    }

    /// The archive.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Its metadata directory, `name-1.0.dist-info`.
    #[must_use]
    pub fn dist_info(&self) -> &str {
        &self.dist_info
    }

    /// Whether its root goes to `purelib` rather than `platlib`.
    #[must_use]
    pub fn is_purelib(&self) -> bool {
        self.purelib
    }

    /// What RECORD says of an archive's entry.
    #[must_use]
    pub fn row(&self, entry: &str) -> Option<&Row> {
        self.rows.get(entry)
    }

    /// A metadata file as text; an error when there is none.
    ///
    /// # Errors
    /// [`WheelError`]
    pub fn metadata(&self, file: &str) -> Result<String, WheelError> {
        self.find_metadata(file)?.ok_or_else(|| self.unsound(format!("it has no {file}")))
    }

    /// A metadata file as text.
    ///
    /// # Errors
    /// [`WheelError`]
    pub fn find_metadata(&self, file: &str) -> Result<Option<String>, WheelError> {
        let Some(entry) = self.archive.find(&format!("{}/{file}", self.dist_info)) else { return Ok(None) };
        let bytes = self.archive.read(entry, MAX_METADATA)?;
        String::from_utf8(bytes).map(Some).map_err(|_| self.unsound(format!("{file} is not UTF-8")))
    }

    /// Compares every file with RECORD; reads all content once. A file that RECORD does not name is taken, as pip and uv
    /// take it: the wheel's own digest vouches for it ([`Self::unlisted`] names those).
    ///
    /// # Errors
    /// [`WheelError::Unsound`] for a file that RECORD describes otherwise.
    pub fn verify(&self) -> Result<(), WheelError> {
        for entry in self.archive.entries() {
            if !self.is_signature(&entry.name) {
                self.verify_entry(entry)?;
            }
        }
        Ok(())
    }

    fn verify_entry(&self, entry: &Entry) -> Result<(), WheelError> {
        let refuse = |reason: &str| Err(self.unsound(format!("RECORD {reason} `{}`", entry.name)));
        let Some(row) = self.rows.get(&entry.name) else {
            return Ok(self.archive.content(entry, &mut |_| ())?);
        };
        if !row.size.is_empty() && row.size.parse() != Ok(entry.size) {
            return refuse("has another size for");
        }
        let Some(mut check) = Check::for_field(&row.hash) else { return refuse("has no strong hash for") };
        self.archive.content(entry, &mut |piece| check.update(piece))?;
        if check.fits(&row.hash) { Ok(()) } else { refuse("has another hash for") }
    }

    /// The files that RECORD does not name, as it should.
    pub fn unlisted(&self) -> impl Iterator<Item = &str> {
        let names = self.archive.entries().iter().map(|it| it.name.as_str());
        names.filter(|it| !it.ends_with('/') && !self.is_signature(it) && !self.rows.contains_key(*it))
    }

    /// RECORD and its signatures are not listed in RECORD.
    pub(super) fn is_signature(&self, entry: &str) -> bool {
        let file = entry.strip_prefix(self.dist_info.as_str()).and_then(|it| it.strip_prefix('/'));
        matches!(file, Some("RECORD" | "RECORD.jws" | "RECORD.p7s"))
    }

    pub(super) fn unsound(&self, reason: String) -> WheelError {
        WheelError::Unsound { wheel: self.file.clone(), reason }
    }

    /// Reads the WHEEL file: whether the root is `purelib`.
    fn read_wheel_file(&self) -> Result<bool, WheelError> {
        let text = self.metadata("WHEEL")?;
        let field = |key: &str| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.trim().eq_ignore_ascii_case(key).then(|| value.trim())
            })
        };
        match field("Wheel-Version").map(|it| it.split('.').next()) {
            Some(Some("1")) => {}
            Some(_) => return Err(self.unsound("its wheel version is not 1".to_owned())),
            None => return Err(self.unsound("its WHEEL file has no version".to_owned())),
        }
        Ok(field("Root-Is-Purelib").is_some_and(|it| it.eq_ignore_ascii_case("true")))
    }
}

/// The one `.dist-info` of the archive, whose name must be the file name's.
fn find_dist_info(archive: &Archive, name: &WheelName) -> Result<String, String> {
    let mut found: Option<&str> = None;
    for entry in archive.entries() {
        let Some((top, _)) = entry.name.split_once('/') else { continue };
        if top.ends_with(".dist-info") && found != Some(top) {
            if let Some(other) = found {
                return Err(format!("it has two metadata directories, `{other}` and `{top}`"));
            }
            found = Some(top);
        }
    }
    let top = found.ok_or("it has no metadata directory")?;
    let stem = top.trim_end_matches(".dist-info");
    let (stem_name, stem_version) = stem.rsplit_once('-').unwrap_or((stem, ""));
    // Versions in directory names are spelled in several ways (`1.0-1`, `1.0.post1`): the name must fit, and a version
    // that both read must be one.
    let version = |it: &str| it.replace('_', "-").parse::<pep440_rs::Version>().ok();
    let same_version = match (version(stem_version), version(&name.version)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    if normalise(stem_name) != name.name || !same_version {
        return Err(format!("its metadata directory `{top}` is of another distribution"));
    }
    Ok(top.to_owned())
}
