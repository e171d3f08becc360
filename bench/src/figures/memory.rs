//! What processes hold in memory: `rekey serve` that has nothing to do, a worker that renews a large organization, and others.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use futures_util::future::{join_all, try_join_all};
use lab::{Lab, Options, organization::ServerSpec};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::{
    Settings,
    database::{Database, Server},
    http::{Connection, get, post},
    process::{Peer, Rekey, memory, told},
    report::{Aim, Row},
};

/// How long `rekey serve` has had nothing to do when it is looked at. The others wait as long.
const IDLE: Duration = Duration::from_secs(10);
/// Servers of the organization that is renewed.
const SERVERS: u64 = 100;
/// Jobs that the others work off meanwhile.
const JOBS: u64 = 20_000;
/// Nothing takes longer, unless it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn measure(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let mut rows = idle(settings, server).await?;
    rows.extend(at_work(settings, server).await?);
    Ok(rows)
}

/// Processes that have nothing to do are in nobody's way: all of a round wait at the same time.
async fn idle(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let all = [Peer::Apalis, Peer::Underway, Peer::Dbos, Peer::Graphile, Peer::PgBoss];
    let peers: Vec<Peer> = all.into_iter().filter(|peer| peer.is_there(settings)).collect();
    let mut ours = Vec::new();
    let mut theirs: Vec<Vec<f64>> = peers.iter().map(|_| Vec::new()).collect();
    for _ in 0..settings.rounds() {
        let databases = peers.iter().map(|peer| server.create(peer.slug()));
        let databases = try_join_all(databases).await?;
        let rekey = Rekey::start(settings, "serve", "", None).await?;
        let others = peers.iter().zip(&databases).map(|(peer, database)| peer.measure(settings, "idle", database, 0));
        let ((), others) = tokio::join!(tokio::time::sleep(IDLE), join_all(others));
        ours.push(memory(rekey.id, "VmRSS:")?);
        rekey.end().await?;
        for (theirs, said) in theirs.iter_mut().zip(others) {
            theirs.push(told(&said?, "resident_kib")? / 1024.0);
        }
        for database in &databases {
            server.drop(database).await?;
        }
    }
    let figure = "resident set, idle for 10 s";
    let spread = ours.iter().copied().collect();
    let mut rows = vec![Row::value(figure, "rekey serve on SQLite", spread, "MiB", Aim::AtMost(40.0))];
    for (peer, theirs) in peers.iter().zip(&theirs) {
        rows.push(Row::beside(figure, peer.name(), &ours, theirs, "MiB", Aim::Report));
    }
    Ok(rows)
}

async fn at_work(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let peers: Vec<Peer> = [Peer::Graphile, Peer::PgBoss].into_iter().filter(|peer| peer.is_there(settings)).collect();
    let servers = settings.amount(SERVERS, 4);
    let mut ours = Vec::new();
    let mut theirs: Vec<Vec<f64>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 0..settings.rounds() {
        ours.push(renew(settings, server, servers).await?);
        eprintln!("bench: round {round}: a worker held {:.1} MiB", ours.last().copied().unwrap_or_default());
        for (peer, theirs) in peers.iter().zip(&mut theirs) {
            let database = server.create(peer.slug()).await?;
            let said = peer.measure(settings, "drain", &database, settings.amount(JOBS, 300)).await?;
            theirs.push(told(&said, "peak_kib")? / 1024.0);
            server.drop(&database).await?;
        }
    }
    let figure = "largest resident set at work";
    let side = format!("rekey worker: a certificate for {servers} servers of a lab");
    let mut rows = vec![Row::value(figure, &side, ours.iter().copied().collect(), "MiB", Aim::Report)];
    for (peer, theirs) in peers.iter().zip(&theirs) {
        let side = format!("{}: no-op jobs in batches", peer.name());
        rows.push(Row::beside(figure, &side, &ours, theirs, "MiB", Aim::AtMost(0.5)));
    }
    Ok(rows)
}

/// Renews the certificate of a lab until every server has it; returns the most that the worker held, in MiB.
async fn renew(settings: &Settings, server: &Server, servers: u64) -> anyhow::Result<f64> {
    let lab = start_lab(servers).await?;
    let folder = Arc::new(tempfile::tempdir()?);
    configure(&lab, &folder)?;
    let (database, _db) = server.create_ours("lab").await?;
    let api = Rekey::start_in(folder.clone(), settings, "api", Some(&database)).await?;
    let worker = Rekey::start_in(folder, settings, "worker", Some(&database)).await?;
    let renewing = async {
        let id = raise(settings, &api, &database).await?;
        approve(settings, &api, &database, &id).await?;
        let distributed = "SELECT count(*) FROM step WHERE kind = 'distribute' AND status = 'succeeded'";
        while database.number(distributed).await? < servers.cast_signed() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        memory(worker.id, "VmHWM:")
    };
    let most = tokio::time::timeout(PATIENCE, renewing).await.context("the renewal takes too long")??;
    worker.end().await?;
    api.end().await?;
    lab.shutdown().await;
    server.drop(&database).await?;
    Ok(most)
}

async fn start_lab(servers: u64) -> anyhow::Result<Lab> {
    let mut organization = lab::organization::Organization::contoso();
    let models = organization.servers.clone();
    let server = |(number, model): (u64, &ServerSpec)| ServerSpec {
        name: format!("EX{number:03}"),
        fqdn: format!("ex{number:03}.contoso.example"),
        ..model.clone()
    };
    organization.servers = (1..=servers).zip(models.iter().cycle()).map(server).collect();
    organization.auth_admin_host = "EX001".to_owned();
    organization.trust_probe = false;
    Lab::start(Options { organization, ..Options::default() }).await
}

/// The lab's own configuration, with as many servers at a time as a worker takes steps.
fn configure(lab: &Lab, folder: &TempDir) -> anyhow::Result<()> {
    let files = lab.write_files(folder.path())?;
    let text = std::fs::read_to_string(&files.config)?;
    let here = "\n[organization.exchange]\n";
    ensure!(text.contains(here), "the lab writes another configuration");
    let most = "servers_at_once = 16\nservers_at_once_per_site = 16\n";
    std::fs::write(&files.config, text.replace(here, &format!("{most}{here}max_sessions = 16\n")))?;
    Ok(())
}

async fn raise(settings: &Settings, api: &Rekey, database: &Database) -> anyhow::Result<String> {
    let token = api.token(settings, database, "alice@contoso.example").await?;
    let body = json!({ "organization": "contoso", "reason": "expiring" }).to_string();
    let request = post("/v1/renewals", &token, "", &body);
    let renewal: Json = serde_json::from_slice(Connection::open(&api.address).await?.expect(&request, 202).await?)?;
    Ok(renewal["id"].as_str().context("it has an id")?.to_owned())
}

/// Waits for the plan, and approves it.
async fn approve(settings: &Settings, api: &Rekey, database: &Database, id: &str) -> anyhow::Result<()> {
    let token = api.token(settings, database, "bob@contoso.example").await?;
    loop {
        let mut connection = Connection::open(&api.address).await?;
        let body = connection.expect(&get(&format!("/v1/renewals/{id}"), &token), 200).await?;
        let renewal: Json = serde_json::from_slice(body)?;
        let state = &renewal["state"];
        if state["status"] == "awaiting_approval" {
            let words = json!({
                "gate": state["gate"], "plan_digest": state["digest"], "verb": "approve", "reason": "Reviewed",
            });
            let request = post(&format!("/v1/renewals/{id}/decisions"), &token, "", &words.to_string());
            return connection.expect(&request, 201).await.map(drop);
        }
        ensure!(state["status"] != "failed", "{state}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
