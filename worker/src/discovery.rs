//! Discovery: what an organization looks like now. Reads only.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::{
    Snapshot, Thumbprint, Trouble,
    snapshot::{AuthConfig, Certificate, Key, Server, Store},
};
use futures_util::{StreamExt as _, stream};
use tracing::warn;

use crate::{
    Managed, Worker,
    certificate::{self, Severity},
    connectors::{Endpoint, Endpoints, Session, cloud::Cloud},
    exchange::{self, CommandError, ExchangeServer},
    hybrid, windows,
};

/// How many servers are looked at at the same time.
const AT_ONCE: usize = 8;

/// What was seen of one server.
struct Look {
    store: Store,
    clock_ahead_seconds: Option<i64>,
}

/// Looks at an organization. Fails when no server answers at all; a single server that does not answer is part of what is seen.
pub(crate) async fn look(worker: &Worker, managed: &Managed, cloud: Option<&Cloud>) -> exchange::Result<Snapshot> {
    let endpoints = &managed.endpoints;
    let (answered_by, servers, auth_config, hybrid_objects) = on_any(endpoints, async |session, host| {
        exchange::view_entire_forest(session).await?;
        let servers = exchange::servers(session).await?;
        let auth_config = auth_configs(session, &servers).await?;
        let hybrid = if exchange::is_hybrid(session).await? { Some(hybrid::objects(session).await?) } else { None };
        Ok((host, servers, auth_config, hybrid))
    })
    .await?;
    let named: BTreeSet<Thumbprint> = auth_config.iter().flat_map(|a| a.thumbprints()).flatten().cloned().collect();
    let looks = stream::iter(&servers).map(|server| look_at(worker, endpoints, server, &named));
    let servers = looks.buffered(AT_ONCE).collect().await;
    let tenant = match (&hybrid_objects, cloud, &managed.organization.cloud) {
        (Some(objects), Some(cloud), Some(settings)) => Some(hybrid::tenant(cloud, settings, objects).await),
        _ => None,
    };
    Ok(Snapshot {
        organization: managed.organization.id.clone(),
        taken_at: worker.now(),
        answered_by,
        auth_config,
        servers,
        hybrid: hybrid_objects.is_some(),
        on_premises_hybrid: hybrid_objects,
        tenant,
    })
}

/// Runs `work` on the first server that takes a session. `work` is told the server's name.
pub(crate) async fn on_any<T>(
    endpoints: &Endpoints,
    work: impl AsyncFnOnce(&mut Session, String) -> exchange::Result<T>,
) -> exchange::Result<T> {
    let mut last = None;
    for endpoint in endpoints.exchange() {
        match endpoint.session().await {
            Ok(mut session) => return work(&mut session, endpoint.host().to_ascii_lowercase()).await,
            Err(error) => {
                warn!("Asking the next server: {error}");
                last = Some(error);
            }
        }
    }
    let none =
        || CommandError::Unexpected { cmdlet: "Configuration".to_owned(), what: "an Exchange endpoint".to_owned() };
    Err(last.map_or_else(none, CommandError::Wire))
}

/// Runs `work` on a session.
pub(crate) async fn on<T, E: From<CommandError>>(
    endpoint: &Endpoint,
    work: impl AsyncFnOnce(&mut Session) -> Result<T, E>,
) -> Result<T, E> {
    let mut session = endpoint.session().await.map_err(CommandError::Wire)?;
    work(&mut session).await
}

/// `AuthConfig` on every domain controller that a server of the organization uses.
async fn auth_configs(session: &mut Session, servers: &[ExchangeServer]) -> exchange::Result<Vec<AuthConfig>> {
    let names: BTreeSet<&str> = servers.iter().filter_map(|s| s.domain_controller.as_deref()).collect();
    if names.is_empty() {
        return Ok(vec![exchange::auth_config(session, None).await?]);
    }
    let mut found = Vec::new();
    for name in names {
        found.push(exchange::auth_config(session, Some(name)).await?);
    }
    Ok(found)
}

async fn look_at(
    worker: &Worker,
    endpoints: &Endpoints,
    server: &ExchangeServer,
    named: &BTreeSet<Thumbprint>,
) -> Server {
    let look = if server.takes_part {
        look_inside(worker, endpoints, &server.fqdn, named).await
    } else {
        Look { store: Store::NotAsked, clock_ahead_seconds: None }
    };
    Server {
        fqdn: server.fqdn.clone(),
        site: server.site.clone(),
        version: server.version,
        takes_part: server.takes_part,
        domain_controller: server.domain_controller.clone(),
        store: look.store,
        clock_ahead_seconds: look.clock_ahead_seconds,
    }
}

async fn look_inside(worker: &Worker, endpoints: &Endpoints, fqdn: &str, named: &BTreeSet<Thumbprint>) -> Look {
    match read_store(worker, endpoints, fqdn, named).await {
        Err(trouble) => Look { store: Store::Unreachable { trouble }, clock_ahead_seconds: None },
        Ok(mut certificates) => {
            let clock_ahead_seconds = ask_windows(worker, endpoints, fqdn, &mut certificates).await;
            Look { store: Store::Read { certificates }, clock_ahead_seconds }
        }
    }
}

/// The Auth certificates of a server and those that `AuthConfig` names; keys not looked at yet.
async fn read_store(
    worker: &Worker,
    endpoints: &Endpoints,
    fqdn: &str,
    named: &BTreeSet<Thumbprint>,
) -> Result<Vec<Certificate>, Trouble> {
    let endpoint = endpoints.exchange_on(fqdn).ok_or_else(|| no_endpoint(fqdn))?;
    let all = on(&endpoint, async |session| exchange::certificates(session, fqdn).await).await;
    let all = all.map_err(|error| error.trouble())?;
    let now = worker.now();
    let mut found: Vec<_> = all.iter().filter_map(|der| read_certificate(der, named, now)).collect();
    found.sort_by(|a, b| a.thumbprint.cmp(&b.thumbprint));
    Ok(found)
}

fn no_endpoint(fqdn: &str) -> Trouble {
    Trouble::new(
        "no_endpoint",
        format!("There is no endpoint for {fqdn}"),
        "Check the exchange urls of the organization in the configuration",
    )
}

fn read_certificate(der: &[u8], named: &BTreeSet<Thumbprint>, now: DateTime<Utc>) -> Option<Certificate> {
    let inspection = certificate::inspect(der).ok()?;
    let is_auth = inspection.subject.contains(certificate::COMMON_NAME);
    if !is_auth && !named.contains(&inspection.thumbprint) {
        return None;
    }
    let findings = certificate::findings(&inspection, now);
    let refused = findings.iter().filter(|f| f.severity() == Severity::Refuse);
    Some(Certificate {
        thumbprint: inspection.thumbprint.clone(),
        not_before: inspection.not_before,
        not_after: inspection.not_after,
        key: Key::NotChecked,
        findings: refused.map(ToString::to_string).collect(),
    })
}

/// Looks at the keys and the clock where there is a Windows endpoint that answers; else they stay unknown.
async fn ask_windows(
    worker: &Worker,
    endpoints: &Endpoints,
    fqdn: &str,
    certificates: &mut [Certificate],
) -> Option<i64> {
    let endpoint = endpoints.windows_on(fqdn)?;
    let asked = on(&endpoint, async |session| {
        for certificate in certificates.iter_mut() {
            certificate.key = windows::key(session, &certificate.thumbprint).await?;
        }
        clock_ahead(|| worker.now(), session).await
    });
    match asked.await {
        Ok(seconds) => Some(seconds),
        Err(error) => {
            warn!(server = fqdn, "Keys and clock of {fqdn} were not looked at: {error}");
            None
        }
    }
}

/// How far a server's clock is ahead, in seconds; 0 when its answer lies between question and answer.
pub(crate) async fn clock_ahead(now: impl Fn() -> DateTime<Utc>, session: &mut Session) -> exchange::Result<i64> {
    let asked = now();
    let theirs = windows::clock(session).await?;
    let answered = now();
    let ahead = if theirs > answered {
        theirs - answered
    } else if theirs < asked {
        theirs - asked
    } else {
        return Ok(0);
    };
    Ok(ahead.num_seconds())
}
