//! Steps with their audit rows: claim, nothing, fenced end. Beside durable steps of others, and beside jobs without audit.

use anyhow::ensure;
use serde_json::Value as Json;

use crate::{
    Settings,
    database::{Database, Server},
    process::{Peer, said, side, told},
    report::{Aim, Row},
    workload::{self, Work},
};

/// What each side is meant to take.
const SECONDS: f64 = 4.0;
/// Steps that are counted in a figure for all must not be fewer.
const LEAST: u64 = 300;

/// A side, and what it gave in each round.
struct Side {
    who: Who,
    /// How many steps take about [`SECONDS`].
    steps: u64,
    rates: Vec<f64>,
    peaks: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Who {
    Ours(Work),
    Peer(Peer),
}

pub(crate) async fn measure(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let peers = [Peer::Apalis, Peer::Underway, Peer::Dbos, Peer::Graphile, Peer::PgBoss];
    let peers = peers.into_iter().filter(|peer| peer.is_there(settings)).map(Who::Peer);
    let all = [Who::Ours(Work::FanOut), Who::Ours(Work::Chain)].into_iter().chain(peers);
    let mut sides: Vec<Side> =
        all.map(|who| Side { who, steps: LEAST, rates: Vec::new(), peaks: Vec::new() }).collect();
    // A first round that does not count shows how many steps are enough.
    for side in &mut sides {
        let (rate, _) = drain(settings, server, side.who, settings.amount(1_500, LEAST)).await?;
        side.steps = settings.amount((rate * SECONDS) as u64, LEAST).clamp(LEAST, 200_000);
        eprintln!("bench: {}: about {rate:.0} steps/s", side.who.name());
    }
    for round in 0..settings.rounds() {
        for side in &mut sides {
            let (rate, peak) = drain(settings, server, side.who, side.steps).await?;
            eprintln!("bench: round {round}: {}: {rate:.0} steps/s, {peak:.1} MiB", side.who.name());
            side.rates.push(rate);
            side.peaks.push(peak);
        }
    }
    Ok(rows(&sides))
}

/// Lets a side carry out so many steps, counts them, and returns how many there were in a second, and the largest resident set in MiB.
async fn drain(settings: &Settings, server: &Server, who: Who, steps: u64) -> anyhow::Result<(f64, f64)> {
    let (database, told_of, done) = match who {
        Who::Peer(peer) => {
            let database = server.create(peer.slug()).await?;
            // Jobs of others have three steps.
            let steps = steps / 3 * 3;
            (database.clone(), peer.measure(settings, "drain", &database, steps).await?, steps)
        }
        Who::Ours(work) => ours(server, work, steps.div_ceil(work.steps())).await?,
    };
    server.drop(&database).await?;
    ensure!(told(&told_of, "done")? as u64 == done, "{}: {told_of} in place of {done}", who.name());
    Ok((done as f64 / told(&told_of, "seconds")?, told(&told_of, "peak_kib")? / 1024.0))
}

async fn ours(server: &Server, work: Work, organizations: u64) -> anyhow::Result<(Database, Json, u64)> {
    let (database, db) = server.create_ours("steps").await?;
    workload::fill(&database, &db, work.stage(), organizations).await?;
    db.close().await;
    let before = Recorded::of(&database).await?;
    let word = if work == Work::FanOut { "fan-out" } else { "chain" };
    let told_of = said(side(&["drain", &database.url, word, &organizations.to_string()])?).await?;
    let steps = organizations * work.steps();
    let after = Recorded::of(&database).await?;
    ensure!(after.ended - before.ended == steps.cast_signed(), "steps: {before:?}, then {after:?}, not {steps} more");
    ensure!(after.told == before.told + steps.cast_signed(), "audit: {before:?}, then {after:?}, not {steps} more");
    ensure!(after.started == before.started + steps.cast_signed(), "audit: {before:?}, then {after:?}");
    Ok((database, told_of, steps))
}

/// What the database says of steps and of their record.
#[derive(Debug)]
struct Recorded {
    ended: i64,
    started: i64,
    told: i64,
}

impl Recorded {
    async fn of(database: &Database) -> anyhow::Result<Self> {
        Ok(Self {
            ended: database.number("SELECT count(*) FROM step WHERE status = 'succeeded'").await?,
            started: database.number("SELECT count(*) FROM audit WHERE action = 'step.started'").await?,
            told: database.number("SELECT count(*) FROM audit WHERE action = 'step.succeeded'").await?,
        })
    }
}

fn rows(sides: &[Side]) -> Vec<Row> {
    let (steps, memory) = ("steps/s with their audit rows", "largest resident set meanwhile");
    let mut rows = Vec::new();
    let [ours, chain, peers @ ..] = sides else { return rows };
    let spread = |values: &[f64]| values.iter().copied().collect();
    rows.push(Row::value(steps, ours.who.name(), spread(&ours.rates), "/s", Aim::Report));
    rows.push(Row::value(steps, chain.who.name(), spread(&chain.rates), "/s", Aim::Report));
    for (mode, ours) in [("", ours), (", beside one by one", chain)] {
        for peer in peers {
            let aim = match (peer.who, mode) {
                (Who::Peer(Peer::Dbos | Peer::Underway), _) => Aim::AtLeast(10.0),
                (Who::Peer(Peer::Apalis), _) => Aim::AtLeast(1.0),
                _ => Aim::Report,
            };
            let name = format!("{}{mode}", peer.who.name());
            rows.push(Row::beside(steps, &name, &ours.rates, &peer.rates, "/s", aim));
        }
    }
    rows.push(Row::value(memory, ours.who.name(), spread(&ours.peaks), "MiB", Aim::Report));
    for peer in peers {
        let aim = if is_node(peer.who) { Aim::AtMost(0.5) } else { Aim::Report };
        rows.push(Row::beside(memory, peer.who.name(), &ours.peaks, &peer.peaks, "MiB", aim));
    }
    rows
}

fn is_node(who: Who) -> bool {
    matches!(who, Who::Peer(Peer::Graphile | Peer::PgBoss))
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Ours(Work::FanOut) => "rekey: 50 steps due of each renewal",
            Self::Ours(Work::Chain) => "rekey: one step due of each renewal, whole runs",
            Self::Peer(Peer::Apalis) => "apalis-postgres 1.0.0: jobs, no audit",
            Self::Peer(Peer::Underway) => "underway 0.2.0: durable steps, 3 a job",
            Self::Peer(Peer::Dbos) => "DBOS 3.4.0 (Python): durable steps, 3 a workflow",
            Self::Peer(Peer::Graphile) => "graphile-worker 0.18.0: jobs in batches, no audit, no fence",
            Self::Peer(Peer::PgBoss) => "pg-boss 12.38.0: jobs in batches, no audit, no fence",
        }
    }
}
