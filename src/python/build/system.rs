//! Which backend builds a project, and what it needs for that (PEP 518).

/// `[build-system]`, with what stands for one that is not there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BuildSystem {
    pub(super) requires: Vec<String>,
    pub(super) backend: String,
    pub(super) backend_path: Vec<String>,
}

impl BuildSystem {
    pub(super) fn of(pyproject: &toml::Table) -> Self {
        let table = pyproject.get("build-system").and_then(toml::Value::as_table);
        let list = |key: &str| {
            let items = table?.get(key)?.as_array()?;
            Some(items.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
        };
        let backend = table.and_then(|it| it.get("build-backend")).and_then(toml::Value::as_str);
        Self {
            requires: list("requires").unwrap_or_else(|| vec!["setuptools>=40.8.0".to_owned()]),
            backend: backend.unwrap_or("setuptools.build_meta:__legacy__").to_owned(),
            backend_path: list("backend-path").unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_without_a_build_system_has_the_old_one() {
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        let old = BuildSystem::of(&toml::Table::new());
        assert_eq!(old.backend, "setuptools.build_meta:__legacy__");
        let text = "[build-system]\nrequires = ['x']\nbuild-backend = 'b'\nbackend-path = ['.']\n";
        let own = BuildSystem::of(&table(text));
        assert_eq!((own.requires, own.backend_path), (vec!["x".to_owned()], vec![".".to_owned()]));
    }
}
