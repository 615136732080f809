//! What is mounted, as the kernel tells a process (`/proc/self/mountinfo`, proc(5)).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::mount::MountFlags;

/// A mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) id: u64,
    parent: u64,
    /// Where, from the process's root.
    pub(super) point: PathBuf,
    /// Its restrictions.
    pub(super) flags: MountFlags,
}

/// The mount of an id and all that are mounted in it, and in them. A parent comes before what is in it.
pub(super) fn tree(text: &[u8], id: u64) -> Vec<Mounted> {
    let mut left: Vec<Mounted> = text.split(|it| *it == b'\n').filter_map(parse).collect();
    let mut found: Vec<Mounted> = Vec::new();
    let mut ids = BTreeSet::new();
    loop {
        let belongs = |it: &mut Mounted| it.id == id || ids.contains(&it.parent);
        let next: Vec<Mounted> = left.extract_if(.., belongs).collect();
        if next.is_empty() {
            return found;
        }
        ids.extend(next.iter().map(|it| it.id));
        found.extend(next);
    }
}

/// `36 35 98:0 /of/the/device /where rw,noatime master:1 - ext3 /dev/root rw`
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut words = line.split(|it| *it == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let point = PathBuf::from(OsString::from_vec(unescaped(words.nth(2)?)));
    let options = std::str::from_utf8(words.next()?).ok()?;
    let flags = options.split(',').map(|it| match it {
        "ro" => MountFlags::RDONLY,
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        _ => MountFlags::empty(),
    });
    Some(Mounted { id, parent, point, flags: flags.collect() })
}

/// Blanks and backslashes are written as octal numbers: `\040`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|it| *first == b'\\' && it.iter().all(|it| (b'0'..b'8').contains(it)));
        let byte = octal.and_then(|it| u8::from_str_radix(std::str::from_utf8(it).ok()?, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /root/lent/a\\040b ro,nosuid,nodev,noexec - tmpfs tmpfs rw
31 30 0:41 / /root/lent/a\\040b/c rw,noatime,nodiratime - tmpfs tmpfs rw
20 1 0:39 / /root rw - overlay overlay rw
21 20 8:1 /x /root/lent rw,relatime - ext4 /dev/sda1 rw
22 20 0:42 / /root/other rw - tmpfs tmpfs rw
";

    #[test]
    fn a_mount_and_what_is_mounted_in_it_is_found() {
        let found = tree(TEXT.as_bytes(), 21);
        let points: Vec<_> = found.iter().map(|it| it.point.to_str().unwrap()).collect();
        assert_eq!(points, ["/root/lent", "/root/lent/a b", "/root/lent/a b/c"]);
        let locked = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        assert_eq!(found[0].flags, MountFlags::RELATIME);
        assert_eq!(found[1].flags, MountFlags::RDONLY | locked);
        assert_eq!(found[2].flags, MountFlags::NOATIME | MountFlags::NODIRATIME);
        assert_eq!(tree(TEXT.as_bytes(), 99), []);
        assert_eq!(unescaped(br"a\134b\9\04"), br"a\b\9\04");
    }
}
