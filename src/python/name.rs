//! Names and file names of distributions (PEP 503, binary distribution format).

/// The normalised form of a distribution's name: lower case, runs of `-_.` as one `-`.
#[must_use]
pub fn normalise(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.trim().chars() {
        if matches!(c, '-' | '_' | '.') {
            if !normal.ends_with('-') {
                normal.push('-');
            }
        } else {
            normal.extend(c.to_lowercase());
        }
    }
    normal
}

/// A wheel's file name, taken apart: `{name}-{version}[-{build}]-{python}-{abi}-{platform}.whl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelName {
    /// Normalised name.
    pub name: String,
    /// Version as written, `_` for `-`.
    pub version: String,
    /// Build number and its suffix; later builds of a version are greater.
    pub build: Option<(u64, String)>,
    /// Python tags.
    pub python: Vec<String>,
    /// ABI tags.
    pub abi: Vec<String>,
    /// Platform tags.
    pub platform: Vec<String>,
}

impl WheelName {
    /// Takes a file name apart; `None` when it is no wheel's.
    #[must_use]
    pub fn parse(file: &str) -> Option<Self> {
        let stem = file.strip_suffix(".whl")?;
        if stem.contains(['/', '\\', '\0']) {
            return None;
        }
        let parts: Vec<&str> = stem.split('-').collect();
        let (name, version, build, tags) = match parts.as_slice() {
            [name, version, tags @ ..] if tags.len() == 3 => (name, version, None, tags),
            [name, version, build, tags @ ..] if tags.len() == 3 => (name, version, Some(*build), tags),
            _ => return None,
        };
        if parts.iter().any(|it| it.is_empty()) {
            return None;
        }
        let list = |tag: &str| tag.split('.').map(str::to_owned).collect();
        Some(Self {
            name: normalise(name),
            version: (*version).to_owned(),
            build: match build {
                Some(text) => Some(build_number(text)?),
                None => None,
            },
            python: list(tags[0]),
            abi: list(tags[1]),
            platform: list(tags[2]),
        })
    }

    /// Every tag the wheel claims, `py3-none-any`.
    pub fn tags(&self) -> impl Iterator<Item = String> + '_ {
        self.python.iter().flat_map(move |python| {
            self.abi.iter().flat_map(move |abi| self.platform.iter().map(move |it| format!("{python}-{abi}-{it}")))
        })
    }
}

fn build_number(text: &str) -> Option<(u64, String)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_whatever_their_spelling() {
        for name in ["Zope.Interface", "zope_interface", "ZOPE--interface", "zope._-interface"] {
            assert_eq!(normalise(name), "zope-interface");
        }
    }

    #[test]
    fn a_file_name_tells_tags_and_build() {
        let name = WheelName::parse("Foo_Bar-1.0+cu121-7b-py2.py3-none-any.whl").unwrap();
        assert_eq!((name.name.as_str(), name.version.as_str()), ("foo-bar", "1.0+cu121"));
        assert_eq!(name.build, Some((7, "b".to_owned())));
        assert_eq!(name.tags().collect::<Vec<_>>(), ["py2-none-any", "py3-none-any"]);
        for bad in
            ["foo.whl", "foo-1.0.tar.gz", "foo-1-py3-none.whl", "a/b-1-py3-none-any.whl", "foo-1-x1-py3-none-any.whl"]
        {
            assert_eq!(WheelName::parse(bad), None, "{bad}");
        }
    }
}
