//! HOCON, the format of `clearml.conf`: JSON with comments, unquoted texts, dotted keys, merging, `+=`, includes and
//! substitutions.
//!
//! [`Document`]s are parsed one by one ([`parse`]), laid over each other and then resolved together ([`resolve`]), so
//! that a substitution in one file sees what another sets. Where the specification and the library that ClearML reads
//! its files with differ, the latter counts: `//` inside an unquoted value belongs to it (`http://host`), unknown escapes in
//! quoted texts stay as they are.
//!
//! Input may be hostile: depth, size, number of includes and the work of resolving are bounded, cycles are errors, and
//! nothing is read from anywhere but files.

mod cursor;
mod parse;
mod resolve;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::value::{Object, Value};
pub use parse::Document;
pub(crate) use parse::read;

/// How deep objects, lists and keys may nest.
const MAX_DEPTH: usize = 64;
/// The largest file, in bytes.
const MAX_SIZE: u64 = 4 << 20;
/// How many files may take part by inclusion.
const MAX_INCLUDES: usize = 64;
/// How many values and bytes of text may come out.
const MAX_RESULT: usize = 16 << 20;

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file, or what else the text came from.
    pub source: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.line, self.column)
    }
}

/// What is wrong with a text and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {message}")]
pub struct SyntaxError {
    /// Where.
    pub position: Position,
    /// What, as a fragment.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Reads a document from a text. `directory` is where its includes are looked for; without one it may have none.
///
/// # Errors
/// [`SyntaxError`] with the first mistake.
pub fn parse(source: &str, text: &str, directory: Option<&Path>) -> Result<Document, SyntaxError> {
    parse::document(source, text, directory)
}

/// Reads a single value, as the value of an environment variable.
///
/// # Errors
/// [`SyntaxError`] with the first mistake.
pub fn parse_value(
    source: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Value, SyntaxError> {
    let document = parse::single_value(source, text)?;
    let mut object = resolve::resolve(&document, environment)?;
    Ok(object.remove(parse::SINGLE).unwrap_or(Value::Null))
}

/// Resolves documents laid over each other, the last on top. Substitutions that no document answers are asked of
/// `environment`.
///
/// # Errors
/// [`SyntaxError`] for a substitution that nothing answers, a cycle, or a result out of bounds.
pub fn resolve(documents: Vec<Document>, environment: &dyn Fn(&str) -> Option<String>) -> Result<Object, SyntaxError> {
    let mut all = Document::default();
    for document in documents {
        all.lay(document);
    }
    resolve::resolve(&all, environment)
}

#[cfg(test)]
mod tests;
