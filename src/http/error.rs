//! What goes wrong on the way to a server and back.

use std::error::Error as _;

use reqwest::StatusCode;
use url::Url;

use crate::error::{Explain, Kind};

/// A failed exchange. Addresses in it have neither user information nor query.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The client could not be made.
    #[error("cannot set up HTTP")]
    Client {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A proxy variable holds no address.
    #[error("the proxy in `{variable}` is not an address")]
    Proxy {
        /// The variable.
        variable: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing may be fetched.
    #[error("nothing is fetched here")]
    Offline,
    /// `AGENT_STANDALONE` says what nobody understands.
    #[error("AGENT_STANDALONE is `{text}`, which is neither yes nor no")]
    Standalone {
        /// What it says.
        text: String,
    },
    /// No answer came.
    #[error("`{url}` does not answer")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The answer broke off or is not what it says.
    #[error("the answer of `{url}` broke off")]
    Broken {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The server answered with an error.
    #[error("`{url}` answers {}{}", .status, .message.as_ref().map(|it| format!(": {it}")).unwrap_or_default())]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: StatusCode,
        /// What the server said, cut to a line.
        message: Option<String>,
    },
}

impl HttpError {
    /// Wraps an error of the client.
    #[must_use]
    pub fn from_reqwest(error: reqwest::Error, url: Option<&Url>) -> Self {
        let url = error.url().or(url).map(shown).unwrap_or_default();
        let (started, source) = (error.is_body() || error.is_decode(), error.without_url());
        if started { Self::Broken { url, source } } else { Self::Unreachable { url, source } }
    }

    /// The status a server answered with, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Every cause below, in one text.
    fn causes(&self) -> String {
        let mut text = String::new();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(&error.to_string());
            text.push('\n');
            source = error.source();
        }
        text
    }
}

/// An address for people: no user information, no query, no fragment.
#[must_use]
pub(crate) fn shown(url: &Url) -> String {
    let mut url = crate::secret::split_userinfo(url).0;
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

impl Explain for HttpError {
    fn kind(&self) -> Kind {
        match self {
            Self::Client { .. } => Kind::Internal,
            Self::Proxy { .. } | Self::Standalone { .. } => Kind::Config,
            Self::Offline => Kind::NotFound,
            Self::Unreachable { .. } | Self::Broken { .. } => Kind::Unreachable,
            Self::Status { status, .. } => match status.as_u16() {
                401 | 403 | 407 => Kind::Denied,
                404 | 410 => Kind::NotFound,
                409 => Kind::Conflict,
                _ => Kind::Unreachable,
            },
        }
    }

    fn hints(&self) -> Vec<String> {
        let causes = self.causes();
        let hint = match self {
            Self::Unreachable { .. } if causes.contains("UnknownIssuer") || causes.contains("trust store") => {
                "If the server's certificate is signed by a private authority, add that authority to the system's store \
                 or name its file in SSL_CERT_FILE."
            }
            Self::Unreachable { .. } if causes.contains("certificate") => {
                "The server's certificate was refused: check the address, the certificate's names and dates, and the clock."
            }
            Self::Unreachable { .. } if causes.contains("name server") || causes.contains("dns") => {
                "Check the host name and the name servers in /etc/resolv.conf."
            }
            Self::Unreachable { .. } => {
                "Check the address, that the server runs, and http_proxy, https_proxy and no_proxy."
            }
            Self::Broken { .. } => "Try again; a proxy or an unstable network may have cut the connection.",
            Self::Status { status, .. } if status.as_u16() == 407 => {
                "The proxy asks for a user name and password: put them into https_proxy."
            }
            Self::Offline => super::OFFLINE_HINT,
            Self::Standalone { .. } => "Write AGENT_STANDALONE=1 or AGENT_STANDALONE=0.",
            Self::Client { .. } | Self::Proxy { .. } | Self::Status { .. } => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}
