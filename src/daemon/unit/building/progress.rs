//! What a build tells on its standard error, an event in JSON a line: for the task's console and its status message.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::is_passing;
use crate::clearml::events::Level;
use crate::error::Kind;
use crate::report::{Event, SharedReporter};

/// How many of the last lines of programs are told when a build fails.
const TOLD: usize = 40;

/// What a build has told so far.
pub(super) struct Progress {
    /// Before the names of its pieces of work: several builds may go on at once.
    prefix: String,
    reporter: SharedReporter,
    /// Pieces of work that go on: name and title.
    going_on: Vec<(String, String)>,
    note: Option<String>,
    pub(super) last: VecDeque<String>,
    pub(super) error: Option<BuildError>,
}

/// Why a build failed, as it says itself.
pub(super) struct BuildError {
    pub(super) text: String,
    pub(super) hints: Vec<String>,
    /// Whether another try may work.
    pub(super) passing: bool,
    /// Whether that is because somebody did not answer.
    pub(super) unanswered: bool,
}

impl Progress {
    pub(super) fn new(task: &str, reporter: &SharedReporter) -> Self {
        Self {
            prefix: task.chars().take(8).collect(),
            reporter: Arc::clone(reporter),
            going_on: Vec::new(),
            note: None,
            last: VecDeque::new(),
            error: None,
        }
    }

    /// What it does now, for the task's status message.
    pub(super) fn text(&self) -> String {
        match self.going_on.last() {
            Some((_, title)) => format!("building image: {title}"),
            None => match &self.note {
                Some(note) => format!("building image: {note}"),
                None => "building image".to_owned(),
            },
        }
    }

    /// One line of its standard error; the console lines that come of it.
    pub(super) fn take(&mut self, line: &str) -> Vec<(Level, String)> {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            self.remember(line.to_owned());
            return Vec::new();
        };
        if let Some(error) = event.get("error") {
            self.error = Some(BuildError::of(error));
            return Vec::new();
        }
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let id = || format!("{} {}", self.prefix, text("id"));
        match text("event").as_str() {
            "started" => {
                self.reporter.started(id(), text("title"));
                self.going_on.retain(|(it, _)| *it != text("id"));
                self.going_on.push((text("id"), text("title")));
            }
            "progress" => {
                let number = |name: &str| event.get(name).and_then(Value::as_u64);
                self.reporter.progress(id(), number("done").unwrap_or(0), number("total"));
            }
            "finished" => {
                self.reporter.finished(id(), text("outcome"));
                let found = self.going_on.iter().position(|(it, _)| *it == text("id"));
                let title = found.map_or_else(|| text("id"), |at| self.going_on.remove(at).1);
                let outcome = Some(text("outcome")).filter(|it| !it.is_empty());
                return vec![(Level::Info, outcome.map_or(title.clone(), |it| format!("{title}: {it}")))];
            }
            "note" => {
                self.reporter.note(text("text"));
                self.note = Some(text("text"));
                return vec![(Level::Info, text("text"))];
            }
            "warning" => {
                self.reporter.warning(text("text"));
                return vec![(Level::Warning, text("text"))];
            }
            "line" => {
                self.reporter.report(Event::Line { source: text("source"), text: text("text") });
                self.remember(format!("{}: {}", text("source"), text("text")));
            }
            _ => {}
        }
        Vec::new()
    }

    fn remember(&mut self, line: String) {
        if self.last.len() == TOLD {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

impl BuildError {
    fn of(error: &Value) -> Self {
        let list = |name: &str| -> Vec<String> {
            let items = error.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason was given").to_owned();
        let text = std::iter::once(message).chain(list("causes")).collect::<Vec<_>>().join(": ");
        let code = error.get("exit_code").and_then(Value::as_u64).and_then(|it| u8::try_from(it).ok());
        let kind = code.and_then(Kind::of_exit_code);
        let (passing, unanswered) = (kind.is_some_and(is_passing), kind == Some(Kind::Unreachable));
        Self { text, hints: list("hints"), passing, unanswered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::silent;

    #[test]
    fn a_build_says_what_it_does_and_why_it_failed() {
        let mut progress = Progress::new("0123456789abcdef", &silent());
        let mut lines = Vec::new();
        for line in [
            r#"{"event":"started","id":"layer python","title":"layer python"}"#,
            r#"{"event":"progress","id":"layer python","done":10,"total":20}"#,
            r#"{"event":"started","id":"fetch","title":"fetching torch"}"#,
        ] {
            lines.extend(progress.take(line));
        }
        assert_eq!(progress.text(), "building image: fetching torch");
        for line in [
            r#"{"event":"finished","id":"fetch","outcome":"800 MB"}"#,
            r#"{"event":"warning","text":"an odd thing"}"#,
            r#"{"event":"line","source":"uv","text":"no such package"}"#,
            "thread panicked",
            r#"{"error":{"message":"cannot resolve","causes":["x==9 is not there"],"hints":["Ask for another."],"kind":"unsatisfiable","exit_code":80}}"#,
        ] {
            lines.extend(progress.take(line));
        }
        let expected =
            [(Level::Info, "fetching torch: 800 MB".to_owned()), (Level::Warning, "an odd thing".to_owned())];
        assert_eq!(lines, expected);
        assert_eq!(progress.text(), "building image: layer python");
        assert_eq!(progress.last, ["uv: no such package", "thread panicked"]);
        let error = progress.error.unwrap();
        assert_eq!((error.text.as_str(), error.passing), ("cannot resolve: x==9 is not there", false));
        assert!(BuildError::of(&serde_json::json!({"message": "m", "exit_code": 69})).passing);
    }
}
