//! Version constraints as Poetry writes them: `^1.2`, `~1.2`, `1.2.*`, `>=1,<2`, `1.2`, and several with `||`.

use pep440_rs::Version;

use super::FILE;
use crate::python::lockfile::LockfileError;

/// Versions that are allowed: any of these, all of whose bounds hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Constraint(Vec<Vec<Bound>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Bound {
    Below(Version),
    AtMost(Version),
    Is(Version),
    IsNot(Version),
    AtLeast(Version),
    Above(Version),
    /// Releases that begin with these numbers, or do not.
    Begins(Vec<u64>, bool),
}

impl Constraint {
    pub(super) fn parse(text: &str) -> Result<Self, LockfileError> {
        let wrong = || LockfileError::Constraint { file: FILE.file(), text: text.to_owned() };
        let mut alternatives = Vec::new();
        for part in text.split('|').map(str::trim).filter(|it| !it.is_empty()) {
            let mut bounds = Vec::new();
            for word in words(part) {
                bounds.extend(bound(&word).ok_or_else(wrong)?);
            }
            alternatives.push(bounds);
        }
        Ok(Self(alternatives))
    }

    pub(super) fn holds(&self, version: &Version) -> bool {
        self.0.is_empty() || self.0.iter().any(|bounds| bounds.iter().all(|it| it.holds(version)))
    }
}

impl Bound {
    fn holds(&self, version: &Version) -> bool {
        match self {
            Self::Below(limit) => version < limit,
            Self::AtMost(limit) => version <= limit,
            Self::AtLeast(limit) => version >= limit,
            Self::Above(limit) => version > limit,
            // `1.2+cu118` is a build of 1.2.
            Self::Is(it) => version == it || (it.local().is_empty() && version.clone().without_local() == *it),
            Self::IsNot(it) => version != it,
            Self::Begins(numbers, wanted) => {
                let release = version.release();
                let at = |index: usize| release.get(index).copied().unwrap_or(0);
                numbers.iter().enumerate().all(|(index, number)| at(index) == *number) == *wanted
            }
        }
    }
}

/// The bounds of a part: separated by commas or blanks, an operator may stand apart from its version.
fn words(part: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in part.split([',', ' ']).filter(|it| !it.is_empty()) {
        match words.last_mut() {
            Some(last) if last.chars().all(|c| "<>=!~^".contains(c)) => last.push_str(word),
            _ => words.push(word.to_owned()),
        }
    }
    words
}

fn bound(word: &str) -> Option<Vec<Bound>> {
    if word == "*" {
        return Some(Vec::new());
    }
    let end = word.find(|c: char| !"<>=!~^".contains(c)).unwrap_or(word.len());
    let (operator, text) = word.split_at(end);
    if let Some(prefix) = text.strip_suffix(".*") {
        let numbers: Vec<u64> = prefix.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        return ["", "=", "==", "!="].contains(&operator).then(|| vec![Bound::Begins(numbers, operator != "!=")]);
    }
    let version: Version = text.parse().ok()?;
    let release = version.release().to_vec();
    let next = |place: usize| {
        let mut numbers: Vec<u64> = release.iter().copied().take(place + 1).collect();
        numbers.resize(place + 1, 0);
        numbers[place] += 1;
        Version::new(numbers)
    };
    Some(match operator {
        "" | "=" | "==" | "===" => vec![Bound::Is(version)],
        "!=" => vec![Bound::IsNot(version)],
        "<" => vec![Bound::Below(version)],
        "<=" => vec![Bound::AtMost(version)],
        ">" => vec![Bound::Above(version)],
        ">=" => vec![Bound::AtLeast(version)],
        // Up to the next change of the first number that is not zero.
        "^" => {
            let place = release.iter().position(|it| *it > 0).unwrap_or(release.len().saturating_sub(1));
            vec![Bound::AtLeast(version), Bound::Below(next(place))]
        }
        // `~1.2.3` and `~1.2` stay below 1.3, `~1` below 2.
        "~" => vec![Bound::AtLeast(version), Bound::Below(next(release.len().min(2) - 1))],
        // As PEP 440 has it: `~=1.2.3` stays below 1.3, `~=1.2` below 2.
        "~=" if release.len() > 1 => vec![Bound::AtLeast(version), Bound::Below(next(release.len() - 2))],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_mean_what_poetry_means_by_them() {
        for (constraint, inside, outside) in [
            ("^1.2.3", &["1.2.3", "1.9"][..], &["1.2.2", "2.0"][..]),
            ("^0.3.1", &["0.3.9"], &["0.4.0"]),
            ("^0.0.3", &["0.0.3"], &["0.0.4"]),
            ("^0", &["0.9"], &["1.0"]),
            ("~1.2", &["1.2.9"], &["1.3"]),
            ("~1", &["1.9"], &["2.0"]),
            ("~=1.2", &["1.9"], &["2.0"]),
            ("1.2.*", &["1.2", "1.2.5"], &["1.3"]),
            ("!=1.2.*", &["1.3"], &["1.2.1"]),
            (">=1.0,<2.0,!=1.5", &["1.4"], &["1.5", "2.0"]),
            (">= 3.8, < 4", &["3.11.2"], &["4.0"]),
            ("<1.0 || >=2.0", &["0.9", "2.1"], &["1.5"]),
            ("2.3.0", &["2.3", "2.3.0+cu121"], &["2.3.1"]),
            ("*", &["0", "9"], &[]),
        ] {
            let parsed = Constraint::parse(constraint).unwrap();
            let holds = |it: &&str| parsed.holds(&it.parse().unwrap());
            assert!(inside.iter().all(holds) && !outside.iter().any(holds), "{constraint}");
        }
        assert!(Constraint::parse(">=x").is_err() && Constraint::parse("~~1").is_err());
    }
}
