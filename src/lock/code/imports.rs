//! The SDK's two lines at the top of a script, and `__future__` imports, which must come before them.

/// What the SDK and the original agent put in.
const TASK_INIT: [&str; 2] = ["from clearml import Task\n", "(__name__ != \"__main__\") or Task.init()\n"];

/// The script with injected `Task.init` lines moved below its `__future__` imports; `None` where nothing has to move.
pub(super) fn below_future(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    if !is_injected(&lines, 0) {
        return None;
    }
    let end = end_of_future(&lines[2..])?;
    let (injected, rest) = lines.split_at(2);
    Some([&rest[..end], injected, &rest[end..]].concat().concat())
}

/// The script with `Task.init` put in, below its `__future__` imports; `None` where it is there already.
pub(super) fn with_task_init(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let at = end_of_future(&lines).unwrap_or_default();
    if is_injected(&lines, at) {
        return None;
    }
    Some([&lines[..at], &TASK_INIT, &lines[at..]].concat().concat())
}

fn is_injected(lines: &[&str], at: usize) -> bool {
    let line = |at: usize| lines.get(at).copied().unwrap_or_default();
    line(at).trim().starts_with("from clearml ") && line(at + 1).contains("Task.init")
}

/// The number of lines up to the end of the last `__future__` import; `None` without one. Comments, blank lines and the
/// module's docstring may stand before it, nothing else.
fn end_of_future(lines: &[&str]) -> Option<usize> {
    let mut found = None;
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let code = line.split('#').next().unwrap_or_default().trim();
        if code.is_empty() {
            at += 1;
        } else if let Some(quote) = ["\"\"\"", "'''"].into_iter().find(|it| docstring(code).starts_with(it)) {
            at += docstring_lines(&lines[at..], quote)?;
        } else if is_short_string(code) {
            at += 1;
        } else if is_future(code) {
            at += import_lines(&lines[at..]);
            found = Some(at);
        } else {
            break;
        }
    }
    found
}

fn docstring(code: &str) -> &str {
    code.trim_start_matches(['r', 'R', 'u', 'U', 'b', 'B'])
}

fn is_short_string(code: &str) -> bool {
    let code = docstring(code);
    ['"', '\''].iter().any(|it| code.len() > 1 && code.starts_with(*it) && code.ends_with(*it))
}

/// The lines of a string in triple quotes that begins on the first of them; `None` if it does not end.
fn docstring_lines(lines: &[&str], quote: &str) -> Option<usize> {
    let first = lines.first()?.split_once(quote)?.1;
    if first.contains(quote) {
        return Some(1);
    }
    lines.iter().skip(1).position(|line| line.contains(quote)).map(|at| at + 2)
}

fn is_future(code: &str) -> bool {
    let rest = code.strip_prefix("from").or_else(|| code.strip_prefix("import"));
    rest.is_some_and(|it| it.starts_with(char::is_whitespace) && it.trim_start().starts_with("__future__"))
}

/// The lines of an import that begins on the first of them.
fn import_lines(lines: &[&str]) -> usize {
    let code = |at: usize| lines.get(at).and_then(|it| it.split('#').next()).unwrap_or_default().trim_end();
    let mut count = 1;
    if code(0).contains('(') && !code(0).contains(')') {
        while count < lines.len() && !code(count).contains(')') {
            count += 1;
        }
        count += 1;
    } else {
        while count < lines.len() && code(count - 1).ends_with('\\') {
            count += 1;
        }
    }
    count.min(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INJECTED: &str = "from clearml import Task\n(__name__ != \"__main__\") or Task.init()\n";

    #[test]
    fn injected_lines_move_below_future_imports() {
        let head = "#!/usr/bin/env python\n\"\"\"Doc.\n\nfrom __future__ import nothing\n\"\"\"\n# c\nfrom __future__ import (\n    a,\n    b)\n";
        let tail = "from __future__ import c\nimport os\nfrom __future__ import d\n";
        let text = format!("{INJECTED}{head}{tail}");
        let expected = format!("{head}from __future__ import c\n{INJECTED}import os\nfrom __future__ import d\n");
        assert_eq!(below_future(&text).unwrap(), expected);
    }

    #[test]
    fn scripts_without_either_stay() {
        assert_eq!(below_future(&format!("{INJECTED}import os\n")), None);
        assert_eq!(below_future("from __future__ import x\nimport os\n"), None);
        assert_eq!(below_future(""), None);
        assert_eq!(below_future(&format!("{INJECTED}\"\"\"never ends\n")), None);
    }

    #[test]
    fn task_init_is_put_in_once() {
        let once = with_task_init("from __future__ import x \\\n    , y\nimport os\n").unwrap();
        assert_eq!(once, format!("from __future__ import x \\\n    , y\n{INJECTED}import os\n"));
        assert_eq!(with_task_init(&once), None);
        assert_eq!(with_task_init("import os\n").unwrap(), format!("{INJECTED}import os\n"));
    }
}
