//! The name a shared library gives itself (SONAME), by which programs ask for it.
//!
//! As much of ELF as that takes (`elf(5)`): 64 bits, little-endian, of this machine's architecture. What is not that is
//! no library of use here.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `EM_X86_64`, `EM_AARCH64`.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
/// More program headers, and more bytes of dynamic section, than any library has.
const MOST_HEADERS: u16 = 256;
const MOST_DYNAMIC: u64 = 1 << 16;

/// The library's SONAME, else its file name; `None` for what is no library of this architecture.
pub(crate) fn soname(path: &Path) -> Option<String> {
    let file = fs_err::File::open(path).ok()?.into_parts().0;
    let headers = headers(&file)?;
    let own = named(&file, &headers);
    own.or_else(|| path.file_name()?.to_str().map(str::to_owned)).filter(|it| !it.contains('/') && it.contains(".so"))
}

/// A part of the file: type, offset, address, size.
type Header = (u32, u64, u64, u64);

fn headers(file: &File) -> Option<Vec<Header>> {
    let mut start = [0; 64];
    file.read_exact_at(&mut start, 0).ok()?;
    // 64 bits, little-endian, a shared object.
    if start[..6] != *b"\x7fELF\x02\x01" || half(&start, 16)? != 3 || half(&start, 18)? != MACHINE {
        return None;
    }
    let (offset, size, count) = (word(&start, 32)?, half(&start, 54)?, half(&start, 56)?);
    if size < 56 || count > MOST_HEADERS {
        return None;
    }
    let mut bytes = vec![0; usize::from(size) * usize::from(count)];
    file.read_exact_at(&mut bytes, offset).ok()?;
    let header =
        |it: &[u8]| Some((u32::try_from(word(it, 0)? & 0xffff_ffff).ok()?, word(it, 8)?, word(it, 16)?, word(it, 32)?));
    bytes.chunks_exact(usize::from(size)).map(header).collect()
}

fn named(file: &File, headers: &[Header]) -> Option<String> {
    let (_, offset, _, size) = headers.iter().find(|it| it.0 == PT_DYNAMIC)?;
    let mut bytes = vec![0; usize::try_from((*size).min(MOST_DYNAMIC)).ok()?];
    file.read_exact_at(&mut bytes, *offset).ok()?;
    let entry = |tag: u64| bytes.chunks_exact(16).find(|it| word(it, 0) == Some(tag)).and_then(|it| word(it, 8));
    let (name, strings) = (entry(DT_SONAME)?, entry(DT_STRTAB)?);
    let at = strings.checked_add(name)?;
    let holds = |it: &&Header| it.0 == PT_LOAD && it.2 <= at && at - it.2 < it.3;
    let (_, offset, address, _) = headers.iter().find(holds)?;
    let mut text = [0; 256];
    let length = file.read_at(&mut text, offset.checked_add(at - address)?).ok()?;
    let end = text[..length].iter().position(|it| *it == 0)?;
    String::from_utf8(text[..end].to_vec()).ok().filter(|it| !it.is_empty())
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_tells_its_name_and_others_have_none() {
        // This process runs with the C library of this machine.
        let maps = fs_err::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.lines().filter_map(|it| it.find('/').map(|at| &it[at..])).find(|it| it.contains("/libc"));
        assert_eq!(soname(Path::new(libc.unwrap())).unwrap(), "libc.so.6");
        assert_eq!(soname(Path::new("/etc/passwd")), None);
        assert_eq!(soname(Path::new("/absent")), None);
    }

    #[test]
    fn a_damaged_library_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libx.so.1");
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0xff);
        fs_err::write(&path, &bytes).unwrap();
        assert_eq!(soname(&path), None);
        bytes.truncate(20);
        fs_err::write(&path, &bytes).unwrap();
        assert_eq!(soname(&path), None);
    }
}
