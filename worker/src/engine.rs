//! The loop: claim what is due, run it, store how it ended. Normal operation, retry and recovery are this one path.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use db::{Claimed, ClaimedStep, StepEnd};
use domain::{Step, Timeline, Trouble};
use tokio::{
    runtime::Handle,
    task::{JoinSet, LocalSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span, error, info, warn};

use crate::{
    Worker,
    steps::{self, Ended, StepError},
};

/// How long a worker may be silent before its step is somebody else's, in real time.
const LEASE: TimeDelta = TimeDelta::seconds(45);
/// How often a worker says that it is alive, in real time.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The longest that a worker sleeps without looking: the safety net of all wake-ups, in real time.
const POLL: Duration = Duration::from_secs(1);
/// How long a worker stays away from a database that fails, in real time.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// How long steps that are under way may take to end when the service stops, in real time.
const DRAIN: Duration = Duration::from_secs(20);
/// The longest pause between two tries of a step, in real time.
const LONGEST_BACKOFF: TimeDelta = TimeDelta::seconds(60);
/// Failures in a row after which a person is asked.
const PATIENCE: i32 = 8;
/// The same where trying again rarely helps.
const LITTLE_PATIENCE: i32 = 2;

/// Runs steps, `concurrency` at a time, until `stop` is cancelled; then lets those under way end.
///
/// All of them share one thread: steps wait for the network, and what computes goes elsewhere. Async closures that borrow cannot be proven to be `Send`
/// yet (rust-lang/rust#110338), so they must not move between threads.
pub async fn run(worker: Arc<Worker>, concurrency: usize, stop: CancellationToken) {
    let runtime = Handle::current();
    let loops = run_loops(worker, concurrency, stop);
    let thread = tokio::task::spawn_blocking(move || runtime.block_on(LocalSet::new().run_until(loops)));
    if let Err(error) = thread.await {
        error!("The worker has ended: {error}");
    }
}

async fn run_loops(worker: Arc<Worker>, concurrency: usize, stop: CancellationToken) {
    let mut loops = JoinSet::new();
    for _ in 0..concurrency.max(1) {
        loops.spawn_local(run_loop(worker.clone(), stop.clone()));
    }
    while let Some(ended) = tokio::select! {
        ended = loops.join_next() => ended,
        () = stop.cancelled() => None,
    } {
        // Its step is taken again when its lease ends.
        if let Err(error) = ended {
            error!("A step has crashed: {error}");
            loops.spawn_local(run_loop(worker.clone(), stop.clone()));
        }
    }
    if tokio::time::timeout(DRAIN, async { while loops.join_next().await.is_some() {} }).await.is_err() {
        warn!("Steps are still under way after {} s; another worker takes them when their leases end", DRAIN.as_secs());
    }
    // Steps that did not end leave their sessions behind here.
    drop(loops);
    worker.close_sessions().await;
}

async fn run_loop(worker: Arc<Worker>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        // Order: ask to be woken before looking, so that work arriving in between is not slept through.
        let woken = worker.db.woken();
        let pause = match Box::pin(run_one(&worker)).await {
            Ok(true) => continue,
            Ok(false) => until_due(&worker).await,
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "The database fails: {error}");
                DATABASE_PAUSE
            }
        };
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Runs one due step to the end of its attempt. Says whether anything was due.
pub async fn run_one(worker: &Worker) -> Result<bool, db::Error> {
    let now = worker.now();
    let lease_ends = now + worker.timeline.stretch(LEASE);
    match worker.db.claim(&worker.name, lease_ends, now).await? {
        Claimed::Idle => Ok(false),
        Claimed::Settled => Ok(true),
        Claimed::Step(claimed) => {
            let step = &claimed.step;
            // What the wire has to tell is told with the step.
            let span = debug_span!("step", renewal = %step.renewal_id, step = %step.kind, target = step.target);
            Box::pin(run_step(worker, &claimed).instrument(span)).await.map(|()| true)
        }
    }
}

async fn until_due(worker: &Worker) -> Duration {
    let next = worker.db.read(async |tx| tx.next_due().await).await;
    let Ok(Some(at)) = next else { return POLL };
    let span = worker.timeline.shrink((at - worker.now()).max(TimeDelta::zero()));
    span.to_std().unwrap_or(POLL).clamp(Duration::from_millis(1), POLL)
}

async fn run_step(worker: &Worker, claimed: &ClaimedStep) -> Result<(), db::Error> {
    let ended = tokio::select! {
        ended = steps::run(worker, claimed) => ended,
        lost = keep_lease(worker, claimed) => Err(StepError::Database(lost)),
    };
    let stored = match ended {
        Ok(Ended::Stored) => {
            let step = &claimed.step;
            info!(renewal = %step.renewal_id, step = %step.kind, target = step.target, "Finished {}", place(step));
            Ok(())
        }
        Ok(Ended::With(end)) => store(worker, claimed, &end).await,
        Err(StepError::Database(error)) => Err(error),
        Err(StepError::GateClosed(trouble)) => store(worker, claimed, &closed_gate(trouble)).await,
        Err(StepError::Attention(trouble)) => store(worker, claimed, &StepEnd::Attention(trouble)).await,
        Err(StepError::Retry(trouble)) => {
            let end = again(claimed, trouble, worker.timeline, worker.now());
            store(worker, claimed, &end).await
        }
    };
    match stored {
        Err(db::Error::LeaseLost) => {
            warn!(step = %claimed.step.id, "Lost the lease of step {}; another worker has it", claimed.step.kind);
            Ok(())
        }
        stored => stored,
    }
}

async fn store(worker: &Worker, claimed: &ClaimedStep, end: &StepEnd) -> Result<(), db::Error> {
    tell(claimed, end);
    let now = worker.now();
    worker.db.write(async |tx| tx.finish_step(claimed, &worker.name, end, now).await).await
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

/// Keeps the lease until it is lost; resolves only then.
async fn keep_lease(worker: &Worker, claimed: &ClaimedStep) -> db::Error {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let lease_ends = worker.now() + worker.timeline.stretch(LEASE);
        let kept = worker.db.write(async |tx| tx.extend_lease(&claimed.step, lease_ends).await).await;
        if let Err(error @ db::Error::LeaseLost) = kept {
            return error;
        }
    }
}

/// A gate that closed under a step: its turn comes again by itself, except when an approval is missing.
fn closed_gate(trouble: Trouble) -> StepEnd {
    if trouble.code == "approval_withdrawn" { StepEnd::Attention(trouble) } else { StepEnd::Parked }
}

/// When a failed step is tried again: 1, 2, 4 … seconds of real time. A server that is down is tried for ever; anything else ends at a person.
fn again(claimed: &ClaimedStep, trouble: Trouble, timeline: Timeline, now: DateTime<Utc>) -> StepEnd {
    let failures = claimed.step.failures;
    if trouble.code != domain::progress::SERVER_UNREACHABLE && failures >= patience(&trouble) {
        return StepEnd::Attention(trouble);
    }
    let backoff = TimeDelta::seconds(1 << failures.clamp(0, 6)).min(LONGEST_BACKOFF);
    StepEnd::Retry { at: now + timeline.stretch(backoff), trouble }
}

fn patience(trouble: &Trouble) -> i32 {
    if matches!(trouble.code.as_str(), "cmdlet_failed" | "no_effect") { LITTLE_PATIENCE } else { PATIENCE }
}
