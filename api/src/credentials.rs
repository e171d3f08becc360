//! Credentials: what a request may carry to say who sends it, and how each kind is checked. Whatever it was, a [`Caller`] comes out.

mod api_key;
mod basic;
mod oidc;
mod proxy;

use std::net::IpAddr;

use actix_web::{
    HttpRequest,
    http::header::{AUTHORIZATION, HeaderMap, HeaderName},
};
use chrono::{DateTime, Utc};

pub(crate) use api_key::IssuedKey;
pub use basic::BasicUser;
pub use oidc::{Claim, Issuer, Pace, SignatureAlgorithm};
pub use proxy::{CertifiedUser, Proxy};

use crate::{
    Claims, Grants, Problem, Tokens,
    caller::{Caller, Credential},
};

/// Who is let in besides the owners of this service's own tokens and keys.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// OpenID Connect issuers whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// Senders that can do no more than Basic (RFC 7617).
    pub basic: Vec<BasicUser>,
    /// The proxy in front of the service.
    pub proxy: Option<Proxy>,
}

impl Identity {
    /// Whether it can be used, without asking anybody.
    pub fn check(&self) -> Result<(), IdentityError> {
        self.issuers.iter().cloned().try_for_each(|issuer| oidc::TokenReader::new(issuer).map(drop))
    }
}

/// Why an [`Identity`] cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IdentityError(pub(crate) String);

/// Everything that credentials are checked with.
#[derive(Debug)]
pub(crate) struct Credentials {
    tokens: Tokens,
    issuers: Vec<oidc::TokenReader>,
    basic: basic::Passwords,
    pub(crate) proxy: Option<Proxy>,
}

/// What a request carries.
#[derive(Debug, PartialEq)]
enum Presented<'a> {
    Nothing,
    ApiKey(&'a str),
    Basic(&'a str),
    Bearer(&'a str),
    Certificate(String),
}

impl Presented<'_> {
    /// Whether it may be guessed by trying: passwords are chosen by people.
    fn is_guessable(&self) -> bool {
        matches!(self, Self::Basic(_))
    }
}

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

impl Credentials {
    pub(crate) fn new(tokens: Tokens, identity: Identity) -> Result<Self, IdentityError> {
        let issuers = identity.issuers.into_iter().map(oidc::TokenReader::new).collect::<Result<_, _>>()?;
        Ok(Self { tokens, issuers, basic: basic::Passwords::new(identity.basic), proxy: identity.proxy })
    }

    /// Those that need no configuration: this service's own tokens and keys.
    pub(crate) fn own(tokens: Tokens) -> Self {
        Self { tokens, issuers: Vec::new(), basic: basic::Passwords::default(), proxy: None }
    }

    pub(crate) fn takes_basic(&self) -> bool {
        !self.basic.is_empty()
    }

    /// Where a request comes from: the address of the connection, or what a trusted proxy says.
    pub(crate) fn client(&self, request: &HttpRequest) -> Option<IpAddr> {
        let peer = request.peer_addr()?.ip().to_canonical();
        Some(self.proxy.as_ref().map_or(peer, |proxy| proxy.client(peer, request.headers())))
    }

    /// Who sends a request, if it says so. `blocked`: a credential that may be guessed is not even looked at.
    pub(crate) async fn caller(
        &self,
        db: &db::Db,
        request: &HttpRequest,
        blocked: Option<std::time::Duration>,
    ) -> Result<Option<Caller>, Rejected> {
        let presented = self.presented(request)?;
        if let Some(wait) = blocked.filter(|_| presented.is_guessable()) {
            return Err(Cause::Blocked(wait).into());
        }
        let now = Utc::now();
        match presented {
            Presented::Nothing => Ok(None),
            Presented::ApiKey(key) => api_key::caller(db, key, now).await.map(Some),
            Presented::Basic(encoded) => self.basic_caller(request, encoded).map(Some),
            Presented::Bearer(token) if api_key::is_key(token) => api_key::caller(db, token, now).await.map(Some),
            Presented::Bearer(token) => self.token_owner(token, now).await.map(Some),
            Presented::Certificate(subject) => {
                let proxy = self.proxy.as_ref().ok_or(Cause::NotTrustedProxy)?;
                proxy.caller(&subject).map(Some)
            }
        }
    }

    fn presented<'a>(&self, request: &'a HttpRequest) -> Result<Presented<'a>, Rejected> {
        let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
        let certified = self.proxy.as_ref().map_or(Ok(None), |proxy| proxy.certified(peer, request.headers()))?;
        match (authorization(request.headers())?, one(request.headers(), &API_KEY)?) {
            (Some(_), Some(_)) => Err(Cause::Two.into()),
            (None, Some(key)) => Ok(Presented::ApiKey(key)),
            (Some((scheme, token)), None) if scheme.eq_ignore_ascii_case("bearer") => Ok(Presented::Bearer(token)),
            (Some((scheme, encoded)), None) if scheme.eq_ignore_ascii_case("basic") && self.takes_basic() => {
                Ok(Presented::Basic(encoded))
            }
            (Some(_), None) => Err(Cause::NotBearer.into()),
            (None, None) => Ok(certified.map_or(Presented::Nothing, Presented::Certificate)),
        }
    }

    fn basic_caller(&self, request: &HttpRequest, encoded: &str) -> Result<Caller, Rejected> {
        let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
        if !proxy::is_protected(self.proxy.as_ref(), peer, request.headers()) {
            return Err(Cause::Unprotected.into());
        }
        self.basic.caller(encoded)
    }

    async fn token_owner(&self, token: &str, now: DateTime<Utc>) -> Result<Caller, Rejected> {
        let issuer = oidc::said_issuer(token);
        match self.issuers.iter().find(|reader| Some(reader.issuer()) == issuer.as_deref()) {
            Some(reader) => reader.caller(token, now).await,
            None => Ok(owner(self.tokens.verify(token, now)?)),
        }
    }
}

/// The owner of one of this service's own tokens.
fn owner(claims: Claims) -> Caller {
    let Claims { sub, roles, groups, organizations, exp, .. } = claims;
    Caller {
        subject: sub,
        grants: Grants { roles, groups, organizations },
        credential: Credential::Token,
        expires_at: Some(DateTime::from_timestamp(exp, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)),
        notice: None,
    }
}

fn authorization(headers: &HeaderMap) -> Result<Option<(&str, &str)>, Rejected> {
    let Some(text) = one(headers, &AUTHORIZATION)? else { return Ok(None) };
    let parts = text.split_once(' ').filter(|(_, token)| !token.is_empty());
    parts.map(Some).ok_or_else(|| Cause::NotBearer.into())
}

/// A header that may stand there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Rejected> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(text.trim())).map_err(|_| Cause::NotBearer.into()),
        (Some(_), Some(_)) => Err(Cause::NotBearer.into()),
    }
}

/// A credential that is not accepted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejected {
    /// Why.
    pub(crate) cause: Cause,
    /// Who it names, when that can be believed.
    pub(crate) subject: Option<String>,
}

impl Rejected {
    /// A credential of which nothing can be believed.
    pub(crate) fn unsigned(cause: Cause) -> Self {
        Self { cause, subject: None }
    }
}

impl From<Cause> for Rejected {
    fn from(cause: Cause) -> Self {
        Self::unsigned(cause)
    }
}

/// Why a credential is not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Cause {
    #[error("The request carries no token: send `Authorization: Bearer <token>`.")]
    Missing,
    #[error("The Authorization header is not `Bearer <token>`.")]
    NotBearer,
    #[error("The request carries both Authorization and X-API-Key: send one.")]
    Two,
    #[error("The token is malformed: a token is three base64url parts with dots between them.")]
    Malformed,
    #[error("The token is signed with `{0}`: only {1} is accepted.")]
    Algorithm(String, String),
    #[error("The token's signature is wrong: this service did not issue it, or its secret was changed since.")]
    Signature,
    #[error("The token's signature is wrong: its issuer did not sign this.")]
    IssuersSignature,
    #[error("The token expired at {0}.")]
    Expired(DateTime<Utc>),
    #[error("The token is not valid before {0}: compare the clocks.")]
    NotYetValid(DateTime<Utc>),
    #[error("The token's issuer (`iss`) is not `rekey`.")]
    Issuer,
    #[error("The token's audience (`aud`) is not `{0}`.")]
    Audience(String),
    #[error("The token's claims cannot be read: {0}.")]
    Claims(String),
    #[error("The token's header asks for what is not understood here: {0}.")]
    Header(&'static str),
    #[error("The token is bound to a key (`cnf`), which this service does not check: send one that is not bound.")]
    Bound,
    #[error("The token is signed with a key that its issuer does not publish.")]
    UnknownKey,
    #[error("The token does not name its key (`kid`), and its issuer has several.")]
    WhichKey,
    #[error("The keys of {0} are not known so far, because it does not answer.")]
    IssuerSilent(String),
    #[error("The API key is not one of this service.")]
    UnknownApiKey,
    #[error("The API key was revoked at {0}.")]
    Revoked(DateTime<Utc>),
    #[error("The API key expired at {0}.")]
    ApiKeyExpired(DateTime<Utc>),
    #[error("The name or the password is wrong.")]
    Password,
    #[error("A password does not travel over plain HTTP: use HTTPS.")]
    Unprotected,
    #[error("Only the configured proxy may say whose client certificate it is.")]
    NotTrustedProxy,
    #[error("The client certificate of `{0}` is not configured.")]
    UnknownCertificate(String),
    #[error("The proxy has not accepted the client certificate.")]
    UnverifiedCertificate,
    #[error("Too many requests from your address carried no valid credential.")]
    Blocked(std::time::Duration),
    #[error("The database does not answer.")]
    Database,
}

impl From<Cause> for Problem {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Blocked(wait) => Self::too_many_failures(wait),
            Cause::IssuerSilent(_) => Self::issuer_unavailable(cause.to_string()),
            Cause::Database => Self::database_unavailable(&cause),
            cause => Self::unauthenticated(cause.to_string()),
        }
    }
}
