//! The records of a zip archive (APPNOTE 6.3, sections 4.3 and 4.5): pure parsing and comparing, no reading.

use super::archive::Method;

/// Most bytes from the end of a file in which the end record can begin.
pub(super) const MAX_TAIL: u64 = 22 + 65_535;
/// Bytes of a zip64 locator.
pub(super) const LOCATOR_SIZE: u64 = 20;

const END: [u8; 4] = *b"PK\x05\x06";
const WIDE_END: [u8; 4] = *b"PK\x06\x06";
const LOCATOR: [u8; 4] = *b"PK\x06\x07";
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const HAS_DESCRIPTOR: u16 = 1 << 3;
const WIDE_EXTRA: u16 = 0x0001;
const UNICODE_PATH: u16 = 0x7075;

/// Where the directory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Directory {
    /// First byte.
    pub(super) start: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Entries.
    pub(super) count: u64,
}

/// The layout of a header: local and central ones hold the same fields at other places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    signature: [u8; 4],
    /// Bytes before the name.
    pub(super) fixed: usize,
    /// Offset of flags, from which method, time, CRC, sizes and lengths follow.
    flags: usize,
}

/// A local header's.
pub(super) const LOCAL: Layout = Layout { signature: *b"PK\x03\x04", fixed: 30, flags: 6 };
/// A directory entry's.
pub(super) const CENTRAL: Layout = Layout { signature: *b"PK\x01\x02", fixed: 46, flags: 8 };

/// What a header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) crc32: u32,
    pub(super) compressed: u64,
    pub(super) size: u64,
    pub(super) name: &'a [u8],
    extra: &'a [u8],
    wide: bool,
    unix_mode: u32,
    pub(super) offset: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |it| u16::from_le_bytes([it[0], it[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Finds the end record: its comment must reach to the end of the file, and hold no other end record.
pub(super) fn find_end(tail: &[u8]) -> Option<usize> {
    let last = tail.len().checked_sub(22)?;
    let mut found = (0..=last).filter(|at| tail[*at..].starts_with(&END));
    let end = found.find(|at| at + 22 + usize::from(u16_at(tail, at + 20)) == tail.len())?;
    found.next().is_none().then_some(end)
}

/// Reads the end record.
pub(super) fn read_end(end: &[u8]) -> Result<Directory, &'static str> {
    if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 || u16_at(end, 8) != u16_at(end, 10) {
        return Err("it is spread over several disks");
    }
    let (count, size, start) = (u16_at(end, 10), u32_at(end, 12), u32_at(end, 16));
    Ok(Directory { start: start.into(), size: size.into(), count: count.into() })
}

/// Reads a zip64 locator: where the zip64 end record is, `None` when there is no locator.
pub(super) fn read_locator(locator: &[u8]) -> Result<Option<u64>, &'static str> {
    if !locator.starts_with(&LOCATOR) {
        return Ok(None);
    }
    if u32_at(locator, 4) != 0 || u32_at(locator, 16) != 1 {
        return Err("it is spread over several disks");
    }
    Ok(Some(u64_at(locator, 8)))
}

/// Reads the zip64 end record, which must fill its place and agree with the narrow one.
pub(super) fn read_wide_end(wide: &[u8], narrow: &Directory) -> Result<Directory, &'static str> {
    if !wide.starts_with(&WIDE_END) || wide.len() < 56 || u64_at(wide, 4) != wide.len() as u64 - 12 {
        return Err("its zip64 record is out of place");
    }
    if u32_at(wide, 16) != 0 || u32_at(wide, 20) != 0 || u64_at(wide, 24) != u64_at(wide, 32) {
        return Err("it is spread over several disks");
    }
    let directory = Directory { start: u64_at(wide, 48), size: u64_at(wide, 40), count: u64_at(wide, 32) };
    let agrees = |narrow: u64, full: u64, unset: u64| narrow == full || narrow == unset;
    let all = agrees(narrow.start, directory.start, u32::MAX.into())
        && agrees(narrow.size, directory.size, u32::MAX.into())
        && agrees(narrow.count, directory.count, u16::MAX.into());
    if all { Ok(directory) } else { Err("its two end records disagree") }
}

/// Bytes of name and extra fields behind the fixed part of a local header.
pub(super) fn variable_size(fixed: &[u8], layout: Layout) -> u64 {
    u64::from(u16_at(fixed, layout.flags + 20)) + u64::from(u16_at(fixed, layout.flags + 22))
}

impl<'a> Fields<'a> {
    /// Reads a header: its fields and what follows it.
    pub(super) fn parse(bytes: &'a [u8], layout: Layout) -> Result<(Self, &'a [u8]), &'static str> {
        if bytes.len() < layout.fixed || !bytes.starts_with(&layout.signature) {
            return Err("a header is not where it should be");
        }
        let at = layout.flags;
        let name_size = usize::from(u16_at(bytes, at + 20));
        let extra_size = usize::from(u16_at(bytes, at + 22));
        let is_central = layout.fixed == CENTRAL.fixed;
        let comment_size = if is_central { usize::from(u16_at(bytes, 32)) } else { 0 };
        let name_end = layout.fixed + name_size;
        let extra_end = name_end + extra_size;
        let (Some(name), Some(extra), Some(rest)) =
            (bytes.get(layout.fixed..name_end), bytes.get(name_end..extra_end), bytes.get(extra_end + comment_size..))
        else {
            return Err("a header is cut off");
        };
        if is_central && u16_at(bytes, 34) != 0 {
            return Err("it is spread over several disks");
        }
        let mut fields = Self {
            flags: u16_at(bytes, at),
            method: u16_at(bytes, at + 2),
            crc32: u32_at(bytes, at + 8),
            compressed: u32_at(bytes, at + 12).into(),
            size: u32_at(bytes, at + 16).into(),
            name,
            extra,
            wide: false,
            // The upper half of the external attributes; read whatever system made it, as pip does.
            unix_mode: if is_central { u32_at(bytes, 38) >> 16 } else { 0 },
            offset: if is_central { u32_at(bytes, 42).into() } else { 0 },
        };
        fields.widen(is_central)?;
        Ok((fields, rest))
    }

    /// Takes sizes and offset from the zip64 field where the narrow ones are unset.
    fn widen(&mut self, is_central: bool) -> Result<(), &'static str> {
        let Some(mut wide) = field(self.extra, WIDE_EXTRA)? else { return Ok(()) };
        self.wide = true;
        let mut next = |value: &mut u64| {
            if *value == u64::from(u32::MAX) {
                let (first, rest) = wide.split_at_checked(8).ok_or("a zip64 field is cut off")?;
                *value = u64_at(first, 0);
                wide = rest;
            }
            Ok(())
        };
        next(&mut self.size)?;
        next(&mut self.compressed)?;
        if is_central { next(&mut self.offset) } else { Ok(()) }
    }

    /// The name as text.
    pub(super) fn name(&self) -> Result<&'a str, &'static str> {
        let name = std::str::from_utf8(self.name).map_err(|_| "its name is not UTF-8")?;
        if let Some(other) = field(self.extra, UNICODE_PATH)?
            && other.get(5..) != Some(self.name)
        {
            return Err("it has two names");
        }
        Ok(name)
    }

    /// Whether sizes and CRC follow the data.
    pub(super) fn has_descriptor(&self) -> bool {
        self.flags & HAS_DESCRIPTOR != 0
    }
}

/// The extra field of that id, which may come once.
fn field(mut extra: &[u8], id: u16) -> Result<Option<&[u8]>, &'static str> {
    let mut found = None;
    // Up to three bytes of padding are tolerated, as every reader does.
    while extra.len() >= 4 {
        let size = usize::from(u16_at(extra, 2));
        let body = extra.get(4..4 + size).ok_or("an extra field is cut off")?;
        if u16_at(extra, 0) == id && found.replace(body).is_some() {
            return Err("an extra field comes twice");
        }
        extra = &extra[4 + size..];
    }
    Ok(found)
}

/// Compares a local header with the directory's entry.
pub(super) fn check_agreement(central: &Fields<'_>, local: &Fields<'_>) -> Result<(), &'static str> {
    if local.name != central.name {
        return Err("its local header has another name than the directory");
    }
    local.name()?;
    if local.flags & (ENCRYPTED | HAS_DESCRIPTOR) != central.flags & (ENCRYPTED | HAS_DESCRIPTOR)
        || local.method != central.method
    {
        return Err("its local header has another method than the directory");
    }
    let known = (local.crc32, local.compressed, local.size);
    // With a data descriptor the local header may leave them open: as zeros, and in zip64 as unset narrow sizes.
    let open = local.has_descriptor() && local.crc32 == 0 && local.compressed == 0 && local.size == 0;
    if known != (central.crc32, central.compressed, central.size) && !open {
        return Err("its local header has another size or checksum than the directory");
    }
    Ok(())
}

/// Bytes of the data descriptor that begins `bytes`, `None` when it disagrees with the directory.
pub(super) fn descriptor_size(central: &Fields<'_>, bytes: &[u8]) -> Option<u64> {
    let variants = [(true, false), (true, true), (false, false), (false, true)];
    let expected = |signed: bool, wide: bool| {
        let mut expected = if signed { DESCRIPTOR.to_vec() } else { Vec::new() };
        expected.extend_from_slice(&central.crc32.to_le_bytes());
        for size in [central.compressed, central.size] {
            let bytes = size.to_le_bytes();
            if !wide && bytes[4..] != [0; 4] {
                return None;
            }
            expected.extend_from_slice(if wide { &bytes } else { &bytes[..4] });
        }
        Some(expected)
    };
    // An empty entry's wide descriptor begins like its narrow one: a zip64 entry is read as wide first.
    let order = if central.wide { [1, 0, 3, 2] } else { [0, 1, 2, 3] };
    order.iter().find_map(|index| {
        let (signed, wide) = variants[*index];
        expected(signed, wide).filter(|it| bytes.starts_with(it)).map(|it| it.len() as u64)
    })
}

/// Refuses names that leave the root or that two systems read differently.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let bare = name.strip_suffix('/').unwrap_or(name);
    if name.len() > 4096 {
        return Err("its name is too long");
    }
    if bare.contains(|c: char| c == '\\' || c.is_control()) {
        return Err("its name has a backslash or a control character");
    }
    if bare.starts_with('/') {
        return Err("its name is absolute");
    }
    for part in bare.split('/') {
        match part {
            ".." => return Err("its name leaves the archive's root"),
            "" | "." => return Err("its name has an empty part"),
            _ if part.len() > 255 => return Err("a part of its name is too long"),
            _ => {}
        }
    }
    Ok(())
}

/// How an entry is stored and whether it is executable.
pub(super) fn check_kind(fields: &Fields<'_>, is_dir: bool) -> Result<(Method, bool), &'static str> {
    if fields.flags & ENCRYPTED != 0 {
        return Err("it is encrypted");
    }
    let kind = fields.unix_mode & 0o170_000;
    let fits = match kind {
        0 => true,
        0o040_000 => is_dir,
        0o100_000 => !is_dir,
        _ => return Err("it is a link or a device"),
    };
    if !fits || (is_dir && fields.size != 0) {
        return Err("it is a file and a directory");
    }
    let method = match fields.method {
        0 if fields.size == fields.compressed => Method::Stored,
        0 => return Err("it is stored with two sizes"),
        8 => Method::Deflate,
        _ => return Err("it is compressed with a method other than deflate"),
    };
    Ok((method, kind == 0o100_000 && fields.unix_mode & 0o111 != 0))
}
