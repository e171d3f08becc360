//! JSON Web Tokens that a client signs with its certificate: assertions for the token endpoint, proofs for `addKey` (RFC 7523, cloud.md 1.5).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::KeyCredential;
use crate::certificate::{Certificate, sha256};

/// A token, read but not believed.
pub(super) struct Assertion<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    named: Named,
    pub(super) claims: Claims,
}

/// What it says of itself. Times are seconds and may have fractions: MSAL writes floats.
#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) aud: String,
    pub(super) iss: String,
    #[serde(default)]
    pub(super) sub: Option<String>,
    #[serde(default)]
    nbf: Option<f64>,
    exp: f64,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Rs256,
    Ps256,
}

/// The hash of its certificate, by which the header names it.
enum Named {
    Sha1(Vec<u8>),
    Sha256(Vec<u8>),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    x5t: Option<String>,
    #[serde(default, rename = "x5t#S256")]
    x5t_s256: Option<String>,
}

/// Whether its parts may end in `=`, which the JWT standard forbids and clients write into their headers.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Padding {
    Tolerated,
    /// As `addKey` wants it (cloud.md 2.3).
    Refused,
}

/// It is no token that could be looked into.
#[derive(Debug)]
pub(super) struct Malformed;

/// Why it is not believed.
#[derive(Debug, PartialEq)]
pub(super) enum Disbelief {
    UnknownKey,
    Expired { thumbprint: String, start: DateTime<Utc>, end: DateTime<Utc> },
    BadSignature,
}

impl<'a> Assertion<'a> {
    pub(super) fn read(text: &'a str, padding: Padding) -> Result<Self, Malformed> {
        let (signed, signature) = text.rsplit_once('.').ok_or(Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Malformed)?;
        if padding == Padding::Refused && text.contains('=') {
            return Err(Malformed);
        }
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Malformed)?;
        let algorithm = match header.alg.as_str() {
            "RS256" => Algorithm::Rs256,
            "PS256" => Algorithm::Ps256,
            _ => return Err(Malformed),
        };
        let named = match (header.x5t_s256, header.x5t) {
            (Some(hash), _) => Named::Sha256(decode(&hash)?),
            (None, Some(hash)) => Named::Sha1(decode(&hash)?),
            (None, None) => return Err(Malformed),
        };
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| Malformed)?;
        Ok(Self { signed, signature: decode(signature)?, algorithm, named, claims })
    }

    /// Finds its key among these and checks the signature; tells which it was.
    pub(super) fn check<'k>(
        &self,
        keys: &'k [KeyCredential],
        now: DateTime<Utc>,
    ) -> Result<&'k KeyCredential, Disbelief> {
        let key = keys.iter().find(|key| self.names(&key.certificate)).ok_or(Disbelief::UnknownKey)?;
        if !key.is_valid_at(now) {
            let thumbprint = key.certificate.thumbprint.as_str().to_owned();
            return Err(Disbelief::Expired { thumbprint, start: key.start, end: key.end });
        }
        let text = self.signed.as_bytes();
        let genuine = match self.algorithm {
            Algorithm::Rs256 => key.certificate.verifies(text, &self.signature),
            Algorithm::Ps256 => key.certificate.verifies_pss(text, &self.signature),
        };
        if genuine { Ok(key) } else { Err(Disbelief::BadSignature) }
    }

    /// Whether its time has come and is not over, by a clock that may differ so much.
    pub(super) fn is_timely(&self, now: DateTime<Utc>, slack: TimeDelta) -> bool {
        let begun = self.claims.nbf.is_none_or(|nbf| instant(nbf).is_some_and(|nbf| nbf <= now + slack));
        begun && instant(self.claims.exp).is_some_and(|exp| exp > now - slack)
    }

    fn names(&self, certificate: &Certificate) -> bool {
        match &self.named {
            Named::Sha1(hash) => *hash == certificate.thumbprint.bytes(),
            Named::Sha256(hash) => *hash == sha256(&certificate.der),
        }
    }
}

/// base64url, with or without padding.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, Malformed> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| Malformed)
}

fn instant(seconds: f64) -> Option<DateTime<Utc>> {
    let in_range = seconds.is_finite() && seconds.abs() < 1e11;
    in_range.then(|| DateTime::from_timestamp_micros((seconds * 1e6) as i64)).flatten()
}
