//! Jupyter notebooks as scripts, the way `jupyter nbconvert --to python` writes them.
//!
//! The original converts at run time with packages it adds to the task's environment; a conversion that needs nothing
//! can be made while locking, and the image then has the script. Lines that only IPython reads become the same calls of
//! `get_ipython()` as there.

use serde_json::Value;

/// The script of a notebook (format 4, or the older one with worksheets).
///
/// # Errors
/// Says why it is no notebook of Python code.
pub(super) fn to_script(text: &str) -> Result<String, String> {
    let notebook: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let language = notebook["metadata"]["kernelspec"]["language"]
        .as_str()
        .or_else(|| notebook["metadata"]["language_info"]["name"].as_str())
        .unwrap_or("python");
    if !language.to_ascii_lowercase().contains("python") {
        return Err(format!("its language is `{language}`"));
    }
    let sheets = notebook["worksheets"].as_array();
    let cells = notebook["cells"].as_array().or_else(|| sheets?.first()?["cells"].as_array());
    let cells = cells.ok_or("it has no cells")?;
    let mut script = "#!/usr/bin/env python\n# coding: utf-8\n".to_owned();
    for cell in cells {
        let source = source_of(cell);
        match cell["cell_type"].as_str() {
            Some("code") => {
                let count = cell["execution_count"].as_u64().or_else(|| cell["prompt_number"].as_u64());
                let count = count.map_or_else(|| " ".to_owned(), |it| it.to_string());
                script.push_str(&format!("\n# In[{count}]:\n\n\n{}\n\n", plain_python(&source)));
            }
            Some("markdown" | "heading") => {
                let commented: Vec<String> = source.split('\n').map(|line| format!("# {line}")).collect();
                script.push_str(&format!("\n{}\n", commented.join("\n")));
            }
            _ => {}
        }
    }
    Ok(script)
}

/// A cell's text, stored whole or by lines.
fn source_of(cell: &Value) -> String {
    let source = if cell["source"].is_null() { &cell["input"] } else { &cell["source"] };
    match source {
        Value::String(text) => text.clone(),
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        _ => String::new(),
    }
}

/// A cell's text with what only IPython reads made into calls.
fn plain_python(source: &str) -> String {
    if let Some(rest) = source.trim_start().strip_prefix("%%") {
        let (head, body) = rest.split_once('\n').unwrap_or((rest, ""));
        let (name, arguments) = head.trim().split_once(char::is_whitespace).unwrap_or((head.trim(), ""));
        // A cell's magic gets its body with the newline that its last line lacks.
        let body = if body.is_empty() { String::new() } else { format!("{}\n", body.trim_end_matches('\n')) };
        return format!(
            "get_ipython().run_cell_magic({}, {}, {})\n",
            quoted(name),
            quoted(arguments.trim()),
            quoted(&body)
        );
    }
    let mut scanner = Scanner::default();
    let lines = source.split('\n').map(|line| {
        let fresh = scanner.is_between_statements();
        scanner.read(line);
        match fresh.then(|| call(line)).flatten() {
            Some(call) => {
                // What was a magic line says nothing about brackets and quotes.
                scanner = Scanner::default();
                call
            }
            None => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The call that a line of IPython's own stands for.
fn call(line: &str) -> Option<String> {
    let code = line.trim_start();
    let indent = &line[..line.len() - code.len()];
    let code = code.trim_end();
    if let Some(value) = value(code) {
        return Some(format!("{indent}{value}"));
    }
    if let Some(name) = code.strip_suffix('?').or_else(|| code.strip_prefix('?')) {
        let (name, magic) = match name.strip_suffix('?').or_else(|| name.strip_prefix('?')) {
            Some(name) => (name, "pinfo2"),
            None => (name, "pinfo"),
        };
        let fine = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._*%".contains(c));
        return fine.then(|| format!("{indent}get_ipython().run_line_magic({}, {})", quoted(magic), quoted(name)));
    }
    let (target, expression) = code.split_once('=')?;
    let target = target.trim_end();
    let names = target.chars().all(|c| c.is_alphanumeric() || "_.[], '\"".contains(c));
    if target.is_empty() || !names {
        return None;
    }
    let expression = expression.trim_start();
    let value = match expression.strip_prefix('!') {
        Some(command) if !command.starts_with('=') => format!("get_ipython().getoutput({})", quoted(command)),
        _ => value(expression).filter(|_| expression.starts_with('%'))?,
    };
    Some(format!("{indent}{target} = {value}"))
}

/// `%magic arguments`, `!command`, `!!command`.
fn value(code: &str) -> Option<String> {
    if let Some(command) = code.strip_prefix("!!") {
        return Some(format!("get_ipython().getoutput({})", quoted(command)));
    }
    if let Some(command) = code.strip_prefix('!') {
        return Some(format!("get_ipython().system({})", quoted(command)));
    }
    let rest = code.strip_prefix('%')?;
    let rest = rest.strip_prefix('%').unwrap_or(rest);
    if !rest.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return None;
    }
    let (name, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Some(format!("get_ipython().run_line_magic({}, {})", quoted(name), quoted(arguments.trim())))
}

/// A Python string, written as `repr` does.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut result = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => result.push_str("\\\\"),
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            '\t' => result.push_str("\\t"),
            c if c == quote => result.extend(['\\', c]),
            c => result.push(c),
        }
    }
    result.push(quote);
    result
}

/// Follows brackets and strings, to know where a line begins a statement.
#[derive(Default)]
struct Scanner {
    depth: usize,
    /// The quotes of an open string of several lines.
    triple: Option<&'static str>,
    continued: bool,
}

impl Scanner {
    fn is_between_statements(&self) -> bool {
        self.depth == 0 && self.triple.is_none() && !self.continued
    }

    fn read(&mut self, line: &str) {
        let mut rest = line;
        self.continued = false;
        while !rest.is_empty() {
            if let Some(quotes) = self.triple {
                let Some(end) = closing(rest, quotes) else { return };
                rest = &rest[end..];
                self.triple = None;
                continue;
            }
            let opening = ["\"\"\"", "'''"].into_iter().find(|it| rest.starts_with(it));
            if let Some(quotes) = opening {
                self.triple = Some(quotes);
                rest = &rest[3..];
                continue;
            }
            let mut chars = rest.chars();
            match chars.next() {
                Some('#') => return,
                Some(quote @ ('"' | '\'')) => {
                    let quote = if quote == '"' { "\"" } else { "'" };
                    rest = closing(&rest[1..], quote).map_or("", |end| &rest[1 + end..]);
                    continue;
                }
                Some('(' | '[' | '{') => self.depth += 1,
                Some(')' | ']' | '}') => self.depth = self.depth.saturating_sub(1),
                Some('\\') if chars.as_str().is_empty() => self.continued = true,
                _ => {}
            }
            rest = chars.as_str();
        }
    }
}

/// Where a string ends, its quotes included; a backslash takes the next character with it.
fn closing(text: &str, quotes: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if text[at..].starts_with(quotes) {
            return Some(at + quotes.len());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_become_a_script() {
        let notebook = serde_json::json!({
            "nbformat": 4,
            "metadata": {"kernelspec": {"language": "python"}},
            "cells": [
                {"cell_type": "markdown", "source": ["# Title\n", "text"]},
                {"cell_type": "code", "execution_count": 3, "source": ["import os\n", "%matplotlib inline"]},
                {"cell_type": "raw", "source": "nothing"},
                {"cell_type": "code", "execution_count": null, "source": "%%bash -x\necho 'a'\n"},
            ],
        });
        assert_eq!(
            to_script(&notebook.to_string()).unwrap(),
            "#!/usr/bin/env python\n# coding: utf-8\n\n# # Title\n# text\n\n# In[3]:\n\n\nimport os\n\
             get_ipython().run_line_magic('matplotlib', 'inline')\n\n\n# In[ ]:\n\n\n\
             get_ipython().run_cell_magic('bash', '-x', \"echo 'a'\\n\")\n\n\n"
        );
    }

    #[test]
    fn only_statements_are_read_as_ipython_does() {
        let same = |text: &str| assert_eq!(plain_python(text), text);
        same("x = (7\n % 3)");
        same("s = '''\n%time\n!ls\n'''");
        same("x = 1 + \\\n!y");
        same("a != b");
        same("x == '%d' % 3");
        same("print('%s' % x)");
        assert_eq!(
            plain_python("if x:\n    !pip install \"y\""),
            "if x:\n    get_ipython().system('pip install \"y\"')"
        );
        assert_eq!(plain_python("files = !ls"), "files = get_ipython().getoutput('ls')");
        assert_eq!(plain_python("t = %timeit -o f()"), "t = get_ipython().run_line_magic('timeit', '-o f()')");
        assert_eq!(plain_python("os.path?"), "get_ipython().run_line_magic('pinfo', 'os.path')");
        assert_eq!(
            plain_python("!echo (\nx = 1\n%pwd"),
            "get_ipython().system('echo (')\nx = 1\nget_ipython().run_line_magic('pwd', '')"
        );
    }

    #[test]
    fn what_is_no_python_notebook_is_refused() {
        assert!(to_script("print()").is_err());
        assert!(to_script("{}").is_err());
        assert!(to_script(r#"{"cells": [], "metadata": {"kernelspec": {"language": "R"}}}"#).is_err());
    }
}
