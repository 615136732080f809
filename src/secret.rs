//! Values that must never be printed, and addresses without them.

use std::fmt;

use url::Url;

/// A value that neither `Display` nor `Debug` shows. Read it with [`Secret::reveal`], as late as possible.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// A user name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user name, or the access key.
    pub user: String,
    /// The password, token or secret key.
    pub password: Secret,
}

/// Takes user name and password out of an address: the address without them, and they themselves.
#[must_use]
pub fn split_userinfo(url: &Url) -> (Url, Option<Credentials>) {
    let mut bare = url.clone();
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = decode(url.username());
    let password = url.password().map(decode);
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    if user.is_empty() && password.is_none() {
        return (bare, None);
    }
    (bare, Some(Credentials { user, password: Secret::new(password.unwrap_or_default()) }))
}

/// A text in which the user information of every address is replaced by `****`, for messages that quote foreign text.
#[must_use]
pub fn mask_userinfo(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (head, tail) = rest.split_at(start + 3);
        masked.push_str(head);
        let end = tail.find(|c: char| c.is_whitespace() || "/?#\"'`<>".contains(c)).unwrap_or(tail.len());
        match tail[..end].rfind('@') {
            Some(at) => {
                masked.push_str("****");
                rest = &tail[at..];
            }
            None => rest = tail,
        }
    }
    masked.push_str(rest);
    masked
}

/// A text in which no address carries a secret any more: over HTTP the user information goes, elsewhere the password
/// (`ssh://git@host` needs its user).
#[must_use]
pub fn strip_userinfo(text: &str) -> String {
    let mut stripped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (head, tail) = rest.split_at(start + 3);
        stripped.push_str(head);
        rest = tail;
        let end = tail.find(|c: char| c.is_whitespace() || "/?#\"'`<>".contains(c)).unwrap_or(tail.len());
        if let Some(at) = tail[..end].rfind('@') {
            let user = tail[..at].split(':').next().unwrap_or_default();
            let scheme = head[..start].to_ascii_lowercase();
            let http = ["http", "https"].iter().any(|it| scheme.ends_with(it));
            if !http && !user.is_empty() {
                stripped.push_str(user);
                stripped.push('@');
            }
            rest = &tail[at + 1..];
        }
    }
    stripped.push_str(rest);
    stripped
}

/// Words that make a name that of a secret, alone.
const SECRET_WORDS: &[&str] =
    &["SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "TOKEN", "CREDENTIAL", "CREDENTIALS", "APIKEY", "PASS"];
/// What makes `…_KEY` and the like the name of a secret.
const SECRET_PAIRS: &[(&str, &str)] = &[
    ("ACCESS", "KEY"),
    ("ACCOUNT", "KEY"),
    ("API", "KEY"),
    ("AUTH", "KEY"),
    ("ENCRYPTION", "KEY"),
    ("PRIVATE", "KEY"),
    ("STORAGE", "KEY"),
    ("CONNECTION", "STRING"),
];
/// What makes `…_token` that of a text model.
const TEXT_TOKENS: &[&str] = &[
    "BOS", "EOS", "PAD", "UNK", "SEP", "CLS", "MASK", "START", "END", "STOP", "BEGIN", "SPECIAL", "IMAGE", "AUDIO",
    "PER",
];

/// Whether a name says that its value is a secret, by the words the original agent masks values by. Words count whole,
/// so that `TOKENIZERS_PARALLELISM` and `max_tokens` are none.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let words = name_words(name);
    let upper = name.to_ascii_uppercase();
    ["SECRET", "PASSWORD", "CREDENTIAL"].iter().any(|it| upper.contains(it))
        || words.iter().any(|it| SECRET_WORDS.contains(&it.as_str()))
        || words.windows(2).any(|it| SECRET_PAIRS.contains(&(it[0].as_str(), it[1].as_str())))
        || words.len() > 1 && words.last().is_some_and(|it| it == "PWD")
}

/// Whether a variable's value is a secret: by its name, or by its value, an address with a password.
#[must_use]
pub fn is_secret_variable(name: &str, value: &str) -> bool {
    is_secret_name(name) || strip_userinfo(value) != value
}

/// Whether a hyperparameter's value is a secret: by its name, save where the name is one that text models use
/// (`eos_token`) or nothing is there to hide; or by its value, an address with a password.
#[must_use]
pub fn is_secret_parameter(name: &str, value: &str) -> bool {
    let value = value.trim();
    if value.is_empty() || ["None", "null", "True", "False", "true", "false"].contains(&value) {
        return false;
    }
    if strip_userinfo(value) != value {
        return true;
    }
    let name = name.rsplit('/').next().unwrap_or(name);
    let words = name_words(name);
    let token = words.iter().position(|it| it == "TOKEN");
    let of_text = token.is_some_and(|at| {
        at + 1 < words.len() || at > 0 && TEXT_TOKENS.contains(&words[at - 1].as_str()) || value.parse::<f64>().is_ok()
    });
    let others: Vec<&str> = words.iter().map(String::as_str).filter(|it| !of_text || *it != "TOKEN").collect();
    is_secret_name(&others.join("_"))
}

/// The words of a name in upper case: `apiKey`, `api-key` and `API_KEY` have the same.
fn name_words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || lower && c.is_uppercase() {
            words.extend(Some(std::mem::take(&mut word)).filter(|it| !it.is_empty()));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_uppercase());
        }
        lower = c.is_lowercase() || c.is_numeric();
    }
    words.extend(Some(word).filter(|it| !it.is_empty()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_userinfo() {
        let url = Url::parse("https://jo:p%40ss@host/x.git").unwrap();
        let (bare, credentials) = split_userinfo(&url);
        assert_eq!(bare.as_str(), "https://host/x.git");
        let credentials = credentials.unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.reveal()), ("jo", "p@ss"));
        assert!(!format!("{credentials:?}").contains("p@ss"));
        assert_eq!(mask_userinfo("see https://jo:p@h/x and http://a/b@c"), "see https://****@h/x and http://a/b@c");
    }

    #[test]
    fn addresses_lose_their_secrets_and_keep_what_they_need() {
        for (text, expected) in [
            ("git+https://tok@h/x.git", "git+https://h/x.git"),
            ("-i https://u:p@i/simple\nx", "-i https://i/simple\nx"),
            ("HTTPS://tok@h/x", "HTTPS://h/x"),
            ("ssh://git@h/x", "ssh://git@h/x"),
            ("ssh://git:pw@h:22/x", "ssh://git@h:22/x"),
            ("git@h:x.git http://h/a@b", "git@h:x.git http://h/a@b"),
        ] {
            assert_eq!(strip_userinfo(text), expected);
        }
    }

    #[test]
    fn names_of_secrets_are_told_from_those_of_models() {
        for name in
            ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "apiKey", "OPENAI_API_KEY", "DB_PASS", "MYSQL_PWD", "mysqlpassword"]
        {
            assert!(is_secret_name(name), "{name}");
            assert!(is_secret_parameter(&format!("General/{name}"), "x"), "{name}");
        }
        for name in ["TOKENIZERS_PARALLELISM", "max_tokens", "compass", "PWD", "key", "passes", "PYTHONPATH"] {
            assert!(!is_secret_name(name), "{name}");
        }
        assert!(is_secret_variable("DATABASE", "postgres://u:p@h/x") && is_secret_variable("HF_TOKEN", "x"));
        assert!(!is_secret_variable("https_proxy", "http://proxy:3128"));
        assert!(!is_secret_parameter("eos_token", "</s>"));
        assert!(!is_secret_parameter("token_dim", "128"));
        assert!(!is_secret_parameter("api_key", "None"));
        assert!(is_secret_parameter("General/token", "abc"));
        assert!(is_secret_parameter("db", "postgres://u:p@h/x"));
    }
}
