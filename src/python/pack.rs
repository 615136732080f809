//! Zip archives that depend on nothing but what is in them: one order, one time, two modes, one encoder.

use std::io::{self, Write};

use super::wheel::{Wheel, WheelError};
use crate::oci::inflate::deflate;

/// Most bytes of an entry that is packed.
const LARGEST: u64 = 2 << 30;
/// 1980-01-01, the first day of zip archives.
const DATE: [u8; 4] = [0, 0, 0x21, 0];
/// Says that a name is UTF-8.
const UTF8: u16 = 1 << 11;

/// Writes an archive entry by entry.
#[derive(Debug)]
pub(super) struct Packer<W> {
    to: W,
    at: usize,
    directory: Vec<u8>,
    count: usize,
}

impl<W: Write> Packer<W> {
    /// Begins an archive.
    pub(super) const fn new(to: W) -> Self {
        Self { to, at: 0, directory: Vec::new(), count: 0 }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Whatever writing gives, or an archive that grows too large.
    pub(super) fn add(&mut self, name: &str, content: &[u8], executable: bool) -> io::Result<()> {
        let deflated = deflate(content);
        let smaller = !deflated.is_empty() && deflated.len() < content.len();
        let (method, data) = if smaller { (8_u16, deflated.as_slice()) } else { (0, content) };
        let flags = if name.is_ascii() { 0 } else { UTF8 };
        let mut common = vec![20, 0];
        common.extend(flags.to_le_bytes());
        common.extend(method.to_le_bytes());
        common.extend(DATE);
        common.extend(crc32fast::hash(content).to_le_bytes());
        common.extend(wide(data.len())?);
        common.extend(wide(content.len())?);
        common.extend(narrow(name.len())?);
        common.extend([0, 0]);
        let offset = wide(self.at)?;
        self.write(&[b"PK\x03\x04", common.as_slice(), name.as_bytes(), data])?;
        let mode: u32 = if executable { 0o100_755 } else { 0o100_644 };
        // Made by a Unix: the mode stands in the upper half of the attributes.
        self.directory.extend(b"PK\x01\x02\x14\x03");
        self.directory.extend(&common);
        self.directory.extend([0; 6]);
        self.directory.extend((mode << 16).to_le_bytes());
        self.directory.extend(offset);
        self.directory.extend(name.as_bytes());
        self.count += 1;
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(super) fn finish(mut self) -> io::Result<W> {
        let directory = std::mem::take(&mut self.directory);
        let (start, size, count) = (wide(self.at)?, wide(directory.len())?, narrow(self.count)?);
        self.write(&[&directory, b"PK\x05\x06\0\0\0\0", &count, &count, &size, &start, &[0, 0]])?;
        Ok(self.to)
    }

    fn write(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        for piece in pieces {
            self.to.write_all(piece)?;
            self.at += piece.len();
        }
        Ok(())
    }
}

fn wide(number: usize) -> io::Result<[u8; 4]> {
    u32::try_from(number).map(u32::to_le_bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}

fn narrow(number: usize) -> io::Result<[u8; 2]> {
    u16::try_from(number).map(u16::to_le_bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}

/// Writes a wheel anew, its metadata last as the format wants it; gives back what it was written to.
///
/// # Errors
/// [`WheelError`]
pub(super) fn repack<W: Write>(wheel: &Wheel, to: W) -> Result<W, WheelError> {
    let failed = |error: io::Error| wheel.unsound(format!("it cannot be packed: {error}"));
    let archive = wheel.archive();
    let metadata = format!("{}/", wheel.dist_info());
    let mut entries: Vec<_> = archive.entries().iter().collect();
    entries.sort_by_key(|it| (it.name.starts_with(&metadata), &it.name));
    let mut packer = Packer::new(to);
    for entry in entries {
        packer.add(&entry.name, &archive.read(entry, LARGEST)?, entry.executable).map_err(failed)?;
    }
    packer.finish().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::testing::{Member, wheel_members, write_wheel};

    #[test]
    fn order_modes_and_compression_of_a_wheel_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = "p-1.0-py3-none-any.whl";
        let mut program = Member::new("p/tool", "x".repeat(1000));
        program.mode = 0o100_777;
        let mut members = wheel_members("p", "1.0", vec![Member::new("p/ünï.py", "y = 1\n"), program]);
        let packed = |members: &[Member]| {
            let path = write_wheel(dir.path(), "p", "1.0", members);
            repack(&Wheel::open(&path, file).unwrap(), Vec::new()).unwrap()
        };
        let first = packed(&members);
        members.reverse();
        for it in &mut members {
            it.deflated = !it.deflated;
            it.mode &= !0o022;
        }
        assert_eq!(packed(&members), first);
        let path = dir.path().join("again.whl");
        fs_err::write(&path, &first).unwrap();
        let wheel = Wheel::open(&path, file).unwrap();
        wheel.verify().unwrap();
        let names: Vec<(&str, bool)> =
            wheel.archive().entries().iter().map(|it| (it.name.as_str(), it.executable)).collect();
        assert_eq!(names[..2], [("p/tool", true), ("p/ünï.py", false)]);
        assert!(names.last().unwrap().0.ends_with("WHEEL"), "{names:?}");
    }
}
