//! The server's directory: keys, configuration, files and the database, all for the owner alone.
//!
//! ```text
//! DIR/               0700
//!   lock             held while a server runs: one server to a directory
//!   keys.json        0600  access and secret key, the key tokens are signed with
//!   clearml.conf     0600  ready to use by any ClearML client
//!   server.db        see `storage`
//!   ports.json       the ports taken last, taken again if free
//!   files/           what the file server keeps, by path
//!   incoming/        uploads under way; emptied at each start
//! ```

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fs_err as fs;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::clock::Moment;
use super::document::document;
use super::error::{ApiError, ServerError};
use super::storage::{self, Kind};
use crate::fs::{create_private_dir, write_whole};
use crate::secret::{Credentials, Secret};

/// The one company of the server; every open-source ClearML server has this one.
pub(super) const COMPANY: &str = "d1bd92a3b039400cbafc60a7a5b1e52b";
/// Its name.
pub(super) const COMPANY_NAME: &str = "clearml";
/// The one user that exists from the start.
pub(super) const USER: &str = "admin";

/// What a running server stands on, besides its database.
pub(super) struct Site {
    /// The data directory.
    pub dir: PathBuf,
    /// The credentials made with the directory.
    pub credentials: Credentials,
    /// What tokens are signed with.
    pub token_key: Secret,
}

#[derive(Serialize, Deserialize)]
struct Keys {
    access_key: String,
    secret_key: String,
    token_key: String,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct Ports {
    pub api: u16,
    pub files: u16,
}

impl Site {
    /// Opens a data directory, making its keys when it is new.
    pub(super) fn open(dir: &Path) -> Result<Self, ServerError> {
        create_private_dir(dir).map_err(ServerError::Data)?;
        create_private_dir(&dir.join("files")).map_err(ServerError::Data)?;
        let incoming = dir.join("incoming");
        if incoming.exists() {
            fs::remove_dir_all(&incoming).map_err(ServerError::Data)?;
        }
        create_private_dir(&incoming).map_err(ServerError::Data)?;
        let path = dir.join("keys.json");
        let keys = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| ServerError::Keys { path: path.clone(), why: error.to_string() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_keys(&path)?,
            Err(error) => return Err(ServerError::Data(error)),
        };
        let credentials = Credentials { user: keys.access_key, password: Secret::new(keys.secret_key) };
        let dir = fs::canonicalize(dir).map_err(ServerError::Data)?;
        Ok(Self { dir, credentials, token_key: Secret::new(keys.token_key) })
    }

    /// Opens the database, with the objects that are there from the start.
    pub(super) fn database(&self) -> Result<Connection, ServerError> {
        let path = self.dir.join("server.db");
        restrict(&path).map_err(ServerError::Data)?;
        let mut db = storage::open(&path)?;
        let failed = |why: String| ServerError::Database { path: path.clone(), why };
        let transaction = db.transaction().map_err(|error| failed(error.to_string()))?;
        populate(&transaction).map_err(|error| failed(error.message))?;
        transaction.commit().map_err(|error| failed(error.to_string()))?;
        Ok(db)
    }

    /// Where uploaded files lie.
    pub(super) fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// Where uploads are written aside.
    pub(super) fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    /// The ports taken last time.
    pub(super) fn ports(&self) -> Ports {
        let bytes = fs::read(self.dir.join("ports.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Remembers the ports.
    pub(super) fn remember_ports(&self, ports: &Ports) -> Result<(), ServerError> {
        let bytes = serde_json::to_vec(ports).unwrap_or_default();
        write_whole(&self.dir.join("ports.json"), &bytes, 0o600).map_err(ServerError::Data)
    }

    /// Writes the configuration a client needs; its path.
    pub(super) fn write_config(&self, api: &str, files: &str) -> Result<PathBuf, ServerError> {
        let path = self.dir.join("clearml.conf");
        let text = format!(
            "# Written by the server each time it starts.\n\
             api {{\n    api_server: \"{api}\"\n    web_server: \"{api}\"\n    files_server: \"{files}\"\n    \
             credentials {{\n        access_key: \"{}\"\n        secret_key: \"{}\"\n    }}\n}}\n\
             # The SDK may hang at a task's end when its reporting process is forked while it looks for the repository.\n\
             sdk {{\n    development {{\n        report_use_subprocess: false\n    }}\n}}\n",
            self.credentials.user,
            self.credentials.password.reveal(),
        );
        write_whole(&path, text.as_bytes(), 0o600).map_err(ServerError::Data)?;
        Ok(path)
    }
}

fn make_keys(path: &Path) -> Result<Keys, ServerError> {
    let keys = Keys { access_key: access_key()?, secret_key: random_text(32)?, token_key: random_text(32)? };
    let bytes = serde_json::to_vec_pretty(&keys).unwrap_or_default();
    write_whole(path, &bytes, 0o600).map_err(ServerError::Data)?;
    Ok(keys)
}

/// Makes a file for the owner alone, before there is anything in it: SQLite gives its journal the mode of the database.
fn restrict(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    use fs_err::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

/// The user and the queue that every server starts with.
fn populate(db: &Connection) -> Result<(), ApiError> {
    let now = Moment::now().stored();
    if storage::load(db, Kind::User, USER)?.is_none() {
        let user = json!({"id": USER, "name": USER, "company": COMPANY, "given_name": USER, "created": now,
            "role": "user"});
        storage::insert(db, Kind::User, &document(user))?;
        let queue = json!({"id": new_id()?, "name": "default", "company": COMPANY, "user": USER, "created": now,
            "tags": [], "system_tags": ["default"], "last_update": now, "metadata": {}});
        storage::insert(db, Kind::Queue, &document(queue))?;
    }
    Ok(())
}

fn random<const N: usize>() -> Result<[u8; N], std::io::Error> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// Unguessable text of `N` random bytes, at most 64.
fn random_text(bytes: usize) -> Result<String, ServerError> {
    let random = random::<64>().map_err(ServerError::Data)?;
    Ok(URL_SAFE_NO_PAD.encode(&random[..bytes.min(64)]))
}

/// An access key as the original makes them: twenty capitals and digits.
fn access_key() -> Result<String, ServerError> {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let random = random::<20>().map_err(ServerError::Data)?;
    Ok(random.iter().map(|it| char::from(LETTERS[usize::from(it % 32)])).collect())
}

/// Fresh credentials, for `auth.create_credentials`.
pub(super) fn new_credentials() -> Result<(String, String), ApiError> {
    let failed = |error: ServerError| ApiError::internal(&error);
    Ok((access_key().map_err(failed)?, random_text(32).map_err(failed)?))
}

/// A new object's id: 32 hexadecimal digits.
pub(super) fn new_id() -> Result<String, ApiError> {
    let bytes = random::<16>().map_err(|error| ApiError::internal(&error))?;
    Ok(bytes.iter().map(|it| format!("{it:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_read_nothing_in_a_directory_that_was_there() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let site = Site::open(dir.path()).unwrap();
        let db = site.database().unwrap();
        site.write_config("http://a", "http://f").unwrap();
        let modes = fs::read_dir(dir.path()).unwrap().map(|it| {
            let it = it.unwrap();
            (it.file_name().into_string().unwrap(), it.metadata().unwrap().permissions().mode() & 0o077)
        });
        let open: Vec<_> = modes.filter(|(_, mode)| *mode != 0).collect();
        assert!(open.is_empty(), "{open:?}");
        assert!(dir.path().join("server.db-wal").exists());
        drop(db);
    }
}
