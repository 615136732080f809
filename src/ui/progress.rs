//! Reporters: bars on a terminal, lines elsewhere, JSON lines for programs.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::style::{Paint, Style};
use super::text;
use crate::report::{Event, Reporter};

/// Writes a line to standard error; a reader that is gone is no matter.
pub(super) fn line(text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(b'\n');
    let _ = std::io::stderr().lock().write_all(&bytes);
}

/// When each piece of work began, and its title.
#[derive(Default)]
struct Running(Mutex<HashMap<String, (String, Instant)>>);

impl Running {
    fn begin(&self, id: &str, title: &str) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(id.to_owned(), (text::harmless(title), Instant::now()));
    }

    fn end(&self, id: &str) -> (String, Duration) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(id).map_or_else(|| (id.to_owned(), Duration::ZERO), |(title, began)| (title, began.elapsed()))
    }
}

fn warning(text: &str, paint: Paint) -> String {
    format!("{} {}", paint.paint(Style::Warning, "warning:"), text::harmless(text))
}

fn note(text: &str, paint: Paint) -> String {
    format!("{} {}", paint.paint(Style::Hint, "note:"), text::harmless(text))
}

/// A line for each step.
pub(super) struct Plain {
    paint: Paint,
    quiet: bool,
    debug: bool,
    running: Running,
}

impl Plain {
    pub(super) fn new(paint: Paint, quiet: bool, debug: bool) -> Self {
        Self { paint, quiet, debug, running: Running::default() }
    }
}

impl Reporter for Plain {
    fn report(&self, event: Event) {
        match event {
            Event::Warning(text) => line(&warning(&text, self.paint)),
            Event::Started { id, title } => self.running.begin(&id, &title),
            _ if self.quiet => {}
            Event::Finished { id, outcome } => {
                let (title, took) = self.running.end(&id);
                let took = self.paint.paint(Style::Faint, &format!("({})", text::duration(took)));
                line(&if outcome.is_empty() {
                    format!("{title} {took}")
                } else {
                    format!("{title}: {outcome} {took}")
                });
            }
            Event::Note(text) => line(&note(&text, self.paint)),
            Event::Line { source, text } if self.debug => {
                line(&self.paint.paint(Style::Faint, &text::harmless(&format!("{source}: {text}"))));
            }
            Event::Progress { .. } | Event::Line { .. } => {}
        }
    }
}

/// A bar for each piece of work that goes on, a line for each that ended.
pub(super) struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
    running: Running,
    paint: Paint,
    debug: bool,
}

impl Bars {
    pub(super) fn new(paint: Paint, debug: bool) -> Self {
        Self { all: MultiProgress::new(), bars: Mutex::default(), running: Running::default(), paint, debug }
    }

    /// Takes all bars away, so that they are not drawn over what is written next.
    pub(super) fn end(&self) {
        for (_, bar) in self.bars.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            bar.finish_and_clear();
        }
    }

    pub(super) fn print(&self, text: &str) {
        // Where there is no terminal to draw on, the library drops texts, too.
        if self.all.is_hidden() || self.all.println(text).is_err() {
            line(text);
        }
    }

    fn bar(&self, id: &str, change: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.bars.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            change(bar);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()).progress_chars("━╸─")
}

impl Reporter for Bars {
    fn report(&self, event: Event) {
        match event {
            Event::Started { id, title } => {
                self.running.begin(&id, &title);
                let bar = self.all.add(ProgressBar::new_spinner());
                bar.set_style(style("{spinner} {prefix} {wide_msg} {elapsed}"));
                bar.set_prefix(text::harmless(&title));
                bar.enable_steady_tick(Duration::from_millis(120));
                let previous = self.bars.lock().unwrap_or_else(PoisonError::into_inner).insert(id, bar);
                if let Some(previous) = previous {
                    previous.finish_and_clear();
                }
            }
            Event::Progress { id, done, total } => self.bar(&id, |bar| {
                match total {
                    Some(total) if bar.length() != Some(total) => {
                        bar.set_length(total);
                        bar.set_style(style(
                            "{spinner} {prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}",
                        ));
                    }
                    Some(_) => {}
                    None => bar.set_message(text::size(done)),
                }
                bar.set_position(done);
            }),
            Event::Finished { id, outcome } => {
                let bar = self.bars.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                let (title, took) = self.running.end(&id);
                let mark = self.paint.paint(Style::Good, "✓");
                let took = self.paint.paint(Style::Faint, &text::duration(took));
                self.print(&format!("{mark} {title}  {outcome}  {took}"));
            }
            Event::Note(text) => self.print(&note(&text, self.paint)),
            Event::Warning(text) => self.print(&warning(&text, self.paint)),
            Event::Line { source, text } if self.debug => {
                self.print(&self.paint.paint(Style::Faint, &text::harmless(&format!("{source}: {text}"))));
            }
            Event::Line { text, .. } => {
                // The latest line of the latest work that is not counted in bytes.
                let bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bar) = bars.values().find(|it| it.length().is_none()) {
                    bar.set_message(text::harmless(text.trim()));
                }
            }
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}

/// A JSON object for each event.
pub(super) struct Json {
    pub(super) quiet: bool,
}

impl Reporter for Json {
    fn report(&self, event: Event) {
        let object = match event {
            Event::Warning(text) => json!({"event": "warning", "text": text}),
            _ if self.quiet => return,
            Event::Started { id, title } => json!({"event": "started", "id": id, "title": title}),
            Event::Progress { id, done, total } => json!({"event": "progress", "id": id, "done": done, "total": total}),
            Event::Finished { id, outcome } => json!({"event": "finished", "id": id, "outcome": outcome}),
            Event::Note(text) => json!({"event": "note", "text": text}),
            Event::Line { source, text } => json!({"event": "line", "source": source, "text": text}),
        };
        line(&object.to_string());
    }
}
