//! `entry_points.txt` and the programs made from it (entry points specification).

/// A program of a distribution: `name = module:attribute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPoint {
    /// The program's file name.
    pub name: String,
    /// Module to import.
    pub module: String,
    /// Attribute to call, dotted.
    pub attribute: String,
}

/// The console and gui programs of an `entry_points.txt`, by name order.
///
/// # Errors
/// Says which line is wrong: what stands in it becomes Python code, so nothing but names is taken.
pub fn programs(text: &str) -> Result<Vec<EntryPoint>, String> {
    let mut programs: Vec<EntryPoint> = Vec::new();
    let mut wanted = false;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            wanted = matches!(section.trim(), "console_scripts" | "gui_scripts");
            continue;
        }
        if wanted {
            let program = parse(line).ok_or_else(|| format!("`{line}` names no program"))?;
            if let Some(known) = programs.iter().find(|it| it.name == program.name)
                && *known != program
            {
                return Err(format!("`{}` is two programs", program.name));
            }
            programs.push(program);
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs.dedup();
    Ok(programs)
}

/// The text of a program.
#[must_use]
pub fn script(program: &EntryPoint, interpreter: &str) -> String {
    let EntryPoint { module, attribute, .. } = program;
    let first = attribute.split('.').next().unwrap_or(attribute);
    format!(
        "#!{interpreter}\nimport sys\n\nfrom {module} import {first}\n\nif __name__ == \"__main__\":\n    sys.exit({attribute}())\n"
    )
}

fn parse(line: &str) -> Option<EntryPoint> {
    let (name, object) = line.split_once('=')?;
    let name = name.trim();
    // Extras behind the object are obsolete and mean nothing at run time.
    let object = object.split('[').next()?.trim();
    let (module, attribute) = object.split_once(':')?;
    let (module, attribute) = (module.trim(), attribute.trim());
    let is_dotted = |it: &str| it.split('.').all(is_identifier);
    let is_file = !name.is_empty()
        && name.len() <= 255
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == '\\' || c.is_control());
    (is_file && is_dotted(module) && is_dotted(attribute)).then(|| EntryPoint {
        name: name.to_owned(),
        module: module.to_owned(),
        attribute: attribute.to_owned(),
    })
}

fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_alphabetic()) && chars.all(|c| c == '_' || c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_both_sections_and_nowhere_else() {
        let text = "# c\n[console_scripts]\nb = pkg.mod:Main.run [extra]\n[other]\nx = y\n[gui_scripts]\na=pkg:main\n";
        let found = programs(text).unwrap();
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            script(&found[1], "/venv/bin/python"),
            "#!/venv/bin/python\nimport sys\n\nfrom pkg.mod import Main\n\nif __name__ == \"__main__\":\n    sys.exit(Main.run())\n"
        );
    }

    #[test]
    fn nothing_but_names_becomes_code() {
        for bad in ["a = m:f(); import os", "../a = m:f", "a = m", "a = m:", "a = m;x:f", "= m:f", "a = m:f g"] {
            assert!(programs(&format!("[console_scripts]\n{bad}\n")).is_err(), "{bad}");
        }
    }
}
