//! Readers of layer blobs: gzip (all members), zstd or plain tar, told apart by their first bytes.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::rc::Rc;

pub use tar::{Archive, Builder, Entry, EntryType, Header};

/// The uncompressed tar of a layer blob.
///
/// # Errors
/// When the first bytes cannot be read, or a zstd frame is none.
pub fn uncompressed<'a>(blob: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut reader = BufReader::with_capacity(256 << 10, blob);
    let first = reader.fill_buf()?;
    if first.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(first) {
        return Ok(Box::new(Frames { reader: Some(Peeked { inner: reader, head: Vec::new() }), frame: None }));
    }
    Ok(Box::new(reader))
}

/// The entries of a layer blob.
///
/// # Errors
/// As [`uncompressed`].
pub fn open<'a>(blob: impl Read + Send + 'a) -> io::Result<Archive<Box<dyn Read + Send + 'a>>> {
    Ok(Archive::new(uncompressed(blob)?))
}

/// Bytes that headers may take between two entries: the library reads long names and pax records into memory.
const HEADERS: u64 = 4 << 20;
/// The largest file with holes that is believed: a few bytes of archive can claim any size.
const SPARSE: u64 = 16 << 30;

/// Visits the entries of an archive that may be hostile, until `visit` breaks. What headers take is bounded.
///
/// # Errors
/// Those of `visit`, and those of reading as `unreadable` tells them.
pub fn each<R: Read, E>(
    reader: R,
    unreadable: impl Fn(io::Error) -> E,
    mut visit: impl FnMut(&mut Entry<'_, Bounded<R>>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let unreadable = |error: io::Error| unreadable(brief(error));
    let left = Rc::new(Cell::new(None));
    let mut archive = Archive::new(Bounded { inner: reader, left: Rc::clone(&left) });
    let mut entries = archive.entries().map_err(&unreadable)?;
    loop {
        left.set(Some(HEADERS));
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(&unreadable)?;
        left.set(None);
        if entry.header().entry_type() == EntryType::GNUSparse && entry.size() > SPARSE {
            return Err(unreadable(invalid(format!("a file with holes of {} bytes", entry.size()))));
        }
        if visit(&mut entry)?.is_break() {
            return Ok(());
        }
        // The rest of its content is no header of the next.
        io::copy(&mut entry, &mut io::sink()).map_err(&unreadable)?;
    }
}

/// What the library says of bytes that are no archive, without the bytes themselves.
fn brief(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() {
        return error;
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    io::Error::new(error.kind(), line.chars().take(100).collect::<String>())
}

/// Gives no more bytes than are left, while that is bounded.
pub struct Bounded<R> {
    inner: R,
    left: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.left.get() else { return self.inner.read(buffer) };
        if left == 0 && !buffer.is_empty() {
            return Err(invalid(format!("an entry with headers of more than {HEADERS} bytes")));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(Some(left - count as u64));
        Ok(count)
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// All bytes of a gzip stream, for small documents.
///
/// # Errors
/// When it is no gzip stream or longer than `limit` bytes.
pub fn gunzip(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut out)?;
    if out.len() as u64 > limit {
        return Err(invalid(format!("more than {limit} bytes")));
    }
    Ok(out)
}

type Zstd<R> = ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>;

/// Concatenated zstd frames, one decoder each. Frames to be skipped (RFC 8878, 3.1.2) stand in layers that can be
/// fetched in parts (`zstd:chunked`).
struct Frames<R: Read> {
    reader: Option<Peeked<R>>,
    frame: Option<Box<Zstd<Peeked<R>>>>,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                self.reader = self.frame.take().map(|frame| frame.into_inner());
            }
            let Some(mut reader) = self.reader.take() else { return Ok(0) };
            let head = reader.peek()?;
            if head.is_empty() {
                return Ok(0);
            }
            if let Some(&[_, _, _, _, a, b, c, d]) = Some(head).filter(|it| is_skippable(it)) {
                reader.skip(8 + u64::from(u32::from_le_bytes([a, b, c, d])))?;
                self.reader = Some(reader);
                continue;
            }
            let frame = Zstd::new(reader).map_err(|error| invalid(error.to_string()))?;
            self.frame = Some(Box::new(frame));
        }
    }
}

fn is_skippable(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// A reader whose next bytes can be looked at.
struct Peeked<R> {
    inner: R,
    /// Bytes that were read and not yet given.
    head: Vec<u8>,
}

impl<R: Read> Peeked<R> {
    /// The next eight bytes, fewer at the end.
    fn peek(&mut self) -> io::Result<&[u8]> {
        let missing = 8_usize.saturating_sub(self.head.len()) as u64;
        (&mut self.inner).take(missing).read_to_end(&mut self.head)?;
        Ok(&self.head)
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        if io::copy(&mut self.take(count), &mut io::sink())? < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.head.is_empty() {
            return self.inner.read(buffer);
        }
        let count = buffer.len().min(self.head.len());
        buffer[..count].copy_from_slice(&self.head[..count]);
        self.head.drain(..count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[0] = b'x';
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header
    }

    /// Sizes of the entries behind a long name of `name` bytes.
    fn sizes(name: u64) -> io::Result<Vec<u64>> {
        let mut builder = Builder::new(Vec::new());
        builder.append(&entry(EntryType::GNULongName, name), io::repeat(b'n').take(name))?;
        builder.append(&entry(EntryType::Regular, 6 << 20), io::repeat(b'c').take(6 << 20))?;
        builder.append(&entry(EntryType::Regular, 1), &b"1"[..])?;
        let bytes = builder.into_inner()?;
        let mut sizes = Vec::new();
        each(
            bytes.as_slice(),
            |error| error,
            |entry| {
                sizes.push(entry.size());
                Ok(ControlFlow::Continue(()))
            },
        )?;
        Ok(sizes)
    }

    #[test]
    fn what_is_no_archive_is_not_quoted() {
        let text = "root:x:0:0:root:/root:/bin/bash\n".repeat(100);
        let error = each(text.as_bytes(), |error| error, |_| Ok(ControlFlow::Continue(()))).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn contents_may_be_long_and_headers_may_not() {
        assert_eq!(sizes(4000).unwrap(), [6 << 20, 1]);
        assert_eq!(sizes(5 << 20).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn frames_of_a_layer_follow_each_other_and_those_to_skip_are_skipped() {
        let frame =
            |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Uncompressed);
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
        let blob = [frame(b"one"), skipped.clone(), frame(b"two"), skipped.clone()].concat();
        for blob in [blob.clone(), [skipped, blob.clone()].concat()] {
            let mut text = String::new();
            uncompressed(&blob[..]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "onetwo");
        }
        assert!(uncompressed(&blob[..blob.len() - 1]).unwrap().read_to_end(&mut Vec::new()).is_err());
    }
}
