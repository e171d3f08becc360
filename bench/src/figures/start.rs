//! How long it takes on an idle system from a committed decision to the start of the step that it allows.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use db::Db;
use domain::{Digest, Plan, RenewalId};
use serde_json::Value as Json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
    sync::{mpsc, oneshot},
};

use crate::{
    Settings,
    database::Server,
    process::{Peer, side},
    report::{Aim, Row, Spread},
    sides::{monotonic, next_step, put_away},
    workload::{self, Stage, approval},
};

/// Decisions of each side in a round.
const SAMPLES: u64 = 300;
/// Between two of them, in ms, and a little more that differs.
const PAUSE: u64 = 10;
/// Nothing takes longer, unless it has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a side gave: p50 and p99 of each round, in ms.
#[derive(Default)]
struct Latencies {
    middles: Vec<f64>,
    tails: Vec<f64>,
}

impl Latencies {
    fn add(&mut self, samples: Vec<f64>) {
        let spread: Spread = samples.into_iter().collect();
        self.middles.push(spread.quantile(0.5));
        self.tails.push(spread.quantile(0.99));
    }
}

pub(crate) async fn measure(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let samples = settings.amount(SAMPLES, 10);
    let peers: Vec<Peer> = [Peer::Graphile, Peer::PgBoss].into_iter().filter(|peer| peer.is_there(settings)).collect();
    let (mut ours, mut sqlite) = (Latencies::default(), Latencies::default());
    let mut theirs: Vec<Latencies> = peers.iter().map(|_| Latencies::default()).collect();
    for round in 0..settings.rounds() {
        ours.add(on_postgres(server, samples).await?);
        for (peer, theirs) in peers.iter().zip(&mut theirs) {
            let database = server.create(peer.slug()).await?;
            let said = peer.measure(settings, "start", &database, samples).await?;
            server.drop(&database).await?;
            let list: Vec<f64> = serde_json::from_value(said["ms"].clone())?;
            ensure!(list.len() as u64 == samples, "{} has started {} of {samples}", peer.name(), list.len());
            theirs.add(list);
        }
        sqlite.add(on_sqlite(samples).await?);
        eprintln!("bench: round {round}: p50 {:?} ms, p99 {:?} ms", ours.middles.last(), ours.tails.last());
    }
    Ok(rows(&ours, &sqlite, &peers, &theirs))
}

fn rows(ours: &Latencies, sqlite: &Latencies, peers: &[Peer], theirs: &[Latencies]) -> Vec<Row> {
    let figure = "decision committed → step started, idle";
    let spread = |values: &[f64]| values.iter().copied().collect();
    let mut rows = vec![
        Row::value(figure, "rekey, two processes: p50", spread(&ours.middles), "ms", Aim::Report),
        Row::value(figure, "rekey, two processes: p99", spread(&ours.tails), "ms", Aim::Report),
    ];
    for (peer, theirs) in peers.iter().zip(theirs) {
        for (word, ours, theirs) in [("p50", &ours.middles, &theirs.middles), ("p99", &ours.tails, &theirs.tails)] {
            let name = format!("{} with NOTIFY: {word}", peer.name());
            rows.push(Row::beside(figure, &name, ours, theirs, "ms", Aim::AtMost(1.0)));
        }
    }
    rows.push(Row::value(figure, "rekey, one process on SQLite: p50", spread(&sqlite.middles), "ms", Aim::Report));
    rows.push(Row::value(figure, "rekey, one process on SQLite: p99", spread(&sqlite.tails), "ms", Aim::AtMost(10.0)));
    rows
}

/// Decides here; a worker in a process of its own is woken by LISTEN and NOTIFY.
async fn on_postgres(server: &Server, samples: u64) -> anyhow::Result<Vec<f64>> {
    let (database, db) = server.create_ours("start").await?;
    workload::fill(&database, &db, Stage::Planned { servers: 3 }, samples).await?;
    let watching = tokio::spawn({
        let db = db.clone();
        async move { db.watch().await }
    });
    let mut worker = Worker::start(&database.url).await?;
    let mut latencies = Vec::new();
    for id in database.texts("SELECT id::text FROM renewal").await? {
        pause().await;
        let decided = decide(&db, id.parse()?).await?;
        let (renewal, at) = worker.next().await?;
        ensure!(renewal == id, "{renewal} has started in place of {id}");
        latencies.push(milliseconds(decided, at));
    }
    watching.abort();
    worker.child.kill().await?;
    db.close().await;
    server.drop(&database).await?;
    Ok(latencies)
}

/// Decides and works in this process, on SQLite with every commit on the disk.
async fn on_sqlite(samples: u64) -> anyhow::Result<Vec<f64>> {
    let folder = tempfile::tempdir()?;
    let db = Db::open(&format!("sqlite:{}", folder.path().join("rekey.db").display())).await?;
    db.migrate().await?;
    let ids = workload::fill_by_functions(&db, Stage::Planned { servers: 3 }, samples).await?;
    let (taken, mut steps) = mpsc::unbounded_channel();
    let working = db.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = async {
            loop {
                let (step, at) = next_step(&working).await?;
                put_away(&working, &step).await?;
                taken.send((step.step.renewal_id, at))?;
            }
        };
        runtime.block_on(async {
            tokio::select! {
                ended = work => ended,
                _ = stopped => anyhow::Ok(()),
            }
        })
    });
    let mut latencies = Vec::new();
    for id in ids {
        pause().await;
        let decided = decide(&db, id).await?;
        let (renewal, at) = tokio::time::timeout(PATIENCE, steps.recv()).await?.context("the worker has ended")?;
        ensure!(renewal == id, "{renewal} has started in place of {id}");
        latencies.push(milliseconds(decided, at));
    }
    drop(stop);
    worker.join().map_err(|_| anyhow::anyhow!("the worker has crashed"))??;
    Ok(latencies)
}

/// Approves, and returns when that was committed.
async fn decide(db: &Db, id: RenewalId) -> anyhow::Result<u64> {
    let plan = plan_of(db, id).await?;
    let now = db.now();
    let yes = approval(id, &plan, now);
    db.write(async |tx| tx.decide(&yes, None, now).await).await?;
    Ok(monotonic())
}

async fn plan_of(db: &Db, id: RenewalId) -> anyhow::Result<Plan> {
    let plan = db.read(async |tx| {
        let digest: Option<Digest> = tx.renewal(id).await?.plan_digest;
        match digest {
            Some(digest) => tx.plan(id, &digest).await,
            None => Ok(None),
        }
    });
    plan.await?.context("there is no plan")
}

/// A little more each time, so that nothing keeps step with it.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(PAUSE + monotonic() / 1000 % PAUSE)).await;
}

/// The worker may have it before the decider hears that it is committed.
fn milliseconds(decided: u64, started: u64) -> f64 {
    started.saturating_sub(decided) as f64 / 1e6
}

/// A worker in a process of its own.
struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    async fn start(url: &str) -> anyhow::Result<Self> {
        let mut command = side(&["wake", url])?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        let mut worker = Self { child, lines };
        worker.said().await?;
        Ok(worker)
    }

    /// The renewal of a step that it has taken, and when.
    async fn next(&mut self) -> anyhow::Result<(String, u64)> {
        let said = self.said().await?;
        let renewal = said["renewal"].as_str().context("no renewal")?.to_owned();
        Ok((renewal, said["at"].as_u64().context("no time")?))
    }

    async fn said(&mut self) -> anyhow::Result<Json> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await??;
        Ok(serde_json::from_str(&line.context("the worker has ended")?)?)
    }
}
