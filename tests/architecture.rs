//! The house holds: imports go down, libraries keep to their rooms, the environment is documented.
//!
//! Reads the sources as text. What stands behind `#[cfg(test)]` at the beginning of a line, and in files that only tests
//! have, may do as it likes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Libraries and the modules that may name them.
const ROOMS: &[(&str, &[&str])] = &[
    ("axum", &["server", "registry"]),
    ("bollard", &["engine"]),
    ("clap", &["cli", "settings"]),
    ("clap_complete", &["cli", "commands"]),
    ("flate2", &["oci"]),
    ("gix", &["git"]),
    ("hyper", &["guest", "http"]),
    ("indicatif", &["ui"]),
    ("libdeflater", &["oci"]),
    ("nvml_wrapper", &["gpu"]),
    ("rusqlite", &["server"]),
    ("tar", &["oci"]),
    ("toml", &["lock", "base", "system", "python"]),
];

/// What the embedded server and the in-image program may stand on: nothing of the road from task to image.
const LEAVES: &[&str] = &[
    "error", "digest", "secret", "fs", "process", "report", "launch", "http", "config", "clearml", "spool", "machine",
];

/// Dependencies that must not come in by the front door.
const UNWANTED: &[&str] = &["anyhow", "openssl", "native-tls", "aws-lc-rs", "lazy_static", "once_cell"];

/// Variables every program reads, which need no explanation.
const PLAIN_VARIABLES: &[&str] = &["HOME", "PATH", "TERM", "CI", "USER", "TMPDIR"];

struct Source {
    path: PathBuf,
    module: String,
    /// Without comments and tests.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(&root).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        let code = code(&fs_err::read_to_string(&path).unwrap());
        Source { path: path.clone(), module, code }
    };
    files.into_iter().map(read).filter(|it| !["lib", "main", "guest_main"].contains(&it.module.as_str())).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if ["tests", "testing"].contains(&name) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// The text without comments and without what follows a `#[cfg(test)]` that stands at the beginning of a line and is
/// not about one declaration.
fn code(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            if lines.peek().is_some_and(|it| it.ends_with(';')) {
                lines.next();
                continue;
            }
            break;
        }
        let comment = line.trim_start().starts_with("//");
        if !comment {
            kept.push_str(line.split(" // ").next().unwrap_or(line));
            kept.push('\n');
        }
    }
    kept
}

/// Modules in the order of lib.rs.
fn order() -> Vec<String> {
    let text = fs_err::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules = text.lines().filter_map(|it| it.strip_prefix("pub mod ")?.strip_suffix(';'));
    modules.map(str::to_owned).collect()
}

/// Modules of this crate that a text names.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in Regex::new(r"\bcrate::(\w+)").unwrap().captures_iter(code) {
        found.insert(path[1].to_owned());
    }
    for group in Regex::new(r"\bcrate::\{([^;]*)\};").unwrap().captures_iter(code) {
        let mut depth = 0;
        let mut outer = String::new();
        for c in group[1].chars() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 {
                outer.push(c);
            }
        }
        let name = |it: &str| it.trim().split("::").next().unwrap_or_default().trim_matches('}').to_owned();
        found.extend(outer.split(',').map(name).filter(|it| !it.is_empty()));
    }
    found
}

#[test]
fn imports_go_down() {
    let order = order();
    let place = |module: &str| order.iter().position(|it| it == module);
    let mut wrong = Vec::new();
    for source in sources() {
        let here = place(&source.module).unwrap_or_else(|| panic!("{} is not in lib.rs", source.module));
        for import in imports(&source.code) {
            if place(&import).is_some_and(|there| there > here) {
                wrong.push(format!(
                    "{}: {} imports {import}, which stands above it",
                    source.path.display(),
                    source.module
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn server_and_guest_stand_on_leaves() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|it| it.module == "server" || it.module == "guest") {
        for import in imports(&source.code) {
            if import != source.module && !LEAVES.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn libraries_keep_to_their_rooms() {
    let mut wrong = Vec::new();
    let sources = sources();
    for (library, rooms) in ROOMS {
        // `tar::…`, not `oci::tar::…`, and not a module of ours taken by `use crate::oci::tar`.
        let used = Regex::new(&format!(r"(?m)^use {library}(::|;)")).unwrap();
        let named = Regex::new(&format!(r"(^|[^:\w]){library}::")).unwrap();
        let ours = Regex::new(&format!(r"crate::[^;]*\b{library}\b[^;]*;")).unwrap();
        for source in sources.iter().filter(|it| !rooms.contains(&it.module.as_str())) {
            let code = &source.code;
            if code.contains(library) && (used.is_match(code) || named.is_match(code) && !ours.is_match(code)) {
                wrong.push(format!("{} names {library}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dependencies_are_the_wanted_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = fs_err::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    for (name, dependency) in dependencies {
        assert!(!UNWANTED.contains(&name.as_str()), "{name} is not wanted");
        let registry = dependency.is_str() || ["git", "path"].iter().all(|it| dependency.get(it).is_none());
        assert!(registry, "{name} must come from the registry");
        let version = dependency.as_str().or_else(|| dependency.get("version")?.as_str()).unwrap();
        assert!(!version.contains('*'), "{name} needs a version");
    }
    let locked = fs_err::read_to_string(root.join("Cargo.lock")).unwrap();
    for name in ["openssl-sys", "native-tls", "aws-lc-sys"] {
        assert!(!locked.contains(&format!("name = \"{name}\"")), "{name} came in");
    }
    // Bytes of layers depend on it: its version is pinned exactly.
    let pinned = &dependencies["libdeflater"];
    assert!(pinned["version"].as_str().unwrap().starts_with('='), "libdeflater must be pinned");
    let deny: toml::Table = fs_err::read_to_string(root.join("deny.toml")).unwrap().parse().unwrap();
    assert_eq!(deny["sources"]["unknown-git"].as_str(), Some("deny"));
}

#[test]
fn variables_that_are_read_are_documented() {
    let known: BTreeSet<&str> = agent::config::environment::VARIABLES.iter().map(|it| it.name).collect();
    let read = Regex::new(r#"(?:env::var(?:_os)?|environment\.(?:get|raw))\("([A-Za-z0-9_]+)"\)"#).unwrap();
    let mut missing = Vec::new();
    for source in sources().iter().filter(|it| it.module != "guest") {
        for name in read.captures_iter(&source.code).map(|it| it[1].to_owned()) {
            if !known.contains(name.as_str()) && !PLAIN_VARIABLES.contains(&name.as_str()) {
                missing.push(format!("{} reads {name}", source.path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "add them to src/config/environment.rs:\n{}", missing.join("\n"));
}

#[test]
fn the_page_about_variables_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/environment.md");
    let page = agent::config::environment::reference_page();
    if std::env::var_os("AGENT_UPDATE_DOCS").is_some() {
        fs_err::write(&path, &page).unwrap();
    }
    let written = fs_err::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "run: AGENT_UPDATE_DOCS=1 cargo test --test architecture");
}

#[test]
fn the_table_of_container_arguments_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/container-arguments.md");
    let page = fs_err::read_to_string(&path).unwrap();
    let before = page.split_once("| switch |").map_or(page.as_str(), |it| it.0);
    let current = format!("{before}{}", agent::switches::known::reference_table());
    if std::env::var_os("AGENT_UPDATE_DOCS").is_some() {
        fs_err::write(&path, &current).unwrap();
    }
    assert!(page == current, "run: AGENT_UPDATE_DOCS=1 cargo test --test architecture");
}

#[test]
fn files_are_of_a_readable_size() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|it| it.code.lines().count() > 800)
        .map(|it| format!("{}: {} lines", it.path.display(), it.code.lines().count()))
        .collect();
    assert!(long.is_empty(), "split by noun: {}", long.join(", "));
}
