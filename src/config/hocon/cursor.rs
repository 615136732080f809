//! A place in a text that moves forward, and the small tokens read from there.

use std::sync::Arc;

use super::{Position, SyntaxError};

/// What is being read, and how far.
pub(super) struct Cursor<'a> {
    pub(super) source: Arc<str>,
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &str, text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { source: source.into(), text, at: 0 }
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// Goes past `token` if it stands here.
    pub(super) fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Takes as long as `wanted` says so.
    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Goes past spaces within the line.
    pub(super) fn skip_spaces(&mut self) -> &'a str {
        self.take_while(is_space)
    }

    /// Whether a comment begins here. The caller stands where a token begins.
    pub(super) fn at_comment(&self) -> bool {
        self.rest().starts_with('#') || self.rest().starts_with("//")
    }

    /// Goes past spaces, line ends and comments.
    pub(super) fn skip_blank(&mut self) {
        loop {
            self.take_while(|c| is_space(c) || c == '\n');
            if !self.at_comment() {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    /// The position of a byte offset.
    pub(super) fn position(&self, at: usize) -> Position {
        position(&self.source, self.text, at)
    }

    pub(super) fn error(&self, at: usize, message: impl Into<String>, hint: Option<&str>) -> SyntaxError {
        SyntaxError { position: self.position(at), message: message.into(), hint: hint.map(str::to_owned) }
    }

    /// A quoted text; the cursor stands on its first quote.
    pub(super) fn quoted(&mut self) -> Result<String, SyntaxError> {
        if self.rest().starts_with("\"\"\"") {
            return self.triple_quoted();
        }
        let start = self.at;
        let unclosed = |it: &Self| {
            it.error(
                start,
                "this text is not closed",
                Some("End it with `\"` on the same line, or use `\"\"\"` for a text over several lines."),
            )
        };
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => self.escape(&mut text)?,
                Some('\n') | None => return Err(unclosed(self)),
                Some(other) => text.push(other),
            }
        }
    }

    fn triple_quoted(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        self.at += 3;
        let rest = self.rest();
        let Some(mut end) = rest.find("\"\"\"") else {
            return Err(self.error(start, "this text is not closed", Some("End it with `\"\"\"`.")));
        };
        // Quotes beyond three at the end belong to the text.
        while rest[end + 3..].starts_with('"') {
            end += 1;
        }
        self.at += end + 3;
        Ok(rest[..end].to_owned())
    }

    fn escape(&mut self, text: &mut String) -> Result<(), SyntaxError> {
        let start = self.at - 1;
        let plain = match self.peek() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some(it @ ('"' | '\\' | '/')) => it,
            Some('u') => {
                self.next();
                let wrong = |it: &Self| it.error(start, "`\\u` needs four hexadecimal digits", None);
                let unit = self.four_digits().ok_or_else(|| wrong(self))?;
                let low = if (0xd800..0xdc00).contains(&unit) && self.take("\\u") {
                    Some(self.four_digits().ok_or_else(|| wrong(self))?)
                } else {
                    None
                };
                let units = std::iter::once(unit).chain(low);
                for character in char::decode_utf16(units) {
                    text.push(character.map_err(|_| self.error(start, "half a character (`\\u` surrogate)", None))?);
                }
                return Ok(());
            }
            // As the library ClearML uses: regular expressions are written without doubling.
            _ => {
                text.push('\\');
                return Ok(());
            }
        };
        text.push(plain);
        self.next();
        Ok(())
    }

    fn four_digits(&mut self) -> Option<u16> {
        let digits = self.rest().get(..4)?;
        let unit = digits.bytes().all(|it| it.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())??;
        self.at += 4;
        Some(unit)
    }
}

/// White space that does not end a line.
pub(super) fn is_space(c: char) -> bool {
    c != '\n' && (c.is_whitespace() || c == '\u{feff}')
}

fn position(source: &Arc<str>, text: &str, at: usize) -> Position {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |it| it + 1);
    Position { source: source.clone(), line, column: before[start..].chars().count() + 1 }
}
