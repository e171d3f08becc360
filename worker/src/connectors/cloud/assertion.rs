//! Client assertions: what proves to Entra that a caller holds the key of a certificate (cloud.md 1.5).

use std::fmt;

use aws_lc_rs::{
    digest,
    signature::{KeyPair as _, RsaKeyPair},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{DateTime, TimeDelta, Utc};
use domain::Thumbprint;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use secrecy::SecretString;
use serde::Serialize;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::sealing::KeyPair;

/// How long an assertion stands: the longest that Entra takes.
const LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// Signs assertions with the key of one certificate. `Debug` shows the thumbprint only.
#[derive(Clone)]
pub struct Signer {
    key: EncodingKey,
    thumbprint: Thumbprint,
    /// base64url of the SHA-256 of the certificate's DER, without padding.
    sha256: String,
    not_after: DateTime<Utc>,
}

/// A certificate and key that cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSigner {
    /// The certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The key cannot be read, or is too short to be trusted. Why is not told: a message could show a part of it.
    #[error("the private key cannot be used: it must be RSA with 2048 to 8192 bits, in PEM form, unencrypted")]
    Key,
    /// They do not belong together.
    #[error("the private key belongs to another certificate than {0}")]
    Mismatch(Thumbprint),
    /// Signing failed.
    #[error("the assertion could not be signed")]
    Signing,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: String,
    nbf: i64,
    iat: i64,
    exp: i64,
}

impl Signer {
    /// Of a chain of certificates, the first of which is the one that is registered, and its key, both in PEM.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, InvalidSigner> {
        let unreadable = |error: rustls_pki_types::pem::Error| InvalidSigner::Certificate(error.to_string());
        let certificate = CertificateDer::from_pem_slice(certificates).map_err(unreadable)?;
        let pair = match PrivateKeyDer::from_pem_slice(key).map_err(|_| InvalidSigner::Key)? {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(InvalidSigner::Key),
        };
        let signing = EncodingKey::from_rsa_pem(key).map_err(|_| InvalidSigner::Key)?;
        Self::new(&certificate, &pair.map_err(|_| InvalidSigner::Key)?, signing)
    }

    /// Of a new certificate whose key is still here.
    pub(crate) fn from_pair(pair: &KeyPair) -> Result<Self, InvalidSigner> {
        let key = RsaKeyPair::from_pkcs8(&pair.private_key_pkcs8).map_err(|_| InvalidSigner::Key)?;
        let body = Zeroizing::new(STANDARD.encode(&*pair.private_key_pkcs8));
        let mut pem = Zeroizing::new(String::with_capacity(body.len() * 2 + 64));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        // Base64 is ASCII: every 64 bytes are a line.
        for line in body.as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line).map_err(|_| InvalidSigner::Key)?);
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        let signing = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| InvalidSigner::Key)?;
        Self::new(&pair.certificate_der, &key, signing)
    }

    fn new(certificate: &[u8], pair: &RsaKeyPair, key: EncodingKey) -> Result<Self, InvalidSigner> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| InvalidSigner::Certificate(error.to_string()))?;
        let thumbprint = Thumbprint::of_der(certificate);
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key().as_ref() {
            return Err(InvalidSigner::Mismatch(thumbprint));
        }
        let not_after = DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0);
        let not_after = not_after.ok_or_else(|| InvalidSigner::Certificate("it has no end".to_owned()))?;
        let sha256 = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, certificate));
        Ok(Self { key, thumbprint, sha256, not_after })
    }

    /// The certificate's thumbprint.
    #[must_use]
    pub fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// When the certificate ends.
    #[must_use]
    pub fn not_after(&self) -> DateTime<Utc> {
        self.not_after
    }

    /// An assertion that `client_id` shows at the token endpoint `audience`.
    pub(super) fn sign(
        &self,
        client_id: &str,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<SecretString, InvalidSigner> {
        let header = Header { x5t_s256: Some(self.sha256.clone()), ..Header::new(Algorithm::PS256) };
        let claims = Claims {
            aud: audience,
            iss: client_id,
            sub: client_id,
            jti: uuid::Uuid::new_v4().to_string(),
            nbf: now.timestamp(),
            iat: now.timestamp(),
            exp: (now + LIFETIME).timestamp(),
        };
        let signed = jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| InvalidSigner::Signing)?;
        Ok(SecretString::from(signed))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

/// Takes an assertion, and whatever else looks like a token, out of a text: Entra may echo what it was sent (cloud.md 1.5).
pub(crate) fn redact(text: &str, secret: Option<&str>) -> String {
    let text = match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, REDACTED),
        _ => text.to_owned(),
    };
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    // A JSON object in base64 begins with these three letters.
    while let Some(start) = rest.find("eyJ") {
        let (before, token) = rest.split_at(start);
        let part_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=' | '+' | '/');
        let end = token.find(|c| !part_of_token(c)).unwrap_or(token.len());
        kept.push_str(before);
        kept.push_str(if end > 16 { REDACTED } else { &token[..end] });
        rest = &token[end..];
    }
    kept.push_str(rest);
    kept
}

const REDACTED: &str = "[redacted]";

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use secrecy::ExposeSecret as _;
    use serde_json::Value as Json;

    use super::*;
    use crate::certificate::{AuthCertificate, KeySize, Request};

    fn pair() -> KeyPair {
        let request = Request { key_size: KeySize::Rsa2048, lifetime_days: 365, now: Utc::now() };
        let made = AuthCertificate::generate(&request).unwrap();
        KeyPair { certificate_der: made.certificate_der, private_key_pkcs8: made.private_key_pkcs8 }
    }

    #[test]
    fn an_assertion_says_who_shows_it_where_and_stands_ten_minutes() {
        let pair = pair();
        let signer = Signer::from_pair(&pair).unwrap();
        let now = Utc::now();
        let signed = signer.sign("client", "https://login/token", now).unwrap();
        let (_, parsed) = X509Certificate::from_der(&pair.certificate_der).unwrap();
        let key = DecodingKey::from_rsa_der(&parsed.public_key().subject_public_key.data);
        let mut validation = Validation::new(Algorithm::PS256);
        validation.set_audience(&["https://login/token"]);
        let read = jsonwebtoken::decode::<Json>(signed.expose_secret(), &key, &validation).unwrap();
        let claims = read.claims;
        assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("client"), Some("client")));
        assert_eq!(claims["nbf"], now.timestamp());
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
        assert!(uuid::Uuid::parse_str(claims["jti"].as_str().unwrap()).is_ok());
        let sha256 = digest::digest(&digest::SHA256, &pair.certificate_der);
        assert_eq!(read.header.x5t_s256.unwrap(), URL_SAFE_NO_PAD.encode(sha256));
        assert_eq!(read.header.x5t, None);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_before_entra_refuses_it() {
        let (pair, other) = (pair(), pair());
        let mixed = KeyPair { certificate_der: pair.certificate_der, private_key_pkcs8: other.private_key_pkcs8 };
        assert!(matches!(Signer::from_pair(&mixed), Err(InvalidSigner::Mismatch(_))));
        assert!(matches!(Signer::from_pem(b"", b""), Err(InvalidSigner::Certificate(_))));
    }

    #[test]
    fn nothing_shows_the_key() {
        assert!(!format!("{:?}", Signer::from_pair(&pair()).unwrap()).contains("key"));
    }

    #[test]
    fn an_echoed_assertion_is_taken_out_of_a_text() {
        let assertion = "eyJhbGciOiJQUzI1NiJ9.eyJhdWQiOiJ4In0.c2lnbmF0dXJl";
        let told =
            format!("Assertion '{assertion}' is refused, audience: eyJ and https://x/eyJhbGciOiJQUzI1NiJ9.e30.c2ln");
        let read = redact(&told, None);
        assert_eq!(read, "Assertion '[redacted]' is refused, audience: eyJ and https://x/[redacted]");
        assert_eq!(redact("secret here", Some("secret")), "[redacted] here");
    }
}
