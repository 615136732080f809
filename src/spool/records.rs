//! The files of a spool: segments by number, and the records in them.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{HEADER, RECORD, open_plain};
use crate::clearml::events::Line;

/// The records of one segment, from an offset on.
pub(super) struct Records {
    reader: io::BufReader<fs::File>,
    pub(super) offset: u64,
}

impl Records {
    pub(super) fn open(directory: &Path, segment: u64, offset: u64) -> io::Result<Self> {
        let mut file = open_plain(&segment_path(directory, segment))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { reader: io::BufReader::new(file), offset })
    }

    /// The next line; `None` at the end, and at a torn record, behind which nothing is.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut header = [0; HEADER];
        if !read_or_end(&mut self.reader, &mut header)? {
            return Ok(None);
        }
        let [a, b, c, d, e, f, g, h] = header;
        let (length, crc) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]));
        if length > RECORD {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        if !read_or_end(&mut self.reader, &mut bytes)? || crc32fast::hash(&bytes) != crc {
            return Ok(None);
        }
        let Ok(line) = serde_json::from_slice(&bytes) else { return Ok(None) };
        self.offset += (HEADER + length) as u64;
        Ok(Some(line))
    }
}

fn read_or_end(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|it| it.strip_suffix(".lines")).and_then(|it| it.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:08}.lines"))
}

pub(super) fn create_segment(directory: &Path, segment: u64) -> io::Result<fs::File> {
    fs::OpenOptions::new().create_new(true).write(true).open(segment_path(directory, segment))
}
