//! Paths in diffs: quoting, prefixes, and which paths are allowed.

use super::PatchError;

/// A path as written in a diff: C-quoted or plain. Returns it with what follows it; a plain one takes the whole text.
pub(super) fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        return Some((text.to_vec(), &[]));
    };
    let mut path = Vec::new();
    loop {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        match byte {
            b'"' => return Some((path, rest)),
            b'\\' => {
                let (&escaped, tail) = rest.split_first()?;
                rest = tail;
                path.push(match escaped {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => b'\r',
                    b'"' | b'\\' => escaped,
                    b'0'..=b'3' => {
                        let (digits, tail) = rest.split_at_checked(2)?;
                        rest = tail;
                        let octal = |it: u8| (b'0'..=b'7').contains(&it).then(|| it - b'0');
                        (escaped - b'0') << 6 | octal(digits[0])? << 3 | octal(digits[1])?
                    }
                    _ => return None,
                });
            }
            other => path.push(other),
        }
    }
}

/// The two names of a `diff --git` line, as written (prefixes included), where they can be told apart: both are the
/// same but for their prefixes, or one is quoted.
pub(super) fn header_names(rest: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    if rest.starts_with(b"\"") {
        let (first, tail) = unquote(rest)?;
        let (second, _) = unquote(tail.strip_prefix(b" ")?)?;
        return Some((first, second));
    }
    if let Some(at) = rest.windows(2).position(|it| it == b" \"")
        && rest.ends_with(b"\"")
    {
        let (second, _) = unquote(&rest[at + 1..])?;
        return Some((rest[..at].to_vec(), second));
    }
    let spaces = || rest.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    let split = |at: usize| (&rest[..at], &rest[at + 1..]);
    // Without prefixes both halves are the same; else they are the same after the first slash.
    let found = spaces().map(split).find(|(first, second)| first == second).or_else(|| {
        spaces()
            .map(split)
            .find(|(first, second)| matches!((strip(first, 1), strip(second, 1)), (Some(a), Some(b)) if a == b))
    });
    found.map(|(first, second)| (first.to_vec(), second.to_vec()))
}

/// The path without its first `depth` components.
pub(super) fn strip(path: &[u8], depth: usize) -> Option<&[u8]> {
    (0..depth).try_fold(path, |rest, _| {
        let at = rest.iter().position(|byte| *byte == b'/')?;
        Some(&rest[at + 1..])
    })
}

/// The name on a `---` or `+++` line: up to a tab, unquoted; `None` for `/dev/null`.
pub(super) fn side_name(rest: &[u8]) -> Option<Option<Vec<u8>>> {
    let name = if rest.starts_with(b"\"") {
        unquote(rest)?.0
    } else {
        rest.split(|byte| *byte == b'\t').next().unwrap_or_default().to_vec()
    };
    Some((name != b"/dev/null").then_some(name))
}

/// The path as text, if it stays inside the repository and out of git's own files.
pub(super) fn checked(path: &[u8]) -> Result<String, PatchError> {
    let refused = || PatchError::Path { path: String::from_utf8_lossy(path).into_owned() };
    let text = std::str::from_utf8(path).map_err(|_| refused())?;
    if is_inside(text) { Ok(text.to_owned()) } else { Err(refused()) }
}

/// Whether a path stays below the directory it is relative to, and is no path of git's own files.
pub(crate) fn is_inside(path: &str) -> bool {
    let fine = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.eq_ignore_ascii_case(".git") && !part.contains('\0')
    };
    path.split('/').all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_paths_are_read_as_git_writes_them() {
        assert_eq!(unquote(b"\"a/\\303\\244 \\\"x\\\"\\t\" rest").unwrap(), ("a/ä \"x\"\t".into(), &b" rest"[..]));
        assert!(unquote(b"\"open").is_none());
        assert!(unquote(b"\"\\9\"").is_none());
    }

    #[test]
    fn header_names_are_told_apart_even_with_spaces() {
        let names = |text: &str| {
            let (a, b) = header_names(text.as_bytes()).unwrap();
            (String::from_utf8(a).unwrap(), String::from_utf8(b).unwrap())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(names("a/x y b/x y"), pair("a/x y", "b/x y"));
        assert_eq!(names("dir/x dir/x"), pair("dir/x", "dir/x"));
        assert_eq!(names("i/x w/x"), pair("i/x", "w/x"));
        assert_eq!(names("\"a/\\303\\244\" \"b/\\303\\244\""), pair("a/ä", "b/ä"));
        assert!(header_names(b"a/x b/y").is_none());
    }

    #[test]
    fn paths_that_leave_the_repository_are_refused() {
        for bad in ["../x", "a/../../x", "/etc/passwd", "", "a//b", ".git/config", "sub/.GIT/hooks/x", "./x"] {
            assert!(checked(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(checked(b"a/.gitignore").unwrap(), "a/.gitignore");
    }
}
