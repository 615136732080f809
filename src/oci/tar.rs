//! Readers of layer blobs: gzip (all members), zstd or plain tar, told apart by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

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
    if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(Frames { reader: Some(reader), frame: None }));
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

/// All bytes of a gzip stream, for small documents.
///
/// # Errors
/// When it is no gzip stream or longer than `limit` bytes.
pub fn gunzip(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).take(limit + 1).read_to_end(&mut out)?;
    if out.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {limit} bytes")));
    }
    Ok(out)
}

type Zstd<R> = ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>;

/// Concatenated zstd frames, one decoder each.
struct Frames<R: Read> {
    reader: Option<BufReader<R>>,
    frame: Option<Box<Zstd<BufReader<R>>>>,
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
            if reader.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let frame =
                Zstd::new(reader).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            self.frame = Some(Box::new(frame));
        }
    }
}
