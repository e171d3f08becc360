//! The loop: claim what is due, run it, store how it ended. Normal operation, retry and recovery are this one path.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use db::{Claimed, ClaimedStep, FreeHands, HandedOver, Offer, StepEnd, Wanted};
use domain::{
    Outcome, Step, StepId, Trouble,
    retry::{Exhausted, Next},
};
use tokio::{
    runtime::Handle,
    task::{self, JoinSet, LocalSet},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span, error, info, warn};

use crate::{
    Worker,
    lease::Lease,
    steps::{self, Ended, StepError},
};

/// The longest that a worker sleeps without looking: the safety net of all wake-ups, in real time.
const POLL: Duration = Duration::from_secs(1);
/// How long a worker stays away from a database that fails, in real time.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// How long steps that are under way may take to end when the service stops, in real time.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs steps, `concurrency` at a time, until `stop` is cancelled; then lets those under way end. Dropped, it leaves them where they are, as a process
/// does that is killed.
///
/// All of them share one thread: steps wait for the network, and what computes goes elsewhere. Async closures that borrow cannot be proven to be `Send`
/// yet (rust-lang/rust#110338), so they must not move between threads.
pub async fn run(worker: Arc<Worker>, concurrency: usize, stop: CancellationToken) {
    on_one_thread(move || run_crew(worker, concurrency, stop)).await;
}

/// Runs what need not be able to move between threads on a thread of its own. Dropped, it leaves it where it is.
pub(crate) async fn on_one_thread<F: Future<Output = ()>>(make: impl FnOnce() -> F + Send + 'static) {
    let runtime = Handle::current();
    let dropped = CancellationToken::new();
    let until_dropped = dropped.clone();
    let _guard = dropped.drop_guard();
    let thread = task::spawn_blocking(move || {
        let working = make();
        let working = async {
            tokio::select! {
                // Whoever was killed does nothing more.
                biased;
                () = until_dropped.cancelled() => {}
                () = working => {}
            }
        };
        runtime.block_on(LocalSet::new().run_until(working));
    });
    if let Err(error) = thread.await {
        error!("The worker has ended: {error}");
    }
}

async fn run_crew(worker: Arc<Worker>, concurrency: usize, stop: CancellationToken) {
    let mut crew =
        Crew { worker, size: concurrency.max(1), steps: JoinSet::new(), held: HashMap::new(), stop: stop.clone() };
    while !stop.is_cancelled() {
        // Order: ask to be woken before looking, so that work arriving in between is not slept through.
        let woken = crew.worker.db.woken();
        let pause = crew.take_on().await;
        let mut offer = crew.offer(pause);
        let handed = tokio::select! {
            // What was handed over is here already.
            biased;
            handed = accepted(&mut offer) => handed,
            () = stop.cancelled() => None,
            () = crew.one_ended() => None,
            () = woken, if crew.has_room() => None,
            () = tokio::time::sleep(pause), if crew.has_room() => None,
        };
        crew.withdraw(offer, handed).await;
    }
    crew.drain().await;
}

/// Waits until a worker's offer is accepted, for ever if there is none.
async fn accepted(offer: &mut Option<Offer>) -> Option<HandedOver> {
    match offer {
        Some(offer) => offer.accepted().await,
        None => std::future::pending().await,
    }
}

/// The steps that a worker runs.
struct Crew {
    worker: Arc<Worker>,
    /// How many there may be.
    size: usize,
    steps: JoinSet<()>,
    held: HashMap<task::Id, StepId>,
    stop: CancellationToken,
}

impl Crew {
    fn has_room(&self) -> bool {
        self.steps.len() < self.size
    }

    /// Takes what is due, as much as there is room for. Returns how long nothing can be due.
    async fn take_on(&mut self) -> Duration {
        if !self.has_room() {
            return POLL;
        }
        let held = self.held.values().copied().collect();
        let asked = Instant::now();
        let claimed = match claim(&self.worker, self.size - self.steps.len(), &held).await {
            Ok(claimed) => claimed,
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "The database fails: {error}");
                return DATABASE_PAUSE;
            }
        };
        if claimed.is_idle() {
            return until_due(&self.worker).await;
        }
        self.begin(claimed, asked);
        Duration::ZERO
    }

    /// Runs steps whose leases were asked for at that time.
    fn begin(&mut self, claimed: Claimed, asked: Instant) {
        for step in claimed.steps {
            let id = step.step.id;
            let lease = Lease::asked_at(asked, self.worker.pace);
            let task = self.steps.spawn_local(run_step(self.worker.clone(), step, lease, self.stop.clone()));
            self.held.insert(task.id(), id);
        }
    }

    /// Offers to take what decisions of this process make due, if there is room and nothing else to be done.
    fn offer(&self, pause: Duration) -> Option<Offer> {
        let is_free = self.has_room() && !pause.is_zero() && !self.stop.is_cancelled();
        is_free.then(|| {
            self.worker.db.offer(FreeHands {
                worker: self.worker.name.clone(),
                steps: self.size - self.steps.len(),
                held: self.held.values().copied().collect(),
                bounds: self.worker.bounds.clone(),
                lease: self.worker.pace.lease,
                timeline: self.worker.timeline,
            })
        })
    }

    /// Nothing more is handed over; begins what was.
    async fn withdraw(&mut self, offer: Option<Offer>, handed: Option<HandedOver>) {
        let handed = match (handed, offer) {
            (None, Some(offer)) => offer.withdraw().await,
            (handed, _) => handed,
        };
        if let Some(HandedOver { claimed, asked }) = handed {
            self.begin(claimed, Instant::from_std(asked));
        }
    }

    /// Waits until one of the steps has ended, for ever if there is none.
    async fn one_ended(&mut self) {
        let id = match self.steps.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => {
                // It is taken again when its lease ends.
                error!("A step has crashed: {error}");
                error.id()
            }
        };
        self.held.remove(&id);
    }

    async fn drain(mut self) {
        let all = async { while self.steps.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            warn!(
                "Steps are still under way after {} s; another worker takes them when their leases end",
                DRAIN.as_secs()
            );
        }
        // Steps that did not end leave their sessions behind here.
        drop(self.steps);
        self.worker.close_sessions().await;
    }
}

async fn claim(worker: &Worker, steps: usize, held: &HashSet<StepId>) -> db::Result<Claimed> {
    let now = worker.now();
    let wanted =
        Wanted { worker: &worker.name, steps, held, bounds: &worker.bounds, lease_ends: lease_ends(worker), now };
    worker.db.claim(&wanted).await
}

/// The end of a lease that begins now, in the time that the run lives in.
fn lease_ends(worker: &Worker) -> DateTime<Utc> {
    worker.timeline.after(worker.db.now(), worker.pace.lease)
}

async fn until_due(worker: &Worker) -> Duration {
    let now = worker.now();
    let next = worker.db.read(async |tx| tx.next_due(now).await).await;
    let Ok(Some(at)) = next else { return POLL };
    let span = worker.timeline.shrink((at - worker.now()).max(TimeDelta::zero()));
    span.to_std().unwrap_or(POLL).clamp(Duration::from_millis(1), POLL)
}

/// Runs a step to the end of its attempt.
async fn run_step(worker: Arc<Worker>, claimed: ClaimedStep, lease: Lease, stop: CancellationToken) {
    let step = &claimed.step;
    // What the wire has to tell is told with the step.
    let span = debug_span!("step", renewal = %step.renewal_id, step = %step.kind, target = step.target);
    match Box::pin(attempt(&worker, &claimed, &lease, &stop).instrument(span)).await {
        Ok(()) => {}
        Err(error) if error.is_of_data() => Box::pin(ask_about(&worker, &claimed, &error)).await,
        Err(db::Error::LeaseLost) => {
            warn!(step = %step.id, "Lost the lease of step {}; another worker has it", step.kind);
        }
        Err(error) => error!(error = &error as &dyn std::error::Error, "The database fails: {error}"),
    }
}

/// What the database does not take now it will not take later either: a person must hear of it, instead of the step being tried for ever.
async fn ask_about(worker: &Worker, claimed: &ClaimedStep, error: &db::Error) {
    error!(error = error as &dyn std::error::Error, "The database does not take what a step came to: {error}");
    if let Err(error) = store(worker, claimed, StepEnd::Attention(not_storable(error))).await {
        error!(error = &error as &dyn std::error::Error, "The database fails: {error}");
    }
}

/// Without what was to be stored: nobody knows what it is.
fn not_storable(error: &db::Error) -> Trouble {
    let code = error.sql_code().map(|code| format!(" ({code})")).unwrap_or_default();
    Trouble::new(
        "not_storable",
        format!("The database does not take what the step came to{code}; the log of the worker says more"),
        "Look in the log for what the database refuses and mend it where it comes from, then retry: the step looks at the state first; or cancel",
    )
}

async fn attempt(worker: &Worker, claimed: &ClaimedStep, lease: &Lease, stop: &CancellationToken) -> db::Result<()> {
    let ended = tokio::select! {
        ended = steps::run(worker, claimed, lease, stop) => ended,
        lost = keep_lease(worker, claimed, lease) => Err(StepError::Database(lost)),
    };
    match ended {
        Ok(Ended::Stored) => {
            let step = &claimed.step;
            info!(renewal = %step.renewal_id, step = %step.kind, target = step.target, "Finished {}", place(step));
            Ok(())
        }
        Ok(Ended::With(end)) => store(worker, claimed, end).await,
        Err(StepError::Database(error)) => Err(error),
        Err(StepError::GateClosed(trouble)) => store(worker, claimed, closed_gate(trouble)).await,
        Err(StepError::Attention(trouble)) => store(worker, claimed, StepEnd::Attention(trouble)).await,
        Err(StepError::Later(trouble, pause)) => again(worker, claimed, trouble, pause).await,
        Err(StepError::Retry(trouble)) => again(worker, claimed, trouble, TimeDelta::zero()).await,
    }
}

async fn store(worker: &Worker, claimed: &ClaimedStep, end: StepEnd) -> db::Result<()> {
    tell(claimed, &end);
    worker.db.finish(claimed, &worker.name, end, worker.now()).await
}

fn tell(claimed: &ClaimedStep, end: &StepEnd) {
    let (kind, target, renewal) = (claimed.step.kind, claimed.step.target.as_str(), claimed.step.renewal_id);
    let place = place(&claimed.step);
    match end {
        StepEnd::Done(_) => info!(%renewal, step = %kind, target, "Finished {place}"),
        StepEnd::Skipped(_) => info!(%renewal, step = %kind, target, "Skipped {place}"),
        StepEnd::Attention(trouble) => warn!(%renewal, step = %kind, target, "{place} needs a person: {trouble}"),
        StepEnd::Retry { trouble, .. } => {
            warn!(%renewal, step = %kind, target, "{place} is tried again: {trouble}")
        }
        StepEnd::Again { .. } | StepEnd::Parked => {}
    }
}

/// What a step does and where, for people.
fn place(step: &Step) -> String {
    if step.target.is_empty() { step.kind.to_string() } else { format!("{} on {}", step.kind, step.target) }
}

/// Keeps the lease until it is lost, or could be without anybody saying so; resolves only then.
async fn keep_lease(worker: &Worker, claimed: &ClaimedStep, lease: &Lease) -> db::Error {
    loop {
        tokio::time::sleep_until(lease.ends().min(Instant::now() + worker.pace.heartbeat)).await;
        let asked = Instant::now();
        let until = lease_ends(worker);
        let extended = worker.db.write_silently(async |tx| tx.extend_lease(&claimed.step, until).await);
        match timeout_at(lease.ends(), extended).await {
            Ok(Ok(())) => lease.extend(asked, worker.pace),
            Ok(Err(error @ db::Error::LeaseLost)) => return error,
            Ok(Err(_)) | Err(_) if !lease.is_held() => return db::Error::LeaseLost,
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// A gate that closed under a step: its turn comes again by itself, except when an approval is missing.
fn closed_gate(trouble: Trouble) -> StepEnd {
    if trouble.code == domain::progress::APPROVAL_WITHDRAWN { StepEnd::Attention(trouble) } else { StepEnd::Parked }
}

/// Lets a failed step be tried again as the policy of its kind says, or do what the plan says when that has no end.
/// Not before the real time `at_least` has gone by.
async fn again(worker: &Worker, claimed: &ClaimedStep, trouble: Trouble, at_least: TimeDelta) -> db::Result<()> {
    let step = &claimed.step;
    let plan = claimed.run.plan.as_deref();
    if let Some(too_long) = plan.and_then(|plan| plan.soaks_too_long(step, &trouble, worker.now())) {
        return store(worker, claimed, StepEnd::Attention(too_long)).await;
    }
    let end = match step.kind.retry().next(step.failures, &trouble, spread()) {
        Next::After(pause) => {
            StepEnd::Retry { at: worker.now() + worker.timeline.stretch(pause.max(at_least)), trouble }
        }
        Next::Exhausted => match when_exhausted(claimed) {
            Exhausted::Ask => StepEnd::Attention(trouble),
            Exhausted::Skip => StepEnd::Skipped(Outcome::not_done(trouble.to_string())),
            Exhausted::RollBack => return roll_back(worker, claimed, &trouble).await,
        },
    };
    store(worker, claimed, end).await
}

/// What the approved plan says of a step that was tried often enough.
fn when_exhausted(claimed: &ClaimedStep) -> Exhausted {
    let planned = claimed.run.plan.iter().flat_map(|plan| &plan.steps);
    let mut planned = planned.filter(|planned| planned.ordinal == claimed.step.ordinal);
    planned.next().map(|planned| planned.when_exhausted).unwrap_or_default()
}

async fn roll_back(worker: &Worker, claimed: &ClaimedStep, trouble: &Trouble) -> db::Result<()> {
    let step = &claimed.step;
    warn!(renewal = %step.renewal_id, step = %step.kind, target = step.target, "Rolls back, as the plan says: {trouble}");
    let now = worker.now();
    worker.db.write(async |tx| tx.finish_by_rolling_back(claimed, &worker.name, trouble, now).await).await
}

/// 0 to 1, by chance.
pub(crate) fn spread() -> f64 {
    let mut byte = [0];
    // Without chance all pauses are whole ones.
    if aws_lc_rs::rand::fill(&mut byte).is_err() {
        return 0.0;
    }
    f64::from(byte[0]) / 255.0
}
