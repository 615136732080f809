//! RECORD: the files of a distribution with digest and size (binary distribution format, "Recording installed projects").

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// One line of a RECORD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Path relative to the directory that holds the `.dist-info`.
    pub path: String,
    /// `sha256=<urlsafe base64 without padding>`; empty for RECORD itself and for files nobody vouches for.
    pub hash: String,
    /// Bytes; empty where unknown.
    pub size: String,
}

/// Reads a RECORD (CSV, `"` as quote).
///
/// # Errors
/// Says which line is wrong.
pub fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let mut fields = Vec::new();
        loop {
            let (field, after) = next_field(rest).ok_or_else(|| format!("line {line} has an unclosed quote"))?;
            fields.push(field);
            rest = after;
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None => break,
            }
        }
        rest = rest.strip_prefix('\r').unwrap_or(rest);
        rest = match rest.strip_prefix('\n') {
            Some(after) => after,
            None if rest.is_empty() => rest,
            None => return Err(format!("line {line} has text behind a quote")),
        };
        if fields.len() == 1 && fields[0].is_empty() {
            continue;
        }
        let mut fields = fields.into_iter();
        let mut next = || fields.next().unwrap_or_default();
        rows.push(Row { path: next(), hash: next(), size: next() });
    }
    Ok(rows)
}

/// Writes rows, by path order; `\n` ends every line.
#[must_use]
pub fn write(mut rows: Vec<Row>) -> String {
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    let quote = |text: &str| {
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    rows.iter().map(|row| format!("{},{},{}\n", quote(&row.path), quote(&row.hash), quote(&row.size))).collect()
}

/// The hash field for some bytes.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    format!("sha256={}", URL_SAFE_NO_PAD.encode(Sha256::digest(bytes)))
}

/// A hash being computed, of the kind that a RECORD names. Kinds weaker than SHA-256 are refused, as the format says.
#[derive(Debug, Clone)]
pub enum Check {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-384.
    Sha384(Sha384),
    /// SHA-512.
    Sha512(Sha512),
}

impl Check {
    /// A fresh one for the kind of a hash field; `None` for kinds that are not taken.
    #[must_use]
    pub fn for_field(field: &str) -> Option<Self> {
        match field.split_once('=')?.0 {
            "sha256" => Some(Self::Sha256(Sha256::new())),
            "sha384" => Some(Self::Sha384(Sha384::new())),
            "sha512" => Some(Self::Sha512(Sha512::new())),
            _ => None,
        }
    }

    /// Takes in bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(it) => it.update(bytes),
            Self::Sha384(it) => it.update(bytes),
            Self::Sha512(it) => it.update(bytes),
        }
    }

    /// Whether what came is what the field says.
    #[must_use]
    pub fn fits(self, field: &str) -> bool {
        let digest = match self {
            Self::Sha256(it) => it.finalize().to_vec(),
            Self::Sha384(it) => it.finalize().to_vec(),
            Self::Sha512(it) => it.finalize().to_vec(),
        };
        let encoded = field.split_once('=').map_or("", |it| it.1).trim_end_matches('=');
        encoded == URL_SAFE_NO_PAD.encode(digest)
    }
}

/// The field that begins `text`, and what follows it.
fn next_field(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n', '\r']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut field = String::new();
    loop {
        let end = rest.find('"')?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_commas_and_quotes() {
        let row = |path: &str| Row { path: path.to_owned(), hash: hash(b"x"), size: "1".to_owned() };
        let rows = vec![row("a,b.py"), row("c\"d.py"), row("e.py")];
        let text = write(rows.clone());
        assert_eq!(parse(&text).unwrap(), rows);
        assert_eq!(parse(&text.replace('\n', "\r\n")).unwrap(), rows);
        assert!(parse("\"open,,\n").is_err());
    }

    #[test]
    fn weak_hashes_are_not_taken_and_strong_ones_are_compared() {
        assert!(Check::for_field("md5=abc").is_none());
        let mut check = Check::for_field(&hash(b"x")).unwrap();
        check.update(b"x");
        assert!(check.clone().fits(&hash(b"x")));
        assert!(!check.fits(&hash(b"y")));
    }

    proptest::proptest! {
        /// A wheel's RECORD is written by whoever made the wheel.
        #[test]
        fn what_is_read_is_written_so_that_it_is_read_again(text in crate::testing::mangled_text(&[
            "a/b.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,12\n\"a,\"\"b.py\",,\na-1.dist-info/RECORD,,\n",
        ], ",\"\n\r=/.a1")) {
            if let Ok(rows) = parse(&text) {
                assert_eq!(parse(&write(rows.clone())).unwrap().len(), rows.len(), "{text:?}");
            }
        }
    }
}
