//! What apt would install, asked of apt itself: its simulation, its records and where it has them from.
//!
//! Works with any apt that a [`Runner`] reaches: a base's own in the sandbox, or the host's for an empty system.

use std::collections::{BTreeMap, BTreeSet};

use super::{Package, SystemError};
use crate::digest::Digest;

/// What an apt program answered.
pub(super) struct Answer {
    pub(super) success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs one of apt's programs.
pub(super) type Runner<'a> = dyn Fn(&[&str]) -> Result<Answer, SystemError> + 'a;

/// Everything apt would install for these names, by name order; empty when all is there already. Names beginning with
/// `?` are apt's patterns.
pub(super) fn solve(names: &[String], run: &Runner<'_>) -> Result<Vec<Package>, SystemError> {
    check_names(names, run)?;
    let mut command =
        vec!["apt-get", "install", "--simulate", "-q", "-y", "--no-remove", "--no-install-recommends", "--"];
    command.extend(names.iter().map(String::as_str));
    let answer = run(&command)?;
    if !answer.success {
        return Err(SystemError::Unsatisfiable { packages: names.join(" "), reason: reason(&answer) });
    }
    let chosen = chosen(&answer.stdout);
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    let origins = origins(&chosen, run)?;
    let records = records(&chosen, run)?;
    let mut packages = Vec::with_capacity(chosen.len());
    for Chosen { name, version, arch } in chosen {
        let record = records.get(&(name.clone(), version.clone(), arch.clone()));
        let record = record.ok_or_else(|| SystemError::Apt {
            what: format!("tell where `{name}` {version} is"),
            reason: "it has no record of it".to_owned(),
        })?;
        let origin = origins.get(&(name.clone(), version.clone())).cloned().unwrap_or_else(|| "unknown".to_owned());
        packages.push(Package {
            name,
            version,
            arch,
            file: record.file.clone(),
            sha256: record.sha256,
            size: record.size,
            origin,
        });
    }
    packages.sort_by(|one, other| (&one.name, &one.arch).cmp(&(&other.name, &other.arch)));
    packages.dedup();
    Ok(packages)
}

/// Refuses names that apt does not know, before apt takes a name with a dot in it for a regular expression.
fn check_names(names: &[String], run: &Runner<'_>) -> Result<(), SystemError> {
    let known: BTreeSet<String> = run(&["apt-cache", "pkgnames"])?.stdout.lines().map(str::to_owned).collect();
    let is_known = |name: &String| {
        let bare = name.split(['=', '/']).next().unwrap_or_default();
        let bare = bare.split_once(':').map_or(bare, |(bare, _)| bare);
        name.starts_with('?') || known.contains(bare)
    };
    let unknown: Vec<String> = names.iter().filter(|it| !is_known(it)).cloned().collect();
    if unknown.is_empty() { Ok(()) } else { Err(SystemError::Unknown { names: unknown.join(" ") }) }
}

/// What apt says is wrong, without its preamble.
fn reason(answer: &Answer) -> String {
    let block = answer.stdout.find("The following packages have unmet dependencies:").map(|it| &answer.stdout[it..]);
    let lines = block.unwrap_or_default().lines().chain(answer.stderr.lines());
    let lines: Vec<&str> = lines.map(str::trim_end).filter(|it| !it.is_empty() && !it.starts_with("W:")).collect();
    lines.join("\n")
}

#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    name: String,
    version: String,
    arch: String,
}

/// `Inst libgomp1 [old] (12.2.0-14 Debian:12.11/stable [amd64])`.
fn chosen(simulation: &str) -> Vec<Chosen> {
    let line = |line: &str| {
        let rest = line.strip_prefix("Inst ")?;
        let (name, _) = rest.split_once(' ')?;
        // After the parenthesis comes what apt breaks meanwhile.
        let inside = rest.split_once('(')?.1.split(')').next()?;
        let (version, origin) = inside.split_once(' ')?;
        let arch = origin.rsplit_once('[')?.1.split(']').next()?;
        let name = name.split_once(':').map_or(name, |(name, _)| name);
        Some(Chosen { name: name.to_owned(), version: version.to_owned(), arch: arch.to_owned() })
    };
    simulation.lines().filter_map(line).collect()
}

/// Where apt has which version from: `name | version | address suite/component arch Packages`.
fn origins(chosen: &[Chosen], run: &Runner<'_>) -> Result<BTreeMap<(String, String), String>, SystemError> {
    let mut command = vec!["apt-cache", "madison"];
    command.extend(chosen.iter().map(|it| it.name.as_str()));
    let mut origins: BTreeMap<(String, String), String> = BTreeMap::new();
    for line in run(&command)?.stdout.lines() {
        let mut columns = line.split('|').map(str::trim);
        let (Some(name), Some(version), Some(place)) = (columns.next(), columns.next(), columns.next()) else {
            continue;
        };
        let mut place = place.split_whitespace();
        let (Some(_address), Some(origin)) = (place.next(), place.next()) else { continue };
        let known = origins.entry((name.to_owned(), version.to_owned())).or_insert_with(|| origin.to_owned());
        // Of several places the same, whatever the order of the sources.
        if origin < known.as_str() {
            origin.clone_into(known);
        }
    }
    Ok(origins)
}

struct Record {
    file: String,
    sha256: Digest,
    size: u64,
}

type Records = BTreeMap<(String, String, String), Record>;

fn records(chosen: &[Chosen], run: &Runner<'_>) -> Result<Records, SystemError> {
    let mut command = vec!["apt-cache".to_owned(), "show".to_owned(), "--".to_owned()];
    for Chosen { name, version, arch } in chosen {
        let qualified = if arch == "all" { name.clone() } else { format!("{name}:{arch}") };
        command.push(format!("{qualified}={version}"));
    }
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let answer = run(&command)?;
    if !answer.success {
        return Err(SystemError::Apt { what: "show packages".to_owned(), reason: reason(&answer) });
    }
    Ok(answer.stdout.split("\n\n").filter_map(record).collect())
}

fn record(text: &str) -> Option<((String, String, String), Record)> {
    let field = |name: &str| text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let key = (field("Package")?.to_owned(), field("Version")?.to_owned(), field("Architecture")?.to_owned());
    let file = field("Filename")?.trim_start_matches("./").to_owned();
    let sha256 = Digest::from_hex(field("SHA256")?).ok()?;
    Some((key, Record { file, sha256, size: field("Size")?.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMULATION: &str = "NOTE: This is only a simulation!\nReading package lists...\n\
        Inst libc6 [2.36-9] (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []\n\
        Inst tzdata (2026f-0+deb12u1 Debian-Security:12/oldstable-security [all])\n\
        Inst libx:i386 (1:2-3 Debian:12.15/oldstable [i386])\nConf tzdata (2026f x [all])\n";

    fn answer(stdout: &str) -> Answer {
        Answer { success: true, stdout: stdout.to_owned(), stderr: String::new() }
    }

    #[test]
    fn the_simulation_is_read_upgrades_and_foreign_architectures_too() {
        let found = chosen(SIMULATION);
        let one = |name: &str, version: &str, arch: &str| Chosen {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: arch.to_owned(),
        };
        let expected = [
            one("libc6", "2.36-9+deb12u14", "amd64"),
            one("tzdata", "2026f-0+deb12u1", "all"),
            one("libx", "1:2-3", "i386"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_name_with_a_dot_is_no_pattern() {
        let run = |argv: &[&str]| {
            assert_eq!(argv, ["apt-cache", "pkgnames"], "apt is asked nothing else");
            Ok(answer("python3\npython3.11\nlibgomp1\n"))
        };
        let names = ["python3.6".to_owned(), "libgomp1:amd64".to_owned(), "-oX=y".to_owned()];
        let error = solve(&names, &run).unwrap_err();
        assert!(matches!(&error, SystemError::Unknown { names } if names == "python3.6 -oX=y"), "{error}");
    }

    #[test]
    fn a_solution_is_pinned_without_addresses() {
        let digest = Digest::of("deb");
        let run = |argv: &[&str]| {
            Ok(answer(&match argv[..2] {
                ["apt-cache", "pkgnames"] => "tzdata\n".to_owned(),
                ["apt-get", "install"] => "Inst tzdata (1-2 D:1/s [all])\n".to_owned(),
                ["apt-cache", "madison"] => "tzdata | 1-2 | http://h/d z/main amd64 Packages\n\
                     tzdata | 1-2 | http://h/d b/main amd64 Packages\ntzdata | 1-1 | http://h/d a/main amd64 Packages\n"
                    .to_owned(),
                _ => format!(
                    "Package: tzdata\nVersion: 1-2\nArchitecture: all\nFilename: pool/t.deb\nSize: 3\nSHA256: {}\n",
                    digest.hex()
                ),
            }))
        };
        let found = solve(&["tzdata".to_owned()], &run).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].origin.as_str(), found[0].file.as_str(), found[0].sha256),
            ("b/main", "pool/t.deb", digest)
        );
    }
}
