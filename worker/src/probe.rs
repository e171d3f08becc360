//! A look at every endpoint of an organization before anything is planned: does the way there work, as whom, and what is missing. Changes nothing.

mod tenant;

use chrono::Utc;
use domain::{Timeline, Trouble};
use futures_util::{StreamExt as _, stream};
pub use psrp::client::Configuration;
pub use tenant::{Tenancy, Tried, probe_tenant};

use crate::{
    Managed,
    connectors::{Endpoint, Session},
    discovery,
    exchange::{self, CommandError, ExchangeServer},
    windows,
};

/// How many endpoints are looked at at the same time.
const AT_ONCE: usize = 8;
/// Kerberos and tokens stand five minutes (RFC 4120 1.6); a server that is further off is told.
const TOLERABLE_SKEW_SECONDS: i64 = 300;

/// What was found at one endpoint.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Its URL.
    pub url: String,
    /// What should run there.
    pub configuration: Configuration,
    /// What was found, or why nothing was.
    pub found: Result<Found, Trouble>,
}

/// An endpoint that answers.
#[derive(Clone, Debug)]
pub struct Found {
    /// How the connection logged on, e.g. `Kerberos over http, messages sealed`.
    pub logged_on: String,
    /// The version of what answers; `None` when it does not say.
    pub version: Option<String>,
    /// How far its clock is ahead of ours, in seconds; `None` where only the Windows endpoint tells.
    pub clock_ahead_seconds: Option<i64>,
    /// What has to be mended before a renewal can run.
    pub missing: Vec<Trouble>,
}

impl Probed {
    /// Whether a renewal could use it as it is.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.found.as_ref().is_ok_and(|found| found.missing.is_empty())
    }
}

/// Looks at every configured endpoint and at those of every server that the organization says it has. `told` is called with each as it is known.
pub async fn probe(managed: &Managed, timeline: Timeline, told: impl Fn(&Probed)) -> Vec<Probed> {
    let endpoints = &managed.endpoints;
    let mut servers = Vec::new();
    let mut probed = Vec::new();
    for endpoint in endpoints.exchange() {
        let (result, seen) = exchange_endpoint(&endpoint).await;
        told(&result);
        probed.push(result);
        if servers.is_empty() {
            servers = seen;
        }
    }
    let configured: Vec<String> = endpoints.exchange().map(|endpoint| endpoint.host().to_ascii_lowercase()).collect();
    let taking_part = servers.iter().filter(|server| server.takes_part);
    let ways = taking_part.flat_map(|server| {
        let exchange = (!configured.contains(&server.fqdn)).then(|| endpoints.exchange_on(&server.fqdn)).flatten();
        [exchange, endpoints.windows_on(&server.fqdn)].into_iter().flatten()
    });
    let looks = stream::iter(ways.collect::<Vec<_>>()).map(|endpoint| async move {
        match endpoint.configuration {
            Configuration::Exchange => exchange_endpoint(&endpoint).await.0,
            Configuration::Windows => windows_endpoint(&endpoint, timeline).await,
        }
    });
    let mut looks = std::pin::pin!(looks.buffered(AT_ONCE));
    while let Some(result) = looks.next().await {
        told(&result);
        probed.push(result);
    }
    probed
}

/// Also the servers that it knows of.
async fn exchange_endpoint(endpoint: &Endpoint) -> (Probed, Vec<ExchangeServer>) {
    let looked = discovery::on(endpoint, async |session| ask_exchange(session, endpoint.host()).await).await;
    let (found, servers) = match looked {
        Ok((found, servers)) => (Ok(found), servers),
        Err(error) => (Err(error.trouble()), Vec::new()),
    };
    (Probed { url: endpoint.url.to_string(), configuration: endpoint.configuration, found }, servers)
}

async fn ask_exchange(session: &mut Session, host: &str) -> exchange::Result<(Found, Vec<ExchangeServer>)> {
    let not_permitted = exchange::not_permitted(session, &exchange::NEEDED).await?;
    let mut missing: Vec<Trouble> = lacking(&not_permitted).into_iter().collect();
    let servers = if not_permitted.iter().any(|name| name == "Get-ExchangeServer") {
        Vec::new()
    } else {
        exchange::servers(session).await?
    };
    let here = servers.iter().find(|server| server.fqdn.eq_ignore_ascii_case(host));
    if servers.iter().all(|server| !server.takes_part) && missing.is_empty() {
        missing.push(Trouble::new(
            "no_server",
            "It knows of no Exchange server that takes part in OAuth",
            "Check that this is the right organization and that the account sees the whole of it",
        ));
    }
    let version = here.map(|server| format!("Exchange {}", server.version));
    let found = Found { logged_on: how(session), version, clock_ahead_seconds: None, missing };
    Ok((found, servers))
}

async fn windows_endpoint(endpoint: &Endpoint, timeline: Timeline) -> Probed {
    let looked = discovery::on(endpoint, async |session| ask_windows(session, timeline).await).await;
    let found = looked.map_err(|error: CommandError| error.trouble());
    Probed { url: endpoint.url.to_string(), configuration: endpoint.configuration, found }
}

async fn ask_windows(session: &mut Session, timeline: Timeline) -> exchange::Result<Found> {
    let not_permitted = exchange::not_permitted(session, &windows::NEEDED).await?;
    let mut missing: Vec<Trouble> = lacking(&not_permitted).into_iter().collect();
    let version = windows::version(session).await?;
    let ahead = discovery::clock_ahead(|| timeline.at(Utc::now()), session).await?;
    if ahead.abs() > TOLERABLE_SKEW_SECONDS {
        missing.push(Trouble::new(
            "clock_skew",
            format!("Its clock is {ahead} s ahead of this machine's"),
            "Set both clocks by the domain's (w32tm /resync); Kerberos and tokens allow five minutes",
        ));
    }
    Ok(Found { logged_on: how(session), version, clock_ahead_seconds: Some(ahead), missing })
}

/// Not there, or not for this account: from outside that looks the same (domain.md 1.10).
fn lacking(cmdlets: &[String]) -> Option<Trouble> {
    (!cmdlets.is_empty()).then(|| {
        Trouble::new(
            "permission_missing",
            format!("The account may not run {}", cmdlets.join(", ")),
            "On Exchange, assign it the roles View-Only Configuration, Exchange Server Certificates and Organization Client \
             Access; on Windows, make it a local administrator of the server",
        )
    })
}

fn how(session: &Session) -> String {
    session.logged_on().map(ToString::to_string).unwrap_or_default()
}
