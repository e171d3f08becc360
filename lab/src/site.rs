//! What answers on the ports of a server: its PowerShell endpoints and its metadata document.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
};
use serde_json::json;

use crate::{
    certificate::Certificate,
    endpoint::{MAX_ENVELOPE, PowerShell},
    http::{Answer, Cut, Service, body, json, status, with_body},
    running::Running,
    server::Server,
    trust::x5t,
};

/// One port of one server.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) running: Arc<Running>,
    /// Index of the server.
    pub(crate) server: usize,
    pub(crate) endpoint: Arc<PowerShell>,
    pub(crate) kind: SiteKind,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SiteKind {
    /// The Exchange front end: `/PowerShell/` and what else it serves.
    FrontEnd,
    /// Windows Remote Management: `/wsman`.
    RemoteManagement,
}

impl Service for Site {
    fn is_open(&self) -> bool {
        self.endpoint.is_open()
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Cut> {
        if !self.is_open() {
            return Err(Cut);
        }
        let path = request.uri().path().trim_end_matches('/').to_ascii_lowercase();
        match (self.kind, path.as_str()) {
            (SiteKind::FrontEnd, "/powershell") | (SiteKind::RemoteManagement, "/wsman") => self.soap(request).await,
            (SiteKind::FrontEnd, "/autodiscover/metadata/json/1") if request.method() == Method::GET => {
                let document = self.running.with(|world| metadata(world.server(self.server)));
                Ok(json(StatusCode::OK, &document))
            }
            _ => Ok(status(StatusCode::NOT_FOUND)),
        }
    }
}

impl Site {
    async fn soap(&self, request: Request<Incoming>) -> Result<Answer, Cut> {
        if request.method() != Method::POST {
            return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
        }
        let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if !authorization.is_some_and(|value| self.running.admits(value)) {
            return Ok(unauthorized());
        }
        let body = match body(request, MAX_ENVELOPE + SPARE).await {
            Ok(body) => body,
            Err(answer) => return Ok(answer),
        };
        let reply = self.endpoint.answer(body.into()).await?;
        let code = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Ok(with_body(code, "application/soap+xml;charset=UTF-8", reply.body.into()))
    }
}

/// How much longer than an envelope a body may be before it is not even looked at.
const SPARE: usize = 16 * 1024;

fn unauthorized() -> Answer {
    let mut answer = status(StatusCode::UNAUTHORIZED);
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"rekey lab\""));
    answer
}

/// The keys that this server tells others to trust (domain.md 3.6).
fn metadata(server: &Server) -> serde_json::Value {
    const SERVICE: &str = "00000002-0000-0ff1-ce00-000000000000";
    const REALM: &str = "contoso.example";
    let key = |certificate: &Arc<Certificate>| {
        json!({
            "usage": "signing",
            "keyinfo": { "x5t": x5t(certificate.thumbprint.as_str()) },
            "keyvalue": { "type": "x509Certificate", "value": STANDARD.encode(&certificate.der) },
        })
    };
    let location = format!("https://{}/autodiscover/metadata/json/1", server.spec.fqdn);
    json!({
        "id": format!("_{}", server.spec.name.to_lowercase()),
        "version": "1.0",
        "name": "Exchange",
        "realm": REALM,
        "serviceName": SERVICE,
        "issuer": format!("{SERVICE}@{REALM}"),
        "allowedAudiences": [format!("{SERVICE}/{}@{REALM}", server.spec.fqdn)],
        "keys": server.metadata.iter().map(key).collect::<Vec<_>>(),
        "endpoints": [{ "location": location, "protocol": "OAuth2", "usage": "metadata" }],
    })
}
