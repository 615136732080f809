//! Colours.

use crate::config::Environment;

/// What a text is, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Headings.
    Strong,
    /// Good.
    Good,
    /// Worth acting on.
    Warning,
    /// Wrong.
    Bad,
    /// Advice.
    Hint,
    /// Less important.
    Faint,
}

/// Whether a stream takes colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// Colours for a stream: `NO_COLOR` switches them off, `CLICOLOR_FORCE` on, else a terminal decides.
    #[must_use]
    pub fn of(environment: &Environment, terminal: bool) -> Self {
        let forced = environment.get("CLICOLOR_FORCE").is_some_and(|it| it != "0");
        let dumb = environment.get("TERM") == Some("dumb");
        Self(environment.get("NO_COLOR").is_none() && (forced || terminal && !dumb))
    }

    /// The text in the colour of its style, or as it is.
    #[must_use]
    pub fn paint(self, style: Style, text: &str) -> String {
        if !self.0 {
            return text.to_owned();
        }
        let code = match style {
            Style::Strong => "1",
            Style::Good => "32",
            Style::Warning => "1;33",
            Style::Bad => "1;31",
            Style::Hint => "36",
            Style::Faint => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_over_the_terminal() {
        let colours = |pairs, terminal| Paint::of(&Environment::of(pairs), terminal) == Paint(true);
        assert!(colours([("A", "")], true) && !colours([("A", "")], false));
        assert!(!colours([("NO_COLOR", "1")], true) && !colours([("TERM", "dumb")], true));
        assert!(colours([("CLICOLOR_FORCE", "1")], false) && !colours([("CLICOLOR_FORCE", "0")], false));
    }
}
