//! Shared libraries that a recipe takes from wheels, laid out where a system has them and told to its linker.
//!
//! ```text
//! files and links of the recipe, the linker's cache      made in the sandbox by the base's own ldconfig
//! libraries of wheels                                    one layer for each list, streams copied, not compressed again
//! packages
//! ```

use std::collections::{BTreeMap, BTreeSet};

use fs_err as fs;

use super::Resolved;
use super::archive::archive;
use super::text::{Recipe, Wheels};
use crate::oci::layer::Deflated;
use crate::oci::{Layer, LayerWriter, Meta};
use crate::python::archive::{ArchiveError, Entry, Method};
use crate::python::fetch;
use crate::python::name::normalise;
use crate::python::wheel::Wheel as Archive;
use crate::report::Reporter;
use crate::sandbox::{LayerBlob, Sandbox, Step, Temporary};
use crate::store::{Store, StoreError};
use crate::system::{SystemError, install};

/// Streams of files below this many bytes are not copied: their headers would outweigh them.
const COPIED: u64 = 2 << 10;

/// The layers that stand on that of the packages, lowest first; the wheels must be in the store.
pub(super) fn layers(
    store: &Store,
    recipe: &Recipe,
    resolved: &Resolved,
    packages: &Layer,
    reporter: &dyn Reporter,
) -> Result<Vec<Layer>, SystemError> {
    if recipe.wheels.is_empty() && recipe.files.is_empty() && recipe.links.is_empty() {
        return Ok(Vec::new());
    }
    let mut layers = vec![packages.clone()];
    for group in &recipe.wheels {
        layers.push(libraries(store, group, resolved)?);
    }
    let blobs: Vec<LayerBlob> =
        layers.iter().map(|it| LayerBlob { diff_id: it.diff_id, blob: it.descriptor.digest }).collect();
    let sandbox = Sandbox::open(store, &blobs, reporter)?;
    let work = store.scratch()?;
    let path = work.path().join("files");
    archive([], entries(&recipe.links), entries(&recipe.files))
        .and_then(|bytes| fs::write(&path, bytes))
        .map_err(|source| SystemError::File { path: path.clone(), source })?;
    sandbox.fill(&[path], &[])?;
    let output = sandbox.run(&install::quiet(Step::new("ldconfig", &["ldconfig"])), reporter)?;
    if output.code != 0 {
        return Err(install::failed(&sandbox, output.code, &output.last_words()));
    }
    layers.push(sandbox.layer(Temporary::LeftOut)?);
    layers.remove(0);
    Ok(layers)
}

/// Paths as an archive has them, with their texts.
fn entries(map: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    map.iter().map(|(path, text)| (path.trim_start_matches('/'), text.as_str()))
}

/// A layer of the shared libraries of some wheels, and of their licences.
fn libraries(store: &Store, group: &Wheels, resolved: &Resolved) -> Result<Layer, SystemError> {
    let refused = |reason: String| SystemError::Recipe { name: resolved.name.clone(), reason };
    let mut wheels: Vec<(&str, Archive)> = Vec::new();
    for name in group.names() {
        let pinned = resolved.wheels.iter().find(|it| it.name == name);
        let pinned = pinned.ok_or_else(|| refused(format!("no wheel of `{name}` is pinned")))?;
        store.has(&pinned.sha256).ok_or(StoreError::Missing(pinned.sha256))?;
        fetch::check(store, &pinned.sha256, &pinned.file)?;
        let archive = Archive::open(&store.blob_path(&pinned.sha256), &pinned.file).map_err(fetch::FetchError::from)?;
        wheels.push((&pinned.name, archive));
    }
    let mut places: BTreeMap<String, (&Archive, &Entry)> = BTreeMap::new();
    for (name, wheel) in &wheels {
        let before = places.len();
        for entry in wheel.archive().entries() {
            let Some(path) = place(&entry.name, wheel.dist_info(), name, &group.into) else { continue };
            if places.insert(path.clone(), (wheel, entry)).is_some() {
                return Err(refused(format!("two wheels have `{path}`")));
            }
        }
        if places.len() == before {
            return Err(refused(format!("`{}` has no shared libraries", wheel.file())));
        }
    }
    let mut writer = store.layer_writer()?;
    write(&mut writer, &places)?;
    Ok(writer.finish()?)
}

/// Where an entry of a wheel goes, if anywhere, as a layer has paths: libraries of directories of that name, and licences.
fn place(entry: &str, dist_info: &str, name: &str, into: &str) -> Option<String> {
    let (dir, file) = entry.rsplit_once('/')?;
    if entry.strip_prefix(dist_info).is_some_and(|it| it.starts_with('/')) {
        let is_licence = file.to_ascii_lowercase().starts_with("licen");
        return is_licence.then(|| format!("usr/share/doc/{name}/{file}"));
    }
    let is_library = dir.rsplit('/').next() == Some("lib") && file.starts_with("lib") && file.contains(".so");
    is_library.then(|| format!("{}/{file}", into.trim_matches('/')))
}

/// Writes directories, then what is packed, then what is copied, each by path.
fn write(writer: &mut LayerWriter<'_>, places: &BTreeMap<String, (&Archive, &Entry)>) -> Result<(), SystemError> {
    let mut dirs: BTreeSet<&str> = BTreeSet::new();
    for path in places.keys() {
        dirs.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    for dir in dirs {
        writer.dir(dir, &Meta::dir())?;
    }
    let mut copied = Vec::new();
    for (path, (wheel, entry)) in places {
        let archive = wheel.archive();
        if entry.method == Method::Deflate && entry.size >= COPIED {
            copied.push((path, archive, *entry));
        } else if entry.method == Method::Stored {
            writer.file_from(path, &Meta::file(), entry.size, &mut archive.raw(entry))?;
        } else {
            writer.file(path, &Meta::file(), &archive.read(entry, COPIED).map_err(unread)?)?;
        }
    }
    for (path, archive, entry) in copied {
        let mut stream = archive.raw(entry);
        let (compressed, size, crc32) = (entry.compressed, entry.size, entry.crc32);
        writer.deflated(path, &Meta::file(), &mut Deflated { stream: &mut stream, compressed, size, crc32 })?;
    }
    Ok(())
}

fn unread(error: ArchiveError) -> SystemError {
    fetch::FetchError::from(crate::python::wheel::WheelError::from(error)).into()
}

impl Wheels {
    /// The normalised names of its requirements.
    fn names(&self) -> impl Iterator<Item = String> {
        let end = |it: &str| it.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')));
        self.requirements.iter().map(move |it| normalise(&it[..end(it).unwrap_or(it.len())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_licences_have_places_and_the_rest_has_none() {
        let place =
            |entry: &str| place(entry, "nvidia_x_cu12-1.dist-info", "nvidia-x-cu12", "/usr/local/cuda-12.6/lib");
        for (entry, expected) in [
            ("nvidia/x/lib/libx.so.12", Some("usr/local/cuda-12.6/lib/libx.so.12")),
            ("nvidia/x/lib/libx-builtins.so.12.6", Some("usr/local/cuda-12.6/lib/libx-builtins.so.12.6")),
            ("nvidia_x_cu12-1.dist-info/License.txt", Some("usr/share/doc/nvidia-x-cu12/License.txt")),
            ("nvidia_x_cu12-1.dist-info/licenses/LICENSE", Some("usr/share/doc/nvidia-x-cu12/LICENSE")),
            ("nvidia_x_cu12-1.dist-info/RECORD", None),
            ("nvidia/x/include/x.h", None),
            ("nvidia/x/lib/__init__.py", None),
            ("nvidia/x/lib/libx_static.a", None),
            ("nvidia/x/library/libx.so", None),
        ] {
            assert_eq!(place(entry).as_deref(), expected, "{entry}");
        }
    }
}
