//! Claims: which due steps a worker takes. One renewal after the other, each in a transaction of its own, those first that have the fewest steps under
//! way: an organization with many servers cannot starve the others, and one broken renewal stops nobody else.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use domain::{
    Event, OrganizationId, Renewal, RenewalId, State, Step, StepId, StepStatus,
    audit::NewAudit,
    progress::{self, Permit},
};
use serde_json::json;
use tracing::error;

use crate::{
    Db, LoadedRun, Result, Tx,
    connection::{Pool, in_time, on},
    run::step_detail,
};

/// A worker's look for due work.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Who looks, as in audit entries.
    pub worker: &'a str,
    /// How many steps it can take.
    pub steps: usize,
    /// The steps that it has already: a clock that jumps ahead ends their leases, but nobody has left them.
    pub held: &'a HashSet<StepId>,
    /// How much may be under way in organizations; in others the default.
    pub bounds: &'a BTreeMap<OrganizationId, Bounds>,
    /// Until when the steps are the worker's, if it does not say that it is alive.
    pub lease_ends: DateTime<Utc>,
    /// The time.
    pub now: DateTime<Utc>,
}

/// How many steps of an organization may be under way at a time, on all workers together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// In the whole organization.
    pub organization: usize,
    /// On servers of one Active Directory site.
    pub site: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { organization: 8, site: 4 }
    }
}

/// What a look for due work found.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Steps, leased to the caller.
    pub steps: Vec<ClaimedStep>,
    /// Something was due that needs no worker, and is settled.
    pub settled: bool,
}

impl Claimed {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.steps.is_empty() && !self.settled
    }
}

/// A step that this worker may run: only who holds one can end it.
#[derive(Clone, Debug)]
pub struct ClaimedStep {
    /// The step, with the attempt that fences every write about it.
    pub step: Step,
    /// What the worker may do.
    pub permit: Permit,
    /// The run as it stood when the step was taken.
    pub run: Arc<LoadedRun>,
}

/// A renewal that has something due.
#[derive(Debug, sqlx::FromRow)]
struct Due {
    renewal_id: RenewalId,
    /// Its own timer, not only steps of it.
    timer: i64,
}

/// What was taken of a renewal.
#[derive(Debug, Default)]
struct Taken {
    steps: Vec<(Step, Permit)>,
    settled: bool,
}

impl Db {
    /// Looks for due work and takes it. Wakes others only when something was found: two that look would else keep each other awake.
    pub async fn claim(&self, wanted: &Wanted<'_>) -> Result<Claimed> {
        let due = self.due(wanted).await?;
        let mut claimed = Claimed::default();
        let mut failure = None;
        for (passed, candidate) in due.iter().enumerate() {
            let left = wanted.steps.saturating_sub(claimed.steps.len());
            if left == 0 {
                break;
            }
            // What one cannot use is left for those after it.
            let share = left.div_ceil(due.len() - passed);
            match self.claim_of(candidate, share, wanted).await {
                Ok(more) => {
                    claimed.settled |= more.settled;
                    claimed.steps.extend(more.steps);
                }
                Err(error) => {
                    error!(renewal = %candidate.renewal_id, "Nothing can be taken of a renewal: {error}");
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if claimed.is_idle() => Err(error),
            _ => Ok(claimed),
        }
    }

    async fn claim_of(&self, due: &Due, share: usize, wanted: &Wanted<'_>) -> Result<Claimed> {
        let mut tries = 0;
        let taken = loop {
            match in_time(self.take(due, share, wanted)).await {
                Err(error) if error.is_retryable() && tries < RETRIES => tries += 1,
                result => break result?,
            }
        };
        if !taken.steps.is_empty() || taken.settled {
            self.ring();
        }
        if taken.steps.is_empty() {
            return Ok(Claimed { steps: Vec::new(), settled: taken.settled });
        }
        let run = Arc::new(self.read(async |tx| tx.load_run(due.renewal_id).await).await?);
        let claimed = taken.steps.into_iter().map(|(step, permit)| ClaimedStep { step, permit, run: run.clone() });
        Ok(Claimed { steps: claimed.collect(), settled: taken.settled })
    }

    async fn take(&self, due: &Due, share: usize, wanted: &Wanted<'_>) -> Result<Taken> {
        let mut tx = self.begin_writing().await?;
        let taken = tx.take_of(due, share, wanted).await?;
        // Looking is no change: the version of the renewal stays what it was.
        if !taken.steps.is_empty() || taken.settled {
            self.commit(tx).await?;
        }
        Ok(taken)
    }

    async fn due(&self, wanted: &Wanted<'_>) -> Result<Vec<Due>> {
        Ok(match &self.pool {
            Pool::Postgres(pool) => {
                sqlx::query_as(DUE).bind(wanted.now).bind(wanted.lease_ends).fetch_all(pool).await?
            }
            Pool::Sqlite(pool) => sqlx::query_as(DUE).bind(wanted.now).bind(wanted.lease_ends).fetch_all(pool).await?,
        })
    }
}

const RETRIES: u32 = 3;

/// Renewals with due timers ($1) or steps; those first of which the least is under way, which is what holds a lease that ends between $1 and $2.
const DUE: &str = "
    SELECT renewal_id, MAX(timer) AS timer FROM (
        SELECT id AS renewal_id, due_at AS since, CAST(1 AS BIGINT) AS timer, 0 AS running FROM renewal WHERE due_at <= $1
        UNION ALL
        SELECT renewal_id, due_at, 0, 0 FROM step WHERE status IN ('ready', 'running') AND due_at <= $1
        UNION ALL
        SELECT renewal_id, NULL, 0, 1 FROM step
        WHERE status IN ('ready', 'running') AND status = 'running' AND due_at > $1 AND due_at <= $2
    ) AS work
    GROUP BY renewal_id HAVING MIN(since) IS NOT NULL ORDER BY SUM(running), MIN(since), renewal_id LIMIT 50";

impl Tx {
    async fn take_of(&mut self, due: &Due, share: usize, wanted: &Wanted<'_>) -> Result<Taken> {
        let Some(mut renewal) = self.lock_free_renewal(due.renewal_id).await? else { return Ok(Taken::default()) };
        let mut taken = Taken::default();
        if due.timer > 0 {
            self.settle_run(renewal.id, wanted.worker, wanted.now).await?;
            renewal = self.renewal(renewal.id).await?;
            taken.settled = true;
        }
        let live = self.live_steps(renewal.id).await?;
        let due = |step: &&Step| step.due_at.is_some_and(|at| at <= wanted.now) && !wanted.held.contains(&step.id);
        let mut room = Room::of(&live, &renewal, wanted);
        for step in live.iter().filter(due) {
            match progress::permit(&renewal.state, step) {
                Permit::Park => {
                    self.park_step(step).await?;
                    taken.settled = true;
                }
                permit if taken.steps.len() < share && room.take(&step.site) => {
                    if let Some(step) = self.take_step(step, wanted.lease_ends, wanted.now).await? {
                        self.begin_step(&mut renewal, &step, wanted).await?;
                        taken.steps.push((step, permit));
                    }
                }
                _ => {}
            }
        }
        if taken.settled {
            self.settle_run(renewal.id, wanted.worker, wanted.now).await?;
        }
        Ok(taken)
    }

    async fn begin_step(&mut self, renewal: &mut Renewal, step: &Step, wanted: &Wanted<'_>) -> Result<()> {
        if renewal.state == State::Requested {
            self.transition(renewal, Event::PlanningBegan, wanted.worker, wanted.now).await?;
            self.save_renewal(renewal, None).await?;
        }
        if step.failures > 0 || step.trouble.is_some() || step.attempt > 1 {
            return Ok(());
        }
        self.audit(renewal, NewAudit::new(wanted.worker, "step.started", step_detail(step, json!({}))), wanted.now)
            .await
    }

    /// The steps of a renewal that are ready or in the hands of a worker, those first that have been due longest.
    async fn live_steps(&mut self, renewal: RenewalId) -> Result<Vec<Step>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {} FROM step WHERE renewal_id = $1 AND status IN ('ready', 'running') ORDER BY due_at, ordinal",
            crate::steps::COLUMNS
        ));
        Ok(on!(self, |db| sqlx::query_as(sql).bind(renewal).fetch_all(db).await)?)
    }
}

/// How much more of an organization may be taken.
struct Room<'a> {
    bounds: Bounds,
    running: usize,
    by_site: BTreeMap<&'a str, usize>,
}

impl<'a> Room<'a> {
    fn of(live: &'a [Step], renewal: &Renewal, wanted: &Wanted<'_>) -> Self {
        let bounds = wanted.bounds.get(&renewal.organization_id).copied().unwrap_or_default();
        let mut room = Self { bounds, running: 0, by_site: BTreeMap::new() };
        let left = |step: &Step| step.due_at.is_some_and(|at| at <= wanted.now) && !wanted.held.contains(&step.id);
        for step in live.iter().filter(|step| step.status == StepStatus::Running && !left(step)) {
            room.add(&step.site);
        }
        room
    }

    fn take(&mut self, site: &'a str) -> bool {
        let on_site = self.by_site.get(site).copied().unwrap_or_default();
        // Steps for the organization as a whole are on no site.
        let free = self.running < self.bounds.organization && (site.is_empty() || on_site < self.bounds.site);
        if free {
            self.add(site);
        }
        free
    }

    fn add(&mut self, site: &'a str) {
        self.running += 1;
        *self.by_site.entry(site).or_default() += 1;
    }
}
