//! `docker run` switches, as tasks and configurations write them: one grammar for everyone who reads them.
//!
//! The words are read as docker's own command line is: `--name value`, `--name=value`, `-x value`, `-xvalue`, `-x=value`,
//! and flags without a value joined (`-it`, `-itv /a:/b`). Which switches there are stands in [`known`]; what may stand
//! in a task's arguments is [`policy`]'s. What a switch's value means is not looked at here, and nothing is handed to a
//! shell or another program.

mod host;
pub mod known;
pub mod policy;

pub use known::{Fate, Known};
pub use policy::{ArgumentPolicy, PolicyError};

use crate::error::{Explain, Kind};
use crate::process;
use crate::secret::strip_userinfo;

/// One switch and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    known: &'static Known,
    spelled: String,
    form: Form,
    value: Option<String>,
}

/// How a switch and its value are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `--name value`, `-x value`, or no value.
    Apart,
    /// `--name=value`, `-x=value`.
    Equals,
    /// `-xvalue`.
    Stuck,
}

/// What words consist of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A switch, with its value where it takes one.
    Switch(Switch),
    /// A switch whose value is missing.
    Lacking(Switch),
    /// Begins as a switch does and is none that docker knows.
    Unknown(String),
    /// Belongs to no switch.
    Word(String),
}

/// Container arguments that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// Quotes that do not end.
    #[error("the container arguments have a quote without its end")]
    Quotes,
    /// No switch of `docker run`.
    #[error("the container argument `{switch}` is no switch of `docker run`")]
    Unknown {
        /// The switch.
        switch: String,
    },
    /// A word that is neither a switch nor a switch's value.
    #[error("`{word}` among the container arguments belongs to no switch")]
    Stray {
        /// The word.
        word: String,
    },
    /// A switch whose value is missing.
    #[error("the container argument `{switch}` has no value")]
    Missing {
        /// The switch.
        switch: String,
    },
}

impl Explain for SwitchError {
    fn kind(&self) -> Kind {
        Kind::Input
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Quotes => "Close it, or put a backslash before a quote that is meant as it stands.",
            Self::Unknown { .. } => {
                "Remove it from the container arguments; docs/container-arguments.md lists the rest."
            }
            Self::Stray { .. } => "The image has a field of its own; a value with blanks needs quotes around it.",
            Self::Missing { .. } => "Write it as --name=value or --name value.",
        };
        vec![hint.to_owned()]
    }
}

impl Switch {
    /// The switch itself, whatever its spelling.
    #[must_use]
    pub const fn known(&self) -> &'static Known {
        self.known
    }

    /// Its long name without dashes: `volume` for `-v` too.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.known.name
    }

    /// As it was written, without its value: `-v`, `--net`.
    #[must_use]
    pub fn spelled(&self) -> &str {
        &self.spelled
    }

    /// Its value; none for a flag that stands alone.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Name and value in one word, as it was written, where it was one.
    #[must_use]
    pub fn glued(&self) -> Option<String> {
        let value = self.value.as_deref()?;
        match self.form {
            Form::Apart => None,
            Form::Equals => Some(format!("{}={value}", self.spelled)),
            Form::Stuck => Some(format!("{}{value}", self.spelled)),
        }
    }

    /// The words that mean it.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        match self.glued() {
            Some(word) => vec![word],
            None => std::iter::once(self.spelled.clone()).chain(self.value.clone()).collect(),
        }
    }

    /// The variable that it sets, and its value: none for one whose value is whoever's environment's.
    #[must_use]
    pub fn assignment(&self) -> Option<(&str, Option<&str>)> {
        let text = self.value.as_deref().filter(|_| self.name() == "env")?;
        Some(text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value))))
    }

    /// The same switch with another value.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
}

impl Part {
    /// The words that mean it.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Switch(switch) | Self::Lacking(switch) => switch.words(),
            Self::Unknown(word) | Self::Word(word) => vec![word.clone()],
        }
    }
}

/// The switches of a text.
///
/// # Errors
/// [`SwitchError`] at the first that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Switch>, SwitchError> {
    parse_words(&process::words(text).ok_or(SwitchError::Quotes)?)
}

/// The switches of a list of words.
///
/// # Errors
/// [`SwitchError`] at the first that cannot be read.
pub fn parse_words(words: &[String]) -> Result<Vec<Switch>, SwitchError> {
    let strict = |part| match part {
        Part::Switch(switch) => Ok(switch),
        Part::Lacking(switch) => Err(SwitchError::Missing { switch: switch.spelled }),
        Part::Unknown(word) => {
            Err(SwitchError::Unknown { switch: word.split('=').next().unwrap_or_default().to_owned() })
        }
        Part::Word(word) => Err(SwitchError::Stray { word: strip_userinfo(&word) }),
    };
    scan(words).into_iter().map(strict).collect()
}

/// Takes words apart, whatever they are: nothing is lost, and nothing is an error.
#[must_use]
pub fn scan(words: &[String]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("--") {
            Some(long) if !long.is_empty() => parts.push(read_long(word, long, &mut words)),
            None if word.len() > 1 && word.starts_with('-') => read_short(word, &mut words, &mut parts),
            _ => parts.push(Part::Word(word.clone())),
        }
    }
    parts
}

fn read_long<'a>(word: &str, long: &str, rest: &mut impl Iterator<Item = &'a String>) -> Part {
    let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
    let Some(known) = known::long(name) else { return Part::Unknown(word.to_owned()) };
    let spelled = format!("--{name}");
    match value {
        Some(value) => Part::Switch(Switch { known, spelled, form: Form::Equals, value: Some(value.to_owned()) }),
        None => apart(known, spelled, rest),
    }
}

/// `-x`, `-xvalue`, `-x=value`, and flags joined before one of these.
fn read_short<'a>(word: &str, rest: &mut impl Iterator<Item = &'a String>, parts: &mut Vec<Part>) {
    let mut letters = word[1..].chars();
    let before = parts.len();
    while let Some(letter) = letters.next() {
        let (spelled, after) = (format!("-{letter}"), letters.as_str());
        let Some(known) = known::short_of(letter) else {
            // What follows a dash would be a long switch by itself, which it is not here.
            let unknown = if letter == '-' {
                parts.truncate(before);
                word.to_owned()
            } else {
                format!("{spelled}{after}")
            };
            parts.push(Part::Unknown(unknown));
            return;
        };
        let (form, value) = match after.strip_prefix('=') {
            Some(value) => (Form::Equals, value),
            None if !known.flag && !after.is_empty() => (Form::Stuck, after),
            None => {
                parts.push(apart(known, spelled, rest));
                continue;
            }
        };
        parts.push(Part::Switch(Switch { known, spelled, form, value: Some(value.to_owned()) }));
        return;
    }
}

fn apart<'a>(known: &'static Known, spelled: String, rest: &mut impl Iterator<Item = &'a String>) -> Part {
    let value = if known.flag { None } else { rest.next().cloned() };
    let lacks = !known.flag && value.is_none();
    let switch = Switch { known, spelled, form: Form::Apart, value };
    if lacks { Part::Lacking(switch) } else { Part::Switch(switch) }
}

#[cfg(test)]
mod tests;
