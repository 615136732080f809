//! `include "file"`: other files read in place.

use std::io::Read;
use std::path::Path;

use fs_err as fs;

use super::super::cursor::{Cursor, is_space};
use super::super::{MAX_INCLUDES, MAX_SIZE, SyntaxError};
use super::{Document, Fields, Parser, merge};

impl Parser<'_> {
    /// Reads an include if one stands here.
    pub(super) fn include(&mut self, fields: &mut Fields, path: &[String]) -> Result<bool, SyntaxError> {
        let start = self.cursor.at;
        let Some(rest) = self.cursor.rest().strip_prefix("include") else { return Ok(false) };
        let argument = rest.trim_start_matches(is_space);
        let forms = ["\"", "required(", "file(", "url(", "classpath("];
        if argument.len() == rest.len() || !forms.iter().any(|it| argument.starts_with(it)) {
            return Ok(false);
        }
        self.cursor.at += "include".len();
        self.cursor.skip_spaces();
        let required = self.cursor.take("required(");
        self.cursor.skip_spaces();
        let wrapped = self.cursor.take("file(");
        self.cursor.skip_spaces();
        if self.cursor.peek() != Some('"') {
            let hint = "Write `include \"other.conf\"`.";
            return Err(self.cursor.error(start, "only files can be included", Some(hint)));
        }
        let name = self.cursor.quoted()?;
        for _ in 0..usize::from(required) + usize::from(wrapped) {
            self.cursor.skip_spaces();
            if !self.cursor.take(")") {
                return Err(self.cursor.error(self.cursor.at, "a `)` is missing here", None));
            }
        }
        self.included(&name, required, (start, path)).map(|document| merge(fields, document.fields))?;
        Ok(true)
    }

    fn included(&mut self, name: &str, required: bool, place: (usize, &[String])) -> Result<Document, SyntaxError> {
        let (start, path) = place;
        let Some(directory) = &self.directory else {
            return Err(self.cursor.error(start, "nothing can be included here", None));
        };
        let file = directory.join(crate::fs::expand_home(name));
        self.files += 1;
        if self.chain.contains(&file) || self.files > MAX_INCLUDES {
            let why = format!("`{name}` includes itself, or more than {MAX_INCLUDES} files are included");
            return Err(self.cursor.error(start, why, None));
        }
        let text = match read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(Document::default()),
            Err(error) => return Err(self.cursor.error(start, format!("cannot include `{name}`: {error}"), None)),
        };
        let mut prefix = self.prefix.clone();
        prefix.extend(path.iter().cloned());
        let mut chain = self.chain.clone();
        chain.push(file.clone());
        let directory = file.parent().map(Path::to_owned);
        let cursor = Cursor::new(&file.display().to_string(), &text);
        let mut parser = Parser { cursor, directory, prefix, files: self.files, chain };
        let document = parser.root()?;
        self.files = parser.files;
        Ok(document)
    }
}

/// Reads a configuration file, up to its largest size.
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    let file = fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("`{}` is a directory", path.display()),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    let wrong = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    if bytes.len() as u64 > MAX_SIZE {
        return Err(wrong(format!("`{}` is larger than {} MiB", path.display(), MAX_SIZE >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| wrong(format!("`{}` is not UTF-8", path.display())))
}
