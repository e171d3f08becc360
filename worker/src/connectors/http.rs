//! One HTTP/1.1 connection: authentication belongs to the connection, so there is no pool.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{Endpoint, WireError};

/// How long a connection may take to be made, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take: an endpoint answers a Receive within its operation timeout of 20 s.
const ANSWER: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const LARGEST: usize = 64 << 20;

/// A connection to one endpoint.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    path: String,
    authorization: String,
    address: String,
}

/// A status and its body.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Connection {
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
        let sender = match endpoint.url.scheme_str() {
            Some("http") => handshake(stream).await.map_err(|error| not_sent(error.to_string()))?,
            _ => handshake(secure(endpoint, stream).await?).await.map_err(|error| not_sent(error.to_string()))?,
        };
        let Endpoint { url, credentials, .. } = endpoint;
        let pair = format!("{}:{}", credentials.username, credentials.password.expose_secret());
        Ok(Self {
            sender,
            host: url.authority().map(ToString::to_string).unwrap_or_default(),
            path: url.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            authorization: format!("Basic {}", STANDARD.encode(pair)),
            address,
        })
    }

    /// Sends one SOAP envelope. `NotSent` when the connection was gone before anything was written.
    pub(super) async fn post(&mut self, body: Vec<u8>) -> Result<Response, WireError> {
        self.ready().await?;
        let request = self.request(Method::POST).header(header::CONTENT_TYPE, "application/soap+xml;charset=UTF-8");
        self.send(request, body).await
    }

    async fn ready(&mut self) -> Result<(), WireError> {
        let not_sent = |error: hyper::Error| WireError::NotSent { host: self.address.clone(), why: error.to_string() };
        self.sender.ready().await.map_err(not_sent)
    }

    fn request(&self, method: Method) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(&self.path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, concat!("rekey/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT_ENCODING, "identity")
    }

    async fn send(&mut self, request: hyper::http::request::Builder, body: Vec<u8>) -> Result<Response, WireError> {
        let lost = |why: String| WireError::UnknownOutcome { host: self.address.clone(), why };
        let request = request.header(header::AUTHORIZATION, &self.authorization).body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| lost(error.to_string()))?;
        let answering = async {
            let response = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let body =
                Limited::new(response.into_body(), LARGEST).collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>(Response { status, body: body.to_bytes() })
        };
        match timeout(ANSWER, answering).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(why)) => Err(lost(why)),
            Err(_) => Err(lost(format!("no answer within {} s", ANSWER.as_secs()))),
        }
    }
}

/// Reads a document that a server offers to everybody.
pub(crate) async fn fetch(endpoint: &Endpoint) -> Result<Response, WireError> {
    let mut connection = Connection::open(endpoint).await?;
    connection.ready().await?;
    let request = connection.request(Method::GET).header(header::ACCEPT, "application/json");
    connection.send(request, Vec::new()).await
}

async fn secure(
    endpoint: &Endpoint,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, WireError> {
    let address = endpoint.address();
    let host = endpoint.url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|error| untrusted(&address, &error.to_string()))?;
    let connecting = TlsConnector::from(Arc::clone(&endpoint.tls)).connect(name, stream);
    match timeout(CONNECT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => untrusted(&address, &why.to_string()),
            _ => WireError::NotSent { host: address, why: format!("TLS: {error}") },
        }),
        Err(_) => Err(WireError::NotSent { host: address, why: format!("no TLS within {} s", CONNECT.as_secs()) }),
    }
}

fn untrusted(address: &str, why: &str) -> WireError {
    WireError::Refused {
        host: address.to_owned(),
        code: "certificate_not_trusted",
        why: format!("its TLS certificate is not trusted: {why}"),
        action: "Name the right CA as ca_file, or give the server a certificate for this name; then retry",
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
