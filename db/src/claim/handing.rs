//! Handing over: what becomes due by a decision is taken for a worker of the same process that has its hands free, in the transaction of the decision.
//! Both are committed by one flush, and nobody has to look for the step. Where no worker is free here, or more is to be done than taking, those who look
//! find it as they find everything; who goes away between the commit and its first move leaves the step as a worker that is killed after a claim does.

use std::{
    collections::{BTreeMap, HashSet},
    slice,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use domain::{OrganizationId, Step, StepId, StepStatus, Timeline};
use tokio::sync::oneshot;

use super::{Bounds, Chosen, Claimed, Wanted, choose_all};
use crate::{Db, LoadedRun, Result, Tx, clock::Clock, steps::Fence};

/// A worker that has its hands free. The fields are those of [`Wanted`]: what a worker that looks for work says of itself.
#[derive(Clone, Debug)]
pub struct FreeHands {
    /// Who it is, as in audit entries.
    pub worker: String,
    /// How many steps it can take.
    pub steps: usize,
    /// The steps that it has already.
    pub held: HashSet<StepId>,
    /// How much may be under way in organizations; in others the default.
    pub bounds: Arc<BTreeMap<OrganizationId, Bounds>>,
    /// How long a step is the worker's if it does not say that it is alive, in real time.
    pub lease: Duration,
    /// The time that runs live in.
    pub timeline: Timeline,
}

impl FreeHands {
    fn wanted(&self, clock: &Clock, now: DateTime<Utc>) -> Wanted<'_> {
        Wanted {
            worker: &self.worker,
            steps: self.steps,
            held: &self.held,
            bounds: &self.bounds,
            lease_ends: self.timeline.after(clock.now(), self.lease),
            now,
        }
    }
}

/// Steps that a decision has made due, leased to the worker that offered itself.
#[derive(Debug)]
pub struct HandedOver {
    /// The steps.
    pub claimed: Claimed,
    /// Their leases were asked for at that time.
    pub asked: Instant,
}

/// An offer that is open.
#[derive(Debug)]
struct Open {
    number: u64,
    free: FreeHands,
    worker: oneshot::Sender<HandedOver>,
}

/// The offers of the workers of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offers(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    last: u64,
    open: Vec<Open>,
}

impl Offers {
    fn open(&self, free: FreeHands) -> Offer {
        let (worker, heard) = oneshot::channel();
        let mut book = self.lock();
        book.last += 1;
        let number = book.last;
        book.open.push(Open { number, free, worker });
        Offer { offers: self.clone(), number, heard: Some(heard) }
    }

    /// One that its worker still stands by; nobody else gets it.
    fn take(&self) -> Option<Open> {
        let mut book = self.lock();
        book.open.retain(|open| !open.worker.is_closed());
        book.open.pop()
    }

    /// Whether it was still open.
    fn close(&self, number: u64) -> bool {
        let mut book = self.lock();
        let before = book.open.len();
        book.open.retain(|open| open.number != number);
        book.open.len() < before
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's offer to take what decisions of this process make due; open until it is withdrawn or dropped, or somebody comes back to it.
#[derive(Debug)]
pub struct Offer {
    offers: Offers,
    number: u64,
    /// Until something was heard.
    heard: Option<oneshot::Receiver<HandedOver>>,
}

impl Offer {
    /// Waits until something is handed over. `None` when somebody wanted to and could not: what there is to do is to be looked for.
    pub async fn accepted(&mut self) -> Option<HandedOver> {
        let handed = self.heard.as_mut()?.await.ok();
        self.heard = None;
        handed
    }

    /// Takes the offer back. Who is just handing something over is waited for: no longer than a transaction takes.
    pub async fn withdraw(mut self) -> Option<HandedOver> {
        if self.offers.close(self.number) { None } else { self.accepted().await }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.offers.close(self.number);
    }
}

/// What is handed over with the commit of a transaction. Dropped before, the offer has come to nothing.
#[derive(Debug)]
pub(crate) struct Handing {
    worker: oneshot::Sender<HandedOver>,
    handed: HandedOver,
}

impl Handing {
    /// To be called when it is committed. A worker that has gone away meanwhile leaves the steps until their leases end.
    pub(crate) fn hand_over(self) {
        drop(self.worker.send(self.handed));
    }
}

impl Db {
    /// Offers to take what decisions of this process make due.
    #[must_use]
    pub fn offer(&self, free: FreeHands) -> Offer {
        self.offers.open(free)
    }

    /// Whether a worker stands by its offer. For tests.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.offers.lock().open.iter().any(|open| !open.worker.is_closed())
    }
}

impl Tx {
    /// Takes what is due of a run that is locked and settled, if a worker of this process is free.
    pub(crate) async fn take_for_free_hands(&mut self, run: &mut LoadedRun, now: DateTime<Utc>) -> Result<()> {
        let is_due = |step: &Arc<Step>| step.status == StepStatus::Ready && step.due_at.is_some_and(|at| at <= now);
        if !run.steps.iter().any(is_due) {
            return Ok(());
        }
        let Some(Open { free, worker, .. }) = self.offers.take() else { return Ok(()) };
        let asked = Instant::now();
        let wanted = free.wanted(&self.clock, now);
        let claimed = self.take_of_run(run, &wanted).await?;
        if !claimed.is_idle() {
            self.handing = Some(Box::new(Handing { worker, handed: HandedOver { claimed, asked } }));
        }
        Ok(())
    }

    /// Nothing, where something is to be put back first.
    async fn take_of_run(&mut self, run: &mut LoadedRun, wanted: &Wanted<'_>) -> Result<Claimed> {
        let shares = [(run.renewal.id, wanted.steps)].into();
        let Chosen { parked, taken } = choose_all([&*run], &shares, wanted);
        if !parked.is_empty() || taken.is_empty() {
            return Ok(Claimed::default());
        }
        let permits = taken.iter().map(|(step, permit)| (step.id, *permit)).collect();
        let fences: Vec<Fence> = taken.into_iter().map(|(step, _)| Fence::of(step)).collect();
        let steps = self.take_steps(&fences, wanted.lease_ends, wanted.now).await?;
        self.begin_steps(slice::from_mut(run), &steps, wanted).await?;
        Ok(Claimed::of(steps, &permits, &[Arc::new(run.clone())], false))
    }
}
