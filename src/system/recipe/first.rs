//! The packages that everything else needs, unpacked into an empty root: they bring what installs packages at all.
//!
//! A package file is whoever's made it. The host's dpkg-deb reads it in the sandbox, where it sees package files and the
//! host's programs and nothing else; the plain archive that comes out is unpacked by [`Sandbox::fill`], which writes
//! nowhere but into the root.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::archive::archive;
use super::text::Recipe;
use crate::report::Reporter;
use crate::sandbox::{Changes, Output, Sandbox, Step, lend};
use crate::store::Store;
use crate::system::install::{self, FILES};
use crate::system::{Package, SystemError};

/// Where the archives are written, as seen inside.
const ARCHIVES: &str = "/run/agent/archives";

/// Says what package files say of themselves. Arguments: their names.
const SAY: &str = "for name; do\n\
    dpkg-deb -f \"$name\" Package Essential Pre-Depends Depends Provides || {\n\
    echo \"package file $name cannot be read\" >&2; exit 1; }\n\
    echo; done";

/// Writes what package files hold as plain archives of 4 GiB at most. Arguments: where to, and their names.
const READ: &str = "ulimit -f 8388608; to=$1; shift; for name; do\n\
    dpkg-deb --fsys-tarfile \"$name\" > \"$to/$name\" || {\n\
    echo \"package file $name cannot be unpacked\" >&2; exit 1; }\n\
    done";

/// The files of the first packages.
pub(super) struct Files {
    /// Where they, and those of all others, lie.
    pub(super) directory: PathBuf,
    /// Their names.
    pub(super) names: Vec<String>,
}

/// Fills the sandbox's empty root with the essential packages and apt, and all they need; gives their files and the other
/// packages. `work` is an empty directory of the store.
pub(super) fn unpack(
    (store, sandbox): (&Store, &Sandbox),
    recipe: &Recipe,
    packages: &[Package],
    work: &Path,
    reporter: &dyn Reporter,
) -> Result<(Files, Vec<Package>), SystemError> {
    let file_error = |source| SystemError::File { path: work.to_owned(), source };
    let (directory, archives, root) = (work.join("packages"), work.join("archives"), work.join("root"));
    for dir in [&directory, &archives] {
        fs::create_dir(dir).map_err(file_error)?;
    }
    install::lay_out(store, packages, &directory)?;
    let run = |script: &str, arguments: &[&str], step: &dyn Fn(Step) -> Step| -> Result<Output, SystemError> {
        let mut argv = vec!["/bin/sh", "-c", script, "sh"];
        argv.extend(arguments);
        let reading = lend::programs(Step::new("dpkg-deb", &argv)).bind(&directory, FILES, false);
        let reading = Step { changes: Changes::Dropped, directory: FILES.to_owned(), ..reading };
        let output = sandbox.run(&step(reading), reporter)?;
        if output.code == 0 { Ok(output) } else { Err(install::failed(sandbox, output.code, &output.last_words())) }
    };
    // The order of names, and by it that of providers, is no locale's.
    let all: BTreeSet<String> = packages.iter().map(Package::file_name).collect();
    let said = run(SAY, &all.iter().map(String::as_str).collect::<Vec<_>>(), &|it| it)?;
    let (first, rest) = split(&said.text(), packages);
    let names: Vec<String> = first.iter().map(Package::file_name).collect();
    let mut arguments = vec![ARCHIVES];
    arguments.extend(names.iter().map(String::as_str));
    run(READ, &arguments, &|it| it.bind(&archives, ARCHIVES, true))?;
    fs::write(&root, skeleton(recipe).map_err(file_error)?).map_err(file_error)?;
    let mut all = vec![root];
    all.extend(names.iter().map(|it| archives.join(it)));
    sandbox.fill(&all, &recipe.exclude)?;
    Ok((Files { directory, names }, rest))
}

/// What is there before the first package, as an archive: one directory for programs and one for libraries, as the
/// distributions have had it since 2022 (2020), what dpkg is told, and its empty books.
fn skeleton(recipe: &Recipe) -> std::io::Result<Vec<u8>> {
    let mut rules = String::new();
    for (word, patterns) in [("path-exclude", &recipe.exclude), ("path-include", &recipe.include)] {
        rules.extend(patterns.iter().map(|it| format!("{word}={it}\n")));
    }
    let mut dirs = vec!["usr", "usr/bin", "usr/sbin", "usr/lib"];
    let mut links = vec![("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")];
    if std::env::consts::ARCH == "x86_64" {
        dirs.push("usr/lib64");
        links.push(("lib64", "usr/lib64"));
    }
    dirs.extend(["etc", "etc/dpkg", "etc/dpkg/dpkg.cfg.d"]);
    dirs.extend(["var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/info", "var/lib/dpkg/updates"]);
    let files =
        [("etc/dpkg/dpkg.cfg.d/recipe", rules.as_str()), ("var/lib/dpkg/status", ""), ("var/lib/dpkg/available", "")];
    archive(dirs, links, files)
}

/// The essential packages and apt with all they need, and the others.
fn split(said: &str, packages: &[Package]) -> (Vec<Package>, Vec<Package>) {
    let controls: Vec<Control> = said.split("\n\n").map(Control::parse).collect();
    let mut providers: BTreeMap<&str, &Control> = BTreeMap::new();
    for control in controls.iter().rev() {
        for name in &control.provides {
            providers.entry(name).or_insert(control);
        }
    }
    providers.extend(controls.iter().map(|it| (it.name.as_str(), it)));
    let mut first: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&Control> = controls.iter().filter(|it| it.essential || it.name == "apt").collect();
    while let Some(control) = open.pop() {
        if first.insert(&control.name) {
            // Of alternatives, the first that was chosen.
            let needed = control.needs.iter().filter_map(|them| them.iter().find_map(|it| providers.get(it.as_str())));
            open.extend(needed);
        }
    }
    packages.iter().cloned().partition(|it| first.contains(it.name.as_str()))
}

/// What a package says of itself.
#[derive(Debug, Default)]
struct Control {
    name: String,
    essential: bool,
    provides: Vec<String>,
    /// For each need, the alternatives.
    needs: Vec<Vec<String>>,
}

impl Control {
    fn parse(text: &str) -> Self {
        let mut control = Self::default();
        // A field may go on in lines that begin with a blank.
        for line in text.replace("\n ", " ").lines() {
            let Some((field, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match field {
                "Package" => value.clone_into(&mut control.name),
                "Essential" => control.essential = value == "yes",
                "Provides" => control.provides.extend(value.split(',').map(bare)),
                "Depends" | "Pre-Depends" => {
                    control.needs.extend(value.split(',').map(|it| it.split('|').map(bare).collect()));
                }
                _ => {}
            }
        }
        control
    }
}

/// `libc6:any (>= 2.36)` → `libc6`.
fn bare(relation: &str) -> String {
    relation.trim().split([' ', ':', '(']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_read_with_their_alternatives() {
        let text = "Package: dash\nEssential: yes\nPre-Depends: libc6:any (>= 2.36), awk | mawk\nDepends: debianutils,\n \
                    dpkg\nProvides: sh (= 1)";
        let control = Control::parse(text);
        assert!(control.essential && control.name == "dash" && control.provides == ["sh"]);
        let needs: Vec<Vec<&str>> = control.needs.iter().map(|it| it.iter().map(String::as_str).collect()).collect();
        assert_eq!(needs, [vec!["libc6"], vec!["awk", "mawk"], vec!["debianutils"], vec!["dpkg"]]);
    }
}
