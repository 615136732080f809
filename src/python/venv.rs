//! A virtual environment's own files (PEP 405), with nothing of a machine in them.

use std::collections::BTreeMap;

use super::install::Target;

/// What the environment is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Venv {
    /// Where it lies.
    pub target: Target,
    /// The interpreter it borrows, absolute.
    pub executable: String,
    /// Whether it sees the interpreter's own distributions.
    pub site_packages: bool,
    /// Further directories with distributions it sees: those of an environment that the base has active.
    pub extra_paths: Vec<String>,
}

/// A file of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A file with this content.
    File(Vec<u8>),
    /// A symbolic link.
    Link(String),
}

/// The environment's own files by path relative to its root.
#[must_use]
pub fn skeleton(venv: &Venv) -> BTreeMap<String, Item> {
    let python = &venv.target.python;
    let home = venv.executable.rsplit_once('/').map_or("/", |it| if it.0.is_empty() { "/" } else { it.0 });
    // Major and minor only: the blob must not depend on an interpreter's patch release.
    let config = format!(
        "home = {home}\ninclude-system-site-packages = {}\nversion = {python}\nexecutable = {}\n",
        venv.site_packages, venv.executable
    );
    let file = |text: &str| Item::File(text.replace("@ROOT@", &venv.target.root).into_bytes());
    let link = |target: &str| Item::Link(target.to_owned());
    let mut items = BTreeMap::from([
        ("pyvenv.cfg".to_owned(), Item::File(config.into_bytes())),
        ("lib64".to_owned(), link("lib")),
        ("bin/python".to_owned(), link(&venv.executable)),
        ("bin/python3".to_owned(), link("python")),
        (format!("bin/python{python}"), link("python")),
        ("bin/activate".to_owned(), file(include_str!("../../templates/venv/activate"))),
        ("bin/activate.csh".to_owned(), file(include_str!("../../templates/venv/activate.csh"))),
        ("bin/activate.fish".to_owned(), file(include_str!("../../templates/venv/activate.fish"))),
    ]);
    if !venv.extra_paths.is_empty() {
        let lines: String = venv.extra_paths.iter().map(|it| format!("{it}\n")).collect();
        // Sorts behind the packages' own .pth files, as the base's distributions stand behind the environment's.
        items.insert(format!("{}/~base.pth", venv.target.site_packages()), Item::File(lines.into_bytes()));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_the_interpreter_but_no_patch_release() {
        let target = Target { root: "/opt/agent/venv".to_owned(), python: "3.11".to_owned() };
        let venv =
            Venv { target, executable: "/usr/bin/python3.11".to_owned(), site_packages: true, extra_paths: vec![] };
        let items = skeleton(&venv);
        let Item::File(config) = &items["pyvenv.cfg"] else { panic!("a file") };
        assert_eq!(
            String::from_utf8_lossy(config),
            "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11\nexecutable = /usr/bin/python3.11\n"
        );
        assert_eq!(items["bin/python3.11"], Item::Link("python".to_owned()));
        let Item::File(activate) = &items["bin/activate"] else { panic!("a file") };
        assert!(String::from_utf8_lossy(activate).contains("/opt/agent/venv"));
    }
}
