//! Stand-in wheels for distributions that a base already has.
//!
//! The resolver is offered them as files, with the metadata the base has, and prefers their versions. So they satisfy
//! requirements even when no index knows them (`torch 2.6.0a0+ecf3bae40a.nv25.1`), and nothing of them is fetched.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use fs_err as fs;

use super::inspect::Installed;
use super::pack::Packer;

/// Writes a stand-in for every distribution into `dir`; `tag` must be the best tag of the interpreter, so that a
/// stand-in is preferred to the same version from an index.
///
/// # Errors
/// Whatever writing gives.
pub(super) fn write(dir: &Path, installed: &[Installed], tag: &str) -> io::Result<()> {
    for it in installed {
        let name = it.name.replace('-', "_");
        let dist_info = format!("{name}-{}.dist-info", it.version);
        let mut metadata = format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\n", it.name, it.version);
        for field in it.requires.iter().map(|it| format!("Requires-Dist: {it}\n")) {
            metadata.push_str(&field);
        }
        for field in it.extras.iter().map(|it| format!("Provides-Extra: {it}\n")) {
            metadata.push_str(&field);
        }
        let wheel = format!("Wheel-Version: 1.0\nGenerator: agent\nRoot-Is-Purelib: true\nTag: {tag}\n");
        let files = [("METADATA", metadata.as_str()), ("WHEEL", &wheel), ("RECORD", "")];
        let file = fs::File::create(dir.join(format!("{name}-{}-9999-{tag}.whl", it.version)))?;
        let mut packer = Packer::new(BufWriter::new(file));
        for (file, text) in files {
            packer.add(&format!("{dist_info}/{file}"), text.as_bytes(), false)?;
        }
        packer.finish()?.flush()?;
    }
    Ok(())
}

/// The versions of the base as a `pylock.toml` that uv takes preferences from.
pub(super) fn preferences(installed: &[Installed]) -> String {
    let mut text = "lock-version = \"1.0\"\ncreated-by = \"agent\"\n".to_owned();
    for it in installed {
        text.push_str(&format!("[[packages]]\nname = {:?}\nversion = {:?}\n", it.name, it.version));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::wheel::Wheel;

    #[test]
    fn a_stand_in_is_a_sound_archive_with_the_bases_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let installed = Installed {
            name: "my-torch".to_owned(),
            version: "2.6.0a0+nv25.1".to_owned(),
            location: "/usr/lib".to_owned(),
            requires: vec!["numpy>=1; extra == \"x\"".to_owned()],
            extras: vec!["x".to_owned()],
        };
        write(dir.path(), std::slice::from_ref(&installed), "py3-none-any").unwrap();
        let file = "my_torch-2.6.0a0+nv25.1-9999-py3-none-any.whl";
        let wheel = Wheel::open(&dir.path().join(file), file).unwrap();
        let metadata = wheel.metadata("METADATA").unwrap();
        assert!(metadata.contains("Requires-Dist: numpy>=1; extra == \"x\"\nProvides-Extra: x\n"), "{metadata}");
        assert!(preferences(&[installed]).contains("name = \"my-torch\"\nversion = \"2.6.0a0+nv25.1\"\n"));
    }
}
