//! Ends of attempts. Those that come at the same time are stored together, whatever renewals they belong to: one commit for all of them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::Step;

use crate::{
    ClaimedStep, Db, Error, Result, StepEnd,
    connection::Kind,
    gathering::{Gathering, all_or_each},
};

/// Attempts of a transaction, at most: what is usual is prepared.
const MOST: usize = 64;

/// Who stores ends of attempts, by worker and half of the renewals.
pub(crate) type Finishing = Gathering<(String, bool), Finish, Result<()>>;

pub(crate) fn finishing() -> Finishing {
    Gathering::new(1, MOST)
}

/// An attempt that has ended.
#[derive(Debug)]
pub(crate) struct Finish {
    step: Arc<Step>,
    worker: String,
    end: StepEnd,
    now: DateTime<Utc>,
}

impl Db {
    /// Ends an attempt and lets everything follow. The caller must hold the step's lease.
    pub async fn finish(&self, claimed: &ClaimedStep, worker: &str, end: StepEnd, now: DateTime<Utc>) -> Result<()> {
        let finish = Finish { step: claimed.step.clone(), worker: worker.to_owned(), end, now };
        // While the ends of one half are being flushed, those of the other are being written: of one renewal they would wait for each other.
        let half = self.kind() == Kind::Postgres && finish.step.renewal_id.0.as_u128() % 2 == 1;
        let key = (finish.worker.clone(), half);
        let served = self
            .finishing
            .serve(key, finish, async |all| all_or_each(all, async |some| self.finish_together(some).await).await);
        // Who would have told has gone away, and this one with it, or goes on when the lease is over.
        served.await.unwrap_or(Err(Error::LeaseLost))
    }

    async fn finish_together(&self, all: &[Finish]) -> Result<Vec<Result<()>>> {
        let Some(last) = all.iter().max_by_key(|finish| finish.now) else { return Ok(Vec::new()) };
        let ends: Vec<(&Step, &StepEnd)> = all.iter().map(|finish| (&*finish.step, &finish.end)).collect();
        let held = self.write(async |tx| tx.finish_steps(&ends, &last.worker, last.now).await).await?;
        Ok(all.iter().map(|one| if held.contains(&one.step.id) { Ok(()) } else { Err(Error::LeaseLost) }).collect())
    }
}
