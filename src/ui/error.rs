//! How an error is shown.

use serde_json::json;

use super::style::{Paint, Style};
use crate::error::{Failure, Kind};

/// For people: the message, its causes, what to do.
pub(super) fn text(failure: &Failure, paint: Paint) -> String {
    let chain = failure.chain();
    let (first, causes) = chain.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let mut text = format!("{} {}", paint.paint(Style::Bad, "error:"), indent(first, "  "));
    for cause in causes {
        text.push_str(&format!("\n  {} {}", paint.paint(Style::Faint, "caused by:"), indent(cause, "    ")));
    }
    for hint in failure.hints() {
        text.push_str(&format!("\n{} {}", paint.paint(Style::Hint, "hint:"), indent(&hint, "  ")));
    }
    text
}

/// For programs: one object on one line.
pub(super) fn json(failure: &Failure) -> String {
    let chain = failure.chain();
    let object = json!({"error": {
        "message": chain.first(),
        "causes": chain.get(1..).unwrap_or_default(),
        "hints": failure.hints(),
        "kind": kind(failure.kind()),
        "exit_code": failure.kind().exit_code(),
    }});
    object.to_string()
}

fn indent(text: &str, by: &str) -> String {
    super::text::harmless(text.trim_end()).replace('\n', &format!("\n{by}"))
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Usage => "usage",
        Kind::Input => "input",
        Kind::NotFound => "not_found",
        Kind::Unreachable => "unreachable",
        Kind::System => "system",
        Kind::Space => "space",
        Kind::Conflict => "conflict",
        Kind::Denied => "denied",
        Kind::Config => "config",
        Kind::Unsatisfiable => "unsatisfiable",
        Kind::Sandbox => "sandbox",
        Kind::Interrupted => "interrupted",
        Kind::Internal => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::settings::UsageError;

    #[test]
    fn message_causes_and_hint() {
        let failure =
            Failure::from(UsageError::new("`x` means\nnothing", "Write y.")).during("cannot build layer `code`");
        let plain = Paint::of(&Environment::default(), false);
        let shown = "error: cannot build layer `code`\n  caused by: `x` means\n    nothing\nhint: Write y.";
        assert_eq!(text(&failure, plain), shown);
        let value: serde_json::Value = serde_json::from_str(&json(&failure)).unwrap();
        assert_eq!(value["error"]["kind"], "usage");
        assert_eq!(value["error"]["causes"][0], "`x` means\nnothing");
    }
}
