//! The host's own apt, asked what an empty system would consist of.

use std::process::Command;
use std::time::Duration;

use crate::digest::Digest;
use crate::store::Store;
use crate::system::SystemError;
use crate::system::solve::Answer;
use crate::system::sources::{self, Source};

/// The host's apt with a state of its own, in which nothing is installed.
pub(super) struct HostApt {
    configuration: String,
}

impl HostApt {
    pub(super) fn prepare(store: &Store, key: &Digest, sources: &[Source]) -> Result<Self, SystemError> {
        let dir = store.directory("apt").join(format!("host-{}", key.hex()));
        let file_error = |source| SystemError::File { path: dir.clone(), source };
        for name in ["lists/partial", "cache/archives/partial", "sources.list.d"] {
            crate::fs::create_private_dir(&dir.join(name)).map_err(file_error)?;
        }
        let at = dir.display();
        let text = format!(
            "APT::Sandbox::User \"root\";\nAPT::Update::Error-Mode \"any\";\nAcquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n#clear Acquire::IndexTargets::deb::DEP-11-icons;\n\
             Dir::State \"{at}\";\nDir::State::lists \"{at}/lists\";\nDir::State::status \"{at}/status\";\n\
             Dir::State::extended_states \"{at}/extended_states\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Cache::pkgcache \"pkgcache.bin\";\nDir::Cache::srcpkgcache \"srcpkgcache.bin\";\n\
             Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{at}/sources.list.d\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n"
        );
        for (name, text) in
            [("apt.conf", text.as_str()), ("status", ""), ("sources.list.d/host.sources", &sources::write(sources))]
        {
            crate::fs::write_whole(&dir.join(name), text.as_bytes(), 0o644).map_err(file_error)?;
        }
        Ok(Self { configuration: dir.join("apt.conf").to_string_lossy().into_owned() })
    }

    /// Refreshes the package lists; not where nothing may be fetched.
    pub(super) fn update(&self, offline: bool) -> Result<(), SystemError> {
        if offline {
            return Err(SystemError::Offline { what: "the package lists of the host's apt".to_owned() });
        }
        let answer = self.run(&["apt-get", "update", "-q"])?;
        if answer.success {
            return Ok(());
        }
        Err(SystemError::Apt { what: "refresh the host's package lists".to_owned(), reason: answer.stderr })
    }

    pub(super) fn run(&self, argv: &[&str]) -> Result<Answer, SystemError> {
        let (program, rest) = argv.split_first().unwrap_or((&"", &[]));
        let mut command = Command::new(program);
        command.args(["-c", &self.configuration]).args(rest).env("LC_ALL", "C.UTF-8").env_remove("APT_CONFIG");
        let output = crate::process::run(&mut command, Duration::from_secs(1800))?;
        Ok(Answer {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: output.errors(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fetched_where_nothing_may_be() {
        // One that would fail in another way.
        let apt = HostApt { configuration: "/nonexistent/apt.conf".to_owned() };
        let error = apt.update(true).unwrap_err();
        assert!(matches!(error, SystemError::Offline { .. }), "{error}");
    }
}
