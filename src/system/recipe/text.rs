//! A recipe as it stands in its file.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::system::SystemError;

/// The file's fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    #[expect(dead_code, reason = "for readers of the file")]
    description: String,
    /// Packages on any distribution.
    pub(super) packages: Vec<String>,
    /// Patterns of paths that stay out of the base.
    #[serde(default)]
    pub(super) exclude: Vec<String>,
    /// Patterns of paths that come in all the same.
    #[serde(default)]
    pub(super) include: Vec<String>,
    /// What the image does without a command.
    #[serde(default)]
    pub(super) command: Vec<String>,
    /// The image's variables.
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
    /// The image's labels.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// The only architecture it is for (`amd64`), if there is only one.
    #[serde(default)]
    pub(super) architecture: Option<String>,
    /// Shared libraries that come from wheels.
    #[serde(default)]
    pub(super) wheels: Vec<Wheels>,
    /// Files with their text, by absolute path.
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    /// Symbolic links with what they say, by absolute path.
    #[serde(default)]
    pub(super) links: BTreeMap<String, String>,
    /// What differs by distribution.
    pub(super) on: BTreeMap<String, Distribution>,
}

/// What is different on a distribution.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Distribution {
    /// Components of its archive.
    pub(super) components: Vec<String>,
    /// Further packages.
    pub(super) packages: Vec<String>,
}

/// Wheels of which the shared libraries are wanted (what lies in a directory `lib`), and their licences.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wheels {
    /// The directory of the libraries, absolute.
    pub(super) into: String,
    /// Requirements (PEP 508). What they need in turn is not added.
    pub(super) requirements: Vec<String>,
}

impl Recipe {
    /// Reads a recipe. A lock brings its text from anywhere, and lines of it go into dpkg's configuration: what is more
    /// than it should be is refused.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, SystemError> {
        let refused = |reason: String| SystemError::Recipe { name: name.to_owned(), reason };
        let recipe: Self = toml::from_str(text).map_err(|error| refused(error.message().to_owned()))?;
        for pattern in recipe.exclude.iter().chain(&recipe.include) {
            let strange = |it: char| it.is_control() || matches!(it, '[' | ']' | '\\');
            if !pattern.starts_with('/') || pattern.contains(strange) {
                let reason = format!("`{}` is no absolute path with `*` and `?`", pattern.escape_debug());
                return Err(refused(reason));
            }
        }
        let paths = recipe.wheels.iter().map(|it| &it.into).chain(recipe.files.keys()).chain(recipe.links.keys());
        for path in paths {
            let plain = |it: &str| !matches!(it, "" | "." | "..") && !it.contains(char::is_control);
            if !path.strip_prefix('/').is_some_and(|it| it.split('/').all(plain)) {
                return Err(refused(format!("`{}` is no absolute path", path.escape_debug())));
            }
        }
        for (name, value) in &recipe.environment {
            if name.is_empty() || name.contains('=') || name.chars().chain(value.chars()).any(char::is_control) {
                return Err(refused(format!("`{}` is no variable", name.escape_debug())));
            }
        }
        Ok(recipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_adds_no_line_to_dpkgs_configuration() {
        let parse = |more: &str| Recipe::parse("x", &format!("description = ''\npackages = []\non = {{}}\n{more}\n"));
        parse("exclude = ['/usr/share/doc/*']").unwrap();
        for more in [
            "exclude = [\"/x\\npre-invoke=touch /tmp/x\"]",
            "include = ['usr/x']",
            "exclude = ['/usr/[a]*']",
            "environment = { \"A=B\" = '' }",
            "environment = { A = \"b\\n\" }",
            "files = { 'etc/x' = '' }",
            "links = { '/usr/../etc/x' = '' }",
            "wheels = [{ into = '/', requirements = [] }]",
        ] {
            let error = parse(more).unwrap_err();
            assert!(matches!(error, SystemError::Recipe { .. }), "{more}: {error}");
        }
        assert!(Recipe::parse("x", "packages = 1").is_err());
    }
}
