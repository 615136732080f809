//! `--git-user`, `--git-pass`: credentials for git over HTTPS, before those of the environment and the configuration.

use super::UsageError;
use crate::config::value::Value;
use crate::config::{Agent, Config, GitCredentials};
use crate::secret::{Credentials, Secret};

/// Lays the flags over the configuration; what was not given as a flag is taken from there. Answers the pair that counts
/// now, for processes that are started, if a flag had a part in it.
pub(super) fn credentials(
    user: Option<&str>,
    password: Option<&str>,
    config: &Config,
    agent: &mut Agent,
) -> Result<Option<Credentials>, UsageError> {
    if user.is_none() && password.is_none() {
        return Ok(None);
    }
    let configured = |key: &str| config.get(key).and_then(Value::text).map(str::trim).filter(|it| !it.is_empty());
    let user = user.or_else(|| configured("agent.git_user"));
    let password = password.or_else(|| configured("agent.git_pass"));
    let (Some(user), Some(password)) = (user, password) else {
        let (given, missing) = if user.is_some() { ("user", "password") } else { ("password", "user") };
        return Err(UsageError::new(
            format!("there is a {given} for git and no {missing}"),
            "Give both --git-user and --git-pass, or set CLEARML_AGENT_GIT_USER and CLEARML_AGENT_GIT_PASS.",
        ));
    };
    let credentials = Credentials { user: user.to_owned(), password: Secret::new(password) };
    let mine = GitCredentials { host: agent.git_host.clone(), credentials: credentials.clone() };
    // The main pair of the configuration stands last; the flags take its place.
    if configured("agent.git_user").is_some() && configured("agent.git_pass").is_some() {
        agent.git_credentials.pop();
    }
    agent.git_credentials.push(mine);
    Ok(Some(credentials))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn flags_take_the_main_pairs_place() {
        let text =
            "agent { git_user = u, git_pass = p, git_host = h, git.extra_credentials = [{user: a, pass: b, host: x}] }";
        let config = Config::from_text("test", text, &Environment::default()).unwrap();
        let mut agent = config.agent().unwrap();
        assert_eq!(credentials(None, None, &config, &mut agent).unwrap(), None);
        let pair = credentials(None, Some("new"), &config, &mut agent).unwrap().unwrap();
        assert_eq!((pair.user.as_str(), pair.password.reveal()), ("u", "new"));
        assert_eq!(agent.git_credentials.len(), 2);
        assert_eq!(agent.git_credentials[1], GitCredentials { host: Some("h".into()), credentials: pair });
        let empty = Config::default();
        let error = credentials(Some("u"), None, &empty, &mut empty.agent().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "there is a user for git and no password");
    }
}
