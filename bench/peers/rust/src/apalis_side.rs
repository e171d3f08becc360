//! apalis-postgres with the settings of its own `examples/basic.rs`: batches of 100, no lock of each task, pubsub, tasks in parallel.

use std::time::Instant;

use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PostgresStorage};
use futures::stream;

use crate::{Error, Handled, report, report_idle};

const QUEUE: &str = "bench";
const DONE: &str = "SELECT count(*) FROM apalis.jobs WHERE status = 'Done'";

async fn storage(url: &str) -> Result<(PgPool, PostgresStorage<u64>), Error> {
    let pool = PgPool::connect(url).await?;
    PostgresStorage::setup(&pool).await?;
    let config = Config::default().queue(QUEUE).batch_size(100).lock_tasks(false);
    let storage = PostgresStorage::new(&pool).with_config(config);
    Ok((pool, storage))
}

pub(crate) async fn drain(url: &str, count: u64) -> Result<(), Error> {
    let (pool, mut storage) = storage(url).await?;
    let mut tasks = stream::iter((0..count).map(|number| TaskBuilder::new(number).build()));
    storage.push_all(&mut tasks).await?;
    let handled = Handled::default();
    let done = || async {
        let done: i64 = sqlx09::query_scalar(DONE).fetch_one(&pool).await?;
        Ok(u64::try_from(done)?)
    };
    let begun = Instant::now();
    tokio::select! {
        ended = run(storage, handled.clone()) => ended,
        reported = report(begun, count, handled, done) => reported,
    }
}

pub(crate) async fn idle(url: &str) -> Result<(), Error> {
    let (_pool, storage) = storage(url).await?;
    tokio::select! {
        ended = run(storage, Handled::default()) => ended,
        () = report_idle() => Ok(()),
    }
}

async fn run(storage: PostgresStorage<u64>, handled: Handled) -> Result<(), Error> {
    let backend = storage.with_pubsub();
    let worker = WorkerBuilder::new("bench-worker").backend(backend).data(handled).parallelize(tokio::spawn).build(handle);
    Ok(worker.run().await?)
}

async fn handle(_: u64, handled: Data<Handled>) -> Result<(), BoxDynError> {
    handled.one();
    Ok(())
}
