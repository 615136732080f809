//! Tar headers (POSIX ustar, pax extended headers where ustar has no room).

use super::layer::{DeviceKind, Meta};

/// What an entry is.
pub(super) enum Item<'a> {
    Dir,
    File(u64),
    Symlink(&'a str),
    Hardlink(&'a str),
    Device(DeviceKind, (u32, u32)),
}

/// Largest number that eleven octal digits hold.
const OCTAL_11: u64 = 0o77_777_777_777;
/// Largest number that seven octal digits hold.
const OCTAL_7: u64 = 0o7_777_777;

/// Appends the header of an entry, its pax header first where it needs one.
pub(super) fn write(path: &str, meta: &Meta, item: &Item<'_>, out: &mut Vec<u8>) {
    let slashed = if matches!(item, Item::Dir) { format!("{path}/") } else { path.to_owned() };
    let (size, link) = match item {
        Item::File(size) => (*size, ""),
        Item::Symlink(target) | Item::Hardlink(target) => (0, *target),
        _ => (0, ""),
    };
    let place = place(&slashed);
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    if place.is_none() {
        records.push(("path".to_owned(), slashed.clone().into_bytes()));
    }
    if link.len() > 100 || !link.is_ascii() {
        records.push(("linkpath".to_owned(), link.as_bytes().to_vec()));
    }
    if size > OCTAL_11 {
        records.push(("size".to_owned(), size.to_string().into_bytes()));
    }
    let mtime = u64::try_from(meta.mtime).unwrap_or(0);
    if mtime > OCTAL_11 {
        records.push(("mtime".to_owned(), mtime.to_string().into_bytes()));
    }
    for (name, id) in [("uid", meta.uid), ("gid", meta.gid)] {
        if u64::from(id) > OCTAL_7 {
            records.push((name.to_owned(), id.to_string().into_bytes()));
        }
    }
    records.extend(meta.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())));
    if !records.is_empty() {
        let body = pax(&records);
        let header = Ustar { kind: b'x', size: body.len() as u64, mode: 0o644, ..Ustar::default() };
        header.write(("", "PaxHeaders/entry"), out);
        out.extend_from_slice(&body);
        out.resize(out.len() + body.len().wrapping_neg() % 512, 0);
    }
    let (kind, device) = match item {
        Item::Dir => (b'5', (0, 0)),
        Item::File(_) => (b'0', (0, 0)),
        Item::Symlink(_) => (b'2', (0, 0)),
        Item::Hardlink(_) => (b'1', (0, 0)),
        Item::Device(DeviceKind::Char, numbers) => (b'3', *numbers),
        Item::Device(DeviceKind::Block, numbers) => (b'4', *numbers),
        Item::Device(DeviceKind::Fifo, _) => (b'6', (0, 0)),
    };
    let header = Ustar { kind, size, mode: meta.mode & 0o7777, owner: (meta.uid, meta.gid), mtime, link, device };
    let cut = cut(&slashed);
    header.write(place.unwrap_or(("", cut)), out);
}

/// How ustar holds a path: prefix and name; `None` when it cannot.
fn place(path: &str) -> Option<(&str, &str)> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some(("", path));
    }
    let body = path.strip_suffix('/').unwrap_or(path);
    body.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100)
}

/// What old readers see of a path that only the pax header holds.
fn cut(path: &str) -> &str {
    let mut end = path.len().min(100);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

fn pax(records: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        // The length counts itself.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        body.extend_from_slice(format!("{length} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

#[derive(Default)]
struct Ustar<'a> {
    kind: u8,
    size: u64,
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    link: &'a str,
    device: (u32, u32),
}

impl Ustar<'_> {
    fn write(&self, (prefix, name): (&str, &str), out: &mut Vec<u8>) {
        let mut block = [0_u8; 512];
        put(&mut block[0..100], name.as_bytes());
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], capped(self.owner.0));
        octal(&mut block[116..124], capped(self.owner.1));
        octal(&mut block[124..136], if self.size > OCTAL_11 { 0 } else { self.size });
        octal(&mut block[136..148], self.mtime.min(OCTAL_11));
        block[156] = self.kind;
        put(&mut block[157..257], &self.link.as_bytes()[..self.link.len().min(100)]);
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(self.kind, b'3' | b'4') {
            octal(&mut block[329..337], u64::from(self.device.0));
            octal(&mut block[337..345], u64::from(self.device.1));
        }
        put(&mut block[345..500], prefix.as_bytes());
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        put(&mut block[148..156], format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&block);
    }
}

fn capped(id: u32) -> u64 {
    if u64::from(id) > OCTAL_7 { 0 } else { u64::from(id) }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    field[..bytes.len()].copy_from_slice(bytes);
}

fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    put(field, digits.as_bytes());
}
