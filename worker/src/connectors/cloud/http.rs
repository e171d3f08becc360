//! One HTTPS request to a cloud service and its answer. No redirect is followed here: a token goes only where it was meant to go.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, RETRY_AFTER},
    redirect::Policy,
};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;

use super::{CloudError, Failure, error::Result};
use crate::connectors::read_body;

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const LARGEST: usize = 32 << 20;

/// What came back.
pub(super) struct Reply {
    pub(super) host: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A client that trusts what the organization's configuration trusts, and finds hosts where it says. Proxies are taken from the environment, as other
/// programs do, unless the cloud is on this machine.
pub(super) fn client(
    tls: &Arc<ClientConfig>,
    connect_to: &BTreeMap<String, String>,
    login: &Url,
) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .tls_backend_preconfigured((**tls).clone())
        .https_only(true)
        .redirect(Policy::none())
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .user_agent(concat!("rekey/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Arc::new(Overrides::new(connect_to)));
    let local = matches!(login.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if local { builder.no_proxy().build() } else { builder.build() }
}

/// Where hosts are really found, as `host:port`; all others where the DNS says.
struct Overrides(BTreeMap<String, String>);

impl Overrides {
    fn new(connect_to: &BTreeMap<String, String>) -> Self {
        let host = |address: &str| address.rsplit_once(':').map_or(address, |(host, _)| host).to_ascii_lowercase();
        Self(connect_to.iter().map(|(from, to)| (host(from), to.clone())).collect())
    }
}

impl Resolve for Overrides {
    fn resolve(&self, name: Name) -> Resolving {
        let place = self.0.get(&name.as_str().to_ascii_lowercase()).cloned();
        // Port 0: that of the URL.
        let place = place.unwrap_or_else(|| format!("{}:0", name.as_str()));
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host(place).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Sends a request and reads the whole answer.
pub(super) async fn send(request: RequestBuilder) -> Result<Reply> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| CloudError::unexpected("The configuration", error.without_url()))?;
    let host = request.url().host_str().unwrap_or_default().to_owned();
    let response = client.execute(request).await.map_err(|error| lost(&host, &error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = read_body(response, LARGEST).await.map_err(|error| lost(&host, &error))?;
    let too_long = || CloudError::unexpected(&host, format_args!("an answer of more than {LARGEST} bytes"));
    let body = body.ok_or_else(too_long)?.into();
    Ok(Reply { host, status, headers, body })
}

impl Reply {
    /// The body of an answer that the service is known to give.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| CloudError::unexpected(&self.host, error))
    }

    /// A header as text; empty when there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// How long the service asks to be left alone. Only seconds are read: none of these services sends a date.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
    }

    /// What throttling and trouble of the service itself look like on all of them; `None` when it is neither.
    pub(super) fn overload(&self) -> Option<CloudError> {
        let after = self.retry_after();
        let action = "Nothing to do: it is tried again by itself";
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let message = match after {
                Some(after) => format!("{} asks to wait {} s", self.host, after.as_secs()),
                None => format!("{} asks to wait", self.host),
            };
            let trouble = domain::Trouble::new("cloud_throttled", message, action);
            return Some(CloudError { failure: Failure::Again { after }, trouble });
        }
        if self.status.is_server_error() {
            let message = format!("{} answers {}", self.host, self.status);
            let trouble = domain::Trouble::new("cloud_unavailable", message, action);
            // What it was doing when it failed is not known.
            let failure = if after.is_some() { Failure::Again { after } } else { Failure::UnknownOutcome };
            return Some(CloudError { failure, trouble });
        }
        None
    }
}

fn lost(host: &str, error: &reqwest::Error) -> CloudError {
    let sources = || std::iter::successors(std::error::Error::source(error), |error| error.source());
    let why = sources().last().map_or_else(|| error.to_string(), ToString::to_string);
    if let Some(rustls::Error::InvalidCertificate(why)) = sources().find_map(of_tls) {
        return CloudError::refused(
            "certificate_not_trusted",
            format!("{host}: its TLS certificate is not trusted: {}", crate::connectors::http::told(why)),
            "If that certificate is the service's, or that of a proxy which you trust, name its CA as ca_file; then retry",
        );
    }
    if error.is_connect() {
        return CloudError::again(
            "cloud_unreachable",
            format!("{host} cannot be reached: {why}"),
            "Let the worker reach it on port 443; it is tried again by itself",
        );
    }
    let trouble = domain::Trouble::new(
        "unknown_outcome",
        format!("{host} did not answer after the request was sent: {why}"),
        "Nothing to do: the state is looked at before anything is done again",
    );
    CloudError { failure: Failure::UnknownOutcome, trouble }
}

/// The error of TLS in an error of input or output, however often that is wrapped in its like.
fn of_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    loop {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        inner = inner.downcast_ref::<io::Error>()?.get_ref()?;
    }
}
