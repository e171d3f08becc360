//! Table `step`.

use chrono::{DateTime, Utc};
use domain::{Outcome, RenewalId, Step, StepId, StepStatus, Trouble, progress::PhaseProgress};
use sqlx::types::Json;

use crate::{Error, Result, Tx, connection::on};

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

    fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Done(outcome) | Self::Skipped(outcome) => Some(outcome),
            Self::Again { so_far, .. } => so_far.as_ref(),
            _ => None,
        }
    }
}

impl Tx {
    /// Adds a step.
    pub async fn insert_step(&mut self, new: &Step) -> Result<()> {
        on!(self, |db| sqlx::query(
            "INSERT INTO step (id, renewal_id, ordinal, phase, kind, target, site, status, attempt, failures, due_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
        )
        .bind(new.id)
        .bind(new.renewal_id)
        .bind(new.ordinal)
        .bind(new.phase)
        .bind(new.kind)
        .bind(&new.target)
        .bind(&new.site)
        .bind(new.status)
        .bind(new.attempt)
        .bind(new.failures)
        .bind(new.due_at)
        .execute(db)
        .await
        .map(drop))?;
        Ok(())
    }

    /// The steps of a renewal in order.
    pub async fn steps(&mut self, renewal: RenewalId) -> Result<Vec<Step>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM step WHERE renewal_id = $1 ORDER BY ordinal"));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(renewal).fetch_all(db).await)?)
    }

    /// How far each phase of a renewal is, in order.
    pub async fn progress(&mut self, renewal: RenewalId) -> Result<Vec<PhaseProgress>> {
        Ok(on!(self, |db| sqlx::query_as(PROGRESS).bind(renewal).fetch_all(db).await)?)
    }

    /// Gives a step to a worker until `lease_ends`; `None` when another worker was faster.
    pub(crate) async fn take_step(
        &mut self,
        step: &Step,
        lease_ends: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<Step>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE step SET status = 'running', attempt = attempt + 1, due_at = $3, started_at = COALESCE(started_at, $4)
             WHERE id = $1 AND attempt = $2 AND status IN ('ready', 'running') RETURNING {COLUMNS}"
        ));
        Ok(on!(self, |db| sqlx::query_as(sql)
            .bind(step.id)
            .bind(step.attempt)
            .bind(lease_ends)
            .bind(now)
            .fetch_optional(db)
            .await)?)
    }

    /// Takes a due step back out of turn.
    pub(crate) async fn park_step(&mut self, step: &Step) -> Result<()> {
        on!(self, |db| {
            sqlx::query("UPDATE step SET status = 'pending', due_at = NULL WHERE id = $1 AND attempt = $2 AND status IN ('ready', 'running')")
            .bind(step.id)
            .bind(step.attempt)
            .execute(db)
            .await
            .map(drop)
        })?;
        Ok(())
    }

    /// Makes steps due at a time, unless a worker has them.
    pub(crate) async fn ready_step(&mut self, id: StepId, at: DateTime<Utc>) -> Result<()> {
        on!(self, |db| {
            sqlx::query("UPDATE step SET status = 'ready', due_at = $2 WHERE id = $1 AND status IN ('pending', 'ready', 'attention')")
            .bind(id)
            .bind(at)
            .execute(db)
            .await
            .map(drop)
        })?;
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

    /// Stores how an attempt ended; refused when the lease was lost.
    pub(crate) async fn end_step(&mut self, step: &Step, end: &StepEnd, now: DateTime<Utc>) -> Result<()> {
        let failed = i32::from(end.trouble().is_some());
        let status = end.status();
        let rows = on!(self, |db| sqlx::query(
            "UPDATE step SET status = $3, due_at = $4, trouble = $5, outcome = COALESCE($6, outcome),
                failures = CASE WHEN $7 = 1 THEN failures + 1 ELSE 0 END, finished_at = $8
             WHERE id = $1 AND attempt = $2 AND status = 'running'"
        )
        .bind(step.id)
        .bind(step.attempt)
        .bind(status)
        .bind(end.due_at())
        .bind(end.trouble().map(Json))
        .bind(end.outcome().map(Json))
        .bind(failed)
        .bind(status.is_over().then_some(now))
        .execute(db)
        .await
        .map(|done| done.rows_affected()))?;
        if rows == 0 { Err(Error::LeaseLost) } else { Ok(()) }
    }

    /// Ends every lease at once. Only for a process that knows to be the only one: after a crash its own leases are nobody's.
    pub async fn end_all_leases(&mut self, now: DateTime<Utc>) -> Result<u64> {
        Ok(on!(self, |db| sqlx::query(
            "UPDATE step SET due_at = $1 WHERE status IN ('ready', 'running') AND status = 'running' AND due_at > $1"
        )
        .bind(now)
        .execute(db)
        .await
        .map(|done| done.rows_affected()))?)
    }
}
