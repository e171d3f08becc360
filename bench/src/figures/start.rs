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
    task::JoinHandle,
};

use crate::{
    Settings,
    database::{Database, Server},
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

/// How long a step took to start, in ms.
struct Sample {
    /// Since its decision was committed.
    committed: f64,
    /// Since somebody set about deciding.
    asked: f64,
}

/// What a side gave in each round, in ms.
#[derive(Default)]
struct Latencies {
    /// Since the commit, p50 and p99.
    middles: Vec<f64>,
    tails: Vec<f64>,
    /// Since the call, p50.
    asked: Vec<f64>,
}

impl Latencies {
    fn add(&mut self, samples: &[Sample]) {
        let committed: Spread = samples.iter().map(|sample| sample.committed).collect();
        let asked: Spread = samples.iter().map(|sample| sample.asked).collect();
        self.middles.push(committed.quantile(0.5));
        self.tails.push(committed.quantile(0.99));
        self.asked.push(asked.quantile(0.5));
    }
}

pub(crate) async fn measure(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let samples = settings.amount(SAMPLES, 10);
    let peers: Vec<Peer> = [Peer::Graphile, Peer::PgBoss].into_iter().filter(|peer| peer.is_there(settings)).collect();
    let mut all = Sides::default();
    all.theirs.extend(peers.iter().map(|peer| (*peer, Latencies::default())));
    for round in 0..settings.rounds() {
        all.apart.add(&in_two_processes(server, samples).await?);
        all.together.add(&in_one_process(server, samples).await?);
        for (peer, theirs) in &mut all.theirs {
            let database = server.create(peer.slug()).await?;
            let said = peer.measure(settings, "start", &database, samples).await?;
            server.drop(&database).await?;
            let list: Vec<(f64, f64)> = serde_json::from_value(said["ms"].clone())?;
            ensure!(list.len() as u64 == samples, "{} has started {} of {samples}", peer.name(), list.len());
            let samples = list.into_iter().map(|(committed, asked)| Sample { committed, asked });
            theirs.add(&samples.collect::<Vec<_>>());
        }
        all.sqlite.add(&on_sqlite(samples).await?);
        eprintln!(
            "bench: round {round}: p50 {:?} ms, {:?} ms apart",
            all.together.middles.last(),
            all.apart.middles.last()
        );
    }
    Ok(all.rows())
}

/// What was measured on each.
#[derive(Default)]
struct Sides {
    /// API and worker in one process.
    together: Latencies,
    /// In a process each.
    apart: Latencies,
    /// In one process, on SQLite.
    sqlite: Latencies,
    theirs: Vec<(Peer, Latencies)>,
}

impl Sides {
    fn rows(&self) -> Vec<Row> {
        let figure = "decision committed → step started, idle";
        let spread = |values: &[f64]| values.iter().copied().collect();
        let value = |side: &str, values: &[f64], aim| Row::value(figure, side, spread(values), "ms", aim);
        let mut rows = vec![
            value("rekey, one process: p50", &self.together.middles, Aim::Report),
            value("rekey, one process: p99", &self.together.tails, Aim::Report),
            value("rekey, two processes: p50", &self.apart.middles, Aim::Report),
            value("rekey, two processes: p99", &self.apart.tails, Aim::Report),
        ];
        for (ours, of) in [(&self.together, ""), (&self.apart, ", beside two processes of ours")] {
            for (peer, theirs) in &self.theirs {
                for (word, ours, theirs) in
                    [("p50", &ours.middles, &theirs.middles), ("p99", &ours.tails, &theirs.tails)]
                {
                    let name = format!("{} with NOTIFY: {word}{of}", peer.name());
                    rows.push(Row::beside(figure, &name, ours, theirs, "ms", Aim::AtMost(1.0)));
                }
            }
        }
        rows.push(value("rekey, one process on SQLite: p50", &self.sqlite.middles, Aim::Report));
        rows.push(value("rekey, one process on SQLite: p99", &self.sqlite.tails, Aim::AtMost(10.0)));
        rows.extend(self.since_the_call());
        rows
    }

    /// What the starts cost the decisions is in these.
    fn since_the_call(&self) -> Vec<Row> {
        let figure = "decision asked for → step started, idle";
        let value = |side: &str, of: &Latencies| {
            Row::value(figure, side, of.asked.iter().copied().collect(), "ms", Aim::Report)
        };
        let mut rows = vec![
            value("rekey, one process: p50", &self.together),
            value("rekey, two processes: p50", &self.apart),
            value("rekey, one process on SQLite: p50", &self.sqlite),
        ];
        rows.extend(self.theirs.iter().map(|(peer, theirs)| {
            let name = format!("{} with NOTIFY: p50", peer.name());
            Row::beside(figure, &name, &self.together.asked, &theirs.asked, "ms", Aim::Report)
        }));
        rows
    }
}

/// Decides here; a worker in a process of its own is woken by LISTEN and NOTIFY.
async fn in_two_processes(server: &Server, samples: u64) -> anyhow::Result<Vec<Sample>> {
    let planned = Planned::on(server, samples).await?;
    let mut worker = Worker::start(&planned.database.url).await?;
    let mut taken = Vec::new();
    for id in &planned.ids {
        pause().await;
        let decided = decide(&planned.db, *id).await?;
        let (renewal, at) = worker.next().await?;
        ensure!(renewal == *id, "{renewal} has started in place of {id}");
        taken.push(decided.sample(at));
    }
    worker.child.kill().await?;
    planned.drop(server).await?;
    Ok(taken)
}

/// Decides and works in this process, on PostgreSQL.
async fn in_one_process(server: &Server, samples: u64) -> anyhow::Result<Vec<Sample>> {
    let planned = Planned::on(server, samples).await?;
    let taken = decide_and_work(&planned.db, &planned.ids).await?;
    planned.drop(server).await?;
    Ok(taken)
}

/// A database of renewals whose plans wait for approval, and a process in touch with it.
struct Planned {
    database: Database,
    db: Db,
    ids: Vec<RenewalId>,
    watching: JoinHandle<()>,
}

impl Planned {
    async fn on(server: &Server, count: u64) -> anyhow::Result<Self> {
        let (database, db) = server.create_ours("start").await?;
        workload::fill(&database, &db, Stage::Planned { servers: 3 }, count).await?;
        let ids = database.texts("SELECT id::text FROM renewal").await?;
        let ids = ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
        let watched = db.clone();
        let watching = tokio::spawn(async move { watched.watch().await });
        Ok(Self { database, db, ids, watching })
    }

    async fn drop(self, server: &Server) -> anyhow::Result<()> {
        self.watching.abort();
        self.db.close().await;
        server.drop(&self.database).await
    }
}

/// The same on SQLite, with every commit on the disk.
async fn on_sqlite(samples: u64) -> anyhow::Result<Vec<Sample>> {
    let folder = tempfile::tempdir()?;
    let db = Db::open(&format!("sqlite:{}", folder.path().join("rekey.db").display())).await?;
    db.migrate().await?;
    let ids = workload::fill_by_functions(&db, Stage::Planned { servers: 3 }, samples).await?;
    decide_and_work(&db, &ids).await
}

/// Decides here, while a thread of this process works.
async fn decide_and_work(db: &Db, ids: &[RenewalId]) -> anyhow::Result<Vec<Sample>> {
    let (taken, mut steps) = mpsc::unbounded_channel();
    let working = db.clone();
    let runtime = tokio::runtime::Handle::current();
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = std::thread::spawn(move || {
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
    let mut samples = Vec::new();
    for id in ids {
        pause().await;
        let decided = decide(db, *id).await?;
        let (renewal, at) = tokio::time::timeout(PATIENCE, steps.recv()).await?.context("the worker has ended")?;
        ensure!(renewal == *id, "{renewal} has started in place of {id}");
        samples.push(decided.sample(at));
    }
    drop(stop);
    let worker = tokio::task::spawn_blocking(|| worker.join());
    worker.await?.map_err(|_| anyhow::anyhow!("the worker has crashed"))??;
    Ok(samples)
}

/// A decision: when somebody set about it, and when it was committed.
struct Decided {
    asked: u64,
    committed: u64,
}

impl Decided {
    fn sample(&self, started: u64) -> Sample {
        // The worker may have the step before the decider hears that it is committed.
        let since = |then: u64| started.saturating_sub(then) as f64 / 1e6;
        Sample { committed: since(self.committed), asked: since(self.asked) }
    }
}

/// Approves.
async fn decide(db: &Db, id: RenewalId) -> anyhow::Result<Decided> {
    let plan = plan_of(db, id).await?;
    let (asked, now) = (monotonic(), db.now());
    let yes = approval(id, &plan, now);
    db.write(async |tx| tx.decide(&yes, None, now).await).await?;
    Ok(Decided { asked, committed: monotonic() })
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
    async fn next(&mut self) -> anyhow::Result<(RenewalId, u64)> {
        let said = self.said().await?;
        let renewal = said["renewal"].as_str().context("no renewal")?.parse()?;
        Ok((renewal, said["at"].as_u64().context("no time")?))
    }

    async fn said(&mut self) -> anyhow::Result<Json> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await??;
        Ok(serde_json::from_str(&line.context("the worker has ended")?)?)
    }
}
