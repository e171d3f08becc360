//! Table `step`.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, Utc};
use domain::{Outcome, RenewalId, Step, StepId, StepStatus, Trouble, progress::PhaseProgress, timeline::micros};
use sqlx::{QueryBuilder, types::Json};

use crate::{
    Error, Result, Tx,
    connection::{ROWS_AT_ONCE, is_usual, list, on},
};

pub(crate) const COLUMNS: &str = "id, renewal_id, ordinal, phase, kind, target, site, status, attempt, failures, due_at, trouble, outcome, started_at, finished_at";

const PROGRESS: &str = "
    SELECT phase, COUNT(*) AS total,
        SUM(CASE WHEN status = 'pending' OR (status = 'ready' AND failures = 0) THEN 1 ELSE 0 END) AS waiting,
        SUM(CASE WHEN status = 'running' THEN 1 ELSE 0 END) AS running,
        SUM(CASE WHEN status = 'ready' AND failures > 0 THEN 1 ELSE 0 END) AS retrying,
        SUM(CASE WHEN status = 'attention' THEN 1 ELSE 0 END) AS attention,
        SUM(CASE WHEN status = 'succeeded' THEN 1 ELSE 0 END) AS done,
        SUM(CASE WHEN status = 'skipped' THEN 1 ELSE 0 END) AS skipped
    FROM step WHERE renewal_id = $1 GROUP BY phase ORDER BY MIN(ordinal)";

/// Somebody may still work on it. In these words it is found by its id: `status IN ('ready', 'running')` would let the database read all that is live.
pub(crate) const NOT_PUT_AWAY: &str = "status NOT IN ('pending', 'attention', 'succeeded', 'skipped')";

/// How an attempt at a step ended.
#[derive(Clone, Debug, PartialEq)]
pub enum StepEnd {
    /// To be looked at again at a time; nothing is wrong.
    Again {
        /// When.
        at: DateTime<Utc>,
        /// What has been done so far; what was known before stays when absent.
        so_far: Option<Outcome>,
    },
    /// A person must act.
    Attention(Trouble),
    /// Done and read back.
    Done(Outcome),
    /// Its phase is not being worked on any more.
    Parked,
    /// To be tried again by itself.
    Retry {
        /// When.
        at: DateTime<Utc>,
        /// Why.
        trouble: Trouble,
    },
    /// Not needed.
    Skipped(Outcome),
}

impl StepEnd {
    fn status(&self) -> StepStatus {
        match self {
            Self::Again { .. } | Self::Retry { .. } => StepStatus::Ready,
            Self::Attention(_) => StepStatus::Attention,
            Self::Done(_) => StepStatus::Succeeded,
            Self::Parked => StepStatus::Pending,
            Self::Skipped(_) => StepStatus::Skipped,
        }
    }

    fn due_at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Again { at, .. } | Self::Retry { at, .. } => Some(*at),
            _ => None,
        }
    }

    fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Attention(trouble) | Self::Retry { trouble, .. } => Some(trouble),
            _ => None,
        }
    }

    /// The step after this end of its newest attempt. Nobody else has changed it meanwhile: the attempt is the fence.
    fn of(&self, step: &Step, now: DateTime<Utc>) -> Step {
        let status = self.status();
        let outcome = self.outcome().map(|outcome| Box::new(outcome.clone()));
        Step {
            status,
            failures: if self.trouble().is_some() { step.failures + 1 } else { 0 },
            due_at: self.due_at().map(micros),
            trouble: self.trouble().map(|trouble| Box::new(trouble.clone())),
            outcome: outcome.or_else(|| step.outcome.clone()),
            finished_at: status.is_over().then(|| micros(now)),
            ..step.clone()
        }
    }

    fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Done(outcome) | Self::Skipped(outcome) => Some(outcome),
            Self::Again { so_far, .. } => so_far.as_ref(),
            _ => None,
        }
    }
}

/// A step as it was seen: who writes about it must have seen its newest attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fence {
    pub(crate) id: StepId,
    pub(crate) attempt: i64,
}

impl Fence {
    pub(crate) fn of(step: &Step) -> Self {
        Self { id: step.id, attempt: step.attempt }
    }
}

impl Tx {
    /// Adds steps.
    pub async fn insert_steps(&mut self, new: &[Step]) -> Result<()> {
        for new in new.chunks(ROWS_AT_ONCE) {
            on!(self, |db| {
                let mut insert = QueryBuilder::new(
                    "INSERT INTO step (id, renewal_id, ordinal, phase, kind, target, site, status, attempt, failures, due_at) ",
                );
                insert.push_values(new, |mut row, step| {
                    row.push_bind(step.id).push_bind(step.renewal_id).push_bind(step.ordinal);
                    row.push_bind(step.phase).push_bind(step.kind).push_bind(&step.target).push_bind(&step.site);
                    row.push_bind(step.status).push_bind(step.attempt).push_bind(step.failures).push_bind(step.due_at);
                });
                insert.build().persistent(is_usual(new.len())).execute(db).await.map(drop)
            })?;
        }
        Ok(())
    }

    /// The steps of a renewal in order.
    pub async fn steps(&mut self, renewal: RenewalId) -> Result<Vec<Step>> {
        self.steps_of([renewal]).await
    }

    /// As [`Tx::steps`], for several renewals.
    pub(crate) async fn steps_of(&mut self, renewals: impl IntoIterator<Item = RenewalId>) -> Result<Vec<Step>> {
        Ok(on!(self, |db| {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM step WHERE renewal_id IN ("));
            let listed = list(&mut query, renewals);
            query.push(") ORDER BY ordinal").build_query_as().persistent(is_usual(listed)).fetch_all(db).await
        })?)
    }

    /// How far each phase of a renewal is, in order.
    pub async fn progress(&mut self, renewal: RenewalId) -> Result<Vec<PhaseProgress>> {
        Ok(on!(self, |db| sqlx::query_as(PROGRESS).bind(renewal).fetch_all(db).await)?)
    }

    /// Gives due steps to a worker until `lease_ends`. Returns those that it got, as they are now: who was faster has the others, or who lives after all.
    pub(crate) async fn take_steps(
        &mut self,
        steps: &[Fence],
        lease_ends: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Arc<Step>>> {
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let taken = on!(self, |db| {
            let mut take = QueryBuilder::new("UPDATE step SET status = 'running', attempt = attempt + 1, due_at = ");
            take.push_bind(lease_ends).push(", started_at = COALESCE(started_at, ").push_bind(now);
            take.push(") FROM (");
            take.push_values(steps, |mut row, step| {
                row.push_bind(step.id).push_bind(step.attempt);
            });
            // $2 is the time.
            take.push(format_args!(
                ") AS seen WHERE id = seen.column1 AND attempt = seen.column2 AND {NOT_PUT_AWAY} AND due_at <= $2 RETURNING {COLUMNS}"
            ));
            take.build_query_as().persistent(is_usual(steps.len())).fetch_all(db).await
        })?;
        Ok(shared(taken))
    }

    /// Takes due steps back out of turn.
    pub(crate) async fn park_steps(&mut self, steps: &[Fence]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        on!(self, |db| {
            let mut park = QueryBuilder::new("UPDATE step SET status = 'pending', due_at = NULL FROM (");
            park.push_values(steps, |mut row, step| {
                row.push_bind(step.id).push_bind(step.attempt);
            });
            park.push(format_args!(") AS seen WHERE id = seen.column1 AND attempt = seen.column2 AND {NOT_PUT_AWAY}"));
            park.build().persistent(is_usual(steps.len())).execute(db).await.map(drop)
        })?;
        Ok(())
    }

    /// Makes steps due, each at its time, unless a worker has them: those that [`StepStatus::may_become_due`].
    pub(crate) async fn ready_steps(&mut self, steps: &[(StepId, DateTime<Utc>)]) -> Result<()> {
        for steps in steps.chunks(ROWS_AT_ONCE) {
            on!(self, |db| {
                let mut ready = QueryBuilder::new("UPDATE step SET status = 'ready', due_at = due.column2 FROM (");
                ready.push_values(steps, |mut row, (id, at)| {
                    row.push_bind(*id).push_bind(*at);
                });
                ready.push(") AS due WHERE id = due.column1 AND status IN ('pending', 'ready', 'attention')");
                ready.build().persistent(is_usual(steps.len())).execute(db).await.map(drop)
            })?;
        }
        Ok(())
    }

    /// Makes every step that failed due now and forgets its failures. Returns how many.
    pub(crate) async fn retry_steps(&mut self, renewal: RenewalId, now: DateTime<Utc>) -> Result<u64> {
        Ok(on!(self, |db| sqlx::query(
            "UPDATE step SET status = 'ready', due_at = $2, failures = 0
             WHERE renewal_id = $1 AND (status = 'attention' OR (status = 'ready' AND failures > 0))"
        )
        .bind(renewal)
        .bind(now)
        .execute(db)
        .await
        .map(|done| done.rows_affected()))?)
    }

    /// Takes out the steps of a plan of which nothing was begun, to make room for those of another one.
    pub(crate) async fn delete_planned_steps(&mut self, renewal: RenewalId) -> Result<()> {
        on!(self, |db| sqlx::query("DELETE FROM step WHERE renewal_id = $1 AND kind <> 'preflight' AND attempt = 0")
            .bind(renewal)
            .execute(db)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Makes the preflight due again.
    pub(crate) async fn plan_again(&mut self, renewal: RenewalId, now: DateTime<Utc>) -> Result<()> {
        on!(self, |db| sqlx::query(
            "UPDATE step SET status = 'ready', due_at = $2, failures = 0, outcome = NULL, finished_at = NULL
             WHERE renewal_id = $1 AND kind = 'preflight'"
        )
        .bind(renewal)
        .bind(now)
        .execute(db)
        .await
        .map(drop))?;
        Ok(())
    }

    /// Gives up a step. A worker that has it hears that it has lost it.
    pub(crate) async fn skip_step(&mut self, id: StepId, outcome: &Outcome, now: DateTime<Utc>) -> Result<()> {
        on!(self, |db| sqlx::query(
            "UPDATE step SET status = 'skipped', due_at = NULL, trouble = NULL, outcome = $2, finished_at = $3
             WHERE id = $1 AND status IN ('ready', 'running', 'attention')"
        )
        .bind(id)
        .bind(Json(outcome))
        .bind(now)
        .execute(db)
        .await
        .map(drop))?;
        Ok(())
    }

    /// Gives up every step that is not over, because the run is.
    pub(crate) async fn skip_open_steps(
        &mut self,
        renewal: RenewalId,
        outcome: &Outcome,
        now: DateTime<Utc>,
    ) -> Result<()> {
        on!(self, |db| sqlx::query(
            "UPDATE step SET status = 'skipped', due_at = NULL, outcome = $2, finished_at = $3
             WHERE renewal_id = $1 AND status IN ('pending', 'ready', 'running', 'attention')"
        )
        .bind(renewal)
        .bind(Json(outcome))
        .bind(now)
        .execute(db)
        .await
        .map(drop))?;
        Ok(())
    }

    /// Whether the worker that took this attempt still has the step.
    pub(crate) async fn holds_step(&mut self, step: &Step) -> Result<()> {
        let held: Option<i64> = on!(self, |db| sqlx::query_scalar(
            "SELECT attempt FROM step WHERE id = $1 AND attempt = $2 AND status = 'running'"
        )
        .bind(step.id)
        .bind(step.attempt)
        .fetch_optional(db)
        .await)?;
        held.map(drop).ok_or(Error::LeaseLost)
    }

    /// Moves the end of a lease.
    pub async fn extend_lease(&mut self, step: &Step, lease_ends: DateTime<Utc>) -> Result<()> {
        let rows = on!(self, |db| sqlx::query(
            "UPDATE step SET due_at = $3 WHERE id = $1 AND attempt = $2 AND status = 'running'"
        )
        .bind(step.id)
        .bind(step.attempt)
        .bind(lease_ends)
        .execute(db)
        .await
        .map(|done| done.rows_affected()))?;
        if rows == 0 { Err(Error::LeaseLost) } else { Ok(()) }
    }

    /// Stores how attempts at steps ended. Returns the steps whose lease was still held, as they are now: about the others nothing is written.
    pub(crate) async fn end_steps(&mut self, ends: &[(&Step, &StepEnd)], now: DateTime<Utc>) -> Result<Vec<Arc<Step>>> {
        let mut ended: Vec<Step> = ends.iter().map(|(step, end)| end.of(step, now)).collect();
        let held: HashSet<StepId> = on!(self, |db| {
            let mut end = QueryBuilder::new(
                "UPDATE step SET status = ended.column3, due_at = ended.column4, trouble = ended.column5, outcome = ended.column6,
                    failures = ended.column7, finished_at = ended.column8
                 FROM (",
            );
            end.push_values(&ended, |mut row, step| {
                row.push_bind(step.id).push_bind(step.attempt).push_bind(step.status).push_bind(step.due_at);
                row.push_bind(step.trouble.as_deref().map(Json)).push_bind(step.outcome.as_deref().map(Json));
                row.push_bind(step.failures).push_bind(step.finished_at);
            });
            end.push(format_args!(
                ") AS ended WHERE id = ended.column1 AND attempt = ended.column2 AND {NOT_PUT_AWAY} AND status <> 'ready'
                 RETURNING id"
            ));
            end.build_query_scalar().persistent(is_usual(ends.len())).fetch_all(db).await
        })?
        .into_iter()
        .collect();
        ended.retain(|step| held.contains(&step.id));
        Ok(shared(ended))
    }

    /// Ends every lease at once. Only for a process that knows to be the only one: after a crash its own leases are nobody's.
    pub async fn end_all_leases(&mut self, now: DateTime<Utc>) -> Result<u64> {
        self.let_lanes_go(now).await?;
        Ok(on!(self, |db| sqlx::query(
            "UPDATE step SET due_at = $1 WHERE status IN ('ready', 'running') AND status = 'running' AND due_at > $1"
        )
        .bind(now)
        .execute(db)
        .await
        .map(|done| done.rows_affected()))?)
    }
}

/// Steps as runs have them.
pub(crate) fn shared(steps: Vec<Step>) -> Vec<Arc<Step>> {
    steps.into_iter().map(Arc::new).collect()
}
