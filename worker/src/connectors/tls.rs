//! Whom a connection trusts.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use rustls_platform_verifier::ConfigVerifierExt as _;

/// A CA file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCa {
    /// It holds no certificate.
    #[error("it holds no certificate in PEM form")]
    Empty,
    /// A certificate cannot be read.
    #[error("a certificate in it cannot be read: {0}")]
    Unreadable(String),
}

/// Trusts the certificate authorities in `pem`, and nobody else. Host names are always checked.
pub fn trust_ca(pem: &[u8]) -> Result<Arc<ClientConfig>, InvalidCa> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| InvalidCa::Unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| InvalidCa::Unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(InvalidCa::Empty);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| InvalidCa::Unreadable(error.to_string()))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Trusts whom the operating system trusts. Host names are always checked.
pub fn trust_system() -> Result<Arc<ClientConfig>, rustls::Error> {
    // The verifier takes the provider of the process; another caller may have set the same one already.
    drop(aws_lc_rs::default_provider().install_default());
    ClientConfig::with_platform_verifier().map(Arc::new)
}
