//! What proves that everything is as it must be: read from one look at the organization and from what each server offers.

use chrono::{DateTime, TimeDelta, Utc};
use db::Purpose;
use domain::{
    Outcome, Phase, Place, Snapshot, Thumbprint,
    plan::PlannedServer,
    planning::{APP_POOLS, SERVICE_HOST},
    snapshot::{Key, Store},
    step::{CheckResult, Evidence, Process},
    storable::storable,
};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::{
    Context, Result,
    cloud::{Unread, key_in_entra},
};
use crate::{connectors, discovery, discovery::on, exchange, windows};

/// The document in which a server tells its keys (domain.md 3.6).
const METADATA: &str = "/autodiscover/metadata/json/1";
/// How many servers are asked at the same time.
const AT_ONCE: usize = 8;

/// Keeps a look for people who read the organization's state.
pub(super) async fn keep(context: &Context<'_>, purpose: Purpose, snapshot: &Snapshot) -> Result<()> {
    let renewal = context.claimed.run.renewal.id;
    let kept = context.worker.db.write(async |tx| tx.insert_snapshot(Some(renewal), purpose, snapshot).await);
    Ok(kept.await?)
}

/// What stands against going on.
pub(super) fn failures(evidence: &[Evidence]) -> impl Iterator<Item = &Evidence> {
    evidence.iter().filter(|e| e.result == CheckResult::Failed)
}

/// Everything that is looked at after publication: the matrix, `AuthConfig`, the key in Entra, the processes, the metadata documents.
pub(super) async fn collect(context: &Context<'_>, purpose: Purpose, expected: Place) -> Result<Vec<Evidence>> {
    let snapshot = context.look().await?;
    keep(context, purpose, &snapshot).await?;
    let mut found = matrix(context, &snapshot)?;
    found.extend(auth_config(context, &snapshot, expected)?);
    found.extend(key_in_entra(context, snapshot.tenant.as_ref(), Unread::NotMade)?);
    let servers = stream::iter(&context.plan()?.servers).map(|server| ask(context, &snapshot, server));
    let asked: Vec<Vec<Evidence>> = servers.buffered(AT_ONCE).collect().await;
    found.extend(asked.into_iter().flatten());
    Ok(found)
}

/// Whether each planned server holds the new certificate with a key that Exchange can sign with.
pub(super) fn matrix(context: &Context<'_>, snapshot: &Snapshot) -> Result<Vec<Evidence>> {
    let thumbprint = context.thumbprint()?;
    let with_keys = context.managed.organization.windows;
    let look = |planned: &PlannedServer| match given_up(context, planned) {
        Some(by) if !answers(snapshot, &planned.fqdn) => {
            let detail = format!("does not answer; {by} has gone on without it");
            evidence("certificate_on_server", &planned.fqdn, CheckResult::NotMade, detail)
        }
        _ => on_server(planned, snapshot, &thumbprint, with_keys),
    };
    Ok(context.plan()?.servers.iter().map(look).collect())
}

/// Who has skipped the last thing that was to be done on a server.
fn given_up<'a>(context: &'a Context<'_>, planned: &PlannedServer) -> Option<&'a str> {
    context.claimed.run.steps.iter().find_map(|step| match step.outcome.as_deref() {
        Some(Outcome::NotDone { by: Some(by), .. }) if step.target == planned.fqdn => Some(by.as_str()),
        _ => None,
    })
}

/// Whether a server's store was read.
pub(super) fn answers(snapshot: &Snapshot, fqdn: &str) -> bool {
    snapshot.servers.iter().any(|server| server.fqdn == fqdn && server.is_reachable())
}

fn on_server(planned: &PlannedServer, snapshot: &Snapshot, thumbprint: &Thumbprint, with_keys: bool) -> Evidence {
    let check = |result, detail: String| evidence("certificate_on_server", &planned.fqdn, result, detail);
    let Some(server) = snapshot.servers.iter().find(|s| s.fqdn == planned.fqdn) else {
        return check(CheckResult::Failed, "the organization no longer has this server".to_owned());
    };
    let short = thumbprint.short();
    match (&server.store, server.certificate(thumbprint).map(|c| c.key)) {
        (Store::Unreachable { .. }, _) if planned.may_be_absent => {
            check(CheckResult::NotMade, "does not answer; the plan allows its absence".to_owned())
        }
        (Store::Unreachable { trouble }, _) => check(CheckResult::Failed, trouble.message.clone()),
        (_, None) => check(CheckResult::Failed, format!("lacks {short}")),
        (_, Some(Key::Csp)) => check(CheckResult::Passed, format!("{short} with its key in a legacy provider")),
        (_, Some(Key::Missing)) => check(CheckResult::Failed, format!("{short} has no private key")),
        (_, Some(Key::Ksp)) => check(CheckResult::Failed, format!("the key of {short} is in a key storage provider")),
        (_, Some(Key::NotChecked)) if with_keys => {
            check(CheckResult::Failed, format!("{short} is there, but the Windows endpoint did not tell about its key"))
        }
        (_, Some(Key::NotChecked)) => check(CheckResult::Passed, format!("{short}; its key was not looked at")),
    }
}

fn auth_config(context: &Context<'_>, snapshot: &Snapshot, expected: Place) -> Result<Vec<Evidence>> {
    let (plan, thumbprint) = (context.plan()?, context.thumbprint()?);
    let check = |seen: &domain::snapshot::AuthConfig| {
        let [current, previous, next] = seen.thumbprints().map(|t| t.map_or("none", Thumbprint::short));
        let detail = format!("current {current}, previous {previous}, next {next}");
        let place = Place::of(seen, &plan.observed, Some(&thumbprint));
        // Without an old certificate, published and cleared look the same. And a database that was restored from a backup may not know that the
        // old one is given up already.
        let fits = place == Some(expected) || place == Some(Place::Cleared);
        let result = if fits { CheckResult::Passed } else { CheckResult::Failed };
        evidence("auth_config", &seen.domain_controller, result, detail)
    };
    Ok(snapshot.auth_config.iter().map(check).collect())
}

async fn ask(context: &Context<'_>, snapshot: &Snapshot, planned: &PlannedServer) -> Vec<Evidence> {
    if !answers(snapshot, &planned.fqdn) {
        return Vec::new();
    }
    vec![processes(context, planned).await, metadata(context, planned).await]
}

/// Whether what caches keys was started after publication.
async fn processes(context: &Context<'_>, planned: &PlannedServer) -> Evidence {
    let check = |result, detail: String| evidence("processes_restarted", &planned.fqdn, result, detail);
    let Some(endpoint) = context.managed.endpoints.windows_on(&planned.fqdn) else {
        return check(CheckResult::NotMade, "no Windows endpoint is configured".to_owned());
    };
    let Some(published_at) = context.facts().published_at else {
        return check(CheckResult::NotMade, "not published yet".to_owned());
    };
    let known = restarted(context, &planned.fqdn);
    match on(&endpoint, async |session| stale_processes(context, session, published_at, known).await).await {
        Ok(stale) if stale.is_empty() => check(CheckResult::Passed, "all started after publication".to_owned()),
        Ok(stale) => check(CheckResult::Failed, format!("not started after publication: {}", stale.join(", "))),
        Err(error) => check(CheckResult::Failed, error.to_string()),
    }
}

/// What the restart of a server has read back.
fn restarted<'a>(context: &'a Context<'_>, fqdn: &str) -> &'a [Process] {
    let mut steps = context.claimed.run.steps.iter();
    let restart = steps.find(|step| step.phase == Phase::Restart && step.target == fqdn);
    match restart.and_then(|step| step.outcome.as_deref()) {
        Some(Outcome::Restarted { processes }) => processes,
        _ => &[],
    }
}

/// The names of what does not run, or has run since before `since`. Compared by the server's own clock. What is `known` to have been started after
/// that is not doubted: a clock that is corrected afterwards would make it look older.
pub(super) async fn stale_processes(
    context: &Context<'_>,
    session: &mut connectors::Session,
    since: DateTime<Utc>,
    known: &[Process],
) -> exchange::Result<Vec<&'static str>> {
    let ahead = discovery::clock_ahead(|| context.now(), session).await?;
    let running = windows::processes(session, SERVICE_HOST, &APP_POOLS).await?;
    let since = since + TimeDelta::seconds(ahead);
    Ok(std::iter::once(SERVICE_HOST).chain(APP_POOLS).filter(|name| !is_fresh(name, &running, since, known)).collect())
}

/// Whether it runs, and every process of it was started at or after `since`, or when one was that is known to be new enough.
fn is_fresh(name: &str, running: &[Process], since: DateTime<Utc>, known: &[Process]) -> bool {
    let of = |processes: &'_ [Process]| processes.iter().filter(|p| p.name == name).map(|p| p.started_at).min();
    let since = of(known).map_or(since, |known| known.min(since));
    of(running).is_some_and(|first| first >= since)
}

#[derive(Deserialize)]
struct Metadata {
    keys: Vec<MetadataKey>,
}

#[derive(Deserialize)]
struct MetadataKey {
    keyvalue: KeyValue,
}

#[derive(Deserialize)]
struct KeyValue {
    value: String,
}

/// Whether the server tells others the new key. A document that cannot be had is not held against it: the way to it may be closed.
pub(super) async fn metadata(context: &Context<'_>, planned: &PlannedServer) -> Evidence {
    let check = |result, detail: String| evidence("metadata_document", &planned.fqdn, result, detail);
    match told_keys(context, planned).await {
        Err(why) => check(CheckResult::NotMade, why),
        Ok(keys) if context.facts().thumbprint.is_some_and(|new| keys.contains(&new)) => {
            check(CheckResult::Passed, "shows the new key".to_owned())
        }
        Ok(keys) => {
            let keys: Vec<&str> = keys.iter().map(Thumbprint::short).collect();
            check(CheckResult::Failed, format!("shows only {}", keys.join(", ")))
        }
    }
}

async fn told_keys(context: &Context<'_>, planned: &PlannedServer) -> std::result::Result<Vec<Thumbprint>, String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let endpoint = context.managed.endpoints.document_on(&planned.fqdn, METADATA);
    let response =
        connectors::fetch(&endpoint.ok_or("there is no endpoint for it")?).await.map_err(|error| error.to_string())?;
    if !response.status.is_success() {
        return Err(format!("{METADATA} answered {}", response.status));
    }
    let document: Metadata = serde_json::from_slice(&response.body).map_err(|error| error.to_string())?;
    let der = document.keys.iter().filter_map(|key| STANDARD.decode(&key.keyvalue.value).ok());
    Ok(der.map(|der| Thumbprint::of_der(&der)).collect())
}

fn evidence(check: &str, target: &str, result: CheckResult, detail: String) -> Evidence {
    Evidence { check: check.to_owned(), target: target.to_owned(), result, detail: storable(detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, started: i64) -> Process {
        Process { name: name.to_owned(), started_at: DateTime::from_timestamp(started, 0).unwrap() }
    }

    #[test]
    fn a_process_is_fresh_if_it_runs_since_the_publication_or_since_the_restart() {
        let published = DateTime::from_timestamp(1000, 0).unwrap();
        let fresh = |running: &[Process], known: &[Process]| is_fresh("pool", running, published, known);
        assert!(fresh(&[process("pool", 1001)], &[]));
        assert!(!fresh(&[process("pool", 999)], &[]), "older than the publication");
        assert!(!fresh(&[process("other", 1001)], &[]), "does not run");
        assert!(!fresh(&[process("pool", 1001), process("pool", 999)], &[]), "one of two is older");
        // The clock was put right by a minute after the restart, which had seen it start after the publication.
        let restarted = [process("pool", 950)];
        assert!(fresh(&[process("pool", 950)], &restarted));
        assert!(fresh(&[process("pool", 970)], &restarted), "restarted once more");
        assert!(!fresh(&[process("pool", 940)], &restarted), "older than what the restart had seen");
        assert!(!fresh(&[process("pool", 950)], &[process("other", 950)]));
    }
}
