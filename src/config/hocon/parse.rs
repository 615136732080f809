//! Texts to documents: what was written, substitutions not yet looked up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::value::Value;
use super::cursor::{Cursor, is_space};
use super::{MAX_DEPTH, Position, SyntaxError};

mod include;

pub(crate) use include::read;

/// Every value a key was given, in order.
pub(super) type Fields = BTreeMap<String, Vec<Raw>>;

/// The key that [`single_value`] puts its value at.
pub(super) const SINGLE: &str = "value";

/// A parsed text.
#[derive(Debug, Default)]
pub struct Document {
    pub(super) fields: Fields,
}

impl Document {
    /// Lays another document over this one.
    pub fn lay(&mut self, upper: Self) {
        merge(&mut self.fields, upper.fields);
    }
}

/// What was written.
#[derive(Debug)]
pub(super) enum Raw {
    /// A single value.
    Plain(Value),
    /// White space between two others; counts only between single values.
    Space(String),
    List(Vec<Self>),
    Object(Fields),
    Reference(Reference),
    Concatenation(Vec<Self>),
    /// `+=`.
    Append(Box<Self>),
}

/// `${path}` or `${?path}`.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) path: Vec<String>,
    /// Where the file it stands in was included: looked up below there first.
    pub(super) prefix: Vec<String>,
    pub(super) optional: bool,
    pub(super) position: Position,
}

pub(super) fn merge(lower: &mut Fields, upper: Fields) {
    for (key, values) in upper {
        let stack = lower.entry(key).or_default();
        for value in values {
            push(stack, value);
        }
    }
}

/// Adds a value to those a key was given; objects in a row become one.
fn push(stack: &mut Vec<Raw>, value: Raw) {
    match (stack.last_mut(), value) {
        (Some(Raw::Object(below)), Raw::Object(above)) => merge(below, above),
        (_, value) => stack.push(value),
    }
}

pub(super) fn document(source: &str, text: &str, directory: Option<&Path>) -> Result<Document, SyntaxError> {
    let mut parser = Parser {
        cursor: Cursor::new(source, text),
        directory: directory.map(Path::to_owned),
        prefix: Vec::new(),
        files: 0,
        chain: Vec::new(),
    };
    parser.root()
}

pub(super) fn single_value(source: &str, text: &str) -> Result<Document, SyntaxError> {
    let mut parser =
        Parser { cursor: Cursor::new(source, text), directory: None, prefix: Vec::new(), files: 0, chain: Vec::new() };
    parser.cursor.skip_blank();
    let value = parser.value(0)?;
    parser.cursor.skip_blank();
    if parser.cursor.peek().is_some() {
        let hint = "Quote the value: '\"a, b\"'.";
        return Err(parser.cursor.error(parser.cursor.at, "nothing may follow the value", Some(hint)));
    }
    Ok(Document { fields: Fields::from([(SINGLE.to_owned(), vec![value])]) })
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    directory: Option<PathBuf>,
    /// Where the file being read is included.
    prefix: Vec<String>,
    files: usize,
    /// The files being included, outermost first.
    chain: Vec<PathBuf>,
}

impl Parser<'_> {
    fn root(&mut self) -> Result<Document, SyntaxError> {
        self.cursor.skip_blank();
        let mut fields = Fields::new();
        let start = self.cursor.at;
        if self.cursor.peek() == Some('[') {
            return Err(self.cursor.error(start, "a list instead of keys and values", None));
        }
        let braces = self.cursor.take("{");
        self.fields(&mut fields, &mut Vec::new(), braces.then_some(start))?;
        self.cursor.skip_blank();
        if self.cursor.peek().is_some() {
            return Err(self.cursor.error(self.cursor.at, "nothing may follow the closing `}`", None));
        }
        Ok(Document { fields })
    }

    /// Fields up to the closing brace of the one at `open`, or to the end of the text.
    fn fields(&mut self, fields: &mut Fields, path: &mut Vec<String>, open: Option<usize>) -> Result<(), SyntaxError> {
        if path.len() > MAX_DEPTH {
            return Err(self.too_deep());
        }
        let mut separated = true;
        loop {
            let before = self.cursor.at;
            self.cursor.skip_blank();
            separated |= self.cursor.text[before..self.cursor.at].contains('\n');
            let at = self.cursor.at;
            match (self.cursor.peek(), open) {
                (None, None) => return Ok(()),
                (None, Some(open)) => {
                    return Err(self.cursor.error(open, "this `{` is not closed", Some("Add the missing `}`.")));
                }
                (Some('}'), Some(_)) => {
                    self.cursor.next();
                    return Ok(());
                }
                (Some('}'), None) => return Err(self.cursor.error(at, "a `}` that closes nothing", None)),
                (Some(_), _) if !separated => {
                    let hint = "Put each value on a line of its own or a comma between them; quote a text with special characters.";
                    return Err(self.cursor.error(at, "a comma or a new line is missing here", Some(hint)));
                }
                _ => {}
            }
            if !self.include(fields, path)? {
                self.field(fields, path)?;
            }
            self.cursor.skip_spaces();
            separated = self.cursor.take(",");
        }
    }

    fn too_deep(&self) -> SyntaxError {
        self.cursor.error(self.cursor.at, format!("nested deeper than {MAX_DEPTH} levels"), None)
    }

    fn field(&mut self, fields: &mut Fields, path: &mut Vec<String>) -> Result<(), SyntaxError> {
        let key = self.key(":={+")?;
        let depth = path.len();
        if depth + key.len() > MAX_DEPTH {
            return Err(self.too_deep());
        }
        path.extend(key.iter().cloned());
        let at = self.cursor.at;
        let value = if self.cursor.take("+=") {
            Raw::Append(Box::new(self.value(path.len())?))
        } else if self.cursor.take("=") || self.cursor.take(":") || self.cursor.peek() == Some('{') {
            self.value_at(path)?
        } else {
            let name = key.join(".");
            let hint = "Write `key = value` or `key { … }`.";
            return Err(self.cursor.error(at, format!("key `{name}` has no value"), Some(hint)));
        };
        path.truncate(depth);
        let mut names = key.into_iter().rev();
        let Some(last) = names.next() else { return Ok(()) };
        let nested =
            names.fold((last, value), |(name, value), outer| (outer, Raw::Object(Fields::from([(name, vec![value])]))));
        push(fields.entry(nested.0).or_default(), nested.1);
        Ok(())
    }

    /// A dotted key: quoted and unquoted parts up to one of `ends`.
    fn key(&mut self, ends: &str) -> Result<Vec<String>, SyntaxError> {
        let start = self.cursor.at;
        let mut parts = Vec::new();
        let mut part = String::new();
        // A quoted part may be empty, an unquoted one not.
        let mut quoted = false;
        loop {
            match self.cursor.peek() {
                Some('"') => {
                    part.push_str(&self.cursor.quoted()?);
                    quoted = true;
                }
                Some('.') => {
                    self.cursor.next();
                    self.part(&mut parts, &mut part, &mut quoted, start)?;
                }
                Some(c) if ends.contains(c) || c == '\n' => break,
                None | Some(']' | '}' | ',' | '#') => break,
                Some('$' | '[') => {
                    let hint = "Quote a key that has special characters.";
                    return Err(self.cursor.error(self.cursor.at, "a key cannot have this character", Some(hint)));
                }
                Some(c) => {
                    part.push(c);
                    self.cursor.next();
                }
            }
        }
        self.part(&mut parts, &mut part, &mut quoted, start)?;
        if parts.len() > MAX_DEPTH {
            return Err(self.too_deep());
        }
        Ok(parts)
    }

    fn part(
        &self,
        parts: &mut Vec<String>,
        part: &mut String,
        quoted: &mut bool,
        start: usize,
    ) -> Result<(), SyntaxError> {
        let text = if *quoted { part.trim_end_matches(is_space) } else { part.trim_matches(is_space) }.to_owned();
        if text.is_empty() && !*quoted {
            return Err(self.cursor.error(start, "a key is missing here", None));
        }
        part.clear();
        *quoted = false;
        parts.push(text);
        Ok(())
    }

    fn value_at(&mut self, path: &mut Vec<String>) -> Result<Raw, SyntaxError> {
        self.cursor.skip_blank();
        self.pieces(path.len(), Some(path))
    }

    fn value(&mut self, depth: usize) -> Result<Raw, SyntaxError> {
        self.cursor.skip_blank();
        self.pieces(depth, None)
    }

    /// A value: one piece, or several that are put together.
    fn pieces(&mut self, depth: usize, mut path: Option<&mut Vec<String>>) -> Result<Raw, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(self.too_deep());
        }
        let start = self.cursor.at;
        let mut pieces = Vec::new();
        loop {
            let space = self.cursor.skip_spaces();
            if self.cursor.at_comment() {
                break;
            }
            let at = self.cursor.at;
            let piece = match self.cursor.peek() {
                None | Some('\n' | ',' | '}' | ']') => break,
                Some('"') => Raw::Plain(Value::Text(self.cursor.quoted()?)),
                Some('{') => {
                    self.cursor.next();
                    let mut fields = Fields::new();
                    let mut unnamed = vec![String::new(); depth + 1];
                    self.fields(&mut fields, path.as_deref_mut().unwrap_or(&mut unnamed), Some(at))?;
                    Raw::Object(fields)
                }
                Some('[') => Raw::List(self.list(depth + 1)?),
                Some('$') if self.cursor.rest().starts_with("${") => Raw::Reference(self.reference()?),
                Some(_) => Raw::Plain(self.unquoted()?),
            };
            if !pieces.is_empty() && !space.is_empty() {
                pieces.push(Raw::Space(space.to_owned()));
            }
            pieces.push(piece);
        }
        match pieces.len() {
            0 => Err(self.cursor.error(start, "a value is missing here", Some("An empty text is written `\"\"`."))),
            1 => Ok(pieces.remove(0)),
            _ => Ok(Raw::Concatenation(pieces)),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Raw>, SyntaxError> {
        let open = self.cursor.at;
        self.cursor.next();
        let mut items = Vec::new();
        loop {
            self.cursor.skip_blank();
            match self.cursor.peek() {
                None => return Err(self.cursor.error(open, "this `[` is not closed", Some("Add the missing `]`."))),
                Some(']') => {
                    self.cursor.next();
                    return Ok(items);
                }
                Some(_) => {}
            }
            items.push(self.value(depth)?);
            self.cursor.skip_spaces();
            self.cursor.take(",");
        }
    }

    fn reference(&mut self) -> Result<Reference, SyntaxError> {
        let start = self.cursor.at;
        self.cursor.take("${");
        let optional = self.cursor.take("?");
        let path = self.key("}")?;
        if !self.cursor.take("}") {
            return Err(self.cursor.error(start, "this `${` is not closed", Some("Add the missing `}`.")));
        }
        Ok(Reference { path, prefix: self.prefix.clone(), optional, position: self.cursor.position(start) })
    }

    /// A word without quotes: up to a space or a character with a meaning of its own.
    fn unquoted(&mut self) -> Result<Value, SyntaxError> {
        let at = self.cursor.at;
        let rest = self.cursor.rest();
        let end = rest
            .char_indices()
            .find(|&(at, c)| c.is_whitespace() || "\"{}[],#=".contains(c) || (c == '$' && rest[at..].starts_with("${")))
            .map_or(rest.len(), |(at, _)| at);
        if end == 0 || rest[end..].starts_with('=') {
            let hint = "Quote a value that has special characters.";
            return Err(self.cursor.error(at + end, "an unquoted value cannot have this character", Some(hint)));
        }
        self.cursor.at += end;
        Ok(plain(&rest[..end]))
    }
}

fn plain(word: &str) -> Value {
    match word {
        "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ if is_number(word) => Value::Number(word.to_owned()),
        _ => Value::Text(word.to_owned()),
    }
}

fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|it| it.is_ascii_digit() || b".eE+-".contains(&it))
        && word.parse::<f64>().is_ok_and(f64::is_finite)
}
