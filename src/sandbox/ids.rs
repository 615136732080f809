//! Subordinate user and group ids (subuid(5)) of a user who is not root.

use std::process::Command;
use std::time::Duration;

use fs_err as fs;

/// A range of ids that the system lets a user have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id.
    pub start: u32,
    /// How many there are.
    pub count: u32,
}

/// Fewer ids than this do not cover a distribution's own users (`nobody` is 65534).
const ENOUGH: u32 = 65_535;

/// Both ranges of the current user.
#[derive(Debug, Clone, Copy)]
pub struct Subordinate {
    /// User ids.
    pub uids: Range,
    /// Group ids.
    pub gids: Range,
}

/// The current user's ranges, or why there are none of use.
pub(super) fn subordinate() -> Result<Subordinate, String> {
    for program in ["newuidmap", "newgidmap"] {
        if !on_path(program) {
            return Err(format!("`{program}` is not installed"));
        }
    }
    let uid = rustix::process::getuid().as_raw();
    let name = user_name(uid);
    let range = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        parse(&text, uid, name.as_deref()).ok_or_else(|| {
            let who = name.clone().unwrap_or_else(|| uid.to_string());
            format!("`{file}` gives `{who}` no range of {ENOUGH} ids or more")
        })
    };
    Ok(Subordinate { uids: range("/etc/subuid")?, gids: range("/etc/subgid")? })
}

/// Maps the ids of a process that has just entered a user namespace: root is the current user, the rest its ranges.
pub(super) fn map(pid: u32, subordinate: &Subordinate) -> Result<(), String> {
    let maps = [
        ("newuidmap", rustix::process::getuid().as_raw(), subordinate.uids),
        ("newgidmap", rustix::process::getgid().as_raw(), subordinate.gids),
    ];
    for (program, id, range) in maps {
        let (pid, id) = (pid.to_string(), id.to_string());
        let (start, count) = (range.start.to_string(), range.count.min(65_536).to_string());
        let output = crate::process::run(
            Command::new(program).args([&pid, "0", &id, "1", "1", &start, &count]),
            Duration::from_secs(30),
        )
        .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("`{program}` says: {}", output.errors()));
        }
    }
    Ok(())
}

fn parse(text: &str, uid: u32, name: Option<&str>) -> Option<Range> {
    let own = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let range = Range { start: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
        ((Some(who) == name || who == own) && range.count >= ENOUGH).then_some(range)
    })
}

fn user_name(uid: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let local = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    // Users of a directory service stand in no local file.
    local.or_else(|| std::env::var("USER").ok().filter(|it| !it.is_empty()))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_belongs_to_a_name_or_a_number_and_is_large_enough() {
        let text = "root:1:10\njo:100000:65536\n1001:200000:65536\nann:1:1000\n";
        let range = |start| Some(Range { start, count: 65_536 });
        assert_eq!(parse(text, 1000, Some("jo")), range(100_000));
        assert_eq!(parse(text, 1001, None), range(200_000));
        assert_eq!(parse(text, 1002, Some("ann")), None);
        assert_eq!(parse(text, 1003, Some("nobody")), None);
    }
}
