//! What answers on the ports of a server: its PowerShell endpoints and its metadata document.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};
use psrp::{
    sealed::{self, Spelling},
    wsman::Fault,
};
use serde_json::json;

use crate::{
    certificate::Certificate,
    endpoint::{MAX_ENVELOPE, PowerShell},
    http::{Answer, Cut, Service, Transport, body, json, status, with_body},
    logon::{Acceptor, Leg, Refused, Scheme},
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

/// What a port remembers of a connection: Windows logons hold for all of it (RFC 4559 section 6).
pub(crate) struct Connection {
    /// What its TLS channel is named by; none without TLS.
    end_point: Option<Arc<[u8]>>,
    logon: Logon,
}

enum Logon {
    None,
    Underway(Box<Acceptor>),
    Complete(Box<Acceptor>),
}

/// Whether a request may be looked at.
enum Access {
    /// It may; the token goes back with the answer.
    Granted(Option<HeaderValue>),
    Denied(Answer),
}

impl Service for Site {
    type Memory = Connection;

    fn is_open(&self) -> bool {
        self.endpoint.is_open()
    }

    fn connected(&self, way: &Transport) -> Connection {
        let end_point = match way {
            Transport::Plain => None,
            Transport::Tls(tls) => Some(tls.end_point.clone()),
        };
        Connection { end_point, logon: Logon::None }
    }

    async fn answer(&self, connection: &mut Connection, request: Request<Incoming>) -> Result<Answer, Cut> {
        if !self.is_open() {
            return Err(Cut);
        }
        let path = request.uri().path().trim_end_matches('/').to_ascii_lowercase();
        match (self.kind, path.as_str()) {
            (SiteKind::FrontEnd, "/powershell") | (SiteKind::RemoteManagement, "/wsman") => {
                self.soap(connection, request).await
            }
            (SiteKind::FrontEnd, "/autodiscover/metadata/json/1") if request.method() == Method::GET => {
                let document = self.running.with(|world| metadata(world.server(self.server)));
                Ok(json(StatusCode::OK, &document))
            }
            _ => Ok(status(StatusCode::NOT_FOUND)),
        }
    }
}

impl Site {
    async fn soap(&self, connection: &mut Connection, request: Request<Incoming>) -> Result<Answer, Cut> {
        if request.method() != Method::POST {
            return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
        }
        let headers = request.headers().clone();
        let body = match body(request, MAX_ENVELOPE + SPARE).await {
            Ok(body) => body,
            Err(answer) => return Ok(answer),
        };
        tokio::time::sleep(self.running.latency).await;
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let token = match self.admit(connection, header(AUTHORIZATION)) {
            Access::Granted(token) => token,
            Access::Denied(answer) => return Ok(answer),
        };
        let sealed = sealed::is_sealed(header(CONTENT_TYPE).unwrap_or_default());
        let mut answer = match &mut connection.logon {
            // A logon of its own, before anything is asked.
            _ if body.is_empty() && token.is_some() => status(StatusCode::OK),
            Logon::Complete(acceptor) if sealed => self.sealed(acceptor, &body).await?,
            Logon::Complete(_) if connection.end_point.is_none() => unsealed(),
            _ => self.plain(body.into()).await?,
        };
        answer.headers_mut().extend(token.map(|token| (WWW_AUTHENTICATE, token)));
        Ok(answer)
    }

    async fn plain(&self, body: Vec<u8>) -> Result<Answer, Cut> {
        let reply = self.endpoint.answer(body).await?;
        let code = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Ok(with_body(code, SOAP, reply.body.into()))
    }

    async fn sealed(&self, acceptor: &mut Acceptor, body: &[u8]) -> Result<Answer, Cut> {
        let Ok(plain) = acceptor.unseal(body) else { return Ok(status(StatusCode::BAD_REQUEST)) };
        let reply = self.endpoint.answer(plain).await?;
        let code = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let spelling = match self.kind {
            SiteKind::FrontEnd => Spelling::Spaced,
            SiteKind::RemoteManagement => Spelling::Tight,
        };
        let (content_type, body) = acceptor.seal(&reply.body, spelling).map_err(|_| Cut)?;
        Ok(with_body(code, content_type, body.into()))
    }

    /// Looks at who asks. A request without credentials goes by the connection's logon.
    fn admit(&self, connection: &mut Connection, authorization: Option<&str>) -> Access {
        let Some((scheme, text)) = authorization.and_then(|value| value.split_once(' ')) else {
            return match connection.logon {
                Logon::Complete(_) => Access::Granted(None),
                Logon::None | Logon::Underway(_) => Access::Denied(self.challenge(connection)),
            };
        };
        if scheme.eq_ignore_ascii_case("Basic") {
            connection.logon = Logon::None;
            let admitted = self.running.admission.admits_basic(text);
            return if admitted { Access::Granted(None) } else { Access::Denied(self.challenge(connection)) };
        }
        let scheme = Scheme::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(scheme));
        let token = STANDARD.decode(text.trim()).ok();
        let stepped = scheme.zip(token).map(|(scheme, token)| (scheme, self.step(connection, scheme, token)));
        match stepped {
            Some((scheme, Ok(Leg::Continue(token)))) => Access::Denied(going_on(scheme, &token)),
            Some((scheme, Ok(Leg::Complete(token)))) => Access::Granted(token_header(scheme, &token)),
            Some((_, Err(refused))) => {
                tracing::debug!(%refused, "A logon was refused");
                Access::Denied(self.challenge(connection))
            }
            None => Access::Denied(self.challenge(connection)),
        }
    }

    /// A refused logon is over; the next token begins another.
    fn step(&self, connection: &mut Connection, scheme: Scheme, token: Vec<u8>) -> Result<Leg, Refused> {
        let admission = &self.running.admission;
        let mut acceptor = match std::mem::replace(&mut connection.logon, Logon::None) {
            Logon::Underway(acceptor) => acceptor,
            Logon::None | Logon::Complete(_) => {
                Box::new(Acceptor::new(admission, scheme, &token, connection.end_point.as_deref())?)
            }
        };
        let leg = acceptor.step(admission, token)?;
        connection.logon = match leg {
            Leg::Continue(_) => Logon::Underway(acceptor),
            Leg::Complete(_) => Logon::Complete(acceptor),
        };
        Ok(leg)
    }

    fn challenge(&self, connection: &Connection) -> Answer {
        let mut answer = status(StatusCode::UNAUTHORIZED);
        let kerberos = self.running.admission.offers_kerberos(connection.end_point.is_some());
        let schemes = ["Negotiate", "Basic realm=\"rekey lab\""].into_iter().chain(kerberos.then_some("Kerberos"));
        for scheme in schemes {
            answer.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        answer
    }
}

/// How much longer than an envelope a body may be before it is not even looked at: sealing frames it.
const SPARE: usize = 16 * 1024;
const SOAP: &str = "application/soap+xml;charset=UTF-8";

fn going_on(scheme: Scheme, token: &[u8]) -> Answer {
    let mut answer = status(StatusCode::UNAUTHORIZED);
    answer.headers_mut().extend(token_header(scheme, token).map(|token| (WWW_AUTHENTICATE, token)));
    answer
}

fn token_header(scheme: Scheme, token: &[u8]) -> Option<HeaderValue> {
    format!("{} {}", scheme.name(), STANDARD.encode(token)).trim_end().parse().ok()
}

/// What Windows says to envelopes that anybody on the way could read (AllowUnencrypted is off by default).
fn unsealed() -> Answer {
    let fault = Fault {
        code: Fault::ACCESS_DENIED,
        subcode: "w:AccessDenied".to_owned(),
        message: "Access is denied: unencrypted traffic is disabled.".to_owned(),
        detail: None,
    };
    with_body(StatusCode::INTERNAL_SERVER_ERROR, SOAP, fault.write(None).into())
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
