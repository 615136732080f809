//! `.gitattributes`: what becomes of a content on its way from git into a checkout.
//!
//! Only the repository's own files count, as on a machine without configuration: no `core.autocrlf`, no
//! `core.attributesFile`, no filter drivers but git-lfs.

use gix::attrs::search::{MetadataCollection, Outcome};
use gix::attrs::{Search, StateRef};
use gix::bstr::ByteSlice;
use gix::filter::plumbing::eol::{AttributesDigest, Configuration, Mode};
use gix::filter::plumbing::{eol, worktree};

/// The attributes of one repository at one commit.
#[derive(Default)]
pub(super) struct Attributes {
    search: Search,
    collection: MetadataCollection,
    any: bool,
}

/// What the attributes of one file ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    eol: Option<AttributesDigest>,
    ident: bool,
    encoding: Option<String>,
    /// `filter=lfs`.
    pub(super) lfs: bool,
}

const NAMES: [&str; 6] = ["crlf", "ident", "filter", "eol", "text", "working-tree-encoding"];

impl Attributes {
    /// Reads attribute files, given with their paths.
    pub(super) fn of(mut files: Vec<(String, Vec<u8>)>) -> Self {
        if files.is_empty() {
            return Self::default();
        }
        // Later files win, so that those nearer to a file must come later.
        files.sort_by_key(|(path, _)| path.matches('/').count());
        let mut collection = MetadataCollection::default();
        let none: [std::path::PathBuf; 0] = [];
        let mut search = Search::new_globals(none, &mut Vec::new(), &mut collection).unwrap_or_default();
        for (path, bytes) in files {
            let allow_macros = !path.contains('/');
            // The path is given as if the repository were at `/`, so that patterns are relative to the file's directory.
            // Reading from memory cannot fail; lines that cannot be read are skipped, as git does.
            let source = std::path::Path::new("/").join(path);
            let root = Some(std::path::Path::new("/"));
            let _ = search.add_patterns_buffer(&bytes, source, root, &mut collection, allow_macros);
        }
        Self { search, collection, any: true }
    }

    /// What a file's attributes ask for; `path` is relative to the repository's root.
    pub(super) fn rules(&self, path: &str) -> Rules {
        if !self.any {
            return Rules::default();
        }
        let mut outcome = Outcome::default();
        outcome.initialize_with_selection(&self.collection, NAMES);
        let case = gix::glob::pattern::Case::Sensitive;
        self.search.pattern_matching_relative_path(path.into(), case, Some(false), &mut outcome);
        let states: Vec<StateRef<'_>> = outcome.iter_selected().map(|it| it.assignment.state).collect();
        let state = |name: &str| NAMES.iter().position(|it| *it == name).and_then(|at| states.get(at)).copied();
        let value = |name: &str| match state(name) {
            Some(StateRef::Value(value)) => Some(value.as_bstr().to_string()),
            _ => None,
        };
        Rules {
            eol: line_endings(
                state("text").and_then(text).or_else(|| state("crlf").and_then(text)),
                value("eol").as_deref(),
            ),
            ident: matches!(state("ident"), Some(StateRef::Set)),
            encoding: value("working-tree-encoding"),
            lfs: value("filter").as_deref() == Some("lfs"),
        }
    }
}

fn text(state: StateRef<'_>) -> Option<AttributesDigest> {
    match state {
        StateRef::Set => Some(AttributesDigest::Text),
        StateRef::Unset => Some(AttributesDigest::Binary),
        StateRef::Value(value) if value.as_bstr() == "input" => Some(AttributesDigest::TextInput),
        StateRef::Value(value) if value.as_bstr() == "auto" => Some(AttributesDigest::TextAuto),
        StateRef::Value(_) | StateRef::Unspecified => None,
    }
}

fn line_endings(text: Option<AttributesDigest>, eol: Option<&str>) -> Option<AttributesDigest> {
    match (text, eol) {
        (Some(AttributesDigest::Binary), _) => text,
        (Some(AttributesDigest::TextAuto), Some("lf")) => Some(AttributesDigest::TextAutoInput),
        (Some(AttributesDigest::TextAuto), Some("crlf")) => Some(AttributesDigest::TextAutoCrlf),
        (_, Some("lf")) => Some(AttributesDigest::TextInput),
        (_, Some("crlf")) => Some(AttributesDigest::TextCrlf),
        _ => text,
    }
}

impl Rules {
    /// Whether the content stays as it is.
    pub(super) fn is_plain(&self) -> bool {
        !self.ident && self.encoding.is_none() && !self.converts_line_endings()
    }

    fn converts_line_endings(&self) -> bool {
        self.eol.and_then(|it| it.to_eol(Configuration::default())) == Some(Mode::CrLf)
    }

    /// The content a checkout has. What cannot be converted stays as it is, as git leaves it.
    pub(super) fn to_worktree(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut current = bytes;
        let mut buffer = Vec::new();
        if self.ident
            && let Some(expanded) = expand_ident(&current)
        {
            current = expanded;
        }
        if let Some(digest) = self.eol
            && eol::convert_to_worktree(&current, digest, &mut buffer, Configuration::default()).unwrap_or_default()
        {
            std::mem::swap(&mut current, &mut buffer);
        }
        match &self.encoding {
            Some(label) => encode(&current, label).unwrap_or(current),
            None => current,
        }
    }
}

/// `$Id$` with the blob's id, as git writes it (the library's own lacks a space); `None` if there is none.
fn expand_ident(bytes: &[u8]) -> Option<Vec<u8>> {
    bytes.find(b"$Id")?;
    let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::objs::Kind::Blob, bytes).ok()?;
    let mut result = Vec::with_capacity(bytes.len() + 48);
    let mut rest = bytes;
    while let Some(at) = rest.find(b"$Id") {
        let (before, found) = rest.split_at(at);
        result.extend_from_slice(before);
        let tail = &found[3..];
        let length = match tail.first() {
            Some(b'$') => Some(1),
            // What an earlier checkout expanded; texts of other systems have blanks inside.
            Some(b':') => tail
                .iter()
                .position(|byte| matches!(byte, b'$' | b'\n'))
                .filter(|end| {
                    let inside = tail.get(2..end.saturating_sub(1)).unwrap_or_default();
                    tail[*end] == b'$' && !inside.contains(&b' ')
                })
                .map(|end| end + 1),
            _ => None,
        };
        match length {
            Some(length) => {
                result.extend_from_slice(format!("$Id: {id} $").as_bytes());
                rest = &tail[length..];
            }
            None => {
                result.extend_from_slice(b"$Id");
                rest = tail;
            }
        }
    }
    result.extend_from_slice(rest);
    Some(result)
}

/// Encodes a UTF-8 content. UTF-16 is done here: the encoding standard that libraries follow cannot write it.
fn encode(bytes: &[u8], label: &str) -> Option<Vec<u8>> {
    let units = |order: fn(u16) -> [u8; 2]| -> Option<Vec<u8>> {
        Some(std::str::from_utf8(bytes).ok()?.encode_utf16().flat_map(order).collect())
    };
    match label.to_ascii_uppercase().as_str() {
        "UTF-8" | "UTF8" => None,
        "UTF-16LE" => units(u16::to_le_bytes),
        "UTF-16BE" => units(u16::to_be_bytes),
        "UTF-16" | "UTF-16LE-BOM" => Some([vec![0xff, 0xfe], units(u16::to_le_bytes)?].concat()),
        "UTF-16BE-BOM" => Some([vec![0xfe, 0xff], units(u16::to_be_bytes)?].concat()),
        _ => {
            let encoding = worktree::encoding::for_label(label.as_bytes().as_bstr()).ok()?;
            let mut buffer = Vec::new();
            worktree::encode_to_worktree(bytes, encoding, &mut buffer).ok()?;
            Some(buffer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(files: &[(&str, &str)]) -> Attributes {
        Attributes::of(files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn nearer_files_win_and_reach_only_their_directory() {
        let it =
            attributes(&[("d/.gitattributes", "*.txt eol=lf\n"), (".gitattributes", "*.txt eol=crlf\n/top ident\n")]);
        let text = |path: &str| it.rules(path).to_worktree(b"a\n".to_vec());
        assert_eq!(text("x.txt"), b"a\r\n");
        assert_eq!(text("d/x.txt"), b"a\n");
        assert_eq!(text("d2/x.txt"), b"a\r\n");
        assert!(it.rules("top").ident && !it.rules("d/top").ident);
        assert!(it.rules("x.py").is_plain());
    }

    #[test]
    fn binary_files_and_macros_are_left_alone() {
        let it =
            attributes(&[(".gitattributes", "* text=auto eol=crlf\n*.bin binary\n[attr]win eol=crlf text\nw win\n")]);
        assert_eq!(it.rules("x").to_worktree(b"a\n".to_vec()), b"a\r\n");
        assert_eq!(it.rules("x").to_worktree(b"a\n\0".to_vec()), b"a\n\0");
        assert_eq!(it.rules("x.bin").to_worktree(b"a\n".to_vec()), b"a\n");
        assert_eq!(it.rules("w").to_worktree(b"a\n".to_vec()), b"a\r\n");
    }

    #[test]
    fn encodings_and_lfs_are_seen() {
        let it = attributes(&[(
            ".gitattributes",
            "u working-tree-encoding=UTF-16\n*.pt filter=lfs diff=lfs merge=lfs -text\n",
        )]);
        assert_eq!(it.rules("u").to_worktree("ä".into()), [0xff, 0xfe, 0xe4, 0]);
        assert!(it.rules("m/x.pt").lfs && !it.rules("u").lfs);
    }
}
