//! apt's sources (sources.list(5)): read from a base or from the host, told by suite and component, never by address.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// One repository with one suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Address of the archive's root, with a slash at its end. A machine's own: it never enters a lock.
    pub uri: String,
    /// Suite: `bookworm-security`.
    pub suite: String,
    /// Components: `main`.
    pub components: Vec<String>,
    /// Key files, or one key in the file itself.
    pub signed_by: Option<String>,
    /// Further options: `arch`, `trusted`.
    pub options: BTreeMap<String, String>,
}

/// A system as os-release(5) names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Release {
    /// `debian`, `ubuntu`.
    pub id: String,
    /// `bookworm`.
    pub codename: String,
}

impl Release {
    /// Reads an os-release file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let value = text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
        };
        Self { id: field("ID"), codename: field("VERSION_CODENAME") }
    }

    /// The host's.
    #[must_use]
    pub fn host() -> Self {
        let read = |path| fs::read_to_string(path).ok();
        let text = read("/etc/os-release").or_else(|| read("/usr/lib/os-release"));
        Self::parse(&text.unwrap_or_default())
    }

    /// Whether a source is one of this distribution's own for this release.
    #[must_use]
    pub fn owns(&self, source: &Source, components: &[String]) -> bool {
        let code = &self.codename;
        let suites = [code.clone(), format!("{code}-updates"), format!("{code}-security"), format!("{code}/updates")];
        suites.contains(&source.suite) && source.components.iter().any(|it| components.contains(it))
    }
}

/// Parses a file of sources, of either format.
#[must_use]
pub fn parse(name: &str, text: &str) -> Vec<Source> {
    if Path::new(name).extension().is_some_and(|it| it == "sources") { stanzas(text) } else { lines(text) }
}

/// The host's sources.
#[must_use]
pub fn of_host() -> Vec<Source> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|it| it.path());
    let mut parts: Vec<PathBuf> = parts.collect();
    parts.sort();
    files.extend(parts.into_iter().filter(|it| it.extension().is_some_and(|it| it == "list" || it == "sources")));
    let read = |path: &PathBuf| parse(&path.to_string_lossy(), &fs::read_to_string(path).unwrap_or_default());
    files.iter().flat_map(read).collect()
}

/// Sources as a file that apt reads (`*.sources`).
#[must_use]
pub fn write(sources: &[Source]) -> String {
    let mut text = String::new();
    for source in sources {
        text.push_str(&format!("Types: deb\nURIs: {}\nSuites: {}\n", source.uri, source.suite));
        if !source.components.is_empty() {
            text.push_str(&format!("Components: {}\n", source.components.join(" ")));
        }
        if let Some(keys) = &source.signed_by {
            text.push_str(&format!("Signed-By: {keys}\n"));
        }
        for (name, value) in &source.options {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push('\n');
    }
    text
}

/// deb822: fields in stanzas, a field going on in lines that begin with a blank.
fn stanzas(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            found.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

fn stanza(fields: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| fields.iter().find(|it| it.0 == name).map(|it| it.1.as_str());
    let words =
        |name: &str| -> Vec<String> { field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect() };
    if !words("types").iter().any(|it| it == "deb") || field("enabled").is_some_and(|it| it.eq_ignore_ascii_case("no"))
    {
        return Vec::new();
    }
    let mut options = BTreeMap::new();
    for (name, known) in
        [("architectures", "Architectures"), ("trusted", "Trusted"), ("check-valid-until", "Check-Valid-Until")]
    {
        if let Some(value) = field(name) {
            options.insert(known.to_owned(), value.to_owned());
        }
    }
    let signed_by = field("signed-by").map(str::to_owned);
    let mut found = Vec::new();
    for uri in words("uris") {
        for suite in words("suites") {
            found.push(Source {
                uri: slashed(&uri),
                suite,
                components: words("components"),
                signed_by: signed_by.clone(),
                options: options.clone(),
            });
        }
    }
    found
}

/// One-line style: `deb [option=value …] uri suite component…`.
fn lines(text: &str) -> Vec<Source> {
    let source = |line: &str| {
        let line = line.split('#').next()?.trim();
        let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let (mut options, mut signed_by) = (BTreeMap::new(), None);
        if let Some(bracketed) = rest.strip_prefix('[') {
            let (inside, after) = bracketed.split_once(']')?;
            rest = after;
            for (name, value) in inside.split_whitespace().filter_map(|it| it.split_once('=')) {
                match name {
                    "signed-by" => signed_by = Some(listed(value)),
                    "arch" => drop(options.insert("Architectures".to_owned(), listed(value))),
                    "trusted" => drop(options.insert("Trusted".to_owned(), value.to_owned())),
                    "check-valid-until" => drop(options.insert("Check-Valid-Until".to_owned(), value.to_owned())),
                    _ => {}
                }
            }
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (uri, suite) = (slashed(&words.next()?), words.next()?);
        Some(Source { uri, suite, components: words.collect(), signed_by, options })
    };
    text.lines().filter_map(source).collect()
}

/// A list with commas as one with blanks.
fn listed(value: &str) -> String {
    value.split(',').filter(|it| !it.is_empty()).collect::<Vec<_>>().join(" ")
}

fn slashed(uri: &str) -> String {
    if uri.ends_with('/') { uri.to_owned() } else { format!("{uri}/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let line = "# deb http://no/x y main\ndeb [arch=amd64 signed-by=/k.gpg] http://host/debian bookworm main contrib # c\n\
                    deb-src http://host/debian bookworm main\n";
        let stanza = "# comment\nTypes: deb deb-src\nURIs: http://host/debian/\nSuites: bookworm\n\
                      Components: main\n contrib\nSigned-By: /k.gpg\nArchitectures: amd64\n\n\
                      Types: deb\nEnabled: no\nURIs: http://x\nSuites: y\n";
        let sources = parse("/etc/apt/sources.list", line);
        assert_eq!(sources, parse("debian.sources", stanza));
        assert_eq!(sources[0].uri, "http://host/debian/");
        assert_eq!(parse("x.sources", &write(&sources)), sources);
    }

    #[test]
    fn only_the_distributions_own_sources_are_its_own() {
        let release = Release::parse("NAME=x\nID=debian\nVERSION_CODENAME=\"bookworm\"\n");
        let main = vec!["main".to_owned()];
        let owns = |text: &str| release.owns(&parse("x.list", text)[0], &main);
        assert!(owns("deb http://h/debian bookworm main"));
        assert!(owns("deb http://h/debian-security bookworm-security main contrib"));
        for other in [
            "deb http://h/docker bookworm stable",
            "deb http://h/pg bookworm-pgdg main",
            "deb http://h/n nodistro main",
        ] {
            assert!(!owns(other), "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_is_read_again(text in crate::testing::mangled_text(&[
            "deb [arch=amd64 signed-by=/k.gpg] http://host/debian bookworm main contrib # c\ndeb-src http://h/ a b\n",
            "Types: deb deb-src\nURIs: http://host/debian/\nSuites: bookworm\nComponents: main\n contrib\nSigned-By: /k.gpg\n\nTypes: deb\nEnabled: no\n",
        ], "[]=: \n#/debURI")) {
            for name in ["x.list", "x.sources"] {
                let sources = parse(name, &text);
                assert_eq!(parse("y.sources", &write(&sources)), sources, "{name}: {text:?}");
            }
        }
    }
}
