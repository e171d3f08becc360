//! Whom a connection trusts, and as whom it shows itself.

use std::{fmt, sync::Arc};

use ::aws_lc_rs::digest;
use chrono::{DateTime, SecondsFormat};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use rustls_platform_verifier::Verifier;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Whom connections trust, and as whom they show themselves. Host names are always checked.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Trusted certificate authorities in PEM. Default: those of the operating system.
    pub ca: Option<Vec<u8>>,
    /// Trusted server certificates: a server that shows one of them needs no authority, any other is refused.
    pub pins: Vec<Pin>,
    /// The certificate to log on with.
    pub identity: Option<Identity>,
}

/// A certificate chain and its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The client's certificate, and those between it and its authority.
    pub certificates: Vec<u8>,
    /// Its private key.
    pub key: zeroize::Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// The SHA-256 of a certificate's DER.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Pin([u8; 32]);

/// Trust that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTrust {
    /// It holds no certificate.
    #[error("it holds no certificate in PEM form")]
    Empty,
    /// A certificate cannot be read.
    #[error("a certificate in it cannot be read: {0}")]
    Unreadable(String),
    /// The client's certificate or key cannot be used.
    #[error("the client certificate cannot be used: {0}")]
    Identity(String),
    /// Not a SHA-256.
    #[error("`{0}` is not a SHA-256: 64 hexadecimal digits, with or without colons")]
    Pin(String),
    /// The operating system's authorities cannot be used.
    #[error("the system's certificate authorities cannot be used: {0}")]
    System(String),
}

impl Pin {
    /// Reads 64 hexadecimal digits, in the spelling of any tool.
    pub fn parse(text: &str) -> Result<Self, InvalidTrust> {
        let digits: Vec<char> = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
        let mut bytes = [0; 32];
        let byte = |pair: &[char]| Some(pair.first()?.to_digit(16)? << 4 | pair.get(1)?.to_digit(16)?);
        if digits.len() == 64 {
            for (place, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
                let value = byte(pair).and_then(|value| u8::try_from(value).ok());
                *place = value.ok_or_else(|| InvalidTrust::Pin(text.to_owned()))?;
            }
            return Ok(Self(bytes));
        }
        Err(InvalidTrust::Pin(text.to_owned()))
    }

    fn of(certificate: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&domain::ids::hex(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl Trust {
    /// Trusts the certificate authorities in `pem`, and nobody else.
    #[must_use]
    pub fn ca(pem: &[u8]) -> Self {
        Self { ca: Some(pem.to_vec()), ..Self::default() }
    }

    /// What connections work with.
    pub fn build(&self) -> Result<Arc<ClientConfig>, InvalidTrust> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = match &self.ca {
            Some(pem) => WebPkiServerVerifier::builder_with_provider(Arc::new(roots(pem)?), provider.clone())
                .build()
                .map_err(|error| InvalidTrust::Unreadable(error.to_string()))?
                as Arc<dyn ServerCertVerifier>,
            None => Arc::new(Verifier::new(provider.clone()).map_err(|error| InvalidTrust::System(error.to_string()))?),
        };
        let verifier = Checker { chain, pins: self.pins.clone(), provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| InvalidTrust::System(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let Some(identity) = &self.identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
        let (certificates, key) = identity.read()?;
        let config = builder.with_client_auth_cert(certificates, key);
        config.map(Arc::new).map_err(|error| InvalidTrust::Identity(error.to_string()))
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), InvalidTrust> {
        let unusable = |error: rustls_pki_types::pem::Error| InvalidTrust::Identity(error.to_string());
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(&self.certificates).collect::<Result<_, _>>().map_err(unusable)?;
        if certificates.is_empty() {
            return Err(InvalidTrust::Identity("there is no certificate in PEM form".to_owned()));
        }
        Ok((certificates, PrivateKeyDer::from_pem_slice(&self.key).map_err(unusable)?))
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, InvalidTrust> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| InvalidTrust::Unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| InvalidTrust::Unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(InvalidTrust::Empty);
    }
    Ok(roots)
}

/// Checks a server's certificate against pins, or else its chain; and tells which certificate it refused.
#[derive(Debug)]
struct Checker {
    chain: Arc<dyn ServerCertVerifier>,
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

/// Why a certificate was refused, and which it was.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}; the server presented {presented}")]
pub(super) struct NotTrusted {
    why: String,
    presented: String,
}

impl Checker {
    fn check_pin(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), String> {
        if !self.pins.contains(&Pin::of(certificate)) {
            return Err("it is not one of the pinned certificates".to_owned());
        }
        let parsed = ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
        verify_server_name(&parsed, name).map_err(|error| error.to_string())
    }
}

impl ServerCertVerifier for Checker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let checked = if self.pins.is_empty() {
            let chain = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            chain.map(drop).map_err(|error| error.to_string())
        } else {
            self.check_pin(end_entity, server_name)
        };
        checked.map(|()| ServerCertVerified::assertion()).map_err(|why| {
            let refused = NotTrusted { why, presented: describe(end_entity) };
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate in words that an administrator can look for.
fn describe(certificate: &[u8]) -> String {
    let pin = Pin::of(certificate);
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return format!("something that is no certificate (SHA-256 {pin})");
    };
    let until = DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0);
    let until = until.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default();
    format!("`{}` issued by `{}`, valid until {until}, SHA-256 {pin}", parsed.subject(), parsed.issuer())
}

/// The hash of a server's certificate that binds a logon to its connection (RFC 5929 section 4.1): that of its signature, SHA-256 for the weak ones.
pub(super) fn end_point(certificate: &[u8]) -> Vec<u8> {
    let signature =
        X509Certificate::from_der(certificate).ok().map(|(_, c)| c.signature_algorithm.algorithm.to_id_string());
    let algorithm = match signature.as_deref() {
        Some("1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3") => &digest::SHA384,
        Some("1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4") => &digest::SHA512,
        _ => &digest::SHA256,
    };
    digest::digest(algorithm, certificate).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_in_the_spelling_of_any_tool() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(Pin::parse(&plain).unwrap(), Pin::parse(&colons).unwrap());
        for bad in ["", "ab", &"xy".repeat(32), &"ab".repeat(33)] {
            assert!(matches!(Pin::parse(bad), Err(InvalidTrust::Pin(_))), "{bad}");
        }
    }

    #[test]
    fn an_authority_or_identity_that_cannot_be_used_is_refused_at_once() {
        assert!(matches!(Trust::ca(b"nothing").build(), Err(InvalidTrust::Empty)));
        let empty = Identity { certificates: Vec::new(), key: Vec::new().into() };
        let trust = Trust { identity: Some(empty), ..Trust::default() };
        assert!(matches!(trust.build(), Err(InvalidTrust::Identity(_))));
    }
}
