//! The way to a tenant: tokens of Entra, keys of applications in Graph, cmdlets of Exchange Online.
//!
//! Every service is asked over one HTTPS client. What a failure means is decided where it is seen: [`CloudError`] says whether to ask again, to look
//! first, or to call a person.

mod assertion;
mod change;
mod clouds;
mod entra;
mod error;
mod exchange_online;
mod graph;
mod http;
mod keys;
mod policy;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use domain::Timeline;
use reqwest::{Client, Url};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

pub(crate) use assertion::redact;
pub use assertion::{InvalidSigner, Signer};
pub use change::{Change, ChangeError, Changed};
pub use clouds::{CloudEndpoints, InvalidCloudUrl};
pub(crate) use entra::ACCEPTANCE_PAUSE;
pub use entra::{Acceptance, Scope};
pub use error::{CloudError, Failure};
pub use exchange_online::{OnlineConnector, OnlineRelationship, OnlineTest, ServiceUnderTest};
pub use graph::{Application, Holder, Principal};
pub(crate) use keys::key_id_of;
pub use keys::{Credential, Difference};
pub use policy::KeyLifetime;

/// Principals that have the same id in every tenant (cloud.md 3.1).
pub mod well_known {
    /// Office 365 Exchange Online: the service principal whose keys the classic hybrid wizard shares with every server.
    pub const EXCHANGE: &str = "00000002-0000-0ff1-ce00-000000000000";
    /// The issuer of Access Control Service.
    pub const ACS: &str = "00000001-0000-0000-c000-000000000000";
}

/// Who asks: an application of the tenant with its certificate.
#[derive(Clone, Debug)]
pub struct AppCredentials {
    /// The application's id (`appId`).
    pub client_id: String,
    /// What signs for it.
    pub signer: Signer,
}

/// How long trouble of a service is waited for within one call. What takes longer is for whoever called: they can say what they wait for, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often something is asked at most.
    pub tries: u32,
    /// The pause before the second try; doubled with each one after it. Real time.
    pub first: Duration,
    /// The longest pause, in real time. A service that asks for a longer one is left alone by whoever called.
    pub longest: Duration,
    /// The time between two reads of the same thing that must agree, in the time that runs live in. Entra's machines are 4 to 18 s behind each other
    /// (cloud.md 2.4): five reads are made.
    pub apart: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 4, first: Duration::from_secs(1), longest: Duration::from_secs(5), apart: Duration::from_secs(5) }
    }
}

/// Everything that the way to a tenant is made of.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where the services are.
    pub endpoints: CloudEndpoints,
    /// The tenant's id, or one of its domains.
    pub tenant: String,
    /// Who asks.
    pub credentials: AppCredentials,
    /// Whom connections trust.
    pub tls: Arc<ClientConfig>,
    /// Where `host:port` is really found, as `host:port`: for tunnels and labs. A URL that names its port is found there on that port.
    pub connect_to: BTreeMap<String, String>,
    /// `X-AnchorMailbox` of Exchange Online, which routes a request to the organization. Default: its system mailbox.
    pub anchor: Option<String>,
    /// How fast time goes.
    pub timeline: Timeline,
    /// How long trouble is waited for.
    pub patience: Patience,
}

/// A tenant that can be asked. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Cloud {
    shared: Arc<Shared>,
    /// Ends every pause.
    stop: CancellationToken,
}

struct Shared {
    http: Client,
    endpoints: CloudEndpoints,
    tenant: String,
    credentials: AppCredentials,
    anchor: String,
    timeline: Timeline,
    patience: Patience,
    tokens: entra::Tokens,
    /// Where Exchange Online has sent us to.
    region: Mutex<exchange_online::Region>,
}

/// A way that cannot be gone.
#[derive(Debug, thiserror::Error)]
pub enum InvalidWay {
    /// It would become a part of URLs.
    #[error("`{0}` is neither a tenant id nor a domain of a tenant")]
    Tenant(String),
    /// The HTTPS client cannot be made.
    #[error("the HTTPS client cannot be made: {0}")]
    Client(String),
}

impl Cloud {
    /// The tenant at the end of this way. Nothing is sent yet.
    pub fn new(way: Way) -> Result<Self, InvalidWay> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if way.tenant.is_empty() || way.tenant.starts_with('.') || !way.tenant.chars().all(plain) {
            return Err(InvalidWay::Tenant(way.tenant));
        }
        let http = http::client(&way.tls, &way.connect_to, &way.endpoints.login)
            .map_err(|error| InvalidWay::Client(error.to_string()))?;
        let anchor = way.anchor.unwrap_or_else(|| exchange_online::default_anchor(&way.tenant));
        let shared = Shared {
            http,
            endpoints: way.endpoints,
            tenant: way.tenant,
            credentials: way.credentials,
            anchor,
            timeline: way.timeline,
            patience: way.patience,
            tokens: entra::Tokens::default(),
            region: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), stop: CancellationToken::new() })
    }

    /// The same tenant, for who is to end: from then on nothing is waited for.
    #[must_use]
    pub fn until(&self, stop: CancellationToken) -> Self {
        Self { shared: self.shared.clone(), stop }
    }

    /// The tenant's id, or one of its domains.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.shared.tenant
    }

    /// Who asks.
    #[must_use]
    pub fn credentials(&self) -> &AppCredentials {
        &self.shared.credentials
    }

    /// Where the services are.
    #[must_use]
    pub fn endpoints(&self) -> &CloudEndpoints {
        &self.shared.endpoints
    }

    fn now(&self) -> DateTime<Utc> {
        self.shared.timeline.at(Utc::now())
    }

    /// Where tokens are asked for; also the audience of assertions.
    fn token_endpoint(&self) -> Url {
        let mut url = self.shared.endpoints.login.clone();
        url.set_path(&format!("/{}/oauth2/v2.0/token", self.shared.tenant));
        url
    }

    /// Does something that may be done any number of times until it works, the trouble does not pass, or patience ends.
    async fn patiently<T>(&self, work: impl AsyncFn() -> error::Result<T>) -> error::Result<T> {
        let mut tried = 0;
        loop {
            let error = match work().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            tried += 1;
            if !self.rest(tried, &error).await {
                return Err(error);
            }
        }
    }

    /// Waits until it is time for the next try after `tried` ones; false when whether there is one is for the caller to decide.
    async fn rest(&self, tried: u32, error: &CloudError) -> bool {
        match self.pause(tried, error) {
            Some(pause) => self.idle(pause).await,
            None => false,
        }
    }

    /// Lets a span of the time that runs live in go by.
    pub(crate) async fn let_pass(&self, span: Duration) -> error::Result<()> {
        let span = self.shared.timeline.shrink(TimeDelta::from_std(span).unwrap_or_default());
        if self.idle(span.to_std().unwrap_or_default()).await {
            return Ok(());
        }
        Err(CloudError::again(
            "worker_stops",
            format!("The worker stops while it looks at tenant {}", self.tenant()),
            "Nothing to do: another worker goes on, or this one when it is started again",
        ))
    }

    /// Lets real time go by; false when there is no time left.
    async fn idle(&self, span: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(span) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// How long to wait before the next try after `tried` ones; `None` when that is for the caller to decide.
    fn pause(&self, tried: u32, error: &CloudError) -> Option<Duration> {
        let Patience { tries, first, longest, .. } = self.shared.patience;
        if tried >= tries {
            return None;
        }
        match error.failure {
            // Exactly as long as the service says.
            Failure::Again { after: Some(after) } => (after <= longest).then_some(after),
            Failure::Again { after: None } | Failure::UnknownOutcome => {
                Some(first.saturating_mul(1 << (tried - 1).min(16)).min(longest))
            }
            Failure::NotFound | Failure::Refused => None,
        }
    }

    fn region(&self) -> MutexGuard<'_, exchange_online::Region> {
        self.shared.region.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { endpoints, tenant, credentials, .. } = &*self.shared;
        f.debug_struct("Cloud")
            .field("login", &endpoints.login.as_str())
            .field("tenant", tenant)
            .field("credentials", credentials)
            .finish_non_exhaustive()
    }
}
