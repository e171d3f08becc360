//! Claims: which due steps a worker takes. A few renewals together in a transaction, those first that have the fewest steps under way: an organization
//! with many servers cannot starve the others. One broken renewal stops nobody else: those that it was to be taken with are then taken singly.

mod as_seen;
mod handing;
mod passed_by;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, LazyLock, PoisonError},
};

use chrono::{DateTime, Utc};
use domain::{
    Decision, Event, OrganizationId, Renewal, RenewalId, State, Step, StepId, StepStatus, audit::NewAudit,
    progress::Permit,
};
use serde_json::json;
use sqlx::{AssertSqlSafe, FromRow, Row, types::Json};
use tracing::{debug, error, warn};

pub use self::handing::{FreeHands, HandedOver, Offer};
pub(crate) use self::{
    handing::{Handing, Offers},
    passed_by::PassedBy,
};
use crate::{
    Db, Error, LoadedRun, Result, Tx,
    connection::{Kind, On, again, in_time, on},
    renewals::COLUMNS,
    run::step_detail,
    settling::Settling,
    steps::{Fence, shared},
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

impl Wanted<'_> {
    /// Whether nobody has the step and its time has come. One in the hands of a worker whose lease is over counts as left.
    fn is_due(&self, step: &Step) -> bool {
        step.due_at.is_some_and(|at| at <= self.now) && !self.held.contains(&step.id)
    }

    /// Whether a step seems to be left by its worker: the ends of leases are not what other processes know.
    fn finds_left(&self, run: &LoadedRun) -> bool {
        run.steps.iter().any(|step| step.status == StepStatus::Running && self.is_due(step))
    }
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
    fn of(steps: Vec<Arc<Step>>, permits: &HashMap<StepId, Permit>, runs: &[Arc<LoadedRun>], settled: bool) -> Self {
        let runs: HashMap<RenewalId, &Arc<LoadedRun>> = runs.iter().map(|run| (run.renewal.id, run)).collect();
        let claimed = steps.into_iter().filter_map(|step| {
            let run = Arc::clone(runs.get(&step.renewal_id)?);
            Some(ClaimedStep { permit: *permits.get(&step.id)?, run, step })
        });
        Self { steps: claimed.collect(), settled }
    }

    fn add(&mut self, more: Self) {
        self.settled |= more.settled;
        self.steps.extend(more.steps);
    }

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
    pub step: Arc<Step>,
    /// What the worker may do.
    pub permit: Permit,
    /// The run as it stood when the step was taken.
    pub run: Arc<LoadedRun>,
}

/// A renewal that has something due.
#[derive(Debug)]
struct Due {
    renewal_id: RenewalId,
    /// Its own timer, not only steps of it.
    timer: i64,
    /// How many steps of it are due.
    ready: i64,
    /// The renewal, if this version can read it.
    renewal: Option<Renewal>,
    /// Its steps and decisions, where little is due and nothing under way.
    rest: Option<(Vec<Arc<Step>>, Vec<Decision>)>,
}

impl<'r, R: Row> FromRow<'r, R> for Due
where
    &'static str: sqlx::ColumnIndex<R>,
    RenewalId: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    Renewal: FromRow<'r, R>,
    Option<Json<Vec<Step>>>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    Option<Json<Vec<Decision>>>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    /// What a newer version has written and this one cannot read is left out, and stops nothing else.
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let steps: Option<Json<Vec<Step>>> = row.try_get("steps").ok().flatten();
        let decisions: Option<Json<Vec<Decision>>> = row.try_get("decisions").ok().flatten();
        Ok(Self {
            renewal_id: row.try_get("id")?,
            timer: row.try_get("timer")?,
            ready: row.try_get("ready")?,
            renewal: Renewal::from_row(row).ok(),
            rest: steps.zip(decisions).map(|(Json(steps), Json(decisions))| (shared(steps), decisions)),
        })
    }
}

impl Due {
    /// Whether only steps of it are due, and its state does not change with the first of them.
    fn needs_only_taking(&self) -> bool {
        self.timer == 0 && self.renewal.as_ref().is_some_and(|renewal| renewal.state != State::Requested)
    }
}

/// Renewals whose steps are taken in one transaction: its commit waits for the disk.
const LOCKED_AT_ONCE: usize = 8;
/// Steps that are taken of a renewal if it has as many, also when others get none in this look: they are the first in the next. Not more than a quarter
/// of all.
const LEAST_SHARE: usize = 8;

impl Db {
    /// Looks for due work and takes it. Wakes others only when something was found: two that look would else keep each other awake.
    pub async fn claim(&self, wanted: &Wanted<'_>) -> Result<Claimed> {
        if let Some(claimed) = self.claim_passed_by(wanted).await {
            return Ok(claimed);
        }
        let mut passed = 0;
        loop {
            let (mut due, look) = again(async || in_time(self.due(wanted, passed)).await).await?;
            let is_page = i64::try_from(due.len()).is_ok_and(|rows| rows == PAGE);
            let (asked, claimed) = self.claim_from(&due, look, wanted).await?;
            if is_page && !claimed.is_idle() {
                let mut rest = due.split_off(asked);
                rest.truncate(self.only_to_take(&rest));
                self.passed_by.keep(rest);
            }
            // Those of which nothing can be taken are not in the way of the others, however many they are.
            passed += PAGE;
            if !claimed.is_idle() || !is_page {
                return Ok(claimed);
            }
        }
    }

    /// Takes of what is due one after the other. Returns of how many, from the first on, too.
    async fn claim_from(&self, due: &[Due], mut look: Option<Tx>, wanted: &Wanted<'_>) -> Result<(usize, Claimed)> {
        let mut claimed = Claimed::default();
        let mut failure = None;
        let mut rest = due;
        while !rest.is_empty() && claimed.steps.len() < wanted.steps {
            let left = wanted.steps - claimed.steps.len();
            let only_to_take = self.only_to_take(rest);
            let at_once = if only_to_take > 0 { only_to_take } else { LOCKED_AT_ONCE };
            let asked: Vec<_> = rest.iter().take(at_once).zip(shares(left, rest)).collect();
            rest = &rest[asked.len()..];
            if only_to_take > 0
                && let Some(look) = &mut look
                && self.claim_as_seen(look, &asked, wanted, &mut claimed).await
            {
                continue;
            }
            // Who holds a connection must not wait for another one.
            look = None;
            for few in asked.chunks(LOCKED_AT_ONCE) {
                failure = self.claim_locked(few, wanted, &mut claimed).await.or(failure);
            }
        }
        match failure {
            Some(error) if claimed.is_idle() => Err(error),
            _ => Ok((due.len() - rest.len(), claimed)),
        }
    }

    /// How many of them, from the first on, need nothing that must be locked first.
    fn only_to_take(&self, due: &[Due]) -> usize {
        match self.kind() {
            Kind::Postgres => due.iter().take_while(|due| due.needs_only_taking()).count(),
            Kind::Sqlite => 0,
        }
    }

    /// Whether that is all that is to be done now. If it fails, those who lock find out why, or do it.
    async fn claim_as_seen(
        &self,
        look: &mut Tx,
        asked: &[(&Due, usize)],
        wanted: &Wanted<'_>,
        claimed: &mut Claimed,
    ) -> bool {
        match in_time(self.take_as_seen(look, asked, wanted)).await {
            Ok(Some(more)) => {
                self.ring_for(&more);
                claimed.add(more);
                true
            }
            Ok(None) => false,
            Err(error) => {
                debug!("Nothing can be taken as it was seen, and is locked first: {error}");
                false
            }
        }
    }

    async fn claim_locked(&self, asked: &[(&Due, usize)], wanted: &Wanted<'_>, claimed: &mut Claimed) -> Option<Error> {
        match self.claim_of(asked, wanted).await {
            Ok(more) => {
                claimed.add(more);
                None
            }
            Err(_) if asked.len() > 1 => self.claim_singly(asked, wanted, claimed).await,
            Err(error) => self.passed_over(asked[0].0, error),
        }
    }

    /// One that cannot be taken must not keep the others from it.
    async fn claim_singly(&self, asked: &[(&Due, usize)], wanted: &Wanted<'_>, claimed: &mut Claimed) -> Option<Error> {
        let mut failure = None;
        for one in asked {
            match self.claim_of(std::slice::from_ref(one), wanted).await {
                Ok(more) => claimed.add(more),
                Err(error) => failure = self.passed_over(one.0, error).or(failure),
            }
        }
        failure
    }

    /// Says that nothing can be taken of a renewal. Returns the error if it is one.
    fn passed_over(&self, due: &Due, error: Error) -> Option<Error> {
        if error.is_unreadable() {
            self.leave_alone(due.renewal_id, &error);
            return None;
        }
        error!(renewal = %due.renewal_id, "Nothing can be taken of a renewal: {error}");
        Some(error)
    }

    /// During a rolling upgrade a renewal may have what only the newer version knows, whose processes take it. Said once, not at each look.
    fn leave_alone(&self, renewal: RenewalId, error: &Error) {
        if self.left_alone.lock().unwrap_or_else(PoisonError::into_inner).insert(renewal) {
            warn!(%renewal, error = error as &dyn std::error::Error, "A renewal is left to a newer version: {error}");
        }
    }

    async fn claim_of(&self, asked: &[(&Due, usize)], wanted: &Wanted<'_>) -> Result<Claimed> {
        let claimed = again(async || in_time(self.take(asked, wanted)).await).await?;
        self.ring_for(&claimed);
        Ok(claimed)
    }

    fn ring_for(&self, claimed: &Claimed) {
        if !claimed.is_idle() {
            self.ring();
        }
    }

    async fn take(&self, asked: &[(&Due, usize)], wanted: &Wanted<'_>) -> Result<Claimed> {
        let mut tx = self.begin_writing().await?;
        let claimed = tx.take_of(asked, wanted).await?;
        // Looking is no change: the versions of the renewals stay what they were.
        if !claimed.is_idle() {
            self.commit(tx).await?;
        }
        Ok(claimed)
    }

    /// What is due, and on PostgreSQL the connection that has said so: its server process is awake, another one's would have to be woken.
    async fn due(&self, wanted: &Wanted<'_>, passed: i64) -> Result<(Vec<Due>, Option<Tx>)> {
        let mut look = self.begin_looking().await?;
        let due = look.due(wanted, passed).await?;
        Ok((due, Some(look).filter(|_| self.kind() == Kind::Postgres)))
    }
}

/// How many renewals are looked at together.
const PAGE: i64 = 100;

/// Renewals with due timers ($1) or steps; those first of which the least is under way, which is what holds a lease that ends between $1 and $2.
static DUE: LazyLock<String> = LazyLock::new(|| due(""));

/// The same with whole runs where one trip more would be felt: when an idle worker is woken for something that has just become due. Read in the same
/// statement, they are of one time. PostgreSQL only.
static DUE_WITH_RUNS: LazyLock<String> = LazyLock::new(|| {
    let whole = |table, order| {
        format!(
            ", CASE WHEN running = 0 AND COUNT(*) OVER () <= {WITH_RUNS}
                THEN (SELECT COALESCE(json_agg({table} ORDER BY {order}), '[]') FROM {table} WHERE renewal_id = renewal.id) END AS {table}s"
        )
    };
    due(&(whole("step", "ordinal") + &whole("decision", "decision.id")))
});

/// Renewals that come with their whole runs, at most: where more is due, what is known already is not read again.
const WITH_RUNS: usize = 4;

fn due(more: &str) -> String {
    format!(
        "SELECT {COLUMNS}, timer, ready{more} FROM (
            SELECT work_of, MAX(timer) AS timer, CAST(SUM(ready) AS BIGINT) AS ready, SUM(running) AS running, MIN(since) AS since FROM (
                SELECT id AS work_of, due_at AS since, CAST(1 AS BIGINT) AS timer, 0 AS ready, 0 AS running FROM renewal WHERE due_at <= $1
                UNION ALL
                SELECT renewal_id, due_at, 0, 1, 0 FROM step WHERE status IN ('ready', 'running') AND due_at <= $1
                UNION ALL
                SELECT renewal_id, NULL, 0, 0, 1 FROM step
                WHERE status IN ('ready', 'running') AND status = 'running' AND due_at > $1 AND due_at <= $2
            ) AS work
            GROUP BY work_of HAVING MIN(since) IS NOT NULL ORDER BY SUM(running), MIN(since), work_of LIMIT $3 OFFSET $4
        ) AS due JOIN renewal ON id = work_of ORDER BY running, since, work_of"
    )
}

impl Tx {
    async fn due(&mut self, wanted: &Wanted<'_>, passed: i64) -> Result<Vec<Due>> {
        let sql = match self.on {
            On::Postgres(_) => &DUE_WITH_RUNS,
            On::Sqlite(..) => &DUE,
        };
        Ok(on!(self, |db| sqlx::query_as(AssertSqlSafe(sql.as_str()))
            .bind(wanted.now)
            .bind(wanted.lease_ends)
            .bind(PAGE)
            .bind(passed)
            .fetch_all(db)
            .await)?)
    }

    async fn take_of(&mut self, asked: &[(&Due, usize)], wanted: &Wanted<'_>) -> Result<Claimed> {
        let shares: BTreeMap<RenewalId, usize> = asked.iter().map(|(due, share)| (due.renewal_id, *share)).collect();
        let timers: BTreeSet<RenewalId> =
            asked.iter().filter(|(due, _)| due.timer > 0).map(|(due, _)| due.renewal_id).collect();
        let renewals = self.lock_free_renewals(&shares.keys().copied().collect()).await?;
        let (timed, others): (Vec<_>, Vec<_>) = self
            .complete_runs(renewals, 0, |run| !wanted.finds_left(run))
            .await?
            .into_iter()
            .partition(|run| timers.contains(&run.renewal.id));
        let mut changed: BTreeSet<RenewalId> = timed.iter().map(|run| run.renewal.id).collect();
        let mut runs = self.settle_all(Settling::new(timed, wanted.worker, wanted.now)).await?;
        runs.extend(others);
        let Chosen { parked, taken } = choose_all(&runs, &shares, wanted);
        let permits: HashMap<StepId, Permit> = taken.iter().map(|(step, permit)| (step.id, *permit)).collect();
        let fences: Vec<Fence> = taken.into_iter().map(|(step, _)| Fence::of(step)).collect();
        self.park_steps(&parked.iter().map(|(_, fence)| *fence).collect::<Vec<_>>()).await?;
        let steps = self.take_steps(&fences, wanted.lease_ends, wanted.now).await?;
        self.begin_steps(&mut runs, &steps, wanted).await?;
        let parked: BTreeSet<RenewalId> = parked.into_iter().map(|(renewal, _)| renewal).collect();
        if !parked.is_empty() {
            runs = self.settle_parked(runs, &parked, wanted).await?;
        }
        changed.extend(parked);
        let settled = !changed.is_empty();
        changed.extend(steps.iter().map(|step| step.renewal_id));
        self.raise_versions(&changed).await?;
        let runs = as_left(runs, |renewal| changed.contains(&renewal));
        self.left.extend(runs.iter().cloned());
        Ok(Claimed::of(steps, &permits, &runs, settled))
    }

    /// Reads those again of which something was put back, and lets everything follow.
    async fn settle_parked(
        &mut self,
        runs: Vec<LoadedRun>,
        parked: &BTreeSet<RenewalId>,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<LoadedRun>> {
        let (again, mut runs): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| parked.contains(&run.renewal.id));
        let again = self.read_runs(again.into_iter().map(|run| run.renewal).collect()).await?;
        runs.extend(self.settle_all(Settling::new(again, wanted.worker, wanted.now)).await?);
        Ok(runs)
    }

    async fn begin_steps(&mut self, runs: &mut [LoadedRun], steps: &[Arc<Step>], wanted: &Wanted<'_>) -> Result<()> {
        for run in &mut *runs {
            let taken = steps.iter().any(|step| step.renewal_id == run.renewal.id);
            if taken && run.renewal.state == State::Requested {
                self.transition(&mut run.renewal, Event::PlanningBegan, wanted.worker, wanted.now).await?;
                self.save_renewal(&run.renewal, None).await?;
            }
            run.put_in(steps);
        }
        let renewals: HashMap<RenewalId, &Renewal> = runs.iter().map(|run| (run.renewal.id, &run.renewal)).collect();
        let started = steps.iter().filter(|step| is_begun(step)).filter_map(|step| {
            let new = NewAudit::new(wanted.worker, "step.started", step_detail(step, json!({})));
            Some((*renewals.get(&step.renewal_id)?, new, wanted.now))
        });
        self.audit_all(started).await
    }
}

/// Whether a step that was taken is worked on for the first time, which is told.
fn is_begun(step: &Step) -> bool {
    step.failures == 0 && step.trouble.is_none() && step.attempt == 1
}

/// Runs as they are once it is committed that something of those that `is_changed` has changed.
fn as_left(mut runs: Vec<LoadedRun>, is_changed: impl Fn(RenewalId) -> bool) -> Vec<Arc<LoadedRun>> {
    for run in &mut runs {
        run.renewal.version += i64::from(is_changed(run.renewal.id));
    }
    runs.into_iter().map(Arc::new).collect()
}

/// Which steps are to be taken, and which to be put back.
#[derive(Default)]
struct Chosen<'a> {
    parked: Vec<(RenewalId, Fence)>,
    taken: Vec<(&'a Arc<Step>, Permit)>,
}

/// Chooses of each run as much as its share is.
fn choose_all<'a>(
    runs: impl IntoIterator<Item = &'a LoadedRun>,
    shares: &BTreeMap<RenewalId, usize>,
    wanted: &Wanted<'_>,
) -> Chosen<'a> {
    let mut chosen = Chosen::default();
    for run in runs {
        choose(run, shares.get(&run.renewal.id).copied().unwrap_or(0), wanted, &mut chosen);
    }
    chosen
}

/// Chooses at most `share` steps of those that are due, those first that have been due longest.
fn choose<'a>(run: &'a LoadedRun, share: usize, wanted: &Wanted<'_>, chosen: &mut Chosen<'a>) {
    let live = |step: &&Arc<Step>| matches!(step.status, StepStatus::Ready | StepStatus::Running);
    let mut live: Vec<&Arc<Step>> = run.steps.iter().filter(live).collect();
    live.sort_by_key(|step| (step.due_at, step.ordinal));
    let mut room = Room::of(&live, &run.renewal, wanted);
    let mut left = share;
    for step in live.into_iter().filter(|step| wanted.is_due(step)) {
        match run.as_run().permit(step, wanted.now) {
            Permit::Park => chosen.parked.push((run.renewal.id, Fence::of(step))),
            permit if left > 0 && room.take(&step.site) => {
                left -= 1;
                chosen.taken.push((step, permit));
            }
            _ => {}
        }
    }
}

/// How many steps of each renewal may be taken, one renewal after the other: what one cannot use is left for those that are asked later. None of those
/// that would get nothing.
fn shares(mut left: usize, due: &[Due]) -> impl Iterator<Item = usize> {
    let least = (left / 4).min(LEAST_SHARE);
    due.iter().enumerate().map_while(move |(passed, one)| {
        let ready = usize::try_from(one.ready).unwrap_or(usize::MAX).max(1);
        let share = left.div_ceil(due.len() - passed).max(least).min(ready).min(left);
        left -= share;
        (share > 0).then_some(share)
    })
}

/// How much more of an organization may be taken.
struct Room<'a> {
    bounds: Bounds,
    running: usize,
    by_site: BTreeMap<&'a str, usize>,
}

impl<'a> Room<'a> {
    fn of(live: &[&'a Arc<Step>], renewal: &Renewal, wanted: &Wanted<'_>) -> Self {
        let bounds = wanted.bounds.get(&renewal.organization_id).copied().unwrap_or_default();
        let mut room = Self { bounds, running: 0, by_site: BTreeMap::new() };
        for step in live.iter().filter(|step| step.status == StepStatus::Running && !wanted.is_due(step)) {
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
