//! Whom we trust: the system's store and what SSL_CERT_FILE and SSL_CERT_DIR add, read when the first server shows a
//! certificate.

use std::path::Path;
use std::sync::{Arc, LazyLock, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

/// Makes ring the provider of this process, once. Every client made here does it; call it before others use rustls.
pub fn init_tls() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // Fails only where a provider was installed before us, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The configuration of a client; with `verify` off any certificate will do.
pub(super) fn client_config(verify: bool) -> ClientConfig {
    static VERIFIED: LazyLock<ClientConfig> = LazyLock::new(|| configure(true));
    static UNVERIFIED: LazyLock<ClientConfig> = LazyLock::new(|| configure(false));
    if verify { VERIFIED.clone() } else { UNVERIFIED.clone() }
}

fn configure(verify: bool) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = SystemStore { provider: Arc::clone(&provider), verify, inner: OnceLock::new() };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS);
    #[expect(clippy::unwrap_used, reason = "ring supports every version that rustls has")]
    let builder = builder.unwrap();
    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
}

#[derive(Debug)]
struct SystemStore {
    provider: Arc<CryptoProvider>,
    verify: bool,
    inner: OnceLock<Result<Arc<WebPkiServerVerifier>, NoStore>>,
}

/// No certificate of any authority could be found.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the system's trust store is empty{0}")]
struct NoStore(String);

impl SystemStore {
    fn load(&self) -> Result<Arc<WebPkiServerVerifier>, NoStore> {
        let mut found = rustls_native_certs::load_native_certs();
        // The variables replace the system's store there; here they add to it.
        if ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|it| std::env::var_os(it).is_some()) {
            found.certs.extend(STORES.iter().map(Path::new).find_map(in_file).unwrap_or_default());
        }
        if found.certs.is_empty() && cfg!(feature = "guest") {
            found.certs = environments_own();
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        let why = || found.errors.first().map(|it| format!(": {it}")).unwrap_or_default();
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|_| NoStore(why()))
    }
}

/// Where distributions keep their store, as one file.
const STORES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn in_file(path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_certs_from_paths(Some(path), None);
    (!found.certs.is_empty()).then_some(found.certs)
}

/// Small bases have no store at all. The SDK then trusts the one that its own environment brings (certifi), and so do
/// we in such an image.
fn environments_own() -> Vec<CertificateDer<'static>> {
    let lib = Path::new(crate::launch::VENV).join("lib");
    let pythons = fs_err::read_dir(lib).into_iter().flatten().flatten();
    pythons.map(|it| it.path().join("site-packages/certifi/cacert.pem")).find_map(|it| in_file(&it)).unwrap_or_default()
}

impl ServerCertVerifier for SystemStore {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.verify {
            return Ok(ServerCertVerified::assertion());
        }
        match self.inner.get_or_init(|| self.load()) {
            Ok(inner) => inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            Err(error) => Err(Error::Other(OtherError(Arc::new(error.clone())))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
