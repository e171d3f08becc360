//! One HTTP/1.1 connection, plain or over TLS. Authentication belongs to the connection, so there is no pool.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderName},
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Endpoint, WireError,
    tls::{NotTrusted, end_point},
};

/// How long a connection may take to be made, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take: an endpoint answers a Receive within its operation timeout of 20 s.
const ANSWER: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const LARGEST: usize = 64 << 20;

/// A connection to one endpoint.
pub(super) struct Link {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    path: String,
    address: String,
    /// The hash that binds a logon to this connection, over TLS.
    pub(super) end_point: Option<Vec<u8>>,
}

/// What came back.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Link {
    /// Connects, and checks the server's certificate.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, WireError> {
        let address = endpoint.address();
        let not_sent = |why: String| WireError::NotSent { host: address.clone(), why };
        let connecting = TcpStream::connect(&endpoint.connect_to);
        let stream = match timeout(CONNECT, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(not_sent(error.to_string())),
            Err(_) => return Err(not_sent(format!("no connection within {} s", CONNECT.as_secs()))),
        };
        stream.set_nodelay(true).map_err(|error| not_sent(error.to_string()))?;
        let (sender, end_point) = if endpoint.is_plain() {
            (handshake(stream).await, None)
        } else {
            let stream = secure(endpoint, stream).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|c| end_point(c));
            (handshake(stream).await, shown)
        };
        Ok(Self {
            sender: sender.map_err(|error| not_sent(error.to_string()))?,
            host: endpoint.url.authority().map(ToString::to_string).unwrap_or_default(),
            path: endpoint.url.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            address,
            end_point,
        })
    }

    /// Sends a request and reads its answer. `NotSent` when the connection was gone before anything was written.
    pub(super) async fn send(
        &mut self,
        method: Method,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> Result<Response, WireError> {
        let not_sent = |why: String| WireError::NotSent { host: self.address.clone(), why };
        let lost = |why: String| WireError::UnknownOutcome { host: self.address.clone(), why };
        self.sender.ready().await.map_err(|error| not_sent(error.to_string()))?;
        let mut request = Request::builder()
            .method(method)
            .uri(&self.path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, concat!("rekey/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| not_sent(error.to_string()))?;
        let answering = async {
            let response =
                self.sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
                    Some(_) => not_sent(error.into_error().to_string()),
                    None => lost(error.into_error().to_string()),
                })?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, LARGEST).collect().await.map_err(|error| lost(error.to_string()))?;
            Ok(Response { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        let none = || Err(lost(format!("no answer within {} s", ANSWER.as_secs())));
        timeout(ANSWER, answering).await.unwrap_or_else(|_| none())
    }
}

/// Reads a document that a server offers to everybody.
pub(crate) async fn fetch(endpoint: &Endpoint) -> Result<Response, WireError> {
    let mut link = Link::open(endpoint).await?;
    link.send(Method::GET, &[(header::ACCEPT, "application/json")], Bytes::new()).await
}

async fn secure(endpoint: &Endpoint, stream: TcpStream) -> Result<TlsStream<TcpStream>, WireError> {
    let address = endpoint.address();
    let name =
        ServerName::try_from(endpoint.host().to_owned()).map_err(|error| untrusted(&address, &error.to_string()))?;
    let connecting = TlsConnector::from(Arc::clone(&endpoint.tls)).connect(name, stream);
    match timeout(CONNECT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => untrusted(&address, &told(why)),
            _ => WireError::NotSent { host: address, why: format!("TLS: {error}") },
        }),
        Err(_) => Err(WireError::NotSent { host: address, why: format!("no TLS within {} s", CONNECT.as_secs()) }),
    }
}

/// Why a certificate is not trusted, with the certificate that was shown.
pub(super) fn told(why: &rustls::CertificateError) -> String {
    match why {
        rustls::CertificateError::Other(other) => {
            other.0.downcast_ref::<NotTrusted>().map_or_else(|| why.to_string(), ToString::to_string)
        }
        _ => why.to_string(),
    }
}

fn untrusted(address: &str, why: &str) -> WireError {
    WireError::Refused {
        host: address.to_owned(),
        code: "certificate_not_trusted",
        why: format!("its TLS certificate is not trusted: {why}"),
        action: "If that certificate is the server's, name its CA as ca_file or its SHA-256 in pin_sha256; if not, find out who \
                 answers there; then retry",
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender, or with the connection, whose error the sender reports.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
