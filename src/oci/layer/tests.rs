//! Layers written, read back with the tools that others have, and their bytes pinned.

use super::*;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobSink for Memory {
    fn publish(self: Box<Self>) -> io::Result<(Digest, u64)> {
        let bytes = self.0.lock().unwrap();
        Ok((Digest::of(&*bytes), bytes.len() as u64))
    }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; compressor.deflate_compress_bound(bytes.len())];
    let size = compressor.deflate_compress(bytes, &mut out).unwrap();
    out.truncate(size);
    out
}

fn written(fill: impl FnOnce(&mut LayerWriter<'_>)) -> (Layer, Vec<u8>) {
    let memory = Memory::default();
    let mut writer = LayerWriter::new(Box::new(memory.clone()));
    fill(&mut writer);
    let layer = writer.finish().unwrap();
    let blob = memory.0.lock().unwrap().clone();
    (layer, blob)
}

fn inflated(blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap();
    tar
}

#[test]
fn a_layer_is_the_tar_its_diff_id_says() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let content = b"hello ".repeat(3000);
    let stream = deflate(&content);
    let mut meta = Meta::executable().owned_by(3_000_000, 5);
    meta.xattrs.insert("security.capability".to_owned(), vec![1, 0, 255]);
    let (layer, blob) = written(|writer| {
        writer.dir("a", &Meta::dir()).unwrap();
        writer.file("a/x", &meta, b"one").unwrap();
        writer
            .deflated(
                "a/y",
                &Meta::file(),
                &mut Deflated {
                    stream: &mut &stream[..],
                    compressed: stream.len() as u64,
                    size: content.len() as u64,
                    crc32: crc32fast::hash(&content),
                },
            )
            .unwrap();
        writer.file(&long, &Meta::file(), b"long").unwrap();
        writer.symlink("a/é", &Meta::file(), "x").unwrap();
        writer.hardlink("a/z", &Meta::file(), "a/x").unwrap();
        writer.whiteout("a/gone").unwrap();
        writer.opaque("a").unwrap();
    });
    let tar = inflated(&blob);
    assert_eq!((layer.diff_id, layer.uncompressed), (Digest::of(&tar), tar.len() as u64));
    assert_eq!((layer.descriptor.digest, layer.descriptor.size), (Digest::of(&blob), blob.len() as u64));
    let mut archive = tar::Archive::new(&tar[..]);
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        if path == "a/x" {
            // The pax header alone holds an owner that ustar has no room for.
            let records: Vec<_> = entry
                .pax_extensions()
                .unwrap()
                .unwrap()
                .map(|it| it.map(|it| (it.key().unwrap().to_owned(), it.value_bytes().to_vec())).unwrap())
                .collect();
            assert!(records.contains(&("uid".to_owned(), b"3000000".to_vec())));
            assert!(records.contains(&("SCHILY.xattr.security.capability".to_owned(), vec![1, 0, 255])));
            assert_eq!(entry.header().mode().unwrap(), 0o755);
        }
        if path == "a/y" {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, content);
        }
        seen.push(path);
    }
    assert_eq!(seen, ["a/", "a/x", "a/y", &long, "a/é", "a/z", "a/.wh.gone", "a/.wh..wh..opq"]);
}

#[test]
fn streams_that_are_not_what_their_archive_says_are_refused() {
    let content = b"some content, some more content".repeat(50);
    let stream = deflate(&content);
    let crc32 = crc32fast::hash(&content);
    let size = content.len() as u64;
    let mut trailing = stream.clone();
    trailing.push(0);
    for (what, stream, size, crc32) in [
        ("crc", stream.clone(), size, crc32 ^ 1),
        ("longer", stream.clone(), size - 1, crc32),
        ("shorter", stream.clone(), size + 1, crc32),
        ("trailing", trailing, size, crc32),
        ("cut", stream[..stream.len() - 2].to_vec(), size, crc32),
    ] {
        for whole in [true, false] {
            let mut writer = LayerWriter::new(Box::new(Memory::default()));
            let mut entry = Deflated { stream: &mut &stream[..], compressed: stream.len() as u64, size, crc32 };
            let result = if whole { writer.copy_whole("x", &mut entry) } else { writer.copy_streamed("x", &mut entry) };
            assert!(result.is_err(), "{what}, whole: {whole}");
        }
    }
    let streamed = |piece: &[u8]| {
        let memory = Memory::default();
        let mut writer = LayerWriter::new(Box::new(memory.clone()));
        let mut entry = Deflated { stream: &mut &piece[..], compressed: piece.len() as u64, size, crc32 };
        writer.copy_streamed("x", &mut entry).unwrap();
        memory.0.lock().unwrap().clone()
    };
    assert_eq!(inflated(&streamed(&stream)), content);
}

#[test]
fn a_path_that_comes_twice_or_is_none_is_refused() {
    let mut writer = LayerWriter::new(Box::new(Memory::default()));
    writer.dir("a", &Meta::dir()).unwrap();
    for bad in ["a", "", "/a", "b/", "b//c", "../a", "b/./c"] {
        assert!(writer.file(bad, &Meta::file(), b"").is_err(), "{bad}");
    }
}

#[test]
fn a_time_that_ustar_cannot_hold_stands_in_a_pax_header() {
    let meta = Meta { mtime: 999_999_999_999, ..Meta::file() };
    let (_, blob) = written(|it| it.file("x", &meta, b"").unwrap());
    let tar = inflated(&blob);
    let mut archive = tar::Archive::new(&tar[..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let records = entry.pax_extensions().unwrap().unwrap();
    let records: Vec<_> = records
        .map(|it| it.map(|it| (it.key().unwrap().to_owned(), it.value().unwrap().to_owned())).unwrap())
        .collect();
    assert_eq!(records, [("mtime".to_owned(), "999999999999".to_owned())]);
}

#[test]
fn bytes_of_a_layer_do_not_depend_on_how_they_were_fed() {
    struct Dribble<'a>(&'a [u8]);
    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let take = self.0.len().min(buffer.len()).min(777);
            buffer[..take].copy_from_slice(&self.0[..take]);
            self.0 = &self.0[take..];
            Ok(take)
        }
    }
    let content: Vec<u8> = (0..9_000_000_u32).map(|it| (it.wrapping_mul(2_654_435_761) >> 24) as u8 & 15).collect();
    let size = content.len() as u64;
    let (one, blob) = written(|it| it.file("x", &Meta::file(), &content).unwrap());
    let (two, _) = written(|it| it.file_from("x", &Meta::file(), size, &mut Dribble(&content)).unwrap());
    assert_eq!(one, two);
    assert_eq!(Digest::of(inflated(&blob)), one.diff_id);
    assert_eq!(one.descriptor.digest.to_string(), PINNED, "the encoder's bytes changed: raise lock::FORMAT");
}

/// Pinned: layers made yesterday must be the layers made tomorrow.
const PINNED: &str = "sha256:828aa9d2816dc8d001c497b6c8846ef129e527ee791921d28295ea04b3881ee0";
