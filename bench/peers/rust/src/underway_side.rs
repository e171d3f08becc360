//! underway 0.2: jobs of three steps, 24 at a time.

use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::{PgPool, postgres::PgPoolOptions};
use underway::{Job, To, Worker};

use crate::{Error, Handled, report, report_idle};

/// Steps of a job.
const STEPS: u64 = 3;
/// Its worker adds one slot for each notification, up to this many.
const SLOTS: usize = 24;
/// One for each slot, and more for those that listen and enqueue.
const CONNECTIONS: u32 = 32;

type Bench = Job<u64, Handled>;

async fn job(url: &str, handled: Handled) -> Result<(PgPool, Bench), Error> {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await?;
    underway::run_migrations(&pool).await?;
    let job = Job::<u64, Handled>::builder()
        .state(handled)
        .step(|context, number: u64| async move {
            context.state.one();
            To::next(number)
        })
        .step(|context, number: u64| async move {
            context.state.one();
            To::next(number)
        })
        .step(|context, _: u64| async move {
            context.state.one();
            To::done()
        })
        .name("bench")
        .pool(pool.clone())
        .build()
        .await?;
    Ok((pool, job))
}

pub(crate) async fn drain(url: &str, steps: u64) -> Result<(), Error> {
    let handled = Handled::default();
    let (pool, worked_on) = job(url, handled.clone()).await?;
    // A `Job` that is worked on has new ones begin at the step that ran last: those come from another one, as from another process.
    let (_, enqueued) = job(url, handled.clone()).await?;
    let jobs = steps / STEPS;
    // The last ones come when the worker listens: they wake all of its slots.
    let before = jobs.saturating_sub(SLOTS as u64);
    enqueue(&enqueued, before).await?;
    let begun = Instant::now();
    run(&worked_on);
    enqueue(&enqueued, jobs - before).await?;
    let done = || async {
        let succeeded = "SELECT count(*) FROM underway.task WHERE state = 'succeeded'";
        let done: i64 = sqlx::query_scalar(succeeded).fetch_one(&pool).await?;
        Ok(u64::try_from(done)?)
    };
    report(begun, jobs * STEPS, handled, done).await
}

async fn enqueue(job: &Bench, count: u64) -> Result<(), Error> {
    stream::iter(0..count)
        .map(|number| async move { job.enqueue(&number).await.map(drop) })
        .buffer_unordered(8)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

pub(crate) async fn idle(url: &str) -> Result<(), Error> {
    let (_pool, job) = job(url, Handled::default()).await?;
    run(&job);
    report_idle().await;
    Ok(())
}

/// Starts a worker, which ends with this process.
fn run(job: &Bench) {
    let mut worker: Worker<Bench> = job.worker();
    worker.set_concurrency_limit(SLOTS);
    tokio::spawn(async move {
        if let Err(error) = worker.run().await {
            eprintln!("underway has ended: {error}");
        }
    });
}
