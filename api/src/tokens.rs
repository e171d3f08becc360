//! Bearer tokens: compact JWTs signed with HS256 by this service's own secret.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What somebody may do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(example = "approver")]
pub enum Role {
    /// Raise renewals.
    Requester,
    /// Decide at gates.
    Approver,
    /// Cancel, pause, resume, retry, roll back.
    Operator,
    /// Read the audit of everything.
    Auditor,
    /// Pass a gate alone, in an emergency, with a reason and a review. Not held by an administrator unless named.
    BreakGlass,
    /// All of it, except approving what they asked for themselves.
    Administrator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::Requester, Self::Approver, Self::Operator, Self::Auditor, Self::BreakGlass, Self::Administrator];

    /// The word used in tokens and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requester => "requester",
            Self::Approver => "approver",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::BreakGlass => "break_glass",
            Self::Administrator => "administrator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// Text that is not a role.
#[derive(Debug, thiserror::Error)]
#[error("a role is one of requester, approver, operator, auditor, break_glass, administrator")]
pub struct UnknownRole;

/// What a token says. Times are Unix seconds of real time, also when a lab runs faster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Claims {
    /// Who.
    pub sub: String,
    /// What they may do.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// The groups that they belong to.
    #[serde(default)]
    pub groups: Vec<String>,
    /// When it was issued.
    pub iat: i64,
    /// Not valid before.
    pub nbf: i64,
    /// Not valid from then on.
    pub exp: i64,
    /// `rekey`.
    pub iss: String,
    /// `rekey`.
    pub aud: String,
}

impl Claims {
    /// Claims that are valid from `now` on, for `lifetime`.
    #[must_use]
    pub fn new(subject: &str, roles: Vec<Role>, groups: Vec<String>, now: DateTime<Utc>, lifetime: TimeDelta) -> Self {
        let issued = now.timestamp();
        Self {
            sub: subject.to_owned(),
            roles,
            groups,
            iat: issued,
            nbf: issued,
            exp: issued.saturating_add(lifetime.num_seconds()),
            iss: ISSUER.to_owned(),
            aud: ISSUER.to_owned(),
        }
    }
}

/// Mints and checks tokens with one secret. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    keys: Arc<(EncodingKey, DecodingKey)>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens { secret: <hidden> }")
    }
}

impl Tokens {
    /// Tokens signed with HS256 and this secret.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { keys: Arc::new((EncodingKey::from_secret(secret), DecodingKey::from_secret(secret))) }
    }

    /// The compact JWT of these claims.
    pub fn mint(&self, claims: &Claims) -> Result<String, TokenError> {
        check_subject(&claims.sub)?;
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.keys.0)?)
    }

    /// The claims of a token that may be used at `now`.
    pub(crate) fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, Rejected> {
        require_hs256(token)?;
        let said = self.signed_claims(token)?;
        let subject = said.get("sub").and_then(|s| s.as_str()).filter(|s| check_subject(s).is_ok()).map(str::to_owned);
        check_claims(said, now).map_err(|cause| Rejected { cause, subject })
    }

    /// What a token says if this service signed it, whatever it says.
    fn signed_claims(&self, token: &str) -> Result<serde_json::Map<String, serde_json::Value>, Rejected> {
        let mut signature_only = Validation::new(Algorithm::HS256);
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        jsonwebtoken::decode(token, &self.keys.1, &signature_only).map(|data| data.claims).map_err(|error| {
            Rejected::unsigned(match error.kind() {
                ErrorKind::InvalidSignature => Cause::Signature,
                _ => Cause::Malformed,
            })
        })
    }
}

/// Why a token cannot be minted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The subject cannot stand in a record.
    #[error("the subject of a token has 1 to 200 characters and no control characters")]
    Subject,
    /// The token could not be signed.
    #[error("the token cannot be signed")]
    Signing(#[from] jsonwebtoken::errors::Error),
}

/// A token that is not accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rejected {
    /// Why.
    pub(crate) cause: Cause,
    /// Who it names, when this service signed it.
    pub(crate) subject: Option<String>,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Cause {
    #[error("The request carries no token: send `Authorization: Bearer <token>`.")]
    Missing,
    #[error("The Authorization header is not `Bearer <token>`.")]
    NotBearer,
    #[error("The token is malformed: a token is three base64url parts with dots between them.")]
    Malformed,
    #[error("The token is signed with `{0}`: only HS256 is accepted.")]
    Algorithm(String),
    #[error("The token's signature is wrong: this service did not issue it, or its secret was changed since.")]
    Signature,
    #[error("The token expired at {0}.")]
    Expired(DateTime<Utc>),
    #[error("The token is not valid before {0}: compare the clocks.")]
    NotYetValid(DateTime<Utc>),
    #[error("The token's issuer (`iss`) is not `rekey`.")]
    Issuer,
    #[error("The token's audience (`aud`) is not `rekey`.")]
    Audience,
    #[error("The token's claims cannot be read: {0}.")]
    Claims(String),
}

impl Rejected {
    /// A token of which nothing can be believed.
    pub(crate) fn unsigned(cause: Cause) -> Self {
        Self { cause, subject: None }
    }
}

/// Looks at the header before anything else does: the algorithm is ours to choose, not the token's.
fn require_hs256(token: &str) -> Result<(), Rejected> {
    #[derive(Deserialize)]
    struct Algorithm {
        alg: String,
    }
    let malformed = || Rejected::unsigned(Cause::Malformed);
    if token.split('.').count() != 3 {
        return Err(malformed());
    }
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap_or_default()).map_err(|_| malformed())?;
    let Algorithm { alg } = serde_json::from_slice(&header).map_err(|_| malformed())?;
    if alg == "HS256" {
        return Ok(());
    }
    let printable = alg.chars().filter(|c| c.is_ascii_alphanumeric()).take(16).collect();
    Err(Rejected::unsigned(Cause::Algorithm(printable)))
}

fn check_claims(said: serde_json::Map<String, serde_json::Value>, now: DateTime<Utc>) -> Result<Claims, Cause> {
    if said.get("iss").and_then(|v| v.as_str()) != Some(ISSUER) {
        return Err(Cause::Issuer);
    }
    if said.get("aud").and_then(|v| v.as_str()) != Some(ISSUER) {
        return Err(Cause::Audience);
    }
    let claims: Claims = serde_json::from_value(serde_json::Value::Object(said)).map_err(|error| {
        let text: String = error.to_string().chars().take(200).collect();
        Cause::Claims(text)
    })?;
    check_subject(&claims.sub).map_err(|error| Cause::Claims(error.to_string()))?;
    let instant = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    if claims.exp <= now.timestamp() {
        return Err(Cause::Expired(instant(claims.exp)));
    }
    if claims.nbf > now.timestamp().saturating_add(CLOCK_TOLERANCE_SECONDS) {
        return Err(Cause::NotYetValid(instant(claims.nbf)));
    }
    Ok(claims)
}

fn check_subject(subject: &str) -> Result<(), TokenError> {
    let length = subject.chars().count();
    if !(1..=200).contains(&length) || subject.chars().any(char::is_control) {
        return Err(TokenError::Subject);
    }
    Ok(())
}

const ISSUER: &str = "rekey";

/// A token minted on a machine whose clock is a little ahead is accepted at once.
const CLOCK_TOLERANCE_SECONDS: i64 = 30;

#[cfg(test)]
mod tests;
