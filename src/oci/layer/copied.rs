//! Deflate streams of other archives, copied into a layer and checked on the way.

use std::io::Write as _;

use super::{Deflated, GZIP_HEADER, LayerError, LayerWriter, trailer};

impl LayerWriter<'_> {
    /// Checks a stream in one go: as the gzip member it becomes, whose trailer must follow right after its end.
    pub(super) fn copy_whole(&mut self, path: &str, entry: &mut Deflated<'_>) -> Result<(), LayerError> {
        let damaged = |reason| LayerError::Damaged { path: path.to_owned(), reason };
        let length = usize::try_from(entry.compressed).map_err(|_| damaged("it is too long"))?;
        let size = usize::try_from(entry.size).map_err(|_| damaged("it is too long"))?;
        let mut member = vec![0; GZIP_HEADER.len() + length];
        member[..GZIP_HEADER.len()].copy_from_slice(&GZIP_HEADER);
        entry
            .stream
            .read_exact(&mut member[GZIP_HEADER.len()..])
            .map_err(|source| LayerError::Read { path: path.to_owned(), source })?;
        member.extend_from_slice(&trailer(entry.crc32, entry.size));
        if self.content.len() < size {
            self.content.resize(size, 0);
        }
        let inflated = self
            .decompressor
            .gzip_decompress(&member, &mut self.content[..size])
            .map_err(|_| damaged("stream, length and checksum do not fit each other"))?;
        if inflated != size {
            return Err(damaged("its content is shorter than its archive says"));
        }
        self.diff.update(&self.content[..size]);
        self.uncompressed += entry.size;
        self.sink.write_all(&member).map_err(LayerError::Write)
    }

    /// Checks a long stream piece by piece.
    pub(super) fn copy_streamed(&mut self, path: &str, entry: &mut Deflated<'_>) -> Result<(), LayerError> {
        let damaged = |reason| LayerError::Damaged { path: path.to_owned(), reason };
        let mut inflate = flate2::Decompress::new(false);
        let mut crc = crc32fast::Hasher::new();
        let (mut input, mut output) = (vec![0; 256 << 10], vec![0; 1 << 20]);
        let mut left = entry.compressed;
        let mut ended = false;
        self.sink.write_all(&GZIP_HEADER).map_err(LayerError::Write)?;
        while left > 0 {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            entry
                .stream
                .read_exact(&mut input[..take])
                .map_err(|source| LayerError::Read { path: path.to_owned(), source })?;
            left -= take as u64;
            self.sink.write_all(&input[..take]).map_err(LayerError::Write)?;
            let mut used = 0;
            loop {
                let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
                let status = inflate
                    .decompress(&input[used..take], &mut output, flate2::FlushDecompress::None)
                    .map_err(|_| damaged("the stream is not a deflate stream"))?;
                let produced = usize::try_from(inflate.total_out() - before_out).unwrap_or(0);
                let consumed = usize::try_from(inflate.total_in() - before_in).unwrap_or(0);
                used += consumed;
                self.diff.update(&output[..produced]);
                crc.update(&output[..produced]);
                if inflate.total_out() > entry.size {
                    return Err(damaged("its content is longer than its archive says"));
                }
                ended = status == flate2::Status::StreamEnd;
                let stuck = produced == 0 && consumed == 0;
                if ended || stuck || (used == take && produced < output.len()) {
                    break;
                }
            }
            if used < take || (ended && left > 0) {
                return Err(damaged("bytes follow the end of the stream"));
            }
        }
        if !ended || inflate.total_out() != entry.size || crc.finalize() != entry.crc32 {
            return Err(damaged("stream, length and checksum do not fit each other"));
        }
        self.uncompressed += entry.size;
        self.sink.write_all(&trailer(entry.crc32, entry.size)).map_err(LayerError::Write)
    }
}
