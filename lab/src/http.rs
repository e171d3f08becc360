//! Listeners and connections: hyper, HTTP/1.1, plain or over TLS.

use std::{future::Future, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Whatever answers requests. The error cuts the connection.
pub(crate) trait Service: Send + Sync + 'static {
    /// What is remembered from one request of a connection to the next.
    type Memory: Send + 'static;

    /// Whether connections are taken at all.
    fn is_open(&self) -> bool;

    /// A connection that has just been made.
    fn connected(&self, way: &Transport) -> Self::Memory;

    /// Answers, or cuts.
    fn answer(
        &self,
        memory: &mut Self::Memory,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Answer, Cut>> + Send;
}

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// The connection is to be cut without an answer.
#[derive(Debug)]
pub(crate) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut")
    }
}

impl std::error::Error for Cut {}

/// The tasks of a lab, and the way to end them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: TaskTracker,
}

impl Tasks {
    /// Runs until it is done or the lab ends.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move { stop.run_until_cancelled(work).await });
    }
}

/// Plain HTTP or HTTPS.
#[derive(Clone)]
pub(crate) enum Transport {
    Plain,
    Tls(Tls),
}

/// What a listener with TLS needs.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    /// The hash of its certificate that channel bindings name (RFC 5929 section 4).
    pub(crate) end_point: Arc<[u8]>,
}

/// Listens until the lab ends; tells the address.
pub(crate) async fn listen<S: Service>(
    address: SocketAddr,
    transport: Transport,
    service: Arc<S>,
    tasks: &Tasks,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tasks.spawn(accept(listener, transport, service, tasks.clone()));
    Ok(bound)
}

async fn accept<S: Service>(listener: TcpListener, transport: Transport, service: Arc<S>, tasks: Tasks) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if !service.is_open() {
            continue;
        }
        tasks.spawn(connection(stream, transport.clone(), service.clone()));
    }
}

/// Errors of a connection are its client's business.
async fn connection<S: Service>(stream: TcpStream, transport: Transport, service: Arc<S>) {
    // Answers are small and somebody waits for each.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let memory = service.connected(&transport);
    match transport {
        Transport::Plain => requests(stream, service, memory).await,
        Transport::Tls(tls) => match TlsAcceptor::from(tls.config).accept(stream).await {
            Ok(stream) => requests(stream, service, memory).await,
            Err(error) => tracing::debug!(%error, "A TLS handshake failed"),
        },
    }
}

async fn requests<S: Service>(stream: impl AsyncRead + AsyncWrite + Unpin, service: Arc<S>, memory: S::Memory) {
    // HTTP/1.1 answers one request after the other: nobody ever waits for this lock.
    let memory = Arc::new(Mutex::new(memory));
    let answer = service_fn(|request| {
        let (service, memory) = (service.clone(), memory.clone());
        async move { service.answer(&mut *memory.lock().await, request).await }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "A connection ended");
    }
}

/// The body of a request; an answer if it is too long or breaks off.
pub(crate) async fn body(request: Request<Incoming>, limit: usize) -> Result<Bytes, Answer> {
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(status(StatusCode::PAYLOAD_TOO_LARGE)),
        Err(_) => Err(status(StatusCode::BAD_REQUEST)),
    }
}

/// An answer without a body.
pub(crate) fn status(code: StatusCode) -> Answer {
    with_body(code, "text/plain", Bytes::new())
}

/// An answer in JSON.
pub(crate) fn json(code: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(text) => with_body(code, "application/json", text.into()),
        Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// An answer with a body.
pub(crate) fn with_body(code: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    answer
}

/// Runs what takes processor time where that hurts nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Cut> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Cut)
}
