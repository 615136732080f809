//! Compatibility tags (PEP 425, 600, 656): which wheel of several an interpreter prefers.

use std::collections::HashMap;
use std::fmt;

use super::name::WheelName;

/// A C library and its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Libc {
    /// GNU's.
    Glibc(u16, u16),
    /// musl.
    Musl(u16, u16),
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glibc(major, minor) => write!(f, "glibc {major}.{minor}"),
            Self::Musl(major, minor) => write!(f, "musl {major}.{minor}"),
        }
    }
}

impl Libc {
    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, version) = text.split_once(' ')?;
        let (major, minor) = version.split_once('.')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        match name {
            "glibc" => Some(Self::Glibc(major, minor)),
            "musl" => Some(Self::Musl(major, minor)),
            _ => None,
        }
    }
}

/// The word wheels and uv have for an OCI architecture.
#[must_use]
pub fn machine(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "i686",
        "arm" => "armv7l",
        other => other,
    }
}

/// The tags an interpreter takes, most specific first.
#[derive(Debug, Clone)]
pub struct Tags {
    ranks: HashMap<String, usize>,
}

impl Tags {
    /// The tags of CPython `(major, minor)` on a C library and an OCI architecture.
    #[must_use]
    pub fn new(python: (u16, u16), libc: Libc, architecture: &str) -> Self {
        let (major, minor) = python;
        let platforms = platforms(libc, machine(architecture));
        let own = format!("cp{major}{minor}");
        let mut tags = Vec::new();
        let mut each = |python: &str, abi: &str| tags.extend(platforms.iter().map(|it| format!("{python}-{abi}-{it}")));
        let interpreters: Vec<String> = std::iter::once(format!("py{major}{minor}"))
            .chain(std::iter::once(format!("py{major}")))
            .chain((0..minor).rev().map(|it| format!("py{major}{it}")))
            .collect();
        each(&own, &own);
        each(&own, "abi3");
        each(&own, "none");
        for older in (2..minor).rev() {
            each(&format!("cp{major}{older}"), "abi3");
        }
        for interpreter in &interpreters {
            each(interpreter, "none");
        }
        tags.push(format!("{own}-none-any"));
        tags.extend(interpreters.iter().map(|it| format!("{it}-none-any")));
        let mut ranks = HashMap::new();
        for (rank, tag) in tags.into_iter().enumerate() {
            ranks.entry(tag).or_insert(rank);
        }
        Self { ranks }
    }

    /// How well a wheel fits; less is better, `None` is not at all.
    #[must_use]
    pub fn rank(&self, wheel: &WheelName) -> Option<usize> {
        wheel.tags().filter_map(|tag| self.ranks.get(&tag).copied()).min()
    }

    /// The best of several wheels: best tag, then latest build, then file name.
    pub fn best<'a, T>(&self, wheels: impl IntoIterator<Item = (&'a str, T)>) -> Option<T> {
        wheels
            .into_iter()
            .filter_map(|(file, it)| {
                let name = WheelName::parse(file)?;
                Some(((self.rank(&name)?, std::cmp::Reverse(name.build), file), it))
            })
            .min_by(|a, b| a.0.cmp(&b.0))
            .map(|it| it.1)
    }
}

fn platforms(libc: Libc, machine: &str) -> Vec<String> {
    let mut platforms = Vec::new();
    match libc {
        Libc::Glibc(major, minor) => {
            let oldest = if matches!(machine, "x86_64" | "i686") { 5 } else { 17 };
            for minor in (oldest..=minor).rev() {
                platforms.push(format!("manylinux_{major}_{minor}_{machine}"));
                let alias = match minor {
                    17 => "manylinux2014",
                    12 => "manylinux2010",
                    5 => "manylinux1",
                    _ => continue,
                };
                platforms.push(format!("{alias}_{machine}"));
            }
        }
        Libc::Musl(major, minor) => {
            platforms.extend((0..=minor).rev().map(|it| format!("musllinux_{major}_{it}_{machine}")));
        }
    }
    platforms.push(format!("linux_{machine}"));
    platforms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_wheel_that_fits_is_taken() {
        let tags = Tags::new((3, 11), Libc::Glibc(2, 36), "amd64");
        let best = |files: &[&'static str]| tags.best(files.iter().map(|it| (*it, *it)));
        let (any, abi3) = ("x-1-py3-none-any.whl", "x-1-cp38-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl");
        let (own, newer) = ("x-1-cp311-cp311-manylinux2014_x86_64.whl", "x-1-cp311-cp311-manylinux_2_28_x86_64.whl");
        assert_eq!(best(&[any, abi3, own, newer]), Some(newer));
        assert_eq!(best(&[any, abi3]), Some(abi3));
        assert_eq!(
            best(&["x-1-cp311-cp311-manylinux_2_39_x86_64.whl", "x-1-cp311-cp311-musllinux_1_2_x86_64.whl"]),
            None
        );
        assert_eq!(best(&["x-1-cp312-abi3-linux_x86_64.whl", "x-1-cp311-cp311-manylinux_2_28_aarch64.whl"]), None);
        assert_eq!(best(&["x-1-1-py3-none-any.whl", any, "x-1-10-py3-none-any.whl"]), Some("x-1-10-py3-none-any.whl"));
        assert_eq!(best(&["x-1-py2.py3-none-any.whl"]), Some("x-1-py2.py3-none-any.whl"));
    }

    #[test]
    fn musl_takes_musl_wheels_only() {
        let tags = Tags::new((3, 12), Libc::parse("musl 1.2").unwrap(), "arm64");
        let wheel = |file| tags.rank(&WheelName::parse(file).unwrap());
        assert!(wheel("x-1-cp312-cp312-musllinux_1_1_aarch64.whl").is_some());
        assert!(wheel("x-1-cp312-cp312-manylinux2014_aarch64.whl").is_none());
    }
}
