//! Lists and claims beside a long history, and the same where there is next to none.

use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use db::{Db, StepEnd};

use crate::{
    Settings,
    database::{Database, Server},
    http::{Connection, get},
    process::{NO_LIMITS, Rekey},
    report::{Aim, Row, Spread},
    workload::{self, Stage, claim, finish},
};

/// How much is there.
#[derive(Clone, Copy, Debug)]
struct History {
    renewals: u64,
    organizations: u64,
    /// Every so-many-th is cancelled.
    cancelled: u64,
    /// Audit entries of each renewal.
    entries: u64,
}

/// 5 million audit rows.
const LONG: History = History { renewals: 100_000, organizations: 1_000, cancelled: 50, entries: 50 };
/// Enough for one page of everything that is asked for: both sides answer as much.
const SHORT: History = History { renewals: 100, organizations: 1, cancelled: 2, entries: 50 };
const SAMPLES: u64 = 200;
/// Answers that do not count: PostgreSQL plans a statement anew until it has seen it a few times.
const WARM_UP: usize = 20;

const CLAIMS: [&str; 2] = ["claim, nothing due", "claim, one step due"];

/// What is asked for: its name and its path. The cursors name the first renewal's followers: after them comes the first page that was ever made.
fn questions() -> Vec<(&'static str, String)> {
    let first = "01900000-0000-7000-8000-000000000001";
    vec![
        ("GET /v1/renewals", "/v1/renewals".to_owned()),
        ("GET /v1/renewals of an organization", "/v1/renewals?organization_id=o000000001".to_owned()),
        ("GET /v1/renewals in a status", "/v1/renewals?status=cancelled".to_owned()),
        ("GET /v1/renewals in a status that none has", "/v1/renewals?status=paused".to_owned()),
        ("GET /v1/renewals, the oldest page", "/v1/renewals?cursor=AZAAAAAAcACAAAAAAAAAMw".to_owned()),
        ("GET /v1/renewals/{id}/audit", format!("/v1/renewals/{first}/audit")),
        ("GET /v1/audit", "/v1/audit".to_owned()),
        ("GET /v1/audit, the oldest page", "/v1/audit?cursor=AZAAAQAAcACAAAAAAAAAcw".to_owned()),
    ]
}

pub(crate) async fn measure(settings: &Settings, server: &Server) -> anyhow::Result<Vec<Row>> {
    let long = if settings.quick { History { renewals: 2_000, ..LONG } } else { LONG };
    let begun = Instant::now();
    let mut sides = [
        Side::start(settings, server, "history", long).await?,
        Side::start(settings, server, "no_history", SHORT).await?,
    ];
    eprintln!(
        "bench: a history of {} audit rows in {:.0} s",
        long.renewals * long.entries,
        begun.elapsed().as_secs_f64()
    );
    let (questions, samples) = (questions(), settings.amount(SAMPLES, 20));
    let names: Vec<&str> = questions.iter().map(|(name, _)| *name).chain(CLAIMS).collect();
    for round in 0..settings.rounds() {
        for (place, (name, path)) in questions.iter().enumerate() {
            let mut latencies = [Spread::default(), Spread::default()];
            for side in &mut sides {
                side.connect().await?;
            }
            for sample in 0..samples {
                for number in in_turn(sample) {
                    latencies[number].push(sides[number].get(path).await.with_context(|| (*name).to_owned())?);
                }
            }
            keep(&mut sides, place, &latencies);
        }
        let mut latencies = [[Spread::default(), Spread::default()], [Spread::default(), Spread::default()]];
        for sample in 0..samples {
            for number in in_turn(sample) {
                let [empty, due] = sides[number].claims().await?;
                latencies[0][number].push(empty);
                latencies[1][number].push(due);
            }
        }
        for (place, latencies) in latencies.iter().enumerate() {
            keep(&mut sides, questions.len() + place, latencies);
        }
        eprintln!("bench: round {round}: done");
    }
    let rows = rows(&sides, &names, long);
    for side in sides {
        side.end(server).await?;
    }
    Ok(rows)
}

/// Who comes first changes each time: the first may find the processor's caches cold.
fn in_turn(sample: u64) -> [usize; 2] {
    if sample.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

fn keep(sides: &mut [Side; 2], place: usize, latencies: &[Spread; 2]) {
    for (side, latencies) in sides.iter_mut().zip(latencies) {
        let kept = side.kept.entry(place).or_default();
        kept.0.push(latencies.quantile(0.5));
        kept.1.push(latencies.quantile(0.99));
    }
}

fn rows(sides: &[Side; 2], names: &[&str], long: History) -> Vec<Row> {
    let (renewals, audit) = (long.renewals, long.renewals * long.entries);
    let figure = format!("beside {renewals} finished renewals and {audit} audit rows, by next to none");
    let mut rows = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let [Some(long), Some(short)] = sides.each_ref().map(|side| side.kept.get(&place)) else { continue };
        rows.push(Row::by(&figure, &format!("{name}: p50"), &long.0, &short.0, "ms", Aim::Report));
        rows.push(Row::by(&figure, &format!("{name}: p99"), &long.1, &short.1, "ms", Aim::AtMost(1.5)));
    }
    rows
}

/// A database with its history, an API on it, and what was measured there.
struct Side {
    database: Database,
    db: Db,
    rekey: Rekey,
    connection: Connection,
    token: String,
    /// p50 and p99 of each round, in ms, by question.
    kept: BTreeMap<usize, (Vec<f64>, Vec<f64>)>,
}

/// Fills an empty database with what is over.
async fn fill(database: &Database, history: History) -> anyhow::Result<()> {
    let History { renewals, organizations, cancelled, entries } = history;
    let statements = include_str!("../sql/history.sql");
    let statements = statements.replace(":renewals", &renewals.to_string());
    let statements = statements.replace(":organizations", &organizations.to_string());
    let statements = statements.replace(":cancelled", &cancelled.to_string());
    database.run(&statements.replace(":entries", &entries.to_string())).await
}

impl Side {
    async fn start(settings: &Settings, server: &Server, name: &str, history: History) -> anyhow::Result<Self> {
        let (database, db) = server.create_ours(name).await?;
        fill(&database, history).await?;
        workload::fill_by_functions(&db, Stage::Begun { servers: 1 }, 1).await?;
        server.settle().await?;
        let rekey = Rekey::start(settings, "api", NO_LIMITS, Some(&database)).await?;
        let token = rekey.token(settings, &database, "alice@contoso.example").await?;
        let connection = Connection::open(&rekey.address).await?;
        let mut side = Self { database, db, rekey, connection, token, kept: BTreeMap::new() };
        for _ in 0..WARM_UP {
            for (_, path) in questions() {
                side.get(&path).await?;
            }
            side.claims().await?;
        }
        Ok(side)
    }

    /// Connects anew: while others were asked, the API may have ended a connection that said nothing.
    async fn connect(&mut self) -> anyhow::Result<()> {
        self.connection = Connection::open(&self.rekey.address).await?;
        self.get("/v1/renewals").await.map(drop)
    }

    /// How long an answer takes, in ms.
    async fn get(&mut self, path: &str) -> anyhow::Result<f64> {
        let request = get(path, &self.token);
        let sent = Instant::now();
        self.connection.expect(&request, 200).await?;
        Ok(sent.elapsed().as_secs_f64() * 1000.0)
    }

    /// How long a claim takes when nothing is due, and when one step is, in ms.
    async fn claims(&self) -> anyhow::Result<[f64; 2]> {
        let (due, step) = self.claim().await?;
        let step = step.context("a step is due")?;
        let (empty, none) = self.claim().await?;
        ensure!(none.is_none(), "two steps are due");
        let at = self.db.now() - TimeDelta::seconds(1);
        finish(&self.db, &step, &StepEnd::Again { at, so_far: None }).await?;
        Ok([empty, due])
    }

    async fn claim(&self) -> anyhow::Result<(f64, Option<db::ClaimedStep>)> {
        let asked = Instant::now();
        let mut claimed = claim(&self.db, workload::WORKER, 16, &HashSet::new(), &BTreeMap::new()).await?;
        Ok((asked.elapsed().as_secs_f64() * 1000.0, claimed.steps.pop()))
    }

    async fn end(self, server: &Server) -> anyhow::Result<()> {
        self.rekey.end().await?;
        self.db.close().await;
        server.drop(&self.database).await
    }
}

#[cfg(test)]
mod tests {
    use db::Page;

    use super::*;

    /// Where there is a server: `./test` starts one.
    #[tokio::test]
    async fn a_history_is_read_as_if_the_product_had_written_it() {
        let Ok(url) = std::env::var("TEST_POSTGRES_URL") else { return };
        let server = Server::new(&url).await.unwrap();
        let (database, db) = server.create_ours("test_history").await.unwrap();
        fill(&database, History { renewals: 6, organizations: 2, cancelled: 3, entries: 4 }).await.unwrap();
        let page = Page { before: None, limit: 10 };
        let over = db.read(async |tx| tx.renewals(None, None, page).await).await.unwrap();
        assert_eq!(over.len(), 6);
        for renewal in over {
            let run = db.read(async |tx| tx.load_run(renewal.id).await.map(|run| run.steps.len())).await;
            let entries = db.read(async |tx| tx.audit_of(renewal.id, 0, 10).await).await.unwrap();
            assert_eq!(entries.len(), 4);
            // Its plan is as long as one, and says nothing.
            assert!(run.is_err());
        }
        db.close().await;
        server.drop(&database).await.unwrap();
    }
}
