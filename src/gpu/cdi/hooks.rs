//! Hooks of NVIDIA's generator (`nvidia-ctk hook …`, `nvidia-cdi-hook …`) as what they come to. Programs of a
//! specification are not run.
//!
//! `update-ldcache` would let the image's `ldconfig` find the mounted libraries. Here a directory of our own gets links, by
//! the libraries' own names (SONAME), to those that were mounted in the folders it names: the loader that looks there
//! finds the driver's libraries and nothing else that lies in such folders. Beside the libraries there are such links too,
//! as `ldconfig` makes them: `create-symlinks` counts on them.

use std::collections::BTreeSet;

use super::specification::Hook;
use super::{ContainerEdits, LIBRARIES, Link};
use crate::gpu::driver::elf;

/// Adds what hooks come to; those that are not known are noted.
pub(super) fn translate(hooks: &[&Hook], edits: &mut ContainerEdits, notes: &mut Vec<String>) {
    let mut folders = BTreeSet::new();
    for hook in hooks {
        let mut words = hook.args.iter().skip(1).map(String::as_str).skip_while(|it| *it == "hook");
        let (verb, rest): (&str, Vec<&str>) = (words.next().unwrap_or_default(), words.collect());
        match verb {
            "create-symlinks" => {
                let links = options(&rest, "--link");
                edits.links.extend(links.iter().filter_map(|it| it.split_once("::")).map(|(target, path)| Link {
                    path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
                    target: target.to_owned(),
                }));
            }
            "update-ldcache" => folders.extend(options(&rest, "--folder").into_iter().map(str::to_owned)),
            // Directories that we make may be entered by everybody, and a native run may not make device nodes.
            "chmod" | "disable-device-node-modification" => {}
            _ => notes.push(format!(
                "CDI: the hook `{}` ({}) is not run.",
                if verb.is_empty() { &hook.path } else { verb },
                hook.hook_name
            )),
        }
    }
    let libraries = edits.mounts.iter().filter(|it| within(&it.target, &folders));
    let named = libraries.filter_map(|it| Some((it.target.as_str(), elf::soname(&it.source)?)));
    let links: Vec<Link> = named.flat_map(|(target, name)| names(target, &name)).collect();
    if !links.is_empty() {
        edits.library_directories.push(LIBRARIES.to_owned());
    }
    edits.links.extend(links);
    edits.links.sort();
    edits.links.dedup();
}

/// The names by which programs find a mounted library.
fn names(target: &str, soname: &str) -> Vec<Link> {
    let link = |path: String, target: &str| Link { path, target: target.to_owned() };
    let mut links = vec![link(format!("{LIBRARIES}/{soname}"), target)];
    // Some programs ask for it by the name that a development package would have.
    if soname == "libcuda.so.1" {
        links.push(link(format!("{LIBRARIES}/libcuda.so"), soname));
    }
    if let Some((folder, file)) = target.rsplit_once('/').filter(|it| it.1 != soname) {
        links.push(link(format!("{folder}/{soname}"), file));
    }
    links
}

/// Values of an option, `--name value` or `--name=value`.
fn options<'a>(words: &[&'a str], name: &str) -> Vec<&'a str> {
    let mut values = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if *word == name {
            values.extend(words.next());
        } else if let Some(value) = word.strip_prefix(name).and_then(|it| it.strip_prefix('=')) {
            values.push(value);
        }
    }
    values
}

fn within(path: &str, folders: &BTreeSet<String>) -> bool {
    path.rsplit_once('/').is_some_and(|(folder, _)| folders.contains(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_both_spellings() {
        assert_eq!(options(&["--link", "a::b", "--x", "--link=c::d", "--linker=e"], "--link"), ["a::b", "c::d"]);
    }
}
