//! Reading a diff.

use super::names::{checked, header_names, side_name, strip, unquote};
use super::{Action, Change, FilePatch, Hunk, Line, Patch, PatchError, binary};

/// How many blank lines at the end of a diff may be missing: whoever stored it cut off white space, not a file.
const MOST_CUT_OFF: usize = 1000;

/// The lines of a text with a place in them. Lines are without their newline.
struct Lines<'a> {
    lines: Vec<&'a [u8]>,
    at: usize,
}

impl<'a> Lines<'a> {
    fn peek(&self) -> Option<&'a [u8]> {
        self.lines.get(self.at).copied()
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.peek()?;
        self.at += 1;
        Some(line)
    }

    /// An error at the line read last.
    fn wrong(&self, reason: impl Into<String>) -> PatchError {
        PatchError::Malformed { line: self.at.max(1), reason: reason.into() }
    }
}

pub(super) fn parse(text: &[u8]) -> Result<Patch, PatchError> {
    let converted;
    let text = if was_converted_to_crlf(text) {
        converted = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n').fold(
            Vec::with_capacity(text.len()),
            |mut bytes, line| {
                bytes.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                bytes.push(b'\n');
                bytes
            },
        );
        &converted
    } else {
        text
    };
    let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n').collect();
    let mut lines = Lines { lines, at: 0 };
    let mut patch = Patch { files: Vec::new(), notes: Vec::new() };
    while let Some(line) = lines.next() {
        if let Some(names) = line.strip_prefix(b"diff --git ") {
            patch.files.push(git_file(names, &mut lines)?);
        } else if line.starts_with(b"diff --cc ") || line.starts_with(b"diff --combined ") {
            return Err(lines.wrong("it was recorded in the middle of a merge"));
        } else if let Some(rest) = line.strip_prefix(b"Submodule ") {
            submodule_line(rest, &mut patch)?;
        } else if line.starts_with(b"@@ -") {
            return Err(lines.wrong("a hunk without a file"));
        } else if line.starts_with(b"--- ") && lines.peek().is_some_and(|it| it.starts_with(b"+++ ")) {
            patch.files.push(plain_file(line, &mut lines)?);
        }
    }
    if patch.files.is_empty() && patch.notes.is_empty() {
        return Err(PatchError::Malformed { line: 1, reason: "there is no diff in it".to_owned() });
    }
    Ok(patch)
}

/// Whether every line ends with CRLF: then whoever stored the text did that, since git's own lines never do.
fn was_converted_to_crlf(text: &[u8]) -> bool {
    let mut lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n').peekable();
    let mut any = false;
    while let Some(line) = lines.next() {
        if !line.ends_with(b"\r") && (lines.peek().is_some() || text.ends_with(b"\n")) {
            return false;
        }
        any |= line.ends_with(b"\r");
    }
    any
}

/// `Submodule lib 1234567..89abcde:` and what may stand instead of the colon.
fn submodule_line(rest: &[u8], patch: &mut Patch) -> Result<(), PatchError> {
    let text = String::from_utf8_lossy(rest);
    for (suffix, what) in [
        (" contains untracked content", "has untracked files, which the recorded diff does not have"),
        (" contains modified content", ""),
    ] {
        if let Some(path) = text.strip_suffix(suffix) {
            if !what.is_empty() {
                patch.notes.push(format!("submodule `{path}` {what}"));
            } else if patch.notes.is_empty() {
                patch.notes.push(format!("submodule `{path}` has uncommitted changes"));
            }
            return Ok(());
        }
    }
    let path = || text.rsplit_once(' ').and_then(|(head, _)| head.split(' ').next()).unwrap_or(&text).to_owned();
    if text.ends_with("(commits not present)") || text.ends_with("(not checked out)") {
        return Err(PatchError::Submodule { path: path() });
    }
    patch.notes.push(format!("submodule `{}` was at another commit", path()));
    Ok(())
}

/// What the lines between `diff --git` and the content say.
#[derive(Default)]
struct Header {
    old_side: Option<Option<Vec<u8>>>,
    new_side: Option<Option<Vec<u8>>>,
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    action: Option<Action>,
    old_mode: Option<u32>,
    new_mode: Option<u32>,
    ids: Option<(String, String)>,
}

fn git_file(names: &[u8], lines: &mut Lines<'_>) -> Result<FilePatch, PatchError> {
    let header = header(lines)?;
    let both = header_names(names);
    // Equal names have no prefixes: git was told to write none.
    let depth = match (&both, &header.old_side, &header.new_side) {
        (Some((old, new)), ..) => usize::from(old != new),
        (None, Some(Some(old)), Some(Some(new))) => {
            usize::from(header.from.as_ref() != Some(old) || header.to.as_ref() != Some(new))
        }
        _ => 1,
    };
    let sided = |side: &Option<Option<Vec<u8>>>| {
        side.as_ref().and_then(Option::as_deref).and_then(|it| strip(it, depth)).map(<[u8]>::to_vec)
    };
    let in_header = |name: Option<&Vec<u8>>| name.and_then(|it| strip(it, depth)).map(<[u8]>::to_vec);
    let nameless = || lines.wrong("a file without a name");
    let old =
        header.from.clone().or_else(|| sided(&header.old_side)).or_else(|| in_header(both.as_ref().map(|it| &it.0)));
    let new =
        header.to.clone().or_else(|| sided(&header.new_side)).or_else(|| in_header(both.as_ref().map(|it| &it.1)));
    let action = header.action.unwrap_or(match (&header.old_side, &header.new_side) {
        (Some(None), Some(Some(_))) => Action::Create,
        (Some(Some(_)), Some(None)) => Action::Delete,
        _ => Action::Modify,
    });
    let old = checked(&old.ok_or_else(nameless)?)?;
    let new = checked(&new.ok_or_else(nameless)?)?;
    let (old, new) = match action {
        Action::Create => (new.clone(), new),
        Action::Delete => (old.clone(), old),
        _ => (old, new),
    };
    if action == Action::Modify && old != new {
        return Err(lines.wrong(format!("`{old}` becomes `{new}` without a rename")));
    }
    let change = content(&new, lines)?;
    Ok(FilePatch { old, new, action, old_mode: header.old_mode, new_mode: header.new_mode, ids: header.ids, change })
}

fn header(lines: &mut Lines<'_>) -> Result<Header, PatchError> {
    let mut header = Header::default();
    while let Some(line) = lines.peek() {
        let Some((key, value)) = field(line) else { break };
        lines.at += 1;
        let unreadable = || lines.wrong("a header line that cannot be read");
        let mode = || {
            let text = std::str::from_utf8(value).ok()?;
            u32::from_str_radix(text.trim_end(), 8).ok()
        };
        let path = || unquote(value).map(|it| it.0);
        match key {
            "--- " => header.old_side = Some(side_name(value).ok_or_else(unreadable)?),
            "+++ " => header.new_side = Some(side_name(value).ok_or_else(unreadable)?),
            "old mode " => header.old_mode = Some(mode().ok_or_else(unreadable)?),
            "new mode " => header.new_mode = Some(mode().ok_or_else(unreadable)?),
            "new file mode " => {
                header.action = Some(Action::Create);
                header.new_mode = Some(mode().ok_or_else(unreadable)?);
            }
            "deleted file mode " => {
                header.action = Some(Action::Delete);
                header.old_mode = Some(mode().ok_or_else(unreadable)?);
            }
            "copy from " | "rename from " | "rename old " => header.from = Some(path().ok_or_else(unreadable)?),
            "copy to " | "rename to " | "rename new " => {
                header.action = Some(if key == "copy to " { Action::Copy } else { Action::Rename });
                header.to = Some(path().ok_or_else(unreadable)?);
            }
            "index " => index_line(value, &mut header).ok_or_else(unreadable)?,
            _ => {}
        }
    }
    Ok(header)
}

fn field(line: &[u8]) -> Option<(&'static str, &[u8])> {
    const KEYS: [&str; 15] = [
        "--- ",
        "+++ ",
        "old mode ",
        "new mode ",
        "deleted file mode ",
        "new file mode ",
        "copy from ",
        "copy to ",
        "rename from ",
        "rename to ",
        "rename old ",
        "rename new ",
        "similarity index ",
        "dissimilarity index ",
        "index ",
    ];
    KEYS.iter().find_map(|key| line.strip_prefix(key.as_bytes()).map(|value| (*key, value)))
}

/// `1234567..89abcde 100644`
fn index_line(value: &[u8], header: &mut Header) -> Option<()> {
    let text = std::str::from_utf8(value).ok()?;
    let (ids, mode) = text.split_once(' ').map_or((text, None), |(ids, mode)| (ids, Some(mode)));
    let (old, new) = ids.split_once("..")?;
    header.ids = Some((old.to_owned(), new.to_owned()));
    if let Some(mode) = mode {
        let mode = u32::from_str_radix(mode.trim_end(), 8).ok()?;
        header.old_mode = header.old_mode.or(Some(mode));
    }
    Some(())
}

/// A diff without git's header: `--- a/x`, `+++ b/x`, hunks.
fn plain_file(first: &[u8], lines: &mut Lines<'_>) -> Result<FilePatch, PatchError> {
    let unreadable = |lines: &Lines<'_>| lines.wrong("a header line that cannot be read");
    let old = side_name(&first[4..]).ok_or_else(|| unreadable(lines))?;
    let second = lines.next().unwrap_or_default();
    let new = side_name(second.get(4..).unwrap_or_default()).ok_or_else(|| unreadable(lines))?;
    let action = match (&old, &new) {
        (None, Some(_)) => Action::Create,
        (Some(_), None) => Action::Delete,
        _ => Action::Modify,
    };
    let name = new.or(old).ok_or_else(|| unreadable(lines))?;
    let name = checked(strip(&name, 1).ok_or_else(|| unreadable(lines))?)?;
    let change = content(&name, lines)?;
    Ok(FilePatch { old: name.clone(), new: name, action, old_mode: None, new_mode: None, ids: None, change })
}

fn content(path: &str, lines: &mut Lines<'_>) -> Result<Change, PatchError> {
    match lines.peek() {
        Some(line) if line.starts_with(b"@@ -") => {
            let mut hunks = Vec::new();
            while lines.peek().is_some_and(|it| it.starts_with(b"@@ -")) {
                hunks.push(hunk(path, lines)?);
            }
            Ok(Change::Hunks(hunks))
        }
        Some(line) if line.starts_with(b"Binary files ") && line.ends_with(b" differ") => {
            lines.at += 1;
            Ok(Change::Unrecorded)
        }
        Some(b"GIT binary patch") => {
            lines.at += 1;
            let forward = binary_part(lines)?.ok_or_else(|| lines.wrong("binary data is missing"))?;
            // The way back follows; it is read so that it is not taken for something else.
            binary_part(lines)?;
            Ok(forward)
        }
        _ => Ok(Change::None),
    }
}

fn binary_part(lines: &mut Lines<'_>) -> Result<Option<Change>, PatchError> {
    let Some(line) = lines.peek() else { return Ok(None) };
    let (is_delta, size) = match (line.strip_prefix(b"literal "), line.strip_prefix(b"delta ")) {
        (Some(size), _) => (false, size),
        (_, Some(size)) => (true, size),
        _ => return Ok(None),
    };
    lines.at += 1;
    let size = std::str::from_utf8(size).ok().and_then(|it| it.trim_end().parse().ok());
    let size = size.ok_or_else(|| lines.wrong("binary data without a size"))?;
    let mut packed = Vec::new();
    while let Some(line) = lines.next().filter(|it| !it.is_empty()) {
        binary::decode_line(line, &mut packed).map_err(|reason| lines.wrong(reason))?;
    }
    let bytes = binary::inflate(&packed, size).map_err(|reason| lines.wrong(reason))?;
    Ok(Some(if is_delta { Change::Delta(bytes) } else { Change::Literal(bytes) }))
}

fn hunk(path: &str, lines: &mut Lines<'_>) -> Result<Hunk, PatchError> {
    let header = lines.next().unwrap_or_default();
    let (old, new) =
        ranges(header).ok_or_else(|| lines.wrong(format!("a hunk header of `{path}` that cannot be read")))?;
    let shown = header.windows(3).skip(3).position(|it| it == b" @@").map_or(header, |at| &header[..at + 6]);
    let shown = String::from_utf8_lossy(shown).into_owned();
    let (mut old_left, mut new_left) = (old.1, new.1);
    let mut hunk = Hunk { header: shown, old_start: old.0, new_start: new.0, lines: Vec::new() };
    while old_left > 0 || new_left > 0 {
        let Some(line) = lines.next() else {
            // Blank context lines at the very end may have been cut off with the text's white space.
            if old_left == new_left && old_left <= MOST_CUT_OFF {
                hunk.lines.extend((0..old_left).map(|_| Line::Context(b"\n".to_vec())));
                break;
            }
            return Err(lines.wrong(format!("hunk `{}` of `{path}` is cut off", hunk.header)));
        };
        let (kind, text) = line.split_first().map_or((b' ', &b""[..]), |(kind, text)| (*kind, text));
        let text = [text, b"\n"].concat();
        let count = |left: &mut usize| left.checked_sub(1).map(|less| *left = less);
        let counted = match kind {
            b' ' => count(&mut old_left).and_then(|()| count(&mut new_left)).map(|()| Line::Context(text)),
            b'-' => count(&mut old_left).map(|()| Line::Remove(text)),
            b'+' => count(&mut new_left).map(|()| Line::Add(text)),
            b'\\' => {
                cut_newline(&mut hunk);
                continue;
            }
            _ => None,
        };
        let counted =
            counted.ok_or_else(|| lines.wrong(format!("hunk `{}` of `{path}` does not add up", hunk.header)))?;
        hunk.lines.push(counted);
    }
    if lines.peek().is_some_and(|it| it.starts_with(b"\\")) {
        lines.at += 1;
        cut_newline(&mut hunk);
    }
    Ok(hunk)
}

/// `\ No newline at end of file`: the line before has none.
fn cut_newline(hunk: &mut Hunk) {
    if let Some(Line::Context(text) | Line::Remove(text) | Line::Add(text)) = hunk.lines.last_mut()
        && text.last() == Some(&b'\n')
    {
        text.pop();
    }
}

/// `@@ -1,3 +1,4 @@`: start and length of both sides; a length of one may be left out.
fn ranges(header: &[u8]) -> Option<((usize, usize), (usize, usize))> {
    let text = String::from_utf8_lossy(header);
    let (old, rest) = text.strip_prefix("@@ -")?.split_once(" +")?;
    let (new, _) = rest.split_once(" @@")?;
    let range = |text: &str| match text.split_once(',') {
        Some((start, length)) => Some((start.parse().ok()?, length.parse().ok()?)),
        None => Some((text.parse().ok()?, 1)),
    };
    Some((range(old)?, range(new)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> FilePatch {
        let patch = parse(text.as_bytes()).unwrap();
        assert_eq!(patch.files.len(), 1);
        patch.files[0].clone()
    }

    #[test]
    fn prefixes_may_be_missing() {
        let with = file("diff --git a/d/x b/d/x\n--- a/d/x\n+++ b/d/x\n@@ -1 +1 @@\n-a\n+b\n");
        let without = file("diff --git d/x d/x\n--- d/x\n+++ d/x\n@@ -1 +1 @@\n-a\n+b\n");
        assert_eq!(with, without);
        let renamed = file(
            "diff --git d/x d/y\nsimilarity index 50%\nrename from d/x\nrename to d/y\n--- d/x\n+++ d/y\n@@ -1 +1 @@\n-a\n+b\n",
        );
        assert_eq!((renamed.old.as_str(), renamed.new.as_str(), renamed.action), ("d/x", "d/y", Action::Rename));
    }

    #[test]
    fn a_text_cut_at_its_end_or_converted_to_crlf_is_still_read() {
        let whole = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n-a\n+b\n c\n \n";
        assert_eq!(parse(whole.trim_end().as_bytes()), parse(whole.as_bytes()));
        assert_eq!(parse(whole.replace('\n', "\r\n").as_bytes()), parse(whole.as_bytes()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cut = parse(b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,9 +1,3 @@\n-a\n+b\n").unwrap_err();
        assert_eq!(cut.to_string(), "the recorded diff is damaged at line 6: hunk `@@ -1,9 +1,3 @@` of `x` is cut off");
        assert!(parse(b"hello").is_err());
        let endless = parse(b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2000000 +1,2000000 @@\n a\n").unwrap_err();
        assert!(endless.to_string().contains("is cut off"), "{endless}");
        assert!(matches!(parse(b"diff --git a/../x b/../x\nnew file mode 100644\n"), Err(PatchError::Path { .. })));
        let gone = parse(b"Submodule lib 1234567...89abcde (commits not present)\n").unwrap_err();
        assert_eq!(gone, PatchError::Submodule { path: "lib".into() });
    }
}
