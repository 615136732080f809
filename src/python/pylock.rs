//! `pylock.toml` as uv writes it (PEP 751): the packages of a resolution and the files of each.

use serde::Deserialize;
use url::Url;

use super::name::normalise;
use crate::digest::Digest;

/// The document.
#[derive(Debug, Clone, Deserialize)]
struct Document {
    #[serde(rename = "lock-version")]
    lock_version: String,
    #[serde(default)]
    packages: Vec<RawPackage>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawPackage {
    name: String,
    version: Option<String>,
    #[serde(default)]
    wheels: Vec<RawFile>,
    sdist: Option<RawFile>,
    archive: Option<RawFile>,
    vcs: Option<toml::Value>,
    directory: Option<toml::Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct RawFile {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

/// A package of a resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    /// Normalised name.
    pub name: String,
    /// Version; absent for what has none before it is built.
    pub version: Option<String>,
    /// Its wheels.
    pub wheels: Vec<File>,
    /// Its source distribution.
    pub sdist: Option<File>,
    /// Whether it comes from a repository or a directory.
    pub unbuilt: bool,
}

/// A file of a package.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// File name.
    pub name: String,
    /// Where it lies: an address, `file:` for this machine.
    pub url: Url,
    /// Bytes, where the index says.
    pub size: Option<u64>,
    /// SHA-256, where the index says.
    pub sha256: Option<Digest>,
}

/// Reads a document; paths in it are relative to `directory`.
///
/// # Errors
/// Says what is wrong.
pub fn parse(text: &str, directory: &std::path::Path) -> Result<Vec<Package>, String> {
    let document: Document = toml::from_str(text).map_err(|it| it.to_string())?;
    if !document.lock_version.starts_with("1.") {
        return Err(format!("its version is `{}`", document.lock_version));
    }
    let mut packages = Vec::new();
    for raw in document.packages {
        let unbuilt = raw.vcs.is_some() || raw.directory.is_some();
        let mut wheels = Vec::new();
        for file in raw.wheels {
            wheels.push(read_file(file, directory)?);
        }
        let mut sdist = raw.sdist.map(|it| read_file(it, directory)).transpose()?;
        if let Some(archive) = raw.archive {
            let file = read_file(archive, directory)?;
            if file.name.ends_with(".whl") { wheels.push(file) } else { sdist = Some(file) }
        }
        packages.push(Package { name: normalise(&raw.name), version: raw.version, wheels, sdist, unbuilt });
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

fn read_file(raw: RawFile, directory: &std::path::Path) -> Result<File, String> {
    let url = match (raw.url, raw.path) {
        (Some(url), _) => Url::parse(&url).map_err(|it| format!("`{}`: {it}", crate::secret::mask_userinfo(&url)))?,
        (None, Some(path)) => {
            Url::from_file_path(directory.join(&path)).map_err(|()| format!("`{path}` is no path"))?
        }
        (None, None) => return Err("a file has neither address nor path".to_owned()),
    };
    let last = url.path_segments().and_then(Iterator::last).unwrap_or_default();
    let name = raw.name.unwrap_or_else(|| percent_encoding::percent_decode_str(last).decode_utf8_lossy().into_owned());
    let sha256 = raw.hashes.get("sha256").map(|it| Digest::from_hex(it).map_err(|it| it.to_string())).transpose()?;
    Ok(File { name, url, size: raw.size, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_and_sdists_are_told_apart() {
        let hash = "0".repeat(64);
        let text = format!(
            r#"
lock-version = "1.0"
created-by = "uv"
[[packages]]
name = "Foo_Bar"
version = "1.0+cu121"
wheels = [{{ url = "https://h.example/foo_bar-1.0%2Bcu121-py3-none-any.whl", size = 7, hashes = {{ sha256 = "{hash}" }} }}]
[[packages]]
name = "a"
archive = {{ url = "https://h.example/a-1.zip", hashes = {{ sha256 = "{hash}" }} }}
[[packages]]
name = "b"
vcs = {{ type = "git", url = "https://h.example/b", commit-id = "0" }}
[[packages]]
name = "c"
version = "2"
wheels = [{{ path = "wheels/c-2-py3-none-any.whl", hashes = {{ }} }}]
"#
        );
        let packages = parse(&text, std::path::Path::new("/tmp/x")).unwrap();
        assert_eq!(packages.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "foo-bar"]);
        assert_eq!(packages[0].sdist.as_ref().unwrap().name, "a-1.zip");
        assert!(packages[1].unbuilt);
        assert_eq!(packages[2].wheels[0].url.as_str(), "file:///tmp/x/wheels/c-2-py3-none-any.whl");
        assert_eq!(packages[3].wheels[0].name, "foo_bar-1.0+cu121-py3-none-any.whl");
        assert_eq!(packages[3].wheels[0].size, Some(7));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in crate::testing::mangled_text(&[
            "lock-version = \"1.0\"\n[[packages]]\nname = \"a\"\nversion = \"1+cu\"\nwheels = [{ url = \"https://h/a-1%2Bcu-py3-none-any.whl\", size = 7, hashes = { sha256 = \"00\" } }]\n",
            "lock-version = \"1.0\"\n[[packages]]\nname = \"b\"\narchive = { path = \"../b-2.zip\" }\n",
        ], "[]{}=\"%/:.\n-a1")) {
            let _ = parse(&text, std::path::Path::new("/"));
        }
    }
}
