//! What registries refuse, in their own terms (distribution-spec, "Error Codes").

use std::fmt;
use std::path::PathBuf;

use reqwest::StatusCode;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Explain, Kind};
use crate::http::{self, HttpError};
use crate::store::StoreError;

/// One entry of a registry's `errors`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Diagnostic {
    /// `MANIFEST_UNKNOWN`, `DENIED`, `TOOMANYREQUESTS`, …
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.is_empty(), self.message.is_empty()) {
            (false, false) => write!(f, "{} ({})", self.message, self.code),
            (false, true) => f.write_str(&self.code),
            _ => f.write_str(&self.message),
        }
    }
}

/// Why a registry did not give or take what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer, or one that broke off.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// There is no such image, or none that we may see.
    #[error("`{reference}` does not exist in its registry")]
    NotFound {
        /// The image.
        reference: String,
        /// Whether we asked as somebody the registry knows.
        authenticated: bool,
    },
    /// The registry does not let us.
    #[error("`{registry}` does not allow us to {action}{}", list(.diagnostics))]
    Denied {
        /// The registry's host.
        registry: String,
        /// What we wanted.
        action: String,
        /// Its own words.
        diagnostics: Vec<Diagnostic>,
        /// Whether we showed credentials.
        authenticated: bool,
    },
    /// The registry wants us to come back later.
    #[error("`{registry}` takes no more requests for now{}", list(.diagnostics))]
    TooMany {
        /// The registry's host.
        registry: String,
        /// Its own words.
        diagnostics: Vec<Diagnostic>,
        /// Whether we showed credentials.
        authenticated: bool,
    },
    /// Nothing may be fetched.
    #[error("cannot {action}: nothing is fetched here, and `{registry}` is not asked")]
    Offline {
        /// The registry's host.
        registry: String,
        /// What we wanted.
        action: String,
    },
    /// An upload that stands still.
    #[error("`{registry}` does not go on while we {action}")]
    Stalled {
        /// The registry's host.
        registry: String,
        /// What we wanted.
        action: String,
    },
    /// Any other refusal.
    #[error("`{registry}` refused to {action}: {status}{}", list(.diagnostics))]
    Refused {
        /// The registry's host.
        registry: String,
        /// What we wanted.
        action: String,
        /// HTTP status.
        status: StatusCode,
        /// Its own words.
        diagnostics: Vec<Diagnostic>,
    },
    /// An index without the platform asked for.
    #[error("`{reference}` has no image for {wanted}, only for {}", .available.join(", "))]
    Platform {
        /// The image.
        reference: String,
        /// The platform asked for.
        wanted: String,
        /// Those it has.
        available: Vec<String>,
    },
    /// A document of a kind we do not read, or that is none.
    #[error("`{reference}` is not an image we can read: {detail}")]
    Document {
        /// The image.
        reference: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Content that is not what its digest says.
    #[error("`{reference}` gave content with digest {found} for {expected}")]
    Mismatch {
        /// The image.
        reference: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A credential helper failed.
    #[error("the credential helper `{program}` failed for `{registry}`: {message}")]
    Helper {
        /// `docker-credential-…`.
        program: String,
        /// The registry's host.
        registry: String,
        /// What it said.
        message: String,
    },
    /// A file of credentials that is no such file.
    #[error("`{path}` is not a file of registry credentials")]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {action}")]
    File {
        /// What was being done.
        action: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn list(diagnostics: &[Diagnostic]) -> String {
    let texts: Vec<String> = diagnostics.iter().map(ToString::to_string).filter(|it| !it.is_empty()).collect();
    if texts.is_empty() { String::new() } else { format!(": {}", crate::secret::mask_userinfo(&texts.join("; "))) }
}

impl Explain for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Http(error) => error.kind(),
            Self::NotFound { .. } | Self::Offline { .. } => Kind::NotFound,
            Self::Denied { .. } | Self::Helper { .. } => Kind::Denied,
            Self::TooMany { .. } | Self::Refused { .. } | Self::Stalled { .. } => Kind::Unreachable,
            Self::Platform { .. } => Kind::Unsatisfiable,
            Self::Document { .. } | Self::Mismatch { .. } => Kind::Input,
            Self::AuthFile { .. } => Kind::Config,
            Self::File { source, .. } => Kind::of_io(source),
            Self::Store(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        let login = |registry: &str| format!("Log in with `docker login {registry}` or `podman login {registry}`.");
        match self {
            Self::Http(error) => error.hints(),
            Self::Store(error) => error.hints(),
            Self::Offline { .. } => vec![http::OFFLINE_HINT.to_owned()],
            Self::NotFound { authenticated: false, .. } => {
                vec!["Check name and tag; if the repository is private, log in with `docker login`.".to_owned()]
            }
            Self::NotFound { .. } => vec!["Check name and tag, and that your account may see it.".to_owned()],
            Self::Denied { registry, authenticated: false, .. } => {
                vec!["Check the name: registries say so of images that do not exist, too.".to_owned(), login(registry)]
            }
            Self::Denied { registry, .. } => {
                vec![format!("The account you are logged in with at `{registry}` is not allowed to do this.")]
            }
            Self::TooMany { registry, authenticated: false, .. } => {
                vec![format!("{} Registries limit anonymous pulls.", login(registry))]
            }
            Self::TooMany { .. } => vec!["Wait a while, or name a mirror.".to_owned()],
            Self::Platform { available, .. } => {
                available.first().map(|it| format!("Ask for it with `--platform {it}`.")).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

/// What a refusal was about, to say it well.
pub(super) struct Refusal<'a> {
    pub(super) registry: &'a str,
    pub(super) action: &'a str,
    pub(super) reference: Option<&'a str>,
    pub(super) authenticated: bool,
}

impl Refusal<'_> {
    /// Reads the registry's words out of an answer that is no success.
    pub(super) async fn of(self, response: reqwest::Response) -> RegistryError {
        let status = response.status();
        let body = http::beginning(response, http::MESSAGE).await;
        self.error(status, diagnostics(&body))
    }

    fn error(self, status: StatusCode, diagnostics: Vec<Diagnostic>) -> RegistryError {
        let Refusal { registry, action, reference, authenticated } = self;
        let (registry, action) = (registry.to_owned(), action.to_owned());
        let says = |code: &str| diagnostics.iter().any(|it| it.code == code);
        match status.as_u16() {
            404 if reference.is_some() => {
                RegistryError::NotFound { reference: reference.unwrap_or_default().to_owned(), authenticated }
            }
            401 | 403 => RegistryError::Denied { registry, action, diagnostics, authenticated },
            429 => RegistryError::TooMany { registry, diagnostics, authenticated },
            _ if says("TOOMANYREQUESTS") => RegistryError::TooMany { registry, diagnostics, authenticated },
            _ if says("DENIED") || says("UNAUTHORIZED") => {
                RegistryError::Denied { registry, action, diagnostics, authenticated }
            }
            _ => RegistryError::Refused { registry, action, status, diagnostics },
        }
    }
}

fn diagnostics(body: &[u8]) -> Vec<Diagnostic> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Diagnostic>,
        #[serde(default, alias = "error", alias = "details")]
        message: Option<String>,
    }
    if let Ok(Body { errors, message }) = serde_json::from_slice(body) {
        if !errors.is_empty() {
            return errors;
        }
        return message.map(|message| Diagnostic { code: String::new(), message }).into_iter().collect();
    }
    let text = String::from_utf8_lossy(body);
    let line = text.lines().map(str::trim).find(|it| !it.is_empty() && !it.starts_with('<'));
    let short = |line: &str| Diagnostic { code: String::new(), message: line.chars().take(200).collect() };
    line.map(short).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, body: &str) -> RegistryError {
        let refusal =
            Refusal { registry: "r.example", action: "pull `r.example/x`", reference: None, authenticated: false };
        refusal.error(StatusCode::from_u16(status).unwrap(), diagnostics(body.as_bytes()))
    }

    #[test]
    fn refusals_are_told_apart_and_keep_the_registrys_words() {
        let denied = error(403, r#"{"errors":[{"code":"DENIED","message":"requested access is denied","detail":[]}]}"#);
        assert_eq!(denied.kind(), Kind::Denied);
        assert!(denied.to_string().ends_with("requested access is denied (DENIED)"), "{denied}");
        assert!(denied.hints()[1].contains("docker login r.example"));
        let limited = error(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#);
        assert!(matches!(limited, RegistryError::TooMany { .. }));
        let odd = error(500, "<html>\n<body>oops</body>\nproxy error\n");
        assert_eq!(
            odd.to_string(),
            "`r.example` refused to pull `r.example/x`: 500 Internal Server Error: proxy error"
        );
    }
}
