//! Raw deflate streams: those of foreign archives, inflated and checked, and our own.

use std::io::{self, Read};

use libdeflater::{CompressionLvl, Compressor, Decompressor};

/// Streams up to this size, compressed and not, are inflated in one go, which is twice as fast.
const WHOLE: u64 = 32 << 20;
/// Bytes of a piece otherwise.
const PIECE: usize = 256 << 10;

/// What an archive says about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of the stream.
    pub compressed: u64,
    /// Bytes of its content.
    pub size: u64,
    /// CRC-32 of its content.
    pub crc32: u32,
}

/// Inflates a stream of exactly `expected.compressed` bytes and hands the content to `sink`, piece by piece.
///
/// # Errors
/// `InvalidData` when stream, length and checksum do not fit each other; pieces may have been handed out before.
pub fn inflate(stream: &mut dyn Read, expected: Expected, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    if expected.compressed <= WHOLE && expected.size <= WHOLE {
        return inflate_whole(stream, expected, sink);
    }
    let mut limited = stream.take(expected.compressed);
    let mut decoder = flate2::read::DeflateDecoder::new(&mut limited);
    passed(&mut decoder, expected, sink)?;
    if decoder.total_in() != expected.compressed {
        return Err(damaged("bytes follow the end of the stream"));
    }
    Ok(())
}

/// Hands stored content to `sink`, piece by piece.
///
/// # Errors
/// `InvalidData` when length and checksum do not fit.
pub fn copy(stream: &mut dyn Read, expected: Expected, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    passed(&mut stream.take(expected.compressed), expected, sink)
}

/// Inflates a stream while it is read, unchecked: for looking at its first bytes.
pub fn reader<'a>(stream: impl Read + 'a) -> impl Read + 'a {
    flate2::read::DeflateDecoder::new(stream)
}

fn inflate_whole(stream: &mut dyn Read, expected: Expected, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let size = |it: u64| usize::try_from(it).map_err(|_| damaged("it is too long"));
    let mut compressed = vec![0; size(expected.compressed)?];
    stream.read_exact(&mut compressed)?;
    // As a gzip member the stream has its length and checksum right behind its end, so all three are checked.
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    member.append(&mut compressed);
    member.extend_from_slice(&expected.crc32.to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "at most WHOLE")]
    member.extend_from_slice(&(expected.size as u32).to_le_bytes());
    let mut content = vec![0; size(expected.size)?];
    match Decompressor::new().gzip_decompress(&member, &mut content) {
        Ok(count) if count == content.len() => sink(&content),
        _ => return Err(damaged("stream, length and checksum do not fit each other")),
    }
    Ok(())
}

fn passed(content: &mut dyn Read, expected: Expected, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let (mut crc, mut total) = (crc32fast::Hasher::new(), 0);
    loop {
        let count = content.read(&mut piece)?;
        if count == 0 {
            break;
        }
        total += count as u64;
        if total > expected.size {
            return Err(damaged("its content is longer than its archive says"));
        }
        crc.update(&piece[..count]);
        sink(&piece[..count]);
    }
    if total != expected.size || crc.finalize() != expected.crc32 {
        return Err(damaged("stream, length and checksum do not fit each other"));
    }
    Ok(())
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A deflate stream of some bytes, by the encoder that layers have too.
#[must_use]
pub fn deflate(content: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut stream = vec![0; compressor.deflate_compress_bound(content.len())];
    // There is room for the worst case, so this cannot fail.
    let size = compressor.deflate_compress(content, &mut stream).unwrap_or_default();
    stream.truncate(size);
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_streams_are_checked_alike() {
        let long = vec![7; usize::try_from(WHOLE).unwrap() + 1];
        for content in [&b"short"[..], b"", &long] {
            let stream = deflate(content);
            let good = Expected {
                compressed: stream.len() as u64,
                size: content.len() as u64,
                crc32: crc32fast::hash(content),
            };
            let run = |stream: &[u8], expected| {
                let mut total = 0;
                inflate(&mut &stream[..], expected, &mut |piece| total += piece.len()).map(|()| total)
            };
            assert_eq!(run(&stream, good).unwrap(), content.len());
            let followed = [&stream[..], b"!"].concat();
            assert!(run(&stream, Expected { crc32: good.crc32 ^ 1, ..good }).is_err());
            assert!(run(&stream, Expected { size: good.size + 1, ..good }).is_err());
            assert!(run(&followed, Expected { compressed: good.compressed + 1, ..good }).is_err());
            assert!(run(&stream[..stream.len() - 1], Expected { compressed: good.compressed - 1, ..good }).is_err());
        }
    }
}
