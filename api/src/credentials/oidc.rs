//! Tokens of OpenID Connect issuers (OpenID Connect Core 1.0, RFC 7519, RFC 9068): access tokens and ID tokens for this service.
//!
//! `keys` knows what an issuer signs with, `claims` what its tokens say of somebody. The algorithm is chosen by the configuration, not by the token.

mod claims;
mod keys;

use std::{collections::BTreeMap, collections::BTreeSet, fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use domain::OrganizationId;
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Cause, IdentityError, Rejected};
use crate::{Role, caller::Caller};

/// An issuer whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Its identifier, exactly as in `iss`: an https URL (http only on this machine).
    pub issuer: String,
    /// Any of these must be in `aud`.
    pub audiences: Vec<String>,
    /// What tokens may be signed with.
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Where its keys are; without it the discovery document says so.
    pub jwks_url: Option<String>,
    /// Where the name for the record is.
    pub subject_claim: Claim,
    /// Where the groups are.
    pub groups_claims: Vec<Claim>,
    /// The roles that a group brings.
    pub roles: BTreeMap<String, Vec<Role>>,
    /// The organizations that a group reaches. Whoever is in none of these groups reaches none. Without the table everybody reaches all.
    pub organizations: Option<BTreeMap<String, BTreeSet<OrganizationId>>>,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// Certificate authorities in PEM, instead of the system's.
    pub ca: Option<Vec<u8>>,
    /// When it is asked.
    pub pace: Pace,
}

/// When an issuer is asked for its keys.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Known keys are asked for again after this time, while they are used on.
    pub refresh: Duration,
    /// For a key that is not known it is asked this often at most.
    pub ask_again: Duration,
    /// A key that it publishes no more is accepted for so long.
    pub grace: Duration,
    /// An answer that takes longer is given up.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(3600),
            ask_again: Duration::from_secs(30),
            grace: Duration::from_secs(3600),
            patience: Duration::from_secs(5),
        }
    }
}

/// What a token may be signed with (RFC 7518, 3.1): public keys only. `none` and HMAC cannot be written here.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "RFC 7518 names them")]
pub enum SignatureAlgorithm {
    #[serde(rename = "EdDSA")]
    EdDsa,
    Es256,
    Es384,
    Ps256,
    Ps384,
    Ps512,
    Rs256,
    Rs384,
    Rs512,
}

impl SignatureAlgorithm {
    fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::EdDsa => Algorithm::EdDSA,
            Self::Es256 => Algorithm::ES256,
            Self::Es384 => Algorithm::ES384,
            Self::Ps256 => Algorithm::PS256,
            Self::Ps384 => Algorithm::PS384,
            Self::Ps512 => Algorithm::PS512,
            Self::Rs256 => Algorithm::RS256,
            Self::Rs384 => Algorithm::RS384,
            Self::Rs512 => Algorithm::RS512,
        }
    }
}

/// Where in a token something stands: the name of a claim, or a JSON Pointer (RFC 6901) when it begins with `/`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct Claim(pub String);

impl Claim {
    fn of<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let Some(path) = self.0.strip_prefix('/') else { return claims.get(&self.0) };
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let member = claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
        rest.map_or(Some(member), |rest| member.pointer(&format!("/{rest}")))
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the tokens of one issuer.
#[derive(Debug)]
pub(super) struct TokenReader {
    issuer: Issuer,
    keys: Arc<keys::Keys>,
}

impl TokenReader {
    pub(super) fn new(issuer: Issuer) -> Result<Self, IdentityError> {
        let keys =
            Arc::new(keys::Keys::new(&issuer).map_err(|error| IdentityError(format!("{}: {error}", issuer.issuer)))?);
        Ok(Self { issuer, keys })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer.issuer
    }

    /// The owner of a token that may be used at `now`.
    pub(super) async fn caller(&self, token: &str, now: DateTime<Utc>) -> Result<Caller, Rejected> {
        let header = Header::of(token)?;
        let algorithm = self.algorithm(&header)?;
        let key = self.keys.key(header.kid.as_deref(), algorithm).await?;
        let said = signed_claims(token, &key, algorithm)?;
        let subject = claims::subject(&self.issuer, &said).ok();
        claims::caller(&self.issuer, &said, now).map_err(|cause| Rejected { cause, subject })
    }

    fn algorithm(&self, header: &Header) -> Result<SignatureAlgorithm, Cause> {
        let allowed = &self.issuer.algorithms;
        allowed.iter().copied().find(|allowed| allowed.name() == header.alg).ok_or_else(|| {
            let printable = header.alg.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
            let names: Vec<_> = allowed.iter().map(|allowed| allowed.name()).collect();
            Cause::Algorithm(printable, names.join(", "))
        })
    }
}

/// What stands before the claims. Keys that a token brings along (`jwk`, `jku`, `x5u`) are not looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

impl Header {
    fn of(token: &str) -> Result<Self, Cause> {
        let header: Self = part(token, 0).ok_or(Cause::Malformed)?;
        if header.crit.is_some() {
            return Err(Cause::Header("`crit`"));
        }
        // Other kinds of tokens are signed with the same keys: a logout token is no credential (RFC 8725, 3.11).
        let typ = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
        match typ.trim_start_matches("application/") {
            "jwt" | "at+jwt" => Ok(header),
            _ => Err(Cause::Header("`typ` is neither JWT nor at+jwt")),
        }
    }
}

/// Who a token says that has issued it. Nothing is believed yet: it only says whose keys to try.
pub(super) fn said_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Payload {
        iss: String,
    }
    part::<Payload>(token, 1).map(|payload| payload.iss)
}

/// A part of a compact JWT.
fn part<T: for<'de> Deserialize<'de>>(token: &str, index: usize) -> Option<T> {
    let parts: Vec<&str> = token.splitn(4, '.').collect();
    let [_, _, _] = parts.as_slice() else { return None };
    let bytes = URL_SAFE_NO_PAD.decode(parts[index]).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// What a token says if that key signed it, whatever it says.
fn signed_claims(
    token: &str,
    key: &jsonwebtoken::DecodingKey,
    algorithm: SignatureAlgorithm,
) -> Result<Map<String, Value>, Cause> {
    let mut signature_only = Validation::new(algorithm.algorithm());
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    jsonwebtoken::decode(token, key, &signature_only).map(|data| data.claims).map_err(|error| match error.kind() {
        ErrorKind::Json(_) | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => Cause::Malformed,
        _ => Cause::IssuersSignature,
    })
}
