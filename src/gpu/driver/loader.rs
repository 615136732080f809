//! The dynamic loader's cache (`/etc/ld.so.cache`): where it would find a library. Only its present form is read, which
//! every glibc since 2.2 writes, alone or behind the old one.

use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// Length of the header, and of an entry.
const HEADER: usize = 48;
const ENTRY: usize = 24;

/// Directories in which the cache has a library, in its order. A cache that cannot be read has none.
pub(super) fn directories_of(cache: &[u8], library: &str) -> Vec<PathBuf> {
    let Some(start) = cache.windows(MAGIC.len()).position(|it| it == MAGIC) else { return Vec::new() };
    // Offsets count from here, also where the old form stands in front.
    let table = &cache[start..];
    let number = |at: usize| -> Option<usize> {
        let bytes = table.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let text = |at: usize| -> Option<&str> {
        let rest = table.get(at..)?;
        std::str::from_utf8(&rest[..rest.iter().position(|it| *it == 0)?]).ok()
    };
    let count = number(20).unwrap_or(0).min(table.len() / ENTRY);
    let paths = (0..count).filter_map(|it| {
        let at = HEADER + it * ENTRY;
        (text(number(at + 4)?)? == library).then(|| text(number(at + 8)?)).flatten()
    });
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in paths.filter_map(|it| Path::new(it).parent()) {
        if !found.iter().any(|it| it == directory) {
            found.push(directory.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut strings = Vec::new();
        let mut table = Vec::new();
        let base = HEADER + entries.len() * ENTRY;
        let mut place = |text: &str| {
            let at = u32::try_from(base + strings.len()).unwrap();
            strings.extend(text.bytes().chain([0]));
            at.to_le_bytes()
        };
        for (name, path) in entries {
            table.extend(1_i32.to_le_bytes());
            table.extend(place(name));
            table.extend(place(path));
            table.extend([0; 12]);
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(table);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_librarys_directories_are_found_once_each() {
        let entries = [("libcuda.so.1", "/a/libcuda.so.1"), ("libcuda.so.1", "/b/libcuda.so.1"), ("libc.so.6", "/c/l")];
        let mut bytes = cache(&entries);
        let expected = [PathBuf::from("/a"), PathBuf::from("/b")];
        assert_eq!(directories_of(&bytes, "libcuda.so.1"), expected);
        assert!(directories_of(&bytes, "libx.so").is_empty());
        // Behind the old form.
        let mut old = b"ld.so-1.7.0\0\0\0\0\0".to_vec();
        old.append(&mut bytes);
        assert_eq!(directories_of(&old, "libcuda.so.1"), expected);
        // Cut anywhere it is no cache, and no reason to fall.
        for length in 0..old.len() {
            let _ = directories_of(&old[..length], "libcuda.so.1");
        }
    }

    #[test]
    fn the_cache_of_this_machine_knows_its_c_library() {
        let Ok(bytes) = fs_err::read("/etc/ld.so.cache") else { return };
        assert!(!directories_of(&bytes, "libc.so.6").is_empty());
    }
}
