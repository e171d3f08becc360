//! Renewals that wait: what 10,000 in soak cost a worker that has nothing to do.

use std::time::Duration;

use anyhow::ensure;

use crate::{
    Settings,
    database::{Database, Server},
    process::{Rekey, memory, processor},
    report::{Aim, Row},
    workload::{self, Stage},
};

const RENEWALS: u64 = 10_000;
/// How long the processor time is counted in a round.
const WINDOW: Duration = Duration::from_secs(20);
/// After a start it takes a while until all is quiet.
const QUIET: Duration = Duration::from_secs(5);

pub(crate) async fn measure(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let renewals = settings.amount(RENEWALS, 100);
    let (some, db) = server.create_ours("waiting").await?;
    workload::fill(&some, &db, Stage::Soaking { servers: 1 }, renewals).await?;
    db.close().await;
    let soaking = some.number("SELECT count(*) FROM renewal WHERE status = 'soaking'").await?;
    ensure!(soaking == renewals.cast_signed(), "{soaking} renewals are in soak");
    let (none, _db) = server.create_ours("not_waiting").await?;
    server.settle().await?;
    // Both at the same time: whatever else the machine does, it does to both.
    let mut sides = [Side::start(settings, some).await?, Side::start(settings, none).await?];
    let window = if settings.quick { Duration::from_secs(2) } else { WINDOW };
    tokio::time::sleep(if settings.quick { Duration::ZERO } else { QUIET }).await;
    for _ in 0..settings.rounds() {
        let before = [sides[0].processor()?, sides[1].processor()?];
        tokio::time::sleep(window).await;
        for (side, before) in sides.iter_mut().zip(before) {
            let share = (side.processor()? - before) / window.as_secs_f64() * 100.0;
            side.shares.push(share);
            side.memory.push(memory(side.rekey.id, "VmRSS:")?);
        }
    }
    let more: Vec<f64> = sides[0].memory.iter().zip(&sides[1].memory).map(|(some, none)| some - none).collect();
    let figure = format!("rekey worker, idle, {renewals} renewals in soak, by none");
    let rows = vec![
        Row::value(&figure, "processor", sides[0].shares.iter().copied().collect(), "% of a core", Aim::AtMost(1.0)),
        Row::value(
            &figure,
            "processor, none waiting",
            sides[1].shares.iter().copied().collect(),
            "% of a core",
            Aim::Report,
        ),
        Row::value(&figure, "resident set", sides[0].memory.iter().copied().collect(), "MiB", Aim::Report),
        Row::value(
            &figure,
            "resident set, more than with none waiting",
            more.into_iter().collect(),
            "MiB",
            Aim::AtMost(10.0),
        ),
    ];
    for side in sides {
        side.rekey.end().await?;
        server.drop(&side.database).await?;
    }
    Ok(rows)
}

struct Side {
    database: Database,
    rekey: Rekey,
    /// Of the time of a core, in percent.
    shares: Vec<f64>,
    /// Resident set in MiB.
    memory: Vec<f64>,
}

impl Side {
    async fn start(settings: &Settings, database: Database) -> anyhow::Result<Self> {
        let rekey = Rekey::start(settings, "worker", "", Some(&database)).await?;
        Ok(Self { database, rekey, shares: Vec::new(), memory: Vec::new() })
    }

    fn processor(&self) -> anyhow::Result<f64> {
        processor(self.rekey.id)
    }
}
