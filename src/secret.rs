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

/// Whether a name says that its value is a secret, by the patterns the original agent masks environment values with.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    [
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "TOKEN",
        "ACCESS_KEY",
        "API_KEY",
        "APIKEY",
        "PRIVATE_KEY",
        "CREDENTIAL",
        "_PASS",
        "CONNECTION_STRING",
    ]
    .iter()
    .any(|it| upper.contains(it))
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
}
