//! What is configured for pip: its files and `PIP_*` variables, the later over the earlier, as pip reads them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fs_err as fs;

use crate::secret::Secret;

/// Indexes as configured for pip.
#[derive(Debug, Clone, Default)]
pub(super) struct Pip {
    index: Option<Secret>,
    extra: Vec<Secret>,
    find_links: Vec<Secret>,
    no_index: bool,
    trusted: Vec<String>,
}

impl Pip {
    /// Reads pip's files and variables.
    pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut values = BTreeMap::new();
        for file in files(variable) {
            if let Ok(text) = fs::read_to_string(&file) {
                parse(&text, &mut values);
            }
        }
        for key in ["index-url", "extra-index-url", "find-links", "no-index", "trusted-host"] {
            let name = format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"));
            if let Some(value) = variable(&name) {
                values.insert(key.to_owned(), value);
            }
        }
        let list = |key: &str| -> Vec<String> {
            values.get(key).map(|it| it.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
        };
        let secrets = |key: &str| list(key).into_iter().map(Secret::new).collect();
        let is_true = |it: &String| matches!(it.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
        Self {
            index: list("index-url").pop().map(Secret::new),
            extra: secrets("extra-index-url"),
            find_links: secrets("find-links"),
            no_index: values.get("no-index").is_some_and(is_true),
            trusted: list("trusted-host"),
        }
    }

    /// Every address in it.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Secret> {
        self.index.iter().chain(&self.extra).chain(&self.find_links)
    }

    /// The same for uv.
    pub(super) fn environment(&self) -> Vec<(String, Secret)> {
        let join = |it: &[Secret], by: &str| it.iter().map(Secret::reveal).collect::<Vec<_>>().join(by);
        let mut environment = Vec::new();
        let mut put = |name: &str, value: String| {
            if !value.is_empty() {
                environment.push((name.to_owned(), Secret::new(value)));
            }
        };
        put("UV_DEFAULT_INDEX", self.index.as_ref().map(|it| it.reveal().to_owned()).unwrap_or_default());
        put("UV_INDEX", join(&self.extra, " "));
        put("UV_FIND_LINKS", join(&self.find_links, ","));
        put("UV_NO_INDEX", if self.no_index { "1".to_owned() } else { String::new() });
        put("UV_INSECURE_HOST", self.trusted.join(" "));
        environment
    }
}

/// pip's files, the weakest first.
fn files(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let named = variable("PIP_CONFIG_FILE");
    if named.as_deref() == Some("/dev/null") {
        return Vec::new();
    }
    let mut files: Vec<PathBuf> = vec!["/etc/xdg/pip/pip.conf".into(), "/etc/pip.conf".into()];
    if let Some(home) = variable("HOME").map(PathBuf::from) {
        files.push(home.join(".pip/pip.conf"));
        let config = variable("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
        files.push(config.join("pip/pip.conf"));
    }
    files.extend(variable("VIRTUAL_ENV").map(|it| PathBuf::from(it).join("pip.conf")));
    files.extend(named.map(PathBuf::from));
    files
}

/// Adds a file's values (INI as Python's `configparser` reads it): `[global]`, then `[install]` and `[download]`.
fn parse(text: &str, values: &mut BTreeMap<String, String>) {
    let mut sections: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = "";
    let mut key: Option<String> = None;
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        let values = sections.entry(section).or_default();
        if line.starts_with([' ', '\t'])
            && let Some(value) = key.as_ref().and_then(|it| values.get_mut(it))
        {
            value.push('\n');
            value.push_str(bare);
        } else if let Some(name) = bare.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            section = name;
            key = None;
        } else if let Some((name, value)) = bare.split_once(['=', ':']) {
            let name = name.trim().to_ascii_lowercase().replace('_', "-");
            values.insert(name.clone(), value.trim().to_owned());
            key = Some(name);
        }
    }
    for section in ["global", "install", "download"] {
        values.extend(sections.remove(section).unwrap_or_default());
    }
}
