//! The token endpoint: who gets a token for what, and why somebody does not (cloud.md 1.5).

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    KeyCredential, ObjectKind, Tenant,
    assertion::{Assertion, Disbelief, Padding, decode},
};
use crate::organization::{EXCHANGE_ADMINISTRATOR, Permission};

/// What a client sends to the token endpoint. It holds an assertion: there is no `Debug`.
#[derive(Clone, Default)]
pub struct TokenRequest<'a> {
    /// The tenant of the path.
    pub tenant: &'a str,
    /// The address of the token endpoint as the client called it.
    pub endpoint: &'a str,
    /// The fields of its form.
    pub form: Vec<(String, String)>,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resource {
    /// Microsoft Graph.
    Graph,
    /// Exchange Online.
    ExchangeOnline,
}

impl Resource {
    /// Of every cloud, by host.
    const HOSTS: [(&'static str, Self); 8] = [
        ("graph.microsoft.com", Self::Graph),
        ("graph.microsoft.us", Self::Graph),
        ("dod-graph.microsoft.us", Self::Graph),
        ("microsoftgraph.chinacloudapi.cn", Self::Graph),
        ("outlook.office365.com", Self::ExchangeOnline),
        ("outlook.office365.us", Self::ExchangeOnline),
        ("outlook-dod.office365.us", Self::ExchangeOnline),
        ("outlook.office365.cn", Self::ExchangeOnline),
    ];

    /// The resource that `https://<host>` or one of its scopes names.
    #[must_use]
    pub fn of(audience: &str) -> Option<Self> {
        let host = audience.strip_prefix("https://")?.split('/').next()?;
        Self::HOSTS.iter().find(|(known, _)| *known == host).map(|(_, resource)| *resource)
    }
}

/// Who calls, by the token that came along.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The application.
    pub app_id: Uuid,
    /// The application roles that its token holds.
    pub roles: BTreeSet<String>,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenError {
    /// The number after `AADSTS`.
    pub code: u32,
    /// `error`.
    pub error: &'static str,
    /// The text after the number.
    pub text: String,
}

impl TokenError {
    /// The error of that number. Its text is the one known from public reports, or ours.
    #[must_use]
    pub fn of(code: u32) -> Self {
        let (error, text) = match code {
            50_027 => ("invalid_request", "JWT token is invalid or malformed."),
            70_003 => ("unsupported_grant_type", "The app requested an unsupported grant type."),
            70_011 => (
                "invalid_scope",
                "The provided request must include a 'scope' input parameter with a known resource and '/.default'.",
            ),
            90_002 => (
                "invalid_request",
                "Tenant not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.",
            ),
            90_033 => ("temporarily_unavailable", "A transient error has occurred. Please try again."),
            700_016 => ("unauthorized_client", "Application was not found in the directory."),
            700_021 => {
                ("invalid_client", "Client assertion application identifier doesn't match 'client_id' parameter.")
            }
            700_023 => ("invalid_client", "Client assertion audience claim does not match Realm issuer."),
            700_024 => ("invalid_client", "Client assertion is not within its valid time range."),
            700_027 => (
                "invalid_client",
                "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found.]",
            ),
            7_000_215 => ("invalid_client", "Invalid client secret provided."),
            7_000_216 => (
                "invalid_client",
                "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.",
            ),
            7_000_222 => ("invalid_client", "The provided client secret keys are expired."),
            _ => ("invalid_request", "The request was refused."),
        };
        Self { code, error, text: text.to_owned() }
    }

    fn disbelief(why: Disbelief) -> Self {
        let known = Self::of(700_027);
        let text = match why {
            Disbelief::UnknownKey => return known,
            Disbelief::BadSignature => "Client assertion failed signature validation.".to_owned(),
            Disbelief::Expired { thumbprint, start, end } => format!(
                "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key used is expired., Thumbprint of key used by client: '{thumbprint}', Found key 'Start={}, End={}']",
                start.format("%m/%d/%Y %H:%M:%S"),
                end.format("%m/%d/%Y %H:%M:%S")
            ),
        };
        Self { text, ..known }
    }

    /// The HTTP status that it comes with.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.error {
            "invalid_client" => 401,
            "temporarily_unavailable" => 503,
            _ => 400,
        }
    }

    /// What the client reads.
    #[must_use]
    pub fn json(&self, now: DateTime<Utc>) -> Value {
        let (trace, correlation) = (Uuid::new_v4(), Uuid::new_v4());
        let timestamp = now.format("%Y-%m-%d %H:%M:%SZ").to_string();
        let description = format!(
            "AADSTS{}: {}\r\nTrace ID: {trace}\r\nCorrelation ID: {correlation}\r\nTimestamp: {timestamp}",
            self.code, self.text
        );
        json!({
            "error": self.error,
            "error_description": description,
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
        })
    }
}

/// How long access tokens live.
const LIFE: TimeDelta = TimeDelta::seconds(3599);
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What an access token says, as far as it is looked at again.
#[derive(Deserialize)]
struct Said {
    aud: String,
    appid: Uuid,
    exp: i64,
    tid: Uuid,
    #[serde(default)]
    roles: BTreeSet<String>,
}

impl Tenant {
    /// Checks a request for a token and answers it.
    pub fn token(&mut self, request: &TokenRequest<'_>, now: DateTime<Utc>) -> Result<Value, TokenError> {
        self.token_requests += 1;
        let replica = self.token_requests % self.replicas();
        let (app_id, scope) = self.admitted(request, replica, now)?;
        Ok(json!({
            "token_type": "Bearer",
            "expires_in": LIFE.num_seconds(),
            "ext_expires_in": LIFE.num_seconds(),
            "access_token": self.access_token(app_id, scope, now).ok_or_else(|| TokenError::of(90_033))?,
        }))
    }

    /// The application that asks, and the audience of its token.
    fn admitted<'a>(
        &self,
        request: &'a TokenRequest<'_>,
        replica: usize,
        now: DateTime<Utc>,
    ) -> Result<(Uuid, &'a str), TokenError> {
        let field = |name: &str| request.form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if !self.is_named(request.tenant) {
            return Err(TokenError::of(90_002));
        }
        if field("grant_type") != Some("client_credentials") {
            return Err(TokenError::of(70_003));
        }
        let app_id =
            field("client_id").and_then(|id| Uuid::parse_str(id).ok()).ok_or_else(|| TokenError::of(700_016))?;
        let application = self.find_app(ObjectKind::Application, app_id).ok_or_else(|| TokenError::of(700_016))?;
        let scope = field("scope").and_then(|scope| scope.strip_suffix("/.default"));
        let audience = scope.filter(|scope| Resource::of(scope).is_some()).ok_or_else(|| TokenError::of(70_011))?;
        let assertion = match (field("client_assertion"), field("client_secret")) {
            (Some(assertion), _) if field("client_assertion_type") == Some(ASSERTION_TYPE) => assertion,
            (None, Some(_)) => return Err(TokenError::of(7_000_215)),
            _ => return Err(TokenError::of(7_000_216)),
        };
        let assertion = Assertion::read(assertion, Padding::Tolerated).map_err(|_| TokenError::of(50_027))?;
        let (keys, _) = self.trusted_keys(application, replica, now);
        self.believe(&assertion, request, app_id, keys, now)?;
        Ok((app_id, audience))
    }

    fn believe(
        &self,
        assertion: &Assertion<'_>,
        request: &TokenRequest<'_>,
        app_id: Uuid,
        keys: &[KeyCredential],
        now: DateTime<Utc>,
    ) -> Result<(), TokenError> {
        assertion.check(keys, now).map_err(TokenError::disbelief)?;
        let is_client = |name: &str| Uuid::parse_str(name).is_ok_and(|id| id == app_id);
        let claims = &assertion.claims;
        if !is_client(&claims.iss) || !claims.sub.as_deref().is_some_and(is_client) {
            return Err(TokenError::of(700_021));
        }
        if !self.is_audience(&claims.aud, request.endpoint) {
            return Err(TokenError::of(700_023));
        }
        if !assertion.is_timely(now, self.slack) {
            return Err(TokenError::of(700_024));
        }
        Ok(())
    }

    /// The token endpoint or the issuer, by whichever name of the tenant.
    fn is_audience(&self, audience: &str, endpoint: &str) -> bool {
        let Some((host, _)) = endpoint.strip_prefix("https://").and_then(|rest| rest.split_once('/')) else {
            return false;
        };
        let Some(rest) = audience.strip_prefix("https://").and_then(|rest| rest.strip_prefix(host)) else {
            return false;
        };
        let Some((tenant, tail)) = rest.strip_prefix('/').and_then(|rest| rest.split_once('/')) else { return false };
        self.is_named(tenant) && ["oauth2/v2.0/token", "v2.0"].contains(&tail)
    }

    fn access_token(&self, app_id: Uuid, audience: &str, now: DateTime<Utc>) -> Option<String> {
        let ours = app_id == self.spec.client_id;
        let resource = Resource::of(audience)?;
        let meant = |permission: &&Permission| {
            (**permission == Permission::ExchangeManageAsApp) == (resource == Resource::ExchangeOnline)
        };
        let roles: Vec<_> = self.permissions.iter().filter(|_| ours).filter(meant).filter_map(|p| p.role()).collect();
        let administers = ours && self.permissions.contains(&Permission::ExchangeAdministrator);
        let principal = self.find_app(ObjectKind::ServicePrincipal, app_id).map(|index| self.objects()[index].id);
        let claims = json!({
            "aud": audience,
            "iss": format!("https://sts.windows.net/{}/", self.spec.tenant_id),
            "iat": now.timestamp(), "nbf": now.timestamp(), "exp": (now + LIFE).timestamp(),
            "appid": app_id, "appidacr": "2", "idtyp": "app", "oid": principal, "sub": principal,
            "roles": roles,
            "tid": self.spec.tenant_id,
            "uti": Uuid::new_v4(), "ver": "1.0",
            "wids": administers.then_some(EXCHANGE_ADMINISTRATOR).into_iter().collect::<Vec<_>>(),
        });
        self.sign(&claims)
    }

    fn sign(&self, claims: &Value) -> Option<String> {
        let x5t = URL_SAFE_NO_PAD.encode(self.signing_certificate().thumbprint.bytes());
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5t": x5t, "kid": x5t });
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let text = format!("{}.{}", part(&header), part(claims));
        let signature = self.signing_key().sign(text.as_bytes())?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Who shows this token, if it is one for that resource and its time is not over.
    #[must_use]
    pub fn caller(&self, token: &str, resource: Resource, now: DateTime<Utc>) -> Option<Caller> {
        let (text, signature) = token.rsplit_once('.')?;
        let (_, claims) = text.split_once('.')?;
        let said: Said = serde_json::from_slice(&decode(claims).ok()?).ok()?;
        let genuine = self.signing_certificate().verifies(text.as_bytes(), &decode(signature).ok()?);
        let timely = said.exp > (now - self.slack).timestamp();
        let meant = said.tid == self.spec.tenant_id && Resource::of(&said.aud) == Some(resource);
        (genuine && timely && meant).then_some(Caller { app_id: said.appid, roles: said.roles })
    }

    /// The keys that what the tenant issues is signed with, as JWK (RFC 7517).
    #[must_use]
    pub fn signing_keys(&self) -> Value {
        use base64::engine::general_purpose::STANDARD;
        let certificate = self.signing_certificate();
        let x5t = URL_SAFE_NO_PAD.encode(certificate.thumbprint.bytes());
        json!({ "keys": [{ "kty": "RSA", "use": "sig", "kid": x5t, "x5t": x5t, "x5c": [STANDARD.encode(&certificate.der)] }] })
    }

    /// The keys that tokens for servers are signed with, as the metadata document shows them (cloud.md 3.6).
    #[must_use]
    pub fn metadata(&self, base: &str) -> Value {
        use base64::engine::general_purpose::STANDARD;
        const ISSUER: &str = "00000001-0000-0000-c000-000000000000";
        let (tenant, certificate) = (self.spec.tenant_id, self.signing_certificate());
        json!({
            "id": format!("_{}", Uuid::from_u128(tenant.as_u128() ^ 1)),
            "version": "1.0",
            "name": "Windows Azure Active Directory Access Control",
            "realm": tenant,
            "serviceName": ISSUER,
            "issuer": format!("{ISSUER}@{tenant}"),
            "allowedAudiences": [format!("{ISSUER}@{tenant}")],
            "keys": [{
                "usage": "signing",
                "keyinfo": { "x5t": URL_SAFE_NO_PAD.encode(certificate.thumbprint.bytes()) },
                "keyvalue": { "type": "x509Certificate", "value": STANDARD.encode(&certificate.der) },
            }],
            "endpoints": [{
                "location": format!("{base}/{tenant}/tokens/OAuth/2"), "protocol": "OAuth2", "usage": "issuance",
            }],
            "created": self.created().to_rfc3339_opts(SecondsFormat::Secs, true),
        })
    }

    fn created(&self) -> DateTime<Utc> {
        self.signing_certificate().not_before
    }
}
